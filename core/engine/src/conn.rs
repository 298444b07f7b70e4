//! One connection: a session, two legs, and a pump for each side that is connected.
//!
//! A pump waits until its side has bytes, shows the session everything of that side it has not taken, writes what the session
//! queued, does the step, and waits again. A pump reads nothing while what it caused to be written is not written: that is the
//! whole of the back-pressure, in both directions.
//!
//! Invariants: every event goes through [`Conn::on`], which writes or queues the event's output before anybody else runs, so
//! output keeps the order of events. After [`Life::Closing`] no event reaches the session any more.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use flow::access::{ServerTls, Target};
use flow::limits::{FRAME_BYTES_MAX, READ_BYTES_MAX};
use flow::session::Deadline;
use flow::{Answer, DialError, Event, Fault, Flow, Out, Phase, Session, Side, Step};
use rustix::net::Shutdown;

use crate::bell::Bell;
use crate::io;
use crate::leg::{Got, Leg, Sent};
use crate::mail::{Reply, ReplyTo};
use crate::pool::{Input, SIZES};
use crate::stats::add;
use crate::worker::Worker;

/// Most untaken bytes of one side: the longest frame a session may ask for, and what arrived in one read behind it.
const UNTAKEN_BYTES_MAX: usize = FRAME_BYTES_MAX + (64 << 10);
/// How long the last words may take to a client that does not read.
const FLUSH: Duration = Duration::from_secs(5);
/// How long we wait for a client's end of stream after ours, so that its unread bytes do not reset away our last words.
pub(crate) const LINGER_MS: u64 = 1_000;
/// How long a session without a client (a cancel request on its way) may live.
pub(crate) const ALONE_MS: u64 = 10_000;
/// Reads in a row without giving the others a turn.
const ROUNDS_MAX: u8 = 4;
/// Reads in a row that needed less than a quarter of their room before the next one gets a smaller buffer.
const SHRINK_AFTER: u8 = 16;
const SIZE_MAX: u8 = (SIZES.len() - 1) as u8;
/// Bytes begin to gather after this many reads in a row of at least this size: a sender at full speed writes 8 KiB at a time.
const GATHER_AFTER: u8 = 4;
const GATHER_FROM: usize = 8_000;
/// Wake up when this much is there, or when it is not there after a while (the timer's finest grain).
const GATHER_BYTES: u32 = 64 << 10;
const GATHER_MAX: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Live,
    /// The session has said its last; that is being written.
    Closing,
    /// Everything is written and our end of stream is sent; the client's is awaited.
    Lingering,
    Over,
}

pub(crate) struct Conn {
    worker: Rc<Worker>,
    pub(crate) number: u64,
    /// Taken out only to be dropped.
    session: RefCell<Option<Box<dyn Session>>>,
    client: Leg,
    server: Leg,
    life: Cell<Life>,
    phase: Cell<Phase>,
    /// Rung when `life` changes.
    bell: Bell,
    /// TLS of the listener, as it was when the client came.
    offered: Option<Arc<ServerTls>>,
    target: RefCell<Option<Arc<Target>>>,
    alone: bool,
    /// Who started this session beside itself, and is told when it is over.
    beside: Option<Weak<Conn>>,
    /// A session was started beside this one, and is not over.
    accompanied: Cell<bool>,
    born_ms: u64,
    active_ms: Cell<u64>,
    until_ms: Cell<u64>,
    expired: Cell<bool>,
}

/// How one side is read: how much at a time, and whether letting bytes gather first pays.
#[derive(Default)]
struct Pace {
    size: u8,
    small: u8,
    rounds: u8,
    large: u8,
    gathers: bool,
}

impl Pace {
    fn room(&self) -> usize {
        let size = if self.gathers { READ_BYTES_MAX } else { 0 };
        SIZES.get(usize::from(self.size)).copied().unwrap_or(READ_BYTES_MAX).max(size)
    }

