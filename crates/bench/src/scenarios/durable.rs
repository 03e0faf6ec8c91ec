//! Durable sessions: messages are queued while they are away, then they come and take everything.
//!
//! With `--online` they take it while it is published. Start at [`measure`].

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::crew::Crew;
use super::{AT_ONCE, Run, in_parallel, messages};
use crate::arguments::{Common, Durable, quality};
use crate::board::{Board, histogram};
use crate::connection::{Client, Connection};
use crate::pace::Pace;
use crate::packet::Template;
use crate::publisher::Publisher;
use crate::report::{Phase, Report};
use crate::tally::Tally;

/// Makes the sessions, publishes, takes, and ends the sessions.
///
/// # Errors
/// When the broker ends a connection or has forgotten a session.
pub(super) async fn measure(arguments: &Durable, common: &Common) -> Result<Report> {
    let Durable { publishers, sessions, messages: each, qos, size, inflight, online, .. } = *arguments;
    let run = Run::prepare(common).await?;
    let board = Arc::new(Board::new(publishers, sessions)?);
    let patience = common.patience(qos);
    subscribe(&run, sessions, qos).await?;

    let mut crew = Crew::new(&board, run.quiet);
    let mut phases = Vec::new();
    if online {
        resume(&run, sessions, publishers, &mut crew).await?;
        board.measure();
    }
    let resident = if online { None } else { run.settled().await? };
    let (cpu, began) = (run.cpu()?, board.now());
    publish(&run, arguments, &board, &mut crew).await?;
    crew.published().await?;
    let publishing = board.now().saturating_sub(began);
    let none = histogram()?;
    if online {
        crew.drained(patience).await?;
        let delivering = board.last_received().saturating_sub(began);
        phases.push(Phase::new(("publish", "messages"), board.published(), publishing, None, &none));
        let (cpu, latency) = (run.cpu_since(cpu)?, board.latency());
        phases.push(Phase::new(("deliver", "deliveries"), board.received(), delivering, cpu, &latency));
    } else {
        let queue_cpu = run.cpu_since(cpu)?;
        let queue = Phase::new(("queue", "messages"), board.published(), publishing, queue_cpu, &none);
        phases.push(queue.with_memory(resident, run.settled().await?));
        let (cpu, began) = (run.cpu()?, board.now());
        resume(&run, sessions, publishers, &mut crew).await?;
        crew.drained(patience).await?;
        let taking = board.last_received().saturating_sub(began);
        phases.push(Phase::new(("take", "deliveries"), board.received(), taking, run.cpu_since(cpu)?, &none));
    }
    let tallies = crew.end().await?;
    let brokers = run.brokers()?;
    end(&run, sessions).await?;
    Ok(Report {
        scenario: "durable",
        load: format!(
            "{publishers} publishers of {each} messages, {sessions} sessions {}, QoS {qos}, {size} B, {inflight} under way each",
            if online { "online" } else { "away" }
        ),
        messages: Some(messages((qos, size), board.published(), board.expected(), &tallies, |publisher| {
            board.sent_by(publisher)
        })),
        phases,
        brokers,
        bytes_per_connection: None,
        ordered: true,
    })
}

fn client(run: &Run, number: u32) -> Client {
    Client { durable: true, ..run.client("d", number) }
}

/// Makes the sessions and leaves them.
async fn subscribe(run: &Run, sessions: u32, qos: u8) -> Result<()> {
    in_parallel(sessions, AT_ONCE, |number| {
        let (place, client) = (run.places.subscriber(number), client(run, number));
        let filter = run.topic('+');
        async move {
            let mut session = Connection::open(place, &client).await?;
            session.subscribe(&filter, quality(qos)).await?;
            session.close().await
        }
    })
    .await?;
    Ok(())
}

/// Lets the sessions come back and take what is there.
async fn resume(run: &Run, sessions: u32, publishers: u32, crew: &mut Crew) -> Result<()> {
    let opened = in_parallel(sessions, AT_ONCE, |number| {
        let (place, client) = (run.places.subscriber(number), client(run, number));
        async move {
            let session = Connection::open(place, &client).await?;
            ensure!(session.session_present, "the broker has forgotten the session of {}", client.id);
            Ok(session)
        }
    })
    .await?;
    opened.into_iter().for_each(|session| crew.subscribe(session, Tally::new(0, publishers), false));
    Ok(())
}

async fn publish(run: &Run, arguments: &Durable, board: &Arc<Board>, crew: &mut Crew) -> Result<()> {
    let Durable { publishers, messages, qos, size, inflight, .. } = *arguments;
    for number in 0..publishers {
        let connection = Connection::open(run.places.publisher(number), &run.client("p", number)).await?;
        let publisher = Publisher {
            number,
            template: Template::new(&run.topic(number), quality(qos), false, size as usize)?,
            qos: quality(qos),
            messages: Some(messages),
            window: inflight,
            pace: Pace::new(board.now(), 0.0, publishers, number),
        };
        crew.publish(publisher, connection);
    }
    Ok(())
}

/// A clean session ends the durable one.
async fn end(run: &Run, sessions: u32) -> Result<()> {
    in_parallel(sessions, AT_ONCE, |number| {
        let (place, client) = (run.places.subscriber(number), run.client("d", number));
        async move { Connection::open(place, &client).await?.close().await }
    })
    .await?;
    Ok(())
}
