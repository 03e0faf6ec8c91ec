//! Why a configuration is refused, and where the refused thing was said.
//!
//! Every message names the key and the place (file and line, environment variable or flag), because the
//! reader's next step is to go there.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In the configuration file.
    File {
        /// As given on the command line.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// In an environment variable of this name.
    Environment(String),
    /// By a flag, as typed.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// As given.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// A key is unknown, has the wrong type, is out of range, or does not fit the others.
    #[error("{origin}: {key}: {problem}")]
    Key {
        /// Where it was said.
        origin: Origin,
        /// `section.key`
        key: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
}
