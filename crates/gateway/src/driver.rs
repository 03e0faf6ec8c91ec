//! The loop that joins link, session and broker: one task per connection, the only writer of its link.
//!
//! Each turn does what can be done without waiting, a bounded amount of it: packets that came (`intake`),
//! deliveries (`delivery`), acknowledgements, then one write. Then it waits for whatever makes more possible.
//! Back-pressure is what it does not wait for: it does not read while the client's packets or its own bytes
//! have nowhere to go. Start at [`Connections::serve`].

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::debug;
use zwerm_auth::Exchange;
use zwerm_broker::{Attachment, Detach};
use zwerm_session::{Cause, Ending, Input, Outputs, Session};
use zwerm_wire::{Connect, Decoder, ReasonCode, Role};

use crate::Counters;
use crate::connections::{Connections, Shared};
use crate::counters::Tally;
use crate::farewell;
use crate::input;
use crate::link::Link;
use crate::output::Output;
use crate::peer::Peer;
use crate::shares::Shares;

/// SUBSCRIBE and UNSUBSCRIBE packets of one client that wait for the broker before no more is read.
const MAX_ANSWERS: usize = 16;

thread_local! {
    /// What the sessions of a thread put their outputs into, one after the other.
    static OUTPUTS: Cell<Outputs> = Cell::default();
}

/// Answers that the broker has promised.
type Answers = FuturesUnordered<BoxFuture<'static, Input>>;

/// Counts a connection as open as long as it lives, however it ends.
struct Open(Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_current.decrement();
    }
}

impl Connections {
    /// Serves one connection to its end, which comes soon after `stop` is cancelled. A user name that the `peer`
    /// has proved replaces what its CONNECT says. Dropped before, it cuts the connection, and the broker ends the
    /// session as for any lost link.
    pub fn serve<L: Link, P: Into<Peer>>(
        &self,
        link: L,
        peer: P,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<L, P> {
        let shared = Arc::clone(&self.0);
        shared.counters.connections_current.increment();
        let open = Open(Arc::clone(&shared.counters));
        // Boxed, and before the task begins: an idle connection is as large as the largest thing it may ever do, and
        // a task keeps room for all that it is given.
        let mut driver = Box::new(Driver::new(link, peer.into(), shared));
        async move {
            let _open = open;
            driver.serve(stop).await;
            Box::pin(driver.leave()).await;
        }
    }
}

/// One connection.
pub(crate) struct Driver<L> {
    pub(crate) link: L,
    pub(crate) peer: Peer,
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Session,
    pub(crate) decoder: Decoder,
    pub(crate) input: input::Input,
    pub(crate) output: Output,
    pub(crate) attachment: Option<Attachment>,
    /// What another client gets if this one goes. Boxed: few connections have any.
    pub(crate) shares: Option<Box<Shares>>,
    /// Of enhanced authentication that is under way.
    pub(crate) exchange: Option<Box<Exchange>>,
    /// Enhanced authentication has proved who the client is.
    pub(crate) authenticated: bool,
    /// CONNECT that the broker has not been asked about.
    pub(crate) connect: Option<Box<Connect>>,
    /// The broker took the last message but has no room for another. Nothing is read until it has.
    pub(crate) busy: bool,
    /// What the broker will say to SUBSCRIBE and UNSUBSCRIBE; `None`: nothing.
    pub(crate) answers: Option<Box<Answers>>,
    pub(crate) tally: Tally,
    /// `input` may hold a whole packet.
    pub(crate) backlog: bool,
    /// The link may have bytes.
    pub(crate) readable: bool,
    /// The mailbox may have deliveries.
    pub(crate) waiting: bool,
}

/// What ended a wait.
enum Wake {
    Stop,
    Readable,
    Writable,
    Bell,
    Answer(Input),
    Deadline,
    Broken(io::Error),
}

/// The timer of the session's deadline. Deadlines mostly move away with each packet; the timer is only set
/// again when it went off too early, which is far less often.
struct Alarm<'a> {
    sleep: Pin<&'a mut Sleep>,
    armed: Option<Instant>,
}

impl Alarm<'_> {
    fn arm(&mut self, deadline: Option<Instant>) {
        let Some(at) = deadline else { return };
        if self.armed.is_none_or(|armed| at < armed) {
            self.sleep.as_mut().reset(at);
            self.armed = Some(at);
        }
    }
}

