//! How many messages may have been sent by now, at a fixed rate.
//!
//! Pure. Start at [`Pace::due`].

use std::time::Duration;

/// A fixed rate, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    begin: Duration,
    /// Between two messages; `None`: no bound.
    interval: Option<Duration>,
}

impl Pace {
    /// `rate` messages a second (none: 0) by `publishers` together, of which this is number `number`: they
    /// do not all send at the same instant.
    pub(crate) fn new(begin: Duration, rate: f64, publishers: u32, number: u32) -> Self {
        let interval = (rate > 0.0).then(|| Duration::from_secs_f64(f64::from(publishers) / rate));
        let offset = interval.unwrap_or_default() * number / publishers.max(1);
        Self { begin: begin + offset, interval }
    }

    /// Messages that may have been sent at `now`; `None`: any number.
    pub(crate) fn due(&self, now: Duration) -> Option<u64> {
        let interval = self.interval?.as_nanos().max(1);
        let Some(passed) = now.checked_sub(self.begin) else { return Some(0) };
        u64::try_from(passed.as_nanos() / interval + 1).ok()
    }

    /// When message `sequence` is due.
    pub(crate) fn time(&self, sequence: u64) -> Duration {
        let interval = self.interval.unwrap_or_default().as_nanos();
        let after = u64::try_from(interval.saturating_mul(u128::from(sequence))).unwrap_or(u64::MAX);
        self.begin + Duration::from_nanos(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_share_a_rate_and_take_turns() {
        let begin = Duration::from_secs(1);
        let paces = [0, 1, 2, 3].map(|number| Pace::new(begin, 1_000.0, 4, number));
        let due = |millis| paces.map(|pace| pace.due(Duration::from_millis(millis)).unwrap());
        assert_eq!(due(999), [0, 0, 0, 0]);
        assert_eq!(due(1_000), [1, 0, 0, 0]);
        assert_eq!(due(1_002), [1, 1, 1, 0]);
        assert_eq!(due(2_003).iter().sum::<u64>(), 1_004);
        assert_eq!(paces[2].time(5), Duration::from_millis(1_022));
    }

    #[test]
    fn without_a_rate_everything_is_due() {
        assert_eq!(Pace::new(Duration::ZERO, 0.0, 1, 0).due(Duration::ZERO), None);
    }
}
