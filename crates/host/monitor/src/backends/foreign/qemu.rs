//! QEMU: `qemu-system-x86_64` of version 7.2 or later, with KVM or its own translator (TCG).
//!
//! The guest's command line is told on the control socket, since everybody on the host can read QEMU's own.
//!
//! On the machine `microvm` all devices are virtio-mmio; on `q35` they are virtio-pci. Standard input and output are the
//! serial console. A rootless link is a socket with plain Ethernet frames, since QEMU has no other kind that takes a
//! socket; taps keep their offloads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use serde_json::{Value, json};

use super::child::Input;
use super::guest::{Sign, Told};
use super::plan::{Plan, Planned, Planning, by_path};
use super::{Error, limits, words};
use crate::spec::{Accel, Machine, QemuOptions};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What to do without it.
pub const ADVICE: &str =
    "install the package qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora)";

/// Devices that a microvm has room for, the one for random numbers not counted.
const MICROVM_DEVICES: usize = 7;

/// The port whose writer ends QEMU with `2 * value + 1`.
const EXIT_PORT: u16 = 0xf4;

/// What was decided of what can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// What runs the guest's instructions.
    pub accel: Accel,
    /// The kind of machine; by the number of devices if none was asked for.
    pub machine: Option<Machine>,
}

impl Setup {
    /// Follows the user's wishes, and uses KVM where it is there and the processor supports it: elsewhere QEMU's own
    /// translator is faster than a kernel that emulates what the processor does not do.
    ///
    /// # Errors
    /// [`Error::NoKvm`] if KVM was asked for and cannot be used.
    pub fn choose(
        options: QemuOptions,
        kvm: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, Error> {
        let accel = match options.accel {
            Some(Accel::Kvm) => {
                kvm().map_err(|problem| Error::NoKvm {
                    monitor: "QEMU with accel=kvm",
                    problem,
                    advice: "join the group kvm, or use accel=tcg",
                })?;
                Accel::Kvm
            }
            None if super::super::kvm::processor::has_virtualization() && kvm().is_ok() => {
                Accel::Kvm
            }
            Some(Accel::Tcg) | None => Accel::Tcg,
        };
        Ok(Self {
            accel,
            machine: options.machine,
        })
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qemu,accel={}", self.accel.word())?;
        match self.machine {
            Some(machine) => write!(f, ",machine={}", machine.word()),
            None => Ok(()),
        }
    }
}

/// What QEMU is to be started with. Adds to the command line how the machine goes off.
///
/// # Errors
/// [`Error::Unable`] if the machine has no room for the devices or the command line, [`Error::Host`] if there are no
/// sockets.
pub fn tell(setup: Setup, plan: &mut Plan) -> Result<Told, Error> {
    let machine = machine(setup, plan.devices.len())?;
    words::push(&mut plan.line, "kiln.exit", &format!("{EXIT_PORT:#x}"));
    let appended = match machine {
        Machine::Microvm => plan.devices.len() + 1,
        Machine::Q35 => 0,
    };
    limits::check_line(plan.line.len(), appended)?;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(Error::host("make a socket pair"))?;
    let control = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    Ok(Told {
        arguments: arguments(setup.accel, machine, plan, control),
        descriptors: vec![theirs],
        input: Input::Pipe,
        sign: Sign::Control(Control::new(ours, &plan.line)),
        needs_kvm: setup.accel == Accel::Kvm,
        shows_line: false,
    })
}

fn machine(setup: Setup, devices: usize) -> Result<Machine, Error> {
    match setup.machine {
        Some(Machine::Microvm) if devices > MICROVM_DEVICES => Err(Error::Unable(format!(
            "QEMU's microvm has room for {MICROVM_DEVICES} devices, and this image has {devices}: use --backend qemu,machine=q35"
        ))),
        Some(machine) => Ok(machine),
        None if devices > MICROVM_DEVICES => Ok(Machine::Q35),
        None => Ok(Machine::Microvm),
    }
}

fn arguments(accel: Accel, machine: Machine, plan: &Plan, control: i32) -> Vec<String> {
    let mut words = Vec::new();
    let mut say = |option: &str, value: String| {
        words.push(format!("-{option}"));
        if !value.is_empty() {
            words.push(value);
        }
    };
    say("nodefaults", String::new());
    say("no-user-config", String::new());
    say("no-reboot", String::new());
    say("display", "none".into());
    say(
        "sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into(),
    );
    let (accel, cpu) = match accel {
        Accel::Kvm => ("kvm", "host,-arch-capabilities"),
        Accel::Tcg => ("tcg", "max"),
    };
    say("accel", accel.into());
    say("cpu", cpu.into());
    let common = "memory-backend=ram,dump-guest-core=off,mem-merge=off";
    say(
        "machine",
        match machine {
            // What it has instead of ACPI is the exit port.
            Machine::Microvm => format!("microvm,acpi=off,x-option-roms=off,{common}"),
            Machine::Q35 => format!("q35,{common}"),
        },
    );
    // What a guest does not touch costs nothing: nothing is set aside for it.
    say(
        "object",
        format!(
            "memory-backend-ram,id=ram,size={}M,reserve=off",
            plan.memory_mib
        ),
    );
    say("m", format!("{}M", plan.memory_mib));
    say("kernel", by_path(plan.kernel));
    if let Some(root) = plan.root {
        say("initrd", by_path(root));
    }
    // Nothing is made yet when it first looks at its control socket.
    say("preconfig", String::new());
    say("chardev", "stdio,id=console,signal=off".into());
    say("serial", "chardev:console".into());
    say("chardev", format!("socket,id=control,fd={control}"));
    say("mon", "chardev=control,mode=control".into());
    say(
        "device",
        format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"),
    );
    // Without it they speak the protocol of before 2014.
    say("global", "virtio-mmio.force-legacy=false".into());
    let mut slots = Slots::new(machine);
    for (index, link) in plan.links().enumerate() {
        say("netdev", netdev(index, link));
        say("device", net_device(index, link, &mut slots));
    }
    for (index, disk) in plan.disks().enumerate() {
        say("add-fd", format!("fd={},set={index}", disk.fd));
        say("blockdev", blockdev(index, disk));
        say(
            "device",
            format!(
                "{},drive=disk{index},logical_block_size={},werror=report,rerror=report,serial=kiln{index}",
                slots.next("virtio-blk"),
                disk.info.sector_size
            ),
        );
    }
    say("device", slots.next("virtio-rng"));
    words
}

/// Gives each device its place, in the order in which a guest looks for them.
struct Slots {
    machine: Machine,
    next: usize,
}

impl Slots {
    fn new(machine: Machine) -> Self {
        Self { machine, next: 0 }
    }

