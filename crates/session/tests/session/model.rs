//! What a session may say, step by step: S2 (an identifier is free or in one table), S3 (no acknowledgement before
//! the broker's word, and in a durable session no PUBREL and PUBCOMP before the commit), the bounds of the window and
//! the receive maximum, and that clients can read what is sent.
//!
//! Knows not where steps come from: `promises` draws them, `fuzz_body` reads them out of bytes. Start at [`take`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::BytesMut;
use zwerm_session::{Attached, Input, Limits, Output, Stage as Acknowledged};
use zwerm_wire::{Ack, Decoder, Packet, PacketId, Protocol, Publish, QoS, ReasonCode, Role, SubAck, encode};

use crate::stage::{Stage, ack, id, most, publish, subscribe, success, topic, unsubscribe};

const RECEIVE_MAXIMUM: u16 = 5;
pub(crate) const MAX_INFLIGHT: u16 = 4;

/// Small, so that few steps reach them.
pub(crate) fn limits() -> Limits {
    Limits {
        receive_maximum: most(RECEIVE_MAXIMUM),
        max_inflight: most(MAX_INFLIGHT),
        topic_alias_maximum: 2,
        ..Limits::default()
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
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
        reason: ReasonCode,
    },
    AnswerSubscribe(u16),
    AnswerUnsubscribe(u16),
    Deliver(QoS),
    Wait(u64),
    Kick,
}

/// What the outside knows: which messages and subscriptions it was given and has not answered, which QoS 2 messages
/// await their PUBREL or its commit, and what is awaited for each delivery.
pub(crate) struct Model {
    protocol: Protocol,
    durable: bool,
    /// QoS 1 and 2 messages that the client takes at once.
    window: u16,
    handed_out: Vec<(PacketId, QoS)>,
    unreleased: BTreeSet<PacketId>,
    /// Those of `unreleased` that the receive maximum of this connection does not count.
    resumed: BTreeSet<PacketId>,
    completing: BTreeSet<PacketId>,
    /// SUBSCRIBE and UNSUBSCRIBE that are not answered.
    asked: BTreeMap<PacketId, Asked>,
    delivered: BTreeMap<PacketId, Awaited>,
    /// Deliveries of the broker so far.
    position: u16,
    /// What the last answer of the client has to make the session say to the broker.
    owed: Option<(PacketId, Acknowledged)>,
    /// The client authenticates again, and is not told yet that it succeeded.
    proving: bool,
    pub(crate) ended: bool,
}

/// With how many filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Subscribe(usize),
    Unsubscribe(usize),
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
pub(crate) struct Answered {
    accepted: Option<PacketId>,
    asked: Option<PacketId>,
    completed: Option<PacketId>,
}

impl Model {
    pub(crate) fn new(protocol: Protocol, window: u16, attached: &Attached) -> Self {
        let received: BTreeSet<_> = attached.received.iter().copied().collect();
        let released = attached.released.iter().map(|packet_id| (*packet_id, Awaited::Complete));
        Self {
            protocol,
            durable: attached.durable,
            window,
            handed_out: Vec::new(),
            unreleased: received.clone(),
            resumed: received,
            completing: BTreeSet::new(),
            asked: BTreeMap::new(),
            delivered: released.collect(),
            position: 0,
            owed: None,
            proving: false,
            ended: false,
        }
    }

    fn is_v5(&self) -> bool {
        self.protocol == Protocol::V5
    }

    /// Holds the outputs of one step against what may come.
    pub(crate) fn check(&mut self, answered: Answered, outputs: Vec<Output>) {
        assert!(outputs.len() <= 2, "{outputs:?}");
        for output in outputs {
            assert!(!self.ended, "{output:?} after the end");
            assert_readable(self.protocol, &output);
            match output {
                Output::Publish(publish) => self.handed(&publish),
                Output::Acknowledged { packet_id, stage } => {
                    assert_eq!(self.owed.take(), Some((packet_id, stage)));
                }
                Output::Complete(packet_id) => {
                    let known = self.durable && self.unreleased.remove(&packet_id);
                    assert!(known && self.completing.insert(packet_id), "{packet_id} is not to be completed");
                }
                Output::Subscribe(subscribe) => {
                    self.asks(subscribe.packet_id, Asked::Subscribe(subscribe.filters.len()));
                }
                Output::Unsubscribe(unsubscribe) => {
                    self.asks(unsubscribe.packet_id, Asked::Unsubscribe(unsubscribe.filters.len()));
                }
                Output::Authenticate { .. } => self.proving = true,
                Output::Send(packet) => self.sent(answered, packet),
                Output::Close => self.ended = true,
                _ => {}
            }
        }
        assert!(self.ended || self.owed.is_none(), "{:?} was not said", self.owed);
        self.resumed.retain(|packet_id| self.unreleased.contains(packet_id));
        let under_way = self.handed_out.len() + self.unreleased.len() - self.resumed.len();
        assert!(
            self.ended || !self.is_v5() || under_way <= usize::from(RECEIVE_MAXIMUM),
            "{under_way} under way"
        );
    }

