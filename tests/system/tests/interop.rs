//! The guest's TCP/IP stack against the tools that everybody has: `curl`, `nc`, `iperf3`, `ping`, `dig`, `dnsmasq`,
//! `radvd`, `tcpdump`.
//!
//! Each test has a network namespace of its own with a tap device; the tools run in it, beside the kernel's stack, and
//! the guest is at the other end. All of it ends within seconds. What is not installed is skipped.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use kiln_system_tests::host::{eventually, find_program};
use kiln_system_tests::netns::Netns;
use kiln_system_tests::random::Random;
use kiln_system_tests::{Outcome, Running, Session, http, skip};
use rustix::process::Signal;

/// The namespace's end of the link.
const HOST: &str = "10.9.0.1/24";
const HOST6: &str = "fd09::1/64";
/// A guest with fixed addresses of both families.
const FIXED: &str = "--net tap:tap0,ip=10.9.0.2/24,gw=10.9.0.1,ip6=fd09::2/64,dns=10.9.0.1";
/// That guest's addresses, as they stand in a URL.
const ADDRESSES: [&str; 2] = ["10.9.0.2", "fd09::2"];
/// Services of the guest `netload` and their ports.
const SERVICES: &str =
    "echo 7 sink 9 first 13 source 19 iperf3 5201 upload 8080 state 9099 names 9053";

/// How long an address may take to come or go.
const CONFIGURED: Duration = Duration::from_secs(25);

/// A namespace with a tap device, a session, and the guest's services on it.
struct Net {
    session: Session,
    netns: Netns,
}

macro_rules! net {
    ($($program:literal),*) => {
        match Net::new(&[$($program),*]) {
            Ok(net) => net,
            Err(reason) => return skip(reason),
        }
    };
}

impl Net {
    /// Both, or what is missing.
    fn new(programs: &[&str]) -> Result<Self, String> {
        for program in programs {
            find_program(&[program]).ok_or_else(|| format!("`{program}` is not installed"))?;
        }
        let netns = Netns::new()?;
        netns.tap("tap0", HOST);
        netns.ip(&format!("addr add {HOST6} dev tap0 nodad"));
        Ok(Self {
            session: Session::new(),
            netns,
        })
    }

    #[track_caller]
    fn guest(&self, options: &str, guest: &str, args: &str, sign: &str) -> Running {
        let mut running = self.netns.start_guest(&self.session, options, guest, args);
        running.wait_for(sign);
        running
    }

    #[track_caller]
    fn services(&self, options: &str) -> Running {
        self.guest(options, "netload", SERVICES, "serving")
    }

    fn program(name: &str) -> PathBuf {
        find_program(&[name]).expect("looked for before")
    }

    /// Starts a program in the namespace; its arguments are divided at blanks.
    fn start(&self, name: &str, args: &str) -> Running {
        let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
        Running::start(
            &mut self
                .netns
                .command(&self.session, &Self::program(name), &args),
        )
    }

    #[track_caller]
    fn run(&self, name: &str, args: &str) -> Outcome {
        self.start(name, args).finish()
    }

    /// Runs a line of shell in the namespace, in the session's folder.
    #[track_caller]
    fn shell(&self, line: &str) -> Outcome {
        let args = ["-c".to_owned(), line.to_owned()];
        let mut command = self
            .netns
            .command(&self.session, &Self::program("sh"), &args);
        Running::start(command.current_dir(self.session.dir())).finish()
    }

    /// Asks one of the guest's UDP services.
    fn ask(&self, to: IpAddr, port: u16, text: &str) -> Option<String> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self
            .netns
            .within(|| UdpSocket::bind(any).expect("a socket"));
        socket
            .set_read_timeout(Some(Duration::from_secs(8)))
            .expect("a timeout");
        socket.send_to(text.as_bytes(), (to, port)).ok()?;
        let mut buffer = vec![0; 65536];
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    /// What the guest knows of its network, a fact on each line.
    fn state(&self, at: IpAddr) -> String {
        self.ask(at, 9099, "?").unwrap_or_default()
    }

