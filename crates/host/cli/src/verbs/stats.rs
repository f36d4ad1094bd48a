//! `kiln stats`: what instances use, once or again every second; for Prometheus, once.

mod prometheus;

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use kiln_monitor::control::{Request, Response, Stats, client};
use kiln_monitor::registry::{Instance, Registry, Status};
use kiln_monitor::size::Size;
use serde::Serialize;

use crate::exit::Failure;
use crate::style;
use crate::table::Table;

/// Time between two looks, over which processor use is measured.
const PERIOD: Duration = Duration::from_secs(1);

/// The first look for `--no-stream` is this long before the second.
const SHORT_PERIOD: Duration = Duration::from_millis(200);

/// Arguments of `kiln stats`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print once instead of every second
    #[arg(long)]
    no_stream: bool,
    /// table; json: one object a line; prometheus: all that is counted, once, in the text format 0.0.4
    #[arg(long, default_value = "table", value_enum)]
    format: Format,
    /// Names or ids of instances [default: all that run]
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
}

/// What `--format` takes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Columns for people.
    Table,
    /// JSON for programs.
    Json,
    /// Text for Prometheus.
    Prometheus,
}

/// One instance's numbers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    /// Share of one processor in percent.
    cpu_percent: f64,
    #[serde(flatten)]
    stats: Stats,
}

/// Earlier numbers by instance: when, and processor time in nanoseconds.
type Earlier = HashMap<String, (Instant, u64)>;

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let registry = Registry::open()?;
    if arguments.format == Format::Prometheus {
        return prometheus::print(running(&registry, &arguments.instances)?);
    }
    let mut earlier = Earlier::new();
    look(&registry, &arguments.instances, &mut earlier)?;
    std::thread::sleep(SHORT_PERIOD);
    loop {
        let rows = look(&registry, &arguments.instances, &mut earlier)?;
        print(&rows, arguments)?;
        if arguments.no_stream {
            return Ok(0);
        }
        std::thread::sleep(PERIOD);
    }
}

/// Instances that run, of those named or of all.
fn running(
    registry: &Registry,
    keys: &[String],
) -> Result<impl Iterator<Item = Instance>, Failure> {
    let instances: Vec<Instance> = if keys.is_empty() {
        registry.list()?
    } else {
        keys.iter()
            .map(|key| registry.find(key))
            .collect::<Result<_, _>>()?
    };
    let instances = instances.into_iter();
    Ok(instances.filter(|instance| instance.status == Status::Running))
}

fn look(registry: &Registry, keys: &[String], earlier: &mut Earlier) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for instance in running(registry, keys)? {
        // One that ends this moment is left out.
        let Ok(Response::Stats(stats)) = client::request(&instance, &Request::Stats) else {
            continue;
        };
        let now = Instant::now();
        let before = earlier.insert(instance.record.id.clone(), (now, stats.cpu_ns));
        rows.push(Row {
            id: instance.record.id,
            name: instance.record.name,
            cpu_percent: before.map_or(0.0, |(then, used)| {
                let used = Duration::from_nanos(stats.cpu_ns.saturating_sub(used));
                percent(used, now - then)
            }),
            stats,
        });
    }
    Ok(rows)
}

fn percent(used: Duration, of: Duration) -> f64 {
    if of.is_zero() {
        return 0.0;
    }
    (used.as_secs_f64() / of.as_secs_f64() * 10_000.0).round() / 100.0
}

fn print(rows: &[Row], arguments: &Arguments) -> io::Result<()> {
    if arguments.format == Format::Json {
        return rows.iter().try_for_each(style::json_line);
    }
    let size = |bytes| Size::from_bytes(bytes).rounded();
    let counted = |bytes: Option<u64>| bytes.map_or("--".to_owned(), size);
    let mut table = Table::new(&[
        "ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "SUPERVISOR",
        "NET IN / OUT",
        "CALLS",
    ]);
    for row in rows {
        let stats = &row.stats;
        table.row([
            row.id.clone(),
            row.name.clone(),
            format!("{:.2}%", row.cpu_percent),
            format!("{} / {}", size(stats.resident), size(stats.memory)),
            size(stats.supervisor_resident),
            format!(
                "{} / {}",
                counted(stats.net_received),
                counted(stats.net_sent)
            ),
            stats.calls.to_string(),
        ]);
    }
    let mut stdout = io::stdout().lock();
    if !arguments.no_stream && stdout.is_terminal() {
        // Home, and clear what was there (ECMA-48: CUP, ED).
        stdout.write_all(b"\x1b[H\x1b[2J")?;
    }
    stdout.write_all(table.render().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_use_is_a_share_of_one_processor() {
        let share = percent(Duration::from_millis(250), Duration::from_secs(1));
        assert!((share - 25.0).abs() < f64::EPSILON);
        assert!(percent(PERIOD, Duration::ZERO).abs() < f64::EPSILON);
    }
}
