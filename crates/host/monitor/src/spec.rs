//! What the user asks for when he runs an image, and the texts of the options for it.
//!
//! Everything here is a plain value that parses from an option's text and prints again. Nothing is opened or looked
//! up: that is [`devices`](crate::devices) and [`run`](crate::run).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use kiln_usernet::PortForward;

use crate::Error;
use crate::devices::net::NetOption;
use crate::names;
use crate::size::Size;

/// Memory of a guest when the user does not say.
pub const DEFAULT_MEMORY: Size = Size::from_bytes(64 << 20);

/// The most memory of one guest. The backends reserve the guest's addresses with it in mind.
pub const MAX_MEMORY: Size = Size::from_bytes(1 << 39);

/// How long a guest may take to end by itself before it is ended by force, when the user does not say.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// An instance as the user wants it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The image file.
    pub image: PathBuf,
    /// Its name; one is made up if there is none.
    pub name: Option<String>,
    /// Memory of the guest.
    pub memory: Size,
    /// Ports of the host that lead into the guest.
    pub ports: Vec<PortForward>,
    /// Network links.
    pub nets: Vec<NetOption>,
    /// Disks.
    pub blocks: Vec<BlockOption>,
    /// Folders of the host, for Linux programs.
    pub volumes: Vec<VolumeOption>,
    /// Where a core file goes if a signal ends the program: a file, or a folder for one of the instance's name.
    pub core: Option<PathBuf>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Arguments behind the program's name.
    pub args: Vec<String>,
    /// Forget the instance when it has ended.
    pub remove: bool,
    /// Refuse to start when a protection is not available.
    pub strict: bool,
    /// What runs the guest.
    pub backend: BackendChoice,
    /// How long the guest may take to end by itself.
    pub stop_timeout: Duration,
}

impl Spec {
    /// The wish to run `image` with everything else left to Kiln.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            name: None,
            memory: DEFAULT_MEMORY,
            ports: Vec::new(),
            nets: Vec::new(),
            blocks: Vec::new(),
            volumes: Vec::new(),
            core: None,
            env: Vec::new(),
            args: Vec::new(),
            remove: false,
            strict: false,
            backend: BackendChoice::Auto,
            stop_timeout: DEFAULT_STOP_TIMEOUT,
        }
    }

    /// The image's file name, for messages.
    pub fn image_name(&self) -> String {
        self.image.file_name().map_or_else(
            || self.image.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// [`Error::Option`] for the first thing that cannot be.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(name) = &self.name
            && !names::valid(name)
        {
            return Err(Error::option(
                "--name",
                name,
                "a name has 1 to 63 letters, digits, '_', '.' or '-' and starts with a letter or digit",
            ));
        }
        if self.memory > MAX_MEMORY {
            return Err(Error::option(
                "--memory",
                &self.memory.to_string(),
                format!("more than a guest can have: at most {MAX_MEMORY}"),
            ));
        }
        for env in &self.env {
            check_env(env)?;
        }
        if let Some(arg) = self.args.iter().find(|arg| arg.contains('\0')) {
            return Err(Error::option("argument", arg, "contains a NUL byte"));
        }
        Ok(())
    }
}

/// `NAME=value` with a name and without NUL bytes.
/// The environment as the guest gets it: of a variable given several times the last one holds, as with docker.
pub fn effective_env(env: &[String]) -> Vec<String> {
    let name = |pair: &String| {
        pair.split_once('=')
            .map_or(pair.clone(), |(name, _)| name.to_owned())
    };
    let overridden = |(index, pair): &(usize, &String)| {
        env[index + 1..]
            .iter()
            .any(|later| name(later) == name(pair))
    };
    let all = env.iter().enumerate();
    all.filter(|entry| !overridden(entry))
        .map(|(_, pair)| pair.clone())
        .collect()
}

fn check_env(env: &str) -> Result<(), Error> {
    let problem = match env.split_once('=') {
        _ if env.contains('\0') => "contains a NUL byte",
        Some(("", _)) => "the name is empty: write NAME=value",
        Some(_) => return Ok(()),
        None => "write NAME=value",
    };
    Err(Error::option("--env", env, problem))
}

/// Which backend the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best one that works here.
    #[default]
    Auto,
    /// A sandboxed Linux process.
    Process,
    /// A virtual machine of Kiln's own.
    Kvm,
    /// A virtual machine of QEMU: `qemu[,accel=kvm|tcg][,machine=microvm|q35]`.
    Qemu(QemuOptions),
    /// A virtual machine of Firecracker.
    Firecracker,
    /// A virtual machine of Cloud Hypervisor.
    CloudHypervisor,
}

