//! Linux programs as targets: packed with their files into an image, which is kept for the next time.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln_image::image::Reason;
use kiln_image::{ComposeError, Config, Image, ImageError};
use kiln_monitor::size::Size;
use kiln_rootfs::cache::{Cache, DEBUG_FILE, DEFAULT_LIMIT, FILE_MODE, Key, Record, mark_used};
use kiln_rootfs::{DEFAULT_PATH, Gathered, Request};

use crate::exit::Failure;
use crate::tell::tell;

/// Memory that a program may use at most if the user does not say. Only what is touched is taken of the host's.
pub const DEFAULT_MEMORY: Size = Size::from_bytes(1 << 30);

/// Where images of programs are kept, if not in the user's cache folder.
const CACHE_VARIABLE: &str = "KILN_CACHE";
/// How many bytes they may take.
const LIMIT_VARIABLE: &str = "KILN_CACHE_SIZE";

/// Gathering that takes longer is told about, because it happens once only.
const WORTH_TELLING: f64 = 0.5;

/// Options about a Linux program, for the verbs that pack one.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Working directory of the program [default: / or, if its arguments name files, this one]
    #[arg(short = 'w', long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// User the program runs as: a number or name, and a group if need be [default: 0:0]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Name of the machine that the program sees
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// A file or folder to put into the program's root file system
    #[arg(long, value_name = "PATH")]
    pub include: Vec<PathBuf>,
    /// A path, or a name with or without *, to leave out of it
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
}

impl Options {
    /// What to gather for a program with these arguments and that environment.
    ///
    /// # Errors
    /// If the present folder is gone, or what is to be included is not there.
    pub fn request(
        &self,
        program: String,
        args: &[String],
        env: &[String],
    ) -> Result<Request, Failure> {
        let cwd = std::env::current_dir()
            .map_err(|error| Failure::new(format!("cannot find the present folder: {error}")))?;
        for path in &self.include {
            if let Err(error) = path.symlink_metadata() {
                let problem = match error.kind() {
                    ErrorKind::NotFound => {
                        "no such file or folder: name one that is there".to_owned()
                    }
                    _ => error.to_string(),
                };
                return Err(Failure::new(format!(
                    "--include {}: {problem}",
                    path.display()
                )));
            }
        }
        let mut all = environment("/");
        all.extend_from_slice(env);
        // Variables that decide about files; others would only make more images of the same.
        all.retain(|pair| {
            pair.split_once('=')
                .is_some_and(|(name, _)| kiln_rootfs::VARIABLES.contains(&name))
        });
        Ok(Request {
            program,
            args: args.to_vec(),
            cwd,
            search: std::env::var_os("PATH"),
            env: all,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
        })
    }

    /// Refuses options about files for a target whose files are not gathered.
    ///
    /// # Errors
    /// If there are any.
    pub fn packs_nothing(&self, target: &str) -> Result<(), Failure> {
        let option = match (&*self.include, &*self.exclude) {
            ([], []) => return Ok(()),
            ([], _) => "--exclude",
            _ => "--include",
        };
        Err(Failure::new(format!(
            "{option}: {target} is no program of this host whose files are gathered now: leave it out, or give it to `kiln build` with the program"
        )))
    }

    /// The working directory that was asked for.
    ///
    /// # Errors
    /// If it is no absolute path.
    pub fn workdir(&self) -> Result<Option<&String>, Failure> {
        match &self.workdir {
            Some(cwd) if !cwd.starts_with('/') => Err(Failure::new(format!(
                "--workdir {cwd:?}: not an absolute path"
            ))),
            cwd => Ok(cwd.as_ref()),
        }
    }

    /// User and group that were asked for: numbers, or names that this host knows.
    ///
    /// # Errors
    /// If this host does not know them.
    pub fn user(&self) -> Result<Option<(u32, u32)>, Failure> {
        let Some(text) = &self.user else {
            return Ok(None);
        };
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (&**text, None),
        };
        let unknown = |what: &str| Failure::new(format!("--user {text:?}: no such {what} here"));
        let (uid, own) = id("/etc/passwd", name).ok_or_else(|| unknown("user"))?;
        let gid = match group {
            Some(group) => id("/etc/group", group).ok_or_else(|| unknown("group"))?.0,
            // A number alone says nothing about the group, as with docker.
            None if name.parse::<u32>().is_ok() => 0,
            None => own,
        };
        Ok(Some((uid, gid)))
    }
}

