import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.concurrent.Executors;

/** An HTTP server on a pool of threads; each request makes garbage. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(8000), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", exchange -> {
            ArrayList<byte[]> garbage = new ArrayList<>();
            for (int i = 0; i < 200; i++) garbage.add(new byte[10_000]);
            byte[] body = ("hello " + exchange.getRequestURI() + " " + garbage.size()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
        System.out.println("listening");
    }
}
