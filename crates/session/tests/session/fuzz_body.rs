//! What must hold for any course of a connection at all: run by libFuzzer (`fuzz/fuzz_targets/steps.rs`) and by `fuzz`,
//! which needs neither nightly nor libFuzzer.
//!
//! Bytes choose limits, CONNECT, and then one thing after the other that client, broker or clock do. Once it is open the
//! model of `model` holds it to S2 and S3. Start at [`run`].

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use zwerm_session::{Attached, Deadline, Input, Limits, Output};
use zwerm_wire::{
    Auth, Connect, Decoder, Disconnect, Packet, PacketId, PacketType, Protocol, QoS, ReasonCode, Role,
    SubscribeOptions,
};

use crate::model::{self, Answered, MAX_INFLIGHT, Model, Step, assert_readable, take};
use crate::stage::{PROTOCOLS, Stage, connect, id, subscribe, will};

/// What is left of the input; behind its end come zeros.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// One of the first identifiers: they are to meet.
    fn id(&mut self) -> u16 {
        u16::from(self.byte() % 8) + 1
    }

    fn nth(&mut self) -> usize {
        usize::from(self.byte() % 4)
    }

    fn reason(&mut self) -> ReasonCode {
        self.pick(REASONS)
    }

    fn error(&mut self) -> ReasonCode {
        self.pick(ERRORS)
    }
}

const REASONS: &[ReasonCode] = &[
    ReasonCode::Success,
    ReasonCode::NoMatchingSubscribers,
    ReasonCode::NotAuthorized,
    ReasonCode::QuotaExceeded,
    ReasonCode::PacketIdentifierNotFound,
    ReasonCode::UnspecifiedError,
];

const ERRORS: &[ReasonCode] = &[
    ReasonCode::SessionTakenOver,
    ReasonCode::ServerShuttingDown,
    ReasonCode::QuotaExceeded,
    ReasonCode::NotAuthorized,
    ReasonCode::ServerUnavailable,
    ReasonCode::Banned,
    ReasonCode::BadUserNameOrPassword,
    ReasonCode::MalformedPacket,
    ReasonCode::PacketTooLarge,
];

const QUALITIES: &[QoS] = &[QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce];
const METHOD: &str = "method";

/// One connection from its opening as far as the input goes. Gives the number of steps that were taken while it was
/// open.
pub(crate) fn run(input: &[u8]) -> usize {
    let mut from = Source(input);
    let limits = some_limits(&mut from);
    let connect = some_connect(&mut from);
    let mut stage = Stage::new(limits);
    let mut steps = 0;
    if let Some(connect) = greet(&mut stage, connect, &mut from) {
        let mut model = attach(&mut stage, &connect, &mut from);
        while !model.ended && !from.0.is_empty() {
            go_on(&mut stage, &mut model, &mut from);
            model.agrees(&stage);
            assert_punctual(&stage);
            steps += 1;
        }
    }
    if stage.session.is_closed() {
        assert_silent(&mut stage);
    }
    steps
}

/// Zeros are the defaults.
fn some_limits(from: &mut Source<'_>) -> Limits {
    let bits = from.byte();
    let is = |bit: u8| bits >> bit & 1 != 0;
    Limits {
        retain_available: !is(0),
        wildcard_subscriptions: !is(1),
        shared_subscriptions: !is(2),
        subscription_identifiers: !is(3),
        allow_zero_length_client_id: !is(4),
        max_qos: QUALITIES[usize::from(bits >> 5) % 3],
        session_expiry_maximum: if is(7) { 60 } else { u32::MAX },
        keep_alive_maximum: NonZeroU16::new(u16::from(from.byte() % 4)),
        ..model::limits()
    }
}

fn some_connect(from: &mut Source<'_>) -> Connect {
    let mut connect = connect(from.pick(&PROTOCOLS));
    let bits = from.byte();
    let is = |bit: u8| bits >> bit & 1 != 0;
    connect.clean_start = is(0);
    if is(1) {
        connect.client_id = "".into();
    }
    connect.will = is(2).then(|| will(QUALITIES[usize::from(bits >> 3) % 3], is(5)));
    connect.keep_alive = u16::from(from.byte() % 8);
    let properties = &mut connect.properties;
    if connect.protocol == Protocol::V5 {
        properties.authentication_method = is(6).then(|| METHOD.into());
        properties.session_expiry = is(7).then(|| u32::from(from.byte()));
        properties.receive_maximum = NonZeroU16::new(u16::from(from.byte() % 8));
        properties.topic_alias_maximum = Some(u16::from(from.byte() % 4));
        properties.maximum_packet_size = NonZeroU32::new(u32::from(from.byte()));
    } else {
        connect.bridge = is(6);
    }
    connect
}

