//! Both machines under random commands, valid and not: what must hold after every one of them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;

use std::collections::{BTreeMap, BTreeSet};

use commands::*;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use zwerm_machine::Control;
use zwerm_machine::records::control_command::Command as Controls;
use zwerm_machine::records::shard_command::Command as Shards;
use zwerm_machine::records::*;
use zwerm_routing::Destination;

/// A step of a shard's history; what refers to earlier steps is resolved while it is played.
#[derive(Debug, Clone)]
enum Step {
    Claim(Claim),
    /// The epoch is one of those given, most often the current one of the client.
    Release(Release, Option<Index>),
    Other(Shards),
}

fn topic() -> impl Strategy<Value = &'static str> {
    select(&["a", "a/b", "a/b", "b", "$c", "", "+", "a/#"][..])
}

fn any_message() -> impl Strategy<Value = Message> {
    let expires = prop_oneof![2 => Just(0), 1 => NOW..NOW + 40_000];
    let payload = select(&["", "1", "2", "3"][..]);
    let qos = prop_oneof![9 => 0u32..3, 1 => Just(3)];
    (topic(), payload, qos, expires).prop_map(|(topic, payload, qos, expires_at_ms)| Message {
        qos,
        expires_at_ms,
        ..message(topic, payload)
    })
}

fn client() -> impl Strategy<Value = String> {
    select(&["client", "client", "other", ""][..]).prop_map(str::to_owned)
}

