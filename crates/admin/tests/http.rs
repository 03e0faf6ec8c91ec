//! The HTTP port over a real socket, with a scripted node behind it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use zwerm_admin::*;

struct Scripted {
    ready: AtomicBool,
}

impl NodeView for Scripted {
    fn status(&self) -> NodeStatus {
        NodeStatus {
            cluster_id: Some("c1".into()),
            version: "0.1.0".into(),
            node: ThisNode { id: NodeId(u64::MAX), name: "node-1".into(), incarnation: 3, uptime_s: 9 },
            readiness: self.readiness(),
            drain: Drain { state: DrainState::Draining, for_good: false, clients_left: 2, groups_led: 1 },
            levels: Levels { cluster: 1, oldest: 1, newest: 2, held_back_by: vec!["node-3".into()] },
            replicas: 3,
            nodes: vec![NodeRow {
                id: NodeId(1),
                name: "node-1".into(),
                state: NodeState::Up,
                role: VoterRole::Leader,
                incarnation: 3,
                draining: true,
                leaving: false,
                newest_level: 2,
                since_ms: 1,
                cluster_addr: "127.0.0.1:7100".into(),
                mqtt_addr: "127.0.0.1:1883".into(),
                http_addr: "127.0.0.1:8080".into(),
            }],
            groups: vec![GroupRow {
                group: "shard-0".into(),
                state: GroupState::Leader,
                leader: Some(NodeId(1)),
                term: 2,
                voters: vec![NodeId(1), NodeId(2)],
                last_log: Some(10),
                committed: Some(9),
                applied: Some(9),
                snapshot: None,
                lag: vec![Lag { node: NodeId(2), entries: 1 }],
                clients: Some(4),
                retained: Some(5),
                sessions: Some(3),
                waiting: Some(2),
                queued_messages: Some(20_000),
                queued_bytes: None,
            }],
            sessions: Sessions { connected: 2, subscriptions: 3, routes: 4 },
            totals: self.totals(),
            storage: Storage { sync: "fsync".into(), survives_power_loss: true, size_bytes: Some(4096) },
        }
    }

    fn readiness(&self) -> Readiness {
        let ready = self.ready.load(Ordering::Relaxed);
        Readiness::unless(if ready { vec![] } else { vec!["no lease from the control leader".into()] })
    }

    fn totals(&self) -> Totals {
        Totals { messages_in: 7, ..Totals::default() }
    }

    fn metrics(&self, out: &mut Exposition) {
        out.counter("received_messages", "PUBLISH packets from clients", 7);
    }
}

impl NodeControl for Scripted {
    fn drain(&self, request: DrainRequest) -> Changed<'_, Drain> {
        Box::pin(async move {
            if !request.force && !self.ready.load(Ordering::Relaxed) {
                return Err(ControlError::Refused("nobody else is up".into()));
            }
            let (state, for_good) = (DrainState::Draining, request.for_good);
            Ok(Drain { state, for_good, clients_left: 2, groups_led: 1 })
        })
    }

    fn undrain(&self) -> Changed<'_, Drain> {
        Box::pin(async { Err(ControlError::Unavailable("not now".into())) })
    }

    fn leave(&self) -> Changed<'_, Leaving> {
        Box::pin(async { Ok(Leaving { node: NodeId(1) }) })
    }

    fn remove(&self, request: RemoveRequest) -> Changed<'_, Leaving> {
        let is_up = request.node == NodeId(1);
        let refused = || ControlError::Refused("it is up".into());
        Box::pin(async move { if is_up { Err(refused()) } else { Ok(Leaving { node: request.node }) } })
    }

    fn set_replicas(&self, request: Replicas) -> Changed<'_, Replicas> {
        let refused = || ControlError::Refused("of an even number no more may fail".into());
        Box::pin(async move { if request.replicas.is_multiple_of(2) { Err(refused()) } else { Ok(request) } })
    }

    fn backup(&self) -> Changed<'_, Archive> {
        Box::pin(async move {
            if !self.ready.load(Ordering::Relaxed) {
                return Err(ControlError::Unavailable("shard 1 does not come to rest".into()));
            }
            Ok(Box::pin(futures::stream::iter([Bytes::from("zwerm"), Bytes::from("bak")])) as Archive)
        })
    }
}

