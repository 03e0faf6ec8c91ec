//! Messages that flow while pods come and go: one publisher, on a pod that stays, and one subscriber.
//!
//! Start at [`Stream::start`].

use std::collections::VecDeque;
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
    subscriber: JoinHandle<Result<usize>>,
    publisher: JoinHandle<Result<Published>>,
    stop: watch::Sender<bool>,
}

/// What a publisher did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    /// Messages that were acknowledged.
    pub(super) acknowledged: usize,
    /// The longest that one waited for its PUBACK or PUBCOMP.
    pub(super) longest: Duration,
}

impl Stream {
    /// Connects both and lets messages flow. The subscriber goes on at the next pod of `to` when the one before ends.
    /// Its session lasts as long as its connection with QoS 1 and one pod; otherwise it is durable, and a shard keeps it.
    ///
    /// # Errors
    /// When they cannot connect.
    pub(super) async fn start(name: &str, qos: QoS, from: SocketAddr, to: &[SocketAddr]) -> Result<Self> {
        let topic = format!("stream/{name}");
        let durable = qos == QoS::Two || to.len() > 1;
        let mut pods = to.iter().map(|at| {
            let options = Options::new(*at, &format!("{name}-subscriber"), Version::V5);
            if durable { options.durable() } else { options }
        });
        let mut subscriber = Client::connect(pods.next().context("no pod to subscribe at")?).await?;
        subscriber.subscribe(&topic, qos).await?;
        let next: VecDeque<Options> = pods.collect();
        let client = Client::connect(Options::new(from, &format!("{name}-publisher"), Version::V5)).await?;
        let (stop, stopped) = watch::channel(false);
        let publisher = spawn_local(publish(client, topic, qos, stopped));
        let subscriber = spawn_local(read(subscriber, qos, next));
        Ok(Self { subscriber, publisher, stop })
    }

    /// Ends the flow; whether everything that was acknowledged has arrived, in order, and with QoS 2 once.
    ///
    /// # Errors
    /// When it has not.
    pub(super) async fn finish(self) -> Result<Published> {
        self.stop.send_replace(true);
        // What is missing says more than that the publisher waits.
        let arrived = self.subscriber.await.context("the subscriber ended badly")??;
        let published = self.publisher.await.context("the publisher ended badly")??;
        ensure!(arrived == published.acknowledged, "{arrived} of {} arrived", published.acknowledged);
        Ok(published)
    }
}

/// Reads up to the fence, at one pod after the other; how many different messages came.
async fn read(mut subscriber: Client, qos: QoS, mut next: VecDeque<Options>) -> Result<usize> {
    let mut wanted = 0;
    loop {
        let message = match subscriber.next().await {
            Ok(message) => message.text(),
            Err(error) => {
                let options =
                    next.pop_front().ok_or(error).with_context(|| format!("waiting for {wanted}"))?;
                subscriber = Client::connect(options).await?;
                ensure!(subscriber.session_present(), "the session is gone");
                continue;
            }
        };
        if message == FENCE {
            ensure!(next.is_empty(), "the subscriber's pod did not end");
            return Ok(wanted);
        }
        let number: usize = message.parse().context("not a number")?;
        ensure!(number <= wanted, "{wanted} is missing: {number} came");
        // What is less has come before: QoS 1 may bring it twice.
        ensure!(number == wanted || qos == QoS::One, "{number} came twice");
        wanted = wanted.max(number + 1);
    }
}

async fn publish(
    mut client: Client,
    topic: String,
    qos: QoS,
    stopped: watch::Receiver<bool>,
) -> Result<Published> {
    let mut published = Published { acknowledged: 0, longest: Duration::ZERO };
    while !*stopped.borrow() {
        let begin = Instant::now();
        client.publish(&topic, published.acknowledged.to_string().as_bytes(), qos, false).await?;
        published.acknowledged += 1;
        published.longest = published.longest.max(begin.elapsed());
        sleep(PACE).await;
    }
    client.publish(&topic, FENCE.as_bytes(), qos, false).await?;
    client.close().await?;
    Ok(published)
}
