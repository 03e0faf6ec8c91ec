//! One node's process: started, watched until it is ready, waited for, stopped.
//!
//! Its output goes to a file, never to a pipe: nobody must read for it to go on, and it outlives a
//! supervisor that is killed. It has a process group of its own, so that a Ctrl-C in the terminal reaches
//! the supervisor alone, which then stops the nodes in order. Start at [`Process::spawn`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use zwerm_admin::Readiness;

use super::plan::NodePlan;
use crate::http::{self, HttpAddress};
use crate::identity::PID_FILE;

/// How often a starting node is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(150);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How often it is said that a node is still starting.
const REMIND_EVERY: Duration = Duration::from_secs(10);
/// How long a graceful stop may take before the process is killed: `node.shutdown_grace` and what comes after it.
const STOP_WITHIN: Duration = Duration::from_secs(40);

/// What happens to a node, in this order: `Waiting` any number of times, `Ready` at most once, `Ended`.
#[derive(Debug)]
pub(super) enum Event {
    /// It takes clients.
    Ready { number: u16, pid: u32 },
    /// It still does not; why, as it says itself.
    Waiting { number: u16, reasons: String },
    /// It is gone.
    Ended { number: u16, pid: u32, how: io::Result<ExitStatus>, asked: bool },
}

/// A running node.
#[derive(Debug)]
pub(super) struct Process {
    node: NodePlan,
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts the node with this very program.
    pub(super) fn spawn(node: NodePlan) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(node.log_file())
            .with_context(|| format!("cannot open {}", node.log_file().display()))?;
        let child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(node.config_file())
            .arg("--data-dir")
            .arg(&node.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start node {}", node.number))?;
        let pid = child.id().context("a process without a pid")?;
        Ok(Self { node, child, pid })
    }

    /// Reports to `events` until the process has ended; `stop` asks it to end, `kill` ends it at once.
    pub(super) async fn watch(
        mut self,
        events: Sender<Event>,
        stop: CancellationToken,
        kill: CancellationToken,
    ) {
        let number = self.node.number;
        let mut asked = false;
        // cancel-safe: waiting for a child, for a token; readiness is asked anew every time
        let how = tokio::select! {
            how = self.child.wait() => how,
            () = stop.cancelled() => { asked = true; end(&mut self.child, &kill).await }
            () = starting(&self.node, self.pid, &events) => tokio::select! {
                how = self.child.wait() => how,
                () = stop.cancelled() => { asked = true; end(&mut self.child, &kill).await }
            },
        };
        self.forget_pid();
        // the supervisor is gone only if the whole program is
        events.send(Event::Ended { number, pid: self.pid, how, asked }).await.ok();
    }

    /// A killed node leaves its pid file; nobody should signal a pid that may be another's soon.
    fn forget_pid(&self) {
        let path = self.node.dir.join(PID_FILE);
        let said = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if said == Some(self.pid) {
            fs::remove_file(&path).ok();
        }
    }
}

/// Returns when the node is ready, and reports it.
async fn starting(node: &NodePlan, pid: u32, events: &Sender<Event>) {
    let mut remind = Instant::now() + REMIND_EVERY;
    loop {
        let reasons = match ready(node).await {
            Ok(readiness) if readiness.ready => break,
            Ok(readiness) => readiness.reasons.join(", "),
            Err(problem) => problem,
        };
        if Instant::now() >= remind {
            remind += REMIND_EVERY;
            events.send(Event::Waiting { number: node.number, reasons }).await.ok();
        }
        sleep(ASK_EVERY).await;
    }
    events.send(Event::Ready { number: node.number, pid }).await.ok();
}

async fn ready(node: &NodePlan) -> Result<Readiness, String> {
    let address = HttpAddress::from(node.http);
    let (_, body) = http::get(&address, "/readyz", ANSWER_WITHIN).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body).map_err(|_| format!("{address} does not answer like a node of zwerm"))
}

/// SIGTERM, and SIGKILL for one that does not end in time or when there is no time.
async fn end(child: &mut Child, kill: &CancellationToken) -> io::Result<ExitStatus> {
    // `id` is `None` once the child was waited for: the pid is never another process's
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM).ok();
    }
    tokio::select! {
        waited = timeout(STOP_WITHIN, child.wait()) => if let Ok(how) = waited { return how },
        () = kill.cancelled() => {}
    }
    child.start_kill()?;
    child.wait().await
}

/// The last line of a log, for a message about a node that failed.
pub(super) fn last_line(path: &Path) -> Option<String> {
    const TAIL: u64 = 8 << 10;
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.strip_prefix("zwerm: ").unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_why_a_node_failed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("zwerm.log");
        assert_eq!(last_line(&log), None);
        fs::write(&log, format!("{}\nzwerm: cannot listen on 127.0.0.1:1883\n\n", "x".repeat(20_000)))
            .unwrap();
        assert_eq!(last_line(&log).as_deref(), Some("cannot listen on 127.0.0.1:1883"));
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_on_demand() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; while :; do sleep 1; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // it has set its trap when it writes
        let mut out = child.stdout.take().unwrap();
        tokio::io::AsyncReadExt::read_u8(&mut out).await.unwrap();
        let kill = CancellationToken::new();
        kill.cancel();
        let how = end(&mut child, &kill).await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&how), Some(9));
    }

    #[tokio::test]
    async fn a_process_that_heeds_sigterm_ends_by_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let how = end(&mut child, &CancellationToken::new()).await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&how), Some(15));
    }
}