    /// Holds what the session says of itself against what it should know.
    pub(crate) fn agrees(&self, stage: &Stage) {
        let session = &stage.session;
        assert_eq!(self.ended, session.ending().is_some());
        if self.ended {
            return;
        }
        assert_eq!(session.inflight(), self.delivered.len());
        assert_eq!(session.window(), usize::from(self.window).saturating_sub(self.delivered.len()));
        let pending = self.handed_out.len() + self.completing.len() + self.asked.len();
        assert_eq!(session.pending(), pending);
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
                assert_eq!(known || !self.is_v5(), ack.reason == ReasonCode::Success, "{ack:?}");
                self.unreleased.remove(&ack.packet_id);
            }
            Packet::Auth(auth) => {
                assert!(self.proving, "{auth:?} without an exchange");
                self.proving = auth.reason != ReasonCode::Success;
            }
            Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
                assert!(answered.asked == Some(ack.packet_id) || is_refusal(&ack), "S3: {ack:?}");
            }
            _ => {}
        }
    }

    /// S2: nothing of the client is under way under an identifier that it uses for something new.
    fn assert_free(&self, packet_id: PacketId) {
        let handed_out = self.handed_out.iter().any(|(other, _)| *other == packet_id);
        let known = self.unreleased.contains(&packet_id) || self.completing.contains(&packet_id);
        let asked = self.asked.contains_key(&packet_id);
        assert!(!handed_out && !known && !asked, "S2: {packet_id} twice at once");
    }

    fn asks(&mut self, packet_id: PacketId, asked: Asked) {
        self.assert_free(packet_id);
        self.asked.insert(packet_id, asked);
    }

    fn handed(&mut self, publish: &Publish) {
        assert!(publish.topic.is_some() && publish.topic_alias.is_none());
        if let Some(packet_id) = publish.packet_id.filter(|_| publish.qos > QoS::AtMostOnce) {
            self.assert_free(packet_id);
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

    /// The broker answers what was asked under an identifier, if it was this; for how many filters.
    fn answers(
        &mut self,
        answered: &mut Answered,
        packet_id: PacketId,
        is_it: impl Fn(Asked) -> Option<usize>,
    ) -> usize {
        let Some(filters) = self.asked.get(&packet_id).copied().and_then(is_it) else { return 1 };
        self.asked.remove(&packet_id);
        answered.asked = Some(packet_id);
        filters
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

/// All filters are refused, as the session does without asking.
fn is_refusal(ack: &SubAck) -> bool {
    ack.reasons.iter().all(|reason| reason.is_error())
}

/// A strict client can read it.
pub(crate) fn assert_readable(protocol: Protocol, output: &Output) {
    let Output::Send(packet) = output else { return };
    let mut bytes = BytesMut::new();
    encode(packet, protocol, &mut bytes).unwrap_or_else(|error| panic!("{packet:?}: {error}"));
    let mut decoder = Decoder::new(Role::Client, 1 << 20);
    decoder.set_protocol(protocol);
    let read = decoder.decode(&mut bytes);
    assert!(matches!(read, Ok(Some(_))) && bytes.is_empty(), "{packet:?} reads as {read:?}");
}

/// A packet of the client that says what it will.
pub(crate) fn packet(stage: &mut Stage, model: &mut Model, packet: Packet) {
    let outputs = match packet {
        Packet::PubAck(ack) => answer(stage, model, 0, ack),
        Packet::PubRec(ack) => answer(stage, model, 1, ack),
        Packet::PubComp(ack) => answer(stage, model, 2, ack),
        other => stage.packet(other),
    };
    model.check(Answered::default(), outputs);
}

/// One step, and whether the session keeps its promises in it.
pub(crate) fn take(stage: &mut Stage, model: &mut Model, step: Step) {
    let mut answered = Answered::default();
    let outputs = match step {
        Step::Publish { qos, packet_id, dup } => {
            let packet_id = if qos == QoS::AtMostOnce { 0 } else { packet_id };
            stage.packet(Packet::Publish(Publish { dup, ..publish(qos, packet_id) }))
        }
        Step::Aliased { alias, named } => {
            let topic_alias = NonZeroU16::new(alias).filter(|_| model.is_v5());
            let topic = (named || !model.is_v5()).then(|| topic("t"));
            stage.packet(Packet::Publish(Publish { topic, topic_alias, ..publish(QoS::AtMostOnce, 0) }))
        }
        Step::Answer { nth, reason } => match model.delivered.iter().nth(nth) {
            Some((packet_id, awaited)) => {
                let reason = if model.is_v5() { reason } else { ReasonCode::Success };
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
        Step::CommitComplete { nth, reason } => {
            answered.completed = model.completing.iter().nth(nth).copied();
            let packet_id = answered.completed.unwrap_or(id(100));
            model.completing.remove(&packet_id);
            stage.feed(Input::Completed { packet_id, reason })
        }
        Step::AnswerSubscribe(packet_id) => {
            let packet_id = id(packet_id);
            let filters = model.answers(&mut answered, packet_id, |asked| match asked {
                Asked::Subscribe(filters) => Some(filters),
                Asked::Unsubscribe(_) => None,
            });
            stage.feed(Input::Subscribed { packet_id, reasons: vec![ReasonCode::GrantedQoS1; filters] })
        }
        Step::AnswerUnsubscribe(packet_id) => {
            let packet_id = id(packet_id);
            let filters = model.answers(&mut answered, packet_id, |asked| match asked {
                Asked::Unsubscribe(filters) => Some(filters),
                Asked::Subscribe(_) => None,
            });
            stage.feed(Input::Unsubscribed { packet_id, reasons: vec![ReasonCode::Success; filters] })
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
