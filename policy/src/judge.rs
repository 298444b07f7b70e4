//! A [`Scope`](crate::Scope) bound to a catalogue: answers what may run and what must be masked.
//!
//! Not a parser and not a proof ([`crate::sql`] is both); this is where rules meet facts. Invariant: for a scope with an enforced
//! rule, a text that is not understood is refused, and an output column of unproved origin is redacted. Source: masking.md.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pg_raw_parse::{Node, ParseResult, nodes};

use crate::catalog::{Catalog, Follows, Table};
use crate::facts::{Column, Format};
use crate::lineage::{ColumnName, Lineage, OutputColumn};
use crate::mask::{Cell, Text, Treatment};
use crate::plan::{CopyBinary, CopyPlan, CopyRows, Plan};
use crate::rule::{
    Action, Asking, BlockRule, Compiled, OnlyRule, Predicates, RowLimit, RowsRule, Scope, TablePattern,
};
use crate::shape;
use crate::sql::behind::Behind;
use crate::sql::children::{Unknown, children};
use crate::sql::commands;
use crate::sql::facts::{self, Act, Copy, Facts, Name, Value};
use crate::sql::known::{self, Part, listed};
use crate::sql::lineage::{self, Index, Prover, Question, Taints};
use crate::sql::literal;
use crate::sql::mentions::Mentions;
use crate::sql::swept;
use crate::sql::trace::{self, Base, Place, Summaries, Trace, World};
use crate::sql::views::{View, Views};
use crate::sql::{self, Refusal};
use crate::verdict::{Block, Pass, Verdict};

/// Judges statements and result shapes for one scope against one catalogue snapshot.
#[derive(Debug, Clone)]
pub struct Judge {
    pub(crate) scope: Arc<Scope>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) bound: Arc<Bound>,
    /// Of one session only ([`Judge::with_made`]).
    pub(crate) made: Arc<[Made]>,
}

/// A table that a session made in a transaction that is still open, as it may be named: nobody else sees it, and what is in it was
/// stored under these rules, so nothing of it is masked. A temporary one has no schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub schema: Option<String>,
    pub name: String,
}

impl Made {
    pub(crate) fn is(&self, name: Name<'_>) -> bool {
        let schema = name.schema.filter(|s| *s != "pg_temp");
        self.name == name.name && self.schema.as_deref() == schema
    }
}

/// What was decided about one statement text (a simple-query string may hold several statements).
#[derive(Debug, Clone)]
pub struct Decision {
    pub verdict: Verdict,
    /// Names of rules in observe mode that would have blocked or masked.
    pub observed: Vec<String>,
    /// Proved: no output of any statement can derive from a masked column, so its rows pass unseen. False when in doubt.
    pub clean: bool,
    /// The statement reads a masked column, or nobody could prove that it does not: error and notice texts are withheld.
    /// True as well for clean statements that write where an error could show a masked table's row (constraint errors do), or where
    /// code of users may speak.
    pub withhold: bool,
    /// For the n-th COPY … TO STDOUT of the text (in order): how to mask it.
    pub copies: Vec<CopyPlan>,
    /// It creates, alters or drops something: the catalogue is stale after it.
    pub ddl: bool,
    /// For a text of one statement: what is known of each output column, the first of two witnesses ([`Judge::plan_for`]).
    pub outputs: Option<Vec<Origin>>,
    /// Of a text of several statements, in order, what is known of the answer of each: its `clean` and `outputs`, and nothing else is
    /// said there. The server ends each with one CommandComplete. Empty where all are clean, or too many.
    pub each: Vec<Arc<Decision>>,
    /// The cursor or prepared statement a text of one statement makes or uses by name (see [`Kept`]).
    pub kept: Option<Kept>,
    /// Another literal in the same place could have led to another decision: cached under its exact text only.
    pub literals_matter: bool,
    /// How many rows its results may have: each limit holds for every result of the text that is rows or a COPY TO STDOUT. The hourly
    /// budget of a limit is the identity's and the rule's ([`RowLimit`]), over all sessions and connections; what counts is rows that
    /// the server sent for this text, masked or not.
    pub limits: Vec<Limited>,
    /// Values of masked columns it asks about ([`Probe`]).
    pub probes: Vec<Probe>,
    /// Budgets that its errors count against, those about values already there ([`Judge::met`]), waits that end, and what a check or a
    /// computation says of a value: when one is used up, it is not sent. The values are not told.
    pub conflicts: Vec<Probe>,
    /// It names a relation that the catalogue does not have. What was decided may be wrong where that exists by now: a newer catalogue
    /// is to be asked for first.
    pub unknown_tables: bool,
    /// The table that a text of one statement makes, once it succeeded.
    pub makes: Option<Made>,
    /// After it a name may mean another table than before.
    pub moves_names: bool,
    /// It reads nothing but tables that its session has made ([`Judge::with_made`]).
    pub own: bool,
    /// It calls a function that is not known to be harmless, or runs code: what it does besides its own text is anybody's guess.
    pub strangers: bool,
    /// How often it runs what a name stands for (SQL's EXECUTE), with values of its own.
    pub executes: usize,
    pub mentions: Mentions,
    /// What code of users may do that it sets in motion without naming it: behind views, triggers, rules, defaults and types.
    pub behind: Mentions,
}

/// What the analysis says of an output column, before the server has said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nothing it derives from is masked.
    Clean,
    /// It is a masked column, or derives from one.
    Masked,
    /// It is computed from how things are defined, or from settings: masked whole, but a NULL of it tells of no row.
    Defined,
    /// It says how something is defined, and may repeat somebody's values: its constants are masked.
    Definition(Text),
    /// It cannot be told.
    Unknown,
}

/// One value that a statement compares with a masked column. Whether a row comes back, and how many, tells whether the guess was
/// right; no mask can hide that, so guesses are counted instead: a session that meets a decision with probes adds each to the set of
/// distinct values its identity has asked under [`Probe::rule`] in this hour, over all its sessions, before the statement is sent, and
/// refuses it ([`Probe::refusal`]) when the set would grow past [`Probe::per_hour`]. A value asked twice counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The mask rule: with the identity the key of the budget.
    pub rule: Arc<str>,
    /// Table OID and attribute number; part of what makes a value distinct.
    pub column: (u32, i16),
    pub value: ProbeValue,
    pub per_hour: u32,
    /// False: the rule only observes; count and record, and refuse nothing.
    pub enforce: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeValue {
    /// [`Probe::digest`] of the value as it is written. The decision is then cached under its exact text.
    Literal(u64),
    /// The value of parameter `$n` (from 1), whatever its format: take [`Probe::digest`] of its bytes when it is bound. In a PREPARE
    /// of SQL the values come with EXECUTE, in its text: count the text's digest.
    Parameter(u16),
    /// A value that the text makes of one parameter (`lower($1)`): together they say which.
    Computed {
        /// From 1.
        number: u16,
        text: u64,
    },
}

impl ProbeValue {
    /// The parameter its value comes with, from 1.
    pub fn parameter(&self) -> Option<u16> {
        match self {
            ProbeValue::Literal(_) => None,
            ProbeValue::Parameter(number) | ProbeValue::Computed { number, .. } => Some(*number),
        }
    }

    /// What is counted when its parameter is `bound`; `None`: nothing is, because NULL equals nothing.
    pub fn digest(&self, bound: Option<&[u8]>) -> Option<u64> {
        match (self, bound) {
            (ProbeValue::Literal(digest), _) => Some(*digest),
            (ProbeValue::Parameter(_), bound) => bound.map(Probe::digest),
            // What is computed of NULL may be something.
            (ProbeValue::Computed { text, .. }, None) => Some(*text),
            (ProbeValue::Computed { text, .. }, Some(bound)) => {
                Some(Probe::digest(&[&text.to_be_bytes()[..], bound].concat()))
            }
        }
    }
}

impl Probe {
    /// What two equal values have in common. Not a secret and not to be recorded: short values can be guessed from it.
    pub fn digest(value: &[u8]) -> u64 {
        let digest = ring::digest::digest(&ring::digest::SHA256, value);
        digest.as_ref().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
    }

    pub fn refusal(&self) -> Block {
        Block {
            rule: self.rule.to_string(),
            place: String::new(),
            message: "too many different values of a masked column were asked about".to_owned(),
            sqlstate: "54000",
            schema: None,
            table: None,
            column: None,
            hint: format!(
                "The limit is {} different values in an hour. Wait, or ask the owner of this connection.",
                self.per_hour
            ),
        }
    }
}

/// A row limit that holds for a statement's results, and what one row counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    pub limit: Arc<RowLimit>,
    /// How many stored rows one row can carry by the shape of the FROM lists: a table joined with itself counts twice.
    pub weight: u64,
    /// It can carry any number ([`Limited::BYTES_PER_ROW`] says how they are counted): an aggregate that keeps its inputs, recursion, a
    /// function nobody knows.
    pub collects: bool,
    /// The statement asks for a few rows by its form ([`facts::few`]): it may use what of a budget is kept for such.
    pub few: bool,
}

impl Limited {
    /// What a collected row is taken to be at least, in bytes of the row that carries it: less than most, so that collecting is never
    /// the cheaper way.
    pub const BYTES_PER_ROW: u64 = 8;

    /// Stored rows in one row that are too many to be shown by an error, which nobody counts.
    const MANY: u64 = 8;

    /// A limit on results of which nothing is known.
    pub fn unknown(limit: Arc<RowLimit>) -> Limited {
        Limited { limit, weight: 1, collects: true, few: false }
    }
}

/// What SQL keeps under a name: cursors and prepared statements. A FETCH or an EXECUTE says nothing of what it reads, so its own
/// decision is never clean; a session that remembers the decision of the DECLARE or PREPARE (once it succeeded) may plan the rows with
/// that one instead.
///
/// It must forget cursors when a transaction ends (but those held) or is rolled back to a savepoint, at CLOSE and DISCARD, and after every statement
/// that is not clean or is withheld, because code of users may close a cursor and open another of its name. It must forget prepared
/// statements after whatever may prepare or deallocate one ([`Mentions::statements`], `strangers`, also where it failed: these are not
/// undone), and one when the protocol closes or parses its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// `hold`: it outlives its transaction.
    Declared {
        name: String,
        hold: bool,
    },
    Fetched(String),
    /// `typed`: its parameters are declared, of built-in types.
    Prepared {
        name: String,
        typed: bool,
    },
    /// Given constants only, which may show in the answer: a call could read anything. `strings`: nothing but strings and NULL, which
    /// no cast of users turns into something else.
    Executed {
        name: String,
        strings: bool,
    },
}

impl Kept {
    fn of(statement: Node<'_>) -> Option<Kept> {
        Some(match statement {
            // CURSOR_OPT_HOLD, parsenodes.h.
            Node::DeclareCursorStmt(d) => {
                Kept::Declared { name: d.portalname()?.to_owned(), hold: d.options & 0x20 != 0 }
            }
            Node::FetchStmt(f) => Kept::Fetched(f.portalname()?.to_owned()),
            Node::PrepareStmt(p) => {
                let typed = !p.argtypes().is_empty() && p.argtypes().iter().all(lineage::built_in);
                Kept::Prepared { name: p.name()?.to_owned(), typed }
            }
            Node::ExecuteStmt(e) => {
                let mut strings = true;
                for given in e.params() {
                    let Node::A_Const(constant) = given else { return None };
                    use pg_raw_parse::ConstValue as Value;
                    strings &= matches!(literal::value(constant), None | Some(Value::String(_)));
                }
                Kept::Executed { name: e.name()?.to_owned(), strings }
            }
            _ => return None,
        })
    }

    pub fn name(&self) -> &str {
        match self {
            Kept::Declared { name, .. }
            | Kept::Fetched(name)
            | Kept::Prepared { name, .. }
            | Kept::Executed { name, .. } => name,
        }
    }

    /// `self` is what `used` names, and what it is given cannot change what it answers.
    pub fn serves(&self, used: &Kept) -> bool {
        match (self, used) {
            (Kept::Declared { name, .. }, Kept::Fetched(wanted)) => name == wanted,
            (Kept::Prepared { name, typed }, Kept::Executed { name: wanted, strings }) => {
                name == wanted && (*typed || *strings)
            }
            _ => false,
        }
    }
}

impl Decision {
    fn allowed() -> Decision {
        Decision {
            verdict: Verdict::Pass,
            observed: Vec::new(),
            clean: true,
            withhold: false,
            copies: Vec::new(),
            ddl: false,
            outputs: None,
            each: Vec::new(),
            kept: None,
            literals_matter: false,
            limits: Vec::new(),
            probes: Vec::new(),
            conflicts: Vec::new(),
            unknown_tables: false,
            makes: None,
            moves_names: false,
            own: false,
            strangers: false,
            executes: 0,
            mentions: Mentions::default(),
            behind: Mentions::default(),
        }
    }

    /// What code of users may do that it sets in motion.
    pub fn code(&self) -> Mentions {
        if self.strangers { Mentions::ALL } else { self.behind }
    }

    /// Evidence that the statement may be sent; none when it is refused.
    pub fn evidence(&self) -> Option<Pass> {
        (self.verdict == Verdict::Pass).then(Pass::judged)
    }

    fn blocked(block: Block) -> Decision {
        Decision {
            verdict: Verdict::Block(block),
            clean: false,
            withhold: true,
            literals_matter: true,
            ..Decision::allowed()
        }
    }
}

