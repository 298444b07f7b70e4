//! Replies still owed by the server, in order: what makes pipelining, errors and our own insertions land at the right place.
//!
//! Every message the client sends that will be answered pushes one entry; every answer is matched against the front. What the
//! server skips after an error (everything up to the next Sync, `ignore_till_sync` in postgres.c) is taken out together.
//!
//! Between two Syncs a message runs only when all before it succeeded: what a name was given since the last Sync is therefore the
//! only thing it can mean, and is found in one step ([`Queue::prepared`], [`Queue::bound`]). Only names from further back ask for a
//! search.
//!
//! Invariant: the front entry is the message the server is answering now.

use std::collections::VecDeque;
use std::sync::Arc;

use flow::limits::OWED_MAX;
use flow::{Fault, Side};
use policy::{Block, Decision};

use crate::name::{Name, Named};
use crate::prepared::{Disturbs, Prepared};

/// One message's worth of replies.
pub(crate) enum Owed {
    /// `ours`: the client prepared it earlier and we do so again: its answer goes no further.
    Parse {
        name: Name,
        prepared: Prepared,
        ours: bool,
    },
    Bind {
        portal: Name,
        statement: Name,
        number: u64,
        /// The statement it was recorded as an execution of: what its name would mean if all before it succeeds.
        of: u64,
        /// What it binds, whatever that turns out to be, was proved clean under the judgement of this stamp; 0: not proved.
        clean: u64,
        /// Of every statement it can bind, as far as was known when it was sent.
        disturbs: Disturbs,
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
    /// `ours`: in front of a Parse of ours.
    Close {
        kind: u8,
        name: Name,
        ours: bool,
    },
    Sync,
    /// CopyDone or CopyFail went by here; owes nothing. `over`: the COPY it ended is.
    CopyEnd {
        over: bool,
    },
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

/// Entries that give the same name.
#[derive(Clone, Copy)]
struct Pending {
    count: usize,
    last: u64,
}

/// What is on its way to being prepared under a name.
pub(crate) enum Preparing<'a> {
    Nothing,
    One(&'a Prepared),
    /// More than one; the last of them.
    Many(&'a Prepared),
}

/// No client that works does this.
const IN_COPY: Fault = Fault::Protocol {
    side: Side::Client,
    what: "only CopyData, CopyDone, CopyFail and Sync may follow a COPY FROM STDIN until it is over",
};

impl Owed {
    fn prepares(&self) -> bool {
        matches!(self, Owed::Parse { .. })
    }

    /// Its answer ends with ReadyForQuery.
    fn brings_ready(&self) -> bool {
        matches!(
            self,
            Owed::Sync | Owed::Query { .. } | Owed::Function { .. } | Owed::Refused { own_sync: true, .. }
        )
    }

    /// May give names to something else behind the protocol's back.
    fn disturbs(&self) -> bool {
        matches!(self, Owed::Query { disturbs, .. } | Owed::Execute { disturbs, .. } if disturbs.any())
    }
}

/// What is known of a portal on its way.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) number: u64,
    pub(crate) clean: u64,
    pub(crate) disturbs: Disturbs,
}

/// The queue, and what follows from errors.
#[derive(Default)]
pub(crate) struct Queue {
    owed: VecDeque<Owed>,
    /// How many entries were taken out so far: an entry's number for good is its place and this.
    gone: u64,
    /// Names given since the last Sync, by the number of the Parse or Bind that did it.
    statements: Named<u64>,
    portals: Named<u64>,
    /// Every entry that is Parse, by the name it gives: how many, and the number of the last.
    pending: Named<Pending>,
    /// An error was answered and no Sync follows yet: the server ignores everything until one comes.
    pub(crate) skipping: bool,
    /// The server reads COPY data for the front entry.
    reading: bool,
    /// It swallows Sync until CopyDone or CopyFail comes (`CopyGetData`, copyfromparse.c).
    absorbing: bool,
    /// Syncs taken out because a COPY swallows them; when the COPY failed before it read them, the server does answer them. Which it
    /// was is known at the next answer to anything else.
    stray_syncs: usize,
    /// How many entries are Parse: with none, no search for a pending statement is needed.
    parses: u32,
    /// How many entries are simple queries.
    queries: u32,
    /// How many entries may give names to something else behind the protocol's back.
    disturbing: u32,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty() && !self.skipping
    }

    pub(crate) fn len(&self) -> usize {
        self.owed.len()
    }

    /// There is no room to push anything without asking for memory.
    pub(crate) fn has_no_room(&self) -> bool {
        self.owed.capacity() == 0
    }

    /// Room to use until [`Queue::leave_room`].
    pub(crate) fn use_room(&mut self, room: VecDeque<Owed>) {
        if self.owed.is_empty() {
            self.owed = room;
        }
    }

    /// The room of a queue in which nothing is.
    pub(crate) fn leave_room(&mut self) -> Option<VecDeque<Owed>> {
        (self.owed.is_empty() && self.owed.capacity() > 0).then(|| std::mem::take(&mut self.owed))
    }

    /// Front to back; from the back it is the order in which names were given last.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Owed> {
        self.owed.iter()
    }

