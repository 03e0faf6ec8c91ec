//! Clients that connect, subscribe, send themselves a message and go, again and again.
//!
//! Each time on the next node. Start at [`measure`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{sleep, timeout};

use super::progress::Progress;
use super::{AT_ONCE, Run, in_parallel, messages};
use crate::arguments::{Churn, Common, quality, time};
use crate::board::{Board, Stage};
use crate::connection::{Client, Connection};
use crate::packet::{Ack, Frame, Template};
use crate::report::{Phase, Report};
use crate::stamp::Stamp;
use crate::tally::Tally;

/// Bytes of the message that each sends to itself.
const SIZE: u32 = Stamp::LENGTH as u32;

/// Lets them come and go.
///
/// # Errors
/// When the broker refuses one.
pub(super) async fn measure(arguments: &Churn, common: &Common) -> Result<Report> {
    let Churn { clients, qos, durable, messages: times, seconds, .. } = *arguments;
    let run = Run::prepare(common).await?;
    let board = Arc::new(Board::new(clients, 1)?);
    let cpu = run.cpu()?;
    let patience = common.patience(qos);
    let began = board.now();
    board.measure();
    let visiting = in_parallel(clients, clients, |number| {
        let visitor =
            Visitor { run: run.clone(), board: Arc::clone(&board), number, qos, durable, times, patience };
        visitor.come_and_go()
    });
    let seconds = time(seconds, "--seconds")?;
    let tallies = tokio::select! {
        tallies = visiting => tallies?,
        never = until_over(&board, &run, times.is_none().then_some(seconds)) => never,
    };
    let time = board.now().saturating_sub(began);
    let cpu = run.cpu_since(cpu)?;
    let brokers = run.brokers()?;
    if durable {
        in_parallel(clients, AT_ONCE, |number| {
            let (place, client) = (run.places.subscriber(number), run.client("c", number));
            async move { Connection::open(place, &client).await?.close().await }
        })
        .await?;
    }
    Ok(Report {
        scenario: "churn",
        load: format!(
            "{clients} clients with {} sessions, QoS {qos}",
            if durable { "durable" } else { "transient" }
        ),
        messages: Some(messages((qos, SIZE), board.published(), board.expected(), &tallies, |publisher| {
            board.sent_by(publisher)
        })),
        phases: vec![Phase::new(("visit", "visits"), board.published(), time, cpu, &board.latency())],
        brokers,
        bytes_per_connection: None,
        ordered: true,
    })
}

/// Ends the stage of publishing after a time, and says what happens; never ends itself.
async fn until_over(board: &Board, run: &Run, after: Option<Duration>) -> Vec<Tally> {
    let mut progress = Progress::new(run.quiet);
    loop {
        if after.is_some_and(|after| board.now() >= after) {
            board.enter(Stage::Over);
        }
        progress.tell(|| format!("{:.0} s: {} visits", board.now().as_secs_f64(), board.published()));
        sleep(Duration::from_millis(5)).await;
    }
}

struct Visitor {
    run: Run,
    board: Arc<Board>,
    number: u32,
    qos: u8,
    durable: bool,
    times: Option<u64>,
    patience: Duration,
}

impl Visitor {
    async fn come_and_go(self) -> Result<Tally> {
        let mut tally = Tally::new(self.number, 1);
        let topic = self.run.topic(self.number);
        let template = Template::new(&topic, quality(self.qos), false, SIZE as usize)?;
        let client = Client { durable: self.durable, ..self.run.client("c", self.number) };
        let stages = self.board.stages();
        let mut sequence = 0;
        while *stages.borrow() == Stage::Publishing
            && self.times.is_none_or(|times| u64::from(sequence) < times)
        {
            let began = self.board.now();
            let place = self.run.places.subscriber(self.number.wrapping_add(sequence));
            let mut connection = Connection::open(place, &client).await?;
            if !connection.session_present {
                connection.subscribe(&topic, quality(self.qos)).await?;
            }
            self.board.sent(self.number, u64::from(sequence) + 1);
            let stamp = Stamp { publisher: self.number, sequence, sent: began };
            template.write(&mut connection.output, 1, stamp);
            let talk = Talk::new(self.qos, sequence);
            // what does not come is seen as lost in the end
            if let Ok(talked) = timeout(self.patience, talk.hold(&mut connection, &mut tally)).await {
                talked.with_context(|| format!("visit {sequence} of client {}", self.number))?;
            }
            connection.close().await?;
            let now = self.board.now();
            let micros = u64::try_from(now.saturating_sub(began).as_micros()).unwrap_or(u64::MAX);
            self.board.delivered(1, now, &[micros]);
            sequence = sequence.saturating_add(1);
        }
        Ok(tally)
    }
}

/// What is still to come on a connection that sends itself a message.
struct Talk {
    sequence: u32,
    /// The last acknowledgement of the message that was sent.
    acknowledged: bool,
    /// The message.
    received: bool,
    /// The PUBREL of each message received with QoS 2.
    unreleased: u32,
}

impl Talk {
    fn new(qos: u8, sequence: u32) -> Self {
        Self { sequence, acknowledged: qos == 0, received: false, unreleased: 0 }
    }

    async fn hold(mut self, connection: &mut Connection, tally: &mut Tally) -> Result<()> {
        loop {
            let Connection { input, output, .. } = &mut *connection;
            while let Some(frame) = input.next()? {
                self.answer(&frame, output, tally)?;
            }
            connection.try_flush()?;
            if self.acknowledged && self.received && self.unreleased == 0 && connection.is_flushed() {
                return Ok(());
            }
            connection.ready().await?;
            connection.try_read()?;
        }
    }

    fn answer(&mut self, frame: &Frame<'_>, output: &mut Vec<u8>, tally: &mut Tally) -> Result<()> {
        match frame {
            Frame::Publish { qos, id, payload } => {
                let stamp = Stamp::read(payload).context("a message without a stamp came")?;
                tally.record(stamp);
                self.received |= stamp.sequence == self.sequence;
                match qos {
                    0 => {}
                    1 => Ack::Publish.write(output, *id),
                    _ => {
                        self.unreleased += 1;
                        Ack::Received.write(output, *id);
                    }
                }
            }
            Frame::Ack(Ack::Publish | Ack::Complete, _) => self.acknowledged = true,
            Frame::Ack(Ack::Received, id) => Ack::Release.write(output, *id),
            Frame::Ack(Ack::Release, id) => {
                self.unreleased = self.unreleased.saturating_sub(1);
                Ack::Complete.write(output, *id);
            }
            Frame::Other(other) => bail!("a client got {other:?}"),
        }
        Ok(())
    }
}
