//! Replays the committed fuzz corpus on stable Rust.

use std::path::Path;

use crate::fuzz_body;

#[test]
fn the_corpus_holds_no_course_that_breaks_a_promise() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/steps");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let steps: Vec<usize> = files.iter().map(|file| fuzz_body::run(&std::fs::read(file).unwrap())).collect();
    let open = steps.iter().filter(|steps| **steps > 0).count();
    assert!(open > 100, "only {open} of {} sessions were opened", files.len());
}