impl BackendChoice {
    /// The word for it, without its options.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Process => "process",
            Self::Kvm => "kvm",
            Self::Qemu(_) => "qemu",
            Self::Firecracker => "firecracker",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }
}

/// What the user wants of QEMU; the rest is left to Kiln.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QemuOptions {
    /// What runs the guest's instructions.
    pub accel: Option<Accel>,
    /// The kind of machine.
    pub machine: Option<Machine>,
}

/// What runs the instructions of QEMU's guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor, through the host's kernel.
    Kvm,
    /// QEMU itself, which translates them.
    Tcg,
}

impl Accel {
    /// QEMU's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A kind of machine of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Little but virtio-mmio devices.
    Microvm,
    /// A PC with PCI Express.
    Q35,
}

impl Machine {
    /// QEMU's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Microvm => "microvm",
            Self::Q35 => "q35",
        }
    }
}

impl FromStr for QemuOptions {
    type Err = String;

    /// From what stands behind `qemu,`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in text.split(',') {
            match option {
                "accel=kvm" => options.accel = Some(Accel::Kvm),
                "accel=tcg" => options.accel = Some(Accel::Tcg),
                "machine=microvm" => options.machine = Some(Machine::Microvm),
                "machine=q35" => options.machine = Some(Machine::Q35),
                _ => {
                    return Err(format!(
                        "unknown option {option:?}: qemu takes accel=kvm or tcg, and machine=microvm or q35"
                    ));
                }
            }
        }
        Ok(options)
    }
}

impl FromStr for BackendChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |problem: String| Error::option("--backend", text, problem);
        let (word, options) = match text.split_once(',') {
            Some((word, options)) => (word, Some(options)),
            None => (text, None),
        };
        let choice = match word {
            "auto" => Self::Auto,
            "process" => Self::Process,
            "kvm" => Self::Kvm,
            "qemu" => {
                let options = options.map_or(Ok(QemuOptions::default()), str::parse);
                return options.map(Self::Qemu).map_err(bad);
            }
            "firecracker" => Self::Firecracker,
            "cloud-hypervisor" => Self::CloudHypervisor,
            "xen" => return Err(Error::NoBackend(text.to_owned())),
            _ => {
                return Err(bad(
                    "not a backend: use auto, process, kvm, qemu, firecracker or cloud-hypervisor"
                        .to_owned(),
                ));
            }
        };
        match options {
            None => Ok(choice),
            Some(_) => Err(bad(format!("{word} takes no options: write {word}"))),
        }
    }
}

/// A disk: `NAME=FILE[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockOption {
    /// The device that the image declares.
    pub device: String,
    /// A file or block device of the host.
    pub file: PathBuf,
    /// The guest may only read.
    pub read_only: bool,
}

impl FromStr for BlockOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Err(Error::option("--block", text, problem));
        let Some((device, rest)) = text.split_once('=') else {
            return bad("write NAME=FILE, NAME being a block device that the image declares");
        };
        if !kiln_abi::note::valid_name(device.as_bytes()) {
            return bad("a device name has 1 to 23 characters of a-z, 0-9, '-' and '_'");
        }
        let (file, read_only) = match rest.strip_suffix(":ro") {
            Some(file) => (file, true),
            None => (rest, false),
        };
        if file.is_empty() {
            return bad("the file is missing: write NAME=FILE");
        }
        Ok(Self {
            device: device.to_owned(),
            file: file.into(),
            read_only,
        })
    }
}

/// A folder of the host: `FOLDER:PATH[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOption {
    /// The folder on the host.
    pub folder: PathBuf,
    /// Where the program finds it: absolute, without `.`, `..` and needless slashes.
    pub path: String,
    /// The guest may only read.
    pub read_only: bool,
}

impl VolumeOption {
    /// The name of the device, being the one with this number.
    pub fn device(number: usize) -> String {
        format!("volume{number}")
    }

    /// What the library OS is told of it.
    pub fn argument(&self, number: usize) -> String {
        let read_only = if self.read_only { ":ro" } else { "" };
        format!("--volume={}:{}{read_only}", Self::device(number), self.path)
    }
}

