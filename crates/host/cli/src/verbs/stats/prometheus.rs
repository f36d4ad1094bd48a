//! Everything that is counted, in Prometheus' text format.
//!
//! One family for each metric, its lines together, as the format wants them; the label `instance` says whose each is and
//! `link` which network link's. What guests say themselves is under `kiln_guest_`: those numbers are as true as the guest
//! is honest.
//!
//! Source: Prometheus, "Exposition formats", text format version 0.0.4.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use kiln_monitor::control::{LinkMetrics, Metrics, Request, Response, client};
use kiln_monitor::metrics::{self, Net, Shape};
use kiln_monitor::registry::Instance;
use kiln_monitor::usernet;

use crate::exit::Failure;

/// Asks instances and prints what they say.
pub fn print(instances: impl Iterator<Item = Instance>) -> Result<u8, Failure> {
    let mut all = Vec::new();
    for instance in instances {
        // One that ends this moment is left out.
        if let Ok(Response::Metrics(metrics)) = client::request(&instance, &Request::Metrics) {
            all.push(Told {
                name: instance.record.name,
                id: instance.record.id,
                image: instance.record.image,
                backend: instance.record.backend,
                started: instance.record.started.0,
                metrics,
            });
        }
    }
    io::stdout().lock().write_all(text(&all).as_bytes())?;
    Ok(0)
}

/// What one instance has told.
struct Told {
    name: String,
    id: String,
    image: String,
    backend: String,
    /// Nanoseconds since 1970.
    started: u64,
    metrics: Metrics,
}

/// The text for all instances.
fn text(all: &[Told]) -> String {
    let mut page = Page::default();
    instances(&mut page, all);
    links(&mut page, all);
    rootless(&mut page, all);
    guests(&mut page, all);
    page.0
}

/// Name, help, shape, and where the value is found.
type Number<T, V> = (&'static str, &'static str, Shape, fn(&T) -> V);

fn instances(page: &mut Page, all: &[Told]) {
    page.family(
        "kiln_instance_info",
        Shape::Gauge,
        "What an instance is; always 1.",
        all.iter().map(|told| {
            let labels = vec![
                ("instance", &*told.name),
                ("id", &told.id),
                ("image", &told.image),
                ("backend", &told.backend),
            ];
            (labels, "1".to_owned())
        }),
    );
    page.family(
        "kiln_instance_start_time_seconds",
        Shape::Gauge,
        "When the guest was started, in seconds since 1970 UTC.",
        each(all, |told| seconds(told.started)),
    );
    page.family(
        "kiln_instance_cpu_seconds_total",
        Shape::Counter,
        "Processor time of the guest.",
        each(all, |told| seconds(told.metrics.stats.cpu_ns)),
    );
    let numbers: [Number<Metrics, u64>; 6] = [
        (
            "kiln_instance_memory_resident_bytes",
            "Resident memory of the guest's process.",
            Shape::Gauge,
            |metrics| metrics.stats.resident,
        ),
        (
            "kiln_instance_memory_limit_bytes",
            "Memory that the guest may use.",
            Shape::Gauge,
            |metrics| metrics.stats.memory,
        ),
        (
            "kiln_instance_supervisor_memory_resident_bytes",
            "Resident memory of the supervisor.",
            Shape::Gauge,
            |metrics| metrics.stats.supervisor_resident,
        ),
        (
            "kiln_instance_calls_total",
            "Calls of the guest to its monitor.",
            Shape::Counter,
            |metrics| metrics.stats.calls,
        ),
        (
            "kiln_instance_operations_total",
            "Operations performed for the guest.",
            Shape::Counter,
            |metrics| metrics.stats.operations,
        ),
        (
            "kiln_instance_host_calls_total",
            "Host system calls made for the guest.",
            Shape::Counter,
            |metrics| metrics.stats.host_calls,
        ),
    ];
    for (name, help, shape, value) in numbers {
        let values = each(all, |told| value(&told.metrics).to_string());
        page.family(name, shape, help, values);
    }
}

fn links(page: &mut Page, all: &[Told]) {
    let numbers: [Number<LinkMetrics, Option<u64>>; 5] = [
        (
            "kiln_link_received_frames_total",
            "Frames that went into the guest.",
            Shape::Counter,
            |link| Some(link.received_frames),
        ),
        (
            "kiln_link_received_bytes_total",
            "Bytes of those frames, link headers included.",
            Shape::Counter,
            |link| Some(link.received_bytes),
        ),
        (
            "kiln_link_sent_frames_total",
            "Frames that came out of the guest; one with segmentation offload counts once.",
            Shape::Counter,
            |link| Some(link.sent_frames),
        ),
        (
            "kiln_link_sent_bytes_total",
            "Bytes of those frames, link headers included.",
            Shape::Counter,
            |link| Some(link.sent_bytes),
        ),
        (
            "kiln_link_dropped_frames_total",
            "Frames dropped because the guest did not take them.",
            Shape::Counter,
            |link| link.dropped_frames,
        ),
    ];
    for (name, help, shape, value) in numbers {
        let values = all.iter().flat_map(|told| {
            told.metrics.links.iter().filter_map(move |link| {
                let labels = vec![("instance", &*told.name), ("link", &*link.name)];
                Some((labels, value(link)?.to_string()))
            })
        });
        page.family(name, shape, help, values);
    }
}

