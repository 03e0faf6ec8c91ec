//! One value as somebody wrote it, and the types it can become.
//!
//! [`Setting`] is implemented once per type of field; the table in `keys` only says which field and within
//! which limits. Knows no key.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use toml::de::DeValue;
use zwerm_gateway::Bind;

/// A value before anybody knows what type it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Self>),
    /// A TOML type that no key takes, by name.
    Other(&'static str),
    /// From the environment or a flag: only the key knows the type.
    Untyped(String),
}

impl Value {
    pub(super) fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(flag) => Self::Bool(*flag),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Self::Other("an integer of more than 64 bits"), Self::Integer),
            DeValue::Array(items) => {
                Self::List(items.iter().map(|item| Self::from_toml(item.get_ref())).collect())
            }
            DeValue::Float(_) => Self::Other("a float"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    fn wanted(&self, wanted: impl fmt::Display) -> String {
        format!("expected {wanted}, found {self}")
    }

    fn text(&self, wanted: &str) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Untyped(text) => Ok(text),
            _ => Err(self.wanted(wanted)),
        }
    }

    fn number(&self, limits: Limits) -> Result<u64, String> {
        let number = match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Untyped(text) => Some(text.trim().parse().map_err(|_| self.wanted("an integer"))?),
            _ => return Err(self.wanted("an integer")),
        };
        number
            .filter(|number| limits.hold(*number))
            .ok_or_else(|| format!("{self} is out of range: {}", limits.in_numbers()))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Text(text) | Self::Untyped(text) => write!(f, "{text:?}"),
            Self::List(_) => f.write_str("a list"),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

/// Bounds of a number or a size, both included. Ignored by other types.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Limits {
    fn hold(self, number: u64) -> bool {
        (self.least..=self.most).contains(&number)
    }

    fn in_numbers(self) -> String {
        format!("{} to {}", self.least, self.most)
    }

    fn in_sizes(self) -> String {
        format!("{} to {}", ByteSize(self.least), ByteSize(self.most))
    }
}

/// A field of the configuration.
pub(super) trait Setting {
    /// Takes a value, or says what is wrong with it.
    fn assign(&mut self, value: &Value, limits: Limits) -> Result<(), String>;
    /// Its value now, as TOML; `None` when it has none.
    fn shown(&self) -> Option<toml::Value>;
    /// What it takes, for people.
    fn accepts(&self, limits: Limits) -> String;
}

impl Setting for bool {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        *self = match value {
            Value::Bool(flag) => *flag,
            Value::Untyped(text) if text == "true" => true,
            Value::Untyped(text) if text == "false" => false,
            _ => return Err(value.wanted("true or false")),
        };
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        Some((*self).into())
    }

    fn accepts(&self, _: Limits) -> String {
        "`true` or `false`".into()
    }
}

/// Whole numbers of any width: the limits in the table are the narrower bound, the type the wider one.
macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn assign(&mut self, value: &Value, limits: Limits) -> Result<(), String> {
                let number = value.number(limits)?;
                *self = Self::try_from(number).map_err(|_| value.wanted("a smaller number"))?;
                Ok(())
            }

            fn shown(&self) -> Option<toml::Value> {
                i64::try_from(*self).ok().map(toml::Value::Integer)
            }

            fn accepts(&self, limits: Limits) -> String {
                limits.in_numbers()
            }
        }
    )*};
}
numbers!(u16, u32, u64, usize);

/// Likewise, and never 0.
macro_rules! positive_numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn assign(&mut self, value: &Value, limits: Limits) -> Result<(), String> {
                let number = value.number(limits)?.try_into().ok().and_then(Self::new);
                *self = number.ok_or_else(|| format!("{value} is out of range: 1 to {}", Self::MAX))?;
                Ok(())
            }

            fn shown(&self) -> Option<toml::Value> {
                Some(i64::from(self.get()).into())
            }

            fn accepts(&self, limits: Limits) -> String {
                limits.in_numbers()
            }
        }
    )*};
}
positive_numbers!(NonZeroU16, NonZeroU32);

/// Whole numbers that need not be said.
impl Setting for Option<u32> {
    fn assign(&mut self, value: &Value, limits: Limits) -> Result<(), String> {
        self.get_or_insert_default().assign(value, limits)
    }

    fn shown(&self) -> Option<toml::Value> {
        self.as_ref().and_then(Setting::shown)
    }

    fn accepts(&self, limits: Limits) -> String {
        limits.in_numbers()
    }
}

impl Setting for String {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        value.text("a string")?.clone_into(self);
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        Some(self.clone().into())
    }

    fn accepts(&self, _: Limits) -> String {
        "a string".into()
    }
}

impl Setting for Option<String> {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        *self = Some(value.text("a string")?.to_owned());
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        self.clone().map(Into::into)
    }

    fn accepts(&self, _: Limits) -> String {
        "a string".into()
    }
}

impl Setting for PathBuf {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        *self = Self::from(value.text("a path")?);
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        self.to_str().map(|path| path.to_owned().into())
    }

    fn accepts(&self, _: Limits) -> String {
        "a path".into()
    }
}

impl Setting for Option<PathBuf> {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        *self = Some(value.text("a path")?.into());
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        self.as_ref().and_then(Setting::shown)
    }

    fn accepts(&self, limits: Limits) -> String {
        PathBuf::new().accepts(limits)
    }
}

