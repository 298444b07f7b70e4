//! Cancel requests: who may cancel what, and a session that carries one to a target.
//!
//! A client never sees the target's cancel key. It gets the target's backend number (clients compare it with
//! `pg_backend_pid()`) and a random key of our own: 4 bytes in protocol 3.0, 32 in 3.2. The registry is shared by all workers, so
//! a cancel request may arrive anywhere.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use flow::access::Target;
use flow::limits::{COURIERS_MAX, CUT_PATIENCE_MS};
use flow::record::{SessionId, What};
use flow::{Answer, Ask, DialError, Event, Fault, Flow, Phase, Session, Side, Step};
use subtle::ConstantTimeEq;

use crate::ready::Shared;
use crate::target::ssl_request;

/// Where a running statement can be cancelled, and with what.
#[derive(Clone)]
pub(crate) struct Cancel {
    pub(crate) target: Arc<Target>,
    /// Backend number and secret as the target gave them.
    pub(crate) pid: [u8; 4],
    pub(crate) key: Box<[u8]>,
}

/// A cancel key as we give it to a client: 4 bytes, or 32. Two are compared in constant time.
#[derive(Clone)]
pub(crate) struct Key {
    length: u8,
    bytes: [u8; 32],
}

impl Key {
    /// `None`: we give out none so long.
    pub(crate) fn read(bytes: &[u8]) -> Option<Key> {
        let mut key = Key { length: u8::try_from(bytes.len()).ok()?, bytes: [0; 32] };
        key.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(key)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        (self.length.ct_eq(&other.length) & self.bytes.ct_eq(&other.bytes)).into()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self);
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Every session that can be cancelled, by what its client was given: the number is a target's own, and two targets may give the same.
///
/// A request is looked up by a keyed hash of all of it and then compared in constant time: how long that takes tells nothing of a key
/// that is partly right.
#[derive(Default)]
pub(crate) struct Cancels {
    sessions: Mutex<HashMap<(u32, Key), Cancel>>,
}

impl Cancels {
    pub(crate) fn register(&self, pid: u32, key: Key, cancel: Cancel) {
        if let Ok(mut sessions) = self.sessions.lock() {
            sessions.insert((pid, key), cancel);
        }
    }

    pub(crate) fn forget(&self, pid: u32, key: &Key) {
        if let Ok(mut sessions) = self.sessions.lock() {
            sessions.remove(&(pid, key.clone()));
        }
    }

    /// The session a request names, when its key is right in full.
    pub(crate) fn find(&self, pid: u32, key: &Key) -> Option<Cancel> {
        self.sessions.lock().ok()?.get(&(pid, key.clone())).cloned()
    }
}

/// What a session and the courier beside it tell each other.
///
/// PostgreSQL signals the backend before it closes the connection that asked for it (`processCancelRequest`, postmaster.c), and a
/// backend that reads its next message ignores the signal (`ProcessInterrupts`, postgres.c). So a statement sent after that connection
/// closed is never the one that is cancelled.
pub(crate) struct Errand {
    pub(crate) shared: Rc<Shared>,
    pub(crate) session: SessionId,
    /// The statement whose result was cut and goes on. `None`: it ended by itself, and nothing may be sent any more.
    pub(crate) wanted: Cell<Option<u64>>,
    pub(crate) progress: Cell<Progress>,
}

/// How far a courier came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It can be called off.
    Waiting,
    /// What its request hits is known when it is over.
    Sent,
    /// The target closed after the request: whom it meant has it. The courier is over.
    Delivered,
    /// Over without that.
    Failed,
}

/// One of the connections a worker has for requests of its own.
struct Place(Rc<Shared>);

