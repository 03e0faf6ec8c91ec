//! A broker that runs for one measurement.
//!
//! On loopback, on free ports, in a folder of its own, with the machine for itself as far as the tests of this
//! repository go. Start at [`Started::start`].

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zwerm_tests::{
    Client, Cluster, DEADLINE, Options, PortBlock, QoS, Signal, Turn, Version, send_signal, until,
};

use crate::broker::{Broker, Ports};

/// Longest life of a broker after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A running broker. Dropping it kills its processes.
#[derive(Debug)]
pub(crate) struct Started {
    /// Where clients connect, node by node.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Its processes, node by node.
    pub(crate) pids: Vec<u32>,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Zwerm(Box<Cluster>),
    Other { children: Vec<Child>, dir: TempDir, _ports: PortBlock, _turn: Turn },
}

impl Started {
    /// Starts so many nodes and waits until a client can subscribe at each. `settings`: for zwerm, besides those that all
    /// measurements have.
    ///
    /// # Errors
    /// When the broker does not get ready; its log is part of the error.
    pub(crate) async fn start(broker: Broker, nodes: u16, settings: &[&str]) -> Result<Self> {
        if broker == Broker::Zwerm {
            return Self::zwerm(nodes, settings).await;
        }
        let turn = Turn::wait().await?;
        let (block, dir) = (PortBlock::reserve()?, TempDir::with_prefix("zwerm-compare-")?);
        let ports: Vec<Ports> = (0..nodes)
            .map(|node| Ports {
                mqtt: block.port(3 * node),
                cluster: block.port(3 * node + 1),
                second: block.port(3 * node + 2),
            })
            .collect();
        let mut children = Vec::new();
        for index in 0..ports.len() {
            children.push(spawn(broker, &dir, &ports, index)?);
        }
        let endpoints: Vec<SocketAddr> =
            ports.iter().map(|ports| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.mqtt))).collect();
        for (endpoint, child) in endpoints.iter().zip(&mut children) {
            if let Err(error) = ready(*endpoint, child).await {
                bail!("{} is not ready: {error:#}; it said: {}", broker.name(), said(&dir));
            }
        }
        let pids = children.iter().filter_map(Child::id).collect();
        Ok(Self { endpoints, pids, running: Running::Other { children, dir, _ports: block, _turn: turn } })
    }

    async fn zwerm(nodes: u16, settings: &[&str]) -> Result<Self> {
        let unbounded = ["mqtt.session_queue_messages=0", "mqtt.session_queue_bytes=0"];
        let cluster = Cluster::start_with(nodes, &[&unbounded, settings].concat()).await?;
        let endpoints = cluster.nodes().iter().map(zwerm_tests::Node::mqtt).collect();
        let pids = cluster.nodes().iter().filter_map(zwerm_tests::Node::pid).collect();
        Ok(Self { endpoints, pids, running: Running::Zwerm(Box::new(cluster)) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub(crate) async fn stop(self) -> Result<()> {
        match self.running {
            Running::Zwerm(cluster) => cluster.finish().await,
            Running::Other { children, dir, .. } => {
                for mut child in children {
                    if let Some(pid) = child.id() {
                        send_signal(pid, Signal::TERM)?;
                    }
                    if timeout(GRACE, child.wait()).await.is_err() {
                        child.kill().await?;
                    }
                }
                dir.close().context("deleting a broker's folder")
            }
        }
    }
}

fn spawn(broker: Broker, dir: &TempDir, ports: &[Ports], index: usize) -> Result<Child> {
    let home = dir.path().join(format!("node-{index}"));
    fs::create_dir_all(&home)?;
    let program = broker.program().with_context(|| format!("{} is not installed", broker.name()))?;
    let log = File::create(home.join("log"))?;
    let mut command = Command::new(program);
    command.args(broker.configure(&home, ports, index)?).current_dir(&home);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| format!("starting {}", broker.name()))
}

/// Waits until a client can subscribe.
async fn ready(endpoint: SocketAddr, child: &mut Child) -> Result<()> {
    let (outcome, _) = until("readiness", 2 * DEADLINE, async || {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(Err(status));
        }
        let options = Options::new(endpoint, "compare-ready", Version::V311);
        let trying = async {
            let mut client = Client::connect(options).await?;
            client.subscribe("compare/ready", QoS::Zero).await
        };
        matches!(timeout(GRACE, trying).await, Ok(Ok(()))).then_some(Ok(()))
    })
    .await?;
    outcome.map_err(|status| anyhow::anyhow!("it ended with {status}"))
}

/// The end of the nodes' logs.
fn said(dir: &TempDir) -> String {
    let nodes = fs::read_dir(dir.path()).into_iter().flatten().flatten();
    let logs = nodes.filter_map(|node| fs::read_to_string(node.path().join("log")).ok());
    let ends = logs.filter_map(|log| {
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        (!lines.is_empty()).then(|| lines.into_iter().rev().collect::<Vec<&str>>().join(" / "))
    });
    ends.collect::<Vec<String>>().join("; ")
}
