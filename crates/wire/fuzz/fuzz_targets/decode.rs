//! libFuzzer on the decoder; what must hold is said in `tests/fuzz_body`, which stable tests share.

#![no_main]

#[path = "../../tests/fuzz_body/mod.rs"]
#[allow(dead_code, reason = "choice is for the tests that write the corpus")]
mod fuzz_body;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_body::run(input);
});
