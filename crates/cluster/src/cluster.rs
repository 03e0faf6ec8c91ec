//! The handle of this node's part in the cluster: wiring, start and stop.
//!
//! Decides nothing itself; each task lives in the file of its subject. Start at [`Cluster::start`].

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zwerm_machine::Control;
use zwerm_machine::level::said;
use zwerm_machine::records::Node;
use zwerm_raft::{Group, GroupId, Host, Network, NetworkError};
use zwerm_store::Engine;
use zwerm_wire::TopicFilter;

use crate::barrier::{Barrier, BarrierQueue, run_barrier};
use crate::exclusive;
use crate::formation::{self, Acquaintances};
use crate::forward::{Body, Doubtful, Doubts, Inbound, InboundState, Record, settle_doubts};
use crate::leadership;
use crate::leaving;
use crate::ledger::CONTROL;
use crate::levels::{self, Ceiling, Failure};
use crate::members;
use crate::overseer::{self, Overseer};
use crate::placement::shard_of;
use crate::queue::RemoteQueues;
use crate::replica::{ControlView, ShardView};
use crate::routes::{self, RouteClient, RouteQueue};
use crate::settled::Settled;
use crate::shards::{ShardClient, ShardCounters, ShardError};
use crate::takeover::Takeovers;
use crate::transport::proto::{Formation, Introduction};
use crate::transport::{CallError, Dial, Incoming, Peers, serve};
use crate::{Config, Lanes, Lease, NodeId, OutboxMessage, Own, StartError, lease};

/// Wills that wait to be published by the broker.
const OUTBOX: usize = 1_024;

/// What the cluster asks of the broker on this node.
pub trait Local: Inbound {
    /// The client id has a newer owner with this epoch: an older connection here goes (0x8E).
    fn kick(&self, client_id: &str, epoch: u64);

    /// This node was declared down: other nodes may own its clients by now, so all connections go.
    fn fenced(&self);

    /// A message for members of shared subscriptions that went to another node and never will be taken there: other
    /// members get it. Waits while too many wait.
    fn returned(&self, record: Record) -> BoxFuture<'_, ()>;
}

/// This node's part in the cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Shared>);

/// What the tasks of this crate share. One owner per state: what is written by one task and read by
/// others is a watch, a snapshot or a counter.
pub struct Shared {
    pub(crate) config: Config,
    /// Who this node is.
    pub own: Arc<Own>,
    pub(crate) cluster_id: Arc<OnceLock<String>>,
    pub(crate) formation: OnceLock<Formation>,
    formed: Notify,
    pub(crate) accepting: tokio::sync::Mutex<()>,
    /// How forming stands, for people.
    pub(crate) forming: Mutex<String>,
    /// A peer belongs to another cluster; for people.
    pub(crate) foreign: Mutex<Option<String>>,
    pub(crate) acquaintances: Acquaintances,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) peers: Peers,
    pub(crate) host: Host,
    /// The control group's state.
    pub control: Arc<ControlView>,
    shard_views: ArcSwap<BTreeMap<u32, Arc<ShardView>>>,
    /// Indexed by shard; set once, when this node belongs to a cluster.
    shard_clients: OnceLock<Vec<ShardClient>>,
    pub(crate) remote_queues: RemoteQueues,
    /// What the lines in front of all shards did.
    pub shard_counters: Arc<ShardCounters>,
    /// The lanes to other nodes.
    pub lanes: Arc<Lanes>,
    pub(crate) doubts: Arc<Doubts>,
    pub(crate) inbound: InboundState,
    pub(crate) local: Arc<dyn Local>,
    /// This node's lease.
    pub lease: Arc<Lease>,
    pub(crate) overseer: Overseer,
    /// Publishes this node's routes.
    pub routes: RouteClient,
    pub(crate) barrier: Barrier,
    pub(crate) settled: Arc<Settled>,
    pub(crate) takeovers: Takeovers,
    pub(crate) outbox: mpsc::Sender<OutboxMessage>,
    tasks: TaskTracker,
    /// No lease is kept any more.
    pub(crate) leaving: CancellationToken,
    /// A group of this node ended by itself, or its program is not enough.
    pub(crate) broken: CancellationToken,
    /// What this program can.
    pub(crate) ceiling: Ceiling,
    /// This node holds nothing any more and belongs to the cluster no longer.
    pub(crate) departed: CancellationToken,
    stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).field("own", &self.own).finish_non_exhaustive()
    }
}

