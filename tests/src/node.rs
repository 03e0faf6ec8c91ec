//! One node: a `zwerm serve` process with its own folder, ports and log.
//!
//! Knows how to start, kill and watch it, not what it does with the others. Start at [`Node::start`].

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{Certificates, PortBlock, get, until, zwerm_binary};

/// Ports a node takes of its cluster's block: MQTT, HTTP, cluster.
const PORTS_PER_NODE: u16 = 3;

/// Ports a node takes behind those of all nodes for its other listeners, in the order of [`Transport`].
const PORTS_FOR_TRANSPORTS: u16 = 3;

/// What MQTT can come over, besides TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS.
    Tls,
    /// WebSocket at `/mqtt`.
    Ws,
    /// Secure WebSocket at `/mqtt`.
    Wss,
}

impl Transport {
    const ALL: [Self; PORTS_FOR_TRANSPORTS as usize] = [Self::Tls, Self::Ws, Self::Wss];

    fn kind(self) -> &'static str {
        match self {
            Self::Tls => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// A node and, while it runs, its process. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    number: u16,
    dir: PathBuf,
    mqtt: SocketAddr,
    http: SocketAddr,
    transports: [SocketAddr; Transport::ALL.len()],
    settings: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// Writes the configuration of node `number` (from 1) of `nodes`; starts nothing. `settings` are further keys,
    /// each as `section.key=value`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn configure(
        number: u16,
        nodes: u16,
        base: &Path,
        ports: &PortBlock,
        settings: &[&str],
    ) -> Result<Self> {
        let dir = base.join(format!("node-{number}"));
        fs::create_dir_all(&dir)?;
        let port = |node: u16, which: u16| {
            SocketAddr::from((Ipv4Addr::LOCALHOST, ports.port((node - 1) * PORTS_PER_NODE + which)))
        };
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let (mqtt, http) = (port(number, 0), port(number, 1));
        let behind = nodes * PORTS_PER_NODE + (number - 1) * PORTS_FOR_TRANSPORTS;
        let transports =
            [0, 1, 2].map(|which| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.port(behind + which))));
        let node = Self { number, dir, mqtt, http, transports, settings, child: None };
        let peers: Vec<String> = (1..=nodes).map(|peer| port(peer, 2).to_string()).collect();
        fs::write(node.config_path(), node.config(port(number, 2), &peers))?;
        Ok(node)
    }

    fn config(&self, cluster: SocketAddr, peers: &[String]) -> String {
        let Self { number, mqtt, http, .. } = self;
        let data = self.data_dir();
        let nodes = peers.len();
        format!(
            "[node]\nname = \"node-{number}\"\ndata_dir = {data:?}\n\n\
             [cluster]\nlisten = \"{cluster}\"\nadvertise = \"{cluster}\"\npeers = {peers:?}\n\
             bootstrap_expect = {nodes}\n\n\
             [[listener]]\nkind = \"mqtt\"\nbind = \"{mqtt}\"\n\n\
             [http]\nbind = \"{http}\"\n\n\
             [mqtt]\nallow_anonymous = true\n"
        )
    }

    /// Adds listeners for all transports, and one at a Unix socket. Before it is started.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn listen_at_all(&self, certificates: &Certificates) -> Result<()> {
        let ((cert, key), ca) = (certificates.server(), certificates.ca());
        let mut config = fs::read_to_string(self.config_path())?;
        for (transport, address) in Transport::ALL.into_iter().zip(self.transports) {
            let kind = transport.kind();
            config.push_str(&format!("\n[[listener]]\nkind = \"{kind}\"\nbind = \"{address}\"\n"));
            if transport != Transport::Ws {
                config.push_str(&format!("cert = {cert:?}\nkey = {key:?}\n"));
            }
            // a browser that has no certificate gives up where it is asked for one
            if transport == Transport::Tls {
                config.push_str(&format!(
                    "client_ca = {ca:?}\nclient_certificate = \"optional\"\ncertificate_as_username = true\n"
                ));
            }
        }
        let socket = self.unix_socket();
        config.push_str(&format!("\n[[listener]]\nbind = \"unix:{}\"\n", socket.display()));
        Ok(fs::write(self.config_path(), config)?)
    }

    /// Where clients of a transport connect, after [`Node::listen_at_all`].
    #[must_use]
    pub fn address(&self, transport: Transport) -> SocketAddr {
        self.transports[transport as usize]
    }

    /// Where clients of this machine connect, likewise.
    #[must_use]
    pub fn unix_socket(&self) -> PathBuf {
        self.dir.join("mqtt.sock")
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("zwerm.toml")
    }

    /// Other keys from the next start on, each as `section.key=value`.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
    }

    /// Starts the process; its output is appended to the node's log.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.number);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(zwerm_binary()?);
        command.arg("serve").arg("--config").arg(self.config_path());
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ZWERM_"))
        {
            command.env_remove(name);
        }
        if let Ok(level) = std::env::var("ZWERM_TEST_LOG") {
            command.env("ZWERM_LOG__LEVEL", level);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().context("starting zwerm serve")?);
        Ok(())
    }

    /// Waits until `/readyz` says 200; says how long that took.
    ///
    /// # Errors
    /// When the process ends or the deadline passes first.
    pub async fn ready(&mut self, deadline: Duration) -> Result<Duration> {
        let http = self.http;
        let number = self.number;
        let child = self.child.as_mut().with_context(|| format!("node {number} is not started"))?;
        let (outcome, took) = until(&format!("readiness of node {number}"), deadline, async || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            let answer = get(http, "/readyz").await.ok()?;
            (answer.status == 200).then_some(Ok(()))
        })
        .await?;
        if let Err(status) = outcome {
            bail!("node {number} ended with {status}");
        }
        Ok(took)
    }

    /// What it answers to `/api/v1/status`.
    ///
    /// # Errors
    /// When it does not, or not in JSON.
    pub async fn status(&self) -> Result<serde_json::Value> {
        let answer = get(self.http, "/api/v1/status").await?;
        ensure!(answer.status == 200, "node {} answered {}", self.number, answer.status);
        serde_json::from_str(&answer.body).context("the status is no JSON")
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("node {} does not run", self.number))?;
        child.kill().await.context("kill -9")
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        send_signal(self.pid().with_context(|| format!("node {} does not run", self.number))?, Signal::TERM)?;
        self.ended(deadline).await
    }

    /// Waits for the end of a process that was told to end.
    ///
    /// # Errors
    /// When it does not run or does not end in time.
    pub async fn ended(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("node {} does not run", self.number))?;
        timeout(deadline, child.wait())
            .await
            .with_context(|| format!("node {} did not stop in time", self.number))?
            .context("waiting for the end")
    }

    /// Whether the process is started and was not killed or stopped by the test.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// The process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Where MQTT clients connect.
    #[must_use]
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The file all output goes to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("zwerm.log")
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// When there is no such process, or it is not ours.
pub fn send_signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(pid, signal)
        .with_context(|| format!("signal {signal:?} to process {}", pid.as_raw_nonzero()))
}
