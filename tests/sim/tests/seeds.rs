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
