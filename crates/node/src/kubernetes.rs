//! Whether a pod that is told to end leaves its cluster or only restarts: asked of the Kubernetes API.
//!
//! SIGTERM looks the same when a StatefulSet is scaled down, upgraded, or its machine is drained. What tells them
//! apart is the number of replicas that the StatefulSet wants now: a pod whose ordinal is beyond it will not come
//! back. The answer is a hint: who gets none must assume a restart, which loses nothing. One GET with the pod's own
//! account, which needs the right to `get` its StatefulSet and no other. Knows nothing of clusters; what a node does
//! with the answer is the caller's business. Start at [`Api::fate`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST};
use hyper::{Request, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, pem};
use rustls::{ClientConfig, RootCertStore, crypto};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::http;

/// Where Kubernetes mounts the account of a pod.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What becomes of a pod that is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its StatefulSet is smaller now: it will not come back.
    Leaving,
    /// It comes back, here or elsewhere, with its volume.
    Restarting,
}

/// Why the API gave no answer; in all cases the fate is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// Not a pod, or one whose API is hidden.
    #[error("{0} is not in the environment: this is no pod of Kubernetes")]
    NoPod(&'static str),
    /// A file of the pod's account cannot be read.
    #[error("cannot read {} of the pod's account (is automountServiceAccountToken on?)", file.display())]
    Account {
        /// Which.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The authority that signs the API's certificate cannot be used.
    #[error("{} holds no usable certificate of an authority: {problem}", file.display())]
    Authority {
        /// Where it was read from.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Names of pods are `STATEFULSET-ORDINAL`.
    #[error("{pod:?} is no name of a pod of the StatefulSet {stateful_set:?}")]
    Name {
        /// This node's name.
        pod: String,
        /// As configured.
        stateful_set: String,
    },
    /// Nobody listens, or TLS fails.
    #[error("cannot connect to the Kubernetes API at {at}")]
    Connect {
        /// `host:port`
        at: String,
        /// What the system says, or TLS.
        source: io::Error,
    },
    /// It broke off, or is no HTTP.
    #[error("the Kubernetes API at {at} gave no proper answer: {problem}")]
    Answer {
        /// `host:port`
        at: String,
        /// What went wrong.
        problem: String,
    },
    /// 401 and 403: the account may not ask; 404: there is no such StatefulSet, or not any more.
    #[error("the Kubernetes API refuses to tell of the StatefulSet {stateful_set:?}: {code}: {message}")]
    Refused {
        /// As configured.
        stateful_set: String,
        /// Of HTTP.
        code: StatusCode,
        /// What the API says.
        message: String,
    },
    /// It took too long.
    #[error("the Kubernetes API did not answer within {0:?}")]
    Timeout(Duration),
}

/// The API of the Kubernetes that this pod runs in, and the pod's account.
#[derive(Debug, Clone)]
pub struct Api {
    host: String,
    port: u16,
    account: PathBuf,
}

/// What is read of a StatefulSet (apps/v1); absent fields have the API's defaults.
#[derive(Debug, Deserialize)]
struct StatefulSet {
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Spec {
    #[serde(default = "one")]
    replicas: u64,
    #[serde(default)]
    ordinals: Ordinals,
}

#[derive(Debug, Default, Deserialize)]
struct Ordinals {
    #[serde(default)]
    start: u64,
}

const fn one() -> u64 {
    1
}

/// What the API says when it refuses (kind `Status`).
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

impl Spec {
    fn fate(&self, ordinal: u64) -> Fate {
        let first_beyond = self.ordinals.start.saturating_add(self.replicas);
        // None at all: switched off, and not made smaller, for nobody would be left to hand anything over to.
        if self.replicas > 0 && ordinal >= first_beyond { Fate::Leaving } else { Fate::Restarting }
    }
}

impl Api {
    /// As Kubernetes tells every container: address in the environment, account in files.
    ///
    /// # Errors
    /// When this is no pod.
    pub fn of_this_pod(environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, KubernetesError> {
        let said = |name: &'static str| {
            let value = environment(name).and_then(|value| value.into_string().ok());
            value.filter(|value| !value.is_empty()).ok_or(KubernetesError::NoPod(name))
        };
        const PORT: &str = "KUBERNETES_SERVICE_PORT";
        let host = said("KUBERNETES_SERVICE_HOST")?;
        let port = said(PORT)?.parse().map_err(|_| KubernetesError::NoPod(PORT))?;
        Ok(Self { host, port, account: ACCOUNT.into() })
    }

    /// Asks what becomes of a pod of a StatefulSet of the account's namespace.
    ///
    /// # Errors
    /// When there is no answer within the time given.
    pub async fn fate(
        &self,
        stateful_set: &str,
        pod: &str,
        within: Duration,
    ) -> Result<Fate, KubernetesError> {
        let ordinal = ordinal(pod, stateful_set).ok_or_else(|| KubernetesError::Name {
            pod: pod.to_owned(),
            stateful_set: stateful_set.to_owned(),
        })?;
        let asked = tokio::time::timeout(within, self.ask(stateful_set)).await;
        Ok(asked.map_err(|_| KubernetesError::Timeout(within))??.spec.fate(ordinal))
    }

    async fn ask(&self, stateful_set: &str) -> Result<StatefulSet, KubernetesError> {
        let at = self.at();
        let answer = |problem| KubernetesError::Answer { at: at.clone(), problem };
        let namespace = self.account_file("namespace")?;
        let path = format!("/apis/apps/v1/namespaces/{}/statefulsets/{stateful_set}", namespace.trim());
        let request = Request::get(path)
            .header(HOST, &at)
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.account_file("token")?.trim()))
            .header(CONNECTION, "close")
            .body(Full::<Bytes>::default())
            .map_err(|error| answer(error.to_string()))?;
        let stream = self.connect().await?;
        let (code, body) = http::converse(stream, request).await.map_err(answer)?;
        if code != StatusCode::OK {
            let said = serde_json::from_slice(&body).map(|Refusal { message }| message);
            let (stateful_set, message) = (stateful_set.to_owned(), said.unwrap_or_default());
            return Err(KubernetesError::Refused { stateful_set, code, message });
        }
        serde_json::from_slice(&body).map_err(|error| answer(error.to_string()))
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, KubernetesError> {
        let refused = |source| KubernetesError::Connect { at: self.at(), source };
        let connector = TlsConnector::from(Arc::new(self.trust()?));
        let name = ServerName::try_from(self.host.clone())
            .map_err(|error| refused(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(refused)?;
        connector.connect(name, stream).await.map_err(refused)
    }

    /// Trust in the authority of this Kubernetes and in no other.
    fn trust(&self) -> Result<ClientConfig, KubernetesError> {
        let file = self.account.join("ca.crt");
        let pem = read(&file)?;
        let unusable = |problem: String| KubernetesError::Authority { file: file.clone(), problem };
        let mut roots = RootCertStore::empty();
        let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        for certificate in found.map_err(|error| unusable(error.to_string()))? {
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unusable("there is none".to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Read for every question: Kubernetes renews the token.
    fn account_file(&self, name: &str) -> Result<String, KubernetesError> {
        read(&self.account.join(name))
    }

    fn at(&self) -> String {
        let brackets = self.host.contains(':');
        if brackets {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn read(file: &Path) -> Result<String, KubernetesError> {
    fs::read_to_string(file).map_err(|source| KubernetesError::Account { file: file.to_owned(), source })
}

/// The ordinal in a pod's name.
fn ordinal(pod: &str, stateful_set: &str) -> Option<u64> {
    let digits = pod.strip_prefix(stateful_set)?.strip_prefix('-')?;
    // parse() would take a sign
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
