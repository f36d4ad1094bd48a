//! The line discipline of terminals (`termios(3)`, `N_TTY`): what becomes of typed characters, and of written ones.
//!
//! It is a pure machine. Typed bytes go in by [`Discipline::input`], which says what to echo and which signal to send; the
//! program takes what it may read by [`Discipline::read`]; what it writes goes through [`Discipline::output`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// `struct termios` of the kernel: four words of flags, then in bytes a line discipline and 19 control characters.
pub type Termios = [u32; 9];

/// The settings of a fresh terminal: canonical, echoing, 38400 baud.
pub const FRESH: Termios = {
    let control = [
        0, 3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0,
    ];
    let mut termios = [0x4500, 0x5, 0xbf, 0x8a3b, 0, 0, 0, 0, 0];
    let mut byte = 0;
    while byte < control.len() {
        termios[4 + byte / 4] |= (control[byte] as u32) << (8 * (byte % 4));
        byte += 1;
    }
    termios
};

/// The longest line (`N_TTY_BUF_SIZE`), and how much is kept for a reader.
const MOST: usize = 4096;

bitflags::bitflags! {
    /// `c_iflag`
    #[derive(Clone, Copy, Debug)]
    struct Input: u32 {
        const ISTRIP = 0o40;
        const INLCR = 0o100;
        const IGNCR = 0o200;
        const ICRNL = 0o400;
        const IUCLC = 0o1000;
        const IXON = 0o2000;
        const IXANY = 0o4000;
        const IMAXBEL = 0o20000;
        const IUTF8 = 0o40000;
    }

    /// `c_oflag`
    #[derive(Clone, Copy, Debug)]
    struct Output: u32 {
        const OPOST = 0o1;
        const OLCUC = 0o2;
        const ONLCR = 0o4;
        const OCRNL = 0o10;
        const ONOCR = 0o20;
        const ONLRET = 0o40;
        const XTABS = 0o14000;
    }

    /// `c_lflag`
    #[derive(Clone, Copy, Debug)]
    struct Local: u32 {
        const ISIG = 0o1;
        const ICANON = 0o2;
        const ECHO = 0o10;
        const ECHOE = 0o20;
        const ECHOK = 0o40;
        const ECHONL = 0o100;
        const NOFLSH = 0o200;
        const TOSTOP = 0o400;
        const ECHOCTL = 0o1000;
        const ECHOKE = 0o4000;
        const IEXTEN = 0o100_000;
    }
}

/// Control characters by their place in `c_cc`.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
enum Control {
    Interrupt = 0,
    Quit = 1,
    Erase = 2,
    Kill = 3,
    EndOfFile = 4,
    Time = 5,
    Minimum = 6,
    Start = 8,
    Stop = 9,
    Suspend = 10,
    EndOfLine = 11,
    Reprint = 12,
    WordErase = 14,
    Literal = 15,
    EndOfLine2 = 16,
}

/// What a typed character asks for beyond being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `SIGINT` for the foreground group.
    Interrupt,
    /// `SIGQUIT`.
    Quit,
    /// `SIGTSTP`.
    Suspend,
    /// Output stops.
    Stop,
    /// Output goes on.
    Start,
}

/// The state of one terminal.
#[derive(Debug)]
pub struct Discipline {
    termios: Termios,
    /// The line that is being typed.
    line: Vec<u8>,
    /// The column where it began.
    line_column: usize,
    /// Lines to be read, each with its end; one that ended by the end-of-file character has none.
    lines: VecDeque<Vec<u8>>,
    /// How much of the first one has been read.
    taken: usize,
    /// What can be read while lines are not assembled.
    raw: VecDeque<u8>,
    /// Where the cursor is.
    column: usize,
    /// The next character is taken as it is.
    literal: bool,
    /// Output is stopped.
    stopped: bool,
}

impl Default for Discipline {
    fn default() -> Self {
        Self {
            termios: FRESH,
            line: Vec::new(),
            line_column: 0,
            lines: VecDeque::new(),
            taken: 0,
            raw: VecDeque::new(),
            column: 0,
            literal: false,
            stopped: false,
        }
    }
}