    fn read(&mut self, bytes: usize, full: bool) {
        self.rounds = self.rounds.saturating_add(1);
        self.large = if bytes >= GATHER_FROM { self.large.saturating_add(1) } else { 0 };
        if full {
            self.size = self.size.saturating_add(1).min(SIZE_MAX);
            self.small = 0;
        } else if self.size > 0 && bytes < self.room() / 4 {
            self.small += 1;
            if self.small >= SHRINK_AFTER {
                (self.size, self.small) = (self.size - 1, 0);
            }
        } else {
            self.small = 0;
        }
    }

    /// Letting bytes gather costs latency, so it is done only while the session says that rows stream and reads show that they
    /// come fast. A reply that is not a stream is never held back.
    fn consider(&mut self, phase: Phase, socket: &io::Socket) {
        let wanted = phase == Phase::Streaming && self.large >= GATHER_AFTER;
        if wanted != self.gathers {
            self.gathers = wanted && socket.wait_for(GATHER_BYTES);
            if !self.gathers {
                socket.wait_for(1);
            }
        }
    }
}

/// How far [`Conn::quick`] came.
enum Quick {
    Next(Next),
    Event(Event),
    /// Something must be waited for.
    Slow {
        received: bool,
        shown: Shown,
    },
    Fail(Fault),
}

/// What [`Conn::drive`] gives to wait for.
enum Driven<'a> {
    Done(Next),
    Slow(Pin<Box<dyn Future<Output = Next> + 'a>>),
}

impl Future for Driven<'_> {
    type Output = Next;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        match &mut *self {
            Driven::Done(next) => Poll::Ready(*next),
            Driven::Slow(rest) => rest.as_mut().poll(cx),
        }
    }
}

/// What a pump does after an event.
#[derive(Clone, Copy)]
enum Next {
    Wait { need: usize },
    Stop,
}

impl Conn {
    /// A client's connection. Its pump starts with [`Event::Opened`].
    pub(crate) fn serve(
        worker: &Rc<Worker>,
        socket: io::Socket,
        session: Box<dyn Session>,
        offered: Option<Arc<ServerTls>>,
    ) {
        let conn = Conn::new(worker, session, offered, false, None);
        conn.client.open(socket);
        conn.start(Side::Client, true);
    }

    /// A session without a client.
    fn alone(worker: &Rc<Worker>, session: Box<dyn Session>, beside: Option<Weak<Conn>>) {
        let conn = Conn::new(worker, session, None, true, beside);
        conn.client.ended.set(true);
        conn.start(Side::Server, true);
    }

    fn new(
        worker: &Rc<Worker>,
        session: Box<dyn Session>,
        offered: Option<Arc<ServerTls>>,
        alone: bool,
        beside: Option<Weak<Conn>>,
    ) -> Rc<Conn> {
        let now_ms = worker.tick_ms.get();
        let conn = Rc::new(Conn {
            worker: worker.clone(),
            number: worker.next_number(),
            session: RefCell::new(Some(session)),
            client: Leg::default(),
            server: Leg::default(),
            life: Cell::new(Life::Live),
            phase: Cell::new(Phase::Login),
            bell: Bell::default(),
            offered,
            target: RefCell::new(None),
            alone,
            beside,
            accompanied: Cell::new(false),
            born_ms: now_ms,
            active_ms: Cell::new(now_ms),
            until_ms: Cell::new(u64::MAX),
            expired: Cell::new(false),
        });
        worker.enlist(&conn);
        conn
    }

    fn start(self: &Rc<Conn>, side: Side, opens: bool) {
        self.leg(side).pumped.set(true);
        io::spawn(self.clone().pump(side, opens));
    }

