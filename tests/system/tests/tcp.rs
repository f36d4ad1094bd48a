//! TCP over lossy links, judged by the executable specification: Linux, which shows the specification right, and guests
//! as servers and as clients. Needs root.
//!
//! Every byte is compared. `KILN_TCP_KEEP=FOLDER` keeps the captures, to be looked at with `tcp-spec` or Wireshark.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use kiln_lossy::Impairment;
use kiln_system_tests::lossy::{self, HOST, PEER, Rig, SINK, SOURCE};
use kiln_system_tests::{backend, skip};

/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a case may take, the guest's start included.
const LIMIT: Duration = Duration::from_secs(10);
const KIB: u64 = 1024;

/// What the link does, and how much is sent over it each way.
struct Case {
    how: Impairment,
    bytes: u64,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn lossy(loss: f64, delay: u64, bytes: u64) -> Case {
    let how = Impairment {
        delay: ms(delay),
        loss,
        ..Impairment::default()
    };
    Case { how, bytes }
}

fn clean() -> Case {
    lossy(0.0, 5, 4096 * KIB)
}

fn one_percent() -> Case {
    lossy(0.01, 5, 2048 * KIB)
}

fn five_percent() -> Case {
    lossy(0.05, 2, 1024 * KIB)
}

fn ten_percent() -> Case {
    lossy(0.1, 1, 256 * KIB)
}

fn jitter() -> Case {
    let how = Impairment {
        delay: ms(5),
        jitter: ms(2),
        ..Impairment::default()
    };
    Case {
        how,
        bytes: 1024 * KIB,
    }
}

fn reordering() -> Case {
    let how = Impairment {
        delay: ms(3),
        reorder: 0.05,
        reorder_by: ms(3),
        ..Impairment::default()
    };
    Case {
        how,
        bytes: 2048 * KIB,
    }
}

fn duplication() -> Case {
    let how = Impairment {
        delay: ms(3),
        duplicate: 0.05,
        ..Impairment::default()
    };
    Case {
        how,
        bytes: 2048 * KIB,
    }
}

fn corruption() -> Case {
    let how = Impairment {
        delay: ms(3),
        corrupt: 0.02,
        ..Impairment::default()
    };
    Case {
        how,
        bytes: 1024 * KIB,
    }
}

fn slow_line() -> Case {
    let how = Impairment {
        delay: ms(10),
        rate: Some(20_000_000),
        queue: 50_000,
        ..Impairment::default()
    };
    Case {
        how,
        bytes: 2048 * KIB,
    }
}

fn everything() -> Case {
    let how = Impairment {
        delay: ms(3),
        jitter: ms(1),
        loss: 0.02,
        duplicate: 0.01,
        corrupt: 0.01,
        reorder: 0.02,
        reorder_by: ms(3),
        ..Impairment::default()
    };
    Case {
        how,
        bytes: 512 * KIB,
    }
}

/// Judges and says what is wrong.
#[track_caller]
fn finish(mut rig: Rig, began: Instant) {
    // A lost FIN is sent again.
    std::thread::sleep(ms(300));
    let (report, counters) = rig.judge();
    let errors = report.errors().count();
    println!(
        "{report}\nfrom the host {}\nto the host {}",
        counters[0], counters[1]
    );
    assert!(
        report.segments > 0 && report.not_followed == 0,
        "nothing to judge: {report}"
    );
    assert_eq!(errors, 0, "{report}");
    assert!(began.elapsed() < LIMIT, "it took {:?}", began.elapsed());
}

#[track_caller]
fn all_came(answer: std::io::Result<String>, bytes: u64) {
    assert_eq!(
        answer.expect("a transfer"),
        format!("{bytes} 0"),
        "bytes received, and wrong ones"
    );
}

fn rig(case: &Case, guest: bool) -> Option<Rig> {
    if !guest && !backend::only_on(&["process"], "Linux is the same on all") {
        return None;
    }
    Rig::new(&case.how, 1, guest).map_err(skip).ok()
}

fn linux_serves(case: &Case) {
    let began = Instant::now();
    let Some(rig) = rig(case, false) else { return };
    for port in [SINK, SOURCE] {
        let listener = lossy::listen(&rig.host, port);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| lossy::serve_one(&listener, port, PATIENCE));
            let transfer = if port == SINK {
                lossy::push
            } else {
                lossy::pull
            };
            all_came(
                transfer(&rig.peer, HOST.0.into(), case.bytes, PATIENCE),
                case.bytes,
            );
            server.join().expect("no panic").expect("served");
        });
    }
    finish(rig, began);
}

