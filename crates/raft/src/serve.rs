//! What a peer's request does here: the other end of [`crate::peer`].

use bytes::{Bytes, BytesMut};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use parking_lot::Mutex;
use prost::Message;

use crate::HandleError;
use crate::consensus::{Raft, Snapshot, SnapshotMeta, Types, Vote};
use crate::proto::{self, Malformed, append_reply, reply, request, snapshot_reply, transfer_reply};

impl From<Malformed> for HandleError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error.0)
    }
}

impl From<Fatal<Types>> for HandleError {
    fn from(_: Fatal<Types>) -> Self {
        Self::Closed
    }
}

impl From<RaftError<Types>> for HandleError {
    fn from(_: RaftError<Types>) -> Self {
        Self::Closed
    }
}

/// The receiving side of one group.
pub(crate) struct Server {
    raft: Raft,
    /// The snapshot that is arriving, if any: at most one, the newest begun.
    incoming: Mutex<Option<Incoming>>,
}

/// A snapshot of which some chunks have arrived.
struct Incoming {
    vote: Vote,
    meta: SnapshotMeta,
    data: BytesMut,
}

impl Server {
    /// Serves a group.
    pub(crate) fn new(raft: Raft) -> Self {
        Self { raft, incoming: Mutex::new(None) }
    }

    /// Answers one request.
    pub(crate) async fn handle(&self, request: Bytes) -> Result<Bytes, HandleError> {
        let request = proto::Request::decode(request).map_err(Malformed::from)?;
        let reply = match proto::required(request.request, "request")? {
            request::Request::Append(append) => reply::Reply::Append(self.append(append).await?),
            request::Request::Vote(vote) => {
                reply::Reply::Vote(vote_reply(&self.raft.vote(parse_vote_request(vote)?).await?))
            }
            request::Request::PreVote(vote) => {
                reply::Reply::Vote(vote_reply(&self.raft.pre_vote(parse_vote_request(vote)?).await?))
            }
            request::Request::Snapshot(chunk) => reply::Reply::Snapshot(self.snapshot(chunk).await?),
            request::Request::Transfer(transfer) => reply::Reply::Transfer(self.transfer(transfer).await?),
        };
        Ok(proto::Reply { reply: Some(reply) }.encode_to_vec().into())
    }

    async fn append(&self, append: proto::AppendRequest) -> Result<proto::AppendReply, HandleError> {
        let request = AppendEntriesRequest {
            vote: proto::required(append.vote, "vote")?.into(),
            prev_log_id: proto::parse_log_id(append.prev),
            entries: proto::parse_entries(append.entries)?,
            leader_commit: proto::parse_log_id(append.committed),
        };
        check_consecutive(&request)?;
        let result = match self.raft.append_entries(request).await? {
            AppendEntriesResponse::Success => append_reply::Result::Success(proto::Empty {}),
            AppendEntriesResponse::PartialSuccess(upto) => {
                append_reply::Result::Partial(proto::PartialSuccess { upto: proto::log_id(upto) })
            }
            AppendEntriesResponse::Conflict => append_reply::Result::Conflict(proto::Empty {}),
            AppendEntriesResponse::HigherVote(vote) => append_reply::Result::HigherVote(vote.into()),
        };
        Ok(proto::AppendReply { result: Some(result) })
    }

    async fn snapshot(&self, chunk: proto::SnapshotChunk) -> Result<proto::SnapshotReply, HandleError> {
        let result = match self.receive(chunk)? {
            Received::Held(held) => snapshot_reply::Result::Held(held),
            Received::Whole { vote, snapshot } => {
                let installed = self.raft.install_full_snapshot(vote, snapshot).await?;
                snapshot_reply::Result::Vote(installed.vote.into())
            }
        };
        Ok(proto::SnapshotReply { result: Some(result) })
    }

    /// Adds a chunk to the snapshot it continues; one that continues nothing changes nothing.
    fn receive(&self, chunk: proto::SnapshotChunk) -> Result<Received, HandleError> {
        let vote: Vote = proto::required(chunk.vote, "vote")?.into();
        let meta: SnapshotMeta = proto::required(chunk.meta, "snapshot meta")?.try_into()?;
        let mut slot = self.incoming.lock();
        if chunk.offset == 0 {
            *slot = Some(Incoming { vote, meta, data: BytesMut::new() });
        } else if slot.as_ref().is_none_or(|incoming| incoming.vote != vote || incoming.meta != meta) {
            return Ok(Received::Held(0));
        }
        let Some(incoming) = slot.as_mut() else { return Ok(Received::Held(0)) };
        if incoming.data.len() as u64 != chunk.offset {
            return Ok(Received::Held(incoming.data.len() as u64));
        }
        incoming.data.extend_from_slice(&chunk.data);
        let held = incoming.data.len() as u64;
        if held < chunk.total {
            return Ok(Received::Held(held));
        }
        let Some(Incoming { vote, meta, data }) = slot.take() else { return Ok(Received::Held(0)) };
        Ok(Received::Whole { vote, snapshot: Snapshot { meta, snapshot: data.freeze() } })
    }

    async fn transfer(&self, transfer: proto::TransferRequest) -> Result<proto::TransferReply, HandleError> {
        let from = proto::required(transfer.from, "vote")?.into();
        let request = TransferLeaderRequest::new(from, transfer.to, proto::parse_log_id(transfer.last));
        let result = match self.raft.handle_transfer_leader(request).await? {
            Ok(()) => transfer_reply::Result::Accepted(proto::Empty {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                let (expected, actual) = (Some(expected.into()), Some(actual.into()));
                transfer_reply::Result::VoteChanged(proto::VoteChanged { expected, actual })
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                let (expected, actual) = (proto::log_id(expected), proto::log_id(actual));
                transfer_reply::Result::LogNotFlushed(proto::LogNotFlushed { expected, actual })
            }
        };
        Ok(proto::TransferReply { result: Some(result) })
    }
}

enum Received {
    /// So many bytes are here.
    Held(u64),
    Whole {
        vote: Vote,
        snapshot: Snapshot,
    },
}

/// openraft takes it for granted that entries follow each other and the previous one.
fn check_consecutive(request: &AppendEntriesRequest<Types>) -> Result<(), Malformed> {
    let first = request.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    for (due, entry) in (first..).zip(&request.entries) {
        if entry.log_id.index != due {
            return Err(Malformed(format!("entry {} where {due} is due", entry.log_id.index)));
        }
    }
    Ok(())
}

fn parse_vote_request(request: proto::VoteRequest) -> Result<VoteRequest<Types>, Malformed> {
    Ok(VoteRequest {
        vote: proto::required(request.vote, "vote")?.into(),
        last_log_id: proto::parse_log_id(request.last),
        leadership_transfer: request.leadership_transfer,
    })
}

fn vote_reply(reply: &VoteResponse<Types>) -> proto::VoteReply {
    proto::VoteReply {
        vote: Some(reply.vote.into()),
        granted: reply.vote_granted,
        last: proto::log_id(reply.last_log_id),
    }
}
