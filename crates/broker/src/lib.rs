//! the decisions: attach, publish, subscribe, deliver.
