//! Waiting for a level with a deadline.
//!
//! Knows nothing about what is waited for. Start at [`until`].

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, interval};

/// How long anything may take that a correct cluster does at once. Generous: CI machines are busy, and speed
/// is reported, not asserted.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks `level` again and again until it gives a value; says how long that took.
///
/// # Errors
/// When the deadline passes first; the message names `what`.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut level: impl AsyncFnMut() -> Option<T>,
) -> Result<(T, Duration)> {
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        if let Some(value) = level().await {
            return Ok((value, started.elapsed()));
        }
        if started.elapsed() > deadline {
            bail!("{what} did not happen within {} s", deadline.as_secs());
        }
    }
}
