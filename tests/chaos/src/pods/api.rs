//! The API server of an emulated Kubernetes: it tells pods how many replicas their StatefulSet wants, and no more.
//!
//! HTTPS on the clients' side, with a certificate of an authority that the pods' service account names; only `GET` of
//! the one StatefulSet, and only with the account's token. The account's files are where a kubelet mounts them; this
//! mount namespace has a `/run` of its own. Knows no process. Start at [`ApiServer::serve`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio_rustls::TlsAcceptor;
use zwerm_tests::Certificates;

use crate::network::{CLIENTS, Network};

/// As in the rendered configuration.
const STATEFUL_SET: &str = "zwerm";
const NAMESPACE: &str = "mqtt";
const PATH: &str = "/apis/apps/v1/namespaces/mqtt/statefulsets/zwerm";

/// Where a kubelet mounts the account of a pod; `/var/run` is `/run`.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN: &str = "the-token-of-the-pods-account";
/// Where the API is in a cluster that kubeadm made.
const PORT: u16 = 6443;

/// What pods are told, and who asked.
#[derive(Debug, Default)]
struct Known {
    replicas: usize,
    /// Answers that told the number of replicas, by who asked.
    told: BTreeMap<IpAddr, usize>,
}

/// The server, until this is dropped.
#[derive(Debug)]
pub(super) struct ApiServer {
    known: Rc<RefCell<Known>>,
    server: JoinHandle<()>,
}

impl ApiServer {
    /// Serves a StatefulSet that wants nothing yet, and gives all pods the account with which they may ask for it.
    ///
    /// # Errors
    /// When the port is taken, or the files cannot be written.
    pub(super) async fn serve(dir: &Path) -> Result<Self> {
        let address = Network::address(CLIENTS);
        let dir = dir.join("api");
        fs::create_dir_all(&dir)?;
        let certificates = Certificates::make_for(&dir, &[&address.to_string()])?;
        // Anywhere else it would be the machine's.
        ensure!(fs::canonicalize("/var/run")? == Path::new("/run"), "/var/run is not /run on this machine");
        fs::create_dir_all(ACCOUNT)?;
        fs::copy(certificates.ca(), Path::new(ACCOUNT).join("ca.crt"))?;
        fs::write(Path::new(ACCOUNT).join("token"), TOKEN)?;
        fs::write(Path::new(ACCOUNT).join("namespace"), NAMESPACE)?;
        let tls = TlsAcceptor::from(certificates.rustls_server()?);
        let listener = TcpListener::bind((address, PORT)).await.context("taking the API's port")?;
        let known = Rc::default();
        let server = spawn_local(serve(listener, tls, Rc::clone(&known)));
        Ok(Self { known, server })
    }

    /// What Kubernetes puts into the environment of every container.
    pub(super) fn environment() -> [(&'static str, String); 2] {
        let host = Network::address(CLIENTS).to_string();
        [("KUBERNETES_SERVICE_HOST", host), ("KUBERNETES_SERVICE_PORT", PORT.to_string())]
    }

    /// From now on the StatefulSet wants this many replicas.
    pub(super) fn want(&self, replicas: usize) {
        self.known.borrow_mut().replicas = replicas;
    }

    /// Whether the StatefulSet wants the pod with this ordinal.
    pub(super) fn wants(&self, ordinal: usize) -> bool {
        ordinal < self.known.borrow().replicas
    }

    /// How often the pod that has or had this address was told how many replicas are wanted.
    pub(super) fn told(&self, pod: Ipv4Addr) -> usize {
        self.known.borrow().told.get(&pod.into()).copied().unwrap_or_default()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, known: Rc<RefCell<Known>>) {
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        let Ok((stream, from)) = listener.accept().await else { continue };
        conversations.spawn_local(converse(stream, from.ip(), tls.clone(), Rc::clone(&known)));
    }
}

/// What goes wrong here is the asker's to notice, and makes it no member less.
async fn converse(stream: TcpStream, from: IpAddr, tls: TlsAcceptor, known: Rc<RefCell<Known>>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(async |request: Request<Incoming>| {
        let (code, body) = answer(&request, from, &mut known.borrow_mut());
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = code;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
        Ok::<_, Infallible>(response)
    });
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

fn answer<B>(request: &Request<B>, from: IpAddr, known: &mut Known) -> (StatusCode, Value) {
    let account = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if account.and_then(|value| value.strip_prefix("Bearer ")) != Some(TOKEN) {
        return refusal(StatusCode::UNAUTHORIZED, "Unauthorized");
    }
    if request.method() != Method::GET || request.uri().path() != PATH {
        return refusal(StatusCode::FORBIDDEN, "this account may get its own StatefulSet and nothing else");
    }
    *known.told.entry(from).or_default() += 1;
    let object = json!({
        "kind": "StatefulSet",
        "apiVersion": "apps/v1",
        "metadata": { "name": STATEFUL_SET, "namespace": NAMESPACE },
        "spec": { "replicas": known.replicas, "podManagementPolicy": "Parallel" },
    });
    (StatusCode::OK, object)
}

fn refusal(code: StatusCode, message: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code.as_u16(),
    });
    (code, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_accounts_own_stateful_set_is_told() {
        let cases = [
            (Method::GET, PATH, TOKEN, StatusCode::OK),
            (Method::GET, PATH, "another", StatusCode::UNAUTHORIZED),
            (Method::PATCH, PATH, TOKEN, StatusCode::FORBIDDEN),
            (Method::GET, "/apis/apps/v1/namespaces/mqtt/statefulsets/other", TOKEN, StatusCode::FORBIDDEN),
        ];
        let mut known = Known { replicas: 5, told: BTreeMap::new() };
        let pod = IpAddr::from([10, 77, 4, 2]);
        for (method, path, token, wanted) in cases {
            let request = Request::builder().method(method).uri(path);
            let request = request.header(AUTHORIZATION, format!("Bearer {token}")).body(()).unwrap();
            let (code, body) = answer(&request, pod, &mut known);
            assert_eq!(code, wanted, "{request:?}");
            let replicas = body.pointer("/spec/replicas").and_then(Value::as_u64);
            assert_eq!(replicas, (wanted == StatusCode::OK).then_some(5), "{body}");
        }
        assert_eq!(known.told.get(&pod), Some(&1));
    }
}
