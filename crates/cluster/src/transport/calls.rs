//! Outgoing calls: the address book, one connection for control traffic and one for messages per peer.
//!
//! Two connections, so that a burst of messages does not hold up heartbeats. Knows no Raft and no
//! routes. Start at [`Peers`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use thiserror::Error;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use zwerm_machine::level::Level;

use super::Dial;
use super::proto::peer_client::PeerClient;
use super::proto::{
    BackupReply, BackupRequest, Beat, DeliverReply, DeliverRequest, FormReply, Formation, ForwardAck,
    ForwardBatch, Grant, Introduction, JoinReply, JoinRequest, KickReply, KickRequest, ProposeReply,
    ProposeRequest, RetainedBatch, RetainedRequest, SettleReply, SettleRequest,
};
use super::raft_link::RaftLink;
use super::severable::Severable;
use crate::NodeId;
use crate::own::start_of;

/// Largest message between nodes: a PUBLISH of 256 MiB and what is around it.
pub(super) const MAX_MESSAGE: usize = 272 * 1024 * 1024;
/// Metadata key: the caller's node id.
pub(super) const NODE_KEY: &str = "zwerm-node";
/// Metadata key: the id of the node that is meant. Another one may live at its address by now, above all the one that
/// takes its place after its disk was lost, and must not answer for it.
pub(super) const TARGET_KEY: &str = "zwerm-target";
/// Metadata key: the caller's cluster id.
pub(super) const CLUSTER_KEY: &str = "zwerm-cluster";
/// Metadata key of an answer: the incarnation of the node that answers.
pub(super) const INCARNATION_KEY: &str = "zwerm-incarnation";

/// Metadata key: the newest feature level that the caller's program can.
pub(super) const LEVEL_KEY: &str = "zwerm-level";

const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
const UNARY_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked for a sign of life after this long, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Why a call to another node failed; in all cases its outcome is unknown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The address book has no such node: it never introduced itself.
    #[error("node {0:016x} has not introduced itself yet")]
    UnknownNode(NodeId),
    /// The address cannot be dialled at all.
    #[error("{address} is no address to dial")]
    BadAddress {
        /// As it was configured or introduced.
        address: String,
    },
    /// The other side, or the way there, failed.
    #[error("{0}")]
    Failed(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Failed(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// Puts the caller's name on every call.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    node: NodeId,
    level: Level,
    cluster: Arc<OnceLock<String>>,
    /// Whom it calls; `None`: whoever lives at the address.
    target: Option<NodeId>,
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(NODE_KEY, MetadataValue::from(self.node));
        metadata.insert(LEVEL_KEY, MetadataValue::from(self.level));
        if let Some(target) = self.target {
            metadata.insert(TARGET_KEY, MetadataValue::from(target));
        }
        if let Some(cluster) = self.cluster.get() {
            let value = cluster.parse().map_err(|_| Status::internal("the cluster id is not ASCII"))?;
            metadata.insert(CLUSTER_KEY, value);
        }
        Ok(request)
    }
}

pub(super) type Client = PeerClient<InterceptedService<Channel, Caller>>;

#[derive(Debug, Clone)]
struct Peer {
    address: String,
    /// Of the node when it said so: what is older does not count any more.
    incarnation: u64,
    /// Cancelled when other connections take the place of these.
    life: CancellationToken,
    control: Client,
    data: Client,
    raft: Arc<RaftLink>,
}

/// Everything this node knows of how to reach the others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    dial: Arc<dyn Dial>,
    caller: Caller,
    book: Arc<Mutex<BTreeMap<NodeId, Peer>>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("book", &self.book.lock().keys()).finish_non_exhaustive()
    }
}

impl Peers {
    /// An empty address book of a node whose program can this level.
    pub(crate) fn new(
        (node, level): (NodeId, Level),
        cluster: Arc<OnceLock<String>>,
        dial: Arc<dyn Dial>,
    ) -> Self {
        Self { dial, caller: Caller { node, level, cluster, target: None }, book: Arc::default() }
    }

