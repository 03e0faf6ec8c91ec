//! Nodes, their networks and their disks, and how each kind of fault is made and healed.
//!
//! Knows how to break and to heal, not when. A process that ends by itself is started again, as an orchestrator
//! would. Start at [`Cluster::start`].

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use zwerm_tests::{Signal, get};

use crate::disk::SmallDisk;
use crate::fault::{Fault, Kind, SMALL_DISK};
use crate::network::{CLIENTS, Network, Side};
use crate::node::Node;
use crate::plan::Shape;
use crate::spread::leaders;

/// How long the first start may take.
const STARTING: Duration = Duration::from_secs(60);
/// Between two looks at the nodes.
pub(crate) const GLANCE: Duration = Duration::from_millis(100);
/// How long a process that ended by itself stays down.
const BACK_OFF: Duration = Duration::from_secs(1);
/// What becomes of a CONNECT in a minority must be known within this time.
const REFUSING: Duration = Duration::from_secs(10);

/// CONNECT of 5.0: clean start, keep alive 30 s, no properties, client id "witness".
const CONNECT: &[u8] = b"\x10\x14\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x07witness";
const CONNACK: u8 = 0x20;
/// Reason codes from here on say no.
const FAILURE: u8 = 0x80;

/// The nodes and what they stand on.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// All there may ever be.
    nodes: Vec<Node>,
    network: Network,
    /// Where faults are dealt: of the node whose disk can be full.
    disk: Option<SmallDisk>,
    /// Processes that ended by themselves, and since when.
    fallen: Vec<(Side, Instant)>,
}

impl Cluster {
    /// Builds everything below a directory, starts the nodes that form the cluster and waits until these are ready. With a size in MiB, one node has a disk of that size.
    ///
    /// # Errors
    /// When one does not get ready, or something cannot be built.
    pub(crate) async fn start(
        binary: &Path,
        dir: &Path,
        shape: Shape,
        disk_mib: Option<u32>,
    ) -> Result<Self> {
        let network = Network::build(shape.most).await?;
        let configure = |side| Node::configure(side, shape, &dir.join(format!("node-{side}")), binary);
        let mut nodes = (1..=shape.most).map(configure).collect::<Result<Vec<Node>>>()?;
        let mut disk = None;
        if let Some(mib) = disk_mib {
            let small = nodes.get(usize::from(SMALL_DISK) - 1).context("no node has the small disk")?;
            disk = Some(SmallDisk::mount(&small.data(), mib).await?);
        }
        for node in nodes.iter_mut().take(usize::from(shape.first)) {
            node.start()?;
        }
        let mut cluster = Self { nodes, network, disk, fallen: Vec::new() };
        timeout(STARTING, async {
            while !cluster.unready().await.is_empty() {
                cluster.revive();
                sleep(GLANCE).await;
            }
        })
        .await
        .context("the cluster did not get ready")?;
        Ok(cluster)
    }

