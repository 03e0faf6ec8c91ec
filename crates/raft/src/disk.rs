//! [`DiskWork`]: where a host does the work that waits for the disk; [`Disk`]: the engine, used that way.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use zwerm_store::{Engine, StoreError};

/// How long a simulated disk takes for the next sync. Asked once per sync; the log writer sleeps that long on
/// the runtime's clock between the commit and the sync, so that a crash in between loses the commit.
pub type DiskDelay = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where a host does the work that waits for the disk.
#[derive(Clone, Default)]
pub enum DiskWork {
    /// On threads: one log writer, and the runtime's blocking threads.
    #[default]
    Threads,
    /// In tasks of the runtime, which stands still meanwhile: on a `current_thread` runtime nothing then
    /// depends on the scheduling of threads. For deterministic simulation, with an engine in memory.
    Inline(DiskDelay),
}

impl DiskWork {
    /// Does work that blocks, where that holds up no task. It runs to its end although the caller may stop to wait.
    ///
    /// # Errors
    /// It panicked; on threads only.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        if matches!(self, Self::Inline(_)) {
            return Ok(work());
        }
        tokio::task::spawn_blocking(work).await
    }
}

impl fmt::Debug for DiskWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "Threads",
            Self::Inline(_) => "Inline",
        })
    }
}

/// The engine of a host, for work that is no append; clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    engine: Arc<dyn Engine>,
    work: DiskWork,
}

impl Disk {
    /// An engine and where work on it is done.
    pub(crate) fn new(engine: Arc<dyn Engine>, work: DiskWork) -> Self {
        Self { engine, work }
    }

    /// The engine, for those who hold it longer than one piece of work.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine)
    }

    /// Does a piece of work where it may block. It runs to its end although the caller may stop to wait.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = self.engine();
        let done = self.work.run(move || work(engine.as_ref())).await;
        done.unwrap_or_else(|error| Err(StoreError::Damaged(format!("work on the disk panicked: {error}"))))
    }
}
