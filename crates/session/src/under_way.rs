//! What is under way by packet identifier.
//!
//! Looked up several times a message, so it is a hash table. Identifiers are given one after the other and done in about
//! the same order, and the hash keeps them neighbours ([`Neighbours`]): so the table is walked, and what the next lookup
//! needs is in the processor's cache. The hash has no seed, because a session is pure: the same inputs give the same
//! outputs in every run; and whoever chooses among 65,535 identifiers gains little by it. Memory of a burst is given
//! back when all of it is done. Knows no packets. Start at [`UnderWay`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use zwerm_wire::PacketId;

/// Places that are kept when nothing is under way.
const KEPT: usize = 128;

/// The identifier itself where a table takes the place from, and its low bits where it takes those that tell things of
/// neighbouring places apart.
#[derive(Debug, Default, Clone, Copy)]
struct Neighbours(u64);

impl Hasher for Neighbours {
    fn write_u16(&mut self, number: u16) {
        self.0 = u64::from(number) | u64::from(number) << 57;
    }

    fn write(&mut self, bytes: &[u8]) {
        let number = bytes.iter().fold(0_u16, |number, byte| number << 8 | u16::from(*byte));
        self.write_u16(number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Table<T> = HashMap<PacketId, T, BuildHasherDefault<Neighbours>>;

/// One thing for each identifier, in no order. Boxed, and only there once something was under way: many clients never
/// have anything.
#[derive(Debug)]
pub(crate) struct UnderWay<T>(Option<Box<Table<T>>>);

impl<T> Default for UnderWay<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> UnderWay<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |table| table.len())
    }

    pub(crate) fn contains(&self, packet_id: PacketId) -> bool {
        self.get(packet_id).is_some()
    }

    pub(crate) fn get(&self, packet_id: PacketId) -> Option<&T> {
        self.0.as_ref()?.get(&packet_id)
    }

    /// What was there before.
    pub(crate) fn insert(&mut self, packet_id: PacketId, what: T) -> Option<T> {
        self.table().insert(packet_id, what)
    }

    /// False, and nothing changes: the identifier is under way.
    pub(crate) fn insert_new(&mut self, packet_id: PacketId, what: T) -> bool {
        match self.table().entry(packet_id) {
            Entry::Vacant(place) => {
                place.insert(what);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    pub(crate) fn remove(&mut self, packet_id: PacketId) -> Option<T> {
        let table = self.0.as_mut()?;
        let removed = table.remove(&packet_id)?;
        if table.is_empty() && table.capacity() > KEPT {
            self.0 = None;
        }
        Some(removed)
    }

    fn table(&mut self) -> &mut Table<T> {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn an_identifier_is_taken_once() {
        let mut under_way = UnderWay::default();
        assert!(under_way.insert_new(id(7), 'a') && !under_way.insert_new(id(7), 'b'));
        assert_eq!((under_way.get(id(7)), under_way.len()), (Some(&'a'), 1));
        assert_eq!(under_way.insert(id(7), 'c'), Some('a'));
        assert_eq!((under_way.remove(id(7)), under_way.remove(id(7))), (Some('c'), None));
        assert!(!under_way.contains(id(7)));
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut under_way = UnderWay::default();
        for number in 1..=u16::MAX {
            under_way.insert(id(number), ());
        }
        for number in 1..=u16::MAX {
            under_way.remove(id(number));
        }
        assert!(under_way.0.is_none());
    }
}
