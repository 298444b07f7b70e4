//! The long-lived state: a client that is logged in, a target that is logged in to, and what is known between them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::Cache;
use flow::access::{Connection, DenyDetail, Directory, Identity, Published, RecordLevel};
use flow::budget::{self, Budgets, Cut, Meter};
use flow::record::{Entry, How, Outcome, SessionId, Statement, Values, Verdict as Recorded, What};
use flow::{Answer, Ask, Fault, Flow, Now, Phase, Recorder, Side, Step};
use foldhash::fast::RandomState;
use policy::cache::{DecisionCache, Owner};
use policy::judge::{Limited, Made, Probe, ProbeValue};
use policy::{Block, Decision, Judge, Kept, Mentions, Plan, Scope, Verdict};
use ring::rand::SystemRandom;

use crate::cancel::{Cancels, Courier, Errand, Key, Progress};
use crate::copy;
use crate::message::error_field;
use crate::owed::{Owed, Queue};
use crate::prepared::{Disturbs, Tables};
use crate::refuse;
use crate::row;
use crate::target::Settings;

/// What the sessions of one worker share. No locks: one thread.
pub(crate) struct Shared {
    /// The directory in force: asked at every statement, and the same for days.
    published: RefCell<Cache<Published, Arc<Directory>>>,
    pub(crate) recorder: RefCell<Box<dyn Recorder>>,
    pub(crate) cancels: Arc<Cancels>,
    /// Connections that carry cancel requests for cut results.
    pub(crate) couriers: Cell<usize>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) random: SystemRandom,
    cache: RefCell<DecisionCache>,
    /// Which rules touch whom where.
    scopes: RefCell<Scopes>,
    /// Judges by scope; the catalogue each is for is in it.
    judges: RefCell<Vec<(Arc<Scope>, Rc<Judge>)>>,
    /// Room for queues of owed replies: a session has one only while something is owed.
    rooms: RefCell<Vec<VecDeque<Owed>>>,
    /// Plans of results described before.
    pub(crate) plans: RefCell<Plans>,
}

/// Plans by what they were made from, so that a statement that runs again is not planned again. Direct-mapped, and doubled when
/// too many are in each other's way: a collision costs a new plan, nothing else.
#[derive(Default)]
pub(crate) struct Plans {
    slots: Vec<Option<Planned>>,
    collisions: usize,
}

struct Planned {
    judge: Rc<Judge>,
    decision: Arc<Decision>,
    /// The RowDescription, byte for byte.
    description: Box<[u8]>,
    shape: Shape,
}

impl Plans {
    const SLOTS_MIN: usize = 256;
    /// As many as decisions are remembered.
    const SLOTS_MAX: usize = policy::cache::ENTRIES_MAX;
    /// Longer descriptions are planned every time.
    const DESCRIPTION_BYTES_MAX: usize = 4096;

    fn slot(&self, decision: &Arc<Decision>) -> usize {
        // Addresses are far apart and alike at the end: Fibonacci hashing spreads them.
        let spread = (Arc::as_ptr(decision).addr() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        spread as usize & self.slots.len().wrapping_sub(1)
    }

    pub(crate) fn get(
        &self,
        judge: &Rc<Judge>,
        decision: &Arc<Decision>,
        description: &[u8],
    ) -> Option<Shape> {
        let planned = self.slots.get(self.slot(decision))?.as_ref()?;
        let same = Rc::ptr_eq(&planned.judge, judge)
            && Arc::ptr_eq(&planned.decision, decision)
            && *planned.description == *description;
        same.then(|| planned.shape.clone())
    }

    pub(crate) fn put(
        &mut self,
        judge: &Rc<Judge>,
        decision: &Arc<Decision>,
        description: &[u8],
        shape: &Shape,
    ) {
        if description.len() > Plans::DESCRIPTION_BYTES_MAX {
            return;
        }
        if self.slots.is_empty()
            || (self.collisions > self.slots.len() && self.slots.len() < Plans::SLOTS_MAX)
        {
            let size = (self.slots.len() * 2).max(Plans::SLOTS_MIN);
            *self = Plans::default();
            self.slots.resize_with(size, || None);
        }
        let slot = self.slot(decision);
        if let Some(slot) = self.slots.get_mut(slot) {
            self.collisions += usize::from(slot.is_some());
            *slot = Some(Planned {
                judge: judge.clone(),
                decision: decision.clone(),
                description: description.into(),
                shape: shape.clone(),
            });
        }
    }
}

/// Which rules touch whom where, as far as somebody logged in: comparing an identity with every rule is most of a login otherwise.
#[derive(Default)]
struct Scopes {
    /// The directory they were worked out from.
    directory: Option<Arc<Directory>>,
    /// By the addresses of identity and connection, which live as long as their directory does.
    known: HashMap<(usize, usize), Arc<Scope>, RandomState>,
}

/// Judges kept per worker; one per distinct set of rules, database and catalogue version. Beyond, all are made anew.
const JUDGES_MAX: usize = 256;
/// Empty queues kept per worker, and how many replies they have room for: 80 bytes each.
const ROOMS_MAX: usize = 64;
const ROOM_MIN: usize = 16;
const ROOM_MAX: usize = 1024;
/// Couriers sent for one cut result, one after the other: a target that is busy may not be reached by the first.
const COURIERS_EACH: u8 = 3;
/// Pairs of identity and connection remembered per worker.
const SCOPES_MAX: usize = 4096;

impl Shared {
    pub(crate) fn new(
        published: Published,
        recorder: Box<dyn Recorder>,
        cancels: Arc<Cancels>,
        budgets: Arc<Budgets>,
    ) -> Shared {
        Shared {
            published: RefCell::new(Cache::new(published)),
            recorder: RefCell::new(recorder),
            cancels,
            couriers: Cell::new(0),
            budgets,
            random: SystemRandom::new(),
            cache: RefCell::new(DecisionCache::default()),
            scopes: RefCell::default(),
            judges: RefCell::new(Vec::new()),
            rooms: RefCell::default(),
            plans: RefCell::default(),
        }
    }

