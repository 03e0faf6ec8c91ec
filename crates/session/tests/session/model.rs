//! Random steps against a model: no panic, S2 (an identifier is free or in one table), S3 (no
//! acknowledgement before `Accepted`, and in a durable session no PUBREL and PUBCOMP before the commit), and the
//! bounds of the window and the receive maximum.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::prelude::*;
use zwerm_session::{Attached, Input, Limits, Output, Stage as Acknowledged};
use zwerm_wire::{Ack, Packet, PacketId, Protocol, Publish, QoS, ReasonCode};

use crate::stage::{Stage, ack, id, most, publish, subscribe, success, topic, unsubscribe};

const RECEIVE_MAXIMUM: u16 = 5;
const MAX_INFLIGHT: u16 = 4;

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish {
        qos: QoS,
        packet_id: u16,
        dup: bool,
    },
    Aliased {
        alias: u16,
        named: bool,
    },
    /// The right answer to the nth delivery.
    Answer {
        nth: usize,
        reason: ReasonCode,
    },
    /// PUBREL for the nth message that awaits it.
    Release {
        nth: usize,
    },
    /// Any answer to anything.
    Stray {
        kind: u8,
        packet_id: u16,
        reason: ReasonCode,
    },
    Subscribe(u16),
    Unsubscribe(u16),
    Ping,
    Accept {
        nth: usize,
        reason: ReasonCode,
    },
    /// The commit of the nth PUBREC that awaits it.
    CommitReceived {
        nth: usize,
    },
    /// The commit of the nth PUBREL that awaits it.
    CommitComplete {
        nth: usize,
        known: bool,
    },
    AnswerSubscribe(u16),
    AnswerUnsubscribe(u16),
    Deliver(QoS),
    Wait(u64),
    Kick,
}

fn step() -> impl Strategy<Value = Step> {
    let ids = 1..=8_u16;
    let qos = prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let reason = prop::sample::select(vec![
        ReasonCode::Success,
        ReasonCode::Success,
        ReasonCode::NoMatchingSubscribers,
        ReasonCode::NotAuthorized,
        ReasonCode::QuotaExceeded,
    ]);
    prop_oneof![
        12 => (qos.clone(), ids.clone(), any::<bool>())
            .prop_map(|(qos, packet_id, dup)| Step::Publish { qos, packet_id, dup }),
        1 => (0..=2_u16, prop::bool::weighted(0.9)).prop_map(|(alias, named)| Step::Aliased { alias, named }),
        12 => (0..4_usize, reason.clone()).prop_map(|(nth, reason)| Step::Answer { nth, reason }),
        6 => (0..4_usize).prop_map(|nth| Step::Release { nth }),
        1 => (0..4_u8, ids.clone(), reason.clone())
            .prop_map(|(kind, packet_id, reason)| Step::Stray { kind, packet_id, reason }),
        1 => ids.clone().prop_map(Step::Subscribe),
        1 => ids.clone().prop_map(Step::Unsubscribe),
        1 => Just(Step::Ping),
        8 => (0..3_usize).prop_map(|nth| Step::CommitReceived { nth }),
        4 => (0..3_usize, any::<bool>()).prop_map(|(nth, known)| Step::CommitComplete { nth, known }),
        18 => (0..3_usize, reason).prop_map(|(nth, reason)| Step::Accept { nth, reason }),
        2 => ids.clone().prop_map(Step::AnswerSubscribe),
        2 => ids.prop_map(Step::AnswerUnsubscribe),
        12 => qos.prop_map(Step::Deliver),
        1 => (0..40_u64).prop_map(Step::Wait),
        1 => prop::bool::weighted(0.05).prop_map(|kick| if kick { Step::Kick } else { Step::Ping }),
    ]
}

