//! Retained messages: stored by some publishers, then read back by one wildcard subscription.
//!
//! Start at [`measure`].

use std::sync::Arc;

use anyhow::Result;
use mqttbytes::QoS;

use super::crew::Crew;
use super::{AT_ONCE, Run, in_parallel, messages};
use crate::arguments::{Common, Retained, quality};
use crate::board::{Board, histogram};
use crate::connection::Connection;
use crate::pace::Pace;
use crate::packet::Template;
use crate::publisher::Publisher;
use crate::report::{Phase, Report};
use crate::tally::Tally;

/// Stores, reads, and takes them away again.
///
/// # Errors
/// When the broker ends a connection.
pub(super) async fn measure(arguments: &Retained, common: &Common) -> Result<Report> {
    let Retained { topics, publishers, subscribers, qos, size, keep, .. } = *arguments;
    let run = Run::prepare(common).await?;
    let board = Arc::new(Board::new(publishers, subscribers)?);
    let none = histogram()?;

    let (cpu, began) = (run.cpu()?, board.now());
    store(&run, arguments, &board, Template::numbered).await?;
    let (storing, store_cpu) = (board.now().saturating_sub(began), run.cpu_since(cpu)?);

    let readers = in_parallel(subscribers, AT_ONCE, |number| {
        let (place, client) = (run.places.subscriber(number), run.client("s", number));
        async move { Connection::open(place, &client).await }
    })
    .await?;
    let mut crew = Crew::new(&board, run.quiet);
    let (cpu, began) = (run.cpu()?, board.now());
    for mut reader in readers {
        reader.queue_subscribe(&run.topic('#'), quality(qos))?;
        crew.subscribe(reader, Tally::new(0, publishers), false);
    }
    crew.drained(common.patience(qos)).await?;
    let (reading, read_cpu) = (board.last_received().saturating_sub(began), run.cpu_since(cpu)?);
    let came = board.received();
    let tallies = crew.end().await?;

    let messages = messages((qos, size), board.published(), board.expected(), &tallies, |publisher| {
        board.sent_by(publisher)
    });
    let brokers = run.brokers()?;
    if !keep {
        let clearing = Arc::new(Board::new(publishers, subscribers)?);
        store(&run, arguments, &clearing, |topic, qos, _| Template::clearing(topic, qos)).await?;
    }
    Ok(Report {
        scenario: "retained",
        load: format!(
            "{topics} topics by {publishers} publishers, {subscribers} readers, QoS {qos}, {size} B"
        ),
        messages: Some(messages),
        phases: vec![
            Phase::new(("store", "messages"), u64::from(topics), storing, store_cpu, &none),
            Phase::new(("read", "deliveries"), came, reading, read_cpu, &none),
        ],
        brokers,
        bytes_per_connection: None,
        ordered: false,
    })
}

/// Publishes a retained message to each topic.
async fn store(
    run: &Run,
    arguments: &Retained,
    board: &Arc<Board>,
    template: impl Fn(&str, QoS, usize) -> Result<Template>,
) -> Result<()> {
    let Retained { topics, publishers, qos, size, inflight, .. } = *arguments;
    let mut crew = Crew::new(board, run.quiet);
    for number in 0..publishers {
        let connection = Connection::open(run.places.publisher(number), &run.client("p", number)).await?;
        let share = topics / publishers + u32::from(number < topics % publishers);
        let publisher = Publisher {
            number,
            template: template(&run.topic(number), quality(qos), size as usize)?,
            qos: quality(qos),
            messages: Some(u64::from(share)),
            // nobody hears these: there is no arrival to wait for
            window: if qos == 0 { 0 } else { inflight },
            pace: Pace::new(board.now(), 0.0, publishers, number),
        };
        crew.publish(publisher, connection);
    }
    crew.published().await
}
