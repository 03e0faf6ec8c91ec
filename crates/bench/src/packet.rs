//! Packets of MQTT 3.1.1 that are encoded once and patched, and frames that are cut off and looked at.
//!
//! mqttbytes encodes everything but acknowledgements, which are four fixed bytes, and decodes everything but
//! those and PUBLISH, of which only identifier and payload are read. Tests hold both against mqttbytes. Knows no
//! socket. Start at [`Template`] and [`Frame::cut`].

use anyhow::{Result, bail, ensure};
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{self, Packet, Publish};

use crate::stamp::Stamp;

/// Larger packets of the broker are refused.
const LARGEST: usize = 256 << 20;

/// A PUBLISH with room for a packet identifier and a stamp, or for the number of its topic.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    bytes: Box<[u8]>,
    payload_at: usize,
    has_id: bool,
    has_stamp: bool,
    numbered: bool,
}

/// Digits of the number in a numbered topic.
const DIGITS: usize = 8;

impl Template {
    /// To `topic`, with a payload of `size` bytes: a stamp and zeros.
    ///
    /// # Errors
    /// When the packet cannot be encoded: the topic is too long.
    pub(crate) fn new(topic: &str, qos: QoS, retain: bool, size: usize) -> Result<Self> {
        Self::encode(topic, qos, retain, size.max(Stamp::LENGTH))
    }

    /// Retained, each to a topic of its own: `prefix/00000007` for sequence 7. Sequences have eight digits at most.
    ///
    /// # Errors
    /// When the packet cannot be encoded: the topic is too long.
    pub(crate) fn numbered(prefix: &str, qos: QoS, size: usize) -> Result<Self> {
        let topic = format!("{prefix}/{:0DIGITS$}", 0);
        Ok(Self { numbered: true, ..Self::new(&topic, qos, true, size)? })
    }

    /// Without payload to the same topics: takes the retained messages away.
    ///
    /// # Errors
    /// When the packet cannot be encoded: the topic is too long.
    pub(crate) fn clearing(prefix: &str, qos: QoS) -> Result<Self> {
        let topic = format!("{prefix}/{:0DIGITS$}", 0);
        Ok(Self { numbered: true, ..Self::encode(&topic, qos, true, 0)? })
    }

    fn encode(topic: &str, qos: QoS, retain: bool, size: usize) -> Result<Self> {
        let mut publish = Publish::new(topic, qos, vec![0; size]);
        publish.pkid = 1;
        publish.retain = retain;
        let mut out = BytesMut::new();
        encode(&Packet::Publish(publish), &mut out)?;
        let (payload_at, has_id) = (out.len() - size, qos != QoS::AtMostOnce);
        Ok(Self { bytes: out.as_ref().into(), payload_at, has_id, has_stamp: size > 0, numbered: false })
    }

    /// Appends a message.
    pub(crate) fn write(&self, out: &mut Vec<u8>, id: u16, stamp: Stamp) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        let mut at = begin + self.payload_at;
        if self.has_stamp {
            out[at..at + Stamp::LENGTH].copy_from_slice(&stamp.bytes());
        }
        if self.has_id {
            at -= 2;
            out[at..at + 2].copy_from_slice(&id.to_be_bytes());
        }
        if self.numbered {
            let mut number = stamp.sequence;
            for digit in out[at - DIGITS..at].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
    }

