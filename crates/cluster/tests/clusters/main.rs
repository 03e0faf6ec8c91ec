//! Clusters of three nodes in one process, over pipes and engines in memory.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod backups;
mod disk;
mod fixture;
mod forming;
mod lanes;
mod levels;
mod members;
mod membership;
mod owners;
mod queues;
mod recorder;
mod retained;
mod shard_routes;
mod takeovers;
