//! Cancel requests: who may cancel what, and a session that carries one to a target.
//!
//! A client never sees the target's cancel key. It gets the target's backend number (clients compare it with
//! `pg_backend_pid()`) and a random key of our own: 4 bytes in protocol 3.0, 32 in 3.2. The registry is shared by all workers, so
//! a cancel request may arrive anywhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use flow::access::Target;
use flow::{DialError, Event, Fault, Flow, Phase, Session, Side, Step};
use subtle::ConstantTimeEq;

use crate::target::ssl_request;

/// Where a running statement can be cancelled, and with what.
#[derive(Clone)]
pub(crate) struct Cancel {
    pub(crate) target: Arc<Target>,
    /// Backend number and secret as the target gave them.
    pub(crate) pid: [u8; 4],
    pub(crate) key: Vec<u8>,
}

/// Every session that can be cancelled, by the number its client was given.
#[derive(Default)]
pub(crate) struct Cancels {
    sessions: Mutex<HashMap<u32, Vec<Keyed>>>,
}

/// A session's cancel key as its client was given it, and what it stands for.
type Keyed = (Box<[u8]>, Cancel);

impl Cancels {
    pub(crate) fn register(&self, pid: u32, key: &[u8], cancel: Cancel) {
        if let Ok(mut sessions) = self.sessions.lock() {
            sessions.entry(pid).or_default().push((key.into(), cancel));
        }
    }

    pub(crate) fn forget(&self, pid: u32, key: &[u8]) {
        if let Ok(mut sessions) = self.sessions.lock()
            && let Some(entries) = sessions.get_mut(&pid)
        {
            entries.retain(|(k, _)| **k != *key);
            if entries.is_empty() {
                sessions.remove(&pid);
            }
        }
    }

    /// The session a request names, when its key is right in full; compared in constant time.
    pub(crate) fn find(&self, pid: u32, key: &[u8]) -> Option<Cancel> {
        let sessions = self.sessions.lock().ok()?;
        let entries = sessions.get(&pid)?;
        entries.iter().find(|(k, _)| bool::from(k.as_ref().ct_eq(key))).map(|(_, c)| c.clone())
    }
}

/// Carries one cancel request to its target and ends. PostgreSQL answers nothing and closes.
pub(crate) struct Courier {
    cancel: Cancel,
    over: bool,
}

impl Courier {
    pub(crate) fn new(cancel: Cancel) -> Courier {
        Courier { cancel, over: false }
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
        Step::CLOSE
    }
}

impl Session for Courier {
    fn on(&mut self, event: Event, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        Ok(match event {
            Event::Opened => Step::Dial(self.cancel.target.clone()),
            Event::Dialled(Ok(())) if self.cancel.target.tls.is_some() => {
                ssl_request(flow);
                Step::READ
            }
            Event::Dialled(Ok(())) | Event::TlsStarted(Side::Server, _) => {
                self.request(flow);
                Step::READ
            }
            Event::Received if flow.speaker() == Side::Server && self.cancel.target.tls.is_some() => {
                if flow.input() == b"S" {
                    flow.discard(1);
                    Step::StartTls(Side::Server)
                } else {
                    self.close()
                }
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
            | Event::Closed(Side::Server)
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
        let cancel = Cancel { target, pid: [0, 0, 0, 7], key: vec![1, 2, 3, 4] };
        cancels.register(7, b"right", cancel);
        assert!(cancels.find(7, b"right").is_some());
        for (pid, key) in [(7, &b"righ"[..]), (7, b""), (7, b"wrong"), (8, b"right")] {
            assert!(cancels.find(pid, key).is_none());
        }
        cancels.forget(7, b"right");
        assert!(cancels.find(7, b"right").is_none());
    }
}
