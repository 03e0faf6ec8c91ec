//! Incoming calls: checks who calls, and hands on. Decides nothing. Start at [`serve`].

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use zwerm_machine::level::said;
use zwerm_raft::GroupId;
use zwerm_wire::TopicFilter;

use super::calls::{CLUSTER_KEY, INCARNATION_KEY, LEVEL_KEY, MAX_MESSAGE, NODE_KEY, TARGET_KEY};
use super::gathered::Gathered;
use super::proto::peer_server::{Peer, PeerServer};
use super::proto::propose_reply::Outcome;
use super::proto::{
    BackupReply, BackupRequest, Beat, DeliverReply, DeliverRequest, FormReply, Formation, ForwardAck,
    ForwardBatch, Grant, Introduction, JoinReply, JoinRequest, KickReply, KickRequest, ProposeReply,
    ProposeRequest, RaftCall, RaftReply, RetainedBatch, RetainedRequest, SettleReply, SettleRequest,
};
use super::severable::Severable;
use super::{Incoming, PeerStream};
use crate::NodeId;
use crate::backup::serve_backup;
use crate::cluster::Shared;
use crate::forward::accept_lane;
use crate::queue::serve_queues;
use crate::retained::RetainedMessages;

/// Raft calls of one peer that are being answered at the same time.
const RAFT_IN_FLIGHT: usize = 512;
const RETAINED_QUEUE: usize = 4;

/// Serves the other nodes until told to stop.
pub(crate) async fn serve(shared: Arc<Shared>, incoming: Incoming, stop: CancellationToken) {
    let service = PeerServer::new(Service { shared })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(5)))
        .add_service(service);
    let severing = stop.clone();
    let incoming = incoming.map(move |io| io.map(|io| PeerStream::new(Severable::new(io, severing.clone()))));
    // The streams of other nodes never end by themselves: each connection is severed, and waited for.
    let served = server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the listener for other nodes failed");
    }
}

struct Service {
    shared: Arc<Shared>,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// The calling node, if it belongs to the same cluster and means this one.
    fn caller(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let own = self.shared.cluster_id.get().map(String::as_str);
        match text(CLUSTER_KEY) {
            Some(cluster) if Some(cluster) == own => {}
            _ if own.is_none() => return Err(Status::unavailable("this node has no cluster yet")),
            theirs => {
                return Err(Status::permission_denied(format!(
                    "cluster {theirs:?} is not this one ({own:?})"
                )));
            }
        }
        // A node of an older version does not say whom it means.
        if text(TARGET_KEY).is_some_and(|target| target.parse() != Ok(self.shared.own.id)) {
            return Err(Status::failed_precondition("another node lives here now"));
        }
        let level = text(LEVEL_KEY).and_then(|level| level.parse().ok()).map_or(1, said);
        if level < self.shared.level() {
            return Err(Status::failed_precondition(format!(
                "the cluster is at feature level {}, and the caller can no more than {level}",
                self.shared.level()
            )));
        }
        text(NODE_KEY)
            .and_then(|node| node.parse().ok())
            .ok_or_else(|| Status::invalid_argument("the caller does not say who it is"))
    }
}

