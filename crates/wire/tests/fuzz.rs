//! Replays the committed fuzz corpus, and a fixed number of mutations of it, on stable Rust.
//!
//! `ZWERM_BLESS=1 cargo test -p zwerm-wire --test fuzz` writes the lines of `conformance.tsv` that the corpus
//! does not hold yet.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod cases;
mod fuzz_body;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many mutated inputs are tried; about two seconds in a debug build.
const MUTATIONS: usize = 200_000;

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode")
}

/// File name to content, in the order of the names.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(corpus_dir()).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

/// FNV-1a: the name of a corpus file follows from what is in it.
fn name_of(input: &[u8]) -> String {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[test]
fn the_corpus_holds_every_line_of_the_table() {
    let bless = std::env::var_os("ZWERM_BLESS").is_some();
    let mut missing = Vec::new();
    for case in cases::all() {
        let input = [&[fuzz_body::choice(case.protocol, case.role)], &*case.bytes].concat();
        let path = corpus_dir().join(name_of(&input));
        if bless {
            std::fs::create_dir_all(corpus_dir()).unwrap();
            std::fs::write(&path, &input).unwrap();
        }
        if std::fs::read(&path).ok() != Some(input) {
            missing.push(case.line);
        }
    }
    assert!(missing.is_empty(), "run with ZWERM_BLESS=1: lines {missing:?} are not in the corpus");
}

#[test]
fn the_corpus_holds_nothing_that_breaks_the_decoder() {
    let packets: usize = corpus().values().map(|input| fuzz_body::run(input)).sum();
    assert!(packets > 150, "only {packets} inputs of the corpus are packets");
}

#[test]
fn no_mutation_of_the_corpus_breaks_the_decoder() {
    let seeds: Vec<Vec<u8>> = corpus().into_values().collect();
    let accepted: Vec<Vec<u8>> = seeds.iter().filter(|input| fuzz_body::run(input) > 0).cloned().collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut packets = 0;
    for _ in 0..MUTATIONS {
        // What is refused mostly stays refused: more is behind a packet that was legal.
        let refused_too = random.below(4) == 0;
        let mut input = random.pick(if refused_too { &seeds } else { &accepted }).clone();
        for _ in 0..=random.below(3) {
            mutate(&mut input, &seeds, &mut random);
        }
        packets += fuzz_body::run(&input);
    }
    // Mutations that are all refused at the first byte would test nothing.
    assert!(packets > MUTATIONS / 10, "only {packets} packets in {MUTATIONS} inputs");
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    if input.is_empty() {
        input.push(random.byte());
    }
    let at = random.below(input.len());
    match random.below(10) {
        0 | 1 => input[at] ^= 1 << random.below(8),
        2 | 3 => input[at] = random.byte(),
        4 => input[at] = *random.pick(&[0x00, 0x01, 0x7f, 0x80, 0xff]),
        5 => {
            input.insert(at, random.byte());
            mend_length(input, random);
        }
        6 => {
            input.remove(at);
            mend_length(input, random);
        }
        7 => {
            input.truncate(at);
            mend_length(input, random);
        }
        8 => input.extend_from_slice(random.pick(seeds).get(1..).unwrap_or_default()),
        _ => {
            let donor = random.pick(seeds);
            let from = random.below(donor.len());
            input.truncate(at);
            input.extend_from_slice(&donor[from..]);
            mend_length(input, random);
        }
    }
}

/// Mostly makes the remaining length right again, so that the body is reached.
fn mend_length(input: &mut [u8], random: &mut Random) {
    let body = input.len().saturating_sub(3);
    if (1..128).contains(&body) && random.below(8) > 0 {
        input[2] = body as u8;
    }
}

/// Marsaglia's xorshift: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
