//! `$delayed/<seconds>/<topic>`: what is published to it is published to the topic so many seconds later, whatever
//! becomes of the nodes meanwhile. Knows no shards. Start at [`Delayed::of`].

use zwerm_wire::TopicName;

use crate::sys::is_sys;

/// What these topics begin with.
const PREFIX: &str = "$delayed/";

/// What such a topic asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delayed {
    pub(crate) seconds: u32,
    pub(crate) topic: TopicName,
}

/// The topic begins as one of these and goes on as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Delayed {
    /// Takes such a topic apart; `None` for any other. Nothing is delayed twice, or to topics that are not for clients.
    pub(crate) fn of(topic: &TopicName) -> Option<Result<Self, Malformed>> {
        let rest = topic.strip_prefix(PREFIX)?;
        let parts =
            rest.split_once('/').filter(|(seconds, _)| seconds.bytes().all(|byte| byte.is_ascii_digit()));
        let delayed = parts.and_then(|(seconds, topic)| {
            let is_free = !is_sys(topic) && !topic.starts_with(PREFIX);
            let topic = TopicName::new(topic.to_owned()).ok().filter(|_| is_free)?;
            Some(Self { seconds: seconds.parse().ok()?, topic })
        });
        Some(delayed.ok_or(Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_topic_are_told_apart_and_nonsense_is_noticed() {
        let of = |text: &str| Delayed::of(&TopicName::new(text.to_owned()).unwrap());
        let delayed = |seconds, topic: &str| {
            Some(Ok(Delayed { seconds, topic: TopicName::new(topic.to_owned()).unwrap() }))
        };
        for (text, expected) in [
            ("a/b", None),
            ("$delayed", None),
            ("$delayedly/1/a", None),
            ("$delayed/5/a", delayed(5, "a")),
            ("$delayed/005/a/b/", delayed(5, "a/b/")),
            ("$delayed/4294967295//", delayed(u32::MAX, "/")),
            ("$delayed/0/$other", delayed(0, "$other")),
            ("$delayed/5", Some(Err(Malformed))),
            ("$delayed/5/", Some(Err(Malformed))),
            ("$delayed//a", Some(Err(Malformed))),
            ("$delayed/-5/a", Some(Err(Malformed))),
            ("$delayed/1.5/a", Some(Err(Malformed))),
            ("$delayed/4294967296/a", Some(Err(Malformed))),
            ("$delayed/5/$SYS/a", Some(Err(Malformed))),
            ("$delayed/5/$delayed/5/a", Some(Err(Malformed))),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }
}
