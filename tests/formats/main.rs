//! Everything that nodes say to each other and keep on disk, held to the bytes that other versions of zwerm read.
//!
//! `samples.tsv` has, for each message of `proto/*.proto`, the bytes of examples in which every field is set at least once,
//! each value of each enumeration and each call, with the feature level that brought it. A line is never changed and never
//! goes: what is new is a new line. Walks the descriptors, so whatever is added without a sample fails. How a program
//! frames these messages on disk (versions, lengths, checksums) is frozen beside the code that does it. Start at
//! [`whatever_is_said_or_kept_has_a_frozen_sample`].
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod generate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use generate::{example, value_of};
use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, Value};
use zwerm_machine::level::NEWEST;

const HEAD: &str = "\
# level, what, fields, bytes. Lines are for ever: another meaning gets another number and a new line, appended by
# ZWERM_BLESS=1 cargo test -p zwerm-tests --test formats
";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pool() -> DescriptorPool {
    let protos = root().join("../proto");
    let mut files: Vec<_> = fs::read_dir(&protos).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "proto"));
    files.sort();
    let set = protox::compile(files, [&protos]).unwrap();
    DescriptorPool::decode(&*set.encode_to_vec()).unwrap()
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    level: u32,
    what: String,
    /// Of a message: `name=number` of those that are set; of others what they are.
    fields: String,
    bytes: Vec<u8>,
}

impl Line {
    fn parse(text: &str) -> Self {
        let mut cells = text.split('\t');
        let mut cell = || cells.next().unwrap_or_default().to_owned();
        let (level, what, fields, hex) = (cell(), cell(), cell(), cell());
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes = (0..hex.len()).step_by(2).map(byte).collect();
        Self { level: level.parse().unwrap(), what, fields, bytes }
    }

    fn write(&self) -> String {
        let Self { level, what, fields, bytes } = self;
        let mut line = format!("{level}\t{what}\t{fields}");
        if !bytes.is_empty() {
            line.push('\t');
            bytes.iter().for_each(|byte| write!(line, "{byte:02x}").unwrap());
        }
        line
    }
}

fn lines() -> Vec<Line> {
    let text = fs::read_to_string(root().join("formats/samples.tsv")).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(Line::parse).collect()
}

fn named(field: &FieldDescriptor) -> String {
    format!("{}={}", field.name(), field.number())
}

/// Calls and values of enumerations, as lines without bytes.
fn plain(pool: &DescriptorPool) -> BTreeMap<String, String> {
    let mut plain = BTreeMap::new();
    for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let stream = |is: bool| if is { "stream " } else { "" };
        let (input, output) = (method.input(), method.output());
        let (to, from) = (stream(method.is_client_streaming()), stream(method.is_server_streaming()));
        let what = format!("{to}{} -> {from}{}", input.full_name(), output.full_name());
        plain.insert(method.full_name().to_owned(), what);
    }
    for value in pool.all_enums().flat_map(|named| named.values().collect::<Vec<_>>()) {
        plain.insert(value.full_name().to_owned(), value.number().to_string());
    }
    plain
}

/// Nothing in it, at any depth, is unknown to the descriptors.
fn is_known(message: &DynamicMessage) -> bool {
    let known = |value: &Value| match value {
        Value::Message(message) => is_known(message),
        Value::List(values) => values.iter().filter_map(Value::as_message).all(is_known),
        _ => true,
    };
    message.unknown_fields().next().is_none() && message.fields().all(|(_, value)| known(value))
}

/// What a frozen sample says is still what it said.
fn check_message(descriptor: &MessageDescriptor, line: &Line) -> Result<(), String> {
    let message =
        DynamicMessage::decode(descriptor.clone(), &*line.bytes).map_err(|error| error.to_string())?;
    if !is_known(&message) {
        return Err("a field went".to_owned());
    }
    if message.encode_to_vec() != line.bytes {
        return Err("it is encoded in another way".to_owned());
    }
    let fields: Vec<String> = message.fields().map(|(field, _)| named(&field)).collect();
    if fields.join(" ") != line.fields {
        return Err(format!("its fields are {} now", fields.join(" ")));
    }
    for (field, value) in message.fields() {
        // What is inside other messages is for their own samples.
        let is_scalar = field.kind().as_message().is_none();
        if is_scalar && *value != value_of(&field) {
            return Err(format!("{} is read as {value:?}", named(&field)));
        }
    }
    Ok(())
}

