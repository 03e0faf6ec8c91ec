//! Who a client is: users, their credentials, the check of a password and the SCRAM exchange. Pure.
//!
//! Knows no MQTT, no file and no clock; randomness is an argument. A password is never kept, only what proves
//! it. Start at [`Users`] and [`Exchange`].

mod credential;
mod mechanism;
mod scram;
mod users;

pub use credential::{Credential, CredentialError, ITERATIONS, MAX_ITERATIONS, MIN_ITERATIONS, SALT_BYTES};
pub use mechanism::Mechanism;
pub use scram::{Exchange, Failure, NONCE_BYTES, Step};
pub use users::{MAX_NAME, Secret, Users, UsersError};
