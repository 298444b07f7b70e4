//! Reading the record back: every entry in order, while the gateway writes or after it died; checking the chain; sessions.
//!
//! Read-only and without locks: it never disturbs a writer. The log's segments come first, in the order of their sequence
//! numbers; behind them what still lies in the rings ([`Recorded::pending`]), in the order of time, numbered on provisionally.
//!
//! Invariant: everything whose `append` had returned before [`Reader::open`] is seen, once. The rings are looked at before the
//! segments are listed, so what left a ring meanwhile is in a segment; what is in both is known by ring and position.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flow::record::{Entry, How, Malformed, SessionId, Verdict, What};

use super::ring::{Origin, Piece, Spool};
use super::segment::{self, Batch, SegmentReader, Stop};
use super::{Places, spools};
use crate::ids;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no record in {}", .0.display())]
    None(PathBuf),
    #[error("read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// What follows in this segment cannot be read.
    #[error("entry {seq}: segment {} at byte {offset}: {what}", path.display())]
    Damaged { seq: u64, path: PathBuf, offset: u64, what: String },
    #[error("no session {0:?}")]
    NoSession(String),
    #[error("{0:?} is the end of several sessions' ids; give more of it")]
    Ambiguous(String),
}

/// One entry of the record, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its place in the record. Provisional while `pending`.
    pub seq: u64,
    /// Recorded, and not in the log yet.
    pub pending: bool,
    bytes: Box<[u8]>,
}

impl Recorded {
    /// # Errors
    /// Bytes whose checksum holds and that are no entry of this version.
    pub fn entry(&self) -> Result<Entry<'_>, Malformed> {
        Entry::decode(&self.bytes)
    }
}

/// Walks the record below a state directory.
pub struct Reader {
    segments: VecDeque<PathBuf>,
    current: Option<(PathBuf, SegmentReader)>,
    /// The rest of the batch that was read last.
    waiting: VecDeque<Recorded>,
    /// What the rings held, until it is known what of it is in the log.
    rings: Vec<(Origin, u64, Box<[u8]>)>,
    pending: VecDeque<Box<[u8]>>,
    /// How far each ring is drained, by the log's word.
    drained: HashMap<Origin, u64>,
    next: u64,
}

impl Reader {
    /// # Errors
    /// [`ReadError::None`] when there is no record.
    pub fn open(state: &Path) -> Result<Reader, ReadError> {
        let places = Places::new(state);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ReadError::Io { path, source }
        };
        let mut rings = Vec::new();
        for path in spools(&places.spool).map_err(failed(&places.spool))? {
            let spool = match Spool::read(&path) {
                Ok(Some(spool)) => spool,
                // Removed since it was listed: drained, so in a segment. Damaged: the next start says so.
                Ok(None) => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(&path)(e)),
            };
            for piece in spool.walk() {
                // Torn here is what the writer reused while we looked: it is drained.
                if let Piece::Frame { position, entry, .. } = piece {
                    rings.push((spool.origin, position, entry.into()));
                }
            }
        }
        let segments = match segment::list(&places.log) {
            Ok(segments) => segments.into_iter().map(|(_, path)| path).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::None(places.record));
            }
            Err(e) => return Err(failed(&places.log)(e)),
        };
        Ok(Reader {
            segments,
            current: None,
            waiting: VecDeque::new(),
            rings,
            pending: VecDeque::new(),
            drained: HashMap::new(),
            next: 1,
        })
    }

    fn advance(&mut self) -> Option<Result<Recorded, ReadError>> {
        loop {
            if let Some(recorded) = self.waiting.pop_front() {
                self.next = recorded.seq + 1;
                return Some(Ok(recorded));
            } else if let Some((path, reader)) = &mut self.current {
                let offset = reader.offset;
                let stop = match reader.next() {
                    Ok(Some(batch)) if accept(&batch, &mut self.waiting, &mut self.drained) => continue,
                    Ok(Some(_)) => {
                        let what = Stop::Damaged("a batch is not made of frames");
                        let path = path.clone();
                        // Its end is known: what follows can be read.
                        return Some(Err(self.damaged(what, path, offset)));
                    }
                    Ok(None) => None,
                    Err(stop) => Some((stop, path.clone())),
                };
                self.current = None;
                // The writer is in the middle of a batch, or died there: what it says is still in its ring.
                if let Some((stop, path)) = stop
                    && !(self.segments.is_empty() && matches!(stop, Stop::Short))
                {
                    return Some(Err(self.damaged(stop, path, offset)));
                }
            } else if let Some(path) = self.segments.pop_front() {
                match SegmentReader::open(&path) {
                    Ok(reader) => self.current = Some((path, reader)),
                    Err(Stop::Short) if self.segments.is_empty() => {}
                    Err(stop) => return Some(Err(self.damaged(stop, path, 0))),
                }
            } else {
                self.settle();
                let bytes = self.pending.pop_front()?;
                let seq = self.next;
                self.next += 1;
                return Some(Ok(Recorded { seq, pending: true, bytes }));
            }
        }
    }

    fn damaged(&self, stop: Stop, path: PathBuf, offset: u64) -> ReadError {
        match stop {
            Stop::Io(source) => ReadError::Io { path, source },
            stop => ReadError::Damaged { seq: self.next, path, offset, what: stop.to_string() },
        }
    }

    /// Once: what the rings held and the log does not, by time, each ring's own order kept.
    fn settle(&mut self) {
        let mut latest: HashMap<Origin, u64> = HashMap::new();
        let mut left = Vec::new();
        for (origin, position, bytes) in std::mem::take(&mut self.rings) {
            if self.drained.get(&origin).is_none_or(|d| position > *d) {
                let time = latest.entry(origin).or_default();
                *time = Entry::decode(&bytes).map_or(*time, |e| e.unix_ns.max(*time));
                left.push((*time, bytes));
            }
        }
        left.sort_by_key(|(time, _)| *time);
        self.pending.extend(left.into_iter().map(|(_, bytes)| bytes));
    }
}

