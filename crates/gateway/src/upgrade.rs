//! The HTTP request that makes a connection a WebSocket (RFC 6455 section 4.2), and what it must ask for to carry MQTT
//! (MQTT 5.0 section 6).
//!
//! A refused client is told why in words, for a person may have opened the address in a browser. Knows no frames.
//! Start at [`accept`].

use std::future::poll_fn;
use std::io;

use bytes::BytesMut;
use thiserror::Error;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tungstenite::http::{HeaderMap, Method, Response, StatusCode, Uri, Version};

use crate::farewell;
use crate::link::Link;
use crate::output::Output;
use crate::websocket::WebSocket;

/// Bytes of a request at most.
const LONGEST_REQUEST: usize = 8 * 1024;

/// Headers of a request at most.
const MOST_HEADERS: usize = 64;

/// What ends a request.
const END: &[u8] = b"\r\n\r\n";

/// The subprotocols we speak, the one we prefer first (MQTT-6.0.0-3 and -4). The other is what clients of MQTT 3.1
/// ask for.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a WebSocket listener accepts.
#[derive(Debug, Clone)]
pub(crate) struct Upgrade {
    /// The path, without a query.
    pub(crate) path: String,
    /// Bytes of a message of a client at most.
    pub(crate) largest_message: usize,
}