impl Deref for Cluster {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Raft's way to the other nodes.
struct RaftNetwork(Peers);

impl Network for RaftNetwork {
    fn call(
        &self,
        target: NodeId,
        group: GroupId,
        request: bytes::Bytes,
    ) -> BoxFuture<'_, Result<bytes::Bytes, NetworkError>> {
        Box::pin(async move {
            self.0.raft(target, group.0, request).await.map_err(|error| match error {
                CallError::UnknownNode(_) | CallError::BadAddress { .. } => {
                    NetworkError::Unreachable(error.to_string())
                }
                CallError::Failed(_) | CallError::Timeout => NetworkError::Failed(error.to_string()),
            })
        })
    }
}

impl Cluster {
    /// Starts to take part: with what the volume holds, or by forming a new cluster. Returns at once; the
    /// receiver brings what the shards led here publish themselves.
    ///
    /// # Errors
    /// When the volume cannot be read.
    pub async fn start(
        config: Config,
        engine: Arc<dyn Engine>,
        dial: Arc<dyn Dial>,
        incoming: Incoming,
        local: Arc<dyn Local>,
    ) -> Result<(Self, mpsc::Receiver<OutboxMessage>), StartError> {
        let known = formation::load(engine.as_ref())?;
        if let Some(formation) = &known {
            levels::check(config.levels, said(formation.level))?;
        }
        let own = Arc::new(Own::new(config.id, config.name.clone(), config.start));
        let cluster_id: Arc<OnceLock<String>> = Arc::default();
        let peers = Peers::new((own.id, config.levels.newest), Arc::clone(&cluster_id), dial);
        let network = Arc::new(RaftNetwork(peers.clone()));
        let host = Host::start(own.id, config.raft.clone(), Arc::clone(&engine), network).await?;
        let tasks = TaskTracker::new();
        let (doubts, incarnation) = (Arc::<Doubts>::default(), (own.id, own.boot_incarnation));
        let lanes = Lanes::new(incarnation, config.lanes, Arc::clone(&doubts), peers.clone(), tasks.clone());
        let (routes, route_queue) = RouteClient::new();
        let (barrier, barrier_queue) = Barrier::new();
        let (outbox, outbox_messages) = mpsc::channel(OUTBOX);
        let broken = CancellationToken::new();
        let ceiling = Ceiling::new(config.levels, broken.clone());
        let shared = Arc::new(Shared {
            config,
            own,
            cluster_id,
            formation: OnceLock::new(),
            formed: Notify::new(),
            accepting: tokio::sync::Mutex::default(),
            forming: Mutex::default(),
            foreign: Mutex::default(),
            acquaintances: Acquaintances::default(),
            engine,
            peers,
            host,
            control: Arc::new(ControlView::new()),
            shard_views: ArcSwap::default(),
            shard_clients: OnceLock::new(),
            remote_queues: RemoteQueues::default(),
            shard_counters: Arc::default(),
            lanes: Arc::new(lanes),
            doubts,
            inbound: InboundState::default(),
            local,
            lease: Arc::new(Lease::new()),
            overseer: Overseer::new(),
            routes,
            barrier,
            settled: Arc::default(),
            takeovers: Takeovers::default(),
            outbox,
            tasks,
            leaving: CancellationToken::new(),
            broken,
            ceiling,
            departed: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        if let Some(formation) = known {
            shared.adopt(formation);
        }
        spawn_tasks(&shared, incoming, route_queue, barrier_queue);
        Ok((Self(shared), outbox_messages))
    }

    /// Tells the others with the next heartbeat whether this node drains. While it does it leads nothing that another
    /// node can lead, and comes last when leaders are chosen.
    pub fn set_draining(&self, draining: bool) {
        self.own.set_draining(draining);
    }

    /// Nodes where clients of this one can go: up, and not draining. By id.
    #[must_use]
    pub fn alternatives(&self) -> Vec<Node> {
        let control = self.control.state();
        control.nodes().filter(|node| node.id != self.own.id && can_take_over(node)).cloned().collect()
    }

    /// Raft groups that this node leads.
    #[must_use]
    pub fn groups_led(&self) -> usize {
        self.host.known_groups().into_iter().filter(|id| self.leads(*id)).count()
    }

    /// Gives leadership and routes up and stops everything. The broker has let all clients go before.
    pub async fn stop(&self) {
        // First: a node that says farewell must not come back as a new incarnation.
        self.leaving.cancel();
        self.inbound.close();
        leadership::hand_over(self).await;
        self.stop.cancel();
        self.lanes.close();
        self.tasks.close();
        self.tasks.wait().await;
        self.host.shutdown().await;
    }

    /// Takes no messages of other nodes any more; they keep what they have for this one, and give it to others when
    /// it is gone. Before [`stop`](Self::stop), when nobody would pass on what no member here takes.
    pub fn close_lanes(&self) {
        self.inbound.close();
    }

    /// What the tasks of this crate share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Resolves when this node cannot take part any more: its disk refused what it had to keep, or the cluster can more
    /// than its program. What it has acknowledged is safe with the others; it must end, and be started again when the
    /// disk is well, or with another program.
    pub async fn failed(&self) -> Failure {
        self.broken.cancelled().await;
        self.ceiling.failure()
    }

    /// Resolves when this node has given up everything that it held and is to end, because it was told to leave; or
    /// when it was removed from the cluster. Its volume is of no use any more: whoever starts it again starts it empty.
    pub async fn left(&self) {
        self.departed.cancelled().await;
    }

    /// Waits until this node belongs to a cluster; its id.
    pub async fn cluster_id(&self) -> String {
        self.formed().await.cluster_id.clone()
    }
}

fn spawn_tasks(
    shared: &Arc<Shared>,
    incoming: Incoming,
    mut route_queue: RouteQueue,
    mut barrier_queue: BarrierQueue,
) {
    let each = |run: fn(Arc<Shared>) -> BoxFuture<'static, ()>| shared.spawn(run(Arc::clone(shared)));
    each(|shared| Box::pin(async move { formation::introduce(&shared).await }));
    each(|shared| {
        Box::pin(async move {
            shared.leaving.run_until_cancelled(lease::keep_lease(&shared)).await;
        })
    });
    each(|shared| {
        Box::pin(async move {
            shared.leaving.run_until_cancelled(lease::rise_again(&shared)).await;
        })
    });
    each(|shared| Box::pin(async move { settle_doubts(&shared).await }));
    each(|shared| Box::pin(async move { overseer::oversee(&shared).await }));
    each(|shared| Box::pin(async move { leadership::open_groups(&shared).await }));
    each(|shared| Box::pin(async move { members::tend_members(&shared).await }));
    each(|shared| Box::pin(async move { leaving::await_departure(&shared).await }));
    each(|shared| Box::pin(async move { levels::keep_level(&shared).await }));
    each(|shared| Box::pin(async move { leadership::yield_while_draining(&shared).await }));
    each(|shared| Box::pin(async move { exclusive::keep_sweeping(&shared).await }));
    let publisher = Arc::clone(shared);
    shared.spawn(async move { routes::publish_routes(&publisher, &mut route_queue).await });
    let runner = Arc::clone(shared);
    shared.spawn(async move { run_barrier(&runner, &mut barrier_queue).await });
    shared.tasks.spawn(serve(Arc::clone(shared), incoming, shared.stop.clone()));
}

impl Shared {
    /// Runs a task until the node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// The result of something that may wait; `None`: the node stops first.
    pub(crate) async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }

    /// A QoS 2 message of an outbox was picked to go, for a shared subscription, to an incarnation of a node that is
    /// over, and may have been sent there already: that is asked when the node is back.
    pub fn doubt(&self, (node, incarnation): (NodeId, u64), sent: bool, group: TopicFilter, body: Body) {
        let taken = body.expires().then(Instant::now);
        self.doubts.put(node, incarnation, Doubtful { sequence: 0, group, body, taken, sent });
    }

    /// A QoS 2 message for a shared subscription may have been sent to a member that is gone: nobody else gets it.
    pub fn give_up(&self) {
        self.doubts.give_up(1);
    }

    /// Messages that another node may have taken before it was declared down: not known yet, and given up because
    /// that node died.
    #[must_use]
    pub fn doubts(&self) -> (usize, u64) {
        (self.doubts.len(), self.doubts.given_up.load(Ordering::Relaxed))
    }

    /// The time of day in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.config.clock)()
    }

