//! everything that involves another node: members, leases, routes, forwarding lanes, shard clients.
