//! Which program of which package is to be built, as cargo sees it.
//!
//! Everything here comes from one `cargo metadata --no-deps`: the package in a folder, its binaries, the workspace
//! around it, and the folders of path dependencies, which the build must not let into the image.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BuildError, Builder};

/// The program to build.
#[derive(Debug)]
pub(super) struct Program {
    pub manifest: PathBuf,
    pub name: String,
    pub target_dir: PathBuf,
    pub workspace_root: PathBuf,
    /// Roots of workspaces that hold path dependencies, apart from the program's own.
    pub other_roots: Vec<PathBuf>,
    /// The package names Kiln's library among its dependencies, or what that is made of.
    pub uses_kiln: bool,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
    default_run: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<PathBuf>,
}

impl Program {
    pub fn find(builder: &Builder) -> Result<Self, BuildError> {
        let given = &builder.crate_dir;
        let manifest = if given.is_dir() {
            given.join("Cargo.toml")
        } else {
            given.clone()
        };
        let manifest = match manifest.canonicalize() {
            Ok(path) if path.ends_with("Cargo.toml") => path,
            _ => return Err(BuildError::NoManifest(given.clone())),
        };
        let metadata = metadata(builder, &manifest)?;
        let Some(package) = package_of(&metadata.packages, &manifest, builder.bin.as_deref())
        else {
            return Err(BuildError::Workspace {
                manifest,
                members: list(metadata.packages.iter().map(|package| &package.name)),
            });
        };
        Ok(Self {
            name: choose(package, builder.bin.as_deref())?,
            target_dir: builder
                .target_dir
                .clone()
                .unwrap_or(metadata.target_directory),
            other_roots: other_roots(&metadata.packages, &metadata.workspace_root),
            uses_kiln: package
                .dependencies
                .iter()
                .any(|dependency| matches!(&*dependency.name, "kiln" | "kiln-rt")),
            manifest: package.manifest_path.clone(),
            workspace_root: metadata.workspace_root,
        })
    }
}

/// The package with this manifest; in a workspace also the one that has program `bin`, or the only one that has any.
fn package_of<'a>(
    packages: &'a [Package],
    manifest: &Path,
    bin: Option<&str>,
) -> Option<&'a Package> {
    let has = |package: &&Package| {
        let mut binaries = package.binaries();
        bin.map_or_else(
            || binaries.next().is_some(),
            |bin| package.binaries().any(|name| name == bin),
        )
    };
    let own = packages
        .iter()
        .find(|package| package.manifest_path == manifest);
    let mut others = packages.iter().filter(has);
    let other = others.next().filter(|_| others.next().is_none());
    match own {
        Some(own) if bin.is_none() || has(&own) => Some(own),
        _ => other.or(own),
    }
}

impl Package {
    fn binaries(&self) -> impl Iterator<Item = &String> {
        self.targets
            .iter()
            .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
            .map(|target| &target.name)
    }
}

fn metadata(builder: &Builder, manifest: &Path) -> Result<Metadata, BuildError> {
    let mut command = builder.cargo("metadata", manifest);
    let program = command.get_program().to_owned();
    let failed = |reason: String| BuildError::Toolchain {
        program: program.clone(),
        reason,
    };
    let output = command
        .args(["--no-deps", "--format-version=1"])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(BuildError::Manifest {
            manifest: manifest.to_owned(),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

fn choose(package: &Package, wanted: Option<&str>) -> Result<String, BuildError> {
    let binaries: Vec<&String> = package.binaries().collect();
    let default = package.default_run.as_deref();
    match (wanted.or(default), binaries.as_slice()) {
        (_, []) => Err(BuildError::NoBinary(package.manifest_path.clone())),
        (None, [only]) => Ok((*only).clone()),
        (None, several) => Err(BuildError::SeveralBinaries {
            package: package.name.clone(),
            binaries: list(several.iter().copied()),
        }),
        (Some(name), _) if binaries.iter().any(|known| *known == name) => Ok(name.to_owned()),
        (Some(name), _) => Err(BuildError::UnknownBinary {
            package: package.name.clone(),
            wanted: name.to_owned(),
            binaries: list(binaries.iter().copied()),
        }),
    }
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn other_roots(packages: &[Package], own: &Path) -> Vec<PathBuf> {
    let paths: BTreeSet<PathBuf> = packages
        .iter()
        .flat_map(|package| &package.dependencies)
        .filter_map(|dependency| dependency.path.as_deref())
        .filter(|path| !path.starts_with(own))
        .map(workspace_of)
        .collect();
    paths.into_iter().collect()
}

/// The nearest folder upwards whose manifest opens a workspace, or the folder itself. A path dependency's own path
/// dependencies lie in the same workspace in practice; those elsewhere keep their names.
fn workspace_of(package: &Path) -> PathBuf {
    package
        .ancestors()
        .find(|dir| {
            fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| {
                text.lines()
                    .any(|line| line.trim_start().starts_with("[workspace"))
            })
        })
        .unwrap_or(package)
        .to_owned()
}
