//! How zwerm's costs grow: the same loads with more connections, filters, nodes, bytes and messages in a queue.
//!
//! `series` is what grows, what is measured and what theory expects, `rounds` measures it, `table` and `document` say what
//! came of it. Start at [`rounds::run`].

pub mod document;
pub mod rounds;
pub mod series;
pub mod table;