/// Takes the frames of a batch apart; false: it is not made of frames.
fn accept(batch: &Batch, waiting: &mut VecDeque<Recorded>, drained: &mut HashMap<Origin, u64>) -> bool {
    let Some(frames) = batch.frames() else { return false };
    if let Some((position, _)) = frames.last() {
        drained.insert(batch.origin, *position);
    }
    let numbered = frames.into_iter().zip(batch.first..);
    waiting.extend(numbered.map(|((_, entry), seq)| Recorded { seq, pending: false, bytes: entry.into() }));
    true
}

impl Iterator for Reader {
    type Item = Result<Recorded, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance()
    }
}

// ---------------------------------------------------------------------------------------------------------------- verify

/// A log whose chain holds from its first entry to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub segments: u64,
    /// Sequence numbers; both 0 when there is no entry.
    pub first: u64,
    pub last: u64,
    /// The chain field behind the last entry: keep it elsewhere, and nobody can shorten the log unseen.
    pub chain: [u8; 32],
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the record is not sound from entry {seq} on: segment {} at byte {offset}: {what}", path.display())]
    Broken {
        /// The first entry that cannot be trusted: the first of a batch, entries being chained by what went into the log together.
        seq: u64,
        path: PathBuf,
        offset: u64,
        what: String,
    },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Walks the chain. What lies in the rings is not part of it yet.
///
/// It finds every change and every removal except at the very end: a log that was cut between two batches is a shorter log. That
/// takes a chain field kept elsewhere ([`Verified::chain`]), or sealing.
///
/// # Errors
/// [`VerifyError::Broken`] names the first bad entry.
pub fn verify(state: &Path) -> Result<Verified, VerifyError> {
    let places = Places::new(state);
    let segments = match segment::list(&places.log) {
        Ok(segments) => segments,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(ReadError::None(places.record).into());
        }
        Err(source) => return Err(ReadError::Io { path: places.log, source }.into()),
    };
    let count = segments.len();
    let mut walk = Chained { next: 1, chain: [0; 32], first: 0, number: 0 };
    for (n, (number, path)) in segments.into_iter().enumerate() {
        let last = n + 1 == count;
        let mut tries = 0;
        while let Err((offset, stop)) = walk.segment(number, &path, n == 0) {
            // The writer is in the middle of a batch, unless that is still so a little later.
            if last && tries < 5 && matches!(stop, Stop::Short) {
                tries += 1;
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            return Err(match stop {
                Stop::Io(source) => ReadError::Io { path, source }.into(),
                stop => VerifyError::Broken { seq: walk.next, path, offset, what: stop.to_string() },
            });
        }
    }
    let last = if walk.first == 0 { 0 } else { walk.next - 1 };
    Ok(Verified { segments: count as u64, first: walk.first, last, chain: walk.chain })
}

