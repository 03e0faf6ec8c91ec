//! Topic aliases, both ways (MQTT 5.0 section 3.3.2.3.4). They end with the connection.
//!
//! Knows no messages. Start at `InboundAliases::resolve` and `OutboundAliases::of`.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use zwerm_wire::{ReasonCode, TopicName};

use crate::Session;

/// How to name the topic of an outgoing PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasUse {
    /// By its name only.
    None,
    /// By its name, and the client is to remember this alias for it. The PUBLISH must be sent.
    New(NonZeroU16),
    /// By this alias only.
    Known(NonZeroU16),
}

type Topics = BTreeMap<NonZeroU16, TopicName>;
type Aliases = BTreeMap<TopicName, NonZeroU16>;

/// What the client's aliases stand for.
#[derive(Debug, Default)]
pub(crate) struct InboundAliases {
    /// Boxed: few clients use any.
    topics: Option<Box<Topics>>,
}

impl InboundAliases {
    /// The topic of a PUBLISH that names it by name, alias or both, at most `maximum` aliases.
    pub(crate) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: Option<NonZeroU16>,
        maximum: u16,
    ) -> Result<TopicName, ReasonCode> {
        let Some(alias) = alias else {
            return topic.ok_or(ReasonCode::ProtocolError);
        };
        if alias.get() > maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        match topic {
            Some(topic) => {
                self.topics.get_or_insert_default().insert(alias, detached(&topic));
                Ok(topic)
            }
            None => {
                let known = self.topics.as_ref().and_then(|topics| topics.get(&alias));
                known.cloned().ok_or(ReasonCode::ProtocolError)
            }
        }
    }
}

/// A copy with a buffer of its own: the topic as decoded is a slice that would keep a whole read buffer.
fn detached(topic: &TopicName) -> TopicName {
    TopicName::new(topic.to_string()).unwrap_or_else(|_| topic.clone())
}

/// The aliases that the client was told. First come, first served; never given to another topic.
#[derive(Debug, Default)]
pub(crate) struct OutboundAliases {
    /// Boxed: few clients take any.
    aliases: Option<Box<Aliases>>,
    maximum: u16,
}

impl OutboundAliases {
    pub(crate) fn open(&mut self, maximum: u16) {
        self.maximum = maximum;
    }

    fn of(&mut self, topic: &TopicName) -> AliasUse {
        if self.maximum == 0 {
            return AliasUse::None;
        }
        let aliases = self.aliases.get_or_insert_default();
        if let Some(alias) = aliases.get(topic) {
            return AliasUse::Known(*alias);
        }
        let next = u16::try_from(aliases.len() + 1).ok().filter(|next| *next <= self.maximum);
        match next.and_then(NonZeroU16::new) {
            Some(alias) => {
                aliases.insert(detached(topic), alias);
                AliasUse::New(alias)
            }
            None => AliasUse::None,
        }
    }
}

impl Session {
    /// How to name `topic` in the next PUBLISH to the client, which must then be sent.
    pub fn alias(&mut self, topic: &TopicName) -> AliasUse {
        self.aliases_out.of(topic)
    }

    /// Whether the client takes aliases at all.
    #[must_use]
    pub fn uses_aliases(&self) -> bool {
        self.aliases_out.maximum > 0
    }
}
