//! The proof of a delivery: every payload says who sent it, as which of his messages, and when.
//!
//! Knows no connection. A subscriber hands each payload to [`Delivery::record`].

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

/// What a payload starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the publisher.
    pub publisher: u32,
    /// Number of the message, from 0, rising by one.
    pub sequence: u32,
    /// When it was sent, since the start of the measurement.
    pub sent: Duration,
}

impl Stamp {
    /// Bytes it takes; no payload is smaller.
    pub const LENGTH: usize = 16;

    /// A payload of `size` bytes, filled up with zeros.
    #[must_use]
    pub fn payload(self, size: usize) -> Vec<u8> {
        let nanoseconds = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        let mut payload = Vec::with_capacity(size.max(Self::LENGTH));
        payload.extend_from_slice(&self.publisher.to_be_bytes());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        payload.extend_from_slice(&nanoseconds.to_be_bytes());
        payload.resize(size.max(Self::LENGTH), 0);
        payload
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the payload is too short to hold one.
    pub fn read(payload: &[u8]) -> Result<Self> {
        let (publisher, rest) = payload.split_first_chunk().context("no publisher")?;
        let (sequence, rest) = rest.split_first_chunk().context("no sequence number")?;
        let (sent, _) = rest.split_first_chunk().context("no time")?;
        Ok(Self {
            publisher: u32::from_be_bytes(*publisher),
            sequence: u32::from_be_bytes(*sequence),
            sent: Duration::from_nanos(u64::from_be_bytes(*sent)),
        })
    }
}

/// What one subscriber, or all together after [`Delivery::add`], received.
#[derive(Debug)]
pub struct Delivery {
    /// Messages, repeats not counted.
    pub received: u64,
    /// Messages that came again.
    pub repeated: u64,
    /// Messages that came after a later one of the same publisher.
    pub disordered: u64,
    /// From publisher to subscriber, in microseconds.
    pub latency: Histogram<u64>,
    seen: Vec<Vec<bool>>,
    next: Vec<usize>,
}

impl Delivery {
    /// Nothing yet, of so many publishers with so many messages each.
    ///
    /// # Errors
    /// Never in practice: the histogram's bounds are fixed.
    pub fn new(publishers: usize, messages: usize) -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
        let seen = vec![vec![false; messages]; publishers];
        Ok(Self { received: 0, repeated: 0, disordered: 0, latency, seen, next: vec![0; publishers] })
    }

    /// Counts one payload that arrived `now` (since the start of the measurement).
    ///
    /// # Errors
    /// When it is no payload of this measurement.
    pub fn record(&mut self, payload: &[u8], now: Duration) -> Result<()> {
        let stamp = Stamp::read(payload)?;
        let (publisher, sequence) = (stamp.publisher as usize, stamp.sequence as usize);
        let seen = self
            .seen
            .get_mut(publisher)
            .and_then(|of| of.get_mut(sequence))
            .context("a stranger's message")?;
        if std::mem::replace(seen, true) {
            self.repeated += 1;
            return Ok(());
        }
        let next = self.next.get_mut(publisher).context("a stranger's message")?;
        if sequence < *next {
            self.disordered += 1;
        } else {
            *next = sequence + 1;
        }
        self.received += 1;
        let micros = u64::try_from(now.saturating_sub(stamp.sent).as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        Ok(())
    }

    /// Adds another subscriber's counts.
    ///
    /// # Errors
    /// Never in practice: all histograms have the same bounds.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.received += other.received;
        self.repeated += other.repeated;
        self.disordered += other.disordered;
        self.latency.add(&other.latency)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(sequence: u32) -> Vec<u8> {
        Stamp { publisher: 1, sequence, sent: Duration::from_micros(10) }.payload(32)
    }

    #[test]
    fn a_stamp_is_read_back() {
        let stamp = Stamp { publisher: 7, sequence: 9, sent: Duration::from_nanos(123) };
        assert_eq!(Stamp::read(&stamp.payload(20)).unwrap(), stamp);
        assert!(Stamp::read(&[0; 15]).is_err());
    }

    #[test]
    fn loss_repeats_and_disorder_are_told_apart() {
        let mut delivery = Delivery::new(2, 5).unwrap();
        for sequence in [0, 2, 1, 2, 4] {
            delivery.record(&stamp(sequence), Duration::from_micros(30)).unwrap();
        }
        assert_eq!((delivery.received, delivery.repeated, delivery.disordered), (4, 1, 1));
        assert_eq!(delivery.latency.max(), 20);
    }

    #[test]
    fn a_message_nobody_sent_is_an_error() {
        let mut delivery = Delivery::new(2, 5).unwrap();
        assert!(delivery.record(&stamp(5), Duration::ZERO).is_err());
    }
}
