//! The harness of the tests that need several nodes or real clients: processes, ports, foreign programs.
//!
//! It drives the `zwerm` program from outside, as people and orchestrators do, and links none of its crates.
//! Nothing here sleeps to let something happen: every wait polls a level and has a deadline.
//! Start at [`Cluster::start`]; the tests are in `tests/cluster/`, the foreign clients in `tests/clients/`.

mod certificates;
mod client;
mod cluster;
mod http;
mod measured;
mod mosquitto;
mod node;
mod percentile;
mod places;
mod ports;
mod program;
mod surroundings;
mod wait;

pub use certificates::{CLIENT_NAME, Certificates};
pub use client::{Client, Message, Options, QoS, Version, Will};
pub use cluster::{Brokers, Cluster};
pub use http::{Response, get};
pub use measured::Measured;
pub use mosquitto::{MosquittoSub, mosquitto_pub, mosquitto_rr};
pub use node::{Node, Transport, send_signal};
pub use percentile::percentile;
pub use places::{chromium, clients_dir, deploy_python, node_js, python, zwerm_binary};
pub use ports::{PortBlock, Turn};
pub use program::{Check, Line, Program};
pub use rustix::process::Signal;
pub use surroundings::{Surroundings, build_zwerm};
pub use wait::{DEADLINE, until};
