//! What a process costs, as Linux tells it under `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Resident memory in bytes (`VmRSS`).
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    from_status(pid, "VmRSS:")
}

/// The most resident memory that it ever had, in bytes (`VmHWM`).
///
/// # Errors
/// When there is no such process.
pub fn peak_resident_bytes(pid: u32) -> Result<u64> {
    from_status(pid, "VmHWM:")
}

fn from_status(pid: u32, what: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
    let kib: u64 =
        line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{what} is no number"))?;
    Ok(kib * 1024)
}

/// Processor time used so far, user and system.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<u64, _>>().context("no ticks in stat")?;
    let milliseconds = ticks * 1000 / rustix::param::clock_ticks_per_second().max(1);
    Ok(Duration::from_millis(milliseconds))
}

/// Lets this process, and the nodes it starts, open as many files as the hard limit admits.
///
/// # Errors
/// When the system refuses.
pub fn raise_open_files() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = std::process::id();
        assert!(resident_bytes(pid).unwrap() > 100_000);
        assert!(peak_resident_bytes(pid).unwrap() > 100_000);
        cpu_seconds(pid).unwrap();
    }
}
