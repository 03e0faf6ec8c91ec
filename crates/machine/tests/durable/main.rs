//! Durable sessions in a shard: what clients may rely on, by the letter (`sessions.rs`, `queues.rs`, `groups.rs`,
//! `exchange.rs`, `batches.rs`), against a naive model under random commands (`model.rs`), and what a queued
//! message costs (`memory.rs`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod batches;
#[path = "../commands/mod.rs"]
mod commands;
mod exchange;
mod fixture;
mod groups;
mod memory;
mod model;
mod queues;
mod sessions;
