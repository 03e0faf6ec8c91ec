//! Ends the older connection of a client before the newer one counts (P3).
//!
//! The node that had the client is told, straight or through any other node that is up; a takeover is over when it
//! was told, or its incarnation cannot serve any more because it was declared down. Knows no sessions: [`Local`](crate::Local)
//! ends connections. Start at [`Shared::take_over`].
//!
//! # Why nobody is served on two nodes
//!
//! * A node that serves holds a lease, so it talks with the leader of the control group, and so does the node that
//!   takes over. Whatever link between the two is cut, word gets through by way of that leader.
//! * A node that nobody reaches has no lease soon, and is declared down after it has none (`lease.rs`).
//! * A node that took over may itself lose the client to another before it has told the one before it. So who is told
//!   to end a connection answers when the takeovers that it has under way itself are over ([`Takeovers`]).
//!
//! # Dead processes are not waited for
//!
//! A lease outlives a process that is killed by almost two seconds. So that its clients continue at once, a takeover
//! is over as well when *every* node that is up finds that nobody listens at the address of the old one (its machine
//! refuses the connection: a process that lives listens). Packets that are lost, a link that is cut, or a process
//! that stands still never look like that. A firewall that forges refusals, at every other node at once, does: then
//! the old node may serve a client that it still has for what is left of its lease, 1.6 s at most.
//!
//! Not covered: a node that dies, and is declared down, in the middle of a takeover takes along what only it knew of
//! the connection before.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, join_all, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::Shared;
use crate::transport::proto::{KickReply, KickRequest, kick_reply::Outcome};
use crate::{Cluster, NodeId};

/// How long a node is told alone before others are asked to tell it too.
const STRAIGHT: Duration = Duration::from_millis(150);
/// How long one attempt may take, over all ways.
const ATTEMPT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(100);

/// The takeovers that this node has under way, by client id. Bounded by the claims there are.
#[derive(Debug, Default)]
pub(crate) struct Takeovers(Mutex<HashMap<String, Vec<Begun>>>);

/// A takeover that others wait for.
#[derive(Debug)]
struct Begun {
    /// Of the newer connection.
    epoch: u64,
    /// Cancelled when the older connection has ended.
    over: CancellationToken,
}

/// One takeover under way; dropped, it is over.
struct UnderWay {
    shared: Arc<Shared>,
    client_id: String,
    epoch: u64,
    _over: DropGuard,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut takeovers = self.shared.takeovers.0.lock();
        if let Some(of_client) = takeovers.get_mut(&self.client_id) {
            of_client.retain(|begun| begun.epoch != self.epoch);
            if of_client.is_empty() {
                takeovers.remove(&self.client_id);
            }
        }
    }
}

impl Takeovers {
    /// Returns when no takeover of this client by a connection with a smaller epoch is under way here.
    async fn over(&self, client_id: &str, epoch: u64) {
        loop {
            let older = self.0.lock().get(client_id).and_then(|of_client| {
                of_client.iter().find(|begun| begun.epoch < epoch).map(|begun| begun.over.clone())
            });
            let Some(over) = older else { return };
            over.cancelled().await;
        }
    }
}

impl Cluster {
    /// Begins to end the connection that an incarnation of a node has with a client, because another one with this
    /// epoch takes its place. What is returned is over when it has ended; nobody need wait for that.
    pub fn take_over(
        &self,
        (node, incarnation): (NodeId, u64),
        client_id: &str,
        epoch: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let client_id = client_id.to_owned();
        self.shared().take_over(KickRequest { client_id, epoch, incarnation, node })
    }

    /// Returns when the takeovers of this client that its connections here began, up to this epoch, are over. Who
    /// gives a client up before then leaves a connection behind that nobody knows of.
    pub async fn taken_over(&self, client_id: &str, epoch: u64) {
        self.shared().takeovers.over(client_id, epoch.saturating_add(1)).await;
    }
}

impl Shared {
    /// See [`Cluster::take_over`].
    pub(crate) fn take_over(
        self: &Arc<Self>,
        request: KickRequest,
    ) -> impl Future<Output = ()> + Send + use<> {
        let over = CancellationToken::new();
        let (client_id, epoch) = (request.client_id.clone(), request.epoch);
        let begun = Begun { epoch, over: over.clone() };
        self.takeovers.0.lock().entry(client_id.clone()).or_default().push(begun);
        let guard = over.clone().drop_guard();
        let under_way = UnderWay { shared: Arc::clone(self), client_id, epoch, _over: guard };
        self.spawn(async move {
            let under_way = under_way;
            tell(&under_way.shared, request.node, &request).await;
        });
        over.cancelled_owned()
    }

