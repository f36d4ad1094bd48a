//! Part `many`: hundreds of instances of web at once, each with its own port and network, each answering.
//!
//! Two threads start them one after the other with `kiln run -d`, as a person's script would. Then every one is asked for
//! a page, measured, and stopped; nothing of them may be left.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::{Table, count, kib, number};
use crate::instance::{self, About};
use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::{Result, http};

const INSTANCES: usize = 500;
const STARTERS: usize = 2;
/// More than an instance of that size takes.
const ROOM: u64 = 8 * 1024 * 1024;
/// Starting all may not take longer.
const START: Duration = Duration::from_mins(1);
const ANSWER: Duration = Duration::from_secs(10);

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    run_so_many(setting, setting.pick(INSTANCES, 50))
}

/// Measures so many instances and prints.
pub fn run_so_many(setting: &Setting, asked: usize) -> Result<()> {
    let web = setting.image("web")?;
    let before = process::available()?;
    let fitting = usize::try_from(before / ROOM).unwrap_or(usize::MAX);
    let wanted = asked.min(fitting);
    if wanted < asked {
        println!("{wanted} instances instead of {asked}: there is no memory for more");
    }

    let measured = measure(setting, &web, wanted, before);
    // Whatever went wrong, nothing stays.
    let left = instance::end_all(&setting.kiln, &setting.folder);
    measured.and(left)
}

fn measure(setting: &Setting, web: &Path, wanted: usize, before: u64) -> Result<()> {
    let start = Instant::now();
    let ids = start_all(setting, web, wanted)?;
    let started = start.elapsed();
    let about = About::all(setting, &ids)?;

    let asking = Instant::now();
    let answered = ask_all(&about);
    let asked = asking.elapsed();

    let after = process::available()?;
    let (mut guests, mut supervisors) = (0, 0);
    for instance in &about {
        guests += process::resident(instance.guest)?;
        supervisors += process::resident(instance.supervisor)?;
    }
    let n = wanted as u64;
    let mut table = Table::new(&["instances of web, --memory 2M", ""]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("started", ids.len().to_string());
    row("started per second", number(rate(ids.len(), started)));
    row("answered", answered.to_string());
    row(
        "answers per second, one each",
        number(rate(answered, asked)),
    );
    row("KiB per guest", kib(guests / n));
    row("KiB per supervisor", kib(supervisors / n));
    row("KiB per instance", kib((guests + supervisors) / n));
    row(
        "KiB per instance, the kernel's included",
        kib(before.saturating_sub(after) / n),
    );

    let stopping = Instant::now();
    for some in ids.chunks(100) {
        process::output(setting.kiln().arg("stop").args(some), PATIENCE)?;
    }
    row(
        "stopped per second",
        number(rate(ids.len(), stopping.elapsed())),
    );
    let left = leftovers(setting, &about)?;
    row("processes and names left", left.to_string());
    table.print();
    if answered < wanted {
        return Err(format!("{} did not answer", wanted - answered));
    }
    if left > 0 {
        return Err(format!("{left} things are left behind"));
    }
    Ok(())
}

fn start_all(setting: &Setting, web: &Path, wanted: usize) -> Result<Vec<String>> {
    let deadline = Instant::now() + START;
    let begun = AtomicUsize::new(0);
    let ids = Mutex::new(Vec::new());
    let start = || -> Result<()> {
        while begun.fetch_add(1, Ordering::Relaxed) < wanted {
            if Instant::now() > deadline {
                return Err(format!("starting takes longer than {} s", START.as_secs()));
            }
            let id = start_one(setting.kiln(), web)?;
            ids.lock().map_err(|_| "a starter panicked")?.push(id);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
        starters.into_iter().try_for_each(|starter| {
            starter
                .join()
                .map_err(|_| "a starter panicked".to_owned())?
        })
    })?;
    ids.into_inner()
        .map_err(|_| "a starter panicked".to_owned())
}

/// Not by [`process::output`], whose threads would be measured too.
fn start_one(mut kiln: Command, web: &Path) -> Result<String> {
    kiln.args(["run", "-d", "--rm", "--net", "user", "--memory", "2M"])
        .args(["-p", "127.0.0.1:0:80"])
        .arg(web);
    let output = kiln.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(format!("kiln run: {}", message.trim()))
}

fn ask_all(about: &[About]) -> usize {
    let ask = |instance: &About| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, instance.port?));
        http::fetch(address, "/bench/612", ANSWER).ok()
    };
    thread::scope(|scope| {
        let askers: Vec<_> = about
            .chunks(about.len().div_ceil(STARTERS).max(1))
            .map(|some| scope.spawn(move || some.iter().filter_map(ask).count()))
            .collect();
        askers
            .into_iter()
            .map(|asker| asker.join().unwrap_or(0))
            .sum()
    })
}

/// What is still there of instances that were stopped and should have removed themselves.
fn leftovers(setting: &Setting, about: &[About]) -> Result<usize> {
    // A process that has just ended takes a moment to go.
    thread::sleep(Duration::from_millis(300));
    let processes = about
        .iter()
        .flat_map(|instance| [instance.guest, instance.supervisor])
        .filter(|&pid| process::start_time(pid).is_some())
        .count();
    let names = process::output(setting.kiln().args(["ps", "-a", "-q"]), PATIENCE)?;
    Ok(processes + names.lines().count())
}

fn rate(number: usize, time: Duration) -> f64 {
    count(number as u64) / time.as_secs_f64()
}
