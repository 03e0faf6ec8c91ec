//! `zwerm sub`: prints what comes on some topics.
//!
//! A QoS 2 message is printed when it is released, so that what is printed was delivered exactly once.
//! Start at [`run`]; `receive` is the part behind the command line.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use zwerm_wire::{
    Ack, Packet, PacketId, Protocol, Publish, QoS, ReasonCode, RetainHandling, SubAck, Subscribe,
    SubscribeFilter, SubscribeOptions, TopicFilter, TopicName,
};

use super::arguments::{ConnectArguments, qos};
use super::client::{Client, ClientError, described};
use crate::cli::WrongUsage;
use crate::shutdown::EndSignals;

const EXAMPLES: &str = "\
Examples:
  zwerm sub -t 'sensors/#' -v                       all messages under sensors/, with their topics
  zwerm sub -p 1884 -t a -t b -q 2                  two topics at node 2
  zwerm sub -t sensors/1/temp -C 1 -W 5             one message, within five seconds
  zwerm sub -t '$share/workers/jobs' -q 1           share the work with other subscribers
  zwerm sub -t 'jobs/#' -q 1 -c -i worker-1         keep the session while away";

/// Arguments of `zwerm sub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Topic filter; repeat for more
    #[arg(short = 't', long = "topic", required = true, value_name = "FILTER")]
    topics: Vec<String>,
    /// Do not print what matches this filter; repeat for more
    #[arg(short = 'T', long, value_name = "FILTER")]
    filter_out: Vec<String>,
    /// Highest QoS to receive with: 0, 1 or 2
    #[arg(short = 'q', long, default_value = "0", value_parser = qos)]
    qos: QoS,
    /// Print topics, too
    #[arg(short = 'v', long)]
    verbose: bool,
    /// No line feed after a payload
    #[arg(short = 'N')]
    no_line_feed: bool,
    /// End after this many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds; an error if messages are still awaited
    #[arg(short = 'W', value_name = "SECONDS")]
    timeout: Option<u64>,
    /// End as soon as the subscriptions are acknowledged
    #[arg(short = 'E', conflicts_with_all = ["count", "retained_only"])]
    end_when_subscribed: bool,
    /// Do not print retained messages
    #[arg(short = 'R', conflicts_with = "retained_only")]
    no_retained: bool,
    /// Print only retained messages; end at the first other one
    #[arg(long)]
    retained_only: bool,
    /// See the retain flag as the publisher set it (5.0)
    #[arg(long)]
    retain_as_published: bool,
    /// When to be sent retained messages (5.0)
    #[arg(long, value_enum, default_value = "always")]
    retain_handling: Handling,
    #[command(flatten)]
    connect: ConnectArguments,
}

/// Names of the retain handlings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Handling {
    /// At every subscribe
    Always,
    /// Only if the subscription is new
    New,
    /// Never
    Never,
}

fn filter(flag: &str, text: &str) -> Result<TopicFilter, WrongUsage> {
    TopicFilter::new(text).map_err(|error| WrongUsage(format!("{flag} {text:?}: {error}")))
}

impl Arguments {
    fn wish(&self) -> anyhow::Result<Wish> {
        let properties = self.connect.properties()?;
        if self.connect.protocol() != Protocol::V5
            && (self.retain_as_published || self.retain_handling != Handling::Always)
        {
            bail!(WrongUsage(
                "--retain-as-published and --retain-handling exist in MQTT 5.0 only; use -V 5".into()
            ));
        }
        let options = SubscribeOptions {
            qos: self.qos,
            no_local: false,
            retain_as_published: self.retain_as_published,
            retain_handling: match self.retain_handling {
                Handling::Always => RetainHandling::Send,
                Handling::New => RetainHandling::SendIfNew,
                Handling::Never => RetainHandling::DoNotSend,
            },
        };
        let filters =
            self.topics.iter().map(|topic| Ok(SubscribeFilter { filter: filter("-t", topic)?, options }));
        Ok(Wish {
            subscribe: Subscribe {
                packet_id: PacketId::MIN,
                subscription_id: properties.subscription_id,
                user: properties.subscribe_user,
                filters: filters.collect::<Result<_, WrongUsage>>()?,
            },
            filter_out: self.filter_out.iter().map(|text| filter("-T", text)).collect::<Result<_, _>>()?,
            count: self.count,
            end_when_subscribed: self.end_when_subscribed,
            no_retained: self.no_retained,
            retained_only: self.retained_only,
        })
    }
}

/// Prints messages until there were enough, the time is over, or the user ends it.
///
/// # Errors
/// When the connection fails, a subscription is refused, or messages that were asked for did not come in time.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let wish = arguments.wish()?;
    let connect = arguments.connect.connect("sub", &arguments.connect.properties()?)?;
    let timeout = arguments.timeout.map(Duration::from_secs);
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut signals = EndSignals::listen()?;
    let (client, _) = arguments.connect.open(connect).await?;
    let print = Print { out: io::stdout(), verbose: arguments.verbose, line_feed: !arguments.no_line_feed };
    let mut subscriber = Subscriber::new(client, wish, print)?;
    // receiving is cancel-safe
    tokio::select! {
        done = subscriber.receive() => done?,
        _ = signals.next() => {}
        () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
            if let Some(count) = arguments.count {
                let (seconds, seen) = (timeout.unwrap_or_default().as_secs(), subscriber.printed);
                subscriber.client.finish().await?;
                bail!("{seen} of {count} messages came within {seconds} s");
            }
        }
    }
    Ok(subscriber.client.finish().await?)
}

