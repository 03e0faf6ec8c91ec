//! A node whose cluster is not there: what it cannot do it does not pretend to do.

use anyhow::Result;

use crate::case;
use crate::case::{Case, Env};
use crate::packet::reason;

pub(crate) const CASES: &[Case] = &[case!(connect_is_refused_while_no_quorum_answers,
    V31 ["MQTT31-codes"],
    V311 ["MQTT-4.8.0-2", "MQTT-3.2.2-4", "MQTT-3.2.2-5"],
    V5 ["MQTT-3.2.2-6", "MQTT-3.2.2-7"])];

/// A transient error in handling a packet: the client is told if there is a code for it, and the connection ends.
async fn connect_is_refused_while_no_quorum_answers(env: Env) -> Result<()> {
    for connect in [env.hello("a"), env.durable("b")] {
        env.say(connect.bytes()).await?.refused(reason::UNAVAILABLE, Some(3)).await?;
    }
    Ok(())
}
