//! Tests that need several nodes or real clients.
