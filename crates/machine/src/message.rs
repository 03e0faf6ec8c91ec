//! Between the packets of `wire` and the records that are replicated. Knows no state.
//!
//! Expiry is relative on the wire and absolute in a record, so both ways take the time. Start at [`record`].

use bytes::Bytes;
use thiserror::Error;
use zwerm_wire::{MessageProperties, QoS, TopicError, TopicName};

use crate::records::{Message, Properties, UserProperty, Will};

/// A record that no packet could have made: its writer is broken or newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The topic or the response topic.
    #[error("not a topic name: {0}")]
    Topic(#[from] TopicError),
    /// Neither 0, 1 nor 2.
    #[error("{0} is no quality of service")]
    QoS(u32),
}

/// What a PUBLISH says of its message, apart from where it goes and what it carries.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// Client id of the publisher.
    pub publisher: &'a str,
    /// Quality of service it was published with.
    pub qos: QoS,
    /// Its retain flag.
    pub retain: bool,
    /// Its properties.
    pub properties: Option<&'a MessageProperties>,
}

/// The record of a message that arrived at `now_ms`.
#[must_use]
pub fn record(topic: &TopicName, payload: Bytes, header: Header<'_>, now_ms: u64) -> Message {
    let expiry = header.properties.and_then(|properties| properties.message_expiry);
    Message {
        topic: topic.to_string(),
        payload,
        qos: u32::from(header.qos as u8),
        retain: header.retain,
        properties: header.properties.and_then(properties_record),
        expires_at_ms: expiry.map_or(0, |seconds| after_seconds(now_ms, seconds)),
        publisher: header.publisher.to_owned(),
        publisher_epoch: 0,
    }
}

/// The record of a will as CONNECT carries it. Its expiry starts when it fires (section 3.1.3.2.4).
#[must_use]
pub fn will_record(will: &zwerm_wire::Will, publisher: &str) -> Will {
    let properties = will.properties.as_deref();
    let header = Header { publisher, qos: will.qos, retain: will.retain, properties };
    let message = Message { expires_at_ms: 0, ..record(&will.topic, will.payload.clone(), header, 0) };
    Will {
        message: Some(message),
        delay_s: will.delay,
        message_expiry_s: properties.and_then(|properties| properties.message_expiry),
    }
}

/// The topic of a record.
///
/// # Errors
/// [`MessageError::Topic`].
pub fn topic(message: &Message) -> Result<TopicName, MessageError> {
    Ok(TopicName::new(message.topic.as_str())?)
}

/// The quality of service of a record.
///
/// # Errors
/// [`MessageError::QoS`].
pub fn qos(message: &Message) -> Result<QoS, MessageError> {
    qos_of(message.qos)
}

/// The quality of service of a field.
pub(crate) fn qos_of(field: u32) -> Result<QoS, MessageError> {
    match field {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        other => Err(MessageError::QoS(other)),
    }
}

/// The properties to forward at `now_ms`, with what is left of the expiry (section 3.3.2.3.3), rounded up so
/// that a message that lives is never sent with 0. `None` if it has none.
///
/// # Errors
/// [`MessageError::Topic`] for the response topic.
pub fn properties(message: &Message, now_ms: u64) -> Result<Option<Box<MessageProperties>>, MessageError> {
    let message_expiry = (message.expires_at_ms > 0).then(|| {
        let left = message.expires_at_ms.saturating_sub(now_ms).div_ceil(1000);
        u32::try_from(left).unwrap_or(u32::MAX)
    });
    let Some(stored) = &message.properties else {
        let only_expiry = MessageProperties { message_expiry, ..MessageProperties::default() };
        return Ok(message_expiry.map(|_| Box::new(only_expiry)));
    };
    let response_topic = stored.response_topic.as_deref().map(TopicName::new).transpose()?;
    let user = stored.user.iter().map(|pair| (pair.name.as_str().into(), pair.value.as_str().into()));
    Ok(Some(Box::new(MessageProperties {
        payload_format: stored.payload_format,
        message_expiry,
        content_type: stored.content_type.as_deref().map(Into::into),
        response_topic,
        correlation_data: stored.correlation_data.clone(),
        user: user.collect(),
    })))
}

/// Whether a message is dead at `now_ms`.
#[must_use]
pub fn is_expired(message: &Message, now_ms: u64) -> bool {
    message.expires_at_ms > 0 && message.expires_at_ms <= now_ms
}

/// What a message counts with in bounds: its payload and its topic.
pub(crate) fn weight(message: &Message) -> u32 {
    u32::try_from(message.payload.len() + message.topic.len()).unwrap_or(u32::MAX)
}

/// Checks what `apply` relies on.
pub(crate) fn check(message: &Message) -> Result<TopicName, MessageError> {
    qos(message)?;
    if let Some(response) = message.properties.as_ref().and_then(|stored| stored.response_topic.as_deref()) {
        TopicName::new(response)?;
    }
    topic(message)
}

