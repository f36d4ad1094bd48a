//! From a request's target to the path of a page.
//!
//! Percent-encoding is undone first and dot segments are removed from the result, so that no spelling of `..` gets
//! past. There are no files behind the paths to get at; a program that has some can take this function along.

/// The longest path that is looked up, in bytes.
pub const MAX_PATH: usize = 256;

/// Why a target leads to no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not follow the grammar, or climbs above the root.
    Malformed,
    /// It is longer than the path of any page.
    TooLong,
}

/// The path that a target names, decoded, in `buffer`.
///
/// The target has the origin form (`/path?query`) or the absolute form (`http://host/path?query`, RFC 9112 section
/// 3.2).
///
/// # Errors
/// [`Fault`].
pub fn resolve<'b>(target: &[u8], buffer: &'b mut [u8; MAX_PATH]) -> Result<&'b [u8], Fault> {
    let target = origin(target)?;
    let end = target.iter().position(|b| matches!(b, b'?' | b'#'));
    let encoded = &target[..end.unwrap_or(target.len())];
    let len = decode(encoded, buffer)?;
    let len = remove_dot_segments(buffer, len)?;
    Ok(&buffer[..len])
}

/// Cuts scheme and host off an absolute target.
fn origin(target: &[u8]) -> Result<&[u8], Fault> {
    if target.starts_with(b"/") {
        return Ok(target);
    }
    let scheme = target
        .iter()
        .position(|&b| b == b':')
        .ok_or(Fault::Malformed)?;
    let known = [&b"http"[..], b"https"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&target[..scheme]));
    let rest = target[scheme..].strip_prefix(b"://").filter(|_| known);
    let rest = rest.ok_or(Fault::Malformed)?;
    match rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')) {
        Some(at) if rest[at] == b'/' => Ok(&rest[at..]),
        // A host alone stands for its root (RFC 9110 section 4.2.3).
        _ => Ok(b"/"),
    }
}

fn decode(encoded: &[u8], buffer: &mut [u8; MAX_PATH]) -> Result<usize, Fault> {
    let mut len = 0;
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        let byte = if byte == b'%' {
            let mut digit = || rest.next().and_then(|&b| char::from(b).to_digit(16));
            match (digit(), digit()) {
                (Some(high), Some(low)) => (high << 4 | low) as u8,
                _ => return Err(Fault::Malformed),
            }
        } else {
            byte
        };
        // A zero byte ends names elsewhere; here it is in none.
        if byte == 0 {
            return Err(Fault::Malformed);
        }
        *buffer.get_mut(len).ok_or(Fault::TooLong)? = byte;
        len += 1;
    }
    Ok(len)
}

/// RFC 3986 section 5.2.4, except that a `..` above the root is refused. Works in place: the result is never longer.
fn remove_dot_segments(path: &mut [u8; MAX_PATH], len: usize) -> Result<usize, Fault> {
    let (mut from, mut to) = (0, 0);
    while from < len {
        // `from` is at a slash.
        let segment = path[from + 1..len].iter().position(|&b| b == b'/');
        let end = segment.map_or(len, |at| from + 1 + at);
        let last = end == len;
        match &path[from + 1..end] {
            b"." | b".." => {
                if end - from == 3 {
                    let parent = path[..to].iter().rposition(|&b| b == b'/');
                    to = parent.ok_or(Fault::Malformed)?;
                }
                if last {
                    path[to] = b'/';
                    to += 1;
                }
            }
            _ => {
                path.copy_within(from..end, to);
                to += end - from;
            }
        }
        from = end;
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    fn path(target: &str) -> Result<String, Fault> {
        let mut buffer = [0; MAX_PATH];
        resolve(target.as_bytes(), &mut buffer).map(|path| String::from_utf8_lossy(path).into())
    }

    #[test]
    fn query_and_fragment_are_cut_off() {
        assert_eq!(path("/").unwrap(), "/");
        assert_eq!(path("/a/b?c=/d#e").unwrap(), "/a/b");
        assert_eq!(path("/a#b").unwrap(), "/a");
    }

    #[test]
    fn absolute_targets_name_the_same_pages() {
        assert_eq!(path("http://example.org/a").unwrap(), "/a");
        assert_eq!(path("HTTPS://example.org:8/a?b").unwrap(), "/a");
        assert_eq!(path("http://example.org").unwrap(), "/");
        assert_eq!(path("http://example.org?a/b").unwrap(), "/");
        for target in [
            "ftp://example.org/",
            "http:/a",
            "a",
            "",
            "*",
            ":",
            "example.org:80",
        ] {
            assert_eq!(path(target), Err(Fault::Malformed), "{target}");
        }
    }

    #[test]
    fn percent_encoding_is_undone_once() {
        assert_eq!(path("/%69ndex.html").unwrap(), "/index.html");
        assert_eq!(path("/%2541").unwrap(), "/%41");
        for target in ["/%", "/%4", "/%4g", "/%g4", "/%00", "/a%"] {
            assert_eq!(path(target), Err(Fault::Malformed), "{target}");
        }
    }

    #[test]
    fn dot_segments_are_removed_and_never_climb() {
        assert_eq!(path("/a/./b/../c").unwrap(), "/a/c");
        assert_eq!(path("/a/..").unwrap(), "/");
        assert_eq!(path("/a/.").unwrap(), "/a/");
        assert_eq!(path("/...").unwrap(), "/...");
        assert_eq!(path("/a/b/%2e%2E/c").unwrap(), "/a/c");
        for target in [
            "/..",
            "/../etc/passwd",
            "/a/../../b",
            "/%2e%2e/x",
            "/..%2f..%2fx",
            "/.%2e",
        ] {
            assert_eq!(path(target), Err(Fault::Malformed), "{target}");
        }
    }

    #[test]
    fn long_paths_are_told_apart_from_wrong_ones() {
        let long = String::from("/") + &"a".repeat(MAX_PATH);
        assert_eq!(path(&long), Err(Fault::TooLong));
        assert_eq!(path(&long[..MAX_PATH]).unwrap().len(), MAX_PATH);
    }

    proptest! {
        #[test]
        fn no_target_is_too_strange(target in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = [0; MAX_PATH];
            let _ = resolve(&target, &mut buffer);
        }

        #[test]
        fn no_resolved_path_has_dot_segments(target in "(/(\\.|%2e|%2F|a|/){0,3}){1,8}") {
            if let Ok(path) = path(&target) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path.split('/').all(|s| s != "." && s != ".."), "{}", path);
            }
        }
    }
}
