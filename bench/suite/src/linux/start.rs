//! How long a program takes to start: a static one to its end, redis-server to its first PONG.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{REDIS, compile, text};
use crate::boot::{Contender, bare, measure};
use crate::figures::{Table, median, micros, number, ratio};
use crate::setting::Setting;
use crate::{Result, instance, place, process};

const HELLO: &str =
    "#include <unistd.h>\nint main(void) { return write(1, \"hello\\n\", 6) != 6; }\n";

/// At most so many milliseconds for the static program.
const GOAL_HELLO: f64 = 3.0;
/// At most so many times as long as the plain process.
const GOAL_REDIS: f64 = 1.5;

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let hello = compile("hello", HELLO, &["-static"])?;
    let mut run = setting.kiln();
    run.args(["run", "--rm", &text(&hello)]);
    let mut contenders = [
        Contender::new("process", bare(&hello), false),
        Contender::new("kiln run", run, false),
    ];
    measure(&mut contenders, setting.pick(50, 15))?;
    let mut table = Table::new(&["", "process ms", "guest ms", "ratio", "goal"]);
    let samples = |index: usize| -> Vec<f64> {
        let micros = contenders[index].samples().iter();
        micros.map(|us| us / 1000.0).collect()
    };
    let (peer, guest) = (samples(0), samples(1));
    table.row([
        "static hello, start to end".to_owned(),
        number(median(&peer)),
        number(median(&guest)),
        number(ratio(&guest, &peer)),
        format!("{GOAL_HELLO} ms"),
    ]);
    if let Some(server) = process::find("redis-server") {
        let (mut peer, mut guest) = (Vec::new(), Vec::new());
        for _ in 0..setting.pick(10, 4) {
            let at = place::free_port()?;
            let mut plain = Command::new(&server);
            plain.args(["--port", &at.port().to_string()]).args(REDIS);
            peer.push(to_pong(plain, at)? / 1000.0);
            let at = place::free_port()?;
            let mut run = setting.kiln();
            run.args(["run", "--rm", "-p", &format!("{at}:6379"), &text(&server)]);
            run.args(REDIS);
            guest.push(to_pong(run, at)? / 1000.0);
        }
        table.row([
            "redis-server, first PONG".to_owned(),
            number(median(&peer)),
            number(median(&guest)),
            number(ratio(&guest, &peer)),
            number(GOAL_REDIS),
        ]);
    } else {
        println!("skipped: redis-server is not installed");
    }
    table.print();
    instance::end_all(&setting.kiln, &setting.folder)
}

/// Starts a server and asks until it answers; microseconds until then.
fn to_pong(mut command: Command, address: SocketAddr) -> Result<f64> {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut asked = Err("no PONG within 10 s".to_owned());
    while start.elapsed() < Duration::from_secs(10) {
        if ping(address).is_ok_and(|pong| pong) {
            asked = Ok(micros(start.elapsed()));
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    // SIGTERM: a guest's command takes it on to the guest.
    let pid = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    process::wait(&mut child, Duration::from_secs(10))?;
    asked
}

fn ping(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    Ok(&reply == b"+PONG\r\n")
}
