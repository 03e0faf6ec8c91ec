//! [`Peer`]: a group on another node, as openraft's network client. Turns openraft's requests into messages
//! of `proto/raft.proto`, bounds every wait, cuts snapshots into chunks and sends the machine's records before
//! them. Its other end is [`crate::serve`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use prost::Message;

use crate::consensus::{Snapshot, SnapshotMeta, Types, Vote};
use crate::proto::{self, append_reply, record_reply, reply, request, snapshot_reply, transfer_reply};
use crate::records::Outgoing;
use crate::{Config, GroupId, Network, NodeId};

/// Makes the clients of one group.
pub(crate) struct Peers {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) config: Arc<Config>,
    /// Where the machine's records are, if it has any.
    pub(crate) records: Option<Outgoing>,
}

/// Client of one group on one other node.
pub(crate) struct Peer {
    node: NodeId,
    target: NodeId,
    group: GroupId,
    network: Arc<dyn Network>,
    config: Arc<Config>,
    records: Option<Outgoing>,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, (): &()) -> Peer {
        Peer {
            node: self.node,
            target,
            group: self.group,
            network: Arc::clone(&self.network),
            config: Arc::clone(&self.config),
            records: self.records.clone(),
        }
    }
}

/// A reply that is not the answer to what was asked.
fn unexpected() -> NetworkError<Types> {
    NetworkError::from_string("the peer's reply does not fit the request")
}

impl Peer {
    async fn call(
        &self,
        action: RPCTypes,
        timeout: Duration,
        request: request::Request,
    ) -> Result<reply::Reply, RPCError<Types>> {
        let request = Bytes::from(proto::Request { request: Some(request) }.encode_to_vec());
        let call = self.network.call(self.target, self.group, request);
        let reply = match tokio::time::timeout(timeout, call).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(crate::NetworkError::Unreachable(reason))) => {
                return Err(Unreachable::from_string(reason).into());
            }
            Ok(Err(crate::NetworkError::Failed(reason))) => {
                return Err(NetworkError::from_string(reason).into());
            }
            Err(_) => {
                let (id, target) = (self.node, self.target);
                return Err(Timeout { action, id, target, timeout }.into());
            }
        };
        let reply = proto::Reply::decode(reply).map_err(|error| NetworkError::new(&error))?;
        reply.reply.ok_or_else(|| unexpected().into())
    }

    async fn ask_vote(
        &self,
        request: request::Request,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let reply::Reply::Vote(reply) = self.call(RPCTypes::Vote, option.hard_ttl(), request).await? else {
            return Err(unexpected().into());
        };
        let vote: Vote = reply.vote.ok_or_else(unexpected)?.into();
        Ok(VoteResponse { vote, vote_granted: reply.granted, last_log_id: proto::parse_log_id(reply.last) })
    }

    /// Sends the records that the peer lacks, those made meanwhile included. `Some`: the peer has seen a newer
    /// vote.
    async fn send_records(
        &self,
        vote: Vote,
        records: &Outgoing,
    ) -> Result<Option<Vote>, StreamingError<Types>> {
        let ask = proto::RecordPage { vote: Some(vote.into()), ..proto::RecordPage::default() };
        let mut from = match self.send_page(ask).await? {
            record_reply::Result::Next(next) => next,
            record_reply::Result::HigherVote(vote) => return Ok(Some(vote.into())),
        };
        loop {
            let page = records.page(from.to_vec(), self.config.max_request_bytes).await;
            let page = page.map_err(|error| NetworkError::new(&error))?;
            let Some(to) = page.next.map(Bytes::from) else { return Ok(None) };
            let (vote, to_) = (Some(vote.into()), to.clone());
            let page = proto::RecordPage { vote, from, to: to_, records: page.records };
            match self.send_page(page).await? {
                record_reply::Result::Next(next) if next == to => from = to,
                record_reply::Result::Next(_) => {
                    return Err(NetworkError::from_string("the peer lost the place in the records").into());
                }
                record_reply::Result::HigherVote(vote) => return Ok(Some(vote.into())),
            }
        }
    }

    async fn send_page(&self, page: proto::RecordPage) -> Result<record_reply::Result, RPCError<Types>> {
        let timeout = self.config.snapshot_chunk_timeout;
        let reply = self.call(RPCTypes::InstallSnapshot, timeout, request::Request::Records(page)).await?;
        let reply::Reply::Records(proto::RecordReply { result: Some(result) }) = reply else {
            return Err(unexpected().into());
        };
        Ok(result)
    }

    /// Sends the records, then the snapshot.
    async fn send_state(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        if let Some(records) = &self.records
            && let Some(vote) = self.send_records(vote, records).await?
        {
            return Ok(SnapshotResponse { vote });
        }
        self.send_snapshot(vote, &snapshot.meta, snapshot.snapshot).await
    }

    /// Sends a snapshot from the start. The last chunk's reply comes when the peer has installed it.
    async fn send_snapshot(
        &self,
        vote: Vote,
        meta: &SnapshotMeta,
        data: Bytes,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let total = data.len();
        let mut offset = 0;
        loop {
            let end = total.min(offset + self.config.max_request_bytes);
            let chunk = proto::SnapshotChunk {
                vote: Some(vote.into()),
                meta: Some(meta.into()),
                offset: offset as u64,
                total: total as u64,
                data: data.slice(offset..end),
            };
            let request = request::Request::Snapshot(chunk);
            let reply =
                self.call(RPCTypes::InstallSnapshot, self.config.snapshot_chunk_timeout, request).await?;
            let reply::Reply::Snapshot(proto::SnapshotReply { result: Some(result) }) = reply else {
                return Err(unexpected().into());
            };
            match result {
                snapshot_reply::Result::Vote(vote) => return Ok(SnapshotResponse { vote: vote.into() }),
                snapshot_reply::Result::Held(held) if held == end as u64 && end < total => offset = end,
                snapshot_reply::Result::Held(_) => {
                    return Err(NetworkError::from_string("the peer lost a part of the snapshot").into());
                }
            }
        }
    }
}

