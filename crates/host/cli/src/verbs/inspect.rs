//! `kiln inspect`: everything about instances and image files, as a JSON array in docker's manner.

mod image;

use std::collections::BTreeMap;
use std::path::Path;

use kiln_image::build::IMAGE_EXTENSION;
use kiln_monitor::control::{Request, Response, client};
use kiln_monitor::registry::record::Protection;
use kiln_monitor::registry::{End, Instance, Registry, Status};
use serde::Serialize;

use crate::exit::Failure;
use crate::style::{self, Format};

/// Arguments of `kiln inspect`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// json is the only format there is
    #[arg(long, default_value = "json", value_enum, hide = true)]
    format: Format,
    /// Names or ids of instances, or image files
    #[arg(required = true, value_name = "INSTANCE|FILE")]
    instances: Vec<String>,
}

/// One thing that was asked for.
#[derive(Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "there are few")]
enum Either {
    Instance(Shown),
    Image(image::Shown),
}

/// One instance.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    id: String,
    name: String,
    created: String,
    image: String,
    path: String,
    args: Vec<String>,
    state: State,
    config: Config,
    devices: Vec<String>,
    ports: Vec<String>,
    protections: Vec<ShownProtection>,
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unimplemented_calls: BTreeMap<String, u64>,
    log_path: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: &'static str,
    running: bool,
    dead: bool,
    pid: u32,
    supervisor_pid: u32,
    exit_code: u8,
    reason: String,
    started_at: String,
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    core_file: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    env: Vec<String>,
    memory: u64,
    backend: String,
    auto_remove: bool,
    strict: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownProtection {
    name: String,
    in_force: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    cpu_nanoseconds: u64,
    calls: u64,
    host_calls: u64,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let registry = Registry::open()?;
    let mut shown = Vec::new();
    let mut code = 0;
    for key in &arguments.instances {
        if is_image(key) {
            match image::show(Path::new(key)) {
                Ok(image) => shown.push(Either::Image(image)),
                Err(failure) => {
                    failure.report();
                    code = 1;
                }
            }
            continue;
        }
        match registry.find(key) {
            Ok(instance) => shown.push(Either::Instance(show(instance))),
            Err(error) => {
                Failure::from(error).report();
                code = 1;
            }
        }
    }
    style::json_pretty(&shown)?;
    Ok(code)
}

/// No instance has such a name: there are no slashes in names, and files' come first.
fn is_image(key: &str) -> bool {
    let path = Path::new(key);
    key.contains('/')
        || path
            .extension()
            .is_some_and(|ending| ending == IMAGE_EXTENSION)
            && path.is_file()
}

fn show(instance: Instance) -> Shown {
    let (protections, usage) = match &instance.end {
        Some(end) => (end.protections.clone(), Some(usage(end))),
        None => (live_protections(&instance), None),
    };
    let running = instance.status == Status::Running;
    let metrics = running.then(|| client::request(&instance, &Request::Metrics));
    let unimplemented_calls = match metrics {
        Some(Ok(Response::Metrics(metrics))) => metrics.unimplemented_calls(),
        _ => BTreeMap::new(),
    };
    let end = instance.end;
    let record = instance.record;
    Shown {
        state: State {
            status: instance.status.word(),
            running,
            dead: instance.status == Status::Dead,
            pid: if running { record.pid } else { 0 },
            supervisor_pid: if running { record.supervisor } else { 0 },
            exit_code: end.as_ref().map_or(0, |end| end.exit_code),
            started_at: record.started.rfc3339(),
            finished_at: end.as_ref().map(|end| end.finished.rfc3339()),
            core_file: end.as_ref().and_then(|end| end.core.clone()),
            reason: end.map(|end| end.reason).unwrap_or_default(),
        },
        config: Config {
            env: record.env,
            memory: record.memory,
            backend: record.backend,
            auto_remove: record.remove,
            strict: record.strict,
        },
        log_path: instance
            .path
            .join(kiln_monitor::console::log::FILE)
            .display()
            .to_string(),
        id: record.id,
        name: record.name,
        created: record.created.rfc3339(),
        image: record.image,
        path: record.args.first().cloned().unwrap_or_default(),
        args: record.args.into_iter().skip(1).collect(),
        devices: record.devices,
        ports: record.ports,
        protections: protections.into_iter().map(shown_protection).collect(),
        usage,
        unimplemented_calls,
    }
}

/// The protections of a running instance are known to its supervisor. An instance that ends this moment has none.
fn live_protections(instance: &Instance) -> Vec<Protection> {
    match client::request(instance, &Request::Protections) {
        Ok(Response::Protections { protections }) => protections,
        _ => Vec::new(),
    }
}

fn shown_protection(protection: Protection) -> ShownProtection {
    ShownProtection {
        in_force: protection.missing.is_none(),
        name: protection.name,
        missing: protection.missing,
    }
}

fn usage(end: &End) -> Usage {
    Usage {
        cpu_nanoseconds: end.cpu_ns,
        calls: end.calls,
        host_calls: end.host_calls,
    }
}