    /// Who this node says it is.
    pub(crate) fn introduction(&self) -> Introduction {
        Introduction {
            id: self.own.id,
            name: self.own.name.clone(),
            incarnation: self.own.incarnation(),
            cluster_addr: self.config.cluster_addr.clone(),
            mqtt_addr: self.config.mqtt_addr.clone(),
            http_addr: self.config.http_addr.clone(),
            cluster_id: self.cluster_id.get().cloned().unwrap_or_default(),
            removed: false,
            known: Vec::new(),
            draining: self.own.is_draining(),
            oldest_level: self.config.levels.oldest,
            newest_level: self.config.levels.newest,
            level: self.level(),
        }
    }

    /// Takes the formation as what it is from now on. Called once.
    pub(crate) fn adopt(&self, formation: Formation) {
        for member in &formation.members {
            self.peers.learn(member.id, member.incarnation, &member.cluster_addr);
        }
        // Both are set here and nowhere else, under `accepting` or before any task runs.
        drop(self.cluster_id.set(formation.cluster_id.clone()));
        drop(self.formation.set(formation));
        self.formed.notify_waiters();
    }

    /// Waits until this node belongs to a cluster.
    pub(crate) async fn formed(&self) -> &Formation {
        loop {
            let formed = self.formed.notified();
            tokio::pin!(formed);
            formed.as_mut().enable();
            if let Some(formation) = self.formation.get() {
                return formation;
            }
            formed.await;
        }
    }