/// A scope's rules resolved against one catalogue.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    /// Unique in this process: two bindings never share a cached decision.
    pub id: u64,
    index: Index,
    taints: Taints,
    /// What functions of users show, those that can be told.
    summaries: Summaries,
    /// What becomes of each tainted column rules name, by table and number, and the first of those rules: its index in the scope.
    masks: HashMap<(u32, i16), (usize, Treatment)>,
    /// How each of them may be asked about: the strictest rule.
    asking: HashMap<Base, (usize, Asking)>,
    /// The same for rules in observe mode.
    observed: Taints,
    observed_masks: HashMap<(u32, i16), (usize, Treatment)>,
    /// For each rule of the scope: the relations its `tables` reach by descent or through views.
    reach: Vec<HashSet<u32>>,
    /// Tables a write to which can only fail with words about rows that are not masked.
    quiet: HashSet<u32>,
    /// The same for the end of a transaction, whatever was written in it.
    quiet_commit: bool,
    views: Views,
    /// By table: masked columns that a write to it, or to its descendants, is compared with.
    compared: HashMap<u32, Vec<Base>>,
    unresolved: Vec<String>,
    behind: Behind,
}

impl Bound {
    pub(crate) fn new(id: u64, scope: &Scope, catalog: &Catalog) -> Bound {
        let (index, behind) = (Index::new(catalog), Behind::new(catalog));
        let mut bound = Bound { id, index, behind, ..Bound::default() };
        let family = Family::new(catalog);
        for enforce in [true, false] {
            let mut named: HashMap<u32, Vec<i16>> = HashMap::new();
            let mut masks: HashMap<(u32, i16), (usize, Treatment)> = HashMap::new();
            for (i, rule) in scope.rules.iter().enumerate() {
                let Action::Mask { columns, mask, asking } = &rule.action else { continue };
                if rule.enforce != enforce {
                    continue;
                }
                for pattern in columns {
                    let mut found = false;
                    for table in
                        catalog.tables.iter().filter(|t| pattern.table.matches(Some(&t.schema), &t.name))
                    {
                        for oid in family.of(table.oid) {
                            let Some(relative) = bound.index.table(catalog, oid) else { continue };
                            for column in &relative.columns {
                                if !column.name.eq_ignore_ascii_case(&pattern.column) {
                                    continue;
                                }
                                found = true;
                                named.entry(oid).or_default().push(column.number);
                                if enforce {
                                    let at = bound.asking.entry((oid, column.number)).or_insert((i, *asking));
                                    if asking.stricter(&at.1) {
                                        *at = (i, *asking);
                                    }
                                }
                                masks
                                    .entry((oid, column.number))
                                    .and_modify(|(_, joined)| joined.join(mask))
                                    .or_insert_with(|| (i, mask.clone()));
                            }
                        }
                    }
                    if !found {
                        let schema = pattern.table.schema.as_deref().unwrap_or("*");
                        bound.unresolved.push(format!(
                            "{}: {schema}.{}.{}",
                            rule.name, pattern.table.table, pattern.column
                        ));
                    }
                }
            }
            let (taints, summaries) = lineage::spread(catalog, &bound.index, &named);
            if enforce {
                bound.index.find_telling(catalog, &taints, &summaries);
                (bound.taints, bound.masks, bound.summaries) = (taints, masks, summaries);
            } else {
                (bound.observed, bound.observed_masks) = (taints, masks);
            }
        }
        (bound.quiet, bound.quiet_commit) = quiet(catalog, &bound.taints);
        if catalog.constraints.is_none() {
            // Nobody knows what is compared: everything.
            for (table, taint) in &bound.taints {
                let all: Vec<Base> = taint.columns.values().map(|number| (*table, *number)).collect();
                for relative in family.of(*table) {
                    bound.compared.entry(relative).or_default().extend(&all);
                }
            }
        }
        for constraint in catalog.constraints.iter().flatten() {
            for base in constraint.compares.iter().filter(|b| lineage::hidden(&bound.taints, **b)) {
                for table in family.of(constraint.table) {
                    let compared = bound.compared.entry(table).or_default();
                    if !compared.contains(base) {
                        compared.push(*base);
                    }
                }
            }
        }
        bound.views = Views::new(catalog, &bound.index);
        for rule in &scope.rules {
            bound.reach.push(reach(&reached(&rule.action), catalog, &family, &bound.views.uses));
        }
        bound
    }
}

/// Inheritance and partitions: a row of a child is a row of its parents.
struct Family {
    parents: HashMap<u32, Vec<u32>>,
    children: HashMap<u32, Vec<u32>>,
}

impl Family {
    fn new(catalog: &Catalog) -> Family {
        let mut family = Family { parents: HashMap::new(), children: HashMap::new() };
        for table in &catalog.tables {
            for parent in &table.parents {
                family.parents.entry(table.oid).or_default().push(*parent);
                family.children.entry(*parent).or_default().push(table.oid);
            }
        }
        family
    }

    /// The table, its descendants, and its ancestors (reading those reads it).
    fn of(&self, oid: u32) -> HashSet<u32> {
        let mut found = HashSet::from_iter([oid]);
        for side in [&self.children, &self.parents] {
            let mut stack = vec![oid];
            while let Some(next) = stack.pop() {
                stack.extend(side.get(&next).into_iter().flatten().copied().filter(|o| found.insert(*o)));
            }
        }
        found
    }
}

/// The tables whose constraints speak of unmasked rows only. A constraint's error shows the row or key of the table it stands on, so
/// a table is loud when it hides something, when code runs on its writes, and when a write goes on to a loud one: into its
/// descendants, or along foreign keys that cascade.
fn quiet(catalog: &Catalog, taints: &Taints) -> (HashSet<u32>, bool) {
    let Some(writes) = &catalog.writes else { return (HashSet::new(), false) };
    let mut leads_to: HashMap<u32, Vec<u32>> = HashMap::new();
    for (from, to) in &writes.cascades {
        leads_to.entry(*to).or_default().push(*from);
    }
    let mut stack: Vec<u32> = writes.code.iter().chain(taints.keys()).copied().collect();
    let mut tables = HashSet::new();
    for table in &catalog.tables {
        for parent in &table.parents {
            leads_to.entry(table.oid).or_default().push(*parent);
        }
        if matches!(table.kind, 'r' | 'p') && lineage::system(&table.schema, &table.name).is_none() {
            tables.insert(table.oid);
        } else {
            stack.push(table.oid);
        }
    }
    let mut loud = HashSet::new();
    while let Some(oid) = stack.pop() {
        if loud.insert(oid) {
            stack.extend(leads_to.get(&oid).into_iter().flatten());
        }
    }
    tables.retain(|oid| !loud.contains(oid));
    let quiet_commit = writes.deferred.iter().all(|oid| tables.contains(oid));
    (tables, quiet_commit)
}

/// The tables a rule reaches through views and by descent.
fn reached(action: &Action) -> Vec<TablePattern> {
    match action {
        Action::Block(block) => block.tables.clone(),
        Action::Rows(rows) => {
            rows.tables.iter().chain(rows.columns.iter().map(|c| &c.table)).cloned().collect()
        }
        Action::Mask { .. } => Vec::new(),
    }
}

fn reach(
    tables: &[TablePattern],
    catalog: &Catalog,
    family: &Family,
    uses: &HashMap<u32, Vec<u32>>,
) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut stack: Vec<u32> = catalog
        .tables
        .iter()
        .filter(|t| tables.iter().any(|p| p.matches(Some(&t.schema), &t.name)))
        .flat_map(|t| family.of(t.oid))
        .collect();
    while let Some(oid) = stack.pop() {
        if found.insert(oid) {
            stack.extend(uses.get(&oid).into_iter().flatten());
        }
    }
    found
}

/// What a text sets in motion: functions by name, and places of rewrite rules in the catalogue's list.
#[derive(Default)]
struct Moved {
    functions: BTreeSet<String>,
    /// Those that run without being named there: by views, defaults, checks, types, aggregates and operators.
    unnamed: BTreeSet<String>,
    rules: BTreeSet<usize>,
}

/// What a statement stands in: nothing, or the body of a function or a rule's action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Nothing,
    /// The text calls each function once.
    Once,
    Rows,
}

/// Events as [`crate::catalog::Code::fired`] has them.
const INSERT: i16 = 4;
const DELETE: i16 = 8;
const UPDATE: i16 = 16;
const TRUNCATE: i16 = 32;

/// Statements of one text whose answers are told apart.
const EACH_MAX: usize = 64;

/// How far triggers that fire triggers are followed.
const MOTIONS_MAX: usize = 6;

