//! Micro benchmarks of the codec: a PUBLISH in, one out to the next receiver or a thousand; mqttbytes beside it.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has nothing to measure")]

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use zwerm_wire::{Decoder, Packet, Protocol, Publish, PublishFrame, QoS, Role, TopicName, encode};

const TOPIC: &str = "buildings/north/floors/12/rooms/1207/sensors/temperature/current";
const PAYLOAD: usize = 256;
const BATCH: usize = 64;

fn topic() -> TopicName {
    TopicName::new(TOPIC).expect("a valid topic")
}

/// BATCH PUBLISH packets as one socket read would bring them, after the CONNECT that fixes the version.
fn stream(protocol: Protocol) -> (Decoder, Bytes) {
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    decoder.set_protocol(protocol);
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_id: None,
        topic: Some(topic()),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(vec![7; PAYLOAD]),
    };
    let mut out = BytesMut::new();
    for _ in 0..BATCH {
        encode(&Packet::Publish(publish.clone()), protocol, &mut out).expect("encodes");
    }
    (decoder, out.freeze())
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode PUBLISH, 64 in a read");
    group.throughput(Throughput::Elements(BATCH as u64));
    for protocol in [Protocol::V311, Protocol::V5] {
        let (mut decoder, bytes) = stream(protocol);
        group.bench_function(format!("wire {protocol:?}"), |bencher| {
            bencher.iter(|| {
                let mut buffer = BytesMut::from(bytes.as_ref());
                while let Some(packet) = decoder.decode(&mut buffer).expect("decodes") {
                    black_box(packet);
                }
            });
        });
    }
    let (_, bytes) = stream(Protocol::V311);
    group.bench_function("mqttbytes V311", |bencher| {
        bencher.iter(|| {
            let mut buffer = BytesMut::from(bytes.as_ref());
            while !buffer.is_empty() {
                black_box(mqttbytes::v4::read(&mut buffer, 1 << 20).expect("decodes"));
            }
        });
    });
    group.finish();
}

fn encode_for_receivers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode PUBLISH");
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let mut out = BytesMut::with_capacity(1 << 16);
    group.bench_function("the first receiver: frame", |bencher| {
        bencher.iter(|| PublishFrame::encode(Protocol::V5, &topic(), None, black_box(&payload), true));
    });
    let frame = PublishFrame::encode(Protocol::V5, &topic(), None, &payload, true).expect("encodes");
    let id = 1234.try_into().ok();
    group.bench_function("one more receiver: copy and patch", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(frame.write_to(&mut out, false, QoS::AtLeastOnce, false, id))
        });
    });
    let publish = mqttbytes::v4::Publish::from_bytes(TOPIC, mqttbytes::QoS::AtMostOnce, payload);
    group.bench_function("mqttbytes, one more receiver: clone and write", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(publish.clone().write(&mut out))
        });
    });
    group.finish();
}

/// A message to a thousand receivers, each with a buffer of its own.
fn fan_out(criterion: &mut Criterion) {
    const RECEIVERS: usize = 1_000;
    let mut group = criterion.benchmark_group("PUBLISH to 1,000 receivers");
    group.throughput(Throughput::Elements(RECEIVERS as u64));
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let mut buffers = vec![BytesMut::with_capacity(1 << 10); RECEIVERS];
    group.bench_function("encoded once, copied and patched", |bencher| {
        bencher.iter(|| {
            let frame = PublishFrame::encode(Protocol::V311, &topic(), None, black_box(&payload), true)
                .expect("encodes");
            for (out, id) in buffers.iter_mut().zip(1_u16..) {
                out.clear();
                black_box(frame.write_to(out, false, QoS::AtLeastOnce, false, id.try_into().ok()));
            }
        });
    });
    let mut publish = mqttbytes::v4::Publish::from_bytes(TOPIC, mqttbytes::QoS::AtLeastOnce, payload.clone());
    group.bench_function("mqttbytes: encoded for each", |bencher| {
        bencher.iter(|| {
            for (out, id) in buffers.iter_mut().zip(1..) {
                out.clear();
                publish.pkid = id;
                black_box(publish.write(out).expect("encodes"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode_for_receivers, fan_out);
criterion_main!(benches);
