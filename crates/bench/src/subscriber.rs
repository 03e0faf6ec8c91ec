//! A subscriber that acknowledges and records every stamped message.
//!
//! Knows no broker's address. Start at [`Subscriber::collect`].

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mqttbytes::v4::Packet;

use crate::board::{Board, Stage};
use crate::connection::{Connection, granted, within};
use crate::packet::{Ack, Frame};
use crate::stamp::Stamp;
use crate::tally::{Came, Tally};

/// One connection that receives.
#[derive(Debug)]
pub(crate) struct Subscriber {
    connection: Connection,
    tally: Tally,
    /// Whether publishers wait for what arrives here.
    credit: bool,
    latencies: Vec<u64>,
    answered: bool,
}

impl Subscriber {
    /// Over a connection that is open; messages are counted in `tally`. `credit`: publishers of QoS 0 wait for what
    /// arrives here.
    pub(crate) fn new(connection: Connection, tally: Tally, credit: bool) -> Self {
        Self { connection, tally, credit, latencies: Vec::new(), answered: false }
    }

    /// Records until the run is over, then waits for everything that is still on its way.
    ///
    /// # Errors
    /// When the connection ends or something else than messages comes.
    pub(crate) async fn collect(mut self, board: &Board) -> Result<(Connection, Tally)> {
        let mut stages = board.stages();
        self.take(board)?;
        loop {
            tokio::select! {
                ready = self.connection.ready() => ready.context("a subscriber")?,
                _ = stages.wait_for(|stage| *stage == Stage::Over) => break,
            }
            self.work(board)?;
        }
        self.connection.queue(&Packet::PingReq)?;
        within(async {
            loop {
                self.work(board)?;
                if self.answered && self.connection.is_flushed() {
                    return Ok(());
                }
                self.connection.ready().await?;
            }
        })
        .await
        .context("the end of a subscriber")?;
        Ok((self.connection, self.tally))
    }

    /// Reads, records and answers, without waiting.
    fn work(&mut self, board: &Board) -> Result<()> {
        if self.connection.try_read().context("a subscriber")? {
            self.take(board)?;
        }
        self.connection.try_flush()
    }

    /// Takes all packets that are here.
    fn take(&mut self, board: &Board) -> Result<()> {
        let Connection { input, output, .. } = &mut self.connection;
        let (now, from) = (board.now(), board.measured_from());
        let mut new = 0;
        let mut run = Run { publisher: 0, messages: 0 };
        while let Some(frame) = input.next()? {
            match frame {
                Frame::Publish { qos, id, payload } => {
                    let stamp = Stamp::read(payload).context("a message without a stamp came")?;
                    if self.tally.record(stamp) == Came::New {
                        new += 1;
                        if stamp.sent >= from {
                            self.latencies.push(micros(now.saturating_sub(stamp.sent)));
                        }
                        if self.credit {
                            run.count(stamp.publisher, board);
                        }
                    }
                    match qos {
                        0 => {}
                        1 => Ack::Publish.write(output, id),
                        _ => Ack::Received.write(output, id),
                    }
                }
                Frame::Ack(Ack::Release, id) => Ack::Complete.write(output, id),
                Frame::Other(Packet::PingResp) => self.answered = true,
                Frame::Other(packet @ Packet::SubAck(_)) => granted(&packet)?,
                other => bail!("a subscriber got {other:?}"),
            }
        }
        run.end(board);
        board.delivered(new, now, &self.latencies);
        self.latencies.clear();
        Ok(())
    }
}

/// Messages of one publisher in a row, which are credited together.
struct Run {
    publisher: u32,
    messages: u64,
}

impl Run {
    fn count(&mut self, publisher: u32, board: &Board) {
        if publisher != self.publisher {
            self.end(board);
            self.publisher = publisher;
        }
        self.messages += 1;
    }

    fn end(&mut self, board: &Board) {
        if self.messages > 0 {
            board.credit(self.publisher, self.messages);
            self.messages = 0;
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
