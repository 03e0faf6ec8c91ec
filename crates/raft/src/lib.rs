//! hosts many Raft groups on one store and one network; knows no MQTT and no gRPC.
