//! Commands of both machines in one line each, and what their replies say. Knows no rules.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

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
pub(crate) fn durable(token: u64) -> Claim {
    Claim { client_id: "client".into(), node: 1, incarnation: 1, token, expiry_s: 100, ..Claim::default() }
}

pub(crate) fn transient(token: u64) -> Claim {
    Claim { expiry_s: 0, clean_start: true, ..durable(token) }
}

pub(crate) fn with_will(claim: Claim, payload: &str, delay_s: u32) -> Claim {
    Claim { will: Some(will(payload, delay_s)), ..claim }
}

/// The client vanished: its will is to fire.
pub(crate) fn vanished(epoch: u64) -> Release {
    Release { client_id: "client".into(), epoch, fire_will: true, expiry_s: None, sent: 0 }
}

/// What the tests ask of a shard.
pub(crate) trait Drive {
    fn reply(&mut self, at_ms: u64, command: shard_command::Command) -> shard_reply::Reply;

    fn claims(&mut self, claim: &Claim) -> Claimed {
        self.claims_at(NOW, claim)
    }

    fn claims_at(&mut self, at_ms: u64, claim: &Claim) -> Claimed {
        match self.reply(at_ms, shard_command::Command::Claim(claim.clone())) {
            shard_reply::Reply::Claimed(claimed) => claimed,
            other => panic!("not claimed: {other:?}"),
        }
    }

    fn retains(&mut self, message: Message) -> Retained {
        let retain = Retain { message: Some(message), ..Retain::default() };
        match self.reply(NOW, shard_command::Command::Retain(retain)) {
            shard_reply::Reply::Retained(retained) => retained,
            other => panic!("not retained: {other:?}"),
        }
    }

    /// Applies what must succeed.
    fn does(&mut self, at_ms: u64, command: shard_command::Command) {
        assert_eq!(self.reply(at_ms, command), shard_reply::Reply::Applied(Applied {}));
    }

    fn ticks(&mut self, at_ms: u64) {
        self.does(at_ms, shard_command::Command::Tick(Tick {}));
    }

    /// Applies what must be ignored and tells why.
    fn refuses(&mut self, command: shard_command::Command) -> Refusal;

    /// Payloads in the outbox, in order.
    fn fired(&self) -> Vec<String>;

    /// Payloads of the retained messages that a filter finds.
    fn found(&self, filter: &str, now_ms: u64) -> Vec<String>;
}

impl Drive for Shard {
    fn reply(&mut self, at_ms: u64, command: shard_command::Command) -> shard_reply::Reply {
        self.apply(&shard_command(at_ms, command)).reply.unwrap()
    }

    fn refuses(&mut self, command: shard_command::Command) -> Refusal {
        let before = self.digest();
        match self.reply(NOW, command) {
            shard_reply::Reply::Ignored(ignored) => {
                assert_eq!(self.digest(), before, "an ignored command changes nothing");
                ignored.reason()
            }
            other => panic!("not ignored: {other:?}"),
        }
    }

    fn fired(&self) -> Vec<String> {
        self.outbox().map(|(_, message)| text(message)).collect()
    }

    fn found(&self, filter: &str, now_ms: u64) -> Vec<String> {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        self.retained(&filter, now_ms).map(|(_, message)| text(message)).collect()
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

pub(crate) fn node(id: u64, incarnation: u64) -> Node {
    let name = format!("node-{id}");
    let [cluster_addr, mqtt_addr, http_addr] = [7946, 1883, 8080].map(|port| format!("{name}:{port}"));
    Node { id, incarnation, name, cluster_addr, mqtt_addr, http_addr, up: true, since_ms: 0 }
}

/// Three nodes in incarnation 1, two shards.
pub(crate) fn form() -> Form {
    let voters = vec![1, 2, 3];
    Form {
        cluster_id: "cluster".into(),
        nodes: [1, 2, 3].map(|id| node(id, 1)).to_vec(),
        shards: 2,
        placement: [1, 0].map(|shard| Placement { shard, voters: voters.clone() }).to_vec(),
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
    let set =
        set.iter().map(|&(filter, members, since)| ShardRoute { filter: filter.into(), members, since });
    ShardRoutes { shard, base, version, more, set: set.collect() }
}

pub(crate) fn control_command(at_ms: u64, command: control_command::Command) -> ControlCommand {
    ControlCommand { command: Some(command), at_ms }
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
