//! The event loop: keeps connections busy, in a closed or an open loop, and writes down what happened.
//!
//! Not a judge: it counts, `run.rs` divides. In an open loop a request's time runs from when it was *due*, not from when a connection
//! was free to send it; a stalled target is charged for everybody who would have waited (no coordinated omission).
//! Invariant: every request sent is in exactly one of answered, failed and unanswered, and those due are all sent or counted.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use crate::client::{Client, Dialer, Room};
use crate::interrupt;
use crate::target::Target;
use crate::workload::{Mode, Pace, Random, Stop, Workload};

/// Logins under way at once: more only fill the listen queue.
const LOGINS_AT_ONCE: usize = 64;
/// How long we wait for what is still unanswered when time is up.
const DRAIN: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// A login that takes longer is not going to happen.
const LOGIN_MAX: Duration = Duration::from_secs(60);
/// A server that says nothing for so long has lost our request.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const TIMER: Token = Token(usize::MAX);

/// When to measure, in nanoseconds after `origin`.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) origin: Instant,
    pub(crate) warm: u64,
    pub(crate) end: u64,
    /// At most so many requests.
    pub(crate) requests: u64,
}

impl Window {
    pub(crate) fn new(stop: Stop, origin: Instant) -> Window {
        match stop {
            Stop::After { warm, measured } => {
                let (warm, measured) = (nanos(warm), nanos(measured));
                Window { origin, warm, end: warm + measured, requests: u64::MAX }
            }
            Stop::Requests(requests) => Window { origin, warm: 0, end: u64::MAX, requests },
        }
    }
}

/// What one thread saw between the end of warming up and the end.
pub(crate) struct Tally {
    pub(crate) seconds: f64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Asked, or due, and not answered by the time we gave up; the time so far is among the latencies.
    pub(crate) unanswered: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Nanoseconds, of all answers without error.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) error: Option<String>,
    /// CPU time of this thread.
    pub(crate) own_ns: u64,
}

/// Running totals at a moment.
#[derive(Clone, Copy, Default)]
struct Mark {
    at: u64,
    answered: u64,
    failed: u64,
    rows: u64,
    bytes: u64,
    own_ns: u64,
}

enum Phase {
    Login,
    /// The statements, or an idle connection's only query.
    Prepare,
    Running,
}

struct Slot {
    client: Option<Client>,
    phase: Phase,
    /// When the requests under way were due, oldest first.
    due: VecDeque<u64>,
}

pub(crate) struct Driver<'a> {
    work: &'a Workload,
    dialer: Dialer<'a>,
    poll: Poll,
    timer: OwnedFd,
    slots: Vec<Slot>,
    room: Room,
    scratch: Vec<u8>,
    /// Of one turn and slot: whether each answer was an error. Kept for its memory.
    answers: Vec<bool>,
    random: Random,
    /// Slots that finished logging in.
    running: usize,
    window: Window,
    /// Requests per nanosecond; `None`: closed loop.
    rate: Option<f64>,
    /// This thread's share of the schedule starts so much later.
    offset: u64,
    /// Slots that may take a request of the schedule, one entry per request.
    free: VecDeque<usize>,
    asked: u64,
    under_way: u64,
    total: Mark,
    warm: Option<Mark>,
    end: Option<Mark>,
    latencies: Histogram<u64>,
    error: Option<String>,
}