/// What is to be received.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) subscribe: Subscribe,
    pub(super) filter_out: Vec<TopicFilter>,
    pub(super) count: Option<u64>,
    pub(super) end_when_subscribed: bool,
    pub(super) no_retained: bool,
    pub(super) retained_only: bool,
}

/// How a message is printed.
#[derive(Debug)]
pub(super) struct Print<W> {
    pub(super) out: W,
    pub(super) verbose: bool,
    pub(super) line_feed: bool,
}

impl<W: Write> Print<W> {
    fn message(&mut self, topic: &TopicName, payload: &[u8]) -> io::Result<()> {
        let mut line = Vec::with_capacity(payload.len() + topic.as_byte_string().len() + 2);
        if self.verbose {
            line.extend_from_slice(topic.as_byte_string().as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(payload);
        if self.line_feed {
            line.push(b'\n');
        }
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

/// One subscriber at work.
#[derive(Debug)]
pub(super) struct Subscriber<S, W> {
    pub(super) client: Client<S>,
    wish: Wish,
    pub(super) print: Print<W>,
    pub(super) printed: u64,
    /// QoS 2 messages that are not released yet.
    held: BTreeMap<PacketId, (TopicName, Publish)>,
    aliases: BTreeMap<NonZeroU16, TopicName>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite, W: Write> Subscriber<S, W> {
    /// Asks for the subscriptions.
    pub(super) fn new(mut client: Client<S>, wish: Wish, print: Print<W>) -> Result<Self, ClientError> {
        client.queue(&Packet::Subscribe(wish.subscribe.clone()))?;
        Ok(Self {
            client,
            wish,
            print,
            printed: 0,
            held: BTreeMap::new(),
            aliases: BTreeMap::new(),
            ended: false,
        })
    }

    /// Prints what comes until there was enough. Cancel-safe: a packet that was taken is dealt with.
    pub(super) async fn receive(&mut self) -> anyhow::Result<()> {
        while !self.ended {
            let packet = self.client.receive().await?;
            self.came(packet)?;
        }
        Ok(())
    }

    fn came(&mut self, packet: Packet) -> anyhow::Result<()> {
        match packet {
            Packet::SubAck(answer) => self.subscribed(&answer),
            Packet::Publish(publish) => self.published(publish),
            Packet::PubRel(release) => self.released(release.packet_id),
            _ => Err(ClientError::Unexpected("a packet that answers nothing").into()),
        }
    }

    fn subscribed(&mut self, answer: &SubAck) -> anyhow::Result<()> {
        let words = answer.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
        for (asked, reason) in self.wish.subscribe.filters.iter().zip(&answer.reasons) {
            if reason.is_error() {
                bail!(
                    "the broker refused the subscription to {}: {}",
                    asked.filter.as_str(),
                    described(*reason, words)
                );
            }
        }
        self.ended |= self.wish.end_when_subscribed;
        Ok(())
    }

    fn published(&mut self, publish: Publish) -> anyhow::Result<()> {
        let topic = self.topic(&publish)?;
        match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                // a repetition replaces the same message
                self.held.insert(id, (topic, publish));
                self.client.queue(&Packet::PubRec(Ack::success(id)))?;
            }
            (_, id) => {
                self.show(&topic, &publish)?;
                if let Some(id) = id {
                    self.client.queue(&Packet::PubAck(Ack::success(id)))?;
                }
            }
        }
        Ok(())
    }

    fn released(&mut self, id: PacketId) -> anyhow::Result<()> {
        let mut complete = Ack::success(id);
        match self.held.remove(&id) {
            Some((topic, publish)) => self.show(&topic, &publish)?,
            None if self.client.protocol() == Protocol::V5 => {
                complete.reason = ReasonCode::PacketIdentifierNotFound
            }
            None => {}
        }
        Ok(self.client.queue(&Packet::PubComp(complete))?)
    }

    fn topic(&mut self, publish: &Publish) -> Result<TopicName, ClientError> {
        match (&publish.topic, publish.topic_alias) {
            (Some(topic), alias) => {
                if let Some(alias) = alias {
                    self.aliases.insert(alias, topic.clone());
                }
                Ok(topic.clone())
            }
            (None, alias) => {
                let known = alias.and_then(|alias| self.aliases.get(&alias)).cloned();
                known.ok_or(ClientError::Unexpected("an unknown topic alias"))
            }
        }
    }

    fn show(&mut self, topic: &TopicName, publish: &Publish) -> anyhow::Result<()> {
        if self.wish.retained_only && !publish.retain {
            self.ended = true;
        }
        let unwanted = self.ended
            || (self.wish.no_retained && publish.retain)
            || self.wish.filter_out.iter().any(|filter| filter.matches(topic));
        if unwanted {
            return Ok(());
        }
        match self.print.message(topic, &publish.payload) {
            Ok(()) => self.printed += 1,
            // whoever read has seen enough, like `head -1`
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.ended = true,
            Err(error) => return Err(error).context("cannot write to standard output"),
        }
        self.ended |= self.wish.count.is_some_and(|count| self.printed >= count);
        Ok(())
    }
}
