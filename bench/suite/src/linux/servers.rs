//! Servers under load: the guest behind a tap device, the same program as a process behind a veth pair.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{REDIS, text};
use crate::figures::{Table, median, micros, number, ratio};
use crate::instance::Instance;
use crate::place::{self, Place};
use crate::process::{self, PATIENCE};
use crate::setting::Setting;
use crate::web::load::{CASES, Load};
use crate::{Result, web};

/// Requests of a run, its time, and the server's processor time for it.
struct Run {
    rate: f64,
    micros: f64,
}

/// A server and the loads on it.
struct Server<'a> {
    name: &'static str,
    program: &'a Path,
    arguments: Vec<String>,
    options: Vec<String>,
    port: u16,
    loads: Vec<(&'static str, Client<'a>)>,
}

/// Makes load at an address; the number of requests and how long they took.
type Client<'a> = Box<dyn Fn(&Place, SocketAddr) -> Result<(f64, f64)> + 'a>;

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    if !process::is_root() {
        println!("skipped: needs root for namespaces");
        return Ok(());
    }
    let place = Place::namespaces(setting)?;
    println!("congestion control: {}", place.congestion_control()?);
    let load = Load::new(setting);
    let mut table = Table::new(&[
        "",
        "guest/s",
        "process/s",
        "ratio",
        "guest us",
        "process us",
        "ratio",
    ]);
    let redis_server = process::find("redis-server");
    let redis_load = process::find("redis-benchmark");
    let nginx = process::find("nginx");
    let memcached = process::find("memcached");
    let mut servers = Vec::new();
    if let (Some(program), Some(client)) = (&redis_server, &redis_load) {
        servers.push(redis(setting, program, client));
    }
    if let Some(program) = &nginx {
        servers.push(nginx_server(program, &load)?);
    }
    if let Some(program) = &memcached {
        servers.push(memcached_server(setting, program));
    }
    for server in &servers {
        if let Err(message) = beside(setting, &place, server, &mut table) {
            println!("failed: {}: {message}", server.name);
        }
    }
    table.print();
    Ok(())
}

fn redis<'a>(setting: &Setting, program: &'a Path, client: &'a Path) -> Server<'a> {
    let count = setting.pick(200_000, 50_000);
    let load = move |command: &'static str, pipeline: u32| -> Client<'a> {
        let count = if pipeline > 1 { count * 5 } else { count };
        Box::new(move |place, at| {
            let mut command_line = Command::new(client);
            command_line
                .args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()])
                .args(["-t", command, "-c", "50", "--csv"])
                .args(["-n", &count.to_string(), "-P", &pipeline.to_string()]);
            let said = process::output(&mut place.near(&command_line), 2 * PATIENCE)?;
            let rate = csv_rate(&said).ok_or_else(|| format!("not a rate: {said}"))?;
            Ok((f64::from(count), f64::from(count) / rate))
        })
    };
    Server {
        name: "redis",
        program,
        arguments: REDIS.map(str::to_owned).to_vec(),
        options: Vec::new(),
        port: 6379,
        loads: vec![
            ("redis GET, 50 connections", load("get", 1)),
            ("redis SET, 50 connections", load("set", 1)),
            ("redis GET, pipelines of 16", load("get", 16)),
            ("redis SET, pipelines of 16", load("set", 16)),
        ],
    }
}

/// The second field of the last line: `"GET","12345.67",...`.
fn csv_rate(text: &str) -> Option<f64> {
    let line = text.lines().last()?;
    line.split(',').nth(1)?.trim_matches('"').parse().ok()
}

