//! Queues of durable sessions: read from any node, each message once, whatever breaks.

use std::sync::atomic::Ordering;

use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_cluster::{GroupStatus, NodeId, QueueReader, QueuedMessage};
use zwerm_machine::records::{
    Acknowledge, Claim, Claimed, Deliver, Enqueue, Message, Refusal, Subscribe, Subscription,
};
use zwerm_wire::QoS;

use crate::fixture::{World, soon, until};
use crate::recorder::App;

pub type Cluster = World<App>;

pub const CLIENT: &str = "c";

fn claim_of(world: &Cluster, node: NodeId) -> Claim {
    Claim {
        client_id: CLIENT.to_owned(),
        node,
        incarnation: world.cluster(node).own.incarnation(),
        expiry_s: 3_600,
        ..Claim::default()
    }
}

/// Makes a node the owner of the session; the epoch.
pub async fn claim(world: &Cluster, node: NodeId) -> u64 {
    let claim = claim_of(world, node);
    soon("a claim", world.cluster(node).claim(claim)).await.unwrap().epoch
}

/// A node owns the session, which wants topic `t` with QoS 1.
pub async fn subscribed(world: &Cluster, node: NodeId) -> u64 {
    let epoch = claim(world, node).await;
    let subscription = Subscription { filter: "t".to_owned(), qos: 1, ..Subscription::default() };
    let subscribe =
        Subscribe { client_id: CLIENT.to_owned(), epoch, subscriptions: vec![subscription], replay: false };
    soon("a subscription", world.cluster(node).subscribe(subscribe)).await.unwrap();
    epoch
}

pub fn shard(world: &Cluster) -> u32 {
    let any = world.nodes.values().next().unwrap();
    any.cluster.shard_of(CLIENT).unwrap()
}

/// The nodes that hold the session's shard, once all of them have opened it, and those that do not.
pub async fn holders(world: &Cluster) -> (Vec<NodeId>, Vec<NodeId>) {
    let shard = shard(world);
    let mut parted = (Vec::new(), Vec::new());
    until("three nodes have opened the shard", || {
        parted = world.nodes.keys().partition(|node| world.cluster(**node).shard_view(shard).is_some());
        parted.0.len() == 3
    })
    .await;
    parted
}

/// What a node shows of the session's shard, once it has opened it.
fn group(world: &Cluster, node: NodeId) -> Option<GroupStatus> {
    let shard = shard(world);
    let groups = world.cluster(node).status().groups;
    groups.into_iter().find(|group| group.id.0 == shard + 1)
}

/// Who leads the session's shard, as a node that holds it knows.
pub async fn leader(world: &Cluster, node: NodeId) -> NodeId {
    let mut leader = None;
    until("the shard has a leader", || {
        leader = group(world, node).and_then(|group| group.leader);
        leader.is_some()
    })
    .await;
    leader.unwrap()
}

fn payload(number: u64) -> String {
    // Every tenth is more than one value of the engine; all of some hundreds are more than is kept in memory.
    let size = if number.is_multiple_of(10) { 100_000 } else { 10 };
    format!("{}{number:010}", "0".repeat(size - 10))
}

fn message(number: u64) -> Option<Message> {
    Some(Message { topic: "t".to_owned(), payload: payload(number).into(), qos: 1, ..Message::default() })
}

/// Hands messages to the shard from a node, in order, waiting for room only.
async fn enqueue(world: &Cluster, node: NodeId, numbers: std::ops::Range<u64>, receipt: &Receipt) {
    let (cluster, shard) = (world.cluster(node), shard(world));
    for number in numbers {
        let enqueue = || Enqueue { message: message(number), plain: true, ..Enqueue::default() };
        while cluster.enqueue(shard, enqueue, || receipt.ticket()).is_err() {
            soon("there is room", cluster.wait_shard(shard)).await;
        }
    }
}