struct Chained {
    next: u64,
    chain: segment::Chain,
    first: u64,
    number: u64,
}

impl Chained {
    /// Walks one segment; what of it was walked before (an earlier try) is passed over.
    fn segment(&mut self, number: u64, path: &Path, first: bool) -> Result<(), (u64, Stop)> {
        let mut reader = SegmentReader::open(path).map_err(|stop| (0, stop))?;
        let header = &reader.header;
        let again = self.number == number;
        if !again {
            // The oldest segments may have been removed at the end of their time: then the first one left says where it begins.
            if first && number > 1 {
                (self.next, self.chain) = (header.first, header.chain);
            } else if first {
                self.number = 0;
            }
            let expected = if first { number } else { self.number + 1 };
            if number != expected || header.number != number {
                return Err((0, Stop::Damaged("a segment is missing or not the one its name says")));
            }
            if (header.first, header.chain) != (self.next, self.chain) {
                return Err((0, Stop::Damaged("the segment does not continue the one before it")));
            }
            self.number = number;
        }
        loop {
            let at = reader.offset;
            let Some(batch) = reader.next().map_err(|stop| (at, stop))? else { return Ok(()) };
            if again && batch.first < self.next {
                continue;
            }
            if batch.first != self.next {
                return Err((at, Stop::Damaged("an entry is missing")));
            }
            if batch.chain != batch.expected_chain(&self.chain) {
                return Err((at, Stop::Damaged("the chain is broken")));
            }
            if batch.count == 0 || batch.frames().is_none() {
                return Err((at, Stop::Damaged("a batch is not made of frames")));
            }
            if self.first == 0 {
                self.first = batch.first;
            }
            self.next = batch.first + u64::from(batch.count);
            self.chain = batch.chain;
        }
    }
}

// -------------------------------------------------------------------------------------------------------------- sessions

/// One session, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLine {
    /// ULID.
    pub id: String,
    pub identity: String,
    pub groups: String,
    pub connection: String,
    pub database: String,
    pub client: String,
    pub application: String,
    pub opened_ns: u64,
    /// `None`: open, or the gateway died with it.
    pub closed_ns: Option<u64>,
    pub reason: Option<String>,
    /// Simple queries, executions and function calls; not the preparing of a statement.
    pub statements: u64,
    pub blocked: u64,
    /// Statements decided to be masked.
    pub masked: u64,
    pub rows: u64,
    pub bytes: u64,
    pub masked_cells: u64,
}

/// Every session of the record, oldest first.
#[derive(Debug, Default)]
pub struct Sessions {
    pub lines: Vec<SessionLine>,
    /// Entries that could not be read, in words.
    pub damage: Vec<String>,
}

impl Sessions {
    /// Walks the whole record once. Damage is gathered, not fatal: what can be read is shown.
    ///
    /// # Errors
    /// [`ReadError`] when there is no record at all.
    pub fn scan(state: &Path) -> Result<Sessions, ReadError> {
        let mut out = Sessions::default();
        let mut places: HashMap<SessionId, usize> = HashMap::new();
        for recorded in Reader::open(state)? {
            let recorded = match recorded {
                Ok(recorded) => recorded,
                Err(e) => {
                    out.damage.push(e.to_string());
                    continue;
                }
            };
            let entry = match recorded.entry() {
                Ok(entry) => entry,
                Err(e) => {
                    out.damage.push(format!("entry {}: {e}", recorded.seq));
                    continue;
                }
            };
            if matches!(entry.what, What::Gateway { .. } | What::Refused { .. }) {
                continue;
            }
            let place = *places.entry(entry.session).or_insert_with(|| {
                out.lines.push(SessionLine {
                    id: ids::session_text(&entry.session),
                    opened_ns: entry.unix_ns,
                    ..SessionLine::default()
                });
                out.lines.len() - 1
            });
            if let Some(line) = out.lines.get_mut(place) {
                line.add(&entry);
            }
        }
        Ok(out)
    }