/// The rootless network's own counters. What it counts of its link is among the links.
fn rootless(page: &mut Page, all: &[Told]) {
    for (name, help, _) in usernet::Stats::default().each() {
        if [
            "frames_in",
            "bytes_in",
            "frames_out",
            "bytes_out",
            "frames_dropped",
        ]
        .contains(&name)
        {
            continue;
        }
        let (full, shape) = match name.strip_suffix("_now") {
            Some(stem) => (format!("kiln_usernet_{stem}_flows"), Shape::Gauge),
            None => (format!("kiln_usernet_{name}_total"), Shape::Counter),
        };
        let values = all.iter().filter_map(|told| {
            let value = told.metrics.usernet.get(name)?;
            Some((vec![("instance", &*told.name)], value.to_string()))
        });
        page.family(&full, shape, &sentence(help), values);
    }
}

/// What guests say of their network stacks, and of their programs' system calls.
fn guests(page: &mut Page, all: &[Told]) {
    let missing: Vec<_> = all
        .iter()
        .map(|told| (&told.name, told.metrics.unimplemented_calls()))
        .collect();
    let values = missing.iter().flat_map(|(instance, calls)| {
        calls.iter().map(move |(call, count)| {
            let labels = vec![("instance", &***instance), ("call", &**call)];
            (labels, count.to_string())
        })
    });
    page.family(
        "kiln_guest_unimplemented_calls_total",
        Shape::Counter,
        "System calls of a Linux program that are not implemented, which it was told by ENOSYS.",
        values,
    );
    for (index, metric) in Net::ALL.iter().enumerate() {
        let values = all.iter().flat_map(|told| {
            let blocks = told.metrics.guest.iter();
            let blocks = blocks.filter(|block| block.kind == metrics::NET);
            blocks.filter_map(move |block| {
                let value = block.values.get(index)?;
                let labels = vec![("instance", &*told.name), ("link", &*block.link)];
                Some((labels, value.to_string()))
            })
        });
        let name = format!("kiln_guest_net_{}", metric.name);
        page.family(&name, metric.shape, metric.help, values);
    }
}

/// Labels and value of one line.
type Line<'a> = (Vec<(&'static str, &'a str)>, String);

/// One line for each instance.
fn each<'a>(
    all: &'a [Told],
    value: impl Fn(&Told) -> String + 'a,
) -> impl Iterator<Item = Line<'a>> {
    all.iter()
        .map(move |told| (vec![("instance", &*told.name)], value(told)))
}

/// Nanoseconds as seconds, none of them lost to rounding.
fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// A phrase as a sentence.
fn sentence(phrase: &str) -> String {
    let mut letters = phrase.chars();
    let first = letters.next().map(char::to_uppercase);
    first
        .into_iter()
        .flatten()
        .chain(letters)
        .chain(['.'])
        .collect()
}

/// The text in the making.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A family of lines, left out if there are none.
    fn family<'a>(
        &mut self,
        name: &str,
        shape: Shape,
        help: &str,
        lines: impl Iterator<Item = Line<'a>>,
    ) {
        let shape = match shape {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
        };
        let mut lines = lines.peekable();
        if lines.peek().is_none() {
            return;
        }
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {shape}\n");
        for (labels, value) in lines {
            let labels: Vec<String> = labels
                .into_iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
                .collect();
            let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
        }
    }
}

/// The value of a label as it stands between quotation marks.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_monitor::control::GuestMetrics;

    fn told(name: &str) -> Told {
        let mut values = vec![0; Net::ALL.len() + 3];
        values[Net::TcpRetransmitted as usize] = 7;
        Told {
            name: name.to_owned(),
            id: "0123456789ab".to_owned(),
            image: "/a \"b\"\\c\nd".to_owned(),
            backend: "process".to_owned(),
            started: 1_700_000_000_000_000_001,
            metrics: Metrics {
                links: vec![LinkMetrics {
                    name: "net".to_owned(),
                    sent_frames: 3,
                    ..LinkMetrics::default()
                }],
                usernet: [("tcp_now".to_owned(), 2), ("unknown".to_owned(), 1)].into(),
                guest: vec![
                    GuestMetrics {
                        kind: metrics::NET,
                        link: "net".to_owned(),
                        values,
                    },
                    GuestMetrics {
                        kind: 77,
                        link: "net".to_owned(),
                        values: vec![1],
                    },
                    GuestMetrics {
                        kind: metrics::CALLS,
                        link: String::new(),
                        values: vec![u64::from_ne_bytes(*b"fork\0\0\0\0"), 0, 0, 0, 4],
                    },
                ],
                ..Metrics::default()
            },
        }
    }

    #[test]
    fn families_have_their_lines_together() {
        let text = text(&[told("a"), told("b")]);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines
            .iter()
            .position(|line| *line == "# TYPE kiln_link_sent_frames_total counter")
            .expect("the family");
        assert!(lines[at - 1].starts_with("# HELP kiln_link_sent_frames_total Frames"));
        assert_eq!(
            lines[at + 1..at + 3],
            [
                "kiln_link_sent_frames_total{instance=\"a\",link=\"net\"} 3",
                "kiln_link_sent_frames_total{instance=\"b\",link=\"net\"} 3"
            ]
        );
        for line in [
            "kiln_usernet_tcp_flows{instance=\"a\"} 2",
            "kiln_guest_net_tcp_retransmitted_segments_total{instance=\"b\",link=\"net\"} 7",
            "kiln_guest_unimplemented_calls_total{instance=\"a\",call=\"fork\"} 4",
            "kiln_instance_start_time_seconds{instance=\"a\"} 1700000000.000000001",
        ] {
            assert!(lines.contains(&line), "{line}\n{text}");
        }
        assert!(text.ends_with('\n'));
        assert!(!text.contains("unknown"), "{text}");
    }

    #[test]
    fn labels_are_escaped() {
        let text = text(&[told("a")]);
        assert!(text.contains(r#"image="/a \"b\"\\c\nd""#), "{text}");
    }

    #[test]
    fn nobody_says_nothing() {
        assert_eq!(text(&[]), "");
    }
}