fn nginx_server<'a>(program: &'a Path, load: &'a Load) -> Result<Server<'a>> {
    let folder = super::folder()?.join("nginx");
    let any = place::at(std::net::Ipv4Addr::UNSPECIFIED, 80);
    let file = web::nginx::prepare(&folder, any)?;
    let whole = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    // One process: that is what a guest has.
    let whole = whole.replace("daemon off;", "daemon off; master_process off;");
    std::fs::write(&file, whole).map_err(|error| error.to_string())?;
    let arguments = ["-p", &text(&folder), "-c", &text(&file), "-e", "error.log"];
    Ok(Server {
        name: "nginx",
        program,
        arguments: arguments.map(str::to_owned).to_vec(),
        options: vec![format!("--include={}", text(&folder))],
        port: 80,
        loads: vec![(
            "nginx, 612 bytes, 64 connections",
            Box::new(move |place, at| {
                let outcome = load.run(place, at, &CASES[0])?;
                Ok((outcome.requests, outcome.seconds))
            }),
        )],
    })
}

fn memcached_server<'a>(setting: &Setting, program: &'a Path) -> Server<'a> {
    let seconds = setting.pick(3, 1);
    let client = move |place: &Place, at: SocketAddr| {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(own);
        command.args([
            "load",
            &at.to_string(),
            "key",
            &seconds.to_string(),
            "memcached",
        ]);
        let said = process::output(&mut place.near(&command), PATIENCE)?;
        let outcome = web::load::Outcome::parse(&said).ok_or("the load generator says nothing")?;
        Ok((outcome.requests, outcome.seconds))
    };
    Server {
        name: "memcached",
        program,
        arguments: ["-u", "root", "-t", "1", "-l", "0.0.0.0"]
            .map(str::to_owned)
            .to_vec(),
        options: Vec::new(),
        port: 11211,
        loads: vec![("memcached get, 64 connections", Box::new(client))],
    }
}

/// Measures guest and process in turns.
fn beside(setting: &Setting, place: &Place, server: &Server, table: &mut Table) -> Result<()> {
    let mut plain = Command::new(server.program);
    plain.args(&server.arguments);
    let plain = setting.keep(
        place
            .far(&plain)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let ip = place::TAP_GUEST.ip();
    let link = format!("tap:{},ip={ip}/24", place::TAP);
    let mut words: Vec<&str> = vec!["--net", &link];
    words.extend(server.options.iter().map(String::as_str));
    let program = text(server.program);
    words.push(&program);
    words.extend(server.arguments.iter().map(String::as_str));
    let guest = Instance::start(setting, place.near(&setting.kiln()), &words)?;
    std::thread::sleep(Duration::from_millis(500));
    let guest_at = SocketAddr::new(ip, server.port);
    let peer_at = SocketAddr::new(place::VETH_PEER.ip(), server.port);
    let times = |pids: &[u32]| -> f64 {
        let all = pids.iter().map(|&pid| process::processor_time(pid));
        micros(all.sum())
    };
    for (name, client) in &server.loads {
        let measure = |at: SocketAddr, pids: &[u32]| -> Result<Run> {
            let before = times(pids);
            let (requests, seconds) = client(place, at)?;
            Ok(Run {
                rate: requests / seconds,
                micros: (times(pids) - before) / requests,
            })
        };
        let (mut own, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..setting.pick(5, 2) {
            own.push(measure(guest_at, &[guest.guest, guest.supervisor])?);
            peer.push(measure(peer_at, &[plain.id()])?);
        }
        let of = |runs: &[Run], what: fn(&Run) -> f64| runs.iter().map(what).collect::<Vec<_>>();
        let (rate, peer_rate) = (of(&own, |r| r.rate), of(&peer, |r| r.rate));
        let (cost, peer_cost) = (of(&own, |r| r.micros), of(&peer, |r| r.micros));
        table.row([
            (*name).to_owned(),
            number(median(&rate)),
            number(median(&peer_rate)),
            number(ratio(&rate, &peer_rate)),
            number(median(&cost)),
            number(median(&peer_cost)),
            number(ratio(&cost, &peer_cost)),
        ]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rate_of_a_redis_benchmark_is_found() {
        let text = "\"test\",\"rps\"\n\"GET\",\"81433.22\",\"0.329\"\n";
        assert_eq!(super::csv_rate(text), Some(81433.22));
    }
}
