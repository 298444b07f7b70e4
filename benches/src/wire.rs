//! A PostgreSQL session between a client and a server that are only bytes, driven as the engine drives it: reused buffers, read-sized
//! pieces, what was not taken shown again.
//!
//! Not [`::flow::drive`], which copies and allocates for the convenience of tests. Kinder than the engine in one thing: what a read
//! leaves untaken (at most one row) is not moved to the front of the next buffer but lies there already.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::flow::access::RecordLevel;
use ::flow::record::Entry;
use ::flow::session::Now;
use ::flow::{Event, Fault, Flow, Out, Peer, Recorder, Service, Session, Side, Step};
use side::record::{Ledger, Options};
use tempfile::TempDir;

use crate::{Pause, Seen, world};

/// A record that costs nothing.
pub struct Nowhere;

impl Recorder for Nowhere {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        std::hint::black_box(entry);
        Ok(())
    }
}

/// The real record, in a directory of its own.
pub struct Records {
    ledger: Arc<Ledger>,
    dir: TempDir,
}

/// Half of this is filled between two pauses at most: a fuller ring wakes the drainer at every append.
const HALF_RING: u64 = 4 << 20;

impl Records {
    pub fn open() -> Records {
        let dir = tempfile::tempdir().expect("a directory for the record");
        let ledger = Ledger::open(dir.path(), 1, Options::default()).expect("the record opens");
        assert_eq!(Options::default().ring_bytes, 2 * HALF_RING, "pauses are made for this ring");
        Records { ledger: Arc::new(ledger), dir }
    }

    pub fn recorder(&self) -> Box<dyn Recorder + Send> {
        self.ledger.recorder(0).expect("asked for once")
    }

    /// After every `calls` calls that record `bytes` each at most: wait until the ring is empty, and keep the disk from filling up.
    pub fn pause(self, bytes: u64) -> Pause {
        let settle = move || {
            while self.ledger.health().pending_bytes > 0 {
                std::thread::sleep(Duration::from_micros(500));
            }
            let health = self.ledger.health();
            assert!(health.broken.is_none() && health.refused == 0, "the record failed: {health:?}");
            self.prune();
        };
        Pause { calls: (HALF_RING / bytes).max(1), settle: Box::new(settle) }
    }

    /// Removes finished segments: nobody reads them.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("record/log")) else { return };
        let mut segments: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        segments.sort();
        segments.pop();
        for old in segments {
            std::fs::remove_file(&old).expect("our own segment can be removed");
        }
    }
}

/// A session that is logged in on both sides, and the buffers of the worker it is on.
pub struct Wire {
    session: Box<dyn Session>,
    back: Out,
    on: Out,
    gate: Gate,
}

const NOW: Now = Now { mono_ns: 1_000_000_000, unix_ns: 1_700_000_000_000_000_000 };

/// A worker on which clients can log in.
pub struct Gate(Box<dyn ::flow::Acceptor>);

impl Gate {
    pub fn new(rules: &str, record: RecordLevel, recorder: Box<dyn Recorder + Send>) -> Gate {
        let once = Mutex::new(Some(recorder));
        let gate = postgres::Gate::new(world::published(rules, record), move |_| {
            once.lock().ok().and_then(|mut r| r.take()).expect("one worker")
        });
        Gate(gate.worker(0))
    }

    /// Nothing recorded but the session itself.
    pub fn unrecorded(rules: &str) -> Gate {
        Gate::new(rules, RecordLevel::Sessions, Box::new(Nowhere))
    }
}

impl Gate {
    fn accept(&mut self) -> Box<dyn Session> {
        let loopback = [127, 0, 0, 1];
        self.0.accept(Peer { address: (loopback, 999).into(), listener: (loopback, 7432).into(), tls: None })
    }
}

impl Wire {
    /// A client that has just logged in.
    pub fn new(mut gate: Gate) -> Wire {
        let session = gate.accept();
        let mut wire = Wire { session, back: Out::default(), on: Out::default(), gate };
        wire.log_in(&mut Seen::measuring());
        wire
    }

    /// The next client of the same worker in place of this one: one whole login, nobody asking for a proof.
    pub fn again(&mut self, seen: &mut Seen) {
        self.session = self.gate.accept();
        // Cancel keys are random.
        seen.random(|seen| self.log_in(seen));
    }

