//! A line on standard error now and then: what a run is at.
//!
//! On a terminal one line that changes every half a second, elsewhere a line every ten seconds. Start at
//! [`Progress::tell`].

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// The line.
#[derive(Debug)]
pub(super) struct Progress {
    quiet: bool,
    terminal: bool,
    told: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: io::stderr().is_terminal(), told: Instant::now(), shown: false }
    }

    /// Says something if it is time to.
    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        let every = Duration::from_millis(if self.terminal { 500 } else { 10_000 });
        if self.quiet || self.told.elapsed() < every {
            return;
        }
        (self.told, self.shown) = (Instant::now(), true);
        let (begin, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // nothing can be done about a standard error that is closed
        write!(io::stderr(), "{begin}{}{end}", what()).ok();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.terminal {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
