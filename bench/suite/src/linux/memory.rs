//! What an idle redis-server takes, as a guest and as a process.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{REDIS, text};
use crate::figures::{Table, kib};
use crate::instance::Instance;
use crate::setting::Setting;
use crate::{Result, place, process};

/// At most so many KiB more than the process.
const GOAL: u64 = 8 << 20;

/// Measures and prints.
pub fn run(setting: &Setting) -> Result<()> {
    let server = process::need("redis-server", "redis-server")?;
    let at = place::free_port()?;
    let mut plain = Command::new(&server);
    plain.args(["--port", &at.port().to_string()]).args(REDIS);
    let plain = setting.keep(plain.stdout(Stdio::null()))?;
    let server = text(&server);
    let mut words = vec!["-p", "127.0.0.1:0:6379", server.as_str()];
    words.extend(REDIS);
    let guest = Instance::start(setting, setting.kiln(), &words)?;
    std::thread::sleep(Duration::from_secs(2));
    let peer = process::resident(plain.id())?;
    let (own, supervisor) = guest.resident()?;
    let mut table = Table::new(&[
        "KiB, proportional",
        "process",
        "guest",
        "supervisor",
        "more",
        "goal",
    ]);
    table.row([
        "redis-server, idle".to_owned(),
        kib(peer),
        kib(own),
        kib(supervisor),
        kib((own + supervisor).saturating_sub(peer)),
        kib(GOAL),
    ]);
    table.print();
    Ok(())
}
