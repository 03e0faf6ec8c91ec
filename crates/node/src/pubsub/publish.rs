//! `zwerm pub`: sends messages and ends when every one of them is acknowledged.
//!
//! Start at [`run`]; [`send`] is the part behind the command line.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Stdin, stdin};
use zwerm_wire::{Ack, ConnAck, MessageProperties, Packet, PacketId, Publish, QoS, TopicName};

use super::arguments::{ConnectArguments, qos};
use super::client::{Client, ClientError, described};
use super::source::Source;
use crate::cli::WrongUsage;

/// QoS 1 and 2 messages on their way at a time, if the broker takes as many.
const WINDOW: u16 = 1_000;
/// No further message is encoded while this many bytes wait to be sent.
const OUTPUT: usize = 256 << 10;

const EXAMPLES: &str = "\
Examples:
  zwerm pub -t sensors/1/temp -m 21.5 -q 1          one message, acknowledged
  zwerm pub -p 1884 -t door/state -m open -r        retained, at node 2
  zwerm pub -t sensors/1/temp -n -r                 delete the retained message
  tail -f readings.csv | zwerm pub -t readings -l -q 1
  zwerm pub -t jobs -f job.json -D PUBLISH content-type application/json -D PUBLISH response-topic jobs/done
  zwerm pub -t tick -m x --repeat 10 --repeat-delay 0.5";

/// Arguments of `zwerm pub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Topic
    #[arg(short = 't', long)]
    topic: String,
    /// QoS: 0, 1 or 2
    #[arg(short = 'q', long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Have the broker keep the message for future subscribers
    #[arg(short = 'r', long)]
    retain: bool,
    #[command(flatten)]
    what: What,
    /// Send the message this many times
    #[arg(long, default_value_t = 1, value_name = "TIMES", conflicts_with = "stdin_line")]
    repeat: u32,
    /// Seconds between repetitions
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS", value_parser = seconds)]
    repeat_delay: f64,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// Where the payload comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Payload
    #[arg(short = 'm', long, value_name = "PAYLOAD")]
    message: Option<String>,
    /// Payload: the content of a file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// No payload; with -r it deletes the retained message
    #[arg(short = 'n', long)]
    null_message: bool,
    /// Payload: all of standard input
    #[arg(short = 's', long)]
    stdin_file: bool,
    /// A message for each line of standard input
    #[arg(short = 'l', long)]
    stdin_line: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds are a number from 0 to 86400".to_owned()),
    }
}

impl Arguments {
    async fn source(&self) -> anyhow::Result<Source<Stdin>> {
        let payload = if self.what.stdin_line {
            return Ok(Source::lines(stdin()));
        } else if let Some(message) = &self.what.message {
            message.clone().into()
        } else if let Some(file) = &self.what.file {
            let read = tokio::fs::read(file).await;
            read.with_context(|| format!("cannot read {}", file.display()))?.into()
        } else if self.what.stdin_file {
            let mut input = Vec::new();
            stdin().read_to_end(&mut input).await.context("cannot read standard input")?;
            input.into()
        } else {
            Bytes::new()
        };
        Ok(Source::repeated(payload, self.repeat, Duration::from_secs_f64(self.repeat_delay)))
    }
}

/// Publishes what the arguments say.
///
/// # Errors
/// When it is not certain that every message was accepted.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let topic = TopicName::new(arguments.topic.clone())
        .map_err(|error| WrongUsage(format!("-t {:?}: {error}", arguments.topic)))?;
    let properties = arguments.connect.properties()?;
    let connect = arguments.connect.connect("pub", &properties)?;
    let template =
        Template { topic, qos: arguments.qos, retain: arguments.retain, properties: properties.publish };
    let mut source = arguments.source().await?;
    let (client, consent) = arguments.connect.open(connect).await?;
    send(client, &consent, &template, &mut source).await
}

/// What all messages of one run have in common.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) topic: TopicName,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) properties: Option<MessageProperties>,
}

