//! The PROXY protocol, versions 1 and 2: a proxy says first whose connection it passes on.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Exactly the header is read, so that the stream
//! behind it is as it was. Whoever reaches such a listener can claim any address: it must be the proxy alone.
//! Start at [`read`].

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes in which the versions differ: the signature of version 2, and less than the shortest header of version 1.
const SIGNATURE: usize = 12;

/// Where the length is in version 2 (section 2.2).
const FIXED: usize = 16;

/// Bytes of a header of version 1 at most (section 2.1).
const LONGEST_TEXT: usize = 107;

/// Bytes behind the fixed part of version 2 at most: addresses take 216, the rest are extensions, which are skipped.
const LONGEST_REST: usize = 4096;

/// Why a connection does not begin with a PROXY header.
#[derive(Debug, Error)]
pub(crate) enum ProxyError {
    /// The connection ended before the header did, or is broken.
    #[error("no whole PROXY header: {0}")]
    Link(#[from] io::Error),
    /// What came is something else.
    #[error("no PROXY header: it begins with neither \"PROXY \" nor the signature of version 2")]
    Absent,
    /// Version 1.
    #[error("a malformed PROXY header: {0}")]
    Text(#[from] v1::BinaryParseError),
    /// Version 2.
    #[error("a malformed PROXY header: {0}")]
    Binary(#[from] v2::ParseError),
    /// The header is longer than any needs to be.
    #[error("a PROXY header that is too long")]
    TooLong,
    /// Datagrams cannot come over a stream.
    #[error("a PROXY header for datagrams")]
    Datagram,
}

/// Reads the header. `None`: the proxy speaks for itself (LOCAL, for its health checks) or does not know the
/// address, and the address of the connection is as good as any.
///
/// # Errors
/// There is no such header.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut header = vec![0; SIGNATURE];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        read_binary(stream, header).await
    } else if header.starts_with(b"PROXY ") {
        read_text(stream, header).await
    } else {
        Err(ProxyError::Absent)
    }
}

async fn read_text(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    while !header.ends_with(b"\r\n") {
        if header.len() == LONGEST_TEXT {
            return Err(ProxyError::TooLong);
        }
        header.push(stream.read_u8().await?);
    }
    Ok(match v1::Header::try_from(&*header)?.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(pair) => Some((pair.source_address, pair.source_port).into()),
        v1::Addresses::Tcp6(pair) => Some((pair.source_address, pair.source_port).into()),
    })
}

async fn read_binary(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<SocketAddr>, ProxyError> {
    let mut rest = [0; FIXED - SIGNATURE];
    stream.read_exact(&mut rest).await?;
    let [.., high, low] = rest;
    header.extend_from_slice(&rest);
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_REST {
        return Err(ProxyError::TooLong);
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    header.extend_from_slice(&rest);
    let header = v2::Header::try_from(&*header)?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    if header.protocol == v2::Protocol::Datagram {
        return Err(ProxyError::Datagram);
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(pair) => Some((pair.source_address, pair.source_port).into()),
        v2::Addresses::IPv6(pair) => Some((pair.source_address, pair.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is read of these bytes, and how many are left; the connection ends behind them.
    fn parsed(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut left = bytes;
        let result = runtime.block_on(read(&mut left));
        (result, left.len())
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    /// A header of version 2 with this command, family and protocol.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b];

    #[test]
    fn exactly_the_header_is_read_and_the_address_taken() {
        let ipv6 = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 80, 0, 81]].concat();
        let with_extension = [IPV4.as_slice(), &[0x04, 0, 3, 1, 2, 3]].concat();
        let cases: [(Vec<u8>, Option<SocketAddr>); 9] = [
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 1883\r\n".into(), address("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 1883\r\n".into(), address("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".into(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".into(), None),
            (binary(1, 0x11, &IPV4), address("192.0.2.7:12345")),
            (binary(1, 0x11, &with_extension), address("192.0.2.7:12345")),
            (binary(1, 0x21, &ipv6), address("[::1]:80")),
            (binary(0, 0x11, &IPV4), None), // LOCAL: addresses are ignored
            (binary(1, 0x31, &[b'/'; 216]), None),
        ];
        for (header, wanted) in cases {
            let (result, left) = parsed(&[&header, b"\x10\x00rest".as_slice()].concat());
            assert_eq!((result.unwrap(), left), (wanted, 6), "{header:?}");
        }
        assert_eq!(parsed(&binary(0, 0x00, &[])).0.unwrap(), None);
        assert_eq!(parsed(&binary(1, 0x00, &[])).0.unwrap(), None);
    }

    #[test]
    fn every_truncation_is_no_header() {
        for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 1883\r\n".to_vec(), binary(1, 0x11, &IPV4)] {
            for length in 0..header.len() {
                assert!(matches!(parsed(&header[..length]).0, Err(ProxyError::Link(_))), "{length}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        let cases: [(&[u8], &str); 11] = [
            (b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", "Absent"),
            (b"GET /mqtt HTTP/1.1\r\n", "Absent"),
            (b"proxy TCP4 192.0.2.7 127.0.0.1 1 2\r\n", "Absent"),
            (b"PROXY TCP4 999.0.2.7 127.0.0.1 1 2\r\n", "Text"),
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 1 99999\r\n", "Text"),
            (b"PROXY TCP4 192.0.2.7\r\n", "Text"),
            (b"PROXY \xff\xff\xff\xff\xff\xff\r\n", "Text"),
            (&long, "TooLong"),
            (&binary(7, 0x11, &IPV4), "Binary"),
            (&binary(1, 0x12, &IPV4), "Datagram"),
            (&binary(1, 0x11, &[0; 5000]), "TooLong"),
        ];
        for (bytes, wanted) in cases {
            let shown = format!("{:?}", parsed(bytes).0.unwrap_err());
            assert!(shown.starts_with(wanted), "{bytes:?}: {wanted} expected, {shown}");
        }
        assert!(parsed(&binary(1, 0x11, &IPV4[..5])).0.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _any = parsed(&bytes).0.is_ok();
        }

        #[test]
        fn no_bytes_behind_a_true_beginning_panic(
            text in any::<bool>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            short in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if short && bytes.len() > 4 {
                // a length that is there
                let rest = u16::try_from(bytes.len() - 4).unwrap();
                bytes[2..4].copy_from_slice(&rest.to_be_bytes());
            }
            let start: &[u8] = if text { b"PROXY TCP4 " } else { v2::PROTOCOL_PREFIX };
            let _any = parsed(&[start, &bytes].concat()).0.is_ok();
        }

        #[test]
        fn any_text_line_is_harmless(line in "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f:.]{0,20}){0,6}\r\n") {
            let _any = parsed(line.as_bytes()).0.is_ok();
        }
    }
}