/// What is done where a statement stands: of a rewrite rule its actions.
fn actions(statement: Node<'_>) -> Vec<Node<'_>> {
    match statement {
        Node::RuleStmt(rule) => rule.actions().iter().collect(),
        statement => vec![statement],
    }
}

/// What one statement of a text adds to the decision.
struct Judged {
    block: Option<Block>,
    clean: bool,
    /// Its errors may show what its answer does not.
    loud: bool,
    outputs: Option<Vec<Origin>>,
}

impl Judge {
    pub fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The same where a session has made these tables. What it decides is that session's: it is not for a cache.
    pub fn with_made(&self, made: Arc<[Made]>) -> Judge {
        Judge { made, ..self.clone() }
    }

    /// Mask rules whose columns the catalogue does not have: a typing mistake, or tables yet to come.
    pub fn unresolved(&self) -> &[String] {
        &self.bound.unresolved
    }

    /// Judges a statement text. `sql` is what the server will parse (without the terminating NUL). Never panics; cost bounded.
    /// The text is read with `standard_conforming_strings = on` and as UTF-8; where a session has it otherwise, ask
    /// [`Judge::unreadable`].
    pub fn statement(&self, sql: &[u8]) -> Arc<Decision> {
        if self.scope.is_empty() {
            return Arc::new(Decision::allowed());
        }
        // The library's typed accessors panic on a tree they did not expect; such a text is one nobody understands.
        let decision = catch_unwind(AssertUnwindSafe(|| self.decide(sql)))
            .unwrap_or_else(|_| self.refuse(&Refusal::Unclear("the analysis failed")));
        Arc::new(Decision { mentions: Mentions::of(sql), ..decision })
    }

    /// The decision for a text whose lexical rules are not the ones we know (`standard_conforming_strings = off`, a client encoding in
    /// which a byte that looks like ASCII may be half of another character).
    pub fn unreadable(&self) -> Arc<Decision> {
        if self.scope.is_empty() {
            return Arc::new(Decision::allowed());
        }
        let mut decision = self.refuse(&Refusal::Unclear(
            "this session reads strings, or is sent them, in a way the gateway does not follow",
        ));
        if let Verdict::Block(block) = &mut decision.verdict {
            block.hint = "Connect with client_encoding=UTF8 (PGCLIENTENCODING=UTF8) and standard_conforming_strings=on.".into();
        }
        Arc::new(decision)
    }

    fn refuse(&self, refusal: &Refusal) -> Decision {
        if !self.scope.enforces {
            let observed = vec![NOT_UNDERSTOOD.to_owned()];
            return Decision { observed, literals_matter: true, ..Decision::allowed() };
        }
        Decision::blocked(match refusal {
            Refusal::Syntax(message) => Block {
                hint: "Correct the statement. Statements that cannot be read are not sent on while a rule is in force.".into(),
                ..built_in(
                    NOT_UNDERSTOOD,
                    "42601",
                    format!("{message}, refused by the gateway because only statements it can read may pass"),
                )
            },
            Refusal::Limit(why) => Block {
                hint: "Send it in smaller parts: fewer values, rows or statements at once. COPY has no such bound.".into(),
                ..built_in(NOT_UNDERSTOOD, "54000", format!("statement could not be analysed: {why}"))
            },
            Refusal::Unclear(why) => built_in(NOT_UNDERSTOOD, "42501", format!("statement could not be analysed: {why}")),
        })
    }

    /// What a statement is, and what it calls by whatever notation.
    fn facts<'n>(&self, statement: Node<'n>) -> Result<Facts<'n>, Unknown> {
        let mut facts = facts::read(statement)?;
        self.bound.index.dotted(&mut facts);
        Ok(facts)
    }

    fn decide(&self, sql: &[u8]) -> Decision {
        let tree = match sql::parse(sql) {
            Ok(tree) => tree,
            Err(refusal) => return self.refuse(&refusal),
        };
        let mut decision = Decision::allowed();
        let mut first_block = None;
        let mut count = 0usize;
        literal::take_read();
        let several = tree.stmts().nth(1).is_some();
        if several && !self.made.is_empty() {
            // One of them may drop it.
            return self.with_made(Arc::default()).decide(sql);
        }
        let forms = self.forms(sql, &tree);
        let bodies = self.bodies(&tree);
        let within: Vec<(Node<'_>, Facts<'_>)> = bodies
            .iter()
            .flat_map(|tree| tree.stmts())
            .flat_map(actions)
            .filter_map(|statement| Some((statement, self.facts(statement).ok()?)))
            .collect();
        // Those were literals of the bodies.
        literal::take_read();
        for statement in tree.stmts() {
            count += 1;
            let Ok(mut facts) = self.facts(statement) else {
                return self.refuse(&Refusal::Unclear("it holds a construct nobody here understands"));
            };
            if several && count == 1 {
                facts.acts.push(facts::MULTI_STATEMENT);
            }
            facts.rows_left_out = sql::rows_left_out(sql);
            facts.alone = !several;
            // Its only call is the one we know; a statement before it may make another table of that name.
            if let (Some((setting, value)), [None], false) = (facts.settings_row, &*facts.set_config, several)
            {
                let mut named =
                    self.bound.index.candidates(&self.catalog, Name { schema: None, name: "pg_settings" });
                if named.all(|t| t.schema == "pg_catalog") {
                    facts.set_config = vec![Some((setting, Value::Constant(value)))];
                }
            }
            decision.ddl |= facts.ddl;
            decision.unknown_tables |= self.names_unknown(&facts);
            decision.makes = self.makes(statement);
            decision.moves_names |= moves_names(statement, &facts);
            let made = |name: &Name<'_>| self.made.iter().any(|m| m.is(*name));
            decision.own = !facts.names.is_empty() && facts.names.iter().all(made);
            decision.executes += facts.acts.iter().filter(|a| a.class == "execute").count();
            decision.strangers |= facts.acts.iter().any(|a| matches!(a.class, "do" | "call" | "execute"))
                || facts.functions.iter().any(|f| self.bound.index.stranger(f));
            decision.behind = decision.behind.or(self.behind(statement, &facts));
            decision.literals_matter |=
                !facts.copies.is_empty() || !facts.settings.is_empty() || !facts.set_config.is_empty();
            let form = forms.get(count - 1).map(String::as_str);
            let judged = self.one(statement, &facts, &within, form, &mut decision);
            decision.clean &= judged.clean;
            decision.withhold |= self.scope.masks() && (!judged.clean || judged.loud);
            // An error may show in its words what would be too many rows: `string_agg(…)::int`.
            decision.withhold |=
                self.scope.masks() && decision.limits.iter().any(|l| l.collects || l.weight >= Limited::MANY);
            if several && count <= EACH_MAX {
                let each = Decision { clean: judged.clean, withhold: true, ..Decision::allowed() };
                decision.each.push(Arc::new(Decision { outputs: judged.outputs.clone(), ..each }));
            }
            decision.outputs = judged.outputs;
            decision.kept = Kept::of(statement);
            if first_block.is_none() {
                first_block = judged.block;
            }
        }
        if count != 1 {
            decision.outputs = None;
            decision.kept = None;
            decision.makes = None;
            decision.own = false;
        }
        if decision.clean || count > EACH_MAX {
            decision.each = Vec::new();
        }
        decision.literals_matter |= literal::take_read();
        decision.observed.dedup();
        if let Some(block) = first_block {
            decision.verdict = Verdict::Block(block);
        }
        decision
    }

    /// What code of users may do to the session that a statement sets in motion without calling it.
    fn behind(&self, statement: Node<'_>, facts: &Facts<'_>) -> Mentions {
        let behind = &self.bound.behind;
        let mut all = Mentions::default();
        if behind.is_quiet() {
            return all;
        }
        let of = |name: Name<'_>, written: bool| {
            let named = self.bound.index.candidates(&self.catalog, name);
            named.fold(Mentions::default(), |all, table| all.or(behind.of(table.oid, written)))
        };
        let truncates = facts.acts.iter().any(|a| a.class == "truncate");
        for name in &facts.names {
            all = all.or(of(*name, truncates));
        }
        let copied = facts.copies.iter().filter(|c| c.is_from).filter_map(|c| c.relation);
        for name in facts.acts.iter().filter_map(|a| a.target).chain(copied) {
            all = all.or(of(name, true));
        }
        if facts.commits {
            all = all.or(behind.commits());
        }
        if behind.has_unnamed() {
            let mut stack = vec![statement];
            while let Some(node) = stack.pop() {
                if let Node::TypeName(t) = node {
                    let last = t.names().iter().filter_map(nodes::String::sval).next_back();
                    all = all.or(behind.of_type(last.unwrap_or_default()));
                }
                if let Node::A_Expr(e) = node {
                    let last = e.name().iter().filter_map(Node::as_str).next_back();
                    all = all.or(behind.of_operator(last.unwrap_or_default()));
                }
                if children(node, &mut stack).is_err() {
                    return Mentions::ALL;
                }
            }
        }
        all
    }

    /// What functions of users do that a text calls, and what its writes set in motion by triggers and rules, where a rule blocks
    /// something.
    fn bodies(&self, tree: &ParseResult) -> Vec<ParseResult> {
        let nothing = self.catalog.functions.is_empty() && self.catalog.code.rules.is_empty();
        if nothing
            || !self.scope.rules.iter().any(|r| matches!(&r.action, Action::Block(b) if b.only.is_none()))
        {
            return Vec::new();
        }
        let (mut out, mut known, mut rules) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut moved = Moved::default();
        self.moved(tree, &mut moved);
        for _ in 0..MOTIONS_MAX {
            moved.functions.retain(|f| known.insert(f.clone()));
            moved.unnamed.retain(|f| known.insert(f.clone()));
            moved.rules.retain(|i| rules.insert(*i));
            let called = moved.functions.iter().chain(&moved.unnamed).map(String::as_str);
            let mut trees = self.bound.index.within(&self.catalog, called);
            let texts = moved.rules.iter().filter_map(|i| self.catalog.code.rules.get(*i));
            trees.extend(texts.filter_map(|(_, text)| sql::parse(text.as_bytes()).ok()));
            trees.extend(commands::called(std::mem::take(&mut moved.unnamed)));
            if trees.is_empty() {
                break;
            }
            moved = Moved::default();
            trees.iter().for_each(|tree| self.moved(tree, &mut moved));
            out.extend(trees);
        }
        out
    }

    /// What the statements of a text call, and what fires on their writes.
    fn moved(&self, tree: &ParseResult, moved: &mut Moved) {
        let index = &self.bound.index;
        for statement in tree.stmts().flat_map(actions) {
            let Ok(facts) = self.facts(statement) else { continue };
            moved.functions.extend(facts.functions.iter().map(|f| (*f).to_owned()));
            let made_of = facts.functions.iter().flat_map(|f| index.made_of(f));
            moved.unnamed.extend(made_of.map(|f| f.to_string()));
            if index.runs_unnamed() {
                self.unnamed(statement, moved);
            }
            if facts.ddl {
                moved.functions.extend(self.catalog.code.on_ddl.iter().cloned());
            }
            let fills = facts.acts.iter().any(|a| a.class == "refresh");
            let named: HashSet<Name<'_>> = facts.names.iter().copied().collect();
            let views = named.into_iter().flat_map(|name| self.views(name));
            for view in views.filter(|v| fills || !v.stored) {
                moved.unnamed.extend(view.functions.iter().map(|f| f.to_string()));
            }
            let truncates = facts.acts.iter().any(|a| a.class == "truncate");
            let named = facts.names.iter().filter(|_| truncates).map(|n| ("truncate", *n));
            let copied =
                facts.copies.iter().filter(|c| c.is_from).filter_map(|c| Some(("insert", c.relation?)));
            let written = facts.acts.iter().filter_map(|a| Some((a.class, a.target?)));
            let mut seen = HashSet::new();
            for (class, name) in written.chain(copied).chain(named) {
                let (event, on) = match class {
                    "insert" => (INSERT, "ON INSERT TO"),
                    "delete" => (DELETE, "ON DELETE TO"),
                    "update" => (UPDATE, "ON UPDATE TO"),
                    "truncate" => (TRUNCATE, ""),
                    _ => continue,
                };
                for table in index.candidates(&self.catalog, name) {
                    let all = self.catalog.code.rules.iter().enumerate();
                    let here =
                        all.filter(|(_, (oid, text))| *oid == table.oid && event < 32 && text.contains(on));
                    moved.rules.extend(here.map(|(i, _)| i));
                    for oid in self.bound.views.below(table.oid) {
                        self.fires(oid, event, &facts.sets, &mut seen, moved);
                    }
                }
            }
        }
    }

    /// What code runs on a write to a table, and on those that follow from it by foreign keys.
    fn fires(
        &self,
        table: u32,
        event: i16,
        sets: &[&str],
        seen: &mut HashSet<(u32, i16)>,
        moved: &mut Moved,
    ) {
        let index = &self.bound.index;
        let mut stack = vec![(table, event)];
        while let Some((table, event)) = stack.pop() {
            if !seen.insert((table, event)) {
                continue;
            }
            moved.functions.extend(index.fired(&self.catalog, table, event).map(|f| f.name.clone()));
            if event & (INSERT | UPDATE) != 0 {
                moved.unnamed.extend(index.run(table, event == INSERT).map(str::to_owned));
            }
            let follows = index.follows(&self.catalog, table).filter(|f| f.on == event);
            let changes =
                |f: &&Follows| f.columns.is_empty() || f.columns.iter().any(|c| sets.iter().any(|s| s == c));
            stack.extend(follows.filter(changes).map(|f| (f.to, f.does)));
        }
    }

    /// What types and operators of users run.
    fn unnamed(&self, statement: Node<'_>, moved: &mut Moved) {
        let index = &self.bound.index;
        let mut stack = vec![statement];
        while let Some(node) = stack.pop() {
            let functions = match node {
                Node::TypeName(t) => index.conversions(t),
                Node::A_Expr(e) => {
                    let operator = e.name().iter().next_back().and_then(Node::as_str);
                    operator.map_or(&[][..], |o| index.made_of(o))
                }
                _ => &[],
            };
            moved.unnamed.extend(functions.iter().map(|f| f.to_string()));
            if children(node, &mut stack).is_err() {
                return;
            }
        }
    }

    /// The normal form of each statement, where a rule lists such; none where tokens and grammar do not agree on how many there are.
    fn forms(&self, sql: &[u8], tree: &ParseResult) -> Vec<String> {
        let listed = |rule: &Compiled| matches!(&rule.action, Action::Block(b) if b.only.as_ref().is_some_and(|o| o.shapes.is_some()));
        if !self.scope.rules.iter().any(|r| listed(r)) {
            return Vec::new();
        }
        shape::statements(sql).filter(|forms| forms.len() == tree.stmts().count()).unwrap_or_default()
    }

    /// `within`: what functions of users do that it calls. `form`: the statement's normal form, where a rule asks for it and there is one.
    fn one(
        &self,
        statement: Node<'_>,
        facts: &Facts<'_>,
        within: &[(Node<'_>, Facts<'_>)],
        form: Option<&str>,
        decision: &mut Decision,
    ) -> Judged {
        let mut judged = Judged { block: None, clean: true, loud: self.loud(facts), outputs: None };
        let once = !within.is_empty() && facts::calls_once(statement, &|f| self.bound.index.one_row(f));
        let around = if once { Around::Once } else { Around::Rows };
        for (i, rule) in self.scope.rules.iter().enumerate() {
            let block = match &rule.action {
                Action::Block(block) => match &block.only {
                    Some(only) => self.beyond(only, facts, form).map(|what| beyond(rule, block, what)),
                    None => self
                        .matches(i, block, statement, (facts, Around::Nothing))
                        .or_else(|| {
                            let mut within = within.iter();
                            within.find_map(|(node, facts)| self.matches(i, block, *node, (facts, around)))
                        })
                        .map(|(act, name)| refusal(rule, block, act, name)),
                },
                Action::Rows(rows) => {
                    let mut sent = false;
                    if let Some(limited) = self.limited(i, rows, statement, facts) {
                        sent = facts.functions.contains(&"pg_notify")
                            && (limited.collects || facts::sends_uncounted(statement));
                        merge(&mut decision.limits, limited);
                    }
                    if !sent && !self.stored_elsewhere(i, rows, statement, facts) {
                        continue;
                    }
                    Some(Block {
                        hint: "Rows that are counted may not be stored, or sent, where they are not.".into(),
                        sqlstate: "42501",
                        ..rows.limit.refusal(true)
                    })
                }
                Action::Mask { .. } => continue,
            };
            let Some(block) = block else { continue };
            if !rule.enforce {
                decision.observed.push(rule.name.clone());
            } else if judged.block.is_none() {
                judged.block = Some(block);
            }
        }
        if !self.bound.observed.is_empty() {
            let prover = self.prover(&self.bound.observed);
            let proof = prover.prove(statement, Question::Output);
            for i in self
                .bound
                .observed_masks
                .iter()
                .filter(|((oid, _), _)| proof.hits.contains(oid))
                .map(|(_, (i, _))| *i)
            {
                let name = self.scope.rules.get(i).map(|r| r.name.clone()).unwrap_or_default();
                if !decision.observed.contains(&name) {
                    decision.observed.push(name);
                }
            }
        }
        if !self.scope.enforces {
            pass_copies(facts, decision);
            return judged;
        }
        let guard = self
            .sessions_reading(facts)
            .or_else(|| code(facts))
            .or_else(|| self.catalogue_written(facts))
            .or_else(|| self.renamed(statement))
            .or_else(|| named_as_system(statement, facts, self.scope.masks()));
        if self.scope.masks() {
            self.masked(statement, facts, &mut judged, decision);
        } else {
            pass_copies(facts, decision);
        }
        judged.block = judged.block.or(guard);
        judged
    }

    /// Whether an error of what a statement writes could show a masked table's row.
    fn loud(&self, facts: &Facts<'_>) -> bool {
        let quiet = |name: Option<Name<'_>>| {
            let Some(name) = name else { return false };
            let mut any = false;
            self.bound
                .index
                .candidates(&self.catalog, name)
                .inspect(|_| any = true)
                .all(|t| self.bound.quiet.contains(&t.oid))
                && any
        };
        let loud = |act: &Act<'_>| match act.class {
            "insert" | "update" | "delete" | "merge" => !quiet(act.target),
            "truncate" => true,
            // Indexes are built anew, and expressions worked out.
            "analyze" | "cluster" | "refresh" | "reindex" | "vacuum" => {
                facts.names.is_empty() || !facts.names.iter().all(|name| quiet(Some(*name)))
            }
            _ => false,
        };
        facts.ddl
            || (facts.commits && !self.bound.quiet_commit)
            || facts.acts.iter().any(loud)
            || facts.copies.iter().any(|c| c.is_from && !quiet(c.relation))
    }

    fn prover<'p>(&'p self, taints: &'p Taints) -> Prover<'p> {
        Prover { catalog: &self.catalog, index: &self.bound.index, taints, made: &self.made }
    }

    /// Refuses what changes how later statements are read, where the analysis could not follow.
    fn sessions_reading(&self, facts: &Facts<'_>) -> Option<Block> {
        let lexical = |name: &str| known::LEXICAL_SETTINGS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        let refuse = |name: &str| {
            let message =
                format!("setting {name} to this value is not allowed: it changes how statements are read");
            Some(built_in(CODE_NOT_ANALYSED, "42501", message))
        };
        for (name, values) in &facts.settings {
            if let Some((name, allowed)) = lexical(name) {
                let fine = matches!(values.as_deref(), Some([v]) if allowed.iter().any(|a| a.eq_ignore_ascii_case(v)));
                if !fine {
                    return refuse(name);
                }
            }
        }
        for call in &facts.set_config {
            match call {
                None => return refuse("a parameter whose name is not written out"),
                Some((name, Value::Constant(value))) => {
                    if let Some((name, allowed)) = lexical(name)
                        && !allowed.iter().any(|a| a.eq_ignore_ascii_case(value))
                    {
                        return refuse(name);
                    }
                }
                // Whatever value it gets: asyncpg switches `jit` off and on again this way.
                Some((name, Value::Parameter)) if known::harmless_whatever_value(name) => {}
                Some((name, Value::Parameter)) => return refuse(name),
                Some(_) => return refuse("a parameter whose value is not written out"),
            }
        }
        None
    }

    /// Everything a masking scope asks of a statement.
    fn masked(&self, statement: Node<'_>, facts: &Facts<'_>, judged: &mut Judged, decision: &mut Decision) {
        let prover = self.prover(&self.bound.taints);
        self.conflicts(facts, decision);
        if let Some(block) = self.checks_ask(facts) {
            judged.block.get_or_insert(block);
        }
        if !decision.conflicts.is_empty()
            && let Some(block) = self.sweeps(statement).or_else(|| self.compares_rows(statement, facts))
        {
            judged.block.get_or_insert(block);
        }
        if let Some(copy) = facts.copies.first() {
            self.copy(statement, copy, &prover, judged, decision);
            return;
        }
        let root = facts::act(statement);
        let (class, object) = root.as_ref().map_or(("", ""), |a| (a.class, a.object));
        let hides = |name: &Name<'_>| {
            let mut named = self.bound.index.candidates(&self.catalog, *name);
            named.any(|t| self.bound.taints.get(&t.oid).is_some_and(|taint| !taint.defines()))
        };
        // Without an index it is the order the table has had.
        let orders = matches!(statement, Node::ClusterStmt(c) if c.indexname().is_some());
        if orders && facts.names.iter().any(hides) {
            let why = "it puts rows in an order that may tell of masked columns";
            judged.block.get_or_insert_with(|| built_in(MASKED_DATA_ASKED, "42501", not_while_masked(why)));
        }
        match class {
            "create" if matches!(object, "table-as" | "materialized-view" | "view") => {}
            "create" | "alter" | "drop" => {
                if let Err(why) = lineage::harmless_ddl(statement, &prover) {
                    judged
                        .block
                        .get_or_insert_with(|| built_in(CODE_NOT_ANALYSED, "42501", not_while_masked(why)));
                }
                return;
            }
            "do" | "call" | "import" | "reassign" | "load" | "security-label" => {
                judged.clean = false;
                judged.block.get_or_insert_with(|| {
                    built_in(
                        CODE_NOT_ANALYSED,
                        "42501",
                        not_while_masked("it runs code that cannot be analysed"),
                    )
                });
                return;
            }
            _ => {}
        }
        if let Some(name) = unlisted_setting(facts) {
            judged.block.get_or_insert_with(|| {
                built_in(
                    CODE_NOT_ANALYSED,
                    "42501",
                    not_while_masked(&format!("what the parameter {name} does is not known")),
                )
            });
        }
        let proof = prover.prove(statement, Question::Output);
        // `(x).f` and `x.f` call f(x).
        decision.strangers |= proof.unknown_function;
        judged.clean = proof.clean();
        // What is inserted is the client's own; what it is compared with is not.
        let compares = facts.on_conflict && self.inserts_beside_masked(facts);
        if judged.clean && !compares {
            return;
        }
        let stores = facts.writes || facts.ddl;
        let world = World { rows_left_out: facts.rows_left_out, alone: facts.alone, ..self.world() };
        match trace::trace(world, statement) {
            Ok(trace) if judged.clean => self.asked(&trace, judged, decision),
            Ok(trace) => {
                self.asked(&trace, judged, decision);
                self.kept(&trace, stores, proof.names_masked, judged);
                // Computing from it should not fail because of it. Where it does all the same, that is an answer.
                for out in trace.outputs.iter().flatten().filter(|o| o.column.is_none()) {
                    out.sources.iter().for_each(|base| self.count_against(*base, decision));
                }
                judged.outputs = trace.outputs.map(|outs| outs.iter().map(origin).collect());
            }
            Err(why) if proof.names_masked => {
                judged
                    .block
                    .get_or_insert_with(|| built_in(NOT_UNDERSTOOD, "42501", not_while_masked(why.0)));
            }
            // It names nothing masked, but nobody knows what it answers.
            Err(_) if proof.effects || (stores && !prover.prove(statement, Question::Write).clean()) => {
                let why = "it stores or hands on what cannot be traced";
                judged
                    .block
                    .get_or_insert_with(|| built_in(MASKED_DATA_COPIED, "42501", not_while_masked(why)));
            }
            Err(_) => {}
        }
    }

    fn world(&self) -> World<'_> {
        let world = World::new(&self.catalog, &self.bound.index, &self.bound.taints, &self.bound.summaries);
        World { made: &self.made, ..world }
    }

    /// Whether a statement asks more of masked columns than their rules let it, and the values it asks about.
    fn asked(&self, trace: &Trace, judged: &mut Judged, decision: &mut Decision) {
        let world = self.world();
        for (base, place) in &trace.reads {
            if world.defines(*base) {
                // Their order and number are let through: tools sort and group by them.
                if matches!(place, Place::Predicate | Place::Join | Place::Case | Place::Limit) {
                    judged.block.get_or_insert_with(|| Block {
                        hint: "Select the definition itself, or compare its column with a value by = or IN."
                            .into(),
                        ..built_in(
                            MASKED_DATA_ASKED,
                            "42501",
                            not_while_masked(
                                "it asks about parts of a definition, which may repeat masked data",
                            ),
                        )
                    });
                }
                continue;
            }
            let (rule, asking) = self.asking(*base);
            let allowed = match (asking.predicates, place) {
                (_, Place::Output | Place::Count | Place::Write) | (Predicates::Allow, _) => true,
                (Predicates::Equality, Place::Equality | Place::Null) => true,
                (Predicates::Equality | Predicates::Refuse, _) => false,
            };
            if !allowed {
                judged.block.get_or_insert_with(|| self.asks_too_much(*base, *place, rule, asking));
            }
        }
        for (bases, value) in &trace.probes {
            let mut asked: Vec<Probe> = Vec::new();
            for base in bases {
                let (rule, asking) = if world.defines(*base) {
                    let masks = |r: &&Arc<Compiled>| r.enforce && matches!(r.action, Action::Mask { .. });
                    (self.scope.rules.iter().find(masks).map(|r| &**r), Asking::default())
                } else {
                    self.asking(*base)
                };
                let Some(rule) = rule.filter(|_| asking.predicates == Predicates::Equality) else { continue };
                let same = self.bound.taints.get(&base.0).and_then(|t| t.same.get(&base.1));
                // One table of several is meant, so under one rule it is one question.
                if asked.iter().any(|known| *known.rule == *rule.name) {
                    continue;
                }
                asked.push(Probe {
                    rule: rule.name.as_str().into(),
                    column: same.copied().unwrap_or(*base),
                    value: *value,
                    per_hour: asking.probes,
                    enforce: rule.enforce,
                });
            }
            decision.literals_matter |= matches!(value, ProbeValue::Literal(_)) && !asked.is_empty();
            decision.probes.extend(asked);
        }
    }

    /// What the errors of a statement that writes are counted against.
    fn conflicts(&self, facts: &Facts<'_>, decision: &mut Decision) {
        let written = facts.acts.iter().filter(|a| matches!(a.class, "insert" | "update" | "merge"));
        let copied = facts.copies.iter().filter(|c| c.is_from).filter_map(|c| c.relation);
        for name in written.filter_map(|a| a.target).chain(copied) {
            let named = self.bound.index.candidates(&self.catalog, name).map(|t| t.oid);
            // A write to a view is one to its table.
            let below =
                |oid| self.bound.taints.get(&oid).into_iter().flat_map(|t| t.same.values().map(|b| b.0));
            let tables: BTreeSet<u32> = named.flat_map(|oid| below(oid).chain([oid])).collect();
            for table in tables {
                for base in self.bound.compared.get(&table).into_iter().flatten() {
                    self.count_against(*base, decision);
                }
                // A check may compare what it is given with what a function shows.
                for summary in self.bound.index.run(table, true).filter_map(|f| self.bound.summaries.get(f)) {
                    summary.sources.iter().for_each(|base| self.count_against(*base, decision));
                }
                // Checks and generated columns may compare any, and fail.
                let taint = self.bound.taints.get(&table).filter(|t| !t.defines());
                for number in taint.into_iter().flat_map(|t| t.columns.values()) {
                    self.count_against((table, *number), decision);
                }
            }
        }
    }

    /// Refuses a write to a table whose checks, or types, ask about parts of masked columns: whether it holds would answer.
    fn checks_ask(&self, facts: &Facts<'_>) -> Option<Block> {
        let written = facts.acts.iter().filter(|a| matches!(a.class, "insert" | "update" | "merge"));
        let copied = facts.copies.iter().filter(|c| c.is_from).filter_map(|c| c.relation);
        let names = written.filter_map(|a| a.target).chain(copied);
        let tables = names.flat_map(|name| self.bound.index.candidates(&self.catalog, name));
        let run = tables.flat_map(|t| self.bound.index.run(t.oid, true));
        let asks = run.filter_map(|f| self.bound.summaries.get(f)).flat_map(|s| &s.asks);
        for (base, place) in asks {
            let (rule, asking) = self.asking(*base);
            if asking.predicates != Predicates::Allow {
                return Some(self.asks_too_much(*base, *place, rule, asking));
            }
        }
        None
    }

    fn count_against(&self, base: Base, decision: &mut Decision) {
        if self.world().defines(base) {
            return;
        }
        let conflict = self.conflict(base);
        let known = |c: &Probe| decision.conflicts.iter().any(|k| k.rule == c.rule);
        decision.conflicts.extend(conflict.filter(|c| !known(c)));
    }

    /// Refuses a write that asks a unique index, or a foreign key, about more values than were sent.
    fn sweeps(&self, statement: Node<'_>) -> Option<Block> {
        let found = std::cell::Cell::new(None);
        let compared = |name: Name<'_>| {
            let mut columns = Vec::new();
            for table in self.bound.index.candidates(&self.catalog, name) {
                let same = self.bound.taints.get(&table.oid).map(|t| &t.same);
                for (place, column) in table.columns.iter().enumerate() {
                    let base = same.and_then(|s| s.get(&column.number)).copied();
                    let (oid, number) = base.unwrap_or((table.oid, column.number));
                    // A column of a parent is called the same.
                    let called = |(oid, number): Base| {
                        let table = self.bound.index.table(&self.catalog, oid);
                        table.and_then(|t| t.columns.iter().find(|c| c.number == number)).map(|c| &c.name)
                    };
                    let is = |b: &&Base| {
                        **b == (oid, number) || (b.0 != oid && called(**b) == called((oid, number)))
                    };
                    let base = self.bound.compared.get(&oid).into_iter().flatten().find(is).copied();
                    if let Some(base) = base.filter(|b| self.conflict(*b).is_some()) {
                        found.set(Some(base));
                        columns.push((column.name.as_str(), Some(place)));
                    }
                }
            }
            columns
        };
        if !swept::swept(statement, &compared, &|name| self.key(name), &|f| self.bound.index.one_row(f)) {
            return None;
        }
        let base: Base = found.get()?;
        let (rule, asking) = self.asking(base);
        Some(self.asks_too_much(base, Place::Conflict, rule, asking))
    }

    /// Refuses to give a masked column a value where a trigger leaves out rows that stay as they are: how many were updated says whether
    /// it was that value.
    fn compares_rows(&self, statement: Node<'_>, facts: &Facts<'_>) -> Option<Block> {
        let leaves_out = |(table, function, _): &&(u32, String, Vec<String>)| {
            function == "suppress_redundant_updates_trigger" && self.bound.taints.contains_key(table)
        };
        let mut tables =
            self.catalog.code.built_in.iter().filter(leaves_out).map(|(table, ..)| *table).peekable();
        tables.peek()?;
        let tables: HashSet<u32> = tables.collect();
        // By itself, through a view of it, or with its parent.
        let reaches = |table: &Table| {
            let same = self.bound.taints.get(&table.oid).into_iter().flat_map(|t| t.same.values());
            let children =
                self.catalog.tables.iter().filter(|t| t.parents.contains(&table.oid)).map(|t| t.oid);
            same.map(|(oid, _)| *oid).chain(children).chain([table.oid]).any(|oid| tables.contains(&oid))
        };
        let updated = facts.acts.iter().filter(|a| a.class == "update").filter_map(|a| a.target);
        let mut hidden: HashMap<&str, Base> = HashMap::new();
        for table in
            updated.flat_map(|name| self.bound.index.candidates(&self.catalog, name)).filter(|t| reaches(t))
        {
            let taint = self.bound.taints.get(&table.oid).into_iter().flat_map(|t| &t.columns);
            hidden.extend(taint.map(|(name, number)| (&**name, (table.oid, *number))));
        }
        let mut stack = if hidden.is_empty() { Vec::new() } else { vec![statement] };
        while let Some(node) = stack.pop() {
            if let Node::ResTarget(target) = node
                && let Some(base) = target.name().and_then(|name| hidden.get(name)).copied()
                && self.conflict(base).is_some()
            {
                let (rule, asking) = self.asking(base);
                return Some(self.asks_too_much(base, Place::Conflict, rule, asking));
            }
            if children(node, &mut stack).is_err() {
                return None;
            }
        }
        None
    }

    /// Inserts into a table with masked columns, or a view of one.
    fn inserts_beside_masked(&self, facts: &Facts<'_>) -> bool {
        let inserted = facts.acts.iter().filter(|a| a.class == "insert").filter_map(|a| a.target);
        let mut tables = inserted.flat_map(|name| self.bound.index.candidates(&self.catalog, name));
        tables.any(|t| self.bound.taints.contains_key(&t.oid))
    }

    fn conflict(&self, base: Base) -> Option<Probe> {
        let (rule, asking) = self.asking(base);
        let rule = rule.filter(|_| asking.predicates != Predicates::Allow)?;
        let per_hour = match asking.predicates {
            Predicates::Refuse => CONFLICTS_WHERE_REFUSED,
            _ => asking.probes,
        };
        let (column, value) = (base, ProbeValue::Literal(0));
        Some(Probe { rule: rule.name.as_str().into(), column, value, per_hour, enforce: rule.enforce })
    }

    /// The target says that a value is there already, or that one is missing (SQLSTATE 23505, 23P01, 23503): what that tells of masked
    /// columns, each to be counted as one value asked about. Names are as in the error's fields.
    pub fn met(&self, schema: &str, table: &str, constraint: &str) -> Vec<Probe> {
        let name = Name { schema: Some(schema), name: table };
        let mut found = Vec::new();
        let mut known = false;
        for table in self.bound.index.candidates(&self.catalog, name) {
            for met in self.bound.index.constraints(&self.catalog, table.oid).filter(|c| c.name == constraint)
            {
                known = true;
                found.extend(met.compares.iter().filter(|b| lineage::hidden(&self.bound.taints, **b)));
            }
        }
        if !known {
            // Made since the catalogue was read, or by a snapshot that does not say: it may compare anything.
            found.extend(self.bound.asking.keys());
        }
        let mut probes: Vec<Probe> = Vec::new();
        for probe in found.into_iter().filter_map(|base| self.conflict(base)) {
            if !probes.iter().any(|p| p.rule == probe.rule) {
                probes.push(probe);
            }
        }
        probes
    }

    /// The strictest rule about a column, its own or that of what it is made of.
    fn asking(&self, base: Base) -> (Option<&Compiled>, Asking) {
        let mut found: Option<(usize, Asking)> = None;
        let mut seen = HashSet::new();
        let mut stack = vec![base];
        while let Some(base) = stack.pop() {
            if !seen.insert(base) {
                continue;
            }
            if let Some(here) = self.bound.asking.get(&base)
                && found.is_none_or(|(_, so_far)| here.1.stricter(&so_far))
            {
                found = Some(*here);
            }
            if let Some(taint) = self.bound.taints.get(&base.0) {
                stack.extend(taint.same.get(&base.1));
                stack.extend(taint.derived.get(&base.1).into_iter().flatten());
            }
        }
        match found {
            Some((i, asking)) => (self.scope.rules.get(i).map(|r| &**r), asking),
            None => (None, Asking::default()),
        }
    }

    fn asks_too_much(&self, base: Base, place: Place, rule: Option<&Compiled>, asking: Asking) -> Block {
        let table = self.bound.index.table(&self.catalog, base.0);
        let column = table.and_then(|t| t.columns.iter().find(|c| c.number == base.1));
        let named = match (table, column) {
            (Some(t), Some(c)) => format!("{}.{}", t.name, c.name),
            (Some(t), None) => t.name.clone(),
            _ => "a column".to_owned(),
        };
        let (what, hint) = match place {
            Place::Join => ("joins by it", "Join by another column"),
            Place::Sort => ("sorts by it", "Sort by another column"),
            Place::Group => ("groups by it", "Group by another column"),
            Place::Distinct => ("tells its different values apart", "Leave DISTINCT out, or use UNION ALL"),
            Place::Window => ("orders or divides rows by it", "Use another column in the window"),
            Place::Case => ("decides by it", "Leave it out of CASE"),
            Place::Rows | Place::Limit => ("lets it decide how many rows there are", "Leave it out there"),
            Place::Computed => {
                ("computes with it what can fail or be NULL because of its value", "Select the column itself")
            }
            Place::Equality | Place::Null => ("asks about its value", "Use another column in the condition"),
            Place::Conflict => (
                "asks by a key or ON CONFLICT about values that are not written out, or too many",
                "Write rows of written or bound values, by ON CONFLICT up to 100 of them",
            ),
            Place::Predicate | Place::Output | Place::Count | Place::Write => {
                ("asks about parts of its value", "Compare it with whole values by = or IN")
            }
        };
        let may = match asking.predicates {
            Predicates::Refuse => "no statement may ask about it",
            _ => "statements may only compare it with a value by = or IN",
        };
        Block {
            place: rule.map(|r| r.place.clone()).unwrap_or_default(),
            schema: table.map(|t| t.schema.clone()),
            table: table.map(|t| t.name.clone()),
            column: column.map(|c| c.name.clone()),
            hint: format!("{hint}, or ask the owner of this connection."),
            ..built_in(
                rule.map_or(MASKED_DATA_ASKED, |r| r.name.as_str()),
                "42501",
                format!("{named} is masked for you, {may}, and this one {what}"),
            )
        }
    }

    /// Whether what a statement stores, or hands on, may carry masked data.
    fn kept(&self, trace: &Trace, stores: bool, names_masked: bool, judged: &mut Judged) {
        let carried = trace.writes.iter().flat_map(|(_, sources)| sources).next();
        let why = if trace.launders {
            "a function or rule that it sets in motion stores, or shows, what derives from a masked column"
        } else if let (Some(base), true) = (carried, stores) {
            if self.world().defines(*base) {
                "it stores how something is defined, which may repeat masked data"
            } else {
                "it stores what derives from a masked column"
            }
        } else if stores && trace.stores_unknown {
            "it stores what cannot be traced"
        } else if stores && trace.unknown_function {
            "it calls a function that is not known to be harmless"
        } else if trace.effects || trace.stranger || (trace.unknown_function && names_masked) {
            "it hands what may derive from a masked column to a function with effects of its own"
        } else {
            return;
        };
        let table = carried.and_then(|(oid, _)| self.bound.index.table(&self.catalog, *oid));
        judged.block.get_or_insert_with(|| Block {
            schema: table.map(|t| t.schema.clone()),
            table: table.map(|t| t.name.clone()),
            ..built_in(MASKED_DATA_COPIED, "42501", not_while_masked(why))
        });
    }

    fn copy(
        &self,
        statement: Node<'_>,
        copy: &Copy<'_>,
        prover: &Prover<'_>,
        judged: &mut Judged,
        decision: &mut Decision,
    ) {
        let server_side = copy.program || copy.file.is_some();
        if copy.is_from {
            if server_side {
                judged.block.get_or_insert_with(|| {
                    built_in(
                        CODE_NOT_ANALYSED,
                        "42501",
                        not_while_masked("it reads a file or program of the server"),
                    )
                });
            }
            // Its condition says row by row what a function answers.
            if prover.prove(statement, Question::Output).unknown_function {
                judged.block.get_or_insert_with(|| {
                    built_in(
                        CODE_NOT_ANALYSED,
                        "42501",
                        not_while_masked("it calls a function that is not known to be harmless"),
                    )
                });
            }
            return;
        }
        let format = if copy.format == "binary" { Format::Binary } else { Format::Text };
        let proof = prover.prove(statement, Question::Output);
        decision.strangers |= proof.unknown_function;
        let cells = match copy.relation {
            Some(name) if !copy.query => self.copy_cells(name, &copy.columns, format),
            _ if proof.clean() => CopyCells::Clean,
            _ => match trace::trace(self.world(), statement) {
                Ok(trace) => {
                    self.asked(&trace, judged, decision);
                    self.kept(&trace, false, false, judged);
                    match trace.outputs {
                        Some(outs) => {
                            CopyCells::Columns(outs.iter().map(|o| self.copied(o, format)).collect())
                        }
                        None => CopyCells::Every,
                    }
                }
                Err(_) => CopyCells::Every,
            },
        };
        if let CopyCells::Clean = cells {
            if !server_side {
                decision.copies.push(CopyPlan::Pass);
            }
            judged.clean = true;
            return;
        }
        judged.clean = false;
        let mut refuse = |sqlstate, message: &str, hint: &str| {
            judged.block.get_or_insert_with(|| Block {
                hint: hint.to_owned(),
                ..built_in(MASKED_DATA_COPIED, sqlstate, message.to_owned())
            });
        };
        if server_side {
            return refuse(
                "42501",
                &not_while_masked("it writes masked data to a file or program of the server"),
                HINT,
            );
        }
        // A COPY of what a data-modifying query returns has written before anybody could look.
        if facts::read(statement).is_ok_and(|f| f.writes || f.ddl) {
            return refuse(
                "42501",
                &not_while_masked("it stores what may derive from a masked column"),
                HINT,
            );
        }
        let byte = |text: Option<&str>, default: u8| match text.map(str::as_bytes) {
            None => Some(default),
            Some([b]) => Some(*b),
            Some(_) => None,
        };
        let csv = copy.format == "csv";
        let quote = byte(copy.quote, b'"');
        let options = (
            byte(copy.delimiter, if csv { b',' } else { b'\t' }),
            quote,
            byte(copy.escape, quote.unwrap_or(b'"')),
            copy.header,
        );
        let (Some(delimiter), Some(quote), Some(escape), Some(header)) = options else {
            return refuse("0A000", "COPY with these options is not supported for masked columns", HINT);
        };
        // A quote that ends lines: where a field ends and where a line does could not be told apart.
        let ends_lines = [quote, escape].iter().any(|b| matches!(b, b'\r' | b'\n'));
        if !matches!(copy.format, "text" | "csv" | "binary") || copy.strange || ends_lines {
            return refuse("0A000", "COPY with these options is not supported for masked columns", HINT);
        }
        let (columns, every) = match cells {
            CopyCells::Ambiguous => {
                return refuse(
                    "42501",
                    "several tables of this name have different masked columns",
                    "Write the schema before the table's name.",
                );
            }
            CopyCells::Columns(columns) => (columns, None),
            CopyCells::Every | CopyCells::Clean => (Vec::new(), Some(Cell::computed(TEXT))),
        };
        if format == Format::Binary {
            let columns = every.is_none().then_some(columns);
            decision.copies.push(CopyPlan::Binary(CopyBinary { columns }));
            return;
        }
        decision.copies.push(CopyPlan::Rows(CopyRows {
            csv,
            delimiter,
            quote,
            escape,
            null: copy.null.unwrap_or(if csv { "" } else { "\\N" }).as_bytes().to_vec(),
            header,
            columns,
            every,
        }));
    }

    /// How an output of COPY (query) is masked: there is no server's word about it.
    fn copied(&self, out: &trace::Out, format: Format) -> Option<Cell> {
        match (origin(out), out.column) {
            (Origin::Clean, _) => None,
            // Of what type an expression is, nobody says: in binary text is text, and anything else NULL.
            (Origin::Definition(text), _) => {
                let type_oid = if format == Format::Text { TEXT } else { spelled(out.type_oid) };
                Some(Cell::definition(text, type_oid, format))
            }
            (Origin::Masked | Origin::Defined, Some((oid, number))) => {
                self.cell(oid, number, out.type_oid, format)
            }
            // Of any type: in binary only NULL stands for its values.
            (Origin::Defined, None) => Some(Cell::redact(if format == Format::Binary { 0 } else { TEXT })),
            _ => Some(Cell::computed(if format == Format::Binary { 0 } else { TEXT })),
        }
    }

    fn copy_cells(&self, name: Name<'_>, columns: &[&str], format: Format) -> CopyCells {
        let mut shapes: Vec<Vec<Option<Cell>>> = Vec::new();
        // A column the catalogue does not have yet: of any type, so in binary only NULL stands for its values.
        let unknown = Some(Cell::redact(if format == Format::Binary { 0 } else { TEXT }));
        for table in self.bound.index.candidates(&self.catalog, name) {
            let taint = self.bound.taints.get(&table.oid);
            match lineage::system(&table.schema, &table.name) {
                Some(true) if taint.is_some() => {}
                Some(true) => {
                    shapes.push(Vec::new());
                    continue;
                }
                Some(false) => return CopyCells::Every,
                None => {}
            }
            if taint.is_some_and(|t| t.whole) || !matches!(table.kind, 'r' | 'p' | 'v' | 'm' | 'S') {
                return CopyCells::Every;
            }
            let cell = |number: i16, type_oid: u32| {
                let hidden = taint.is_some_and(|t| t.columns.values().any(|n| *n == number));
                hidden.then(|| self.cell(table.oid, number, type_oid, format)).flatten()
            };
            shapes.push(if columns.is_empty() {
                table
                    .columns
                    .iter()
                    .filter(|c| c.generated.is_none())
                    .map(|c| cell(c.number, c.type_oid))
                    .collect()
            } else {
                let find = |name: &&str| table.columns.iter().find(|c| c.name == **name);
                columns
                    .iter()
                    .map(|n| find(n).map_or(unknown.clone(), |c| cell(c.number, c.type_oid)))
                    .collect()
            });
        }
        let plain = |shape: &Vec<Option<Cell>>| shape.iter().all(Option::is_none);
        match shapes.split_first() {
            None if name.schema.is_none_or(|s| s == "pg_catalog")
                && listed(known::SYSTEM_RELATIONS, name.name)
                && known::definitions(name.name).is_empty() =>
            {
                CopyCells::Clean
            }
            None => CopyCells::Every,
            Some(_) if shapes.iter().all(plain) => CopyCells::Clean,
            Some((first, rest)) if rest.iter().all(|s| s == first) => CopyCells::Columns(first.clone()),
            Some(_) => CopyCells::Ambiguous,
        }
    }

    /// The mask of a tainted column: its rules' own, or full redaction where it only follows from one. `None`: what the rules look for
    /// in it cannot be in a value of this type.
    fn cell(&self, oid: u32, number: i16, type_oid: u32, format: Format) -> Option<Cell> {
        match self.bound.taints.get(&oid).and_then(|t| t.parts.get(&number)) {
            Some(Part::Text(text)) => return Some(Cell::definition(*text, spelled(type_oid), format)),
            Some(Part::Whole) => return Some(Cell::redact(type_oid)),
            None => {}
        }
        match self.bound.masks.get(&(oid, number)) {
            Some((_, treatment)) => treatment.cell(self.scope.key.as_ref(), type_oid, format),
            None => Some(Cell::redact(type_oid)),
        }
    }

    /// Whether it reads or writes a relation nobody knows. What it creates or drops is no question.
    fn names_unknown(&self, facts: &Facts<'_>) -> bool {
        if facts.ddl {
            return false;
        }
        facts.names.iter().any(|name| {
            let system = match name.schema {
                Some(schema) => lineage::system(schema, name.name).is_some(),
                None => listed(known::SYSTEM_RELATIONS, name.name),
            };
            let known = || self.bound.index.candidates(&self.catalog, *name).next().is_some();
            !system && !self.made.iter().any(|m| m.is(*name)) && !known()
        })
    }

    /// The table a statement makes: what fills it is what the session stores there, and nobody's default.
    fn makes(&self, statement: Node<'_>) -> Option<Made> {
        let relation = match statement {
            Node::CreateStmt(c) => {
                let plain =
                    c.inh_relations().is_empty() && c.partbound().is_none() && c.of_typename().is_none();
                let unlike = |element| match element {
                    Node::TableLikeClause(l) => l.relation().is_some_and(|r| {
                        let mut like = self.bound.index.candidates(&self.catalog, facts::name(r)).peekable();
                        let filled = |oid: u32| self.catalog.code.defaults.iter().any(|(t, ..)| *t == oid);
                        like.peek().is_some()
                            && like.all(|t| !self.bound.taints.contains_key(&t.oid) && !filled(t.oid))
                    }),
                    _ => true,
                };
                // One that is there already is anybody's.
                (plain && !c.if_not_exists && c.table_elts().iter().all(unlike)).then(|| c.relation())??
            }
            Node::CreateTableAsStmt(c)
                if c.objtype == nodes::ObjectType::OBJECT_TABLE && !c.if_not_exists =>
            {
                c.into()?.rel()?
            }
            _ => return None,
        };
        let name = facts::name(relation);
        // `t` as pg_class.relpersistence says it.
        let temporary = relation.relpersistence as u8 == b't' || name.schema == Some("pg_temp");
        let known = self.bound.index.candidates(&self.catalog, name).next().is_some();
        if known || name.name.starts_with("pg_") || (!temporary && name.schema.is_none()) {
            return None;
        }
        let schema = name.schema.filter(|_| !temporary).map(str::to_owned);
        Some(Made { schema, name: name.name.to_owned() })
    }

    /// What of a statement an `only` rule does not allow.
    fn beyond<'f>(&self, only: &OnlyRule, facts: &'f Facts<'_>, form: Option<&str>) -> Option<Beyond<'f>> {
        if let Some(shapes) = &only.shapes
            && !form.is_some_and(|form| shapes.contains(form))
        {
            return Some(Beyond::Shape);
        }
        self.beyond_words(only, facts).map(Beyond::Word)
    }

    fn beyond_words<'f>(&self, only: &OnlyRule, facts: &'f Facts<'_>) -> Option<&'f str> {
        if let Some(statements) = &only.statements {
            // VALUES inside INSERT is no query of its own.
            let inner = facts.acts.first().is_some_and(|a| a.class == "insert");
            let act =
                facts.acts.iter().find(|a| !(a.values && inner || statements.iter().any(|s| is_class(s, a))));
            if let Some(act) = act {
                return Some(act.class);
            }
        }
        if let Some(functions) = &only.functions
            && let Some(f) = facts.functions.iter().find(|f| !functions.iter().any(|n| n == *f))
        {
            return Some(f);
        }
        if let Some(tables) = &only.tables {
            let allowed = |name: &Name<'_>| {
                if name.schema.is_some() {
                    return tables.iter().any(|t| t.matches(name.schema, name.name));
                }
                // A name without a schema may mean any of that name that search_path can reach: all of them have to be allowed.
                let mut reachable = self
                    .bound
                    .index
                    .candidates(&self.catalog, *name)
                    .filter(|c| c.schema == "pg_catalog" || self.catalog.search_path.contains(&c.schema))
                    .peekable();
                if reachable.peek().is_none() {
                    return tables.iter().any(|t| t.table != "*" && t.matches(None, name.name));
                }
                reachable.all(|c| tables.iter().any(|t| t.matches(Some(&c.schema), &c.name)))
            };
            if let Some(name) = facts.names.iter().find(|n| !allowed(n)) {
                return Some(name.name);
            }
            if let Some(act) = facts.acts.iter().find(|a| a.anything || matches!(a.class, "call" | "do")) {
                return Some(act.class);
            }
            // Code of users may read what it likes.
            if only.functions.is_none()
                && let Some(f) = facts.functions.iter().find(|f| self.bound.index.stranger(f))
            {
                return Some(f);
            }
        }
        None
    }

    /// Whether a rule's row limit holds for the results of a statement. One that says no table holds for every statement that could
    /// show what a user stored; a statement that does not say what it reads is under all of them.
    fn limited(
        &self,
        index: usize,
        rows: &RowsRule,
        statement: Node<'_>,
        facts: &Facts<'_>,
    ) -> Option<Limited> {
        let limit = || rows.limit.clone();
        let stranger = |f: &str| self.bound.index.stranger(f);
        // What a name stands for is told by the session, where it knows.
        let kept = facts.acts.iter().any(|a| matches!(a.class, "fetch" | "execute" | "call"));
        if kept || facts.functions.iter().any(|f| stranger(f)) {
            return Some(Limited::unknown(limit()));
        }
        let structure = |name: &Name<'_>| match name.schema {
            Some(schema) => lineage::system(schema, name.name) == Some(true),
            None => {
                listed(known::SYSTEM_RELATIONS, name.name)
                    && self
                        .bound
                        .index
                        .candidates(&self.catalog, *name)
                        .all(|t| lineage::system(&t.schema, &t.name) == Some(true))
            }
        };
        let named = |name: &Name<'_>| self.spoken_of(index, *name);
        let everything = rows.tables.is_empty() && rows.columns.is_empty();
        // How often each is named: a table by all of its names together where the rule says tables, else each by its own.
        let mut uses: HashMap<&str, u64> = HashMap::new();
        let mut collects = facts.collects;
        for name in &facts.names {
            let (mut weight, mut gathers) = (1, false);
            for view in self.views(*name) {
                if !view.stored && view.opaque {
                    return Some(Limited::unknown(limit()));
                }
                gathers |= view.collects;
                weight = weight.max(view.weight);
            }
            if if everything { !structure(name) } else { named(name) } {
                collects |= gathers;
                *uses.entry(if everything { name.name } else { "" }).or_default() += weight;
            }
        }
        let tables = uses.drain().map(|(_, n)| n).max()?;
        // A CTE that is named twice may be joined with itself.
        facts.ctes.iter().for_each(|name| *uses.entry(name).or_default() += 1);
        let weight = uses.into_values().fold(tables, u64::saturating_mul);
        let few = facts::few(statement, &|name| self.key(name));
        Some(Limited { limit: limit(), weight, collects, few })
    }

    /// The views a name may mean.
    fn views(&self, name: Name<'_>) -> impl Iterator<Item = &View> {
        self.bound.index.candidates(&self.catalog, name).filter_map(|t| self.bound.views.get(t.oid))
    }

    /// Whether a rule names a table, or reaches it through views and by descent.
    fn spoken_of(&self, index: usize, name: Name<'_>) -> bool {
        let Some(rule) = self.scope.rules.get(index) else { return false };
        let reach = self.bound.reach.get(index);
        let is = |p: &TablePattern| p.matches(name.schema, name.name);
        let named = match &rule.action {
            Action::Block(block) => block.tables.iter().any(is),
            Action::Rows(rows) => rows.tables.iter().chain(rows.columns.iter().map(|c| &c.table)).any(is),
            Action::Mask { .. } => false,
        };
        named
            || reach.is_some_and(|r| {
                !r.is_empty()
                    && (self.bound.index.candidates(&self.catalog, name).any(|t| r.contains(&t.oid))
                        // An index is its table's.
                        || self.bound.index.indexed(name.name).iter().any(|oid| r.contains(oid)))
            })
    }

    /// The primary key of what a name means, when every table it may mean has the same.
    fn key(&self, name: Name<'_>) -> Option<Vec<String>> {
        let mut key = None;
        for table in self.bound.index.candidates(&self.catalog, name) {
            let numbers = self.bound.index.key(table.oid)?;
            let names: Vec<String> = table
                .columns
                .iter()
                .filter(|c| numbers.contains(&c.number))
                .map(|c| c.name.clone())
                .collect();
            if key.as_ref().is_some_and(|k| *k != names) {
                return None;
            }
            key = Some(names);
        }
        key
    }

    /// Whether rows of a table that are counted would be stored where nobody counts them.
    fn stored_elsewhere(
        &self,
        index: usize,
        rows: &RowsRule,
        statement: Node<'_>,
        facts: &Facts<'_>,
    ) -> bool {
        if rows.tables.is_empty() && rows.columns.is_empty() {
            return false;
        }
        let targets = || facts.acts.iter().filter_map(|a| a.target.filter(|_| a.class != "delete"));
        let made = facts.ddl
            && (facts.acts.iter().any(|a| matches!(a.object, "table-as" | "materialized-view"))
                || facts.acts.iter().all(|a| a.class == "select"));
        let elsewhere = made || targets().any(|t| !self.spoken_of(index, t));
        if !elsewhere || facts::sums_only(statement) {
            return false;
        }
        // Its targets are among the names it reads; one that is named again is read.
        let mut written: Vec<Name<'_>> = targets().collect();
        written.dedup();
        facts.names.iter().any(|name| match written.iter().position(|t| t == name) {
            Some(at) => {
                written.swap_remove(at);
                false
            }
            None => self.spoken_of(index, *name),
        })
    }

    /// Refuses what takes a table from under the rules that name it: another name, another schema, another parent.
    fn renamed(&self, statement: Node<'_>) -> Option<Block> {
        use nodes::{AlterTableType as Cmd, ObjectType as T};
        let every = || self.scope.rules.iter().enumerate().filter(|(_, r)| r.enforce);
        let (relation, schema) = match statement {
            Node::RenameStmt(r) => match r.rename_type {
                T::OBJECT_SCHEMA => (None, true),
                T::OBJECT_TABLE | T::OBJECT_VIEW | T::OBJECT_MATVIEW | T::OBJECT_FOREIGN_TABLE => {
                    (r.relation(), false)
                }
                _ => return None,
            },
            Node::AlterObjectSchemaStmt(a) => (a.relation(), false),
            Node::AlterTableStmt(a)
                if a.cmds().iter().any(|c| {
                    matches!(c, Node::AlterTableCmd(c)
                        if matches!(c.subtype, Cmd::AT_DropInherit | Cmd::AT_DetachPartition))
                }) =>
            {
                (a.relation(), false)
            }
            _ => return None,
        };
        let spoken = |(i, rule): (usize, &Arc<Compiled>)| match relation {
            Some(relation) => self.spoken_of(i, facts::name(relation)),
            None => schema && !reached(&rule.action).is_empty(),
        };
        every().any(spoken).then(|| {
            let message =
                "rules name this table: under another name or parent they would not hold".to_owned();
            built_in(CODE_NOT_ANALYSED, "42501", message)
        })
    }

    /// Refuses writes to the server's own tables: names, types and code can be changed there without a statement that says so.
    fn catalogue_written(&self, facts: &Facts<'_>) -> Option<Block> {
        let own = |name: Name<'_>| match name.schema {
            Some(schema) => lineage::system(schema, name.name).is_some() || schema == "pg_toast",
            None => {
                name.name.starts_with("pg_")
                    || self
                        .bound
                        .index
                        .candidates(&self.catalog, name)
                        .any(|t| lineage::system(&t.schema, &t.name).is_some())
            }
        };
        // What is written to a view is written to its table.
        let own = |name: Name<'_>| own(name) || self.views(name).any(|v| v.system);
        let written = facts.acts.iter().filter_map(|a| a.target);
        let copied = facts.copies.iter().filter(|c| c.is_from).filter_map(|c| c.relation);
        written.chain(copied).any(own).then(|| {
            built_in(
                CODE_NOT_ANALYSED,
                "42501",
                "the server's own tables are not written to directly".to_owned(),
            )
        })
    }

    /// The rows it updates are those it was to insert, and they are written out.
    fn written(&self, act: &Act<'_>) -> bool {
        act.inserted.is_some_and(|rows| facts::written(rows, &|f| self.bound.index.one_row(f)))
    }

    /// Whether an UPDATE or DELETE does not name its rows by the primary key.
    fn without_key(&self, act: &Act<'_>, variable: &dyn Fn(&nodes::ColumnRef) -> bool) -> bool {
        let (Some(condition), Some(target)) = (act.condition, act.target) else { return false };
        if matches!(condition, Node::CurrentOfExpr(_)) || self.written(act) {
            return false;
        }
        !self.key(target).is_some_and(|key| {
            let key: Vec<&str> = key.iter().map(String::as_str).collect();
            facts::by_key(condition, act.called, &key, variable)
        })
    }

    /// Whether an UPDATE or DELETE leaves no row of its target out.
    fn every_row(&self, act: &Act<'_>) -> bool {
        let Some(condition) = act.condition.filter(|_| !self.written(act)) else { return false };
        let known = |reference: &nodes::ColumnRef| {
            let fields = reference.fields();
            let last = fields.len().checked_sub(1).and_then(|i| fields.get(i)).and_then(Node::as_str);
            let mut found = self
                .bound
                .index
                .candidates(&self.catalog, act.target.unwrap_or(Name { schema: None, name: "" }))
                .filter_map(|t| t.columns.iter().find(|c| Some(c.name.as_str()) == last));
            found.next().map_or_else(facts::Known::default, |c| facts::Known {
                exists: true,
                not_null: c.not_null,
                key_like: c.number == 1 && matches!(c.type_oid, 20 | 21 | 23),
            })
        };
        let same = |r: &&&nodes::RangeVar| act.target.is_some_and(|t| t.name == facts::name(r).name);
        let again = act.beside.iter().filter(same).map(|r| facts::called(r)).collect();
        let target = facts::Target { name: act.target, called: act.called, again };
        facts::every_row(condition, &target, &known)
    }

    /// A name in the body of a function, or in a rule's action, that is no column of what the statement names: a parameter or variable,
    /// or the row a trigger or rule runs for.
    fn variable(&self, name: &nodes::ColumnRef, facts: &Facts<'_>, around: Around) -> bool {
        if around == Around::Nothing {
            return false;
        }
        let fields = name.fields();
        let field = |i: usize| fields.get(i).and_then(Node::as_str);
        match (fields.len(), field(0), field(1)) {
            // Called for many rows, it has as many values.
            (1, Some(name), _) if around == Around::Once => {
                let mut tables = facts
                    .names
                    .iter()
                    .flat_map(|n| self.bound.index.candidates(&self.catalog, *n))
                    .peekable();
                tables.peek().is_some()
                    && facts.ctes.is_empty()
                    && tables
                        .all(|t| t.columns.iter().all(|c| c.name != name) && !known::system_column(t, name))
            }
            (2, Some("old" | "new"), Some(_)) => true,
            _ => false,
        }
    }

    /// The first statement of `facts` a block rule speaks of.
    fn matches<'f, 'a>(
        &self,
        index: usize,
        rule: &BlockRule,
        statement: Node<'_>,
        (facts, around): (&'f Facts<'a>, Around),
    ) -> Option<(Option<&'f Act<'a>>, Option<Name<'a>>)> {
        let named = |name: &Name<'a>| self.spoken_of(index, *name);
        if !rule.functions.is_empty()
            && !rule.functions.iter().any(|f| facts.functions.iter().any(|n| f == n))
        {
            return None;
        }
        if rule.unbounded && !facts::unbounded(statement) {
            return None;
        }
        // Found once: a text may hold thousands of statements and names.
        let any = std::cell::LazyCell::new(|| facts.names.iter().copied().find(|n| named(n)));
        for act in &facts.acts {
            let class = rule.statements.is_empty() || rule.statements.iter().any(|s| is_class(s, act));
            if !class
                || (rule.missing_where && !self.every_row(act))
                || (rule.missing_key && !self.without_key(act, &|c| self.variable(c, facts, around)))
            {
                continue;
            }
            if rule.tables.is_empty() {
                return Some((Some(act), act.target));
            }
            // What SELECT and the like speak of is whatever the text names; DML has one target, unless no class was asked for.
            let found = match act.target {
                Some(target) if !rule.statements.is_empty() || rule.missing_where || rule.missing_key => {
                    Some(target).filter(named)
                }
                _ => *any,
            };
            if act.anything || found.is_some() {
                return Some((Some(act), found));
            }
        }
        None
    }

    /// Judges a function-call message: the function's OID is all that is known.
    pub fn function_call(&self, _function: u32) -> Verdict {
        if !self.scope.enforces {
            return Verdict::Pass;
        }
        Verdict::Block(Block {
            hint: "Call the function with SELECT.".into(),
            ..built_in(NOT_UNDERSTOOD, "42501", "function calls by number could not be analysed".into())
        })
    }

    /// Judges the types that a client declares the parameters of a statement to be of: naming one there is naming it in the text.
    /// `decision`: of that text.
    pub fn parameters(&self, decision: &Decision, types: impl Iterator<Item = u32>) -> Option<Block> {
        if !self.scope.masks() {
            return None;
        }
        for (n, oid) in (1..).zip(types) {
            let asks = || decision.probes.iter().any(|p| p.value == ProbeValue::Parameter(n));
            // Where its text is put together with others it is that of a text: settings say how times and numbers are written.
            let made = |p: &Probe| matches!(p.value, ProbeValue::Computed { number, .. } if number == n);
            let text = || matches!(oid, 0 | 19 | TEXT | 705 | 1042 | 1043);
            if known::NAMED_TYPES.contains(&oid) && asks() || decision.probes.iter().any(made) && !text() {
                let why = "a value that it compares with a masked column is a number to be looked up";
                return Some(built_in(MASKED_DATA_ASKED, "42501", not_while_masked(why)));
            }
            if oid >= FIRST_NORMAL_OID && trace::betrays(self.world(), self.bound.index.typed(oid)) {
                let why = "a parameter is of a type whose values go through code that cannot be analysed, or reads masked data";
                return Some(built_in(CODE_NOT_ANALYSED, "42501", not_while_masked(why)));
            }
        }
        None
    }

    /// True when a column's table is newer than the catalogue: load a new one before planning.
    pub fn unknown_table(&self, columns: &[Column<'_>]) -> bool {
        self.scope.masks()
            && columns.iter().any(|c| {
                c.table >= FIRST_NORMAL_OID && self.bound.index.table(&self.catalog, c.table).is_none()
            })
    }

    /// What to do with each column of a result of a statement that is not [`Decision::clean`].
    pub fn plan(&self, columns: &[Column<'_>]) -> Plan {
        self.plan_with(None, columns)
    }

    /// The same with both witnesses: an expression without origin passes where its own inputs were proved clean.
    pub fn plan_for(&self, decision: &Decision, columns: &[Column<'_>]) -> Plan {
        self.plan_with(decision.outputs.as_deref(), columns)
    }

    fn plan_with(&self, outputs: Option<&[Origin]>, columns: &[Column<'_>]) -> Plan {
        if !self.scope.masks() {
            return Plan { columns: columns.iter().map(|_| None).collect() };
        }
        // The witnesses do not speak of the same answer: nothing of it can be believed.
        if outputs.is_some_and(|o| o.len() != columns.len()) {
            return Plan { columns: columns.iter().map(|c| Some(Cell::computed(c.type_oid))).collect() };
        }
        let one = |(i, c): (usize, &Column<'_>)| {
            let first = outputs.and_then(|o| o.get(i)).copied().unwrap_or(Origin::Unknown);
            // Without origin it is computed, or nobody knows what it is.
            let unknown =
                Some(if c.table == 0 { Cell::computed(c.type_oid) } else { Cell::redact(c.type_oid) });
            let told = match first {
                Origin::Clean => None,
                Origin::Definition(text) => Some(Cell::definition(text, c.type_oid, c.format)),
                Origin::Defined => Some(Cell::redact(c.type_oid)),
                Origin::Masked | Origin::Unknown => unknown.clone(),
            };
            if c.table == 0 {
                return told;
            }
            let second = self.second(c, unknown.clone(), told);
            // They disagree where the first is certain: whoever is right, the cell is not shown.
            let certain = matches!(first, Origin::Masked | Origin::Defined | Origin::Definition(_));
            let agree = !certain || self.tainted((c.table, c.attribute));
            if second.is_none() && !agree { unknown } else { second }
        };
        Plan { columns: columns.iter().enumerate().map(one).collect() }
    }

    /// For each output of a statement whether its cells are masked, as far as the analysis tells what the server will say of it.
    /// `None`: its columns cannot be told.
    pub fn masked_outputs(&self, decision: &Decision, lineage: &Lineage) -> Option<Vec<bool>> {
        let outputs = lineage.outputs.as_ref()?;
        if decision.clean {
            return Some(vec![false; outputs.len()]);
        }
        let column = |output: &OutputColumn| {
            let place = match output.sources.as_slice() {
                [one] if output.is_column => self.find(one),
                _ => None,
            };
            let (table, attribute, type_oid) = place.unwrap_or((0, 0, TEXT));
            Column { name: b"", table, attribute, type_oid, format: Format::Text }
        };
        let columns: Vec<Column<'_>> = outputs.iter().map(column).collect();
        Some(self.plan_for(decision, &columns).columns.iter().map(Option::is_some).collect())
    }

    /// The rules that mask a column for this scope: name, place and whether it is enforced.
    pub fn mask_rules(&self, column: &ColumnName) -> Vec<(&str, &str, bool)> {
        let named = |rule: &&Arc<Compiled>| match &rule.action {
            Action::Mask { columns, .. } => columns.iter().any(|p| {
                p.column.eq_ignore_ascii_case(&column.column)
                    && p.table.matches(Some(&column.schema), &column.table)
            }),
            Action::Block(_) | Action::Rows(_) => false,
        };
        let rules = self.scope.rules.iter().filter(named);
        rules.map(|r| (r.name.as_str(), r.place.as_str(), r.enforce)).collect()
    }

    fn find(&self, column: &ColumnName) -> Option<(u32, i16, u32)> {
        let mut tables = self.catalog.tables.iter();
        let table = tables.find(|t| t.schema == column.schema && t.name == column.table)?;
        let found = table.columns.iter().find(|c| c.name == column.column)?;
        Some((table.oid, found.number, found.type_oid))
    }

    fn tainted(&self, base: Base) -> bool {
        self.bound.taints.get(&base.0).is_some_and(|t| t.columns.values().any(|n| *n == base.1))
    }

    /// What the server's word about a column's origin asks for. `told`: what the first witness does, for catalogue tables that the
    /// snapshot leaves out.
    fn second(&self, c: &Column<'_>, unknown: Option<Cell>, told: Option<Cell>) -> Option<Cell> {
        let Some(table) = self.bound.index.table(&self.catalog, c.table) else {
            let listed = |list: &[u32]| list.binary_search(&c.table).is_ok();
            // Names, numbers and the like are none: but for labels, definitions are bytea, text, pg_node_tree, text[], anyarray.
            let spells = matches!(c.type_oid, 17 | TEXT | 194 | 1009 | 2277) || c.table == PG_ENUM;
            return if !listed(known::SYSTEM_OIDS) || c.attribute == 0 {
                unknown
            } else if spells && listed(known::DEFINITION_OIDS) {
                told
            } else {
                None
            };
        };
        self.column(table, c, unknown)
    }

    fn column(&self, table: &Table, c: &Column<'_>, unknown: Option<Cell>) -> Option<Cell> {
        if c.attribute == 0 || (c.attribute > 0 && !table.columns.iter().any(|t| t.number == c.attribute)) {
            return unknown;
        }
        match lineage::system(&table.schema, &table.name) {
            Some(true) if !self.tainted((table.oid, c.attribute)) => return None,
            Some(true) => return self.cell(table.oid, c.attribute, c.type_oid, c.format),
            Some(false) => {
                // Some hold structure beside contents.
                let name = table.columns.iter().find(|t| t.number == c.attribute).map(|t| t.name.as_str());
                let secret = known::secret_columns(&table.name);
                let structure = secret.zip(name).is_some_and(|(secret, name)| !secret.contains(&name));
                return if structure { None } else { unknown };
            }
            None => {}
        }
        if !matches!(table.kind, 'r' | 'p' | 'v' | 'm' | 'S') {
            return unknown;
        }
        match self.bound.taints.get(&table.oid) {
            None => None,
            Some(taint) if taint.whole => unknown,
            Some(taint) if taint.columns.values().any(|n| *n == c.attribute) => {
                self.cell(table.oid, c.attribute, c.type_oid, c.format)
            }
            Some(_) => None,
        }
    }
}

fn origin(out: &trace::Out) -> Origin {
    if out.unknown {
        Origin::Unknown
    } else if out.sources.is_empty() {
        Origin::Clean
    } else if let Some(text) = out.text {
        Origin::Definition(text)
    } else if out.sources.iter().all(|(oid, _)| *oid < FIRST_NORMAL_OID) {
        Origin::Defined
    } else {
        Origin::Masked
    }
}

/// A type as rows have it: the domains of `information_schema` are texts.
fn spelled(type_oid: u32) -> u32 {
    /// What initdb makes with numbers that are not fixed (`FirstUnpinnedObjectId`, before 14 `FirstBootstrapObjectId`).
    const FIRST_UNPINNED_OID: u32 = 12_000;
    if (FIRST_UNPINNED_OID..FIRST_NORMAL_OID).contains(&type_oid) { TEXT } else { type_oid }
}

/// Where nothing is masked each COPY … TO STDOUT still has its entry.
fn pass_copies(facts: &Facts<'_>, decision: &mut Decision) {
    for _ in facts.copies.iter().filter(|c| !c.is_from && !c.program && c.file.is_none()) {
        decision.copies.push(CopyPlan::Pass);
    }
}

enum CopyCells {
    Clean,
    Columns(Vec<Option<Cell>>),
    Every,
    Ambiguous,
}

/// `drop`, or `drop-table`; `analyze` is VACUUM's sister and `revoke` GRANT's, but each has its own word.
fn is_class(word: &str, act: &Act<'_>) -> bool {
    word == act.class
        || (!act.object.is_empty()
            && word
                .strip_prefix(act.class)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|object| object == act.object))
}

/// Several statements of one text: each result is counted by the dearest of them.
fn merge(limits: &mut Vec<Limited>, more: Limited) {
    match limits.iter_mut().find(|l| l.limit == more.limit) {
        Some(known) => {
            known.weight = known.weight.max(more.weight);
            known.collects |= more.collects;
            known.few &= more.few;
        }
        None => limits.push(more),
    }
}

/// What an `only` rule does not allow.
enum Beyond<'f> {
    /// A class, a function or a table.
    Word(&'f str),
    /// The statement as a whole.
    Shape,
}

fn beyond(rule: &Compiled, block: &BlockRule, what: Beyond<'_>) -> Block {
    let hint = match what {
        Beyond::Word(word) => {
            format!("{word} is not on the list of what you may use on this connection; ask its owner when you need it.")
        }
        Beyond::Shape => "This statement is not on the list of what you may send on this connection. When it belongs there, its owner \
                          can learn it by `lockgate suggest`, or add its shape under `only.shapes`."
            .to_owned(),
    };
    Block { hint, ..refusal(rule, block, None, None) }
}

fn refusal(rule: &Compiled, block: &BlockRule, act: Option<&Act<'_>>, name: Option<Name<'_>>) -> Block {
    let what = act.map(|a| {
        if a.object.is_empty() {
            a.class.to_uppercase()
        } else {
            format!("{} {}", a.class, a.object).to_uppercase()
        }
    });
    Block {
        rule: rule.name.clone(),
        place: rule.place.clone(),
        message: block.message.clone(),
        sqlstate: "42501",
        schema: name.and_then(|n| n.schema).map(str::to_owned),
        table: name.map(|n| n.name.to_owned()),
        column: None,
        hint: match what {
            Some(what) => {
                format!("{what} is blocked for you on this connection; ask its owner when you need it.")
            }
            None => "Ask the owner of this connection when you need it.".into(),
        },
    }
}

/// Procedural code and text run as SQL: no class of theirs says what they do.
fn code(facts: &Facts<'_>) -> Option<Block> {
    let defines = facts.acts.iter().find(|a| {
        a.class == "do"
            || (a.class == "create"
                && matches!(a.object, "function" | "procedure" | "language" | "aggregate"))
    });
    if let Some(act) = defines {
        let what = if act.object.is_empty() {
            act.class.to_uppercase()
        } else {
            format!("CREATE {}", act.object.to_uppercase())
        };
        return Some(built_in(
            CODE_NOT_ANALYSED,
            "42501",
            format!("{what} holds code that could not be analysed"),
        ));
    }
    let runner = facts.functions.iter().find(|f| listed(known::TEXT_RUNNERS, f))?;
    Some(built_in(
        CODE_NOT_ANALYSED,
        "42501",
        format!("{runner}() runs text or reaches files that could not be analysed"),
    ))
}

/// Refuses to make a relation of a system relation's name, which would be found before that one: rules speak of it as structure.
/// Under masks, of a type's or a harmless function's neither: `text`, and `upper(x)`, would be that relation's row, and what is cast to it
/// could be checked.
fn named_as_system(statement: Node<'_>, facts: &Facts<'_>, masks: bool) -> Option<Block> {
    let mut stack = if facts.ddl { vec![statement] } else { Vec::new() };
    while let Some(node) = stack.pop() {
        let made = match node {
            Node::CreateStmt(s) => s.relation().and_then(nodes::RangeVar::relname),
            Node::ViewStmt(s) => s.view().and_then(nodes::RangeVar::relname),
            Node::IntoClause(s) => s.rel().and_then(nodes::RangeVar::relname),
            // Of a column or a constraint it is no relation's.
            Node::RenameStmt(s) if s.subname().is_none() => s.newname(),
            _ => None,
        };
        let theirs = |n: &&str| listed(known::SYSTEM_RELATIONS, n) || (masks && known::type_or_call(n));
        if let Some(name) = made.filter(theirs) {
            let message = format!("{name} is a name of the server's own, and is not given to anything else");
            return Some(built_in(CODE_NOT_ANALYSED, "42501", message));
        }
        if children(node, &mut stack).is_err() {
            return None;
        }
    }
    None
}

/// Whether a name may mean another table after it: something was dropped or renamed, or is looked for elsewhere.
fn moves_names(statement: Node<'_>, facts: &Facts<'_>) -> bool {
    use nodes::{ObjectType as T, TransactionStmtKind as Kind};
    let path = |name: &str| matches!(name, "search_path" | "role" | "session_authorization");
    let set = facts.settings.iter().any(|(name, _)| path(&name.to_ascii_lowercase()))
        || facts.set_config.iter().any(|call| call.is_none_or(|(name, _)| path(&name.to_ascii_lowercase())));
    set || match statement {
        Node::SelectStmt(_)
        | Node::InsertStmt(_)
        | Node::UpdateStmt(_)
        | Node::DeleteStmt(_)
        | Node::MergeStmt(_)
        | Node::CopyStmt(_)
        | Node::ExplainStmt(_)
        | Node::TruncateStmt(_)
        | Node::VacuumStmt(_)
        | Node::LockStmt(_)
        | Node::CommentStmt(_)
        | Node::VariableShowStmt(_)
        | Node::CreateStmt(_)
        | Node::CreateTableAsStmt(_)
        | Node::CreateSeqStmt(_)
        | Node::AlterSeqStmt(_)
        | Node::CreateEnumStmt(_)
        | Node::IndexStmt(_)
        | Node::AlterTableStmt(_) => false,
        Node::RenameStmt(r) => !matches!(r.rename_type, T::OBJECT_COLUMN | T::OBJECT_TABCONSTRAINT),
        Node::TransactionStmt(t) => !matches!(
            t.kind,
            Kind::TRANS_STMT_BEGIN
                | Kind::TRANS_STMT_START
                | Kind::TRANS_STMT_SAVEPOINT
                | Kind::TRANS_STMT_RELEASE
        ),
        // RESET ALL names none.
        Node::VariableSetStmt(_) => facts.settings.is_empty(),
        _ => true,
    }
}

/// The name of a setting whose effect nobody listed.
fn unlisted_setting<'a>(facts: &Facts<'a>) -> Option<&'a str> {
    facts
        .settings
        .iter()
        .map(|(name, _)| *name)
        .chain(facts.set_config.iter().flatten().map(|(name, _)| *name))
        .find(|name| {
            let lower = name.to_ascii_lowercase();
            match lower.split_once('.') {
                Some((owner, _)) => known::SETTING_OWNERS.contains(&owner),
                None => {
                    !listed(known::SETTINGS, &lower)
                        && !known::LEXICAL_SETTINGS.iter().any(|(n, _)| *n == lower)
                }
            }
        })
}

