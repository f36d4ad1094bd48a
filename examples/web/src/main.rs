//! kv
#![no_std]
#![no_main]
#[kiln::main(net)]
async fn main() {}