fn any_claim() -> impl Strategy<Value = Claim> {
    let will = prop::option::of((select(&[0, 3, 20][..]), prop::option::of(0u32..9)));
    let expiry_s = select(&[0, 0, 5, 30, u32::MAX][..]);
    (client(), 1u64..3, 0u64..4, any::<bool>(), expiry_s, will).prop_map(
        |(client_id, node, incarnation, clean_start, expiry_s, will)| {
            let will = will.map(|(delay_s, message_expiry_s)| Will {
                message: Some(message("will", "numbered when played")),
                delay_s,
                message_expiry_s,
            });
            Claim { client_id, node, incarnation, clean_start, expiry_s, will, ..Claim::default() }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let release = (client(), any::<bool>(), prop::option::of(select(&[0, 5, u32::MAX][..])));
    let release = release.prop_map(|(client_id, fire_will, expiry_s)| Release {
        client_id,
        epoch: 0,
        fire_will,
        expiry_s,
        sent: 0,
    });
    let origin = prop::option::weighted(0.3, (0u32..2, 0u64..6));
    let retain = (prop::option::weighted(0.9, any_message()), origin);
    let retain = retain.prop_map(|(message, origin)| Retain {
        message,
        origin: origin.map(|(shard, sequence)| Origin { shard, sequence }),
        ..Retain::default()
    });
    let lost = (1u64..3, 0u64..3).prop_map(|(node, incarnation)| OwnerLost { node, incarnation });
    prop_oneof![
        8 => any_claim().prop_map(Step::Claim),
        6 => (release, prop::option::weighted(0.2, any::<Index>())).prop_map(|(release, epoch)| Step::Release(release, epoch)),
        4 => retain.prop_map(|retain| Step::Other(Shards::Retain(retain))),
        1 => lost.prop_map(|lost| Step::Other(Shards::OwnerLost(lost))),
        3 => Just(Step::Other(Shards::Tick(Tick {}))),
        1 => (0u64..20).prop_map(|upto| Step::Other(Shards::Drained(Drained { upto }))),
    ]
}

/// Steps with the milliseconds that pass before each.
fn history() -> impl Strategy<Value = Vec<(u64, Step)>> {
    prop::collection::vec((select(&[0, 1, 999, 5_000, 20_000][..]), step()), 0..80)
}

/// What an observer of all replies and outboxes knows.
#[derive(Default)]
struct Observer {
    claims: u64,
    last_epoch: u64,
    /// How often each claim took effect, by its number.
    effective: BTreeMap<u64, usize>,
    /// Outbox entries ever seen: sequence and the claim whose will it is.
    fired: BTreeMap<u64, u64>,
    drained: u64,
}

impl Observer {
    fn command(&mut self, shard: &Replica, step: Step) -> Shards {
        match step {
            Step::Claim(mut claim) => {
                self.claims += 1;
                if let Some(message) = claim.will.as_mut().and_then(|will| will.message.as_mut()) {
                    message.payload = self.claims.to_string().into();
                }
                Shards::Claim(claim)
            }
            Step::Release(mut release, other) => {
                let current = shard.owner(&release.client_id).map_or(0, |entry| entry.owner.epoch);
                release.epoch =
                    other.map_or(current, |index| index.index(self.last_epoch as usize + 2) as u64);
                Shards::Release(release)
            }
            Step::Other(command) => command,
        }
    }

    fn see(&mut self, command: &Shards, reply: &shard_reply::Reply, shard: &Replica) {
        if let (Shards::Claim(claim), shard_reply::Reply::Claimed(claimed)) = (command, reply) {
            let owner = shard.owner(&claim.client_id).unwrap().owner;
            assert_eq!(
                (owner.node, owner.incarnation, owner.epoch),
                (claim.node, claim.incarnation, claimed.epoch)
            );
            if claimed.epoch > self.last_epoch {
                assert!(owner.connected);
                *self.effective.entry(self.claims).or_default() += 1;
                self.last_epoch = claimed.epoch;
            }
        }
        for (sequence, entry) in shard.outbox() {
            let message = shard.message(entry.message);
            let token = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            let before = self.fired.insert(sequence, token);
            assert!(before.is_none_or(|before| before == token), "an outbox entry never changes");
        }
        if let Shards::Drained(drained) = command {
            self.drained = self.drained.max(drained.upto);
        }
    }

    fn check(&self, shard: &Replica, at_ms: u64) {
        assert!(self.fired.keys().copied().eq(1..=self.fired.len() as u64), "no gap in the outbox");
        let mut fired: BTreeMap<u64, usize> = BTreeMap::new();
        self.fired.values().for_each(|token| *fired.entry(*token).or_default() += 1);
        // A will that is armed has not fired; none fires more often than its claim took effect.
        for (_, entry) in shard.entries() {
            let armed = entry.will().and_then(|will| will.message.as_ref());
            if let Some(message) = armed {
                *fired.entry(std::str::from_utf8(&message.payload).unwrap().parse().unwrap()).or_default() +=
                    1;
            }
        }
        for (token, times) in fired {
            assert!(times <= self.effective.get(&token).copied().unwrap_or(0), "will of claim {token}");
        }
        let epochs: BTreeSet<u64> = shard.entries().map(|(_, entry)| entry.owner.epoch).collect();
        assert_eq!(epochs.len(), shard.clients(), "no two clients with one epoch");
        assert!(epochs.last().is_none_or(|last| *last <= self.last_epoch));
        assert!(shard.entries().all(|(_, entry)| entry.owner.connected || entry.is_durable()));
        let timers =
            shard.entries().filter_map(|(_, entry)| match (entry.will_fires_ms(), entry.session_ends_ms()) {
                (Some(will), Some(session)) => Some(will.min(session)),
                (will, session) => will.or(session),
            });
        let all = zwerm_wire::TopicFilter::new("#").unwrap();
        let expiries = shard.retained(&all, 0).map(|(_, message)| message.expires_at_ms).filter(|at| *at > 0);
        let hidden = zwerm_wire::TopicFilter::new("$c").unwrap();
        let hidden =
            shard.retained(&hidden, 0).map(|(_, message)| message.expires_at_ms).filter(|at| *at > 0);
        assert_eq!(shard.next_due_ms(), timers.chain(expiries).chain(hidden).min(), "at {at_ms}");
    }
}

proptest! {
    #[test]
    fn a_shard_keeps_its_promises_and_its_replicas_agree(history in history(), restore_at in 0usize..80) {
        let mut shard = Replica::new();
        let mut twin = Replica::new();
        let mut observer = Observer::default();
        let mut at_ms = NOW;
        let mut view = (shard.clone(), shard.encode_snapshot());
        for (number, (passed_ms, step)) in history.into_iter().enumerate() {
            at_ms += passed_ms;
            let command = observer.command(&shard, step);
            let reply = shard.reply(at_ms, command.clone());
            prop_assert_eq!(&twin.reply(at_ms, command.clone()), &reply, "a replica answers the same");
            observer.see(&command, &reply, &shard);
            observer.check(&shard, at_ms);
            if matches!(command, Shards::Tick(_)) {
                prop_assert!(shard.next_due_ms().is_none_or(|due_ms| due_ms > at_ms));
            }
            if number == restore_at {
                twin = shard.restored();
                view = (shard.clone(), shard.encode_snapshot());
            }
            prop_assert_eq!(twin.digest(), shard.digest(), "after {:?}", command);
        }
        prop_assert_eq!(twin.encode_snapshot(), shard.encode_snapshot());
        prop_assert_eq!(view.0.encode_snapshot(), view.1, "a published clone does not change");
        shard.ticks(u64::MAX);
        prop_assert_eq!(shard.next_due_ms(), None);
        prop_assert!(shard.entries().all(|(_, entry)| entry.owner.connected || entry.expiry_s == u32::MAX));
    }

    #[test]
    fn a_control_machine_routes_only_to_living_incarnations_and_its_replicas_agree(
        commands in prop::collection::vec(any_control(), 0..60),
        restore_at in 0usize..60,
    ) {
        let mut control = Control::new();
        let mut twin = Control::new();
        let commands = [Controls::Form(form())].into_iter().chain(commands);
        for (number, command) in commands.enumerate() {
            let generation = control.routes().generation();
            let reply = control.apply(&control_command(NOW, command.clone()));
            prop_assert_eq!(twin.apply(&control_command(NOW, command.clone())), reply);
            if number == restore_at {
                twin = Control::decode_snapshot(&control.encode_snapshot()).unwrap();
            }
            prop_assert_eq!(twin.encode_snapshot(), control.encode_snapshot());
            prop_assert!(control.routes().generation() >= generation);
            for destination in control.routes().destinations() {
                let Destination::Node(node) = destination else { continue };
                prop_assert!(control.node(node).is_some_and(|node| node.up), "routes of a dead node");
            }
            if matches!(command, Controls::Routes(_) | Controls::ShardRoutes(_)) {
                let after = control.digest();
                let again = control.apply(&control_command(NOW, command));
                prop_assert!(matches!(again.reply, Some(control_reply::Reply::Ignored(_))), "routes are applied once");
                prop_assert_eq!(control.digest(), after);
            }
        }
        let restored = Control::decode_snapshot(&control.encode_snapshot()).unwrap();
        prop_assert_eq!(restored.digest(), control.digest());
    }
}

fn any_control() -> impl Strategy<Value = Controls> {
    let filters = select(&["a", "a/b", "+/b", "#", "$share/g/a", "$share/g/#", "a/#/b", ""][..]);
    let set = prop::collection::vec((filters, 0u32..4), 0..5);
    let change = (0u64..5, 1u64..4, 0u64..12, any::<bool>(), set);
    let names = select(&["a", "a/b", "+/b", "$share/g/a", "a/#/b"][..]);
    let set = prop::collection::vec((names, 0u32..3, 0u64..4), 0..4);
    let shard_change = (0u32..3, 0u64..6, 0u64..12, any::<bool>(), set);
    prop_oneof![
        6 => shard_change.prop_map(|(shard, base, version, more, set)| {
            Controls::ShardRoutes(shard_routes(shard, base, version, more, &set))
        }),
        6 => change.prop_map(|(id, incarnation, version, full, set)| {
            Controls::Routes(Routes { incarnation, ..routes(id, version, full, &set) })
        }),
        2 => (0u64..5, 0u64..4).prop_map(|(id, incarnation)| Controls::NodeUp(NodeUp { node: Some(node(id, incarnation)) })),
        1 => (0u64..5, 0u64..4).prop_map(|(id, incarnation)| Controls::NodeDown(NodeDown { id, incarnation })),
        1 => Just(Controls::Form(form())),
        1 => (2u32..4, prop::collection::vec((1u64..4, 0u64..4, 1u32..4), 3..4)).prop_map(|(level, nodes)| {
            let node = |(id, incarnation, newest_level)| NodeLevel { id, incarnation, newest_level };
            Controls::RaiseLevel(RaiseLevel { level, nodes: nodes.into_iter().map(node).collect() })
        }),
        1 => (0u32..9).prop_map(|replicas| Controls::SetReplicas(SetReplicas { replicas })),
    ]
}