    /// No statement is on its way to being prepared.
    pub(crate) fn prepares_nothing(&self) -> bool {
        self.parses == 0
    }

    /// The last message sent brings ReadyForQuery.
    pub(crate) fn ends_with_ready(&self) -> bool {
        self.owed.back().is_some_and(Owed::brings_ready)
    }

    /// Nothing is sent behind the next ReadyForQuery.
    pub(crate) fn nothing_behind_ready(&self) -> bool {
        let last = self.owed.len().saturating_sub(1);
        self.stray_syncs == 0 && !self.owed.iter().take(last).any(Owed::brings_ready)
    }

    /// No simple query is on its way.
    pub(crate) fn queries_nothing(&self) -> bool {
        self.queries == 0
    }

    /// How many statements are on their way to being prepared under this name.
    pub(crate) fn preparing_count(&self, name: &[u8]) -> usize {
        self.pending.get(name).map_or(0, |p| p.count)
    }

    /// Nothing is on its way that may give names to something else behind the protocol's back.
    pub(crate) fn disturbs_nothing(&self) -> bool {
        self.disturbing == 0
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Owed> {
        self.owed.iter_mut()
    }

    /// The statement of this name was prepared since the last Sync: by this entry, or (`Some(None)`) by one that was answered.
    pub(crate) fn prepared(&self, name: &[u8]) -> Option<Option<&Prepared>> {
        Some(match self.at(*self.statements.get(name)?) {
            Some(Owed::Parse { prepared, .. }) => Some(prepared),
            _ => None,
        })
    }

    /// What is on its way to being prepared under this name, since whatever Sync.
    pub(crate) fn preparing(&self, name: &[u8]) -> Preparing<'_> {
        let pending = if self.parses == 0 { None } else { self.pending.get(name) };
        match pending.map(|p| (p.count, self.at(p.last))) {
            Some((1, Some(Owed::Parse { prepared, .. }))) => Preparing::One(prepared),
            Some((_, Some(Owed::Parse { prepared, .. }))) => Preparing::Many(prepared),
            _ => Preparing::Nothing,
        }
    }

    /// This is not owed any more.
    fn left(&mut self, owed: &Owed) {
        self.parses -= u32::from(owed.prepares());
        self.queries -= u32::from(matches!(owed, Owed::Query { .. }));
        self.disturbing -= u32::from(owed.disturbs());
        let Owed::Parse { name, .. } = owed else { return };
        match self.pending.get_mut(name) {
            Some(pending) if pending.count > 1 => pending.count -= 1,
            _ => drop(self.pending.remove(name)),
        }
    }

    /// The portal of this name was made since the last Sync, likewise.
    pub(crate) fn bound(&self, name: &[u8]) -> Option<Option<Bound>> {
        Some(match self.at(*self.portals.get(name)?) {
            Some(Owed::Bind { number, clean, disturbs, .. }) => {
                Some(Bound { number: *number, clean: *clean, disturbs: *disturbs })
            }
            _ => None,
        })
    }

    fn at(&self, number: u64) -> Option<&Owed> {
        self.owed.get(usize::try_from(number.checked_sub(self.gone)?).ok()?)
    }

