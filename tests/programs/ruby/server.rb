# An echo server with a thread for each connection.
require 'socket'
$stdout.sync = true
server = TCPServer.new(8000)
puts 'listening'
loop do
  Thread.new(server.accept) do |connection|
    while (data = connection.readpartial(4096) rescue nil)
      connection.write(data)
    end
    connection.close
  end
end
