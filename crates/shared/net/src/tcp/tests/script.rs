//! Segments in the notation of packetdrill.

use std::vec::Vec;

use crate::tcp::*;

/// What `_` is read as.
pub const ANY: u32 = 0xaaaa_aaaa;

/// A segment as written.
pub struct Parsed {
    pub flags: Flags,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    pub options: Option<Options>,
    pub ecn: Ecn,
    pub ecn_said: bool,
}

impl Parsed {
    /// Reads what stands behind `<` or `>`.
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        let (head, options) = match text.split_once('<') {
            Some((head, options)) => (head, Some(options.trim_end_matches('>'))),
            None => (text, None),
        };
        let mut words = head.split_whitespace().peekable();
        let ecn = match words.peek() {
            Some(&"[ce]") => Some(Ecn::Ce),
            Some(&"[ect0]") => Some(Ecn::Ect0),
            Some(&"[noecn]") => Some(Ecn::NotEct),
            _ => None,
        };
        if ecn.is_some() {
            words.next();
        }
        let flags = words.next().expect("flags");
        let range = words.next().expect("a range");
        let (seq, rest) = range.split_once(':').expect("start:end(len)");
        let len = rest
            .split_once('(')
            .and_then(|(_, len)| len.strip_suffix(')'))
            .expect("(len)");
        let mut parsed = Self {
            flags: flags
                .chars()
                .fold(Flags::default(), |flags, letter| flags | flag(letter)),
            seq: number(seq),
            len: number(len),
            ack: None,
            window: None,
            options: options
                .filter(|&options| options != "...")
                .map(read_options),
            ecn: ecn.unwrap_or_default(),
            ecn_said: ecn.is_some(),
        };
        while let Some(word) = words.next() {
            let value = words.next().expect("a value");
            match word {
                "ack" => parsed.ack = Some(number(value)),
                "win" => parsed.window = Some(number(value) as u16),
                _ => panic!("what is {word}?"),
            }
        }
        parsed
    }
}

fn flag(letter: char) -> Flags {
    match letter {
        'S' => Flags::SYN,
        'F' => Flags::FIN,
        'R' => Flags::RST,
        'P' => Flags::PSH,
        '.' => Flags::ACK,
        'U' => Flags::URG,
        'E' => Flags::ECE,
        'W' => Flags::CWR,
        _ => Flags::default(),
    }
}

/// A relative number; negative ones are before the initial one.
pub fn number(text: &str) -> u32 {
    if text == "_" {
        return ANY;
    }
    let number: i64 = text
        .parse()
        .unwrap_or_else(|_| panic!("{text} is no number"));
    number.cast_unsigned() as u32
}

fn read_options(text: &str) -> Options {
    let mut options = Options::default();
    for option in text.split(',') {
        let words: Vec<&str> = option.split_whitespace().collect();
        match words[..] {
            ["mss", mss] => options.mss = Some(number(mss) as u16),
            ["wscale", shift] => options.window_scale = Some(number(shift) as u8),
            ["sackOK"] => options.sack_permitted = true,
            ["TS", "val", value, "ecr", echo] => {
                options.timestamps = Some(Timestamps {
                    value: number(value),
                    echo: number(echo),
                });
            }
            ["sack", ref blocks @ ..] => {
                for block in blocks {
                    let (start, end) = block.split_once(':').expect("start:end");
                    options.sack.push(Block {
                        start: Seq(number(start)),
                        end: Seq(number(end)),
                    });
                }
            }
            _ => {}
        }
    }
    options
}
