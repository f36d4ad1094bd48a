//! `kiln stats --format prometheus`, read as strictly as the format is defined.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use kiln_system_tests::http::Client;
use kiln_system_tests::netns::Netns;
use kiln_system_tests::service::{Service, connect};
use kiln_system_tests::{Session, backend, skip};

type Labels = BTreeMap<String, String>;
/// Families by their names.
type Families = BTreeMap<String, Family>;

/// A family of samples.
#[derive(Debug)]
struct Family {
    counter: bool,
    samples: Vec<(Labels, f64)>,
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// Reads a page of text format 0.0.4: each family's HELP, TYPE and samples together and once.
#[track_caller]
fn parse(page: &str) -> Families {
    let mut families: Families = BTreeMap::new();
    assert!(
        page.is_empty() || page.ends_with('\n'),
        "the last line ends"
    );
    let (mut current, mut helped) = (String::new(), None);
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(is_name(name) && !help.trim().is_empty(), "{line}");
            assert!(!families.contains_key(name), "{name} comes twice");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(
                helped.take().as_deref(),
                Some(name),
                "HELP comes before TYPE"
            );
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            let family = Family {
                counter: kind == "counter",
                samples: Vec::new(),
            };
            families.insert(name.to_owned(), family);
            name.clone_into(&mut current);
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, current, "samples stand behind their TYPE");
            let family = families.get_mut(&current).expect("it was announced");
            let known: BTreeSet<&Labels> = family.samples.iter().map(|(l, _)| l).collect();
            assert!(!known.contains(&labels), "a sample comes twice: {line}");
            assert!(!family.counter || value >= 0.0, "{line}");
            family.samples.push((labels, value));
        }
    }
    assert!(families.values().all(|family| !family.samples.is_empty()));
    families
}

