//! The peer: nginx as an ordinary process, one worker, files of the same lengths as the guest's pages.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::load::CASES;
use crate::Result;
use crate::janitor::Kept;
use crate::process;
use crate::setting::Setting;

/// A running nginx; ended when this is dropped.
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    master: Kept,
}

/// The program, or why there is none.
pub fn program() -> Result<PathBuf> {
    process::need("nginx", "nginx-light")
}

impl Nginx {
    /// Starts it; `place` says in which namespace.
    pub fn start(
        setting: &Setting,
        program: &Path,
        address: SocketAddr,
        place: impl Fn(&Command) -> Command,
    ) -> Result<Self> {
        let folder = setting.folder.join("nginx");
        let file = prepare(&folder, address)?;
        let mut command = Command::new(program);
        command.arg("-p").arg(&folder).arg("-c").arg(&file);
        command.args(["-e", "error.log"]);
        let master = setting.keep(place(&command).stdout(Stdio::null()).stderr(Stdio::null()))?;
        Ok(Self { address, master })
    }

    /// Processor time of the worker.
    pub fn processor_time(&self) -> Duration {
        let master = self.master.id();
        let children = format!("/proc/{master}/task/{master}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .map(process::processor_time)
            .sum()
    }
}

/// Makes a folder with the pages and a configuration, whose path is returned.
pub fn prepare(folder: &Path, address: SocketAddr) -> Result<PathBuf> {
    let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
    for case in CASES {
        let file = folder.join("www").join(case.path.trim_start_matches('/'));
        let parent = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(explain)?;
        std::fs::write(&file, vec![b'x'; case.length]).map_err(explain)?;
    }
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration(address)).map_err(explain)?;
    Ok(file)
}

/// One worker as the guest has one processor, no log as the guest writes none, connections that stay as long as the load
/// wants, and what makes nginx fastest with such files: heads and bodies leave together, and files stay open. Without
/// these two it makes about half as many requests a second.
fn configuration(address: SocketAddr) -> String {
    // A worker of another user could not read the folder.
    let user = if process::is_root() { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=100;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type text/plain;
    server {{
        listen {address};
        root www;
    }}
}}
"
    )
}
