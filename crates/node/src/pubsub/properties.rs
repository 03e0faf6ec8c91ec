//! The `-D PACKET property value` flag of mosquitto: 5.0 properties by name.
//!
//! Knows names and types; which are allowed where follows from the packet. Start at [`Properties::parse`].

use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use bytestring::ByteString;
use zwerm_wire::{ConnectProperties, MessageProperties, TopicName, UserProperties};

use crate::cli::WrongUsage;

/// All `-D` flags of one command line.
#[derive(Debug, Default)]
pub(super) struct Properties {
    pub(super) connect: ConnectProperties,
    pub(super) publish: Option<MessageProperties>,
    pub(super) will: Option<MessageProperties>,
    /// Seconds.
    pub(super) will_delay: u32,
    pub(super) subscription_id: Option<NonZeroU32>,
    pub(super) subscribe_user: UserProperties,
}

impl Properties {
    /// Reads the words of all flags in a row: packet, property, value, and a second value only for
    /// user-property. That makes where one flag ends and the next begins certain.
    pub(super) fn parse(words: &[String]) -> Result<Self, WrongUsage> {
        let mut properties = Self::default();
        let mut words = words.iter().map(String::as_str);
        while let Some(packet) = words.next() {
            let (Some(name), Some(value)) = (words.next(), words.next()) else {
                return Err(WrongUsage(format!("-D {packet} needs a property and its value")));
            };
            let user = match name {
                "user-property" => {
                    let second = words.next().ok_or_else(|| {
                        WrongUsage(format!("-D {packet} user-property needs a name and a value"))
                    })?;
                    Some((ByteString::from(value), ByteString::from(second)))
                }
                _ => None,
            };
            properties
                .set(packet, name, value, user)
                .map_err(|problem| WrongUsage(format!("-D {packet} {name} {value}: {problem}")))?;
        }
        Ok(properties)
    }

    fn set(&mut self, packet: &str, name: &str, value: &str, user: User) -> Result<(), String> {
        match packet.to_ascii_lowercase().as_str() {
            "connect" => set_connect(&mut self.connect, name, value, user),
            "publish" => set_message(self.publish.get_or_insert_default(), name, value, user),
            "will" if name == "will-delay-interval" => parsed(value).map(|delay| self.will_delay = delay),
            "will" => set_message(self.will.get_or_insert_default(), name, value, user),
            "subscribe" => match (name, user) {
                (_, Some(user)) => {
                    self.subscribe_user.push(user);
                    Ok(())
                }
                ("subscription-identifier", None) => parsed(value).map(|id| self.subscription_id = Some(id)),
                _ => Err(unknown("subscription-identifier, user-property")),
            },
            _ => Err("the packet is one of: connect, publish, will, subscribe".to_owned()),
        }
    }
}

type User = Option<(ByteString, ByteString)>;

fn parsed<T: FromStr<Err: std::fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "0" | "false" => Ok(false),
        "1" | "true" => Ok(true),
        _ => Err("expected 0 or 1".to_owned()),
    }
}

fn unknown(known: &str) -> String {
    format!("no such property of this packet; there are: {known}")
}

fn set_connect(to: &mut ConnectProperties, name: &str, value: &str, user: User) -> Result<(), String> {
    match (name, user) {
        (_, Some(user)) => to.user.push(user),
        ("session-expiry-interval", _) => to.session_expiry = Some(parsed(value)?),
        ("receive-maximum", _) => to.receive_maximum = Some(parsed::<NonZeroU16>(value)?),
        ("maximum-packet-size", _) => to.maximum_packet_size = Some(parsed::<NonZeroU32>(value)?),
        ("topic-alias-maximum", _) => to.topic_alias_maximum = Some(parsed(value)?),
        ("request-response-information", _) => to.request_response_information = Some(flag(value)?),
        ("request-problem-information", _) => to.request_problem_information = Some(flag(value)?),
        _ => {
            return Err(unknown(
                "session-expiry-interval, receive-maximum, maximum-packet-size, topic-alias-maximum, \
                 request-response-information, request-problem-information, user-property",
            ));
        }
    }
    Ok(())
}

fn set_message(to: &mut MessageProperties, name: &str, value: &str, user: User) -> Result<(), String> {
    match (name, user) {
        (_, Some(user)) => to.user.push(user),
        ("payload-format-indicator", _) => to.payload_format = Some(flag(value)?),
        ("message-expiry-interval", _) => to.message_expiry = Some(parsed(value)?),
        ("content-type", _) => to.content_type = Some(value.into()),
        ("response-topic", _) => {
            to.response_topic = Some(TopicName::new(value).map_err(|error| error.to_string())?);
        }
        ("correlation-data", _) => to.correlation_data = Some(value.to_owned().into()),
        _ => {
            return Err(unknown(
                "payload-format-indicator, message-expiry-interval, content-type, response-topic, correlation-data, \
                 user-property; of a will also will-delay-interval",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Properties, String> {
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        Properties::parse(&words).map_err(|error| error.0)
    }

    #[test]
    fn flags_with_three_and_four_words_follow_each_other() {
        let properties = parse(
            "PUBLISH user-property a b publish content-type text/plain CONNECT session-expiry-interval 60 \
             will will-delay-interval 5 subscribe subscription-identifier 7 publish user-property a c",
        )
        .unwrap();
        let publish = properties.publish.unwrap();
        assert_eq!(publish.user, [("a".into(), "b".into()), ("a".into(), "c".into())]);
        assert_eq!(publish.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.connect.session_expiry, Some(60));
        assert_eq!((properties.will_delay, properties.will), (5, None));
        assert_eq!(properties.subscription_id, NonZeroU32::new(7));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |words| parse(words).unwrap_err();
        assert_eq!(refused("publish content-type"), "-D publish needs a property and its value");
        assert_eq!(refused("publish user-property a"), "-D publish user-property needs a name and a value");
        assert!(refused("pubrel x y").ends_with("the packet is one of: connect, publish, will, subscribe"));
        assert!(refused("connect content-type x").contains("no such property of this packet"));
        assert!(refused("connect receive-maximum 0").contains("number would be zero"));
        assert!(refused("publish response-topic a/#").ends_with("a topic name must not hold a wildcard"));
    }
}
