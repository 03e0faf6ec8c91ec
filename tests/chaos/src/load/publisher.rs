//! A client that publishes at a steady rate, with a bounded number of messages under way.
//!
//! Start at [`Publisher::run`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::RETRY;
use crate::client::{Client, Connection, Seen};
use crate::network::Side;
use crate::world::{Phase, World};

/// Messages without acknowledgement.
const WINDOW: usize = 16;
/// A node that acknowledges nothing for so long is left for another.
const PATIENCE: Duration = Duration::from_secs(10);

/// The client and what it publishes.
pub(super) struct Publisher {
    pub(super) world: Rc<World>,
    pub(super) client: Client,
    pub(super) topic: Arc<str>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// Always this node, whatever happens to it.
    pub(super) pinned: Option<Side>,
    pub(super) every: Duration,
}

impl Publisher {
    /// Publishes until the load ends, then finishes what is under way.
    pub(super) async fn run(mut self) {
        self.world.unfinished(true);
        let mut node = self.pinned.unwrap_or_else(|| self.world.any_node());
        let mut phases = self.world.phases();
        while self.has_work() {
            match self.client.connect(node, None).await {
                Some(mut connection) => {
                    self.publish(&mut connection, &mut phases).await;
                    match self.has_work() {
                        true => self.client.cut(connection).await,
                        false => self.client.leave(connection).await,
                    }
                }
                None => sleep(RETRY).await,
            }
            node = self.pinned.unwrap_or_else(|| self.world.other_node(node));
        }
        self.world.unfinished(false);
    }

    fn has_work(&self) -> bool {
        match self.world.phase() {
            Phase::Load => true,
            Phase::Settle => self.client.is_unfinished(),
            Phase::Over => false,
        }
    }

    /// Until the connection ends, or the work does.
    async fn publish(&self, connection: &mut Connection, phases: &mut watch::Receiver<Phase>) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        while self.has_work() {
            let waits = connection.unacknowledged() > 0;
            let may_publish = self.world.phase() == Phase::Load && connection.unacknowledged() < WINDOW;
            select! {
                seen = connection.next() => match seen {
                    Seen::Ended => return,
                    _ => heard = Instant::now(),
                },
                _ = ticks.tick(), if may_publish => {
                    if !waits {
                        heard = Instant::now();
                    }
                    if connection.publish(&self.topic, self.qos, self.retain).is_err() {
                        return;
                    }
                }
                () = sleep_until(heard + PATIENCE), if waits => return,
                _ = phases.changed() => {}
            }
        }
    }
}
