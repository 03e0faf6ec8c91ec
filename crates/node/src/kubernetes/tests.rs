//! The API's client against an API of our own.

use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpListener;

use super::fake::{TOKEN, fake};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_pod_beyond_the_replicas_leaves_and_one_below_restarts() {
    let body =
        r#"{"kind":"StatefulSet","metadata":{"name":"zwerm"},"spec":{"replicas":3,"serviceName":"x"}}"#;
    for (pod, wanted) in [("zwerm-2", Fate::Restarting), ("zwerm-3", Fate::Leaving)] {
        let fake = fake("200 OK", body).await;
        assert_eq!(fake.api.fate("zwerm", pod, PATIENCE).await.unwrap(), wanted, "{pod}");
        let request = fake.served.await.unwrap();
        assert!(
            request.starts_with("GET /apis/apps/v1/namespaces/mqtt/statefulsets/zwerm HTTP/1.1\r\n"),
            "{request}"
        );
        let lower = request.to_ascii_lowercase();
        assert!(lower.contains(&format!("\r\nauthorization: bearer {TOKEN}\r\n")), "{request}");
        assert!(lower.contains("\r\nhost: 127.0.0.1:"), "{request}");
    }
}

#[test]
fn the_fate_follows_from_replicas_and_the_first_ordinal() {
    let cases = [
        (r#"{"replicas":3}"#, 2, Fate::Restarting),
        (r#"{"replicas":3}"#, 3, Fate::Leaving),
        (r#"{"replicas":3}"#, 4, Fate::Leaving),
        // by default one
        ("{}", 0, Fate::Restarting),
        ("{}", 1, Fate::Leaving),
        // switched off
        (r#"{"replicas":0}"#, 0, Fate::Restarting),
        (r#"{"replicas":0}"#, 4, Fate::Restarting),
        (r#"{"replicas":3,"ordinals":{"start":5}}"#, 7, Fate::Restarting),
        (r#"{"replicas":3,"ordinals":{"start":5}}"#, 8, Fate::Leaving),
    ];
    for (spec, ordinal, wanted) in cases {
        let spec: Spec = serde_json::from_str(spec).unwrap();
        assert_eq!(spec.fate(ordinal), wanted, "{spec:?} {ordinal}");
    }
}

#[test]
fn ordinals_are_read_from_names() {
    let cases = [
        ("zwerm-0", Some(0)),
        ("zwerm-12", Some(12)),
        ("zwerm", None),
        ("zwerm-", None),
        ("zwerm--1", None),
        ("zwerm-+1", None),
        ("zwerm-x", None),
        ("zwerm-a-1", None),
        ("other-1", None),
        ("zwerm-99999999999999999999", None),
    ];
    for (pod, wanted) in cases {
        assert_eq!(ordinal(pod, "zwerm"), wanted, "{pod}");
    }
    assert_eq!(ordinal("a-zwerm-b-3", "a-zwerm-b"), Some(3));
}

#[tokio::test]
async fn a_refusal_says_what_the_api_says() {
    let body = r#"{"kind":"Status","status":"Failure","message":"statefulsets.apps \"zwerm\" is forbidden"}"#;
    let fake = fake("403 Forbidden", body).await;
    let error = fake.api.fate("zwerm", "zwerm-0", PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, KubernetesError::Refused { code, .. } if *code == StatusCode::FORBIDDEN),
        "{error}"
    );
    assert!(error.to_string().contains("statefulsets.apps \"zwerm\" is forbidden"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_no_stateful_set_is_an_error() {
    for body in ["", "{}", r#"{"spec":{"replicas":-1}}"#, r#"{"spec":{"replicas":"three"}}"#] {
        let fake = fake("200 OK", body).await;
        let error = fake.api.fate("zwerm", "zwerm-0", PATIENCE).await.unwrap_err();
        assert!(matches!(error, KubernetesError::Answer { .. }), "{body}: {error}");
    }
}

#[tokio::test]
async fn an_api_that_another_authority_has_signed_gets_no_token() {
    let fake = fake("200 OK", r#"{"spec":{"replicas":3}}"#).await;
    let stranger =
        CertificateParams::new(Vec::new()).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
    fs::write(fake.account.path().join("ca.crt"), stranger.pem()).unwrap();
    let error = fake.api.fate("zwerm", "zwerm-0", PATIENCE).await.unwrap_err();
    assert!(matches!(error, KubernetesError::Connect { .. }), "{error}");
    assert_eq!(fake.served.await.unwrap(), "no TLS");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let fake = fake("200 OK", "{}").await;
    let error = fake.api.fate("zwerm", "node-1", PATIENCE).await.unwrap_err();
    assert!(matches!(error, KubernetesError::Name { .. }), "{error}");
    fs::write(fake.account.path().join("ca.crt"), "nothing").unwrap();
    let error = fake.api.fate("zwerm", "zwerm-0", PATIENCE).await.unwrap_err();
    assert!(matches!(error, KubernetesError::Authority { .. }), "{error}");
    fs::remove_file(fake.account.path().join("token")).unwrap();
    let error = fake.api.fate("zwerm", "zwerm-0", PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("token"), "{error}");
    fake.served.abort();
}

#[tokio::test]
async fn an_api_that_is_silent_is_not_waited_for_long() {
    // Accepted by the kernel, answered by nobody.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fake = fake("200 OK", "{}").await;
    fake.api.move_to(listener.local_addr().unwrap().port());
    let error = fake.api.fate("zwerm", "zwerm-0", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, KubernetesError::Timeout(_)), "{error}");
    fake.served.abort();
}

#[test]
fn the_api_is_where_the_environment_says() {
    let pod = |name: &str| match name {
        "KUBERNETES_SERVICE_HOST" => Some("fd00::1".into()),
        "KUBERNETES_SERVICE_PORT" => Some("6443".into()),
        _ => None,
    };
    assert_eq!(Api::of_this_pod(pod).unwrap().at(), "[fd00::1]:6443");
    let error = Api::of_this_pod(|_| None).unwrap_err();
    assert!(error.to_string().contains("KUBERNETES_SERVICE_HOST"), "{error}");
}