impl<L: Link> Driver<L> {
    fn new(link: L, peer: Peer, shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let session = Session::new(Arc::clone(&shared.limits), Instant::now().into_std());
        let decoder =
            Decoder::new(Role::Server, config.limits.max_packet_size).strict_utf8(config.strict_utf8);
        Self {
            link,
            peer,
            session,
            decoder,
            shared,
            input: input::Input::default(),
            output: Output::default(),
            attachment: None,
            shares: None,
            exchange: None,
            authenticated: false,
            connect: None,
            busy: false,
            answers: None,
            tally: Tally::default(),
            backlog: false,
            readable: false,
            waiting: false,
        }
    }

    async fn serve(&mut self, stop: CancellationToken) {
        // boxed for the sake of the task, which is as large as a power of two
        let mut stopped = Box::pin(stop.cancelled_owned());
        let sleep = pin!(sleep_until(Instant::now()));
        let mut alarm = Alarm { sleep, armed: None };
        loop {
            self.turn(Instant::now());
            if self.session.is_closed() {
                return;
            }
            if let Some(connect) = self.connect.take() {
                Box::pin(self.attach(connect)).await;
            } else if self.has_work() {
                tokio::task::yield_now().await;
            } else {
                alarm.arm(self.session.deadline().map(|(at, _)| at.into()));
                let wake = self.wait(&mut alarm, stopped.as_mut()).await;
                self.woken(wake, &mut alarm);
            }
        }
    }

    /// Does what can be done now, then writes once.
    fn turn(&mut self, now: Instant) {
        self.session.lend(OUTPUTS.take());
        self.heed_kick(now);
        self.take_packets(now);
        self.take_deliveries(now);
        // behind the deliveries, for those that cannot be sent are acknowledged
        self.take_answers(now);
        self.write(now);
        self.tally.count(&self.shared.counters);
        OUTPUTS.set(self.session.give_back());
    }

    /// The turn ended because it had done enough, not because nothing was left.
    fn has_work(&self) -> bool {
        (self.may_read() && (self.backlog || self.readable)) || (self.may_deliver() && self.waiting)
    }

    /// Packets of the client have somewhere to go.
    pub(crate) fn may_read(&self) -> bool {
        let ready = !self.session.is_closed() && !self.session.is_attaching();
        ready && !self.broker_is_behind() && self.has_room()
    }

    /// The client has to wait for a reason that is not its own.
    fn broker_is_behind(&self) -> bool {
        self.busy
            || self.answers.as_ref().is_some_and(|answers| answers.len() >= MAX_ANSWERS)
            || self.session.pending() >= self.shared.config.max_pending
    }

    /// Messages have somewhere to go: QoS 0 waits behind a closed window too, to keep its place.
    pub(crate) fn may_deliver(&self) -> bool {
        self.session.window() > 0 && self.has_room()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < self.shared.config.write_buffer_bytes
    }

    pub(crate) fn feed(&mut self, input: Input, now: Instant) {
        self.session.handle(input, now.into_std());
        self.act(now);
    }

    fn heed_kick(&mut self, now: Instant) {
        if let Some(reason) = self.attachment.as_ref().and_then(Attachment::kicked) {
            self.feed(Input::Kicked(reason), now);
        }
    }

    fn write(&mut self, now: Instant) {
        if self.link.holds() {
            self.flush(now);
        }
        if self.output.is_empty() {
            return;
        }
        let was_full = !self.has_room();
        match self.output.write(&mut self.link) {
            Ok(written) => {
                self.tally.bytes_sent += written as u64;
                if was_full && written > 0 {
                    // it could not be heard meanwhile, but it takes what it is sent
                    self.feed(Input::Alive, now);
                }
            }
            Err(error) => self.broken(&error, now),
        }
    }

