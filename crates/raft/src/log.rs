//! The Raft log: what one group's log holds ([`tail`], [`store`]) and the one thread that writes the logs of
//! all groups ([`writer`]).
//!
//! An append is readable when it returns (from memory) and durable when its callback fires (from the
//! writer). The engine holds one record per append ([`crate::record`]), keyed by group and first index.

pub(crate) mod disk;
pub(crate) mod store;
pub(crate) mod tail;
pub(crate) mod writer;
