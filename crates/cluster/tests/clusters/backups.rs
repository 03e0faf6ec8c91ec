//! Backups of clusters that go on: what is in one is of one moment, and a new cluster begins with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_cluster::{
    ArchiveError, Backup, NodeId, OutboxMessage, QueuedMessage, Seed, Summary, inspect, restore,
};
use zwerm_machine::records::{Claim, Claimed, Complete, Enqueue, Message, Origin, Receive};
use zwerm_store::Engine;

use crate::disk::Disk;
use crate::fixture::{address, soon, until};
use crate::owners;
use crate::queues::{
    CLIENT, Cluster, acknowledge, assert_whole, claim, holders, leader, publish, shard, subscribed, take,
};

/// More than is on its way between nodes at a time: every tenth has 100 kB.
const MANY: u64 = 2_000;

async fn begin(world: &Cluster, node: NodeId) -> Backup {
    soon("a backup begins", world.cluster(node).backup("test")).await.unwrap()
}

async fn read(mut backup: Backup) -> Vec<u8> {
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(piece) = backup.next().await {
            bytes.extend_from_slice(&piece);
        }
        bytes
    };
    soon("the archive is read", whole).await
}

async fn forgotten_everywhere(world: &Cluster) {
    until("no disk has a message", || world.disks.values().all(|disk| disk.messages() == 0)).await;
}

