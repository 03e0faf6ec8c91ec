//! Rates from counters: the difference over a short window.
//!
//! Pure: reads no clock, the caller says when. Start at [`RateWindow::observe`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::{Rates, Totals};

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(10);

/// The samples of the last ten seconds.
#[derive(Debug, Default)]
pub struct RateWindow {
    samples: VecDeque<(Duration, Totals)>,
}

impl RateWindow {
    /// Takes a sample at `at`, a time since some fixed start. One a second is plenty.
    pub fn observe(&mut self, at: Duration, totals: Totals) {
        self.samples.push_back((at, totals));
        // the youngest sample that is a whole window old stays: it is what the newest is compared with
        while self.samples.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Per second, between the oldest and the newest sample; zero before there are two.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let (Some((from, old)), Some((to, new))) = (self.samples.front(), self.samples.back()) else {
            return Rates::default();
        };
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let per_second = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
        Rates {
            connects: per_second(old.connects, new.connects),
            messages_in: per_second(old.messages_in, new.messages_in),
            messages_out: per_second(old.messages_out, new.messages_out),
            messages_dropped: per_second(old.messages_dropped, new.messages_dropped),
            bytes_in: per_second(old.bytes_in, new.bytes_in),
            bytes_out: per_second(old.bytes_out, new.bytes_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(count: u64) -> Totals {
        Totals { messages_in: count, ..Totals::default() }
    }

    #[test]
    fn one_sample_is_no_rate() {
        let mut window = RateWindow::default();
        assert_eq!(window.rates(), Rates::default());
        window.observe(Duration::from_secs(1), messages(500));
        assert_eq!(window.rates(), Rates::default());
    }

    #[test]
    fn a_rate_is_the_difference_over_the_time_between() {
        let mut window = RateWindow::default();
        window.observe(Duration::from_secs(1), messages(100));
        window.observe(Duration::from_secs(3), messages(400));
        assert!((window.rates().messages_in - 150.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut window = RateWindow::default();
        for second in 0..60 {
            window.observe(
                Duration::from_secs(second),
                messages(if second < 30 { second * 1000 } else { 29_000 }),
            );
        }
        assert_eq!(window.rates(), Rates::default());
        assert_eq!(window.samples.len(), 11);
    }
}
