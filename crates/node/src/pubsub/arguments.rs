//! What `pub` and `sub` share on the command line: where to connect, as whom, with which will.
//!
//! Opens the connection, too; what is then sent is not its business. Start at [`ConnectArguments::open`].

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use bytestring::ByteString;
use clap::{ArgAction, Args, ValueEnum};
use tokio::net::TcpStream;
use zwerm_wire::{ConnAck, Connect, Protocol, QoS, TopicName, Will};

use super::client::Client;
use super::properties::Properties;
use crate::cli::WrongUsage;

/// How long the connection and the broker's answer may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Where to connect and as whom.
#[derive(Debug, Args)]
pub(super) struct ConnectArguments {
    /// Host of the broker
    #[arg(short = 'h', long, default_value = "127.0.0.1", value_name = "HOST")]
    pub(super) host: String,
    /// Port of the broker
    #[arg(short = 'p', long, default_value_t = 1883)]
    pub(super) port: u16,
    /// Client id [default: a random one]
    #[arg(short = 'i', long = "id", value_name = "ID")]
    id: Option<String>,
    /// User name
    #[arg(short = 'u', long, value_name = "NAME")]
    username: Option<String>,
    /// Password
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", requires = "username")]
    password: Option<String>,
    /// Protocol version
    #[arg(short = 'V', long = "protocol-version", value_enum, default_value = "5")]
    version: Version,
    /// Seconds between signs of life; 0: none
    #[arg(short = 'k', long, default_value_t = 60, value_name = "SECONDS")]
    keepalive: u16,
    /// Keep the session when the connection ends; needs --id
    #[arg(short = 'c', long = "disable-clean-session", requires = "id")]
    keep_session: bool,
    /// Seconds the session outlives the connection (5.0) [default: 0, with -c for ever]
    #[arg(short = 'x', long, value_name = "SECONDS")]
    session_expiry_interval: Option<u32>,
    /// Topic of the will
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, value_name = "PAYLOAD", requires = "will_topic")]
    will_payload: Option<String>,
    /// QoS of the will
    #[arg(long, value_name = "QOS", default_value = "0", value_parser = qos, requires = "will_topic")]
    will_qos: QoS,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// A 5.0 property: -D PUBLISH content-type text/plain, -D CONNECT user-property NAME VALUE
    #[arg(short = 'D', long = "property", num_args = 3..=4, value_names = ["PACKET", "PROPERTY", "VALUE"], action = ArgAction::Append)]
    properties: Vec<String>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// A protocol version as it may be typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    /// MQTT 5.0
    #[value(name = "5", alias = "mqttv5")]
    V5,
    /// MQTT 3.1.1
    #[value(name = "311", alias = "mqttv311")]
    V311,
    /// MQTT 3.1
    #[value(name = "31", alias = "mqttv31")]
    V31,
}

/// Reads a QoS.
pub(super) fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("a QoS is 0, 1 or 2".to_owned()),
    }
}

impl ConnectArguments {
    /// The version to speak.
    pub(super) fn protocol(&self) -> Protocol {
        match self.version {
            Version::V5 => Protocol::V5,
            Version::V311 => Protocol::V311,
            Version::V31 => Protocol::V31,
        }
    }

    /// The 5.0 properties, refused for other versions.
    pub(super) fn properties(&self) -> Result<Properties, WrongUsage> {
        if self.protocol() != Protocol::V5
            && (!self.properties.is_empty() || self.session_expiry_interval.is_some())
        {
            return Err(WrongUsage(
                "properties and session expiry exist in MQTT 5.0 only; use -V 5".to_owned(),
            ));
        }
        Properties::parse(&self.properties)
    }

    /// The CONNECT packet. `program` names the client if nobody else does.
    pub(super) fn connect(&self, program: &str, properties: &Properties) -> Result<Connect, WrongUsage> {
        let id = match &self.id {
            Some(id) => id.clone(),
            // at most 23 characters: all that MQTT 3.1 allows
            None => format!("zwerm-{program}-{:08x}", rand::random::<u32>()),
        };
        let mut connect_properties = properties.connect.clone();
        if let Some(seconds) = self.session_expiry_interval {
            connect_properties.session_expiry = Some(seconds);
        }
        if self.keep_session && self.protocol() == Protocol::V5 {
            connect_properties.session_expiry.get_or_insert(u32::MAX);
        }
        Ok(Connect {
            protocol: self.protocol(),
            bridge: false,
            clean_start: !self.keep_session,
            keep_alive: self.keepalive,
            client_id: id.into(),
            will: self.will(properties)?,
            username: self.username.clone().map(ByteString::from),
            password: self.password.clone().map(Bytes::from),
            properties: connect_properties,
        })
    }

    fn will(&self, properties: &Properties) -> Result<Option<Will>, WrongUsage> {
        let Some(topic) = &self.will_topic else { return Ok(None) };
        let topic = TopicName::new(topic.clone())
            .map_err(|error| WrongUsage(format!("--will-topic {topic:?}: {error}")))?;
        Ok(Some(Will {
            topic,
            payload: self.will_payload.clone().unwrap_or_default().into(),
            qos: self.will_qos,
            retain: self.will_retain,
            delay: properties.will_delay,
            properties: properties.will.clone().map(Box::new),
        }))
    }

    /// Connects and waits for the broker's consent.
    pub(super) async fn open(&self, connect: Connect) -> anyhow::Result<(Client<TcpStream>, ConnAck)> {
        let at = format!("{}:{}", self.host, self.port);
        let opening = async {
            let host = self.host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, self.port)).await.map_err(|error| {
                anyhow!("cannot connect to {at}: {error}; -h and -p say where the broker is")
            })?;
            stream.set_nodelay(true)?;
            Client::connect(stream, connect).await.with_context(|| format!("no session at {at}"))
        };
        match tokio::time::timeout(CONNECT_WITHIN, opening).await {
            Ok(opened) => opened,
            Err(_) => anyhow::bail!("{at} did not answer within {CONNECT_WITHIN:?}"),
        }
    }
}