    /// Where clients connect, node by node.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Node::mqtt).collect()
    }

    /// The nodes that are, or should be, in the cluster.
    fn members(&self) -> impl Iterator<Item = (Side, &Node)> {
        (1..).zip(&self.nodes).filter(|(_, node)| node.is_member())
    }

    fn node(&mut self, side: Side) -> Result<&mut Node> {
        self.nodes.get_mut(usize::from(side).wrapping_sub(1)).context("no such node")
    }

    /// Makes a fault; what is worth saying of it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn break_it(&mut self, fault: &Fault) -> Result<Vec<String>> {
        let node = fault.node;
        match fault.kind {
            Kind::Kill => self.node(node)?.kill().await?,
            Kind::Pause => self.node(node)?.signal(Signal::STOP)?,
            Kind::Restart => drop(self.node(node)?.terminate().await?),
            Kind::DiskFull => drop(self.disk.as_ref().context("no disk is small")?.fill().await?),
            Kind::Wipe => self.node(node)?.wipe().await?,
            Kind::Join => {
                for node in fault.nodes() {
                    self.node(node)?.start()?;
                }
            }
            Kind::Leave => {
                let mut notes = Vec::new();
                for side in fault.nodes() {
                    let left = self.node(side)?.leave().await?.as_secs_f64();
                    notes.push(format!("node {side} had left after {left:.1} s"));
                }
                return Ok(notes);
            }
            _ => self.cut(fault).await?,
        }
        Ok(Vec::new())
    }

    /// Cuts what the fault cuts.
    async fn cut(&mut self, fault: &Fault) -> Result<()> {
        let node = fault.node;
        let all: Vec<Side> = self.members().map(|(side, _)| side).collect();
        let others = all.into_iter().filter(|side| *side != node);
        let cuts: Vec<(Side, Side)> = match (fault.kind, fault.other) {
            (Kind::Isolate, _) => others.flat_map(|side| both(node, side)).collect(),
            (Kind::Mute, _) => others.map(|side| (node, side)).collect(),
            (Kind::Deaf, _) => others.map(|side| (side, node)).collect(),
            (Kind::Vanish, _) => others.chain([CLIENTS]).flat_map(|side| both(node, side)).collect(),
            (Kind::Halves, _) => {
                let others: Vec<Side> = others.filter(|side| fault.spares(*side)).collect();
                let pairs = fault.nodes().flat_map(|node| others.iter().map(move |side| both(node, *side)));
                pairs.flatten().collect()
            }
            (Kind::CutLink, Some(other)) => both(node, other).to_vec(),
            (Kind::CutOneWay, Some(other)) => vec![(node, other)],
            _ => Vec::new(),
        };
        for (from, to) in cuts {
            self.network.cut(from, to).await?;
        }
        Ok(())
    }

    /// Looks, just before a fault is healed, whether nodes behave as they must; what they say.
    ///
    /// # Errors
    /// When one does not.
    pub(crate) async fn witness(&self, fault: &Fault) -> Result<Vec<String>> {
        if fault.kind != Kind::Halves {
            return Ok(Vec::new());
        }
        let mut said = Vec::new();
        for (side, node) in self.members() {
            let answer = get(node.http(), "/readyz").await?;
            if fault.spares(side) {
                ensure!(answer.status == 200, "node {side} of the majority is not ready: {}", answer.body);
                continue;
            }
            let reasons = answer.body.trim().replace('\n', "; ");
            ensure!(
                answer.status != 200 && !reasons.is_empty(),
                "node {side} of the minority says it is ready"
            );
            let refused =
                timeout(REFUSING, refusal(node.mqtt())).await.context("no answer to a CONNECT")??;
            said.push(format!("node {side} of the minority answers CONNECT with {refused:#04x}; {reasons}"));
        }
        Ok(said)
    }

    /// Waits until every shard has as many voters as it should, all of them members, and every node leads as many
    /// shards as any other, or one less; says how many.
    pub(crate) async fn settled(&self) -> String {
        loop {
            match leaders(self.members().map(|(side, node)| (side, node.http()))).await {
                Ok(leaders) => {
                    let counts: Vec<String> =
                        leaders.iter().map(|(side, count)| format!("node {side} leads {count}")).collect();
                    return counts.join(", ");
                }
                Err(_) => sleep(GLANCE).await,
            }
        }
    }

    /// Heals a fault.
    ///
    /// # Errors
    /// When it cannot be healed.
    pub(crate) async fn heal(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::Kill | Kind::Restart | Kind::Wipe => self.node(fault.node)?.start(),
            Kind::Pause => self.node(fault.node)?.signal(Signal::CONT),
            Kind::DiskFull => self.disk.as_ref().context("no disk is small")?.free(),
            Kind::Join | Kind::Leave => Ok(()),
            _ => self.network.heal().await,
        }
    }

    /// Starts processes again that ended by themselves; names those that have just ended.
    pub(crate) fn revive(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for (side, node) in (1..).zip(&mut self.nodes) {
            if let Some(status) = node.ended() {
                self.fallen.push((side, Instant::now()));
                said.push(format!("node {side} ended by itself: {status}"));
            }
        }
        let (due, still): (Vec<_>, Vec<_>) =
            self.fallen.drain(..).partition(|(_, since)| since.elapsed() >= BACK_OFF);
        self.fallen = still;
        for (side, _) in due {
            if let Err(error) = self.node(side).and_then(Node::start) {
                said.push(format!("node {side} did not start again: {error:#}"));
            }
        }
        said
    }

    /// Kills a node that does not recover and starts it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) async fn replace(&mut self, side: Side) -> Result<()> {
        let node = self.node(side)?;
        node.kill().await?;
        node.start()
    }

    /// The nodes that are not ready.
    pub(crate) async fn unready(&self) -> Vec<Side> {
        let mut unready = Vec::new();
        for (side, node) in self.members() {
            if !Node::is_ready(node.http()).await {
                unready.push(side);
            }
        }
        unready
    }

    /// Prints the last lines of every node's log.
    pub(crate) fn show_logs(&self) {
        for (side, node) in (1..).zip(&self.nodes) {
            let side: Side = side;
            println!("--- node {side}, the end of its log\n{}", node.log_tail());
        }
    }

    /// Lines of the logs that tell of a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.nodes.iter().flat_map(Node::panics).collect()
    }
}

/// The code with which a node answers a CONNECT of MQTT 5.0 that it does not accept.
async fn refusal(mqtt: SocketAddr) -> Result<u8> {
    let mut stream = TcpStream::connect(mqtt).await?;
    stream.write_all(CONNECT).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    let [kind, _, _, code] = answer;
    ensure!(kind == CONNACK && code >= FAILURE, "it answers with {answer:02x?}");
    Ok(code)
}

fn both(one: Side, other: Side) -> [(Side, Side); 2] {
    [(one, other), (other, one)]
}
