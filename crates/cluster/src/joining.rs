//! How an empty node becomes a member of a cluster that is formed already, and how a node learns that it is none any
//! more.
//!
//! Whoever asks is told why not: a name that another node has, a version that does not fit. The control group decides,
//! so a node whose volume was lost and that comes back under its old name takes the place of the one it was, but only
//! once that was declared down. Knows no shards: those are given to it when it is up (`members.rs`). Start at
//! [`ask_to_join`]; [`Shared::join`] is the other side.

use prost::Message as _;
use zwerm_machine::level::said;
use zwerm_machine::records::{ControlReply, Join, Node, Refusal};
use zwerm_machine::records::{control_command::Command, control_reply::Reply};

use crate::NodeId;
use crate::cluster::Shared;
use crate::ledger::{CONTROL, control_request};
use crate::levels;
use crate::overseer::node_of;
use crate::transport::proto::propose_reply::Outcome;
use crate::transport::proto::{Formation, Introduction, JoinReply, JoinRequest};

/// Of what nodes say to each other and keep on their disks. Nodes of different versions form no cluster.
const VERSION: u32 = 1;

/// Asks a member once. Returns where it stands, for people.
pub(crate) async fn ask_to_join(shared: &Shared, member: &Introduction) -> String {
    let cluster = &member.cluster_id;
    if member.level > 0
        && let Err(error) = levels::check(shared.config.levels, member.level)
    {
        return format!("cannot join cluster {cluster}: {error}");
    }
    let request = JoinRequest { node: Some(shared.introduction()), version: VERSION, forwarded: false };
    let reply = match shared.peers.join(member.id, request).await {
        Ok(reply) => reply,
        Err(error) => return format!("cluster {cluster} does not answer a request to join: {error}"),
    };
    let Some(formation) = reply.formation else {
        let refused = if reply.later { "cannot take this node in yet" } else { "refuses this node" };
        return format!("cluster {cluster} {refused}: {}", reply.refused);
    };
    if formation.cluster_id != *cluster || !formation.joined {
        return format!("node {} gave a wrong answer to a request to join {cluster}", member.name);
    }
    match shared.accept(formation).await {
        Ok(()) => format!("joining cluster {cluster}"),
        Err(reason) => format!("cannot join cluster {cluster}: {reason}"),
    }
}

fn later(refused: impl Into<String>) -> JoinReply {
    JoinReply { formation: None, refused: refused.into(), later: true }
}

fn refused(refused: impl Into<String>) -> JoinReply {
    JoinReply { formation: None, refused: refused.into(), later: false }
}

impl Shared {
    /// Answers a node that asks to become a member; hands it on to the leader of the control group, once.
    pub(crate) async fn join(&self, request: JoinRequest) -> JoinReply {
        let JoinRequest { node, version, forwarded } = request;
        let Some(node) = node else { return refused("the request does not say for whom it is") };
        let Some(formation) = self.formation.get() else { return later("this node has no cluster yet") };
        if version != VERSION {
            return refused(format!(
                "it speaks version {version} of what nodes say to each other, this cluster version {VERSION}; \
                 start it with the version of zwerm that the other nodes have"
            ));
        }
        if !node.cluster_id.is_empty() && node.cluster_id != formation.cluster_id {
            return refused(format!("it belongs to cluster {}", node.cluster_id));
        }
        const LEADERLESS: &str =
            "its control group has no leader that answers; a majority of its voters must be up";
        if said(node.newest_level) < self.level() {
            return refused(format!(
                "the cluster is at feature level {}, and the node can no more than {}; start it with the version of zwerm \
                 that the other nodes have, and without cluster.max_level",
                self.level(),
                said(node.newest_level)
            ));
        }
        let Some(leader) = self.leader_of(CONTROL) else { return later(LEADERLESS) };
        if leader == self.own.id {
            self.meet(node.clone());
            return self.take_in(&node, formation).await;
        }
        if forwarded {
            return later("the control group is changing its leader");
        }
        let request = JoinRequest { node: Some(node), version, forwarded: true };
        match self.peers.join(leader, request).await {
            Ok(reply) if !reply.later => reply,
            // Who is taken for the leader may be the last one, from before a restart.
            Ok(_) | Err(_) => later(LEADERLESS),
        }
    }

    /// Makes a node a member, as the leader of the control group.
    async fn take_in(&self, node: &Introduction, formation: &Formation) -> JoinReply {
        let command = Command::Join(Join { node: Some(node_of(node)) });
        let reply = match self.propose_here(control_request(command, false)).await {
            Ok(reply) if reply.outcome() == Outcome::Committed => reply.reply,
            Ok(_) => return later("the control group is changing its leader"),
            Err(error) => return later(error.to_string()),
        };
        match ControlReply::decode(reply).ok().and_then(|reply| reply.reply) {
            Some(Reply::Applied(_)) => {}
            Some(Reply::Ignored(ignored)) => return self.not_taken_in(node, ignored.reason()),
            None => return later("the control group gave no answer"),
        }
        let control = self.control.state();
        let formation = Formation {
            cluster_id: formation.cluster_id.clone(),
            members: control.nodes().map(introduction_of).collect(),
            shards: control.shards(),
            joined: true,
            level: control.level(),
            replicas: 0,
        };
        JoinReply { formation: Some(formation), ..JoinReply::default() }
    }

    fn not_taken_in(&self, node: &Introduction, reason: Refusal) -> JoinReply {
        let name = &node.name;
        let reply = match reason {
            Refusal::NameTaken => {
                let control = self.control.state();
                let holder = control.named(name).map_or(0, |holder| holder.id);
                refused(format!(
                    "a node named {name:?} is up with id {holder:016x}; give this one another name (node.name), \
                     or stop the other one: when it is down this one takes its place"
                ))
            }
            Refusal::Removed => {
                refused("a node with this id was removed; start it with an empty data directory")
            }
            Refusal::Level => later("the feature level of the cluster is rising"),
            Refusal::NotFormed => later("the cluster is being formed"),
            Refusal::Limit => refused("the cluster has as many nodes as it can have, or a name is too long"),
            other => refused(format!("{other:?}")),
        };
        if !reply.later {
            tracing::warn!(
                node = name,
                id = format_args!("{:016x}", node.id),
                reason = reply.refused,
                "a node was refused"
            );
        }
        reply
    }

    /// Whether the node that says so was removed from the cluster of this one.
    pub(crate) fn was_removed(&self, node: &Introduction) -> bool {
        let same_cluster = self.cluster_id.get().is_some_and(|own| *own == node.cluster_id);
        same_cluster && self.control.state().is_removed(node.id)
    }

    /// Whether a node may take part in a Raft group, as this node knows: it holds the shard, or is to hold it. Who was
    /// moved away while it was cut off still believes to vote, and could be elected by one that was moved away and
    /// back meanwhile, with nothing on its disk.
    pub(crate) fn takes_part(&self, node: NodeId, group: zwerm_raft::GroupId) -> bool {
        let Some(shard) = group.0.checked_sub(1) else { return !self.control.state().is_removed(node) };
        let control = self.control.state();
        control.placement_of(shard).is_some_and(|placement| zwerm_machine::is_held_by(placement, node))
    }
}

fn introduction_of(node: &Node) -> Introduction {
    Introduction {
        id: node.id,
        name: node.name.clone(),
        incarnation: node.incarnation,
        cluster_addr: node.cluster_addr.clone(),
        mqtt_addr: node.mqtt_addr.clone(),
        http_addr: node.http_addr.clone(),
        newest_level: node.newest_level,
        ..Introduction::default()
    }
}
