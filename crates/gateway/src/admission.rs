//! How many come in at a time: so that a storm of clients that reconnect leaves the clients alone that are in already.
//!
//! Connections are accepted at a pace; what is too much for it waits in the system's backlog and costs nothing. What is
//! dear, a TLS handshake or a CONNECT, needs a place; a bounded number waits for one, for a bounded time. Who gets none is
//! told so after a moment of chance, for told at once all would come back at once. Knows no sockets and no MQTT. Start at
//! [`Admission::new`].

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use crate::bucket::TokenBucket;
use crate::{Config, Counters};

/// Decides who comes in; one for all listeners.
#[derive(Debug)]
pub(crate) struct Admission {
    /// `None`: as fast as they come.
    pace: Option<Mutex<TokenBucket>>,
    pub(crate) tls: Line,
    pub(crate) connects: Line,
    /// Places for those who are told later; the others are told at once.
    later: Semaphore,
    jitter: Duration,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let now = Instant::now().into_std();
        let pace = config.connect_rate.map(|(rate, burst)| Mutex::new(TokenBucket::new(rate, burst, now)));
        let line = |places| Line::new(places, config.max_waiting, config.busy_after);
        Self {
            pace,
            tls: line(config.max_tls_handshakes),
            connects: line(config.max_handshakes),
            later: Semaphore::new(config.max_waiting.min(Semaphore::MAX_PERMITS)),
            jitter: config.busy_jitter,
        }
    }

    /// Waits until one more may be accepted; [`accepted`](Self::accepted) says that it was. Cancel-safe.
    pub(crate) async fn pace(&self, counters: &Counters) {
        let Some(pace) = &self.pace else { return };
        loop {
            let wait = pace.lock().wait(Instant::now().into_std());
            if wait.is_zero() {
                return;
            }
            counters.accepts_paced_total.increment();
            sleep(wait).await;
        }
    }

    /// One was accepted.
    pub(crate) fn accepted(&self) {
        if let Some(pace) = &self.pace {
            pace.lock().take(1, Instant::now().into_std());
        }
    }

    /// It had hung up already: others need not wait for it. A backlog longer than its clients are patient would never
    /// empty otherwise, for all that is in it would be outdated when its turn comes.
    pub(crate) fn gave_up(&self) {
        if let Some(pace) = &self.pace {
            pace.lock().put_back();
        }
    }

    /// Waits before a client is told that nobody has time for it.
    pub(crate) async fn put_off(&self) {
        if let Ok(_place) = self.later.try_acquire() {
            sleep(part_of(self.jitter, rand::random())).await;
        }
    }
}

/// A part of a duration by chance.
fn part_of(most: Duration, random: u32) -> Duration {
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Places for dear work, and the line before them.
#[derive(Debug)]
pub(crate) struct Line {
    places: Semaphore,
    waiting: Semaphore,
    patience: Duration,
}

impl Line {
    fn new(places: usize, waiting: usize, patience: Duration) -> Self {
        let places = Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS));
        Self { places, waiting: Semaphore::new(waiting.min(Semaphore::MAX_PERMITS)), patience }
    }

    /// A place, at once or in turn; `None`: too many wait, or it took too long. Cancel-safe.
    pub(crate) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        let _waits = self.waiting.try_acquire().ok()?;
        timeout(self.patience, self.places.acquire()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_its_turn_and_no_longer_than_it_may() {
        let line = Arc::new(Line::new(1, 1, PATIENCE));
        let first = line.place().await.unwrap();
        let waiting = Arc::clone(&line);
        let waiting = tokio::spawn(async move { waiting.place().await.is_some() });
        tokio::task::yield_now().await;
        let began = Instant::now();
        assert!(line.place().await.is_none(), "one waits already");
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(first);
        assert!(waiting.await.unwrap());
        let _all = line.place().await.unwrap();
        assert!(line.place().await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn accepting_keeps_the_pace_after_a_burst() {
        let pace = |number| NonZeroU32::new(number).unwrap();
        let config = Config { connect_rate: Some((pace(10), pace(5))), ..Config::default() };
        let admission = Admission::new(&config);
        let (counters, began) = (Counters::default(), Instant::now());
        for _ in 0..25 {
            admission.pace(&counters).await;
            admission.accepted();
        }
        let took = began.elapsed();
        assert!((Duration::from_millis(1_990)..=Duration::from_millis(2_050)).contains(&took), "{took:?}");
        assert_eq!(counters.accepts_paced_total.get(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_gave_up_cost_the_others_no_time() {
        let config = Config { connect_rate: Some((NonZeroU32::MIN, NonZeroU32::MIN)), ..Config::default() };
        let admission = Admission::new(&config);
        let (counters, began) = (Counters::default(), Instant::now());
        for _ in 0..100 {
            admission.pace(&counters).await;
            admission.accepted();
            admission.gave_up();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        admission.accepted();
        admission.pace(&counters).await;
        assert!(began.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_put_off_by_chance_as_long_as_there_is_room() {
        let config = Config { max_waiting: 2, busy_jitter: PATIENCE, ..Config::default() };
        let admission = Admission::new(&config);
        let began = Instant::now();
        let put_off = || async {
            admission.put_off().await;
            began.elapsed()
        };
        let (one, two, three) = tokio::join!(put_off(), put_off(), put_off());
        assert!(one <= PATIENCE + Duration::from_millis(1) && two <= PATIENCE + Duration::from_millis(1));
        assert_eq!(three, Duration::ZERO, "there was no room");
    }

    #[test]
    fn chance_covers_the_whole_time() {
        assert_eq!(part_of(PATIENCE, 0), Duration::ZERO);
        assert_eq!(part_of(PATIENCE, u32::MAX), PATIENCE);
        assert_eq!(part_of(PATIENCE, u32::MAX / 2).as_millis(), 2_499);
    }
}
