//! Which member of a shared subscription gets a message (MQTT 5.0 section 4.8.2).
//!
//! The publisher's node picks a member of its own or a node that has members; that node picks again
//! among its own. Knows no queues. Start at [`Picker::pick`].

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::{FixedState, RandomState};
use zwerm_cluster::NodeId;
use zwerm_wire::TopicFilter;

use crate::config::SharedStrategy;
use crate::message::Message;
use crate::targets::Group;

/// Groups that one publisher remembers; a full memory is emptied.
const REMEMBERED: usize = 1_024;

/// Who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The member at this index of the group's local members.
    Local(usize),
    /// Some member of that node.
    Node(NodeId),
}

/// A member as the strategies see it: stable while the member stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Member {
    Session(u64),
    /// The n-th member of a node.
    Elsewhere(NodeId, u32),
}

/// Picks for one publisher.
#[derive(Debug)]
pub(crate) struct Picker {
    strategy: SharedStrategy,
    /// The member stuck to.
    sticky: HashMap<TopicFilter, Member, RandomState>,
    /// Whose turn it is: of the whole group, whatever the topic. It begins anywhere, for else the first
    /// member would get the first message of every publisher.
    turns: HashMap<TopicFilter, usize, RandomState>,
}

impl Picker {
    pub(crate) fn new(strategy: SharedStrategy) -> Self {
        Self { strategy, sticky: HashMap::default(), turns: HashMap::default() }
    }

    /// Picks a member; `None` only if the group has none.
    pub(crate) fn pick(&mut self, group: &Group, message: &Message) -> Option<Pick> {
        let local = group.local.len();
        let elsewhere: usize = group.nodes.iter().map(|(_, count)| *count as usize).sum();
        let total = local + elsewhere;
        if total == 0 {
            return None;
        }
        let index = match self.strategy {
            SharedStrategy::Random => chance(total),
            SharedStrategy::RoundRobin => self.next_turn(group) % total,
            SharedStrategy::Local if local > 0 => self.next_turn(group) % local,
            SharedStrategy::Local => chance(total),
            SharedStrategy::Sticky => self.stick(group, chance(total)),
            SharedStrategy::HashClient => highest(group, message.publisher()),
            SharedStrategy::HashTopic => highest(group, message.topic()),
        };
        pick_at(group, index)
    }

    /// Counts a turn of the group.
    fn next_turn(&mut self, group: &Group) -> usize {
        if let Some(turn) = self.turns.get_mut(&group.filter) {
            *turn = turn.wrapping_add(1);
            return *turn;
        }
        if self.turns.len() >= REMEMBERED {
            self.turns.clear();
        }
        let first = chance(usize::MAX);
        self.turns.insert(group.filter.clone(), first);
        first
    }

    /// The index of the member stuck to, or `fresh` from now on.
    fn stick(&mut self, group: &Group, fresh: usize) -> usize {
        let known = self.sticky.get(&group.filter);
        if let Some(index) = known.and_then(|known| members(group).position(|member| member == *known)) {
            return index;
        }
        if self.sticky.len() >= REMEMBERED {
            self.sticky.clear();
        }
        if let Some(member) = members(group).nth(fresh) {
            self.sticky.insert(group.filter.clone(), member);
        }
        fresh
    }
}

fn chance(among: usize) -> usize {
    usize::try_from(rand::random::<u32>()).unwrap_or_default() % among
}

/// All members: local ones first, then node by node.
fn members(group: &Group) -> impl Iterator<Item = Member> {
    let local = group.local.iter().map(|copy| Member::Session(copy.subscriber.key));
    local.chain(
        group.nodes.iter().flat_map(|&(node, count)| (0..count).map(move |n| Member::Elsewhere(node, n))),
    )
}

/// Rendezvous hashing: a member more or less moves only what it gains or loses.
fn highest(group: &Group, what: &impl Hash) -> usize {
    let scores = members(group).map(|member| FixedState::default().hash_one((member, what)));
    scores.enumerate().max_by_key(|(_, score)| *score).map_or(0, |(index, _)| index)
}

fn pick_at(group: &Group, index: usize) -> Option<Pick> {
    match members(group).nth(index)? {
        Member::Session(_) => Some(Pick::Local(index)),
        Member::Elsewhere(node, _) => Some(Pick::Node(node)),
    }
}
