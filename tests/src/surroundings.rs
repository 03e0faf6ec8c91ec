//! What a measurement stands on: the program under test, its commit, the machine, the day.
//!
//! Start at [`Surroundings::look`].

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// Where and with what a run was made.
#[derive(Debug, Clone, Serialize)]
pub struct Surroundings {
    /// When, to the minute, in UTC.
    pub date: String,
    /// Of this repository, and whether files differ from it.
    pub commit: String,
    /// `release` or `dev`.
    pub profile: &'static str,
    /// The processor's name.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_gib: u64,
    /// The kernel and its version.
    pub kernel: String,
}

/// The profile that this program was built with, and zwerm beside it.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

impl Surroundings {
    /// What this machine says; what it does not say is "unknown".
    #[must_use]
    pub fn look() -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let git = |arguments: &str| {
            let mut command = Command::new("git");
            command.arg("-C").arg(repository).args(arguments.split(' '));
            answer(&mut command)
        };
        let mut commit = git("rev-parse --short=12 HEAD").unwrap_or_else(|| "unknown".into());
        if git("status --porcelain --untracked-files=no").is_some_and(|changes| !changes.is_empty()) {
            commit.push_str(" with changes");
        }
        let kilobytes = field("/proc/meminfo", "MemTotal").and_then(|text| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        });
        let unknown = || "unknown".to_owned();
        Self {
            date: answer(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).unwrap_or_else(unknown),
            commit,
            profile: PROFILE,
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kilobytes.unwrap_or_default() >> 20,
            kernel: answer(Command::new("uname").arg("-sr")).unwrap_or_else(unknown),
        }
    }
}

/// Builds zwerm in this program's profile, unless `ZWERM_BIN` names one.
///
/// # Errors
/// When it does not build.
pub fn build_zwerm() -> Result<()> {
    if env::var_os("ZWERM_BIN").is_some() {
        return Ok(());
    }
    let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--package", "zwerm-node", "--profile", PROFILE]);
    let status = command.status().context("running cargo build; --no-build uses the zwerm that is there")?;
    ensure!(status.success(), "zwerm does not build");
    Ok(())
}

fn answer(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What follows `name :` in a file of `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
