//! Whether a filter matches a topic (MQTT 5.0 section 4.7), written again from the specification: the oracle
//! must not be wrong where the broker is.

/// What exclusive filters begin with.
pub(crate) const EXCLUSIVE: &str = "$exclusive/";

/// Whether a filter without `$share/...` matches a topic.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Takes a subscription apart: the share name, if it is a shared one, and the filter that is matched.
pub(crate) fn parts(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((share, filter)) => (Some(share), filter),
        None => (None, filter.strip_prefix(EXCLUSIVE).unwrap_or(filter)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_section_4_7_says() {
        for (filter, topic) in
            [("a/b", "a/b"), ("#", "a"), ("a/#", "a"), ("a/#", "a/b/c"), ("+/b", "/b"), ("a/+", "a/")]
        {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in
            [("a", "a/b"), ("a/+", "a"), ("a/+", "a/b/c"), ("#", "$SYS/a"), ("+/a", "$SYS/a"), ("a/b", "a")]
        {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn a_shared_subscription_has_a_name_and_a_filter() {
        assert_eq!(parts("$share/g/a/#"), (Some("g"), "a/#"));
        assert_eq!(parts("a/#"), (None, "a/#"));
        assert_eq!(parts("$exclusive/a/#"), (None, "a/#"));
    }
}
