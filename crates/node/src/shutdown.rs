//! Signals become one cancellation that everything owned by the node watches.
//!
//! The first SIGINT, SIGTERM or SIGHUP asks for a graceful end, the second one ends the process at once.
//! Knows not what there is to end. Start at [`on_signal`].

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a process that is told twice to end exits with.
const IMPATIENT: i32 = 1;

/// The signals that ask a process to end.
#[derive(Debug)]
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl EndSignals {
    /// Takes the signals over from their default action, which is to kill.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one and gives its name. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}

/// A token that the first signal cancels. The task watches for the second one until it is aborted.
pub(crate) fn on_signal() -> io::Result<(CancellationToken, JoinHandle<()>)> {
    let mut signals = EndSignals::listen()?;
    let token = CancellationToken::new();
    let shutdown = token.clone();
    let watcher = tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "shutting down; a second signal ends at once");
        shutdown.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "ending at once");
        std::process::exit(IMPATIENT);
    });
    Ok((token, watcher))
}