    /// What names were given since is not certain any more.
    fn forget_names(&mut self) {
        self.statements.clear();
        self.portals.clear();
    }

    /// The client sent something that will be answered. False: the server will ignore it.
    pub(crate) fn push(&mut self, owed: Owed) -> Result<bool, Fault> {
        if self.owed.len() >= OWED_MAX {
            return Err(Fault::Limit { side: Side::Client, what: "pipelined messages" });
        }
        if matches!(owed, Owed::Sync) {
            self.forget_names();
        }
        let number = self.gone + self.owed.len() as u64;
        match &owed {
            Owed::Sync if self.absorbing => {
                self.stray_syncs += 1;
                return Ok(true);
            }
            Owed::Sync => self.skipping = false,
            Owed::CopyEnd { .. } => {
                self.absorbing = false;
                if self.owed.is_empty() {
                    return Ok(true);
                }
            }
            // The server ends such a connection, unless the COPY failed before it read on; then it would run it, or skip it.
            _ if self.absorbing || (self.skipping && self.stray_syncs > 0) => return Err(IN_COPY),
            _ if self.skipping => return Ok(false),
            Owed::Parse { name, .. } => {
                self.statements.insert(name.clone(), number);
                let count = self.pending.get(name).map_or(0, |p| p.count) + 1;
                self.pending.insert(name.clone(), Pending { count, last: number });
            }
            Owed::Bind { portal, .. } => drop(self.portals.insert(portal.clone(), number)),
            Owed::Close { kind: b'S', name, .. } => drop(self.statements.remove(name)),
            Owed::Close { name, .. } => drop(self.portals.remove(name)),
            // They fail without making the server skip what follows.
            Owed::Query { .. } | Owed::Function { .. } | Owed::Refused { own_sync: true, .. } => {
                self.forget_names();
            }
            _ => {}
        }
        self.parses += u32::from(owed.prepares());
        self.queries += u32::from(matches!(owed, Owed::Query { .. }));
        self.disturbing += u32::from(owed.disturbs());
        self.owed.push_back(owed);
        Ok(true)
    }

    /// What the server is answering now.
    pub(crate) fn front(&mut self) -> Option<&mut Owed> {
        while let Some(Owed::CopyEnd { .. }) = self.owed.front() {
            self.owed.pop_front();
            self.gone += 1;
        }
        self.owed.front_mut()
    }

    pub(crate) fn pop(&mut self) -> Option<Owed> {
        self.front();
        let popped = self.owed.pop_front()?;
        self.gone += 1;
        self.left(&popped);
        Some(popped)
    }

    /// The server began to read COPY data for the front entry: it swallows the Syncs that were sent before the end of the data, whatever
    /// the protocol, and ends the connection at anything else.
    pub(crate) fn copy_in_begins(&mut self) -> Result<(), Fault> {
        self.front();
        let end = self.owed.iter().position(|o| matches!(o, Owed::CopyEnd { over: false }));
        self.reading = true;
        self.absorbing = end.is_none();
        let end = end.unwrap_or(self.owed.len());
        let between = self.owed.iter().take(end).skip(1);
        if !between.clone().all(|o| matches!(o, Owed::Sync | Owed::CopyEnd { .. })) {
            return Err(IN_COPY);
        }
        if between.count() == 0 {
            return Ok(());
        }
        let mut at = 0;
        let mut swallowed = 0;
        self.owed.retain(|o| {
            let take = at < end && matches!(o, Owed::Sync);
            at += 1;
            swallowed += usize::from(take);
            !take
        });
        self.stray_syncs += swallowed;
        // Places changed.
        self.forget_names();
        self.pending.clear();
        for (number, owed) in (self.gone..).zip(&self.owed) {
            if let Owed::Parse { name, .. } = owed {
                let count = self.pending.get(name).map_or(0, |p| p.count) + 1;
                self.pending.insert(name.clone(), Pending { count, last: number });
            }
        }
        Ok(())
    }

    /// Something was answered that is no ReadyForQuery and no error: the COPY before it is over and well, or was another entry's.
    pub(crate) fn answered(&mut self) {
        self.stray_syncs = 0;
    }

