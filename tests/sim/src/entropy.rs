//! Every random number of the process comes from the seed.
//!
//! `rand`, the standard library's hash maps and Tokio's fair `select!` all begin with the C library's
//! `getrandom`. This file takes its place in the simulation's binary: a generator per thread, which
//! [`seed`] sets. Knows nothing of what the numbers are for.

use std::cell::Cell;

use crate::dice::Dice;

thread_local! {
    static STATE: Cell<Dice> = const { Cell::new(Dice::new(0)) };
}

/// Sets what this thread draws from now on.
pub(crate) fn seed(seed: u64) {
    STATE.set(Dice::new(seed));
}

/// Takes the place of the C library's function of this name (getrandom(2)); never fails.
///
/// # Safety
/// `buffer` points to `length` bytes that may be written: the contract of getrandom(2), which callers keep.
#[allow(unsafe_code, reason = "the one way to make code that asks the system for random bytes deterministic")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // A probe whether the function is there comes with a dangling pointer and no length.
    if length > 0 {
        let mut dice = STATE.get();
        // SAFETY: the caller says so, and nobody else has these bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
        bytes.iter_mut().for_each(|byte| *byte = dice.byte());
        STATE.set(dice);
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
