//! Clusters that grow, shrink and lose nodes while messages are queued: none is lost, none comes twice, all in order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use zwerm_cluster::receipt::{Bell, Receipt};
use zwerm_cluster::{Cluster, LeaveError, NodeId};
use zwerm_machine::records::{Acknowledge, Claim, Enqueue, Message, Placement, Subscribe, Subscription};

use crate::fixture::{Seat, World, soon, until};
use crate::recorder::App;

pub type Nodes = World<App>;

/// Sessions of the load; they spread over all shards.
const SESSIONS: usize = 8;

/// Messages for durable sessions, queued and read by one node all the time.
pub struct Load {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    sessions: Vec<tokio::task::JoinHandle<u64>>,
}

impl Load {
    pub fn begin(cluster: &Cluster) -> Self {
        let (stop, read) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let session = |number| {
            let ends = (Arc::clone(&stop), Arc::clone(&read));
            tokio::spawn(run_session(cluster.clone(), format!("client-{number}"), ends))
        };
        Self { sessions: (0..SESSIONS).map(session).collect(), stop, read }
    }

    /// Waits until so many more messages were read.
    pub async fn goes_on(&self) {
        let before = self.read.load(Ordering::SeqCst);
        until("messages are read", || self.read.load(Ordering::SeqCst) > before + 50).await;
    }

    /// Ends it; how many messages there were.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = 0;
        for session in self.sessions {
            all += soon("a session ends", session).await.unwrap();
        }
        all
    }
}

