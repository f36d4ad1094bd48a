//! A guest with a disk named `data` and perhaps one named `second`. The first argument names a case.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "a program, not a library")]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use kiln::block::{Disk, Error};
use kiln::{println, random};
use kiln_abi::op::{Op, OpError, Segment, SegmentList};
use kiln_abi::{Call, RawOp};

const SECTOR: usize = 512;

#[kiln::main(block = "data", optional_block = "second")]
async fn main() -> Result<u8, Error> {
    let args: Vec<&str> = kiln::args().skip(1).collect();
    let disk = Disk::open("data")?;
    match args.first().copied().unwrap_or_default() {
        "geometry" => geometry(disk),
        "verify" => verify(disk).await?,
        "edges" => edges(disk).await,
        "big" => big(disk).await?,
        "segments" => segments(),
        "read-only" => read_only(disk).await?,
        "flush" => {
            disk.write(0, &[b'F'; SECTOR]).await?;
            disk.flush().await?;
        }
        "discard" => discard(disk).await?,
        "two" => two(disk).await?,
        "hold" => {
            println!("ready");
            core::future::pending::<()>().await;
        }
        "write-loop" => write_loop(disk).await?,
        "fill" => println!("{:?}", fill(disk).await),
        "absent" => {
            assert_eq!(Disk::open("third").unwrap_err(), Error::NotFound);
            assert_eq!(Disk::open("").unwrap_err(), Error::NotFound);
        }
        other => {
            println!("no case {other:?}");
            return Ok(99);
        }
    }
    println!("SUCCESS");
    Ok(0)
}

fn geometry(disk: Disk) {
    println!("capacity={}", disk.capacity());
    println!("sector={}", disk.sector_size());
    println!("read_only={}", disk.is_read_only());
    println!("second={}", Disk::open("second").is_ok());
}