    /// The COPY for which the server read data, if it did, has its CommandComplete.
    pub(crate) fn copy_in_ended(&mut self) {
        if !std::mem::take(&mut self.reading) {
            return;
        }
        // A simple query may hold another.
        let ended = self.owed.iter_mut().find(|o| matches!(o, Owed::CopyEnd { over: false }));
        if let Some(Owed::CopyEnd { over }) = ended {
            *over = true;
        }
    }

    /// The front entry failed.
    pub(crate) fn failed(&mut self) {
        self.absorbing = false;
        if !std::mem::take(&mut self.reading) {
            self.stray_syncs = 0;
        }
    }

    /// After an error in the extended protocol: takes out what the server skips, up to (not including) the next Sync.
    ///
    /// An error of a COPY that may or may not have swallowed a Sync leaves open what the server skips.
    pub(crate) fn skip_to_sync(&mut self) -> Result<Vec<Owed>, Fault> {
        let to = self.owed.iter().position(|o| matches!(o, Owed::Sync));
        self.skipping = to.is_none();
        let skipped: Vec<Owed> = self.owed.drain(..to.unwrap_or(self.owed.len())).collect();
        self.gone += skipped.len() as u64;
        skipped.iter().for_each(|o| self.left(o));
        if self.stray_syncs > 0 && !skipped.iter().skip(1).all(|o| matches!(o, Owed::CopyEnd { .. })) {
            return Err(IN_COPY);
        }
        Ok(skipped)
    }

    /// ReadyForQuery with nothing in front that owes one now: allowed only for a Sync a failed COPY did not swallow after all.
    pub(crate) fn stray_sync(&mut self) -> bool {
        if self.stray_syncs == 0 {
            return false;
        }
        self.stray_syncs -= 1;
        self.skipping = false;
        true
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
        assert_eq!(q.skip_to_sync().unwrap().len(), 1);
        assert!(matches!(q.pop(), Some(Owed::Sync)));
        assert!(!q.skipping);
        assert_eq!(q.len(), 1);
    }

    #[test]
    fn without_a_sync_in_sight_the_server_keeps_skipping() {
        let mut q = Queue::default();
        q.push(execute()).unwrap();
        q.pop();
        q.skip_to_sync().unwrap();
        assert!(!q.push(execute()).unwrap(), "ignored by the server");
        assert!(q.push(Owed::Sync).unwrap());
        assert!(q.push(execute()).unwrap());
        assert_eq!(q.len(), 2);
    }

    fn bind(portal: &[u8], number: u64) -> Owed {
        let disturbs = Disturbs::default();
        Owed::Bind {
            portal: Name::new(portal),
            statement: Name::new(b"s"),
            number,
            of: 0,
            clean: 1,
            disturbs,
        }
    }

    #[test]
    fn a_name_given_since_the_last_sync_is_certain_and_others_are_not() {
        let mut q = Queue::default();
        let number = |q: &Queue, name: &[u8]| q.bound(name).map(|b| b.map(|b| b.number));
        for o in [bind(b"", 1), bind(b"p", 2), bind(b"", 3)] {
            q.push(o).unwrap();
        }
        assert_eq!(
            (number(&q, b""), number(&q, b"p"), number(&q, b"q")),
            (Some(Some(3)), Some(Some(2)), None)
        );
        q.pop();
        q.pop();
        assert_eq!((number(&q, b""), number(&q, b"p")), (Some(Some(3)), Some(None)), "p was answered");
        q.push(Owed::Close { kind: b'P', name: Name::new(b"p"), ours: false }).unwrap();
        assert_eq!(number(&q, b"p"), None);
        q.push(Owed::Sync).unwrap();
        assert_eq!(number(&q, b""), None);
        // An error: what is behind the Sync moves up and is found all the same.
        q.push(bind(b"", 4)).unwrap();
        q.skip_to_sync().unwrap();
        assert_eq!(number(&q, b""), Some(Some(4)));
        assert!(q.disturbs_nothing());
        q.push(execute()).unwrap();
        assert!(!q.disturbs_nothing());
        q.push(Owed::Query { number: 5, decision: None, disturbs: Disturbs::ALL, since: 0 }).unwrap();
        assert_eq!(number(&q, b""), None, "a Query may fail and what follows still runs");
        while q.pop().is_some() {}
        assert!(q.disturbs_nothing() && q.prepares_nothing());
    }

