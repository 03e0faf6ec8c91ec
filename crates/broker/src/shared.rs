//! Which member of a shared subscription gets a message (MQTT 5.0 section 4.8.2).
//!
//! The publisher's node picks a member of its own, a node that has members, or a shard that has durable ones;
//! that one picks again among its own. Durable members that are away get a message only when nobody else is
//! there. Knows no queues. Start at [`Picker::pick`].

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::{FixedState, RandomState};
use smallvec::SmallVec;
use zwerm_cluster::NodeId;
use zwerm_cluster::forward::Origin;
use zwerm_routing::Destination;
use zwerm_wire::{QoS, TopicFilter};

use crate::config::SharedStrategy;
use crate::message::Message;
use crate::targets::{Group, wants};

/// Groups that one publisher remembers; a full memory is emptied.
const REMEMBERED: usize = 1_024;

/// Who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// The member at this index of the group's local members.
    Local(usize),
    /// Some member of that node or shard.
    Elsewhere(Destination),
}

/// A member as the strategies see it: stable while the member stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Member {
    Session(u64),
    /// The n-th member of a node or shard.
    Elsewhere(Destination, u32),
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

    /// Picks a member; `None` if the group has none on a node that `is_up`, and none that is durable.
    pub(crate) fn pick(
        &mut self,
        group: &Group,
        message: &Message,
        is_up: impl Fn(NodeId) -> bool,
    ) -> Option<Pick> {
        let members = Members::of(group, message.qos(), is_up);
        let (local, total) = (members.local.len(), members.len());
        if total == 0 {
            return None;
        }
        // Whoever publishes it again must pick the same one, who knows it.
        if let Some(Origin { shard, sequence }) = message.origin() {
            return members.get(members.highest(&(shard, sequence)));
        }
        let index = match self.strategy {
            SharedStrategy::Random => chance(total),
            SharedStrategy::RoundRobin => self.next_turn(group) % total,
            SharedStrategy::Local if local > 0 => self.next_turn(group) % local,
            SharedStrategy::Local => chance(total),
            SharedStrategy::Sticky => self.stick(group, &members),
            SharedStrategy::HashClient => members.highest(message.publisher()),
            SharedStrategy::HashTopic => members.highest(message.topic()),
        };
        members.get(index)
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

    /// The index of the member stuck to, or another from now on.
    fn stick(&mut self, group: &Group, members: &Members<'_>) -> usize {
        let known = self.sticky.get(&group.filter);
        if let Some(index) = known.and_then(|known| members.iter().position(|member| member == *known)) {
            return index;
        }
        if self.sticky.len() >= REMEMBERED {
            self.sticky.clear();
        }
        let fresh = chance(members.len());
        if let Some(member) = members.iter().nth(fresh) {
            self.sticky.insert(group.filter.clone(), member);
        }
        fresh
    }
}

fn chance(among: usize) -> usize {
    usize::try_from(rand::random::<u32>()).unwrap_or_default() % among
}

/// The members of a group that may get a message: local ones first, then destination by destination.
#[derive(Debug)]
struct Members<'a> {
    group: &'a Group,
    /// Indices of local members.
    local: SmallVec<[usize; 8]>,
    elsewhere: SmallVec<[(Destination, u32); 8]>,
}

impl<'a> Members<'a> {
    /// Of those that are there; of those that are away if nobody is.
    fn of(group: &'a Group, qos: QoS, is_up: impl Fn(NodeId) -> bool) -> Self {
        let local = group.local.iter().enumerate();
        let local = local.filter(|(_, copy)| copy.qos_of(qos).is_some()).map(|(index, _)| index).collect();
        let mut members = Self { group, local, elsewhere: SmallVec::new() };
        members.elsewhere.extend(group.elsewhere.iter().filter_map(|&(destination, interest)| {
            let there = match destination {
                Destination::Node(node) if wants(interest, qos) && is_up(node) => interest.members,
                Destination::Shard(_) if qos != QoS::AtMostOnce => interest.online,
                Destination::Node(_) | Destination::Shard(_) => 0,
            };
            (there > 0).then_some((destination, there))
        }));
        if members.len() == 0 && qos != QoS::AtMostOnce {
            let away = group.elsewhere.iter().filter(|(at, _)| matches!(at, Destination::Shard(_)));
            members.elsewhere.extend(away.map(|&(destination, interest)| (destination, interest.members)));
        }
        members
    }

    fn len(&self) -> usize {
        self.local.len() + self.elsewhere.iter().map(|(_, count)| *count as usize).sum::<usize>()
    }

    fn iter(&self) -> impl Iterator<Item = Member> {
        let local = self.local.iter().filter_map(|index| self.group.local.get(*index));
        let local = local.map(|copy| Member::Session(copy.subscriber.key));
        let elsewhere = self.elsewhere.iter();
        local.chain(elsewhere.flat_map(|&(at, count)| (0..count).map(move |n| Member::Elsewhere(at, n))))
    }

    /// Rendezvous hashing: a member more or less moves only what it gains or loses.
    fn highest(&self, what: &impl Hash) -> usize {
        let scores = self.iter().map(|member| FixedState::default().hash_one((member, what)));
        scores.enumerate().max_by_key(|(_, score)| *score).map_or(0, |(index, _)| index)
    }

    fn get(&self, index: usize) -> Option<Pick> {
        match self.iter().nth(index)? {
            Member::Session(_) => self.local.get(index).copied().map(Pick::Local),
            Member::Elsewhere(destination, _) => Some(Pick::Elsewhere(destination)),
        }
    }
}
