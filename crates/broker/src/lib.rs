//! The decisions of one node: attach, publish, subscribe, deliver.
//!
//! It knows sessions by their mailboxes and other nodes through `cluster`; it knows no sockets and no
//! packet flow (that is `session`). Start at [`Broker`].

mod attachment;
mod broker;
mod clients;
mod config;
mod counters;
mod delayed;
mod durable;
mod error;
mod exclusive;
mod local;
mod mailbox;
mod message;
mod outbox;
mod pipeline;
mod replay;
mod shared;
mod subscribing;
mod subscriptions;
mod sys;
mod targets;

pub use attachment::{Accepted, Admission, Attachment, Detach};
pub use broker::{Attached, Broker, Evacuation, Unstarted};
pub use config::{Config, Overlapping, QueueFull, QueueLimits, SessionQueue, SharedStrategy};
pub use counters::{Counter, Counters};
pub use durable::Stage;
pub use error::AttachError;
pub use mailbox::Delivery;
pub use message::{Expiry, Message};
pub use sys::{Reach, Teller};
