//! The paths of the HTTP port and what they answer.
//!
//! Knows no socket. Start at [`router`].

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::{Exposition, NodeView, RateWindow, Readiness, Status};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) view: Arc<dyn NodeView>,
    pub(crate) rates: Arc<Mutex<RateWindow>>,
}

/// Every path that this port answers, for the 404.
const PATHS: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/api/v1/status", "/api/v1/openapi.json"];

const OPENAPI: &str = include_str!("openapi.json");

/// All routes over one view.
pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(shared)
}

/// The process lives and its runtime turns: answering at all is the proof.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, Json<Readiness>) {
    let readiness = shared.view.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness))
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut page = Exposition::new();
    shared.view.metrics(&mut page);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.finish()).into_response()
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    let known = shared.view.status();
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

async fn method_not_allowed(uri: Uri) -> Response {
    let body = json!({ "error": "method not allowed", "path": uri.path(), "methods": ["GET", "HEAD"] });
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], Json(body)).into_response()
}
