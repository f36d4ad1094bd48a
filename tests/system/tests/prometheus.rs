//! `kiln stats --format prometheus`, read as strictly as the format is defined.

use std::collections::{BTreeMap, BTreeSet};

use kiln_system_tests::http::Client;
use kiln_system_tests::service::Service;
use kiln_system_tests::{Session, backend};

type Labels = BTreeMap<String, String>;

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
fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
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
fn value(families: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> f64 {
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
fn page(session: &Session, instances: &[&str]) -> BTreeMap<String, Family> {
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

#[test]
fn a_guest_can_show_its_own_counters() {
    if !backend::only_on(&["process", "kvm"], "nobody can read its memory") {
        return;
    }
    let session = Session::new();
    let mut guest = session.start_guest("--name probe", "netprobe", "metrics");
    guest.wait_for("serving");
    assert_eq!(guest.output().matches("register Ok(())").count(), 2);
    let families = page(&session, &[]);
    let labels = [("instance", "probe")];
    let number = |name: &str| value(&families, &format!("kiln_guest_net_{name}"), &labels);
    is(number("tcp_retransmitted_segments_total"), 42.0);
    is(number("tcp_connections"), 0.0);
    is(number("buffer_bytes"), 2f64.powi(64));
    // The block about a device that is not there would have said 5.
    is(number("udp_sockets"), 0.0);
}
