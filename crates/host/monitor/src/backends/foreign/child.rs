//! From the fork to the monitor's first instruction: what it is given, and what is taken from it.
//!
//! The monitor gets its standard streams and the descriptors it is to have, under their present numbers; a session of its
//! own; no privileges and no way to get any; and where the host allows it, a user namespace and a network namespace with
//! nothing in it. It dies with its supervisor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Error;

/// What to start, and with what.
#[derive(Debug)]
pub struct Order<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [String],
    /// Descriptors it is to have besides the standard streams.
    pub descriptors: &'a [RawFd],
    /// What its standard input is.
    pub input: Input,
    /// Its standard output.
    pub output: OwnedFd,
    /// The network it is to see.
    pub network: Network,
    /// Whether it can do without root's rights on files.
    pub nobody: bool,
}

/// What a monitor's standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A pipe.
    Pipe,
    /// A terminal that takes every byte as it is, for monitors that read from nothing else.
    Terminal,
}

/// Which network namespace a monitor is to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A new one.
    None,
    /// This one, which was made by this user.
    Of(RawFd),
    /// The present one.
    Ours,
}

/// A monitor's process.
#[derive(Debug)]
pub struct Child {
    /// Process id.
    pub pid: u32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Write end of its standard input, non-blocking.
    pub input: OwnedFd,
    /// Why it has no namespaces of its own, if it has not.
    pub no_namespaces: Option<io::Error>,
    /// Why it is still root where it should have become nobody.
    pub still_root: Option<io::Error>,
}

/// What the host did not grant: error numbers, 0 for what it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Refused {
    namespaces: i32,
    nobody: i32,
}

impl Refused {
    const SIZE: usize = 8;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.namespaces.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.nobody.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let number = |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        Self {
            namespaces: number(0),
            nobody: number(4),
        }
    }
}

/// Starts a monitor. Also gives the read end of its standard error, which does not block.
///
/// # Errors
/// [`Error::Host`].
pub fn start(order: Order) -> Result<(Child, OwnedFd), Error> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(Error::host("make a pipe"));
    let (stdin, input) = match order.input {
        Input::Pipe => pipe()?,
        Input::Terminal => terminal().map_err(Error::host("make a terminal"))?,
    };
    let (errors, stderr) = pipe()?;
    // Firecracker opens it by path, as another user.
    rustix::fs::fchmod(&stderr, Mode::from_raw_mode(0o666))
        .map_err(Error::host("set up a pipe"))?;
    let (told, note) = pipe()?;
    // Its own messages must not hold a monitor up that says more than anybody wants to know.
    for end in [&input, &errors, &stderr] {
        rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).map_err(Error::host("set up a pipe"))?;
    }
    let mut command = Command::new(order.program);
    command
        .args(order.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(order.output))
        .stderr(Stdio::from(stderr));
    let descriptors = order.descriptors.to_vec();
    let parent = std::process::id();
    let (network, nobody) = (order.network, order.nobody);
    // SAFETY: what runs between fork and exec makes system calls only.
    unsafe {
        command.pre_exec(move || {
            let refused = prepare(&descriptors, network, nobody, parent)?;
            // It fits a pipe at once.
            rustix::io::write(&note, &refused.to_bytes())?;
            Ok(())
        });
    }
    let spawned = command
        .spawn()
        .map_err(Error::host("start the virtual machine's monitor"));
    // The child's ends, and the note's.
    drop(command);
    let mut child = spawned?;
    let watched = watch(&child, &told);
    let (pidfd, refused) = watched.map_err(|error| {
        // Nobody has waited for it yet, so the number is still its own. What went wrong before is what is told.
        let _ = child.kill();
        let _ = child.wait();
        Error::host("watch the virtual machine's monitor")(error)
    })?;
    let number = |errno: i32| (errno != 0).then(|| io::Error::from_raw_os_error(errno));
    let child = Child {
        pid: child.id(),
        pidfd,
        input,
        no_namespaces: number(refused.namespaces),
        still_root: number(refused.nobody),
    };
    Ok((child, errors))
}

/// A descriptor for the child, and what it has noted.
fn watch(child: &std::process::Child, told: &OwnedFd) -> io::Result<(OwnedFd, Refused)> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let mut note = [0; Refused::SIZE];
    let count = rustix::io::retry_on_intr(|| rustix::io::read(told, &mut note))?;
    if count != note.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((pidfd, Refused::from_bytes(note)))
}

/// A terminal's two ends: the program's and ours.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: integers only; the descriptors made are ours.
    let (theirs, ours) = unsafe {
        let ours = OwnedFd::from_raw_fd(checked(libc::posix_openpt(flags))?);
        checked(libc::unlockpt(ours.as_raw_fd()))?;
        let theirs = checked(libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags))?;
        (OwnedFd::from_raw_fd(theirs), ours)
    };
    let mut modes = rustix::termios::tcgetattr(&theirs)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&theirs, rustix::termios::OptionalActions::Now, &modes)?;
    Ok((theirs, ours))
}

/// Whether anybody may read and write a file.
pub fn is_for_everybody(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o006 == 0o006)
}