    fn next(&mut self, device: &str) -> String {
        let slot = self.next;
        self.next += 1;
        match self.machine {
            // QEMU lists them on the command line from the last to the first.
            Machine::Microvm => format!(
                "{device}-device,bus=virtio-mmio-bus.{}",
                MICROVM_DEVICES - slot
            ),
            // Slot 0 is the bridge; the last is the chipset's. More devices are functions of the same slots.
            Machine::Q35 => format!(
                "{device}-pci,disable-legacy=on,multifunction=on,addr={:#x}.{}",
                1 + slot / 8,
                slot % 8
            ),
        }
    }
}

fn netdev(index: usize, link: &Planned) -> String {
    let fd = link.fd;
    match link.kind {
        Planning::Socket => format!("dgram,id=net{index},local.type=fd,local.str={fd}"),
        _ => format!("tap,id=net{index},fd={fd},vhost=off"),
    }
}

fn net_device(index: usize, link: &Planned, slots: &mut Slots) -> String {
    format!(
        "{},netdev=net{index},mac={},host_mtu={}",
        slots.next("virtio-net"),
        link.mac(),
        link.info.mtu
    )
}

/// A write is in the host's page cache when it is done, and on the disk when the guest's flush is: as with Kiln's own
/// disks.
fn blockdev(index: usize, disk: &Planned) -> String {
    let driver = match disk.kind {
        Planning::BlockDevice => "host_device",
        _ => "file",
    };
    let read_only = if disk.is_read_only() { "on" } else { "off" };
    let cache = "cache.direct=off,cache.no-flush=off";
    format!(
        "driver=raw,node-name=disk{index},read-only={read_only},discard=unmap,{cache},file.driver={driver},file.filename=/dev/fdset/{index},file.locking=off,file.read-only={read_only},file.discard=unmap"
    )
}

/// QEMU's control socket, and what is still to be said on it (QEMU Machine Protocol).
///
/// QEMU waits with `-preconfig` until it is told to make the machine, which is when it has taken the command line.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    /// To be said one after the other, each when the one before it is answered.
    commands: VecDeque<Value>,
    /// What has come that is no whole line.
    begun: Vec<u8>,
}

