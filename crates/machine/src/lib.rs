//! the replicated state machines, control and shard: apply(command) to reply and effects; pure.