/// Runs in the child.
fn prepare(
    descriptors: &[RawFd],
    network: Network,
    nobody: bool,
    parent: u32,
) -> io::Result<Refused> {
    let mut refused = Refused::default();
    let number = |error: &io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: all calls take integers, or pointers to what lives on this stack.
    unsafe {
        checked(libc::setsid())?;
        let all = libc::CLOSE_RANGE_CLOEXEC;
        checked(libc::syscall(libc::SYS_close_range, 3, u32::MAX, all) as i32)?;
        for &fd in descriptors {
            checked(libc::fcntl(fd, libc::F_SETFD, 0))?;
        }
        // 1 keeps the kernel from piping its memory to a program too (core(5)).
        let core = libc::rlimit {
            rlim_cur: 1,
            rlim_max: 1,
        };
        // Fails only where the limit is lower already.
        libc::setrlimit(libc::RLIMIT_CORE, &raw const core);
        if nobody && libc::geteuid() == 0 {
            refused.nobody = become_nobody().map_or_else(|error| number(&error), |()| 0);
        }
        if let Err(error) = namespaces(network) {
            if matches!(network, Network::Of(_)) {
                // It would not find its network.
                return Err(error);
            }
            refused.namespaces = number(&error);
        }
        // In a namespace of its own it has them all, and root where there is none: the program gets none of them.
        for capability in 0..64 {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        checked(libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0))?;
        drop_capabilities()?;
        // With it, exec gives root none back (capabilities(7)).
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Last, since a change of user clears it.
        checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        if libc::getppid().cast_unsigned() != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(refused)
    }
}

/// No capability in any set (`capset(2)`).
///
/// # Safety
/// In a child with one thread.
unsafe fn drop_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: reads a header and two sets of three words.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    checked(result as i32).map(drop)
}

/// # Safety
/// In a child with one thread.
unsafe fn become_nobody() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: integers only. Raw calls: the C library's would look for other threads.
    unsafe {
        checked(libc::syscall(libc::SYS_setgroups, 0, 0) as i32)?;
        checked(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) as i32)?;
        checked(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) as i32)?;
    }
    Ok(())
}

/// # Safety
/// In a child with one thread.
unsafe fn namespaces(network: Network) -> io::Result<()> {
    /// `NS_GET_USERNS`: the user namespace that a namespace belongs to (`ioctl_nsfs(2)`).
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let always = libc::CLONE_NEWUSER | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: integers only; the descriptor made is ours.
    unsafe {
        match network {
            Network::None => checked(libc::unshare(always | libc::CLONE_NEWNET))?,
            Network::Ours => checked(libc::unshare(always))?,
            Network::Of(namespace) => {
                let user = OwnedFd::from_raw_fd(checked(libc::ioctl(namespace, NS_GET_USERNS))?);
                checked(libc::setns(user.as_raw_fd(), libc::CLONE_NEWUSER))?;
                checked(libc::setns(namespace, libc::CLONE_NEWNET))?;
                checked(libc::unshare(libc::CLONE_NEWIPC | libc::CLONE_NEWUTS))?
            }
        };
    }
    Ok(())
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn order<'a>(arguments: &'a [String], output: OwnedFd, descriptors: &'a [RawFd]) -> Order<'a> {
        Order {
            program: Path::new("/bin/sh"),
            arguments,
            descriptors,
            input: Input::Pipe,
            output,
            network: Network::None,
            nobody: true,
        }
    }

    #[test]
    fn a_terminal_takes_every_byte_as_it_is() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let arguments = ["-c".to_owned(), "head -c 2 | od -An -tx1".to_owned()];
        let mut order = order(&arguments, write, &[]);
        order.input = Input::Terminal;
        let (child, _errors) = start(order).unwrap();
        rustix::io::write(&child.input, &[3, 4]).unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text.trim(), "03 04");
        // SAFETY: our child.
        unsafe { libc::waitpid(child.pid.cast_signed(), std::ptr::null_mut(), 0) };
    }

    fn output_of(script: &str, descriptors: &[RawFd]) -> String {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let arguments = ["-c".to_owned(), script.to_owned()];
        let (child, _errors) = start(order(&arguments, write, descriptors)).unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        // SAFETY: our child.
        unsafe { libc::waitpid(child.pid.cast_signed(), std::ptr::null_mut(), 0) };
        text
    }

    #[test]
    fn a_monitor_has_its_descriptors_and_no_others() {
        let given = std::fs::File::open("/dev/null").unwrap();
        let _kept = std::fs::File::open("/dev/null").unwrap();
        let fd = given.as_raw_fd();
        let script = format!(
            "fd=0; while [ $fd -le {} ]; do [ -e /proc/self/fd/$fd ] && echo $fd; fd=$((fd + 1)); done",
            fd + 20
        );
        let listed = output_of(&script, &[fd]);
        let numbers: Vec<i32> = listed
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        assert_eq!(numbers, [0, 1, 2, fd]);
    }

    #[test]
    fn a_monitor_has_no_privileges_and_cannot_get_any() {
        let status = output_of(
            "while read line; do echo \"$line\"; done < /proc/$$/status",
            &[],
        );
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1))
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("CapEff:"), "0000000000000000");
        assert_eq!(field("CapPrm:"), "0000000000000000");
        assert_eq!(field("CapBnd:"), "0000000000000000");
        assert_eq!(field("CapInh:"), "0000000000000000");
        assert_eq!(field("CapAmb:"), "0000000000000000");
    }

    #[test]
    fn what_the_host_refused_comes_through_the_note() {
        for (namespaces, nobody) in [(0, 0), (libc::EPERM, 0), (0, libc::EINVAL), (1, 2)] {
            let refused = Refused { namespaces, nobody };
            assert_eq!(Refused::from_bytes(refused.to_bytes()), refused);
        }
    }

    #[test]
    fn a_program_that_is_none_is_an_error() {
        let (_, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut order = order(&[], write, &[]);
        order.program = Path::new("/nonexistent/monitor");
        let error = start(order).unwrap_err().to_string();
        assert!(
            error.contains("cannot start the virtual machine's monitor"),
            "{error}"
        );
    }
}
