//! Reads and writes the files of `/proc`, as a program would.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::*;
use crate::event::testing;
use crate::fs::{Inode, OpenFile, OpenFlags};
use crate::io::Sink;

fn walk(path: &str) -> Result<Rc<dyn Inode>> {
    let mut here = crate::proc::root();
    for name in path.split('/') {
        here = here.lookup(name.as_bytes())?;
    }
    Ok(here)
}

fn read(thread: &Rc<Thread>, path: &str) -> Result<String> {
    let inode = walk(path)?;
    let file = inode
        .open(thread, OpenFlags::empty())?
        .ok_or(Errno::EISDIR)?;
    let open = OpenFile::new(file, OpenFlags::empty());
    let mut all = Vec::new();
    loop {
        let mut piece = [0; 100];
        let got = open
            .file
            .read(thread, &open, &mut Sink::kernel(&mut piece))?;
        if got == 0 {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
        all.extend_from_slice(&piece[..got]);
    }
}

#[test]
fn some_files_can_be_written() {
    let thread = testing::thread();
    let write = |path: &str, text: &str| {
        let inode = walk(path).expect("there");
        let file = inode.open(&thread, OpenFlags::WRONLY).expect("a file");
        let open = OpenFile::new(file.expect("a file"), OpenFlags::WRONLY);
        let from = &mut crate::io::Source::kernel(text.as_bytes());
        open.file.write(&thread, &open, from)
    };
    let filter = |text: &str| {
        let written = write("1/coredump_filter", text);
        written.map(|_| read(&thread, "1/coredump_filter").expect("text"))
    };
    let before = read(&thread, "1/coredump_filter");
    assert_eq!(before.expect("text"), "00000033\n");
    assert_eq!(filter("0x7f\n").expect("taken"), "0000007f\n");
    assert_eq!(filter("010").expect("taken"), "00000008\n");
    assert_eq!(filter("0xffffffff").expect("taken"), "000001ff\n");
    assert_eq!(filter("x"), Err(Errno::EINVAL));
    assert_eq!(write("1/timerslack_ns", "70000\n"), Ok(6));
    assert_eq!(thread.timer_slack.get(), 70_000);
    assert_eq!(write("1/timerslack_ns", "0"), Ok(1));
    let slack = read(&thread, "1/timerslack_ns");
    assert_eq!(slack.expect("text"), "50000\n");
    assert_eq!(read(&thread, "1/attr/current"), Err(Errno::EINVAL));
    let sched = read(&thread, "1/sched").expect("text");
    assert!(sched.contains(" (1, #threads: 1)\n"), "{sched}");
}

#[test]
fn counters_come_as_names_and_numbers() {
    let thread = testing::thread();
    for file in ["snmp", "netstat"] {
        let text = read(&thread, &format!("1/net/{file}")).expect("text");
        let lines: Vec<_> = text.lines().collect();
        for pair in lines.chunks(2) {
            let [names, numbers] = pair else {
                panic!("{text}");
            };
            let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
            let (names, numbers) = (words(names), words(numbers));
            assert_eq!((names.len(), &names[0]), (numbers.len(), &numbers[0]));
            assert!(numbers[1..].iter().all(|n| n.parse::<i64>().is_ok()));
        }
    }
}

#[test]
fn every_file_of_a_process_can_be_read() {
    let thread = testing::thread();
    let (reader, _writer) = crate::event::pipe::pair(OpenFlags::empty());
    thread.process.files.add(reader, true, 3).expect("room");
    for entry in PROCESS {
        if let Node::File(..) | Node::Fixed(_) = entry.node {
            let text = read(&thread, &format!("1/{}", entry.name));
            assert!(text.is_ok(), "{}: {text:?}", entry.name);
        }
    }
    let stat = read(&thread, "1/task/1/stat").expect("text");
    assert_eq!(stat.split_ascii_whitespace().count(), 52);
    // `starttime` counts from the machine's start, as `/proc/uptime` does.
    assert_eq!(stat.split_ascii_whitespace().nth(21), Some("0"));
    let info = read(&thread, "1/fdinfo/3").expect("text");
    assert!(info.contains("flags:\t02000000\n"), "{info}");
    let link = walk("1/fd/3").expect("there").read_link(&thread);
    assert!(link.expect("text").starts_with(b"pipe:["));
    assert_eq!(walk("1/fd/4").err(), Some(Errno::ENOENT));
    assert_eq!(walk("01").err(), Some(Errno::ENOENT));
    assert_eq!(walk("2").err(), Some(Errno::ENOENT));
}

#[test]
fn links_to_oneself_lead_to_the_calling_thread() {
    let thread = testing::thread();
    let text = |path| walk(path).and_then(|inode| inode.read_link(&thread));
    assert_eq!(text("self"), Ok(b"1".to_vec()));
    assert_eq!(text("thread-self"), Ok(b"1/task/1".to_vec()));
}

/// Reads every file below a folder.
fn all(thread: &Rc<Thread>, inode: &Rc<dyn Inode>, count: &mut usize) {
    let mut names = Vec::new();
    let listed = inode.entries(0, &mut |entry| {
        names.push(entry.name.to_vec());
        true
    });
    if listed.is_ok() {
        // Labels of a security module cannot be read without one.
        for name in names.iter().filter(|name| name.as_slice() != b"attr") {
            let child = inode.lookup(name).expect("listed");
            all(thread, &child, count);
        }
        return;
    }
    *count += 1;
    if let Ok(Some(file)) = inode.open(thread, OpenFlags::empty()) {
        let open = OpenFile::new(file, OpenFlags::empty());
        let mut piece = [0; 10];
        let got = open.file.read(thread, &open, &mut Sink::kernel(&mut piece));
        assert!(got.is_ok());
    }
}

#[test]
fn files_of_the_machine_and_its_settings_can_be_read() {
    let thread = testing::thread();
    let mut count = 0;
    for root in [
        crate::proc::root(),
        crate::proc::sysfs::root(),
        crate::proc::sysfs::cgroup(),
        crate::dev::tree::root().expect("room"),
        crate::dev::tree::terminals(),
    ] {
        all(&thread, &root, &mut count);
    }
    assert!(count > 250, "{count}");
    let uptime = read(&thread, "uptime").expect("text");
    assert_eq!(uptime, "0.00 0.00\n");
    let uuid = read(&thread, "sys/kernel/random/uuid").expect("text");
    assert_eq!((uuid.len(), &uuid[14..15]), (37, "4"));
    let ids = [(); 2].map(|()| read(&thread, "sys/kernel/random/boot_id"));
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_thread_can_be_named() {
    let thread = testing::thread();
    let file = walk("1/comm")
        .expect("there")
        .open(&thread, OpenFlags::RDWR);
    let open = OpenFile::new(file.expect("opens").expect("a file"), OpenFlags::RDWR);
    let mut name = crate::io::Source::kernel(b"a name that is too long\n");
    open.file.write(&thread, &open, &mut name).expect("written");
    assert_eq!(read(&thread, "1/comm"), Ok("a name that is \n".into()));
    assert!(
        read(&thread, "1/status")
            .expect("text")
            .starts_with("Name:\ta name that is \n")
    );
}

#[test]
fn reading_goes_on_where_it_stopped_and_starts_anew_at_the_beginning() {
    let thread = testing::thread();
    let file = walk("1/oom_score_adj")
        .expect("there")
        .open(&thread, OpenFlags::RDWR);
    let open = OpenFile::new(file.expect("opens").expect("a file"), OpenFlags::RDWR);
    let mut to = [0; 3];
    let mut read = |offset| {
        open.file
            .read_at(&thread, offset, &mut Sink::kernel(&mut to))
    };
    assert_eq!(read(0), Ok(2));
    assert_eq!(read(2), Ok(0));
    let mut from = crate::io::Source::kernel(b"-500");
    assert_eq!(open.file.write(&thread, &open, &mut from), Ok(4));
    let mut from = crate::io::Source::kernel(b"2000");
    assert_eq!(
        open.file.write(&thread, &open, &mut from),
        Err(Errno::EINVAL)
    );
    assert_eq!(read(0), Ok(3));
    assert_eq!(&to, b"-50");
}