/// The message of an append.
fn append_request(rpc: AppendEntriesRequest<Types>) -> request::Request {
    request::Request::Append(proto::AppendRequest {
        vote: Some(rpc.vote.into()),
        prev: proto::log_id(rpc.prev_log_id),
        committed: proto::log_id(rpc.leader_commit),
        entries: rpc.entries.into_iter().map(Into::into).collect(),
    })
}

fn vote_request(rpc: &VoteRequest<Types>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(rpc.vote.into()),
        last: proto::log_id(rpc.last_log_id),
        leadership_transfer: rpc.leadership_transfer,
    }
}

fn parse_transfer(reply: proto::TransferReply) -> Option<TransferLeaderResponse<Types>> {
    Some(match reply.result? {
        transfer_reply::Result::Accepted(_) => Ok(()),
        transfer_reply::Result::VoteChanged(changed) => Err(TransferLeaderError::VoteChanged {
            expected: changed.expected?.into(),
            actual: changed.actual?.into(),
        }),
        transfer_reply::Result::LogNotFlushed(ids) => Err(TransferLeaderError::LogNotFlushed {
            expected: proto::parse_log_id(ids.expected),
            actual: proto::parse_log_id(ids.actual),
        }),
    })
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // openraft's time limit is the heartbeat interval, less than a slow disk's sync: the same entries would
        // be sent again and again. (A heartbeat is cut off at that interval by its caller.)
        let timeout = self.config.election_max;
        let prev = rpc.prev_log_id;
        let reply = self.call(RPCTypes::AppendEntries, timeout, append_request(rpc)).await?;
        let reply::Reply::Append(proto::AppendReply { result: Some(result) }) = reply else {
            return Err(unexpected().into());
        };
        Ok(match result {
            append_reply::Result::Success(_) => AppendEntriesResponse::Success,
            append_reply::Result::Partial(partial) => {
                AppendEntriesResponse::PartialSuccess(proto::parse_log_id(partial.upto))
            }
            // Nothing conflicts with the beginning of the log, and openraft relies on it.
            append_reply::Result::Conflict(_) if prev.is_none() => return Err(unexpected().into()),
            append_reply::Result::Conflict(_) => AppendEntriesResponse::Conflict,
            append_reply::Result::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote.into()),
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(request::Request::Vote(vote_request(&rpc)), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(request::Request::PreVote(vote_request(&rpc)), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_state(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = request::Request::Transfer(proto::TransferRequest {
            from: Some((*rpc.from_leader()).into()),
            to: *rpc.to_node_id(),
            last: proto::log_id(rpc.last_log_id().copied()),
        });
        let reply::Reply::Transfer(reply) = self.call(RPCTypes::Vote, option.hard_ttl(), request).await?
        else {
            return Err(unexpected().into());
        };
        parse_transfer(reply).ok_or_else(|| unexpected().into())
    }
}
