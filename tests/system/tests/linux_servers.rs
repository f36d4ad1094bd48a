//! Servers as their packages install them, as guests, with their usual clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::program::{Program, compiled, installed, source};
use kiln_system_tests::{Session, skip};

macro_rules! need {
    ($($name:ident = $program:literal),*) => {
        $(let Some($name) = installed($program) else { return };)*
    };
}

#[test]
fn redis_answers_its_own_benchmark() {
    need!(
        server = "redis-server",
        benchmark = "redis-benchmark",
        cli = "redis-cli"
    );
    let redis = Program::serve("", 6379, &server, &["--protected-mode", "no", "--save", ""]);
    let said = redis.client(&cli, &["-p", "{port}", "ping"]);
    said.ends_with(0).prints("PONG");
    let all = "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset";
    for args in [
        &["-p", "{port}", "-q", "-n", "5000", "-c", "50", "-t", all][..],
        &[
            "-p", "{port}", "-q", "-n", "20000", "-c", "50", "-P", "16", "-t", "set,get",
        ],
        &[
            "-p", "{port}", "-q", "-n", "500", "-c", "10", "-d", "100000", "-t", "set,get",
        ],
    ] {
        let ran = redis.client(&benchmark, args);
        ran.ends_with(0).prints("requests per second");
        assert!(!ran.text().contains("rror"), "{ran}");
    }
    redis
        .client(&cli, &["-p", "{port}", "info", "server"])
        .prints("os:Linux");
    redis.client(&cli, &["-p", "{port}", "shutdown", "nosave"]);
    redis.running.finish().ends_with(0);
}

#[test]
fn redis_passes_what_its_suite_asks_of_an_external_server() {
    need!(server = "redis-server", cli = "redis-cli");
    let redis = Program::serve("", 6379, &server, &["--protected-mode", "no", "--save", ""]);
    // Scripts, transactions, expiry, streams, blocking pops: what its Tcl suite drives most.
    for (command, answer) in [
        (
            "eval return{KEYS[1],ARGV[1],redis.call('incr','n')} 1 a b",
            "1",
        ),
        ("xadd s 1-1 field value", "1-1"),
        ("xrange s - +", "value"),
        ("geoadd g 13.361389 38.115556 Palermo", "1"),
        ("set k v px 30", "OK"),
        ("blpop nothing 0.1", ""),
        ("get k", ""),
        ("config get maxmemory", "maxmemory"),
        ("memory doctor", ""),
        ("client list", "addr="),
    ] {
        let args: Vec<&str> = ["-p", "{port}"]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        redis.client(&cli, &args).ends_with(0).prints(answer);
    }
}

#[test]
fn nginx_serves_files_proxies_and_speaks_tls() {
    need!(server = "nginx", curl = "curl", openssl = "openssl");
    let session = Session::new();
    let site = session.file("site");
    let files = site.join("files");
    fs::create_dir_all(&files).expect("a folder");
    let sizes = [0usize, 1, 612, 4096, 65_536, 1 << 20, 10 << 20];
    for size in sizes {
        let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        fs::write(files.join(size.to_string()), content).expect("a file");
    }
    let made = Command::new(openssl)
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(site.join("key.pem"))
        .arg("-out")
        .arg(site.join("cert.pem"))
        .output()
        .expect("openssl starts");
    assert!(made.status.success());
    let text = fs::read_to_string(source("nginx/nginx.conf")).expect("a configuration");
    let conf = site.join("nginx.conf");
    fs::write(&conf, text.replace("/SITE", &site.display().to_string())).expect("written");
    let secure = kiln_system_tests::host::free_port();
    let options = format!("--include={} -p 127.0.0.1:{secure}:443", site.display());
    let nginx = Program::serve_in(
        session,
        &options,
        80,
        &server,
        &["-c", &conf.display().to_string()],
    );
    for size in sizes {
        let plain = format!("http://127.0.0.1:{}/{size}", nginx.port);
        let tls = format!("https://127.0.0.1:{secure}/{size}");
        for url in [plain, tls] {
            let got = nginx.client(&curl, &["-sSfk", &url]);
            let wanted = fs::read(files.join(size.to_string())).expect("the file");
            assert!(got.ends_with(0).stdout == wanted, "{url}");
        }
    }
    assert_eq!(nginx.get("/back/x"), "from behind /x\n");
    if let Some(ab) = installed("ab") {
        let url = format!("http://127.0.0.1:{}/612", nginx.port);
        nginx
            .client(&ab, &["-q", "-k", "-n", "5000", "-c", "64", &url])
            .ends_with(0)
            .prints("Failed requests:        0");
    }
}

#[test]
fn memcached_keeps_and_gives_back() {
    need!(server = "memcached");
    let cache = Program::serve(
        "",
        11211,
        &server,
        &["-u", "root", "-t", "4", "-l", "0.0.0.0"],
    );
    let script = "for n in $(seq 200); do printf 'set k%d 0 0 5\\r\\nab%03d\\r\\n' $n $n; done; printf 'get k7 k200\\r\\nquit\\r\\n'";
    let shell = Path::new("/bin/bash");
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{{port}}; {{ {script}; }} >&3; cat <&3");
    let got = cache.client(shell, &["-c", &script]);
    got.ends_with(0).prints("ab007").prints("ab200");
    assert_eq!(got.text().matches("STORED").count(), 200);
}

#[test]
fn haproxy_balances() {
    need!(server = "haproxy", python = "python3");
    let session = Session::new();
    let conf = session.file("haproxy.cfg");
    fs::write(
        &conf,
        "global\n nbthread 1\n maxconn 500\ndefaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
         frontend f\n bind :8080\n http-request return status 200 content-type text/plain string \"hello\"\n",
    )
    .expect("written");
    drop(python);
    let proxy = Program::serve_in(
        session,
        "",
        8080,
        &server,
        &["-db", "-f", &conf.display().to_string()],
    );
    for _ in 0..20 {
        assert_eq!(proxy.get("/"), "hello");
    }
}

