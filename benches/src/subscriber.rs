//! A subscriber that acknowledges and records every stamped message.
//!
//! Knows no broker's address and no publisher. Start at [`collect`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, PubComp, PubRec};
use tokio::time::timeout;

use crate::{Connection, Delivery};

/// A subscriber that hears nothing for so long counts what is missing as lost.
const SILENCE: Duration = Duration::from_secs(10);

/// Records until `expected` messages came, not counting repeats, or nothing comes any more.
///
/// # Errors
/// When the connection ends or something else than stamped messages comes.
pub async fn collect(
    connection: &mut Connection,
    delivery: &mut Delivery,
    expected: u64,
    start: Instant,
) -> Result<()> {
    while delivery.received < expected {
        let Ok(received) = timeout(SILENCE, connection.receive()).await else { break };
        let mut next = Some(received.context("a subscriber")?);
        while let Some(packet) = next {
            match packet {
                Packet::Publish(publish) => {
                    delivery.record(&publish.payload, start.elapsed())?;
                    match publish.qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => connection.queue(&Packet::PubAck(PubAck::new(publish.pkid)))?,
                        QoS::ExactlyOnce => connection.queue(&Packet::PubRec(PubRec::new(publish.pkid)))?,
                    }
                }
                Packet::PubRel(ack) => connection.queue(&Packet::PubComp(PubComp::new(ack.pkid)))?,
                other => bail!("a subscriber got {other:?}"),
            }
            next = connection.received()?;
        }
        connection.flush().await?;
    }
    Ok(())
}
