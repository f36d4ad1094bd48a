//! As much of an `iperf3` server as TCP in one direction at a time needs, for one client after the other.
//!
//! There is no specification; this is what version 3.12 says and expects. A test has a control connection, on which
//! both sides send states of one byte, and one connection for each stream; all begin with the client's cookie. The
//! server leads:
//!
//! ```text
//! server: PARAM_EXCHANGE     client: its options, as JSON behind a length of four bytes
//! server: CREATE_STREAMS     client: connects the streams
//! server: TEST_START, TEST_RUNNING            data flow
//! client: TEST_END
//! server: EXCHANGE_RESULTS   client: its results, then the server its own
//! server: DISPLAY_RESULTS    client: IPERF_DONE
//! ```

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::Write as _;

use kiln::io::{Read, Write};
use kiln::net::{Error, TcpListener, TcpStream};
use kiln::{println, spawn};

use super::BLOCK;

const TEST_START: u8 = 1;
const TEST_RUNNING: u8 = 2;
const TEST_END: u8 = 4;
const PARAM_EXCHANGE: u8 = 9;
const CREATE_STREAMS: u8 = 10;
const EXCHANGE_RESULTS: u8 = 13;
const DISPLAY_RESULTS: u8 = 14;

type Cookie = [u8; 37];

/// More than any client's options or results take.
const LONGEST_JSON: usize = 64 * 1024;

/// What a test's control and its streams share.
#[derive(Default)]
struct Progress {
    ended: Cell<bool>,
    bytes: Cell<u64>,
}

/// Serves clients until nothing can be accepted any more.
pub async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = test(&listener, stream).await {
                    println!("iperf3: {error}");
                }
            }
            Err(error) => return println!("iperf3: {error}"),
        }
    }
}

async fn test(listener: &TcpListener, mut control: TcpStream) -> Result<(), Error> {
    control.set_nodelay(true);
    let cookie = cookie(&mut control).await?;
    control.write_all(&[PARAM_EXCHANGE]).await?;
    let options = read_json(&mut control).await?;
    let parallel = number_after(&options, "parallel").unwrap_or(1);
    let is_reverse = options.replace(' ', "").contains("\"reverse\":true");
    control.write_all(&[CREATE_STREAMS]).await?;
    let mut streams = Vec::new();
    while (streams.len() as u64) < parallel {
        let (mut stream, _) = listener.accept().await?;
        if self::cookie(&mut stream).await? == cookie {
            streams.push(stream);
        }
    }
    control.write_all(&[TEST_START, TEST_RUNNING]).await?;
    let progress: Vec<Rc<Progress>> = streams
        .into_iter()
        .map(|stream| {
            let progress = Rc::new(Progress::default());
            drop(spawn(flow(stream, is_reverse, progress.clone())));
            progress
        })
        .collect();
    let mut state = [0];
    while state[0] != TEST_END {
        if control.read(&mut state).await? == 0 {
            state[0] = TEST_END;
        }
    }
    // Read before a stream says more: the client has stopped its clock.
    let bytes: Vec<u64> = progress.iter().map(|one| one.bytes.get()).collect();
    for one in &progress {
        one.ended.set(true);
    }
    control.write_all(&[EXCHANGE_RESULTS]).await?;
    let theirs = read_json(&mut control).await?;
    let ours = results(&theirs, &bytes);
    control
        .write_all(&(ours.len() as u32).to_be_bytes())
        .await?;
    control.write_all(ours.as_bytes()).await?;
    control.write_all(&[DISPLAY_RESULTS]).await?;
    // IPERF_DONE, or the client is gone: the same to us.
    let _ = control.read(&mut state).await;
    control.shutdown().await
}

/// One stream, until the test or the connection ends.
async fn flow(mut stream: TcpStream, is_reverse: bool, progress: Rc<Progress>) {
    let mut buffer = vec![0; BLOCK];
    while !progress.ended.get() {
        let moved = if is_reverse {
            stream.write(&buffer).await
        } else {
            stream.read(&mut buffer).await
        };
        match moved {
            Ok(len @ 1..) => progress.bytes.set(progress.bytes.get() + len as u64),
            _ => return,
        }
    }
}

/// Our results in the shape of theirs: the streams have the names that the client gave them.
fn results(theirs: &str, bytes: &[u64]) -> String {
    let mut text = String::from(
        r#"{"cpu_util_total":0,"cpu_util_user":0,"cpu_util_system":0,"sender_has_retransmits":0,"streams":["#,
    );
    let names = theirs
        .match_indices("\"id\"")
        .filter_map(|(at, _)| number_after(&theirs[at..], "id"));
    for (index, (id, bytes)) in names.zip(bytes).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"{comma}{{"id":{id},"bytes":{bytes},"retransmits":0,"jitter":0,"errors":0,"packets":0}}"#
        );
    }
    text + "]}"
}

async fn cookie(stream: &mut TcpStream) -> Result<Cookie, Error> {
    let mut cookie = [0; 37];
    fill(stream, &mut cookie).await?;
    Ok(cookie)
}

async fn read_json(stream: &mut TcpStream) -> Result<String, Error> {
    let mut len = [0; 4];
    fill(stream, &mut len).await?;
    let mut text = vec![0; (u32::from_be_bytes(len) as usize).min(LONGEST_JSON)];
    fill(stream, &mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

async fn fill(stream: &mut TcpStream, mut buffer: &mut [u8]) -> Result<(), Error> {
    while !buffer.is_empty() {
        match stream.read(buffer).await? {
            0 => return Err(Error::ConnectionReset),
            len => buffer = &mut buffer[len..],
        }
    }
    Ok(())
}

/// The whole number that belongs to a name, the first if there are several.
fn number_after(json: &str, name: &str) -> Option<u64> {
    let at = json
        .match_indices(name)
        .find(|(at, _)| json[..*at].ends_with('"') && json[at + name.len()..].starts_with('"'))?
        .0;
    let rest = json[at + name.len() + 1..].trim_start().strip_prefix(':')?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}
