//! A client with a will, which ends its connections in every way there is.
//!
//! Each connection has a will of its own. Start at [`Testator::run`].

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};
use zwerm_oracle::Will;

use super::RETRY;
use crate::client::{Client, Connection, Seen};
use crate::network::Side;
use crate::world::{Phase, World};

/// Milliseconds that a connection lasts.
const LASTS: (u64, u64) = (1_000, 8_000);
/// Milliseconds between two connections: shorter and longer than the delay of a will.
const AWAY: (u64, u64) = (0, 8_000);

/// The client and its wills.
pub(super) struct Testator {
    world: Rc<World>,
    client: Client,
    /// The same client from elsewhere: it takes over.
    twin: Client,
    topic: Arc<str>,
    /// Seconds.
    delay: u32,
}

impl Testator {
    /// One that has never connected.
    pub(super) fn new(world: Rc<World>, client: Client, delay: u32) -> Self {
        let (twin, topic) = (client.twin(), format!("chaos/will/{}", client.id()).into());
        Self { world, client, twin, topic, delay }
    }

    fn will(&self) -> Option<Will> {
        let (message, topic) = (self.world.number(), Arc::clone(&self.topic));
        Some(Will { message, topic, qos: 2, retain: false, delay: self.delay })
    }

    /// Connects and ends until the load ends.
    pub(super) async fn run(mut self) {
        self.world.unfinished(true);
        while self.world.phase() == Phase::Load {
            let (node, will) = (self.world.any_node(), self.will());
            match self.client.connect(node, will).await {
                Some(connection) => self.live(connection, node).await,
                None => sleep(RETRY).await,
            }
        }
        self.world.unfinished(false);
    }

    async fn live(&mut self, mut connection: Connection, node: Side) {
        if !self.lasts(&mut connection).await {
            return self.client.cut(connection).await;
        }
        match self.world.random(0, 2) {
            0 => self.client.cut(connection).await,
            1 => self.client.leave(connection).await,
            _ => {
                let (elsewhere, will) = (self.world.other_node(node), self.will());
                let taken = self.twin.connect(elsewhere, will).await;
                if let Some(mut taken) = taken {
                    self.lasts(&mut taken).await;
                    self.twin.cut(taken).await;
                }
                self.client.cut(connection).await;
            }
        }
        self.wait(AWAY).await;
    }

    /// Holds a connection for some time; false when it ended before.
    async fn lasts(&self, connection: &mut Connection) -> bool {
        let until = Instant::now() + Duration::from_millis(self.world.random(LASTS.0, LASTS.1));
        let mut phases = self.world.phases();
        loop {
            select! {
                seen = connection.next() => if seen == Seen::Ended { return false },
                () = sleep_until(until) => return true,
                _ = phases.changed() => return true,
            }
        }
    }

    async fn wait(&self, (from, to): (u64, u64)) {
        let mut phases = self.world.phases();
        select! {
            () = sleep(Duration::from_millis(self.world.random(from, to))) => {}
            _ = phases.changed() => {}
        }
    }
}
