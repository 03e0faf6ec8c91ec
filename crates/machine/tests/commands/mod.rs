//! Commands of both machines in one line each, and what their replies say. Knows no rules.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use bytes::Bytes;
use zwerm_machine::records::*;
use zwerm_machine::{Control, Shard};
use zwerm_wire::TopicFilter;

/// Proposed at this time unless a test says otherwise.
pub(crate) const NOW: u64 = 1_000_000;

pub(crate) fn shard_command(at_ms: u64, command: shard_command::Command) -> ShardCommand {
    ShardCommand { command: Some(command), at_ms }
}

pub(crate) fn message(topic: &str, payload: &str) -> Message {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Message { topic: topic.into(), payload, qos: 1, publisher: "publisher".into(), ..Message::default() }
}

pub(crate) fn will(payload: &str, delay_s: u32) -> Will {
    Will { message: Some(message("will", payload)), delay_s, message_expiry_s: None }
}

/// A durable claim of "client" by node 1 without a will.
pub(crate) fn durable() -> Claim {
    Claim { client_id: "client".into(), node: 1, incarnation: 1, expiry_s: 100, ..Claim::default() }
}

pub(crate) fn transient() -> Claim {
    Claim { expiry_s: 0, clean_start: true, ..durable() }
}

pub(crate) fn with_will(claim: Claim, payload: &str, delay_s: u32) -> Claim {
    Claim { will: Some(will(payload, delay_s)), ..claim }
}

/// The client vanished: its will is to fire.
pub(crate) fn vanished(epoch: u64) -> Release {
    Release { client_id: "client".into(), epoch, fire_will: true, expiry_s: None, sent: 0 }
}

/// A connection, as commands about exclusive subscriptions name it.
pub(crate) fn holder(client_id: &str, epoch: u64) -> Option<Holder> {
    Some(Holder { client_id: client_id.into(), epoch })
}

/// A shard with the messages that are kept outside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    pub(crate) shard: Shard,
    pub(crate) messages: BTreeMap<u64, Message>,
    /// Whoever was touched since it was looked at.
    pub(crate) touched: BTreeSet<String>,
}

impl Deref for Replica {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shard
    }
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Applies a command and does what it leaves to be done.
    pub(crate) fn reply(&mut self, at_ms: u64, command: shard_command::Command) -> shard_reply::Reply {
        let reply = self.shard.apply(&shard_command(at_ms, command)).reply.unwrap();
        self.take_effects();
        reply
    }

    pub(crate) fn take_effects(&mut self) {
        let effects = self.shard.take_effects();
        for (number, message) in effects.stored {
            assert!(self.shard.names_message(number), "what is stored is named");
            assert!(self.messages.insert(number, message).is_none(), "a number is given once");
        }
        for number in effects.forgotten {
            assert!(!self.shard.names_message(number), "what is forgotten is named by nobody");
            self.messages.remove(&number);
        }
        self.touched.extend(effects.touched.iter().map(ToString::to_string));
    }

    /// The same with the state from its snapshot, as after a restart.
    pub(crate) fn restored(&self) -> Self {
        let shard = Shard::decode_snapshot(&self.shard.encode_snapshot()).unwrap();
        assert_eq!(shard.encode_snapshot(), self.shard.encode_snapshot());
        assert_eq!(shard.next_due_ms(), self.shard.next_due_ms());
        Self { shard, messages: self.messages.clone(), touched: BTreeSet::new() }
    }

    pub(crate) fn claims(&mut self, claim: &Claim) -> Claimed {
        self.claims_at(NOW, claim)
    }

    pub(crate) fn claims_at(&mut self, at_ms: u64, claim: &Claim) -> Claimed {
        match self.reply(at_ms, shard_command::Command::Claim(claim.clone())) {
            shard_reply::Reply::Claimed(claimed) => claimed,
            other => panic!("not claimed: {other:?}"),
        }
    }

    pub(crate) fn retains(&mut self, message: Message) -> Retained {
        let retain = Retain { message: Some(message), ..Retain::default() };
        match self.reply(NOW, shard_command::Command::Retain(retain)) {
            shard_reply::Reply::Retained(retained) => retained,
            other => panic!("not retained: {other:?}"),
        }
    }

    /// Applies what must succeed.
    pub(crate) fn does(&mut self, at_ms: u64, command: shard_command::Command) {
        assert_eq!(self.reply(at_ms, command), shard_reply::Reply::Applied(Applied {}));
    }

    pub(crate) fn ticks(&mut self, at_ms: u64) {
        self.does(at_ms, shard_command::Command::Tick(Tick {}));
    }

    /// Applies what must be ignored and tells why.
    pub(crate) fn refuses(&mut self, command: shard_command::Command) -> Refusal {
        let before = self.digest();
        match self.reply(NOW, command) {
            shard_reply::Reply::Ignored(ignored) => {
                assert_eq!(self.digest(), before, "an ignored command changes nothing");
                ignored.reason()
            }
            other => panic!("not ignored: {other:?}"),
        }
    }

    /// A message that the shard names.
    pub(crate) fn message(&self, number: u64) -> &Message {
        self.messages.get(&number).unwrap_or_else(|| panic!("message {number} is not kept"))
    }

    /// Payloads in the outbox, in order.
    pub(crate) fn fired(&self) -> Vec<String> {
        self.outbox().map(|(_, entry)| text(self.message(entry.message))).collect()
    }

    /// Payloads of the retained messages that a filter finds.
    pub(crate) fn found(&self, filter: &str, now_ms: u64) -> Vec<String> {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        self.retained(&filter, now_ms).map(|(_, message)| text(message)).collect()
    }
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

