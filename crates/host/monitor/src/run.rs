//! From a [`Spec`] to a guest, and to its end.
//!
//! [`foreground`] does it all in this process; [`detached`] in a child of it that goes on when this process ends. Both go
//! through the same steps, and the order of them is deliberate: everything that can be refused is refused before
//! anything is made, and what others need to see of the instance is written while the guest already starts. Only a name
//! that the user chose is taken before, so that a guest never runs under a name that turns out to be in use.

mod core_file;
mod detach;
mod streams;
mod terminal;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_abi::note::AbiNote;
use kiln_image::{Image, Symbols};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::backend::{Ended, Guest, Launch};
use crate::backends;
use crate::backends::process::counter::Sample;
use crate::capture::hub::Hub;
use crate::clock::WallTime;
use crate::console::log::Log;
use crate::console::output::Output;
use crate::control::Response;
use crate::control::server::Server;
use crate::devices::{self, Attached};
use crate::registry::{self, Claim, End, Record, Registry, Status};
use crate::signals::{self, Signals};
use crate::spec::{Spec, effective_env};
use crate::supervise::{self, Channel, Progress, Supervisor};
use crate::{Error, error, names, report};

use core_file::CoreFile;
pub use detach::detached;
use streams::Standard;
use terminal::Raw;

/// Runs an image with its output on this process's standard output, and passes signals on. Blocks until the guest has
/// ended and returns its exit code.
///
/// # Errors
/// [`Error`] if the guest could not be started; nothing is left behind then. How a guest ends is no error.
pub fn foreground(spec: &Spec) -> Result<u8, Error> {
    let image = open(spec)?;
    let registry = Registry::open()?;
    let mut instance = Instance::start(spec, &image, &registry, true)?;
    instance.supervise(Output::stdout, None, tell_stderr)
}

/// Opens and checks the image of a spec.
fn open(spec: &Spec) -> Result<Image, Error> {
    spec.check()?;
    // Later readers of its symbols, and `kiln inspect`, are in other folders.
    let path = std::path::absolute(&spec.image)
        .map_err(|error| Error::file("find", &spec.image, error))?;
    let image = Image::open(path).map_err(|mut error| {
        error.path.clone_from(&spec.image);
        error
    })?;
    if spec.core.is_some() && image.abi().flags & AbiNote::PROGRAM == 0 {
        return Err(Error::Manifest(format!(
            "{} is not a Linux program: --core is for those",
            spec.image_name()
        )));
    }
    if !spec.volumes.is_empty() && image.abi().flags & AbiNote::PROGRAM == 0 {
        return Err(Error::Manifest(format!(
            "{} is not a Linux program: volumes are for those, use --block",
            spec.image_name()
        )));
    }
    let needed = crate::size::Size::from_bytes(image.abi().min_memory);
    if spec.memory < needed {
        return Err(Error::MemoryTooSmall {
            image: spec.image_name(),
            needed,
            given: spec.memory,
        });
    }
    Ok(image)
}

/// A started guest with all that belongs to it.
struct Instance<'a> {
    spec: &'a Spec,
    image: &'a Image,
    registry: &'a Registry,
    /// Taken when the instance has ended.
    claim: Option<Claim>,
    /// Taken by the supervisor.
    running: Option<Running>,
    /// Where a core file goes.
    core: Option<CoreFile>,
}

/// What the supervisor gets.
struct Running {
    guest: Box<dyn Guest>,
    console: OwnedFd,
    errors: Option<OwnedFd>,
    usernet: Option<Box<kiln_usernet::Usernet>>,
    captures: Hub,
    signals: Signals,
    log: Log,
    /// The user's terminal is the program's.
    raw: Option<Raw>,
}

