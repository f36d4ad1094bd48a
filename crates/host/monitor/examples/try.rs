use kiln_monitor::backend::*;
fn main() {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let image = kiln_image::Image::open(&a[0]).unwrap();
    let console: std::os::fd::OwnedFd = rustix::io::dup(rustix::stdio::stdout()).unwrap();
    let mut g = kiln_monitor::backends::process::start(Launch { image: &image, memory: 512*1024, name: "try", args: &a, env: &[], devices: vec![], console, strict: false }).unwrap();
    let e = g.wait().unwrap();
    println!("{e:?} {:?}", g.failure());
    println!("{:?}", g.protections());
}