#[tonic::async_trait]
impl Peer for Service {
    async fn hello(&self, request: Request<Introduction>) -> Result<Response<Introduction>, Status> {
        let removed = self.shared.was_removed(request.get_ref());
        self.shared.meet(request.into_inner());
        let known = self.shared.members_met();
        Ok(Response::new(Introduction { removed, known, ..self.shared.introduction() }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Ok(Response::new(self.shared.join(request.into_inner()).await))
    }

    async fn form(&self, request: Request<Formation>) -> Result<Response<FormReply>, Status> {
        let reply = match self.shared.accept(request.into_inner()).await {
            Ok(()) => FormReply { accepted: true, reason: String::new() },
            Err(reason) => FormReply { accepted: false, reason },
        };
        Ok(Response::new(reply))
    }

    type RaftStream = Replies<RaftReply>;

    async fn raft(
        &self,
        request: Request<Streaming<RaftCall>>,
    ) -> Result<Response<Self::RaftStream>, Status> {
        let from = self.caller(request.metadata())?;
        let shared = Arc::clone(&self.shared);
        let calls = request.into_inner().take_while(Result::is_ok).filter_map(Result::ok);
        let answer = move |call: RaftCall| {
            let shared = Arc::clone(&shared);
            async move {
                let RaftCall { id, group, payload } = call;
                if !shared.takes_part(from, GroupId(group)) {
                    let error = "the caller does not hold this shard".to_owned();
                    return Ok(RaftReply { id, payload: Bytes::new(), error });
                }
                Ok(match shared.host.handle(from, GroupId(group), payload).await {
                    Ok(payload) => RaftReply { id, payload, error: String::new() },
                    Err(error) => RaftReply { id, payload: Bytes::new(), error: error.to_string() },
                })
            }
        };
        let answers = futures::StreamExt::buffer_unordered(calls.map(answer), RAFT_IN_FLIGHT);
        Ok(Response::new(Box::pin(Gathered::new(answers))))
    }

    type LeaseStream = Replies<Grant>;

    async fn lease(&self, request: Request<Streaming<Beat>>) -> Result<Response<Self::LeaseStream>, Status> {
        self.caller(request.metadata())?;
        let shared = Arc::clone(&self.shared);
        let beats = request.into_inner().take_while(Result::is_ok).filter_map(Result::ok);
        let grants = futures::StreamExt::filter_map(beats, move |beat| {
            let shared = Arc::clone(&shared);
            async move { shared.beat(beat).await.map(Ok) }
        });
        Ok(Response::new(Box::pin(grants)))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        self.caller(request.metadata())?;
        let reply = self.shared.propose_here(request.into_inner()).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "a proposal of another node has an unknown outcome");
            ProposeReply { outcome: Outcome::Unknown.into(), ..ProposeReply::default() }
        });
        Ok(Response::new(reply))
    }

    type ForwardStream = Replies<ForwardAck>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardBatch>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let from = self.caller(request.metadata())?;
        let shared = &self.shared;
        let incarnation = shared.own.incarnation();
        let acks =
            accept_lane(&shared.inbound, shared.local.as_ref(), from, incarnation, request.into_inner());
        let mut response: Response<Self::ForwardStream> = Response::new(acks);
        response.metadata_mut().insert(INCARNATION_KEY, incarnation.into());
        Ok(response)
    }

    type RetainedStream = Replies<RetainedBatch>;

    async fn retained(
        &self,
        request: Request<RetainedRequest>,
    ) -> Result<Response<Self::RetainedStream>, Status> {
        self.caller(request.metadata())?;
        let RetainedRequest { shards, filter, after } = request.into_inner();
        let filter = TopicFilter::new(filter).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(RETAINED_QUEUE);
        let (complete, end) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.spawn(async move {
            answer_retained(&shared, shards.into_iter().zip(after), &filter, &sender).await;
            // The caller is gone if nobody listens.
            complete.send(()).unwrap_or_default();
        });
        // An answer that was cut short by the node's end must not look like a whole one.
        let end = futures::StreamExt::filter_map(futures::stream::once(end), |end| {
            futures::future::ready(end.err().map(|_| Err(Status::unavailable("this node is stopping"))))
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).chain(end))))
    }

    type DeliverStream = Replies<DeliverReply>;

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        self.caller(request.metadata())?;
        Ok(Response::new(Box::pin(serve_queues(&self.shared, request.into_inner()))))
    }

    type BackupStream = Replies<BackupReply>;

    async fn backup(
        &self,
        request: Request<Streaming<BackupRequest>>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.caller(request.metadata())?;
        let requests = request.into_inner().take_while(Result::is_ok).filter_map(Result::ok);
        let replies = serve_backup(&self.shared, Box::pin(requests));
        Ok(Response::new(Box::pin(ReceiverStream::new(replies).map(Ok))))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleReply>, Status> {
        let from = self.caller(request.metadata())?;
        let Shared { inbound, local, own, .. } = &*self.shared;
        let lives = (own.boot_incarnation, own.incarnation());
        let reply = inbound.settle(local.as_ref(), from, lives, &request.into_inner())?;
        Ok(Response::new(reply))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickReply>, Status> {
        self.caller(request.metadata())?;
        Ok(Response::new(self.shared.kicked(request.into_inner()).await))
    }
}

/// Reads the shards one after the other; the caller's window holds the reading back.
async fn answer_retained(
    shared: &Shared,
    shards: impl Iterator<Item = (u32, String)>,
    filter: &TopicFilter,
    replies: &mpsc::Sender<Result<RetainedBatch, Status>>,
) {
    for (shard, after) in shards {
        let after = Some(after.as_str()).filter(|after| !after.is_empty());
        let (into, mut batches) = mpsc::channel::<RetainedMessages>(RETAINED_QUEUE);
        // Owns its end, so that the reading ends with it when the caller is gone.
        let forward = async move {
            while let Some(batch) = batches.recv().await {
                let messages = batch.iter().map(|message| message.encode_to_vec().into()).collect();
                if replies.send(Ok(RetainedBatch { messages, refused: Vec::new() })).await.is_err() {
                    return;
                }
            }
        };
        let read = async {
            let read = shared.read_here(shard, filter, after, &into).await;
            drop(into);
            read
        };
        let (read, ()) = tokio::join!(read, forward);
        let refusal = RetainedBatch { messages: Vec::new(), refused: vec![shard] };
        if !read && replies.send(Ok(refusal)).await.is_err() {
            return;
        }
    }
}
