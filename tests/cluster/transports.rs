//! Foreign clients over every transport, publisher on one node and subscriber on another; and a web page.
//!
//! paho-mqtt, gmqtt and MQTT.js run programs of their own (`tests/clients/`); mosquitto's and Paho's C clients and
//! rumqttc are driven from here.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zwerm_tests::{
    CLIENT_NAME, Certificates, Client, Cluster, DEADLINE, MosquittoSub, Options, Program, QoS, Transport,
    Version, chromium, clients_dir, get, mosquitto_pub, mosquitto_rr, node_js, python, until,
};

/// Where all transports of all nodes are, as the client programs are told.
fn arguments(cluster: &Cluster, certificates: &Certificates) -> Vec<String> {
    let list = |transport| {
        let addresses: Vec<String> =
            cluster.nodes().iter().map(|node| node.address(transport).to_string()).collect();
        addresses.join(",")
    };
    let (cert, key) = certificates.client();
    let file = |path: &std::path::Path| path.display().to_string();
    [
        ("--tls", list(Transport::Tls)),
        ("--ws", list(Transport::Ws)),
        ("--wss", list(Transport::Wss)),
        ("--ca", file(&certificates.ca())),
        ("--cert", file(&cert)),
        ("--key", file(&key)),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

/// Runs a client program against all transports; every check must hold.
async fn run(interpreter: std::path::PathBuf, script: &str, more: &[String]) -> Result<()> {
    let (cluster, certificates) = Cluster::start_with_transports(3, &[]).await?;
    let endpoints: Vec<_> = (1..=3).map(|number| cluster.mqtt(number)).collect();
    let arguments = [&arguments(&cluster, &certificates), more].concat();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = Program::start(&interpreter, &clients_dir().join(script), &endpoints, &arguments)?;
    println!("{script}: {} checks", program.finish().await?.len());
    cluster.finish().await
}

#[tokio::test]
async fn paho_passes_over_tcp_tls_websocket_and_secure_websocket() -> Result<()> {
    run(python()?, "paho_transports.py", &[]).await
}

#[tokio::test]
async fn mqtt_js_passes_over_tcp_tls_websocket_and_secure_websocket() -> Result<()> {
    run(node_js()?, "js/transports.mjs", &[]).await
}

#[tokio::test]
async fn gmqtt_passes_over_tcp_and_tls() -> Result<()> {
    run(python()?, "gmqtt_transports.py", &[]).await
}

#[tokio::test]
async fn a_web_page_talks_with_a_client_of_another_node() -> Result<()> {
    let Some(chromium) = chromium() else {
        println!(
            "SKIPPED: there is no chromium on the PATH; ./tests/prepare installs it where the system has it"
        );
        return Ok(());
    };
    run(node_js()?, "js/browser.mjs", &["--chromium".to_owned(), chromium.display().to_string()]).await
}

#[tokio::test]
async fn mosquitto_passes_over_tcp_and_tls() -> Result<()> {
    let (cluster, certificates) = Cluster::start_with_transports(3, &[]).await?;
    let ca = certificates.ca().display().to_string();
    let places: [(&dyn Fn(usize) -> _, Vec<&str>); 2] = [
        (&|number| cluster.mqtt(number), Vec::new()),
        (&|number| cluster.node(number).address(Transport::Tls), vec!["--cafile", &ca]),
    ];
    for (place, (address, flags)) in places.iter().enumerate() {
        for version in ["31", "311", "5"] {
            let topic = format!("mosquitto/{place}/{version}");
            let mut subscriber = MosquittoSub::start(address(3), version, &topic, 2, flags).await?;
            let sent = ["one".to_owned(), "x".repeat(200_000), "three".to_owned()];
            mosquitto_pub(address(1), version, &topic, 2, &sent, flags).await?;
            for text in sent {
                let seen = subscriber.next().await?;
                ensure!(seen == format!("{topic} 0 2 {text}"), "{topic}: {} bytes came", seen.len());
            }
        }
        ask_and_answer(&cluster, address(1), &format!("mosquitto/{place}/rr"), flags).await?;
    }
    cluster.finish().await
}

/// mosquitto_rr on one node asks, a client of another answers.
async fn ask_and_answer(
    cluster: &Cluster,
    address: std::net::SocketAddr,
    topic: &str,
    flags: &[&str],
) -> Result<()> {
    let answers = format!("{topic}/answers");
    let options = Options::new(cluster.mqtt(2), &topic.replace('/', "-"), Version::V5);
    let mut answerer = Client::connect(options).await?;
    answerer.subscribe(topic, QoS::One).await?;
    let asking = mosquitto_rr(address, "5", (topic, &answers), "6 times 7", flags);
    let answering = async {
        ensure!(answerer.next().await?.text() == "6 times 7");
        answerer.publish(&answers, b"42", QoS::One, false).await
    };
    let (answer, answered) = tokio::join!(asking, answering);
    answered?;
    ensure!(answer? == "42");
    answerer.close().await
}

#[tokio::test]
async fn rumqttc_passes_over_tls_with_a_certificate() -> Result<()> {
    let (cluster, certificates) = Cluster::start_with_transports(3, &["log.level=debug"]).await?;
    let tls = certificates.rustls()?;
    for version in [Version::V311, Version::V5] {
        let client = |number: usize, id: &str| {
            let options = Options::new(cluster.node(number).address(Transport::Tls), id, version);
            Client::connect(options.over_tls(Arc::clone(&tls)))
        };
        let mut publisher = client(1, "publisher").await?;
        let mut subscriber = client(3, "subscriber").await?;
        for qos in QoS::ALL {
            let topic = format!("rumqttc/{version:?}/{qos:?}");
            subscriber.subscribe(&topic, qos).await?;
            let sent: Vec<Vec<u8>> = [b"first".to_vec(), vec![b'x'; 500_000], b"last".to_vec()].into();
            publisher.publish_all(&topic, sent.clone(), qos).await?;
            for payload in sent {
                let seen = subscriber.next().await?;
                ensure!(
                    seen.payload == payload && seen.topic == topic,
                    "{topic}: {} bytes",
                    seen.payload.len()
                );
            }
        }
        publisher.close().await?;
        subscriber.close().await?;
    }
    // the name in the certificate goes with the connection
    let shown = format!("({CLIENT_NAME})");
    until("the name in the log", DEADLINE, async || {
        let log = std::fs::read_to_string(cluster.node(1).log_path()).ok()?;
        log.lines().any(|line| line.contains("connection ended") && line.contains(&shown)).then_some(())
    })
    .await?;
    resumes(&cluster, &certificates).await?;
    cluster.finish().await
}

/// A client that comes back to the same node continues its TLS session.
async fn resumes(cluster: &Cluster, certificates: &Certificates) -> Result<()> {
    let (tls, node) = (certificates.rustls()?, cluster.node(2));
    for _ in 0..2 {
        let options = Options::new(node.address(Transport::Tls), "returns", Version::V5);
        Client::connect(options.over_tls(Arc::clone(&tls))).await?.close().await?;
    }
    let metrics = get(node.http(), "/metrics").await?.body;
    for kind in ["full", "resumed"] {
        let line = format!("zwerm_tls_handshakes_total{{kind=\"{kind}\"}} 1");
        ensure!(metrics.lines().any(|seen| seen == line), "no {line} in {metrics}");
    }
    Ok(())
}

/// A Paho client in C that prints what it gets. Dropping it kills the process.
struct PahoSub {
    _child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl PahoSub {
    async fn start(program: &str, url: &str, topic: &str, flags: &[&str]) -> Result<Self> {
        let mut command = Command::new("stdbuf"); // or it keeps its lines while standard output is a pipe
        command.args(["-oL", program, "-t", topic, "-c", url, "-q", "2"]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { _child: child, lines })
    }

    async fn until(&mut self, wanted: &str) -> Result<()> {
        timeout(DEADLINE, async {
            while let Some(line) = self.lines.next_line().await? {
                if line.contains(wanted) {
                    return Ok(());
                }
            }
            bail!("it ended before it printed {wanted:?}")
        })
        .await
        .with_context(|| format!("{wanted:?} was not printed in time"))?
    }
}

/// The synchronous and the asynchronous client of Paho in C.
#[tokio::test]
async fn paho_in_c_passes_over_every_transport() -> Result<()> {
    if Command::new("paho_c_sub").stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_err() {
        println!("SKIPPED: there is no paho_c_sub; ./tests/prepare installs it on Debian");
        return Ok(());
    }
    let (cluster, certificates) = Cluster::start_with_transports(3, &[]).await?;
    let ca = certificates.ca().display().to_string();
    let url = |scheme: &str, number: usize| {
        let node = cluster.node(number);
        match scheme {
            "tcp" => format!("tcp://{}", node.mqtt()),
            "ssl" => format!("ssl://{}", node.address(Transport::Tls)),
            "ws" => format!("ws://{}/mqtt", node.address(Transport::Ws)),
            _ => format!("wss://{}/mqtt", node.address(Transport::Wss)),
        }
    };
    for (subscribing, publishing) in [("paho_c_sub", "paho_c_pub"), ("paho_cs_sub", "paho_cs_pub")] {
        for scheme in ["tcp", "ssl", "ws", "wss"] {
            for version in ["31", "311", "5"] {
                let topic = format!("{subscribing}/{scheme}/{version}");
                let is_secure = matches!(scheme, "ssl" | "wss");
                let secure: &[&str] = if is_secure { &["--cafile", &ca] } else { &[] };
                let flags = [&["-V", version], secure].concat();
                one_message(&topic, (subscribing, &url(scheme, 3)), (publishing, &url(scheme, 1)), &flags)
                    .await
                    .with_context(|| topic.clone())?;
            }
        }
    }
    cluster.finish().await
}

/// A retained message, so that nobody has to know when the subscriber is ready; deleted afterwards.
async fn one_message(
    topic: &str,
    (subscribing, there): (&str, &str),
    (publishing, here): (&str, &str),
    flags: &[&str],
) -> Result<()> {
    let text = format!("hello {topic}");
    let mut command = Command::new(publishing);
    command.args(["-t", topic, "-c", here, "-m", &text, "-q", "2", "-r"]).args(flags);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await.context("the publisher did not end")??;
    ensure!(output.status.success(), "{publishing}: {}", String::from_utf8_lossy(&output.stdout));
    PahoSub::start(subscribing, there, topic, flags).await?.until(&text).await
}

/// Bytes over a Unix socket are MQTT like any others.
#[tokio::test]
async fn a_unix_socket_serves_clients_of_its_machine() -> Result<()> {
    let (cluster, _) = Cluster::start_with_transports(3, &[]).await?;
    let mut watcher = Client::connect(Options::new(cluster.mqtt(2), "watcher", Version::V5)).await?;
    watcher.subscribe("unix", QoS::One).await?;
    let mut stream = UnixStream::connect(cluster.node(1).unix_socket()).await?;
    let connect = *b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01u";
    stream.write_all(&connect).await?;
    let mut connack = [0; 4];
    timeout(DEADLINE, stream.read_exact(&mut connack)).await.context("no CONNACK")??;
    ensure!(connack == [0x20, 2, 0, 0], "{connack:?}");
    stream.write_all(b"\x30\x0b\x00\x04unixhello").await?;
    ensure!(watcher.next().await?.text() == "hello");
    watcher.close().await?;
    let socket = cluster.node(1).unix_socket();
    cluster.finish().await?;
    ensure!(!socket.exists(), "the file of the socket is left behind");
    Ok(())
}
