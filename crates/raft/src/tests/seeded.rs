//! Groups that begin with a state: a node that never ran leads them at its start, and others take part later.

use bytes::{BufMut, Bytes};
use zwerm_store::StoreError;

use super::fixture::{Cluster, Disk, GROUP, command, quick, soon};
use crate::{Role, seed};

/// The snapshot of a ledger with these commands.
fn state(commands: &[Bytes]) -> Bytes {
    let mut out = Vec::new();
    for command in commands {
        out.put_u32(u32::try_from(command.len()).unwrap());
        out.put_slice(command);
    }
    out.into()
}

async fn a_seeded_group_goes_on_from_its_state_and_grows(disk: fn() -> Disk) {
    let seeded = disk();
    let mut commands = vec![command(1, 10), command(2, 100_000)];
    {
        let engine = seeded.open();
        seed(&engine, GROUP, 1, state(&commands)).unwrap();
        let again = seed(&engine, GROUP, 1, state(&[])).unwrap_err();
        assert!(matches!(again, StoreError::Damaged(_)), "{again}");
    }
    let mut cluster = Cluster::start(0, 1, quick(), disk).await;
    cluster.give_disk(1, seeded);
    cluster.give_disk(2, disk());
    cluster.start_node(1).await;
    assert!(cluster.group(1).is_initialized().await);
    assert_eq!(cluster.leader().await, 1);
    commands.push(command(3, 10));
    let third = cluster.propose(&commands[2]).await;
    assert_eq!(third.reply, 3_u64.to_be_bytes()[..], "behind the two of the state");
    // After a restart too: the seed is what any node leaves behind.
    cluster.kill(1).await;
    cluster.start_node(1).await;
    assert_eq!(*cluster.wait_applied(1, third.index).await.commands, commands);
    cluster.start_node(2).await;
    cluster.wait_status(1, "it leads", |status| status.state == Role::Leader).await;
    cluster.group(1).add_learner(2).await.unwrap();
    soon("the second votes", cluster.group(1).change_voters([1, 2].into(), false)).await.unwrap();
    commands.push(command(4, 10));
    let fourth = cluster.propose(&commands[3]).await;
    for node in [1, 2] {
        assert_eq!(*cluster.wait_applied(node, fourth.index).await.commands, commands, "node {node}");
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_seeded_group_goes_on_from_its_state_and_grows_in_memory() {
    a_seeded_group_goes_on_from_its_state_and_grows(Disk::memory).await;
}

#[tokio::test]
async fn a_seeded_group_goes_on_from_its_state_and_grows_on_sled() {
    a_seeded_group_goes_on_from_its_state_and_grows(Disk::sled).await;
}
