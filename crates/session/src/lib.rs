//! One client's MQTT protocol state as a machine: input and instant in, outputs out.
//!
//! It checks what a client may send and when, hands application work to its owner, and remembers what is
//! unacknowledged both ways. It knows no socket, no clock, no broker and no other client; nothing in it
//! waits. Start at [`Session`], then read [`Input`] and [`Output`]: together they are the whole contract.

mod alias;
mod authenticate;
mod handshake;
mod inbound;
mod io;
mod limits;
mod outbound;
mod session;
mod subscribe;
mod told;
mod under_way;

pub use alias::AliasUse;
pub use io::{Attached, Cause, Deadline, Ending, Input, Output, Stage};
pub use limits::Limits;
pub use session::{Outputs, Session};
