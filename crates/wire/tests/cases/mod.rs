//! Reads `conformance.tsv`: the one table that the conformance test, the splits and the fuzz corpus share.
//!
//! Knows no decoder. Start at [`all`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a fault in the table must fail the test that reads it"
)]
#![allow(dead_code, reason = "each test binary uses its own part of the table")]

use zwerm_wire::{Decoder, Protocol, Role};

/// The largest packet the table's decoder takes, in bytes.
pub(crate) const MAX_PACKET_SIZE: u32 = 1 << 20;

/// What the decoder must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    NeedsMore,
    Refused(u8),
}

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) line: usize,
    /// `None`: no CONNECT was seen yet.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) role: Role,
    pub(crate) bytes: Vec<u8>,
    pub(crate) verdict: Verdict,
    pub(crate) what: &'static str,
}

impl Case {
    pub(crate) fn decoder(&self) -> Decoder {
        let mut decoder = Decoder::new(self.role, MAX_PACKET_SIZE);
        if let Some(protocol) = self.protocol {
            decoder.set_protocol(protocol);
        }
        decoder
    }
}

pub(crate) fn all() -> Vec<Case> {
    let lines = include_str!("../conformance.tsv").lines().enumerate();
    lines.filter(|(_, line)| !line.starts_with('#')).map(|(index, line)| case(index + 1, line)).collect()
}

fn case(line: usize, text: &'static str) -> Case {
    let columns: Vec<&str> = text.split('\t').collect();
    let [protocol, sender, bytes, verdict, _ids, what] = columns[..] else {
        panic!("line {line} has {} columns", columns.len())
    };
    let protocol = match protocol {
        "-" => None,
        "3.1" => Some(Protocol::V31),
        "3.1.1" => Some(Protocol::V311),
        "5" => Some(Protocol::V5),
        other => panic!("line {line}: protocol {other}"),
    };
    let role = match sender {
        "client" => Role::Server,
        "server" => Role::Client,
        other => panic!("line {line}: sender {other}"),
    };
    let verdict = match verdict {
        "ok" => Verdict::Accepted,
        "more" => Verdict::NeedsMore,
        code => Verdict::Refused(u8::from_str_radix(code.strip_prefix("0x").unwrap(), 16).unwrap()),
    };
    Case { line, protocol, role, bytes: assemble(bytes), verdict, what }
}

/// The bytes of the table's notation.
fn assemble(text: &str) -> Vec<u8> {
    let mut open = vec![Vec::new()];
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let bytes;
        (bytes, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            let (text, rest) = quoted.split_once('"').unwrap();
            (text.as_bytes().to_vec(), rest)
        } else if let Some(quoted) = rest.strip_prefix("s\"") {
            let (text, rest) = quoted.split_once('"').unwrap();
            let length = u16::try_from(text.len()).unwrap().to_be_bytes();
            ([&length, text.as_bytes()].concat(), rest)
        } else {
            let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "[" => {
                    open.push(Vec::new());
                    (Vec::new(), rest)
                }
                "]" => (with_length(open.pop().unwrap()), rest),
                hex => (from_hex(hex), rest),
            }
        };
        open.last_mut().unwrap().extend(bytes);
        rest = rest.trim_start();
    }
    assert_eq!(open.len(), 1, "[ without ] in {text}");
    open.remove(0)
}

fn with_length(content: Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = content.len();
    while length > 0x7f {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

fn from_hex(word: &str) -> Vec<u8> {
    assert!(word.len().is_multiple_of(2), "odd number of digits in {word}");
    (0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()).collect()
}