    /// Bytes of the packet.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Appends a packet as mqttbytes encodes it.
///
/// # Errors
/// When it cannot be encoded.
pub(crate) fn encode(packet: &Packet, out: &mut BytesMut) -> Result<()> {
    let written = match packet {
        Packet::Connect(packet) => packet.write(out),
        Packet::Subscribe(packet) => packet.write(out),
        Packet::Publish(packet) => packet.write(out),
        Packet::PingReq => v4::PingReq.write(out),
        Packet::Disconnect => v4::Disconnect.write(out),
        other => bail!("{other:?} is nothing a load sends"),
    };
    match written {
        Ok(_) => Ok(()),
        Err(error) => bail!("encoding failed: {error:?}"),
    }
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Ack {
    /// PUBACK.
    Publish = 0x40,
    /// PUBREC.
    Received = 0x50,
    /// PUBREL.
    Release = 0x62,
    /// PUBCOMP.
    Complete = 0x70,
}

impl Ack {
    /// Appends it.
    pub(crate) fn write(self, out: &mut Vec<u8>, id: u16) {
        let [high, low] = id.to_be_bytes();
        out.extend_from_slice(&[self as u8, 2, high, low]);
    }
}

/// A packet that came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame<'a> {
    /// PUBLISH; the identifier is 0 with QoS 0.
    Publish {
        /// How often it is acknowledged: 0, 1 or 2.
        qos: u8,
        /// Packet identifier.
        id: u16,
        /// What it carries.
        payload: &'a [u8],
    },
    /// An acknowledgement and its packet identifier.
    Ack(Ack, u16),
    /// Anything else.
    Other(Packet),
}

impl<'a> Frame<'a> {
    /// The packet in front and its length; `None` while it is incomplete.
    ///
    /// # Errors
    /// When it is malformed.
    pub(crate) fn cut(input: &'a [u8]) -> Result<Option<(Self, usize)>> {
        let Some((header, length)) = frame_length(input)? else { return Ok(None) };
        ensure!(length <= LARGEST, "the broker sent a packet of {length} bytes");
        let Some(frame) = input.get(..length) else { return Ok(None) };
        Ok(Some((Self::read(frame, header)?, length)))
    }

    fn read(frame: &'a [u8], header: usize) -> Result<Self> {
        let body = &frame[header..];
        let ack = |ack| match body {
            [high, low] => Ok(Self::Ack(ack, u16::from_be_bytes([*high, *low]))),
            _ => bail!("the broker sent {ack:?} with {} bytes", body.len()),
        };
        match frame[0] {
            0x40 => ack(Ack::Publish),
            0x50 => ack(Ack::Received),
            0x62 => ack(Ack::Release),
            0x70 => ack(Ack::Complete),
            first if first >> 4 == 3 => publish(first, body),
            _ => match v4::read(&mut BytesMut::from(frame), LARGEST) {
                Ok(packet) => Ok(Self::Other(packet)),
                Err(error) => bail!("the broker sent what mqttbytes refuses: {error:?}"),
            },
        }
    }
}

fn publish(first: u8, body: &[u8]) -> Result<Frame<'_>> {
    let qos = first >> 1 & 3;
    ensure!(qos < 3, "the broker sent a PUBLISH with QoS 3");
    let rest = body
        .split_first_chunk()
        .and_then(|(length, rest)| rest.get(usize::from(u16::from_be_bytes(*length))..));
    let parts = match (qos, rest) {
        (0, Some(payload)) => Some((0, payload)),
        (_, Some(rest)) => rest.split_first_chunk().map(|(id, payload)| (u16::from_be_bytes(*id), payload)),
        (_, None) => None,
    };
    match parts {
        Some((id, payload)) => Ok(Frame::Publish { qos, id, payload }),
        None => bail!("the broker sent a PUBLISH that ends in its header"),
    }
}