/// Queues messages for one session, reads and acknowledges them; panics if one is missing, comes twice or too early.
async fn run_session(
    cluster: Cluster,
    client_id: String,
    (stop, all): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> u64 {
    let shard = cluster.shard_of(&client_id).unwrap();
    let claim = Claim {
        client_id: client_id.clone(),
        node: cluster.own.id,
        incarnation: cluster.own.incarnation(),
        expiry_s: 3_600,
        ..Claim::default()
    };
    let epoch = soon("a claim", cluster.claim(claim)).await.unwrap().epoch;
    let subscription = Subscription { filter: client_id.clone(), qos: 1, ..Subscription::default() };
    let subscribe =
        Subscribe { client_id: client_id.clone(), epoch, subscriptions: vec![subscription], replay: false };
    soon("a subscription", cluster.subscribe(subscribe)).await.unwrap();
    let bell = Bell::new();
    let mut reader = cluster.queue(&client_id, epoch, bell.clone());
    let (mut sent, mut read, mut position) = (0_u64, 0_u64, 0);
    let receipt = Receipt::new(Bell::new());
    loop {
        let ends = stop.load(Ordering::SeqCst);
        // Some are under way all the time.
        while !ends && sent < read + 16 {
            let payload = sent.to_be_bytes().to_vec().into();
            let message = Message { topic: client_id.clone(), payload, qos: 1, ..Message::default() };
            let enqueue = || Enqueue { message: Some(message), plain: true, ..Enqueue::default() };
            if cluster.enqueue(shard, enqueue, || receipt.ticket()).is_err() {
                soon("there is room", cluster.wait_shard(shard)).await;
                break;
            }
            sent += 1;
        }
        if ends && read == sent {
            break;
        }
        let mut taken = Vec::new();
        reader.read(position, 32, &mut taken);
        for queued in &taken {
            let number = u64::from_be_bytes(queued.message.payload.as_ref().try_into().unwrap());
            assert_eq!(number, read, "{client_id}: lost, twice or not in order");
            read += 1;
            all.fetch_add(1, Ordering::SeqCst);
            position = queued.position;
        }
        if taken.is_empty() {
            soon(&format!("{client_id}: message {read} of {sent} comes"), bell.wait()).await;
            continue;
        }
        let done = taken.iter().map(|queued| queued.position).collect();
        let acknowledge = || Acknowledge { client_id: client_id.clone(), epoch, done, received: Vec::new() };
        cluster.acknowledge(shard, acknowledge, || None).unwrap();
        // Not faster than the machine can without being busy with nothing else.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    until("all are acknowledged", || receipt.is_complete()).await;
    assert!(!receipt.has_failed(), "{client_id}: refused");
    sent
}

/// Who holds what, as one node knows.
fn placement(world: &Nodes, node: NodeId) -> Vec<Placement> {
    world.cluster(node).control.state().placement().to_vec()
}

/// Waits until the shards are held by exactly these nodes, spread and led evenly, and the control group has so many
/// voters, all of them among the nodes.
pub async fn settled(world: &Nodes, members: &[NodeId]) {
    let members: BTreeSet<NodeId> = members.iter().copied().collect();
    let replicas = members.len().min(world.replicas as usize);
    let votes = (members.len().min(5) - 1) / 2 * 2 + 1;
    for &node in &members {
        let what = || {
            let status = world.cluster(node).status();
            let led: Vec<_> =
                status.groups.iter().map(|group| (group.id.0, group.leader, group.voters.clone())).collect();
            format!("{:?} {:?} {led:?}", placement(world, node), status.not_ready())
        };
        let is_settled = || {
            let placement = placement(world, node);
            let leads =
                |node: &NodeId| placement.iter().filter(|shard| shard.voters.first() == Some(node)).count();
            let loads: Vec<usize> = members.iter().map(leads).collect();
            let even = loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1;
            let held = placement.iter().all(|shard| {
                shard.next.is_empty()
                    && shard.voters.len() == replicas
                    && shard.voters.iter().all(|node| members.contains(node))
            });
            let status = world.cluster(node).status();
            let nodes: BTreeSet<NodeId> = status.nodes.iter().map(|node| node.id).collect();
            let control = status.groups.iter().find(|group| group.id.0 == 0).unwrap();
            let voters = control.voters.len() == votes && control.voters.is_subset(&members);
            let groups = status.groups.iter().filter(|group| group.id.0 > 0).all(|group| {
                let shard = &placement[group.id.0 as usize - 1];
                shard.voters.contains(&node) && group.voters == shard.voters.iter().copied().collect()
            });
            even && held && voters && groups && nodes == members && status.not_ready().is_empty()
        };
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(90);
        while !is_settled() {
            assert!(tokio::time::Instant::now() < deadline, "node {node} of {members:?}: {}", what());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Waits until every shard is led by the node that should.
async fn led_evenly(world: &Nodes, members: &[NodeId]) {
    for &node in members {
        until(&format!("node {node} leads what it should"), || {
            let placement = placement(world, node);
            let groups = world.cluster(node).status().groups;
            groups
                .iter()
                .filter(|group| group.id.0 > 0)
                .all(|group| group.leader == placement[group.id.0 as usize - 1].voters.first().copied())
        })
        .await;
    }
}

/// Has a node leave, and ends it as its program does.
async fn leave(world: &mut Nodes, asked: NodeId, node: NodeId) {
    soon("it is decided", world.cluster(asked).leave(node)).await.unwrap();
    soon("it has given up everything", world.cluster(node).left()).await;
    let left = world.nodes.remove(&node).unwrap();
    soon("it stops", left.cluster.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_node_to_five_and_shrinks_to_three_while_messages_are_queued() {
    let mut world = Nodes::new(1);
    // Who is given a shard is sent snapshots and messages, not only the log.
    world.snapshot_entries = 60;
    world.start(1).await;
    world.ready().await;
    world.expect = 3;
    let load = Load::begin(world.cluster(1));
    for node in [3, 2] {
        world.start(node).await;
    }
    settled(&world, &[1, 2, 3]).await;
    for node in [4, 5] {
        world.start(node).await;
    }
    settled(&world, &[1, 2, 3, 4, 5]).await;
    led_evenly(&world, &[1, 2, 3, 4, 5]).await;
    leave(&mut world, 1, 2).await;
    leave(&mut world, 4, 3).await;
    settled(&world, &[1, 4, 5]).await;
    led_evenly(&world, &[1, 4, 5]).await;
    load.goes_on().await;
    let messages = load.end().await;
    println!("{messages} messages, none lost, none twice, in order");
    for node in [2, 3] {
        assert!(world.cluster(1).control.state().is_removed(node));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_that_reads_and_leads_leaves_last_and_the_others_have_everything() {
    let mut world = Nodes::formed().await;
    let load = Load::begin(world.cluster(1));
    world.start(4).await;
    settled(&world, &[1, 2, 3, 4]).await;
    load.goes_on().await;
    load.end().await;
    leave(&mut world, 1, 1).await;
    settled(&world, &[2, 3, 4]).await;
    let again = Load::begin(world.cluster(4));
    leave(&mut world, 4, 2).await;
    settled(&world, &[3, 4]).await;
    leave(&mut world, 4, 3).await;
    settled(&world, &[4]).await;
    let refused = soon("it is refused", world.cluster(4).leave(4)).await;
    assert_eq!(refused, Err(LeaveError::LastNode));
    again.end().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_wiped_takes_the_place_of_the_one_it_was_when_that_is_down() {
    let mut world = Nodes::formed().await;
    let load = Load::begin(world.cluster(1));
    // Under the name of one that is up: refused, and nothing changes.
    world.seats.insert(9, Seat { name: "n3".to_owned(), address: "n9".to_owned(), resolves: false });
    world.start(9).await;
    let id = format!("{:016x}", 3);
    until("it is refused", || {
        let reasons = world.cluster(9).status().not_ready();
        reasons.iter().any(|reason| reason.contains("refuses this node") && reason.contains(&id))
    })
    .await;
    assert_eq!(world.cluster(1).control.state().nodes().count(), 3);
    // The other one dies with its disk: this one is let in, without having been told anything.
    world.kill(3).await;
    settled(&world, &[1, 2, 9]).await;
    assert!(world.cluster(1).control.state().is_removed(3));
    load.goes_on().await;
    load.end().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_at_the_same_address_never_answers_for_the_one_it_was() {
    let mut world = Nodes::formed().await;
    let load = Load::begin(world.cluster(1));
    load.goes_on().await;
    let (mut id, mut other) = (3, 2);
    for new in 10..14 {
        let Seat { name, address, .. } = world.seat(id);
        world.kill(id).await;
        // At once: the others call this address for the one that is dead, and are not yet told that it is.
        world.seats.insert(new, Seat { name, address, resolves: true });
        world.start(new).await;
        settled(&world, &[1, other, new]).await;
        (id, other) = (other, new);
    }
    load.goes_on().await;
    load.end().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_removed_and_what_comes_back_as_it_is_turned_away() {
    let mut world = Nodes::formed_of(4).await;
    let load = Load::begin(world.cluster(1));
    assert_eq!(soon("refused", world.cluster(2).remove(4)).await, Err(LeaveError::NodeUp));
    assert_eq!(soon("refused", world.cluster(2).remove(77)).await, Err(LeaveError::UnknownNode(77)));
    let incarnation = world.cluster(4).own.incarnation();
    world.kill(4).await;
    until("it is down", || !world.cluster(1).is_up(4, incarnation)).await;
    soon("it is decided", world.cluster(2).remove(4)).await.unwrap();
    settled(&world, &[1, 2, 3]).await;
    load.goes_on().await;
    load.end().await;
    world.start(4).await;
    soon("it learns that it was removed", world.cluster(4).left()).await;
    assert!(!world.cluster(4).lease.is_valid());
    let gone = world.nodes.remove(&4).unwrap();
    soon("it stops", gone.cluster.stop()).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_leaves_when_too_few_would_stay_up() {
    let mut world = Nodes::formed().await;
    let incarnation = world.cluster(3).own.incarnation();
    world.kill(3).await;
    until("it is down", || !world.cluster(1).is_up(3, incarnation)).await;
    let refused = soon("refused", world.cluster(1).leave(2)).await;
    assert_eq!(refused, Err(LeaveError::TooFewUp { up: 1, stay: 2 }));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_come_back_with_other_addresses_also_those_that_joined_later() {
    let mut world = Nodes::formed().await;
    let moved = |node: NodeId, times: u32| Seat {
        name: format!("n{node}"),
        address: format!("10.0.{times}.{node}"),
        resolves: true,
    };
    for node in [4, 5] {
        world.start(node).await;
    }
    settled(&world, &[1, 2, 3, 4, 5]).await;
    let load = Load::begin(world.cluster(1));
    load.goes_on().await;
    load.end().await;
    for times in [1, 2] {
        world.kill_all().await;
        for node in [5, 3, 1, 4, 2] {
            world.seats.insert(node, moved(node, times));
            world.start(node).await;
        }
        world.ready().await;
        settled(&world, &[1, 2, 3, 4, 5]).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_nodes_form_no_second_cluster_beside_one_that_is_partly_up() {
    let mut world = Nodes::formed().await;
    let cluster = soon("an id", world.cluster(1).cluster_id()).await;
    world.kill_all().await;
    // Two of three lost their disks; the third alone cannot take them in.
    for (node, new) in [(2, 12), (3, 13)] {
        world
            .seats
            .insert(new, Seat { name: format!("n{node}"), address: format!("n{node}"), resolves: true });
    }
    world.start(12).await;
    world.start(13).await;
    until("they wait", || {
        let waiting = "waiting for nodes to form a cluster: 2 of 3 are here";
        [12, 13].iter().all(|node| world.cluster(*node).status().not_ready() == [waiting])
    })
    .await;
    world.start(1).await;
    until("they wait for the cluster that there is", || {
        let waits = |node: &NodeId| {
            let reasons = world.cluster(*node).status().not_ready();
            reasons.iter().any(|reason| reason.contains(&cluster) && reason.contains("has no leader"))
        };
        [12, 13].iter().all(waits)
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_never_mix_and_say_so() {
    let mut world = Nodes::new(2);
    world.expect = 1;
    for node in [1, 2] {
        // Each knows nobody else yet.
        world.peers = vec![crate::fixture::address(node)];
        world.start(node).await;
        until("a cluster of its own", || world.cluster(node).status().not_ready().is_empty()).await;
    }
    let ids = [1, 2].map(|node| world.cluster(node).status().formed);
    assert_ne!(ids[0], ids[1]);
    world.kill(2).await;
    world.peers = vec!["n1".to_owned(), "n2".to_owned()];
    world.start(2).await;
    until("it is noticed", || {
        world.cluster(2).status().foreign.is_some_and(|why| why.contains("node n1 belongs to cluster"))
    })
    .await;
    until("it serves nevertheless", || world.cluster(2).status().not_ready().is_empty()).await;
    world.start(3).await;
    until("an empty one does not choose", || {
        let reasons = world.cluster(3).status().not_ready();
        reasons.iter().any(|reason| reason.contains("the peers belong to different clusters"))
    })
    .await;
    world.stop().await;
}
