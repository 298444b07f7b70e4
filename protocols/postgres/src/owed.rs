//! Replies still owed by the server, in order: what makes pipelining, errors and our own insertions land at the right place.
//!
//! Every message the client sends that will be answered pushes one entry; every answer is matched against the front. What the
//! server skips after an error (everything up to the next Sync, `ignore_till_sync` in postgres.c) is taken out together.
//!
//! Invariant: the front entry is the message the server is answering now.

use std::collections::VecDeque;
use std::sync::Arc;

use flow::limits::OWED_MAX;
use flow::{Fault, Side};
use policy::{Block, Decision};

use crate::name::Name;
use crate::prepared::{Disturbs, Prepared};

/// One message's worth of replies.
pub(crate) enum Owed {
    Parse {
        name: Name,
        prepared: Prepared,
    },
    Bind {
        portal: Name,
        statement: Name,
        number: u64,
    },
    /// Describe made by the client: its answer is the client's.
    Describe,
    /// Describe made by us in front of an Execute: its answer becomes the plan and goes no further.
    OurDescribe,
    Execute {
        portal: Name,
        number: u64,
        /// Of every statement it can run, as far as was known when it was sent.
        disturbs: Disturbs,
        since: u64,
    },
    Close {
        kind: u8,
        name: Name,
    },
    Sync,
    /// CopyDone or CopyFail went by here; owes nothing.
    CopyEnd,
    Query {
        number: u64,
        decision: Option<Arc<Decision>>,
        disturbs: Disturbs,
        since: u64,
    },
    Function {
        number: u64,
        since: u64,
    },
    /// A stand-in: its error is replaced by this refusal. `own_sync`: it stands for a Query or FunctionCall and brings its own
    /// ReadyForQuery.
    Refused {
        number: u64,
        block: Box<Block>,
        own_sync: bool,
        answered: bool,
        since: u64,
    },
}

/// The queue, and what follows from errors.
#[derive(Default)]
pub(crate) struct Queue {
    owed: VecDeque<Owed>,
    /// An error was answered and no Sync follows yet: the server ignores everything until one comes.
    pub(crate) skipping: bool,
    /// The server reads COPY data and swallows Sync until CopyDone or CopyFail comes (`CopyGetData`, copyfromparse.c).
    pub(crate) absorbing: bool,
    /// Syncs taken out because a COPY swallows them; when the COPY failed before it read them, the server does answer them.
    stray_syncs: usize,
    /// How many entries are Parse: with none, no search for a pending statement is needed.
    parses: usize,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty() && !self.skipping
    }

    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    /// Front to back; from the back it is the order in which names were given last.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Owed> {
        self.owed.iter()
    }

    /// No statement is on its way to being prepared.
    pub(crate) fn prepares_nothing(&self) -> bool {
        self.parses == 0
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Owed> {
        self.owed.iter_mut()
    }

    /// The client sent something that will be answered. False: the server will ignore it.
    pub(crate) fn push(&mut self, owed: Owed) -> Result<bool, Fault> {
        if self.owed.len() >= OWED_MAX {
            return Err(Fault::Limit { side: Side::Client, what: "pipelined messages" });
        }
        match owed {
            Owed::Sync if self.absorbing => {
                self.stray_syncs += 1;
                return Ok(true);
            }
            Owed::Sync => self.skipping = false,
            Owed::CopyEnd => {
                self.absorbing = false;
                if self.owed.is_empty() {
                    return Ok(true);
                }
            }
            _ if self.skipping => return Ok(false),
            Owed::Parse { .. } => self.parses += 1,
            _ => {}
        }
        self.owed.push_back(owed);
        Ok(true)
    }

    /// What the server is answering now.
    pub(crate) fn front(&mut self) -> Option<&mut Owed> {
        while let Some(Owed::CopyEnd) = self.owed.front() {
            self.owed.pop_front();
        }
        self.owed.front_mut()
    }

    pub(crate) fn pop(&mut self) -> Option<Owed> {
        self.front();
        let popped = self.owed.pop_front();
        self.parses -= usize::from(matches!(popped, Some(Owed::Parse { .. })));
        if self.owed.is_empty() && self.owed.capacity() > 64 {
            self.owed.shrink_to(8);
        }
        popped
    }

    /// The server began to read COPY data for the front entry: in the extended protocol it swallows the Syncs that were sent
    /// before the end of the data.
    pub(crate) fn copy_in_begins(&mut self) {
        if !matches!(self.front(), Some(Owed::Execute { .. })) {
            return;
        }
        let end = self.owed.iter().position(|o| matches!(o, Owed::CopyEnd));
        self.absorbing = end.is_none();
        let end = end.unwrap_or(self.owed.len());
        let mut at = 0;
        let mut swallowed = 0;
        self.owed.retain(|o| {
            let take = at < end && matches!(o, Owed::Sync);
            at += 1;
            swallowed += usize::from(take);
            !take
        });
        self.stray_syncs += swallowed;
    }

    /// After an error in the extended protocol: takes out what the server skips, up to (not including) the next Sync.
    pub(crate) fn skip_to_sync(&mut self) -> Vec<Owed> {
        self.absorbing = false;
        let to = self.owed.iter().position(|o| matches!(o, Owed::Sync));
        self.skipping = to.is_none();
        let skipped: Vec<Owed> = self.owed.drain(..to.unwrap_or(self.owed.len())).collect();
        self.parses -= skipped.iter().filter(|o| matches!(o, Owed::Parse { .. })).count();
        skipped
    }

    /// ReadyForQuery with nothing in front that owes one: allowed only for a Sync a failed COPY did not swallow after all.
    pub(crate) fn stray_sync(&mut self) -> bool {
        if self.stray_syncs == 0 {
            return false;
        }
        self.stray_syncs -= 1;
        self.skipping = false;
        true
    }

    /// A Sync was answered in its turn: strays cannot come any more.
    pub(crate) fn settled(&mut self) {
        self.stray_syncs = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execute() -> Owed {
        Owed::Execute { portal: Name::new(b""), number: 1, disturbs: Disturbs::ALL, since: 0 }
    }

    #[test]
    fn an_error_takes_everything_up_to_sync() {
        let mut q = Queue::default();
        for o in [execute(), execute(), Owed::Sync, Owed::Sync] {
            q.push(o).unwrap();
        }
        q.pop();
        assert_eq!(q.skip_to_sync().len(), 1);
        assert!(matches!(q.pop(), Some(Owed::Sync)));
        assert!(!q.skipping);
        assert_eq!(q.len(), 1);
    }

    #[test]
    fn without_a_sync_in_sight_the_server_keeps_skipping() {
        let mut q = Queue::default();
        q.push(execute()).unwrap();
        q.pop();
        q.skip_to_sync();
        assert!(!q.push(execute()).unwrap(), "ignored by the server");
        assert!(q.push(Owed::Sync).unwrap());
        assert!(q.push(execute()).unwrap());
        assert_eq!(q.len(), 2);
    }

    #[test]
    fn copy_swallows_early_syncs() {
        let mut q = Queue::default();
        for o in [execute(), Owed::Sync] {
            q.push(o).unwrap();
        }
        q.copy_in_begins();
        q.push(Owed::Sync).unwrap();
        q.push(Owed::CopyEnd).unwrap();
        q.push(Owed::Sync).unwrap();
        assert!(matches!(q.pop(), Some(Owed::Execute { .. })));
        assert!(matches!(q.pop(), Some(Owed::Sync)));
        assert_eq!(q.len(), 0);
        assert!(q.stray_sync() && q.stray_sync() && !q.stray_sync());
    }
}