/// Everything in the queue is acknowledged by its owner, and that is applied everywhere.
async fn empty(world: &Cluster, node: NodeId, epoch: u64, upto: u64) {
    for positions in (1..=upto).collect::<Vec<_>>().chunks(500) {
        assert_eq!(acknowledge(world, node, epoch, positions.to_vec()).await.refusal(), None);
    }
    let shard = shard(world);
    let views = || world.nodes.values().filter_map(|node| node.cluster.shard_view(shard));
    until("the queue is empty", || views().all(|view| view.state().queued_messages() == 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_while_a_backup_is_read_is_in_it_and_then_gone_from_the_disk() {
    let world = Cluster::formed_of(5).await;
    let (with, without) = holders(&world).await;
    let epoch = subscribed(&world, with[0]).await;
    publish(&world, 1, 0..MANY).await;
    let backup = begin(&world, without[0]).await;
    // Nobody reads it yet.
    publish(&world, 1, MANY..MANY + 10).await;
    empty(&world, with[0], epoch, MANY + 10).await;
    let leader = leader(&world, with[0]).await;
    assert!(world.disks[&leader].messages() > 0, "the leader keeps what the backup needs");
    let bytes = read(backup).await;
    let summary = inspect(&bytes[..]).unwrap();
    let counts = (summary.queued, summary.messages, summary.sessions, summary.connected);
    assert_eq!(counts, (MANY, MANY, 1, 1), "as it was when the backup began");
    assert_eq!((summary.shards, summary.bytes, summary.nodes.len()), (4, bytes.len() as u64, 5));
    forgotten_everywhere(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_with_what_a_backup_kept_forgets_it_at_its_next_start() {
    let mut world = Cluster::new(3);
    world.snapshot_entries = 40;
    for node in 1..=3 {
        world.start(node).await;
    }
    world.ready().await;
    let asked = leader(&world, 1).await;
    let epoch = subscribed(&world, asked).await;
    publish(&world, asked, 0..MANY).await;
    let backup = begin(&world, asked % 3 + 1).await;
    let dies = leader(&world, asked).await;
    empty(&world, asked, epoch, MANY).await;
    assert!(world.disks[&dies].messages() > 0);
    // A snapshot that names none of it: nothing that is applied after a restart forgets it.
    let group = |world: &Cluster| {
        let groups = world.cluster(dies).status().groups;
        groups.into_iter().find(|group| group.id.0 == shard(world) + 1).unwrap()
    };
    let emptied = group(&world).applied;
    let mut position = MANY;
    while group(&world).snapshot <= emptied {
        publish(&world, asked, position..position + 1).await;
        position += 1;
        acknowledge(&world, asked, epoch, vec![position]).await;
    }
    world.kill(dies).await;
    assert!(world.disks[&dies].messages() > 0, "it lies on the disk");
    drop(backup);
    world.start(dies).await;
    world.ready().await;
    forgotten_everywhere(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backup_waits_for_the_first_and_one_that_nobody_reads_holds_up_nothing() {
    let world = Cluster::formed_of(3).await;
    let epoch = subscribed(&world, 1).await;
    publish(&world, 1, 0..MANY).await;
    let first = begin(&world, 1).await;
    let (first, second) = tokio::join!(read(first), async { read(begin(&world, 2).await).await });
    for bytes in [first, second] {
        assert_eq!(inspect(&bytes[..]).unwrap().queued, MANY);
    }
    let unread = begin(&world, 3).await;
    publish(&world, 2, MANY..MANY + 10).await;
    drop(unread);
    empty(&world, 1, epoch, MANY + 10).await;
    forgotten_everywhere(&world).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_whose_leader_goes_says_why_it_is_not_whole() {
    let mut world = Cluster::formed_of(3).await;
    subscribed(&world, 1).await;
    publish(&world, 1, 0..MANY).await;
    let leads = leader(&world, 1).await;
    let asked = leads % 3 + 1;
    let backup = begin(&world, asked).await;
    world.kill(leads).await;
    let bytes = read(backup).await;
    let error = inspect(&bytes[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Unfinished { .. }), "{error}");
    world.stop().await;
}

/// A new cluster of nodes 4 to 6, whose first node has what the archive says.
async fn restored(bytes: &[u8]) -> (Cluster, Summary) {
    let mut world = Cluster::new(6);
    let disk = Arc::new(Disk::default());
    let engine = Arc::clone(&disk) as Arc<dyn Engine>;
    let now_ms = world_clock();
    let seed = Seed { node: 4, cluster_id: "restored".to_owned(), now_ms };
    let summary = restore(bytes, &seed, &engine).unwrap();
    // It is all on the disk.
    disk.crash();
    world.disks.insert(4, disk);
    world.start(4).await;
    world.ready().await;
    (world, summary)
}

fn world_clock() -> u64 {
    (crate::fixture::config(1, 1, 1).clock)()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_has_the_queues_fires_the_wills_of_who_was_connected_and_grows() {
    let world = Cluster::formed_of(3).await;
    subscribed(&world, 1).await;
    for (node, client) in [(1, "x"), (2, "y"), (3, "z")] {
        owners::claim(&world, node, client, Some(client)).await;
    }
    publish(&world, 1, 0..MANY).await;
    let bytes = read(begin(&world, 2).await).await;
    // What comes later is not in it.
    publish(&world, 1, MANY..MANY + 10).await;
    world.stop().await;

    let (mut world, summary) = restored(&bytes).await;
    assert_eq!((summary.queued, summary.clients, summary.connected), (MANY, 4, 4));
    assert_eq!(world.cluster(4).cluster_id().await, "restored");
    let known: BTreeSet<NodeId> = world.cluster(4).status().nodes.iter().map(|node| node.id).collect();
    assert_eq!(known, [4].into());
    let mut wills = Vec::new();
    until("the wills fire and are published", || {
        owners::take_wills(&world, &mut wills);
        wills.len() >= 3 && owners::outboxes_are_empty(&world)
    })
    .await;
    wills.sort_unstable();
    assert_eq!(wills, ["x", "y", "z"]);
    for node in [5, 6] {
        world.start(node).await;
    }
    world.ready().await;
    let shard = shard(&world);
    until("three nodes vote in the shard", || {
        let control = world.cluster(4).control.state();
        control.placement_of(shard).is_some_and(|placement| placement.voters.len() == 3)
    })
    .await;
    // Without the node that it began with.
    world.kill(4).await;
    for node in [5, 6] {
        let epoch = claim(&world, node).await;
        let count = usize::try_from(MANY).unwrap();
        assert_whole(&take(&world, node, epoch, count).await, MANY);
    }
    publish(&world, 5, MANY..MANY + 10).await;
    let epoch = claim(&world, 6).await;
    assert_whole(&take(&world, 6, epoch, usize::try_from(MANY + 10).unwrap()).await, MANY + 10);
    world.stop().await;
}

/// Makes a node the owner of a client id; the publishers here are durable.
async fn claim_as(world: &Cluster, node: NodeId, client: &str) -> Claimed {
    let claim = Claim {
        client_id: client.to_owned(),
        node,
        incarnation: world.cluster(node).own.incarnation(),
        expiry_s: 3_600,
        ..Claim::default()
    };
    soon("a claim", world.cluster(node).claim(claim)).await.unwrap()
}

/// A whole QoS 2 exchange of a durable publisher: afterwards the message is in its shard's outbox.
async fn hand_over(world: &Cluster, node: NodeId, (client, epoch): (&str, u64), id: u32, payload: String) {
    let message = Message { topic: "t".to_owned(), payload: payload.into(), qos: 2, ..Message::default() };
    let client_id = client.to_owned();
    let receive = || Receive { client_id, epoch, packet_id: id, message: Some(message) };
    let (cluster, receipt) = (world.cluster(node), Receipt::new(Bell::new()));
    cluster.receive(cluster.shard_of(client).unwrap(), receive, || receipt.ticket()).unwrap();
    until("PUBREC", || receipt.is_complete()).await;
    assert_eq!(receipt.refusal(), None);
    complete(world, node, (client, epoch), id).await;
}

async fn complete(world: &Cluster, node: NodeId, (client, epoch): (&str, u64), id: u32) {
    let complete = || Complete { client_id: client.to_owned(), epoch, packet_id: id };
    let (cluster, receipt) = (world.cluster(node), Receipt::new(Bell::new()));
    cluster.complete(cluster.shard_of(client).unwrap(), complete, || receipt.ticket()).unwrap();
    until("PUBCOMP", || receipt.is_complete()).await;
}

/// What stands in for the broker: what the outboxes give goes to the shard of the subscriber.
async fn publish_outboxes(world: &Cluster) {
    for node in world.nodes.values() {
        loop {
            let next = node.app.outbox.lock().try_recv();
            let Ok(OutboxMessage { message, origin, published, .. }) = next else { break };
            let origin = Some(Origin { shard: origin.shard, sequence: origin.sequence });
            let message = Some(Message::clone(&message));
            let enqueue = || Enqueue { message, plain: true, origin, ..Enqueue::default() };
            let receipt = Receipt::new(Bell::new());
            node.cluster.enqueue(shard(world), enqueue, || receipt.ticket()).unwrap();
            until("a message of an outbox is queued", || receipt.is_complete()).await;
            published.send(()).unwrap_or_default();
        }
    }
}

fn leader_of(world: &Cluster, client: &str) -> Option<NodeId> {
    let shard = world.cluster(1).shard_of(client)?;
    world.cluster(1).status().groups.into_iter().find(|group| group.id.0 == shard + 1)?.leader
}

/// The messages that the queue of a new cluster has when all is published, and some that come now.
async fn after_a_restore(bytes: &[u8], publisher: &str) -> Vec<String> {
    const FRESH: u32 = 3;
    let (world, _) = restored(bytes).await;
    let claimed = claim_as(&world, 4, publisher).await;
    let own = (publisher, claimed.epoch);
    for id in claimed.resumed.unwrap().received {
        complete(&world, 4, own, id).await;
    }
    for number in 0..FRESH {
        hand_over(&world, 4, own, 1_001 + number, format!("fresh {number}")).await;
    }
    let empty = async {
        while !owners::outboxes_are_empty(&world) {
            publish_outboxes(&world).await;
            tokio::task::yield_now().await;
        }
    };
    soon("the outboxes are empty", empty).await;
    let epoch = claim(&world, 4).await;
    let view = world.cluster(4).shard_view(shard(&world)).unwrap();
    let count = usize::try_from(view.state().queued_messages()).unwrap();
    let taken = take(&world, 4, epoch, count).await;
    let text = |queued: &QueuedMessage| String::from_utf8(queued.message.payload.to_vec()).unwrap();
    let mut seen: Vec<String> = taken.iter().map(text).collect();
    for number in (0..FRESH).rev() {
        assert_eq!(
            seen.pop(),
            Some(format!("fresh {number}")),
            "what comes after the restore is taken for a repeat"
        );
    }
    world.stop().await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_from_shard_to_shard_is_in_one_place_although_the_nodes_hear_late_of_the_cut() {
    const BACKUPS: usize = 6;
    let world = Cluster::formed_of(3).await;
    subscribed(&world, 1).await;
    let mut found = None;
    until("a publisher whose shard another node leads", || {
        let other = (0..20).map(|number| format!("p{number}")).find_map(|publisher| {
            let (from, to) = (leader_of(&world, &publisher)?, leader_of(&world, CLIENT)?);
            (from != to).then_some((publisher, from, to))
        });
        found = other;
        found.is_some()
    })
    .await;
    let (publisher, from, to) = found.unwrap();
    let asked = (1..=3).find(|node| ![from, to].contains(node)).unwrap();
    let own = (publisher.as_str(), claim_as(&world, from, &publisher).await.epoch);
    let (acknowledged, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let load = async {
        for number in (0_u32..).take_while(|_| !stop.load(Ordering::SeqCst)) {
            hand_over(&world, from, own, number % 1_000 + 1, number.to_string()).await;
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    };
    let pump = async {
        while !stop.load(Ordering::SeqCst) {
            publish_outboxes(&world).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let backups = async {
        let mut taken = Vec::new();
        while taken.len() < BACKUPS {
            let before = acknowledged.load(Ordering::SeqCst);
            let ended = AtomicBool::new(false);
            let backup = async {
                let bytes = read(begin(&world, asked).await).await;
                ended.store(true, Ordering::SeqCst);
                bytes
            };
            // The way from who asks to one of the leaders works for moments only.
            let stumble = async {
                while !ended.load(Ordering::SeqCst) {
                    let (one, other) =
                        (address(asked), address(if taken.len() % 2 == 0 { from } else { to }));
                    world.net.stall(&one, &other);
                    tokio::time::sleep(Duration::from_millis(60)).await;
                    world.net.heal(&one, &other);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let (bytes, ()) = tokio::join!(backup, stumble);
            taken.push((before, bytes));
        }
        stop.store(true, Ordering::SeqCst);
        taken
    };
    let ((), (), taken) = tokio::join!(load, pump, backups);
    world.stop().await;
    for (before, bytes) in taken {
        let seen = after_a_restore(&bytes, &publisher).await;
        let wanted: Vec<String> = (0..seen.len()).map(|number| number.to_string()).collect();
        assert_eq!(seen, wanted, "each once and in order");
        assert!(seen.len() >= before, "{} of {before} that were acknowledged", seen.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_with_a_hole_is_refused_by_whoever_reads_it() {
    let world = Cluster::formed_of(3).await;
    subscribed(&world, 1).await;
    publish(&world, 1, 0..30).await;
    let bytes = read(begin(&world, 1).await).await;
    world.stop().await;
    let summary = inspect(&bytes[..]).unwrap();
    assert_eq!((summary.messages, summary.queued), (30, 30));
    let cuts = (0..40).map(|cut| cut * bytes.len() / 40);
    for cut in cuts {
        let mut flipped = bytes.clone();
        flipped[cut] ^= 0x10;
        let (short, flipped) = (inspect(&bytes[..cut]).unwrap_err(), inspect(&flipped[..]).unwrap_err());
        assert!(matches!(short, ArchiveError::CutOff { .. } | ArchiveError::NoArchive), "{short}");
        assert!(!matches!(flipped, ArchiveError::Read(_) | ArchiveError::Store(_)), "{flipped}");
    }
    let engine: Arc<dyn Engine> = Arc::new(Disk::default());
    let seed = Seed { node: 9, cluster_id: "n".to_owned(), now_ms: world_clock() };
    let error = restore(&bytes[..bytes.len() - 1], &seed, &engine).unwrap_err();
    assert!(matches!(error, ArchiveError::CutOff { .. }), "{error}");
}