    /// Room for a queue.
    pub(crate) fn room(&self) -> VecDeque<Owed> {
        self.rooms.borrow_mut().pop().unwrap_or_else(|| VecDeque::with_capacity(ROOM_MIN))
    }

    /// Takes the room of an empty queue back; what is more than the next ones need is freed.
    pub(crate) fn take_room(&self, room: VecDeque<Owed>) {
        let mut rooms = self.rooms.borrow_mut();
        if rooms.len() < ROOMS_MAX && room.capacity() <= ROOM_MAX {
            rooms.push(room);
        }
    }

    /// The directory in force.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.published.borrow_mut().load().clone()
    }

    /// Another directory than this one came into force.
    fn newer(&self, than: &Arc<Directory>) -> Option<Arc<Directory>> {
        let mut published = self.published.borrow_mut();
        let newest = published.load();
        (!Arc::ptr_eq(newest, than)).then(|| newest.clone())
    }

    pub(crate) fn record(&self, session: SessionId, now: Now, what: What<'_>) -> Result<(), Fault> {
        self.recorder.borrow_mut().append(&Entry { session, unix_ns: now.unix_ns, what })
    }

    /// The rules that touch `identity` on `connection`; both are of `directory`.
    pub(crate) fn scope(
        &self,
        directory: &Arc<Directory>,
        identity: &Arc<Identity>,
        connection: &Arc<Connection>,
    ) -> Arc<Scope> {
        let scopes = &mut *self.scopes.borrow_mut();
        if !scopes.directory.as_ref().is_some_and(|d| Arc::ptr_eq(d, directory)) {
            *scopes = Scopes { directory: Some(directory.clone()), ..Scopes::default() };
        }
        let who = (Arc::as_ptr(identity).addr(), Arc::as_ptr(connection).addr());
        if let Some(scope) = scopes.known.get(&who) {
            return scope.clone();
        }
        if scopes.known.len() >= SCOPES_MAX {
            scopes.known.clear();
        }
        let scope = directory.policy.scope(&identity.subject, &connection.name);
        scopes.known.insert(who, scope.clone());
        scope
    }

    fn judge(&self, scope: &Arc<Scope>, catalog: Arc<policy::Catalog>) -> Rc<Judge> {
        let mut judges = self.judges.borrow_mut();
        let kept = judges.iter().find(|(s, j)| Arc::ptr_eq(s, scope) && Arc::ptr_eq(j.catalog(), &catalog));
        if let Some((_, judge)) = kept {
            return judge.clone();
        }
        if judges.len() >= JUDGES_MAX {
            judges.clear();
        }
        let judge = Rc::new(scope.bind(catalog));
        judges.push((scope.clone(), judge.clone()));
        judge
    }
}

/// How the rows of the current result are treated.
#[derive(Clone)]
pub(crate) enum Shape {
    /// No description seen: a row now would be a row nobody judged.
    Unknown,
    /// Its plan lets every column pass: rows are not looked into.
    Passing(Rc<Plan>),
    Masked(Rc<row::Walker>),
}

impl Shape {
    pub(crate) fn of(plan: Rc<Plan>) -> Shape {
        if plan.passes_all() { Shape::Passing(plan) } else { Shape::Masked(Rc::new(row::Walker::new(plan))) }
    }
}

/// The result being received for the front of the queue.
pub(crate) struct Current {
    pub(crate) shape: Shape,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) masked: u64,
    /// SQLSTATE of its error, if one came.
    pub(crate) sqlstate: Option<[u8; 5]>,
    /// Of a simple query or function call: it was answered, and ReadyForQuery may come.
    pub(crate) ended: bool,
    /// Which COPY … TO STDOUT of the text this is.
    pub(crate) copies: u32,
    /// How many of the text's statements have been answered.
    pub(crate) answers: u32,
    /// CSV header lines and the like still to pass.
    pub(crate) copying: Option<Box<Copying>>,
    pub(crate) metering: Metering,
    /// Of a plan, line by line: one of its lines was not understood, and those behind it may be anything.
    pub(crate) torn: bool,
}

/// Whether the rows of the current result are counted against limits.
#[derive(Default)]
pub(crate) enum Metering {
    /// No row came yet.
    #[default]
    Unasked,
    Free,
    Counted(Box<Meter>),
}