impl<'a> Instance<'a> {
    /// `attached`: the guest's console is this process's standard streams.
    fn start(
        spec: &'a Spec,
        image: &'a Image,
        registry: &'a Registry,
        attached: bool,
    ) -> Result<Self, Error> {
        let backend = backends::choose(spec.backend)?;
        let program = image.abi().flags & AbiNote::PROGRAM != 0;
        // How fast it runs is known by the time that the guest is placed, without waiting.
        let counter = program.then(Sample::begin).flatten();
        let random = registry::random();
        let id = names::id(random);
        let name = spec.name.clone();
        let name = name.unwrap_or_else(|| registry.free_name(random));
        let (core, opened) = attach(spec, image, &backend, &name, &id)?;
        let Attached {
            devices,
            usernet,
            links,
            user_link,
            described,
            folders,
            ports,
        } = opened;
        let env = effective_env(&spec.env);
        let (console, write_end) = console()?;
        let standard = (attached && program).then(streams::standard);
        let standard = standard.transpose()?.unwrap_or_default();
        let args = arguments(spec, &standard);
        let (errors, errors_end) = standard.errors.unzip();
        let named = spec.name.as_ref();
        let mut claim = named.map(|name| registry.claim(&id, name)).transpose()?;
        let signals = signals::block_for_guest()?;
        let raw = standard.terminal.then(Raw::begin).transpose()?;
        let created = WallTime::now();
        let launch = Launch {
            image,
            memory: spec.memory.bytes().next_multiple_of(kiln_abi::PAGE_SIZE),
            name: names::for_guest(&name),
            args: &args,
            env: &env,
            devices,
            console: write_end,
            errors: errors_end,
            input: standard.input,
            strict: spec.strict,
            counter,
        };
        let guest = match backend.start(launch) {
            Ok(guest) => guest,
            Err(error) => {
                forget(claim, registry);
                return Err(error);
            }
        };
        for folder in folders {
            if let Err(error) = folder.serve() {
                drop(guest);
                forget(claim, registry);
                return Err(error);
            }
        }
        // From here on the guest starts on its own processor while its place is made.
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            image: image.path().display().to_string(),
            args,
            env: env.clone(),
            created,
            started: WallTime::now(),
            pid: guest.pid(),
            supervisor: std::process::id(),
            backend: backend.to_string(),
            memory: spec.memory.bytes(),
            devices: described,
            ports,
            remove: spec.remove,
            strict: spec.strict,
            stop_timeout_ms: u64::try_from(spec.stop_timeout.as_millis()).unwrap_or(u64::MAX),
            core_folder: core.as_ref().and_then(CoreFile::folder),
        };
        let log = publish(registry, &mut claim, &record);
        let (claim, log) = match log {
            Ok(log) => (claim, log),
            Err(error) => {
                // The guest first: nobody must be able to see it run without a place.
                drop(guest);
                forget(claim, registry);
                return Err(error);
            }
        };
        Ok(Self {
            spec,
            image,
            registry,
            claim,
            running: Some(Running {
                guest,
                console,
                errors,
                usernet,
                captures: Hub::new(links, user_link),
                signals,
                log,
                raw,
            }),
            core,
        })
    }

    /// Waits until the guest's first instruction is about to run.
    fn wait_started(&mut self) -> Result<(), Error> {
        match &mut self.running {
            Some(running) => running.guest.wait_started(),
            None => Ok(()),
        }
    }

    /// Looks after the guest until its end, records and tells how that was, and returns its exit code.
    fn supervise(
        &mut self,
        output: fn() -> Output,
        control: Option<Server>,
        tell: fn(&str),
    ) -> Result<u8, Error> {
        let (Some(mut running), Some(claim)) = (self.running.take(), self.claim.take()) else {
            return Ok(error::EXIT_KILN);
        };
        let raw = running.raw.take();
        let terminal = raw.as_ref().map(|_| terminal::size as fn() -> _);
        let mut supervisor = Supervisor {
            guest: &mut *running.guest,
            console: Channel::new(running.console, output()),
            errors: running
                .errors
                .map(|errors| Channel::new(errors, Output::stderr())),
            usernet: running.usernet,
            captures: running.captures,
            log: running.log,
            dir: claim.dir(),
            path: claim.path(),
            control,
            signals: running.signals,
            stop_timeout: self.spec.stop_timeout,
            is_program: self.image.abi().flags & AbiNote::PROGRAM != 0,
            terminal,
            memory: self.spec.memory.bytes(),
            tell,
            progress: Progress::default(),
        };
        let (ended, waiting) = supervisor.run()?;
        if let Some(failure) = supervisor.guest.failure() {
            // It never was a guest: nothing is left behind, and the step that failed says it all.
            forget(Some(claim), self.registry);
            return Err(failure);
        }
        let text = self.report(claim.name(), &ended);
        if let Some(text) = &text {
            supervisor.note(text);
        }
        let core = self.core.take().map_or(Ok(None), CoreFile::collect);
        let told = match &core {
            Ok(Some((path, bytes))) => Some(format!(
                "core file: {} ({} on disk)",
                path.display(),
                crate::size::format(*bytes)
            )),
            Ok(None) => None,
            Err(error) => Some(format!("no core file: {error}")),
        };
        if let Some(told) = &told {
            supervisor.note(&format!("kiln: {told}\n"));
        }
        let protections = supervise::protections(supervisor.guest);
        let (mut control, captures, outputs, signals) = supervisor.into_parts();
        let end = End {
            status: Status::Exited,
            exit_code: ended.code,
            finished: WallTime::now(),
            reason: report::reason(&ended),
            cpu_ns: ended.usage.cpu_ns,
            calls: ended.usage.calls,
            host_calls: ended.usage.host_calls,
            protections,
            core: core
                .ok()
                .flatten()
                .map(|(path, _)| path.display().to_string()),
        };
        let recorded = self.conclude(claim, &end, control.is_some());
        // Only now, so that whoever waited finds the end recorded.
        if let Some(server) = &mut control {
            let response = Response::Ended {
                exit_code: ended.code,
            };
            let now = std::time::Instant::now();
            for client in waiting {
                server.answer(client, &response, now);
            }
        }
        drop(control);
        captures.finish();
        // Before the rest is written, which may take as long as the terminal likes: Ctrl-C is a signal again.
        drop(raw);
        for mut output in outputs {
            if !output.finish(signals.as_fd(), || signals.ask_for_the_end()) {
                break;
            }
        }
        if let Some(text) = text {
            tell(text.trim_end_matches('\n'));
        }
        if let Some(told) = told {
            tell(&told);
        }
        recorded.map(|()| ended.code)
    }

    /// How it ended, if that is worth telling.
    fn report(&self, name: &str, ended: &Ended) -> Option<String> {
        report::is_remarkable(ended).then(|| {
            let folders: [&Path; 0] = [];
            let symbols = Symbols::open(self.image, &folders);
            report::full(name, ended, Some(&symbols))
        })
    }

    fn conclude(&self, claim: Claim, end: &End, has_socket: bool) -> Result<(), Error> {
        if self.spec.remove {
            return claim.forget(self.registry);
        }
        if has_socket {
            claim.remove_socket();
        }
        claim.finish(end)
    }
}

