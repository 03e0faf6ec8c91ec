//! One node of the simulation: the broker's own code on a runtime, a clock and a disk of its own.
//!
//! Each start of a node is a runtime of one thread with paused time. It runs when [`Node::run_to`] says until
//! when, so that all nodes keep step; a crash drops the runtime and all its tasks wherever they are. A
//! stopped process (SIGSTOP) is a node that is not run for a while; then its clock jumps.
//! Knows no clients. Start at [`Node::start`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use zwerm_broker::{Broker, Unstarted};
use zwerm_cluster::forward::LaneLimits;
use zwerm_cluster::{Cluster, LeaseConfig, RaftConfig};
use zwerm_gateway::Connections;
use zwerm_raft::DiskWork;
use zwerm_store::{Engine, MemoryEngine};

use crate::dice::Dice;
use crate::net::{End, Net, Place};

/// The time of day when a simulation begins, in milliseconds since 1970: far from every zero.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Shards of the cluster: few, for each costs time.
const SHARDS: u32 = 3;
/// How long a sync of the disk takes, in microseconds.
const SYNC_US: std::ops::Range<u64> = 0..3_000;
/// Log entries between two snapshots: so few that a short run sees some.
const SNAPSHOT_ENTRIES: u64 = 400;

/// One node; its disk outlives its crashes.
pub(crate) struct Node {
    pub(crate) place: Place,
    size: u64,
    net: Net,
    engine: Arc<MemoryEngine>,
    starts: u64,
    /// Milliseconds since the run began: the true time, which the node's clock may miss.
    now_ms: Arc<AtomicU64>,
    skew_ms: Arc<AtomicI64>,
    life: Option<Life>,
}

/// From one start to its crash.
struct Life {
    runtime: Runtime,
    began: Instant,
    began_ms: u64,
    parts: Arc<Mutex<Option<Parts>>>,
}

/// What a started node consists of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) cluster: Cluster,
    connections: Connections,
}

impl Node {
    /// A node that does not run, with an empty disk.
    pub(crate) fn new(place: Place, size: u64, net: &Net) -> Self {
        Self {
            place,
            size,
            net: net.clone(),
            engine: Arc::default(),
            starts: 0,
            now_ms: Arc::default(),
            skew_ms: Arc::default(),
            life: None,
        }
    }

    /// What it consists of, once it has started.
    pub(crate) fn parts(&self) -> Option<Parts> {
        self.life.as_ref()?.parts.lock().clone()
    }

    /// Moves its clock, to or fro.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Starts it from its disk.
    ///
    /// # Errors
    /// The runtime cannot be made.
    pub(crate) fn start(&mut self, now_ms: u64, mut dice: Dice) -> anyhow::Result<()> {
        self.starts += 1;
        self.now_ms.store(now_ms, Ordering::Relaxed);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let parts: Arc<Mutex<Option<Parts>>> = Arc::default();
        let began = runtime.block_on(async { Instant::now() });
        let config = self.config(&mut dice);
        let incoming = self.net.listen(self.place);
        let dial = Arc::new(self.net.dialer(self.place));
        let engine = Arc::clone(&self.engine) as Arc<dyn Engine>;
        let started = Arc::clone(&parts);
        let starting = async move {
            let unstarted = Unstarted::new(broker_config());
            let (cluster, outbox) = Cluster::start(config, engine, dial, incoming, unstarted.door()).await?;
            let broker = Broker::start(unstarted, cluster.clone(), outbox);
            let connections = Connections::new(zwerm_gateway::Config::default(), broker);
            *started.lock() = Some(Parts { cluster, connections });
            anyhow::Ok(())
        };
        runtime.spawn(async move {
            if let Err(error) = starting.await {
                tracing::error!(error = format!("{error:#}"), "a node did not start");
            }
        });
        self.life = Some(Life { runtime, began, began_ms: now_ms, parts });
        Ok(())
    }

