//! Messages that flow while pods come and go: one publisher, one subscriber, on two pods that stay.
//!
//! Start at [`Stream::start`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};
use zwerm_tests::{Client, Options, QoS, Version};

/// Between two messages: the shape of the load, nothing waits for it.
const PACE: Duration = Duration::from_millis(20);
const FENCE: &str = "fence";

/// A running publisher and its subscriber.
#[derive(Debug)]
pub(super) struct Stream {
    subscriber: Client,
    publisher: JoinHandle<Result<Published>>,
    stop: watch::Sender<bool>,
}

/// What a publisher did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    /// Messages that were acknowledged.
    pub(super) acknowledged: usize,
    /// The longest that one waited for its PUBACK.
    pub(super) longest: Duration,
}

impl Stream {
    /// Connects both and lets messages flow.
    ///
    /// # Errors
    /// When they cannot connect.
    pub(super) async fn start(name: &str, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let topic = format!("stream/{name}");
        let mut subscriber =
            Client::connect(Options::new(to, &format!("{name}-subscriber"), Version::V5)).await?;
        subscriber.subscribe(&topic, QoS::One).await?;
        let client = Client::connect(Options::new(from, &format!("{name}-publisher"), Version::V5)).await?;
        let (stop, stopped) = watch::channel(false);
        let publisher = spawn_local(publish(client, topic, stopped));
        Ok(Self { subscriber, publisher, stop })
    }

    /// Ends the flow; whether everything that was acknowledged has arrived, in order.
    ///
    /// # Errors
    /// When it has not.
    pub(super) async fn finish(mut self) -> Result<Published> {
        self.stop.send_replace(true);
        let mut wanted = 0;
        // Read while the publisher comes to its end: the subscriber's window is smaller than what may wait.
        for message in self.subscriber.until_fence(FENCE).await? {
            let number: usize = message.text().parse().context("not a number")?;
            ensure!(number <= wanted, "{wanted} is missing: {number} came");
            // What is less has come before: QoS 1 may bring it twice.
            wanted = wanted.max(number + 1);
        }
        let published = self.publisher.await.context("the publisher ended badly")??;
        ensure!(wanted == published.acknowledged, "{wanted} of {} arrived", published.acknowledged);
        Ok(published)
    }
}

async fn publish(mut client: Client, topic: String, stopped: watch::Receiver<bool>) -> Result<Published> {
    let mut published = Published { acknowledged: 0, longest: Duration::ZERO };
    while !*stopped.borrow() {
        let begin = Instant::now();
        client.publish(&topic, published.acknowledged.to_string().as_bytes(), QoS::One, false).await?;
        published.acknowledged += 1;
        published.longest = published.longest.max(begin.elapsed());
        sleep(PACE).await;
    }
    client.publish(&topic, FENCE.as_bytes(), QoS::One, false).await?;
    client.close().await?;
    Ok(published)
}
