//! Histories made by hand that must pass, and ones that must not.
#![allow(clippy::cast_possible_truncation, missing_docs, unreachable_pub, reason = "tests")]

mod deliveries;
mod exclusive;
mod owners;
mod reports;
mod retained;
mod script;
mod sessions;
mod wills;
