//! Topic names and topic filters, parsed once and then trusted (MQTT 5.0 section 4.7).
//!
//! Knows no subscribers and no tree. Start at [`TopicName::new`] and [`TopicFilter::new`].

use std::fmt;
use std::ops::Deref;

use bytestring::ByteString;
use thiserror::Error;

/// Why a string is no topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Zero characters (section 4.7.3).
    #[error("a topic has at least one character")]
    Empty,
    /// More than 65,535 bytes.
    #[error("a topic has at most 65535 bytes")]
    TooLong,
    /// U+0000 (section 4.7.3).
    #[error("a topic must not hold U+0000")]
    Nul,
    /// `+` or `#` in a topic name (section 4.7.1).
    #[error("a topic name must not hold a wildcard")]
    WildcardInName,
    /// `+` that shares its level, or `#` that does or is not last (sections 4.7.1.2, 4.7.1.3).
    #[error("a wildcard stands alone in its level, and # only in the last one")]
    MisplacedWildcard,
    /// `$share/` without a name, with a wildcard in it, or without a filter after it (section 4.8.2).
    #[error("a shared subscription reads $share/name/filter")]
    BadShare,
    /// `$exclusive/` without a filter after it, or with one that is shared or exclusive itself.
    #[error(
        "an exclusive subscription reads $exclusive/filter, and its filter is neither shared nor exclusive"
    )]
    BadExclusive,
}

/// A topic name: 1 to 65,535 bytes of UTF-8, no wildcard, no U+0000. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

impl TopicName {
    /// Checks a string.
    ///
    /// # Errors
    /// What [`TopicError`] says of names.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_length(&text)?;
        // Without an early exit this is vector code, and every PUBLISH runs through it.
        let bad = |byte: u8| byte == 0 || byte == b'+' || byte == b'#';
        if text.bytes().fold(false, |found, byte| found | bad(byte)) {
            return Err(if has_nul(&text) { TopicError::Nul } else { TopicError::WildcardInName });
        }
        Ok(Self(text))
    }

    /// The levels between the slashes, at least one; a level may be empty.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Starts with `$`: wildcards in a first level do not match it (section 4.7.2).
    #[must_use]
    pub fn is_dollar(&self) -> bool {
        self.0.starts_with('$')
    }

    /// The text with its shared buffer.
    #[must_use]
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }

    /// A copy with a buffer of its own, for what outlives the packet: a slice keeps its whole read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(&*self.0))
    }
}

/// The group name of a shared subscription.
pub type ShareName = ByteString;

/// What a shared filter begins with (section 4.8.2).
const SHARE: &str = "$share/";
/// What an exclusive filter begins with; of ours, as of other brokers, not of the specification.
const EXCLUSIVE: &str = "$exclusive/";

/// A topic filter as a client sent it: plain, shared (`$share/name/filter`), or exclusive (`$exclusive/filter`). Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter {
    text: ByteString,
    /// Where the matched part starts: 0, or behind `$share/name/` or `$exclusive/`.
    matched: usize,
}

/// A filter taken apart: the group, if it is shared, and what is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterParts<'a> {
    /// The name of the group, `None` when not shared.
    pub share: Option<&'a str>,
    /// The part that is matched against topic names.
    pub filter: &'a str,
}

impl TopicFilter {
    /// Checks a string.
    ///
    /// # Errors
    /// What [`TopicError`] says of filters.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_length(&text)?;
        if has_nul(&text) {
            return Err(TopicError::Nul);
        }
        let matched = matched_from(&text)?;
        check_wildcards(text.get(matched..).unwrap_or_default())?;
        Ok(Self { text, matched })
    }

    /// The whole text, `$share/name/` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text with its shared buffer.
    #[must_use]
    pub fn as_byte_string(&self) -> &ByteString {
        &self.text
    }

    /// A copy with a buffer of its own, for what outlives the packet: a slice keeps its whole read buffer.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { text: ByteString::from(&*self.text), matched: self.matched }
    }

    /// Group and matched part.
    #[must_use]
    pub fn parts(&self) -> FilterParts<'_> {
        let filter = self.text.get(self.matched..).unwrap_or_default();
        let share = self.text.get(SHARE.len()..self.matched.saturating_sub(1));
        FilterParts { share: share.filter(|_| self.is_shared()), filter }
    }

    /// Is `$share/...`.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.matched > 0 && self.text.starts_with(SHARE)
    }

    /// Is `$exclusive/...`: at most one client of the cluster has it. What it matches is what its filter matches.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.matched > 0 && !self.is_shared()
    }

    /// Holds `+` or `#`.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.parts().filter.contains(['+', '#'])
    }

    /// The levels of the matched part.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.parts().filter.split('/')
    }

    /// Whether a topic name matches, by the letter of section 4.7. Slow and plain: tries are tested
    /// against it.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut filter = self.levels().peekable();
        if topic.is_dollar() && matches!(filter.peek(), Some(&"+" | &"#")) {
            return false;
        }
        let mut levels = topic.levels();
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
    }
}

/// Where the part of a filter that is matched starts.
fn matched_from(text: &str) -> Result<usize, TopicError> {
    let is = |prefix: &str, text: &str| text.starts_with(prefix) || Some(text) == prefix.strip_suffix('/');
    if is(SHARE, text) {
        let rest = text.get(SHARE.len()..).ok_or(TopicError::BadShare)?;
        let (name, filter) = rest.split_once('/').ok_or(TopicError::BadShare)?;
        if name.is_empty() || filter.is_empty() || name.contains(['+', '#']) || is(EXCLUSIVE, filter) {
            return Err(TopicError::BadShare);
        }
        return Ok(text.len() - filter.len());
    }
    if is(EXCLUSIVE, text) {
        let filter = text.get(EXCLUSIVE.len()..).ok_or(TopicError::BadExclusive)?;
        if filter.is_empty() || is(SHARE, filter) || is(EXCLUSIVE, filter) {
            return Err(TopicError::BadExclusive);
        }
        return Ok(EXCLUSIVE.len());
    }
    Ok(0)
}

fn check_length(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong);
    }
    Ok(())
}

fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

fn check_wildcards(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let lone = level.len() == 1;
        if (level.contains('#') && !(lone && last)) || (level.contains('+') && !lone) {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
