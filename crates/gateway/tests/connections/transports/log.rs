//! What the node logs, to look at. Start at [`listen`].

use std::io::{self, Write};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;

use crate::fixture::until;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static LISTENING: OnceLock<()> = OnceLock::new();

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

/// Keeps what every test of this process logs from now on.
pub fn listen() {
    LISTENING.get_or_init(|| {
        tracing_subscriber::fmt()
            .with_env_filter("zwerm_gateway=debug")
            .with_ansi(false)
            .with_writer(|| Lines)
            .init();
    });
}

/// Waits for a line with all of these in it.
pub async fn has(parts: &[&str]) {
    until(&format!("a line with {parts:?}"), || {
        let lines = String::from_utf8_lossy(&LINES.lock()).into_owned();
        lines.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    })
    .await;
}
