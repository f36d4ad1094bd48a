//! The console's input and its two streams.

use kiln_abi::call::{CONSOLE, Call};
use kiln_abi::op::{OpError, Segment, Stream};
use kiln_abi::user::UserOp;
use kiln_abi::{Op, RawOp};
use kiln_rt::monitor;

use crate::start::{perform, user};

fn write(stream: Stream, text: &[u8]) {
    let buffer = Segment {
        addr: text.as_ptr() as u64,
        len: text.len() as u64,
    };
    let written = perform(Op::ConsoleWrite { stream, buffer });
    assert_eq!(written, Ok(text.len() as u64));
}

/// Copies input to output, and waits without asking while there is none.
pub fn cat() {
    let mut bytes = [0u8; 100];
    loop {
        let buffer = Segment {
            addr: bytes.as_mut_ptr() as u64,
            len: bytes.len() as u64,
        };
        match user(UserOp::ConsoleRead { buffer }) {
            Ok(0) => return,
            Ok(len) => write(Stream::Out, bytes.get(..len as usize).unwrap_or(&[])),
            Err(OpError::Again) => {
                let mut call = Call {
                    wait_receive: CONSOLE,
                    deadline: u64::MAX,
                    ..Call::default()
                };
                let mut none: [RawOp; 0] = [];
                call.ops = none.as_mut_ptr() as u64;
                // SAFETY: no operations.
                unsafe { monitor::enter(&mut call) };
                assert!(call.ready != 0);
                if call.event != 0 {
                    write(Stream::Error, b"asked to stop\n");
                    return;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub fn streams() {
    write(Stream::Out, b"to out\n");
    write(Stream::Error, b"to errors\n");
}