impl FromStr for VolumeOption {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Err(Error::option("--volume", text, problem));
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let Some((folder, path)) = rest.rsplit_once(':') else {
            return bad(
                "write FOLDER:PATH or FOLDER:PATH:ro, PATH being where the program finds the folder",
            );
        };
        if !path.starts_with('/') || path.contains('\0') {
            return bad("where the program finds it must be an absolute path");
        }
        let path = clean(path);
        // The program itself lies there.
        if path == "/" {
            return bad("a folder cannot take the place of the whole root file system");
        }
        if folder.is_empty() {
            return bad("the folder is missing: write FOLDER:PATH");
        }
        // As with docker: a word alone would be a volume that has a name, and there are none here.
        if !folder.starts_with(['/', '.', '~']) {
            return bad("volumes have no names here: write a folder, for example ./data:/data");
        }
        Ok(Self {
            folder: folder.into(),
            path,
            read_only,
        })
    }
}

/// An absolute path without `.` and `..`, as its text has it: as with docker, links in the guest do not matter.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_name_a_device_and_a_file() {
        let disk: BlockOption = "data=/var/x=y.img:ro".parse().unwrap();
        assert_eq!(disk.device, "data");
        assert_eq!(disk.file, PathBuf::from("/var/x=y.img"));
        assert!(disk.read_only);
        for bad in ["data", "=x", "Data=x", "data=", "data=:ro"] {
            assert!(bad.parse::<BlockOption>().is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_name_a_folder_and_a_path() {
        let volume: VolumeOption = "/srv/a:b:/data:ro".parse().unwrap();
        assert_eq!(volume.folder, PathBuf::from("/srv/a:b"));
        assert_eq!((&*volume.path, volume.read_only), ("/data", true));
        assert_eq!(volume.argument(1), "--volume=volume1:/data:ro");
        let volume: VolumeOption = "./x:/y:rw".parse().unwrap();
        assert_eq!(volume.argument(0), "--volume=volume0:/y");
        for bad in [
            "/srv",
            ":/data",
            "/srv:data",
            "/srv:",
            "named:/data",
            "/srv:/d:xy",
            "/srv:./d",
            "/srv:../d",
            "/srv::ro",
            "/srv:/",
            "/srv:/x/..",
            "",
        ] {
            assert!(bad.parse::<VolumeOption>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_volumes_path_is_tidied() {
        for (text, path) in [
            ("/s:/x/../y", "/y"),
            ("/s:/./x/./y/.", "/x/y"),
            ("/s://x///y/", "/x/y"),
            ("/s:/../../y:ro", "/y"),
            ("/s:/x/y/../../z", "/z"),
            ("/s:/...", "/..."),
        ] {
            let volume: VolumeOption = text.parse().unwrap();
            assert_eq!(volume.path, path, "{text}");
        }
    }

    #[test]
    fn backends_are_named_and_qemu_takes_options() {
        let parsed = |text: &str| text.parse::<BackendChoice>().unwrap();
        for word in [
            "auto",
            "process",
            "kvm",
            "qemu",
            "firecracker",
            "cloud-hypervisor",
        ] {
            assert_eq!(parsed(word).word(), word);
        }
        let qemu = QemuOptions {
            accel: Some(Accel::Tcg),
            machine: Some(Machine::Q35),
        };
        assert_eq!(
            parsed("qemu,machine=q35,accel=tcg"),
            BackendChoice::Qemu(qemu)
        );
        assert_eq!(parsed("qemu"), BackendChoice::Qemu(QemuOptions::default()));
    }

    #[test]
    fn what_is_no_backend_is_told_with_those_that_are() {
        for (text, hint) in [
            (
                "vmware",
                "use auto, process, kvm, qemu, firecracker or cloud-hypervisor",
            ),
            ("qemu,accel=hvf", "accel=kvm or tcg"),
            ("qemu,", "machine=microvm or q35"),
            ("kvm,accel=tcg", "kvm takes no options"),
            ("xen", "not in this version"),
        ] {
            let error = text.parse::<BackendChoice>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_spec_is_checked_before_anything_is_opened() {
        let mut spec = Spec::new("x.kiln");
        assert!(spec.check().is_ok());
        spec.env = vec!["A=1".into(), "=2".into()];
        assert!(spec.check().is_err());
        spec.env = vec!["PLAIN".into()];
        assert!(spec.check().is_err());
        spec.env.clear();
        spec.name = Some("../x".into());
        assert!(spec.check().is_err());
    }
}
