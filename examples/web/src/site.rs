//! The pages, all in the image.
//!
//! A page's entity tag is computed when the program is compiled. Pages made for measurements repeat one block, so that a
//! megabyte of body costs neither image nor memory.

use crate::etag::{Etag, etag};

/// A page.
#[derive(Debug)]
pub struct Page {
    /// Where it is found.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its content.
    pub content: Content,
    /// Its entity tag.
    pub etag: Etag,
}

/// So many bytes: a block, as often as it takes.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// What is repeated; not empty.
    pub block: &'static [u8],
    /// Length of the whole.
    pub len: u64,
}

impl Content {
    /// The bytes as they are.
    pub const fn new(bytes: &'static [u8]) -> Self {
        Self {
            block: bytes,
            len: bytes.len() as u64,
        }
    }
}

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

const fn page(path: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Page {
    Page {
        path,
        content_type,
        content: Content::new(bytes),
        etag: etag(bytes, bytes.len() as u64),
    }
}

const fn repeated(path: &'static str, block: &'static [u8], len: u64) -> Page {
    Page {
        path,
        content_type: TEXT,
        content: Content { block, len },
        etag: etag(block, len),
    }
}

/// Numbered lines of 64 characters.
const fn lines<const LEN: usize>() -> [u8; LEN] {
    let mut text = [b'.'; LEN];
    let mut at = 0;
    while at < LEN {
        let line = at / 64;
        text[at] = match at % 64 {
            0 => b'0' + (line / 100 % 10) as u8,
            1 => b'0' + (line / 10 % 10) as u8,
            2 => b'0' + (line % 10) as u8,
            3 => b' ',
            63 => b'\n',
            column => b'A' + (column % 26) as u8,
        };
        at += 1;
    }
    text
}

static BLOCK: [u8; 16 * 1024] = lines();
static SMALL: [u8; 612] = lines();

static INDEX: &[u8] = include_bytes!("../site/index.html");

static PAGES: [Page; 7] = [
    page("/", HTML, INDEX),
    page("/index.html", HTML, INDEX),
    page(
        "/style.css",
        "text/css; charset=utf-8",
        include_bytes!("../site/style.css"),
    ),
    page(
        "/kiln.svg",
        "image/svg+xml",
        include_bytes!("../site/kiln.svg"),
    ),
    page("/robots.txt", TEXT, include_bytes!("../site/robots.txt")),
    // As long as the page that nginx greets with, which many measurements fetch.
    page("/bench/612", TEXT, &SMALL),
    repeated("/bench/1m", &BLOCK, 1024 * 1024),
];

/// What a visitor sees who asks for no page of these.
pub static NOT_FOUND: Page = page("", HTML, include_bytes!("../site/404.html"));

/// The page at a path.
pub fn find(path: &[u8]) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.path.as_bytes() == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn every_page_is_found_and_has_a_content() {
        for page in &PAGES {
            assert_eq!(find(page.path.as_bytes()).unwrap().path, page.path);
            assert!(!page.content.block.is_empty());
        }
        assert!(find(b"/nowhere").is_none());
        assert!(find(b"").is_none());
    }

    #[test]
    fn the_pages_link_only_to_pages() {
        for page in [&INDEX, &NOT_FOUND.content.block] {
            let text = String::from_utf8(page.to_vec()).unwrap();
            for (attribute, _) in text.match_indices("=\"/") {
                let target = &text[attribute + 2..];
                let target = &target[..target.find('"').unwrap()];
                assert!(find(target.as_bytes()).is_some(), "{target}");
            }
        }
    }
}