fn linux_connects(case: &Case, six: bool) {
    let began = Instant::now();
    let Some(rig) = rig(case, false) else { return };
    let to: IpAddr = if six { PEER.1.into() } else { PEER.0.into() };
    for port in [SINK, SOURCE] {
        let listener = lossy::listen(&rig.peer, port);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| lossy::serve_one(&listener, port, PATIENCE));
            let transfer = if port == SINK {
                lossy::push
            } else {
                lossy::pull
            };
            all_came(transfer(&rig.host, to, case.bytes, PATIENCE), case.bytes);
            server.join().expect("no panic").expect("served");
        });
    }
    finish(rig, began);
}

const LINK: &str = "--net tap:tapk,ip=10.9.0.2/24,gw=10.9.0.1,ip6=fd09::2/64";

fn guest_serves(case: &Case, six: bool) {
    kiln_system_tests::guest("netprobe");
    kiln_system_tests::kiln();
    let began = Instant::now();
    let Some(rig) = rig(case, true) else { return };
    let mut guest = rig
        .host
        .start_guest(&rig.session, LINK, "netprobe", "serve");
    guest.wait_for("serving");
    let to: IpAddr = if six { HOST.1.into() } else { HOST.0.into() };
    all_came(lossy::push(&rig.peer, to, case.bytes, PATIENCE), case.bytes);
    all_came(lossy::pull(&rig.peer, to, case.bytes, PATIENCE), case.bytes);
    finish(rig, began);
}

fn guest_connects(case: &Case, six: bool) {
    kiln_system_tests::guest("tcpload");
    kiln_system_tests::kiln();
    let began = Instant::now();
    let Some(rig) = rig(case, true) else { return };
    let to: IpAddr = if six { PEER.1.into() } else { PEER.0.into() };
    for (port, word) in [(SINK, "connect-source"), (SOURCE, "connect-sink")] {
        let listener = lossy::listen(&rig.peer, port);
        let address = std::net::SocketAddr::new(to, port);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| lossy::serve_one(&listener, port, PATIENCE));
            let args = format!("{word} {address} {}", case.bytes);
            let outcome = rig
                .host
                .start_guest(&rig.session, LINK, "tcpload", &args)
                .finish();
            outcome
                .succeeds()
                .prints(&format!("answer {} 0", case.bytes));
            // A guest that has ended closes nothing more; the bytes are what counts.
            let _ = server.join().expect("no panic");
        });
    }
    finish(rig, began);
}

/// A module of tests, one for each kind of link.
macro_rules! matrix {
    ($module:ident, $run:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn over_a_clean_link() {
                $run(&clean());
            }
            #[test]
            fn with_one_percent_lost() {
                $run(&one_percent());
            }
            #[test]
            fn with_five_percent_lost() {
                $run(&five_percent());
            }
            #[test]
            fn with_ten_percent_lost() {
                $run(&ten_percent());
            }
            #[test]
            fn with_jitter() {
                $run(&jitter());
            }
            #[test]
            fn with_reordering() {
                $run(&reordering());
            }
            #[test]
            fn with_duplication() {
                $run(&duplication());
            }
            #[test]
            fn with_corruption() {
                $run(&corruption());
            }
            #[test]
            fn over_a_slow_line() {
                $run(&slow_line());
            }
            #[test]
            fn with_everything_at_once() {
                $run(&everything());
            }
        }
    };
}

