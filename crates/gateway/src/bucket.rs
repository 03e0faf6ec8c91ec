//! A rate with a burst: so many a second, and so many at once after a pause.
//!
//! Pure: reads no clock, the caller says when. Start at [`TokenBucket::take`].

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// Tokens that come at a steady rate and are kept up to a number. In whole nanoseconds, so nothing is lost to rounding.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// In which one token comes.
    every: Duration,
    /// What a full bucket has taken to fill.
    full: Duration,
    /// When it was, or would have been, empty.
    empty_at: Instant,
}

impl TokenBucket {
    /// A full bucket at `now`: `rate` tokens a second, `burst` at most.
    #[must_use]
    pub fn new(rate: NonZeroU32, burst: NonZeroU32, now: Instant) -> Self {
        let every = Duration::from_secs(1) / rate.get();
        let full = every * burst.get();
        Self { every, full, empty_at: now.checked_sub(full).unwrap_or(now) }
    }

    /// Takes up to `most` tokens; how many there were.
    pub fn take(&mut self, most: usize, now: Instant) -> usize {
        let filled = now.saturating_duration_since(self.empty_at);
        if filled > self.full {
            self.empty_at += filled - self.full;
        }
        let there = filled.min(self.full).as_nanos() / self.every.as_nanos().max(1);
        let taken = usize::try_from(there).unwrap_or(usize::MAX).min(most);
        self.empty_at += self.every * u32::try_from(taken).unwrap_or(u32::MAX);
        taken
    }

    /// Puts one back that was taken for nothing.
    pub fn put_back(&mut self) {
        self.empty_at = self.empty_at.checked_sub(self.every).unwrap_or(self.empty_at);
    }

    /// How long until there is one; zero: now.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        (self.empty_at + self.every).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(rate: u32, burst: u32, now: Instant) -> TokenBucket {
        TokenBucket::new(NonZeroU32::new(rate).unwrap(), NonZeroU32::new(burst).unwrap(), now)
    }

    #[test]
    fn a_burst_at_once_then_the_rate() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = bucket(10, 3, start);
        assert_eq!(bucket.take(2, start), 2);
        assert_eq!(bucket.take(2, start), 1);
        assert_eq!(bucket.take(1, start), 0);
        assert_eq!(bucket.wait(start), Duration::from_millis(100));
        let later = start + Duration::from_millis(99);
        assert_eq!((bucket.take(1, later), bucket.wait(later)), (0, Duration::from_millis(1)));
        let later = start + Duration::from_millis(250);
        assert_eq!(bucket.wait(later), Duration::ZERO);
        assert_eq!(bucket.take(9, later), 2);
        assert_eq!(bucket.wait(later), Duration::from_millis(50), "half a token is kept");
        bucket.put_back();
        assert_eq!((bucket.take(2, later), bucket.wait(later)), (1, Duration::from_millis(50)));
    }

    #[test]
    fn a_pause_fills_it_no_further_than_its_burst() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = bucket(1000, 5, start);
        assert_eq!(bucket.take(5, start), 5);
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(100, later), 5);
        assert_eq!(bucket.take(100, later), 0);
    }

    #[test]
    fn over_a_long_time_it_is_exactly_the_rate_however_often_it_is_asked() {
        for step_us in [100, 1_370, 33_333, 100_000] {
            let start = Instant::now() + Duration::from_secs(100);
            let mut bucket = bucket(500, 50, start);
            let mut taken = bucket.take(usize::MAX, start);
            let mut now = start;
            while now < start + Duration::from_secs(10) {
                now += Duration::from_micros(step_us);
                taken += bucket.take(usize::MAX, now);
            }
            let due = 50 + (500 * (now - start).as_micros() / 1_000_000) as usize;
            assert_eq!(taken, due, "every {step_us} µs");
        }
    }
}
