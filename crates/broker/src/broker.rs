//! The handle of one node's broker: start, attach, stop.
//!
//! Decides who owns a client id (through its shard); everything a connection does afterwards goes
//! through its [`Attachment`]. Start at [`Broker::start`] and [`Broker::attach`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use futures::future::OptionFuture;
use futures::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zwerm_cluster::receipt::Bell;
use zwerm_cluster::{Cluster, Local, OutboxMessage, Routed, ShardError};
use zwerm_machine::message::will_record;
use zwerm_machine::records::{self, Claim, Claimed, Owner, QueueLimit, Refusal, Subscription};
use zwerm_wire::{Connect, PacketId, ReasonCode, TopicFilter};

use crate::attachment::{Attachment, Detach, Owned};
use crate::clients::Registered;
use crate::config::{Config, QueueFull, SessionQueue};
use crate::counters::Counters;
use crate::durable::{Durable, packet_id_of};
use crate::error::AttachError;
use crate::local::{LocalDoor, LocalSessions};
use crate::mailbox::Mailbox;
use crate::outbox::{LeftBehind, publish_outboxes};
use crate::replay::Replay;
use crate::subscriptions::SessionKey;

/// Retained reads of one SUBSCRIBE at a time.
const READS: usize = 4;
/// How often slow clients and the lease are looked after.
const ROUND: Duration = Duration::from_millis(500);

/// A broker that is not connected to its cluster yet: the cluster is started with its
/// [`door`](Self::door), and the broker with the cluster.
#[derive(Debug)]
pub struct Unstarted {
    local: Arc<LocalSessions>,
    left_behind: mpsc::Receiver<LeftBehind>,
}

impl Unstarted {
    /// The sessions of this node, empty.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (local, left_behind) = LocalSessions::new(config);
        Self { local: Arc::new(local), left_behind }
    }

    /// What the cluster calls.
    #[must_use]
    pub fn door(&self) -> Arc<dyn Local> {
        Arc::new(LocalDoor(Arc::clone(&self.local)))
    }
}

/// The broker of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker(pub(crate) Arc<Inner>);

/// What attachments and tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) local: Arc<LocalSessions>,
    pub(crate) cluster: Cluster,
    next_key: AtomicU64,
    /// Without a lease for longer than its patience: clients are sent elsewhere.
    cut_off: AtomicBool,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A client that is attached.
#[derive(Debug)]
pub struct Attached {
    /// Its side of the broker.
    pub attachment: Attachment,
    /// An earlier session is continued.
    pub session_present: bool,
    /// The id given to a client that sent none.
    pub assigned_client_id: Option<ByteString>,
    /// Seconds the session outlives the connection; 4294967295: for ever.
    pub session_expiry: u32,
    /// The session outlives the connection: its queue is in its shard.
    pub durable: bool,
    /// Of a continued session: QoS 2 messages from the client whose PUBREL is awaited.
    pub received: Vec<PacketId>,
    /// Of a continued session: QoS 2 messages to the client whose PUBCOMP is awaited.
    pub released: Vec<PacketId>,
}