/// The number behind a name in an account file, and the one after that.
fn id(file: &str, name: &str) -> Option<(u32, u32)> {
    if let Ok(number) = name.parse() {
        return Some((number, number));
    }
    let text = fs::read_to_string(file).ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    let own = fields.next()?.ok()?;
    Some((own, fields.next().and_then(Result::ok).unwrap_or(own)))
}

/// The image of a program, and how it is started: an image that was made before if nothing has changed since.
///
/// # Errors
/// Why the program cannot be packed.
pub fn image(request: &Request, quiet: bool) -> Result<(PathBuf, Config), Failure> {
    let instead = instead();
    let cache = Cache::new(cache_folder()?);
    cache.close();
    let limit = limit()?;
    let personality = personality_digest(instead.as_deref())?;
    let key = request_key(request, &personality);
    if let Some(image) = cache.find(key)
        && let Some(config) = whole(&image)
    {
        return Ok((image, config));
    }
    let started = Instant::now();
    let gathered = gather(request, quiet)?;
    let config = config(&gathered);
    let content = Key::of(&(gathered.digest(), config.bytes(), &personality));
    let name = Path::new(&request.program).file_name().unwrap_or_default();
    let image = cache.image(&name.to_string_lossy(), content);
    cache.make().map_err(|error| {
        Failure::new(format!(
            "cannot make the folder {} for images of programs: {error}; {CACHE_VARIABLE} names another",
            cache.folder().display()
        ))
    })?;
    // Another request may have had the same result.
    let made_before = mark_used(&image).is_ok() && whole(&image).is_some();
    if !made_before {
        compose(&image, &config, Readers::Owner, |file| {
            gathered.tree.write(file)
        })?;
        cache.tidy(limit, &image);
    }
    link_debug_file(cache.folder());
    let record = Record {
        image: image.clone(),
        seen: gathered.seen,
    };
    // Without a record it is gathered again the next time.
    let _ = cache.remember(key, &record);
    let seconds = started.elapsed().as_secs_f64();
    if !quiet && seconds > WORTH_TELLING {
        tell(format_args!(
            "packed {} with {} of files in {seconds:.1} s; it is kept for the next time",
            request.program,
            Size::from_bytes(gathered.bytes).rounded(),
        ));
    }
    Ok((image, config))
}

/// How the program in a kept image is started. An image that is none, because the machine stopped or somebody spoiled it, is
/// removed: it is made again.
fn whole(image: &Path) -> Option<Config> {
    match Image::open(image).and_then(|image| image.config()) {
        Ok(Some(config)) => return Some(config),
        // It is not there, or another user's.
        Err(ImageError {
            reason: Reason::Io(_),
            ..
        }) => {}
        Ok(None) | Err(_) => {
            // Who cannot remove it cannot replace it either, and is told then.
            let _ = fs::remove_file(image);
        }
    }
    None
}

/// Gathers the files of a program and tells what the user should know.
///
/// # Errors
/// Why the program cannot be packed.
pub fn gather(request: &Request, quiet: bool) -> Result<Gathered, Failure> {
    let gathered = kiln_rootfs::gather(request).map_err(failure)?;
    if !quiet {
        for note in &gathered.notes {
            tell(note);
        }
    }
    Ok(gathered)
}

/// Why a program cannot be packed, with its exit code.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn failure(error: kiln_rootfs::Error) -> Failure {
    let text = error.to_string();
    if error.is_not_found() {
        Failure::not_found(text)
    } else {
        Failure::cannot_run(text)
    }
}

/// How a gathered program is started.
pub fn config(gathered: &Gathered) -> Config {
    let mut config = Config::new(gathered.entrypoint.iter().cloned());
    if let Some(cwd) = &gathered.cwd {
        config.cwd.clone_from(cwd);
    }
    config
}

/// Who may read an image that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// As with any file that the user makes.
    AsUmask,
    /// Its owner alone: it holds files that others may not read, and lies where the user did not put it.
    Owner,
}