    /// Waits until the guest's state is as it should be.
    #[track_caller]
    fn state_becomes(&self, at: IpAddr, what: &str, is_so: impl Fn(&str) -> bool) {
        let until = Instant::now() + CONFIGURED;
        loop {
            let state = self.state(at);
            if is_so(&state) {
                return;
            }
            assert!(
                Instant::now() < until,
                "not within {CONFIGURED:?}: {what}\n{state}"
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Sets a variable of `net.ipv6` in the namespace.
    fn sysctl6(&self, name: &str, value: &str) {
        let file = format!("/proc/sys/net/ipv6/{name}");
        self.netns
            .within(|| fs::write(file, value).expect("a variable of the namespace"));
    }

    fn dnsmasq(&self, options: &str) -> Running {
        let leases = self.session.file("leases");
        let running = self.start(
            "dnsmasq",
            &format!(
                "--no-daemon --conf-file=/dev/null --no-resolv --no-hosts --interface=tap0 --bind-interfaces --user=root \
                 --dhcp-leasefile={} {options}",
                leases.display()
            ),
        );
        // It says so on standard error, or nothing at all: it is there when it answers.
        thread::sleep(Duration::from_millis(300));
        running
    }

    /// Router advertisements, often, as this configuration of the interface says.
    fn radvd(&self, interface: &str) -> Running {
        self.sysctl6("conf/all/forwarding", "1");
        let conf = self.session.file("radvd.conf");
        let text = format!(
            "interface tap0 {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; {interface} }};\n"
        );
        fs::write(&conf, text).expect("a configuration");
        let pid = self.session.file("radvd.pid");
        self.start(
            "radvd",
            &format!("-n -m stderr -C {} -p {}", conf.display(), pid.display()),
        )
    }

    /// The Ethernet address of the namespace's end.
    #[track_caller]
    fn mac(&self) -> String {
        let shown = self.run("ip", "-o link show dev tap0");
        let text = shown.ends_with(0).text();
        let (_, rest) = text.split_once("link/ether ").expect("an Ethernet address");
        rest.split(' ').next().unwrap_or_default().to_owned()
    }

    /// The guest's link-local address: from its neighbours' point of view it is always there.
    #[track_caller]
    fn link_local(running: &Running) -> Ipv6Addr {
        let output = running.output();
        let found = output.lines().find_map(|line| {
            let address = line.strip_prefix("address ")?.split('/').next()?;
            address.parse().ok().filter(Ipv6Addr::is_unicast_link_local)
        });
        found.unwrap_or_else(|| panic!("no link-local address\n{output}"))
    }
}

fn in_url(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// Adler-32 (RFC 1950 section 9), which the guest answers an upload with.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in bytes {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    b << 16 | a
}

/// So many bytes of which no part repeats another.
fn noise(len: usize) -> Vec<u8> {
    Random::new(4).bytes(len)
}

const CURL: &str = "-q -sS -g --noproxy * --http1.1 --max-time 20";

#[test]
fn curl_downloads_on_a_connection_that_it_keeps() {
    let net = net!("curl");
    let _guest = net.guest(FIXED, "web", "", "listening");
    for address in ADDRESSES.map(in_url) {
        let got = net.run("curl", &format!("{CURL} http://{address}/bench/1m"));
        assert!(
            got.ends_with(0).stdout == http::megabyte(),
            "{address}: another page"
        );
        let page = format!("http://{address}/bench/1m -o /dev/null");
        let words = format!("{CURL} {page} {page} {page} -w %{{num_connects}}");
        assert_eq!(net.run("curl", &words).ends_with(0).text(), "100");
    }
}

#[test]
fn curl_uploads() {
    let net = net!("curl");
    let _guest = net.services(FIXED);
    let sent = noise(10 << 20);
    let file = net.session.file("upload");
    fs::write(&file, &sent).expect("a file");
    let expected = format!("{} {:08x}\n", sent.len(), adler32(&sent));
    for address in ADDRESSES.map(in_url) {
        let to = format!("http://{address}:8080/");
        let words = format!("{CURL} -T {} {to}", file.display());
        assert_eq!(net.run("curl", &words).ends_with(0).text(), expected);
    }
}

#[test]
fn requests_that_arrive_together_are_answered_in_order() {
    let net = net!("nc");
    let _guest = net.guest(FIXED, "web", "", "listening");
    let requests: String = (0..40)
        .map(|n| {
            let page = if n % 2 == 0 {
                "/robots.txt"
            } else {
                "/bench/612"
            };
            http::request("GET", page, "")
        })
        .collect();
    fs::write(net.session.file("requests"), requests).expect("a file");
    for address in ADDRESSES {
        let answers = net.shell(&format!("nc -w 10 -N {address} 80 < requests"));
        let text = answers.ends_with(0).text();
        assert_eq!(text.matches("HTTP/1.1 200").count(), 40, "{text}");
    }
}

#[test]
fn nc_closes_its_half_and_reads_on() {
    let net = net!("nc", "sh");
    let _guest = net.services(FIXED);
    fs::write(net.session.file("in"), noise(3 << 20)).expect("a file");
    for address in ADDRESSES {
        net.shell(&format!("nc -w 10 -N {address} 7 < in > out && cmp in out"))
            .ends_with(0);
    }
}

#[test]
fn nc_sends_on_after_the_guest_has_closed_its_half() {
    let net = net!("nc", "sh");
    let _guest = net.services(FIXED);
    fs::write(net.session.file("in"), noise(1 << 20)).expect("a file");
    let mut total = 0;
    for address in ADDRESSES {
        // The word from the guest is there, and its half closed, long before the pause ends.
        let got = net.shell(&format!(
            "(sleep 1; cat in) | nc -w 10 -N {address} 13 > out; cat out"
        ));
        assert_eq!(got.text(), "closed\n");
        total += 1 << 20;
        let at = ADDRESSES[0].parse().expect("an address");
        net.state_becomes(at, "all that was sent after the close arrives", |state| {
            state.contains(&format!("after-close {total}"))
        });
    }
}

#[test]
fn iperf3_measures_both_directions() {
    let net = net!("iperf3");
    let _guest = net.services(FIXED);
    for address in ADDRESSES {
        for options in ["-t 1", "-t 1 -R", "-n 64M", "-t 1 -P 4", "-t 1 -P 4 -R"] {
            let done = net.run("iperf3", &format!("-c {address} -i 0 {options}"));
            done.ends_with(0).prints("receiver").prints("iperf Done.");
        }
    }
}

/// Pings with a pattern, which `ping` compares.
#[track_caller]
fn pings(net: &Net, options: &str, sizes: &[u32]) {
    for address in ADDRESSES {
        for size in sizes {
            let done = net.run(
                "ping",
                &format!("-n -q -W 2 -w 20 -p a55a17 -s {size} {options} {address}"),
            );
            assert!(
                done.code == 0 && done.text().contains(" 0% packet loss"),
                "{address}, {size} bytes\n{done}"
            );
        }
    }
}

#[test]
fn ping_of_every_size_that_fits_into_a_frame() {
    let net = net!("ping");
    let _guest = net.services(FIXED);
    pings(&net, "-c 3 -i 0.01", &[0, 1, 7, 16, 56, 512, 1451, 1452]);
}

/// Headers of 28 and 48 bytes go with each in its first frame.
#[test]
fn ping_in_fragments() {
    let net = net!("ping");
    let _guest = net.services(FIXED);
    pings(&net, "-c 3 -i 0.01", &[1473, 2952, 2960, 4000, 8000]);
}

#[test]
fn ping_in_a_flood() {
    let net = net!("ping");
    let _guest = net.services(FIXED);
    pings(&net, "-f -c 2000", &[56, 1400]);
}

#[test]
fn ping_in_a_flood_of_fragments() {
    let net = net!("ping");
    let _guest = net.services(FIXED);
    pings(&net, "-f -c 500", &[4000]);
}

const RECORDS: &str = "--local=/kiln.test/ --host-record=both.kiln.test,192.0.2.1,2001:db8::1 \
    --host-record=four.kiln.test,192.0.2.4 --host-record=six.kiln.test,2001:db8::6 \
    --cname=alias.kiln.test,both.kiln.test --cname=alias-of-alias.kiln.test,alias.kiln.test \
    --host-record=a-label-that-is-exactly-as-long-as-a-label-may-be-which-is-63-c.kiln.test,192.0.2.63";

/// What `dig` says of a name, as the guest's service `names` says it.
fn dig(net: &Net, name: &str) -> String {
    let mut addresses: Vec<IpAddr> = ["A", "AAAA"]
        .iter()
        .flat_map(|kind| {
            let answer = net.run("dig", &format!("+short @10.9.0.1 {name} {kind}"));
            let text = answer.ends_with(0).text();
            let parsed: Vec<IpAddr> = text.lines().filter_map(|line| line.parse().ok()).collect();
            parsed
        })
        .collect();
    addresses.sort_unstable();
    let lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn the_guest_finds_the_names_that_dig_finds() {
    let net = net!("dig", "dnsmasq");
    let _server = net.dnsmasq(RECORDS);
    let _guest = net.services(FIXED);
    let guest = ADDRESSES[0].parse().expect("an address");
    for name in [
        "both.kiln.test",
        "four.kiln.test",
        "six.kiln.test",
        "alias.kiln.test",
        "alias-of-alias.kiln.test",
        "a-label-that-is-exactly-as-long-as-a-label-may-be-which-is-63-c.kiln.test",
        "BOTH.Kiln.Test",
    ] {
        let expected = dig(&net, name);
        assert!(!expected.is_empty(), "dig knows {name}");
        assert_eq!(net.ask(guest, 9053, name), Some(expected), "{name}");
    }
    let missing = net.ask(guest, 9053, "missing.kiln.test");
    assert_eq!(missing.as_deref(), Some("NameNotFound"));
}

/// RFC 7766 section 5: a resolver uses TCP when an answer does not fit.
#[test]
fn names_with_more_addresses_than_fit_into_a_datagram() {
    let net = net!("dig", "dnsmasq");
    let many: Vec<String> = (1..=100)
        .map(|n| format!("--host-record=many.kiln.test,198.51.100.{n}"))
        .collect();
    let many = many.join(" ");
    let _server = net.dnsmasq(&format!("--local=/kiln.test/ --edns-packet-max=512 {many}"));
    let _guest = net.services(FIXED);
    let expected = dig(&net, "many.kiln.test");
    assert_eq!(expected.lines().count(), 100, "{expected}");
    let guest = ADDRESSES[0].parse().expect("an address");
    assert_eq!(net.ask(guest, 9053, "many.kiln.test"), Some(expected));
}

/// The addresses of a guest's state in a network whose first 64 bits are that address's.
fn addresses(state: &str, network: &str) -> Vec<Ipv6Addr> {
    let network: Ipv6Addr = network.parse().expect("an address");
    let lines = state.lines().filter_map(|line| {
        let address = line.strip_prefix("address ")?.split('/').next()?;
        let address: Ipv6Addr = address.parse().ok()?;
        (address.segments()[..4] == network.segments()[..4]).then_some(address)
    });
    lines.collect()
}

#[test]
fn dnsmasq_gives_addresses_of_both_families_and_servers() {
    let net = net!("dnsmasq");
    let _server = net.dnsmasq(
        "--dhcp-range=10.9.0.50,10.9.0.50,255.255.255.0,1h --dhcp-authoritative --enable-ra \
         --dhcp-range=fd09::,ra-stateless,64 --ra-param=tap0,4 \
         --dhcp-option=option:dns-server,10.9.0.1 --dhcp-option=option6:dns-server,[fd09::1]",
    );
    let _guest = net.services("--net tap:tap0");
    let at = "10.9.0.50".parse().expect("an address");
    net.state_becomes(at, "addresses and servers of both families", |state| {
        state.contains("address 10.9.0.50/24")
            && addresses(state, "fd09::").len() == 1
            && state.contains("server 10.9.0.1")
            && state.contains("server fd09::1")
    });
    let six = addresses(&net.state(at), "fd09::")[0];
    assert!(!net.state(six.into()).is_empty(), "{six} does not answer");
}

/// The advertisement says nothing of servers but that there is other configuration: RFC 4861 section 4.2, RFC 8415
/// section 6.1.
#[test]
fn name_servers_by_stateless_dhcpv6() {
    let net = net!("dnsmasq", "radvd");
    let _router = net.radvd("AdvOtherConfigFlag on; prefix fd09::/64 { };");
    let _server = net.dnsmasq(
        "--port=0 --dhcp-range=fd09::,static,64 --dhcp-option=option6:dns-server,[fd09::53]",
    );
    let _guest = net.services("--net tap:tap0,ip=10.9.0.2/24");
    let at = ADDRESSES[0].parse().expect("an address");
    net.state_becomes(at, "the server that only DHCPv6 names", |state| {
        state.contains("server fd09::53")
    });
}

#[test]
fn every_address_is_probed_before_it_is_used() {
    let net = net!("radvd", "tcpdump");
    let mut capture = net.start(
        "tcpdump",
        "-i tap0 -n -l --immediate-mode icmp6 and ip6[40]==135 and src host ::",
    );
    thread::sleep(Duration::from_millis(500));
    let _router = net.radvd("prefix fd09:0:0:1::/64 { };");
    let _guest = net.services("--net tap:tap0,ip=10.9.0.2/24");
    let at = ADDRESSES[0].parse().expect("an address");
    net.state_becomes(at, "an address of the prefix", |state| {
        addresses(state, "fd09:0:0:1::").len() == 1
    });
    let state = net.state(at);
    let all: Vec<Ipv6Addr> = ["fe80::", "fd09:0:0:1::"]
        .iter()
        .flat_map(|prefix| addresses(&state, prefix))
        .collect();
    assert_eq!(all.len(), 2, "{state}");
    assert!(capture.is_running());
    // RFC 4862 section 5.4.2: a solicitation without a source for each, for itself.
    for address in all {
        eventually("a probe for each address", || {
            capture
                .output()
                .contains(&format!("who has {address}, length"))
        });
    }
}

/// Somebody else has the address already and says so: RFC 4862 section 5.4.5.
#[test]
fn an_address_that_somebody_has_is_not_used() {
    let net = net!("radvd", "ip");
    let _router = net.radvd("prefix fd09:0:0:1::/64 { };");
    // What the guest will make of the prefix with this Ethernet address (RFC 4291 appendix A).
    net.netns
        .ip("addr add fd09:0:0:1:5054:ff:fe00:77/64 dev tap0 nodad");
    let _guest = net.services("--net tap:tap0,ip=10.9.0.2/24,mac=52:54:00:00:00:77");
    let at = ADDRESSES[0].parse().expect("an address");
    thread::sleep(Duration::from_secs(8));
    let state = net.state(at);
    assert!(state.contains("address 10.9.0.2/24"), "{state}");
    // Or made in another way (RFC 7217), and then not the same.
    let taken: Ipv6Addr = "fd09:0:0:1:5054:ff:fe00:77".parse().expect("an address");
    assert!(
        !addresses(&state, "fd09:0:0:1::").contains(&taken),
        "the address of somebody else is used\n{state}"
    );
}

#[test]
fn two_prefixes_and_one_that_ends() {
    let net = net!("radvd", "ping");
    net.netns.ip("addr add fd09:0:0:1::1/64 dev tap0 nodad");
    net.netns.ip("addr add fd09:0:0:2::1/64 dev tap0 nodad");
    let router = net.radvd(
        "prefix fd09:0:0:1::/64 { AdvValidLifetime 300; AdvPreferredLifetime 200; }; \
         prefix fd09:0:0:2::/64 { AdvValidLifetime 10; AdvPreferredLifetime 6; }; \
         RDNSS fd09:0:0:1::53 { AdvRDNSSLifetime 300; };",
    );
    let guest = net.services("--net tap:tap0,ip=10.9.0.2/24");
    let at = ADDRESSES[0].parse().expect("an address");
    net.state_becomes(at, "an address of each prefix", |state| {
        addresses(state, "fd09:0:0:1::").len() == 1
            && addresses(state, "fd09:0:0:2::").len() == 1
            && state.contains("server fd09:0:0:1::53")
    });
    let state = net.state(at);
    let first = addresses(&state, "fd09:0:0:1::")[0];
    let second = addresses(&state, "fd09:0:0:2::")[0];
    for address in [first, second] {
        net.run("ping", &format!("-n -q -c 3 -i 0.01 -W 2 {address}"))
            .ends_with(0)
            .prints(" 0% packet loss");
    }
    // Killed, it does not take back what it has said: the second prefix ends by itself.
    router.signal(Signal::KILL);
    net.state_becomes(at, "only the first prefix is left", |state| {
        addresses(state, "fd09:0:0:1::").len() == 1 && addresses(state, "fd09:0:0:2::").is_empty()
    });
    net.run("ping", &format!("-n -q -c 3 -i 0.01 -W 2 {first}"))
        .ends_with(0)
        .prints(" 0% packet loss");
    let gone = net.run("ping", &format!("-n -q -c 2 -i 0.01 -W 1 {second}"));
    assert_eq!(gone.code, 1, "the ended address answers\n{gone}");
    let local = Net::link_local(&guest);
    net.run("ping", &format!("-n -q -c 3 -i 0.01 -W 2 {local}%tap0"))
        .ends_with(0)
        .prints(" 0% packet loss");
}

/// A prefix that its router takes back by a lifetime of 0 goes on for connections it has, at most two hours (RFC 4862
/// section 5.5.3), but is no source of new ones if there is another.
#[test]
fn a_deprecated_address_is_no_source() {
    let net = net!("radvd");
    net.netns.ip("addr add fd09:0:0:1::1/64 dev tap0 nodad");
    net.netns.ip("addr add fd09:0:0:2::1/64 dev tap0 nodad");
    let _router = net.radvd(
        "prefix fd09:0:0:1::/64 { AdvValidLifetime 300; AdvPreferredLifetime 0; }; \
         prefix fd09:0:0:2::/64 { AdvValidLifetime 300; AdvPreferredLifetime 200; }; \
         RDNSS fd09:0:0:1::1 { AdvRDNSSLifetime 300; };",
    );
    let _guest = net.services("--net tap:tap0,ip=10.9.0.2/24");
    let at = ADDRESSES[0].parse().expect("an address");
    net.state_becomes(at, "an address of each prefix, and the server", |state| {
        addresses(state, "fd09:0:0:1::").len() == 1
            && addresses(state, "fd09:0:0:2::").len() == 1
            && state.contains("server fd09:0:0:1::1")
    });
    let preferred = addresses(&net.state(at), "fd09:0:0:2::")[0];
    // Rule 3 of RFC 6724 section 5 comes before the longest prefix. The query to the server shows the source.
    let server = net
        .netns
        .within(|| UdpSocket::bind("[fd09:0:0:1::1]:53").expect("the DNS port of the namespace"));
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    thread::scope(|scope| {
        let asking = scope.spawn(|| net.ask(at, 9053, "who.asks.test"));
        let mut query = [0; 512];
        let (_, source) = server.recv_from(&mut query).expect("a query");
        assert_eq!(source.ip(), IpAddr::from(preferred));
        drop(asking.join());
    });
}

/// The tap takes over checksums of TCP, which `tcpdump` cannot know: for that protocol only its own words for what
/// cannot be read count.
#[test]
fn tcpdump_finds_nothing_malformed() {
    let net = net!("tcpdump", "ping", "nc", "sh", "dnsmasq");
    let file = net.session.file("capture");
    let mut capture = net.start(
        "tcpdump",
        &format!("-i tap0 -n -U -Z root -s 0 -w {}", file.display()),
    );
    thread::sleep(Duration::from_millis(500));
    let server = net.dnsmasq(&format!(
        "--dhcp-range=10.9.0.50,10.9.0.50,255.255.255.0,1h --enable-ra --dhcp-range=fd09::,ra-stateless,64 {RECORDS}"
    ));
    let _guest = net.services("--net tap:tap0");
    let at = "10.9.0.50".parse().expect("an address");
    net.state_becomes(at, "an IPv6 address", |state| {
        addresses(state, "fd09::").len() == 1
    });
    let six = addresses(&net.state(at), "fd09::")[0];
    assert!(net.ask(at, 9053, "both.kiln.test").is_some());
    fs::write(net.session.file("in"), noise(1 << 16)).expect("a file");
    for address in ["10.9.0.50", &six.to_string()] {
        for size in [0, 56, 4000] {
            // Whether it is answered is the matter of another test.
            net.run(
                "ping",
                &format!("-n -q -c 3 -i 0.01 -W 1 -s {size} {address}"),
            );
        }
        // An open port, a closed one for each protocol.
        net.shell(&format!("nc -w 10 -N {address} 7 < in | cmp - in"))
            .ends_with(0);
        net.shell(&format!(
            "nc -w 2 -z {address} 4444; echo x | nc -u -w 1 {address} 4444; true"
        ));
    }
    assert!(capture.is_running());
    capture.signal(Signal::TERM);
    capture.finish();
    drop(server);
    let read = net.run(
        "tcpdump",
        &format!(
            "-r {} -n -vv -e not ether src host {}",
            file.display(),
            net.mac()
        ),
    );
    let text = read.ends_with(0).text();
    assert!(text.lines().count() > 50, "little was seen\n{text}");
    for line in text.lines() {
        let is_tcp = line.contains("Flags [");
        for word in [
            "bad cksum",
            "bad-len",
            "[|",
            "malformed",
            "invalid",
            "truncated",
            "bad opt",
        ] {
            assert!(!line.contains(word), "{word}: {line}");
        }
        assert!(is_tcp || !line.contains("incorrect"), "checksum: {line}");
    }
}