/// Hands messages over and waits until they are safe.
pub async fn publish(world: &Cluster, node: NodeId, numbers: std::ops::Range<u64>) {
    let receipt = Receipt::new(Bell::new());
    enqueue(world, node, numbers, &receipt).await;
    until("all are queued", || receipt.is_complete()).await;
    assert_eq!(receipt.refusal(), None);
}

/// Reads on until there are so many.
async fn read_on(reader: &mut QueueReader, bell: &Bell, taken: &mut Vec<QueuedMessage>, count: usize) {
    const MAX: usize = 32;
    while taken.len() < count {
        let (before, after) = (taken.len(), taken.last().map_or(0, |last| last.position));
        reader.read(after, MAX, taken);
        if taken.len() < before + MAX && taken.len() < count {
            soon("there is more to read", bell.wait()).await;
        }
    }
}

/// Reads what waits behind position 0, until there are so many.
pub async fn take(world: &Cluster, node: NodeId, epoch: u64, count: usize) -> Vec<QueuedMessage> {
    let (bell, mut taken) = (Bell::new(), Vec::new());
    let mut reader = world.cluster(node).queue(CLIENT, epoch, bell.clone());
    read_on(&mut reader, &bell, &mut taken, count).await;
    taken
}

/// They are numbers 0 to `count`, in order and once.
pub fn assert_whole(taken: &[QueuedMessage], count: u64) {
    let found = taken.iter().map(|queued| queued.message.payload.clone());
    let wanted = (0..count).map(payload);
    let different = found.zip(wanted).position(|(found, wanted)| found != wanted.as_bytes());
    assert_eq!((taken.len() as u64, different), (count, None));
    assert!(taken.is_sorted_by(|one, next| one.position < next.position));
    assert!(taken.iter().all(|queued| queued.qos == QoS::AtLeastOnce && !queued.group));
}

pub async fn acknowledge(world: &Cluster, node: NodeId, epoch: u64, done: Vec<u64>) -> Receipt {
    let receipt = Receipt::new(Bell::new());
    let acknowledge = || Acknowledge { client_id: CLIENT.to_owned(), epoch, done, received: Vec::new() };
    world.cluster(node).acknowledge(shard(world), acknowledge, || Some(receipt.ticket())).unwrap();
    until("an answer", || receipt.is_complete()).await;
    receipt
}