impl<'a> Driver<'a> {
    /// `thread` of `work.threads`, with its share of the clients.
    pub(crate) fn new(target: &'a Target, work: &'a Workload, thread: usize) -> Result<Driver<'a>> {
        let clients = work.clients / work.threads + usize::from(thread < work.clients % work.threads);
        let (rate, offset) = match work.pace {
            Pace::Closed => (None, 0),
            Pace::Open(rate) => (
                Some(rate / work.threads as f64 / 1e9),
                (thread as f64 * 1e9 / rate) as u64, // so that threads do not ask at the same moments
            ),
        };
        let poll = Poll::new()?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let slot = || Slot { client: None, phase: Phase::Login, due: VecDeque::with_capacity(work.depth) };
        Ok(Driver {
            work,
            dialer: Dialer::new(target)?,
            poll,
            timer,
            slots: (0..clients).map(|_| slot()).collect(),
            room: Room::new(),
            scratch: Vec::new(),
            answers: Vec::new(),
            random: Random::new(thread as u64),
            running: 0,
            window: Window::new(Stop::Requests(0), Instant::now()),
            rate,
            offset,
            free: VecDeque::new(),
            asked: 0,
            under_way: 0,
            total: Mark::default(),
            warm: None,
            end: None,
            latencies: Histogram::new(3)?,
            error: None,
        })
    }

    /// Logs everybody in and prepares; churning clients log in later, that is their work.
    pub(crate) fn log_in(&mut self) -> Result<()> {
        if self.work.mode == Mode::Churn {
            return Ok(());
        }
        let mut events = Events::with_capacity(256);
        let mut dialed = 0;
        let began = Instant::now();
        while self.running < self.slots.len() {
            while dialed < self.slots.len() && dialed - self.running < LOGINS_AT_ONCE {
                self.dial(dialed)?;
                dialed += 1;
            }
            self.turn(&mut events, Duration::from_millis(100))
                .with_context(|| format!("after {} of {} logins", self.running, self.slots.len()))?;
            let late = began.elapsed() > LOGIN_MAX;
            anyhow::ensure!(!late, "{} of {} logins after a minute", self.running, self.slots.len());
        }
        Ok(())
    }

    /// Runs the workload through its window and says goodbye.
    pub(crate) fn run(mut self, window: Window) -> Result<Tally> {
        self.window = window;
        (self.total, self.warm, self.end) = (Mark::default(), None, None);
        let mut heard = (0, 0);
        let mut events = Events::with_capacity(256);
        for slot in 0..self.slots.len() {
            for _ in 0..self.work.depth {
                match self.rate {
                    Some(_) => self.free.push_back(slot),
                    None => self.ask_again(slot, self.now())?,
                }
            }
        }
        loop {
            let now = self.now();
            self.marks(now);
            self.dispatch(now)?;
            let all_asked = now >= window.end || self.asked >= window.requests;
            if all_asked && self.under_way == 0 && self.overdue() == 0 {
                break;
            }
            if now > window.end.saturating_add(nanos(DRAIN)) {
                break;
            }
            if heard.1 != self.total.bytes || self.under_way == 0 {
                heard = (now, self.total.bytes);
            }
            anyhow::ensure!(now - heard.0 < nanos(SILENCE_MAX), "nothing from the server for a minute");
            self.turn(&mut events, self.patience(now)?)?;
        }
        self.finish()
    }

    fn finish(mut self) -> Result<Tally> {
        let now = self.now();
        self.marks(now);
        let mut unanswered = 0;
        let unsent: Vec<u64> = (0..self.overdue()).filter_map(|n| self.due_at(self.asked + n)).collect();
        let sent = self.slots.iter().flat_map(|slot| slot.due.iter().copied());
        for due in sent.chain(unsent).filter(|due| (self.window.warm..self.window.end).contains(due)) {
            unanswered += 1;
            self.latencies.record(now.saturating_sub(due))?;
        }
        for slot in &mut self.slots {
            if let Some(client) = &mut slot.client {
                client.goodbye(&mut self.scratch);
            }
        }
        let end = self.end.unwrap_or_else(|| self.mark(now));
        let warm = self.warm.unwrap_or_default();
        Ok(Tally {
            seconds: (end.at - warm.at) as f64 / 1e9,
            answered: end.answered - warm.answered,
            failed: end.failed - warm.failed,
            unanswered,
            rows: end.rows - warm.rows,
            bytes: end.bytes - warm.bytes,
            latencies: self.latencies,
            error: self.error,
            own_ns: end.own_ns - warm.own_ns,
        })
    }

    /// Waits for sockets and serves those that are ready.
    fn turn(&mut self, events: &mut Events, patience: Duration) -> Result<()> {
        interrupt::check()?;
        match self.poll.poll(events, Some(patience)) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Ok(()),
            other => other.context("epoll")?,
        }
        let mut answers = std::mem::take(&mut self.answers);
        for event in events.iter().filter(|event| event.token() != TIMER) {
            let number = event.token().0;
            // A closed connection's last events may still be in the batch.
            let Some(slot) = self.slots.get_mut(number) else { continue };
            let Some(client) = &mut slot.client else { continue };
            let (rows, bytes) = (client.walker.rows, client.walker.bytes);
            client.ready(event, &self.dialer, &mut self.room, |failed| answers.push(failed))?;
            self.total.rows += client.walker.rows - rows;
            self.total.bytes += client.walker.bytes - bytes;
            if answers.is_empty() {
                continue;
            }
            let now = self.now();
            for failed in answers.drain(..) {
                self.answered(number, failed, now)?;
            }
            self.marks(now);
            self.dispatch(now)?;
        }
        self.answers = answers;
        Ok(())
    }

    fn answered(&mut self, number: usize, failed: bool, now: u64) -> Result<()> {
        let Some(slot) = self.slots.get_mut(number) else { return Ok(()) };
        let Some(client) = &mut slot.client else { return Ok(()) };
        if failed && self.error.is_none() {
            self.error.clone_from(&client.error);
        }
        match slot.phase {
            Phase::Login => {
                let (work, random) = (self.work, &mut self.random);
                match work.mode {
                    Mode::Churn => {
                        slot.phase = Phase::Running;
                        return client.send(&mut self.scratch, |out| work.request(random, out));
                    }
                    Mode::Idle => {
                        slot.phase = Phase::Prepare;
                        return client.send(&mut self.scratch, |out| work.request(random, out));
                    }
                    _ => {
                        let mut said = false;
                        client.send(&mut self.scratch, |out| said = work.prepare(out))?;
                        slot.phase = if said { Phase::Prepare } else { Phase::Running };
                        self.running += usize::from(!said);
                    }
                }
                Ok(())
            }
            Phase::Prepare => {
                let text = || client.error.clone().unwrap_or_default();
                anyhow::ensure!(!failed, "the statement fails: {}", text());
                slot.phase = Phase::Running;
                self.running += 1;
                Ok(())
            }
            Phase::Running => {
                let due = slot.due.pop_front().context("an answer nobody asked for")?;
                self.under_way -= 1;
                match failed {
                    true => self.total.failed += 1,
                    false => {
                        self.total.answered += 1;
                        if (self.window.warm..self.window.end).contains(&due) {
                            self.latencies.record(now.saturating_sub(due))?;
                        }
                    }
                }
                if self.work.mode == Mode::Churn
                    && let Some(mut done) = slot.client.take()
                {
                    done.goodbye(&mut self.scratch);
                }
                match self.rate {
                    Some(_) => self.free.push_back(number),
                    None => self.ask_again(number, now)?,
                }
                Ok(())
            }
        }
    }

    /// A closed loop's next request.
    fn ask_again(&mut self, number: usize, now: u64) -> Result<()> {
        if now >= self.window.end || self.asked >= self.window.requests {
            return Ok(());
        }
        self.ask(number, now)
    }

    /// An open loop's requests whose time has come, as far as connections are free.
    fn dispatch(&mut self, now: u64) -> Result<()> {
        if self.rate.is_none() {
            return Ok(());
        }
        while let Some(due) = self.due_at(self.asked).filter(|due| *due <= now) {
            let Some(number) = self.free.pop_front() else { return Ok(()) };
            self.ask(number, due)?;
        }
        Ok(())
    }

    fn ask(&mut self, number: usize, due: u64) -> Result<()> {
        if self.work.mode == Mode::Churn {
            self.dial(number)?;
        }
        let (work, random) = (self.work, &mut self.random);
        let slot = self.slots.get_mut(number).context("no such slot")?;
        slot.due.push_back(due);
        self.asked += 1;
        self.under_way += 1;
        match &mut slot.client {
            Some(client) if work.mode != Mode::Churn => {
                client.send(&mut self.scratch, |out| work.request(random, out))
            }
            // Its request follows the login.
            _ => Ok(()),
        }
    }

    fn dial(&mut self, number: usize) -> Result<()> {
        let client = self.dialer.dial(self.poll.registry(), Token(number)).context("connect")?;
        let slot = self.slots.get_mut(number).context("no such slot")?;
        slot.client = Some(client);
        slot.phase = Phase::Login;
        Ok(())
    }

    /// When the schedule wants request `n`; `None`: not within this window, or there is no schedule.
    fn due_at(&self, n: u64) -> Option<u64> {
        let due = (n as f64 / self.rate?) as u64 + self.offset;
        (due < self.window.end && n < self.window.requests).then_some(due)
    }

    /// How many requests the schedule wanted sent by the end and nobody could take.
    fn overdue(&self) -> u64 {
        let Some(rate) = self.rate.filter(|_| self.due_at(self.asked).is_some()) else { return 0 };
        let span = self.window.end.saturating_sub(self.offset);
        let due = ((span as f64 * rate).ceil() as u64).min(self.window.requests);
        due.saturating_sub(self.asked)
    }

    /// How long to sleep: until the next boundary of the window, or the next request due (by the finer timer).
    fn patience(&self, now: u64) -> Result<Duration> {
        if let Some(due) = self.due_at(self.asked).filter(|_| !self.free.is_empty()) {
            // Zero would disarm it.
            let wait = due.saturating_sub(self.now()).max(1);
            let value =
                Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 };
            let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let once = Itimerspec { it_interval: interval, it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        }
        let boundary = if now < self.window.warm { self.window.warm } else { self.window.end };
        let wait = boundary.saturating_sub(now).clamp(1_000_000, 100_000_000);
        Ok(Duration::from_nanos(wait))
    }

    fn marks(&mut self, now: u64) {
        if self.warm.is_none() && now >= self.window.warm {
            self.warm = Some(self.mark(now));
        }
        if self.end.is_none() && now >= self.window.end {
            self.end = Some(self.mark(now));
        }
    }

    fn mark(&self, at: u64) -> Mark {
        let own = clock_gettime(ClockId::ThreadCPUTime);
        Mark { at, own_ns: own.tv_sec as u64 * 1_000_000_000 + own.tv_nsec as u64, ..self.total }
    }

    fn now(&self) -> u64 {
        nanos(self.window.origin.elapsed())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::measure;
    use crate::wire::frame;
    use crate::workload::Statement;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    /// A server of one connection that stalls once, before it answers the query with this number.
    fn stalling(query: usize, stall: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            client.set_nodelay(true).expect("TCP");
            let mut out = Vec::new();
            frame(&mut out, b'R', |b| b.extend_from_slice(&[0; 4]));
            frame(&mut out, b'Z', |b| b.push(b'I'));
            message(&mut client, false);
            client.write_all(&out).expect("a client");
            out.clear();
            frame(&mut out, b'C', |b| b.extend_from_slice(b"SELECT 0\0"));
            frame(&mut out, b'Z', |b| b.push(b'I'));
            let mut queries = 0;
            while message(&mut client, true) == Some(b'Q') {
                if queries == query {
                    std::thread::sleep(stall);
                }
                queries += 1;
                client.write_all(&out).expect("a client");
            }
        });
        address
    }

    fn message(client: &mut TcpStream, tagged: bool) -> Option<u8> {
        let mut tag = [0];
        if tagged {
            client.read_exact(&mut tag).ok()?;
        }
        let mut length = [0; 4];
        client.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut body).ok()?;
        Some(tag[0])
    }

    fn under(pace: Pace, address: SocketAddr, seconds: f64) -> crate::report::Measured {
        let target = Target::from_url("t", &format!("postgres://u@{address}/d"), None).expect("valid");
        let stop = Stop::After { warm: Duration::ZERO, measured: Duration::from_secs_f64(seconds) };
        let mut work =
            Workload::new(Mode::Simple, vec![Statement::parse("select 1").expect("valid")], 1, stop);
        work.pace = pace;
        measure(&target, &work).expect("measured")
    }

    #[test]
    fn a_stall_is_charged_to_everybody_who_was_due() {
        let stall = Duration::from_millis(400);
        let open = under(Pace::Open(500.0), stalling(100, stall), 1.0);
        // 500 were due; of the 200 due during the stall, three quarters waited longer than 100 ms.
        assert_eq!(open.answered + open.unanswered, 500);
        let slow = open.latency.expect("answers").curve.iter().rev().find(|(_, us)| *us < 100_000.0).copied();
        let (quantile, _) = slow.expect("most were fast");
        assert!((0.5..0.8).contains(&quantile), "fast until {quantile}, 0.7 expected");
        // A closed loop does not ask while it waits, so it sees one slow answer: that is what the open loop is for.
        let closed = under(Pace::Closed, stalling(100, stall), 1.0);
        let latency = closed.latency.expect("answers");
        assert!(latency.max_us > 390_000.0 && latency.p99_us < 100_000.0, "{latency:?}");
    }

    #[test]
    fn what_is_still_unanswered_at_the_end_counts() {
        let open = under(Pace::Open(100.0), stalling(10, DRAIN + Duration::from_secs(30)), 0.5);
        assert_eq!((open.answered, open.unanswered), (10, 40));
        assert!(open.latency.expect("times so far").max_us > 1_900_000.0);
    }
}
