//! The owner of durable clients is killed: they reconnect elsewhere and receive again.
//!
//! That it works is asserted; how long it takes is printed beside what the project promises.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use zwerm_tests::{Client, Cluster, DEADLINE, Message, Options, QoS, Version};

/// What the project promises: 99 of 100 clients receive again within this time.
const PROMISED: Duration = Duration::from_secs(3);
/// Longest single attempt to connect and receive, so that one that hangs is tried again; as patient as clients are.
const ATTEMPT: Duration = Duration::from_secs(10);
const CLIENTS: usize = 20;
const ROUNDS: usize = 6;

#[tokio::test]
async fn clients_of_a_killed_owner_receive_again_on_other_nodes_with_nothing_missing() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let mut waits = Vec::new();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (id, topic) = (format!("moving-{number}"), format!("moving/{number}"));
        let mut client = connect(cluster.mqtt(1), &id, number).await?;
        client.subscribe(&topic, QoS::One).await?;
        clients.push(Moving { number, client, next: 0 });
    }
    for round in 0..ROUNDS {
        let victim = round % 3 + 1;
        let others = [cluster.mqtt(victim % 3 + 1), cluster.mqtt((victim + 1) % 3 + 1)];
        publish_to_all(others[0], 3 * round).await?;
        for moving in &mut clients {
            moving.receive().await?;
        }
        // Sent while the owner still lives, perhaps delivered and not acknowledged when it dies.
        publish_to_all(others[1], 3 * round + 1).await?;
        cluster.node_mut(victim).kill().await?;
        let killed = Instant::now();
        let mut moves = JoinSet::new();
        for moving in clients.drain(..) {
            moves.spawn(moving.elsewhere(others, killed));
        }
        while let Some(moved) = moves.join_next().await {
            let (moving, took) = moved??;
            waits.push(took);
            clients.push(moving);
        }
        publish_to_all(others[1], 3 * round + 2).await?;
        for moving in &mut clients {
            moving.receive().await?;
            ensure!(moving.next == 3 * round + 3, "{} is at {}", moving.number, moving.next);
        }
        cluster.node_mut(victim).start()?;
        cluster.all_ready().await?;
        // The next victim is to own all of them.
        let home = cluster.mqtt(victim % 3 + 1);
        for moving in &mut clients {
            moving.client = connect(home, &format!("moving-{}", moving.number), moving.number).await?;
            ensure!(moving.client.session_present(), "{} lost its session", moving.number);
        }
    }
    report(&mut waits);
    drop(clients);
    cluster.finish().await
}

/// A durable client and the number of the message it waits for.
struct Moving {
    number: usize,
    client: Client,
    next: usize,
}

impl Moving {
    /// Receives the message that is due; what was received before may come again before it.
    async fn receive(&mut self) -> Result<()> {
        while !self.take().await? {}
        Ok(())
    }

    /// Receives one message; whether it was the one that was due.
    async fn take(&mut self) -> Result<bool> {
        let message: Message = self.client.next().await?;
        let number: usize = message.text().parse()?;
        ensure!(number <= self.next, "client {} waits for {}: {message:?}", self.number, self.next);
        self.client.acknowledge(&message).await?;
        let is_due = number == self.next;
        self.next += usize::from(is_due);
        Ok(is_due)
    }

    /// Connects to one of the living nodes and receives a message; how long after the kill it had it.
    async fn elsewhere(mut self, nodes: [SocketAddr; 2], killed: Instant) -> Result<(Self, Duration)> {
        let id = format!("moving-{}", self.number);
        let mut pace = interval(Duration::from_millis(20));
        for attempt in self.number.. {
            pace.tick().await;
            ensure!(killed.elapsed() < 2 * DEADLINE, "client {} does not receive again", self.number);
            let connecting = timeout(ATTEMPT, connect(nodes[attempt % 2], &id, self.number)).await;
            let Ok(Ok(client)) = connecting else { continue };
            self.client = client;
            if let Ok(Ok(())) = timeout(ATTEMPT, self.receive()).await {
                break;
            }
        }
        ensure!(self.client.session_present(), "client {} lost its session", self.number);
        Ok((self, killed.elapsed()))
    }
}

async fn connect(address: SocketAddr, id: &str, number: usize) -> Result<Client> {
    let version = if number.is_multiple_of(2) { Version::V311 } else { Version::V5 };
    Client::connect(Options::new(address, id, version).durable().acknowledging_itself()).await
}

/// Message `value` for each client.
async fn publish_to_all(address: SocketAddr, value: usize) -> Result<()> {
    let mut publisher = Client::connect(Options::new(address, "mover", Version::V5)).await?;
    for number in 0..CLIENTS {
        let topic = format!("moving/{number}");
        publisher
            .publish(&topic, value.to_string().as_bytes(), QoS::One, false)
            .await
            .with_context(|| format!("message {value}"))?;
    }
    publisher.close().await
}

fn report(waits: &mut [Duration]) {
    waits.sort();
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)].as_secs_f64();
    println!(
        "{} clients received again after their owner was killed: p50 {:.2} s, p99 {:.2} s, longest {:.2} s (promised: p99 {} s)",
        waits.len(),
        at(50),
        at(99),
        at(100),
        PROMISED.as_secs()
    );
}
