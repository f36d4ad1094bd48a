//! Part `memory`: how little memory guests run with, and how much of it, and of the supervisor's, is resident.
//!
//! Resident is the proportional set size (`Pss`) of both processes: what an image's text takes is shared by all instances
//! of it, so one instance alone looks larger than one of many.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::figures::{Table, kib};
use crate::http::{self, Client};
use crate::instance::Instance;
use crate::process;
use crate::setting::Setting;
use crate::{Result, instance};

/// Memory that hello must do with.
const HELLO: &str = "512K";
/// Memory that web must do with.
const WEB: &str = "2M";

const REQUESTS: usize = 1000;
const ANSWER: Duration = Duration::from_secs(5);
const HELLO_TIME: Duration = Duration::from_secs(5);

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let hello = setting.image("hello")?;
    say_hello(setting, &hello, HELLO)?;
    println!(
        "hello runs with --memory {HELLO}; the least in steps of 16 KiB is {} KiB",
        least(setting, &hello)
    );
    instance::end_all(&setting.kiln, &setting.folder)?;

    let web = setting.image("web")?;
    let web = web.to_string_lossy();
    let mut table = Table::new(&["web", "guest KiB", "supervisor KiB", "both KiB"]);
    for memory in [WEB, "64M"] {
        let arguments = ["--memory", memory, "-p", "127.0.0.1:0:80", &web];
        let guest = Instance::start(setting, setting.kiln(), &arguments)?;
        let port = guest.port.ok_or("web has no port")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // It is not idle before it has started, and only an answer tells.
        http::fetch(address, "/", ANSWER)?;
        row(&mut table, &guest, format!("{memory}, idle"))?;

        let mut client = Client::new(address)?;
        for _ in 0..REQUESTS {
            client.get("/bench/612")?;
        }
        row(&mut table, &guest, format!("{memory}, {REQUESTS} requests"))?;
        let pages = setting.pick(50, 10);
        for _ in 0..pages {
            client.get("/bench/1m")?;
        }
        row(
            &mut table,
            &guest,
            format!("{memory}, {pages} pages of 1 MiB"),
        )?;
        crowd(address, setting.pick(200, 50))?;
        row(
            &mut table,
            &guest,
            format!("{memory}, 64 clients, 1 MiB each"),
        )?;
    }
    table.print();
    Ok(())
}

/// Many clients at once; some may be turned away, which is not the point here.
fn crowd(address: SocketAddr, rounds: usize) -> Result<()> {
    let clients: Vec<_> = (0..64)
        .map(|_| {
            std::thread::spawn(move || {
                for _ in 0..rounds.div_ceil(64) {
                    let _ = Client::new(address).and_then(|mut client| client.get("/bench/1m"));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked")?;
    }
    // Connections close a little later than their clients go.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn row(table: &mut Table, guest: &Instance<'_>, name: String) -> Result<()> {
    let (inside, outside) = guest.resident()?;
    table.row([name, kib(inside), kib(outside), kib(inside + outside)]);
    Ok(())
}

fn say_hello(setting: &Setting, image: &Path, memory: &str) -> Result<()> {
    let mut run = setting.kiln();
    run.args(["run", "--rm", "--memory", memory]).arg(image);
    let line = process::output(&mut run, HELLO_TIME)?;
    if line.starts_with("Hello") {
        return Ok(());
    }
    Err(format!("hello with --memory {memory} says {line:?}"))
}

fn least(setting: &Setting, image: &Path) -> usize {
    (16..512)
        .step_by(16)
        .find(|kib| say_hello(setting, image, &format!("{kib}K")).is_ok())
        .unwrap_or(512)
}
