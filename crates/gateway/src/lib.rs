//! carries bytes between sockets and sessions; one task owns one connection.
