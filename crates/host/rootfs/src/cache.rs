//! Images made before.
//!
//! For each request there is a record: which image, how to start the program, and what was looked at when it was gathered
//! ([`Seen`]). If all of that is as it was, the image still holds, and a start costs reading the record and a call of
//! `stat(2)` for each line. Images are named by what is in them, so that requests with the same result share one.
//!
//! The folder is bounded: images that were not used for longest go first ([`Cache::tidy`]). It is its owner's alone, since
//! images hold files that others may not read ([`Cache::close`]).
//!
//! A record that was torn when the machine stopped is told by its length, and one without its image does not count; that
//! images are whole is for whoever writes them to see to (`kiln_image::compose`).

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::{Look, Seen};

/// What all images together may take if the user does not say otherwise.
pub const DEFAULT_LIMIT: u64 = 4 << 30;

/// An image that is used is marked so this often at most.
const TOUCH: Duration = Duration::from_mins(1);

/// An image that was used less than this ago stays: somebody may be about to open it.
const GRACE: Duration = Duration::from_mins(5);

const FIRST_LINE: &str = "kiln program 2";

/// The name under which the debug file of all images is found here.
pub const DEBUG_FILE: &str = "linux.debug";

/// Permissions of the folder, and of what is in it.
const FOLDER_MODE: u32 = 0o700;
/// Permissions of images and records.
pub const FILE_MODE: u32 = 0o600;
/// All that others could do, and the bit that says that a folder is for everybody.
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;

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

    /// Makes the folder, if it is not there, for its owner alone.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&self.folder)
    }

    /// Closes the folder to others if it is open to them, with what is in it. A folder that holds other things than these, or
    /// is everybody's, stays as it is, and only images and records in it are closed. What is another user's stays open.
    pub fn close(&self) {
        let open = fs::metadata(&self.folder).is_ok_and(|meta| meta.mode() & OTHERS != 0);
        if open && self.close_files() && !is_everybodys(&self.folder) {
            let _ = close(&self.folder, FOLDER_MODE);
        }
    }

    /// Closes images and records to others. False if there is something else.
    fn close_files(&self) -> bool {
        let mut alone = true;
        for (entry, name) in self.entries() {
            match (kind(&name), entry.metadata()) {
                (Kind::Other, _) => alone = false,
                (_, Ok(meta)) if meta.is_file() && meta.mode() & OTHERS != 0 => {
                    let _ = close(&entry.path(), FILE_MODE);
                }
                _ => {}
            }
        }
        alone
    }

    fn entries(&self) -> impl Iterator<Item = (fs::DirEntry, String)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten();
        entries.filter_map(Result::ok).map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (entry, name)
        })
    }

    fn record(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{key}.record"))
    }

    /// The image made for a request before, if it still holds.
    pub fn find(&self, request: Key) -> Option<PathBuf> {
        let path = self.record(request);
        let bytes = fs::read(&path).ok()?;
        let record = parse(&bytes)?;
        if !record.seen.iter().all(Seen::holds) {
            return None;
        }
        mark_used(&record.image).ok()?;
        Some(record.image)
    }

    /// Remembers the image made for a request.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn remember(&self, request: Key, record: &Record) -> io::Result<()> {
        let path = self.record(request);
        let temporary = path.with_extension(format!("{}", std::process::id()));
        // What a process of the same number left there may be open to others.
        let _ = fs::remove_file(&temporary);
        File::options()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&print(record)))
            .and_then(|()| fs::rename(&temporary, &path))
            .inspect_err(|_| {
                // The first error is the one to report.
                let _ = fs::remove_file(&temporary);
            })
    }

    /// Removes the images that were not used for longest until all together take at most `limit` bytes, records without an
    /// image, and what was left by builds that were interrupted. The image `made` stays, and so do those that were used in
    /// the last minutes, whatever they take.
    pub fn tidy(&self, limit: u64, made: &Path) {
        let mut images = Vec::new();
        let mut records = Vec::new();
        for (entry, name) in self.entries() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            let age = age(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            match kind(&name) {
                Kind::Image => images.push((age, taken(&meta), path)),
                Kind::Record => records.push(path),
                Kind::Temporary if age > Duration::from_hours(24) && meta.is_file() => {
                    let _ = fs::remove_file(path);
                }
                Kind::Temporary | Kind::Link | Kind::Other => {}
            }
        }
        images.sort_unstable();
        let mut total = 0u64;
        for (age, len, path) in images {
            let with_it = total.saturating_add(len);
            // It may have been marked meanwhile.
            let idle = || used_ago(&path).is_ok_and(|age| age >= GRACE);
            if with_it > limit && path != made && age >= GRACE && idle() {
                // Whoever runs it keeps it.
                let _ = fs::remove_file(path);
            } else {
                total = with_it;
            }
        }
        for path in records {
            let image = fs::read(&path)
                .ok()
                .and_then(|bytes| Some(parse(&bytes)?.image));
            if image.is_none_or(|image| !image.exists()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// What a file in the folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `NAME-KEY.kiln`
    Image,
    /// `KEY.record`
    Record,
    /// `.NAME-KEY.kiln.PID` or `KEY.PID`, on the way to one of these.
    Temporary,
    /// The debug file of all images, which is not kept here.
    Link,
    /// Not the cache's.
    Other,
}

fn kind(name: &str) -> Kind {
    let is_key = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_image = |stem: &str| stem.rsplit_once('-').is_some_and(|(_, key)| is_key(key));
    if name == DEBUG_FILE {
        return Kind::Link;
    }
    let Some((stem, ending)) = name.rsplit_once('.') else {
        return Kind::Other;
    };
    let is_number = !ending.is_empty() && ending.bytes().all(|b| b.is_ascii_digit());
    match ending {
        "kiln" if is_image(stem) => Kind::Image,
        "record" if is_key(stem) => Kind::Record,
        _ if is_number && is_key(stem) => Kind::Temporary,
        _ if is_number && stem.starts_with('.') => match stem.strip_suffix(".kiln") {
            Some(stem) if is_image(stem) => Kind::Temporary,
            _ => Kind::Other,
        },
        _ => Kind::Other,
    }
}

/// How long ago it was. A clock that was set back makes nothing young.
fn age(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_else(|error| error.duration())
}

/// What a file takes of the disk: less than its length if it has holes.
fn taken(meta: &fs::Metadata) -> u64 {
    meta.len().min(meta.blocks().saturating_mul(512))
}

fn is_everybodys(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|meta| meta.mode() & STICKY != 0)
}

fn close(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// How long ago an image was used.
fn used_ago(image: &Path) -> io::Result<Duration> {
    fs::metadata(image)?.modified().map(age)
}

/// Marks an image as used now, to know which one to remove some day.
///
/// # Errors
/// If it is not there.
pub fn mark_used(image: &Path) -> io::Result<()> {
    if used_ago(image)? >= TOUCH {
        // Another user's image can be used, too.
        let _ = File::options()
            .append(true)
            .open(image)
            .and_then(|file| file.set_modified(SystemTime::now()));
    }
    Ok(())
}

/// The record as it lies in a file: a line that says what it is and how many bytes follow, the image, then for each thing
/// that was looked at what counted of it, its stamp and path, each ended by a NUL byte.
fn print(record: &Record) -> Vec<u8> {
    let mut rest = record.image.as_os_str().as_bytes().to_vec();
    rest.push(0);
    for seen in &record.seen {
        let look = match seen.look {
            Look::All => 'a',
            Look::Way => 'w',
        };
        let [a, b, c, d] = seen.stamp;
        rest.extend(format!("{look} {a:x} {b:x} {c:x} {d:x} ").bytes());
        rest.extend(seen.path.as_os_str().as_bytes());
        rest.push(0);
    }
    let mut out = format!("{FIRST_LINE} {:x}\0", rest.len()).into_bytes();
    out.extend(rest);
    out
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let start = bytes.iter().position(|&b| b == 0)?;
    let (first, rest) = (&bytes[..start], &bytes[start + 1..]);
    if first != format!("{FIRST_LINE} {:x}", rest.len()).as_bytes() {
        return None;
    }
    let mut lines = rest.strip_suffix(&[0])?.split(|&b| b == 0);
    let image = path_of(lines.next()?);
    let mut seen = Vec::new();
    for line in lines {
        let mut words = line.splitn(6, |&b| b == b' ');
        let look = match words.next()? {
            b"a" => Look::All,
            b"w" => Look::Way,
            _ => return None,
        };
        let mut stamp = [0; 4];
        for word in &mut stamp {
            *word = u64::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 16).ok()?;
        }
        seen.push(Seen {
            path: path_of(words.next()?),
            look,
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
            mark_ago(&image(n), GRACE + Duration::from_secs(100 - n));
            let record = Record {
                image: image(n),
                seen: Vec::new(),
            };
            cache.remember(Key::of(&("request", n)), &record).unwrap();
        }
        cache.tidy(3_500, Path::new("/none"));
        let left: Vec<bool> = (0..5).map(|n| image(n).exists()).collect();
        assert_eq!(left, [false, false, true, true, true]);
        assert!(!cache.record(Key::of(&("request", 0u64))).exists());
        assert!(cache.find(Key::of(&("request", 4u64))).is_some());
    }

    fn mark_ago(image: &Path, ago: Duration) {
        let file = File::options().append(true).open(image).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }

    #[test]
    fn what_was_made_or_used_just_now_stays_however_large_it_is() {
        let scratch = Scratch::new("large");
        let cache = Cache::new(&scratch.0);
        let image = |name: &str| cache.image(name, Key::of(&name));
        for (name, len, minutes) in [
            ("made", 5000, 60),
            ("used", 5000, 1),
            ("large", 5000, 10),
            ("small", 100, 20),
            ("ahead", 5000, 0),
        ] {
            fs::write(image(name), vec![0; len]).unwrap();
            mark_ago(&image(name), Duration::from_mins(minutes));
        }
        // The clock was wrong then.
        let file = File::options().append(true).open(image("ahead")).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_hours(1000))
            .unwrap();
        let left = |limit| {
            cache.tidy(limit, &image("made"));
            ["made", "used", "large", "small", "ahead"].map(|name| image(name).exists())
        };
        // One that is too large does not take others with it.
        assert_eq!(left(5_200), [true, true, false, true, false]);
        assert_eq!(left(1), [true, true, false, false, false]);
    }

    #[test]
    fn holes_are_not_counted() {
        let scratch = Scratch::new("sparse");
        let cache = Cache::new(&scratch.0);
        let image = cache.image("x", Key::of(&1));
        File::create(&image).unwrap().set_len(1 << 30).unwrap();
        mark_ago(&image, GRACE * 2);
        cache.tidy(1 << 20, Path::new("/none"));
        assert!(image.exists());
    }

    #[test]
    fn files_of_others_are_neither_removed_nor_closed() {
        let scratch = Scratch::new("others");
        let cache = Cache::new(&scratch.0);
        let key = Key::of(&1);
        let old = Duration::from_hours(1000);
        let files = [
            ("notes.txt".to_owned(), Kind::Other),
            ("mine.kiln".to_owned(), Kind::Other),
            (".profile.1".to_owned(), Kind::Other),
            (format!("x-{key}.kiln"), Kind::Image),
            (format!("{key}.record"), Kind::Record),
            (format!("{key}.17"), Kind::Temporary),
            (format!(".x-{key}.kiln.17"), Kind::Temporary),
        ];
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        for (name, expected) in &files {
            assert_eq!(kind(name), *expected, "{name}");
            let path = scratch.0.join(name);
            fs::write(&path, "content").unwrap();
            close(&path, 0o644).unwrap();
            mark_ago(&path, old);
        }
        close(&scratch.0, 0o755).unwrap();
        cache.close();
        assert_eq!(mode(&scratch.0), 0o755);
        for (name, kind) in &files {
            let closed = mode(&scratch.0.join(name)) == 0o600;
            assert_eq!(closed, *kind != Kind::Other, "{name}");
        }
        cache.tidy(0, Path::new("/none"));
        for (name, kind) in &files {
            let left = scratch.0.join(name).exists();
            assert_eq!(left, *kind == Kind::Other, "{name}");
        }
    }

    #[test]
    fn the_folder_is_its_owners_alone() {
        let scratch = Scratch::new("alone");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let cache = Cache::new(scratch.0.join("a/b"));
        cache.make().unwrap();
        assert_eq!(mode(&scratch.0.join("a")), 0o700);
        assert_eq!(mode(cache.folder()), 0o700);
        let record = Record {
            image: cache.image("x", Key::of(&1)),
            seen: Vec::new(),
        };
        cache.remember(Key::of(&2), &record).unwrap();
        let path = cache.record(Key::of(&2));
        assert_eq!(mode(&path), 0o600);
        // As it was made in former times.
        fs::write(&record.image, "image").unwrap();
        for (path, mode) in [
            (&*record.image, 0o644),
            (&*path, 0o644),
            (cache.folder(), 0o755),
        ] {
            close(path, mode).unwrap();
        }
        cache.close();
        assert_eq!(
            [&*record.image, &*path, cache.folder()].map(mode),
            [0o600, 0o600, 0o700]
        );
    }

    #[test]
    fn a_torn_record_does_not_count() {
        let scratch = Scratch::new("torn");
        let record = Record {
            image: scratch.0.join("image"),
            seen: vec![
                Seen::now(Path::new("/etc")),
                Seen::now(Path::new("/etc/passwd")),
            ],
        };
        let bytes = print(&record);
        assert_eq!(parse(&bytes), Some(record));
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None, "{len} bytes of it");
            let mut zeroes = bytes[..len].to_vec();
            zeroes.resize(bytes.len(), 0);
            if zeroes != bytes {
                assert_eq!(parse(&zeroes), None, "zeroes from {len} on");
            }
        }
        assert_eq!(parse(&[]), None);
    }
}