struct Running {
    view: Arc<Scripted>,
    server: Server,
    shutdown: CancellationToken,
}

async fn running() -> Running {
    guarded_by(Guard::default()).await
}

async fn guarded_by(guard: Guard) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let view = Arc::new(Scripted { ready: AtomicBool::new(true) });
    let shutdown = CancellationToken::new();
    let node = Node { view: view.clone(), control: view.clone(), guard };
    let server = Server::start(listener, node, shutdown.clone()).unwrap();
    Running { view, server, shutdown }
}

impl Running {
    async fn request(&self, method: &str, path: &str) -> (StatusCode, String, String) {
        self.send(method, path, &[], "").await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &'static str) -> (StatusCode, Value) {
        let (code, kind, body) = self.send("POST", path, headers, body).await;
        assert_eq!(kind, "application/json");
        (code, serde_json::from_str(&body).unwrap())
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> (StatusCode, String, String) {
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "x");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::<Bytes>::from(body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let code = response.status();
        let kind =
            response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        driver.await.unwrap().unwrap();
        (code, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn json(&self, path: &str) -> (StatusCode, Value) {
        let (code, kind, body) = self.request("GET", path).await;
        assert_eq!(kind, "application/json");
        (code, serde_json::from_str(&body).unwrap())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await.unwrap();
    }
}

#[tokio::test]
async fn healthz_says_that_the_process_lives() {
    let node = running().await;
    let (code, _, body) = node.request("GET", "/healthz").await;
    assert_eq!((code, body.as_str()), (StatusCode::OK, "ok\n"));
    node.stop().await;
}

#[tokio::test]
async fn readyz_is_503_with_reasons_until_the_node_is_ready() {
    let node = running().await;
    node.view.ready.store(false, Ordering::Relaxed);
    let (code, body) = node.json("/readyz").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["ready"], false);
    assert_eq!(body["reasons"][0], "no lease from the control leader");
    node.view.ready.store(true, Ordering::Relaxed);
    let (code, body) = node.json("/readyz").await;
    assert_eq!((code, &body["ready"]), (StatusCode::OK, &Value::Bool(true)));
    node.stop().await;
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let node = running().await;
    let (code, kind, body) = node.request("GET", "/metrics").await;
    assert_eq!((code, kind.as_str()), (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(body.contains("\nzwerm_received_messages_total 7\n"), "{body}");
    node.stop().await;
}

#[tokio::test]
async fn status_survives_the_way_to_json_and_back() {
    let node = running().await;
    let (code, _, body) = node.request("GET", "/api/v1/status").await;
    assert_eq!(code, StatusCode::OK);
    let status: Status = serde_json::from_str(&body).unwrap();
    assert_eq!(status.known, node.view.status());
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["node"]["id"], "ffffffffffffffff");
    node.stop().await;
}

/// Checks `value` against `schema` in the manner of a strict JSON Schema validator, as far as the document
/// uses it: `$ref`, `oneOf`, `enum`, types, and objects with neither missing nor extra members.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        let target = &document["components"]["schemas"][name];
        assert!(target.is_object(), "{reference} leads nowhere");
        return conforms(document, target, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let choice = choices.iter().find(|choice| (choice["type"] == "null") == value.is_null()).unwrap();
        return conforms(document, choice, value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() && schema["type"] != "number" => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let declared = &schema["type"];
    let allowed =
        declared == kind || declared.as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
    assert!(allowed, "{at} is {kind}, the document says {declared}");
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(value), "{at} = {value} is not among {choices:?}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        conforms(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
    if let Some(object) = value.as_object() {
        let properties = schema["properties"].as_object().unwrap();
        let described: Vec<_> = properties.keys().collect();
        let mut given: Vec<_> = object.keys().collect();
        given.sort();
        let mut sorted = described;
        sorted.sort();
        assert_eq!(given, sorted, "members of {at}");
        for (name, member) in object {
            conforms(document, &properties[name], member, &format!("{at}.{name}"));
        }
    }
}

#[tokio::test]
async fn the_openapi_document_is_true_of_every_path() {
    let node = running().await;
    let (_, document) = node.json("/api/v1/openapi.json").await;
    let (_, missing) = node.json("/nowhere").await;
    let mut listed: Vec<_> =
        missing["paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    listed.sort_unstable();
    let mut described: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    described.sort_unstable();
    assert_eq!(listed, described);
    for path in described {
        let (method, described) = document["paths"][path].as_object().unwrap().iter().next().unwrap();
        let (code, kind, body) = node.request(&method.to_uppercase(), path).await;
        let answer = &described["responses"][code.as_str()]["content"];
        let kind = kind.split(';').next().unwrap();
        assert!(answer[kind].is_object(), "{path} answers {code} with {kind}, the document does not say so");
        if kind == "application/json" && path != "/api/v1/openapi.json" {
            let value = serde_json::from_str(&body).unwrap();
            conforms(&document, &answer[kind]["schema"], &value, path);
        }
    }
    node.stop().await;
}

#[tokio::test]
async fn a_backup_comes_in_pieces_and_a_refusal_says_why() {
    let node = running().await;
    let (code, kind, body) = node.send("POST", "/api/v1/cluster/backup", &[], "").await;
    let wanted = (StatusCode::OK, "application/octet-stream", "zwermbak");
    assert_eq!((code, kind.as_str(), body.as_str()), wanted);
    node.view.ready.store(false, Ordering::Relaxed);
    let (code, said) = node.post("/api/v1/cluster/backup", &[], "").await;
    assert_eq!(
        (code, &said["error"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"shard 1 does not come to rest".into())
    );
    let (code, _, body) = node.request("GET", "/api/v1/cluster/backup").await;
    assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body.contains("POST"), "{body}");
    let (code, _) = node.post("/api/v1/cluster/backup", &[("origin", "http://elsewhere")], "").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    node.stop().await;
}

#[tokio::test]
async fn an_unknown_path_is_a_404_in_json_that_lists_the_known_ones() {
    let node = running().await;
    let (code, body) = node.json("/api/v2/status").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    assert_eq!(body["error"], "not found");
    assert_eq!(body["path"], "/api/v2/status");
    assert!(body["paths"].as_array().unwrap().contains(&Value::from("/metrics")));
    node.stop().await;
}

#[tokio::test]
async fn another_method_than_get_is_a_405_in_json() {
    let node = running().await;
    let (code, kind, body) = node.request("POST", "/api/v1/status").await;
    assert_eq!((code, kind.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "application/json"));
    assert!(body.contains("method not allowed"), "{body}");
    node.stop().await;
}

#[tokio::test]
async fn a_drain_is_what_was_asked_for_and_a_refusal_says_why() {
    let node = running().await;
    let (code, said) = node.post("/api/v1/node/drain", &[], "").await;
    assert_eq!(
        (code, &said["state"], &said["for_good"]),
        (StatusCode::OK, &"draining".into(), &false.into())
    );
    let (code, said) = node.post("/api/v1/node/drain", &[], r#"{"for_good":true}"#).await;
    assert_eq!((code, &said["for_good"]), (StatusCode::OK, &true.into()));
    node.view.ready.store(false, Ordering::Relaxed);
    let (code, said) = node.post("/api/v1/node/drain", &[], "{}").await;
    assert_eq!((code, &said["error"]), (StatusCode::CONFLICT, &"nobody else is up".into()));
    let (code, _) = node.post("/api/v1/node/drain", &[], r#"{"force":true}"#).await;
    assert_eq!(code, StatusCode::OK);
    let (code, said) = node.post("/api/v1/node/undrain", &[], "").await;
    assert_eq!((code, &said["error"]), (StatusCode::SERVICE_UNAVAILABLE, &"not now".into()));
    for wrong in [r#"{"forgood":true}"#, "{", "1", r#"{"force":1}"#] {
        let (code, said) = node.post("/api/v1/node/drain", &[], wrong).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(said["error"].as_str().unwrap().starts_with("the body: "), "{said}");
    }
    let (code, _, body) = node.request("GET", "/api/v1/node/drain").await;
    assert_eq!(code, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body.contains("\"POST\""), "{body}");
    node.stop().await;
}

#[tokio::test]
async fn a_node_leaves_and_a_dead_one_is_removed() {
    let node = running().await;
    let (code, said) = node.post("/api/v1/node/leave", &[], "").await;
    assert_eq!((code, &said["node"]), (StatusCode::OK, &"0000000000000001".into()));
    let (code, said) = node.post("/api/v1/node/remove", &[], r#"{"node":"00000000000000ff"}"#).await;
    assert_eq!((code, &said["node"]), (StatusCode::OK, &"00000000000000ff".into()));
    let (code, said) = node.post("/api/v1/node/remove", &[], r#"{"node":"0000000000000001"}"#).await;
    assert_eq!((code, &said["error"]), (StatusCode::CONFLICT, &"it is up".into()));
    for wrong in ["", "{}", r#"{"node":1}"#, r#"{"node":"node-1"}"#] {
        let (code, _) = node.post("/api/v1/node/remove", &[], wrong).await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{wrong}");
    }
    node.stop().await;
}

#[tokio::test]
async fn the_number_of_replicas_is_changed_or_a_refusal_says_why() {
    let node = running().await;
    let path = "/api/v1/cluster/replicas";
    let (code, said) = node.post(path, &[], r#"{"replicas":5}"#).await;
    assert_eq!((code, &said["replicas"]), (StatusCode::OK, &5.into()));
    let (code, said) = node.post(path, &[], r#"{"replicas":4}"#).await;
    assert_eq!((code, &said["error"]), (StatusCode::CONFLICT, &"of an even number no more may fail".into()));
    for wrong in ["", "{}", r#"{"replicas":-1}"#, r#"{"replicas":3,"shards":1}"#] {
        assert_eq!(node.post(path, &[], wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let (code, _, body) = node.request("GET", path).await;
    assert!(code == StatusCode::METHOD_NOT_ALLOWED && body.contains("\"POST\""), "{body}");
    node.stop().await;
}

#[tokio::test]
async fn who_may_not_change_the_node_is_told_why_and_may_still_read() {
    let node = running().await;
    let (code, said) = node.post("/api/v1/node/drain", &[("origin", "http://evil.example")], "").await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert!(said["error"].as_str().unwrap().contains("web page"), "{said}");
    node.stop().await;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "a-token-of-this-test\n").unwrap();
    let node = guarded_by(Guard::new(Some(path))).await;
    let (code, said) = node.post("/api/v1/node/drain", &[], "").await;
    assert_eq!(code, StatusCode::UNAUTHORIZED);
    assert!(said["error"].as_str().unwrap().contains("http.token_file"), "{said}");
    let right = [("authorization", "Bearer a-token-of-this-test")];
    assert_eq!(node.post("/api/v1/node/drain", &right, "").await.0, StatusCode::OK);
    assert_eq!(node.json("/api/v1/status").await.0, StatusCode::OK);
    node.stop().await;
}

#[tokio::test]
async fn a_body_that_is_no_body_of_a_change_is_not_read() {
    let node = running().await;
    let huge = String::leak(" ".repeat(100_000));
    let (code, _, _) = node.send("POST", "/api/v1/node/drain", &[], huge).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    node.stop().await;
}

#[tokio::test]
async fn garbage_gets_a_400_and_the_server_goes_on() {
    let node = running().await;
    let mut stream = TcpStream::connect(node.server.address()).await.unwrap();
    stream.write_all(b"\x10\x00\xff\xff nonsense\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let (code, _, _) = node.request("GET", "/healthz").await;
    assert_eq!(code, StatusCode::OK);
    node.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_an_idle_connection() {
    let node = running().await;
    let mut idle = TcpStream::connect(node.server.address()).await.unwrap();
    let (code, _, _) = node.request("GET", "/healthz").await; // the one before it was accepted, too
    assert_eq!(code, StatusCode::OK);
    node.stop().await;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}
