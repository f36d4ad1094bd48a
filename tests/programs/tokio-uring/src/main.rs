//! Files and connections by `io_uring` alone: a file is written and read back, then everybody who connects hears what he says.

use std::io;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::{File, remove_file, rename};
use tokio_uring::net::{TcpListener, TcpStream, UnixListener, UnixStream};

async fn files() -> io::Result<()> {
    let text: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let file = File::create("/tmp/first").await?;
    let (result, text) = file.write_all_at(text, 0).await;
    result?;
    file.sync_all().await?;
    file.close().await?;
    rename("/tmp/first", "/tmp/second").await?;
    let file = File::open("/tmp/second").await?;
    let (result, back) = file.read_exact_at(vec![0; text.len()], 0).await;
    result?;
    assert!(back == text);
    let (result, _) = file.read_at(vec![0; 10], text.len() as u64).await;
    assert_eq!(result?, 0);
    file.close().await?;
    remove_file("/tmp/second").await?;
    let gone = File::open("/tmp/second").await.err();
    assert_eq!(
        gone.map(|error| error.kind()),
        Some(io::ErrorKind::NotFound)
    );
    Ok(())
}

/// A connection inside, and one that is refused.
async fn inside() -> io::Result<()> {
    let listener = UnixListener::bind("/tmp/socket")?;
    let server = tokio_uring::spawn(async move { echo_unix(listener.accept().await?).await });
    let client = UnixStream::connect("/tmp/socket").await?;
    let (result, _) = client.write_all(b"inside".to_vec()).await;
    result?;
    let (result, back) = client.read(vec![0; 100]).await;
    assert_eq!(&back[..result?], b"inside");
    client.shutdown(std::net::Shutdown::Both)?;
    server.await.expect("no panic")?;
    let refused = TcpStream::connect("127.0.0.1:9".parse().expect("an address")).await;
    let kind = refused.err().map(|error| error.kind());
    assert_eq!(kind, Some(io::ErrorKind::ConnectionRefused));
    Ok(())
}

async fn echo_unix(stream: UnixStream) -> io::Result<()> {
    let (result, buffer) = stream.read(vec![0; 100]).await;
    let (result, _) = stream.write_all(buffer.slice(..result?)).await;
    result
}

async fn echo(stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let (result, back) = stream.read(buffer).await;
        let count = result?;
        if count == 0 {
            return Ok(());
        }
        let (result, slice) = stream.write_all(back.slice(..count)).await;
        result?;
        buffer = slice.into_inner();
    }
}

fn main() -> io::Result<()> {
    tokio_uring::start(async {
        files().await?;
        inside().await?;
        println!("files and sockets SUCCESS");
        let listener = TcpListener::bind("0.0.0.0:8000".parse().expect("an address"))?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio_uring::spawn(async move {
                // Who goes away without a word harms nobody else.
                let _ = echo(stream).await;
            });
        }
    })
}
