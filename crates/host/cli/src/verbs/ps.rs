//! `kiln ps`: list instances.

use kiln_monitor::clock::{WallTime, in_words};
use kiln_monitor::registry::{Instance, Registry, Status};
use serde::Serialize;

use crate::exit::Failure;
use crate::style::{self, Format};
use crate::table::Table;

/// The length at which a column's text is cut.
const SHORT: usize = 24;

/// Arguments of `kiln ps`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Show instances that have ended too
    #[arg(short = 'a', long)]
    all: bool,
    /// Print ids only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Print columns in full
    #[arg(long)]
    no_trunc: bool,
    /// table, or json: one object a line
    #[arg(long, default_value = "table", value_enum)]
    format: Format,
}

/// An instance as `--format json` prints it, with docker's names.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    names: &'a str,
    image: &'a str,
    command: String,
    created_at: String,
    running_for: String,
    state: &'static str,
    status: String,
    ports: String,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let mut instances = Registry::open()?.list()?;
    instances.retain(|instance| arguments.all || instance.status == Status::Running);
    // The newest first, as docker does.
    instances.reverse();
    let now = WallTime::now();
    if arguments.quiet {
        for instance in &instances {
            style::line(&instance.record.id)?;
        }
        return Ok(0);
    }
    if arguments.format == Format::Json {
        for instance in &instances {
            style::json_line(&row(instance, now))?;
        }
        return Ok(0);
    }
    let cut = |text: &str| {
        if arguments.no_trunc || text.chars().count() <= SHORT {
            text.to_owned()
        } else {
            let head: String = text.chars().take(SHORT - 1).collect();
            format!("{head}…")
        }
    };
    let mut table = Table::new(&[
        "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES",
    ]);
    for instance in &instances {
        let row = row(instance, now);
        let image = if arguments.no_trunc {
            row.image
        } else {
            row.image.rsplit('/').next().unwrap_or(row.image)
        };
        table.row([
            row.id.to_owned(),
            cut(image),
            cut(&row.command),
            row.running_for,
            row.status,
            row.ports,
            row.names.to_owned(),
        ]);
    }
    table.print()?;
    Ok(0)
}

fn row(instance: &Instance, now: WallTime) -> Row<'_> {
    let record = &instance.record;
    Row {
        id: &record.id,
        names: &record.name,
        image: &record.image,
        command: record.args.join(" "),
        created_at: record.created.rfc3339(),
        running_for: format!("{} ago", in_words(now.since(record.created))),
        state: instance.status.word(),
        status: status(instance, now),
        ports: record.ports.join(", "),
    }
}

/// Docker's words: `Up 3 minutes`, `Exited (1) 2 hours ago`.
fn status(instance: &Instance, now: WallTime) -> String {
    match &instance.end {
        None => format!("Up {}", in_words(now.since(instance.record.started))),
        Some(end) => {
            let word = if instance.status == Status::Dead {
                "Dead"
            } else {
                "Exited"
            };
            let ago = in_words(now.since(end.finished));
            format!("{word} ({}) {ago} ago", end.exit_code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_monitor::registry::{End, Record};

    #[test]
    fn states_are_told_as_docker_tells_them() {
        let second = 1_000_000_000;
        let mut instance = Instance {
            record: Record::default(),
            status: Status::Running,
            end: None,
            path: "x".into(),
        };
        assert_eq!(status(&instance, WallTime(5 * second)), "Up 5 seconds");
        instance.status = Status::Exited;
        instance.end = Some(End {
            exit_code: 3,
            finished: WallTime(5 * second),
            ..End::default()
        });
        let now = WallTime(130 * second);
        assert_eq!(status(&instance, now), "Exited (3) 2 minutes ago");
        instance.status = Status::Dead;
        assert_eq!(status(&instance, now), "Dead (3) 2 minutes ago");
    }
}
