//! Retained messages are linearizable from every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use zwerm_cluster::NodeId;
use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_machine::records::{Message, Retain};
use zwerm_wire::TopicFilter;

use crate::fixture::{World, soon, until};
use crate::recorder::App;

fn message(topic: &str, payload: &str) -> Retain {
    let message = Message {
        topic: topic.to_owned(),
        payload: payload.to_owned().into(),
        retain: true,
        ..Message::default()
    };
    Retain { message: Some(message), ..Retain::default() }
}

/// Keeps a message and waits until that is safe.
pub async fn keep(world: &World<App>, node: NodeId, topic: &str, payload: &str) {
    let (bell, cluster) = (Bell::new(), world.cluster(node));
    let receipt = Receipt::new(bell.clone());
    cluster.retain(topic, || message(topic, payload), || receipt.ticket()).unwrap();
    soon("a message is kept", bell.wait()).await;
    assert!(receipt.is_complete() && !receipt.has_failed());
}

/// Keeps so many messages of 2,000 bytes.
async fn keep_many(world: &World<App>, prefix: &str, topics: usize) {
    let receipt = Receipt::new(Bell::new());
    let last = receipt.ticket();
    for number in 0..topics {
        let topic = format!("{prefix}/{number}");
        let cluster = world.cluster(1);
        soon("there is room", cluster.wait_retain(&topic)).await;
        cluster.retain(&topic, || message(&topic, &"v".repeat(2_000)), || receipt.ticket()).unwrap();
    }
    drop(last);
    until("all are kept", || receipt.is_complete()).await;
}

/// Topics and payloads that match, in order of topics.
pub async fn read(world: &World<App>, node: NodeId, filter: &str) -> Vec<(String, String)> {
    let (into, mut batches) = mpsc::channel(1);
    let filter = TopicFilter::new(filter).unwrap();
    let reading = async {
        let read = world.cluster(node).retained(&filter, &into).await;
        drop(into);
        read.unwrap();
    };
    let mut found = BTreeMap::new();
    let taking = async {
        while let Some(batch) = batches.recv().await {
            for message in batch {
                let payload = String::from_utf8(message.payload.to_vec()).unwrap();
                assert_eq!(found.insert(message.topic.clone(), payload), None, "each topic comes once");
            }
        }
    };
    soon("a retained read", async { tokio::join!(reading, taking) }).await;
    found.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_what_any_node_kept_as_soon_as_that_is_safe() {
    let world = World::formed().await;
    for round in 0..30 {
        let (topic, value) = (format!("t/{}", round % 7), round.to_string());
        keep(&world, round % 3 + 1, &topic, &value).await;
        for node in 1..=3 {
            assert_eq!(read(&world, node, &topic).await, [(topic.clone(), value.clone())]);
        }
    }
    keep(&world, 1, "t/0", "").await;
    for node in 1..=3 {
        assert!(read(&world, node, "t/0").await.is_empty(), "an empty message deletes");
        assert_eq!(read(&world, node, "t/+").await.len(), 6);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_read_streams_more_than_one_batch_from_each_shard() {
    const TOPICS: usize = 1_500;
    let world = World::formed().await;
    let bell = Bell::new();
    let receipt = Receipt::new(bell.clone());
    // Complete only when all are in: this ticket is the last to go.
    let last = receipt.ticket();
    for number in 0..TOPICS {
        let topic = format!("many/{number:04}");
        let cluster = world.cluster(1);
        soon("there is room", cluster.wait_retain(&topic)).await;
        cluster.retain(&topic, || message(&topic, "v"), || receipt.ticket()).unwrap();
    }
    drop(last);
    until("all are kept", || receipt.is_complete()).await;
    assert!(!receipt.has_failed());
    for node in 1..=3 {
        let found = read(&world, node, "many/#").await;
        assert_eq!(found.len(), TOPICS);
        assert!(found.iter().zip(0..).all(|((topic, _), number)| *topic == format!("many/{number:04}")));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_breaks_midway_goes_on_and_brings_each_topic_once() {
    const TOPICS: usize = 4_000;
    let world = World::formed().await;
    keep_many(&world, "cut", TOPICS).await;
    let (into, mut batches) = mpsc::channel(1);
    let filter = TopicFilter::new("cut/#").unwrap();
    let reading = async {
        let read = world.cluster(1).retained(&filter, &into).await;
        drop(into);
        read.unwrap();
    };
    let mut found = BTreeMap::new();
    let cutting = async {
        while let Some(batch) = batches.recv().await {
            for message in batch {
                assert!(found.insert(message.topic.clone(), ()).is_none(), "{} came twice", message.topic);
            }
            // Again and again; what was read of each shard stays read.
            for other in ["n2", "n3"] {
                if found.len() % 5 == 0 {
                    world.net.cut("n1", other);
                    world.net.heal("n1", other);
                }
            }
        }
    };
    soon("the read ends", async { tokio::join!(reading, cutting) }).await;
    assert_eq!(found.len(), TOPICS);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_ends_the_reading_on_the_other_nodes() {
    let world = World::formed().await;
    keep_many(&world, "gone", 4_000).await;
    for _ in 0..3 {
        let (into, mut batches) = mpsc::channel(1);
        let filter = TopicFilter::new("#").unwrap();
        let reading = world.cluster(1).retained(&filter, &into);
        let leaving = async {
            batches.recv().await.unwrap();
            batches.close();
        };
        let (read, ()) = soon("the read ends early", async { tokio::join!(reading, leaving) }).await;
        read.unwrap();
    }
    // A reading that goes on would hold the state that it reads.
    let states: Vec<_> = (1..=3)
        .flat_map(|node| world.cluster(node).shard_views().values().cloned().collect::<Vec<_>>())
        .map(|view| Arc::downgrade(&view.state()))
        .collect();
    for number in 0..64 {
        keep(&world, 2, &format!("gone/{number}"), "new").await;
    }
    until("nobody reads any more", || states.iter().all(|state| state.upgrade().is_none())).await;
    world.stop().await;
}