/// Opens the devices of an instance, and the folder for its core file if one is wanted.
fn attach(
    spec: &Spec,
    image: &Image,
    backend: &backends::Backend,
    name: &str,
    id: &str,
) -> Result<(Option<CoreFile>, Attached), Error> {
    if spec.core.is_some() && !backend.has_folders() {
        return Err(Error::option(
            "--core",
            &backend.to_string(),
            "this backend has no way for core files: leave --core out, or use --backend process, kvm or qemu",
        ));
    }
    let core = CoreFile::prepare(spec, name, id)?;
    let mut attached = devices::attach(spec, name, image.devices(), backend.link_ends())?;
    if let Some(core) = &core {
        let (device, folder) = core.device(spec, backend.link_ends())?;
        attached.devices.push(device);
        attached.folders.push(folder);
    }
    Ok((core, attached))
}

/// Makes the instance's place visible to others. What was claimed stays in `claim` on failure too.
fn publish(registry: &Registry, claim: &mut Option<Claim>, record: &Record) -> Result<Log, Error> {
    let claim = match claim {
        Some(claim) => claim,
        None => claim.insert(registry.claim(&record.id, &record.name)?),
    };
    claim.record(record)?;
    Log::create(claim.dir()).map_err(|error| {
        Error::file(
            "create",
            claim.path().join(crate::console::log::FILE),
            error,
        )
    })
}

/// Deletes what a failed start has made. Its own error is the one to tell.
fn forget(claim: Option<Claim>, registry: &Registry) {
    if let Some(claim) = claim {
        let _ = claim.forget(registry);
    }
}

/// The console's two ends: ours does not block, the guest's does.
fn console() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = |error| Error::host("make a pipe", error);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).map_err(failed)?;
    Ok((read, write))
}

/// What the guest finds as its arguments: those about its terminal and volumes come before the others, which may end with a program's own.
fn arguments(spec: &Spec, standard: &Standard) -> Vec<String> {
    let volumes = spec.volumes.iter().enumerate();
    let apart = standard.terminal && standard.errors.is_some();
    std::iter::once(program_name(spec))
        .chain(standard.terminal.then(terminal::argument))
        .chain(apart.then(|| "--errors-apart".to_owned()))
        .chain(volumes.map(|(number, volume)| volume.argument(number)))
        .chain(spec.core.is_some().then(|| CoreFile::argument(spec)))
        .chain(spec.args.iter().cloned())
        .collect()
}

/// What the guest finds as its first argument: the image's name without the ending.
fn program_name(spec: &Spec) -> String {
    let name = spec.image_name();
    match name.strip_suffix(".kiln") {
        Some(stem) if !stem.is_empty() => stem.to_owned(),
        _ => name,
    }
}

fn tell_stderr(text: &str) {
    use std::io::Write;
    let prefix = if text.starts_with("kiln: ") {
        ""
    } else {
        "kiln: "
    };
    // If nobody reads it there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{prefix}{text}");
}