/// A copy that shares no buffer with the log entry it came in: a kept message of ten bytes must not keep a
/// batch of a megabyte alive.
pub(crate) fn detached(message: &Message) -> Message {
    let mut copy = message.clone();
    copy.payload = Bytes::copy_from_slice(&message.payload);
    if let Some(data) = copy.properties.as_mut().and_then(|stored| stored.correlation_data.as_mut()) {
        *data = Bytes::copy_from_slice(data);
    }
    copy
}

/// `now_ms` plus seconds, never past the end of time.
pub(crate) fn after_seconds(now_ms: u64, seconds: u32) -> u64 {
    now_ms.saturating_add(u64::from(seconds) * 1000)
}

fn properties_record(properties: &MessageProperties) -> Option<Properties> {
    let user = properties.user.iter();
    let record = Properties {
        payload_format: properties.payload_format,
        content_type: properties.content_type.as_ref().map(ToString::to_string),
        response_topic: properties.response_topic.as_ref().map(ToString::to_string),
        correlation_data: properties.correlation_data.clone(),
        user: user
            .map(|(name, value)| UserProperty { name: name.to_string(), value: value.to_string() })
            .collect(),
    };
    (record != Properties::default()).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_properties() -> MessageProperties {
        MessageProperties {
            payload_format: Some(false),
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some(TopicName::new("answers").unwrap()),
            correlation_data: Some(Bytes::from_static(&[0, 255])),
            user: vec![("unit".into(), "C".into()), ("unit".into(), "K".into())],
        }
    }

    fn recorded(properties: Option<&MessageProperties>) -> Message {
        let header = Header { publisher: "client", qos: QoS::ExactlyOnce, retain: true, properties };
        record(&TopicName::new("a/b").unwrap(), Bytes::from_static(b"x"), header, 5_000)
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        let wanted = all_properties();
        let message = recorded(Some(&wanted));
        assert_eq!(message.expires_at_ms, 65_000);
        assert_eq!(topic(&message).unwrap(), TopicName::new("a/b").unwrap());
        assert_eq!(qos(&message), Ok(QoS::ExactlyOnce));
        assert_eq!((&*message.payload, message.retain, &*message.publisher), (&b"x"[..], true, "client"));
        assert_eq!(properties(&message, 5_000).unwrap().as_deref(), Some(&wanted));
    }

    #[test]
    fn the_time_a_message_waited_is_taken_off_its_expiry() {
        let only_expiry = MessageProperties { message_expiry: Some(60), ..MessageProperties::default() };
        let message = recorded(Some(&only_expiry));
        for (now_ms, left, expired) in [
            (5_000, 60, false),
            (5_001, 60, false),
            (6_000, 59, false),
            (64_999, 1, false),
            (65_000, 0, true),
        ] {
            let found = properties(&message, now_ms).unwrap().unwrap();
            assert_eq!(
                (found.message_expiry, is_expired(&message, now_ms)),
                (Some(left), expired),
                "at {now_ms}"
            );
        }
    }

    #[test]
    fn no_properties_and_empty_ones_are_recorded_as_none() {
        for properties in [None, Some(&MessageProperties::default())] {
            let message = recorded(properties);
            assert_eq!((message.properties.as_ref(), message.expires_at_ms), (None, 0));
            assert_eq!(super::properties(&message, 0), Ok(None));
            assert!(!is_expired(&message, u64::MAX));
        }
    }

    #[test]
    fn a_will_keeps_its_expiry_relative_until_it_fires() {
        let will = zwerm_wire::Will {
            topic: TopicName::new("a/b").unwrap(),
            payload: Bytes::from_static(b"x"),
            qos: QoS::ExactlyOnce,
            retain: true,
            delay: 9,
            properties: Some(Box::new(all_properties())),
        };
        let record = will_record(&will, "client");
        let message = Message { expires_at_ms: 0, ..recorded(Some(&all_properties())) };
        assert_eq!(record, Will { message: Some(message), delay_s: 9, message_expiry_s: Some(60) });
    }

    #[test]
    fn a_record_that_no_packet_could_have_made_is_told_by_what_is_wrong() {
        let good = recorded(Some(&all_properties()));
        assert!(check(&good).is_ok());
        assert_eq!(check(&Message { qos: 7, ..good.clone() }), Err(MessageError::QoS(7)));
        let topic = Message { topic: "a/#".into(), ..good.clone() };
        assert_eq!(check(&topic), Err(MessageError::Topic(TopicError::WildcardInName)));
        let response = Properties { response_topic: Some(String::new()), ..Properties::default() };
        let response = Message { properties: Some(response), ..good };
        assert_eq!(check(&response), Err(MessageError::Topic(TopicError::Empty)));
        assert_eq!(properties(&response, 0), Err(MessageError::Topic(TopicError::Empty)));
    }
}