impl Place {
    fn find(shared: &Rc<Shared>) -> Option<Place> {
        let taken = shared.couriers.get();
        (taken < COURIERS_MAX).then(|| {
            shared.couriers.set(taken + 1);
            Place(shared.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.couriers.set(self.0.couriers.get().saturating_sub(1));
    }
}

/// Carries one cancel request to its target and ends. PostgreSQL answers nothing and closes.
pub(crate) struct Courier {
    cancel: Cancel,
    /// For a result that was cut; otherwise a client asked, or left.
    errand: Option<Rc<Errand>>,
    place: Option<Place>,
    /// How often it found all places taken.
    waits: u8,
    over: bool,
}

impl Courier {
    pub(crate) fn new(cancel: Cancel) -> Courier {
        Courier { cancel, errand: None, place: None, waits: 0, over: false }
    }

    /// For a session that goes on, and calls it off when it is not needed.
    pub(crate) fn beside(cancel: Cancel, errand: Rc<Errand>) -> Courier {
        Courier { cancel, errand: Some(errand), place: None, waits: 0, over: false }
    }

    fn is_called_off(&self) -> bool {
        self.errand.as_ref().is_some_and(|e| e.wanted.get().is_none())
    }

    /// The session had its patience: if it still wants to, the target is dialled as soon as a place is free. After two and a half seconds
    /// without one, or when nobody counts the milliseconds, the result is read away.
    fn set_out(&mut self, answer: &Answer) -> Step {
        if self.is_called_off() {
            return self.close();
        }
        self.place = self.errand.as_ref().and_then(|e| Place::find(&e.shared));
        if self.place.is_some() {
            return Step::Dial(self.cancel.target.clone());
        }
        match (answer, self.waits.checked_add(1)) {
            (Answer::Done, Some(waits)) => {
                self.waits = waits;
                Step::Ask(Ask::Pause { ms: CUT_PATIENCE_MS })
            }
            _ => self.close(),
        }
    }

    /// The target listens.
    fn arrived(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        if let Some(errand) = &self.errand {
            let Some(number) = errand.wanted.get() else { return Ok(self.close()) };
            let detail = format!("statement {number}: a cancel request was sent to the database");
            errand.shared.record(
                errand.session,
                flow.now(),
                What::Gateway { event: "row limit", detail: &detail },
            )?;
            errand.progress.set(Progress::Sent);
        }
        self.request(flow);
        Ok(Step::READ)
    }

    fn request(&self, flow: &mut Flow<'_>) {
        let out = flow.own(Side::Server);
        let length = u32::try_from(12 + self.cancel.key.len()).unwrap_or(16);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&80_877_102_u32.to_be_bytes());
        out.extend_from_slice(&self.cancel.pid);
        out.extend_from_slice(&self.cancel.key);
    }

    fn close(&mut self) -> Step {
        self.over = true;
        if let Some(errand) = self.errand.as_ref().filter(|e| e.progress.get() != Progress::Delivered) {
            errand.progress.set(Progress::Failed);
        }
        Step::CLOSE
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        // Ended from outside, or by a fault.
        self.close();
    }
}

impl Session for Courier {
    fn on(&mut self, event: Event, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        Ok(match event {
            Event::Opened if self.errand.is_some() => Step::Ask(Ask::Pause { ms: CUT_PATIENCE_MS }),
            Event::Opened => Step::Dial(self.cancel.target.clone()),
            // A desk that is overrun answers at once: so much less patience.
            Event::Answered(answer) if self.errand.is_some() && self.place.is_none() => self.set_out(&answer),
            Event::Dialled(Ok(())) if self.cancel.target.tls.is_some() => {
                ssl_request(flow);
                Step::READ
            }
            Event::Dialled(Ok(())) | Event::TlsStarted(Side::Server, _) => self.arrived(flow)?,
            Event::Received if flow.speaker() == Side::Server && self.cancel.target.tls.is_some() => {
                if flow.input() == b"S" {
                    flow.discard(1);
                    Step::StartTls(Side::Server)
                } else {
                    self.close()
                }
            }
            Event::Closed(Side::Server) => {
                if let Some(errand) = self.errand.as_ref().filter(|e| e.progress.get() == Progress::Sent) {
                    errand.progress.set(Progress::Delivered);
                }
                self.close()
            }
            // A client that asks for a cancel has nothing more to say.
            Event::Received => {
                flow.discard(flow.input().len());
                Step::READ
            }
            Event::Closed(Side::Client) => Step::READ,
            Event::Dialled(Err(
                DialError::Connect(_) | DialError::Resolve(_) | DialError::TimedOut(_) | DialError::Tls(_),
            ))
            | Event::TlsStarted(Side::Client, _)
            | Event::Answered(_)
            | Event::Parted
            | Event::Expired(_)
            | Event::Drain
            | Event::Kill => self.close(),
        })
    }

    fn phase(&self) -> Phase {
        if self.over { Phase::Over } else { Phase::Login }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_finds_a_session() {
        let cancels = Cancels::default();
        let target = Arc::new(Target {
            address: flow::access::Address::Tcp { host: "127.0.0.1".into(), port: 1 },
            tls: None,
            dial_ms: 1,
        });
        let cancel = |n| Cancel { target: target.clone(), pid: [0, 0, 0, 7], key: [n; 4].into() };
        let key = |bytes: &[u8]| Key::read(bytes).unwrap();
        cancels.register(7, key(b"right"), cancel(1));
        // Of another target, the same number.
        cancels.register(7, key(b"other"), cancel(2));
        assert_eq!(cancels.find(7, &key(b"right")).unwrap().key[0], 1);
        assert_eq!(cancels.find(7, &key(b"other")).unwrap().key[0], 2);
        for (pid, wrong) in [(7, &b"righ"[..]), (7, b""), (7, b"wrong"), (8, b"right"), (7, b"right\0")] {
            assert!(cancels.find(pid, &key(wrong)).is_none());
        }
        cancels.forget(7, &key(b"right"));
        assert!(cancels.find(7, &key(b"right")).is_none() && cancels.find(7, &key(b"other")).is_some());
        assert!(Key::read(&[0; 33]).is_none());
    }
}