pub(crate) fn node(id: u64, incarnation: u64) -> Node {
    let name = format!("node-{id}");
    let [cluster_addr, mqtt_addr, http_addr] = [7946, 1883, 8080].map(|port| format!("{name}:{port}"));
    Node { id, incarnation, name, cluster_addr, mqtt_addr, http_addr, up: true, ..Node::default() }
}

/// Three nodes in incarnation 1, two shards.
pub(crate) fn form() -> Form {
    let voters = vec![1, 2, 3];
    Form {
        cluster_id: "cluster".into(),
        nodes: [1, 2, 3].map(|id| node(id, 1)).to_vec(),
        shards: 2,
        placement: [1, 0]
            .map(|shard| Placement { shard, voters: voters.clone(), ..Placement::default() })
            .to_vec(),
        ..Form::default()
    }
}

/// Routes of incarnation 1.
pub(crate) fn routes(node: u64, version: u64, full: bool, set: &[(&str, u32)]) -> Routes {
    let set = set.iter().map(|(filter, members)| Route {
        filter: (*filter).into(),
        members: *members,
        only_qos0: false,
    });
    Routes { node, incarnation: 1, version, full, set: set.collect() }
}

/// Routes of a shard: filter, members and since.
pub(crate) fn shard_routes(
    shard: u32,
    base: u64,
    version: u64,
    more: bool,
    set: &[(&str, u32, u64)],
) -> ShardRoutes {
    let set = set.iter().map(|&(filter, members, since)| ShardRoute {
        filter: filter.into(),
        members,
        since,
        online: 0,
    });
    ShardRoutes { shard, base, version, more, set: set.collect() }
}

pub(crate) fn control_command(at_ms: u64, command: control_command::Command) -> ControlCommand {
    ControlCommand { at_ms, ..ControlCommand::from(command) }
}

/// Applies a control command and tells why it was ignored, if it was.
pub(crate) fn apply(control: &mut Control, command: control_command::Command) -> Result<(), Refusal> {
    let before = control.digest();
    match control.apply(&control_command(NOW, command)).reply.unwrap() {
        control_reply::Reply::Applied(Applied {}) => Ok(()),
        control_reply::Reply::Ignored(ignored) => {
            assert_eq!(control.digest(), before, "an ignored command changes nothing");
            Err(ignored.reason())
        }
    }
}
