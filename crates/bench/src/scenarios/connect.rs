//! Connections: how many a second, how long each takes, and what an idle one costs the broker in memory.
//!
//! Start at [`measure`].

use std::time::Instant;

use anyhow::{Result, bail};
use mqttbytes::QoS;

use super::progress::Progress;
use super::{Run, in_parallel};
use crate::arguments::{Common, Connect};
use crate::board::histogram;
use crate::connection::{Connection, within};
use crate::packet::{Frame, Template};
use crate::report::{Phase, Report};
use crate::stamp::Stamp;

/// Connections that are opened and closed before, so that what a broker allocates once is not counted.
pub(super) const WARM_UP: u32 = 10;

/// Bytes of the message that each gets with `--receive`.
const SIZE: usize = 256;

/// Opens all, holds them, and lets them go.
///
/// # Errors
/// When the broker does not take one.
pub(super) async fn measure(arguments: &Connect, common: &Common) -> Result<Report> {
    let Connect { connections, at_once, receive, .. } = *arguments;
    let subscribe = arguments.subscribe || receive;
    let run = Run::prepare(common).await?;
    let mut warm = open(&run, "w", WARM_UP, at_once, subscribe).await?;
    if receive {
        give_each(&run, "w", warm.iter_mut().map(|(connection, _)| connection)).await?;
    }
    for (connection, _) in warm {
        connection.close().await?;
    }

    let (resident, cpu, began) = (run.resident()?, run.cpu()?, Instant::now());
    let mut opened = open(&run, "c", connections, at_once, subscribe).await?;
    let (time, cpu) = (began.elapsed(), run.cpu_since(cpu)?);
    if receive {
        give_each(&run, "c", opened.iter_mut().map(|(connection, _)| connection)).await?;
    }
    let grown = run.resident()?.zip(resident).map(|(now, before)| now.saturating_sub(before));
    let mut latency = histogram()?;
    opened.iter().for_each(|(_, micros)| latency.saturating_record(*micros));
    let brokers = run.brokers()?;
    close(opened.into_iter().map(|(connection, _)| connection).collect(), at_once).await?;
    Ok(Report {
        scenario: "connect",
        load: format!(
            "{connections} connections, {at_once} opened at a time{}",
            if receive {
                ", each subscribes and gets a message"
            } else if subscribe {
                ", each subscribes"
            } else {
                ""
            }
        ),
        messages: None,
        phases: vec![Phase::new(("connect", "connections"), u64::from(connections), time, cpu, &latency)],
        brokers,
        bytes_per_connection: grown.map(|bytes| bytes / u64::from(connections)),
        ordered: true,
    })
}

/// Opens connections; each with the microseconds it took.
pub(super) async fn open(
    run: &Run,
    kind: &str,
    count: u32,
    at_once: u32,
    subscribe: bool,
) -> Result<Vec<(Connection, u64)>> {
    let mut progress = Progress::new(run.quiet);
    in_parallel(count, at_once, |number| {
        progress.tell(|| format!("{number} connections opened"));
        let (place, client) = (run.places.subscriber(number), run.client(kind, number));
        let topic = run.topic(format_args!("{kind}/{number}"));
        async move {
            let began = Instant::now();
            let mut connection = Connection::open(place, &client).await?;
            if subscribe {
                connection.subscribe(&topic, QoS::AtLeastOnce).await?;
            }
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            Ok((connection, micros))
        }
    })
    .await
}

/// Closes connections, the last first.
pub(super) async fn close(mut connections: Vec<Connection>, at_once: u32) -> Result<()> {
    let count = u32::try_from(connections.len())?;
    in_parallel(count, at_once, |_| {
        let last = connections.pop();
        async move { if let Some(connection) = last { connection.close().await } else { Ok(()) } }
    })
    .await?;
    Ok(())
}

/// Publishes a message to each connection and waits for it.
async fn give_each(run: &Run, kind: &str, connections: impl Iterator<Item = &mut Connection>) -> Result<()> {
    let mut publisher = Connection::open(run.places.publisher(0), &run.client("p", 0)).await?;
    for (number, connection) in (0..).zip(connections) {
        let topic = run.topic(format_args!("{kind}/{number}"));
        let stamp = Stamp { publisher: 0, sequence: number, sent: std::time::Duration::ZERO };
        Template::new(&topic, QoS::AtMostOnce, false, SIZE)?.write(&mut publisher.output, 0, stamp);
        publisher.flush().await?;
        within(async {
            loop {
                if let Some(frame) = connection.input.next()? {
                    match frame {
                        Frame::Publish { .. } => return Ok(()),
                        other => bail!("{other:?} instead of a message"),
                    }
                }
                connection.ready().await?;
                connection.try_read()?;
            }
        })
        .await?;
    }
    publisher.close().await
}
