//! Entity tags (RFC 9110 section 8.8.3) and the fields that list them.

/// A strong entity tag with its quotes: a hash of the content in hexadecimal.
pub type Etag = [u8; 18];

/// The tag of a content. Computed when the program is compiled.
pub const fn etag(content: &[u8], len: u64) -> Etag {
    // FNV-1a. The tags tell versions of a page apart; nobody gains anything by making two alike.
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash = (0xcbf2_9ce4_8422_2325 ^ len).wrapping_mul(PRIME);
    let mut at = 0;
    while at < content.len() {
        hash = (hash ^ content[at] as u64).wrapping_mul(PRIME);
        at += 1;
    }
    let mut tag = [b'"'; 18];
    let mut digit = 0;
    while digit < 16 {
        tag[1 + digit] = b"0123456789abcdef"[(hash >> (60 - 4 * digit)) as usize & 15];
        digit += 1;
    }
    tag
}

/// How tags are compared (RFC 9110 section 8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// A weak tag equals nothing: for `If-Match` and `If-Range`.
    Strong,
    /// Weak tags count like strong ones: for `If-None-Match`.
    Weak,
}

/// True if a field's list of tags, or its `*`, names `tag`.
pub fn list_has(field: &[u8], tag: &Etag, comparison: Comparison) -> bool {
    if field.trim_ascii() == b"*" {
        return true;
    }
    let mut rest = field;
    loop {
        rest = skip(rest);
        let (weak, opaque) = match rest.strip_prefix(b"W/") {
            Some(opaque) => (true, opaque),
            None => (false, rest),
        };
        // A tag has no quote inside. What does not look like a tag ends the list.
        let Some(inner) = opaque.strip_prefix(b"\"") else {
            return false;
        };
        let Some(len) = inner.iter().position(|&b| b == b'"') else {
            return false;
        };
        let found = &opaque[..len + 2];
        if found == tag && (comparison == Comparison::Weak || !weak) {
            return true;
        }
        rest = &opaque[len + 2..];
    }
}

/// Skips what may stand between two tags.
fn skip(list: &[u8]) -> &[u8] {
    let start = list.iter().position(|b| !matches!(b, b' ' | b'\t' | b','));
    &list[start.unwrap_or(list.len())..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Etag = *b"\"0123456789abcdef\"";

    fn strong(field: &str) -> bool {
        list_has(field.as_bytes(), &TAG, Comparison::Strong)
    }

    fn weak(field: &str) -> bool {
        list_has(field.as_bytes(), &TAG, Comparison::Weak)
    }

    #[test]
    fn tags_differ_with_content_and_length() {
        let tags = [etag(b"a", 1), etag(b"b", 1), etag(b"a", 2), etag(b"", 0)];
        for (index, tag) in tags.iter().enumerate() {
            assert!(!tags[..index].contains(tag));
            assert!(tag.starts_with(b"\"") && tag.ends_with(b"\""));
        }
    }

    #[test]
    fn a_list_is_searched_to_its_end() {
        assert!(weak("\"0123456789abcdef\""));
        assert!(weak("\"x\", W/\"y\" ,, \"0123456789abcdef\""));
        assert!(weak("\"a, b\",\"0123456789abcdef\""));
        assert!(weak(" * "));
        assert!(!weak("\"x\", \"y\""));
        assert!(!weak(""));
    }

    #[test]
    fn weak_tags_count_only_in_weak_comparisons() {
        assert!(weak("W/\"0123456789abcdef\""));
        assert!(!strong("W/\"0123456789abcdef\""));
        assert!(strong("W/\"0123456789abcdef\", \"0123456789abcdef\""));
    }

    #[test]
    fn what_is_no_list_matches_nothing() {
        for field in [
            "\"",
            "W/",
            "0123456789abcdef",
            "\"0123456789abcdef",
            "w/\"x\"",
            ",,,",
        ] {
            assert!(!weak(field), "{field}");
        }
    }
}
