//! Exclusive subscriptions (`$exclusive/filter`): not of the specification, but of several brokers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::client::Client;
use crate::header::ends;
use crate::packet::{Publish, reason, subscribe, unsubscribe};

pub(crate) const CASES: &[Case] = &[
    case!(a_filter_has_one_client_at_a_time, V311[], V5[]),
    case!(a_session_that_is_away_keeps_its_filter, V311[], V5[]),
    case!(a_malformed_filter_ends_the_connection, V311[], V5[]),
];

/// How long a filter may take to become free after its client is gone.
const PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    async fn asks(&mut self, filter: &str) -> Result<u8> {
        Ok(self.subscribe_codes(&[], &[(filter, 1)]).await?[0])
    }

    async fn is_refused(&mut self, filter: &str, env: &Env) -> Result<()> {
        let (code, expected) = (self.asks(filter).await?, if env.is_v5() { reason::QUOTA } else { 0x80 });
        ensure!(code == expected, "{filter}: code {code:#04x}");
        Ok(())
    }

    /// Asks until the filter is free: a connection's end is known everywhere a moment after it.
    async fn gets_in_the_end(&mut self, filter: &str) -> Result<()> {
        let since = Instant::now();
        while self.asks(filter).await? != 1 {
            ensure!(since.elapsed() < PATIENCE, "{filter} does not become free");
        }
        Ok(())
    }
}

async fn a_filter_has_one_client_at_a_time(env: Env) -> Result<()> {
    let (topic, filter) = (env.topic("t/1"), format!("$exclusive/{}", env.topic("t/+")));
    let (mut one, mut two) = (env.client("one").await?, env.client("two").await?);
    let mut publisher = env.client("p").await?;
    ensure!(one.asks(&filter).await? == 1);
    two.is_refused(&filter, &env).await?;
    let codes = two.subscribe_codes(&[], &[(&topic, 0), (&filter, 1), (&env.topic("u"), 1)]).await?;
    ensure!((codes[0], codes[2]) == (0, 1), "codes {codes:02x?}");
    two.unsubscribe(&[&topic]).await?;
    publisher.publish(Publish::new(&topic, "for one"), 1).await?;
    one.receives("for one").await?;
    one.unsubscribe(&[&filter]).await?;
    ensure!(two.asks(&filter).await? == 1);
    publisher.publish(Publish::new(&topic, "for two"), 1).await?;
    two.receives("for two").await?;
    two.leave().await?;
    one.gets_in_the_end(&filter).await?;
    publisher.publish(Publish::new(&topic, "for one again"), 1).await?;
    one.receives("for one again").await.map(drop)
}

async fn a_session_that_is_away_keeps_its_filter(env: Env) -> Result<()> {
    let (topic, filter) = (env.topic("t"), format!("$exclusive/{}", env.topic("t")));
    let mut holder = env.connect(&env.durable("holder")).await?;
    ensure!(holder.asks(&filter).await? == 1);
    holder.leave().await?;
    let mut other = env.client("other").await?;
    other.is_refused(&filter, &env).await?;
    other.publish(Publish::new(&topic, "away"), 1).await?;
    let mut holder = env.connect(&env.durable("holder")).await?;
    holder.receives("away").await?;
    other.is_refused(&filter, &env).await?;
    holder.leave().await?;
    env.client("holder").await?.leave().await?;
    other.gets_in_the_end(&filter).await
}

async fn a_malformed_filter_ends_the_connection(env: Env) -> Result<()> {
    for filter in [
        "$exclusive",
        "$exclusive/",
        "$exclusive/$share/g/t",
        "$exclusive/$exclusive/t",
        "$exclusive/a#",
        "$share/g/$exclusive/t",
    ] {
        for bytes in [subscribe(env.version, 1, &[], &[(filter, 0)]), unsubscribe(env.version, 1, &[filter])]
        {
            ends(&env, filter, bytes, &[reason::TOPIC_FILTER]).await?;
        }
    }
    Ok(())
}
