//! one client's MQTT protocol state: input and instant in, outputs out; pure.
