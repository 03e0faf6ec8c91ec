//! The one door to what is replicated: finds the leader of a group and proposes to it.
//!
//! A proposal whose outcome is unknown is repeated: every command is idempotent (a node's routes by version, a
//! shard's by how many came before, batches for shards by number). Knows no meaning of commands but their time,
//! which the leader stamps. Start at [`Shared::propose`].

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use thiserror::Error;
use zwerm_machine::level::unsaid;
use zwerm_machine::records::control_command::Command;
use zwerm_machine::records::control_reply::Reply;
use zwerm_machine::records::{
    ControlCommand, ControlReply, Ignored, Refusal, ShardBatch, ShardReplies, ShardReply, shard_reply,
};
use zwerm_raft::{GroupId, ProposeError, Proposed};

use crate::NodeId;
use crate::cluster::Shared;
use crate::transport::proto::propose_reply::Outcome;
use crate::transport::proto::{ProposeReply, ProposeRequest};

/// The control group.
pub(crate) const CONTROL: GroupId = GroupId(0);

/// The Raft group of a shard.
pub(crate) fn group_of(shard: u32) -> GroupId {
    GroupId(shard + 1)
}

/// The shard of a Raft group that is not the control group.
pub(crate) fn shard_of_group(group: GroupId) -> u32 {
    group.0.saturating_sub(1)
}

/// One attempt; longer than an election, so that a slow leader is not asked twice for nothing.
const ATTEMPT: Duration = Duration::from_secs(3);
/// A barrier waits for nodes that may have to be declared down first.
const BARRIER_ATTEMPT: Duration = Duration::from_secs(8);
const BACKOFF: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// How long it is tried to have something decided that somebody asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command that did not get in, this time.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Unproposed(String);

/// A request for the control group.
pub(crate) fn control_request(command: Command, barrier: bool) -> ProposeRequest {
    let command = ControlCommand::from(command).encode_to_vec().into();
    ProposeRequest { group: CONTROL.0, command, barrier }
}

/// Asks the control group for nothing but a barrier behind all that it has committed.
pub(crate) fn barrier_request() -> ProposeRequest {
    ProposeRequest { group: CONTROL.0, command: Bytes::new(), barrier: true }
}

/// Walks the nodes that may lead a group.
#[derive(Debug)]
struct Search {
    group: GroupId,
    hint: Option<NodeId>,
    tried: usize,
}

impl Search {
    /// Whom to ask next: who is said to lead, else all that may, in turn.
    fn next(&mut self, shared: &Shared) -> Option<NodeId> {
        let known = self.hint.take().or_else(|| shared.leader_of(self.group));
        let candidates = shared.members_of(self.group);
        let turn = candidates.get(self.tried.checked_rem(candidates.len()).unwrap_or_default()).copied();
        self.tried += 1;
        // Every third time ask somebody else: what is known may be old.
        if self.tried.is_multiple_of(3) { turn } else { known.or(turn) }
    }
}

impl Shared {
    /// Has the control group decide; `None`: it does not answer for [`PATIENCE`], or not what this version knows.
    pub(crate) async fn decide(&self, command: Command) -> Option<Reply> {
        // Boxed: whoever waits for this would be as deep as all that proposing is made of.
        let proposed = Box::pin(self.propose(control_request(command, false)));
        let proposed = tokio::time::timeout(PATIENCE, proposed).await;
        ControlReply::decode(proposed.ok()?).ok()?.reply
    }

