//! zwerm beside the brokers that package registries offer: the same loads, one broker at a time, in turns.
//!
//! `scenario` is what they are asked to do and what is measured, `rounds` lets them take turns, `table` and `document`
//! say what came of it. Start at [`rounds::run`].

pub mod document;
pub mod rounds;
pub mod scenario;
pub mod table;