#[test]
fn lighttpd_serves_a_folder() {
    need!(server = "lighttpd");
    let session = Session::new();
    let root = session.file("root");
    fs::create_dir_all(&root).expect("a folder");
    fs::write(root.join("page.html"), "<p>light</p>").expect("written");
    let conf = session.file("lighttpd.conf");
    let text = format!(
        "server.document-root = \"{}\"\nserver.port = 8080\nmimetype.assign = (\".html\" => \"text/html\")\n",
        root.display()
    );
    fs::write(&conf, text).expect("written");
    let options = format!("--include={}", root.display());
    let server = Program::serve_in(
        session,
        &options,
        8080,
        &server,
        &["-D", "-f", &conf.display().to_string()],
    );
    assert_eq!(server.get("/page.html"), "<p>light</p>");
}

#[test]
fn sqlite_survives_being_killed_while_it_writes() {
    need!(sqlite = "sqlite3");
    let session = Session::new();
    let data = session.file("data");
    fs::create_dir_all(&data).expect("a folder");
    let volume = format!("{}:/data", data.display());
    let sql =
        "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, s TEXT);";
    let run = |sql: &str| {
        session.kiln([
            "run",
            "-v",
            &volume,
            &sqlite.display().to_string(),
            "/data/x.db",
            sql,
        ])
    };
    run(sql).ends_with(0);
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) INSERT INTO t(s) SELECT hex(randomblob(100)) FROM c LIMIT 1000;";
    let many = endless.repeat(500);
    let log = data.join("x.db-wal");
    for _ in 0..3 {
        let before = log.metadata().and_then(|m| m.modified()).ok();
        let mut writer = session.start([
            "run",
            "--name=writer",
            "-v",
            &volume,
            &sqlite.display().to_string(),
            "/data/x.db",
            &many,
        ]);
        kiln_system_tests::host::eventually("something is written", || {
            let now = log.metadata();
            writer.has_ended()
                || now.is_ok_and(|m| m.len() > 600_000 && m.modified().ok() != before)
        });
        session.kiln(["kill", "writer"]).ends_with(0);
        writer.finish().ends_with(137);
        session.kiln(["rm", "-f", "writer"]);
    }
    let checked = run("PRAGMA integrity_check; SELECT count(*) > 0 FROM t;");
    checked.ends_with(0).prints("ok").prints("1");
    // The host's own sqlite finds the same.
    let host = Command::new(&sqlite)
        .arg(data.join("x.db"))
        .arg("PRAGMA integrity_check;")
        .output()
        .expect("sqlite starts");
    assert_eq!(String::from_utf8_lossy(&host.stdout).trim(), "ok");
}

#[test]
fn busybox_applets_do_their_work() {
    let Some(busybox) = installed("busybox") else {
        return skip("no busybox");
    };
    let session = Session::new();
    let run = |args: &[&str]| {
        let mut words = vec!["run".to_owned(), busybox.display().to_string()];
        words.extend(args.iter().map(|&arg| arg.to_owned()));
        session.kiln(words)
    };
    run(&["echo", "a", "b"]).ends_with(0).prints("a b");
    run(&["false"]).ends_with(1);
    run(&["ls", "/"]).ends_with(0).prints("proc");
    run(&[
        "sh",
        "-c",
        "echo $((6*7)); cd /tmp; echo text > f; read x < f; echo got $x",
    ])
    .ends_with(0)
    .prints("42")
    .prints("got text");
    run(&[
        "awk",
        "BEGIN { for (i = 0; i < 1000; i++) s += i; print s }",
    ])
    .ends_with(0)
    .prints("499500");
    run(&["cat", "/proc/self/status"])
        .ends_with(0)
        .prints("Name:\tbusybox");
    run(&["df"]).ends_with(0);
    run(&["ps"]).ends_with(0);
    run(&["find", "/etc", "-maxdepth", "1"]).ends_with(0);
    run(&["sha256sum", "/bin/busybox"]).ends_with(0);
    run(&["dd", "if=/dev/zero", "of=/tmp/x", "bs=1M", "count=20"]).ends_with(0);
    run(&["mktemp"]).ends_with(0).prints("/tmp/");
    run(&["uname", "-a"]).ends_with(0).prints("Linux");
    run(&["ifconfig"]).ends_with(0).prints("127.0.0.1");
}

#[test]
fn what_a_program_wrote_before_its_end_arrives_however_slow_the_client_is() {
    const LENGTH: usize = 12 << 20;
    let Some(program) = compiled("c/lastwords.c", "gcc", "{source} -O1 -o {out}") else {
        return;
    };
    let server = Program::serve("--rm", 80, &program, &[&LENGTH.to_string()]);
    let at = (Ipv4Addr::LOCALHOST, server.port);
    let mut client = TcpStream::connect(at).expect("connected");
    client.write_all(b"x").expect("asked");
    let mut got = vec![0; 1 << 20];
    let mut total = 0;
    while total < LENGTH {
        // A pause now and then, of less than a second together at the end.
        std::thread::sleep(Duration::from_millis(100));
        let mut piece = 0;
        while piece < got.len() {
            match client.read(&mut got[piece..]).expect("no reset") {
                0 => break,
                count => piece += count,
            }
        }
        assert!(piece > 0, "{total} bytes and an end");
        assert!(got[..piece].iter().all(|&byte| byte == b'x'));
        total += piece;
    }
    assert_eq!(client.read(&mut got).expect("an orderly end"), 0);
    assert_eq!(total, LENGTH);
    server.running.finish().ends_with(0);
}
