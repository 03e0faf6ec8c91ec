//! For tests, a Kubernetes API of our own: TLS on loopback, with a certificate of an authority made for it.
//!
//! Start at [`fake`].

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Of the account.
pub(super) const TOKEN: &str = "a token";

/// An API that answers one question, and the account of a pod that asks it.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) api: Api,
    pub(super) account: TempDir,
    /// Gives the request.
    pub(super) served: JoinHandle<String>,
}

/// An API that gives this answer to the first question.
pub(crate) async fn fake(status: &str, body: &str) -> Fake {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let account = TempDir::new().unwrap();
    let ca = authority.self_signed(&authority_key).unwrap();
    for (name, text) in [("ca.crt", ca.pem()), ("token", format!("{TOKEN}\n")), ("namespace", "mqtt".into())]
    {
        fs::write(account.path().join(name), text).unwrap();
    }
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &Issuer::new(authority, authority_key))
        .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return "no TLS".to_owned();
        };
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.ok();
        String::from_utf8(request).unwrap()
    });
    let api = Api { host: "127.0.0.1".to_owned(), port, account: account.path().to_owned() };
    Fake { api, account, served }
}

impl Api {
    /// The same account at another port.
    pub(crate) fn move_to(&mut self, port: u16) {
        self.port = port;
    }
}
