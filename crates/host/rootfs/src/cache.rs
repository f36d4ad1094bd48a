//! Images made before.
//!
//! For each request there is a record: which image, how to start the program, and what was looked at when it was gathered
//! ([`Seen`]). If all of that is as it was, the image still holds, and a start costs reading the record and a call of
//! `stat(2)` for each line. Images are named by what is in them, so that requests with the same result share one.
//!
//! The folder is bounded: images that were not used for longest go first ([`Cache::tidy`]).

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Seen;

/// What all images together may take if the user does not say otherwise.
pub const DEFAULT_LIMIT: u64 = 4 << 30;

/// An image that is used is marked so this often at most.
const TOUCH: Duration = Duration::from_hours(1);

const FIRST_LINE: &str = "kiln program 1";

/// A folder of images.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// A digest of what decides about a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

impl Key {
    /// The digest of anything.
    pub fn of(what: &impl Hash) -> Self {
        // Two rounds with different beginnings: an accident is out of the question, and nobody else writes here.
        let half = |seed: u64| {
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            what.hash(&mut hasher);
            hasher.finish()
        };
        Self(u128::from(half(1)) << 64 | u128::from(half(2)))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The image file.
    pub image: PathBuf,
    /// What was looked at.
    pub seen: Vec<Seen>,
}

impl Cache {
    /// The cache in `folder`, which need not be there yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where images lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the image of the program called `name` with this key lies, or will. The name is for people who see the path.
    pub fn image(&self, name: &str, key: Key) -> PathBuf {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
        let name: String = name.chars().filter(plain).take(64).collect();
        let name = name.trim_start_matches('.');
        self.folder.join(format!("{name}-{key}.kiln"))
    }

    fn record(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{key}.record"))
    }

    /// The image made for a request before, if it still holds.
    pub fn find(&self, request: Key) -> Option<PathBuf> {
        let path = self.record(request);
        let bytes = fs::read(&path).ok()?;
        let record = parse(&bytes)?;
        if !record
            .seen
            .iter()
            .all(|seen| Seen::now(&seen.path).stamp == seen.stamp)
        {
            return None;
        }
        let used = fs::metadata(&record.image).ok()?.modified().ok()?;
        if used.elapsed().unwrap_or(TOUCH) >= TOUCH {
            // Only to know which one to remove some day.
            let _ = File::options()
                .append(true)
                .open(&record.image)
                .and_then(|file| file.set_modified(SystemTime::now()));
        }
        Some(record.image)
    }

    /// Remembers the image made for a request.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn remember(&self, request: Key, record: &Record) -> io::Result<()> {
        let path = self.record(request);
        let temporary = path.with_extension(format!("{}", std::process::id()));
        fs::write(&temporary, print(record))?;
        fs::rename(&temporary, &path)
    }

    /// Removes the images that were not used for longest until all together take at most `limit` bytes, records without an
    /// image, and what was left by builds that were interrupted.
    pub fn tidy(&self, limit: u64) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let mut images = Vec::new();
        let mut records = Vec::new();
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match path.extension().and_then(std::ffi::OsStr::to_str) {
                Some("kiln") => images.push((modified, meta.len(), path)),
                Some("record") => records.push((modified, path)),
                _ if modified
                    .elapsed()
                    .is_ok_and(|age| age > Duration::from_hours(24))
                    && meta.is_file() =>
                {
                    let _ = fs::remove_file(path);
                }
                _ => {}
            }
        }
        images.sort_unstable_by(|a, b| b.cmp(a));
        let mut total = 0u64;
        for (_, len, path) in images {
            total = total.saturating_add(len);
            if total > limit {
                // Whoever runs it keeps it.
                let _ = fs::remove_file(path);
            }
        }
        for (_, path) in records {
            let image = fs::read(&path)
                .ok()
                .and_then(|bytes| Some(parse(&bytes)?.image));
            if image.is_none_or(|image| !image.exists()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// The record as it lies in a file: a line that says what it is, the image, then for each thing that was looked at its
/// stamp and path, each ended by a NUL byte.
fn print(record: &Record) -> Vec<u8> {
    let mut out = FIRST_LINE.as_bytes().to_vec();
    out.push(0);
    out.extend(record.image.as_os_str().as_bytes());
    out.push(0);
    for seen in &record.seen {
        let [a, b, c, d] = seen.stamp;
        out.extend(format!("{a:x} {b:x} {c:x} {d:x} ").bytes());
        out.extend(seen.path.as_os_str().as_bytes());
        out.push(0);
    }
    out
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let mut lines = bytes.strip_suffix(&[0])?.split(|&b| b == 0);
    if lines.next()? != FIRST_LINE.as_bytes() {
        return None;
    }
    let image = path_of(lines.next()?);
    let mut seen = Vec::new();
    for line in lines {
        let mut words = line.splitn(5, |&b| b == b' ');
        let mut stamp = [0; 4];
        for word in &mut stamp {
            *word = u64::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 16).ok()?;
        }
        seen.push(Seen {
            path: path_of(words.next()?),
            stamp,
        });
    }
    Some(Record { image, seen })
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("kiln-cache-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_image_holds_until_something_changes() {
        let scratch = Scratch::new("holds");
        let cache = Cache::new(&scratch.0);
        let key = Key::of(&"request");
        assert_eq!(cache.find(key), None);
        let file = scratch.0.join("a file\nwith a strange name");
        fs::write(&file, "1").unwrap();
        let record = Record {
            image: cache.image("x", Key::of(&"image")),
            seen: vec![Seen::now(&file), Seen::now(Path::new("/surely/not/there"))],
        };
        assert_eq!(parse(&print(&record)), Some(record.clone()));
        cache.remember(key, &record).unwrap();
        assert_eq!(cache.find(key), None, "the image itself is missing");
        fs::write(&record.image, "image").unwrap();
        assert_eq!(cache.find(key), Some(record.image.clone()));
        fs::write(&file, "22").unwrap();
        assert_eq!(cache.find(key), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let scratch = Scratch::new("tidy");
        let cache = Cache::new(&scratch.0);
        let image = |n: u64| cache.image("x", Key::of(&n));
        for n in 0..5 {
            fs::write(image(n), vec![0; 1000]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(100 - n);
            File::options()
                .append(true)
                .open(image(n))
                .unwrap()
                .set_modified(time)
                .unwrap();
            let record = Record {
                image: image(n),
                seen: Vec::new(),
            };
            cache.remember(Key::of(&("request", n)), &record).unwrap();
        }
        cache.tidy(3_500);
        let left: Vec<bool> = (0..5).map(|n| image(n).exists()).collect();
        assert_eq!(left, [false, false, true, true, true]);
        assert!(!cache.record(Key::of(&("request", 0u64))).exists());
        assert!(cache.find(Key::of(&("request", 4u64))).is_some());
    }
}
