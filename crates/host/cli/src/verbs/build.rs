//! `kiln build`: make an image of a crate, of an installed program, or of a root file system.

mod output;
mod trace;

use std::path::{Path, PathBuf};

use kiln_fs::erofs::Tree;
use kiln_image::{Builder, Config, Optimize, Output};
use kiln_monitor::size::Size;

use super::run;
use crate::exit::Failure;
use crate::target::{self, Kind};
use crate::tell::tell;
use crate::{program, progress, style};

/// Arguments of `kiln build`.
#[allow(clippy::struct_excessive_bools, reason = "they are options")]
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The image file to write [default: NAME.kiln here, of a crate target/kiln/NAME.kiln]
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Which of a crate's programs to build
    #[arg(long, value_name = "NAME")]
    bin: Option<String>,
    /// Features of a crate to turn on
    #[arg(short = 'F', long, value_delimiter = ',')]
    features: Vec<String>,
    /// Leave a crate's default features off
    #[arg(long)]
    no_default_features: bool,
    /// What to optimize a crate for that uses Kiln's library
    #[arg(long, value_name = "FOR", default_value = "size", value_enum)]
    optimize: For,
    /// Refuse to change Cargo.lock
    #[arg(long)]
    locked: bool,
    /// Do without the network
    #[arg(long)]
    offline: bool,
    /// Take this folder for the root file system; TARGET is a program in it
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Set an environment variable of a program: NAME=value, or NAME to take the present one
    #[arg(short = 'e', long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Memory of a program, in bytes or with K, M or G [default: 1G]
    #[arg(short = 'm', long, value_name = "SIZE")]
    memory: Option<String>,
    /// Run the program, and keep only the files that it looked at
    #[arg(long)]
    trace: bool,
    /// With --trace: refuse all system calls later that the program did not make
    #[arg(long, requires = "trace")]
    lock_syscalls: bool,
    /// With --trace: forward a port of the host while the program runs
    #[arg(short = 'p', long, value_name = "PORTS", requires = "trace")]
    publish: Vec<String>,
    #[command(flatten)]
    program: program::Options,
    /// Print nothing but the image's path
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The folder of a Rust crate, or a program [default: .]
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Arguments that a program gets if none are given to `kiln run`; TARGET may stand here too
    #[arg(value_name = "ARGS", last = true)]
    args: Vec<String>,
}

/// What to optimize for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum For {
    /// A small image
    Size,
    /// A fast one
    Speed,
    /// One to debug
    Debug,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let image = match &arguments.output {
        Some(named) => {
            let arguments = Arguments {
                output: Some(output::file(named)?),
                ..arguments.clone()
            };
            build(&arguments)?;
            named.clone()
        }
        None => build(arguments)?,
    };
    style::line(&image.display().to_string())?;
    Ok(0)
}

/// Builds the image and returns where it is.
fn build(arguments: &Arguments) -> Result<PathBuf, Failure> {
    let (target, args) = match (&arguments.target, arguments.args.split_first()) {
        (Some(target), _) => (&**target, &*arguments.args),
        (None, Some((target, args))) => (&**target, args),
        (None, None) if arguments.rootfs.is_some() => {
            return Err(Failure::new(
                "--rootfs: name the program in it that is to run: kiln build --rootfs DIR PROGRAM",
            ));
        }
        (None, None) => (".", &[][..]),
    };
    if let Some(folder) = &arguments.rootfs {
        only_for_crates(arguments, target)?;
        if !arguments.program.include.is_empty() {
            return Err(Failure::new(
                "--include: with --rootfs nothing else is packed: put it into that folder",
            ));
        }
        return of_folder(arguments, folder, target, args);
    }
    match target::kind(target)? {
        Kind::Folder => of_crate(arguments, Path::new(target), args),
        Kind::Image => Err(Failure::cannot_run(format!("{target}: an image already"))),
        Kind::Program => {
            only_for_crates(arguments, target)?;
            let name = Path::new(target).file_name().unwrap_or_default();
            let image = PathBuf::from(name).with_added_extension("kiln");
            of_program(arguments, target.to_owned(), args, &image)
        }
    }
}

