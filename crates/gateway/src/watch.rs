//! Looks at files again and again, and has them read again when they have changed.
//!
//! Knows not what is in them. Start at [`watch`].

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::Counters;

/// How a file looked: when it was changed, its size, which one it is. `None`: there was none.
pub(crate) type Mark = Option<(SystemTime, u64, u64)>;

/// Something that was read from files.
pub(crate) trait Watched: Send + Sync + 'static {
    /// How the files looked before they were read first.
    fn first_marks(&self) -> Vec<Mark>;

    /// How the files look now.
    fn marks(&self) -> Vec<Mark>;

    /// Reads them again; what cannot be used changes nothing and is logged.
    fn read_again(&self, counters: &Counters);
}

/// How a file looks.
pub(crate) fn mark(path: &Path) -> Mark {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Looks until `stop`.
pub(crate) async fn watch(
    watched: Arc<impl Watched>,
    every: Duration,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let mut seen = watched.first_marks();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let (watched, counters) = (Arc::clone(&watched), Arc::clone(&counters));
        // files may lie on a slow disk
        let looked = tokio::task::spawn_blocking(move || {
            let now = watched.marks();
            if now != seen {
                watched.read_again(&counters);
            }
            now
        });
        let Ok(now) = looked.await else { return };
        seen = now;
    }
}
