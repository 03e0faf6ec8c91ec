//! The zwerm program: command line, configuration, identity on disk, wiring, shutdown.
//!
//! A library so that tests run the same node as the program does. It knows no protocol and no Raft; it
//! joins the crates that do. Start at [`main`], or at [`app::App`] for the wiring of one node.

pub mod app;
mod archive;
mod cli;
pub mod config;
mod ctl;
mod departure;
mod drain;
mod http;
pub mod identity;
pub mod kubernetes;
mod parts;
mod passwd;
mod pubsub;
mod restore;
mod serve;
mod shutdown;
mod status;
mod sys;
mod telemetry;
mod up;
mod view;

pub use cli::main;