impl Setting for Bind {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        const WANTED: &str =
            "an address and port like \"127.0.0.1:1883\" or \"[::1]:1883\", or \"unix:/path/of/a/socket\"";
        *self = value.text(WANTED)?.parse().map_err(|_| value.wanted(WANTED))?;
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }

    fn accepts(&self, _: Limits) -> String {
        "`\"address:port\"` or `\"unix:/path\"`".into()
    }
}

impl Setting for SocketAddr {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        const WANTED: &str = "an address and port like \"127.0.0.1:1883\" or \"[::1]:1883\"";
        *self = value.text(WANTED)?.parse().map_err(|_| value.wanted(WANTED))?;
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }

    fn accepts(&self, _: Limits) -> String {
        "`\"address:port\"`".into()
    }
}

impl Setting for Vec<String> {
    fn assign(&mut self, value: &Value, _: Limits) -> Result<(), String> {
        const WANTED: &str = "a list of strings";
        *self = match value {
            Value::Untyped(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
            Value::List(items) => {
                items.iter().map(|item| item.text(WANTED).map(str::to_owned)).collect::<Result<_, _>>()?
            }
            _ => return Err(value.wanted(WANTED)),
        };
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        Some(self.clone().into())
    }

    fn accepts(&self, _: Limits) -> String {
        "a list of strings; in the environment separated by commas".into()
    }
}

/// A number of bytes. Written as an integer or with a unit: `262144`, `"256KiB"`, `"1MiB"`, `"1MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Largest first among the binary ones: the order in which a size is shown.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(digits)?;
        let number: u64 = number.parse().ok()?;
        let unit = unit.trim_start();
        let scale = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
        number.checked_mul(scale).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |scale: &u64| self.0 >= *scale && self.0.is_multiple_of(*scale);
        match UNITS.iter().take(3).find(|(_, scale)| whole(scale)) {
            Some((unit, scale)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Setting for ByteSize {
    fn assign(&mut self, value: &Value, limits: Limits) -> Result<(), String> {
        const WANTED: &str = "a size like 262144, \"256KiB\" or \"1MiB\"";
        let size = match value {
            Value::Integer(number) => u64::try_from(*number).ok().map(ByteSize),
            _ => Some(Self::parse(value.text(WANTED)?).ok_or_else(|| value.wanted(WANTED))?),
        };
        *self = size
            .filter(|size| limits.hold(size.0))
            .ok_or_else(|| format!("{value} is out of range: {}", limits.in_sizes()))?;
        Ok(())
    }

    fn shown(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }

    fn accepts(&self, limits: Limits) -> String {
        format!("a size: {}", limits.in_sizes())
    }
}

/// Declares an enum whose variants have one name each in the configuration, and its [`Setting`].
macro_rules! choices {
    (
        $(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)* }

        impl $name {
            /// As it is written in the configuration.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl Setting for $name {
            fn assign(&mut self, value: &Value, limits: Limits) -> Result<(), String> {
                *self = match value {
                    $(Value::Text(text) | Value::Untyped(text) if text == $text => Self::$variant,)*
                    _ => return Err(format!("expected {}, found {value}", self.accepts(limits))),
                };
                Ok(())
            }

            fn shown(&self) -> Option<toml::Value> {
                Some(self.as_str().to_owned().into())
            }

            fn accepts(&self, _: Limits) -> String {
                let names: &[&str] = &[$(concat!("`\"", $text, "\"`")),*];
                names.join(" or ")
            }
        }
    };
}
pub(super) use choices;

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Limits = Limits { least: 0, most: u64::MAX };

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let cases = [
            ("0", Some(0)),
            ("262144", Some(262_144)),
            ("256KiB", Some(262_144)),
            ("1 MiB", Some(1 << 20)),
            ("2GiB", Some(2 << 30)),
            ("5kB", Some(5_000)),
            ("7B", Some(7)),
            ("", None),
            ("KiB", None),
            ("1.5MiB", None),
            ("1mib", None),
            ("-1", None),
            ("99999999999GiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(ByteSize::parse(text).map(|size| size.0), bytes, "{text}");
        }
    }

    #[test]
    fn a_shown_size_is_read_back_as_the_same() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 268_435_460, 3 << 30, u64::MAX] {
            let shown = ByteSize(bytes).to_string();
            assert_eq!(ByteSize::parse(&shown), Some(ByteSize(bytes)), "{shown}");
        }
    }

    #[test]
    fn numbers_keep_to_their_limits_and_their_type() {
        let mut number = 5_u16;
        assert_eq!(
            number.assign(&Value::Integer(70_000), ANY),
            Err("expected a smaller number, found 70000".into())
        );
        let limits = Limits { least: 1, most: 10 };
        assert_eq!(number.assign(&Value::Integer(-1), limits), Err("-1 is out of range: 1 to 10".into()));
        assert_eq!(
            number.assign(&Value::Untyped("11".into()), limits),
            Err("\"11\" is out of range: 1 to 10".into())
        );
        assert_eq!(
            number.assign(&Value::Text("7".into()), limits),
            Err("expected an integer, found \"7\"".into())
        );
        assert_eq!(number, 5);
        assert_eq!(number.assign(&Value::Untyped("7".into()), limits), Ok(()));
        assert_eq!(number, 7);
    }
}
