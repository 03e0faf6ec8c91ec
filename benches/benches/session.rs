//! Micro benchmarks of the session machine: what a message costs in it, in and out.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use zwerm_session::{Attached, Input, Limits, Output, Session};
use zwerm_wire::{Ack, Connect, ConnectProperties, Packet, PacketId, Protocol, Publish, QoS, TopicName};

const BATCH: u16 = 64;

/// A session whose CONNECT was accepted.
fn open(now: Instant) -> Session {
    let mut session = Session::new(Limits::default(), now);
    let connect = Connect {
        protocol: Protocol::V311,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: "bench".into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    session.handle(Input::Packet(Packet::Connect(Box::new(connect))), now);
    session.handle(Input::Attached(Attached::default()), now);
    drain(&mut session);
    assert!(session.is_open());
    session
}

fn drain(session: &mut Session) {
    while let Some(output) = session.poll() {
        black_box::<Output>(output);
    }
}

fn publish(topic: &TopicName, qos: QoS, id: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        packet_id: PacketId::new(id),
        topic: Some(topic.clone()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from_static(&[7; 64]),
    })
}

fn inbound(criterion: &mut Criterion) {
    let now = Instant::now();
    let topic = TopicName::new("site/7/device/107/state").expect("a valid topic");
    let mut group = criterion.benchmark_group("session: 64 messages from a client");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    let mut session = open(now);
    group.bench_function("QoS 0", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                session.handle(Input::Packet(publish(&topic, QoS::AtMostOnce, 0)), now);
                drain(&mut session);
            }
        });
    });
    for (name, qos) in
        [("QoS 1, with PUBACK", QoS::AtLeastOnce), ("QoS 2, with its four packets", QoS::ExactlyOnce)]
    {
        let mut session = open(now);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for id in 1..=BATCH {
                    session.handle(Input::Packet(publish(&topic, qos, id)), now);
                    drain(&mut session);
                }
                for packet_id in (1..=BATCH).filter_map(PacketId::new) {
                    let reason = zwerm_wire::ReasonCode::Success;
                    session.handle(Input::Accepted { packet_id, reason }, now);
                    if qos == QoS::ExactlyOnce {
                        session.handle(Input::Packet(Packet::PubRel(Ack::success(packet_id))), now);
                    }
                    drain(&mut session);
                }
            });
        });
        assert!(session.is_open(), "{name}");
    }
    group.finish();
}

fn outbound(criterion: &mut Criterion) {
    let now = Instant::now();
    let mut group = criterion.benchmark_group("session: 64 messages to a client");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, qos) in
        [("QoS 1, with PUBACK", QoS::AtLeastOnce), ("QoS 2, with its four packets", QoS::ExactlyOnce)]
    {
        let mut session = open(now);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut ids = [None; BATCH as usize];
                for id in &mut ids {
                    *id = session.deliver(qos);
                }
                for id in ids.into_iter().flatten() {
                    if qos == QoS::ExactlyOnce {
                        session.handle(Input::Packet(Packet::PubRec(Ack::success(id))), now);
                        drain(&mut session);
                        session.handle(Input::Packet(Packet::PubComp(Ack::success(id))), now);
                    } else {
                        session.handle(Input::Packet(Packet::PubAck(Ack::success(id))), now);
                    }
                    drain(&mut session);
                }
            });
        });
        assert_eq!(session.inflight(), 0, "{name}");
    }
    group.finish();
}

criterion_group!(benches, inbound, outbound);
criterion_main!(benches);
