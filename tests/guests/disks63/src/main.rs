//! A guest with as many disks as an instance can have: writes to each its own number and reads all of them back.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

use alloc::string::String;
use core::fmt::Write;

use kiln::block::{Disk, Error};

const DISKS: u8 = 63;

#[kiln::main(
    block = "d00",
    block = "d01",
    block = "d02",
    block = "d03",
    block = "d04",
    block = "d05",
    block = "d06",
    block = "d07",
    block = "d08",
    block = "d09",
    block = "d10",
    block = "d11",
    block = "d12",
    block = "d13",
    block = "d14",
    block = "d15",
    block = "d16",
    block = "d17",
    block = "d18",
    block = "d19",
    block = "d20",
    block = "d21",
    block = "d22",
    block = "d23",
    block = "d24",
    block = "d25",
    block = "d26",
    block = "d27",
    block = "d28",
    block = "d29",
    block = "d30",
    block = "d31",
    block = "d32",
    block = "d33",
    block = "d34",
    block = "d35",
    block = "d36",
    block = "d37",
    block = "d38",
    block = "d39",
    block = "d40",
    block = "d41",
    block = "d42",
    block = "d43",
    block = "d44",
    block = "d45",
    block = "d46",
    block = "d47",
    block = "d48",
    block = "d49",
    block = "d50",
    block = "d51",
    block = "d52",
    block = "d53",
    block = "d54",
    block = "d55",
    block = "d56",
    block = "d57",
    block = "d58",
    block = "d59",
    block = "d60",
    block = "d61",
    block = "d62"
)]
async fn main() -> Result<(), Error> {
    for number in 0..DISKS {
        let disk = Disk::open(&name(number))?;
        disk.write(0, &[number + 1; 512]).await?;
    }
    for number in 0..DISKS {
        let disk = Disk::open(&name(number))?;
        assert_eq!(disk.capacity(), 4096 + 512 * u64::from(number));
        let mut sector = [0; 512];
        disk.read(0, &mut sector).await?;
        assert_eq!(sector, [number + 1; 512], "disk {number}");
    }
    kiln::println!("SUCCESS");
    Ok(())
}

fn name(number: u8) -> String {
    let mut name = String::new();
    // Writing to a string cannot fail.
    let _ = write!(name, "d{number:02}");
    name
}
