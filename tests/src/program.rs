//! A foreign client program that reports its checks as JSON lines.
//!
//! Knows the lines, not the checks. Start at [`Program::start`].

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Longest silence of a program.
const SILENCE: Duration = Duration::from_secs(120);

/// One check of a program.
#[derive(Debug, Clone, Deserialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// Why not, or what was measured.
    #[serde(default)]
    pub detail: String,
}

/// One line of a program.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A check was made.
    Check(Check),
    /// A milestone or a measurement.
    Event {
        /// Which.
        event: String,
        /// Seconds, for a measurement.
        seconds: Option<f64>,
        /// Which node, from 1, for a request to kill or to start one.
        node: Option<usize>,
    },
}

/// A running program. Dropping it kills the process.
#[derive(Debug)]
pub struct Program {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    checks: Vec<Check>,
}

impl Program {
    /// Starts `interpreter script --endpoints ... arguments`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        interpreter: &Path,
        script: &Path,
        endpoints: &[SocketAddr],
        arguments: &[&str],
    ) -> Result<Self> {
        let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        let mut command = Command::new(interpreter);
        command.arg(script).arg("--endpoints").arg(endpoints.join(",")).args(arguments);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", script.display()))?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self { child, stdin, lines: BufReader::new(stdout).lines(), checks: Vec::new() })
    }

    /// The next line, `None` at the end. Checks are kept for [`Program::finish`].
    ///
    /// # Errors
    /// When a line is no such JSON, or none comes for two minutes.
    pub async fn next(&mut self) -> Result<Option<Line>> {
        let line = timeout(SILENCE, self.lines.next_line()).await.context("the program fell silent")??;
        let Some(text) = line else { return Ok(None) };
        let line: Line = serde_json::from_str(&text).with_context(|| format!("not a report: {text}"))?;
        if let Line::Check(check) = &line {
            if !check.ok {
                println!("FAILED {}: {}", check.name, check.detail);
            }
            self.checks.push(check.clone());
        }
        Ok(Some(line))
    }

    /// Answers the program with one line.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn answer(&mut self, text: &str) -> Result<()> {
        self.stdin.write_all(format!("{text}\n").as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }

    /// Reads to the end; returns all checks when every one held.
    ///
    /// # Errors
    /// When a check failed (all failed ones are named), or the program ended badly or checked nothing.
    pub async fn finish(mut self) -> Result<Vec<Check>> {
        while self.next().await?.is_some() {}
        let status = self.child.wait().await?;
        let failed: Vec<String> = self
            .checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| format!("  {}: {}", check.name, check.detail))
            .collect();
        if !failed.is_empty() {
            bail!("{} of {} checks failed:\n{}", failed.len(), self.checks.len(), failed.join("\n"));
        }
        ensure!(status.success(), "the program ended with {status}");
        ensure!(!self.checks.is_empty(), "the program checked nothing");
        Ok(self.checks)
    }
}
