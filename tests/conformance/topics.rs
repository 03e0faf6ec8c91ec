//! Topic names and filters (section 4.7): what matches, what is none.

use anyhow::{Result, ensure};

use crate::case;
use crate::case::{Case, Env};
use crate::header::ends;
use crate::packet::{Publish, reason, subscribe};

pub(crate) const CASES: &[Case] = &[
    case!(filters_match_as_written,
        V311 ["MQTT-4.7.1-1", "MQTT-4.7.3-4"],
        V5 ["MQTT-4.7.0-1", "MQTT-4.7.3-4"]),
    case!(misplaced_wildcards_end_the_connection,
        V311 ["MQTT-4.7.1-2", "MQTT-4.7.1-3"],
        V5 ["MQTT-4.7.1-1", "MQTT-4.7.1-2"]),
    case!(an_empty_filter_ends_the_connection, V311["MQTT-4.7.3-1"], V5["MQTT-4.7.3-1"]),
    case!(leading_wildcards_do_not_match_dollar_topics, V311["MQTT-4.7.2-1"], V5["MQTT-4.7.2-1"]),
    case!(topics_may_have_65535_bytes, V311["MQTT-4.7.3-3"], V5["MQTT-4.7.3-3"]),
];

/// Filter behind the prefix, topics that match, topics that do not.
const MATCHES: &[(&str, &[&str], &[&str])] = &[
    ("a", &["a"], &["A", "a/", "/a", "a ", "b", "aa"]),
    ("a/b", &["a/b"], &["a", "a/b/", "a//b", "A/b", "a/B"]),
    ("a/#", &["a", "a/", "a/b", "a/b/c", "a//"], &["b/a", "A/b", "aa"]),
    ("#", &["a", "a/b", "/", ""], &[]),
    ("+", &["a", ""], &["a/b", "a/", "/a"]),
    ("a/+", &["a/b", "a/"], &["a", "a/b/c", "a/b/"]),
    ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/d", "a/b/b/c"]),
    ("+/+", &["a/b", "/", "/a"], &["a", "a/b/c"]),
    ("a/+/#", &["a/b", "a/b/c", "a/"], &["a"]),
    ("/a", &["/a"], &["a"]),
    ("a b/\u{fc}", &["a b/\u{fc}"], &["a b/u\u{308}", "ab/\u{fc}"]),
    ("..", &[".."], &["."]),
];

async fn filters_match_as_written(env: Env) -> Result<()> {
    let mut publisher = env.client("p").await?;
    for (number, (filter, matching, others)) in MATCHES.iter().enumerate() {
        let base = env.topic(&format!("n{number}"));
        let mut client = env.client("s").await?;
        client.subscribe(&[(&format!("{base}/{filter}"), 0), (&env.topic("fence"), 0)]).await?;
        for rest in others.iter().chain(*matching) {
            publisher.publish(Publish::new(format!("{base}/{rest}"), rest), 0).await?;
        }
        publisher.publish(Publish::new(env.topic("fence"), "fence"), 0).await?;
        let mut seen = Vec::new();
        loop {
            let text = client.receive().await?.text();
            if text == "fence" {
                break;
            }
            seen.push(text);
        }
        ensure!(seen == *matching, "filter {filter:?} matched {seen:?}, expected {matching:?}");
    }
    Ok(())
}

async fn misplaced_wildcards_end_the_connection(env: Env) -> Result<()> {
    for filter in ["a#", "#a", "a/#/b", "##", "a/b#", "#/", "a+", "+a", "a/b+/c", "++", "a/+b"] {
        let bytes = subscribe(env.version, 1, &[], &[("fine", 0), (filter, 0)]);
        ends(&env, filter, bytes, &[reason::TOPIC_FILTER, reason::MALFORMED]).await?;
    }
    Ok(())
}

async fn an_empty_filter_ends_the_connection(env: Env) -> Result<()> {
    let codes = [reason::TOPIC_FILTER, reason::MALFORMED, reason::PROTOCOL_ERROR];
    ends(&env, "empty filter", subscribe(env.version, 1, &[], &[("", 0)]), &codes).await
}

/// No other case uses these topics: each version has its own.
async fn leading_wildcards_do_not_match_dollar_topics(env: Env) -> Result<()> {
    let dollar = format!("$dollar{}", env.prefix);
    let topic = format!("{dollar}/a");
    let mut named = env.client("n").await?;
    named.subscribe(&[(&format!("{dollar}/#"), 0), (&format!("{dollar}/+"), 0)]).await?;
    let mut wild = env.client("w").await?;
    wild.subscribe(&[(&env.topic("fence"), 0), ("+/a", 0), ("#", 0)]).await?;
    let mut publisher = env.client("p").await?;
    publisher.publish(Publish::new(&topic, "dollar"), 0).await?;
    publisher.publish(Publish::new(env.topic("fence"), "fence"), 0).await?;
    named.receives("dollar").await?;
    named.receives("dollar").await?;
    loop {
        // "#" brings what other cases publish too
        let message = wild.receive().await?;
        ensure!(message.topic != topic, "a wildcard in front matched {topic}");
        if message.topic == env.topic("fence") {
            return Ok(());
        }
    }
}

async fn topics_may_have_65535_bytes(env: Env) -> Result<()> {
    let start = env.topic("long/");
    let topic = format!("{start}{}", "x".repeat(usize::from(u16::MAX) - start.len()));
    let (mut exact, mut wild, mut publisher) =
        (env.client("s").await?, env.client("w").await?, env.client("p").await?);
    exact.subscribe(&[(&topic, 1)]).await?;
    wild.subscribe(&[(&env.topic("long/+"), 1)]).await?;
    publisher.publish(Publish::new(&topic, "arrived"), 1).await?;
    for client in [&mut exact, &mut wild] {
        let message = client.receives("arrived").await?;
        ensure!(message.topic == topic, "the topic came with {} bytes", message.topic.len());
    }
    Ok(())
}
