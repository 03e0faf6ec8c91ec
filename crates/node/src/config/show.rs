//! The configuration written out: the effective one as TOML, and the reference of all keys as Markdown.
//!
//! Both walk the tables of `keys`; no key is named here.

use std::fmt::{self, Write as _};

use super::keys::{Key, LISTENER, LISTENER_DOC, LISTENER_KEYS, SECTIONS, idle};
use super::{Config, ListenerConfig};

impl fmt::Display for Config {
    /// As a TOML file that says every key that means something.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = self.clone();
        for section in SECTIONS {
            writeln!(f, "[{}]", section.name)?;
            write_keys(f, &mut config, section.keys.iter())?;
            f.write_char('\n')?;
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            writeln!(f, "{gap}[[{LISTENER}]]")?;
            let keys = LISTENER_KEYS.iter().filter(|key| idle(listener, key.name).is_none());
            write_keys(f, &mut listener.clone(), keys)?;
        }
        Ok(())
    }
}

fn write_keys<T: 'static>(
    f: &mut fmt::Formatter<'_>,
    target: &mut T,
    keys: impl Iterator<Item = &'static Key<T>>,
) -> fmt::Result {
    for key in keys {
        if let Some(value) = (key.field)(target).shown() {
            writeln!(f, "{} = {value}", key.name)?;
        }
    }
    Ok(())
}

/// docs/configuration.md: every key with its default, what it takes and what it does.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for section in SECTIONS {
        heading(&mut page, &format!("[{}]", section.name), section.doc);
        table(&mut page, &mut Config::default(), section.keys);
    }
    heading(&mut page, &format!("[[{LISTENER}]]"), LISTENER_DOC);
    table(&mut page, &mut ListenerConfig::default(), LISTENER_KEYS);
    page
}

const INTRODUCTION: &str = "\
<!-- Made from crates/node/src/config/keys.rs; a test compares. Do not edit: run
     cargo run -p zwerm-node -- serve --print-config-docs > docs/configuration.md -->

# Configuration

A node takes each value from the first of these that says it:

1. a flag of `zwerm serve` (`--set mqtt.max_inflight=64`, or the short ones that `zwerm serve --help` lists);
2. an environment variable `ZWERM_SECTION__KEY` (`ZWERM_MQTT__MAX_INFLIGHT=64`);
3. the TOML file given with `--config`;
4. the default.

An unknown key, a wrong type or a value out of range is an error that names the key and the place where it was
written. `zwerm serve --check` checks everything and prints the effective configuration as TOML.

Sizes are integers (bytes) or strings with a unit: `B`, `kB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB`
(powers of 1024).
";

fn heading(page: &mut String, title: &str, doc: &str) {
    page.push_str(&format!("\n## `{title}`\n\n{doc}\n"));
}

fn table<T>(page: &mut String, defaults: &mut T, keys: &[Key<T>]) {
    page.push_str("\n| key | default | takes | does |\n|---|---|---|---|\n");
    for key in keys {
        let field = (key.field)(defaults);
        let default = field.shown().map_or_else(|| "(none)".to_owned(), |value| format!("`{value}`"));
        page.push_str(&format!(
            "| `{}` | {default} | {} | {} |\n",
            key.name,
            field.accepts(key.limits),
            key.doc
        ));
    }
}
