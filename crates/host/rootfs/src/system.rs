//! What programs expect of a system besides their own files.
//!
//! Some of it is the host's (certificates, time zone, locale, descriptions of terminals, services and protocols), some is
//! made up, because the guest is a machine of its own: its hosts and who may be looked up where.

use std::path::{Path, PathBuf};

use crate::collect::{Collector, Watch};
use crate::libraries::Linker;
use crate::{Error, Request};

/// Folders that programs rely on.
const FOLDERS: [(&str, u16); 14] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
];

const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
";

const HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
";

/// Files of the host that are taken as they are if they are there.
const TAKEN: [&str; 11] = [
    "/etc/protocols",
    "/etc/services",
    "/etc/mime.types",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/gai.conf",
    "/etc/os-release",
    "/etc/debian_version",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Where time zones are described, and how many files and folders that may be.
const ZONES: (&str, usize) = ("/usr/share/zoneinfo", 2_000);

/// Where terminals are described, and which that always are.
const TERMINFO: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];
const TERMINALS: [&str; 5] = ["dumb", "linux", "vt100", "xterm", "xterm-256color"];

/// Libraries that glibc loads when it needs them.
const GLIBC: [&str; 3] = ["libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2"];
const GCONV: &str = "/usr/lib/x86_64-linux-gnu/gconv";
const LOCALES: &str = "/usr/lib/locale";

/// Takes all that, and makes up the rest.
///
/// # Errors
/// If there is something else where a folder has to be.
pub(crate) fn add(request: &Request, linker: &mut Linker, to: &mut Collector) -> Result<(), Error> {
    for (path, mode) in FOLDERS {
        to.folder(path, mode)?;
    }
    for (from, target) in [("/var/run", "../run"), ("/etc/mtab", "../proc/self/mounts")] {
        let meta = kiln_fs::erofs::Meta::new(0o777);
        to.tree
            .symlink(from.as_bytes(), meta, target.as_bytes())
            .map_err(|error| Error::Misplaced(error.to_string()))?;
    }
    for path in TAKEN {
        to.add_if_there(Path::new(path), Watch::File);
    }
    // All of them: programs ask for zones by names that only their users know.
    let (zones, most) = ZONES;
    let _ = to.add_tree(Path::new(zones), Watch::Package, most);
    if let Some(zone) = request.variable("TZ") {
        let zone = zone.trim_start_matches(':');
        if !zone.is_empty() && !zone.contains("..") {
            to.add_if_there(&Path::new(zones).join(zone), Watch::File);
        }
    }
    to.write("/etc/nsswitch.conf", NSSWITCH)?;
    to.write("/etc/hosts", HOSTS)?;
    for path in ["/etc/passwd", "/etc/group"] {
        let text = accounts(path, to);
        to.write(path, text)?;
    }
    terminals(request, to);
    if linker.names.contains("libc.so.6") {
        glibc(request, linker, to);
    }
    if linker
        .names
        .iter()
        .any(|name| name.starts_with("libssl.so"))
    {
        // OpenSSL looks certificates up by name in a folder full of links.
        for path in ["/usr/lib/ssl", "/etc/ssl/certs"] {
            let _ = to.add_tree(Path::new(path), Watch::Package, 2_000);
        }
        to.add_if_there(Path::new("/etc/ssl/openssl.cnf"), Watch::File);
        for folder in ["ossl-modules", "engines-3"] {
            let path = Path::new("/usr/lib/x86_64-linux-gnu").join(folder);
            let _ = to.add_tree(&path, Watch::Package, 100);
        }
    }
    Ok(())
}

/// The accounts of the system and its services, without those of people. Nothing secret is in these files.
fn accounts(path: &str, to: &mut Collector) -> String {
    to.seen.push(crate::Seen::now(Path::new(path)));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let of_system = |line: &&str| {
        let id = line.split(':').nth(2).and_then(|id| id.parse::<u32>().ok());
        id.is_some_and(|id| id < 1000 || id == 65534)
    };
    let mut kept: Vec<&str> = text.lines().filter(of_system).collect();
    if kept.is_empty() {
        kept.push(if path.ends_with("passwd") {
            "root:x:0:0:root:/root:/bin/sh"
        } else {
            "root:x:0:"
        });
    }
    // A group names people as its members.
    let mut out = String::new();
    for line in kept {
        match line.rsplit_once(':') {
            Some((rest, _)) if path.ends_with("group") => {
                out.push_str(rest);
                out.push(':');
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn terminals(request: &Request, to: &mut Collector) {
    let own = request.variable("TERM").unwrap_or_default();
    for name in TERMINALS.iter().copied().chain([own]) {
        let Some(first) = name.get(..1).filter(|_| !name.contains('/')) else {
            continue;
        };
        for folder in TERMINFO {
            let path = Path::new(folder).join(first).join(name);
            if path.exists() {
                to.add_if_there(&path, Watch::Package);
            }
        }
    }
}

fn glibc(request: &Request, linker: &mut Linker, to: &mut Collector) {
    for name in GLIBC {
        linker.by_name(name, to);
    }
    // Conversions that are not built in; UTF-8 is.
    for name in [
        "gconv-modules.cache",
        "gconv-modules",
        "ISO8859-1.so",
        "ISO8859-15.so",
        "UTF-16.so",
        "UTF-32.so",
        "CP1252.so",
    ] {
        let path = Path::new(GCONV).join(name);
        if path.exists() {
            to.add_if_there(&path, Watch::Package);
        }
    }
    let mut locales = vec!["C.utf8".to_owned()];
    let words = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| request.variable(name));
    for word in words {
        let plain = word.to_lowercase();
        if matches!(&*plain, "" | "c" | "posix" | "c.utf8" | "c.utf-8") || word.contains('/') {
            continue;
        }
        locales.push(word.replace("UTF-8", "utf8"));
        locales.push(word.to_owned());
        let archive = PathBuf::from(LOCALES).join("locale-archive");
        if archive.exists() {
            to.add_if_there(&archive, Watch::Package);
        }
    }
    for name in locales {
        let path = Path::new(LOCALES).join(name);
        if path.exists() {
            let _ = to.add_tree(&path, Watch::Package, 1_000);
        }
    }
}
