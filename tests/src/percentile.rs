//! Percentiles of times. Knows nothing of what took them. Start at [`percentile`].

use std::time::Duration;

/// The time that `percent` of all do not exceed, by nearest rank; `None` of none. Sorts them.
pub fn percentile(times: &mut [Duration], percent: usize) -> Option<Duration> {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_nearest_rank() {
        let mut times: Vec<Duration> = (1..=100).rev().map(Duration::from_secs).collect();
        for percent in [1, 50, 99, 100] {
            assert_eq!(percentile(&mut times, percent), Some(Duration::from_secs(percent as u64)));
        }
        assert_eq!(percentile(&mut times[..3], 99), Some(Duration::from_secs(3)));
        assert_eq!(percentile(&mut times[..1], 50), Some(Duration::from_secs(1)));
        assert_eq!(percentile(&mut [], 99), None);
    }
}
