"""Threads, asyncio, sqlite3, sockets, files, signals, mmap: prints SUCCESS if all is as it should be."""
import asyncio, hashlib, mmap, os, signal, socket, sqlite3, tempfile, threading, time, zlib

def threads():
    total, lock = [0], threading.Lock()
    def add():
        for _ in range(1000):
            with lock:
                total[0] += 1
    all = [threading.Thread(target=add) for _ in range(16)]
    [t.start() for t in all]
    [t.join() for t in all]
    assert total[0] == 16000

async def echo():
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async def client(n):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        message = str(n).encode() * 1000
        writer.write(message)
        assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()
    await asyncio.gather(*(client(n) for n in range(50)))
    server.close()
    await asyncio.wait_for(asyncio.sleep(0.01), 1)

def database():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data.db")
        db = sqlite3.connect(path)
        db.execute("create table t (n integer primary key, s text)")
        db.executemany("insert into t (s) values (?)", ((hashlib.sha256(str(n).encode()).hexdigest(),) for n in range(5000)))
        db.commit()
        db.close()
        db = sqlite3.connect(path)
        assert db.execute("select count(*) from t").fetchone() == (5000,)
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        db.close()

def signals():
    seen = []
    signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGALRM)
    assert seen == [signal.SIGALRM] * 2, seen

def files():
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 100_000)
        file.flush()
        with mmap.mmap(file.fileno(), 0) as view:
            view[5:10] = b"hello"
            assert view.find(b"hello") == 5
            view.flush()
        file.seek(0)
        assert file.read(12) == b"xxxxxhelloxx"
    a, b = socket.socketpair()
    a.sendall(b"pair")
    assert b.recv(10) == b"pair"
    data = os.urandom(1 << 20)
    assert zlib.decompress(zlib.compress(data)) == data

threads()
asyncio.run(echo())
database()
signals()
files()
print("SUCCESS")
