//! Gathers the files of a program and lists them: `cargo run -p kiln-rootfs --example gather -- PROGRAM [ARGS]`.

fn main() {
    let mut words = std::env::args().skip(1);
    let request = kiln_rootfs::Request {
        program: words.next().unwrap_or_default(),
        args: words.collect(),
        cwd: std::env::current_dir().unwrap_or_default(),
        search: std::env::var_os("PATH"),
        ..kiln_rootfs::Request::default()
    };
    let started = std::time::Instant::now();
    match kiln_rootfs::gather(&request) {
        Err(error) => eprintln!("{error}"),
        Ok(gathered) => {
            let seconds = started.elapsed().as_secs_f64();
            for seen in &gathered.identity {
                println!("{:10} {}", seen.stamp[1], seen.path.display());
            }
            eprintln!(
                "entrypoint {:?}, working directory {:?}",
                gathered.entrypoint, gathered.cwd
            );
            for note in &gathered.notes {
                eprintln!("note: {note}");
            }
            eprintln!(
                "{} files, {} bytes, {} stamps, {seconds:.3} s",
                gathered.identity.len(),
                gathered.bytes,
                gathered.seen.len()
            );
        }
    }
}
