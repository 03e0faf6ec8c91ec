//! What must hold of every change: the first seeds find nothing, and a seed says the same each time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zwerm-sim")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn two_hundred_seeds_find_nothing() {
    let output = simulate(&["--seeds", "0..200"]);
    assert!(output.status.success(), "{}{}", stdout(&output), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    for seed in ["1", "2", "3"] {
        let [one, other] = [(); 2].map(|()| stdout(&simulate(&["--seed", seed])));
        assert!(one.contains("trace "), "{one}");
        assert_eq!(one, other);
    }
}
