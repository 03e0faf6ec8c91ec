//! Reads the sources in their order and remembers where each value was said.
//!
//! Defaults, then the file, then the environment, then flags: the last one wins, but every one is checked.
//! Start at [`Config::load`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Key, LISTENER, LISTENER_KEYS, SECTIONS};
use super::{Config, ConfigError, ListenerConfig, Origin, Value, check};

/// What the names of our environment variables begin with.
const PREFIX: &str = "ZWERM_";

/// Everything a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; others than `ZWERM_SECTION__KEY` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// Flags, in the order given.
    pub flags: Vec<Override>,
}

/// One value from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The flag as typed, for messages.
    pub flag: String,
    /// `section.key`
    pub key: String,
    /// As text; the key knows its type.
    pub value: String,
}

impl Config {
    /// Reads, merges and checks all sources.
    ///
    /// # Errors
    /// The first thing that is wrong, with its key and its place.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut loading = Loading { config: Self::default(), said: Said::default() };
        if let Some(path) = &sources.file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            loading.file(path, &text)?;
        }
        for (name, value) in &sources.environment {
            loading.variable(name, value)?;
        }
        for flag in &sources.flags {
            loading.untyped(&flag.key, &flag.value, &Origin::Flag(flag.flag.clone()))?;
        }
        check::check(&loading.config, &loading.said)?;
        Ok(loading.config)
    }
}

/// Where each key was said last. Keys of a listener are `listener.N.key`, N from 0.
#[derive(Debug, Default)]
pub(super) struct Said(BTreeMap<String, Origin>);

impl Said {
    pub(super) fn explicitly(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn origin(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }
}

struct Loading {
    config: Config,
    said: Said,
}

/// The file being read, to turn positions into lines.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, span: &Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }
}

fn refused(origin: &Origin, key: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Key { origin: origin.clone(), key: key.to_owned(), problem: problem.into() }
}

fn unknown<T>(origin: &Origin, section: &str, name: &str, keys: &[Key<T>]) -> ConfigError {
    let known: Vec<_> = keys.iter().map(|key| key.name).collect();
    let problem = format!("unknown key; [{section}] has: {}", known.join(", "));
    refused(origin, &format!("{section}.{name}"), problem)
}

fn unknown_section(origin: &Origin, name: &str) -> ConfigError {
    let known: Vec<_> = SECTIONS.iter().map(|section| section.name).chain([LISTENER]).collect();
    refused(origin, name, format!("unknown section; there are: {}", known.join(", ")))
}

/// Sets one key of `target`; `full` is its name in messages.
fn assign<T>(
    target: &mut T,
    keys: &[Key<T>],
    (section, name): (&str, &str),
    value: &Value,
    origin: &Origin,
) -> Result<(), ConfigError> {
    let key = keys.iter().find(|key| key.name == name).ok_or_else(|| unknown(origin, section, name, keys))?;
    (key.field)(target)
        .assign(value, key.limits)
        .map_err(|problem| refused(origin, &format!("{section}.{name}"), problem))
}

impl Loading {
    fn file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let file = File { path, text };
        let document = DeTable::parse(text).map_err(|error| syntax(&file, &error))?;
        for (name, value) in document.get_ref() {
            let origin = file.origin(&name.span());
            match (name.get_ref().as_ref(), value.get_ref()) {
                (LISTENER, DeValue::Array(tables)) => self.listeners(&file, tables)?,
                (LISTENER, _) => {
                    return Err(refused(&origin, LISTENER, "expected [[listener]], with double brackets"));
                }
                (section, DeValue::Table(table)) => self.section(&file, section, table, &origin)?,
                (key, _) => return Err(unknown_section(&origin, key)),
            }
        }
        Ok(())
    }

    fn section(
        &mut self,
        file: &File<'_>,
        section: &str,
        table: &DeTable<'_>,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        let keys = SECTIONS
            .iter()
            .find(|known| known.name == section)
            .ok_or_else(|| unknown_section(origin, section))?
            .keys;
        for (name, value) in table {
            let origin = file.origin(&name.span());
            let value = Value::from_toml(value.get_ref());
            assign(&mut self.config, keys, (section, name.get_ref()), &value, &origin)?;
            self.said.0.insert(format!("{section}.{}", name.get_ref()), origin);
        }
        Ok(())
    }

    fn listeners(&mut self, file: &File<'_>, tables: &[Spanned<DeValue<'_>>]) -> Result<(), ConfigError> {
        self.config.listeners.clear();
        for (index, table) in tables.iter().enumerate() {
            let DeValue::Table(keys) = table.get_ref() else {
                return Err(refused(&file.origin(&table.span()), LISTENER, "expected a table"));
            };
            let mut listener = ListenerConfig::default();
            for (name, value) in keys {
                let origin = file.origin(&name.span());
                let value = Value::from_toml(value.get_ref());
                assign(&mut listener, LISTENER_KEYS, (LISTENER, name.get_ref()), &value, &origin)?;
                self.said.0.insert(format!("{LISTENER}.{index}.{}", name.get_ref()), origin);
            }
            // a rule about a listener can point at its table even if the key was left out
            self.said.0.insert(format!("{LISTENER}.{index}"), file.origin(&table.span()));
            self.config.listeners.push(listener);
        }
        if tables.is_empty() {
            let origin = Origin::File { path: file.path.to_owned(), line: 1 };
            return Err(refused(&origin, LISTENER, "at least one listener is needed"));
        }
        Ok(())
    }

    /// Variables without `__` are not ours: Kubernetes sets `ZWERM_PORT` and the like for a service's name.
    fn variable(&mut self, name: &OsString, value: &OsString) -> Result<(), ConfigError> {
        let Some(name) = name.to_str() else { return Ok(()) };
        let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__")) else {
            return Ok(());
        };
        let origin = Origin::Environment(name.to_owned());
        let key = format!("{}.{}", section.to_ascii_lowercase(), key.to_ascii_lowercase());
        let value = value.to_str().ok_or_else(|| refused(&origin, &key, "its value is not UTF-8"))?;
        self.untyped(&key, value, &origin)
    }

    fn untyped(&mut self, full: &str, value: &str, origin: &Origin) -> Result<(), ConfigError> {
        let value = Value::Untyped(value.to_owned());
        let (section, name) =
            full.split_once('.').ok_or_else(|| refused(origin, full, "a key is written section.key"))?;
        if section == LISTENER {
            // a loaded configuration always has a first listener
            let Some(first) = self.config.listeners.first_mut() else { return Ok(()) };
            assign(first, LISTENER_KEYS, (section, name), &value, origin)?;
            self.said.0.insert(format!("{LISTENER}.0.{name}"), origin.clone());
            return Ok(());
        }
        let keys = SECTIONS
            .iter()
            .find(|known| known.name == section)
            .ok_or_else(|| unknown_section(origin, section))?
            .keys;
        assign(&mut self.config, keys, (section, name), &value, origin)?;
        self.said.0.insert(full.to_owned(), origin.clone());
        Ok(())
    }
}

fn syntax(file: &File<'_>, error: &toml::de::Error) -> ConfigError {
    let line = match error.span().map(|span| file.origin(&span)) {
        Some(Origin::File { line, .. }) => line,
        _ => 1,
    };
    ConfigError::Syntax { path: file.path.to_owned(), line, message: error.message().to_owned() }
}