/// What a reader gives at once.
fn glance(reader: &mut QueueReader) -> usize {
    let mut taken = Vec::new();
    reader.read(0, 10, &mut taken);
    taken.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_read_on_every_node_with_a_replica_and_without_one() {
    let world = Cluster::formed_of(5).await;
    let (with, without) = holders(&world).await;
    assert_eq!(without.len(), 2);
    subscribed(&world, 1).await;
    let mut queued = 0;
    for node in without.into_iter().chain(with) {
        let epoch = claim(&world, node).await;
        // The reader waits before they come, and reads again what all before it read.
        let all = queued + 150;
        let receipt = Receipt::new(Bell::new());
        let count = usize::try_from(all).unwrap();
        let publisher = node % 5 + 1;
        let (taken, ()) =
            tokio::join!(take(&world, node, epoch, count), enqueue(&world, publisher, queued..all, &receipt));
        assert_whole(&taken, all);
        queued = all;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_owner_reads_nothing_and_acknowledges_nothing() {
    let world = Cluster::formed_of(5).await;
    let (with, without) = holders(&world).await;
    for (position, node) in [(1, with[0]), (2, without[0])] {
        let old = subscribed(&world, node).await;
        let bell = Bell::new();
        let mut reader = world.cluster(node).queue(CLIENT, old, bell.clone());
        assert_eq!(glance(&mut reader), 0);
        let new = claim(&world, with[1]).await;
        soon("the owner before is woken", bell.wait()).await;
        publish(&world, 1, 0..1).await;
        until("the newer owner reads", || {
            glance(&mut world.cluster(with[1]).queue(CLIENT, new, Bell::new())) > 0
        })
        .await;
        assert_eq!(glance(&mut reader), 0);
        let refused = acknowledge(&world, node, old, vec![position]).await;
        assert_eq!(refused.refusal(), Some(Refusal::StaleEpoch));
        let taken = acknowledge(&world, with[1], new, vec![position]).await;
        assert_eq!(taken.refusal(), None);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_survives_a_power_cut_of_all_and_the_death_of_its_leader() {
    let mut world = Cluster::formed().await;
    subscribed(&world, 1).await;
    publish(&world, 2, 0..200).await;
    world.kill_all().await;
    for node in [2, 3, 1] {
        world.start(node).await;
    }
    world.ready().await;
    let leader = leader(&world, 1).await;
    world.kill(leader).await;
    let alive = leader % 3 + 1;
    let epoch = claim(&world, alive).await;
    publish(&world, alive, 200..300).await;
    assert_whole(&take(&world, alive, epoch, 300).await, 300);

    world.start(leader).await;
    world.ready().await;
    let epoch = claim(&world, leader).await;
    assert_whole(&take(&world, leader, epoch, 300).await, 300);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_before_its_answer_got_lost_happens_once() {
    let world = Cluster::formed_of(5).await;
    let (with, without) = holders(&world).await;
    let (publisher, shard) = (without[0], shard(&world));
    let old = subscribed(&world, publisher).await;
    let leader = leader(&world, with[0]).await;
    let followers: Vec<NodeId> = with.iter().copied().filter(|node| *node != leader).collect();
    let link = |node: NodeId| (crate::fixture::address(leader), crate::fixture::address(node));

    // Appended by the leader, which cannot commit it yet.
    let last_log = || group(&world, leader).map(|group| group.last_log);
    let before = last_log();
    for (one, other) in followers.iter().map(|node| link(*node)) {
        world.net.stall(&one, &other);
    }
    let cluster = world.cluster(publisher);
    let receipt = Receipt::new(Bell::new());
    let enqueue = || Enqueue { message: message(0), plain: true, ..Enqueue::default() };
    cluster.enqueue(shard, enqueue, || receipt.ticket()).unwrap();
    let claiming = cluster.clone();
    let again = claim_of(&world, publisher);
    let claiming = tokio::spawn(async move { claiming.claim(again).await });
    until("the leader has it", || last_log() > before).await;
    // Its answer cannot come any more, and then it is committed.
    let (one, other) = link(publisher);
    world.net.cut(&one, &other);
    for (one, other) in followers.iter().map(|node| link(*node)) {
        world.net.heal(&one, &other);
    }
    let queued = |node: NodeId| world.cluster(node).shard_view(shard).unwrap().state().queued_messages();
    until("it is committed", || queued(followers[0]) > 0).await;
    world.net.heal(&one, &other);

    until("it is answered", || receipt.is_complete()).await;
    assert_eq!(receipt.refusal(), None);
    let Claimed { epoch, previous, .. } = soon("the claim", claiming).await.unwrap().unwrap();
    assert_eq!((epoch, previous.map(|owner| owner.epoch)), (old + 1, Some(old)), "claimed once");
    publish(&world, publisher, 1..50).await;
    assert_whole(&take(&world, publisher, epoch, 50).await, 50);
    assert_eq!(queued(leader), 50);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_flight_over_links_that_break_are_queued_once_and_in_order() {
    const COUNT: u64 = 1_000;
    let world = Cluster::formed().await;
    let epoch = subscribed(&world, 1).await;
    let receipt = Receipt::new(Bell::new());
    let breaking = async {
        for _ in 0..40 {
            for (one, other) in [("n1", "n2"), ("n1", "n3"), ("n2", "n3")] {
                world.net.cut(one, other);
                world.net.heal(one, other);
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::join!(enqueue(&world, 1, 0..COUNT, &receipt), breaking);
    until("all are queued", || receipt.is_complete()).await;
    assert_eq!(receipt.refusal(), None);
    for node in 1..=3 {
        let epoch = if node == 1 { epoch } else { claim(&world, node).await };
        assert_whole(&take(&world, node, epoch, 1_000).await, COUNT);
    }
    assert_eq!(world.cluster(1).shard_view(shard(&world)).unwrap().state().queued_messages(), COUNT);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_reads_on_from_another_replica() {
    let world = Cluster::formed_of(5).await;
    let (with, without) = holders(&world).await;
    let reader = without[0];
    let epoch = subscribed(&world, reader).await;
    let (bell, mut taken) = (Bell::new(), Vec::new());
    let mut queue = world.cluster(reader).queue(CLIENT, epoch, bell.clone());
    for (round, node) in (0..15).zip(with.iter().cycle()) {
        // It waits for more when its stream breaks.
        let waiting = usize::try_from(round * 20).unwrap();
        read_on(&mut queue, &bell, &mut taken, waiting).await;
        queue.read(taken.last().map_or(0, |last| last.position), 1, &mut taken);
        let (one, other) = (crate::fixture::address(reader), crate::fixture::address(*node));
        world.net.cut(&one, &other);
        world.net.heal(&one, &other);
        publish(&world, without[1], round * 20..(round + 1) * 20).await;
    }
    read_on(&mut queue, &bell, &mut taken, 300).await;
    assert_whole(&taken, 300);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_leaves_every_disk() {
    let world = Cluster::formed().await;
    let epoch = subscribed(&world, 1).await;
    publish(&world, 2, 0..100).await;
    let taken = take(&world, 1, epoch, 100).await;
    until("all disks have them", || world.disks.values().all(|disk| disk.messages() > 0)).await;
    let positions: Vec<u64> = taken.iter().map(|queued| queued.position).collect();
    assert_eq!(acknowledge(&world, 1, epoch, positions[..99].to_vec()).await.refusal(), None);
    let queued_here = || world.cluster(1).shard_view(shard(&world)).unwrap().state().queued_messages();
    until("the replica that is read from has applied it", || queued_here() == 1).await;
    let last = take(&world, 1, epoch, 1).await;
    assert_eq!(last[0].message.payload, payload(99));
    assert_eq!(acknowledge(&world, 1, epoch, positions[99..].to_vec()).await.refusal(), None);
    until("no disk has any", || world.disks.values().all(|disk| disk.messages() == 0)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_disk_fails_stops_and_the_others_go_on() {
    let world = Cluster::formed().await;
    let shard = shard(&world);
    subscribed(&world, 1).await;
    publish(&world, 1, 0..10).await;
    let queued = |node: NodeId| world.cluster(node).shard_view(shard).unwrap().state().queued_messages();
    until("all have them", || (1..=3).all(|node| queued(node) == 10)).await;

    world.disks[&3].fails.store(true, Ordering::SeqCst);
    publish(&world, 1, 10..20).await;
    until("its replica stops", || group(&world, 3).is_none_or(|group| !group.running)).await;
    assert_eq!(queued(3), 10, "it shows messages that it does not have");
    // A client that comes to this node is served from the other replicas.
    let epoch = claim(&world, 3).await;
    assert_whole(&take(&world, 3, epoch, 20).await, 20);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_one_session_says_how_it_is_to_be_delivered() {
    let world = Cluster::formed().await;
    let epoch = subscribed(&world, 1).await;
    let receipt = Receipt::new(Bell::new());
    let deliver = || Deliver {
        client_id: CLIENT.to_owned(),
        message: Some(Message { qos: 2, ..message(7).unwrap() }),
        qos: 2,
        retain: true,
        identifiers: vec![3, 5],
        ..Deliver::default()
    };
    world.cluster(2).deliver(shard(&world), deliver, || receipt.ticket()).unwrap();
    let taken = take(&world, 1, epoch, 1).await;
    let QueuedMessage { position, message, qos, retain, identifiers, group } = &taken[0];
    assert_eq!((*position, &*message.payload), (1, payload(7).as_bytes()));
    assert_eq!((*qos, *retain, identifiers.as_slice(), *group), (QoS::ExactlyOnce, true, &[3, 5][..], false));
    world.stop().await;
}