impl Control {
    fn new(socket: OwnedFd, line: &str) -> Self {
        let append = json!({ "path": "/machine", "property": "append", "value": line });
        let commands = [
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": "qom-set", "arguments": append }),
            json!({ "execute": "x-exit-preconfig" }),
        ];
        Self {
            socket,
            commands: commands.into(),
            begun: Vec::new(),
        }
    }

    /// Says the next command; false if all of them were said.
    ///
    /// # Errors
    /// The host's.
    pub fn say_next(&mut self) -> rustix::io::Result<bool> {
        let Some(command) = self.commands.pop_front() else {
            return Ok(false);
        };
        let text = format!("{command}\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let flags = SendFlags::NOSIGNAL;
            let sent = rustix::io::retry_on_intr(|| send(&self.socket, rest, flags))?;
            rest = &rest[sent..];
        }
        Ok(true)
    }

    /// Takes what QEMU said: whether that is an answer, or why it refuses.
    pub fn hear(&mut self, text: &[u8]) -> Option<Result<(), String>> {
        self.begun.extend(text);
        while let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            // Greetings and events are neither.
            let said: Value = serde_json::from_slice(&line).unwrap_or_default();
            if said.get("return").is_some() {
                return Some(Ok(()));
            }
            if let Some(error) = said.get("error") {
                let why = error["desc"].as_str().unwrap_or("it does not say why");
                return Some(Err(why.to_owned()));
            }
        }
        None
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn option<'a>(words: &'a [String], name: &str) -> Vec<&'a str> {
        let named = words.windows(2).filter(|pair| pair[0] == name);
        named.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn a_microvm_with_each_kind_of_device() {
        let kinds = [
            Planning::File,
            Planning::Socket,
            Planning::Tap,
            Planning::BlockDevice,
        ];
        let mut plan = plan(&kinds);
        plan.devices[0].info.flags = kiln_abi::DeviceInfo::READ_ONLY;
        let words = arguments(Accel::Tcg, Machine::Microvm, &plan, 20);
        assert_eq!(option(&words, "-accel"), ["tcg"]);
        assert_eq!(option(&words, "-m"), ["70M"]);
        assert_eq!(option(&words, "-kernel"), ["/proc/self/fd/9"]);
        assert!(!words.join(" ").contains("kiln.name"), "others can read it");
        assert_eq!(
            option(&words, "-netdev"),
            [
                "dgram,id=net0,local.type=fd,local.str=11",
                "tap,id=net1,fd=12,vhost=off"
            ]
        );
        let devices = option(&words, "-device");
        assert_eq!(
            devices[1..],
            [
                "virtio-net-device,bus=virtio-mmio-bus.7,netdev=net0,mac=02:00:00:00:00:01,host_mtu=1500",
                "virtio-net-device,bus=virtio-mmio-bus.6,netdev=net1,mac=02:00:00:00:00:02,host_mtu=1500",
                "virtio-blk-device,bus=virtio-mmio-bus.5,drive=disk0,logical_block_size=512,werror=report,rerror=report,serial=kiln0",
                "virtio-blk-device,bus=virtio-mmio-bus.4,drive=disk1,logical_block_size=512,werror=report,rerror=report,serial=kiln1",
                "virtio-rng-device,bus=virtio-mmio-bus.3",
            ]
        );
        let disks = option(&words, "-blockdev");
        assert!(disks[0].contains("read-only=on") && disks[0].contains("file.driver=file"));
        assert!(disks[1].contains("read-only=off") && disks[1].contains("=host_device"));
        assert_eq!(option(&words, "-add-fd"), ["fd=10,set=0", "fd=13,set=1"]);
    }

    #[test]
    fn devices_of_a_pc_are_on_its_bus_in_their_order() {
        let plan = plan(&vec![Planning::File; 9]);
        let words = arguments(Accel::Kvm, Machine::Q35, &plan, 20);
        let devices = option(&words, "-device");
        assert!(
            devices[1].starts_with("virtio-blk-pci,disable-legacy=on,multifunction=on,addr=0x1.0,")
        );
        assert!(devices[9].contains("addr=0x2.0,"), "{}", devices[9]);
        assert_eq!(option(&words, "-cpu"), ["host,-arch-capabilities"]);
    }

    #[test]
    fn many_devices_make_a_pc_unless_a_microvm_was_asked_for() {
        let setup = |machine| Setup {
            accel: Accel::Tcg,
            machine,
        };
        assert_eq!(machine(setup(None), 7).unwrap(), Machine::Microvm);
        assert_eq!(machine(setup(None), 8).unwrap(), Machine::Q35);
        let error = machine(setup(Some(Machine::Microvm)), 8).unwrap_err();
        assert!(error.to_string().contains("machine=q35"), "{error}");
    }

    #[test]
    fn kvm_is_used_if_asked_for_and_refused_if_it_cannot_be() {
        let refused = || Err(io::ErrorKind::PermissionDenied.into());
        let wish = |accel| QemuOptions {
            accel,
            machine: None,
        };
        let error = Setup::choose(wish(Some(Accel::Kvm)), refused).unwrap_err();
        assert!(error.to_string().contains("accel=tcg"), "{error}");
        assert_eq!(
            Setup::choose(wish(None), refused).unwrap().accel,
            Accel::Tcg
        );
        let setup = Setup::choose(wish(Some(Accel::Kvm)), || Ok(())).unwrap();
        assert_eq!(setup.to_string(), "qemu,accel=kvm");
    }

    #[test]
    fn the_command_line_is_said_before_the_machine_is_made() {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let mut control = Control::new(ours, "kiln.env=A=\"x\"");
        let mut said = Vec::new();
        while control.say_next().unwrap() {
            let mut piece = [0; 1000];
            let length = rustix::io::read(&theirs, &mut piece).unwrap();
            said.push(serde_json::from_slice::<Value>(&piece[..length]).unwrap());
        }
        let verbs: Vec<_> = said
            .iter()
            .map(|one| one["execute"].as_str().unwrap())
            .collect();
        assert_eq!(verbs, ["qmp_capabilities", "qom-set", "x-exit-preconfig"]);
        assert_eq!(said[1]["arguments"]["value"], "kiln.env=A=\"x\"");
    }

    #[test]
    fn answers_and_refusals_are_told_from_the_rest() {
        let (socket, _) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut control = Control::new(socket, "");
        assert_eq!(control.hear(b"{\"QMP\": {\"version\": {}}}\r\n"), None);
        assert_eq!(control.hear(b"{\"event\": \"RESUME\"}\r\n{\"ret"), None);
        assert_eq!(control.hear(b"urn\": {}}\r\n"), Some(Ok(())));
        let refused = control.hear(b"{\"error\": {\"class\": \"x\", \"desc\": \"no such\"}}\r\n");
        assert_eq!(refused, Some(Err("no such".to_owned())));
    }

    #[test]
    fn a_command_line_that_would_be_cut_off_is_refused() {
        for (machine, most) in [(Machine::Microvm, 4095 - 3 * 45), (Machine::Q35, 4095)] {
            let setup = Setup {
                accel: Accel::Tcg,
                machine: Some(machine),
            };
            let mut plan = plan(&[Planning::File, Planning::Tap]);
            plan.line = "x".repeat(most - " kiln.exit=0xf4".len());
            assert!(tell(setup, &mut plan).is_ok());
            plan.line = "x".repeat(most + 1 - " kiln.exit=0xf4".len());
            let error = tell(setup, &mut plan).err().unwrap().to_string();
            assert!(error.contains(&format!("{} bytes", most + 1)), "{error}");
        }
    }
}
