//! Brokers on clusters of three nodes in one process, through their attachments: no sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "tests"
)]

#[path = "../../../cluster/tests/clusters/disk.rs"]
mod disk;
#[path = "../../../cluster/tests/clusters/fixture.rs"]
mod fixture;

mod bounds;
mod client;
mod delayed;
mod delivery;
mod durable;
mod exclusive;
mod leases;
mod owners;
mod retained;
mod shared;
mod sys;
