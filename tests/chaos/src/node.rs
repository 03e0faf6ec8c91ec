//! One node: a `zwerm serve` process in its network namespace, with its own directory and log.
//!
//! Knows how to start, stop, pause and watch it, not what a fault is. Start at [`Node::start`].

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Child;
use tokio::time::{Instant, timeout};
use zwerm_tests::{Signal, get, send_signal};

use crate::network::{CLIENTS, Network, Side};
use crate::plan::Shape;

const MQTT: u16 = 1883;
const HTTP: u16 = 8080;
const CLUSTER: u16 = 7100;

/// What nodes want from whoever changes them.
const TOKEN: &str = "chaos-may-change-nodes";

/// How long a node may take to stop on SIGTERM.
pub(crate) const STOPPING: Duration = Duration::from_secs(30);
/// How long a node may take to hand over all that it has and leave.
pub(crate) const LEAVING: Duration = Duration::from_secs(120);

/// Lines of a log that are shown when a run fails.
const TAIL: usize = 30;

/// A node and, while it runs, its process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Node {
    side: Side,
    binary: PathBuf,
    dir: PathBuf,
    /// Beside the configuration.
    environment: Vec<(String, String)>,
    child: Option<Child>,
    /// It was started and has not left.
    is_member: bool,
}

impl Node {
    /// Writes the configuration of one node of several into a directory; starts nothing.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn configure(
        side: Side,
        Shape { first, most, replicas }: Shape,
        dir: &Path,
        binary: &Path,
    ) -> Result<Self> {
        let at = |side: Side, port: u16| SocketAddr::from((Network::address(side), port));
        // A node that is to begin alone must know of no other.
        let known = if first == 1 && side == 1 { 0 } else { most };
        let peers: Vec<String> = (1..=known).map(|peer| at(peer, CLUSTER).to_string()).collect();
        let config = format!(
            "[node]\nname = \"node-{side}\"\ndata_dir = {:?}\n\n\
             [cluster]\nlisten = \"{cluster}\"\nadvertise = \"{cluster}\"\npeers = {peers:?}\n\
             bootstrap_expect = {first}\nreplicas = {replicas}\n\n\
             [[listener]]\nkind = \"mqtt\"\nbind = \"{}\"\n\n[http]\nbind = \"{}\"\ntoken_file = {:?}\n\n\
             [mqtt]\nallow_anonymous = true\n",
            kept(dir),
            at(side, MQTT),
            at(side, HTTP),
            token_path(dir),
            cluster = at(side, CLUSTER),
        );
        let mut node = Self::with(&config, dir, binary, Vec::new())?;
        fs::write(token_path(dir), TOKEN)?;
        node.move_to(side);
        Ok(node)
    }

    /// A node without a place yet, with this configuration and variables of its environment.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn with(
        config: &str,
        dir: &Path,
        binary: &Path,
        environment: Vec<(String, String)>,
    ) -> Result<Self> {
        fs::create_dir_all(dir.join("data"))?;
        fs::write(dir.join("zwerm.toml"), config)?;
        let (binary, dir) = (binary.to_owned(), dir.to_owned());
        Ok(Self { side: CLIENTS, binary, dir, environment, child: None, is_member: false })
    }

    /// Its next start is on this side.
    pub(crate) fn move_to(&mut self, side: Side) {
        self.side = side;
    }

    /// Where it is, or was last.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// Whether a process was started and not ended since.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the process; its output is appended to the node's log.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.side);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Network::command(self.side);
        command.arg(&self.binary).arg("serve").arg("--config").arg(self.dir.join("zwerm.toml"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ZWERM_"))
        {
            command.env_remove(name);
        }
        if let Ok(level) = std::env::var("ZWERM_TEST_LOG") {
            command.env("ZWERM_LOG__LEVEL", level);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().context("starting zwerm serve")?);
        self.is_member = true;
        Ok(())
    }

    /// Whether it is, or should be, in the cluster.
    pub(crate) fn is_member(&self) -> bool {
        self.is_member
    }

    /// `kill -9`, and deletes everything it kept.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) async fn wipe(&mut self) -> Result<()> {
        self.kill().await?;
        fs::remove_dir_all(kept(&self.dir)).context("deleting what a node kept")
    }

    /// Tells it to leave the cluster, and waits until its process has ended; how long that took.
    ///
    /// # Errors
    /// When it refuses, or does not end in time.
    pub(crate) async fn leave(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let mut command = Network::command(self.side);
        command.arg(&self.binary).args([
            "ctl",
            "node",
            "leave",
            "--http",
            &format!("http://{}", self.http()),
        ]);
        command.arg("--token-file").arg(token_path(&self.dir));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "node {} does not leave: {}", self.side, said.trim());
        let status = self.stopped(LEAVING).await?;
        ensure!(status.success(), "node {} left with {status}", self.side);
        self.is_member = false;
        Ok(begin.elapsed())
    }

    /// Sends a signal, to pause it or to let it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.as_ref().and_then(Child::id);
        send_signal(pid.with_context(|| format!("node {} does not run", self.side))?, signal)
    }

    /// `kill -9`; when this returns the process is gone. Harmless when it does not run.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await.context("kill -9"),
            None => Ok(()),
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run, or does not stop in time (then it is killed).
    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.stopped(STOPPING).await
    }

    /// Waits for the end that was asked for.
    ///
    /// # Errors
    /// When it does not run, or does not stop in time (then it is killed).
    pub(crate) async fn stopped(&mut self, within: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        let stopped = timeout(within, child.wait()).await;
        stopped
            .with_context(|| format!("node {} did not stop within {} s", self.side, within.as_secs()))?
            .context("waiting for the end")
    }

    /// Whether the process has ended without being told to; it can be started again then.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Whether `/readyz` says 200 now.
    pub(crate) async fn is_ready(http: SocketAddr) -> bool {
        get(http, "/readyz").await.is_ok_and(|answer| answer.status == 200)
    }

    /// Where MQTT clients connect.
    pub(crate) fn mqtt(&self) -> SocketAddr {
        SocketAddr::from((Network::address(self.side), MQTT))
    }

    /// Where health and metrics are.
    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::from((Network::address(self.side), HTTP))
    }

    /// The file all its output goes to.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join("zwerm.log")
    }

    /// The last lines of that file.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Lines of the log that tell of a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        log.lines().filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }
}

/// The file with the token that a node in this directory wants for changes.
fn token_path(dir: &Path) -> PathBuf {
    dir.join("token")
}

/// What it keeps.
fn kept(dir: &Path) -> PathBuf {
    dir.join("data").join("zwerm")
}