/// What the outside knows: which messages it was given and has not answered, which QoS 2 messages await
/// their PUBREL or its commit, and what is awaited for each delivery.
struct Model {
    v5: bool,
    durable: bool,
    handed_out: Vec<(PacketId, QoS)>,
    unreleased: BTreeSet<PacketId>,
    /// Those of `unreleased` that the receive maximum of this connection does not count.
    resumed: BTreeSet<PacketId>,
    completing: BTreeSet<PacketId>,
    delivered: BTreeMap<PacketId, Awaited>,
    /// Deliveries of the broker so far.
    position: u16,
    /// What the last answer of the client has to make the session say to the broker.
    owed: Option<(PacketId, Acknowledged)>,
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Ack,
    Received,
    /// PUBREC came to a durable session: the broker's word.
    Commit,
    Complete,
}

impl Awaited {
    /// The client's packet that is awaited, or, while it is the broker's turn, the one a client may repeat.
    fn kind(self) -> u8 {
        match self {
            Self::Ack => 0,
            Self::Received | Self::Commit => 1,
            Self::Complete => 2,
        }
    }
}

/// What the broker answered in a step.
#[derive(Debug, Default, Clone, Copy)]
struct Answered {
    accepted: Option<PacketId>,
    completed: Option<PacketId>,
}

impl Model {
    fn new(protocol: Protocol, attached: &Attached) -> Self {
        let received: BTreeSet<_> = attached.received.iter().copied().collect();
        let released = attached.released.iter().map(|packet_id| (*packet_id, Awaited::Complete));
        Self {
            v5: protocol == Protocol::V5,
            durable: attached.durable,
            handed_out: Vec::new(),
            unreleased: received.clone(),
            resumed: received,
            completing: BTreeSet::new(),
            delivered: released.collect(),
            position: 0,
            owed: None,
            ended: false,
        }
    }

    /// Holds the outputs of one step against what may come.
    fn check(&mut self, answered: Answered, outputs: Vec<Output>) {
        assert!(outputs.len() <= 2, "{outputs:?}");
        for output in outputs {
            assert!(!self.ended, "{output:?} after the end");
            match output {
                Output::Publish(publish) => self.handed(&publish),
                Output::Acknowledged { packet_id, stage } => {
                    assert_eq!(self.owed.take(), Some((packet_id, stage)));
                }
                Output::Complete(packet_id) => {
                    let known = self.durable && self.unreleased.remove(&packet_id);
                    assert!(known && self.completing.insert(packet_id), "{packet_id} is not to be completed");
                }
                Output::Send(packet) => self.sent(answered, packet),
                Output::Close => self.ended = true,
                _ => {}
            }
        }
        assert!(self.ended || self.owed.is_none(), "{:?} was not said", self.owed);
        self.resumed.retain(|packet_id| self.unreleased.contains(packet_id));
        let under_way = self.handed_out.len() + self.unreleased.len() - self.resumed.len();
        assert!(self.ended || !self.v5 || under_way <= usize::from(RECEIVE_MAXIMUM), "{under_way} under way");
    }

    fn sent(&mut self, answered: Answered, packet: Packet) {
        match packet {
            Packet::PubAck(ack) => assert!(may_acknowledge(&ack, answered), "S3: {ack:?}"),
            Packet::PubRec(ack) => {
                let again = self.unreleased.contains(&ack.packet_id);
                assert!(again || may_acknowledge(&ack, answered), "S3: {ack:?}");
                if answered.accepted == Some(ack.packet_id) && !ack.reason.is_error() {
                    self.unreleased.insert(ack.packet_id);
                }
            }
            Packet::PubRel(ack) => match self.delivered.get(&ack.packet_id) {
                Some(awaited) => assert_eq!(*awaited, Awaited::Complete, "S3: {ack:?}"),
                None => assert!(!self.durable, "{ack:?} for a message that may be sent again"),
            },
            Packet::PubComp(ack) if answered.completed == Some(ack.packet_id) => {}
            Packet::PubComp(ack) => {
                let known = self.unreleased.contains(&ack.packet_id);
                assert!(!self.completing.contains(&ack.packet_id), "S3: {ack:?}");
                assert!(!(known && self.durable), "S3: {ack:?}");
                assert_eq!(known || !self.v5, ack.reason == ReasonCode::Success, "{ack:?}");
                self.unreleased.remove(&ack.packet_id);
            }
            _ => {}
        }
    }

