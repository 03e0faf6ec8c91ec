//! durable bytes on one machine behind one Engine trait.