    /// The session that `which` means: a whole id, the end of one, a decision id, or `last`.
    ///
    /// # Errors
    /// [`ReadError::NoSession`] and [`ReadError::Ambiguous`].
    pub fn find(&self, which: &str) -> Result<&SessionLine, ReadError> {
        let none = || ReadError::NoSession(which.to_owned());
        if which == "last" {
            return self.lines.last().ok_or_else(none);
        }
        let end = ids::parse_decision(which).map_or_else(|| which.to_ascii_uppercase(), |(tail, _)| tail);
        if end.is_empty() {
            return Err(none());
        }
        let mut found = self.lines.iter().filter(|l| l.id.ends_with(&end));
        match (found.next(), found.next()) {
            (Some(line), None) => Ok(line),
            (None, _) => Err(none()),
            (Some(_), Some(_)) => Err(ReadError::Ambiguous(which.to_owned())),
        }
    }
}

impl SessionLine {
    fn add(&mut self, entry: &Entry<'_>) {
        match &entry.what {
            What::Opened { identity, groups, connection, database, client, application, .. } => {
                self.identity = (*identity).to_owned();
                self.groups = (*groups).to_owned();
                self.connection = (*connection).to_owned();
                self.database = (*database).to_owned();
                self.client = (*client).to_owned();
                self.application = (*application).to_owned();
                self.opened_ns = entry.unix_ns;
            }
            What::Statement(s) => {
                // A statement refused when it was prepared never comes to an execution.
                self.blocked += u64::from(s.verdict == Verdict::Block);
                if s.how != How::Parse {
                    self.statements += 1;
                    self.masked += u64::from(s.verdict == Verdict::Mask);
                } else if s.verdict == Verdict::Block {
                    self.statements += 1;
                }
            }
            What::Outcome(o) => {
                self.rows += o.rows;
                self.bytes += o.bytes;
                self.masked_cells += o.masked_cells;
            }
            What::Closed { reason, .. } => {
                self.closed_ns = Some(entry.unix_ns);
                self.reason = Some((*reason).to_owned());
            }
            What::Data { .. } | What::Refused { .. } | What::Gateway { .. } => {}
        }
    }
}

/// An entry of one session, with the text of the statement it executes.
#[derive(Clone, Debug)]
pub struct Told {
    pub recorded: Recorded,
    /// For an execution: the text that was prepared (as kept), when the record has it.
    pub prepared: Option<Box<[u8]>>,
}

/// Every entry of the session that `which` means (see [`Sessions::find`]), in order.
///
/// # Errors
/// As [`Sessions::find`]; damage inside the record skips what cannot be read (`lockgate record verify` names it).
pub fn session(state: &Path, which: &str) -> Result<(SessionLine, Vec<Told>), ReadError> {
    let line = Sessions::scan(state)?.find(which)?.clone();
    let id = ids::parse_session(&line.id).ok_or_else(|| ReadError::NoSession(which.to_owned()))?;
    let mut prepared = Prepared::default();
    let mut out = Vec::new();
    for recorded in Reader::open(state)?.flatten() {
        let told = match recorded.entry() {
            Ok(entry) if entry.session == id => prepared.text(&entry).map(Box::from),
            _ => continue,
        };
        out.push(Told { recorded, prepared: told });
    }
    Ok((line, out))
}

/// Remembers the texts of prepared statements, to tell what an execution executes. Forgets a session that closes.
#[derive(Default)]
pub struct Prepared {
    texts: HashMap<SessionId, HashMap<u64, Box<[u8]>>>,
}

impl Prepared {
    /// To be shown every entry in order. For an execution: the text of the statement it names.
    pub fn text(&mut self, entry: &Entry<'_>) -> Option<&[u8]> {
        match &entry.what {
            What::Statement(s) if s.how == How::Parse => {
                self.texts.entry(entry.session).or_default().insert(s.number, s.text.into());
                None
            }
            What::Statement(s) if s.of != 0 => self.texts.get(&entry.session)?.get(&s.of).map(|text| &**text),
            What::Closed { .. } => {
                self.texts.remove(&entry.session);
                None
            }
            _ => None,
        }
    }
}