impl Metering {
    /// Counts one more row, of so many bytes; the error is the limit it would exceed.
    #[inline]
    pub(crate) fn row(&mut self, bytes: usize, now: Now) -> Result<(), Cut> {
        match self {
            Metering::Counted(meter) => meter.row(bytes, now),
            Metering::Free | Metering::Unasked => Ok(()),
        }
    }
}

/// A COPY TO STDOUT under way.
pub(crate) struct Copying {
    /// `None`: rows pass without a look.
    pub(crate) walker: Option<copy::Walker>,
    /// The header line is still to come, and passes.
    pub(crate) header: bool,
}

impl Default for Current {
    fn default() -> Current {
        Current {
            shape: Shape::Unknown,
            rows: 0,
            bytes: 0,
            masked: 0,
            sqlstate: None,
            ended: false,
            copies: 0,
            answers: 0,
            copying: None,
            metering: Metering::Unasked,
            torn: false,
        }
    }
}

/// The rest of a server message that is passed on, dropped or rewritten as it arrives.
pub(crate) enum ServerBody {
    None,
    Forward(usize),
    Discard(usize),
    Hold(Box<row::Held>),
}

/// The rest of a client message likewise.
pub(crate) enum ClientBody {
    None,
    Forward { left: usize, recorded: Option<(u64, u64)> },
    Discard(usize),
}

/// A result that was ended for the client and goes on for the server.
pub(crate) struct CutShort {
    number: u64,
    /// How often a courier may still be sent for it.
    tries: u8,
    /// The first error the database answered since.
    pub(crate) sqlstate: Option<[u8; 5]>,
}

pub(crate) struct Ready {
    pub(crate) shared: Rc<Shared>,
    pub(crate) id: SessionId,
    pub(crate) directory: Arc<Directory>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) connection: Arc<Connection>,
    /// The name the client opened, for looking the connection up again after a reload.
    pub(crate) opened: Box<str>,
    pub(crate) database: Box<str>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) judge: Option<Rc<Judge>>,
    /// Grows whenever the judgement changed: what was decided before is decided again.
    pub(crate) stamp: u64,
    /// It changed while statements were on their way to being prepared: these may have an older one.
    pub(crate) mixed: bool,
    /// It changed while statements or portals were on their way: what these make under SQL's names was judged before, and is not kept.
    pub(crate) outlived: bool,
    /// Where the connection's catalogues stood when the judge was made.
    pub(crate) catalogues_seen: u64,
    /// The catalogue must be newer than this before the next statement (DDL went by).
    pub(crate) catalogue_after: u64,
    /// A statement of the open transaction changed the catalogue.
    pub(crate) changed_catalogue: bool,
    /// The tables it has made in the open transaction, as long as nothing else can have their names.
    pub(crate) made: Option<Box<Arc<[Made]>>>,
    /// Tables a fresh catalogue did not know either (made in an open transaction, temporary): not asked for again.
    pub(crate) strangers: Box<[u32]>,
    /// The catalogue version that was found too old for the result being described.
    pub(crate) asked_newer_than: Option<Version>,
    /// A newer catalogue was asked for, for the statement that comes next.
    pub(crate) renewing: bool,
    /// It could not be had: what names a table nobody knows does not run.
    pub(crate) blind: bool,

    pub(crate) settings: Settings,
    /// A statement that may change the settings above is under way.
    pub(crate) quoting_at_risk: bool,
    /// Code of users ran that may have put anything into settings which are reported. That they are reported at all, and when, tells of
    /// it from then on.
    pub(crate) estranged: bool,
    /// A statement of this transaction was withheld. Its portal may end only when another takes its place, and speak then.
    pub(crate) echoes: bool,
    pub(crate) owed: Queue,
    pub(crate) tables: Tables,
    pub(crate) current: Current,
    /// A result was cut at a row limit: what the server says up to its next ReadyForQuery is not for the client, who has its error.
    pub(crate) cut: Option<Box<CutShort>>,
    /// Of the courier beside this session, while there is one.
    pub(crate) errand: Option<Rc<Errand>>,
    /// What statements under names ask, whose values come with EXECUTE: of each rule.
    pub(crate) probing: Box<[Asks]>,
    pub(crate) client_body: ClientBody,
    pub(crate) server_body: ServerBody,
    pub(crate) transaction: u8,
    pub(crate) number: u64,
    /// How often the message at the front waited for room in the record; over zero, that is what the client's side asked last.
    pub(crate) waited: u8,
    pub(crate) from_client: u64,
    pub(crate) to_client: u64,
    pub(crate) draining: bool,
    /// The client said Terminate behind statements that still run: it is not listened to any more, the server ends the session.
    pub(crate) leaving: bool,
    /// The end is in the record.
    pub(crate) ended: Cell<bool>,
    /// The target said FATAL: its end is explained already.
    pub(crate) target_fatal: bool,

    pub(crate) pid: u32,
    /// As the client has it.
    pub(crate) key: Key,
}

/// What statements under names ask under one rule.
pub(crate) struct Asks {
    probe: Probe,
    /// How many values the one that asks most is given, and the one that is being counted.
    most: usize,
    here: usize,
}

/// Of a catalogue: in no more room than a number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(NonZeroU64);

