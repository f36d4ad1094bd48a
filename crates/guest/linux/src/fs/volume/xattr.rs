//! Extended attributes.

use alloc::vec::Vec;

use kiln_ninep::{Data, Reply, Request, Text};

use super::node::Node;
use crate::{Errno, Result};

impl Node {
    /// The value of an extended attribute, or the names of all for an empty name.
    pub(super) fn read_attribute(&self, name: &[u8]) -> Result<Vec<u8>> {
        const MOST: u64 = 65536;
        let (new, size) = self.client.walk_attribute(self.fid, name)?;
        let mut value = Vec::new();
        let mut outcome = if size > MOST {
            Err(Errno::E2BIG)
        } else {
            Ok(())
        };
        while outcome.is_ok() && (value.len() as u64) < size {
            let request = Request::Read {
                fid: new,
                offset: value.len() as u64,
                count: (size - value.len() as u64).min(self.client.room() as u64) as u32,
            };
            let read = self.client.ask(&request, |reply| match reply {
                Reply::Read { data } => Some(data.0.to_vec()),
                _ => None,
            });
            match read {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => value.extend_from_slice(&piece),
                Err(errno) => outcome = Err(errno),
            }
        }
        self.client.give_back_later([new]);
        outcome.map(|()| value)
    }

    /// Sets an extended attribute; without a value it is removed.
    pub(super) fn write_attribute(&self, name: &[u8], value: Option<&[u8]>, flags: u32) -> Result {
        const REPLACE: u32 = 2;
        // An attribute of no length is one that is removed: the protocol has no other way to say so.
        let (value, flags) = match value {
            Some(value) => (value, flags),
            None => (&[][..], REPLACE),
        };
        self.found.set(None);
        let fid = self.client.walk(self.fid)?;
        let create = Request::XattrCreate {
            fid,
            name: Text(name),
            size: value.len() as u64,
            flags,
        };
        let mut written = self.client.tell(&create);
        for (index, piece) in value.chunks(self.client.room()).enumerate() {
            written = written.and_then(|()| {
                self.client.tell(&Request::Write {
                    fid,
                    offset: (index * self.client.room()) as u64,
                    data: Data(piece),
                })
            });
        }
        // It is set when the fid is given back, so that is where the answer comes from.
        let set = self.client.give_back(fid);
        written.and(set)
    }
}
