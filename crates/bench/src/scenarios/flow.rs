//! pub-sub, fan-out, fan-in and shared: publishers and subscribers that are all there.
//!
//! They differ in who hears whom. Start at [`Flow::measure`].

use std::mem;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::crew::Crew;
use super::idle::Idle;
use super::{AT_ONCE, Run, in_parallel, messages};
use crate::arguments::{Common, FanIn, FanOut, PubSub, Shared, Traffic};
use crate::board::{Board, Stage, histogram};
use crate::connection::Connection;
use crate::pace::Pace;
use crate::packet::Template;
use crate::publisher::Publisher;
use crate::report::{Phase, Report};
use crate::tally::Tally;

/// Who hears whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    /// Subscriber i hears publisher i.
    Own,
    /// Each subscriber hears all publishers.
    All,
    /// All subscribers together hear all publishers.
    Shared,
}

#[derive(Debug)]
struct Flow<'a> {
    name: &'static str,
    publishers: u32,
    subscribers: u32,
    hearing: Hearing,
    traffic: &'a Traffic,
    common: &'a Common,
}

pub(super) async fn pub_sub(arguments: &PubSub, common: &Common) -> Result<Report> {
    let PubSub { pairs, traffic } = arguments;
    let (publishers, subscribers) = (*pairs, *pairs);
    Flow { name: "pub-sub", publishers, subscribers, hearing: Hearing::Own, traffic, common }.measure().await
}

pub(super) async fn fan_out(arguments: &FanOut, common: &Common) -> Result<Report> {
    let FanOut { publishers, subscribers, traffic } = arguments;
    let (publishers, subscribers) = (*publishers, *subscribers);
    Flow { name: "fan-out", publishers, subscribers, hearing: Hearing::All, traffic, common }.measure().await
}

pub(super) async fn fan_in(arguments: &FanIn, common: &Common) -> Result<Report> {
    let FanIn { publishers, subscribers, traffic } = arguments;
    let (publishers, subscribers) = (*publishers, *subscribers);
    Flow { name: "fan-in", publishers, subscribers, hearing: Hearing::All, traffic, common }.measure().await
}

pub(super) async fn shared(arguments: &Shared, common: &Common) -> Result<Report> {
    let Shared { publishers, subscribers, traffic } = arguments;
    let (publishers, subscribers) = (*publishers, *subscribers);
    Flow { name: "shared", publishers, subscribers, hearing: Hearing::Shared, traffic, common }
        .measure()
        .await
}

impl Flow<'_> {
    async fn measure(&self) -> Result<Report> {
        let (warm_up, time) = (self.traffic.warm_up()?, self.traffic.time()?);
        let window = self.traffic.window(if self.hearing == Hearing::Own { 1 } else { self.publishers })?;
        let run = Run::prepare(self.common).await?;
        let mut idle = Idle::open(&run, self.traffic).await?;
        let board = Arc::new(Board::new(self.publishers, self.copies())?);
        let mut crew = Crew::new(&board, run.quiet);
        self.start(&run, &board, &mut crew, window).await?;

        crew.until(board.now() + warm_up).await?;
        ensure!(warm_up.is_zero() || crew.publishes(), "all was published before the warm-up was over");
        let (published, received) = (board.published(), board.received());
        let cpu = run.cpu()?;
        board.measure();
        let from = board.measured_from();
        if let Some(time) = time {
            crew.until(from + time).await?;
            board.enter(Stage::Draining);
        }
        crew.published().await?;
        let publishing = board.now().saturating_sub(from);
        crew.drained(self.common.patience(self.traffic.qos)).await?;
        let cpu = run.cpu_since(cpu)?;

        let delivering = board.last_received().saturating_sub(from);
        let latency = board.latency();
        let tallies = self.together(crew.end().await?);
        let brokers = run.brokers()?;
        let mut phases = mem::take(&mut idle.phases);
        idle.close().await?;
        let none = histogram()?;
        let sent = board.published() - published;
        let came = board.received() - received;
        phases.push(Phase::new(("publish", "messages"), sent, publishing, None, &none));
        phases.push(Phase::new(("deliver", "deliveries"), came, delivering, cpu, &latency));
        Ok(Report {
            scenario: self.name,
            load: self.load(window),
            messages: Some(messages(
                (self.traffic.qos, self.traffic.size),
                board.published(),
                board.expected(),
                &tallies,
                |publisher| board.sent_by(publisher),
            )),
            phases,
            brokers,
            bytes_per_connection: None,
            ordered: self.hearing != Hearing::Shared,
        })
    }

    /// Subscribes, then connects the publishers, then lets them begin.
    async fn start(&self, run: &Run, board: &Arc<Board>, crew: &mut Crew, window: u64) -> Result<()> {
        let Traffic { rate, messages, .. } = *self.traffic;
        let qos = self.traffic.qos();
        let subscribers = in_parallel(self.subscribers, AT_ONCE, |number| {
            let (place, client) = (run.places.subscriber(number), run.client("s", number));
            let filter = self.filter(run, number);
            async move {
                let mut connection = Connection::open(place, &client).await?;
                connection.subscribe(&filter, qos).await?;
                Ok(connection)
            }
        })
        .await?;
        let credit = self.traffic.qos == 0 && window > 0;
        for (number, connection) in (0..).zip(subscribers) {
            let tally = match self.hearing {
                Hearing::Own => Tally::new(number, 1),
                Hearing::All | Hearing::Shared => Tally::new(0, self.publishers),
            };
            crew.subscribe(connection, tally, credit);
        }
        let publishers = in_parallel(self.publishers, AT_ONCE, |number| {
            let (place, client) = (run.places.publisher(number), run.client("p", number));
            async move { Connection::open(place, &client).await }
        })
        .await?;
        let begin = board.now();
        for (number, connection) in (0..).zip(publishers) {
            let template = Template::new(&run.topic(number), qos, false, self.traffic.size as usize)?;
            let pace = Pace::new(begin, rate, self.publishers, number);
            crew.publish(Publisher { number, template, qos, messages, window, pace }, connection);
        }
        Ok(())
    }

    fn filter(&self, run: &Run, subscriber: u32) -> String {
        match self.hearing {
            Hearing::Own => run.topic(subscriber),
            Hearing::All => run.topic('+'),
            Hearing::Shared => format!("$share/{}/{}", run.name, run.topic('+')),
        }
    }

    /// Subscribers that get each message.
    fn copies(&self) -> u32 {
        if self.hearing == Hearing::All { self.subscribers } else { 1 }
    }

    /// Members of a shared subscription count together.
    fn together(&self, tallies: Vec<Tally>) -> Vec<Tally> {
        if self.hearing != Hearing::Shared {
            return tallies;
        }
        let mut members = tallies.into_iter();
        let Some(mut all) = members.next() else { return Vec::new() };
        members.for_each(|member| all.share(&member));
        vec![all]
    }

    fn load(&self, window: u64) -> String {
        let Traffic { qos, size, rate, idle_connections, idle_filters, .. } = *self.traffic;
        let idle = match (idle_connections, idle_filters) {
            (0, 0) => String::new(),
            (connections, filters) => {
                format!(", beside {connections} idle connections and {filters} idle filters")
            }
        };
        let under_way = if window == 0 { "any number".to_owned() } else { window.to_string() };
        let rate = if rate > 0.0 { format!("{rate} a second") } else { "as many as possible".to_owned() };
        format!(
            "{} publishers, {} subscribers, QoS {qos}, {size} B, {under_way} under way each, {rate}{idle}",
            self.publishers, self.subscribers
        )
    }
}
