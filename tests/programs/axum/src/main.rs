//! An HTTP server on tokio's threads, with a timer, a file and a thread of std's.

use axum::Router;
use axum::routing::get;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(|| async { "hello from axum" }))
        .route("/sleep", get(sleep))
        .route("/thread", get(thread))
        .route("/file", get(file));
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", 8000)).await?;
    println!("listening");
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            // A failure to listen for the signal leaves the server running.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await
}

async fn sleep() -> &'static str {
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    "slept"
}

async fn thread() -> String {
    let sum = tokio::task::spawn_blocking(|| {
        let threads: Vec<_> = (0..4u64)
            .map(|part| std::thread::spawn(move || (0..1000).map(|n| n * part).sum::<u64>()))
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).sum::<u64>()
    });
    sum.await.unwrap_or_default().to_string()
}

async fn file() -> String {
    let path = "/tmp/written";
    let written = tokio::fs::write(path, "x".repeat(10_000)).await;
    let read = tokio::fs::read(path).await;
    format!("{} {}", written.is_ok(), read.map_or(0, |bytes| bytes.len()))
}
