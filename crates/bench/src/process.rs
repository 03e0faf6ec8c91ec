//! What a process costs and which one listens at a port, as Linux tells it by its clocks and under `/proc`.
//!
//! Start at [`cpu_seconds`] and [`listening_at`].

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
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

/// Processor time used so far by all its threads, also those that have ended: user and system, to the microsecond.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<Duration> {
    let pid = i32::try_from(pid).context("no process has such an id")?;
    // `/proc/PID/stat` has the same in ticks of 10 ms, too coarse for a thousand messages
    let used = clock_gettime(ClockId::pid_cpu_clock_id(Pid::from_raw(pid))?)?;
    Ok(Duration::from(used))
}

/// The name of a process's program.
pub(crate) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

/// The process of this machine that listens at a port of loopback; `None` when there is none, or it is not ours
/// to look at, or the address is another machine's.
pub(crate) fn listening_at(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inodes: Vec<&str> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| listener(line, address.port()))
        .collect();
    let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if sockets.is_empty() {
        return None;
    }
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| has_open(*pid, &sockets))
}

/// The inode of a line of `/proc/net/tcp` that says that somebody listens at `port`.
fn listener(line: &str, port: u16) -> Option<&str> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, hexadecimal) = fields.get(1)?.rsplit_once(':')?;
    let found = u16::from_str_radix(hexadecimal, 16).ok()? == port && *fields.get(3)? == LISTEN;
    found.then(|| fields.get(9).copied()).flatten()
}

fn has_open(pid: u32, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let opened = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    opened.into_iter().any(|file| sockets.iter().any(|socket| file.as_os_str() == socket.as_str()))
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
        let before = cpu_seconds(pid).unwrap();
        while cpu_seconds(pid).unwrap() == before {}
        assert!(cpu_seconds(u32::MAX).is_err());
        assert!(!name(pid).is_empty());
    }

    #[test]
    fn the_process_that_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(listening_at(address), Some(std::process::id()));
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], address.port()));
        assert_eq!(listening_at(elsewhere), None);
    }

    #[test]
    fn only_listeners_of_the_port_count() {
        let line = |state| {
            format!(
                "   0: 0100007F:075B 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 100"
            )
        };
        assert_eq!(listener(&line("0A"), 1883), Some("4711"));
        assert_eq!(listener(&line("0A"), 1884), None);
        assert_eq!(listener(&line("01"), 1883), None);
        assert_eq!(listener("  sl  local_address rem_address   st", 1883), None);
    }
}