/// Why a connection does not become a WebSocket.
#[derive(Debug, Error)]
pub(crate) enum UpgradeError {
    /// It ended before the request did, or is broken.
    #[error("the connection ended: {0}")]
    Link(#[from] io::Error),
    /// No end of the request within the bound.
    #[error("the request is longer than {LONGEST_REQUEST} bytes or has more than {MOST_HEADERS} headers")]
    TooLong,
    /// What came is no HTTP/1.1.
    #[error("this is no HTTP request: {0}")]
    Malformed(&'static str),
    /// The path is not ours.
    #[error("there is nothing at this path; MQTT is at {0}")]
    Path(String),
    /// It is HTTP, but asks for no WebSocket, or in the wrong way.
    #[error("here is MQTT over WebSocket only: {0}")]
    Handshake(ProtocolError),
    /// It does not offer to speak MQTT.
    #[error("the header Sec-WebSocket-Protocol must name the subprotocol mqtt (or mqttv3.1)")]
    Subprotocol,
}

impl UpgradeError {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Path(_) => StatusCode::NOT_FOUND,
            Self::Handshake(ProtocolError::WrongHttpMethod) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Handshake(
                ProtocolError::MissingConnectionUpgradeHeader
                | ProtocolError::MissingUpgradeWebSocketHeader
                | ProtocolError::MissingSecWebSocketVersionHeader,
            ) => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The response that says so.
    fn response(&self) -> Vec<u8> {
        let body = format!("{self}\n");
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        match response.status() {
            StatusCode::METHOD_NOT_ALLOWED => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            }
            StatusCode::UPGRADE_REQUIRED => {
                let headers = response.headers_mut();
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        let mut bytes = text_of(&response);
        bytes.extend_from_slice(body.as_bytes());
        bytes
    }
}

/// A vector takes all that is written, and the headers are ours: this does not fail.
fn text_of(response: &Response<()>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _all = write_response(&mut bytes, response);
    bytes
}

/// Reads the request and answers it. What went wrong comes with the link if it is still open; the client was told.
///
/// # Errors
/// The client asked for something else, or the connection is broken.
pub(crate) async fn accept<L: Link>(
    mut link: L,
    upgrade: &Upgrade,
) -> Result<WebSocket<L>, (UpgradeError, Option<L>)> {
    let asked = match read_request(&mut link).await {
        Ok((head, early)) => respond(&head, &upgrade.path).map(|response| (response, early)),
        Err(UpgradeError::Link(error)) => return Err((error.into(), None)),
        Err(error) => Err(error),
    };
    let mut output = Output::default();
    output.append(match &asked {
        Ok((response, _)) => response.clone().into(),
        Err(error) => error.response().into(),
    });
    if let Err(broken) = farewell::write_all(&mut link, &mut output).await {
        return Err((asked.err().unwrap_or(UpgradeError::Link(broken)), None));
    }
    match asked {
        Ok((_, early)) => Ok(WebSocket::new(link, early, upgrade.largest_message)),
        Err(error) => Err((error, Some(link))),
    }
}

/// The request with its end, and what came behind it.
async fn read_request(link: &mut impl Link) -> Result<(BytesMut, BytesMut), UpgradeError> {
    let mut bytes = BytesMut::with_capacity(LONGEST_REQUEST);
    loop {
        poll_fn(|context| link.poll_readable(context)).await?;
        let looked_at = bytes.len().saturating_sub(END.len() - 1);
        match link.read(&mut bytes) {
            Ok(0) => return Err(UpgradeError::Link(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        let fresh = bytes.get(looked_at..).unwrap_or_default();
        if let Some(place) = fresh.windows(END.len()).position(|window| window == END) {
            let early = bytes.split_off(looked_at + place + END.len());
            return Ok((bytes, early));
        }
        if bytes.len() >= LONGEST_REQUEST {
            return Err(UpgradeError::TooLong);
        }
        // such as a TLS client at the wrong port, which would wait for an answer as we for the end
        if !bytes.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(UpgradeError::Malformed("it does not begin with a method"));
        }
    }
}

/// The response to a request that asks for MQTT over WebSocket at `path`.
fn respond(head: &[u8], path: &str) -> Result<Vec<u8>, UpgradeError> {
    let request = parse(head)?;
    if request.uri().path() != path {
        return Err(UpgradeError::Path(path.to_owned()));
    }
    let mut response = create_response(&request).map_err(|error| match error {
        Error::Protocol(error) => UpgradeError::Handshake(error),
        _ => UpgradeError::Malformed("a header cannot be read"),
    })?;
    let subprotocol = subprotocol(request.headers()).ok_or(UpgradeError::Subprotocol)?;
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    Ok(text_of(&response))
}

fn parse(head: &[u8]) -> Result<Request, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed.parse(head).map_err(|error| match error {
        httparse::Error::TooManyHeaders => UpgradeError::TooLong,
        _ => UpgradeError::Malformed("it cannot be read"),
    })?;
    if status.is_partial() {
        return Err(UpgradeError::Malformed("it is not whole"));
    }
    let method = parsed.method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let uri = parsed.path.and_then(|path| path.parse::<Uri>().ok());
    let mut request = Request::new(());
    *request.method_mut() = method.ok_or(UpgradeError::Malformed("its method cannot be read"))?;
    *request.uri_mut() = uri.ok_or(UpgradeError::Malformed("its path cannot be read"))?;
    *request.version_mut() = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    for header in parsed.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(UpgradeError::Malformed("a header cannot be read"));
        };
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

/// The first of ours among those that the client offers, in one header or several.
fn subprotocol(headers: &HeaderMap) -> Option<&'static str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<_> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    SUBPROTOCOLS.into_iter().find(|ours| offered.contains(ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Protocol: mqtt\r\n\r\n";

    fn answer(request: &str) -> String {
        let answer = respond(request.as_bytes(), "/mqtt").unwrap_or_else(|error| error.response());
        String::from_utf8(answer).unwrap().to_ascii_lowercase()
    }

    #[test]
    fn a_good_request_is_granted() {
        let answer = answer(GOOD);
        assert!(answer.starts_with("http/1.1 101 switching protocols\r\n"), "{answer}");
        // the key and its answer of RFC 6455 section 1.3
        assert!(answer.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
        assert!(
            answer.contains("\r\nsec-websocket-protocol: mqtt\r\n") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }

    #[test]
    fn subprotocols_are_found_wherever_they_are_offered() {
        let cases = [
            ("mqttv3.1", Some("mqttv3.1")),
            ("mqttv3.1, mqtt", Some("mqtt")),
            ("chat,mqtt", Some("mqtt")),
            ("chat\r\nSec-WebSocket-Protocol: mqttv3.1", Some("mqttv3.1")),
            ("chat", None),
            ("MQTT", None),
            ("mqttv3.1.1", None),
            ("", None),
        ];
        for (offered, granted) in cases {
            let header = format!("Sec-WebSocket-Protocol: {offered}");
            let answer = answer(&GOOD.replace("Sec-WebSocket-Protocol: mqtt", &header));
            match granted {
                Some(name) => {
                    assert!(answer.contains(&format!("\r\nsec-websocket-protocol: {name}\r\n")), "{answer}")
                }
                None => {
                    assert!(answer.starts_with("http/1.1 400") && answer.contains("subprotocol"), "{answer}")
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_status_for_it() {
        let cases = [
            ("GET /mqtt", "POST /mqtt", "405"),
            ("GET /mqtt", "GET /", "404"),
            ("GET /mqtt", "GET /mqtt/", "404"),
            ("GET /mqtt", "GET /mqtt?token=x", "101"),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            ("HTTP/1.1", "HTTP/3", "400"),
            ("Upgrade: websocket\r\n", "", "426"),
            ("Upgrade: websocket", "Upgrade: h2c", "426"),
            ("Connection: keep-alive, Upgrade\r\n", "", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "400"),
            ("Sec-WebSocket-Protocol: mqtt\r\n", "", "400"),
            ("Host: x", "Host x", "400"),
        ];
        for (part, instead, status) in cases {
            let answer = answer(&GOOD.replace(part, instead));
            assert!(
                answer.starts_with(&format!("http/1.1 {status} ")),
                "{instead:?}: {status} expected, {answer}"
            );
        }
        let many = format!("Host: x\r\n{}", "A: b\r\n".repeat(MOST_HEADERS));
        assert!(answer(&GOOD.replace("Host: x\r\n", &many)).starts_with("http/1.1 431 "));
    }

    #[test]
    fn a_refusal_is_a_whole_response() {
        let answer = answer(&GOOD.replace("Version: 13", "Version: 8"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
        assert!(head.contains("connection: close") && head.contains("sec-websocket-version: 13"), "{answer}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _any = respond(&bytes, "/mqtt").is_ok();
        }

        #[test]
        fn no_mutation_of_a_good_request_panics(places in proptest::collection::vec((0..GOOD.len(), any::<u8>()), 1..8)) {
            let mut bytes = GOOD.as_bytes().to_vec();
            for (place, byte) in places {
                bytes[place] = byte;
            }
            match respond(&bytes, "/mqtt") {
                Ok(answer) => prop_assert!(answer.starts_with(b"HTTP/1.1 101 ")),
                Err(error) => prop_assert!(error.response().starts_with(b"HTTP/1.1 4")),
            }
        }
    }
}
