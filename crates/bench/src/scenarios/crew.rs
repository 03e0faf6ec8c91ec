//! Publishers and subscribers at work: their tasks, and waiting for what they do.
//!
//! A task that fails ends the wait at once. Start at [`Crew`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::progress::Progress;
use crate::board::{Board, Stage};
use crate::connection::Connection;
use crate::publisher::Publisher;
use crate::subscriber::Subscriber;
use crate::tally::Tally;

/// How often is looked whether what is waited for is there.
const LOOK: Duration = Duration::from_millis(2);

/// The tasks of a run.
#[derive(Debug)]
pub(super) struct Crew {
    board: Arc<Board>,
    publishers: JoinSet<Result<()>>,
    subscribers: JoinSet<Result<(usize, Tally)>>,
    progress: Progress,
}

impl Crew {
    pub(super) fn new(board: &Arc<Board>, quiet: bool) -> Self {
        let (publishers, subscribers) = (JoinSet::new(), JoinSet::new());
        Self { board: Arc::clone(board), publishers, subscribers, progress: Progress::new(quiet) }
    }

    /// Lets a publisher begin.
    pub(super) fn publish(&mut self, publisher: Publisher, connection: Connection) {
        let board = Arc::clone(&self.board);
        self.publishers.spawn(async move { publisher.run(connection, &board).await });
    }

    /// Lets a subscriber begin; `credit`: publishers of QoS 0 wait for what it gets.
    pub(super) fn subscribe(&mut self, connection: Connection, tally: Tally, credit: bool) {
        let board = Arc::clone(&self.board);
        let number = self.subscribers.len();
        let subscriber = Subscriber::new(connection, tally, credit);
        self.subscribers.spawn(async move {
            let (connection, tally) = subscriber.collect(&board).await?;
            connection.close().await?;
            Ok((number, tally))
        });
    }

    /// Waits for a time, counted from the start of the run.
    ///
    /// # Errors
    /// When a task fails.
    pub(super) async fn until(&mut self, at: Duration) -> Result<()> {
        let at = self.board.instant(at);
        self.watch(|_, _| Instant::now() >= at).await
    }

    /// Waits until all publishers have ended.
    ///
    /// # Errors
    /// When a task fails.
    pub(super) async fn published(&mut self) -> Result<()> {
        self.watch(|_, publishers| publishers == 0).await
    }

    /// Whether publishers are still at work.
    pub(super) fn publishes(&self) -> bool {
        !self.publishers.is_empty()
    }

    /// Waits until everything has arrived, or nothing came for `patience`.
    ///
    /// # Errors
    /// When a task fails.
    pub(super) async fn drained(&mut self, patience: Duration) -> Result<()> {
        let mut last = (self.board.received(), Instant::now());
        self.watch(|board, _| {
            let received = board.received();
            if received != last.0 {
                last = (received, Instant::now());
            }
            received >= board.expected() || last.1.elapsed() > patience
        })
        .await
    }

    /// Ends the run: what the subscribers have got, in the order in which they began.
    ///
    /// # Errors
    /// When a task fails.
    pub(super) async fn end(mut self) -> Result<Vec<Tally>> {
        self.board.enter(Stage::Over);
        let mut tallies = Vec::new();
        while let Some(done) = self.subscribers.join_next().await {
            tallies.push(done??);
        }
        tallies.sort_unstable_by_key(|(number, _)| *number);
        Ok(tallies.into_iter().map(|(_, tally)| tally).collect())
    }

    /// Waits until `done`, which gets the board and the number of publishers at work.
    async fn watch(&mut self, mut done: impl FnMut(&Board, usize) -> bool) -> Result<()> {
        loop {
            while let Some(ended) = self.publishers.try_join_next() {
                ended?.context("a publisher")?;
            }
            if let Some(ended) = self.subscribers.try_join_next() {
                ended??;
                bail!("a subscriber ended before its time");
            }
            if done(&self.board, self.publishers.len()) {
                return Ok(());
            }
            let board = &self.board;
            self.progress.tell(|| {
                format!(
                    "{:.0} s: published {}, delivered {}",
                    board.now().as_secs_f64(),
                    board.published(),
                    board.received()
                )
            });
            sleep(LOOK).await;
        }
    }
}
