//! A client that subscribes and listens until the run is over, and returns whenever it loses its node.
//!
//! Start at [`Subscriber::run`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::RETRY;
use crate::client::{Client, Connection, Seen};
use crate::world::{Phase, World};

/// Milliseconds that a client which comes and goes is there, and away.
const THERE: (u64, u64) = (2_000, 10_000);
const AWAY: (u64, u64) = (500, 8_000);
/// Milliseconds from one node to the next.
const STAYS: (u64, u64) = (5_000, 20_000);

/// Whether a client leaves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Only when it loses its connection.
    Stays,
    /// Also without need, for some seconds; its queue fills.
    Comes,
    /// Also without need, to any node at once: so that after a fault all nodes have clients again.
    Moves,
}

/// The client and what it subscribes to.
pub(super) struct Subscriber {
    world: Rc<World>,
    client: Client,
    filters: Vec<(Arc<str>, u8)>,
    habit: Habit,
    /// The session has all filters.
    is_subscribed: bool,
}

impl Subscriber {
    /// One that has never connected.
    pub(super) fn new(world: Rc<World>, client: Client, filters: Vec<(Arc<str>, u8)>, habit: Habit) -> Self {
        Self { world, client, filters, habit, is_subscribed: false }
    }

    /// Listens until the run is over.
    pub(super) async fn run(mut self) {
        let mut node = self.world.any_node();
        let mut phases = self.world.phases();
        self.world.unfinished(true);
        while self.world.phase() != Phase::Over {
            let Some(mut connection) = self.client.connect(node, None).await else {
                sleep(RETRY).await;
                node = self.world.other_node(node);
                continue;
            };
            self.is_subscribed &= connection.present;
            if self.is_subscribed || connection.subscribe(&self.filters).await {
                self.is_subscribed = true;
                self.world.unfinished(false);
                let leaves = self.listen(&mut connection, &mut phases).await;
                self.world.unfinished(true);
                if leaves {
                    self.go(connection, &mut phases).await;
                } else {
                    self.client.cut(connection).await;
                }
            } else {
                self.client.cut(connection).await;
            }
            node = self.world.other_node(node);
        }
        self.world.unfinished(false);
    }

    /// Until the connection ends (false), or the client wants to go (true).
    async fn listen(&self, connection: &mut Connection, phases: &mut watch::Receiver<Phase>) -> bool {
        let (least, most) = if self.habit == Habit::Comes { THERE } else { STAYS };
        let goes = Instant::now() + Duration::from_millis(self.world.random(least, most));
        let goes_by_itself = self.habit != Habit::Stays;
        loop {
            let phase = self.world.phase();
            if phase == Phase::Over {
                return true;
            }
            select! {
                seen = connection.next() => if seen == Seen::Ended { return false },
                () = sleep_until(goes), if goes_by_itself && phase == Phase::Load => return true,
                _ = phases.changed() => {}
            }
        }
    }

    /// Leaves, in one of the two ways; for good when the run is over, otherwise perhaps for a while.
    async fn go(&mut self, connection: Connection, phases: &mut watch::Receiver<Phase>) {
        if self.world.phase() == Phase::Over || self.world.random(0, 1) == 0 {
            self.client.leave(connection).await;
        } else {
            self.client.cut(connection).await;
        }
        if self.habit == Habit::Comes && self.world.phase() == Phase::Load {
            let away = Duration::from_millis(self.world.random(AWAY.0, AWAY.1));
            select! {
                () = sleep(away) => {}
                _ = phases.changed() => {}
            }
        }
    }
}
