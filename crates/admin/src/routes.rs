//! The paths of the HTTP port and what they answer.
//!
//! Knows no socket. Start at [`router`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{Changed, ControlError, Exposition, Node, RateWindow, Readiness, Status};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) node: Node,
    pub(crate) rates: Arc<Mutex<RateWindow>>,
}

/// Every path that this port answers, for the 404.
const PATHS: [&str; 11] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/v1/status",
    "/api/v1/node/drain",
    "/api/v1/node/undrain",
    "/api/v1/node/leave",
    "/api/v1/node/remove",
    "/api/v1/cluster/replicas",
    "/api/v1/cluster/backup",
    "/api/v1/openapi.json",
];

/// Bytes of the body of a change.
const LARGEST_BODY: usize = 64 << 10;

const OPENAPI: &str = include_str!("openapi.json");

/// All routes of one node.
pub(crate) fn router(shared: Shared) -> Router {
    // whoever may not change anything does not find out what there is to change either
    let changes = Router::new()
        .route("/api/v1/node/drain", post(drain))
        .route("/api/v1/node/undrain", post(undrain))
        .route("/api/v1/node/leave", post(leave))
        .route("/api/v1/node/remove", post(remove))
        .route("/api/v1/cluster/replicas", post(set_replicas))
        .route("/api/v1/cluster/backup", post(backup))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .route_layer(from_fn_with_state(shared.clone(), guarded));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/openapi.json", get(openapi))
        .merge(changes)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
}

/// The process lives and its runtime turns: answering at all is the proof.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, Json<Readiness>) {
    let readiness = shared.node.view.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness))
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut page = Exposition::new();
    shared.node.view.metrics(&mut page);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.finish()).into_response()
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    let known = shared.node.view.status();
    let rates = shared.rates.lock().unwrap_or_else(PoisonError::into_inner).rates();
    Json(Status { known, rates })
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let body = json!({ "error": "not found", "path": uri.path(), "paths": PATHS });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// What a path takes besides OPTIONS, which none does.
async fn method_not_allowed(uri: Uri) -> Response {
    let is_change =
        ["/api/v1/node/", "/api/v1/cluster/"].iter().any(|changes| uri.path().starts_with(changes));
    let methods: &[&str] = if is_change { &["POST"] } else { &["GET", "HEAD"] };
    let body = json!({ "error": "method not allowed", "path": uri.path(), "methods": methods });
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, methods.join(", "))], Json(body)).into_response()
}

/// Lets a change through to its handler only from who may make it.
async fn guarded(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let path = request.uri().path().to_owned();
    match shared.node.guard.admit(peer.ip(), request.headers()) {
        Ok(()) => {
            tracing::info!(%peer, path, "a change over HTTP");
            next.run(request).await
        }
        Err(denied) => {
            tracing::warn!(%peer, path, reason = denied.reason(), "a change over HTTP was not allowed");
            let said = failure(denied.status(), denied.reason());
            if denied.status() == StatusCode::UNAUTHORIZED {
                return ([(header::WWW_AUTHENTICATE, "Bearer")], said).into_response();
            }
            said
        }
    }
}

async fn drain(State(shared): State<Shared>, body: Bytes) -> Response {
    match read(&body) {
        Ok(request) => answer(shared.node.control.drain(request)).await,
        Err(error) => not_understood(&error),
    }
}

async fn undrain(State(shared): State<Shared>) -> Response {
    answer(shared.node.control.undrain()).await
}

async fn leave(State(shared): State<Shared>) -> Response {
    answer(shared.node.control.leave()).await
}

async fn remove(State(shared): State<Shared>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(request) => answer(shared.node.control.remove(request)).await,
        Err(error) => not_understood(&error),
    }
}

async fn set_replicas(State(shared): State<Shared>, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(request) => answer(shared.node.control.set_replicas(request)).await,
        Err(error) => not_understood(&error),
    }
}

/// Gives the archive away as it is made; whoever goes away ends that.
async fn backup(State(shared): State<Shared>) -> Response {
    match shared.node.control.backup().await {
        Ok(archive) => {
            let body = Body::from_stream(archive.map(Ok::<_, Infallible>));
            ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response()
        }
        Err(error) => not_done(&error),
    }
}

/// What a change asks for; an empty body is the default. JSON whatever the content type says.
fn read<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, serde_json::Error> {
    if body.is_empty() { Ok(T::default()) } else { serde_json::from_slice(body) }
}

fn not_understood(error: &serde_json::Error) -> Response {
    failure(StatusCode::BAD_REQUEST, &format!("the body: {error}"))
}

/// Makes a change and says what came of it.
async fn answer<T: Serialize>(change: Changed<'_, T>) -> Response {
    match change.await {
        Ok(changed) => Json(changed).into_response(),
        Err(error) => not_done(&error),
    }
}

fn not_done(error: &ControlError) -> Response {
    match error {
        ControlError::Refused(reason) => failure(StatusCode::CONFLICT, reason),
        ControlError::Unavailable(reason) => failure(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn failure(code: StatusCode, error: &str) -> Response {
    (code, Json(json!({ "error": error }))).into_response()
}
