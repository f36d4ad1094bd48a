//! Why a program could not be started.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::elf::Fault;
use crate::Errno;

/// Why a program could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file cannot be opened.
    Open {
        /// Its path.
        path: Vec<u8>,
        /// Why.
        errno: Errno,
    },
    /// The file is there, but nobody may execute it, or it is no file.
    NotExecutable {
        /// Its path.
        path: Vec<u8>,
    },
    /// The file is not a program for this machine, or a damaged one.
    Format {
        /// Its path.
        path: Vec<u8>,
        /// What is wrong with it.
        fault: Fault,
    },
    /// What a program or a script names as its interpreter cannot be used.
    Interpreter {
        /// The program's path.
        path: Vec<u8>,
        /// The interpreter's.
        interpreter: Vec<u8>,
        /// What is wrong with that.
        errno: Errno,
    },
    /// Scripts that are interpreted by scripts, too deep.
    TooDeep {
        /// The first one's path.
        path: Vec<u8>,
    },
    /// Arguments and environment are too long.
    TooLong,
    /// There is no room in memory where the program has to be.
    Memory {
        /// Its path.
        path: Vec<u8>,
        /// What the mapping answered.
        errno: Errno,
    },
}

impl LoadError {
    /// What `execve(2)` answers.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Open { errno, .. }
            | Self::Interpreter { errno, .. }
            | Self::Memory { errno, .. } => *errno,
            Self::NotExecutable { .. } => Errno::EACCES,
            Self::Format {
                fault: Fault::Broken(_),
                ..
            } => Errno::EINVAL,
            Self::Format { .. } => Errno::ENOEXEC,
            Self::TooDeep { .. } => Errno::ELOOP,
            Self::TooLong => Errno::E2BIG,
        }
    }
}

impl From<LoadError> for Errno {
    fn from(error: LoadError) -> Self {
        error.errno()
    }
}

/// One line for the user: what is wrong, and with which file.
pub fn explain(error: &LoadError) -> String {
    let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    match error {
        LoadError::Open { path, errno } if *errno == Errno::ENOENT => {
            format!("{}: there is no such file in the image", name(path))
        }
        LoadError::Open { path, errno } => {
            format!("{}: cannot be opened ({})", name(path), errno.name())
        }
        LoadError::NotExecutable { path } => {
            format!("{}: is not an executable file", name(path))
        }
        LoadError::Format { path, fault } => match fault {
            Fault::NotElf => format!(
                "{}: is neither an ELF program nor a script that names its interpreter",
                name(path)
            ),
            Fault::WrongMachine(machine) => format!(
                "{}: is a program for {}, but this machine is a 64-bit x86",
                name(path),
                machine_name(*machine)
            ),
            Fault::NotProgram => {
                format!("{}: is an ELF file, but not a program", name(path))
            }
            Fault::Broken(what) => {
                format!("{}: is a damaged ELF program: {what}", name(path))
            }
        },
        LoadError::Interpreter {
            path,
            interpreter,
            errno,
        } => {
            let what = match *errno {
                Errno::ENOENT => "which is not in the image",
                Errno::EACCES => "which is not an executable file",
                Errno::ELIBBAD => "which is not a program for this machine",
                _ => "which cannot be used",
            };
            let (path, interpreter) = (name(path), name(interpreter));
            format!("{path}: needs the interpreter {interpreter}, {what}")
        }
        LoadError::TooDeep { path } => {
            format!("{}: scripts interpret each other too deeply", name(path))
        }
        LoadError::TooLong => String::from("arguments and environment are too long"),
        LoadError::Memory { path, errno } => {
            format!("{}: does not fit in memory ({})", name(path), errno.name())
        }
    }
}

fn machine_name(machine: u16) -> String {
    let known = match machine {
        0 => "another word size or byte order",
        3 => "32-bit x86",
        8 => "MIPS",
        20 | 21 => "PowerPC",
        22 => "S/390",
        40 => "32-bit ARM",
        43 => "SPARC",
        183 => "64-bit ARM",
        243 => "RISC-V",
        258 => "LoongArch",
        other => return format!("another processor (number {other})"),
    };
    String::from(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_name_the_file() {
        let missing = LoadError::Interpreter {
            path: b"/bin/x".to_vec(),
            interpreter: b"/lib/ld.so".to_vec(),
            errno: Errno::ENOENT,
        };
        assert_eq!(
            explain(&missing),
            "/bin/x: needs the interpreter /lib/ld.so, which is not in the image"
        );
        let other = LoadError::Format {
            path: b"/bin/x".to_vec(),
            fault: Fault::WrongMachine(183),
        };
        assert_eq!(other.errno(), Errno::ENOEXEC);
        assert!(explain(&other).contains("64-bit ARM"));
    }
}
