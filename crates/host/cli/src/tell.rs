//! What the user is told besides what he asked for: on the standard error output.

use std::fmt::Display;
use std::io::{self, Write};

/// Says something after `kiln: `. Where nobody can be told, on a full disk or to a reader that has gone, the work goes on.
pub fn tell(text: impl Display) {
    say(&mut io::stderr().lock(), &text);
}

/// One write, so that lines of several processes do not mix.
fn say(to: &mut impl Write, text: &impl Display) {
    let _ = to.write_all(format!("kiln: {text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_write_and_a_full_disk_is_no_end() {
        let mut to = Vec::new();
        say(&mut to, &format_args!("made {}", 1));
        assert_eq!(to, b"kiln: made 1\n");
        say(&mut Full, &"nobody hears it");
    }
}
