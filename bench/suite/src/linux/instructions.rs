//! Guest instructions for each request, counted by QEMU's translator ([`counted`](crate::counted)) and told apart by address:
//! machine part, program, library OS. No noise of the machine is in them, and no peer: the goals are figures.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{REDIS, text};
use crate::counted::Counted;
use crate::figures::{Table, count, number};
use crate::janitor::Kept;
use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::{Result, instance, place, web};

/// Where the machine part ends, and where the program's addresses do (`docs/machine.md`).
const ENDS: [u64; 2] = [0x20_0000, 0x7000_0000_0000];

const BACKEND: &str = "qemu,accel=tcg,machine=microvm";

/// At most so many instructions for a request.
const GOALS: [(&str, u32); 3] = [
    ("redis GET, 50 connections", 9_000),
    ("redis GET, pipelines of 16", 4_800),
    ("nginx, 612 bytes, 64 connections", 22_000),
];

/// A QEMU that counts, by the ranges that [`ENDS`] has the ends of.
struct Counting(Counted);

impl Counting {
    fn now(&self) -> Result<[u64; 3]> {
        let mut ranges = [0; 3];
        for (address, count) in self.0.read()? {
            ranges[ENDS.iter().filter(|&&end| end <= address).count()] += count;
        }
        Ok(ranges)
    }

    /// Starts a server and waits until it accepts a connection and keeps it.
    fn serve(&self, setting: &Setting, options: &[&str], command: &[&str]) -> Result<Kept> {
        let mut run = setting.kiln();
        run.env("PATH", self.0.path()?)
            .args(["run", "--rm", "--backend", BACKEND])
            .args(options)
            .args(command)
            .stdout(Stdio::null());
        setting.keep(&mut run)
    }

    /// Makes load, first a little, and gives instructions for each request.
    fn measure(&self, mut load: impl FnMut() -> Result<f64>) -> Result<[f64; 3]> {
        load()?;
        let before = self.now()?;
        let requests = load()?;
        let after = self.now()?;
        let mut each = [0.0; 3];
        for (to, (after, before)) in each.iter_mut().zip(after.into_iter().zip(before)) {
            *to = count(after - before) / requests;
        }
        Ok(each)
    }
}

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let counting = match Counted::prepare(setting) {
        Ok(counted) => Counting(counted),
        Err(message) => {
            println!("skipped: {message}");
            return Ok(());
        }
    };
    let mut table = Table::new(&[
        "instructions a request",
        "machine part",
        "program",
        "library OS",
        "together",
        "goal",
    ]);
    let mut row = |(name, goal): (&str, u32), counts: [f64; 3]| {
        let [machine, program, library] = counts.map(number);
        let together = number(counts.iter().sum());
        let goal = goal.to_string();
        table.row([name.to_owned(), machine, program, library, together, goal]);
    };
    let redis = process::find("redis-server").zip(process::find("redis-benchmark"));
    if let Some((server, client)) = redis {
        let at = place::free_port()?;
        let publish = format!("{at}:6379");
        let mut command = vec![server.to_str().unwrap_or_default()];
        command.extend(REDIS);
        let kept = counting.serve(setting, &["-p", &publish], &command)?;
        answers(at)?;
        for (goal, pipeline, count) in [(GOALS[0], 1, 10_000), (GOALS[1], 16, 50_000)] {
            let count = count / setting.pick(1, 4);
            row(
                goal,
                counting.measure(|| redis_load(&client, at, pipeline, count))?,
            );
        }
        drop(kept);
    } else {
        println!("skipped: redis-server and redis-benchmark are not installed");
    }
    if let Some((server, client)) = process::find("nginx").zip(process::find("wrk")) {
        let folder = super::folder()?.join("nginx");
        let any = place::at(std::net::Ipv4Addr::UNSPECIFIED, 80);
        let file = web::nginx::prepare(&folder, any)?;
        let whole = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let whole = whole.replace("daemon off;", "daemon off; master_process off;");
        fs::write(&file, whole).map_err(|error| error.to_string())?;
        let at = place::free_port()?;
        let publish = format!("{at}:80");
        let include = format!("--include={}", text(&folder));
        let (folder, file) = (text(&folder), text(&file));
        let command = [
            &text(&server),
            "-p",
            &folder,
            "-c",
            &file,
            "-e",
            "error.log",
        ];
        let kept = counting.serve(setting, &["-p", &publish, &include], &command)?;
        answers(at)?;
        row(GOALS[2], counting.measure(|| wrk(&client, at))?);
        drop(kept);
    } else {
        println!("skipped: nginx and wrk are not installed");
    }
    table.print();
    instance::end_all(&setting.kiln, &setting.folder)
}

/// Waits until a server answers something: before it listens, connections end.
fn answers(at: SocketAddr) -> Result<()> {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<usize> {
        let mut stream = std::net::TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"PING / HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0; 16])
    };
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if ask().is_ok_and(|count| count > 0) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("nothing answers at {at}"))
}

fn redis_load(client: &Path, at: SocketAddr, pipeline: u32, count: u32) -> Result<f64> {
    let mut command = Command::new(client);
    command
        .args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()])
        .args(["-t", "get", "-c", "50", "--csv"])
        .args(["-n", &count.to_string(), "-P", &pipeline.to_string()]);
    process::output(&mut command, 2 * PATIENCE)?;
    Ok(f64::from(count))
}

/// `N requests in T s, ...` among what it says.
fn wrk(client: &Path, at: SocketAddr) -> Result<f64> {
    let mut command = Command::new(client);
    command.args(["-c", "64", "-t", "1", "-d", "3"]);
    let said = process::output(command.arg(format!("http://{at}/")), PATIENCE)?;
    let line = said.lines().find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| format!("wrk says no number: {said}"))
}