    /// Notes where an incarnation of a node is to be found, unless a newer one is known; a changed address, or another
    /// start of the node, ends the connections and replaces them. Nobody else may end them: when a machine is gone, or
    /// a pod is elsewhere under the same name, no packet says so, and what waits for the old process would wait for the
    /// keep-alive. What the replicated state says may be older than what the node itself said.
    pub(crate) fn learn(&self, node: NodeId, incarnation: u64, address: &str) {
        let mut book = self.book.lock();
        if node == self.caller.node {
            return;
        }
        if let Some(peer) = book.get_mut(&node) {
            if peer.incarnation > incarnation {
                return;
            }
            let restarted = start_of(incarnation) > start_of(peer.incarnation);
            peer.incarnation = incarnation;
            if peer.address == address && !restarted {
                return;
            }
        }
        let life = CancellationToken::new();
        let (Ok(control), Ok(data)) =
            (self.client(address, &life, Some(node)), self.client(address, &life, Some(node)))
        else {
            tracing::warn!(
                node = format_args!("{node:016x}"),
                address,
                "a node introduced itself with an unusable address"
            );
            return;
        };
        let raft = Arc::new(RaftLink::new(control.clone()));
        let peer = Peer { address: address.to_owned(), incarnation, life, control, data, raft };
        if let Some(former) = book.insert(node, peer) {
            former.life.cancel();
        }
    }

    /// A client whose connections end with `life`, for calls that mean `target`.
    fn client(
        &self,
        address: &str,
        life: &CancellationToken,
        target: Option<NodeId>,
    ) -> Result<Client, CallError> {
        let bad = || CallError::BadAddress { address: address.to_owned() };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| bad())?
            .connect_timeout(DIAL_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024);
        let (dial, address, life) = (Arc::clone(&self.dial), address.to_owned(), life.clone());
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (dialled, life) = (dial.dial(address.clone()), life.clone());
            async move {
                let dialled = life.run_until_cancelled(dialled).await;
                let stream = dialled.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))?;
                io::Result::Ok(TokioIo::new(Severable::new(stream, life)))
            }
        }));
        Ok(PeerClient::with_interceptor(channel, Caller { target, ..self.caller.clone() })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    fn peer(&self, node: NodeId) -> Result<Peer, CallError> {
        self.book.lock().get(&node).cloned().ok_or(CallError::UnknownNode(node))
    }

    /// Asks an address who lives there.
    pub(crate) async fn hello(&self, address: &str, own: Introduction) -> Result<Introduction, CallError> {
        let mut client = self.client(address, &CancellationToken::new(), None)?;
        within(UNARY_TIMEOUT, client.hello(own)).await
    }

    /// Asks a node to be a member of a new cluster.
    pub(crate) async fn form(&self, node: NodeId, formation: Formation) -> Result<FormReply, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.control.form(formation)).await
    }

    /// Asks a member to become one.
    pub(crate) async fn join(&self, node: NodeId, request: JoinRequest) -> Result<JoinReply, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.control.join(request)).await
    }

    /// Hands a command to a node that may lead the group.
    pub(crate) async fn propose(
        &self,
        node: NodeId,
        request: ProposeRequest,
        timeout: Duration,
    ) -> Result<ProposeReply, CallError> {
        within(timeout, self.peer(node)?.control.propose(request)).await
    }

    /// Closes an outdated connection of a client, there or by way of there.
    pub(crate) async fn kick(&self, node: NodeId, request: KickRequest) -> Result<KickReply, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.control.kick(request)).await
    }

    /// Whether the machine at the address of a node says that nobody listens there.
    pub(crate) async fn is_refused(&self, node: NodeId) -> bool {
        let Ok(peer) = self.peer(node) else { return false };
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.dial.dial(peer.address)).await;
        matches!(dialled, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Asks which messages a node took before it was declared down.
    pub(crate) async fn settle(
        &self,
        node: NodeId,
        request: SettleRequest,
    ) -> Result<SettleReply, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.control.settle(request)).await
    }

    /// Opens the lease stream.
    pub(crate) async fn lease(
        &self,
        node: NodeId,
        beats: ReceiverStream<Beat>,
    ) -> Result<Streaming<Grant>, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.control.lease(beats)).await
    }

    /// Opens a forwarding lane; to which incarnation of the node, unless that is of an earlier version.
    pub(crate) async fn forward(
        &self,
        node: NodeId,
        batches: ReceiverStream<ForwardBatch>,
    ) -> Result<(Option<u64>, Streaming<ForwardAck>), CallError> {
        let response = answer_within(UNARY_TIMEOUT, self.peer(node)?.data.forward(batches)).await?;
        let incarnation = response.metadata().get(INCARNATION_KEY);
        let incarnation = incarnation.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((incarnation, response.into_inner()))
    }

    /// Opens a stream that reads queues of a shard that the node holds.
    pub(crate) async fn deliver(
        &self,
        node: NodeId,
        requests: ReceiverStream<DeliverRequest>,
    ) -> Result<Streaming<DeliverReply>, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.data.deliver(requests)).await
    }

    /// Reads retained messages of shards that the node leads.
    pub(crate) async fn retained(
        &self,
        node: NodeId,
        request: RetainedRequest,
    ) -> Result<Streaming<RetainedBatch>, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.data.retained(request)).await
    }

    /// Opens a backup of shards that the node leads.
    pub(crate) async fn backup(
        &self,
        node: NodeId,
        requests: ReceiverStream<BackupRequest>,
    ) -> Result<Streaming<BackupReply>, CallError> {
        within(UNARY_TIMEOUT, self.peer(node)?.data.backup(requests)).await
    }

    /// One Raft call.
    pub(crate) async fn raft(&self, node: NodeId, group: u32, payload: Bytes) -> Result<Bytes, CallError> {
        let link = self.peer(node)?.raft;
        link.call(group, payload).await
    }
}

