//! The handle of one node's broker: start, attach, stop.
//!
//! Decides who owns a client id (through its shard); everything a connection does afterwards goes
//! through its [`Attachment`]. Start at [`Broker::start`] and [`Broker::attach`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use futures::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zwerm_cluster::receipt::Bell;
use zwerm_cluster::{Cluster, Local, OutboxMessage, Routed, ShardError};
use zwerm_machine::message::will_record;
use zwerm_machine::records::{Claim, Claimed, Refusal};
use zwerm_routing::Interest;
use zwerm_wire::{Connect, ReasonCode, TopicFilter};

use crate::attachment::Attachment;
use crate::config::Config;
use crate::counters::Counters;
use crate::error::AttachError;
use crate::local::{LocalDoor, LocalSessions};
use crate::mailbox::Mailbox;
use crate::replay::Replay;
use crate::subscriptions::SessionKey;
use crate::wills::publish_wills;

/// Retained reads of one SUBSCRIBE at a time.
const READS: usize = 4;
/// How often slow clients and the lease are looked after.
const ROUND: Duration = Duration::from_millis(500);

/// A broker that is not connected to its cluster yet: the cluster is started with its
/// [`door`](Self::door), and the broker with the cluster.
#[derive(Debug)]
pub struct Unstarted(Arc<LocalSessions>);

impl Unstarted {
    /// The sessions of this node, empty.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(Arc::new(LocalSessions::new(config)))
    }

    /// What the cluster calls.
    #[must_use]
    pub fn door(&self) -> Arc<dyn Local> {
        Arc::new(LocalDoor(Arc::clone(&self.0)))
    }
}

/// The broker of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Inner>);

/// What attachments and tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) local: Arc<LocalSessions>,
    pub(crate) cluster: Cluster,
    next_key: AtomicU64,
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
    /// Seconds the session outlives the connection.
    pub session_expiry: u32,
}

impl Broker {
    /// Starts the broker on a started cluster; `outbox` is what [`Cluster::start`] gave.
    #[must_use]
    pub fn start(unstarted: Unstarted, cluster: Cluster, outbox: mpsc::Receiver<OutboxMessage>) -> Self {
        let inner = Arc::new(Inner {
            local: unstarted.0,
            cluster,
            next_key: AtomicU64::new(1),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let wills = Arc::clone(&inner);
        inner.spawn(async move { publish_wills(&wills, outbox).await });
        let rounds = Arc::clone(&inner);
        inner.spawn(async move { look_after(&rounds).await });
        Self(inner)
    }

    /// Stops the broker's own tasks. The gateway has ended all connections before.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Makes this node the owner of a client id; an older connection with it ends, wherever it is.
    ///
    /// Durable sessions are not kept by this version: the session expiry granted is 0.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(&self, connect: &Connect) -> Result<Attached, AttachError> {
        let inner = &self.0;
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
        inner.kick_previous(&client_id, &claimed);
        let mailbox = Arc::new(Mailbox::new(inner.local.config.queue, Bell::new()));
        if !attaching.attach(claimed.epoch, &mailbox) {
            return Err(AttachError::TakenOver);
        }
        // Looked at after registering, for who is registered is told when the incarnation dies.
        if inner.cluster.own.incarnation() != incarnation {
            inner.local.clients.detach(&client_id, claimed.epoch);
            return Err(AttachError::Unavailable);
        }
        inner.local.counters.attached.add(1);
        let attachment = Attachment::new(Arc::clone(inner), client_id, claimed.epoch, mailbox);
        let session_present = claimed.session_present;
        Ok(Attached { attachment, session_present, assigned_client_id, session_expiry: 0 })
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

/// A claim on its way; dropped early, it is given up.
struct Attaching<'a> {
    inner: &'a Inner,
    client_id: &'a ByteString,
    ended: bool,
}

impl Attaching<'_> {
    fn attach(mut self, epoch: u64, mailbox: &Arc<Mailbox>) -> bool {
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
        let claim = Claim {
            client_id: client_id.to_string(),
            node: cluster.own.id,
            incarnation,
            token: rand::random(),
            clean_start: connect.clean_start,
            expiry_s: 0,
            will: connect.will.as_ref().map(|will| will_record(will, client_id)),
            window: 0,
            queue: None,
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

    /// Tells the owner before this one to close.
    fn kick_previous(&self, client_id: &ByteString, claimed: &Claimed) {
        if let Some(previous) = claimed.previous.as_ref().filter(|previous| previous.connected) {
            self.cluster.kick(previous.node, previous.incarnation, client_id.to_string(), claimed.epoch);
        }
    }

    /// Tells the cluster how many members a filter has here now. `None`: the node is stopping.
    pub(crate) async fn route(&self, filter: &TopicFilter) -> Option<Routed> {
        let permit = self.cluster.routes.permit().await?;
        let send = |members| permit.set(filter.clone(), Interest::of(members));
        Some(self.local.subscriptions.with_members(filter, send))
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
            lost_since = None;
            continue;
        }
        let since = *lost_since.get_or_insert(now);
        let patience = inner.local.config.lease_patience;
        if now.saturating_duration_since(since) >= patience && inner.local.clients.len() > 0 {
            tracing::warn!(
                "without a lease for {patience:?}: this node cannot reach the others; sending its clients elsewhere"
            );
            inner.local.clients.kick_all(ReasonCode::UseAnotherServer);
        }
    }
}

/// An id for a client that sent none: 128 random bits, so that no two nodes ever give the same.
fn assign_client_id() -> ByteString {
    format!("zwerm-{:032x}", rand::random::<u128>()).into()
}
