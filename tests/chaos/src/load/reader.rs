//! A client that connects to any node, subscribes to retained messages, and goes again.
//!
//! Start at [`Reader::run`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::{sleep, timeout};

use super::RETRY;
use crate::client::{Client, Connection, Seen};
use crate::world::{Phase, World};

/// Milliseconds it stays after the SUBACK.
const STAYS: (u64, u64) = (50, 500);

/// The client and what it reads.
pub(super) struct Reader {
    world: Rc<World>,
    client: Client,
    filters: [(Arc<str>, u8); 1],
}

impl Reader {
    /// One that has never connected.
    pub(super) fn new(world: Rc<World>, client: Client, filter: &str) -> Self {
        Self { world, client, filters: [(filter.into(), 1)] }
    }

    /// Reads until the load ends, and once more: the last read stays until the run is over.
    pub(super) async fn run(mut self) {
        self.world.unfinished(true);
        while self.world.phase() == Phase::Load {
            match self.client.connect(self.world.any_node(), None).await {
                Some(mut connection) => {
                    self.read(&mut connection).await;
                    self.client.leave(connection).await;
                }
                None => sleep(RETRY).await,
            }
        }
        self.read_to_the_end().await;
    }

    /// Subscribes, and listens for a moment; whether the connection still holds then.
    async fn read(&self, connection: &mut Connection) -> bool {
        if !connection.subscribe(&self.filters).await {
            return false;
        }
        let stays = Duration::from_millis(self.world.random(STAYS.0, STAYS.1));
        let ended = async { while connection.next().await != Seen::Ended {} };
        timeout(stays, ended).await.is_err()
    }

    async fn read_to_the_end(&mut self) {
        let mut phases = self.world.phases();
        while self.world.phase() != Phase::Over {
            let Some(mut connection) = self.client.connect(self.world.any_node(), None).await else {
                sleep(RETRY).await;
                continue;
            };
            if self.read(&mut connection).await {
                self.world.unfinished(false);
                while self.world.phase() != Phase::Over {
                    select! {
                        seen = connection.next() => if seen == Seen::Ended { break },
                        _ = phases.changed() => {}
                    }
                }
                self.world.unfinished(true);
            }
            self.client.leave(connection).await;
        }
        self.world.unfinished(false);
    }
}
