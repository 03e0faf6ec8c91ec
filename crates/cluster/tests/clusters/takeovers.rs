//! Takeovers: when the older connection of a client is known to have ended, whatever the network does.

use futures::FutureExt;

use crate::fixture::{World, address, soon};
use crate::recorder::App;

const CLIENT: &str = "c";

fn incarnation(world: &World<App>, node: u64) -> u64 {
    world.cluster(node).own.incarnation()
}

fn was_kicked(world: &World<App>, node: u64, epoch: u64) -> bool {
    world.recorder(node).kicks.lock().contains(&(CLIENT.to_owned(), epoch))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_behind_a_cut_link_is_told_by_way_of_another_node() {
    let world = World::formed().await;
    world.net.stall(&address(1), &address(2));
    let before = incarnation(&world, 1);
    soon("it is over", world.cluster(2).take_over((1, before), CLIENT, 7)).await;
    assert!(was_kicked(&world, 1, 7), "over, and nobody told the older owner");
    world.net.heal(&address(1), &address(2));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_nobody_reaches_is_waited_for_until_it_is_declared_down() {
    let world = World::formed().await;
    let before = incarnation(&world, 1);
    world.isolate(1);
    soon("it is over", world.cluster(2).take_over((1, before), CLIENT, 7)).await;
    assert!(!world.cluster(2).is_up(1, before), "over while the older owner may have a lease");
    assert!(!was_kicked(&world, 1, 7), "it cannot have been told");
    world.rejoin(1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_refuses_only_some_of_the_others_is_waited_for() {
    let world = World::formed().await;
    let before = incarnation(&world, 1);
    // As a process that stands still looks from 2, and one that is dead from 3.
    world.net.stall(&address(1), &address(2));
    world.net.refuse(&address(1), &address(3));
    soon("it is over", world.cluster(2).take_over((1, before), CLIENT, 7)).await;
    assert!(!world.cluster(2).is_up(1, before), "over while the older owner may have a lease");
    world.rejoin(1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_dead_is_not_waited_for() {
    let mut world = World::formed().await;
    let before = incarnation(&world, 1);
    world.kill(1).await;
    // Known from the refusal or, on a very slow machine, from the lease; in both cases nothing is left under way.
    soon("it is over", world.cluster(2).take_over((1, before), CLIENT, 7)).await;
    soon("nothing is under way", world.cluster(2).taken_over(CLIENT, 7)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_has_not_told_the_one_before_it_yet_is_waited_for() {
    let world = World::formed().await;
    let (first, second) = (incarnation(&world, 1), incarnation(&world, 2));
    world.isolate(1);
    // Nobody waits for this one, as when the client went away.
    drop(world.cluster(2).take_over((1, first), CLIENT, 7));
    let mut given_up = Box::pin(world.cluster(2).taken_over(CLIENT, 7));
    assert!(given_up.as_mut().now_or_never().is_none() || !world.cluster(2).is_up(1, first));
    soon("it is over", world.cluster(3).take_over((2, second), CLIENT, 8)).await;
    assert!(was_kicked(&world, 2, 8));
    assert!(!world.cluster(2).is_up(1, first), "over while the first owner may have a lease");
    soon("nothing is under way", given_up).await;
    world.rejoin(1);
    world.stop().await;
}