/// What has no sample yet.
fn missing(pool: &DescriptorPool, lines: &[Line]) -> Vec<Line> {
    let mut covered: BTreeSet<(String, String)> = BTreeSet::new();
    for line in lines {
        covered.extend(line.fields.split(' ').map(|field| (line.what.clone(), field.to_owned())));
    }
    let mut missing = Vec::new();
    for (what, fields) in plain(pool) {
        if !lines.iter().any(|line| line.what == what) {
            missing.push(Line { level: NEWEST, what, fields, bytes: Vec::new() });
        }
    }
    for descriptor in pool.all_messages() {
        let what = descriptor.full_name().to_owned();
        let is_new = |field: &FieldDescriptor| !covered.contains(&(what.clone(), named(field)));
        let mut left: Vec<FieldDescriptor> = descriptor.fields().filter(is_new).collect();
        if left.is_empty() && !lines.iter().any(|line| line.what == what) {
            missing.push(Line {
                level: NEWEST,
                what: what.clone(),
                fields: String::new(),
                bytes: Vec::new(),
            });
        }
        // Of each oneof one at a time.
        while !left.is_empty() {
            let (message, set) = example(&descriptor, &left);
            left.retain(|field| !set.contains(&field.number()));
            let fields: Vec<String> = message.fields().map(|(field, _)| named(&field)).collect();
            let bytes = message.encode_to_vec();
            missing.push(Line { level: NEWEST, what: what.clone(), fields: fields.join(" "), bytes });
        }
    }
    missing
}

#[test]
fn whatever_is_said_or_kept_has_a_frozen_sample() {
    let (pool, mut lines) = (pool(), lines());
    let missing = missing(&pool, &lines);
    if std::env::var_os("ZWERM_BLESS").is_some() && !missing.is_empty() {
        lines.extend(missing);
        let text: String = lines.iter().map(|line| line.write() + "\n").collect();
        fs::write(root().join("formats/samples.tsv"), HEAD.to_owned() + &text).unwrap();
        return;
    }
    let missing: Vec<String> = missing.iter().map(Line::write).collect();
    assert!(missing.is_empty(), "without a sample; ZWERM_BLESS=1 appends them:\n{}", missing.join("\n"));
}

#[test]
fn every_frozen_sample_is_read_as_it_was_written() {
    let (pool, lines) = (pool(), lines());
    let plain = plain(&pool);
    assert!(lines.len() > 200, "{} lines", lines.len());
    for line in &lines {
        let outcome = match pool.get_message_by_name(&line.what) {
            Some(descriptor) => check_message(&descriptor, line),
            None => match plain.get(&line.what) {
                Some(now) if *now == line.fields => Ok(()),
                Some(now) => Err(format!("it is {now} now")),
                None => Err("it went".to_owned()),
            },
        };
        assert_eq!(outcome, Ok(()), "{}: what other versions know has changed its meaning", line.what);
    }
    assert!(lines.is_sorted_by_key(|line| line.level), "what is newer comes behind");
    assert!(lines.iter().all(|line| (1..=NEWEST).contains(&line.level)));
}

#[test]
fn a_change_of_what_is_frozen_is_seen() {
    let pool = pool();
    let descriptor = pool.get_message_by_name("zwerm.records.v1.Moved").unwrap();
    let line = lines().into_iter().find(|line| line.what == descriptor.full_name()).unwrap();
    assert_eq!(check_message(&descriptor, &line), Ok(()));
    // Field 9 is none of this message; 8 and 200 are other values; field 2 under another name.
    let with =
        |bytes: &[u8], fields: &str| Line { bytes: bytes.to_vec(), fields: fields.into(), ..line.clone() };
    for (changed, why) in [
        (with(&[&line.bytes[..], &[0x48, 1]].concat(), &line.fields), "a field went"),
        (with(&[0x08, 8, 0x10, 200, 1], &line.fields), "shard=1 is read as"),
        (with(&line.bytes, "shard=1 version=2"), "its fields are"),
        (with(&line.bytes.repeat(2), &line.fields), "it is encoded in another way"),
    ] {
        let found = check_message(&descriptor, &changed).unwrap_err();
        assert!(found.starts_with(why), "{found}");
    }
    let fewer: Vec<Line> = lines().into_iter().filter(|other| other.what != line.what).collect();
    let again: Vec<Line> = missing(&pool, &fewer);
    assert_eq!(again, [Line { level: NEWEST, ..line }]);
}
