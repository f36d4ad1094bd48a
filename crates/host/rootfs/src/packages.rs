//! Files of Debian packages: those of the program's own, and of those that it depends on.
//!
//! The package system's own records are read (`/var/lib/dpkg/status` and `info/*.list`, see `dpkg(1)`), nothing is asked.
//! What a program has no use for is left out: documentation, headers, what is for shells, init systems and desktops, other
//! packages' programs, and packages that every system has.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;

use crate::Seen;
use crate::collect::{Collector, Watch, is_for_building};

const INFO: &str = "/var/lib/dpkg/info";
const STATUS: &str = "/var/lib/dpkg/status";

/// Packages that serve installing, not running, or whose files are gathered otherwise.
const PLUMBING: [&str; 16] = [
    "adduser",
    "apt",
    "dbus",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "iproute2",
    "libc-bin",
    "libc6",
    "lsb-base",
    "netbase",
    "sensible-utils",
    "sysvinit-utils",
    "tzdata",
    "ucf",
    "udev",
];

/// Folders whose files no program needs to run.
const USELESS: [&str; 42] = [
    "/boot/",
    "/etc/alternatives/",
    "/etc/apparmor.d/",
    "/etc/apt/",
    "/etc/bash_completion.d/",
    "/etc/cron.d/",
    "/etc/cron.daily/",
    "/etc/cron.weekly/",
    "/etc/default/",
    "/etc/init.d/",
    "/etc/init/",
    "/etc/logrotate.d/",
    "/etc/profile.d/",
    "/etc/ufw/",
    "/lib/systemd/",
    "/lib/udev/",
    "/usr/include/",
    "/usr/lib/debug/",
    "/usr/lib/modules-load.d/",
    "/usr/lib/pkgconfig/",
    "/usr/lib/systemd/",
    "/usr/lib/sysusers.d/",
    "/usr/lib/tmpfiles.d/",
    "/usr/lib/udev/",
    "/usr/lib/x86_64-linux-gnu/cmake/",
    "/usr/lib/x86_64-linux-gnu/pkgconfig/",
    "/usr/share/apport/",
    "/usr/share/bash-completion/",
    "/usr/share/bug/",
    "/usr/share/doc-base/",
    "/usr/share/doc/",
    "/usr/share/fish/",
    "/usr/share/gdb/",
    "/usr/share/icons/",
    "/usr/share/info/",
    "/usr/share/lintian/",
    "/usr/share/locale/",
    "/usr/share/man/",
    "/usr/share/pixmaps/",
    "/usr/share/vim/",
    "/usr/share/zsh/",
    "/usr/src/",
];

/// Where programs lie.
const PROGRAMS: [&str; 5] = ["/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/games/"];

/// Files of settings beyond which no more folders are searched for links.
const MOST_SETTINGS: usize = 2000;

/// A package that is installed.
#[derive(Clone, Debug, Default)]
struct Package {
    name: String,
    depends: Vec<Vec<String>>,
    /// Every system has it.
    basic: bool,
    arch: String,
    provides: Vec<String>,
}

/// The package system's records.
pub(crate) struct Packages {
    all: Vec<Package>,
    by_name: HashMap<String, Vec<usize>>,
    lists: HashMap<String, Vec<u8>>,
}

impl Packages {
    /// Reads the records; `None` if this is no Debian system.
    pub fn read() -> Option<Self> {
        let status = fs::read_to_string(STATUS).ok()?;
        let mut lists = HashMap::new();
        for entry in fs::read_dir(INFO).ok()?.filter_map(Result::ok) {
            let name = entry.file_name();
            if let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list"))
                && let Ok(list) = fs::read(entry.path())
            {
                lists.insert(package.to_owned(), list);
            }
        }
        Some(Self::parse(&status, lists))
    }

    fn parse(status: &str, lists: HashMap<String, Vec<u8>>) -> Self {
        let packages: Vec<Package> = status.split("\n\n").filter_map(package).collect();
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, package) in packages.iter().enumerate() {
            for name in package.provides.iter().chain([&package.name]) {
                by_name.entry(name.clone()).or_default().push(index);
            }
        }
        Self {
            all: packages,
            by_name,
            lists,
        }
    }

    /// The package that a file belongs to.
    fn owner(&self, path: &Path) -> Option<usize> {
        let path = path.to_str()?;
        // Before /bin became a link to /usr/bin, packages listed their files there.
        let old = path.strip_prefix("/usr").filter(|old| {
            ["/bin/", "/sbin/", "/lib/", "/lib64/"]
                .iter()
                .any(|dir| old.starts_with(dir))
        });
        let lines: Vec<String> = [Some(path), old]
            .into_iter()
            .flatten()
            .map(|path| format!("\n{path}\n"))
            .collect();
        let lists = |line: &String| {
            let line = memmem::Finder::new(line);
            let found = self
                .lists
                .iter()
                .find(|(_, list)| line.find(list).is_some());
            found.map(|(name, _)| name)
        };
        let name = lines.iter().find_map(lists)?;
        let (name, arch) = name.split_once(':').unwrap_or((name, ""));
        let same = |&&index: &&usize| {
            let package = &self.all[index];
            package.name == name && (arch.is_empty() || package.arch == arch)
        };
        self.by_name.get(name)?.iter().find(same).copied()
    }

    fn list(&self, package: &Package) -> impl Iterator<Item = &str> {
        let list = self.lists.get(&package.name).or_else(|| {
            self.lists
                .get(&format!("{}:{}", package.name, package.arch))
        });
        list.and_then(|list| std::str::from_utf8(list).ok())
            .into_iter()
            .flat_map(str::lines)
            .filter(|path| path.len() > 2)
    }

    /// The packages that `roots` depend on, themselves first.
    fn closure(&self, roots: &[usize]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut waiting: VecDeque<usize> = roots.iter().copied().collect();
        while let Some(index) = waiting.pop_front() {
            if found.contains(&index) {
                continue;
            }
            found.push(index);
            for alternatives in &self.all[index].depends {
                let installed = alternatives
                    .iter()
                    .filter_map(|name| self.by_name.get(name)?.first().copied())
                    .find(|&index| self.all[index].arch != "i386");
                if let Some(next) = installed
                    && !self.all[next].basic
                    && !PLUMBING.contains(&&*self.all[next].name)
                {
                    waiting.push_back(next);
                }
            }
        }
        found
    }
}

