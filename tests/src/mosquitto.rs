//! mosquitto_pub, mosquitto_sub and mosquitto_rr as foreign clients.
//!
//! Knows their flags and what they print with `-d`. Start at [`MosquittoSub::start`] and [`mosquitto_pub`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::DEADLINE;

/// How received messages are printed: a mark that debug lines do not have, then retain flag, QoS and payload.
const FORMAT: &str = "GOT %t %r %q %p";

/// A running mosquitto_sub. Dropping it kills the process, which ends its connection without a DISCONNECT.
#[derive(Debug)]
pub struct MosquittoSub {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Messages that came before SUBACK: those of a session that is continued.
    early: VecDeque<String>,
}

/// What a printed message begins with.
const GOT: &str = "GOT ";

impl MosquittoSub {
    /// Subscribes and waits for SUBACK. `version` is `31`, `311` or `5`; `more` are further flags.
    ///
    /// # Errors
    /// When the program is missing or the subscription does not come about.
    pub async fn start(
        address: SocketAddr,
        version: &str,
        filter: &str,
        qos: u8,
        more: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("stdbuf"); // or it keeps its lines while standard output is a pipe
        command.args([
            "-oL",
            "mosquitto_sub",
            "-d",
            "-h",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
        ]);
        command.args(["-V", version, "-t", filter, "-q", &qos.to_string(), "-F", FORMAT]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting mosquitto_sub: run ./tests/prepare")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut started = Self { child, lines: BufReader::new(stdout).lines(), early: VecDeque::new() };
        let granted = started.line_with("Subscribed (mid").await?;
        ensure!(granted.trim_end().ends_with(&qos.to_string()), "granted: {granted}");
        Ok(started)
    }

    /// The next message as `topic retain qos payload`.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next(&mut self) -> Result<String> {
        let line = match self.early.pop_front() {
            Some(line) => line,
            None => self.line_with(GOT).await?,
        };
        Ok(line.trim_start_matches(GOT).to_owned())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    async fn line_with(&mut self, mark: &str) -> Result<String> {
        timeout(DEADLINE, async {
            while let Some(line) = self.lines.next_line().await? {
                if line.contains(mark) {
                    return Ok(line);
                }
                if line.starts_with(GOT) {
                    self.early.push_back(line);
                }
            }
            bail!("mosquitto_sub ended before it printed {mark:?}")
        })
        .await
        .with_context(|| format!("mosquitto_sub did not print {mark:?} in time"))?
    }
}

/// Publishes each of `lines` as a message with one run of mosquitto_pub; returns when it is done, which for
/// QoS 1 and 2 means acknowledged.
///
/// # Errors
/// When it fails.
pub async fn mosquitto_pub(
    address: SocketAddr,
    version: &str,
    topic: &str,
    qos: u8,
    lines: &[String],
    more: &[&str],
) -> Result<()> {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-V", version]);
    command.args(["-t", topic, "-q", &qos.to_string(), "-l"]).args(more);
    command.stdin(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("starting mosquitto_pub: run ./tests/prepare")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes()).await?;
    drop(stdin);
    let status = timeout(DEADLINE, child.wait()).await.context("mosquitto_pub did not end")??;
    ensure!(status.success(), "mosquitto_pub to {topic} ended with {status}");
    Ok(())
}

/// Asks `question` with one run of mosquitto_rr and waits for the answer, which it returns.
///
/// # Errors
/// When it fails or none comes.
pub async fn mosquitto_rr(
    address: SocketAddr,
    version: &str,
    (topic, answers): (&str, &str),
    question: &str,
    more: &[&str],
) -> Result<String> {
    let mut command = Command::new("mosquitto_rr");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-V", version]);
    command.args(["-t", topic, "-e", answers, "-m", question, "-q", "1"]).args(more);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.context("mosquitto_rr did not end")??;
    ensure!(output.status.success(), "mosquitto_rr ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
