//! A seed says the same each time. (That the first two hundred find nothing is part of `tests/run`.)
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::Command;

fn simulated(seed: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_zwerm-sim")).args(["--seed", seed]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    for seed in ["1", "2", "3", "4"] {
        let [one, other] = [(); 2].map(|()| simulated(seed));
        assert!(one.contains("trace "), "{one}");
        assert_eq!(one, other);
    }
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(simulated("1").split_once(' '), simulated("2").split_once(' '));
}

/// With these, QoS 2 messages of a shared subscription came to two members: when a node was cut off, or when the leader
/// of a shard died while it published.
#[test]
fn a_qos_2_message_of_a_group_comes_to_one_member() {
    for seed in ["5", "32", "37", "91", "108", "180", "198"] {
        let said = simulated(seed);
        assert!(said.contains("trace ") && !said.contains("P2 "), "{said}");
    }
}