/// Lengths of the header in front and of the whole frame; `None` while the header is incomplete.
fn frame_length(input: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut remaining = 0;
    for (index, byte) in input.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((2 + index, 2 + index + remaining)));
        }
    }
    ensure!(input.len() < 5, "the broker sent a remaining length of five bytes");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STAMP: Stamp = Stamp { publisher: 3, sequence: 70_000, sent: Duration::from_micros(5) };

    #[test]
    fn mqttbytes_reads_what_is_patched() {
        for (qos, id) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 513), (QoS::ExactlyOnce, 65_535)] {
            let template = Template::new("a/topic", qos, qos == QoS::ExactlyOnce, 200).unwrap();
            let mut out = Vec::new();
            template.write(&mut out, 9, STAMP);
            template.write(&mut out, id, STAMP);
            assert_eq!(out.len(), 2 * template.len());
            let mut bytes = BytesMut::from(&out[template.len()..]);
            let Packet::Publish(read) = v4::read(&mut bytes, LARGEST).unwrap() else { panic!("no PUBLISH") };
            assert_eq!((&*read.topic, read.qos, read.pkid), ("a/topic", qos, id));
            assert_eq!(read.retain, qos == QoS::ExactlyOnce);
            assert_eq!(read.payload.len(), 200);
            assert_eq!(Stamp::read(&read.payload), Some(STAMP));
        }
    }

    #[test]
    fn each_message_of_a_numbered_template_has_its_topic() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let (store, clear) =
                (Template::numbered("a/7", qos, 20).unwrap(), Template::clearing("a/7", qos).unwrap());
            for (template, size) in [(store, 20), (clear, 0)] {
                let mut out = Vec::new();
                template.write(&mut out, 5, STAMP);
                let Packet::Publish(read) = v4::read(&mut BytesMut::from(&*out), LARGEST).unwrap() else {
                    panic!("no PUBLISH")
                };
                assert_eq!((&*read.topic, read.retain, read.payload.len()), ("a/7/00070000", true, size));
                assert_eq!(read.pkid, if qos == QoS::AtMostOnce { 0 } else { 5 });
            }
        }
    }

    #[test]
    fn what_mqttbytes_writes_is_cut_off_and_read() {
        for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
            for size in [16, 110, 20_000] {
                let mut out = Vec::new();
                Template::new("t", qos, false, size).unwrap().write(&mut out, 77, STAMP);
                let whole = out.len();
                out.extend_from_slice(&[0xd0, 0]);
                let (frame, length) = Frame::cut(&out).unwrap().unwrap();
                assert_eq!(length, whole);
                let Frame::Publish { qos: came, id, payload } = frame else { panic!("{frame:?}") };
                assert_eq!(
                    (usize::from(came), id, payload.len()),
                    (number, if number == 0 { 0 } else { 77 }, size)
                );
                assert_eq!(Frame::cut(&out[length..]).unwrap(), Some((Frame::Other(Packet::PingResp), 2)));
                for cut in 0..whole.min(40) {
                    assert_eq!(Frame::cut(&out[..cut]).unwrap(), None);
                }
            }
        }
    }

    #[test]
    fn acknowledgements_are_those_of_mqttbytes() {
        let mut theirs = BytesMut::new();
        v4::PubAck::new(300).write(&mut theirs).unwrap();
        v4::PubRec::new(301).write(&mut theirs).unwrap();
        v4::PubRel::new(302).write(&mut theirs).unwrap();
        v4::PubComp::new(303).write(&mut theirs).unwrap();
        let mut ours = Vec::new();
        let acks = [Ack::Publish, Ack::Received, Ack::Release, Ack::Complete];
        for (id, ack) in (300..).zip(acks) {
            ack.write(&mut ours, id);
        }
        assert_eq!(ours, theirs.as_ref());
        for (index, (id, ack)) in (300..).zip(acks).enumerate() {
            assert_eq!(Frame::cut(&ours[4 * index..]).unwrap(), Some((Frame::Ack(ack, id), 4)));
        }
    }

    #[test]
    fn malformed_packets_are_errors() {
        let packets: [&[u8]; 5] = [
            &[0x30, 0x80, 0x80, 0x80, 0x80, 0x01],
            &[0x40, 3, 0, 1, 0],
            &[0x36, 4, 0, 0, 0, 1],
            &[0x32, 3, 0, 0, 1],
            &[0x30, 2, 0, 9],
        ];
        for packet in packets {
            assert!(Frame::cut(packet).is_err(), "{packet:x?}");
        }
    }
}
