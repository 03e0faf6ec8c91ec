//! What the measuring programs share: a bare MQTT connection, a process's costs, and the proof of a delivery.
//!
//! The protocol side is mqttbytes, not `wire`: a broker must not be measured with its own codec on both ends.
//! Nodes are started by the harness of `zwerm-tests`. The programs are in `src/bin/`, the micro benchmarks in
//! `benches/`.

mod connection;
mod delivery;
mod process;
mod publisher;
mod subscriber;

pub use connection::Connection;
pub use delivery::{Delivery, Stamp};
pub use process::{cpu_seconds, peak_resident_bytes, raise_open_files, resident_bytes};
pub use publisher::Publisher;
pub use subscriber::collect;