/// Writes an image: the personality, the configuration, and the root file system that `write` writes.
///
/// # Errors
/// If the personality cannot be had, or the image not be written.
pub fn compose<R>(
    image: &Path,
    config: &Config,
    readers: Readers,
    write: impl FnOnce(&mut fs::File) -> std::io::Result<R>,
) -> Result<R, Failure> {
    let personality = kiln_personality::image(instead().as_deref())
        .map_err(|error| Failure::new(format!("the Linux personality: {error}")))?;
    let mode = match readers {
        Readers::AsUmask => 0o666,
        Readers::Owner => FILE_MODE,
    };
    kiln_image::compose(image, &personality, config, mode, write)
        .map_err(|error: ComposeError| Failure::new(error.to_string()))
}

/// The personality to use instead of the one that came with this command.
fn instead() -> Option<PathBuf> {
    std::env::var_os(kiln_personality::VARIABLE)
        .filter(|file| !file.is_empty())
        .map(PathBuf::from)
}

/// Whether the image runs a Linux program, and how.
///
/// # Errors
/// If the file is no image.
pub fn config_of(image: &Path) -> Result<Option<Config>, Failure> {
    Ok(Image::open(image)?.config()?)
}

/// The environment of programs before what the user adds: that of a container, and what describes the user's terminal and
/// language.
pub fn environment(home: &str) -> Vec<String> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}"), format!("HOME={home}")];
    for name in ["LANG", "TERM"] {
        if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

/// What tells personalities apart: their content, or for one in a file what the file system says about it.
fn personality_digest(instead: Option<&Path>) -> Result<String, Failure> {
    let Some(file) = instead else {
        return Ok(kiln_personality::DIGEST.to_owned());
    };
    let seen = kiln_rootfs::Seen::now(
        &file
            .canonicalize()
            .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?,
    );
    Ok(Key::of(&seen).to_string())
}

/// What decides about the files of a program, apart from the files themselves.
fn request_key(request: &Request, personality: &str) -> Key {
    let named = request.named();
    let relative = request.program.contains('/') && !request.program.starts_with('/')
        || named.iter().any(|path| !path.starts_with('/'))
        || request.include.iter().any(|path| path.is_relative());
    let search = (!request.program.contains('/')).then_some(&request.search);
    Key::of(&(
        env!("CARGO_PKG_VERSION"),
        personality,
        &request.program,
        named,
        relative.then_some(&request.cwd),
        search,
        &request.env,
        &request.include,
        &request.exclude,
    ))
}

/// Where images of programs are kept. What lies there runs: without a home it is a folder that nobody else can have made.
fn cache_folder() -> Result<PathBuf, Failure> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let named = set(CACHE_VARIABLE)
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("kiln/programs")))
        .or_else(|| Some(set("HOME")?.join(".cache/kiln/programs")));
    let user = rustix::process::geteuid();
    match named {
        Some(folder) => Ok(folder),
        None if user.is_root() => Ok(PathBuf::from("/var/cache/kiln/programs")),
        None => {
            let folder = PathBuf::from(format!("/tmp/kiln-programs-{}", user.as_raw()));
            let is_own = |metadata: fs::Metadata| {
                metadata.is_dir()
                    && metadata.uid() == user.as_raw()
                    && metadata.mode() & 0o777 == 0o700
            };
            let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
            if fs::symlink_metadata(&folder).is_ok_and(is_own) {
                return Ok(folder);
            }
            Err(Failure::new(format!(
                "{} is not yours alone: set HOME or {CACHE_VARIABLE}",
                folder.display()
            )))
        }
    }
}

fn limit() -> Result<u64, Failure> {
    let Some(text) = std::env::var_os(LIMIT_VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_LIMIT);
    };
    let text = text.to_string_lossy();
    let size: Size = text
        .parse()
        .map_err(|error| Failure::new(format!("{LIMIT_VARIABLE} {text:?}: {error}")))?;
    Ok(size.bytes())
}

/// Puts the personality's debug file where it is looked for: beside the images.
fn link_debug_file(folder: &Path) {
    let target = Path::new(kiln_personality::DEBUG_FILE);
    let link = folder.join(DEBUG_FILE);
    if target.exists() && fs::read_link(&link).ok().as_deref() != Some(target) {
        let _ = fs::remove_file(&link);
        let _ = std::os::unix::fs::symlink(target, &link);
    }
}