    /// Ends older connections of a client on this node, and waits for those that they were to end themselves.
    async fn end_here(&self, request: &KickRequest) {
        self.local.kick(&request.client_id, request.epoch);
        self.takeovers.over(&request.client_id, request.epoch).await;
    }

    /// Answers another node that tells this one, or has it pass something on.
    pub(crate) async fn kicked(&self, request: KickRequest) -> KickReply {
        let target = Some(request.node).filter(|node| *node != 0 && *node != self.own.id);
        // Who passes something on may know an older connection itself.
        self.end_here(&request).await;
        let outcome = match target {
            Some(node) => straight(self, node, &request).await,
            None => Outcome::Told,
        };
        KickReply { outcome: outcome.into() }
    }
}

/// Tells a node that connections of a client with a smaller epoch are to end; returns when it was told, or none of them
/// can be served there any more.
async fn tell(shared: &Shared, node: NodeId, request: &KickRequest) {
    if node == shared.own.id {
        return shared.end_here(request).await;
    }
    tokio::select! {
        () = until_gone(shared, node, request.incarnation) => {}
        () = until_told(shared, node, request) => {}
    }
}

/// Tells every node that is up; see [`tell`].
pub(crate) async fn tell_all(shared: &Shared, client_id: &str, epoch: u64) {
    let tell_one = |(node, incarnation)| async move {
        let request = KickRequest { client_id: client_id.to_owned(), epoch, incarnation, node };
        tell(shared, node, &request).await;
    };
    join_all(shared.up_nodes().into_iter().map(tell_one)).await;
}

async fn until_gone(shared: &Shared, node: NodeId, incarnation: u64) {
    let mut applied = shared.control.applied();
    while !shared.is_gone(node, incarnation) {
        if applied.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn until_told(shared: &Shared, node: NodeId, request: &KickRequest) {
    loop {
        let outcome = timeout(ATTEMPT, attempt(shared, node, request)).await;
        match outcome.unwrap_or(Outcome::Unreached) {
            Outcome::Told | Outcome::Refused => return,
            Outcome::Unreached => {}
        }
        tracing::debug!(
            node = format_args!("{node:016x}"),
            "the older owner of a client was not reached; trying again"
        );
        sleep(RETRY).await;
    }
}

/// One attempt: straight, and when that brings nothing at once, through all others that are up as well.
async fn attempt(shared: &Shared, node: NodeId, request: &KickRequest) -> Outcome {
    let (first, directly) = match select(straight(shared, node, request).boxed(), pin!(sleep(STRAIGHT))).await
    {
        Either::Left((Outcome::Told, _)) => return Outcome::Told,
        Either::Left((outcome, _)) => (outcome, None),
        // Counted when it comes.
        Either::Right(((), directly)) => (Outcome::Refused, Some(directly)),
    };
    let others = shared.up_nodes().into_iter().map(|(other, _)| other);
    let others = others.filter(|other| *other != node && *other != shared.own.id);
    let through = others.map(|other| through(shared, other, request).boxed());
    let mut ways: FuturesUnordered<_> = through.chain(directly).collect();
    let mut is_refused = first == Outcome::Refused;
    while let Some(outcome) = ways.next().await {
        match outcome {
            Outcome::Told => return Outcome::Told,
            outcome => is_refused &= outcome == Outcome::Refused,
        }
    }
    if is_refused { Outcome::Refused } else { Outcome::Unreached }
}

async fn straight(shared: &Shared, node: NodeId, request: &KickRequest) -> Outcome {
    match shared.peers.kick(node, request.clone()).await {
        Ok(_) => Outcome::Told,
        Err(_) if shared.peers.is_refused(node).await => Outcome::Refused,
        Err(_) => Outcome::Unreached,
    }
}

async fn through(shared: &Shared, other: NodeId, request: &KickRequest) -> Outcome {
    shared.peers.kick(other, request.clone()).await.map_or(Outcome::Unreached, |reply| reply.outcome())
}
