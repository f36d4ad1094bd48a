//! The example `web`: a site in an image, served over HTTP.
//!
//! Most tests give it the least memory that it is promised to run with. They ask for what a browser asks for (pages,
//! heads, parts, what is known already, many requests on a connection), for what it must refuse (paths out of the site,
//! requests without end, noise), and come in crowds. Every page is compared with its file in `examples/web/site`.
//!
//! The client sends the bytes that a test writes down; `curl` repeats what matters where it is installed. The server's
//! own functions have unit tests beside them, and how fast it is, is no matter of tests.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use kiln_system_tests::artifacts::workspace;
use kiln_system_tests::host::{has_ipv6, signal};
use kiln_system_tests::http::{self, Client, Curl, Reply};
use kiln_system_tests::random::Random;
use kiln_system_tests::service::{Service, connect};
use kiln_system_tests::{guest, skip};
use rustix::process::Signal;

/// Path, type and file of every page of the site.
const PAGES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", "index.html"),
    ("/index.html", "text/html; charset=utf-8", "index.html"),
    ("/style.css", "text/css; charset=utf-8", "style.css"),
    ("/kiln.svg", "image/svg+xml", "kiln.svg"),
    ("/robots.txt", "text/plain; charset=utf-8", "robots.txt"),
];
/// The least memory that the site is promised to run with.
const SMALL_WEB: &str = "--memory 2M -p 127.0.0.1:0:80";

/// A file of the site.
fn site(name: &str) -> Vec<u8> {
    fs::read(workspace().join("examples/web/site").join(name)).expect("a page of the site")
}

/// The site with little memory, and a connection to it.
fn small_web() -> (Service, Client) {
    let service = Service::start(SMALL_WEB, "web");
    let client = Client::connect(service.address("80/tcp"));
    (service, client)
}

#[test]
fn web_is_small() {
    let image = fs::metadata(guest("web")).expect("an image").len();
    let folder = workspace().join("examples/web/site");
    let files = folder.read_dir().expect("the site").filter_map(Result::ok);
    let pages: u64 = files
        .map(|file| file.metadata().expect("a page").len())
        .sum();
    assert!(pages > 0, "no pages");
    // What is there for measurements: a block of 16 KiB and a page (examples/web/src/site.rs).
    let pages = pages + 16 * 1024 + 612;
    let rest = image - pages;
    // The goal is 256 KiB; docs/decisions/0011-sizes.md says what it takes and why.
    assert!(
        rest <= 294 * 1024,
        "{rest} bytes beside {pages} bytes of pages"
    );
}

#[test]
fn web_serves_the_files_of_the_site() {
    let (_service, mut client) = small_web();
    for (path, content_type, file) in PAGES {
        let reply = client.get(path, "");
        assert_eq!((reply.status, &*reply.version), (200, "HTTP/1.1"), "{path}");
        assert_eq!(reply.field("Content-Type"), Some(content_type), "{path}");
        assert!(reply.body == site(file), "{path} is not {file}");
        assert_eq!(reply.field("Accept-Ranges"), Some("bytes"), "{path}");
        assert!(
            reply
                .field("Date")
                .is_some_and(|date| date.ends_with(" GMT"))
        );
    }
}

#[test]
fn web_answers_head_without_content() {
    let (_service, mut client) = small_web();
    for path in ["/", "/style.css", "/bench/1m", "/nowhere"] {
        let whole = client.get(path, "");
        client.send(http::request("HEAD", path, ""));
        let head = client.receive_head();
        assert_eq!(head.status, whole.status, "{path}");
        assert_eq!(head.lasting_fields(), whole.lasting_fields(), "{path}");
        assert_eq!(head.content_length(), Some(whole.body.len()), "{path}");
        // Nothing follows the head: the next reply is in step.
        assert_eq!(client.get("/robots.txt", "").body, site("robots.txt"));
    }
}

#[test]
fn web_knows_what_a_client_has_already() {
    let (_service, mut client) = small_web();
    let tag = |reply: &Reply| reply.field("ETag").expect("an entity tag").to_owned();
    let index = tag(&client.get("/", ""));
    let style = tag(&client.get("/style.css", ""));
    assert_ne!(index, style);
    assert_eq!(tag(&client.get("/", "")), index);
    for known in [
        index.clone(),
        format!("W/{index}"),
        format!("\"x\", {index}"),
        "*".to_owned(),
    ] {
        let reply = client.get("/", &format!("If-None-Match: {known}\r\n"));
        assert_eq!(reply.status, 304, "{known}");
        assert_eq!(tag(&reply), index);
        assert!(reply.body.is_empty());
    }
    for other in [style, "\"x\"".to_owned()] {
        let reply = client.get("/", &format!("If-None-Match: {other}\r\n"));
        assert_eq!(reply.status, 200, "{other}");
        assert_eq!(reply.body, site("index.html"));
    }
}