/// Takes the files of the packages that `files` belong to, and of those that these depend on. False if they belong to none.
pub(crate) fn add(packages: &Packages, files: &[&Path], to: &mut Collector) -> bool {
    let mut roots: Vec<usize> = files
        .iter()
        .filter_map(|file| packages.owner(file))
        .collect();
    roots.dedup();
    if roots.is_empty() {
        return false;
    }
    to.seen.push(Seen::now(Path::new(STATUS)));
    let mut closure = packages.closure(&roots);
    let mut own = own_folders(packages, &closure);
    let settings = own.iter().filter(|folder| folder.starts_with("/etc/"));
    let switched_on = linked(packages, settings.map(Path::new), &closure);
    if !switched_on.is_empty() {
        let all: Vec<usize> = roots.iter().copied().chain(switched_on).collect();
        closure = packages.closure(&all);
        own = own_folders(packages, &closure);
    }
    for (position, &index) in closure.iter().enumerate() {
        let package = &packages.all[index];
        // A shell's package, say, is taken for that one program.
        let with_programs = position < roots.len() && !package.basic;
        for line in packages.list(package) {
            let inside = format!("{line}/");
            if USELESS.iter().any(|folder| inside.starts_with(folder))
                || !with_programs && PROGRAMS.iter().any(|folder| line.starts_with(folder))
                || is_for_building(Path::new(line))
                || to.excludes(Path::new(line))
            {
                continue;
            }
            let path = Path::new(line);
            if own.contains(line) {
                // Also what was made there later: compiled modules, sites that are switched on.
                let _ = to.add_tree(path, Watch::Package, usize::MAX);
            } else if fs::symlink_metadata(path).is_ok() {
                let _ = to.add(path, Watch::Package);
                compiled(path, to);
            }
        }
    }
    true
}

/// Packages whose files a program's settings have links to: modules that are switched on, of packages that depend on the
/// program's, not the other way round.
fn linked<'a>(
    packages: &Packages,
    folders: impl Iterator<Item = &'a Path>,
    known: &[usize],
) -> Vec<usize> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = folders.map(Path::to_owned).collect();
    let mut looked_at = 0;
    while let Some(folder) = waiting.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            looked_at += 1;
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() && looked_at < MOST_SETTINGS {
                waiting.push(entry.path());
            } else if kind.is_symlink()
                && let Ok(target) = entry.path().canonicalize()
                && let Some(owner) = packages.owner(&target)
                && !known.contains(&owner)
                && !found.contains(&owner)
                && !packages.all[owner].basic
                && !PLUMBING.contains(&&*packages.all[owner].name)
            {
                found.push(owner);
            }
        }
    }
    found
}

/// The modules that Python has compiled from a source file.
fn compiled(path: &Path, to: &mut Collector) {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else {
        return;
    };
    if path.extension().is_none_or(|ending| ending != "py") {
        return;
    }
    let start = format!("{}.", stem.to_string_lossy());
    let cache = folder.join("__pycache__");
    for entry in fs::read_dir(&cache)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&start) {
            let _ = to.add(&cache.join(name), Watch::Package);
        }
    }
}

/// Folders of these packages that no other has files in: below `/usr`, `/opt` and `/etc`, at least three deep or two in
/// `/etc`. Only the topmost ones.
fn own_folders(packages: &Packages, closure: &[usize]) -> HashSet<String> {
    let mut own: HashSet<&str> = HashSet::new();
    for &index in closure {
        let candidates = packages.list(&packages.all[index]).filter(|path| {
            let depth = path.bytes().filter(|&b| b == b'/').count();
            (path.starts_with("/usr/") && depth >= 3
                || path.starts_with("/opt/") && depth >= 2
                || path.starts_with("/etc/") && depth >= 2)
                && !path.starts_with("/etc/ssl")
                && !PROGRAMS.iter().any(|folder| path.starts_with(folder))
        });
        own.extend(candidates);
    }
    let inside: HashSet<&str> = closure
        .iter()
        .map(|&index| &*packages.all[index].name)
        .collect();
    for (index, package) in packages.all.iter().enumerate() {
        if closure.contains(&index) || inside.contains(&*package.name) {
            continue;
        }
        for path in packages.list(package) {
            own.remove(path);
        }
    }
    own.into_iter()
        .filter(|path| Path::new(path).is_dir() && !Path::new(path).is_symlink())
        .map(str::to_owned)
        .collect()
}