    fn config(&self, dice: &mut Dice) -> zwerm_cluster::Config {
        let (now_ms, skew_ms) = (Arc::clone(&self.now_ms), Arc::clone(&self.skew_ms));
        let clock = move || {
            let now_ms = EPOCH_MS + now_ms.load(Ordering::Relaxed);
            now_ms.saturating_add_signed(skew_ms.load(Ordering::Relaxed))
        };
        let syncs = Mutex::new(dice.fork());
        let sync = move || Duration::from_micros(syncs.lock().within(SYNC_US));
        zwerm_cluster::Config {
            id: self.place,
            name: format!("n{}", self.place),
            start: self.starts,
            cluster_addr: self.place.to_string(),
            mqtt_addr: String::new(),
            http_addr: String::new(),
            peers: (1..=self.size).map(|place| place.to_string()).collect(),
            bootstrap_expect: usize::try_from(self.size).unwrap_or_default(),
            shards: SHARDS,
            replicas: 3,
            levels: zwerm_cluster::level::Levels::up_to(None),
            raft: RaftConfig {
                snapshot_after_entries: SNAPSHOT_ENTRIES,
                keep_entries: SNAPSHOT_ENTRIES / 10,
                disk_work: DiskWork::Inline(Arc::new(sync)),
                ..RaftConfig::default()
            },
            lease: LeaseConfig::default(),
            lanes: LaneLimits::default(),
            clock: Arc::new(clock),
        }
    }

    /// Runs it until a time; what it slept through, if it was stopped, is gone at once.
    pub(crate) fn run_to(&self, now_ms: u64, slept: bool) {
        let Some(life) = &self.life else { return };
        self.now_ms.store(now_ms, Ordering::Relaxed);
        let until = life.began + Duration::from_millis(now_ms.saturating_sub(life.began_ms));
        life.runtime.block_on(async {
            if slept {
                tokio::time::advance(until.saturating_duration_since(Instant::now())).await;
            }
            tokio::time::sleep_until(until).await;
        });
    }

    /// Ends it as a power cut does: its tasks and connections are gone, and so is what its disk did not sync, but
    /// for what it happened to have written.
    pub(crate) fn crash(&mut self, mut dice: Dice) {
        self.net.reset_all(self.place);
        self.life = None;
        let unsynced = u64::try_from(self.engine.unsynced()).unwrap_or_default();
        let kept = dice.within(0..unsynced + 1);
        self.engine.crash_keeping(usize::try_from(kept).unwrap_or_default());
    }

    /// Takes a connection of a client. False: nobody listens.
    pub(crate) fn accept(&self, end: End) -> bool {
        let (Some(life), Some(parts)) = (&self.life, self.parts()) else { return false };
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        life.runtime.spawn(async move { parts.connections.serve(end, peer, CancellationToken::new()).await });
        true
    }

    /// The reasons why it is not ready; empty when it is.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let Some(parts) = self.parts() else { return vec!["it does not run".to_owned()] };
        let Some(life) = &self.life else { return Vec::new() };
        // A lease ends with time, and time is the runtime's.
        let _inside = life.runtime.enter();
        parts.cluster.status().not_ready()
    }

    /// A hash of every group's state as this node has applied it.
    pub(crate) fn digests(&self) -> Vec<(Group, u64)> {
        let Some(parts) = self.parts() else { return Vec::new() };
        let control = xxhash_rust::xxh3::xxh3_64(&parts.cluster.control.state().encode_snapshot());
        let shards = parts.cluster.shard_views();
        let shards = shards.iter().map(|(shard, view)| (Group::Shard(*shard), view.state().digest()));
        std::iter::once((Group::Control, control)).chain(shards).collect()
    }

    /// A group's state as this node has applied it, for people.
    pub(crate) fn described(&self, group: Group) -> String {
        let Some(parts) = self.parts() else { return String::new() };
        match group {
            Group::Control => format!("{:#?}", parts.cluster.control.state()),
            Group::Shard(shard) => format!("{:#?}", parts.cluster.shard_view(shard).map(|view| view.state())),
        }
    }
}

/// A Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    Control,
    Shard(u32),
}

fn broker_config() -> zwerm_broker::Config {
    zwerm_broker::Config::default()
}