const NOT_UNDERSTOOD: &str = "not-understood";
const MASKED_DATA_COPIED: &str = "masked-data-copied";
const MASKED_DATA_ASKED: &str = "masked-data-asked";
const CODE_NOT_ANALYSED: &str = "code-not-analysed";
const HINT: &str = "Leave masked columns out of the statement, or ask the owner of this connection.";

fn not_while_masked(why: &str) -> String {
    format!("not allowed while columns are masked for you: {why}")
}

fn built_in(rule: &str, sqlstate: &'static str, message: String) -> Block {
    Block {
        rule: rule.to_owned(),
        place: String::new(),
        message,
        sqlstate,
        schema: None,
        table: None,
        column: None,
        hint: HINT.to_owned(),
    }
}

/// Times an hour that a write may meet a value of a column no statement may ask about: it cannot be told beforehand.
const CONFLICTS_WHERE_REFUSED: u32 = 10;
/// `FirstNormalObjectId` (transam.h): what users create starts here.
const FIRST_NORMAL_OID: u32 = 16_384;
const TEXT: u32 = 25;
const PG_ENUM: u32 = 3501;

/// The body of a fuzz target: any bytes, judged under a scope with masks, blocks and observed rules, and then planned. Panics when a
/// promise of this crate is broken, and only then.
#[expect(clippy::panic, reason = "this is how a fuzz target says that something is wrong")]
pub fn fuzz_statement(bytes: &[u8]) {
    thread_local! {
        static JUDGE: Judge = fuzz_judge();
    }
    JUDGE.with(|judge| {
        let decision = match catch_unwind(AssertUnwindSafe(|| judge.decide(bytes))) {
            Ok(decision) => decision,
            Err(_) => panic!("the analysis panicked"),
        };
        if !decision.clean && !decision.withhold {
            panic!("what is not clean must be withheld");
        }
        let mut cache = crate::cache::DecisionCache::with_bounds(4, 1 << 16);
        for _ in 0..2 {
            let cached = cache.statement(judge, bytes, true);
            if cached.verdict != decision.verdict || cached.clean != decision.clean {
                panic!("the cache changed a decision");
            }
        }
        let column = |table, attribute, type_oid| Column {
            name: b"c",
            table,
            attribute,
            type_oid,
            format: Format::Binary,
        };
        let n = decision.outputs.as_ref().map_or(2, Vec::len);
        let columns: Vec<_> =
            (0..n).map(|i| if i % 2 == 0 { column(0, 0, TEXT) } else { column(20_000, 2, TEXT) }).collect();
        let plan = judge.plan_for(&decision, &columns);
        if plan.columns.len() != columns.len() || plan.columns.get(1).is_some_and(Option::is_none) {
            panic!("a masked column has no mask");
        }
    });
}

