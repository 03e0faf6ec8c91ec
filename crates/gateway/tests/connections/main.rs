//! Connections as a client sees them: packets over links in memory, on a cluster of one node; and over sockets, through
//! everything that may come before MQTT.
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

mod authentication;
mod client;
mod durable;
mod endings;
mod held;
mod shared;
mod transports;
