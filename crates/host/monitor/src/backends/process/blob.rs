//! The gate as a blob of bytes, and how it is placed in a guest's process.

use kiln_gate::state::STATE_SIZE;

use super::layout::page_up;

/// What `build.rs` linked.
static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gate.bin"));

const RELA_SIZE: usize = 24;
const R_X86_64_RELATIVE: u64 = 8;

/// Offsets in the blob, from its header (`gate.ld`).
#[derive(Clone, Debug)]
pub struct Blob {
    /// The code that seals the process.
    pub start: u64,
    /// The guest's call.
    pub enter: u64,
    /// The signal handler.
    pub signal: u64,
    /// The signal restorer.
    pub restorer: u64,
    /// The state, which is also the length of the code and constants in whole pages.
    pub state: u64,
    rela: core::ops::Range<usize>,
}

impl Blob {
    /// Reads the header.
    pub fn read() -> Self {
        let word = |index: usize| {
            let bytes = BLOB[index * 4..index * 4 + 4]
                .try_into()
                .expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let blob = Self {
            start: word(0).into(),
            enter: word(1).into(),
            signal: word(2).into(),
            restorer: word(3).into(),
            state: word(4).into(),
            rela: word(6) as usize..word(7) as usize,
        };
        assert!(
            u64::from(word(5)) - blob.state == STATE_SIZE as u64,
            "the blob and the monitor were built from the same sources"
        );
        blob
    }

    /// Bytes of address space the gate takes, code and state.
    pub fn size(&self) -> u64 {
        self.state + page_up(STATE_SIZE as u64)
    }

    /// Writes the gate's code, as it must be when it lies at `base`, to the start of `to`.
    pub fn place(&self, to: &mut [u8], base: u64) {
        to[..BLOB.len()].copy_from_slice(BLOB);
        for rela in BLOB[self.rela.clone()].chunks_exact(RELA_SIZE) {
            let field =
                |at: usize| u64::from_le_bytes(rela[at..at + 8].try_into().expect("eight bytes"));
            assert!(
                field(8) == R_X86_64_RELATIVE,
                "gate.ld lets no other relocation through"
            );
            let at = field(0) as usize;
            to[at..at + 8].copy_from_slice(&(base + field(16)).to_le_bytes());
        }
    }
}