fn of_crate(arguments: &Arguments, folder: &Path, args: &[String]) -> Result<PathBuf, Failure> {
    let mut builder = Builder::new(folder)
        .optimize(match arguments.optimize {
            For::Size => Optimize::Size,
            For::Speed => Optimize::Speed,
            For::Debug => Optimize::Debug,
        })
        .features(arguments.features.iter().cloned())
        .default_features(!arguments.no_default_features)
        .locked(arguments.locked)
        .offline(arguments.offline)
        .quiet(arguments.quiet);
    if let Some(output) = &arguments.output {
        builder = builder.output(output);
    }
    if let Some(bin) = &arguments.bin {
        builder = builder.bin(bin);
    }
    match progress::build(&builder, folder, arguments.quiet)? {
        Output::Image(_) if !args.is_empty() => Err(Failure::new(
            "arguments are for Linux programs: give this one's to `kiln run`",
        )),
        Output::Image(built) => {
            arguments.program.packs_nothing(&built.name)?;
            Ok(built.image)
        }
        Output::Program {
            name,
            file,
            target_dir,
        } => {
            let image = target_dir.join("kiln").join(format!("{name}.kiln"));
            of_program(arguments, target::text(file)?, args, &image)
        }
    }
}

/// Refuses options that mean nothing without a crate.
fn only_for_crates(arguments: &Arguments, target: &str) -> Result<(), Failure> {
    let option = match arguments {
        Arguments { bin: Some(_), .. } => "--bin",
        Arguments { features, .. } if !features.is_empty() => "--features",
        _ => return Ok(()),
    };
    Err(target::no_crate(option, target))
}

fn of_program(
    arguments: &Arguments,
    word: String,
    args: &[String],
    image: &Path,
) -> Result<PathBuf, Failure> {
    let image = match &arguments.output {
        Some(output) => output.clone(),
        None => output::file(image)?,
    };
    let env: Vec<String> = arguments
        .env
        .iter()
        .filter_map(|text| run::env(text))
        .collect();
    let request = arguments.program.request(word, args, &env)?;
    let gathered = program::gather(&request, arguments.quiet)?;
    let mut config = program::config(&gathered);
    complete(arguments, &mut config, args, env)?;
    finish(arguments, gathered.tree, config, &image)
}

fn of_folder(
    arguments: &Arguments,
    folder: &Path,
    target: &str,
    args: &[String],
) -> Result<PathBuf, Failure> {
    let root = kiln_rootfs::folder(folder, target, &arguments.program.exclude)
        .map_err(program::failure)?;
    let mut config = Config::new([root.program.clone()]);
    let env = arguments
        .env
        .iter()
        .filter_map(|text| run::env(text))
        .collect();
    complete(arguments, &mut config, args, env)?;
    let name = Path::new(&root.program).file_name().unwrap_or_default();
    let image = match &arguments.output {
        Some(output) => output.clone(),
        None => output::file(&PathBuf::from(name).with_added_extension("kiln"))?,
    };
    finish(arguments, root.tree, config, &image)
}

/// Writes the image, after a run of the program if its use of files is to decide.
fn finish(
    arguments: &Arguments,
    mut tree: Tree,
    mut config: Config,
    image: &Path,
) -> Result<PathBuf, Failure> {
    make_room(image)?;
    if arguments.trace {
        let used = trace::run(&tree, &config, image, &arguments.publish)?;
        used.reduce(&mut tree, arguments.quiet);
        if arguments.lock_syscalls {
            config.syscalls = used.calls;
        }
    }
    program::compose(image, &config, program::Readers::AsUmask, |file| {
        tree.write(file)
    })?;
    if !arguments.quiet {
        let mut bytes = 0;
        tree.files(|_, len| bytes += len);
        tell(format_args!(
            "packed {} of files into {}",
            Size::from_bytes(bytes).rounded(),
            image.display()
        ));
    }
    Ok(image.to_owned())
}

/// Puts into a configuration what the options say.
fn complete(
    arguments: &Arguments,
    config: &mut Config,
    args: &[String],
    env: Vec<String>,
) -> Result<(), Failure> {
    config.args = args.to_vec();
    config.env = env;
    if let Some(cwd) = arguments.program.workdir()? {
        config.cwd.clone_from(cwd);
    }
    if let Some((uid, gid)) = arguments.program.user()? {
        (config.uid, config.gid) = (uid, gid);
    }
    if let Some(name) = &arguments.program.hostname {
        config.options.push(format!("--hostname={name}"));
    }
    if let Some(memory) = &arguments.memory {
        config.memory = Some(run::memory_size(memory)?.bytes());
    }
    Ok(())
}

/// Makes the folder of an image that is to be written.
fn make_room(image: &Path) -> Result<(), Failure> {
    match image.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::create_dir_all(folder)
            .map_err(|error| Failure::new(format!("{}: {error}", folder.display()))),
        _ => Ok(()),
    }
}
