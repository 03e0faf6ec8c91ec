//! A publisher of stamped messages: as fast as its window admits, or at a fixed rate.
//!
//! With QoS 1 and 2 the window is what the broker has not acknowledged, with QoS 0 what has not come to the
//! subscribers. Knows no broker's address. Start at [`Publisher::run`].

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mqttbytes::QoS;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep_until;

use crate::board::{Board, Stage};
use crate::connection::Connection;
use crate::pace::Pace;
use crate::packet::{Ack, Frame, Template};
use crate::stamp::Stamp;

/// Bytes of one write.
const BATCH: usize = 32 << 10;

/// Timers have a millisecond's grain and a loaded machine is later than that. A message that is sent so much after it
/// was due is stamped with the time at which it was due: it was held back, and that is latency.
const HELD_BACK: Duration = Duration::from_millis(10);

/// What one publisher sends, and how.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    /// Its number, which every payload says.
    pub(crate) number: u32,
    /// What it sends.
    pub(crate) template: Template,
    /// With which quality of service.
    pub(crate) qos: QoS,
    /// How many; `None`: until the stage of the run is over.
    pub(crate) messages: Option<u64>,
    /// Messages under way; less than 65,535. QoS 0: 0 is no bound.
    pub(crate) window: u64,
    /// When.
    pub(crate) pace: Pace,
}

/// How far it is.
#[derive(Debug)]
struct Progress {
    sent: u64,
    done: u64,
    /// It shall send no more than this.
    limit: u64,
}

impl Publisher {
    /// Sends everything and waits for the last acknowledgement.
    ///
    /// # Errors
    /// When the connection ends.
    pub(crate) async fn run(self, mut connection: Connection, board: &Board) -> Result<()> {
        let mut stages = board.stages();
        let limit = self.messages.unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        let mut progress = Progress { sent: 0, done: 0, limit };
        loop {
            if *stages.borrow_and_update() != Stage::Publishing {
                progress.limit = progress.sent;
            }
            self.fill(&mut connection, &mut progress, board);
            connection.try_flush()?;
            if connection.is_flushed() && progress.sent == progress.limit && self.settled(&progress) {
                return connection.close().await;
            }
            self.wait(&connection, &progress, board, &mut stages).await?;
            while connection.try_read()? {
                self.acknowledged(&mut connection, &mut progress)?;
            }
        }
    }

    fn settled(&self, progress: &Progress) -> bool {
        self.qos == QoS::AtMostOnce || progress.done == progress.sent
    }

    /// Messages that may be sent by now.
    fn allowed(&self, progress: &Progress, board: &Board, now: Duration) -> u64 {
        let due = self.pace.due(now).unwrap_or(u64::MAX);
        let arrived = match self.qos {
            QoS::AtMostOnce if self.window == 0 => return due.min(progress.limit),
            QoS::AtMostOnce => board.arrived(self.number),
            QoS::AtLeastOnce | QoS::ExactlyOnce => progress.done,
        };
        due.min(progress.limit).min(arrived + self.window)
    }

    /// Appends a batch of messages unless there is one.
    fn fill(&self, connection: &mut Connection, progress: &mut Progress, board: &Board) {
        if !connection.is_flushed() {
            return;
        }
        let now = board.now();
        let batch = (BATCH / self.template.len()).max(1) as u64;
        let upto = self.allowed(progress, board, now).min(progress.sent + batch);
        if upto <= progress.sent {
            return;
        }
        board.sent(self.number, upto);
        for sequence in progress.sent..upto {
            let due = self.pace.time(sequence);
            let held_back = self.pace.due(now).is_some() && due + HELD_BACK < now;
            let sent = if held_back { due } else { now };
            // limited to what fits
            let sequence = u32::try_from(sequence).unwrap_or(u32::MAX);
            let stamp = Stamp { publisher: self.number, sequence, sent };
            self.template.write(&mut connection.output, packet_id(sequence), stamp);
        }
        progress.sent = upto;
    }

    /// Waits for whatever lets it go on.
    async fn wait(
        &self,
        connection: &Connection,
        progress: &Progress,
        board: &Board,
        stages: &mut watch::Receiver<Stage>,
    ) -> Result<()> {
        let now = board.now();
        let unlimited = self.allowed(progress, board, Duration::MAX);
        if connection.is_flushed() && self.allowed(progress, board, now) > progress.sent {
            yield_now().await;
            return Ok(());
        }
        let idle = connection.is_flushed() && progress.sent < progress.limit;
        let timed = idle && unlimited > progress.sent;
        let credit = idle && !timed && self.qos == QoS::AtMostOnce;
        // a whole batch is worth a wake-up
        let wanted = (progress.sent + self.window / 2 + 1).saturating_sub(self.window);
        tokio::select! {
            ready = connection.ready() => ready.context("a publisher"),
            _ = stages.changed() => Ok(()),
            () = sleep_until(board.instant(self.pace.time(progress.sent))), if timed => Ok(()),
            () = board.arrival(self.number, wanted), if credit => Ok(()),
        }
    }

    fn acknowledged(&self, connection: &mut Connection, progress: &mut Progress) -> Result<()> {
        let Connection { input, output, .. } = connection;
        while let Some(frame) = input.next()? {
            match frame {
                Frame::Ack(Ack::Publish | Ack::Complete, _) => progress.done += 1,
                Frame::Ack(Ack::Received, id) => Ack::Release.write(output, id),
                other => bail!("a publisher got {other:?}"),
            }
        }
        Ok(())
    }
}

/// An id no message on its way has: the window is smaller than the range.
fn packet_id(sequence: u32) -> u16 {
    u16::try_from(sequence % 65_535 + 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::packet_id;

    #[test]
    fn packet_identifiers_begin_anew_and_are_never_zero() {
        assert_eq!([0, 65_534, 65_535, 65_536].map(packet_id), [1, 65_535, 1, 2]);
    }
}