#[test]
fn web_sends_parts_of_pages() {
    let (_service, mut client) = small_web();
    for (path, page) in [("/", site("index.html")), ("/bench/1m", http::megabyte())] {
        let len = page.len();
        for (range, first, end) in [
            ("0-0", 0, 1),
            ("0-99", 0, 100),
            ("100-1500", 100, 1501),
            ("-1", len - 1, len),
            ("-500", len - 500, len),
            ("-99999999", 0, len),
            ("1000-", 1000, len),
            ("0-", 0, len),
            ("1800-99999999", 1800, len),
        ] {
            let reply = client.get(path, &format!("Range: bytes={range}\r\n"));
            assert_eq!(reply.status, 206, "{path} {range}");
            let told = format!("bytes {first}-{}/{len}", end - 1);
            assert_eq!(reply.field("Content-Range"), Some(&*told), "{path} {range}");
            assert!(reply.body == page[first..end], "{path} {range}");
        }
        for range in [format!("{len}-"), format!("{len}-{}", len + 5), "-0".into()] {
            let reply = client.get(path, &format!("Range: bytes={range}\r\n"));
            assert_eq!(reply.status, 416, "{path} {range}");
            let told = format!("bytes */{len}");
            assert_eq!(reply.field("Content-Range"), Some(&*told), "{path} {range}");
        }
        // What is no range, or one of another version of the page, is as good as none.
        for fields in [
            "Range: bytes=5-1\r\n",
            "Range: lines=0-5\r\n",
            "Range: bytes=0-5\r\nIf-Range: \"x\"\r\n",
        ] {
            let reply = client.get(path, fields);
            assert_eq!(reply.status, 200, "{path} {fields}");
            assert!(reply.body == page, "{path} {fields}");
        }
    }
}

#[test]
fn web_keeps_connections() {
    let (service, mut client) = small_web();
    assert_eq!(client.get("/", "").body, site("index.html"));
    assert_eq!(client.get("/style.css", "").body, site("style.css"));
    let last = client.get("/", "Connection: close\r\n");
    assert_eq!(last.field("Connection"), Some("close"));
    client.ends();

    // HTTP/1.0 keeps them on request only.
    let mut client = Client::connect(service.address("80/tcp"));
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let kept = client.receive();
    assert_eq!(kept.field("Connection"), Some("keep-alive"));
    assert_eq!(kept.body, site("index.html"));
    client.send("GET /robots.txt HTTP/1.0\r\n\r\n");
    let reply = client.receive();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, site("robots.txt"));
    client.ends();
}

#[test]
fn web_answers_requests_in_order_that_come_at_once() {
    let (_service, mut client) = small_web();
    for round in 0..20 {
        let pages: Vec<_> = (0..10).map(|n| PAGES[(n * 3 + round) % 5]).collect();
        let requests: String = pages
            .iter()
            .map(|(path, ..)| http::request("GET", path, ""))
            .collect();
        client.send(requests);
        for (path, content_type, file) in pages {
            let reply = client.receive();
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(reply.field("Content-Type"), Some(content_type));
            assert!(reply.body == site(file), "{path} in round {round}");
        }
    }
    // The same one byte at a time.
    for byte in http::request("GET", "/robots.txt", "Connection: close\r\n").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.receive().body, site("robots.txt"));
    client.ends();
}

#[test]
fn web_refuses_what_it_cannot_do() {
    let (service, mut client) = small_web();
    let to = service.address("80/tcp");
    let missing = client.get("/nowhere", "");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.body, site("404.html"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        client.send(http::request(method, "/", "Content-Length: 4\r\n") + "body");
        let reply = client.receive();
        assert_eq!(reply.status, 405, "{method}");
        let allowed = reply.field("Allow").expect("what is allowed");
        assert!(allowed.contains("GET") && allowed.contains("HEAD"));
    }
    client.send(http::request("OPTIONS", "/", ""));
    assert_eq!(client.receive().status, 204);
    assert_eq!(client.get("/", "").status, 200);

    for (garbage, status) in [
        ("\u{1}\u{2}\u{3}\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno field\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n\r\n", 505),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
    ] {
        let mut client = Client::connect(to);
        client.send(garbage);
        let reply = client.receive();
        assert_eq!(reply.status, status, "{garbage:?}");
        assert_eq!(reply.field("Connection"), Some("close"), "{garbage:?}");
        client.ends();
    }
    assert_eq!(
        Client::connect(to).get("/", "").body,
        site("index.html"),
        "afterwards"
    );
}