    /// Waits until this incarnation is up in the control group's state.
    pub(crate) async fn wait_until_up(&self) {
        let mut applied = self.control.applied();
        while !self.is_up(self.own.id, self.own.incarnation()) {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether exactly this incarnation of a node is up.
    #[must_use]
    pub fn is_up(&self, node: NodeId, incarnation: u64) -> bool {
        is_up(&self.control.state(), node, incarnation)
    }

    /// The nodes that are up, this one too, with their incarnations.
    pub(crate) fn up_nodes(&self) -> Vec<(NodeId, u64)> {
        let control = self.control.state();
        control.nodes().filter(|node| node.up).map(|node| (node.id, node.incarnation)).collect()
    }

    /// Whether this incarnation of a node is known to be dead. One that is not known yet may live.
    pub(crate) fn is_gone(&self, node: NodeId, incarnation: u64) -> bool {
        let state = self.control.state();
        let newest = state.node(node);
        state.is_removed(node)
            || newest.is_some_and(|node| {
                node.incarnation > incarnation || (node.incarnation == incarnation && !node.up)
            })
    }

    /// The control group, once it is open here. `None`: the node stops first.
    pub(crate) async fn control_group(&self) -> Option<Group> {
        self.formed().await;
        let mut applied = self.control.applied();
        loop {
            if let Some(group) = self.host.group(CONTROL) {
                return Some(group);
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }

    pub(crate) fn leads(&self, group: GroupId) -> bool {
        self.host.group(group).is_some_and(|group| group.is_leader())
    }

    /// The shard that a client id or a topic belongs to; `None` before this node belongs to a cluster.
    #[must_use]
    pub fn shard_of(&self, name: &str) -> Option<u32> {
        self.formation.get().map(|formation| shard_of(name, formation.shards))
    }

    /// The way to the shard that a client id or a topic belongs to.
    pub(crate) fn client_of(&self, name: &str) -> Result<&ShardClient, ShardError> {
        self.shard_of(name).and_then(|shard| self.shard_client(shard)).ok_or(ShardError::Unavailable)
    }

    /// Makes the ways to all shards known, in their order; only the task that opens groups does.
    pub(crate) fn set_shard_clients(&self, clients: Vec<ShardClient>) {
        // Set here and nowhere else, once.
        drop(self.shard_clients.set(clients));
    }

    pub(crate) fn shard_client(&self, shard: u32) -> Option<&ShardClient> {
        self.shard_clients.get()?.get(usize::try_from(shard).ok()?)
    }

    /// A shard that this node holds.
    #[must_use]
    pub fn shard_view(&self, shard: u32) -> Option<Arc<ShardView>> {
        self.shard_views.load().get(&shard).cloned()
    }

    /// All shards that this node holds.
    #[must_use]
    pub fn shard_views(&self) -> Arc<BTreeMap<u32, Arc<ShardView>>> {
        self.shard_views.load_full()
    }

    /// Makes a shard's view known; only the task that opens groups does.
    pub(crate) fn add_shard_view(&self, shard: u32, view: Arc<ShardView>) {
        let mut views = BTreeMap::clone(&self.shard_views.load());
        views.insert(shard, view);
        self.shard_views.store(Arc::new(views));
    }

    /// Takes a shard's view back; only the task that opens groups does.
    pub(crate) fn remove_shard_view(&self, shard: u32) {
        let mut views = BTreeMap::clone(&self.shard_views.load());
        let removed = views.remove(&shard);
        self.shard_views.store(Arc::new(views));
        // Behind the store: who is told finds it gone.
        if let Some(view) = removed {
            view.retire();
        }
    }

    /// The replica of a shard from which queues can be read here: it votes, so it is not far behind, and it works (one
    /// whose disk failed shows nothing new any more).
    pub(crate) fn readable_view(&self, shard: u32) -> Option<Arc<ShardView>> {
        let control = self.control.state();
        let votes =
            control.placement_of(shard).is_some_and(|placement| placement.voters.contains(&self.own.id));
        self.shard_view(shard).filter(|_| votes && self.is_running(shard))
    }
}

/// Whether clients and leaderships can go to a node.
pub(crate) fn can_take_over(node: &Node) -> bool {
    node.up && !node.draining
}

/// Whether exactly this incarnation of a node is up.
pub(crate) fn is_up(control: &Control, node: NodeId, incarnation: u64) -> bool {
    control.node(node).is_some_and(|node| node.up && node.incarnation == incarnation)
}
