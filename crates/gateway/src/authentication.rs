//! Who may connect: users of a file, by password or SCRAM, and whoever comes without a name where that is allowed.
//!
//! A name that a certificate proves needs nothing else; that is `driver`'s. Knows no packets' order. Start at
//! [`Authenticator::admit`] and [`Authenticator::step`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::Semaphore;
use tracing::{debug, error, info};
use zwerm_auth::{Exchange, Failure, Mechanism, Step, Users, UsersError};
use zwerm_session::Input;
use zwerm_wire::{Connect, ReasonCode};

use crate::Counters;
use crate::watch::{Mark, Watched, mark};

/// Why a file of users cannot be used.
#[derive(Debug, Error)]
#[error("{}: {problem}", file.display())]
pub struct UserFileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: UserFileProblem,
}

/// What is wrong with a file of users.
#[derive(Debug, Error)]
pub enum UserFileProblem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// A line is wrong.
    #[error("{0}")]
    Line(UsersError),
}

/// A file of users, read again when it changes.
#[derive(Debug)]
pub struct UserFile {
    file: PathBuf,
    current: ArcSwap<Users>,
    /// How the file looked before it was read first.
    loaded: Mark,
}

impl UserFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn load(file: &Path) -> Result<Self, UserFileError> {
        let loaded = mark(file);
        Ok(Self { file: file.to_owned(), current: ArcSwap::from_pointee(read(file)?), loaded })
    }
}

fn read(file: &Path) -> Result<Users, UserFileError> {
    let wrong = |problem| UserFileError { file: file.to_owned(), problem };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(UserFileProblem::Unreadable(error)))?;
    Users::parse(&text, rand::random()).map_err(|error| wrong(UserFileProblem::Line(error)))
}

impl Watched for UserFile {
    fn first_marks(&self) -> Vec<Mark> {
        vec![self.loaded]
    }

    fn marks(&self) -> Vec<Mark> {
        vec![mark(&self.file)]
    }

    fn read_again(&self, _: &Counters) {
        match read(&self.file) {
            Ok(users) => {
                info!(file = %self.file.display(), users = users.len(), "users were read again");
                self.current.store(Arc::new(users));
            }
            Err(error) => error!(%error, "the changed list of users cannot be used; the one before stays"),
        }
    }
}

/// Decides for all connections of a gateway.
#[derive(Debug)]
pub(crate) struct Authenticator {
    allow_anonymous: bool,
    users: Option<Arc<UserFile>>,
    /// Passwords that are checked at once: each takes a processor for some milliseconds.
    checks: Semaphore,
}

impl Authenticator {
    pub(crate) fn new(allow_anonymous: bool, users: Option<Arc<UserFile>>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { allow_anonymous, users, checks: Semaphore::new(processors) }
    }

    /// Whether this client may connect as who it says by name and password. Without a list of users a name is only a
    /// name.
    pub(crate) async fn admit(&self, connect: &Connect) -> Result<(), ReasonCode> {
        let name = connect.username.as_ref().filter(|name| !name.is_empty());
        match (name, &self.users) {
            (None, _) if self.allow_anonymous => Ok(()),
            (None, _) => Err(ReasonCode::NotAuthorized),
            (Some(_), None) if self.allow_anonymous => Ok(()),
            (Some(_), None) => Err(ReasonCode::BadUserNameOrPassword),
            (Some(name), Some(users)) => {
                let (users, name) = (users.current.load_full(), name.clone());
                let password = connect.password.clone().unwrap_or_default();
                // closed never; without a permit a check only waits longer
                let _permit = self.checks.acquire().await;
                let check = tokio::task::spawn_blocking(move || users.is_right(&name, &password));
                let is_right = check.await.unwrap_or(false);
                if is_right { Ok(()) } else { Err(ReasonCode::BadUserNameOrPassword) }
            }
        }
    }

    /// A new exchange; `None`: there is no such method here.
    pub(crate) fn begin(&self, method: &str) -> Option<Box<Exchange>> {
        self.users.as_ref()?;
        Mechanism::named(method).map(|mechanism| Box::new(Exchange::new(mechanism)))
    }

    /// What a message of the client leads to.
    pub(crate) fn step(&self, exchange: &mut Exchange, message: &[u8]) -> Input {
        let Some(users) = &self.users else { return Input::Refused(ReasonCode::BadAuthenticationMethod) };
        match exchange.step(message, &users.current.load(), rand::random()) {
            Ok(Step::Challenge(data)) => Input::Challenge(data.into()),
            Ok(Step::Done { name, proof }) => {
                Input::Authenticated { name: name.into(), data: Bytes::from(proof) }
            }
            Err(failure) => {
                debug!(%failure, "not authenticated");
                Input::Refused(match failure {
                    Failure::Malformed(_) => ReasonCode::ProtocolError,
                    Failure::Denied => ReasonCode::NotAuthorized,
                })
            }
        }
    }
}