fn fuzz_judge() -> Judge {
    use crate::catalog::TableColumn;
    use crate::mask::Mask;
    use crate::rule::{On, PolicyFile, Rule, Source, compile};
    let column = |number, name: &str| TableColumn {
        number,
        name: name.into(),
        type_oid: TEXT,
        type_name: "text".into(),
        not_null: false,
        generated: None,
    };
    let table = |oid, name: &str, kind, definition: Option<&str>| Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind,
        columns: vec![column(1, "a"), column(2, "s")],
        parents: Vec::new(),
        definition: definition.map(str::to_owned),
    };
    let catalog = Catalog {
        tables: vec![
            table(20_000, "t", 'r', None),
            table(20_001, "u", 'r', None),
            table(20_002, "v", 'v', Some("SELECT t.a, t.s FROM t")),
        ],
        ..Catalog::default()
    };
    let on = |columns: &[&str], statements: &[&str]| On {
        columns: columns.iter().map(|s| (*s).to_owned()).collect(),
        statements: statements.iter().map(|s| (*s).to_owned()).collect(),
        ..On::default()
    };
    let file = PolicyFile {
        rules: vec![
            Rule { name: "m".into(), on: on(&["t.s"], &[]), mask: Some(Mask::Redact), ..Rule::default() },
            Rule { name: "b".into(), on: on(&[], &["drop"]), block: Some("no".into()), ..Rule::default() },
            Rule {
                name: "w".into(),
                on: on(&[], &["delete"]),
                block: Some("no".into()),
                missing_where: true,
                mode: Some(crate::rule::Mode::Observe),
                ..Rule::default()
            },
        ],
        ..PolicyFile::default()
    };
    let policy = compile(&[Source { file, ..Source::default() }], None).unwrap_or_default();
    policy.scope(&crate::Subject { identity: "f".into(), groups: Vec::new() }, "c").bind(Arc::new(catalog))
}