/// The content that `verify` gives a sector.
fn pattern(sector: u64) -> Vec<u8> {
    let words =
        (0..SECTOR as u64 / 8).map(|n| (sector << 8 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

/// Writes the first, the last, every tenth and some random sectors, then reads all of them back.
async fn verify(disk: Disk) -> Result<(), Error> {
    let count = disk.capacity() / SECTOR as u64;
    let mut sectors: Vec<u64> = (0..count).step_by(10).collect();
    sectors.extend([0, count - 1]);
    sectors.extend((0..50).map(|_| random::u64() % count));
    for &sector in &sectors {
        disk.write(sector * SECTOR as u64, &pattern(sector)).await?;
    }
    let mut buffer = vec![0; SECTOR];
    for &sector in &sectors {
        disk.read(sector * SECTOR as u64, &mut buffer).await?;
        assert_eq!(buffer, pattern(sector), "sector {sector}");
    }
    println!("sectors={}", sectors.len());
    Ok(())
}

/// Everything that must be refused, and that it changes nothing.
async fn edges(disk: Disk) {
    let capacity = disk.capacity();
    let mut sector = [0u8; SECTOR];
    let bad = Err(Error::OutOfRange);
    for offset in [
        1,
        511,
        513,
        capacity - 1,
        capacity,
        capacity + 512,
        1 << 40,
        u64::MAX - 511,
        u64::MAX,
    ] {
        assert_eq!(
            disk.read(offset, &mut sector).await,
            bad,
            "read at {offset}"
        );
        assert_eq!(
            disk.write(offset, &[0xee; SECTOR]).await,
            bad,
            "write at {offset}"
        );
        assert_eq!(disk.discard(offset, 512).await, bad, "discard at {offset}");
    }
    let mut bytes = vec![0u8; 4096];
    for len in [1, 511, 513, 1000, 4095] {
        assert_eq!(disk.read(0, &mut bytes[..len]).await, bad, "read of {len}");
        assert_eq!(
            disk.write(0, &[0xee; 4096][..len]).await,
            bad,
            "write of {len}"
        );
        assert_eq!(disk.discard(0, len as u64).await, bad, "discard of {len}");
    }
    // The first half inside, the second behind the end.
    assert_eq!(disk.write(capacity - 512, &[0xee; 1024]).await, bad);
    assert_eq!(disk.read(capacity - 512, &mut bytes[..1024]).await, bad);
    assert_eq!(disk.discard(0, capacity + 512).await, bad);
    assert_eq!(disk.discard(512, u64::MAX - 511).await, bad);
    assert_eq!(disk.discard(0, 0).await, bad);
    // Nothing is a length too, and harmless: no operation at all.
    assert_eq!(disk.read(0, &mut []).await, Ok(()));
    assert_eq!(disk.write(0, &[]).await, Ok(()));
    disk.read(capacity - 512, &mut sector)
        .await
        .expect("the last sector");
    assert_eq!(sector, [0; SECTOR], "a refused write changed the disk");
}

async fn big(disk: Disk) -> Result<(), Error> {
    // One mebibyte is one operation; three and a half are several.
    for len in [1 << 20, (1 << 20) + SECTOR, (7 << 20) / 2] {
        let mut data = vec![0; len];
        random::fill(&mut data[..4096]);
        for at in (4096..len).step_by(4096) {
            let end = (at + 4096).min(len);
            data.copy_within(0..end - at, at);
            data[at..at + 8].copy_from_slice(&at.to_le_bytes());
        }
        let offset = disk.capacity() - len as u64;
        disk.write(offset, &data).await?;
        let mut back = vec![0; len];
        disk.read(offset, &mut back).await?;
        assert!(data == back, "{len} bytes came back changed");
    }
    Ok(())
}

/// An operation as the monitor gets it, without what the library makes of it.
fn perform(op: Op) -> Result<u64, OpError> {
    let mut op: RawOp = op.encode();
    let mut call = Call {
        ops: &raw mut op as u64,
        count: 1,
        ..Call::default()
    };
    // SAFETY: the operation outlives the call, and so do the buffers that it names, or they are to be refused.
    unsafe { kiln_rt::monitor::enter(&mut call) };
    op.outcome()
}

fn read(device: u32, list: &[Segment]) -> Result<u64, OpError> {
    perform(Op::BlockRead {
        device,
        buffers: buffers(list),
        offset: 512,
    })
}

fn buffers(list: &[Segment]) -> SegmentList {
    SegmentList {
        addr: list.as_ptr() as u64,
        count: list.len() as u32,
    }
}

fn segment(buffer: &mut [u8]) -> Segment {
    Segment {
        addr: buffer.as_mut_ptr() as u64,
        len: buffer.len() as u64,
    }
}

/// Scatter and gather, and an operation longer than allowed.
fn segments() {
    let mut data: Vec<u8> = (0..32 * 512u32).map(|n| (n * 7 / 3) as u8).collect();
    let list: Vec<Segment> = data.chunks_exact_mut(512).map(segment).collect();
    let written = perform(Op::BlockWrite {
        device: 0,
        buffers: buffers(&list),
        offset: 512,
    });
    assert_eq!(written, Ok(32 * 512));

    let mut back = vec![0u8; 32 * 512];
    // Uneven pieces whose sum is whole sectors.
    let mut rest = &mut back[..];
    let mut list = Vec::new();
    for len in [1usize, 510, 513, 4096, 7, 9305, 1952] {
        let (now, later) = rest.split_at_mut(len);
        list.push(segment(now));
        rest = later;
    }
    assert!(rest.is_empty());
    assert_eq!(read(0, &list), Ok(32 * 512));
    assert!(data == back, "gathered and scattered bytes differ");
    assert_eq!(
        read(0, &list[1..]),
        Err(OpError::Invalid),
        "no whole sectors"
    );

    let mut long = vec![0u8; (1 << 20) + 512];
    assert_eq!(read(0, &[segment(&mut long)]), Err(OpError::Invalid));
    let wrong = Segment {
        addr: 0x1000,
        len: 512,
    };
    for device in [0, 1] {
        assert_eq!(read(device, &[wrong]), Err(OpError::BadAddress));
    }
    // A good buffer in front does not help a bad one behind, and is not written.
    let mut first = [0xaa; 512];
    assert_eq!(
        read(0, &[segment(&mut first), wrong]),
        Err(OpError::BadAddress)
    );
    assert_eq!(first, [0xaa; 512]);
    assert_eq!(
        perform(Op::BlockFlush { device: 1 }),
        Err(OpError::NoDevice)
    );
}

async fn read_only(disk: Disk) -> Result<(), Error> {
    assert!(disk.is_read_only());
    assert_eq!(disk.write(0, &[1; SECTOR]).await, Err(Error::ReadOnly));
    assert_eq!(disk.discard(0, 512).await, Err(Error::ReadOnly));
    let mut sector = [0; SECTOR];
    disk.read(0, &mut sector).await?;
    println!("first={}", sector[0]);
    disk.flush().await
}

async fn discard(disk: Disk) -> Result<(), Error> {
    disk.write(0, &vec![7; 1 << 16]).await?;
    match disk.discard(4096, 32768).await {
        Err(Error::Unsupported) => {
            println!("unsupported");
            return Ok(());
        }
        other => other?,
    }
    let mut back = vec![0; 1 << 16];
    disk.read(0, &mut back).await?;
    assert!(
        back[..4096]
            .iter()
            .chain(&back[4096 + 32768..])
            .all(|&b| b == 7),
        "discard went too far"
    );
    let middle = &back[4096..4096 + 32768];
    assert!(
        middle.iter().all(|&b| b == 0) || middle.iter().all(|&b| b == 7),
        "neither zero nor as before"
    );
    Ok(())
}

async fn two(disk: Disk) -> Result<(), Error> {
    let second = Disk::open("second")?;
    disk.write(0, &[1; SECTOR]).await?;
    second.write(0, &[2; SECTOR]).await?;
    let mut sector = [0; SECTOR];
    disk.read(0, &mut sector).await?;
    assert_eq!(sector, [1; SECTOR]);
    second.read(0, &mut sector).await?;
    assert_eq!(sector, [2; SECTOR]);
    Ok(())
}

/// Counts up in the first sector, durably, and tells each number once it is on the disk.
async fn write_loop(disk: Disk) -> Result<(), Error> {
    for count in 1u64.. {
        let mut sector = [0; SECTOR];
        sector[..8].copy_from_slice(&count.to_le_bytes());
        disk.write(0, &sector).await?;
        disk.flush().await?;
        println!("durable {count}");
    }
    Ok(())
}

/// Writes all of the disk.
async fn fill(disk: Disk) -> Result<(), Error> {
    let data = vec![0x5a; 1 << 20];
    for offset in (0..disk.capacity()).step_by(data.len()) {
        let len = (disk.capacity() - offset).min(data.len() as u64) as usize;
        disk.write(offset, &data[..len]).await?;
    }
    disk.flush().await
}
