//! Who belongs to the cluster, and who holds which shard: the rules of joining, leaving and moving.
//!
//! Decides nothing by itself: whoever leads the control group proposes, and every command says what it rests on, so
//! that of two that were decided at the same time one is ignored. Start at [`Control::join`] and
//! [`Control::begin_move`].

use std::collections::BTreeSet;
use std::sync::Arc;

use zwerm_routing::Destination;

use crate::control::{Cluster, Control, Member, check_node, check_voters};
use crate::limits::{MAX_NODES, MAX_REMOVED};
use crate::records::{Join, Leave, Move, Moved, Node, Placement, Refusal, Removed};

impl Control {
    /// An empty node becomes a member. Whoever had its name and is down is replaced by it.
    pub(crate) fn join(&mut self, join: &Join, now_ms: u64) -> Result<(), Refusal> {
        let node = join.node.as_ref().ok_or(Refusal::Invalid)?;
        check_node(node)?;
        if self.is_removed(node.id) {
            return Err(Refusal::Removed);
        }
        if node.id == 0 {
            return Err(Refusal::Invalid);
        }
        self.check_level(node)?;
        if self.nodes.contains_key(&node.id) {
            return Ok(());
        }
        if self.nodes.len() >= MAX_NODES {
            return Err(Refusal::Limit);
        }
        if let Some(replaced) = self.named(&node.name) {
            if replaced.up {
                return Err(Refusal::NameTaken);
            }
            let id = replaced.id;
            self.member_mut(id)?.give_up();
        }
        let node = Node { incarnation: 0, up: false, since_ms: now_ms, leaving: false, ..node.clone() };
        self.nodes.insert(node.id, Arc::new(Member::new(node)));
        Ok(())
    }

    /// A member is to give up what it holds.
    pub(crate) fn leave(&mut self, leave: &Leave) -> Result<(), Refusal> {
        let member = self.nodes.get(&leave.id).ok_or_else(|| self.no_member(leave.id))?;
        if leave.dead && member.node.up {
            return Err(Refusal::NodeUp);
        }
        if !self.nodes().any(|node| node.id != leave.id && !node.leaving) {
            return Err(Refusal::LastNode);
        }
        let member = self.member_mut(leave.id)?;
        if leave.dead {
            member.give_up();
        } else {
            member.node.leaving = true;
        }
        Ok(())
    }

    /// A member that has given up everything is none any more.
    pub(crate) fn remove(&mut self, removed: &Removed) -> Result<(), Refusal> {
        let id = removed.id;
        let Some(member) = self.nodes.get(&id) else {
            return if self.is_removed(id) { Ok(()) } else { Err(Refusal::UnknownNode) };
        };
        if member.node.up {
            return Err(Refusal::NodeUp);
        }
        if !member.node.leaving || self.holds(id) {
            return Err(Refusal::Holds);
        }
        self.nodes.remove(&id);
        self.routes.remove(Destination::Node(id));
        self.removed.push_back(id);
        if self.removed.len() > MAX_REMOVED {
            self.removed.pop_front();
        }
        Ok(())
    }

    /// Other nodes are to hold a shard, or the same in another order.
    pub(crate) fn begin_move(&mut self, to: &Move) -> Result<(), Refusal> {
        let ids: BTreeSet<u64> = self.nodes.keys().copied().collect();
        if !check_voters(&to.next, &ids) {
            return Err(Refusal::Invalid);
        }
        let is_given = |placement: &Placement, id: &u64| !placement.voters.contains(id);
        let leaves = |id: &u64| self.node(*id).is_some_and(|node| node.leaving);
        let placement = self.placement_of(to.shard).ok_or(Refusal::Invalid)?;
        if to.next.iter().any(|id| is_given(placement, id) && leaves(id)) {
            return Err(Refusal::Leaving);
        }
        let placement = self.change_placement(to.shard, to.base)?;
        if placement.next.is_empty() && same_nodes(&placement.voters, &to.next) {
            placement.voters.clone_from(&to.next);
        } else {
            placement.next.clone_from(&to.next);
        }
        Ok(())
    }

    /// The nodes that a shard moved to hold it.
    pub(crate) fn end_move(&mut self, moved: &Moved) -> Result<(), Refusal> {
        if self.placement_of(moved.shard).is_none_or(|placement| placement.next.is_empty()) {
            return Err(Refusal::StaleVersion);
        }
        let placement = self.change_placement(moved.shard, moved.base)?;
        let next = std::mem::take(&mut placement.next);
        placement.moved |= !same_nodes(&placement.voters, &next);
        placement.voters = next;
        Ok(())
    }

    /// The placement of a shard, to be changed by what was decided upon its version `base`.
    fn change_placement(&mut self, shard: u32, base: u64) -> Result<&mut Placement, Refusal> {
        let cluster: &mut Cluster = self.cluster.as_mut().map(Arc::make_mut).ok_or(Refusal::NotFormed)?;
        let at = usize::try_from(shard).map_err(|_| Refusal::Invalid)?;
        let placement = cluster.placement.get_mut(at).ok_or(Refusal::Invalid)?;
        if placement.version != base {
            return Err(Refusal::StaleVersion);
        }
        placement.version += 1;
        Ok(placement)
    }

    fn member_mut(&mut self, id: u64) -> Result<&mut Member, Refusal> {
        self.nodes.get_mut(&id).map(Arc::make_mut).ok_or(Refusal::UnknownNode)
    }

    /// Why a node that is no member is none.
    pub(crate) fn no_member(&self, id: u64) -> Refusal {
        if self.is_removed(id) { Refusal::Removed } else { Refusal::UnknownNode }
    }

    /// Who has a name; a node that is being removed has lost it, and an empty one is nobody's.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Node> {
        let has_it = |member: &&Arc<Member>| member.node.name == name && !member.removing;
        self.nodes.values().filter(|_| !name.is_empty()).find(has_it).map(|member| &member.node)
    }

    /// Whether a node was removed, as far as that is remembered.
    #[must_use]
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// Nodes that were removed, in that order; the oldest are forgotten.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// Whether a member never comes up again: it is removed as dead.
    #[must_use]
    pub fn is_given_up(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|member| member.removing)
    }

    /// Who holds a shard; `None` if there is no such shard.
    #[must_use]
    pub fn placement_of(&self, shard: u32) -> Option<&Placement> {
        self.placement().get(usize::try_from(shard).ok()?)
    }

    /// Whether a node holds a shard, or is to hold one.
    #[must_use]
    pub fn holds(&self, id: u64) -> bool {
        self.placement().iter().any(|placement| is_held_by(placement, id))
    }
}

impl Member {
    /// It leaves and never comes up again.
    fn give_up(&mut self) {
        self.node.leaving = true;
        self.removing = true;
    }
}

/// Whether a node holds a shard, or is to hold it.
#[must_use]
pub fn is_held_by(placement: &Placement, id: u64) -> bool {
    placement.voters.contains(&id) || placement.next.contains(&id)
}

/// Both are without repetition.
fn same_nodes(one: &[u64], other: &[u64]) -> bool {
    one.len() == other.len() && one.iter().all(|id| other.contains(id))
}