#[test]
fn web_bounds_what_it_reads() {
    let (service, _) = small_web();
    let to = service.address("80/tcp");
    for (head, status) in [
        (
            http::request("GET", &format!("/{}", "a".repeat(2100)), ""),
            414,
        ),
        (
            http::request("GET", "/", &format!("Cookie: {}\r\n", "a".repeat(5000))),
            431,
        ),
        (http::request("GET", "/", &"A: b\r\n".repeat(100)), 431),
        (
            http::request("POST", "/", "Content-Length: 100000000\r\n"),
            413,
        ),
    ] {
        let mut client = Client::connect(to);
        client.send(&head);
        assert_eq!(client.receive().status, status, "{head:.50}");
        client.ends();
    }
    assert_eq!(Client::connect(to).get("/", "").status, 200);
}

/// Paths that would lead out of the site, and to what they lead instead.
const OUTSIDE: [(&str, u16); 9] = [
    ("/..", 400),
    ("/../../etc/passwd", 400),
    ("/%2e%2e/etc/passwd", 400),
    ("/..%2f..%2fetc/passwd", 400),
    ("/a/../../etc/passwd", 400),
    ("/index.html%00.css", 400),
    ("/%252e%252e/etc/passwd", 404),
    ("/..\\..\\etc\\passwd", 404),
    ("//etc/passwd", 404),
];

#[test]
fn web_does_not_lead_out_of_the_site() {
    let (_service, mut client) = small_web();
    for (target, status) in OUTSIDE {
        let reply = client.get(target, "");
        assert_eq!(reply.status, status, "{target}");
        assert!(!reply.body.windows(5).any(|part| part == b"root:"));
    }
    // What stays inside is a page like others.
    assert_eq!(client.get("/a/../style.css", "").body, site("style.css"));
}

#[test]
fn web_survives_noise() {
    let (service, mut client) = small_web();
    let to = service.address("80/tcp");
    let mut random = Random::new(80);
    for round in 0..60 {
        let len = random.below(9000);
        let mut noise = random.bytes(len);
        if round % 3 == 0 {
            noise.splice(0..0, *b"GET / HTTP/1.1\r\n");
        }
        let mut stream = connect(to);
        // It may close the connection before everything is sent, or wait for the rest of a line that never ends.
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        assert!(
            reply.is_empty() || reply.starts_with(b"HTTP/1.1 "),
            "round {round}: {}",
            reply.escape_ascii()
        );
    }
    assert_eq!(client.get("/", "").body, site("index.html"));
}

#[test]
fn web_sends_a_megabyte_whole() {
    let (service, mut client) = small_web();
    let expected = http::megabyte();
    assert_eq!(expected.len(), 1 << 20);
    for _ in 0..8 {
        assert!(client.get("/bench/1m", "").body == expected);
    }
    let to = service.address("80/tcp");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(Client::connect(to).get("/bench/1m", "").body == expected));
        }
    });
    assert_eq!(client.get("/bench/612", "").body, expected[..612]);
}

#[test]
fn web_serves_many_connections() {
    let service = Service::start("-p 127.0.0.1:0:80", "web");
    let to = service.address("80/tcp");
    thread::scope(|scope| {
        for number in 0..32 {
            scope.spawn(move || {
                let mut client = Client::connect(to);
                for round in 0..50 {
                    let (path, _, file) = PAGES[(number + round) % PAGES.len()];
                    let reply = client.get(path, "");
                    assert_eq!(reply.status, 200, "connection {number}, round {round}");
                    assert!(reply.body == site(file), "{number}, {round}: {path}");
                }
            });
        }
    });
    service.stop(Signal::TERM).1.ends_with(0);
}

/// A guest that is halted for a moment finds many newcomers at once, more than its backlog holds. All are served in
/// the end.
#[test]
fn web_with_little_memory_serves_those_who_come_at_once() {
    let (service, mut client) = small_web();
    // Once a port has answered, a refusal by the guest is passed on to the client.
    assert_eq!(client.get("/", "Connection: close\r\n").status, 200);
    client.ends();
    let to = service.address("80/tcp");
    let (guest, _) = service.session.pids(&service.name);
    signal(guest, Signal::STOP);
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(to)).collect();
    for client in &mut clients {
        client.send(http::request("GET", "/", "Connection: close\r\n"));
    }
    // Time for the monitor to hand them all on.
    thread::sleep(Duration::from_millis(200));
    signal(guest, Signal::CONT);
    for mut client in clients {
        let reply = client.receive();
        assert_eq!(reply.status, 200);
        assert!(reply.body == site("index.html"));
        client.ends();
    }
}