matrix!(linux_as_server, linux_serves);
matrix!(linux_as_client, |case| linux_connects(case, false));
matrix!(guest_as_server, |case| guest_serves(case, false));
matrix!(guest_as_client, |case| guest_connects(case, false));

/// A server that meets a closed window probes it.
#[test]
fn linux_before_a_closed_window() {
    let (case, began) = (clean(), Instant::now());
    let Some(rig) = rig(&case, false) else { return };
    let listener = lossy::listen(&rig.host, SOURCE);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| lossy::serve_one(&listener, SOURCE, PATIENCE));
        all_came(
            lossy::pull_late(&rig.peer, HOST.0.into(), case.bytes, PATIENCE),
            case.bytes,
        );
        server.join().expect("no panic").expect("served");
    });
    finish(rig, began);
}

/// A client that does not read closes its window and opens it again.
#[test]
fn linux_closes_its_window() {
    let (case, began) = (clean(), Instant::now());
    let Some(rig) = rig(&case, false) else { return };
    let listener = lossy::listen(&rig.peer, SOURCE);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| lossy::serve_one(&listener, SOURCE, PATIENCE));
        all_came(
            lossy::pull_late(&rig.host, PEER.0.into(), case.bytes, PATIENCE),
            case.bytes,
        );
        server.join().expect("no panic").expect("served");
    });
    finish(rig, began);
}

#[test]
fn a_guest_before_a_closed_window() {
    kiln_system_tests::guest("netprobe");
    kiln_system_tests::kiln();
    let (case, began) = (clean(), Instant::now());
    let Some(rig) = rig(&case, true) else { return };
    let mut guest = rig
        .host
        .start_guest(&rig.session, LINK, "netprobe", "serve");
    guest.wait_for("serving");
    all_came(
        lossy::pull_late(&rig.peer, HOST.0.into(), case.bytes, PATIENCE),
        case.bytes,
    );
    finish(rig, began);
}

/// A queue that marks instead of losing.
#[test]
fn linux_with_congestion_marks() {
    let (mut case, began) = (slow_line(), Instant::now());
    case.how.mark_above = Some(10_000);
    let Some(rig) = rig(&case, false) else { return };
    for netns in [&rig.host, &rig.peer] {
        netns.set(&rig.session, "net.ipv4.tcp_ecn=1");
    }
    for port in [SINK, SOURCE] {
        let listener = lossy::listen(&rig.host, port);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| lossy::serve_one(&listener, port, PATIENCE));
            let transfer = if port == SINK {
                lossy::push
            } else {
                lossy::pull
            };
            all_came(
                transfer(&rig.peer, HOST.0.into(), case.bytes, PATIENCE),
                case.bytes,
            );
            server.join().expect("no panic").expect("served");
        });
    }
    finish(rig, began);
}

/// Nobody listens: a RST answers.
#[test]
fn linux_refuses() {
    let (case, began) = (clean(), Instant::now());
    let Some(rig) = rig(&case, false) else { return };
    let refused = lossy::push(&rig.peer, HOST.0.into(), 1, ms(200));
    assert!(refused.is_err());
    finish(rig, began);
}

/// Nobody listens: a RST answers.
#[test]
fn a_guest_refuses() {
    kiln_system_tests::guest("netprobe");
    kiln_system_tests::kiln();
    let (case, began) = (clean(), Instant::now());
    let Some(rig) = rig(&case, true) else { return };
    let mut guest = rig
        .host
        .start_guest(&rig.session, LINK, "netprobe", "serve");
    guest.wait_for("serving");
    let to = std::net::SocketAddr::from((HOST.0, 77));
    let refused = rig.peer.within(|| std::net::TcpStream::connect(to));
    assert!(refused.is_err());
    finish(rig, began);
}

#[test]
fn linux_over_ipv6() {
    linux_connects(&everything(), true);
}

#[test]
fn a_guest_serves_over_ipv6() {
    guest_serves(&everything(), true);
}

#[test]
fn a_guest_connects_over_ipv6() {
    guest_connects(&everything(), true);
}