impl Version {
    pub(crate) fn new(version: u64) -> Version {
        Version(NonZeroU64::MIN.saturating_add(version))
    }
}

/// A statement judged and recorded.
pub(crate) struct Judged {
    pub(crate) number: u64,
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    pub(crate) refused: Option<Box<Block>>,
}

impl Ready {
    pub(crate) fn recording(&self) -> bool {
        self.connection.record == RecordLevel::Statements
    }

    /// An idle session keeps no room for what it may owe some day.
    pub(crate) fn tidy(&mut self) {
        if let Some(room) = self.owed.leave_room() {
            self.shared.take_room(room);
        }
    }

    /// No statement under way in either direction, every message whole.
    pub(crate) fn quiet(&self) -> bool {
        self.owed.is_empty()
            && matches!(self.client_body, ClientBody::None)
            && matches!(self.server_body, ServerBody::None)
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.quiet() {
            Phase::Idle
        } else if self.current.rows > 0 || !matches!(self.server_body, ServerBody::None) {
            Phase::Streaming
        } else {
            Phase::Busy
        }
    }

    /// `<last eight characters of the session's ULID>-<number>`: names a decision everywhere.
    pub(crate) fn decision_id(&self, number: u64) -> String {
        let mut id = short_id(&self.id);
        id.push('-');
        id.push_str(&number.to_string());
        id
    }

    pub(crate) fn deny_detail(&self) -> DenyDetail {
        self.directory.deny_detail
    }