impl Discipline {
    fn input_flags(&self) -> Input {
        Input::from_bits_truncate(self.termios[0])
    }

    fn output_flags(&self) -> Output {
        Output::from_bits_truncate(self.termios[1])
    }

    fn local(&self) -> Local {
        Local::from_bits_truncate(self.termios[3])
    }

    fn control(&self, which: Control) -> u8 {
        let at = which as usize + 1;
        self.termios[4 + at / 4].to_ne_bytes()[at % 4]
    }

    /// True if `byte` is this control character; 0 disables one.
    fn is(&self, byte: u8, which: Control) -> bool {
        byte != 0 && byte == self.control(which)
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        self.termios
    }

    /// Changes the settings. What has been typed stays readable.
    pub fn set_termios(&mut self, termios: Termios) {
        let was = self.local().contains(Local::ICANON);
        self.termios = termios;
        let is = self.local().contains(Local::ICANON);
        if was && !is {
            let taken = core::mem::take(&mut self.taken);
            let lines = core::mem::take(&mut self.lines);
            for (index, line) in lines.into_iter().enumerate() {
                self.raw.extend(&line[if index == 0 { taken } else { 0 }..]);
            }
            self.raw.extend(core::mem::take(&mut self.line));
        } else if is && !was {
            for byte in core::mem::take(&mut self.raw) {
                self.line.push(byte);
                if byte == b'\n' {
                    self.lines.push_back(core::mem::take(&mut self.line));
                }
            }
        }
        if !self.input_flags().contains(Input::IXON) {
            self.stopped = false;
        }
    }

