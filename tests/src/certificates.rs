//! Certificates for the TLS listeners of a test's nodes and servers: an authority made for it, and what it has signed.
//!
//! Knows no node. Start at [`Certificates::make`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};

/// The common name in the certificate of the client.
pub const CLIENT_NAME: &str = "pump-7";

/// PEM files in one folder.
#[derive(Debug, Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes an authority, a server for 127.0.0.1 and localhost, and a client.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn make(dir: &Path) -> Result<Self> {
        Self::make_for(dir, &["127.0.0.1", "localhost"])
    }

    /// The same with a server that has these names and addresses.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn make_for(dir: &Path, server: &[&str]) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = params(&[], "zwerm test authority")?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.join("ca.pem"), params.self_signed(&key)?.pem())?;
        let authority = Issuer::new(params, key);
        let signed = [
            ("server", server, "node", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", &[], CLIENT_NAME, ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (file, names, common_name, usage) in signed {
            let key = KeyPair::generate()?;
            let mut params = self::params(names, common_name)?;
            params.extended_key_usages = vec![usage];
            fs::write(dir.join(format!("{file}.pem")), params.signed_by(&key, &authority)?.pem())?;
            fs::write(dir.join(format!("{file}.key")), key.serialize_pem())?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Certificate and key of the nodes.
    #[must_use]
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.file("server.pem"), self.file("server.key"))
    }

    /// Certificate and key of a client.
    #[must_use]
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.file("client.pem"), self.file("client.key"))
    }

    /// What rumqttc needs: trust in the authority, and the client's certificate.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn rustls(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).context("reading the authority")?)?;
        let (chain, key) = identity(self.client())?;
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// What a server of a test's own needs: its certificate; it asks clients for none.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn rustls_server(&self) -> Result<Arc<ServerConfig>> {
        let (chain, key) = identity(self.server())?;
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}

fn identity(
    (cert, key): (PathBuf, PathBuf),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let cert = CertificateDer::from_pem_file(cert).context("reading the certificate")?;
    Ok((vec![cert], PrivateKeyDer::from_pem_file(key).context("reading the key")?))
}

fn params(names: &[&str], common_name: &str) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}
