//! Questions a worker has for the side path, and their answers. A worker never waits: the session that asked does.

use std::sync::Arc;

use crate::access::Connection;

/// A question for the side path.
#[derive(Clone)]
pub enum Ask {
    /// Derive the SCRAM keys of the connection's credential for this salt (PBKDF2: milliseconds, never on a worker). The result is
    /// kept in [`crate::access::Credential`].
    DeriveKeys { connection: Arc<Connection>, salt: Vec<u8>, iterations: u32 },
    /// Load the catalogue of `database` behind the connection, newer than `newer_than` (its version; 0: any).
    Catalogue { connection: Arc<Connection>, database: String, newer_than: u64 },
    /// [`Answer::Done`] after this many milliseconds: to look again for what nobody tells of (room in the record, a result that ends by
    /// itself).
    Pause { ms: u64 },
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ask::DeriveKeys { connection, .. } => write!(f, "DeriveKeys({})", connection.name),
            Ask::Catalogue { connection, database, .. } => {
                write!(f, "Catalogue({}/{database})", connection.name)
            }
            Ask::Pause { ms } => write!(f, "Pause({ms} ms)"),
        }
    }
}

/// What the side path says. The fruit itself is in the shared place the question named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Could not be done; the text is for the operator's log, not for the client.
    Failed(String),
}

/// Called once, from any thread, with the answer.
pub type Reply = Box<dyn FnOnce(Answer) + Send>;

/// The side path's front desk.
pub trait Desk: Send + Sync + 'static {
    /// Never blocks. When the desk is overrun it answers [`Answer::Failed`] at once.
    fn ask(&self, ask: Ask, reply: Reply);
}