/// Up to the moment in which the broker attaches the session; the CONNECT that it came to that by, if it did.
fn greet(stage: &mut Stage, mut connect: Connect, from: &mut Source<'_>) -> Option<Connect> {
    loop {
        let outputs = match from.byte() % 12 {
            0..=5 if stage.session.protocol().is_none() => {
                stage.packet(Packet::Connect(Box::new(connect.clone())))
            }
            0..=5 if stage.session.is_attaching() => return Some(connect),
            0..=3 => {
                stage.feed(Input::Authenticated { name: "name".into(), data: Bytes::from_static(b"proof") })
            }
            4 => stage.feed(Input::Challenge(Bytes::from_static(b"challenge"))),
            5 | 6 => stage.packet(some_auth(from)),
            7 => stage.feed(Input::Refused(from.error())),
            8 => stage.after(Duration::from_secs(u64::from(from.byte() % 12))),
            9 => match some_packet(connect.protocol, from) {
                Some(packet) => {
                    // it may be a CONNECT, in any version
                    if let (None, Packet::Connect(other)) = (stage.session.protocol(), &packet) {
                        connect = (**other).clone();
                    }
                    stage.packet(packet)
                }
                None => Vec::new(),
            },
            10 => stage.feed(some_event(connect.protocol, from)),
            _ => stage.feed(some_word(from)),
        };
        for output in &outputs {
            assert_readable(connect.protocol, output);
            match output {
                Output::Attach(_) | Output::Authenticate { .. } | Output::Close => {}
                Output::Send(Packet::Auth(_)) => {}
                Output::Send(Packet::ConnAck(connack)) => assert!(connack.reason.is_error(), "{connack:?}"),
                other => panic!("{other:?} before CONNACK"),
            }
        }
        let is_last = |output: &Output| *output == Output::Close;
        assert_eq!(outputs.iter().any(is_last), stage.session.is_closed());
        assert_punctual(stage);
        if stage.session.is_closed() || from.0.is_empty() {
            return None;
        }
    }
}

/// The broker attaches it: transient, or durable with identifiers of an earlier connection.
fn attach(stage: &mut Stage, connect: &Connect, from: &mut Source<'_>) -> Model {
    let protocol = connect.protocol;
    let window = connect.properties.receive_maximum.map_or(MAX_INFLIGHT, |most| most.get().min(MAX_INFLIGHT));
    let mut attached = Attached { session_expiry: u32::from(from.byte()), ..Attached::default() };
    if from.flag() {
        attached.durable = true;
        attached.session_present = from.flag();
        attached.received = some_ids(from);
        attached.released = some_ids(from);
    }
    let model = Model::new(protocol, window, &attached);
    let released = attached.released.clone();
    let mut outputs = stage.feed(Input::Attached(attached)).into_iter();
    let connack = outputs.next().unwrap();
    assert_readable(protocol, &connack);
    assert!(matches!(&connack, Output::Send(Packet::ConnAck(connack)) if !connack.reason.is_error()));
    let again: Vec<PacketId> = outputs
        .map(|output| match output {
            Output::Send(Packet::PubRel(ack)) => ack.packet_id,
            other => panic!("{other:?} behind CONNACK"),
        })
        .collect();
    assert_eq!(again, released, "PUBREL is sent again, in order");
    model
}

fn some_ids(from: &mut Source<'_>) -> Vec<PacketId> {
    let bits = from.byte();
    (0..8).filter(|bit| bits >> bit & 1 != 0).map(|bit| id(bit + 1)).collect()
}

/// One thing that happens to an open session.
fn go_on(stage: &mut Stage, model: &mut Model, from: &mut Source<'_>) {
    let step = match from.byte() % 32 {
        0..=2 => Step::Publish { qos: from.pick(QUALITIES), packet_id: from.id(), dup: from.flag() },
        3 => Step::Aliased { alias: u16::from(from.byte() % 4), named: !from.flag() },
        4..=6 => Step::Answer { nth: from.nth(), reason: from.reason() },
        7 | 8 => Step::Release { nth: from.nth() },
        9 => Step::Stray { kind: from.byte() % 4, packet_id: from.id(), reason: from.reason() },
        10..=12 => Step::Accept { nth: from.nth(), reason: from.reason() },
        13 | 14 => Step::CommitReceived { nth: from.nth() },
        15 | 16 => Step::CommitComplete { nth: from.nth(), reason: from.reason() },
        17 => Step::AnswerSubscribe(from.id()),
        18 => Step::AnswerUnsubscribe(from.id()),
        19..=21 => Step::Deliver(from.pick(QUALITIES)),
        22 => Step::Wait(u64::from(from.byte() % 16)),
        23 => Step::Unsubscribe(from.id()),
        24 => return model::packet(stage, model, some_subscribe(from)),
        25 => return model::packet(stage, model, some_auth(from)),
        26 => {
            let disconnect =
                Disconnect::because(from.pick(&[ReasonCode::Success, ReasonCode::DisconnectWithWill]));
            let session_expiry = Some(u32::from(from.byte())).filter(|seconds| *seconds > 0);
            let disconnect = Disconnect { session_expiry, ..disconnect };
            return model::packet(stage, model, Packet::Disconnect(disconnect));
        }
        27 => {
            let protocol = stage.session.protocol().unwrap();
            return model.check(Answered::default(), stage.feed(some_event(protocol, from)));
        }
        28 => return model.check(Answered::default(), stage.feed(some_word(from))),
        _ => {
            let protocol = stage.session.protocol().unwrap();
            if let Some(packet) = some_packet(protocol, from) {
                model::packet(stage, model, packet);
            }
            return;
        }
    };
    take(stage, model, step);
}

