//! A retained value is seen by whoever subscribes after its acknowledgement, on any node.
//!
//! Many pairs of a publisher and a subscriber, each with its own topic, so that the rounds of one pair wait for
//! the disk together with those of the others.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use zwerm_tests::{Client, Cluster, Options, QoS, Version};

const PAIRS: usize = 50;
const ROUNDS: usize = 200;

#[tokio::test]
async fn a_subscribe_after_the_puback_of_a_retained_message_sees_it_ten_thousand_times_of_ten_thousand()
-> Result<()> {
    let cluster = Cluster::start(3).await?;
    let began = Instant::now();
    let mut pairs = JoinSet::new();
    for pair in 0..PAIRS {
        let (source, target) = (cluster.mqtt(1), cluster.mqtt(3));
        pairs.spawn(async move {
            let publisher = Client::connect(Options::new(source, &format!("writer-{pair}"), Version::V5));
            let subscriber = Client::connect(Options::new(target, &format!("reader-{pair}"), Version::V311));
            rounds(pair, publisher.await?, subscriber.await?).await
        });
    }
    let mut seen = 0;
    while let Some(done) = pairs.join_next().await {
        seen += done??;
    }
    let took = began.elapsed().as_secs_f64();
    println!("{seen} of {} reads saw the value acknowledged before, in {took:.1} s", PAIRS * ROUNDS);
    ensure!(seen == PAIRS * ROUNDS);
    cluster.finish().await
}

/// Publishes and reads back [`ROUNDS`] values; returns how many were seen.
async fn rounds(pair: usize, mut publisher: Client, mut subscriber: Client) -> Result<usize> {
    let topic = format!("value/{pair}");
    let mut seen = 0;
    for round in 0..ROUNDS {
        let value = format!("{pair} in round {round}");
        publisher.publish(&topic, value.as_bytes(), QoS::One, true).await?;
        subscriber.subscribe(&topic, QoS::One).await?;
        let message = subscriber.next().await.with_context(|| format!("{topic}: {value:?} is not there"))?;
        ensure!(message.retain, "not retained: {message:?}");
        ensure!(message.text() == value, "{topic}: {value:?} was acknowledged, {message:?} came");
        subscriber.unsubscribe(&topic).await?;
        seen += 1;
    }
    publisher.close().await?;
    subscriber.close().await?;
    Ok(seen)
}
