//! A disk that can be full: a small file system in memory, mounted where one node keeps its data.
//!
//! It is filled by a file that takes all that is left, and freed by deleting it. Exists in the mount namespace of
//! the run only. Start at [`SmallDisk::mount`].

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::network::run;

/// Bytes written at a time while filling.
const CHUNK: usize = 1 << 20;
/// And when no such chunk fits any more.
const PAGE: usize = 4096;

/// The file system.
#[derive(Debug, Clone)]
pub(crate) struct SmallDisk {
    ballast: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `mib` MiB at a directory.
    ///
    /// # Errors
    /// When mounting is refused.
    pub(crate) async fn mount(at: &Path, mib: u32) -> Result<Self> {
        let path = at.to_str().context("the directory's name is no text")?;
        run("mount", &format!("-t tmpfs -o size={mib}m none"), &[path]).await?;
        Ok(Self { ballast: at.join("ballast") })
    }

    /// Takes all that is left of it; says how many bytes that were.
    ///
    /// # Errors
    /// When writing fails for another reason than that it is full.
    pub(crate) async fn fill(&self) -> Result<u64> {
        let ballast = self.ballast.clone();
        tokio::task::spawn_blocking(move || fill(&ballast)).await?
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When the file cannot be deleted.
    pub(crate) fn free(&self) -> Result<()> {
        match fs::remove_file(&self.ballast) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("freeing the disk"),
            _ => Ok(()),
        }
    }
}

fn fill(ballast: &Path) -> Result<u64> {
    let mut file = File::create(ballast).context("filling the disk")?;
    let zeros = vec![0; CHUNK];
    let mut written = 0;
    for size in [CHUNK, PAGE] {
        loop {
            match file.write(zeros.get(..size).unwrap_or_default()) {
                Ok(bytes) if bytes > 0 => written += u64::try_from(bytes)?,
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
    }
    Ok(written)
}
