//! Topic names, topic filters and what matches what (MQTT 5.0 sections 4.7 and 4.8.2).

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod arbitrary;

use proptest::prelude::*;
use zwerm_wire::{TopicError, TopicFilter, TopicName};

#[test]
fn a_name_has_no_wildcard_no_nul_and_1_to_65535_bytes() {
    for text in ["a", "/", "//", "a/b", " ", "a b", "$SYS/x", "ʞ/é", "\u{feff}", "$share/g/a"] {
        assert!(TopicName::new(text).is_ok(), "{text:?}");
    }
    for (text, error) in [
        ("", TopicError::Empty),             // MQTT-4.7.3-1
        ("a\0", TopicError::Nul),            // MQTT-4.7.3-2
        ("\0+", TopicError::Nul),            // a fault of the string comes before one of the topic
        ("+", TopicError::WildcardInName),   // MQTT-3.3.2-2
        ("a/#", TopicError::WildcardInName), // MQTT-4.7.0-1
        ("a+b", TopicError::WildcardInName),
    ] {
        assert_eq!(TopicName::new(text), Err(error), "{text:?}");
    }
    assert!(TopicName::new("x".repeat(65_535)).is_ok());
    assert_eq!(TopicName::new("x".repeat(65_536)), Err(TopicError::TooLong)); // MQTT-4.7.3-3
}

#[test]
fn a_filter_has_its_wildcards_alone_in_their_levels() {
    for text in
        ["#", "+", "a/#", "a/+", "+/a", "+/+/#", "/", "/#", "/+", "a//#", "$SYS/#", "$share2/a", "$shared"]
    {
        assert!(TopicFilter::new(text).is_ok(), "{text:?}");
    }
    for (text, error) in [
        ("", TopicError::Empty),
        ("a\0b", TopicError::Nul),
        ("a#", TopicError::MisplacedWildcard),    // MQTT-4.7.1-1
        ("#/a", TopicError::MisplacedWildcard),   // MQTT-4.7.1-1
        ("a/#/b", TopicError::MisplacedWildcard), // MQTT-4.7.1-1
        ("a+", TopicError::MisplacedWildcard),    // MQTT-4.7.1-2
        ("+a/b", TopicError::MisplacedWildcard),  // MQTT-4.7.1-2
        ("a/+#", TopicError::MisplacedWildcard),
        ("$share", TopicError::BadShare),
        ("$share/", TopicError::BadShare),
        ("$share/g", TopicError::BadShare),   // MQTT-4.8.2-2
        ("$share/g/", TopicError::BadShare),  // MQTT-4.8.2-2
        ("$share//a", TopicError::BadShare),  // MQTT-4.8.2-1
        ("$share/+/a", TopicError::BadShare), // MQTT-4.8.2-2
        ("$share/a#/a", TopicError::BadShare),
        ("$share/g/a#", TopicError::MisplacedWildcard),
        ("$share/g/$exclusive/a", TopicError::BadShare),
        ("$share/g/$exclusive", TopicError::BadShare),
        ("$exclusive", TopicError::BadExclusive),
        ("$exclusive/", TopicError::BadExclusive),
        ("$exclusive/$share/g/a", TopicError::BadExclusive),
        ("$exclusive/$share", TopicError::BadExclusive),
        ("$exclusive/$exclusive/a", TopicError::BadExclusive),
        ("$exclusive/a#", TopicError::MisplacedWildcard),
    ] {
        assert_eq!(TopicFilter::new(text), Err(error), "{text:?}");
    }
    assert_eq!(TopicFilter::new("x".repeat(65_536)), Err(TopicError::TooLong));
}

#[test]
fn a_shared_filter_is_a_group_and_what_it_matches() {
    let filter = TopicFilter::new("$share/g é/+/b").unwrap();
    assert_eq!(filter.parts().share, Some("g é"));
    assert_eq!(filter.parts().filter, "+/b");
    assert!(filter.is_shared() && filter.has_wildcard());
    assert_eq!(filter.as_str(), "$share/g é/+/b");
    let leading_slash = TopicFilter::new("$share/g//a").unwrap();
    assert_eq!(leading_slash.parts().filter, "/a");
    let plain = TopicFilter::new("$share2/g/a").unwrap();
    assert_eq!(plain.parts().share, None);
    assert_eq!(plain.parts().filter, "$share2/g/a");
}

#[test]
fn filters_match_by_the_letter_of_section_4_7() {
    for (filter, topic, matches) in [
        ("a/b", "a/b", true),
        ("a/b", "a/b/", false),
        ("a/b", "A/b", false), // MQTT-4.7.3-4
        ("a/+", "a/b", true),
        ("a/+", "a/", true),
        ("a/+", "a", false),
        ("+", "a", true),
        ("+", "/a", false),
        ("+/+", "/a", true),
        ("/+", "/a", true),
        ("a/#", "a", true),
        ("a/#", "a/", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("#", "a/b", true),
        ("#", "/", true),
        ("#", "$SYS/a", false),   // MQTT-4.7.2-1
        ("+/a", "$SYS/a", false), // MQTT-4.7.2-1
        ("$SYS/#", "$SYS/a", true),
        ("$SYS/+", "$SYS/a", true),
        ("$SYS/a", "$SYS/a", true),
        ("a/#", "a/$b", true),
        ("a/+", "a/$b", true),
        ("é/+", "é/ʞ", true),
        ("$share/g/a/+", "a/b", true),
        ("$share/g/#", "$SYS/a", false),
        ("$exclusive/a/+", "a/b", true),
        ("$exclusive/a", "$exclusive/a", false),
        ("$exclusive/#", "$SYS/a", false),
        ("$exclusive//a", "/a", true),
        ("$share/g/$SYS/#", "$SYS/a", true),
    ] {
        let filter_parsed = TopicFilter::new(filter).unwrap();
        let found = filter_parsed.matches(&TopicName::new(topic).unwrap());
        assert_eq!(found, matches, "{filter} and {topic}");
    }
}

proptest! {
    #[test]
    fn a_name_without_wildcards_is_a_filter_that_matches_it(topic in arbitrary::topic_name()) {
        let first = topic.levels().next();
        prop_assume!(first != Some("$share") && first != Some("$exclusive"));
        let filter = TopicFilter::new(topic.as_byte_string().clone()).unwrap();
        prop_assert!(filter.matches(&topic));
        prop_assert!(!filter.has_wildcard());
    }

    #[test]
    fn a_level_replaced_by_a_wildcard_still_matches(topic in arbitrary::topic_name(), at in any::<prop::sample::Index>()) {
        prop_assume!(!topic.is_dollar());
        let mut levels: Vec<&str> = topic.levels().collect();
        let at = at.index(levels.len());
        levels[at] = "+";
        prop_assert!(TopicFilter::new(levels.join("/")).unwrap().matches(&topic));
        levels.truncate(at);
        levels.push("#");
        prop_assert!(TopicFilter::new(levels.join("/")).unwrap().matches(&topic));
    }

    #[test]
    fn a_filter_read_again_is_the_same(filter in arbitrary::topic_filter()) {
        prop_assert_eq!(TopicFilter::new(filter.as_str().to_owned()), Ok(filter));
    }
}
