//! `zwerm pub` and `zwerm sub`: small MQTT clients with the flags of mosquitto_pub and mosquitto_sub.
//!
//! `client` speaks the protocol over one connection, `publish` and `subscribe` are the two programs,
//! `arguments` what they share on the command line, `properties` the `-D` flag. They know nothing of the
//! broker but MQTT, and so are its first foreign clients.

mod arguments;
mod client;
mod properties;
mod publish;
mod source;
mod subscribe;
#[cfg(test)]
mod tests;

pub(crate) use publish::{Arguments as PublishArguments, run as publish};
pub(crate) use subscribe::{Arguments as SubscribeArguments, run as subscribe};