    fn leg(&self, side: Side) -> &Leg {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    fn is_live(&self) -> bool {
        self.life.get() == Life::Live
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    // The pump.

    async fn pump(self: Rc<Conn>, side: Side, opens: bool) {
        let mut input = Input::default();
        let mut next = match opens {
            true => self.drive(side, Event::Opened, &mut input).await,
            false => Next::Wait { need: 0 },
        };
        let leg = self.leg(side);
        let mut pace = Pace::default();
        let mut look_first = false;
        while let Next::Wait { need } = next {
            input.rest(&self.worker.pool);
            let Some(socket) = leg.socket() else {
                // A session without a client that has no target either has nothing to wait for.
                self.end();
                break;
            };
            if pace.gathers && (self.phase.get() != Phase::Streaming || (need == 0 && !input.is_empty())) {
                pace.gathers = false;
                socket.wait_for(1);
            }
            if !look_first && !leg.eager.replace(false) {
                if pace.gathers {
                    if Box::pin(io::within(GATHER_MAX, socket.readable())).await.is_none() {
                        // The sender pauses: what is there must not wait for more.
                        pace.gathers = false;
                        socket.wait_for(1);
                    }
                } else if input.is_empty() || need > 0 {
                    if slept(pin!(socket.readable())).await {
                        pace.rounds = 0;
                    }
                } else if !Box::pin(self.readable_or_moved(side, &socket, input.len())).await
                    && self.is_live()
                {
                    next = self.drive(side, Event::Received, &mut input).await;
                    continue;
                }
            }
            if !self.is_live() {
                break;
            }
            match leg.read(&self.worker.pool, &mut input, pace.room(), need) {
                Ok(Got::Nothing) => {
                    look_first = false;
                    self.flush_tls(side);
                }
                Ok(Got::Bytes { bytes, full }) => {
                    add(self.worker.stats.read(side), bytes as u64);
                    pace.read(bytes, full);
                    self.flush_tls(side);
                    next = self.drive(side, Event::Received, &mut input).await;
                    look_first = full && pace.rounds < ROUNDS_MAX;
                    if side == Side::Server && self.worker.gather {
                        pace.consider(self.phase.get(), &socket);
                    }
                    if pace.rounds >= ROUNDS_MAX {
                        pace.rounds = 0;
                        io::yield_now().await;
                    }
                }
                Ok(Got::End) | Err(_) => {
                    leg.ended.set(true);
                    self.flush_tls(side);
                    next = self.drive(side, Event::Closed(side), &mut input).await;
                    if let Next::Wait { .. } = next {
                        // The session goes on without this side, if there is another one.
                        let other = self.leg(side.other());
                        if other.ended.get() || !other.pumped.get() {
                            self.end();
                        }
                        break;
                    }
                }
            }
        }
        input.take(usize::MAX);
        input.rest(&self.worker.pool);
        if side == Side::Client {
            Box::pin(self.linger()).await;
        }
    }

    /// The session left bytes and did not say what it lacks, so it may be waiting for the other side: true when there is more to
    /// read, false when the other side moved or the connection is over.
    async fn readable_or_moved(&self, side: Side, socket: &io::Socket, untaken: usize) -> bool {
        // With too much untaken already, more is not read: the peer has to wait.
        let full = untaken >= UNTAKEN_BYTES_MAX;
        let other = self.leg(side.other());
        let seen = self.leg(side).seen.get();
        let mut readable = pin!(socket.readable());
        std::future::poll_fn(|cx| {
            if !self.is_live() || other.events.get() != seen {
                return Poll::Ready(false);
            }
            other.bell.listen(cx.waker());
            self.bell.listen(cx.waker());
            if !full && readable.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            Poll::Pending
        })
        .await
    }

    /// Reads the client's last bytes away until it has seen ours. The sweeper ends it after [`LINGER_MS`].
    async fn linger(&self) {
        let Some(socket) = self.client.socket() else { return };
        self.bell.until(|| matches!(self.life.get(), Life::Lingering | Life::Over)).await;
        let mut waste = self.worker.pool.take(0);
        while self.life.get() == Life::Lingering {
            waste.clear();
            match socket.receive(&mut waste) {
                Ok(None) => socket.readable().await,
                Ok(Some(0)) | Err(_) => self.end(),
                Ok(Some(_)) => io::yield_now().await,
            }
        }
        self.worker.pool.give(waste);
    }

    // Events and steps.

    /// Shows the session one event and queues its output. What could not be written at once is still owed.
    fn on(&self, side: Side, event: Event, input: &Input) -> Shown {
        let pool = &self.worker.pool;
        let mut back = Out::with_buffer(pool.take_out());
        let mut on = Out::with_buffer(pool.take_out());
        let is_received = matches!(event, Event::Received);
        let bytes = input.untaken();
        let mut session = self.session.try_borrow_mut();
        let (outcome, taken) = match session.as_mut().map(|session| session.as_mut()) {
            Err(_) | Ok(None) => (Err(Fault::Bug("an event inside an event")), 0),
            Ok(Some(session)) => {
                let mut flow = Flow::new(side, bytes, &mut back, &mut on, self.worker.now());
                let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
                    let outcome = session.on(event, &mut flow);
                    self.phase.set(session.phase());
                    outcome
                }));
                let taken = flow.taken();
                match outcome {
                    Ok(outcome) => (outcome, taken),
                    Err(_) => {
                        add(&self.worker.stats.panics, 1);
                        (Err(Fault::Bug("a session panicked")), taken)
                    }
                }
            }
        };
        if taken > 0 {
            self.leg(side).heard.set(true);
        }
        let outcome = if self.alone && (if side == Side::Client { !back.is_empty() } else { !on.is_empty() })
        {
            Err(Fault::Bug("bytes for a client that does not exist"))
        } else {
            outcome
        };
        let sent_back = if back.is_empty() { Sent::All } else { self.leg(side).send(back.bytes(bytes)) };
        let sent_on = if on.is_empty() { Sent::All } else { self.leg(side.other()).send(on.bytes(bytes)) };
        let leg = self.leg(side);
        if is_received {
            leg.seen.set(self.leg(side.other()).events.get());
        }
        // Showing the same bytes again to no effect is no news, or two sides would wake each other for ever.
        if !is_received || taken > 0 || !back.is_empty() || !on.is_empty() {
            leg.events.set(leg.events.get().wrapping_add(1));
            leg.bell.ring();
        }
        Shown { outcome, taken, back, on, sent_back, sent_on }
    }

    /// One event and everything that follows from it, until the session wants to read or is over.
    ///
    /// What happens at every round trip is done by [`Conn::quick`] without waiting; the rest lives in a box, so that a connection
    /// at rest is small.
    fn drive<'a>(self: &'a Rc<Conn>, side: Side, first: Event, input: &'a mut Input) -> Driven<'a> {
        let mut event = first;
        loop {
            match self.quick(side, event, input) {
                Quick::Next(next) => return Driven::Done(next),
                Quick::Event(follow) => event = follow,
                Quick::Slow { received, shown } => {
                    return Driven::Slow(Box::pin(self.slow(side, received, shown, input)));
                }
                Quick::Fail(fault) => return Driven::Slow(Box::pin(self.fail(fault))),
            }
        }
    }

    fn quick(self: &Rc<Conn>, side: Side, event: Event, input: &mut Input) -> Quick {
        if !self.is_live() {
            return Quick::Next(Next::Stop);
        }
        self.active_ms.set(self.worker.tick_ms.get());
        let received = matches!(event, Event::Received);
        let shown = self.on(side, event, input);
        let settled = shown.sent_back == Sent::All && shown.sent_on == Sent::All;
        match shown.outcome {
            Ok(Step::Read { need }) if settled => {
                let taken = shown.taken;
                self.recycle(shown);
                input.take(taken);
                self.read_on(side, received, taken, need, input)
            }
            _ => Quick::Slow { received, shown },
        }
    }

    /// After [`Step::Read`]: wait for bytes, or show what is there.
    fn read_on(
        self: &Rc<Conn>,
        side: Side,
        received: bool,
        taken: usize,
        need: usize,
        input: &Input,
    ) -> Quick {
        // The server is read from as soon as nothing can want its TLS to be started by the client's pump any more.
        self.read_server();
        let have = input.len();
        if need > UNTAKEN_BYTES_MAX {
            return Quick::Fail(Fault::Bug("a session wants to see more than a frame"));
        }
        if self.client.ended.get() && self.client.is_broken() && !self.alone {
            // The client was seen to leave, and now cannot even be written to: nobody is left to tell.
            self.end();
            return Quick::Next(Next::Stop);
        }
        if !received && have > 0 && !self.leg(side).ended.get() {
            Quick::Event(Event::Received)
        } else if !received || have == 0 || have < need || need == 0 {
            Quick::Next(Next::Wait { need })
        } else if taken > 0 {
            Quick::Event(Event::Received)
        } else {
            Quick::Fail(Fault::Bug("a session wants to see what it was shown"))
        }
    }

    fn read_server(self: &Rc<Conn>) {
        if self.server.is_open() && !self.server.pumped.get() {
            self.start(Side::Server, false);
        }
    }

    fn recycle(&self, shown: Shown) {
        self.worker.pool.give_out(shown.back.into_buffer());
        self.worker.pool.give_out(shown.on.into_buffer());
    }

    /// The rest of an event that has to wait for something, and all that follows.
    async fn slow(self: &Rc<Conn>, side: Side, received: bool, mut shown: Shown, input: &mut Input) -> Next {
        if shown.sent_back != Sent::All || shown.sent_on != Sent::All {
            let bytes = input.untaken();
            let (back, on) = (shown.back.bytes(bytes), shown.on.bytes(bytes));
            self.settle(side, (shown.sent_back, back), (shown.sent_on, on)).await;
        }
        let taken = shown.taken;
        let outcome = std::mem::replace(&mut shown.outcome, Ok(Step::READ));
        self.recycle(shown);
        input.take(taken);
        let followed = match outcome {
            Err(fault) => Err(fault),
            Ok(Step::Read { need }) => return self.read_slowly(side, received, taken, need, input).await,
            Ok(Step::Beside(session)) => match self.accompany(session) {
                Ok(()) => return self.read_slowly(side, false, taken, 0, input).await,
                Err(fault) => Err(fault),
            },
            Ok(step) => {
                if !matches!(step, Step::StartTls(Side::Server) | Step::Close { .. }) {
                    self.read_server();
                }
                self.step(side, step, input).await
            }
        };
        match followed {
            Ok(Some(event)) => self.drive(side, event, input).await,
            Ok(None) => Next::Stop,
            Err(fault) => self.fail(fault).await,
        }
    }

    async fn read_slowly(
        self: &Rc<Conn>,
        side: Side,
        received: bool,
        taken: usize,
        need: usize,
        input: &mut Input,
    ) -> Next {
        match self.read_on(side, received, taken, need, input) {
            Quick::Next(next) => next,
            Quick::Event(event) => self.drive(side, event, input).await,
            Quick::Slow { received, shown } => Box::pin(self.slow(side, received, shown, input)).await,
            Quick::Fail(fault) => self.fail(fault).await,
        }
    }

    /// Starts a session beside this one.
    fn accompany(self: &Rc<Conn>, session: Box<dyn Session>) -> Result<(), Fault> {
        if self.alone {
            return Err(Fault::Bug("a session without a client wants another one beside it"));
        }
        if self.accompanied.replace(true) {
            return Err(Fault::Bug("a second session beside this one"));
        }
        Conn::alone(&self.worker, session, Some(Rc::downgrade(self)));
        Ok(())
    }

    async fn settle(
        self: &Rc<Conn>,
        side: Side,
        (back, back_bytes): (Sent, &[u8]),
        (on, on_bytes): (Sent, &[u8]),
    ) {
        let (speaker, listener) = (self.leg(side), self.leg(side.other()));
        if let Sent::Some(n) = back {
            // Rare: both sides must go on at once, or a speaker that does not listen would hold up the other side.
            speaker.queue(back_bytes.get(n..).unwrap_or_default());
            let conn = self.clone();
            io::spawn(async move { conn.leg(side).finish(&[]).await });
        }
        let speaker_settled = speaker.settled();
        match on {
            Sent::Some(n) => listener.finish(on_bytes.get(n..).unwrap_or_default()).await,
            Sent::Queued => listener.settled().await,
            Sent::All => {}
        }
        if back != Sent::All {
            speaker_settled.await;
        }
    }

    fn flush_tls(self: &Rc<Conn>, side: Side) {
        let leg = self.leg(side);
        if leg.has_tls() && leg.tls_speaks() && matches!(leg.send(&[]), Sent::Some(_)) {
            let conn = self.clone();
            io::spawn(async move { conn.leg(side).finish(&[]).await });
        }
    }

    /// Does a step other than reading on. `None`: this pump is done.
    async fn step(
        self: &Rc<Conn>,
        side: Side,
        step: Step,
        input: &mut Input,
    ) -> Result<Option<Event>, Fault> {
        match step {
            Step::Read { .. } | Step::Beside(_) => Err(Fault::Bug("reading is not a step of this kind")),
            Step::Dial(target) => self.dial(side, target).await,
            Step::StartTls(Side::Client) => self.start_client_tls(side, input).await,
            Step::StartTls(Side::Server) => self.start_server_tls(side, input).await,
            Step::Ask(ask) => {
                let waiting = self.worker.slots.open();
                let to = ReplyTo::new(self.worker.postbox.clone(), waiting.number);
                self.worker.desk.ask(ask, Box::new(move |answer| to.say(answer)));
                Ok(self.unless_over(waiting.reply()).await.map(|reply| match reply {
                    Reply::Answer(answer) => Event::Answered(answer),
                    Reply::Resolved(_) => Event::Answered(Answer::Failed("a reply went astray".to_owned())),
                }))
            }
            Step::Close { then } => {
                self.close(then).await;
                Ok(None)
            }
        }
    }

    async fn dial(self: &Rc<Conn>, side: Side, target: Arc<Target>) -> Result<Option<Event>, Fault> {
        if self.server.is_open() || self.server.ended.get() {
            return Err(Fault::Bug("a second target"));
        }
        if side == Side::Server && !self.alone {
            return Err(Fault::Bug("a target's bytes ask for a target"));
        }
        *self.target.borrow_mut() = Some(target.clone());
        let Some(result) = self.unless_over(crate::dial::dial(&self.worker, &target)).await else {
            return Ok(None);
        };
        Ok(Some(Event::Dialled(result.map(|socket| self.server.open(socket)))))
    }

    async fn start_client_tls(
        self: &Rc<Conn>,
        side: Side,
        input: &mut Input,
    ) -> Result<Option<Event>, Fault> {
        if side != Side::Client || self.client.has_tls() {
            return Err(Fault::Bug("TLS with the client was asked for at the wrong time"));
        }
        let Some(offered) = &self.offered else { return Err(Fault::Bug("TLS was not offered")) };
        // CVE-2021-23222: plain bytes behind a request for TLS must never be taken for what was said inside it. Only a client
        // whose first bytes are the handshake itself may have sent anything yet.
        if !input.is_empty() && self.client.heard.get() {
            return Err(Fault::Protocol { side: Side::Client, what: "bytes before the TLS handshake" });
        }
        let tls = match rustls::ServerConnection::new(offered.config.clone()) {
            Ok(tls) => rustls::Connection::Server(tls),
            Err(error) => {
                tracing::warn!(%error, "TLS with clients cannot be started");
                return Err(Fault::Bug("TLS with clients cannot be started"));
            }
        };
        let result = self.unless_over(self.client.handshake(tls, input.untaken(), &self.worker.pool)).await;
        let Some(result) = result else {
            // Half a handshake: nothing can be said any more, so nobody has to wait for it.
            self.client.give_up();
            return Ok(None);
        };
        input.take(usize::MAX);
        match result {
            Ok(facts) => {
                // What came with the end of the handshake is there to be seen at once.
                let seen = self.client.read(&self.worker.pool, input, 0, 0);
                if let Ok(Got::Bytes { bytes, .. }) = seen {
                    add(self.worker.stats.read(side), bytes as u64);
                    self.client.eager.set(true);
                } else if let Ok(Got::End) | Err(_) = seen {
                    self.client.ended.set(true);
                    return Ok(Some(Event::Closed(Side::Client)));
                }
                Ok(Some(Event::TlsStarted(Side::Client, facts)))
            }
            Err(error) => {
                tracing::debug!(%error, "TLS handshake with a client failed");
                self.client.ended.set(true);
                Ok(Some(Event::Closed(Side::Client)))
            }
        }
    }

    async fn start_server_tls(
        self: &Rc<Conn>,
        side: Side,
        input: &mut Input,
    ) -> Result<Option<Event>, Fault> {
        let leg = &self.server;
        if !leg.is_open() || leg.has_tls() || (side == Side::Client && leg.pumped.get()) {
            return Err(Fault::Bug("TLS with the target was asked for at the wrong time"));
        }
        // CVE-2021-23214, the same from the other side.
        if side == Side::Server && !input.is_empty() {
            return Err(Fault::Protocol { side: Side::Server, what: "bytes before the TLS handshake" });
        }
        let target = self.target.borrow().clone();
        let Some((target, tls)) = target.as_ref().and_then(|t| t.tls.as_ref().map(|tls| (t, tls))) else {
            return Err(Fault::Bug("this target has no TLS"));
        };
        let result = match rustls::ClientConnection::new(tls.config.clone(), tls.name.clone()) {
            Err(error) => Err(DialError::Tls(error.to_string())),
            Ok(tls) => {
                let shake = leg.handshake(rustls::Connection::Client(tls), &[], &self.worker.pool);
                let shake = io::within(Duration::from_millis(target.dial_ms), shake);
                match self.unless_over(shake).await {
                    None => return Ok(None),
                    Some(None) => Err(DialError::TimedOut(target.dial_ms)),
                    Some(Some(result)) => result.map_err(DialError::Tls),
                }
            }
        };
        Ok(Some(match result {
            Ok(facts) => Event::TlsStarted(Side::Server, facts),
            Err(error) => {
                leg.reset();
                Event::Dialled(Err(error))
            }
        }))
    }

    /// The future's output, or `None` when the connection is over first.
    async fn unless_over<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            if !self.is_live() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.bell.listen(cx.waker());
            Poll::Pending
        })
        .await
    }

    // Ending.

    async fn fail(self: &Rc<Conn>, fault: Fault) -> Next {
        add(&self.worker.stats.faults, 1);
        match fault {
            Fault::Bug(_) | Fault::Unrecorded => {
                tracing::warn!(%fault, conn = self.number, "connection ended")
            }
            _ => tracing::debug!(%fault, conn = self.number, "connection ended"),
        }
        self.close(None).await;
        Next::Stop
    }

    /// Writes what is queued, says goodbye on both sides, and lets go of the sockets.
    async fn close(self: &Rc<Conn>, then: Option<Box<dyn Session>>) {
        if !self.is_live() {
            return;
        }
        self.life.set(Life::Closing);
        self.bell.ring();
        if let Some(session) = then {
            if self.alone {
                tracing::warn!("a session without a client wants another one after it");
            } else {
                Conn::alone(&self.worker, session, None);
            }
        }
        // Both are asked now: what is queued later comes from pumps that are about to end.
        let (server, client) = (self.server.settled(), self.client.settled());
        let settled = async {
            server.await;
            client.await;
        };
        let flushed = io::within(FLUSH, settled).await.is_some();
        self.client.close_notify();
        self.server.close_notify();
        if self.life.get() != Life::Closing {
            return;
        }
        self.server.let_go_of_socket();
        let socket = self.client.socket();
        match socket {
            Some(socket) if flushed && !self.client.ended.get() && !self.client.is_broken() => {
                if !socket.is_over() {
                    socket.shutdown(Shutdown::Write);
                }
                self.until_ms.set(self.worker.now_ms().saturating_add(LINGER_MS));
                self.life.set(Life::Lingering);
                self.bell.ring();
                // The client's pump lingers; one that has stopped already has seen the end of stream.
            }
            _ => self.end(),
        }
    }

    /// At once: whoever waits on a socket wakes up, finds the connection over, and lets go.
    pub(crate) fn end(&self) {
        self.life.set(Life::Over);
        for leg in [&self.client, &self.server] {
            leg.give_up();
            leg.let_go_of_socket();
        }
        self.bell.ring();
    }

    // What comes from outside the two pumps.

    /// An event that no bytes caused. The session may close or read on.
    pub(crate) fn tell(self: &Rc<Conn>, event: Event) {
        let conn = self.clone();
        let must_close = matches!(event, Event::Kill | Event::Expired(_));
        io::spawn(async move {
            let mut nothing = Input::default();
            // Whoever parted spoke to the server: the client's bytes may have waited for it, and are shown again.
            let server = conn.alone || matches!(event, Event::Parted);
            let side = if server { Side::Server } else { Side::Client };
            if let Next::Wait { .. } = conn.drive(side, event, &mut nothing).await
                && must_close
            {
                Box::pin(conn.close(None)).await;
            }
        });
    }

    /// What the sweeper has to do about this connection now.
    pub(crate) fn due(&self, now_ms: u64, login_ms: u64, idle_ms: u64) -> Due {
        match self.life.get() {
            Life::Over => Due::Nothing,
            Life::Closing => Due::Nothing,
            Life::Lingering if now_ms >= self.until_ms.get() => Due::End,
            Life::Lingering => Due::Nothing,
            Life::Live if self.alone => {
                if now_ms.saturating_sub(self.born_ms) >= ALONE_MS {
                    Due::End
                } else {
                    Due::Nothing
                }
            }
            Life::Live if self.expired.get() => Due::Nothing,
            Life::Live => {
                let deadline = match self.phase.get() {
                    Phase::Login => (login_ms > 0 && now_ms.saturating_sub(self.born_ms) >= login_ms)
                        .then_some(Deadline::Login),
                    Phase::Idle => (idle_ms > 0 && now_ms.saturating_sub(self.active_ms.get()) >= idle_ms)
                        .then_some(Deadline::Idle),
                    Phase::Busy | Phase::Streaming | Phase::Over => None,
                };
                match deadline {
                    Some(deadline) => {
                        self.expired.set(true);
                        Due::Expire(deadline)
                    }
                    None => Due::Nothing,
                }
            }
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let session = self.session.take();
        if std::panic::catch_unwind(AssertUnwindSafe(|| drop(session))).is_err() {
            add(&self.worker.stats.panics, 1);
        }
        self.worker.delist(self.number, self.alone);
        if let Some(main) = self.beside.as_ref().and_then(Weak::upgrade) {
            main.accompanied.set(false);
            main.tell(Event::Parted);
        }
    }
}

/// Waits for the future, and tells whether it had to. Its outcome is found out again by reading.
fn slept<T>(mut future: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = bool> {
    let mut slept = false;
    std::future::poll_fn(move |cx| {
        let poll = future.as_mut().poll(cx);
        slept |= poll.is_pending();
        poll.map(|_| slept)
    })
}

pub(crate) enum Due {
    Nothing,
    Expire(Deadline),
    End,
}

/// One event's outcome and what it sent.
struct Shown {
    outcome: Result<Step, Fault>,
    taken: usize,
    /// To the side that spoke.
    back: Out,
    /// To the other side.
    on: Out,
    sent_back: Sent,
    sent_on: Sent,
}
