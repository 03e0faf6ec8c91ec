//! What a TLS listener proves itself with and asks of its clients: read from files, and again when they change.
//!
//! A connection keeps what was in force when it began. Knows no sockets. Start at [`Certificates::load`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto};
use thiserror::Error;
use tracing::{error, info};

use crate::Counters;
use crate::config::{TlsConfig, TlsVersion};
use crate::watch::{Mark, Watched, mark};

/// Sessions of TLS 1.2 clients without tickets that are remembered. All others carry theirs themselves.
const SESSIONS: usize = 4096;

/// Why a TLS listener cannot be opened: the key of its configuration, the file, and what is wrong.
#[derive(Debug, Error)]
#[error("{key}: {}: {problem}", file.display())]
pub struct CertificateError {
    /// `cert`, `key` or `client_ca`.
    pub key: &'static str,
    /// The file that it names.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: CertificateProblem,
}

/// What is wrong with a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is not PEM.
    #[error("is no PEM file: {0}")]
    NoPem(pem::Error),
    /// There is no certificate in it.
    #[error("has no certificate in it (a PEM section CERTIFICATE)")]
    NoCertificate,
    /// There is no private key in it.
    #[error("has no private key in it (a PEM section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    NoKey,
    /// The key is of a kind that is not served.
    #[error("has a key that cannot be used: {0}")]
    UnusableKey(rustls::Error),
    /// The key is another one's.
    #[error("does not belong to the certificate in {}", certificate.display())]
    OtherKey {
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// A certificate in it cannot be used.
    #[error("has a certificate that cannot be used: {0}")]
    UnusableCertificate(rustls::Error),
    /// It is no list of authorities.
    #[error("has no usable authority in it: {0}")]
    NoAuthority(VerifierBuilderError),
}

/// The certificates of one listener.
#[derive(Debug)]
pub(crate) struct Certificates {
    config: TlsConfig,
    current: ArcSwap<ServerConfig>,
    /// How the files looked before they were read first.
    loaded: Vec<Mark>,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub(crate) fn load(config: TlsConfig) -> Result<Self, CertificateError> {
        let loaded = config.marks();
        let current = ArcSwap::from_pointee(load(&config)?);
        Ok(Self { config, current, loaded })
    }

    /// What a connection that begins now is served with.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Whether the name in a client's certificate is its user name.
    pub(crate) fn names_users(&self) -> bool {
        self.config.client.as_ref().is_some_and(|client| client.as_username)
    }
}

impl TlsConfig {
    fn marks(&self) -> Vec<Mark> {
        let client_ca = self.client.as_ref().map(|client| &client.ca);
        [Some(&self.cert), Some(&self.key), client_ca].into_iter().flatten().map(|file| mark(file)).collect()
    }
}

impl Watched for Certificates {
    fn first_marks(&self) -> Vec<Mark> {
        self.loaded.clone()
    }

    fn marks(&self) -> Vec<Mark> {
        self.config.marks()
    }

    fn read_again(&self, counters: &Counters) {
        match load(&self.config) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                counters.certificates_reloaded_total.increment();
                info!(cert = %self.config.cert.display(), "certificates were read again");
            }
            Err(error) => {
                counters.certificates_broken_total.increment();
                error!(%error, "changed certificates cannot be used; the ones before stay in use");
            }
        }
    }
}

/// A configuration of its own: who resumes a session was verified by the authorities that are in force, for its
/// ticket was made under the same configuration.
fn load(config: &TlsConfig) -> Result<ServerConfig, CertificateError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let wrong = |key, file: &Path, problem| CertificateError { key, file: file.to_owned(), problem };
    let chain = certificates("cert", &config.cert)?;
    let key = private_key(&config.key)?;
    let client = match &config.client {
        Some(client) => verifier(&client.ca, client.required, &provider)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let unusable = |error| wrong("cert", &config.cert, CertificateProblem::UnusableCertificate(error));
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(config.min_version))
        .map_err(unusable)?
        .with_client_cert_verifier(client);
    let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let certificate = config.cert.clone();
            wrong("key", &config.key, CertificateProblem::OtherKey { certificate })
        }
        rustls::Error::InvalidCertificate(_) => unusable(error),
        error => wrong("key", &config.key, CertificateProblem::UnusableKey(error)),
    })?;
    server.ticketer = crypto::ring::Ticketer::new().map_err(unusable)?;
    server.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(server)
}

static FROM_1_2: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
static FROM_1_3: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match least {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_3,
    }
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let wrong = |problem| CertificateError { key, file: file.to_owned(), problem };
    let text = std::fs::read(file).map_err(|error| wrong(CertificateProblem::Unreadable(error)))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| wrong(CertificateProblem::NoPem(error)))?;
    if found.is_empty() { Err(wrong(CertificateProblem::NoCertificate)) } else { Ok(found) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let wrong = |problem| CertificateError { key: "key", file: file.to_owned(), problem };
    let text = std::fs::read(file).map_err(|error| wrong(CertificateProblem::Unreadable(error)))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong(CertificateProblem::NoKey),
        error => wrong(CertificateProblem::NoPem(error)),
    })
}

fn verifier(
    file: &Path,
    required: bool,
    provider: &Arc<crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let wrong = |problem| CertificateError { key: "client_ca", file: file.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client_ca", file)? {
        roots.add(certificate).map_err(|error| wrong(CertificateProblem::UnusableCertificate(error)))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| wrong(CertificateProblem::NoAuthority(error)))
}
