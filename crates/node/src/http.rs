//! One HTTP request: what `status`, `ctl` and `up` ask of nodes, and what `kubernetes` asks over a stream of its own.
//!
//! Plain HTTP to an address; no redirects. Start at [`get`], [`post`] and [`download`].

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Largest answer taken, in bytes.
const LARGEST_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// What was given is no address of an HTTP port.
    #[error("{0:?} is no HTTP address, like http://127.0.0.1:8080")]
    Address(String),
    /// Nobody listens there, or the network is down.
    #[error("cannot connect to {at}")]
    Connect {
        /// `host:port`
        at: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Somebody listens but does not answer in time.
    #[error("{at} did not answer within {within:?}")]
    Timeout {
        /// `host:port`
        at: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// It is not HTTP, or it broke off.
    #[error("{at} gave no proper HTTP answer: {problem}")]
    Exchange {
        /// `host:port`
        at: String,
        /// What went wrong.
        problem: String,
    },
}

/// An HTTP port: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpAddress(String);

impl HttpAddress {
    /// Reads `http://host[:port][/]` or `host:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, HttpError> {
        let wrong = || HttpError::Address(text.to_owned());
        let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str().is_some_and(|scheme| scheme != "http") || !matches!(uri.path(), "" | "/") {
            return Err(wrong());
        }
        Ok(Self(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80))))
    }
}

impl From<std::net::SocketAddr> for HttpAddress {
    fn from(address: std::net::SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl std::fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks for `path` and gives the answer's code and body, all within `within`.
pub(crate) async fn get(
    address: &HttpAddress,
    path: &str,
    within: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    exchange_within(address, Request::get(path), Bytes::new(), within).await
}

/// Changes something: sends `body`, with the token if there is one.
pub(crate) async fn post(
    address: &HttpAddress,
    path: &str,
    (token, body): (Option<&str>, Bytes),
    within: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    let request = with_token(Request::post(path).header("content-type", "application/json"), token);
    exchange_within(address, request, body, within).await
}

/// What a request for a stream of bytes came to.
#[derive(Debug)]
pub(crate) enum Download {
    /// It was taken to its end.
    Whole,
    /// The answer's code and body.
    Refused(StatusCode, Bytes),
}

/// Asks for a stream of bytes with POST and gives each piece to `take`; no more than `stall` passes without one.
///
/// # Errors
/// As [`post`]; [`HttpError::Exchange`] also if `take` fails.
pub(crate) async fn download(
    address: &HttpAddress,
    path: &str,
    token: Option<&str>,
    stall: Duration,
    take: impl FnMut(Bytes) -> std::io::Result<()>,
) -> Result<Download, HttpError> {
    let at = &address.0;
    let broken = |problem| HttpError::Exchange { at: at.clone(), problem };
    let request = with_token(Request::post(path), token);
    let (stream, request) = dial(at, request, Bytes::new()).await?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(error.to_string()))?;
    let answer = async {
        let response = within(at, stall, sender.send_request(request)).await?;
        if response.status().is_success() {
            return take_all(at, response.into_body(), stall, take).await.map(|()| Download::Whole);
        }
        let code = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect();
        Ok(Download::Refused(code, within(at, stall, body).await?.to_bytes()))
    };
    driven(connection, answer).await
}

async fn take_all(
    at: &str,
    mut body: Incoming,
    stall: Duration,
    mut take: impl FnMut(Bytes) -> std::io::Result<()>,
) -> Result<(), HttpError> {
    let broken = |problem| HttpError::Exchange { at: at.to_owned(), problem };
    let frame = async |body: &mut Incoming| {
        body.frame().await.transpose().map_err(|error| format!("it broke off: {error}"))
    };
    while let Some(frame) = within(at, stall, frame(&mut body)).await? {
        if let Ok(piece) = frame.into_data() {
            take(piece).map_err(|error| broken(format!("what came cannot be written: {error}")))?;
        }
    }
    Ok(())
}

/// The result of a step of an exchange.
async fn within<T, E: std::fmt::Display>(
    at: &str,
    within: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, HttpError> {
    let done = tokio::time::timeout(within, step).await;
    let done = done.map_err(|_| HttpError::Timeout { at: at.to_owned(), within })?;
    done.map_err(|error| HttpError::Exchange { at: at.to_owned(), problem: error.to_string() })
}

fn with_token(request: Builder, token: Option<&str>) -> Builder {
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

async fn exchange_within(
    address: &HttpAddress,
    request: Builder,
    body: Bytes,
    within: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    match tokio::time::timeout(within, exchange(&address.0, request, body)).await {
        Ok(answer) => answer,
        Err(_) => Err(HttpError::Timeout { at: address.0.clone(), within }),
    }
}

async fn exchange(at: &str, request: Builder, body: Bytes) -> Result<(StatusCode, Bytes), HttpError> {
    let (stream, request) = dial(at, request, body).await?;
    converse(stream, request).await.map_err(|problem| HttpError::Exchange { at: at.to_owned(), problem })
}

/// A connection, and the request for it.
async fn dial(
    at: &str,
    request: Builder,
    body: Bytes,
) -> Result<(TcpStream, Request<Full<Bytes>>), HttpError> {
    let stream =
        TcpStream::connect(at).await.map_err(|source| HttpError::Connect { at: at.to_owned(), source })?;
    let request = request.header("host", at).header("connection", "close").body(Full::new(body));
    let request =
        request.map_err(|error| HttpError::Exchange { at: at.to_owned(), problem: error.to_string() })?;
    Ok((stream, request))
}

/// Sends one request over a stream of its own and gives the answer's code and body.
///
/// # Errors
/// What went wrong, for people.
pub(crate) async fn converse<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok((code, body))
    };
    driven(connection, answer).await
}

/// The connection moves the bytes; it is driven here, beside the request, not in a task of its own.
async fn driven<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        done = &mut answer => done,
        _ = &mut connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme_and_port() {
        let cases = [
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://127.0.0.1:8080/", Some("127.0.0.1:8080")),
            ("node-1:8081", Some("node-1:8081")),
            ("http://node-1", Some("node-1:80")),
            ("http://[::1]:8080", Some("[::1]:8080")),
            ("https://node-1", None),
            ("http://node-1/api", None),
            ("/api", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let parsed = HttpAddress::parse(text).ok().map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), wanted, "{text}");
        }
    }
}