/// One stanza of the status file, if the package is installed.
fn package(stanza: &str) -> Option<Package> {
    let mut package = Package::default();
    let mut installed = false;
    for line in stanza.lines() {
        let Some((field, value)) = line.split_once(": ") else {
            continue;
        };
        match field {
            "Package" => value.clone_into(&mut package.name),
            "Status" => installed = value.ends_with(" installed"),
            "Architecture" => value.clone_into(&mut package.arch),
            "Essential" => package.basic |= value == "yes",
            "Priority" => package.basic |= value == "required",
            "Depends" | "Pre-Depends" => package.depends.extend(depends(value)),
            "Provides" => package
                .provides
                .extend(depends(value).into_iter().flatten()),
            _ => {}
        }
    }
    (installed && !package.name.is_empty()).then_some(package)
}

/// `a (>= 1) | b, c:any` as names: alternatives in the order of preference.
fn depends(value: &str) -> Vec<Vec<String>> {
    let name = |text: &str| {
        let end = text
            .trim()
            .split([' ', '(', ':', '['])
            .next()
            .unwrap_or_default();
        end.to_owned()
    };
    value
        .split(',')
        .map(|alternatives| alternatives.split('|').map(name).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Packages {
        let status = "\
Package: server
Status: install ok installed
Architecture: amd64
Depends: libserver (= 1), mail-agent | editor, nothing-like-it, base
Pre-Depends: debconf (>= 0.5) | debconf-2.0

Package: libserver
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Depends: server-data:any

Package: server-data
Status: install ok installed
Architecture: all
Provides: data

Package: editor
Status: deinstall ok config-files
Architecture: amd64

Package: postfix
Status: install ok installed
Architecture: amd64
Provides: mail-agent (= 3)

Package: base
Essential: yes
Status: install ok installed
Architecture: amd64

Package: debconf
Status: install ok installed
Architecture: all
";
        let lists = [
            ("server", "/.\n/usr\n/usr/bin\n/usr/bin/server\n"),
            ("libserver:amd64", "/.\n/lib\n/lib/x\n/lib/x/libserver.so\n"),
            ("base", "/.\n/bin\n/bin/sh\n"),
        ];
        let lists = lists.map(|(name, list)| (name.to_owned(), list.as_bytes().to_vec()));
        Packages::parse(status, lists.into_iter().collect())
    }

    #[test]
    fn files_lead_to_packages() {
        let packages = sample();
        let owner = |path: &str| {
            packages
                .owner(Path::new(path))
                .map(|i| packages.all[i].name.clone())
        };
        assert_eq!(owner("/usr/bin/server").as_deref(), Some("server"));
        assert_eq!(
            owner("/usr/lib/x/libserver.so").as_deref(),
            Some("libserver")
        );
        assert_eq!(owner("/usr/bin/sh").as_deref(), Some("base"));
        assert_eq!(owner("/usr/bin/serve"), None);
    }

    #[test]
    fn packages_lead_to_those_they_depend_on() {
        let packages = sample();
        let names: Vec<&str> = packages
            .closure(&[0])
            .into_iter()
            .map(|index| &*packages.all[index].name)
            .collect();
        assert_eq!(names, ["server", "libserver", "postfix", "server-data"]);
    }

    #[test]
    fn links_in_settings_lead_to_the_packages_of_what_is_switched_on() {
        let name = format!("kiln-packages-{}", std::process::id());
        let place = std::env::temp_dir().canonicalize().unwrap().join(name);
        let (enabled, module) = (place.join("etc/modules-enabled"), place.join("module.conf"));
        fs::create_dir_all(&enabled).unwrap();
        fs::write(&module, "load").unwrap();
        std::os::unix::fs::symlink(&module, enabled.join("50-module.conf")).unwrap();
        std::os::unix::fs::symlink("nowhere", enabled.join("60-gone.conf")).unwrap();
        let mut packages = sample();
        let list = format!("/.\n{}\n", module.display());
        packages.lists.insert("server-data".into(), list.into());
        let etc = place.join("etc");
        let found = |known: &[usize]| linked(&packages, [&*etc].into_iter(), known);
        let owner = packages.owner(&module).unwrap();
        assert_eq!(packages.all[owner].name, "server-data");
        assert_eq!(found(&[0]), [owner]);
        assert_eq!(found(&[0, owner]), []);
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn this_hosts_records_are_understood() {
        let Some(packages) = Packages::read() else {
            return;
        };
        assert!(packages.owner(Path::new("/usr/bin/env")).is_some());
        assert_eq!(packages.owner(Path::new("/usr/bin/surely-not")), None);
    }
}
