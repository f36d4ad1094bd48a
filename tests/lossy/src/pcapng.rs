//! Writes captures: one Ethernet interface, nanoseconds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A capture being written.
pub struct Capture<W: Write = BufWriter<File>> {
    to: W,
    /// The wall clock when the relay's clock began.
    began: Duration,
}

impl Capture {
    /// Makes a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &std::path::Path) -> io::Result<Self> {
        let began = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self::new(
            BufWriter::with_capacity(1 << 20, File::create(path)?),
            began,
        )
    }
}

impl<W: Write> Capture<W> {
    /// Begins a capture.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(mut to: W, began: Duration) -> io::Result<Self> {
        let mut head = Vec::new();
        // Section header: byte order, version 1.0, length unknown.
        block(
            &mut head,
            0x0a0d_0d0a,
            &[&0x1a2b_3c4d_u32.to_le_bytes(), &[1, 0, 0, 0], &[0xff; 8]],
        );
        // Interface: Ethernet, no limit; option if_tsresol (9) of one byte: ten to the minus ninth.
        block(
            &mut head,
            1,
            &[&[1, 0, 0, 0], &[0; 4], &[9, 0, 1, 0, 9, 0, 0, 0], &[0; 4]],
        );
        to.write_all(&head)?;
        Ok(Self { to, began })
    }

    /// Adds a frame, `now` being the time since the capture began.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn frame(&mut self, now: Duration, frame: &[u8]) -> io::Result<()> {
        let ticks = (self.began + now).as_nanos() as u64;
        let length = (frame.len() as u32).to_le_bytes();
        let mut bytes = Vec::with_capacity(frame.len() + 36);
        let (high, low) = ((ticks >> 32) as u32, ticks as u32);
        let padding = &[0; 3][..frame.len().next_multiple_of(4) - frame.len()];
        block(
            &mut bytes,
            6,
            &[
                &[0; 4],
                &high.to_le_bytes(),
                &low.to_le_bytes(),
                &length,
                &length,
                frame,
                padding,
            ],
        );
        self.to.write_all(&bytes)
    }

    /// Everything is on disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn block(to: &mut Vec<u8>, kind: u32, parts: &[&[u8]]) {
    let length = 12 + parts.iter().map(|part| part.len()).sum::<usize>() as u32;
    to.extend(kind.to_le_bytes());
    to.extend(length.to_le_bytes());
    for part in parts {
        to.extend_from_slice(part);
    }
    to.extend(length.to_le_bytes());
}
