//! Drives a session without sockets: bytes in, bytes out, cut wherever the caller likes, time standing still unless moved.
//!
//! The rules are the engine's: untaken bytes are shown again in front of newer ones and when the other side moved, an event's output
//! is complete before its step is acted on, an answer is delivered before anything else is read from that side.

use crate::access::Target;
use crate::flow::{Flow, Out, Side};
use crate::link::{Answer, Ask};
use crate::session::{DialError, Event, Fault, Now, Phase, Session, Step, TlsFacts};
use std::sync::Arc;

/// A session under test and everything it did.
pub struct Drive {
    session: Box<dyn Session>,
    pending: [Vec<u8>; 2],
    need: [usize; 2],
    /// Bytes sent to each side since they were last taken out.
    sent: [Vec<u8>; 2],
    pub now: Now,
    /// Answers every [`Step::Ask`].
    pub desk: Box<dyn FnMut(&Ask) -> Answer>,
    pub dialled: Vec<Arc<Target>>,
    /// Set when the session closed: with the fault, if there was one.
    pub closed: Option<Option<Fault>>,
    pub followed_by: Option<Box<dyn Session>>,
    /// The session started beside this one, until it is taken out to be driven by itself; [`Drive::part`] when it is over.
    pub beside: Option<Box<dyn Session>>,
    accompanied: bool,
    /// Targets can be reached.
    reaches: bool,
    /// Sides whose TLS handshake the session asked for.
    pub tls: Vec<Side>,
    /// What [`Event::TlsStarted`] will say.
    pub alpn: Option<Vec<u8>>,
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

impl Drive {
    /// Starts `session` ([`Event::Opened`]).
    pub fn new(session: Box<dyn Session>) -> Drive {
        Drive::start(session, true)
    }

    /// The same where no target can be reached.
    pub fn nowhere(session: Box<dyn Session>) -> Drive {
        Drive::start(session, false)
    }

    fn start(session: Box<dyn Session>, reaches: bool) -> Drive {
        let mut drive = Drive {
            session,
            pending: [Vec::new(), Vec::new()],
            need: [0; 2],
            sent: [Vec::new(), Vec::new()],
            now: Now { mono_ns: 1_000_000_000, unix_ns: 1_700_000_000_000_000_000 },
            desk: Box::new(|_| Answer::Done),
            dialled: Vec::new(),
            closed: None,
            followed_by: None,
            beside: None,
            accompanied: false,
            reaches,
            tls: Vec::new(),
            alpn: None,
        };
        drive.event(Side::Client, Event::Opened);
        drive
    }

    pub fn phase(&self) -> Phase {
        self.session.phase()
    }

    /// Bytes arrive from `side`.
    pub fn feed(&mut self, side: Side, bytes: &[u8]) {
        if let Some(pending) = self.pending.get_mut(index(side)) {
            pending.extend_from_slice(bytes);
        }
        self.deliver(side);
        self.deliver(side.other());
    }

    /// The session beside this one is over.
    pub fn part(&mut self) {
        self.accompanied = false;
        self.on(Side::Server, Event::Parted);
        self.deliver(Side::Client);
    }

    /// An event other than bytes. What it leaves untaken of that side is shown again.
    pub fn event(&mut self, side: Side, event: Event) {
        self.on(side, event);
    }

    /// What was sent to `side` since the last call.
    pub fn take(&mut self, side: Side) -> Vec<u8> {
        self.sent.get_mut(index(side)).map(std::mem::take).unwrap_or_default()
    }

    fn pending(&self, side: Side) -> usize {
        self.pending.get(index(side)).map_or(0, Vec::len)
    }

    fn deliver(&mut self, side: Side) {
        let needed = self.need.get(index(side)).copied().unwrap_or(0);
        if self.pending(side) > 0 && self.pending(side) >= needed {
            self.on(side, Event::Received);
        }
    }

    fn on(&mut self, side: Side, event: Event) {
        if self.closed.is_some() {
            return;
        }
        let i = index(side);
        let input = self.pending.get_mut(i).map(std::mem::take).unwrap_or_default();
        let (mut back, mut on) = (Out::default(), Out::default());
        let mut flow = Flow::new(side, &input, &mut back, &mut on, self.now);
        let step = self.session.on(event, &mut flow);
        let taken = flow.taken();
        for (to, out) in [(side, &back), (side.other(), &on)] {
            if let Some(sent) = self.sent.get_mut(index(to)) {
                sent.extend_from_slice(out.bytes(&input));
            }
        }
        if let Some(pending) = self.pending.get_mut(i) {
            pending.extend_from_slice(input.get(taken..).unwrap_or_default());
        }
        if let Some(need) = self.need.get_mut(i) {
            *need = 0;
        }
        match step {
            Ok(Step::Read { need }) => {
                if let Some(n) = self.need.get_mut(i) {
                    *n = need;
                }
            }
            Ok(Step::Dial(target)) => {
                self.dialled.push(target);
                let refused = || DialError::Connect("nobody is there".to_owned());
                self.on(side, Event::Dialled(if self.reaches { Ok(()) } else { Err(refused()) }));
            }
            Ok(Step::StartTls(which)) => {
                self.tls.push(which);
                if taken == 0 {
                    // Direct TLS: what is left is the handshake itself, which a drive does not speak.
                    self.pending.get_mut(i).map(std::mem::take);
                } else {
                    debug_assert_eq!(self.pending(which), 0, "bytes before the handshake");
                }
                let facts = TlsFacts { alpn: self.alpn.clone() };
                self.on(which, Event::TlsStarted(which, facts));
            }
            Ok(Step::Ask(ask)) => {
                let answer = (self.desk)(&ask);
                self.on(side, Event::Answered(answer));
            }
            Ok(Step::Beside(_)) if self.accompanied => {
                self.closed = Some(Some(Fault::Bug("a second session beside this one")));
            }
            Ok(Step::Beside(session)) => {
                (self.beside, self.accompanied) = (Some(session), true);
                if self.pending(side) > 0 {
                    self.on(side, Event::Received);
                }
            }
            Ok(Step::Close { then }) => {
                self.followed_by = then;
                self.closed = Some(None);
            }
            Err(fault) => self.closed = Some(Some(fault)),
        }
    }
}
