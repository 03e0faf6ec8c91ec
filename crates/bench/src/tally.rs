//! The proof of a delivery: which messages of which publishers came, which came again, which out of order.
//!
//! Knows no connection and no time. Messages that come in order take no memory, others a bit each. Start at
//! [`Tally::record`].

use std::collections::VecDeque;

use crate::stamp::Stamp;

/// What a message turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// The first time.
    New,
    /// It had come before.
    Again,
    /// Nobody of this run sent it, or not to this subscriber.
    Stranger,
}

/// A message so far ahead of what is missing is taken for a stranger's: it bounds the memory, to 32 MiB a
/// publisher.
const FARTHEST: u32 = 1 << 28;

/// What one subscriber, or a group that shares a subscription, received of a range of publishers.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    first: u32,
    sources: Vec<Source>,
    /// Messages, repeats not counted.
    pub(crate) received: u64,
    /// Messages that came again.
    pub(crate) repeated: u64,
    /// Messages that came after a later one of the same publisher.
    pub(crate) disordered: u64,
    /// Messages that are none of this run.
    pub(crate) strangers: u64,
}

#[derive(Debug, Clone, Default)]
struct Source {
    next: u32,
    seen: Seen,
}

impl Tally {
    /// Nothing yet, of `publishers` publishers from number `first` on.
    pub(crate) fn new(first: u32, publishers: u32) -> Self {
        let sources = vec![Source::default(); publishers as usize];
        Self { first, sources, received: 0, repeated: 0, disordered: 0, strangers: 0 }
    }

    /// Counts one message.
    pub(crate) fn record(&mut self, stamp: Stamp) -> Came {
        let index = stamp.publisher.wrapping_sub(self.first) as usize;
        let Some(source) = self.sources.get_mut(index) else {
            self.strangers += 1;
            return Came::Stranger;
        };
        match source.seen.insert(stamp.sequence) {
            Came::New => {
                self.received += 1;
                if stamp.sequence < source.next {
                    self.disordered += 1;
                } else {
                    source.next = stamp.sequence.saturating_add(1);
                }
                Came::New
            }
            Came::Again => {
                self.repeated += 1;
                Came::Again
            }
            Came::Stranger => {
                self.strangers += 1;
                Came::Stranger
            }
        }
    }

    /// Adds what another member of a shared subscription got: what both have came twice.
    pub(crate) fn share(&mut self, other: &Self) {
        self.disordered += other.disordered;
        self.strangers += other.strangers;
        self.repeated += other.repeated;
        for (own, others) in self.sources.iter_mut().zip(&other.sources) {
            let both = own.seen.merge(&others.seen);
            self.repeated += both;
            self.received += others.seen.count - both;
        }
    }

    /// Messages that did not come of the `sent` ones of each publisher.
    pub(crate) fn lost(&self, sent: impl Fn(u32) -> u64) -> u64 {
        let of = |(number, source): (u32, &Source)| sent(number).saturating_sub(source.seen.count);
        (self.first..).zip(&self.sources).map(of).sum()
    }
}

/// A set of numbers from 0, of which most are the first ones.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Words of 64 numbers that are all in the set and not kept.
    full: usize,
    words: VecDeque<u64>,
    count: u64,
}

impl Seen {
    fn insert(&mut self, number: u32) -> Came {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        let Some(index) = word.checked_sub(self.full) else { return Came::Again };
        if index > (FARTHEST / 64) as usize {
            return Came::Stranger;
        }
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        if self.words[index] & bit != 0 {
            return Came::Again;
        }
        self.words[index] |= bit;
        self.count += 1;
        self.forget_full();
        Came::New
    }

    fn forget_full(&mut self) {
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.full += 1;
        }
    }

    /// Takes in the other's numbers; how many of them were here already.
    fn merge(&mut self, other: &Self) -> u64 {
        let words = (self.full + self.words.len()).max(other.full + other.words.len());
        let mut both = 0;
        let merged: VecDeque<u64> = (0..words)
            .map(|index| {
                let (one, two) = (self.word(index), other.word(index));
                both += u64::from((one & two).count_ones());
                one | two
            })
            .collect();
        self.count += other.count - both;
        (self.full, self.words) = (0, merged);
        self.forget_full();
        both
    }

    fn word(&self, index: usize) -> u64 {
        index.checked_sub(self.full).map_or(u64::MAX, |index| self.words.get(index).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(tally: &mut Tally, publisher: u32, sequences: impl IntoIterator<Item = u32>) {
        for sequence in sequences {
            tally.record(Stamp { publisher, sequence, sent: Duration::ZERO });
        }
    }

    fn counts(tally: &Tally) -> (u64, u64, u64, u64) {
        (tally.received, tally.repeated, tally.disordered, tally.strangers)
    }

    #[test]
    fn loss_repeats_and_disorder_are_told_apart() {
        let mut tally = Tally::new(0, 2);
        record(&mut tally, 1, [0, 2, 1, 2, 4]);
        assert_eq!(counts(&tally), (4, 1, 1, 0));
        assert_eq!(tally.lost(|publisher| if publisher == 1 { 5 } else { 0 }), 1);
        assert_eq!(tally.lost(|_| 5), 6);
    }

    #[test]
    fn publishers_are_counted_apart() {
        let mut tally = Tally::new(10, 2);
        record(&mut tally, 10, 0..3);
        record(&mut tally, 11, 0..3);
        assert_eq!(counts(&tally), (6, 0, 0, 0));
    }

    #[test]
    fn a_publisher_that_is_none_of_its_is_a_stranger() {
        let mut tally = Tally::new(10, 2);
        record(&mut tally, 9, [0]);
        record(&mut tally, 12, [0]);
        record(&mut tally, 10, [u32::MAX]);
        assert_eq!(counts(&tally), (0, 0, 0, 3));
    }

    #[test]
    fn what_comes_in_order_takes_no_memory_and_is_remembered() {
        let mut tally = Tally::new(0, 1);
        record(&mut tally, 0, 0..100_000);
        assert!(tally.sources[0].seen.words.len() <= 1);
        record(&mut tally, 0, [0, 63, 64, 99_999]);
        assert_eq!(counts(&tally), (100_000, 4, 0, 0));
        assert_eq!(tally.lost(|_| 100_000), 0);
    }

    #[test]
    fn a_gap_is_filled_late() {
        let mut tally = Tally::new(0, 1);
        record(&mut tally, 0, (0..64).chain(128..192));
        assert_eq!(tally.lost(|_| 192), 64);
        record(&mut tally, 0, 64..128);
        assert_eq!(counts(&tally), (192, 0, 64, 0));
        assert!(tally.sources[0].seen.words.is_empty());
    }

    #[test]
    fn members_of_a_shared_subscription_are_counted_together() {
        let (mut one, mut two) = (Tally::new(0, 1), Tally::new(0, 1));
        record(&mut one, 0, (0..100).chain(150..200));
        record(&mut two, 0, (100..150).chain([3, 199]));
        one.share(&two);
        assert_eq!(counts(&one), (200, 2, 1, 0));
        assert_eq!(one.lost(|_| 210), 10);
    }
}
