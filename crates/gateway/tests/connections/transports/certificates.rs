//! Certificates made for a test, and TLS clients that trust them. Start at [`Authority::new`].

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use tempfile::TempDir;
use zwerm_gateway::{ClientCertificates, TlsConfig, TlsVersion};

use super::dial;

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub struct Certified {
    pub cert: String,
    pub key: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

fn params(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    if !common_name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&[], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, names: &[&str], common_name: &str, usage: ExtendedKeyUsagePurpose) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = params(names, common_name);
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, der) = (certificate.pem(), certificate.der().clone());
        Certified { cert, key: key.serialize_pem(), der, key_der: key.serialize_der() }
    }

    /// For 127.0.0.1.
    pub fn server(&self) -> Certified {
        self.sign(&["127.0.0.1", "localhost"], "node", ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// With this common name, or with this alternative name alone.
    pub fn client(&self, common_name: &str, alternative: Option<&str>) -> Certified {
        let names: Vec<&str> = alternative.into_iter().collect();
        self.sign(&names, common_name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A TLS client that trusts it.
    pub fn trusting(&self) -> TlsClient {
        TlsClient::new(&self.der, rustls::DEFAULT_VERSIONS, None)
    }

    pub fn trusting_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Certified>,
    ) -> TlsClient {
        TlsClient::new(&self.der, versions, own)
    }
}

/// A TLS client; what it dials with can resume what it dialled before.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl TlsClient {
    fn new(
        root: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Certified>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some(own) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key_der.clone()));
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self(Arc::new(config))
    }

    /// The handshake is done with the first read or write.
    pub fn dial(&self, address: SocketAddr) -> TlsStream {
        self.over(dial(address))
    }

    pub fn over(&self, stream: TcpStream) -> TlsStream {
        let connection = ClientConnection::new(Arc::clone(&self.0), "127.0.0.1".try_into().unwrap()).unwrap();
        StreamOwned::new(connection, stream)
    }
}

/// The files of a listener.
pub struct Files {
    dir: TempDir,
}

impl Files {
    pub fn new(server: &Certified) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.replace(server);
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        // as programs that renew certificates do: never half a file
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    pub fn replace(&self, server: &Certified) {
        self.write("cert.pem", &server.cert);
        self.write("key.pem", &server.key);
    }

    pub fn config(&self) -> TlsConfig {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        TlsConfig { cert, key, min_version: TlsVersion::V1_2, client: None }
    }

    /// The same with clients that have certificates of this authority.
    pub fn config_with(&self, clients: &Authority, required: bool, as_username: bool) -> TlsConfig {
        self.write("clients.pem", &clients.pem);
        let client = ClientCertificates { ca: self.path("clients.pem"), required, as_username };
        TlsConfig { client: Some(client), ..self.config() }
    }
}