    /// Writes what the link holds of its own.
    fn flush(&mut self, now: Instant) {
        match self.link.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.broken(&error, now),
            _ => {}
        }
    }

    pub(crate) fn broken(&mut self, error: &io::Error, now: Instant) {
        debug!(peer = %self.peer, %error, "connection lost");
        self.feed(Input::LinkClosed, now);
    }

    /// Asks who the client is, then the broker for its id. The connection does nothing else meanwhile; both are
    /// bounded.
    async fn attach(&mut self, mut connect: Box<Connect>) {
        prove_name(&self.peer, &mut connect);
        let (client_id, username) = (&connect.client_id, &connect.username);
        debug!(peer = %self.peer, ?client_id, ?username, "CONNECT");
        let shared = Arc::clone(&self.shared);
        let closed = *shared.closed.borrow();
        if let Some(reason) = closed {
            debug!(peer = %self.peer, ?reason, "refused: nobody is let in");
            return self.feed(Input::Refused(reason), Instant::now());
        }
        let Some(place) = shared.admission.connects.place().await else {
            debug!(peer = %self.peer, "refused: too many are before it");
            drop(connect);
            shared.counters.connects_busy_total.increment();
            shared.admission.put_off().await;
            return self.feed(Input::Refused(ReasonCode::ServerBusy), Instant::now());
        };
        if self.has_given_up(Instant::now()) {
            shared.counters.connects_given_up_total.increment();
            shared.admission.gave_up();
            return debug!(peer = %self.peer, "gave up before its turn came");
        }
        let is_proved = self.authenticated || self.peer.username().is_some();
        let admitted = if is_proved { Ok(()) } else { shared.authenticator.admit(&connect).await };
        let input = match admitted {
            Ok(()) => self.claim(&connect).await,
            Err(reason) => {
                shared.counters.authentications_failed_total.increment();
                debug!(peer = %self.peer, name = connect.username.as_deref(), ?reason, "not admitted");
                Input::Refused(reason)
            }
        };
        drop(place);
        self.feed(input, Instant::now());
    }

    /// The client hung up while it waited, and had no more to say than CONNECT: nothing is done for it any more. It may
    /// have come back on another connection, whose id and session this one would take away.
    fn has_given_up(&mut self, now: Instant) -> bool {
        if self.input.bytes().is_empty() {
            self.fill(now);
        }
        self.session.is_closed()
    }

    async fn claim(&mut self, connect: &Connect) -> Input {
        match self.shared.broker.attach(connect).await {
            Ok(attached) => {
                self.attachment = Some(attached.attachment);
                self.waiting = true;
                let asked = connect.properties.request_response_information == Some(true);
                let response_information = self.shared.config.response_information.clone();
                Input::Attached(zwerm_session::Attached {
                    session_present: attached.session_present,
                    assigned_client_id: attached.assigned_client_id,
                    response_information: response_information.filter(|_| asked),
                    session_expiry: attached.session_expiry,
                    durable: attached.durable,
                    received: attached.received,
                    released: attached.released,
                })
            }
            Err(error) => {
                debug!(peer = %self.peer, %error, "refused");
                Input::Refused(error.reason())
            }
        }
    }

    async fn wait(
        &mut self,
        alarm: &mut Alarm<'_>,
        stopped: Pin<&mut WaitForCancellationFutureOwned>,
    ) -> Wake {
        let (reading, writing) = (self.may_read(), !self.output.is_empty() || self.link.holds());
        let (link, answers, attachment) = (&self.link, &mut self.answers, self.attachment.as_ref());
        let (attached, asked) = (attachment.is_some(), answers.is_some());
        tokio::select! {
            biased;
            () = stopped => Wake::Stop,
            result = poll_fn(|context| link.poll_readable(context)), if reading => {
                result.map_or_else(Wake::Broken, |()| Wake::Readable)
            }
            result = poll_fn(|context| link.poll_writable(context)), if writing => {
                result.map_or_else(Wake::Broken, |()| Wake::Writable)
            }
            () = hear_broker(attachment), if attached => Wake::Bell,
            answer = next_answer(answers), if asked => Wake::Answer(answer),
            () = alarm.sleep.as_mut(), if alarm.armed.is_some() => Wake::Deadline,
        }
    }

    fn woken(&mut self, wake: Wake, alarm: &mut Alarm<'_>) {
        let now = Instant::now();
        match wake {
            Wake::Stop => self.feed(Input::Kicked(ReasonCode::ServerShuttingDown), now),
            Wake::Readable => self.readable = true,
            Wake::Bell => self.waiting = true,
            Wake::Writable => {}
            Wake::Answer(answer) => self.feed(answer, now),
            Wake::Deadline => {
                alarm.armed = None;
                let input = if self.broker_is_behind() { Input::Alive } else { Input::Tick };
                self.feed(input, now);
            }
            Wake::Broken(error) => self.broken(&error, now),
        }
    }

    /// Gives the client id back and closes the link, side by side. A client that said goodbye sees its link closed
    /// when that is committed, so that it can rely on it: whatever becomes of this node, its will does not fire.
    async fn leave(self) {
        let unknown = Ending { fire_will: true, session_expiry: None, cause: Cause::LinkClosed };
        let ending = self.session.ending().unwrap_or(unknown);
        let cause = ending.cause;
        debug!(peer = %self.peer, ?cause, "connection ended");
        self.shared.counters.ended(cause);
        let (attachment, shares) = (self.attachment, self.shares);
        let patience = self.shared.config.close_timeout;
        let (released, is_released) = oneshot::channel();
        let detach = async {
            if let Some(mut attachment) = attachment {
                if let Some(shares) = shares {
                    attachment.unacknowledged(shares.into_deliveries());
                }
                let Ending { fire_will, session_expiry, .. } = ending;
                Box::pin(attachment.detach(Detach { fire_will, session_expiry })).await;
            }
            let _nobody_waits = released.send(()).is_err();
        };
        let last_words = last_words(self.link, self.output, cause);
        let close = async {
            if matches!(cause, Cause::Disconnected(_)) {
                let _in_time = timeout(patience, is_released).await.is_ok();
            }
            // what does not get through in time is lost: the client knows how to come back
            let _in_time = timeout(patience, last_words).await.is_ok();
        };
        tokio::join!(detach, close);
    }
}

