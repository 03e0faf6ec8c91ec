//! The messages that a shard names, by number, and how often each is named. Knows no bytes of a message for
//! longer than until the effects are taken, and not who names it.
//!
//! Most messages are named by one or a few queues, and numbers that live lie close together: 64 numbers share a
//! block, whose bitmap says which live; only what is named more than once has a count. Start at [`Messages`].

use std::sync::Arc;

use imbl::OrdMap;

use crate::records::Message;

/// Numbers in a block.
const BLOCK: u64 = 64;

/// References to messages. A number is given once and never again. A clone is O(1) once the effects are taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Messages {
    /// The last number given; they start at 1.
    last: u64,
    blocks: OrdMap<u64, Block>,
    stored: Vec<(u64, Message)>,
    forgotten: Vec<u64>,
}

#[derive(Debug, Clone, Default)]
struct Block {
    /// Bit by number: it is named.
    named: u64,
    /// How often those are named that are named more than once, by place in the block.
    often: Option<Arc<Vec<(u8, u32)>>>,
}

impl Messages {
    /// The number that the next message gets.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Something names a message once more.
    pub(crate) fn name(&mut self, number: u64) {
        let (block, place) = place(number);
        self.blocks.entry(block).or_default().add(place);
    }

    /// Gives a message the [`next`](Self::next) number, after whatever takes it has named it.
    pub(crate) fn store(&mut self, message: &Message) {
        self.last += 1;
        self.stored.push((self.last, message.clone()));
    }

    /// Stores a message that one thing names; its number.
    pub(crate) fn store_named(&mut self, message: &Message) -> u64 {
        let number = self.next();
        self.name(number);
        self.store(message);
        number
    }

    /// Something that named a message does so no more.
    pub(crate) fn release(&mut self, number: u64) {
        let (block, place) = place(number);
        let Some(found) = self.blocks.get_mut(&block).filter(|found| found.has(place)) else { return };
        if found.remove(place) {
            self.forgotten.push(number);
        }
        if found.named == 0 {
            self.blocks.remove(&block);
        }
    }

    pub(crate) fn is_named(&self, number: u64) -> bool {
        let (block, place) = place(number);
        self.blocks.get(&block).is_some_and(|found| found.has(place))
    }

    /// The numbers that are named, from one on, rising.
    pub(crate) fn numbers(&self, from: u64) -> impl Iterator<Item = u64> {
        let numbers = self.blocks.range(from / BLOCK..).flat_map(|(block, found)| {
            let places = (0..64u8).filter(|place| found.has(*place));
            places.map(move |place| block * BLOCK + u64::from(place))
        });
        numbers.skip_while(move |number| *number < from)
    }

    /// How many are named.
    pub(crate) fn len(&self) -> u64 {
        self.blocks.values().map(|found| u64::from(found.named.count_ones())).sum()
    }

    /// Messages to be kept and numbers to be forgotten since the last call.
    pub(crate) fn take_effects(&mut self) -> (Vec<(u64, Message)>, Vec<u64>) {
        let mut forgotten = std::mem::take(&mut self.forgotten);
        forgotten.sort_unstable();
        let mut stored = std::mem::take(&mut self.stored);
        // All of them are named to `take_effects` even so: a replica that applies the log again may have them
        // on disk from its first life.
        stored.retain(|(number, _)| forgotten.binary_search(number).is_err());
        (stored, forgotten)
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn restore_last(&mut self, last: u64) {
        self.last = last;
    }

    /// Every number with how often it is named.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        self.blocks.iter().flat_map(|(block, found)| {
            let places = (0..64u8).filter(|place| found.has(*place));
            places.map(move |place| (block * BLOCK + u64::from(place), found.count(place)))
        })
    }
}

fn place(number: u64) -> (u64, u8) {
    (number / BLOCK, (number % BLOCK) as u8)
}

impl Block {
    fn has(&self, place: u8) -> bool {
        self.named & (1 << place) != 0
    }

    /// How often a number is named that is named.
    fn count(&self, place: u8) -> u32 {
        let often = self.often.as_deref().map_or(&[][..], Vec::as_slice);
        let found = often.binary_search_by_key(&place, |(at, _)| *at).ok();
        found.and_then(|found| often.get(found)).map_or(1, |(_, count)| *count)
    }

    fn add(&mut self, place: u8) {
        if !self.has(place) {
            self.named |= 1 << place;
            return;
        }
        let count = self.count(place).saturating_add(1);
        let often = Arc::make_mut(self.often.get_or_insert_default());
        match often.binary_search_by_key(&place, |(at, _)| *at) {
            Err(gap) => often.insert(gap, (place, count)),
            Ok(found) => {
                if let Some((_, old)) = often.get_mut(found) {
                    *old = count;
                }
            }
        }
    }

    /// Takes one reference of those that are there; true if it was the last.
    fn remove(&mut self, place: u8) -> bool {
        let often = self.often.as_mut();
        let found = often.and_then(|often| {
            let found = often.binary_search_by_key(&place, |(at, _)| *at).ok()?;
            Some((Arc::make_mut(often), found))
        });
        let Some((often, found)) = found else {
            self.named &= !(1 << place);
            return true;
        };
        if let Some((_, count)) = often.get_mut(found).filter(|(_, count)| *count > 2) {
            *count -= 1;
            return false;
        }
        often.remove(found);
        if often.is_empty() {
            self.often = None;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_named_until_the_last_reference_goes(
            steps in prop::collection::vec((0u32..4, 1u64..200), 0..300),
        ) {
            let mut messages = Messages::default();
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            let mut gone = Vec::new();
            for (references, number) in steps {
                let number = number.min(messages.last());
                if references > 0 {
                    let next = messages.next();
                    (0..references).for_each(|_| messages.name(next));
                    messages.store(&Message::default());
                    model.insert(next, references);
                } else if let Some(count) = model.get_mut(&number) {
                    messages.release(number);
                    *count -= 1;
                    if *count == 0 {
                        model.remove(&number);
                        gone.push(number);
                    }
                } else {
                    messages.release(number);
                }
                prop_assert_eq!(messages.is_named(number), model.contains_key(&number));
            }
            prop_assert!(messages.iter().eq(model.iter().map(|(number, count)| (*number, *count))));
            for from in [0, 1, 63, 64, 100] {
                prop_assert!(messages.numbers(from).eq(model.range(from..).map(|(number, _)| *number)));
            }
            prop_assert_eq!(messages.len(), model.len() as u64);
            let (stored, forgotten) = messages.take_effects();
            gone.sort_unstable();
            prop_assert_eq!(forgotten, gone);
            prop_assert!(stored.iter().map(|(number, _)| number).eq(model.keys()));
        }
    }
}
