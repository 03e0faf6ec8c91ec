//! The name in a client's certificate: its common name, else its first alternative name.
//!
//! The certificate has been verified before. Knows no TLS. Start at [`name`].

use std::net::IpAddr;

use bytestring::ByteString;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Bytes of a name at most; X.520 allows a common name of 64 characters.
const LONGEST: usize = 1024;

/// The name, if there is one that can be a user name: not empty, not endless, without control characters.
pub(crate) fn name(certificate: &[u8]) -> Option<ByteString> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = match common {
        Some(name) => name.to_owned(),
        None => first_alternative(&certificate)?,
    };
    let fits = (1..=LONGEST).contains(&name.len()) && !name.contains(char::is_control);
    fits.then(|| name.into())
}

fn first_alternative(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(common_name: Option<&str>, alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "zwerm");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = alternatives;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_comes_first_then_the_first_alternative() {
        let dns = || SanType::DnsName("pump.example".try_into().unwrap());
        let mail = || SanType::Rfc822Name("pump@example".try_into().unwrap());
        let ip = || SanType::IpAddress("192.0.2.7".parse().unwrap());
        let cases = [
            (certificate(Some("pump-7"), vec![dns()]), Some("pump-7")),
            (certificate(Some("pömpe 7"), vec![]), Some("pömpe 7")),
            (certificate(None, vec![dns(), mail()]), Some("pump.example")),
            (certificate(None, vec![mail(), dns()]), Some("pump@example")),
            (certificate(None, vec![ip()]), Some("192.0.2.7")),
            (certificate(None, vec![]), None),
            (certificate(Some(""), vec![dns()]), None),
            (certificate(Some("two\nlines"), vec![dns()]), None),
            (certificate(Some(&"x".repeat(2000)), vec![dns()]), None),
        ];
        for (certificate, wanted) in cases {
            assert_eq!(name(&certificate).as_deref(), wanted);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        let whole = certificate(Some("pump-7"), vec![]);
        for length in 0..whole.len() {
            assert_eq!(name(&whole[..length]), None, "{length}");
        }
    }
}