    /// True if output waits for the start character.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Stops output or lets it go on (`tcflow(3)`).
    pub fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// `VMIN` and `VTIME` in tenths of a second, if lines are not assembled.
    pub fn minimum(&self) -> Option<(usize, u64)> {
        (!self.local().contains(Local::ICANON)).then(|| {
            let minimum = self.control(Control::Minimum);
            (minimum.into(), self.control(Control::Time).into())
        })
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> usize {
        match self.minimum() {
            Some(_) => self.raw.len(),
            None => self.lines.iter().map(Vec::len).sum::<usize>() - self.taken,
        }
    }

    /// True if a read has something to give: bytes, or an end of file.
    pub fn has_input(&self) -> bool {
        match self.minimum() {
            Some((minimum, 0)) => self.raw.len() >= minimum.max(1),
            Some(_) => !self.raw.is_empty(),
            None => !self.lines.is_empty(),
        }
    }

    /// True if more can be typed.
    pub fn has_room(&self) -> bool {
        // A line that is too long loses its end, so there is always room for its end character.
        self.readable() + self.line.len() < MOST
            || (self.minimum().is_none() && self.lines.is_empty())
    }

    /// Takes at most a line.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        if self.minimum().is_some() {
            let len = to.len().min(self.raw.len());
            for (to, from) in to.iter_mut().zip(self.raw.drain(..len)) {
                *to = from;
            }
            return len;
        }
        let Some(line) = self.lines.front() else {
            return 0;
        };
        let rest = line.get(self.taken..).unwrap_or_default();
        let len = rest.len().min(to.len());
        to[..len].copy_from_slice(&rest[..len]);
        self.taken += len;
        if self.taken >= line.len() {
            self.lines.pop_front();
            self.taken = 0;
        }
        len
    }

    /// Forgets what can be read (`tcflush(3)`).
    pub fn flush_input(&mut self) {
        self.line.clear();
        self.lines.clear();
        self.raw.clear();
        self.taken = 0;
    }

    /// A character is typed: what is echoed goes to `echo`.
    pub fn input(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<Request> {
        let flags = self.input_flags();
        let local = self.local();
        let mut byte = byte;
        if flags.contains(Input::ISTRIP) {
            byte &= 0x7f;
        }
        if flags.contains(Input::IUCLC) && local.contains(Local::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if core::mem::take(&mut self.literal) {
            self.take_in(byte, echo);
            return None;
        }
        match byte {
            b'\r' if flags.contains(Input::IGNCR) => return None,
            b'\r' if flags.contains(Input::ICRNL) => byte = b'\n',
            b'\n' if flags.contains(Input::INLCR) => byte = b'\r',
            _ => {}
        }
        if flags.contains(Input::IXON) {
            if self.is(byte, Control::Start) {
                self.stopped = false;
                return Some(Request::Start);
            }
            if self.is(byte, Control::Stop) {
                self.stopped = true;
                return Some(Request::Stop);
            }
        }
        if local.contains(Local::ISIG) {
            let request = [
                (Control::Interrupt, Request::Interrupt),
                (Control::Quit, Request::Quit),
                (Control::Suspend, Request::Suspend),
            ]
            .into_iter()
            .find(|&(control, _)| self.is(byte, control));
            if let Some((_, request)) = request {
                if !local.contains(Local::NOFLSH) {
                    self.flush_input();
                }
                self.echo(byte, echo);
                return Some(request);
            }
        }
        let restarted = self.stopped && flags.contains(Input::IXANY);
        if restarted {
            self.stopped = false;
        }
        if local.contains(Local::ICANON) {
            self.edit(byte, echo);
        } else {
            self.take_in(byte, echo);
        }
        restarted.then_some(Request::Start)
    }

    /// A character that is neither a signal nor flow control, while lines are assembled.
    fn edit(&mut self, byte: u8, echo: &mut Vec<u8>) {
        let local = self.local();
        let extended = local.contains(Local::IEXTEN);
        if self.is(byte, Control::Erase) {
            let before = self.line.len();
            self.erase_one();
            self.show_erased(before, byte, echo);
        } else if self.is(byte, Control::Kill) {
            if local.contains(Local::ECHOE | Local::ECHOKE) {
                self.erase_to(0, echo);
            } else {
                self.line.clear();
                self.echo(byte, echo);
                if local.contains(Local::ECHO | Local::ECHOK) {
                    self.output_byte(b'\n', echo);
                }
            }
        } else if extended && self.is(byte, Control::WordErase) {
            let is_word =
                |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
            let mut keep = self.line.len();
            while keep > 0 && !is_word(&self.line[keep - 1]) {
                keep -= 1;
            }
            while keep > 0 && is_word(&self.line[keep - 1]) {
                keep -= 1;
            }
            self.erase_to(keep, echo);
        } else if extended && self.is(byte, Control::Literal) {
            self.literal = true;
            if local.contains(Local::ECHO | Local::ECHOCTL) {
                self.output_byte(b'^', echo);
                self.output_byte(8, echo);
            }
        } else if extended && local.contains(Local::ECHO) && self.is(byte, Control::Reprint) {
            self.echo(byte, echo);
            self.output_byte(b'\n', echo);
            for byte in self.line.clone() {
                self.echo(byte, echo);
            }
        } else if self.is(byte, Control::EndOfFile) {
            self.lines.push_back(core::mem::take(&mut self.line));
        } else if byte == b'\n' {
            self.line.push(byte);
            if local.intersects(Local::ECHO | Local::ECHONL) {
                self.output_byte(byte, echo);
            }
            self.lines.push_back(core::mem::take(&mut self.line));
        } else if self.is(byte, Control::EndOfLine)
            || (extended && self.is(byte, Control::EndOfLine2))
        {
            self.line.push(byte);
            self.echo(byte, echo);
            self.lines.push_back(core::mem::take(&mut self.line));
        } else {
            self.take_in(byte, echo);
        }
    }

    /// An ordinary character.
    fn take_in(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if self.local().contains(Local::ICANON) {
            if self.line.len() >= MOST - 1 {
                if self.input_flags().contains(Input::IMAXBEL) {
                    self.output_byte(7, echo);
                }
                return;
            }
            if self.line.is_empty() {
                self.line_column = self.column;
            }
            self.line.push(byte);
        } else if self.raw.len() < MOST {
            self.raw.push_back(byte);
        }
        self.echo(byte, echo);
    }

    fn erase_one(&mut self) {
        let last = self.line.pop();
        if self.input_flags().contains(Input::IUTF8) && last.is_some_and(|b| b & 0xc0 == 0x80) {
            // The rest of a character of several bytes.
            while let Some(byte) = self.line.pop() {
                if byte & 0xc0 != 0x80 {
                    break;
                }
            }
        }
    }

    /// Shows that the line has become shorter.
    fn show_erased(&mut self, before: usize, byte: u8, echo: &mut Vec<u8>) {
        if self.line.len() == before || !self.local().contains(Local::ECHO) {
            return;
        }
        if !self.local().contains(Local::ECHOE) {
            self.echo(byte, echo);
            return;
        }
        let end = self.end_of_line();
        while self.column > end {
            echo.extend_from_slice(b"\x08 \x08");
            self.column -= 1;
        }
    }

    fn erase_to(&mut self, keep: usize, echo: &mut Vec<u8>) {
        let before = self.line.len();
        self.line.truncate(keep);
        self.show_erased(before, self.control(Control::Kill), echo);
    }

    /// The column behind the line as it is shown.
    fn end_of_line(&self) -> usize {
        let shows_control = self.local().contains(Local::ECHOCTL);
        let utf8 = self.input_flags().contains(Input::IUTF8);
        self.line
            .iter()
            .fold(self.line_column, |column, &byte| match byte {
                b'\t' => (column | 7) + 1,
                0..32 | 127 => column + if shows_control { 2 } else { 0 },
                _ if utf8 && byte & 0xc0 == 0x80 => column,
                _ => column + 1,
            })
    }

    fn echo(&mut self, byte: u8, echo: &mut Vec<u8>) {
        if !self.local().contains(Local::ECHO) {
            return;
        }
        let control = byte < 32 || byte == 127;
        if control && byte != b'\t' && byte != b'\n' && self.local().contains(Local::ECHOCTL) {
            self.output_byte(b'^', echo);
            self.output_byte(byte ^ 0x40, echo);
        } else {
            self.output_byte(byte, echo);
        }
    }

    /// What the terminal gets for written bytes.
    pub fn output(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        for &byte in bytes {
            self.output_byte(byte, to);
        }
    }

    fn output_byte(&mut self, byte: u8, to: &mut Vec<u8>) {
        let flags = self.output_flags();
        if !flags.contains(Output::OPOST) {
            self.advance(byte);
            to.push(byte);
            return;
        }
        match byte {
            b'\n' if flags.contains(Output::ONLCR) => {
                self.column = 0;
                to.extend_from_slice(b"\r\n");
            }
            b'\n' => {
                if flags.contains(Output::ONLRET) {
                    self.column = 0;
                }
                to.push(b'\n');
            }
            b'\r' if flags.contains(Output::ONOCR) && self.column == 0 => {}
            b'\r' if flags.contains(Output::OCRNL) => to.push(b'\n'),
            b'\t' if flags.contains(Output::XTABS) => {
                let next = (self.column | 7) + 1;
                to.resize(to.len() + next - self.column, b' ');
                self.column = next;
            }
            byte => {
                let byte = if flags.contains(Output::OLCUC) {
                    byte.to_ascii_uppercase()
                } else {
                    byte
                };
                self.advance(byte);
                to.push(byte);
            }
        }
    }

    fn advance(&mut self, byte: u8) {
        match byte {
            b'\r' => self.column = 0,
            8 => self.column = self.column.saturating_sub(1),
            b'\t' => self.column = (self.column | 7) + 1,
            0..32 | 127 => {}
            _ if self.input_flags().contains(Input::IUTF8) && byte & 0xc0 == 0x80 => {}
            _ => self.column += 1,
        }
    }
}

#[cfg(test)]
mod tests;
