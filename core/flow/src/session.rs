//! The contract between a session and whoever drives it (the engine, a test, a fuzzer, a bench).
//!
//! The driver owns sockets, buffers, TLS and time; the session owns meaning. One event in, one [`Step`] out. The driver writes
//! what the event put into its [`Flow`] *before* it acts on the step.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::access::{ServerTls, Target};
use crate::flow::{Flow, Side};
use crate::link::{Answer, Ask};

/// One connection's protocol state machine.
pub trait Session {
    /// Something happened. For [`Event::Received`] the session takes what it can use from `flow`; what it leaves is shown again,
    /// in front of newer bytes, at the next event of that side.
    ///
    /// # Errors
    /// A [`Fault`] ends this connection (after what was sent in this event has been written) and no other.
    fn on(&mut self, event: Event, flow: &mut Flow<'_>) -> Result<Step, Fault>;

    /// Where the connection stands; asked after events, cheap.
    fn phase(&self) -> Phase;
}

/// Everything that can happen to a session. A closed list: a driver has no other way in.
#[derive(Debug)]
pub enum Event {
    /// The connection was accepted (or, for a session without a client, started).
    Opened,
    /// Bytes are in the flow. The speaker is the side that sent them.
    Received,
    /// The answer to [`Step::Dial`].
    Dialled(Result<(), DialError>),
    /// The handshake asked for by [`Step::StartTls`] is done.
    TlsStarted(Side, TlsFacts),
    /// The answer to [`Step::Ask`]. The flow's speaker is the side that was being read when the session asked, and its input is
    /// shown again.
    Answered(Answer),
    /// The session started by [`Step::Beside`] is over, however it ended. The speaker is the server.
    Parted,
    /// That side sent its end of stream, or its connection broke.
    Closed(Side),
    /// A deadline of the driver passed; the session says goodbye in its own words and closes.
    Expired(Deadline),
    /// The gateway is shutting down: close now when between statements, else after the running one.
    Drain,
    /// Somebody ended this session: close now.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    Login,
    Idle,
}

/// What a session wants next.
pub enum Step {
    /// Read on. `need` is how many bytes of the speaking side, counted from the first untaken one, the session must see together
    /// before it can go on; 0 when any will do.
    Read { need: usize },
    /// Connect to a target; at most one at a time.
    Dial(Arc<Target>),
    /// Begin TLS with that side. Nothing of that side's input may be left untaken, except that the client may have begun with the
    /// handshake itself (direct TLS): then all of it is left. Otherwise bytes that came before the handshake are a fault.
    StartTls(Side),
    /// Ask the side path. The side being read is not read again until the answer.
    Ask(Ask),
    /// Start this session beside the one that asks, without a client, and go on: what is untaken is shown again at once. One at a
    /// time; [`Event::Parted`] says when it is over. It outlives the one that asked, if it must.
    Beside(Box<dyn Session>),
    /// Write what is queued and close both sides. `then` goes on alone, without a client (a cancel request on its way).
    Close { then: Option<Box<dyn Session>> },
}

impl Step {
    pub const READ: Step = Step::Read { need: 0 };
    pub const CLOSE: Step = Step::Close { then: None };
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Read { need } => write!(f, "Read({need})"),
            Step::Dial(target) => write!(f, "Dial({target})"),
            Step::StartTls(side) => write!(f, "StartTls({side:?})"),
            Step::Ask(ask) => write!(f, "Ask({ask:?})"),
            Step::Beside(_) => write!(f, "Beside"),
            Step::Close { then } => write!(f, "Close(then: {})", then.is_some()),
        }
    }
}

/// What the driver may do with a connection at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not logged in yet: the login deadline counts.
    Login,
    /// Between statements: the idle deadline counts; draining closes now.
    Idle,
    /// A statement is under way.
    Busy,
    /// Rows are streaming to the client: letting bytes gather costs nobody latency.
    Streaming,
    /// Nothing more will be read.
    Over,
}

/// Time, given by the driver. Monotonic nanoseconds order and measure; Unix nanoseconds are for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono_ns: u64,
    pub unix_ns: u64,
}

/// What a finished handshake established.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// The application protocol agreed on, if any.
    pub alpn: Option<Vec<u8>>,
}

/// Who connected, and to what.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    pub listener: SocketAddr,
    /// TLS of the listener; `None`: it offers none.
    pub tls: Option<Arc<ServerTls>>,
}

/// Why a target could not be reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    #[error("cannot resolve {0}")]
    Resolve(String),
    #[error("{0}")]
    Connect(String),
    #[error("no answer within {0} ms")]
    TimedOut(u64),
    #[error("TLS: {0}")]
    Tls(String),
}

/// Why a session ended against its will, and whose fault it was. Never shown to a client as it is.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A peer broke the protocol.
    #[error("{side:?} broke the protocol: {what}")]
    Protocol { side: Side, what: &'static str },
    /// A peer wants more than a limit allows.
    #[error("{side:?} exceeds a limit: {what}")]
    Limit { side: Side, what: &'static str },
    /// Nothing may pass unrecorded, and the record cannot be written.
    #[error("the record is full or broken")]
    Unrecorded,
    /// We are wrong. The connection ends, the others live.
    #[error("bug: {0}")]
    Bug(&'static str),
}

/// What a listener serves: makes one [`Acceptor`] per worker, on that worker's thread.
pub trait Service: Send + Sync + 'static {
    fn worker(&self, worker: usize) -> Box<dyn Acceptor>;
}

/// A worker's own half of a service: caches and recorder live here, without locks.
pub trait Acceptor {
    fn accept(&mut self, peer: Peer) -> Box<dyn Session>;
}