    /// Proposes until it is committed, or refused. The reply is what the state machine answered, or would have.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown.
    pub(crate) async fn propose(&self, request: ProposeRequest) -> Bytes {
        let mut search = Search { group: GroupId(request.group), hint: None, tried: 0 };
        let mut backoff = BACKOFF;
        loop {
            let outcome = match search.next(self) {
                Some(node) => self.attempt(node, &request).await,
                None => Err(Unproposed("no member of the group is known yet".to_owned())),
            };
            match outcome {
                Ok(reply) if matches!(reply.outcome(), Outcome::Committed | Outcome::Refused) => {
                    return reply.reply;
                }
                Ok(reply) if reply.outcome() == Outcome::NotLeader && reply.leader != 0 => {
                    search.hint = Some(reply.leader);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(group = request.group, %error, "a proposal failed; trying again")
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt(&self, node: NodeId, request: &ProposeRequest) -> Result<ProposeReply, Unproposed> {
        let patience = if request.barrier { BARRIER_ATTEMPT } else { ATTEMPT };
        if node == self.own.id {
            let attempt = tokio::time::timeout(patience, self.propose_here(request.clone()));
            return attempt.await.unwrap_or_else(|_| Err(Unproposed("no answer in time".to_owned())));
        }
        self.peers
            .propose(node, request.clone(), patience)
            .await
            .map_err(|error| Unproposed(format!("node {node:016x}: {error}")))
    }

    /// Proposes to the group as this node leads it; an empty command is a point in the log behind all that is
    /// committed.
    pub(crate) async fn propose_here(&self, request: ProposeRequest) -> Result<ProposeReply, Unproposed> {
        let id = GroupId(request.group);
        let not_leader = |leader: Option<NodeId>| ProposeReply {
            outcome: Outcome::NotLeader.into(),
            leader: leader.unwrap_or_default(),
            reply: Bytes::new(),
        };
        let Some(group) = self.host.group(id) else { return Ok(not_leader(None)) };
        // A backup holds the shard still.
        let view = if id == CONTROL { None } else { self.shard_view(shard_of_group(id)) };
        let _pass = match &view {
            Some(view) => Some(view.gate().pass().await),
            None => None,
        };
        let proposed = if request.command.is_empty() {
            group.linearize().await.map(|index| Proposed { index, reply: Bytes::new() })
        } else {
            match self.stamp(id, request.command)? {
                Ok(command) => group.propose(command).await,
                Err(reply) => {
                    let outcome = Outcome::Refused.into();
                    return Ok(ProposeReply { outcome, leader: self.own.id, reply });
                }
            }
        };
        let proposed = match proposed {
            Ok(proposed) => proposed,
            Err(ProposeError::NotLeader { leader }) => return Ok(not_leader(leader)),
            Err(error) => return Err(Unproposed(error.to_string())),
        };
        if request.barrier && !self.wait_applied_everywhere(proposed.index).await {
            return Err(Unproposed("the leader changed before all nodes had applied".to_owned()));
        }
        Ok(ProposeReply { outcome: Outcome::Committed.into(), leader: self.own.id, reply: proposed.reply })
    }

    /// Time enters the replicated state here, and only here; so does the level that a command needs. Nothing passes that
    /// this program does not know, or that some node does not: the inner error is the answer then.
    fn stamp(&self, group: GroupId, command: Bytes) -> Result<Result<Bytes, Bytes>, Unproposed> {
        let malformed = |error: prost::DecodeError| Unproposed(format!("a malformed command: {error}"));
        let unknown = || Unproposed("a command that this version of zwerm does not know".to_owned());
        let now_ms = self.now_ms();
        if group == CONTROL {
            let command = ControlCommand::decode(command).map_err(malformed)?;
            let needs = command.needs().ok_or_else(unknown)?;
            // These two bring the level themselves.
            let brings_it = matches!(command.command, Some(Command::Form(_) | Command::RaiseLevel(_)));
            let level = if brings_it { self.ceiling.levels().newest } else { self.control.level() };
            if needs > level {
                let reply = Reply::Ignored(Ignored { reason: Refusal::Level.into() });
                return Ok(Err(ControlReply { reply: Some(reply) }.encode_to_vec().into()));
            }
            let command = ControlCommand { at_ms: now_ms, level: unsaid(needs), ..command };
            return Ok(Ok(command.encode_to_vec().into()));
        }
        let mut batch = ShardBatch::decode(command).map_err(malformed)?;
        let needs = batch.needs().ok_or_else(unknown)?;
        if needs > self.control.level() {
            let refused = shard_reply::Reply::Ignored(Ignored { reason: Refusal::Level.into() });
            let reply = ShardReply { reply: Some(refused) };
            let replies = ShardReplies { replies: vec![reply; batch.commands.len()] };
            return Ok(Err(replies.encode_to_vec().into()));
        }
        batch.level = unsaid(needs);
        for command in &mut batch.commands {
            command.at_ms = now_ms;
        }
        Ok(Ok(batch.encode_to_vec().into()))
    }

    /// Who leads a group, as this node knows from taking part in it.
    pub(crate) fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.host.group(group)?.leader()
    }

    /// Whether this node's replica of a shard works.
    pub(crate) fn is_running(&self, shard: u32) -> bool {
        self.host.group(group_of(shard)).is_some_and(|group| group.watch().borrow().running)
    }

    /// Who may lead a group: who votes, and who is to.
    pub(crate) fn members_of(&self, group: GroupId) -> Vec<NodeId> {
        let control = self.control.state();
        let Some(shard) = group.0.checked_sub(1) else {
            let founders = self.formation.get().map(|formation| formation.members.iter().map(|node| node.id));
            // Nothing is known of the replicated state yet, or what is known is old: then the first members may help.
            let mut nodes: Vec<NodeId> = control.nodes().map(|node| node.id).collect();
            nodes.extend(founders.into_iter().flatten().filter(|node| control.node(*node).is_none()));
            return nodes;
        };
        let Some(placement) = control.placement_of(shard) else { return Vec::new() };
        let coming = placement.next.iter().filter(|node| !placement.voters.contains(node));
        placement.voters.iter().chain(coming).copied().collect()
    }
}