impl Broker {
    /// Starts the broker on a started cluster; `outbox` is what [`Cluster::start`] gave.
    #[must_use]
    pub fn start(unstarted: Unstarted, cluster: Cluster, outbox: mpsc::Receiver<OutboxMessage>) -> Self {
        let inner = Arc::new(Inner {
            local: unstarted.local,
            cluster,
            next_key: AtomicU64::new(1),
            cut_off: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let (publishing, left_behind) = (Arc::clone(&inner), unstarted.left_behind);
        inner.spawn(async move { publish_outboxes(&publishing, outbox, left_behind).await });
        let rounds = Arc::clone(&inner);
        inner.spawn(async move { look_after(&rounds).await });
        Self(inner)
    }

    /// Stops the broker's own tasks. The gateway has ended all connections before.
    pub async fn stop(&self) {
        self.0.cluster.close_lanes();
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Makes this node the owner of a client id; an older connection with it ends, wherever it is.
    ///
    /// A session that outlives its connection is durable: it lives in its shard, and this node delivers. When it
    /// is continued, all its subscriptions are live in the cluster before this returns (P4).
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(&self, connect: &Connect) -> Result<Attached, AttachError> {
        let inner = &self.0;
        // The lease itself says first that it is back.
        if inner.cut_off.load(Ordering::Acquire) && !inner.cluster.lease.is_valid() {
            // Some shards may have their quorum on this side; a client of theirs would be accepted and not served.
            inner.local.counters.attach_failed.add(1);
            return Err(AttachError::CutOff);
        }
        let assigned_client_id = connect.client_id.is_empty().then(assign_client_id);
        // A copy of its own: the packet's keeps a whole read buffer.
        let client_id = assigned_client_id.clone().unwrap_or_else(|| ByteString::from(&*connect.client_id));
        inner.local.clients.begin(&client_id);
        let attaching = Attaching { inner, client_id: &client_id, ended: false };
        let incarnation = inner.cluster.own.incarnation();
        let claimed = inner.claim(&client_id, connect, incarnation).await.inspect_err(|_| {
            inner.local.counters.attach_failed.add(1);
        })?;
        // Also when this connection is outdated itself by now: nobody else knows of the one before it.
        let taken_over = inner.end_previous(&client_id, &claimed);
        let mailbox = Mailbox::new(inner.local.config.queue, Bell::new()).of_client(client_id.clone());
        let mailbox = Arc::new(mailbox);
        match attaching.attach(claimed.epoch, &mailbox) {
            Registered::No => return Err(AttachError::TakenOver),
            Registered::Alone => {}
            Registered::InPlaceOfAnother => inner.local.counters.kicked_taken_over.add(1),
        }
        // Looked at after registering, for who is registered is told when the incarnation dies.
        if inner.cluster.own.incarnation() != incarnation {
            inner.local.clients.detach(&client_id, claimed.epoch);
            return Err(AttachError::Unavailable);
        }
        inner.local.counters.attached.add(1);
        let session_expiry = connect.properties.session_expiry.unwrap_or_default();
        let resumed = claimed.resumed.unwrap_or_default();
        let shard = inner.cluster.shard_of(&client_id).filter(|_| claimed.durable);
        let durable = shard.map(|shard| {
            let owned = (&client_id, claimed.epoch, shard);
            Box::new(Durable::new(&inner.cluster, owned, mailbox.bell(), &resumed))
        });
        let is_durable = durable.is_some();
        let owned = Owned { epoch: claimed.epoch, incarnation, mailbox };
        let attachment = Attachment::new(Arc::clone(inner), owned, durable);
        let attached = Attached {
            session_present: claimed.session_present,
            assigned_client_id,
            session_expiry,
            durable: is_durable,
            received: resumed
                .received
                .iter()
                .filter_map(|id| PacketId::new(u16::try_from(*id).ok()?))
                .collect(),
            released: resumed.released.iter().map(|position| packet_id_of(*position)).collect(),
            attachment,
        };
        inner.begin(attached, taken_over, &resumed.subscriptions).await
    }

    /// What this broker counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.local.counters
    }

    /// Connections on this node.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.local.clients.len()
    }

    /// Where clients of this node can go: the addresses for clients of the nodes that are up and stay.
    #[must_use]
    pub fn elsewhere(&self) -> Vec<String> {
        self.0.cluster.alternatives().into_iter().map(|node| node.mqtt_addr).collect()
    }

    /// Those who are connected now, to be sent away one after the other.
    #[must_use]
    pub fn evacuate(&self) -> Evacuation {
        Evacuation { left: self.0.local.clients.live().into_iter(), broker: self.clone() }
    }

    /// Subscriptions of this node's connections.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.0.local.subscriptions.len()
    }

    /// The cluster underneath.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }
}

/// The clients that were connected at one moment and are told to go, one after the other.
#[derive(Debug)]
pub struct Evacuation {
    left: std::vec::IntoIter<Arc<Mailbox>>,
    broker: Broker,
}

impl Evacuation {
    /// Tells the next `count` to go, for this reason; how many there were. 0: all have been told.
    pub fn tell(&mut self, count: usize, reason: ReasonCode) -> usize {
        // who was told to go for another reason goes anyway
        let told = self.left.by_ref().filter(|mailbox| mailbox.kick(reason)).take(count).count();
        self.broker.counters().kicked_draining.add(told as u64);
        told
    }
}

/// A claim on its way; dropped early, it is given up.
struct Attaching<'a> {
    inner: &'a Inner,
    client_id: &'a ByteString,
    ended: bool,
}

impl Attaching<'_> {
    fn attach(mut self, epoch: u64, mailbox: &Arc<Mailbox>) -> Registered {
        self.ended = true;
        self.inner.local.clients.attach(self.client_id, epoch, mailbox)
    }
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.inner.local.clients.give_up(self.client_id);
        }
    }
}

impl Inner {
    async fn claim(
        &self,
        client_id: &ByteString,
        connect: &Connect,
        incarnation: u64,
    ) -> Result<Claimed, AttachError> {
        let cluster = &self.cluster;
        let expiry_s = connect.properties.session_expiry.unwrap_or_default();
        // One that cannot have a durable session has no queue either: most claims are shorter by it.
        let may_be_durable = expiry_s > 0 || !connect.clean_start;
        let claim = Claim {
            client_id: client_id.to_string(),
            node: cluster.own.id,
            incarnation,
            clean_start: connect.clean_start,
            expiry_s,
            will: connect.will.as_ref().map(|will| will_record(will, client_id)),
            // All there can be: the owner opens the client's window before the shard knows that it may.
            window: 0,
            queue: may_be_durable.then(|| queue_limit(self.local.config.session_queue)),
        };
        let claimed = tokio::time::timeout(self.local.config.attach_timeout, cluster.claim(claim)).await;
        match claimed.unwrap_or(Err(ShardError::Unavailable)) {
            Ok(claimed) => Ok(claimed),
            Err(ShardError::Refused { reason }) => {
                tracing::debug!(reason, client = &**client_id, "a claim was refused");
                let passing = [Refusal::Busy, Refusal::StaleIncarnation].map(i32::from).contains(&reason);
                Err(if passing { AttachError::Unavailable } else { AttachError::Refused })
            }
            Err(_) => Err(AttachError::Unavailable),
        }
    }