    /// Makes sure the next statement is judged by the policy in force and a catalogue that is not known to be stale. `Some`: ask
    /// first; `Err`: access was withdrawn.
    pub(crate) fn refresh(&mut self) -> Result<Option<Ask>, &'static str> {
        if let Some(directory) = self.shared.newer(&self.directory) {
            let identity = directory.identities.get(&*self.identity.subject.identity).cloned();
            let identity = identity.ok_or("this identity was removed from the gateway's configuration")?;
            let connection = directory.connection(&self.opened, &identity).cloned();
            self.connection = connection.ok_or("access to this connection was withdrawn")?;
            self.scope = self.shared.scope(&directory, &identity, &self.connection);
            (self.identity, self.directory, self.judge) = (identity, directory, None);
            // What ran before was judged by other rules, or by none.
            self.estranged |= self.number > 0;
            self.rejudged();
        }
        if self.scope.is_empty() {
            return Ok(None);
        }
        // Before the catalogue is looked at: one published meanwhile is looked at again.
        let generation = self.connection.catalogues.generation();
        if self.judge.is_some() && self.catalogue_after == 0 && self.catalogues_seen == generation {
            return Ok(None);
        }
        let catalog = self.connection.catalogues.get(&self.database);
        match catalog {
            Some(catalog) if catalog.version > self.catalogue_after || self.catalogue_after == 0 => {
                if self.judge.as_ref().is_none_or(|j| !Arc::ptr_eq(j.catalog(), &catalog)) {
                    self.judge = Some(self.shared.judge(&self.scope, catalog));
                    self.rejudged();
                    self.strangers = Box::default();
                    self.tables.forget_kept();
                }
                self.catalogues_seen = generation;
                Ok(None)
            }
            _ => Ok(Some(self.catalogue_ask(self.catalogue_after))),
        }
    }

    /// What it made may be gone, and its names somebody's.
    pub(crate) fn forget_made(&mut self) {
        if self.made.take().is_some() {
            self.rejudged();
            self.tables.forget_kept();
        }
    }

    /// What was decided before is void.
    fn rejudged(&mut self) {
        // It may hold what was not masked then.
        self.made = None;
        self.stamp += 1;
        self.mixed |= !self.owed.prepares_nothing();
        self.outlived |= !self.owed.is_empty() || self.tables.portals.len() > 0;
    }

    pub(crate) fn catalogue_ask(&self, newer_than: u64) -> Ask {
        Ask::Catalogue {
            connection: self.connection.clone(),
            database: self.database.as_ref().to_owned(),
            newer_than,
        }
    }

    /// The side path loaded (or could not load) a catalogue.
    pub(crate) fn answered(&mut self, answer: Answer) {
        match &answer {
            // Newer or unchanged: either way it is what the target has now.
            Answer::Done => self.catalogue_after = 0,
            // Statements go on being judged by what is known; what is not in it is masked or refused.
            Answer::Failed(_) if self.connection.catalogues.get(&self.database).is_some() => {
                self.catalogue_after = 0
            }
            Answer::Failed(_) => {}
        }
        self.blind = answer != Answer::Done;
    }

    /// Judges a statement text without recording it.
    pub(crate) fn decide(&self, text: &[u8]) -> Option<Arc<Decision>> {
        let judge = self.judge.as_ref()?;
        // All sessions of one identity; another directory's identities are others.
        let owner = Owner(Arc::as_ptr(&self.identity).addr());
        let mut cache = self.shared.cache.borrow_mut();
        let decision = cache.statement_of(owner, judge, text, self.settings.readable(self.scope.masks()));
        drop(cache);
        // What this session has made is nowhere to be seen but here.
        let made = self.made.as_ref().filter(|_| decision.unknown_tables && !decision.clean);
        let decision = made.map_or(decision, |made| judge.with_made(Arc::clone(made)).statement(text));
        if self.blind && decision.unknown_tables && decision.verdict == Verdict::Pass && self.scope.masks() {
            return Some(Arc::new(Decision {
                verdict: Verdict::Block(Block {
                    rule: "not-understood".into(),
                    place: String::new(),
                    message: "it names a table that is not known, and the catalogue cannot be read now"
                        .into(),
                    sqlstate: "42501",
                    schema: None,
                    table: None,
                    column: None,
                    hint: "try again in a moment; when it stays so, tell the operator of the gateway".into(),
                }),
                ..Decision::clone(&decision)
            }));
        }
        let risky_bytes = (!self.settings.utf8 || self.quoting_at_risk) && !text.is_ascii();
        let risky_quotes = (self.quoting_at_risk || self.settings.strings_were_other)
            && memchr::memchr(b'\\', text).is_some();
        if (risky_bytes || risky_quotes) && decision.verdict == Verdict::Pass {
            return Some(Arc::new(Decision {
                verdict: Verdict::Block(Block {
                    rule: "not-understood".into(),
                    place: String::new(),
                    message: "the text could be read differently by the server: its encoding is not UTF-8, or is being changed".into(),
                    sqlstate: "42501",
                    schema: None,
                    table: None,
                    column: None,
                    hint: "set client_encoding to UTF8, and wait for that before sending more".into(),
                }),
                ..Decision::clone(&decision)
            }));
        }
        Some(decision)
    }

    /// Counts the values of masked columns a statement asks about. `parameters`: of the Bind; `None` for a text that runs as it is.
    /// `Some`: one too many.
    pub(crate) fn probe(
        &self,
        decision: &Decision,
        parameters: Option<&[Option<&[u8]>]>,
        now: Now,
    ) -> Option<Box<Block>> {
        let value = |probe: &Probe| match (probe.value.parameter(), parameters) {
            (Some(n), Some(values)) => {
                let bound = usize::from(n).checked_sub(1).and_then(|at| values.get(at).copied().flatten());
                probe.value.digest(bound)
            }
            _ => value_written(probe),
        };
        self.count_probes(&decision.probes, &value, now).or_else(|| {
            let identity = &self.identity.subject.identity;
            let spent = budget::met_too_often(&decision.conflicts, &self.shared.budgets, identity, now);
            spent.map(|probe| Box::new(probe.refusal()))
        })
    }

    /// The target said that a value is there already, or is missing: an answer about masked columns, which no mask can hide, so it is
    /// counted like a question. What is written next is refused when the budget is used up.
    pub(crate) fn met(&self, error: &[u8], now: Now) {
        let field = |code| error_field(error, code).and_then(|f| std::str::from_utf8(f).ok());
        let (Some(judge), Some(schema), Some(table), Some(constraint)) =
            (self.judge.as_ref().filter(|_| self.scope.masks()), field(b's'), field(b't'), field(b'n'))
        else {
            return;
        };
        self.count_answer(&judge.met(schema, table, constraint), now);
    }

    /// The same for an error that does not say what it met: a wait for somebody else's row that ended, a check, a number too large.
    /// What runs says what that may tell of.
    pub(crate) fn told(&self, decision: &Decision, now: Now) {
        if !self.scope.masks() {
            return;
        }
        if decision.strangers {
            // What was prepared by SQL may write anything.
            self.met_unknown(now);
        } else {
            self.count_answer(&decision.conflicts, now);
        }
    }

    /// The same where it may be about anything.
    pub(crate) fn met_unknown(&self, now: Now) {
        let Some(judge) = self.judge.as_ref().filter(|_| self.scope.masks()) else { return };
        self.count_answer(&judge.met("", "", ""), now);
    }

    fn count_answer(&self, probes: &[Probe], now: Now) {
        let mut which = self.id.to_vec();
        which.extend_from_slice(&now.mono_ns.to_be_bytes());
        let digest = Probe::digest(&which);
        // Over the budget already, there is nothing more to count: the next such statement does not run.
        let _counted = self.count_probes(probes, &|_| Some(digest), now);
    }

    pub(crate) fn count_probes(
        &self,
        probes: &[Probe],
        value: &dyn Fn(&Probe) -> Option<u64>,
        now: Now,
    ) -> Option<Box<Block>> {
        let identity = &self.identity.subject.identity;
        let refused = budget::probe(probes, &self.shared.budgets, identity, now, value);
        refused.err().map(|probe| Box::new(probe.refusal()))
    }

    /// What a statement under a name asks, with values to come: an EXECUTE brings them, and says only the name. It runs one of them, so
    /// of each rule the most is remembered.
    pub(crate) fn keep_probes(&mut self, decision: &Decision) {
        self.probing.iter_mut().for_each(|known| known.here = 0);
        for probe in decision.probes.iter().filter(|p| p.value.parameter().is_some()) {
            match self.probing.iter_mut().find(|known| known.probe.rule == probe.rule) {
                Some(known) => {
                    known.here += 1;
                    // A newer policy may let more or less of it.
                    known.probe.clone_from(probe);
                }
                None => {
                    let mut all = std::mem::take(&mut self.probing).into_vec();
                    all.push(Asks { probe: probe.clone(), most: 0, here: 1 });
                    self.probing = all.into();
                }
            }
        }
        self.probing.iter_mut().for_each(|known| known.most = known.most.max(known.here));
    }

    /// The same for a text that the server runs at once, which may run what SQL's PREPARE kept.
    fn probe_text(&mut self, decision: &Decision, now: Now) -> Option<Box<Block>> {
        if decision.probes.is_empty()
            && decision.conflicts.is_empty()
            && (self.probing.is_empty() || decision.executes == 0)
        {
            return None;
        }
        self.keep_probes(decision);
        self.probe(decision, None, now).or_else(|| self.executed(decision, now))
    }

    /// Counts what SQL's EXECUTE brings to a statement under a name, where values were to come. Which these are it may compute: each run
    /// asks about new ones.
    pub(crate) fn executed(&self, decision: &Decision, now: Now) -> Option<Box<Block>> {
        if decision.executes == 0 {
            return None;
        }
        let named = match &decision.kept {
            Some(Kept::Executed { name, .. }) => {
                let by_protocol = || self.tables.statements.get(name.as_bytes())?.decision.as_ref();
                self.tables.prepared_by_sql(name.as_bytes()).or_else(by_protocol)
            }
            _ => None,
        };
        let run = [&self.id[..], &now.mono_ns.to_be_bytes(), &self.number.to_be_bytes()].concat();
        let mut asked = 0_u64;
        let mut count = |probe: &Probe| {
            asked += 1;
            let value = ProbeValue::Literal(Probe::digest(&[&run[..], &asked.to_be_bytes()].concat()));
            let probe = Probe { value, ..probe.clone() };
            self.count_probes(std::slice::from_ref(&probe), &value_written, now)
        };
        match named {
            Some(decision) => {
                let asks = |p: &&Probe| p.value.parameter().is_some();
                decision.probes.iter().filter(asks).find_map(&mut count)
            }
            // No more than are too many.
            None => self.probing.iter().find_map(|known| {
                let times = known.most.saturating_mul(decision.executes);
                (0..times).take(known.probe.per_hour as usize + 1).find_map(|_| count(&known.probe))
            }),
        }
    }

    /// A text to keep: shared, where the same was sent before.
    pub(crate) fn kept_text(&self, text: &[u8]) -> Arc<[u8]> {
        let known = self.judge.as_ref().and_then(|judge| self.shared.cache.borrow().text(judge, text));
        known.unwrap_or_else(|| text.into())
    }

    /// Judges and records a statement of the client's. `length`: of the whole text, when `text` is only its beginning.
    /// `judged`: what was decided of it a moment ago.
    pub(crate) fn judge_text(
        &mut self,
        how: How,
        text: &[u8],
        length: usize,
        judged: Option<Arc<Decision>>,
        now: Now,
    ) -> Judged {
        let decision = if text.len() == length { judged.or_else(|| self.decide(text)) } else { None };
        let mut refused = match decision.as_ref().map(|d| &d.verdict) {
            Some(Verdict::Block(block)) => Some(Box::new(block.clone())),
            _ => None,
        };
        if text.len() < length && !self.scope.is_empty() {
            refused = Some(Box::new(Block {
                rule: "not-understood".into(),
                place: String::new(),
                message: format!("a statement of {length} bytes is too long to be analysed"),
                sqlstate: "54000",
                schema: None,
                table: None,
                column: None,
                hint: "send the data as parameters or with COPY instead of inside the text".into(),
            }));
        }
        if let (How::Query, None, Some(decision)) = (how, &refused, &decision) {
            refused = self.probe_text(decision, now);
        }
        let disturbs = Disturbs::of(decision.as_deref()).with(self.tables.lurking());
        if let Some(decision) = decision.as_ref().filter(|_| refused.is_none()) {
            self.sends(decision);
        }
        self.number += 1;
        let mut judged = Judged { number: self.number, decision, disturbs, refused };
        let statement = Statement {
            number: judged.number,
            how,
            of: 0,
            text,
            length: length as u64,
            parameters: Values::default(),
            verdict: Recorded::Allow,
            rules: "",
            policy: &self.directory.policy.revision,
        };
        if let Err(block) =
            self.record_statement(statement, judged.decision.as_deref(), judged.refused.as_deref(), now)
        {
            judged.refused = Some(block);
        }
        judged
    }

    /// Takes note of what a statement may do that is on its way.
    pub(crate) fn sends(&mut self, decision: &Decision) {
        let (does, code) = (decision.mentions, decision.code());
        self.quoting_at_risk |=
            does.quoting || code.quoting || (does.resumes && self.tables.lurking().quoting);
        self.tables.lurks(code);
        self.estranged |= code.settings;
    }

    /// The same of one nobody judged.
    pub(crate) fn sends_unknown(&mut self) {
        (self.quoting_at_risk, self.estranged) = (true, true);
        self.tables.lurks(Mentions::ALL);
    }

    /// Records a statement with its verdict. The error is a refusal: what cannot be recorded does not run.
    pub(crate) fn record_statement<'a>(
        &self,
        statement: Statement<'a>,
        decision: Option<&Decision>,
        refused: Option<&'a Block>,
        now: Now,
    ) -> Result<(), Box<Block>> {
        if !self.recording() {
            return Ok(());
        }
        let observed = decision.map(|d| d.observed.join(",")).unwrap_or_default();
        let mut statement: Statement<'_> = statement;
        (statement.verdict, statement.rules) = match (refused, decision) {
            (Some(block), _) => (Recorded::Block, block.rule.as_str()),
            (None, Some(_)) if !observed.is_empty() => (Recorded::Observe, observed.as_str()),
            (None, Some(d)) if self.scope.masks() && !d.clean => (Recorded::Mask, ""),
            (None, None) if self.scope.masks() => (Recorded::Mask, ""),
            _ => (Recorded::Allow, ""),
        };
        self.shared.record(self.id, now, What::Statement(statement)).map_err(|_| {
            Box::new(Block {
                rule: "recording".into(),
                place: String::new(),
                message: "the record cannot be written, and nothing runs unrecorded".into(),
                sqlstate: "53100",
                schema: None,
                table: None,
                column: None,
                hint: "tell the operator of the gateway: the disk under its record is full or broken".into(),
            })
        })
    }

    /// Records what became of a statement and begins a new result.
    pub(crate) fn finish(&mut self, number: u64, since: u64, now: Now, sqlstate: &str) -> Result<(), Fault> {
        let current = std::mem::take(&mut self.current);
        if let Metering::Counted(meter) = &current.metering {
            for limit in meter.observed() {
                let detail = format!("{}: would have ended statement {number} (observe)", limit.rule);
                self.shared.record(self.id, now, What::Gateway { event: "row limit", detail: &detail })?;
            }
        }
        if !self.recording() || number == 0 {
            return Ok(());
        }
        let own = current.sqlstate.as_ref().and_then(|s| str::from_utf8(s).ok());
        self.shared.record(
            self.id,
            now,
            What::Outcome(Outcome {
                number,
                rows: current.rows,
                bytes: current.bytes,
                masked_cells: current.masked,
                sqlstate: own.unwrap_or(sqlstate),
                micros: now.mono_ns.saturating_sub(since) / 1000,
            }),
        )
    }

    /// Which limits hold for the rows of the current result; asked when the first of them comes.
    #[inline]
    pub(crate) fn metering(&mut self, now: Now) -> &mut Metering {
        if matches!(self.current.metering, Metering::Unasked) {
            self.current.metering = self.begin_metering(now);
        }
        &mut self.current.metering
    }

    #[cold]
    fn begin_metering(&mut self, now: Now) -> Metering {
        let decision = match self.owed.front() {
            Some(Owed::Query { decision, .. }) => decision.clone(),
            Some(Owed::Execute { portal, .. }) => match self.tables.portals.get_mut(portal) {
                Some(portal) => {
                    if let Some(meter) = portal.meter.take() {
                        // The rest of a portal that was suspended is the same result.
                        return Metering::Counted(meter);
                    }
                    portal.decision.clone()
                }
                None => None,
            },
            _ => None,
        };
        // A FETCH says nothing of what it reads; the cursor's DECLARE did.
        let kept = self.tables.kept(decision.as_ref());
        let unknown: Vec<Limited>;
        let limits = match kept.or(decision.as_ref()) {
            Some(decision) => decision.limits.as_slice(),
            None => {
                unknown = self.scope.row_limits().iter().cloned().map(Limited::unknown).collect();
                &unknown
            }
        };
        let identity = &self.identity.subject.identity;
        let meter = Meter::new(limits, &self.shared.budgets, identity, now);
        meter.map_or(Metering::Free, |meter| Metering::Counted(Box::new(meter)))
    }

    /// Ends the current result for the client with the limit's error. The server is not believed to have noticed.
    pub(crate) fn cut(&mut self, flow: &mut Flow<'_>, cut: &Cut) -> Result<(), Fault> {
        let number = match self.owed.front() {
            Some(Owed::Query { number, .. } | Owed::Execute { number, .. }) => *number,
            _ => return Err(Fault::Bug("rows without a statement")),
        };
        let block = cut.limit.refusal(cut.hourly);
        let id = self.decision_id(number);
        refuse::cut(flow.own(Side::Client), &block, &id, self.deny_detail());
        let mut state = *b"54000";
        if let Some(code) = block.sqlstate.as_bytes().first_chunk() {
            state = *code;
        }
        self.current.sqlstate = Some(state);
        self.cut = Some(Box::new(CutShort { number, tries: COURIERS_EACH, sqlstate: None }));
        let detail = format!(
            "{}: {} after {} rows of statement {number}",
            block.rule, block.message, self.current.rows
        );
        self.shared.record(self.id, flow.now(), What::Gateway { event: "row limit", detail: &detail })
    }

    /// What is here was read and the cut result goes on: has it cancelled, if that can hit nothing else.
    ///
    /// What the client has sent behind the next ReadyForQuery would be hit by a cancel that comes late; then all of the result is
    /// read away. What it has sent before it is answered with the one error the client has, as after any error.
    #[cold]
    pub(crate) fn cancel_rest(&mut self) -> Step {
        let Some(cut) = self.cut.as_mut().filter(|cut| cut.tries > 0) else { return Step::READ };
        let number = cut.number;
        let courier = match &self.errand {
            Some(errand) if errand.progress.get() != Progress::Waiting || errand.wanted.get().is_some() => {
                return Step::READ;
            }
            _ if !self.owed.nothing_behind_ready() => None,
            // It was not needed the last time, and has not ended yet: this time it may be.
            Some(errand) => {
                errand.wanted.set(Some(number));
                cut.tries -= 1;
                return Step::READ;
            }
            None => self.shared.cancels.find(self.pid, &self.key),
        };
        let Some(cancel) = courier else {
            cut.tries = 0;
            return Step::READ;
        };
        cut.tries -= 1;
        let errand = Rc::new(Errand {
            shared: self.shared.clone(),
            session: self.id,
            wanted: Cell::new(Some(number)),
            progress: Cell::new(Progress::Waiting),
        });
        self.errand = Some(errand.clone());
        Step::Beside(Box::new(Courier::beside(cancel, errand)))
    }

    /// The courier is gone. One that did not reach the target may be followed by another.
    pub(crate) fn parted(&mut self) -> Step {
        if let (Some(errand), Some(cut)) = (self.errand.take(), &mut self.cut)
            && errand.progress.get() == Progress::Delivered
        {
            cut.tries = 0;
        }
        self.cancel_rest()
    }

    /// A cut result goes on, or there is still a courier for one.
    pub(crate) fn is_cutting(&self) -> bool {
        self.cut.is_some() || self.errand.is_some()
    }

    /// What the client says next would be behind a statement that is to be cancelled, or may still be: it waits, unread, until the
    /// database is ready and the courier's connection closed.
    #[cold]
    pub(crate) fn awaits_courier(&self) -> bool {
        match &self.cut {
            Some(_) => self.owed.ends_with_ready(),
            None => self.errand.as_ref().is_some_and(|errand| errand.progress.get() != Progress::Waiting),
        }
    }

    /// The cut result is over: ReadyForQuery came.
    pub(crate) fn cut_is_over(&mut self, now: Now) -> Result<(), Fault> {
        let Some(cut) = self.cut.take() else { return Ok(()) };
        if let Some(errand) = &self.errand {
            errand.wanted.set(None);
        }
        let detail = match cut.sqlstate.as_ref().and_then(|s| str::from_utf8(s).ok()) {
            Some(state) => format!("statement {}: the database ended it with SQLSTATE {state}", cut.number),
            None => format!("statement {}: it ran to its end on the database", cut.number),
        };
        self.shared.record(self.id, now, What::Gateway { event: "row limit", detail: &detail })
    }

    /// Says goodbye to a client that is between messages, and closes.
    pub(crate) fn goodbye(&mut self, flow: &mut Flow<'_>, sqlstate: &str, message: &str, hint: &str) -> Step {
        if matches!(self.server_body, ServerBody::None) {
            refuse::fatal(flow.own(Side::Client), sqlstate, message, hint);
        }
        self.leave(flow)
    }

    /// Ends the target's session in an orderly way; a statement still running is cancelled.
    pub(crate) fn leave(&mut self, flow: &mut Flow<'_>) -> Step {
        if self.quiet() {
            flow.send(Side::Server, b"X\0\0\0\x04");
            return Step::CLOSE;
        }
        let cancel = self.shared.cancels.find(self.pid, &self.key);
        let courier = cancel.map(|c| Box::new(Courier::new(c)) as Box<dyn flow::Session>);
        Step::Close { then: courier }
    }

    /// The last entry of a session; whoever finds the reason first writes it.
    pub(crate) fn record_end(&mut self, now: Now, reason: &str) -> Result<(), Fault> {
        if self.ended.replace(true) {
            return Ok(());
        }
        // Another session sees that it waits, and for what: as good as the error that will not come any more.
        if let Some(decision) = self.running().map(Arc::clone) {
            self.told(&decision, now);
        }
        self.shared.record(
            self.id,
            now,
            What::Closed {
                reason,
                statements: self.number,
                from_client: self.from_client,
                to_client: self.to_client,
            },
        )
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(errand) = &self.errand {
            errand.wanted.set(None);
        }
        self.shared.cancels.forget(self.pid, &self.key);
    }
}

/// The digest of a value that is written out.
fn value_written(probe: &Probe) -> Option<u64> {
    probe.value.parameter().is_none().then(|| probe.value.digest(None)).flatten()
}

/// The last eight characters of a ULID's text, lower case (Crockford's base 32): its last 40 bits.
pub(crate) fn short_id(id: &SessionId) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let tail = id.iter().rev().take(5).rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    (0..8)
        .rev()
        .map(|i| {
            let digit = usize::try_from(tail >> (5 * i) & 31).unwrap_or(0);
            char::from(DIGITS.get(digit).copied().unwrap_or(b'0'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn short_ids_are_crockford() {
        assert_eq!(super::short_id(&[0xff; 16]), "zzzzzzzz");
        let mut id = [0; 16];
        id[15] = 33;
        assert_eq!(super::short_id(&id), "00000011");
    }
}