/// A packet as the decoder would hand it over.
fn some_packet(protocol: Protocol, from: &mut Source<'_>) -> Option<Packet> {
    let length = usize::from(from.byte() % 64).min(from.0.len());
    let (bytes, rest) = from.0.split_at(length);
    from.0 = rest;
    let mut decoder = Decoder::new(Role::Server, 1 << 16);
    decoder.set_protocol(protocol);
    decoder.decode(&mut BytesMut::from(bytes)).ok().flatten()
}

fn some_auth(from: &mut Source<'_>) -> Packet {
    let reason =
        from.pick(&[ReasonCode::ReAuthenticate, ReasonCode::ContinueAuthentication, ReasonCode::Success]);
    let method = if from.byte() % 4 == 3 { "another" } else { METHOD };
    Packet::Auth(Auth {
        reason,
        method: Some(method.into()),
        data: None,
        reason_string: None,
        user: Vec::new(),
    })
}

fn some_subscribe(from: &mut Source<'_>) -> Packet {
    let filter = from.pick(&["a", "a/+", "$share/g/a", "#"]);
    let other = from.pick(&["b", "b/#", "$share/g/+"]);
    let bits = from.byte();
    let options = SubscribeOptions {
        qos: QUALITIES[usize::from(bits) % 3],
        no_local: bits >> 7 == 1,
        ..SubscribeOptions::default()
    };
    let mut subscribe = subscribe(from.id(), &[(filter, options), (other, SubscribeOptions::default())]);
    subscribe.subscription_id = NonZeroU32::new(u32::from(from.byte() % 2));
    Packet::Subscribe(subscribe)
}

/// Something that ends a connection, or keeps it alive.
fn some_event(protocol: Protocol, from: &mut Source<'_>) -> Input {
    match from.byte() % 5 {
        0 => Input::Alive,
        1 => Input::LinkClosed,
        2 => Input::Kicked(from.error()),
        3 => Input::Unsendable(from.pick(&[PacketType::ConnAck, PacketType::Auth, PacketType::PubAck])),
        _ => {
            // as a decoder says it that has seen that much of CONNECT
            let protocol = Some(protocol).filter(|_| from.flag());
            let reason = from.pick(&[ReasonCode::MalformedPacket, ReasonCode::ProtocolError]);
            Input::Malformed { reason, text: "why".to_owned(), protocol }
        }
    }
}

/// A word of the broker that the session may not have asked for.
fn some_word(from: &mut Source<'_>) -> Input {
    match from.byte() % 5 {
        0 => Input::Challenge(Bytes::new()),
        1 => Input::Authenticated { name: "name".into(), data: Bytes::new() },
        2 => Input::Refused(from.error()),
        3 => Input::Received(id(100)),
        _ => Input::Accepted { packet_id: id(100), reason: from.reason() },
    }
}

/// S4: what a clock waits for lies ahead, and says why.
fn assert_punctual(stage: &Stage) {
    let Some((at, why)) = stage.session.deadline() else { return };
    let expected = if stage.session.is_open() { Deadline::KeepAlive } else { Deadline::Connect };
    assert_eq!(why, expected);
    assert!(at > stage.now, "{why:?} is over");
}

/// After its end it says nothing, whatever happens.
fn assert_silent(stage: &mut Stage) {
    let ending = stage.session.ending();
    assert!(ending.is_some() && stage.session.deadline().is_none());
    for input in [
        Input::Tick,
        Input::Alive,
        Input::Packet(Packet::PingReq),
        Input::Attached(Attached::default()),
        Input::Accepted { packet_id: id(1), reason: ReasonCode::Success },
        Input::Kicked(ReasonCode::ServerBusy),
        Input::LinkClosed,
    ] {
        assert_eq!(stage.feed(input), []);
    }
    assert_eq!(stage.session.ending(), ending);
}
