//! The session machine, stepped with inputs and instants: no runtime, no sleep, no socket.
//!
//! Names of normative statements (`MQTT-3.1.0-1`) are those of the OASIS specifications; without a version
//! they are of 5.0. Start at `stage`.

#[cfg(test)]
mod authentication;
mod durable;
mod endings;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod fuzz_body;
#[cfg(test)]
mod handshake;
mod inbound;
#[cfg(test)]
mod model;
#[cfg(test)]
mod outbound;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod stage;
mod subscriptions;
