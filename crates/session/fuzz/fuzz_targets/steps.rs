//! libFuzzer on the session machine; what must hold is said in `fuzz_body` and `model`, which stable tests share.

#![no_main]

#[path = "../../tests/session/fuzz_body.rs"]
mod fuzz_body;
#[path = "../../tests/session/model.rs"]
#[allow(dead_code, reason = "some of it is for the tests that draw steps")]
mod model;
#[path = "../../tests/session/stage.rs"]
#[allow(dead_code, reason = "the same")]
mod stage;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    fuzz_body::run(input);
});
