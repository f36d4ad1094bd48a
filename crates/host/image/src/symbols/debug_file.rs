//! Where an image's debug file is.
//!
//! Beside the image under the same name, or in one of the folders given: under the image's name, under its build id as
//! gdb has it (`.build-id/xx/yyy.debug`), or under any name. It counts only if its build id is the image's.

use std::fs;
use std::path::{Path, PathBuf};

use object::Object;

use crate::build::DEBUG_EXTENSION;
use crate::image::BuildId;

/// The debug file of the image at `image`, and its bytes.
pub(super) fn find(image: &Path, id: &BuildId, folders: &[&Path]) -> Option<(PathBuf, Vec<u8>)> {
    let likely = candidates(image, id, folders);
    let any = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == DEBUG_EXTENSION));
    likely.into_iter().chain(any).find_map(|path| {
        let bytes = super::read(&path)?;
        (build_id(&bytes)? == *id).then_some((path, bytes))
    })
}

fn candidates(image: &Path, id: &BuildId, folders: &[&Path]) -> Vec<PathBuf> {
    let beside = image.with_extension(DEBUG_EXTENSION);
    let hex = id.to_string();
    let (first, rest) = hex.split_at(2);
    let by_id = format!(".build-id/{first}/{rest}.{DEBUG_EXTENSION}");
    let name = beside.file_name().map(PathBuf::from);
    let mut paths = vec![beside];
    for folder in folders {
        paths.extend(name.as_ref().map(|name| folder.join(name)));
        paths.push(folder.join(&by_id));
    }
    paths
}

fn build_id(bytes: &[u8]) -> Option<BuildId> {
    let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(bytes).ok()?;
    BuildId::new(file.build_id().ok()??)
}