    /// Waits until the connection before this one has ended, and makes a continued session's subscriptions live;
    /// without, the client must not be told that it is connected.
    async fn begin(
        &self,
        mut attached: Attached,
        taken_over: OptionFuture<impl Future<Output = ()>>,
        subscriptions: &[Subscription],
    ) -> Result<Attached, AttachError> {
        let patience = self.local.config.attach_timeout;
        let subscribing = (!subscriptions.is_empty()).then(|| attached.attachment.subscribing());
        let resumed = async {
            match &subscribing {
                Some(subscribing) => subscribing.resume(subscriptions).await,
                None => true,
            }
        };
        let begun = async { tokio::join!(taken_over, resumed).1 };
        if tokio::time::timeout(patience, begun).await == Ok(true) {
            return Ok(attached);
        }
        self.local.counters.attach_failed.add(1);
        // The client was never told that it is connected: its will says nothing.
        attached.attachment.detach(Detach { fire_will: false, session_expiry: None }).await;
        Err(AttachError::Unavailable)
    }

    /// Begins to end the connection before this one; returns when it has ended (P3).
    fn end_previous(
        &self,
        client_id: &ByteString,
        claimed: &Claimed,
    ) -> OptionFuture<impl Future<Output = ()> + use<>> {
        let previous = claimed.previous.as_ref().filter(|previous| previous.connected);
        let take_over = |previous: &Owner| {
            self.cluster.take_over((previous.node, previous.incarnation), client_id, claimed.epoch)
        };
        previous.map(take_over).into()
    }

    /// Tells the cluster how many members a filter has here now. `None`: the node is stopping.
    pub(crate) async fn route(&self, filter: &TopicFilter) -> Option<Routed> {
        let permit = self.cluster.routes.permit().await?;
        let send = |interest| permit.set(filter.clone(), interest);
        Some(self.local.subscriptions.with_interest(filter, send))
    }

    pub(crate) fn next_key(&self) -> SessionKey {
        self.next_key.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs the retained replays of one SUBSCRIBE beside the connection that asked for them.
    pub(crate) fn spawn_replays(self: &Arc<Self>, replays: Vec<Replay>, place: OwnedSemaphorePermit) {
        let inner = Arc::clone(self);
        self.spawn(async move {
            stream::iter(replays).for_each_concurrent(READS, |replay| replay.run(&inner)).await;
            drop(place);
        });
    }

    /// Runs a task until the broker stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

/// Ends slow clients, wakes publishers when the lease is back, and sends clients elsewhere when it stays
/// away.
async fn look_after(inner: &Inner) {
    let mut round = tokio::time::interval(ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut lost_since: Option<Instant> = None;
    // Before the cluster is formed, or this node has joined it, there is nothing to lose.
    let mut was_held = false;
    let mut resumed = inner.cluster.lease.resumed();
    loop {
        // Both are cancel safe.
        tokio::select! {
            _ = round.tick() => {}
            // However short the gap was: an acknowledgement may have come due in it.
            changed = resumed.changed() => {
                drop(changed);
                inner.local.clients.wake_all();
                continue;
            }
        }
        let now = Instant::now();
        inner.local.kick_slow(now);
        if inner.cluster.lease.is_valid() {
            (lost_since, was_held) = (None, true);
            if inner.cut_off.swap(false, Ordering::AcqRel) {
                tracing::info!("the lease is back: clients are served again");
            }
            continue;
        }
        let since = *lost_since.get_or_insert(now);
        let patience = inner.local.config.lease_patience;
        if now.saturating_duration_since(since) >= patience {
            if !inner.cut_off.swap(true, Ordering::AcqRel) && was_held {
                tracing::warn!(
                    clients = inner.local.clients.len(),
                    "without a lease for {patience:?}: this node cannot reach the others; sending clients elsewhere"
                );
            }
            // Also those whose claim was on its way.
            inner.local.clients.kick_all(ReasonCode::UseAnotherServer);
        }
    }
}

fn queue_limit(queue: SessionQueue) -> QueueLimit {
    let full = match queue.full {
        QueueFull::DropOldest => records::QueueFull::DropOldest,
        QueueFull::DropNewest => records::QueueFull::DropNewest,
    };
    QueueLimit { messages: queue.messages, bytes: queue.bytes, full: full.into() }
}

/// An id for a client that sent none: 128 random bits, so that no two nodes ever give the same.
fn assign_client_id() -> ByteString {
    format!("zwerm-{:032x}", rand::random::<u128>()).into()
}
