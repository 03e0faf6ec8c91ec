//! Ports that no other test uses, and turns for tests that want the machine for themselves.
//!
//! Both are file locks, so that they hold between the processes of one test run and of several, and end with
//! the process. Start at [`PortBlock::reserve`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Below the range the kernel takes the ports of outgoing connections from: a node that is down for a while
/// must find its port free.
const FIRST: u16 = 20_000;
const LAST: u16 = 30_000;
/// For six nodes with listeners for all transports, of six ports each.
const SIZE: u16 = 40;

/// Forty ports on loopback, reserved while this lives.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    _lock: File,
}

impl PortBlock {
    /// Takes the first block that nobody has and whose ports are all free.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve() -> Result<Self> {
        for first in (FIRST..LAST).step_by(usize::from(SIZE)) {
            let lock = open_lock(&format!("ports-{first}"))?;
            match lock.try_lock() {
                Ok(()) if (first..first + SIZE).all(is_free) => return Ok(Self { first, _lock: lock }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).context("locking a block of ports"),
            }
        }
        bail!("no {SIZE} free ports in a row between {FIRST} and {LAST}")
    }

    /// Port number `index` of the block.
    ///
    /// # Panics
    /// When the block has no such port: a mistake in a test.
    #[must_use]
    pub fn port(&self, index: u16) -> u16 {
        assert!(index < SIZE, "a block has {SIZE} ports");
        self.first + index
    }
}

/// The right to run a cluster: one at a time, so that what a test measures is not another test.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub async fn wait() -> Result<Self> {
        tokio::task::spawn_blocking(|| {
            let lock = open_lock("turn")?;
            lock.lock().context("waiting for the other cluster tests")?;
            Ok(Self { _lock: lock })
        })
        .await?
    }
}

fn open_lock(name: &str) -> Result<File> {
    let dir: PathBuf = std::env::temp_dir().join("zwerm-tests");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(name);
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_share_no_port() {
        let one = PortBlock::reserve().unwrap();
        let two = PortBlock::reserve().unwrap();
        assert!(one.port(0).abs_diff(two.port(0)) >= SIZE);
    }

    #[test]
    fn a_block_with_a_taken_port_is_passed_over() {
        let probe = PortBlock::reserve().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, probe.port(3))).unwrap();
        let first = probe.port(0);
        drop(probe);
        assert_ne!(PortBlock::reserve().unwrap().port(0), first);
        drop(taken);
    }
}