    fn handed(&mut self, publish: &Publish) {
        assert!(publish.topic.is_some() && publish.topic_alias.is_none());
        if let Some(packet_id) = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce) {
            let taken = self.handed_out.iter().any(|(other, _)| *other == packet_id);
            let known = self.unreleased.contains(&packet_id) || self.completing.contains(&packet_id);
            assert!(!taken && !known, "S2: {packet_id} twice at once");
            self.handed_out.push((packet_id, publish.qos));
        }
    }

    /// What an answer of the client does to the deliveries of a session that it does not end.
    fn client_answers(&mut self, kind: u8, ack: &Ack) {
        let awaited = self.delivered.get(&ack.packet_id).copied();
        let stage = match (kind, awaited) {
            (0, Some(Awaited::Ack)) | (2, Some(Awaited::Complete)) => Acknowledged::Done,
            (1, Some(Awaited::Received)) if ack.reason.is_error() => Acknowledged::Done,
            (1, Some(Awaited::Received)) => Acknowledged::Received,
            _ => return,
        };
        if stage == Acknowledged::Done {
            self.delivered.remove(&ack.packet_id);
        } else {
            let next = if self.durable { Awaited::Commit } else { Awaited::Complete };
            self.delivered.insert(ack.packet_id, next);
        }
        self.owed = self.durable.then_some((ack.packet_id, stage));
    }

    /// The nth PUBREC whose commit is awaited, which is now committed.
    fn commit_received(&mut self, nth: usize) -> Option<PacketId> {
        let mut waiting = self.delivered.iter_mut().filter(|(_, awaited)| **awaited == Awaited::Commit);
        let (packet_id, awaited) = waiting.nth(nth)?;
        *awaited = Awaited::Complete;
        Some(*packet_id)
    }
}

fn may_acknowledge(ack: &Ack, answered: Answered) -> bool {
    answered.accepted == Some(ack.packet_id) || ack.reason == ReasonCode::PacketIdentifierInUse
}

fn take(stage: &mut Stage, model: &mut Model, step: Step) {
    let mut answered = Answered::default();
    let outputs = match step {
        Step::Publish { qos, packet_id, dup } => {
            let packet_id = if qos == QoS::AtMostOnce { 0 } else { packet_id };
            stage.packet(Packet::Publish(Publish { dup, ..publish(qos, packet_id) }))
        }
        Step::Aliased { alias, named } => {
            let topic_alias = NonZeroU16::new(alias).filter(|_| model.v5);
            let topic = (named || !model.v5).then(|| topic("t"));
            stage.packet(Packet::Publish(Publish { topic, topic_alias, ..publish(QoS::AtMostOnce, 0) }))
        }
        Step::Answer { nth, reason } => match model.delivered.iter().nth(nth) {
            Some((packet_id, awaited)) => {
                let reason = if model.v5 { reason } else { ReasonCode::Success };
                answer(stage, model, awaited.kind(), ack(packet_id.get(), reason))
            }
            None => Vec::new(),
        },
        Step::Release { nth } => match model.unreleased.iter().nth(nth) {
            Some(packet_id) => stage.packet(Packet::PubRel(success(packet_id.get()))),
            None => Vec::new(),
        },
        Step::Stray { kind, packet_id, reason } => answer(stage, model, kind, ack(packet_id, reason)),
        Step::Subscribe(packet_id) => {
            stage.packet(Packet::Subscribe(subscribe(packet_id, &[("a", Default::default())])))
        }
        Step::Unsubscribe(packet_id) => stage.packet(Packet::Unsubscribe(unsubscribe(packet_id, "a"))),
        Step::Ping => stage.packet(Packet::PingReq),
        Step::Accept { nth, reason } => {
            // mostly a message that is waiting, now and then one that is not
            let waiting = (nth < model.handed_out.len()).then(|| model.handed_out.remove(nth).0);
            answered.accepted = waiting;
            stage.accepted(waiting.map_or(100, PacketId::get), reason)
        }
        Step::CommitReceived { nth } => {
            let waiting = model.commit_received(nth);
            stage.feed(Input::Received(waiting.unwrap_or(id(100))))
        }
        Step::CommitComplete { nth, known } => {
            answered.completed = model.completing.iter().nth(nth).copied();
            let packet_id = answered.completed.unwrap_or(id(100));
            model.completing.remove(&packet_id);
            let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
            stage.feed(Input::Completed { packet_id, reason })
        }
        Step::AnswerSubscribe(packet_id) => {
            let reasons = vec![ReasonCode::GrantedQoS1];
            stage.feed(Input::Subscribed { packet_id: id(packet_id), reasons })
        }
        Step::AnswerUnsubscribe(packet_id) => {
            let reasons = vec![ReasonCode::Success];
            stage.feed(Input::Unsubscribed { packet_id: id(packet_id), reasons })
        }
        Step::Deliver(qos) => {
            deliver(stage, model, qos);
            Vec::new()
        }
        Step::Wait(seconds) => stage.after(Duration::from_secs(seconds)),
        Step::Kick => stage.feed(Input::Kicked(ReasonCode::SessionTakenOver)),
    };
    model.check(answered, outputs);
}

