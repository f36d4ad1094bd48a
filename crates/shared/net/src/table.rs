//! Connections by number and by their two ends.
//!
//! A connection is found by a keyed hash of its ends (`SipHash`), so that nobody who chooses addresses and ports can make
//! many of them collide, and held by a [`Key`], which is never used again for another one.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A secret that spreads pairs and numbers.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug, PartialEq, Eq, PartialOrd, Ord))]
pub(crate) struct Secret(pub u64, pub u64);

impl Secret {
    /// The keyed hash of a pair.
    pub(crate) fn hash(self, pair: &Pair) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        let ports = u32::from(pair.local.port()) << 16 | u32::from(pair.remote.port());
        match (pair.local.ip(), pair.remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                hasher.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
            }
            (local, remote) => {
                for address in [local, remote] {
                    match address {
                        IpAddr::V4(address) => hasher.write_u32(address.to_bits()),
                        IpAddr::V6(address) => hasher.write(&address.octets()),
                    }
                }
            }
        }
        hasher.write_u32(ports);
        hasher.finish()
    }
}

/// Names an entry of a [`Table`] for ever: slots are used again, keys are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    pub(crate) const fn bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self {
            slot: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// What a table holds: something with two ends.
pub(crate) trait Ends {
    fn pair(&self) -> &Pair;
}

struct Slot<T> {
    generation: u32,
    entry: Option<Box<T>>,
}

/// Connections.
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    by_pair: HashTable<u32>,
    secret: Secret,
}

impl<T: Ends> Table<T> {
    pub(crate) fn new(secret: Secret) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_pair: HashTable::new(),
            secret,
        }
    }

    #[cfg(test)]
    pub(crate) fn secret(&self) -> Secret {
        self.secret
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds an entry. One with the same ends that is still to be found is found no more.
    pub(crate) fn insert(&mut self, entry: T) -> Key {
        let pair = *entry.pair();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                entry: None,
            });
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.entry = Some(Box::new(entry));
        let generation = place.generation;
        let hash = self.secret.hash(&pair);
        self.hide_pair(hash, &pair, None);
        let (slots, secret) = (&self.slots, self.secret);
        let rehash = |slot: &u32| hash_of(slots, secret, *slot);
        self.by_pair.insert_unique(hash, slot, rehash);
        Key { slot, generation }
    }

    /// The entry with these ends.
    pub(crate) fn find(&self, pair: &Pair) -> Option<Key> {
        let same = |slot: &u32| has_pair(&self.slots, *slot, pair);
        let slot = *self.by_pair.find(self.secret.hash(pair), same)?;
        let generation = self.slots.get(slot as usize)?.generation;
        Some(Key { slot, generation })
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.entry.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.entry.as_deref_mut()
    }

    /// Makes an entry one that is not found by its ends any more. True if it was until now.
    pub(crate) fn hide(&mut self, key: Key) -> bool {
        let Some(pair) = self.get(key).map(Ends::pair).copied() else {
            return false;
        };
        self.hide_pair(self.secret.hash(&pair), &pair, Some(key.slot))
    }

    /// Whoever has these ends is not found by them any more, if it is in this slot.
    #[inline(never)]
    fn hide_pair(&mut self, hash: u64, pair: &Pair, slot: Option<u32>) -> bool {
        let slots = &self.slots;
        let same = |slot: &u32| has_pair(slots, *slot, pair);
        match self.by_pair.find_entry(hash, same) {
            Ok(found) if slot.is_none_or(|slot| *found.get() == slot) => {
                found.remove();
                true
            }
            _ => false,
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Box<T>> {
        self.hide(key);
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.slot);
        Some(entry)
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0..).zip(&self.slots).filter_map(|(slot, place)| {
            let generation = place.generation;
            let entry = place.entry.as_deref()?;
            Some((Key { slot, generation }, entry))
        })
    }
}

fn has_pair<T: Ends>(slots: &[Slot<T>], slot: u32, pair: &Pair) -> bool {
    slots
        .get(slot as usize)
        .and_then(|slot| slot.entry.as_ref())
        .is_some_and(|entry| entry.pair() == pair)
}

fn hash_of<T: Ends>(slots: &[Slot<T>], secret: Secret, slot: u32) -> u64 {
    slots
        .get(slot as usize)
        .and_then(|slot| slot.entry.as_ref())
        .map_or(0, |entry| secret.hash(entry.pair()))
}

#[cfg(test)]
mod collisions;
#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(Pair);

    impl Ends for Entry {
        fn pair(&self) -> &Pair {
            &self.0
        }
    }

    fn pair(port: u16) -> Pair {
        Pair {
            local: ([10, 0, 0, 1], 80).into(),
            remote: ([10, 0, 0, 2], port).into(),
        }
    }

    #[test]
    fn entries_are_found_until_they_are_removed() {
        let mut table = Table::new(Secret(1, 2));
        let keys: Vec<Key> = (0..1000)
            .map(|port| table.insert(Entry(pair(port))))
            .collect();
        for (port, key) in (0..).zip(&keys) {
            assert_eq!(table.find(&pair(port)), Some(*key));
        }
        for key in keys.iter().step_by(2) {
            assert!(table.remove(*key).is_some());
            assert!(table.remove(*key).is_none());
        }
        assert_eq!(table.len(), 500);
        for (port, key) in (0..).zip(&keys) {
            assert_eq!(table.find(&pair(port)), (port % 2 == 1).then_some(*key));
        }
    }

    #[test]
    fn a_key_does_not_name_the_next_in_its_slot() {
        let mut table = Table::new(Secret(1, 2));
        let old = table.insert(Entry(pair(1)));
        table.remove(old);
        let new = table.insert(Entry(pair(1)));
        assert!(table.get(old).is_none() && table.get(new).is_some());
        assert_eq!(Key::from_bits(new.bits()), new);
    }

    #[test]
    fn a_hidden_entry_lives_on_and_leaves_its_ends_to_another() {
        let mut table = Table::new(Secret(1, 2));
        let old = table.insert(Entry(pair(1)));
        assert!(table.hide(old) && !table.hide(old));
        assert_eq!(table.find(&pair(1)), None);
        let new = table.insert(Entry(pair(1)));
        assert_eq!(table.find(&pair(1)), Some(new));
        table.remove(old);
        assert_eq!(table.find(&pair(1)), Some(new));
        assert!(table.get(new).is_some());
    }
}
