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

    /// Gives a message the [`next`](Self::next) number, named `references` times; nothing happens if that is 0.
    pub(crate) fn store(&mut self, message: &Message, references: u32) -> u64 {
        let number = self.next();
        if references > 0 {
            self.last = number;
            self.name(number, references);
            self.stored.push((number, message.clone()));
        }
        number
    }

    /// Something names a message once more, or `times` more.
    pub(crate) fn name(&mut self, number: u64, times: u32) {
        let (block, place) = place(number);
        self.blocks.entry(block).or_default().add(place, times);
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

    fn count(&self, place: u8) -> u32 {
        let often = self.often.iter().flat_map(|often| often.iter());
        let found = often.clone().find(|(at, _)| *at == place);
        found.map_or(u32::from(self.has(place)), |(_, count)| *count)
    }

    fn add(&mut self, place: u8, times: u32) {
        let count = self.count(place).saturating_add(times);
        self.named |= 1 << place;
        if count < 2 {
            return;
        }
        let often = Arc::make_mut(self.often.get_or_insert_default());
        match often.binary_search_by_key(&place, |(at, _)| *at) {
            Ok(found) => often.iter_mut().skip(found).take(1).for_each(|(_, old)| *old = count),
            Err(gap) => often.insert(gap, (place, count)),
        }
    }

    /// Takes one reference of those that are there; true if it was the last.
    fn remove(&mut self, place: u8) -> bool {
        let Some(often) = &mut self.often else {
            self.named &= !(1 << place);
            return true;
        };
        let Ok(found) = often.binary_search_by_key(&place, |(at, _)| *at) else {
            self.named &= !(1 << place);
            return true;
        };
        let often = Arc::make_mut(often);
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
                    let next = messages.store(&Message::default(), references);
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
            let (stored, forgotten) = messages.take_effects();
            gone.sort_unstable();
            prop_assert_eq!(forgotten, gone);
            prop_assert!(stored.iter().map(|(number, _)| number).eq(model.keys()));
        }
    }

    #[test]
    fn a_message_that_nobody_takes_is_not_stored_and_its_number_is_free() {
        let mut messages = Messages::default();
        assert_eq!(messages.store(&Message::default(), 0), messages.next());
        assert_eq!(messages.take_effects(), (Vec::new(), Vec::new()));
    }
}
