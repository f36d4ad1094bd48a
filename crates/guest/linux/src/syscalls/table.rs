//! All system calls by their number.

use super::Call;

/// Behind the greatest number.
pub const COUNT: usize = 512;

/// The families, each with its own list.
const FAMILIES: &[&[Call]] = &[
    super::directory::CALLS,
    super::inotify::CALLS,
    super::io::CALLS,
    super::transfer::CALLS,
    super::xattr::CALLS,
    super::lock::CALLS,
    super::metadata::CALLS,
    super::open::CALLS,
    super::exec::CALLS,
    super::futex::CALLS,
    super::identity::CALLS,
    super::process::CALLS,
    super::ptrace::CALLS,
    super::sched::CALLS,
    super::sem::CALLS,
    super::shm::CALLS,
    super::signal::CALLS,
    super::system::CALLS,
    super::thread::CALLS,
    super::time::CALLS,
    super::uring::CALLS,
    super::epoll::CALLS,
    super::event::CALLS,
    super::memory::CALLS,
    super::socket::CALLS,
    super::pipe::CALLS,
    super::poll::CALLS,
];

static TABLE: [Option<Call>; COUNT] = build();

const fn build() -> [Option<Call>; COUNT] {
    #[allow(
        clippy::large_stack_arrays,
        reason = "it is made when this is compiled"
    )]
    let mut table = [None; COUNT];
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut index = 0;
        while index < FAMILIES[family].len() {
            let call = FAMILIES[family][index];
            assert!(table[call.number as usize].is_none(), "a call listed twice");
            table[call.number as usize] = Some(call);
            index += 1;
        }
        family += 1;
    }
    table
}

/// The call with this number.
pub fn find(number: u64) -> Option<&'static Call> {
    TABLE.get(usize::try_from(number).ok()?)?.as_ref()
}

/// All that are implemented, by number.
pub fn all() -> impl Iterator<Item = &'static Call> {
    TABLE.iter().flatten()
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::super::{State, signature};
    use super::*;

    /// The page of the documentation about system calls.
    #[allow(clippy::format_push_string, reason = "a test need not be quick")]
    fn page() -> String {
        let count = all().count();
        let partly = all()
            .filter(|call| matches!(call.state, State::Partly(_)))
            .count();
        let answered = all()
            .filter(|call| matches!(call.state, State::Answered(_)))
            .count();
        let mut page = String::from("# System calls of the Linux personality\n\n");
        page += "This page is made from the table in `crates/guest/linux/src/syscalls` by a test, which fails when it is out of date; ";
        page += "`KILN_WRITE_DOCS=1 cargo test -p kiln-linux the_page` writes it anew.\n\n";
        page += &format!(
            "Of {} calls of x86-64 Linux {count} are implemented",
            signature::SIGNATURES.len()
        );
        page += &format!(
            ": {} fully, {partly} partly, and {answered} that answer without doing anything, for the reason given. ",
            count - partly - answered
        );
        page += "All others answer `ENOSYS`, and are counted: `kiln run --strace` shows them.\n\n";
        page += "| number | call | state | |\n| --- | --- | --- | --- |\n";
        for &(number, name, _) in signature::SIGNATURES {
            let (state, text) = match find(number.into()).map(|call| call.state) {
                Some(State::Full) => ("full", ""),
                Some(State::Partly(missing)) => ("partly", missing),
                Some(State::Answered(why)) => ("answered", why),
                None => ("-", ""),
            };
            page += &format!("| {number} | `{name}` | {state} | {text} |\n");
        }
        page
    }

    #[test]
    fn the_page_about_system_calls_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/syscalls.md");
        let page = page();
        if std::env::var_os("KILN_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).expect("docs can be written");
        }
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == page,
            "docs/syscalls.md is out of date: KILN_WRITE_DOCS=1 cargo test -p kiln-linux the_page"
        );
    }
}
