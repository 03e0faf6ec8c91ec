//! What a peer's request does here: the other end of [`crate::peer`].

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use prost::Message;

use crate::HandleError;
use crate::consensus::{Raft, Snapshot, SnapshotMeta, Types, Vote};
use crate::proto::{
    self, Malformed, append_reply, record_reply, reply, request, snapshot_reply, transfer_reply,
};
use crate::pulse::Beat;
use crate::records::{self, TakeError};

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

impl From<TakeError> for HandleError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Malformed(error) => error.into(),
            // The engine has failed: so has the log writer, or it will with its next append.
            TakeError::Store(_) => Self::Closed,
        }
    }
}

/// The receiving side of one group.
pub(crate) struct Server {
    raft: Raft,
    /// Longest wait for a snapshot to be installed.
    timeout: Duration,
    beat: Beat,
    /// Held while a page of records is written and while a snapshot is installed.
    arriving: tokio::sync::Mutex<Arriving>,
}

/// What arrives before it is installed.
struct Arriving {
    /// The snapshot of which chunks are here, if any: at most one, the newest begun.
    snapshot: Option<Incoming>,
    /// Of the machine's records, if it has any.
    records: Option<records::Incoming>,
}

/// A snapshot of which some chunks have arrived.
struct Incoming {
    vote: Vote,
    meta: SnapshotMeta,
    data: BytesMut,
}

impl Server {
    /// Serves a group.
    pub(crate) fn new(raft: Raft, timeout: Duration, records: Option<records::Incoming>) -> Self {
        let arriving = tokio::sync::Mutex::new(Arriving { snapshot: None, records });
        Self { raft, timeout, beat: Beat::new(), arriving }
    }

    /// What the pulse knows of the group: whether its leader is heard.
    pub(crate) fn beat(&self) -> &Beat {
        &self.beat
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
            request::Request::Records(page) => reply::Reply::Records(self.records(page).await?),
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
        let result = self.raft.append_entries(request).await?;
        if !matches!(result, AppendEntriesResponse::HigherVote(_)) {
            self.beat.heard();
        }
        let result = match result {
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
        let mut arriving = self.arriving.lock().await;
        let result = match receive(&mut arriving.snapshot, chunk)? {
            Received::Held(held) => snapshot_reply::Result::Held(held),
            Received::Whole { vote, snapshot } => self.install(vote, snapshot).await?,
        };
        Ok(proto::SnapshotReply { result: Some(result) })
    }

    /// Installs a snapshot and answers when it is durable. openraft answers at once for one that it is still
    /// installing (the call that brought it was given up), so that is waited for here.
    async fn install(&self, vote: Vote, snapshot: Snapshot) -> Result<snapshot_reply::Result, HandleError> {
        let last = snapshot.meta.last_log_id.map(|id| id.index);
        let installed = self.raft.install_full_snapshot(vote, snapshot).await?;
        if installed.vote > vote {
            return Ok(snapshot_reply::Result::Vote(installed.vote.into()));
        }
        let wait = self.raft.wait(Some(self.timeout));
        Ok(match wait.applied_index_at_least(last, "the snapshot is installed").await {
            Ok(_) => snapshot_reply::Result::Vote(installed.vote.into()),
            Err(WaitError::Timeout(..)) => snapshot_reply::Result::Held(0),
            Err(WaitError::ShuttingDown) => return Err(HandleError::Closed),
        })
    }

    async fn records(&self, page: proto::RecordPage) -> Result<proto::RecordReply, HandleError> {
        let vote: Vote = proto::required(page.vote, "vote")?.into();
        let mut arriving = self.arriving.lock().await;
        let known = self.raft.metrics().borrow_watched().vote;
        let result = if vote < known {
            record_reply::Result::HigherVote(known.into())
        } else {
            let records = arriving.records.as_mut();
            let records = records.ok_or_else(|| Malformed("this machine has no records".into()))?;
            record_reply::Result::Next(records.take(page).await?)
        };
        Ok(proto::RecordReply { result: Some(result) })
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

/// Adds a chunk to the snapshot it continues; one that continues nothing changes nothing.
fn receive(slot: &mut Option<Incoming>, chunk: proto::SnapshotChunk) -> Result<Received, HandleError> {
    let vote: Vote = proto::required(chunk.vote, "vote")?.into();
    let meta: SnapshotMeta = proto::required(chunk.meta, "snapshot meta")?.try_into()?;
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
