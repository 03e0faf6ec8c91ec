//! The measured part of a document: what is between its two marks is written by a program, the rest by people.
//!
//! Knows no measurement. Start at [`Measured::update`].

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The marks, each a line of its own.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Before what was measured.
    pub begin: &'static str,
    /// After it.
    pub end: &'static str,
}

impl Measured {
    /// Replaces the measured part of a document.
    ///
    /// # Errors
    /// When the document is not there, or has not both marks.
    pub fn update(&self, path: &Path, measured: &str) -> Result<()> {
        let document = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let updated = self
            .replace(&document, measured)
            .with_context(|| format!("{} has not the marks of what is measured", path.display()))?;
        fs::write(path, updated).with_context(|| format!("writing {}", path.display()))
    }

    /// The document with another measured part; `None` when it has not both marks.
    #[must_use]
    pub fn replace(&self, document: &str, measured: &str) -> Option<String> {
        let Self { begin, end } = self;
        let (before, rest) = document.split_once(begin)?;
        let (_, after) = rest.split_once(end)?;
        Some(format!("{before}{begin}{measured}{end}{after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_is_replaced() {
        let marks = Measured { begin: "<!-- begin -->\n", end: "<!-- end -->\n" };
        let document = "above\n<!-- begin -->\nold\n<!-- end -->\nbelow\n";
        let updated = marks.replace(document, "new\n");
        assert_eq!(updated.as_deref(), Some("above\n<!-- begin -->\nnew\n<!-- end -->\nbelow\n"));
        assert_eq!(marks.replace("above\n", "new\n"), None);
    }
}