/// `name{label="value",...} number`.
#[track_caller]
fn sample(line: &str) -> (String, Labels, f64) {
    let (name, mut rest) = line.split_once('{').expect("labels");
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    loop {
        let (label, behind) = rest.split_once("=\"").expect("a label");
        assert!(is_name(label), "{line}");
        let (mut value, mut chars) = (String::new(), behind.char_indices());
        let end = loop {
            match chars.next().expect("the end of a label's value") {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("{other:?} is escaped: {line}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
        rest = &behind[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ").expect("one space and a value");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

/// The value of the sample with these labels.
#[track_caller]
fn value(families: &Families, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    let fits = |labels: &Labels| {
        let has = |&(label, value): &(&str, &str)| labels.get(label).is_some_and(|v| v == value);
        wanted.iter().all(has)
    };
    let mut found = family.samples.iter().filter(|(labels, _)| fits(labels));
    let (_, value) = found.next().unwrap_or_else(|| panic!("{name}: {family:?}"));
    assert!(found.next().is_none(), "{name}: {family:?}");
    *value
}

/// Whole numbers are told exactly.
#[track_caller]
fn is(value: f64, expected: f64) {
    assert!((value - expected).abs() < 0.5, "{value}, not {expected}");
}

#[track_caller]
fn page(session: &Session, instances: &[&str]) -> Families {
    let words = ["stats", "--format", "prometheus"];
    let printed = session.kiln(words.iter().chain(instances));
    parse(&printed.ends_with(0).text())
}

#[test]
fn what_the_monitor_knows_is_there_for_every_instance() {
    let session = Session::new();
    assert!(page(&session, &[]).is_empty(), "nobody runs");
    session.detach("--name quiet", "probe", "wait");
    let service = Service::start_in(session, "web", "-p 127.0.0.1:0:80", "web");
    let before = page(&service.session, &[]);
    let mut client = Client::connect(service.address("80/tcp"));
    assert_eq!(client.get("/", "").status, 200);
    let after = page(&service.session, &[]);
    let web = [("instance", "web")];
    for name in [
        "kiln_instance_info",
        "kiln_instance_memory_limit_bytes",
        "kiln_instance_memory_resident_bytes",
        "kiln_instance_start_time_seconds",
    ] {
        for instance in ["web", "quiet"] {
            assert!(
                value(&after, name, &[("instance", instance)]) > 0.0,
                "{name}"
            );
        }
    }
    is(value(&after, "kiln_usernet_tcp_accepted_total", &web), 1.0);
    for name in [
        "kiln_link_received_bytes_total",
        "kiln_link_sent_bytes_total",
    ] {
        let grown = value(&after, name, &web) - value(&before, name, &web);
        assert!(grown > 100.0, "{name}: {grown}");
    }
    for (name, family) in &before {
        let Some(later) = after.get(name).filter(|_| family.counter) else {
            continue;
        };
        for (labels, value) in &family.samples {
            let same = later.samples.iter().find(|(other, _)| other == labels);
            assert!(
                same.is_some_and(|(_, later)| later >= value),
                "{name} shrinks"
            );
        }
    }
    let only = page(&service.session, &["quiet"]);
    let names: Vec<&Labels> = only["kiln_instance_info"]
        .samples
        .iter()
        .map(|(l, _)| l)
        .collect();
    assert_eq!((names.len(), &*names[0]["instance"]), (1, "quiet"));
    let nobody = ["stats", "--format", "prometheus", "nobody"];
    service
        .session
        .kiln(nobody)
        .ends_with(125)
        .is_one_line_error();
}

/// What the guest's network stack says, once it says what is expected: what it has just received may still be ahead of it.
#[track_caller]
fn eventually(session: &Session, labels: &[(&str, &str)], expected: &[(&str, f64)]) -> Families {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let families = page(session, &[]);
        let counted = |name: &str| value(&families, &format!("kiln_guest_net_{name}"), labels);
        let differs = |(name, value): &&(&str, f64)| (counted(name) - value).abs() >= 0.5;
        match expected.iter().find(differs) {
            None => return families,
            Some((name, value)) if Instant::now() > until => {
                panic!("{name}: {}, not {value}\n{families:#?}", counted(name))
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Frames of a link are the same for the guest and for the host, as soon as none is on its way.
#[track_caller]
fn sides_agree(session: &Session, labels: &[(&str, &str)]) {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let families = page(session, &[]);
        let differing = [
            "received_frames_total",
            "received_bytes_total",
            "sent_frames_total",
            "sent_bytes_total",
        ]
        .into_iter()
        .map(|name| {
            let host = value(&families, &format!("kiln_link_{name}"), labels);
            let guest = value(&families, &format!("kiln_guest_net_{name}"), labels);
            (name, guest, host)
        })
        .find(|(_, guest, host)| (guest - host).abs() >= 0.5);
        let Some((name, guest, host)) = differing else {
            return;
        };
        assert!(Instant::now() < until, "{name}: {guest}, not {host}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

macro_rules! needs_counters {
    () => {
        if !backend::only_on(&["process", "kvm"], "nobody can read its memory") {
            return;
        }
    };
}

#[test]
fn the_network_stack_counts_connections() {
    needs_counters!();
    let service = Service::start("-p 127.0.0.1:0:80", "web");
    let labels = [("instance", "web")];
    let quiet = eventually(&service.session, &labels, &[("tcp_connections", 0.0)]);
    is(
        value(&quiet, "kiln_guest_net_tcp_passive_opens_total", &labels),
        0.0,
    );
    let address = service.address("80/tcp");
    for _ in 0..7 {
        assert_eq!(Client::connect(address).get("/", "").status, 200);
    }
    let mut held = Client::connect(address);
    for _ in 0..20 {
        assert_eq!(held.get("/", "").status, 200);
    }
    let open = [
        ("tcp_passive_opens_total", 8.0),
        ("tcp_connections", 1.0),
        ("tcp_established_connections", 1.0),
        ("tcp_attempt_fails_total", 0.0),
        ("tcp_established_resets_total", 0.0),
        ("tcp_retransmitted_segments_total", 0.0),
        ("tcp_sent_resets_total", 0.0),
    ];
    let families = eventually(&service.session, &labels, &open);
    sides_agree(&service.session, &labels);
    let segments = |name: &str| {
        let name = format!("kiln_guest_net_tcp_{name}_segments_total");
        value(&families, &name, &labels)
    };
    // Three to open a connection and two at least for each request.
    assert!(segments("received") >= 8.0 * 2.0 + 27.0);
    assert!(segments("sent") >= 8.0 + 27.0);
    drop(held);
    let closed = [
        ("tcp_connections", 0.0),
        ("tcp_established_connections", 0.0),
    ];
    eventually(&service.session, &labels, &closed);
}

#[test]
fn the_network_stack_counts_on_taps() {
    needs_counters!();
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    let session = Session::new();
    netns.tap("tap0", "10.9.0.1/24");
    let options = "--name probe --net tap:tap0,ip=10.9.0.2/24";
    let mut running = netns.start_guest(&session, options, "netprobe", "serve");
    running.wait_for("serving");
    let guest = |port: u16| SocketAddr::from(([10, 9, 0, 2], port));
    netns.within(|| {
        for _ in 0..5 {
            let mut stream = connect(guest(7));
            stream.write_all(b"here").expect("written");
            stream.read_exact(&mut [0; 4]).expect("an echo");
        }
        // Port 11 resets whoever comes, and nobody has port 12.
        let reset = TcpStream::connect(guest(11)).and_then(|mut stream| stream.read(&mut [0; 4]));
        assert!(reset.is_err(), "{reset:?}");
        assert!(TcpStream::connect(guest(12)).is_err());
        let socket = UdpSocket::bind("10.9.0.1:0").expect("a socket");
        for _ in 0..3 {
            socket.send_to(b"here", guest(7)).expect("sent");
            socket.recv(&mut [0; 4]).expect("an echo");
        }
        socket.send_to(b"nobody", guest(12)).expect("sent");
    });
    let labels = [("instance", "probe")];
    let expected = [
        ("tcp_passive_opens_total", 6.0),
        ("tcp_active_opens_total", 0.0),
        ("tcp_established_resets_total", 1.0),
        ("tcp_sent_resets_total", 2.0),
        ("tcp_established_connections", 0.0),
        ("udp_received_datagrams_total", 3.0),
        ("udp_sent_datagrams_total", 3.0),
        ("udp_no_port_total", 1.0),
        ("udp_sockets", 1.0),
        ("received_bad_checksum_total", 0.0),
        ("received_malformed_total", 0.0),
    ];
    let families = eventually(&session, &labels, &expected);
    // The datagram to nobody was answered, and what IPv6 says by itself is ICMP too.
    assert!(
        value(
            &families,
            "kiln_guest_net_icmp_sent_messages_total",
            &labels
        ) >= 1.0
    );
    sides_agree(&session, &labels);
}

#[test]
fn what_is_about_the_stack_is_told_once() {
    needs_counters!();
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(reason) => return skip(reason),
    };
    let session = Session::new();
    netns.tap("tap0", "10.9.0.1/24");
    netns.tap("tap1", "10.10.0.1/24");
    let options =
        "--name two --net left=tap:tap0,ip=10.9.0.2/24 --net right=tap:tap1,ip=10.10.0.2/24";
    let mut running = netns.start_guest(&session, options, "links", "");
    running.wait_for("serving");
    netns.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for address in ["10.9.0.2:7", "10.10.0.2:7", "10.10.0.2:7"] {
            socket.send_to(b"here", address).expect("sent");
            socket.recv(&mut [0; 16]).expect("an echo");
        }
    });
    // The one line of this family is that of the first link.
    let whole = [("instance", "two")];
    let families = eventually(&session, &whole, &[("udp_received_datagrams_total", 3.0)]);
    for link in ["left", "right"] {
        let labels = [("instance", "two"), ("link", link)];
        sides_agree(&session, &labels);
        let frames = value(&families, "kiln_guest_net_received_frames_total", &labels);
        assert!(frames >= 1.0, "{link}: {frames}");
    }
}

#[test]
fn counters_that_a_guest_makes_up_are_left_out() {
    needs_counters!();
    let session = Session::new();
    let mut guest = session.start_guest("--name probe", "netprobe", "metrics");
    guest.wait_for("serving");
    assert_eq!(guest.output().matches("register Ok(())").count(), 2);
    let families = page(&session, &[]);
    let labels = [("instance", "probe")];
    let number = |name: &str| value(&families, &format!("kiln_guest_net_{name}"), &labels);
    // A second block about a link would have said 42, the block about a device that is not there 5.
    is(number("tcp_retransmitted_segments_total"), 0.0);
    is(number("tcp_connections"), 0.0);
    is(number("udp_sockets"), 1.0);
}
