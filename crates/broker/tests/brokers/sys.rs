//! `$SYS` topics: what a node tells its own clients, and those of all nodes.

use zwerm_broker::{Config, Reach, Teller};
use zwerm_wire::{QoS, ReasonCode, TopicName};

use crate::client::{Brokers, Client, line, publish};

fn values(uptime: &str) -> Vec<(TopicName, Reach, String)> {
    let value = |topic, reach, value: &str| (TopicName::new(topic).unwrap(), reach, value.to_owned());
    vec![
        value("$SYS/broker/uptime", Reach::Node, uptime),
        value("$SYS/broker/version", Reach::Node, "zwerm"),
        value("$SYS/brokers/n1/uptime", Reach::Cluster, uptime),
    ]
}

async fn subscribe(client: &mut Client, filter: &str) {
    client.subscribe(vec![line(filter, QoS::AtLeastOnce)], 0).await;
}

/// Topic's last level, payload and retain flag of what came.
fn seen(client: &Client) -> Vec<(String, String, bool)> {
    let seen = client.taken.iter().map(|delivery| {
        let topic = delivery.message.topic().rsplit('/').next().unwrap().to_owned();
        (topic, String::from_utf8(delivery.message.payload().to_vec()).unwrap(), delivery.retain)
    });
    seen.collect()
}

fn live(topic: &str, payload: &str) -> (String, String, bool) {
    (topic.into(), payload.into(), false)
}

fn kept(topic: &str, payload: &str) -> (String, String, bool) {
    (topic.into(), payload.into(), true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_its_clients_what_changes_and_new_subscriptions_what_is() {
    let world = Brokers::formed(Config::default()).await;
    let mut teller = Teller::new(world.app(1));
    for durable in [false, true] {
        let mut early =
            if durable { world.durable(1, "early").await } else { world.client(1, "early").await };
        teller.tell(values("0"));
        subscribe(&mut early, "$SYS/broker/#").await;
        early.payloads(2).await;
        assert_eq!(seen(&early), [kept("uptime", "0"), kept("version", "zwerm")]);
        teller.tell(values("10"));
        early.payloads(3).await;
        assert_eq!(seen(&early)[2..], [live("uptime", "10")], "the version is as it was");
    }
    let mut all = world.client(1, "all").await;
    subscribe(&mut all, "#").await;
    subscribe(&mut all, "$SYS/broker/version").await;
    all.payloads(1).await;
    assert_eq!(seen(&all), [kept("version", "zwerm")], "a wildcard does not match the first level (4.7.2)");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_other_nodes_hear_what_is_for_the_cluster() {
    let world = Brokers::formed(Config::default()).await;
    let mut teller = Teller::new(world.app(1));
    let mut far = world.client(2, "far").await;
    subscribe(&mut far, "$SYS/#").await;
    let mut shared = world.client(1, "shared").await;
    subscribe(&mut shared, "$share/g/$SYS/broker/uptime").await;
    teller.tell(values("0"));
    far.payloads(1).await;
    assert_eq!(seen(&far), [live("uptime", "0")]);
    assert_eq!(&**far.taken[0].message.topic(), "$SYS/brokers/n1/uptime");
    shared.payloads(1).await;
    assert_eq!(seen(&shared), [live("uptime", "0")]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_publish_there() {
    let world = Brokers::formed(Config::default()).await;
    let mut watcher = world.client(1, "watcher").await;
    subscribe(&mut watcher, "$SYS/#").await;
    subscribe(&mut watcher, "fence").await;
    let mut transient = world.client(1, "transient").await;
    let mut durable = world.durable(2, "durable").await;
    for client in [&mut transient, &mut durable] {
        client.offer(publish("$SYS/broker/uptime", "lie", QoS::AtMostOnce, 0));
        for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
            let reason = client.publish_accepted(publish("$SYS/broker/uptime", "lie", qos, id)).await;
            assert_eq!(reason, ReasonCode::TopicNameInvalid);
        }
    }
    transient.publish_accepted(publish("fence", "fence", QoS::AtLeastOnce, 3)).await;
    watcher.payloads(1).await;
    assert_eq!(watcher.taken_payloads(), ["fence"]);
    world.end().await;
}