    #[test]
    fn what_is_behind_a_ready_for_query_is_seen() {
        let query = || Owed::Query { number: 5, decision: None, disturbs: Disturbs::ALL, since: 0 };
        let is = |owed: Vec<Owed>| {
            let mut q = Queue::default();
            for o in owed {
                q.push(o).unwrap();
            }
            (q.nothing_behind_ready(), q.ends_with_ready())
        };
        assert_eq!(is(vec![query()]), (true, true));
        assert_eq!(is(vec![execute()]), (true, false));
        assert_eq!(is(vec![execute(), bind(b"", 1), Owed::Sync]), (true, true));
        assert_eq!(is(vec![query(), query()]), (false, true));
        assert_eq!(is(vec![execute(), Owed::Sync, bind(b"", 1)]), (false, false));
        let mut swallowed = Queue::default();
        for o in [execute(), Owed::Sync] {
            swallowed.push(o).unwrap();
        }
        swallowed.copy_in_begins().unwrap();
        assert!(!swallowed.nothing_behind_ready(), "a Sync that may come back");
    }

    #[test]
    fn copy_swallows_early_syncs() {
        let mut q = Queue::default();
        for o in [execute(), Owed::Sync] {
            q.push(o).unwrap();
        }
        q.copy_in_begins().unwrap();
        q.push(Owed::Sync).unwrap();
        q.push(Owed::CopyEnd { over: false }).unwrap();
        q.push(Owed::Sync).unwrap();
        // It fails: whether it had read them is open.
        q.failed();
        assert_eq!(q.skip_to_sync().unwrap().len(), 2);
        assert!(matches!(q.pop(), Some(Owed::Sync)));
        assert_eq!(q.len(), 0);
        assert!(q.stray_sync() && q.stray_sync() && !q.stray_sync());
    }

    #[test]
    fn a_copy_that_went_well_swallowed_all_and_the_next_of_its_text_has_an_end_of_its_own() {
        let query = || Owed::Query { number: 5, decision: None, disturbs: Disturbs::ALL, since: 0 };
        let mut q = Queue::default();
        for o in [query(), Owed::Sync, Owed::CopyEnd { over: false }, Owed::Sync] {
            q.push(o).unwrap();
        }
        q.copy_in_begins().unwrap();
        q.answered();
        q.copy_in_ended();
        assert!(!q.stray_sync());
        // The second COPY reads the other Sync, and waits for its data.
        q.copy_in_begins().unwrap();
        assert!(q.absorbing && q.push(query()).is_err());
        q.push(Owed::CopyEnd { over: false }).unwrap();
        q.push(query()).unwrap();
        q.answered();
        q.copy_in_ended();
        q.pop();
        assert!(matches!(q.front(), Some(Owed::Query { .. })) && q.len() == 1);
    }

    #[test]
    fn nothing_but_data_follows_a_copy_that_reads() {
        let begins = |behind: Vec<Owed>| {
            let mut q = Queue::default();
            for o in std::iter::once(execute()).chain(behind) {
                q.push(o).unwrap();
            }
            q.copy_in_begins().map(|()| q)
        };
        assert!(
            begins(vec![Owed::Sync, execute()]).is_err(),
            "the server would end the connection, or run it"
        );
        assert!(begins(vec![execute()]).is_err());
        assert!(begins(vec![Owed::Sync, Owed::CopyEnd { over: false }, execute()]).is_ok());
        // It failed before it read the Sync: what is behind it runs, and is not skipped.
        let mut q = begins(vec![Owed::Sync, Owed::CopyEnd { over: false }, execute(), Owed::Sync]).unwrap();
        q.failed();
        assert!(q.skip_to_sync().is_err());
        let mut q = begins(vec![Owed::Sync]).unwrap();
        q.failed();
        assert_eq!(q.skip_to_sync().unwrap().len(), 1);
        assert!(q.push(execute()).is_err(), "skipped or not");
        assert!(q.push(Owed::Sync).unwrap() && q.push(execute()).unwrap());
        assert!(q.stray_sync());
    }
}
