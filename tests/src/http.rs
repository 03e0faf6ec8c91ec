//! One HTTP GET, enough to ask a node for its health.
//!
//! Knows HTTP/1.1 with `Connection: close` and nothing more. Start at [`get`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read at most.
const LIMIT: u64 = 4 << 20;

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body as text.
    pub body: String,
}

/// Asks for a path and reads the answer to its end.
///
/// # Errors
/// When nobody answers in HTTP within five seconds.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response> {
    timeout(PATIENCE, exchange(address, path))
        .await
        .with_context(|| format!("{address}{path} gave no answer in time"))?
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LIMIT).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of headers")?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    Ok(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read() {
        let response = parse("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nnot yet").unwrap();
        assert_eq!((response.status, response.body.as_str()), (503, "not yet"));
    }

    #[test]
    fn an_answer_without_headers_is_an_error() {
        assert!(parse("nonsense").is_err());
    }
}