/// Far more than it has memory for: they take turns.
#[test]
fn web_with_little_memory_serves_a_crowd() {
    let (service, _) = small_web();
    let to = service.address("80/tcp");
    thread::scope(|scope| {
        for number in 0..100 {
            scope.spawn(move || {
                for round in 0..5 {
                    let mut client = Client::connect(to);
                    let reply = client.get("/", "Connection: close\r\n");
                    assert_eq!(reply.status, 200, "client {number}, round {round}");
                    assert!(reply.body == site("index.html"), "{number}, {round}");
                    client.ends();
                }
            });
        }
    });
    service.stop(Signal::TERM).1.ends_with(0);
}

#[test]
fn web_is_reached_over_ipv6() {
    if !has_ipv6() {
        return skip("this host has no IPv6 loopback address");
    }
    let service = Service::start("--memory 2M -p [::1]:0:80", "web");
    let to = service.address("80/tcp");
    assert!(to.is_ipv6(), "{to}");
    let mut client = Client::connect(to);
    assert_eq!(client.get("/", "").body, site("index.html"));
    assert!(client.get("/bench/1m", "").body == http::megabyte());
    if let Some(curl) = Curl::find(service, "80/tcp") {
        assert_eq!(curl.get(&["/"]), site("index.html"));
    }
}

#[test]
fn web_stops_when_asked() {
    for signal in [Signal::TERM, Signal::INT] {
        let (service, mut client) = small_web();
        assert_eq!(client.get("/", "").status, 200);
        let asked = Instant::now();
        let (_session, outcome) = service.stop(signal);
        outcome.ends_with(0).prints("web: stopped\n");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "stopped after {took:?}");
        client.ends();
    }
}

#[test]
fn curl_gets_pages() {
    let Some(curl) = Curl::find(small_web().0, "80/tcp") else {
        return;
    };
    for (path, content_type, file) in PAGES {
        assert!(curl.get(&[path]) == site(file), "{path} is not {file}");
        let told = curl.text(&["-o/dev/null", "-w%{http_code} %{content_type}", path]);
        assert_eq!(told, format!("200 {content_type}"), "{path}");
    }
    assert!(curl.get(&["/bench/1m"]) == http::megabyte());
    let told = curl.text(&["-o/dev/null", "-w%{size_download}", "/bench/1m"]);
    assert_eq!(told, "1048576");
    let told = curl.text(&["-0", "-o/dev/null", "-w%{http_code}", "/"]);
    assert_eq!(told, "200", "HTTP/1.0");

    let head = curl.text(&["-I", "/"]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let len = site("index.html").len();
    assert!(
        head.contains(&format!("\r\nContent-Length: {len}\r\n")),
        "{head}"
    );
    let tag = head
        .lines()
        .find_map(|line| line.strip_prefix("ETag: "))
        .expect("an entity tag");
    let known = format!("-HIf-None-Match: {tag}");
    let told = curl.text(&[&*known, "-w%{http_code} %{size_download}", "/"]);
    assert_eq!(told, "304 0");

    // Two requests, one connection.
    let discard = "-o/dev/null";
    let told = curl.text(&[discard, discard, "-w%{num_connects}", "/", "/style.css"]);
    assert_eq!(told, "10");
}

#[test]
fn curl_gets_parts_and_refusals() {
    let Some(curl) = Curl::find(small_web().0, "80/tcp") else {
        return;
    };
    let page = site("index.html");
    assert_eq!(curl.get(&["-r0-99", "/"]), page[..100]);
    assert_eq!(curl.get(&["-r-100", "/"]), page[page.len() - 100..]);
    assert_eq!(curl.get(&["-r500-", "/"]), page[500..]);
    let status = |args: &[&str]| {
        let told = ["-o/dev/null", "-w%{http_code}"];
        curl.text(&[&told, args].concat())
    };
    assert_eq!(status(&["-r99999-", "/"]), "416");
    assert_eq!(status(&["/nowhere"]), "404");
    assert_eq!(status(&["-dbody", "/"]), "405");
    assert_eq!(status(&["-XBREW", "/"]), "501");
    for (target, expected) in OUTSIDE {
        let told = status(&["--path-as-is", target]);
        assert_eq!(told, expected.to_string(), "{target}");
    }
    // The connection is closed, and curl sees why.
    let field = format!("-HCookie: {}", "a".repeat(8000));
    assert_eq!(status(&[&*field, "/"]), "431");
    assert_eq!(curl.get(&["/"]), page);
}
