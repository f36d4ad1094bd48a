//! `kiln capture`: frames on a running instance's links, read back with a parser that others wrote.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_system_tests::host::{eventually, find_program, signal};
use kiln_system_tests::http::Client;
use kiln_system_tests::netns::Netns;
use kiln_system_tests::service::Service;
use kiln_system_tests::{Outcome, Running, Session, backend, skip};
use pcap_parser::pcapng::{Block, parse_block_le};
use pcap_parser::{Linktype, PcapNGOption};
use rustix::process::Signal;

/// A capture as it was read back.
#[derive(Debug, Default)]
struct Capture {
    interfaces: Vec<Interface>,
    frames: Vec<Frame>,
}

#[derive(Debug)]
struct Interface {
    name: String,
    description: String,
    snaplen: u32,
    /// Received and dropped, from the statistics.
    counts: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Frame {
    interface: u32,
    /// 1 into the guest, 2 out of it.
    direction: u32,
    nanos: u64,
    len: u32,
    bytes: Vec<u8>,
}

fn option<'a>(options: &'a [PcapNGOption<'_>], code: u16) -> Option<&'a [u8]> {
    let found = options.iter().find(|option| option.code.0 == code)?;
    Some(&found.value[..usize::from(found.len)])
}

fn text(options: &[PcapNGOption<'_>], code: u16) -> String {
    let bytes = option(options, code).expect("the option is there");
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn number(options: &[PcapNGOption<'_>], code: u16) -> u64 {
    let bytes = option(options, code).expect("the option is there");
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Reads a capture that must be whole.
#[track_caller]
fn parse(mut rest: &[u8]) -> Capture {
    let mut capture = Capture::default();
    let mut sections = 0;
    while !rest.is_empty() {
        let (behind, block) = parse_block_le(rest).expect("a whole block");
        rest = behind;
        match block {
            Block::SectionHeader(header) => {
                sections += 1;
                assert!(text(&header.options, 4).starts_with("kiln "));
            }
            Block::InterfaceDescription(interface) => {
                assert!(capture.frames.is_empty(), "a description behind frames");
                assert_eq!(interface.linktype, Linktype::ETHERNET);
                assert_eq!(interface.if_tsresol, 9, "nanoseconds");
                assert_eq!(option(&interface.options, 6).map(<[u8]>::len), Some(6));
                capture.interfaces.push(Interface {
                    name: text(&interface.options, 2),
                    description: text(&interface.options, 3),
                    snaplen: interface.snaplen,
                    counts: None,
                });
            }
            Block::EnhancedPacket(packet) => {
                let flags = option(&packet.options, 2).expect("flags");
                let flags = u32::from_le_bytes(flags.try_into().expect("four bytes"));
                assert!(packet.caplen <= packet.origlen);
                capture.frames.push(Frame {
                    interface: packet.if_id,
                    direction: flags & 3,
                    nanos: u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low),
                    len: packet.origlen,
                    bytes: packet.data[..packet.caplen as usize].to_vec(),
                });
            }
            Block::InterfaceStatistics(statistics) => {
                let counts = (
                    number(&statistics.options, 4),
                    number(&statistics.options, 5),
                );
                let interface = &mut capture.interfaces[statistics.if_id as usize];
                assert_eq!(interface.counts.replace(counts), None);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sections, 1);
    for frame in &capture.frames {
        let interface = &capture.interfaces[frame.interface as usize];
        assert!(frame.bytes.len() <= interface.snaplen as usize, "{frame:?}");
    }
    capture
}

fn read(path: &Path) -> Capture {
    parse(&fs::read(path).expect("a capture"))
}

impl Capture {
    /// True if a frame in this direction contains a text.
    fn has(&self, direction: u32, text: &str) -> bool {
        let mut frames = self.frames.iter().filter(|f| f.direction == direction);
        frames.any(|f| {
            f.bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        })
    }

    /// Checks that a request for `path` and its reply are there, in good order.
    #[track_caller]
    fn holds_exchange(&self, path: &str) {
        assert!(self.has(1, &format!("GET {path} HTTP/1.1")), "{self:?}");
        assert!(self.has(2, "HTTP/1.1 200 OK"), "{self:?}");
        let mut last = 0;
        for frame in &self.frames {
            assert!(frame.nanos >= last, "times go on");
            last = frame.nanos;
        }
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a time after 1970");
        let age = now.as_nanos() - u128::from(last);
        assert!(age < 60_000_000_000, "the last frame is {age} ns old");
        // IPv4 headers of what was captured are what the guest has seen.
        let ip = |frame: &&Frame| frame.bytes.get(12..14) == Some(&[8, 0]);
        assert!(self.frames.iter().filter(ip).count() >= 4, "{self:?}");
    }
}

fn web() -> Service {
    Service::start("-p 127.0.0.1:0:80", "web")
}

fn get(service: &Service, path: &str) {
    let mut client = Client::connect(service.address("80/tcp"));
    assert_eq!(client.get(path, "").status, 200);
}

/// Starts a capture and waits until it sees frames.
fn start(session: &Session, args: &str) -> Running {
    let words = ["capture"].into_iter().chain(args.split_whitespace());
    let mut capture = session.start(words);
    capture.wait_for_told("capturing");
    capture
}

fn stop(capture: Running) -> Outcome {
    capture.signal(Signal::INT);
    let outcome = capture.finish();
    outcome.ends_with(0);
    outcome
}

/// Captures of the rootless network work on every backend, those of tap devices on Kiln's own.
fn own_backend() -> bool {
    backend::only_on(&["process", "kvm"], "its tap frames do not pass Kiln")
}

#[test]
fn both_directions_of_a_rootless_link() {
    let service = web();
    let file = service.session.file("web.pcapng");
    let capture = start(&service.session, &format!("-w {} web", file.display()));
    get(&service, "/");
    let outcome = stop(capture);
    assert!(outcome.stdout.is_empty());
    let capture = read(&file);
    capture.holds_exchange("/");
    assert_eq!(capture.interfaces.len(), 1);
    assert_eq!(capture.interfaces[0].description, "user");
    let frames = capture.frames.len() as u64;
    assert_eq!(capture.interfaces[0].counts, Some((frames, 0)));
    outcome.tells(&format!("captured {frames} frames of web, 0 dropped"));
    if let Some(curl) = find_program(&["curl"]) {
        let capture = start(&service.session, "-w - web");
        let url = format!("http://{}/", service.address("80/tcp"));
        let fetched = Command::new(curl)
            .args([
                "-q",
                "-sS",
                "--noproxy",
                "*",
                "-A",
                "curl-of-the-test",
                &url,
            ])
            .output()
            .expect("curl was found");
        assert!(fetched.status.success());
        let capture = parse(&stop(capture).stdout);
        assert!(capture.has(1, "curl-of-the-test"), "{capture:?}");
    }
    match find_program(&["tcpdump"]) {
        Some(tcpdump) => {
            let read = Command::new(tcpdump)
                .args(["-nr", &file.display().to_string()])
                .output()
                .expect("tcpdump was found");
            let text = String::from_utf8_lossy(&read.stdout).into_owned();
            assert!(read.status.success(), "{read:?}");
            assert_eq!(text.lines().count() as u64, frames, "{text}");
            assert!(text.contains("HTTP: GET / HTTP/1.1"), "{text}");
        }
        None => skip("tcpdump is not installed"),
    }
}

#[test]
fn it_ends_after_a_number_of_frames_or_a_time() {
    let service = web();
    let capture = start(&service.session, "-c 3 -w - web");
    get(&service, "/");
    let outcome = capture.finish();
    outcome.ends_with(0).tells("captured 3 frames of web");
    assert_eq!(parse(&outcome.stdout).frames.len(), 3);
    let outcome = service.session.kiln(["capture", "--seconds", "1", "web"]);
    outcome.ends_with(0).tells("of web, 0 dropped");
    parse(&outcome.stdout);
    assert!((1..10).contains(&outcome.took.as_secs()), "{outcome}");
}

#[test]
fn frames_are_cut_to_the_length_asked_for() {
    let service = web();
    let capture = start(&service.session, "--snaplen 60 web");
    get(&service, "/");
    let capture = parse(&stop(capture).stdout);
    assert_eq!(capture.interfaces[0].snaplen, 60);
    let cut = |frame: &&Frame| frame.bytes.len() == 60 && frame.len > 60;
    assert!(
        capture.frames.iter().filter(cut).count() >= 2,
        "{capture:?}"
    );
}

#[test]
fn it_ends_with_the_instance() {
    let service = web();
    let capture = start(&service.session, "web");
    get(&service, "/");
    let (_session, ended) = service.stop(Signal::TERM);
    ended.ends_with(0);
    let outcome = capture.finish();
    outcome.ends_with(0).tells("; the instance has ended");
    let capture = parse(&outcome.stdout);
    capture.holds_exchange("/");
    assert!(capture.interfaces[0].counts.is_some());
}

#[test]
fn a_supervisor_that_is_killed_leaves_what_there_was() {
    let service = web();
    let capture = start(&service.session, "web");
    get(&service, "/");
    let (_, supervisor) = service.session.pids("web");
    signal(supervisor, Signal::KILL);
    let outcome = capture.finish();
    outcome.ends_with(1).tells("the supervisor went away");
    parse(&outcome.stdout);
}

#[test]
fn captures_do_not_disturb_each_other_and_killed_ones_nobody() {
    let service = web();
    let short = start(&service.session, "--snaplen 20 web");
    let long = start(&service.session, "web");
    let killed = start(&service.session, "web");
    get(&service, "/");
    killed.signal(Signal::KILL);
    drop(killed);
    get(&service, "/style.css");
    let (short, long) = (parse(&stop(short).stdout), parse(&stop(long).stdout));
    long.holds_exchange("/style.css");
    // The last frames of a connection may come between the ends of the two.
    let times =
        |capture: &Capture| -> Vec<u64> { capture.frames.iter().map(|f| f.nanos).collect() };
    let (short_times, long_times) = (times(&short), times(&long));
    let common = short_times.iter().filter(|time| long_times.contains(time));
    assert!(common.count() >= 8, "{short_times:?} {long_times:?}");
    assert!(short.frames.iter().all(|frame| frame.bytes.len() <= 20));
    get(&service, "/");
    // The places are free again.
    let all: Vec<Running> = (0..4).map(|_| start(&service.session, "web")).collect();
    let refused = service.session.kiln(["capture", "web"]);
    refused.ends_with(125).is_one_line_error().tells("4 times");
    for capture in all {
        stop(capture);
    }
}

/// Asks a guest's source of bytes for some, on port 19.
#[track_caller]
fn pull(mut stream: TcpStream, len: usize) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    writeln!(stream, "{len}").expect("written");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("data");
    assert_eq!(all.len(), len);
}

/// Stops a capture that sleeps, and checks that its drops were counted.
#[track_caller]
fn has_dropped(capture: Running) {
    capture.signal(Signal::CONT);
    let capture = parse(&stop(capture).stdout);
    let (received, dropped) = capture.interfaces[0].counts.expect("counts");
    assert!(dropped > 0, "nothing was dropped of {received}");
    assert_eq!(received - dropped, capture.frames.len() as u64);
    // Large frames are there as they are, longer than any MTU.
    assert!(capture.frames.iter().any(|frame| frame.bytes.len() > 9000));
}

#[test]
fn a_capture_that_is_not_read_does_not_hold_up_the_guest() {
    let session = Session::new();
    let mut guest = session.start_guest("--name source -p 127.0.0.1:0:19", "netprobe", "serve");
    guest.wait_for("serving");
    let service = Service {
        session,
        running: guest,
        name: "source".to_owned(),
    };
    let capture = start(&service.session, "source");
    capture.signal(Signal::STOP);
    pull(
        kiln_system_tests::service::connect(service.address("19/tcp")),
        40 << 20,
    );
    has_dropped(capture);
}

const HOST: &str = "10.9.0.1/24";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const TAP: &str = "--net tap:tap0,ip=10.9.0.2/24,gw=10.9.0.1";

/// A namespace with a tap device, unless this machine has none.
fn netns() -> Option<Netns> {
    if !own_backend() {
        return None;
    }
    match Netns::new() {
        Ok(netns) => {
            netns.tap("tap0", HOST);
            Some(netns)
        }
        Err(reason) => {
            skip(reason);
            None
        }
    }
}

fn resident(session: &Session, name: &str) -> u64 {
    let shown = session.rows(&["stats", "--no-stream", name]);
    shown[0]["resident"].as_u64().expect("a number")
}

#[test]
fn both_directions_of_a_tap_link() {
    let (Some(netns), session) = (netns(), Session::new()) else {
        return;
    };
    let options = format!("--name web {TAP}");
    let mut running = netns.start_guest(&session, &options, "web", "");
    running.wait_for("listening on port");
    let get = || {
        let client = netns.within(|| Client::connect((GUEST, 80).into()));
        let mut client = client;
        assert_eq!(client.get("/", "").status, 200);
    };
    get();
    let before = resident(&session, "web");
    for _ in 0..2 {
        let capture = start(&session, "web");
        get();
        let capture = parse(&stop(capture).stdout);
        capture.holds_exchange("/");
        assert_eq!(capture.interfaces[0].description, "tap:tap0");
        let frames = capture.frames.len() as u64;
        assert_eq!(capture.interfaces[0].counts, Some((frames, 0)));
    }
    get();
    let after = resident(&session, "web");
    assert!(after < before + (128 << 10), "{before} bytes, then {after}");
    let capture = start(&session, "-c 5 web");
    get();
    assert_eq!(parse(&capture.finish().stdout).frames.len(), 5);
    let capture = start(&session, "web");
    get();
    running.signal(Signal::TERM);
    running.finish().ends_with(0);
    let outcome = capture.finish();
    outcome.ends_with(0).tells("; the instance has ended");
    parse(&outcome.stdout).holds_exchange("/");
}

#[test]
fn a_flood_on_a_tap_link_is_counted() {
    let (Some(netns), session) = (netns(), Session::new()) else {
        return;
    };
    let options = format!("--name source {TAP}");
    let mut running = netns.start_guest(&session, &options, "netprobe", "serve");
    running.wait_for("serving");
    let connect = || netns.within(|| TcpStream::connect((GUEST, 19)).expect("a connection"));
    pull(connect(), 40 << 20);
    let before = resident(&session, "source");
    let capture = start(&session, "source");
    capture.signal(Signal::STOP);
    pull(connect(), 40 << 20);
    let during = resident(&session, "source");
    has_dropped(capture);
    // The ring was used, and given back.
    let after = resident(&session, "source");
    assert!(during > before + (1 << 20), "{before} bytes, then {during}");
    assert!(after < before + (1 << 20), "{before} bytes, then {after}");
    // What is cut short fits.
    let capture = start(&session, "--snaplen 96 source");
    pull(connect(), 1 << 20);
    let capture = parse(&stop(capture).stdout);
    assert!(capture.frames.iter().all(|frame| frame.bytes.len() <= 96));
    assert_eq!(capture.interfaces[0].counts.expect("counts").1, 0);
}

#[test]
fn each_link_is_an_interface() {
    let (Some(netns), session) = (netns(), Session::new()) else {
        return;
    };
    let options = "--name both --net left=user --net right=tap:tap0,ip=10.9.0.2/24 -p 0:7/udp";
    let mut running = netns.start_guest(&session, options, "links", "");
    running.wait_for("right");
    let socket = netns.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket"));
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a timeout");
    let ask = |to: std::net::SocketAddr, who: &str| {
        eventually("an answer", || {
            socket.send_to(b"question", to).expect("sent");
            let mut answer = [0; 100];
            let got = socket.recv(&mut answer).unwrap_or(0);
            answer[..got].starts_with(who.as_bytes())
        });
    };
    let shown = session.inspect("both");
    let port = shown["Ports"][0].as_str().expect("a port").to_owned();
    let port = port.split("->").next().unwrap_or_default();
    let port = port.rsplit(':').nth(usize::from(port.contains("/udp")));
    let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
    let (left, right) = ((Ipv4Addr::LOCALHOST, port).into(), (GUEST, 7).into());
    let all = start(&session, "both");
    let one = start(&session, "--link right both");
    ask(right, "right");
    ask(left, "left");
    let (all, one) = (parse(&stop(all).stdout), parse(&stop(one).stdout));
    let names = |capture: &Capture| -> Vec<String> {
        capture.interfaces.iter().map(|i| i.name.clone()).collect()
    };
    assert_eq!(names(&all), ["left", "right"]);
    assert_eq!(names(&one), ["right"]);
    for (interface, text) in [(0, "leftquestion"), (1, "rightquestion")] {
        let has = all.frames.iter().any(|frame| {
            let bytes = frame.bytes.windows(text.len());
            frame.interface == interface && bytes.into_iter().any(|part| part == text.as_bytes())
        });
        assert!(has, "{text}: {all:?}");
    }
    assert!(one.has(2, "rightquestion") && !one.has(2, "leftquestion"));
}

#[test]
fn mistakes_are_told_in_one_line() {
    let service = web();
    let kiln = |args: &[&str]| service.session.kiln(["capture"].iter().chain(args));
    let bad_path = kiln(&["-w", "/nonexistent/x.pcapng", "web"]);
    bad_path
        .ends_with(125)
        .is_one_line_error()
        .tells("cannot create /nonexistent/x.pcapng");
    let bad_link = kiln(&["--link", "nothing", "web"]);
    bad_link.ends_with(125).is_one_line_error().tells("no link");
    let nobody = kiln(&["nobody"]);
    nobody.ends_with(125).is_one_line_error();
    let full = kiln(&["-c", "1", "-w", "/dev/full", "web"]);
    full.ends_with(125)
        .is_one_line_error()
        .tells("the disk is full");
    service.session.detach("--name quiet", "probe", "wait");
    let quiet = kiln(&["quiet"]);
    quiet
        .ends_with(125)
        .is_one_line_error()
        .tells("no network link");
    get(&service, "/");
}
