//! A publisher of stamped messages, as fast as the broker acknowledges a window of them.
//!
//! Knows no broker's address and no subscriber. Start at [`Publisher::run`].

use std::time::Instant;

use anyhow::{Result, bail};
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubRel, Publish};

use crate::{Connection, Stamp};

/// What one publisher sends, and how.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// Its number, which every payload says.
    pub number: u32,
    /// Where to.
    pub topic: String,
    /// With which quality of service.
    pub qos: QoS,
    /// Bytes of a payload, at least [`Stamp::LENGTH`].
    pub size: usize,
    /// How many.
    pub messages: u32,
    /// Unacknowledged messages; for QoS 0 the messages of one write. Less than 65,535.
    pub window: u32,
}

impl Publisher {
    /// Sends everything and waits for the last acknowledgement. Payloads are stamped with the time since `start`.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn run(self, mut connection: Connection, start: Instant) -> Result<()> {
        let (mut sent, mut done) = (0, 0);
        while done < self.messages {
            let room = if self.qos == QoS::AtMostOnce { self.window } else { self.window - (sent - done) };
            let upto = self.messages.min(sent + room);
            for sequence in sent..upto {
                let stamp = Stamp { publisher: self.number, sequence, sent: start.elapsed() };
                let mut packet = Publish::new(&self.topic, self.qos, stamp.payload(self.size));
                packet.pkid = packet_id(sequence);
                connection.queue(&Packet::Publish(packet))?;
            }
            sent = upto;
            connection.flush().await?;
            if self.qos == QoS::AtMostOnce {
                done = sent;
            } else {
                done += acknowledged(&mut connection).await?;
            }
        }
        connection.flush().await
    }
}

/// An id no message on its way has: the window is smaller than the range.
fn packet_id(sequence: u32) -> u16 {
    u16::try_from(sequence % 65_535 + 1).unwrap_or(1)
}

/// Waits for packets of the broker; counts the messages they complete.
async fn acknowledged(connection: &mut Connection) -> Result<u32> {
    let mut done = 0;
    let mut next = Some(connection.receive().await?);
    while let Some(packet) = next {
        match packet {
            Packet::PubAck(_) | Packet::PubComp(_) => done += 1,
            Packet::PubRec(ack) => connection.queue(&Packet::PubRel(PubRel::new(ack.pkid)))?,
            other => bail!("a publisher got {other:?}"),
        }
        next = connection.received()?;
    }
    Ok(done)
}