impl Template {
    fn fits(&self, consent: &ConnAck) -> anyhow::Result<()> {
        let highest = consent.properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
        if self.qos > highest {
            bail!("the broker takes messages up to QoS {}; use a lower -q", highest as u8);
        }
        if self.retain && consent.properties.retain_available == Some(false) {
            bail!("the broker keeps no retained messages; leave -r out");
        }
        Ok(())
    }

    fn message(&self, payload: Bytes, packet_id: Option<PacketId>) -> Packet {
        Packet::Publish(Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            packet_id,
            topic: Some(self.topic.clone()),
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: self.properties.clone().map(Box::new),
            payload,
        })
    }
}

/// Sends every payload of `source`, waits for all acknowledgements and disconnects.
pub(super) async fn send<S, R>(
    mut client: Client<S>,
    consent: &ConnAck,
    template: &Template,
    source: &mut Source<R>,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite,
    R: AsyncRead + Unpin,
{
    template.fits(consent)?;
    let window = consent.properties.receive_maximum.map_or(WINDOW, |most| most.get().min(WINDOW));
    let mut outgoing = Outgoing { window, next: NonZeroU16::MIN, waiting: BTreeMap::new() };
    let mut exhausted = false;
    while !exhausted || !outgoing.waiting.is_empty() {
        let room = !exhausted && outgoing.has_room() && client.queued() < OUTPUT;
        tokio::select! {
            packet = client.step() => if let Some(packet) = packet? { outgoing.answered(packet, &mut client)?; },
            payload = source.next(), if room => match payload.context("cannot read standard input")? {
                Some(payload) => {
                    let id = (template.qos != QoS::AtMostOnce).then(|| outgoing.begin(template.qos));
                    client.queue(&template.message(payload, id))?;
                }
                None => exhausted = true,
            },
        }
    }
    client.finish().await?;
    Ok(())
}

/// Messages that the broker has not acknowledged to the end.
struct Outgoing {
    window: u16,
    next: PacketId,
    waiting: BTreeMap<PacketId, Awaited>,
}

/// What the broker owes for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// PUBACK.
    Acknowledgement,
    /// PUBREC.
    Receipt,
    /// PUBCOMP.
    Completion,
}

impl Outgoing {
    fn has_room(&self) -> bool {
        self.waiting.len() < usize::from(self.window)
    }

    /// A free packet id, taken. There is one: the window is smaller than the number of ids.
    fn begin(&mut self, qos: QoS) -> PacketId {
        while self.waiting.contains_key(&self.next) {
            self.next = self.next.checked_add(1).unwrap_or(PacketId::MIN);
        }
        let id = self.next;
        let awaited = if qos == QoS::AtLeastOnce { Awaited::Acknowledgement } else { Awaited::Receipt };
        self.waiting.insert(id, awaited);
        self.next = id.checked_add(1).unwrap_or(PacketId::MIN);
        id
    }

    fn answered<S>(&mut self, packet: Packet, client: &mut Client<S>) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite,
    {
        match packet {
            Packet::PubAck(ack) => self.accepted(&ack, Awaited::Acknowledgement, None),
            Packet::PubRec(ack) => {
                self.accepted(&ack, Awaited::Receipt, Some(Awaited::Completion))?;
                Ok(client.queue(&Packet::PubRel(Ack::success(ack.packet_id)))?)
            }
            Packet::PubComp(ack) => self.accepted(&ack, Awaited::Completion, None),
            _ => Err(ClientError::Unexpected("another packet than an acknowledgement").into()),
        }
    }

    fn accepted(&mut self, ack: &Ack, awaited: Awaited, then: Option<Awaited>) -> anyhow::Result<()> {
        if self.waiting.remove(&ack.packet_id) != Some(awaited) {
            return Err(ClientError::Unexpected("an acknowledgement of nothing").into());
        }
        if ack.reason.is_error() {
            let words = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            bail!("the broker refused the message: {}", described(ack.reason, words));
        }
        if let Some(then) = then {
            self.waiting.insert(ack.packet_id, then);
        }
        Ok(())
    }
}