/// What the certificate proves is the user name, whatever CONNECT says.
fn prove_name(peer: &Peer, connect: &mut Connect) {
    if let Some(username) = peer.username() {
        connect.username = Some(username.clone());
        connect.password = None;
    }
}

/// The next answer; for ever if there is none. Cancel safe.
async fn next_answer(answers: &mut Option<Box<Answers>>) -> Input {
    let Some(waiting) = answers else { return pending().await };
    let Some(answer) = waiting.next().await else { return pending().await };
    if waiting.is_empty() {
        *answers = None;
    }
    answer
}

/// Waits for the broker to have something for this connection.
async fn hear_broker(attachment: Option<&Attachment>) {
    match attachment {
        Some(attachment) => attachment.wait().await,
        None => pending().await,
    }
}

/// Writes what is left and closes.
async fn last_words(mut link: impl Link, mut output: Output, cause: Cause) {
    if cause == Cause::LinkClosed || farewell::write_all(&mut link, &mut output).await.is_err() {
        return;
    }
    let said_no_more = farewell::finish(&mut link).await;
    // who said goodbye is not kept waiting, unless the way of closing wants an answer
    let is_owed_an_answer = link.closes_together() || !matches!(cause, Cause::Disconnected(_));
    if said_no_more.is_ok() && is_owed_an_answer {
        farewell::listen_out(link).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::net::TcpStream;
    use zwerm_wire::{ConnectProperties, Protocol};

    /// Bytes of what a task is given to serve a connection.
    fn task<R>(_serve: impl FnOnce(&Connections, TcpStream, Peer, CancellationToken) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        // what the runtime adds is 104 bytes, and the allocator has no sizes between 512 and 640
        let (task, driver) = (task(Connections::serve::<TcpStream, Peer>), size_of::<Driver<TcpStream>>());
        assert!(task <= 408 && driver <= 512, "the task takes {task} bytes, its driver {driver}");
    }

    #[test]
    fn the_name_in_a_certificate_replaces_what_connect_says() {
        let said = Connect {
            protocol: Protocol::V5,
            bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id: "c".into(),
            will: None,
            username: Some("root".into()),
            password: Some("secret".into()),
            properties: ConnectProperties::default(),
        };
        let unknown = Peer::from("127.0.0.1:1".parse::<SocketAddr>().unwrap());
        let mut connect = said.clone();
        prove_name(&unknown, &mut connect);
        assert_eq!(connect, said);
        prove_name(&unknown.with_username("pump-7".into()), &mut connect);
        assert_eq!((connect.username.as_deref(), connect.password), (Some("pump-7"), None));
    }
}
