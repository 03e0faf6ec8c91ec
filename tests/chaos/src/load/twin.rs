//! A durable client that takes its own session over: it connects to another node while the older connection is
//! still up, and leaves closing that one to the server.
//!
//! Start at [`Twin::run`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};

use super::RETRY;
use crate::client::{Client, Connection, Seen};
use crate::world::{Phase, World};

/// Milliseconds between two takeovers.
const LASTS: (u64, u64) = (2_000, 6_000);
/// How long the client waits for the server to close the older connection before it closes that itself.
const CLOSING: Duration = Duration::from_secs(5);

/// Two programs with one client id.
pub(super) struct Twin {
    world: Rc<World>,
    programs: [Client; 2],
    filter: Arc<str>,
}

impl Twin {
    /// One that has never connected.
    pub(super) fn new(world: Rc<World>, client: Client, filter: &str) -> Self {
        let twin = client.twin();
        Self { world, programs: [client, twin], filter: filter.into() }
    }

    /// Takes over again and again until the load ends, then listens.
    pub(super) async fn run(mut self) {
        self.world.unfinished(true);
        let filters = [(Arc::clone(&self.filter), 1)];
        let mut is_subscribed = false;
        let mut older: Option<Connection> = None;
        let mut node = self.world.any_node();
        while self.world.phase() != Phase::Over {
            node = self.world.other_node(node);
            let [program, other] = &mut self.programs;
            let taken = program.connect(node, None).await;
            let failed = taken.is_none();
            if let Some(mut older) = older.take() {
                if !failed {
                    is_closed(&mut older).await;
                }
                other.cut(older).await;
            }
            let Some(mut connection) = taken else {
                sleep(RETRY).await;
                continue;
            };
            is_subscribed &= connection.present;
            is_subscribed = is_subscribed || connection.subscribe(&filters).await;
            if is_subscribed && self.listen(&mut connection).await {
                older = Some(connection);
                self.programs.swap(0, 1);
            } else {
                let [program, _] = &mut self.programs;
                program.cut(connection).await;
            }
        }
        if let (Some(older), [_, other]) = (older, &mut self.programs) {
            other.leave(older).await;
        }
        self.world.unfinished(false);
    }

    /// Until the connection ends (false), or it is time for the next takeover, or the run is over (true).
    async fn listen(&self, connection: &mut Connection) -> bool {
        let until = Instant::now() + Duration::from_millis(self.world.random(LASTS.0, LASTS.1));
        let mut phases = self.world.phases();
        let mut is_counted = false;
        let goes_on = loop {
            let phase = self.world.phase();
            if phase == Phase::Over {
                break true;
            }
            if phase == Phase::Settle && !is_counted {
                self.world.unfinished(false);
                is_counted = true;
            }
            select! {
                seen = connection.next() => if seen == Seen::Ended { break false },
                () = sleep_until(until), if phase == Phase::Load => break true,
                _ = phases.changed() => {}
            }
        };
        if is_counted {
            self.world.unfinished(true);
        }
        goes_on
    }
}

/// Waits until the server closes a connection.
async fn is_closed(connection: &mut Connection) {
    let deadline = Instant::now() + CLOSING;
    loop {
        select! {
            seen = connection.next() => if seen == Seen::Ended { return },
            () = sleep_until(deadline) => return,
        }
    }
}