    fn log_in(&mut self, seen: &mut Seen) {
        const STARTUP: &[u8] = b"\0\0\0\x23\0\x03\0\0user\0bench\0database\0bench\0\0";
        let step = self.event(Side::Client, Event::Opened, &[], seen).0;
        assert!(matches!(step, Step::Read { .. }));
        let step = self.event(Side::Client, Event::Received, STARTUP, seen).0;
        assert!(matches!(step, Step::Dial(_)), "{step:?}");
        self.event(Side::Client, Event::Dialled(Ok(())), &[], seen);
        let mut answer = Vec::new();
        put(&mut answer, b'R', &[&0u32.to_be_bytes()]);
        put(&mut answer, b'S', &[b"client_encoding\0UTF8\0"]);
        put(&mut answer, b'S', &[b"standard_conforming_strings\0on\0"]);
        put(&mut answer, b'K', &[&77u32.to_be_bytes(), &1234u32.to_be_bytes()]);
        put(&mut answer, b'Z', &[b"I"]);
        self.say(Side::Server, &answer, usize::MAX, seen);
        assert_eq!(self.session.phase(), ::flow::Phase::Idle);
    }

    fn event(&mut self, side: Side, event: Event, input: &[u8], seen: &mut Seen) -> (Step, usize) {
        self.back.clear();
        self.on.clear();
        let mut flow = Flow::new(side, input, &mut self.back, &mut self.on, NOW);
        let step = self.session.on(event, &mut flow).expect("these bytes break no rule");
        let taken = flow.taken();
        seen.bytes(self.back.bytes(input));
        seen.bytes(self.on.bytes(input));
        (step, taken)
    }

    /// What the last read, which was `input`, sent on to the other side.
    pub fn passed<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        self.on.bytes(input)
    }

    /// `side` says `bytes`, which arrive in reads of `read` bytes. All of it is taken.
    pub fn say(&mut self, side: Side, bytes: &[u8], read: usize, seen: &mut Seen) {
        let (mut at, mut end) = (0, 0_usize);
        while at < bytes.len() {
            let before = end;
            end = end.saturating_add(read).min(bytes.len());
            let (step, taken) =
                self.event(side, Event::Received, bytes.get(at..end).unwrap_or_default(), seen);
            at += taken;
            assert!(matches!(step, Step::Read { .. }), "the session wants something else: {step:?}");
            assert!(taken > 0 || end > before, "the session takes nothing of what is there");
        }
    }
}

/// Appends a message.
pub fn put(out: &mut Vec<u8>, tag: u8, body: &[&[u8]]) {
    let length: usize = body.iter().map(|b| b.len()).sum();
    out.push(tag);
    out.extend_from_slice(&u32::try_from(length + 4).unwrap_or(u32::MAX).to_be_bytes());
    body.iter().for_each(|b| out.extend_from_slice(b));
}

/// Appends a Query.
pub fn put_query(out: &mut Vec<u8>, sql: &str) {
    put(out, b'Q', &[sql.as_bytes(), b"\0"]);
}

/// Appends the RowDescription of these columns of customers (by place in [`world::COLUMNS`]).
pub fn put_description(out: &mut Vec<u8>, columns: &[usize], format: u16) {
    let mut body = u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    for place in columns {
        let (name, type_oid, _) = world::COLUMNS.get(*place).expect("one of ten columns");
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(&world::CUSTOMERS.to_be_bytes());
        body.extend_from_slice(&u16::try_from(place + 1).unwrap_or(u16::MAX).to_be_bytes());
        body.extend_from_slice(&type_oid.to_be_bytes());
        body.extend_from_slice(&[0xff; 6]);
        body.extend_from_slice(&format.to_be_bytes());
    }
    put(out, b'T', &[&body]);
}

/// Appends a DataRow.
pub fn put_row<'a>(out: &mut Vec<u8>, cells: impl IntoIterator<Item = &'a str>) {
    let mut body = vec![0, 0];
    let mut count = 0u16;
    for cell in cells {
        body.extend_from_slice(&u32::try_from(cell.len()).unwrap_or(u32::MAX).to_be_bytes());
        body.extend_from_slice(cell.as_bytes());
        count += 1;
    }
    body.splice(..2, count.to_be_bytes());
    put(out, b'D', &[&body]);
}

/// Appends CommandComplete and, for a simple query, ReadyForQuery.
pub fn put_end(out: &mut Vec<u8>, command: &str, ready: bool) {
    put(out, b'C', &[command.as_bytes(), b"\0"]);
    if ready {
        put(out, b'Z', &[b"I"]);
    }
}
