//! Keep alive (section 3.1.2.10): who is silent for one and a half times as long is cut off, who is not is not.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::answer::Answer;
use crate::case;
use crate::case::{Case, Env};
use crate::packet::{PINGREQ, Publish, id, reason};

pub(crate) const CASES: &[Case] = &[
    case!(a_silent_client_is_cut_off,
        V311 ["MQTT-3.1.2-24"],
        V5 ["MQTT-3.1.2-22", "MQTT-3.2.2-22"]),
    case!(a_client_that_pings_stays,
        V311 ["MQTT-3.1.2-23", "MQTT-3.12.4-1"],
        V5 ["MQTT-3.1.2-20", "MQTT-3.12.4-1"]),
    case!(what_is_sent_to_a_client_keeps_it_not_alive, V311["MQTT-3.1.2-24"], V5["MQTT-3.1.2-22"]),
];

/// One and a half times one second, less what clocks round away.
const ONE_AND_A_HALF: Duration = Duration::from_millis(1_490);

async fn a_silent_client_is_cut_off(env: Env) -> Result<()> {
    let mut client = env.connect(&env.hello("a").keep_alive(1)).await?;
    ensure!(client.connack.values(id::SERVER_KEEP_ALIVE).is_empty(), "{:?}", client.connack);
    client.quiet().await?;
    let since = Instant::now();
    client.send(PINGREQ).await?;
    client.expect(&Answer::PingResp).await?;
    client.ended(reason::KEEP_ALIVE).await?;
    let silent = since.elapsed();
    ensure!(silent >= ONE_AND_A_HALF, "cut off after {silent:?}");
    Ok(())
}

/// If this machine was too slow for a ping in time, once more.
async fn a_client_that_pings_stays(env: Env) -> Result<()> {
    loop {
        let (outcome, longest) = pings(&env, 2, Duration::from_secs(4)).await?;
        if outcome.is_ok() || longest < Duration::from_secs(2) {
            return outcome;
        }
    }
}

/// Pings for so long, and says how long the longest silence was.
async fn pings(env: &Env, keep_alive: u16, time: Duration) -> Result<(Result<()>, Duration)> {
    let mut client = env.connect(&env.hello("a").keep_alive(keep_alive)).await?;
    let (since, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while since.elapsed() < time {
        // that time passes is what is tested
        sleep(Duration::from_millis(100)).await;
        let outcome = client.quiet().await;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if outcome.is_err() {
            return Ok((outcome, longest));
        }
    }
    Ok((client.leave().await, longest))
}

async fn what_is_sent_to_a_client_keeps_it_not_alive(env: Env) -> Result<()> {
    let topic = env.topic("t");
    let mut client = env.connect(&env.hello("a").keep_alive(1)).await?;
    client.subscribe(&[(&topic, 0)]).await?;
    let mut publisher = env.client("p").await?;
    let since = Instant::now();
    // more than it may be silent: the messages must not count
    while since.elapsed() < Duration::from_millis(1_700) {
        publisher.publish(Publish::new(&topic, "x"), 0).await?;
        sleep(Duration::from_millis(100)).await;
    }
    client.cut_off(reason::KEEP_ALIVE).await
}