fn answer(stage: &mut Stage, model: &mut Model, kind: u8, ack: Ack) -> Vec<Output> {
    model.client_answers(kind, &ack);
    stage.packet(match kind {
        0 => Packet::PubAck(ack),
        1 => Packet::PubRec(ack),
        2 => Packet::PubComp(ack),
        _ => Packet::PubRel(ack),
    })
}

fn deliver(stage: &mut Stage, model: &mut Model, qos: QoS) {
    let window = stage.session.window();
    let may = qos != QoS::AtMostOnce && window > 0;
    let delivered = if model.durable {
        // few identifiers, so that the broker's come around while they are under way
        model.position += 1;
        let packet_id = id(model.position % 8 + 1);
        let may = may && !model.delivered.contains_key(&packet_id);
        let taken = stage.session.deliver_as(packet_id, qos);
        assert_eq!(taken, may, "S2: {packet_id}");
        taken.then_some(packet_id)
    } else {
        let packet_id = stage.session.deliver(qos);
        assert_eq!(packet_id.is_some(), may);
        packet_id
    };
    match delivered {
        None => assert_eq!(stage.session.window(), window),
        Some(packet_id) => {
            let awaited = if qos == QoS::AtLeastOnce { Awaited::Ack } else { Awaited::Received };
            assert_eq!(model.delivered.insert(packet_id, awaited), None, "S2: {packet_id} twice at once");
            assert_eq!(stage.session.window(), window - 1);
        }
    }
}

/// Transient, or durable with identifiers of an earlier connection.
fn attached() -> impl Strategy<Value = Attached> {
    let ids = || prop::collection::btree_set(1..=8_u16, 0..6);
    let ids = move || ids().prop_map(|ids| ids.into_iter().map(id).collect());
    prop_oneof![
        Just(Attached::default()),
        (ids(), ids()).prop_map(|(received, released)| Attached {
            durable: true,
            received,
            released,
            ..Attached::default()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_keeps_the_promises(
        protocol in prop::sample::select(crate::stage::PROTOCOLS.to_vec()),
        attached in attached(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let limits = Limits {
            receive_maximum: most(RECEIVE_MAXIMUM),
            max_inflight: most(MAX_INFLIGHT),
            topic_alias_maximum: 2,
            ..Limits::default()
        };
        let mut model = Model::new(protocol, &attached);
        let released = attached.released.len();
        let (mut stage, pubrels) = Stage::attached(protocol, limits, attached);
        prop_assert_eq!(pubrels.len(), released);
        for step in steps {
            take(&mut stage, &mut model, step);
            prop_assert_eq!(model.ended, stage.session.ending().is_some());
            if model.ended {
                break;
            }
            prop_assert_eq!(stage.session.inflight(), model.delivered.len());
            let places = usize::from(MAX_INFLIGHT).saturating_sub(model.delivered.len());
            prop_assert_eq!(stage.session.window(), places);
            prop_assert!(stage.session.pending() >= model.handed_out.len() + model.completing.len());
        }
    }
}
