//! The smallest Kiln program: prints a line and ends.
#![no_std]
#![no_main]

#[kiln::main]
async fn main() {
    match kiln::args().nth(1) {
        Some(name) => kiln::println!("Hello, {name}!"),
        None => kiln::println!("Hello from a unikernel!"),
    }
}