async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    answer_within(timeout, call).await.map(tonic::Response::into_inner)
}

async fn answer_within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<tonic::Response<T>, CallError> {
    Ok(tokio::time::timeout(timeout, call).await.map_err(|_| CallError::Timeout)??)
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::super::PeerStream;
    use super::*;

    /// Connects to nobody, and gives the other ends away: what is sent is never answered.
    struct BlackHole(mpsc::Sender<DuplexStream>);

    impl Dial for BlackHole {
        fn dial(&self, _: String) -> BoxFuture<'static, io::Result<PeerStream>> {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            self.0.try_send(theirs).unwrap();
            Box::pin(async move { Ok(PeerStream::new(ours)) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_started_anew_is_not_waited_for_where_it_was() {
        const NODE: NodeId = 2;
        let incarnation = |start: u64| start << 20;
        let (dialled, mut connections) = mpsc::channel(8);
        let peers = Peers::new((1, 1), Arc::default(), Arc::new(BlackHole(dialled)));
        peers.learn(NODE, incarnation(1), "node:7100");
        let call = |peers: Peers| async move { peers.kick(NODE, KickRequest::default()).await };
        let waiting = tokio::spawn(call(peers.clone()));
        let _first = connections.recv().await.unwrap();

        // The same start, and what is older, change nothing.
        peers.learn(NODE, incarnation(1) + 1, "node:7100");
        peers.learn(NODE, incarnation(1), "elsewhere:7100");
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && peers.peer(NODE).unwrap().address == "node:7100");

        let begin = Instant::now();
        peers.learn(NODE, incarnation(2), "node:7100");
        waiting.await.unwrap().unwrap_err();
        assert!(begin.elapsed() < KEEP_ALIVE, "waited for {:?}", begin.elapsed());
        // What is called now goes to the node that is there now.
        let _waiting = tokio::spawn(call(peers.clone()));
        connections.recv().await.unwrap();
    }
}
