//! An HTTP/1.1 server that takes bodies and answers each with its length and a checksum.
//!
//! It knows its clients: a request has a `Content-Length`, and its head fits into one buffer.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use kiln::io::{Read, Write};
use kiln::net::{Error, TcpStream};

use super::BLOCK;

/// Requests on one connection, until the client closes it.
pub async fn serve(mut stream: TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true);
    let mut buffer = vec![0; BLOCK];
    let mut filled = 0;
    loop {
        let head = loop {
            let end = buffer[..filled]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return stream.shutdown().await,
                len => filled += len,
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let field = |name| {
            let mut lines = text.split("\r\n");
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let length: usize = field("content-length:")
            .and_then(|value| value.parse().ok())
            .ok_or(Error::InvalidInput)?;
        if field("expect:").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut sum = 0;
        let begun = length.min(filled - head);
        sum = adler32(sum, &buffer[head..head + begun]);
        buffer.copy_within(head + begun..filled, 0);
        filled -= head + begun;
        let mut rest = length - begun;
        while rest > 0 {
            // What was held is used up: a body that goes on has had all of it.
            let room = rest.min(buffer.len());
            match stream.read(&mut buffer[..room]).await? {
                0 => return Err(Error::ConnectionReset),
                len => {
                    sum = adler32(sum, &buffer[..len]);
                    rest -= len;
                }
            }
        }
        let body = format!("{length} {sum:08x}\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Adler-32 (RFC 1950 section 9) of some bytes behind others whose sum is `sum`; 0 stands for none.
fn adler32(sum: u32, bytes: &[u8]) -> u32 {
    let (mut a, mut b) = if sum == 0 {
        (1, 0)
    } else {
        (sum & 0xffff, sum >> 16)
    };
    // As many as fit before 32 bits overflow.
    for some in bytes.chunks(5552) {
        for &byte in some {
            a += u32::from(byte);
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    b << 16 | a
}
