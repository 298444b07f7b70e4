//! Where every value of a statement comes from: names resolved in their scopes, over the parse tree and a catalogue.
//!
//! Not the fast path ([`super::lineage`] proves most statements clean without scopes) and not a judgement (what follows from a read is
//! the judge's). Invariant: a value whose origin was not followed says [`Val::unknown`]; a construct, name or shape nobody here
//! understands ends the trace ([`Stop`]), never passes for nothing; work and depth are bounded. What cannot be told apart (several
//! tables of one name, a column more than one relation may have) is taken together.
//! Source: parse_relation.c, parse_target.c, parse_clause.c and parse_func.c of PostgreSQL 18.

use foldhash::{HashMap, HashSet, HashSetExt as _};
use std::rc::Rc;

use pg_raw_parse::list::NodeList;
use pg_raw_parse::{Node, nodes};

use super::children::children;
use super::facts::{self, constant, name};
use super::known::{self, Part, listed};
use super::lineage::{Index, Taint, Taints, built_in, plain_operator, system};
use super::literal;
use super::plpgsql;
use crate::catalog::{Catalog, Constraint, Function, Table, TableColumn};
use crate::judge::{Made, Probe, ProbeValue};
use crate::mask::Text;

/// A column of a relation: OID and attribute number. Number 0: something of the relation, nobody knows what.
pub(crate) type Base = (u32, i16);

/// What a built-in says of how something is defined, as a source.
const DEFINITION: Base = (0, 0);
/// The same of a setting of users. Applications choose rows by these, and store them: only how it is shown is anybody's business.
pub(crate) const SETTING: Base = (0, 1);
/// Contents of a relation of the server's own that the catalogue does not have: TOAST tables, statistics.
const CONTENTS: Base = (0, 2);

/// Where in a statement a column is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Its value reaches the answer, as it is or in another form.
    Output,
    /// Only how many are not NULL.
    Count,
    /// Only whether it is NULL.
    Null,
    /// Compared by `=` or IN with values that are written out or bound.
    Equality,
    /// Any other condition on which rows there are: WHERE, HAVING, FILTER, a subquery's.
    Predicate,
    /// A join condition other than equality with a value, USING, NATURAL.
    Join,
    Sort,
    Group,
    /// DISTINCT, UNION, EXCEPT, INTERSECT.
    Distinct,
    Window,
    /// The condition of a CASE.
    Case,
    /// It decides how many rows there are: arguments of functions that return rows, of TABLESAMPLE.
    Rows,
    Limit,
    /// `ON CONFLICT` compares it with values that are not written out or bound, or with too many.
    Conflict,
    /// It is computed with by something that can fail, or answer NULL, because of its value.
    Computed,
    /// It is stored.
    Write,
}

/// What a statement does with data.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// `None`: how many there are cannot be told.
    pub outputs: Option<Vec<Out>>,
    pub reads: Vec<(Base, Place)>,
    /// Values compared with a column: with one of these, where several tables are called so.
    pub probes: Vec<(Vec<Base>, ProbeValue)>,
    /// What was written, of origin unknown or hidden.
    pub stores_unknown: bool,
    /// A built-in with an effect outside the statement is given what derives from a hidden column.
    pub effects: bool,
    /// A function nobody knows decides about rows, or is given what derives from a hidden column.
    pub stranger: bool,
    /// Relations in FROM, when every column is followed.
    pub views: Vec<u32>,
    /// Which rows there are may derive from anything: a relation or a function that nobody can follow stands in FROM.
    vague: bool,
    /// A function nobody knows is called at all.
    pub unknown_function: bool,
    /// A function of users is called that stores what derives from a hidden column.
    pub launders: bool,
    /// Targets of writes, as they are written, with what flows into them.
    pub writes: Vec<(String, Vec<Base>)>,
}

impl Trace {
    /// It stores what derives from a hidden column, or nobody knows from what.
    fn keeps(&self) -> bool {
        self.launders || self.stores_unknown || self.writes.iter().any(|(_, of)| !of.is_empty())
    }
}

/// One output column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Out {
    pub name: String,
    pub sources: Vec<Base>,
    pub column: Option<Base>,
    pub type_oid: u32,
    /// The text of a definition, unchanged.
    pub text: Option<Text>,
    pub unknown: bool,
}

/// Why a trace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop(pub &'static str);

type Traced<T> = Result<T, Stop>;

const CONSTRUCT: Stop = Stop("it holds a construct nobody here understands");
const DEEP: Stop = Stop("it is nested too deeply");
const MUCH: Stop = Stop("it compares too many names");

/// Queries, CASEs and the like inside of each other.
const DEPTH_MAX: usize = 48;
/// Steps and comparisons of names; about 2 ms.
const WORK_MAX: usize = 60_000;
/// Steps a value costs that is copied and added to another.
const VALUE: usize = 4;
/// Rounds until a recursive WITH tells nothing new.
const ROUNDS_MAX: usize = 12;

/// Body of a function of users in SQL, followed once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    pub sources: Vec<Base>,
    /// It stores something, or has another effect.
    pub effects: bool,
    /// What it stores derives from a hidden column, or nobody knows from what.
    pub launders: bool,
    /// Nothing else is known of it.
    pub stranger: bool,
    /// It takes arguments, and asks this about hidden columns.
    pub asks: Vec<(Base, Place)>,
}

pub(crate) type Summaries = HashMap<Box<str>, Summary>;

/// Against what a statement is traced.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub catalog: &'a Catalog,
    pub index: &'a Index,
    pub taints: &'a Taints,
    pub summaries: &'a Summaries,
    /// Follow every column, through views too, not only hidden ones.
    pub all: bool,
    /// A name that resolves to nothing is a parameter (bodies of functions).
    pub body: bool,
    /// Rows of constants may have been left out of the statement.
    pub rows_left_out: bool,
    /// It is the only statement of its text, so its answer is held against the number of columns counted here.
    pub alone: bool,
    /// Tables the catalogue does not have, without anything masked.
    pub made: &'a [Made],
}

impl<'a> World<'a> {
    pub(crate) fn new(
        catalog: &'a Catalog,
        index: &'a Index,
        taints: &'a Taints,
        summaries: &'a Summaries,
    ) -> World<'a> {
        World {
            catalog,
            index,
            taints,
            summaries,
            all: false,
            body: false,
            rows_left_out: false,
            alone: false,
            made: &[],
        }
    }

    /// A base that is no masked column, but shows how something is defined.
    pub(crate) fn defines(&self, base: Base) -> bool {
        base == DEFINITION || base == SETTING || self.taints.get(&base.0).is_some_and(Taint::defines)
    }
}

/// A value: what it derives from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Val {
    /// Sorted.
    sources: Vec<Base>,
    /// The very column.
    column: Option<Base>,
    type_oid: u32,
    /// It is the text of a definition unchanged, or one of several such, or what hides nothing.
    text: Option<Text>,
    unknown: bool,
    /// Of a function nobody knows.
    stranger: bool,
    /// The very column of one of several tables of a name.
    one_of: bool,
    /// A column of arrays has a part in it: what puts arrays together fails where their dimensions differ.
    arrays: bool,
}

impl Val {
    fn unknown() -> Val {
        Val { unknown: true, ..Val::default() }
    }

    /// Also derives from `other`.
    fn add(&mut self, other: &Val) {
        self.column = None;
        self.one_of = false;
        self.text = None;
        self.unknown |= other.unknown;
        self.stranger |= other.stranger;
        self.arrays |= other.arrays;
        for base in &other.sources {
            if let Err(at) = self.sources.binary_search(base) {
                self.sources.insert(at, *base);
            }
        }
    }

    /// Also derives from what `other` hides, if it does.
    fn hide(&mut self, other: &Val) {
        if other.hidden() {
            self.add(other);
        }
    }

    fn hidden(&self) -> bool {
        self.unknown || self.sources.iter().any(|b| *b != SETTING)
    }

    /// Nothing that is looked after has a part in it.
    fn plain(&self) -> bool {
        !self.unknown && self.sources.is_empty()
    }

    /// A definition as a function shows it.
    fn definition(part: Part) -> Val {
        let text = match part {
            Part::Text(text) => Some(text),
            Part::Whole => None,
        };
        Val { sources: vec![DEFINITION], text, ..Val::default() }
    }

    fn setting() -> Val {
        Val { sources: vec![SETTING], text: Some(Text::Words), type_oid: TEXT, ..Val::default() }
    }

    /// Is `self` or `other`, as COALESCE, CASE and UNION choose.
    fn or(&mut self, other: &Val) {
        let text = match (self.text, other.text) {
            (Some(a), Some(b)) if a == b => Some(a),
            // What is nothing but words may stand in either.
            (Some(_), Some(_)) => Some(Text::Words),
            (text, None) if other.plain() => text,
            (None, text) if self.plain() => text,
            _ => None,
        };
        self.add(other);
        self.text = text;
    }

    /// `self` and `other` are put together whole, one behind the other: words stay words.
    fn beside(&mut self, other: &Val) {
        self.or(other);
        self.text = self.text.map(|_| Text::Words);
    }
}

/// Text types as RowDescription and the catalogue say them.
const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;

/// A column of a derived relation. Without a name: it may have any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Col<'a> {
    name: Option<&'a str>,
    val: Val,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Columns<'a> {
    list: Vec<Col<'a>>,
    /// There may be more columns, each deriving from this.
    rest: Option<Val>,
    /// How often `*` stands among them for a table: how many columns it has, and what they are called, may be otherwise by the time the
    /// server looks, because anybody may change it, or put another of its name in front.
    stars: usize,
    /// What is hidden stands among them by itself.
    lone: bool,
    /// What is hidden behind such columns of another: it may stand in any place.
    moved: Val,
    /// What is hidden and may have any name, because names were given to places.
    named: Val,
}

impl<'a> Columns<'a> {
    fn open(val: Val) -> Columns<'a> {
        Columns { rest: Some(val), ..Columns::default() }
    }

    fn all(&self) -> Val {
        let mut all = Val::default();
        for val in self.list.iter().map(|c| &c.val).chain(&self.rest) {
            all.add(val);
        }
        all
    }

    /// `AS x(a, b)`: names by position.
    fn renamed(mut self, names: &'a NodeList) -> Columns<'a> {
        let names = names.iter().map(Node::as_str);
        if self.rest.is_some() {
            // Which is which is not known.
            let val = self.all();
            if names.len() > 0 {
                self.list = names.map(|name| Col { name, val: val.clone() }).collect();
                self.rest = Some(val);
            }
            return self;
        }
        if names.len() > 0 {
            self.named.add(&self.moved);
        }
        for (col, new) in self.list.iter_mut().zip(names) {
            col.name = new;
        }
        self
    }

    fn listed(list: Vec<Col<'a>>) -> Columns<'a> {
        Columns { list, ..Columns::default() }
    }
}

#[derive(Debug, Clone)]
enum Body<'a> {
    /// Every relation the name may mean.
    Tables(Vec<&'a Table>),
    Columns(Rc<Columns<'a>>),
}

/// What FROM brings into scope under one name.
#[derive(Debug, Clone)]
struct Rel<'a> {
    name: Option<&'a str>,
    /// As written, for `schema.table.column`; only without an alias.
    schema: Option<&'a str>,
    aliased: bool,
    rename: Vec<&'a str>,
    body: Body<'a>,
    /// Only `name.column` finds it: excluded, old, new, the alias of USING.
    shy: bool,
}

#[derive(Clone, Copy)]
struct Scope<'s, 'a> {
    parent: Option<&'s Scope<'s, 'a>>,
    rels: &'s [Rel<'a>],
    ctes: &'s [(&'a str, Rc<Columns<'a>>)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Equality with a value is allowed to be told from other conditions.
    Rows(Place),
    /// Every condition counts alike.
    Finer(Place),
}

/// Follows one statement.
pub(crate) fn trace<'a>(world: World<'a>, statement: Node<'a>) -> Traced<Trace> {
    let mut tracer = Tracer::new(world);
    tracer.answers = world.alone && matches!(statement, Node::SelectStmt(_));
    let outer = Scope { parent: None, rels: &[], ctes: &[] };
    tracer.converted(statement)?;
    let columns = tracer.statement(statement, &outer)?;
    let (stars, enough) = columns.as_ref().map_or((0, 1), |c| (c.stars, c.fixed()));
    if let Some(columns) = columns {
        for c in &columns.list {
            tracer.record(&c.val, Place::Output);
            // Whether what is put together exceeds what a value may hold tells how long its parts are.
            if tracer.grows && c.val.column.is_none() {
                tracer.record(&c.val, Place::Computed);
            }
        }
        if columns.rest.is_none() {
            tracer.trace.outputs = Some(columns.list.into_iter().map(Col::out).collect());
        } else if let Some(rest) = &columns.rest {
            tracer.record(rest, Place::Output);
        }
    } else {
        tracer.trace.outputs = Some(Vec::new());
    }
    // Where one of them loses a column and another gains one, what is computed moves, and only the server can say what stands where. Of
    // COPY it says nothing.
    let copied = matches!(statement, Node::CopyStmt(_));
    let moves = |o: &Out| {
        let hides = o.unknown || o.sources.iter().any(|b| !tracer.world.defines(*b));
        hides && if copied { stars > enough } else { stars > 1 && o.column.is_none() }
    };
    // Of the body of a function all outputs count alike.
    let placed = !tracer.world.all && !tracer.world.body;
    if placed && tracer.trace.outputs.iter().flatten().any(moves) {
        tracer.trace.outputs = None;
    }
    if tracer.trace.vague {
        tracer.trace.outputs.iter_mut().flatten().for_each(|o| o.unknown = true);
    }
    Ok(tracer.trace)
}

impl Col<'_> {
    fn out(self) -> Out {
        Out {
            name: self.name.unwrap_or("?column?").to_owned(),
            sources: self.val.sources,
            column: self.val.column,
            type_oid: self.val.type_oid,
            text: self.val.text,
            unknown: self.val.unknown,
        }
    }
}

struct Tracer<'a> {
    world: World<'a>,
    trace: Trace,
    seen: HashSet<(Base, Place)>,
    work: usize,
    depth: usize,
    /// How many constructs that can fail, or have an effect, have been met.
    risks: usize,
    /// How many that may put arrays together, and how many that make one.
    joins: usize,
    arrays: usize,
    /// Something makes texts of any length.
    grows: bool,
    /// The statement is a query, and its rows are the answer.
    answers: bool,
}

impl<'a> Tracer<'a> {
    fn new(world: World<'a>) -> Tracer<'a> {
        Tracer {
            world,
            trace: Trace::default(),
            seen: HashSet::new(),
            work: WORK_MAX,
            depth: 0,
            risks: 0,
            joins: 0,
            arrays: 0,
            grows: false,
            answers: false,
        }
    }

    fn spend(&mut self, steps: usize) -> Traced<()> {
        self.work = self.work.checked_sub(steps).ok_or(MUCH)?;
        Ok(())
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Traced<T>) -> Traced<T> {
        if self.depth >= DEPTH_MAX {
            return Err(DEEP);
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn record(&mut self, val: &Val, place: Place) {
        for base in val.sources.iter().filter(|b| **b != SETTING) {
            // Few, unless every column is followed: then looking through them costs less than hashing.
            let few = self.trace.reads.len() < 16;
            let new = !few || !self.trace.reads.contains(&(*base, place));
            if new && self.seen.insert((*base, place)) {
                self.trace.reads.push((*base, place));
            }
        }
        if val.stranger && !matches!(place, Place::Output | Place::Write) {
            self.trace.stranger = true;
        }
    }

    /// Whatever is written as a type of users goes through its functions, wherever the type is named: they may be asked in its place.
    fn converted(&mut self, node: Node<'a>) -> Traced<()> {
        if !self.world.index.converts() && !self.world.index.any_tells() {
            return Ok(());
        }
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            self.spend(1)?;
            if let Node::TypeName(t) = node {
                self.trace.stranger |= self.world.index.tells(t);
                for function in self.world.index.conversions(t) {
                    let val = self.summary(function);
                    self.trace.stranger |= val.hidden();
                }
            }
            children(node, &mut stack).map_err(|_| CONSTRUCT)?;
        }
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------------- statements

    /// The columns of the answer; `None` when it has none.
    fn statement(&mut self, node: Node<'a>, outer: &Scope<'_, 'a>) -> Traced<Option<Columns<'a>>> {
        match node {
            Node::SelectStmt(s) => {
                let columns = self.select(s, outer)?;
                let Some(into) = s.into_clause() else { return Ok(Some(columns)) };
                self.store(into.rel().and_then(nodes::RangeVar::relname), &columns.all());
                Ok(None)
            }
            Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
                self.deeper(|t| t.change(node, outer))
            }
            Node::DeclareCursorStmt(d) => self.statement(d.query(), outer),
            Node::PrepareStmt(p) => self.statement(p.query(), outer),
            Node::CopyStmt(c) if !c.is_from && !matches!(c.query(), Node::None) => {
                self.statement(c.query(), outer)
            }
            Node::CreateTableAsStmt(c) => {
                let columns = self.statement(c.query(), outer)?;
                let target = c.into().and_then(nodes::IntoClause::rel).and_then(nodes::RangeVar::relname);
                self.store(target, &columns.unwrap_or_default().all());
                Ok(None)
            }
            Node::ViewStmt(v) => {
                let columns = self.statement(v.query(), outer)?;
                let target = v.view().and_then(nodes::RangeVar::relname);
                self.store(target, &columns.unwrap_or_default().all());
                Ok(None)
            }
            Node::ExplainStmt(e) => {
                // The lines hold constants and estimates of whatever is read.
                let columns = self.statement(e.query(), outer)?;
                let mut val = columns.unwrap_or_default().all();
                for (base, _) in &self.trace.reads {
                    val.add(&Val { sources: vec![*base], ..Val::default() });
                }
                val.unknown |= self.trace.stranger;
                if !val.hidden() && !self.world.taints.is_empty() {
                    // Lines, each a row, and JSON quote in a way that is followed; YAML holds what a statement names unquoted.
                    let followed = e.options().iter().all(|option| {
                        option.defname() != Some("format")
                            || option.arg().as_str().is_some_and(|f| matches!(f, "text" | "json"))
                    });
                    let text = followed.then_some(Text::Plan);
                    val = Val { text, type_oid: TEXT, ..Val::definition(Part::Whole) };
                }
                Ok(Some(Columns::listed(vec![Col { name: Some("QUERY PLAN"), val }])))
            }
            Node::ExecuteStmt(e) => {
                // What it is given may be stored, or shown, by what was prepared.
                for given in e.params() {
                    let val = self.value(given, outer)?;
                    self.record(&val, Place::Write);
                    self.trace.stores_unknown |= val.hidden();
                }
                Ok(Some(Columns::open(Val::unknown())))
            }
            Node::VariableShowStmt(v) if v.name().is_some_and(known::of_users) => {
                Ok(Some(Columns::listed(vec![Col { name: v.name(), val: Val::setting() }])))
            }
            // Of the head of a function that is called: what its arguments are by default.
            Node::CreateFunctionStmt(f) if self.world.body => {
                let mut val = Val::default();
                for parameter in f.parameters() {
                    val.add(&self.value(parameter.defexpr(), outer)?);
                }
                Ok(Some(Columns::listed(vec![Col { name: None, val }])))
            }
            _ => Err(Stop("it is of a kind whose answer cannot be traced")),
        }
    }

    fn store(&mut self, target: Option<&str>, val: &Val) {
        self.record(val, Place::Write);
        self.trace.stores_unknown |= val.unknown;
        let target = target.unwrap_or_default();
        let kept = val.sources.iter().copied().filter(|b| *b != SETTING);
        match self.trace.writes.iter_mut().find(|(t, _)| t == target) {
            Some((_, sources)) => {
                sources.extend(kept);
                sources.sort_unstable();
                sources.dedup();
            }
            None => self.trace.writes.push((target.to_owned(), kept.collect())),
        }
    }

    fn change(&mut self, node: Node<'a>, outer: &Scope<'_, 'a>) -> Traced<Option<Columns<'a>>> {
        let with = match node {
            Node::InsertStmt(s) => s.with_clause(),
            Node::UpdateStmt(s) => s.with_clause(),
            Node::DeleteStmt(s) => s.with_clause(),
            Node::MergeStmt(s) => s.with_clause(),
            _ => None,
        };
        let ctes = self.with(with, outer)?;
        let with = Scope { parent: Some(outer), rels: &[], ctes: &ctes };
        let (relation, returning) = match node {
            Node::InsertStmt(s) => (s.relation(), s.returning_clause()),
            Node::UpdateStmt(s) => (s.relation(), s.returning_clause()),
            Node::DeleteStmt(s) => (s.relation(), s.returning_clause()),
            Node::MergeStmt(s) => (s.relation(), s.returning_clause()),
            _ => return Err(CONSTRUCT),
        };
        let relation = relation.ok_or(CONSTRUCT)?;
        let target = relation.relname();
        // A CTE is never what is written to.
        let mut rels = vec![self.table(relation)];
        let (index, catalog, taints) = (self.world.index, self.world.catalog, self.world.taints);
        let mut written = index.candidates(catalog, name(relation));
        self.trace.launders |= written.any(|t| index.betrays(catalog, taints, t.oid));
        match node {
            Node::InsertStmt(s) => {
                let columns = match s.select_stmt() {
                    Node::None => Columns::default(),
                    Node::SelectStmt(q) => self.select(q, &with)?,
                    _ => return Err(CONSTRUCT),
                };
                self.store(target, &columns.all());
                for column in s.cols() {
                    self.indirection(column, &with)?;
                }
                if let Some(conflict) = s.on_conflict_clause() {
                    self.met(s, conflict.infer(), &rels);
                    if let Some(infer) = conflict.infer() {
                        let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
                        self.predicate(infer.where_clause(), &scope, Ask::Finer(Place::Predicate))?;
                    }
                    // The row that was to be inserted: what is not said comes from defaults, and from triggers.
                    let excluded = match rels.first().map(|r| &r.body) {
                        Some(Body::Tables(tables)) => {
                            let all = columns.all();
                            let mut list = Vec::new();
                            for (table, c) in
                                tables.iter().flat_map(|t| t.columns.iter().map(move |c| (t, c)))
                            {
                                let mut val = all.clone();
                                let taint = self.world.taints.get(&table.oid);
                                if taint.is_some_and(|t| t.derived.contains_key(&c.number)) {
                                    val.add(&self.column(table, c));
                                }
                                list.push(Col { name: Some(c.name.as_str()), val });
                            }
                            Columns::listed(list)
                        }
                        _ => Columns::open(columns.all()),
                    };
                    rels.push(Rel::shy("excluded", excluded));
                    let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
                    for set in conflict.target_list() {
                        self.indirection(set.into(), &scope)?;
                        // What was to be there: the column hides it as before.
                        let same = matches!(set.val(), Node::ColumnRef(c) if c.fields().len() == 2
                            && c.fields().first().and_then(Node::as_str) == Some("excluded")
                            && last(c.fields()).and_then(Node::as_str) == set.name());
                        let val = if same { columns.all() } else { self.value(set.val(), &scope)? };
                        self.store(target, &val);
                    }
                    self.predicate(conflict.where_clause(), &scope, Ask::Rows(Place::Predicate))?;
                    rels.pop();
                }
            }
            Node::UpdateStmt(s) => {
                for item in s.from_clause() {
                    self.from(item, &mut rels, &with, false)?;
                }
                let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
                for set in s.target_list() {
                    self.indirection(set.into(), &scope)?;
                    let val = self.value(set.val(), &scope)?;
                    self.store(target, &val);
                }
                self.predicate(s.where_clause(), &scope, Ask::Rows(Place::Predicate))?;
            }
            Node::DeleteStmt(s) => {
                for item in s.using_clause() {
                    self.from(item, &mut rels, &with, false)?;
                }
                let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
                self.predicate(s.where_clause(), &scope, Ask::Rows(Place::Predicate))?;
                self.trace.writes.push((target.unwrap_or_default().to_owned(), Vec::new()));
            }
            Node::MergeStmt(s) => {
                self.from(s.source_relation(), &mut rels, &with, false)?;
                let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
                self.predicate(s.join_condition(), &scope, Ask::Rows(Place::Join))?;
                for when in s.merge_when_clauses() {
                    self.predicate(when.condition(), &scope, Ask::Rows(Place::Predicate))?;
                    for node in when.target_list() {
                        if let Node::ResTarget(set) = node {
                            self.indirection(node, &scope)?;
                            let val = self.value(set.val(), &scope)?;
                            self.store(target, &val);
                        }
                    }
                    for node in when.values() {
                        let val = self.value(node, &scope)?;
                        self.store(target, &val);
                    }
                }
            }
            _ => return Err(CONSTRUCT),
        }
        let Some(returning) = returning else { return Ok(None) };
        let body = rels.first().map_or_else(|| Body::Columns(Rc::default()), |r| r.body.clone());
        for version in ["old", "new"] {
            rels.push(Rel { body: body.clone(), ..Rel::shy(version, Columns::default()) });
        }
        for option in returning.options() {
            let called = option.value().ok_or(CONSTRUCT)?;
            rels.push(Rel { body: body.clone(), ..Rel::shy(called, Columns::default()) });
        }
        // `*` is the target first, then the others; MERGE begins with its source.
        let shown: Vec<Rel<'a>> = if matches!(node, Node::MergeStmt(_)) {
            let (first, rest) = rels.split_first().ok_or(CONSTRUCT)?;
            rest.iter().chain([first]).cloned().collect()
        } else {
            rels.clone()
        };
        let mut star = Columns::default();
        for rel in shown.iter().filter(|r| !r.shy) {
            self.append(&mut star, rel)?;
        }
        let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
        let mut columns = Columns::default();
        for expr in returning.exprs() {
            let Node::ResTarget(target) = expr else { return Err(CONSTRUCT) };
            self.target(target, &scope, Some(&star), &mut columns)?;
        }
        self.handed(&columns);
        Ok(Some(columns))
    }

    /// What ON CONFLICT asks: is there a row of this value? An inserted value is a probe of every hidden column that decides, as in
    /// `column = value`.
    fn met(
        &mut self,
        insert: &'a nodes::InsertStmt,
        infer: Option<&'a nodes::InferClause>,
        rels: &[Rel<'a>],
    ) {
        let Some(Body::Tables(tables)) = rels.first().map(|r| r.body.clone()) else { return };
        // One of several tables of this name is asked: for all of them it is one question.
        let mut asked: Vec<(&str, Vec<ProbeValue>, Vec<Base>)> = Vec::new();
        let mut room = PROBES_MAX.saturating_sub(self.trace.probes.len());
        for table in tables.iter() {
            for column in &table.columns {
                let val = self.column(table, column);
                if !val.hidden() || !self.decides(table, column, infer) {
                    continue;
                }
                // A view's columns are its table's, whose constraints are not looked for.
                let told = !self.world.rows_left_out && table.definition.is_none();
                let values = inserted(insert, table, column, &|v| constant(v) || self.computes(v));
                let values = values.map(|v| v.into_iter().map(probed).collect::<Vec<ProbeValue>>());
                match (values, val.column) {
                    (Some(values), _) if values.is_empty() => {}
                    (Some(values), Some(base)) if told => {
                        let same = |known: &&mut (&str, Vec<ProbeValue>, Vec<Base>)| {
                            known.0 == column.name && known.1 == values
                        };
                        match (asked.iter_mut().find(same), room.checked_sub(values.len())) {
                            (Some((_, _, bases)), _) => bases.push(base),
                            (None, Some(left)) => {
                                room = left;
                                asked.push((&column.name, values, vec![base]));
                            }
                            (None, None) => {
                                self.record(&val, Place::Conflict);
                                continue;
                            }
                        }
                        self.record(&val, Place::Equality);
                    }
                    _ => self.record(&val, Place::Conflict),
                }
            }
        }
        for (_, values, bases) in asked {
            values.into_iter().for_each(|value| self.probe(&bases, value));
        }
    }

    /// Whether this column may decide that a row is there already.
    fn decides(&self, table: &Table, column: &TableColumn, infer: Option<&nodes::InferClause>) -> bool {
        if self.world.catalog.constraints.is_none() || table.definition.is_some() {
            return true;
        }
        let mut constraints = self.world.index.constraints(self.world.catalog, table.oid);
        constraints.any(|c| {
            c.unique
                && c.compares.contains(&(table.oid, column.number))
                && infer.is_none_or(|i| may_mean(i, c, table))
        })
    }

    /// Subscripts in the targets of SET and INSERT's column list: they decide what is stored where.
    fn indirection(&mut self, node: Node<'a>, scope: &Scope<'_, 'a>) -> Traced<()> {
        let Node::ResTarget(target) = node else { return Err(CONSTRUCT) };
        for part in target.indirection() {
            if let Node::A_Indices(i) = part {
                for bound in [i.lidx(), i.uidx()] {
                    let val = self.value(bound, scope)?;
                    self.record(&val, Place::Write);
                    self.trace.stores_unknown |= val.unknown;
                }
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------- queries

    /// Outputs that the server works out whether anybody reads them or not: of RETURNING, of what is LATERAL, of a CTE it does not inline.
    fn handed(&mut self, columns: &Columns<'a>) {
        if self.world.all {
            self.record(&columns.all(), Place::Output);
        }
    }

    fn with(
        &mut self,
        clause: Option<&'a nodes::WithClause>,
        outer: &Scope<'_, 'a>,
    ) -> Traced<Vec<(&'a str, Rc<Columns<'a>>)>> {
        let Some(clause) = clause else { return Ok(Vec::new()) };
        let mut ctes: Vec<(&'a str, Rc<Columns<'a>>)> = Vec::new();
        if !clause.recursive {
            for cte in clause.ctes() {
                let scope = Scope { parent: Some(outer), rels: &[], ctes: &ctes };
                let columns = self.cte(cte, &scope)?;
                self.handed(&columns);
                ctes.push((cte.ctename().unwrap_or_default(), Rc::new(columns)));
            }
            return Ok(ctes);
        }
        // From below: at first each is thought to hold nothing, under any name.
        for cte in clause.ctes() {
            ctes.push((cte.ctename().unwrap_or_default(), Rc::new(Columns::open(Val::default()))));
        }
        for _ in 0..ROUNDS_MAX {
            let mut settled = true;
            for (i, cte) in clause.ctes().iter().enumerate() {
                let scope = Scope { parent: Some(outer), rels: &[], ctes: &ctes };
                let columns = self.cte(cte, &scope)?;
                self.handed(&columns);
                if let Some(slot) = ctes.get_mut(i)
                    && *slot.1 != columns
                {
                    settled = false;
                    slot.1 = Rc::new(columns);
                }
            }
            if settled {
                return Ok(ctes);
            }
        }
        Err(MUCH)
    }

    fn cte(&mut self, cte: &'a nodes::CommonTableExpr, scope: &Scope<'_, 'a>) -> Traced<Columns<'a>> {
        let mut columns = self.deeper(|t| t.statement(cte.ctequery(), scope))?.unwrap_or_default();
        columns = columns.renamed(cte.aliascolnames());
        let extra = |name: Option<&'a str>, val: &Val| Col { name, val: val.clone() };
        if let Some(search) = cte.search_clause() {
            let mut val = columns.all();
            val.column = None;
            self.record(&val, Place::Sort);
            columns.push(extra(search.search_seq_column(), &val));
        }
        if let Some(cycle) = cte.cycle_clause() {
            let mut val = columns.all();
            val.column = None;
            self.record(&val, Place::Distinct);
            columns.push(extra(cycle.cycle_mark_column(), &val));
            columns.push(extra(cycle.cycle_path_column(), &val));
        }
        Ok(columns)
    }

    fn select(&mut self, s: &'a nodes::SelectStmt, outer: &Scope<'_, 'a>) -> Traced<Columns<'a>> {
        self.spend(1)?;
        self.deeper(|t| {
            let ctes = t.with(s.with_clause(), outer)?;
            let with = Scope { parent: Some(outer), rels: &[], ctes: &ctes };
            let mut rels = Vec::new();
            let columns = if s.op != nodes::SetOperation::SETOP_NONE {
                t.set_operation(s, &with)?
            } else if !s.values_lists().is_empty() {
                t.rows(s.values_lists(), &with)?
            } else {
                t.plain(s, &with, &mut rels)?
            };
            // What ORDER BY and LIMIT see: the outputs, and FROM's columns where it is one SELECT.
            let scope = Scope { parent: Some(&with), rels: &rels, ctes: &[] };
            let mut columns = columns;
            let moved = t.settled(s, &columns).then(|| std::mem::take(&mut columns.moved));
            for sort in s.sort_clause() {
                let val = t.by_output(sort.node(), &columns, &scope, true)?;
                t.operator(sort.use_op())?;
                t.record(&val, Place::Sort);
            }
            for bound in [s.limit_count(), s.limit_offset()] {
                let val = t.value(bound, &scope)?;
                t.record(&val, Place::Limit);
                t.trace.stranger |= val.stranger;
            }
            columns.moved.add(&moved.unwrap_or_default());
            Ok(columns)
        })
    }

    /// Nobody sees an order by a place that means another column by then: of the statement's own rows, with one table by `*` that may
    /// have changed, there are more or fewer columns than were counted, and none of them is shown.
    fn settled(&self, s: &nodes::SelectStmt, columns: &Columns<'a>) -> bool {
        self.answers
            && self.depth == 1
            && columns.stars <= columns.fixed()
            && self.risks == 0
            && s.op == nodes::SetOperation::SETOP_NONE
            && s.locking_clause().is_empty()
            && s.into_clause().is_none()
    }

    fn plain(
        &mut self,
        s: &'a nodes::SelectStmt,
        with: &Scope<'_, 'a>,
        rels: &mut Vec<Rel<'a>>,
    ) -> Traced<Columns<'a>> {
        let starred = s.target_list().iter().any(|t| {
            matches!(t.val(), Node::ColumnRef(c)
            if c.fields().len() == 1 && matches!(c.fields().first(), Some(Node::A_Star(_))))
        });
        let mut star = Columns::default();
        for item in s.from_clause() {
            let columns = self.from(item, rels, with, starred)?;
            if starred {
                star.join(columns);
            }
        }
        let scope = Scope { parent: Some(with), rels, ctes: &[] };
        self.predicate(s.where_clause(), &scope, Ask::Rows(Place::Predicate))?;
        let mut columns = Columns::default();
        for target in s.target_list() {
            self.target(target, &scope, starred.then_some(&star), &mut columns)?;
        }
        for window in s.window_clause() {
            let Node::WindowDef(w) = window else { return Err(CONSTRUCT) };
            self.window(w, &scope)?;
        }
        let mut grouped = Vec::new();
        let sets = s.group_clause().iter().any(|n| matches!(n, Node::GroupingSet(_)));
        let mut groups: Vec<Node<'a>> = s.group_clause().iter().collect();
        while let Some(node) = groups.pop() {
            match node {
                Node::GroupingSet(g) => groups.extend(g.content().iter()),
                Node::NodeList(l) => groups.extend(l.iter()),
                Node::RowExpr(r) => groups.extend(r.args().iter()),
                Node::None => {}
                node => {
                    grouped.push(self.by_output(node, &columns, &scope, false)?);
                }
            }
        }
        // Of several grouping sets one may be without the key.
        self.told_apart(grouped, if sets { &[] } else { rels }, Place::Group);
        self.predicate(s.having_clause(), &scope, Ask::Finer(Place::Predicate))?;
        let distinct = s.distinct_clause();
        if !distinct.is_empty() {
            let mut on = distinct.iter().filter(|n| !matches!(n, Node::None)).peekable();
            if on.peek().is_none() {
                let vals = columns.list.iter().map(|c| c.val.clone()).chain(columns.rest.clone()).collect();
                self.told_apart(vals, rels, Place::Distinct);
            }
            for node in on {
                let val = self.by_output(node, &columns, &scope, true)?;
                self.record(&val, Place::Distinct);
            }
        }
        Ok(columns)
    }

    /// Notes what tells rows apart. Beside a table's primary key its other columns tell nothing more: then there is one row of it
    /// in each group anyway (`SELECT DISTINCT t.*`, `GROUP BY` every column, as mappers write them).
    fn told_apart(&mut self, vals: Vec<Val>, rels: &[Rel<'a>], place: Place) {
        // The server groups by the key alone, but sorts different rows by all they show, from the first column on: what stands in front
        // of the key would decide their order.
        let sorts = place == Place::Distinct;
        // A second one of the same table, or a derived one, may show another row.
        let single = |r: &Rel<'a>| matches!(&r.body, Body::Tables(tables) if tables.len() == 1);
        let of = |r: &Rel<'a>, oid: u32| matches!(&r.body, Body::Tables(t) if t.iter().any(|t| t.oid == oid));
        let alone = |oid| rels.iter().all(single) && rels.iter().filter(|r| of(r, oid)).count() == 1;
        let index = self.world.index;
        let has = |base: Base, before: usize| vals.iter().take(before).any(|v| v.column == Some(base));
        let keyed = |at: usize, val: &Val| {
            let before = if sorts { at } else { vals.len() };
            val.column.is_some_and(|(oid, _)| {
                index.key(oid).is_some_and(|key| key.iter().all(|n| has((oid, *n), before))) && alone(oid)
            })
        };
        let all = self.world.all;
        for (_, val) in vals.iter().enumerate().filter(|(at, v)| all || !keyed(*at, v)) {
            self.record(val, place);
        }
    }

    /// ORDER BY, GROUP BY and DISTINCT ON: by position, by name of an output, or an expression.
    fn by_output(
        &mut self,
        node: Node<'a>,
        columns: &Columns<'a>,
        scope: &Scope<'_, 'a>,
        outputs_first: bool,
    ) -> Traced<Val> {
        let output = |wanted: &str| {
            let mut val: Option<Val> = None;
            for c in columns.list.iter().filter(|c| c.name.is_none_or(|n| n == wanted)) {
                val.get_or_insert_default().add(&c.val);
            }
            if let Some(rest) = &columns.rest {
                val.get_or_insert_default().add(rest);
            }
            val.map(|val| columns.called(val))
        };
        match node {
            Node::A_Const(c) => {
                let Some(pg_raw_parse::ConstValue::Integer(n)) = literal::value(c) else {
                    return Ok(Val::default());
                };
                let position = usize::try_from(n).ok().and_then(|n| n.checked_sub(1));
                let found = position.and_then(|i| columns.list.get(i)).filter(|_| columns.rest.is_none());
                let mut val = found.map_or_else(|| columns.all(), |c| c.val.clone());
                if self.hides(&columns.moved) {
                    val.add(&columns.moved);
                }
                Ok(val)
            }
            Node::ColumnRef(c) if c.fields().len() == 1 => {
                let wanted = c.fields().first().and_then(Node::as_str).unwrap_or_default();
                let of_output = output(wanted);
                let exact = outputs_first && columns.list.iter().any(|c| c.name == Some(wanted));
                // An output that `*` brings, and a column of FROM, may have another name by then: the other is meant. And where nothing
                // is certain to be called so, it may be a whole row.
                let of_from = if exact && columns.stars == 0 {
                    None
                } else if exact {
                    self.unqualified_here(wanted, scope.rels)?
                } else if self.unqualified_here(wanted, scope.rels)?.is_some()
                    || !self.called(wanted, None, scope)?.is_empty()
                {
                    Some(self.value(node, scope)?)
                } else {
                    None
                };
                let (first, other) = match (of_output, of_from) {
                    (Some(output), from) if outputs_first => (Some(output), from),
                    (output, Some(from)) => (Some(from), output),
                    (output, None) => (output, None),
                };
                let Some(mut val) = first else { return self.value(node, scope) };
                if let Some(other) = other.filter(|o| o.stranger || self.elsewhere(o, &val)) {
                    val.add(&other);
                }
                Ok(val)
            }
            _ => self.value(node, scope),
        }
    }

    fn set_operation(&mut self, s: &'a nodes::SelectStmt, with: &Scope<'_, 'a>) -> Traced<Columns<'a>> {
        let mut arms = Vec::new();
        let mut distinct = false;
        let mut stack = vec![s];
        while let Some(node) = stack.pop() {
            let nested = std::ptr::eq(node, s)
                || (node.sort_clause().is_empty()
                    && node.with_clause().is_none()
                    && matches!((node.limit_count(), node.limit_offset()), (Node::None, Node::None)));
            if node.op == nodes::SetOperation::SETOP_NONE || !nested {
                arms.push(node);
                continue;
            }
            distinct |= !(node.op == nodes::SetOperation::SETOP_UNION && node.all);
            let (Some(left), Some(right)) = (node.larg(), node.rarg()) else { return Err(CONSTRUCT) };
            stack.extend([right, left]);
        }
        let mut all: Option<Columns<'a>> = None;
        let mut loose = false;
        for arm in arms {
            let columns = self.select(arm, with)?;
            all = Some(match all {
                None => {
                    loose = columns.stars > 0;
                    columns
                }
                Some(mut so_far) => {
                    // The first arm names the places: its own columns keep their names, others get what stands there by then.
                    if loose {
                        columns.list.iter().for_each(|c| so_far.named.hide(&c.val));
                    }
                    so_far.named.hide(&columns.moved);
                    so_far.moved.hide(&columns.moved);
                    // Arms have as many columns as each other.
                    so_far.stars = so_far.stars.max(columns.stars);
                    so_far.lone |= columns.lone;
                    // Arms have as many columns as each other, so one that is known tells how many the other has.
                    if so_far.rest.is_none() && columns.rest.is_some() {
                        let val = columns.all();
                        so_far.list.iter_mut().for_each(|c| c.val.add(&val));
                        so_far
                    } else if so_far.rest.is_some() || so_far.list.len() != columns.list.len() {
                        let mut val = so_far.all();
                        val.add(&columns.all());
                        Columns::open(val)
                    } else {
                        for (into, from) in so_far.list.iter_mut().zip(&columns.list) {
                            into.val.or(&from.val);
                        }
                        so_far
                    }
                }
            });
        }
        let columns = all.ok_or(CONSTRUCT)?;
        if distinct {
            self.record(&columns.all(), Place::Distinct);
        }
        Ok(columns)
    }

    fn rows(&mut self, lists: &'a NodeList, with: &Scope<'_, 'a>) -> Traced<Columns<'a>> {
        const NAMES: [&str; 12] = [
            "column1", "column2", "column3", "column4", "column5", "column6", "column7", "column8",
            "column9", "column10", "column11", "column12",
        ];
        let mut columns = Columns::default();
        let mut star = false;
        for row in lists {
            let row = row.as_node_list().ok_or(CONSTRUCT)?;
            for (i, cell) in row.iter().enumerate() {
                star |= starred(cell);
                let val = self.value(cell, with)?;
                match columns.list.get_mut(i) {
                    Some(col) => col.val.or(&val),
                    None => columns.list.push(Col { name: NAMES.get(i).copied(), val }),
                }
            }
        }
        // As many columns as there are behind each.
        Ok(if star { Columns::open(columns.all()) } else { columns })
    }

    fn target(
        &mut self,
        target: &'a nodes::ResTarget,
        scope: &Scope<'_, 'a>,
        star: Option<&Columns<'a>>,
        out: &mut Columns<'a>,
    ) -> Traced<()> {
        self.spend(1)?;
        match target.val() {
            Node::ColumnRef(c) if matches!(last(c.fields()), Some(Node::A_Star(_))) => {
                if c.fields().len() == 1 {
                    let star = star.ok_or(CONSTRUCT)?;
                    self.spend(star.list.len())?;
                    out.join(star.clone());
                    return Ok(());
                }
                let rels = self.relation(c.fields(), scope)?;
                match rels.as_slice() {
                    [] => out.join(Columns::open(Val::unknown())),
                    [rel] => self.append(out, rel)?,
                    several => {
                        let mut val = Val::default();
                        for rel in several {
                            val.add(&self.row(rel)?);
                        }
                        out.join(Columns::open(val));
                    }
                }
            }
            Node::A_Indirection(i) if matches!(last(i.indirection()), Some(Node::A_Star(_))) => {
                // `(c).*` of a relation in scope is its columns; of another composite value, nobody knows how many.
                if let (1, Node::ColumnRef(c)) = (i.indirection().len(), i.arg())
                    && c.fields().len() == 1
                    && let Some(called) = c.fields().first().and_then(Node::as_str)
                    && self.unqualified(called, scope)?.is_none()
                    && let [rel] = self.called(called, None, scope)?.as_slice()
                {
                    return self.append(out, rel);
                }
                let val = self.value(i.arg(), scope)?;
                out.join(Columns::open(val));
            }
            node => {
                let val = self.value(node, scope)?;
                let name = match target.name() {
                    Some(name) => Some(name),
                    None => figure(node),
                };
                out.push(Col { name, val });
            }
        }
        Ok(())
    }

    /// Appends the columns of a relation, as `*` does.
    fn append(&mut self, out: &mut Columns<'a>, rel: &Rel<'a>) -> Traced<()> {
        let columns = self.columns(rel)?;
        out.join(columns);
        Ok(())
    }

    fn columns(&mut self, rel: &Rel<'a>) -> Traced<Columns<'a>> {
        match &rel.body {
            Body::Columns(columns) => {
                self.spend(columns.list.len())?;
                Ok((**columns).clone())
            }
            Body::Tables(tables) => {
                let mut all: Option<Columns<'a>> = None;
                for table in tables {
                    self.spend(table.columns.len())?;
                    let mut columns = Columns { stars: usize::from(!self.world.all), ..Columns::default() };
                    for (i, c) in table.columns.iter().enumerate() {
                        let val = self.column(table, c);
                        let name = rel.rename.get(i).copied().unwrap_or(c.name.as_str());
                        columns.list.push(Col { name: Some(name), val });
                    }
                    all = Some(match all {
                        None => columns,
                        Some(mut so_far) => {
                            let same = so_far.rest.is_none()
                                && so_far.list.len() == columns.list.len()
                                && so_far.list.iter().zip(&columns.list).all(|(a, b)| a.name == b.name);
                            if same {
                                for (into, from) in so_far.list.iter_mut().zip(&columns.list) {
                                    into.val.add(&from.val);
                                }
                                so_far
                            } else {
                                let mut val = so_far.all();
                                val.add(&columns.all());
                                Columns::open(val)
                            }
                        }
                    });
                }
                Ok(all.unwrap_or_default())
            }
        }
    }

    /// What a column of a table shows.
    fn column(&self, table: &'a Table, column: &TableColumn) -> Val {
        let base = (table.oid, column.number);
        let mut val = Val { type_oid: column.type_oid, arrays: arrays(column), ..Val::default() };
        match system(&table.schema, &table.name) {
            Some(true) => {
                let taint = self.world.taints.get(&table.oid);
                let part = taint.and_then(|t| t.parts.get(&column.number));
                if self.world.all || part.is_some() {
                    val.sources.push(base);
                    val.column = Some(base);
                }
                if let Some(Part::Text(text)) = part {
                    val.text = Some(*text);
                }
                return val;
            }
            Some(false) => {
                let secret = known::secret_columns(&table.name);
                if self.world.all || secret.is_none_or(|s| s.contains(&column.name.as_str())) {
                    val.sources.push(base);
                    val.column = Some(base);
                    val.unknown = secret.is_none_or(|s| s.contains(&column.name.as_str()));
                }
                return val;
            }
            None => {}
        }
        match self.world.taints.get(&table.oid) {
            Some(taint) if taint.whole => {
                val.unknown = true;
                val.arrays = true;
                val.sources.push((table.oid, 0));
            }
            Some(taint) if taint.columns.get(column.name.as_str()) == Some(&column.number) => {
                val.sources.push(base);
                if !taint.derived.contains_key(&column.number) {
                    val.column = Some(base);
                }
            }
            _ if self.world.all => {
                val.sources.push(base);
                val.column = Some(base);
            }
            _ => val.column = Some(base),
        }
        val
    }

    /// A whole row as one value.
    fn row(&mut self, rel: &Rel<'a>) -> Traced<Val> {
        let mut val = match &rel.body {
            Body::Columns(columns) => {
                self.spend(columns.list.len())?;
                columns.all()
            }
            Body::Tables(tables) => {
                let mut val = Val::default();
                for table in tables {
                    self.spend(table.columns.len())?;
                    for c in &table.columns {
                        val.add(&self.column(table, c));
                    }
                }
                val
            }
        };
        val.column = None;
        // A row is no array.
        val.arrays = false;
        Ok(val)
    }

    // ---------------------------------------------------------------------------------------------------------- FROM

    /// Brings an item of FROM into `rels`; its columns as `*` shows them, when `starred`.
    fn from(
        &mut self,
        item: Node<'a>,
        rels: &mut Vec<Rel<'a>>,
        with: &Scope<'_, 'a>,
        starred: bool,
    ) -> Traced<Columns<'a>> {
        let start = rels.len();
        let (mut joins, mut node) = (Vec::new(), item);
        while let Node::JoinExpr(j) = node {
            joins.push(j);
            node = j.larg();
        }
        let names = |j: &&nodes::JoinExpr| {
            j.is_natural
                || j.alias().is_some()
                || j.join_using_alias().is_some()
                || !j.using_clause().is_empty()
        };
        let starred = starred || joins.iter().any(names);
        let mut star = self.item(node, rels, with, starred)?;
        for join in joins.into_iter().rev() {
            self.spend(1)?;
            let right = self.deeper(|t| t.from(join.rarg(), rels, with, starred))?;
            let merged: Vec<&'a str> = if join.is_natural {
                if star.rest.is_some() || right.rest.is_some() {
                    return Err(Stop("it joins by whatever columns match, and not all are known"));
                }
                self.spend(star.list.len().saturating_mul(right.list.len()))?;
                let has = |n: &str| right.list.iter().any(|c| c.name.is_none_or(|name| name == n));
                star.list.iter().filter_map(|c| c.name).filter(|n| has(n)).collect()
            } else {
                join.using_clause().iter().filter_map(nodes::String::sval).collect()
            };
            if join.is_natural {
                // Columns may match by then that do not match yet.
                for side in [&star, &right] {
                    let mut all = side.all();
                    all.sources.retain(|base| !self.world.defines(*base));
                    if !self.world.all {
                        self.record(&all, Place::Join);
                    }
                }
            }
            let mut first = Columns::default();
            for name in &merged {
                // Several of that name would be an error, unless one is renamed by then.
                let mut same = Val::default();
                let named = |c: &&Col<'a>| c.name == Some(name);
                star.list.iter().chain(&right.list).filter(named).for_each(|c| same.add(&c.val));
                let mut val = star.take(name);
                val.add(&same);
                let other = right.find(name);
                self.spend(star.list.len() + right.list.len())?;
                val.add(&other);
                self.record(&val, Place::Join);
                first.push(Col { name: Some(name), val });
            }
            // One that loses a column of both leaves as many.
            first.stars += usize::from(join.is_natural && !self.world.all);
            let mut right = right;
            for name in &merged {
                right.take(name);
            }
            let scope = Scope { parent: Some(with), rels: rels.get(start..).unwrap_or_default(), ctes: &[] };
            self.predicate(join.quals(), &scope, Ask::Rows(Place::Join))?;
            if let Some(alias) = join.join_using_alias() {
                rels.push(Rel::shy(alias.aliasname().unwrap_or_default(), first.clone()));
            }
            // Nothing is before them in most joins: a chain of thousands is not copied at every one.
            if !first.list.is_empty() {
                first.join(star);
                star = first;
            }
            star.join(right);
            if let Some(alias) = join.alias() {
                star = star.renamed(alias.colnames());
                rels.truncate(start);
                rels.push(Rel::derived(alias.aliasname(), star.clone()));
            }
        }
        Ok(star)
    }

    fn item(
        &mut self,
        node: Node<'a>,
        rels: &mut Vec<Rel<'a>>,
        with: &Scope<'_, 'a>,
        starred: bool,
    ) -> Traced<Columns<'a>> {
        self.spend(1)?;
        let lateral = Scope { parent: Some(with), rels, ctes: &[] };
        let rel = match node {
            Node::RangeVar(r) => {
                let n = name(r);
                let cte = if n.schema.is_none() { with.cte(n.name) } else { None };
                match cte {
                    Some(columns) => {
                        let mut rel = Rel::derived(Some(n.name), Columns::default());
                        rel.body = Body::Columns(columns);
                        rel.alias(r.alias())
                    }
                    None => self.table(r),
                }
            }
            Node::RangeSubselect(r) => {
                let scope = if r.lateral { &lateral } else { with };
                let Node::SelectStmt(q) = r.subquery() else { return Err(CONSTRUCT) };
                let columns = self.select(q, scope)?;
                if r.lateral {
                    self.handed(&columns);
                }
                Rel::derived(None, columns).alias(r.alias())
            }
            Node::RangeFunction(r) => {
                let columns = self.range_function(r, &lateral)?;
                let name = match r.functions().iter().next().and_then(|n| n.as_node_list()) {
                    Some(pair) if !r.is_rowsfrom => pair.first().and_then(|f| match f {
                        Node::FuncCall(f) => last(f.funcname()).and_then(Node::as_str),
                        _ => None,
                    }),
                    _ => None,
                };
                Rel::derived(name, columns).alias(r.alias())
            }
            Node::RangeTableFunc(r) => {
                let mut val = self.value(r.docexpr(), &lateral)?;
                for node in r.namespaces() {
                    val.add(&self.value(node, &lateral)?);
                }
                val.add(&self.value(r.rowexpr(), &lateral)?);
                for c in r.columns() {
                    val.add(&self.value(c.colexpr(), &lateral)?);
                    val.add(&self.value(c.coldefexpr(), &lateral)?);
                }
                val.type_oid = 0;
                self.record(&val, Place::Rows);
                let list = r.columns().iter().map(|c| Col { name: c.colname(), val: val.clone() }).collect();
                Rel::derived(None, Columns::listed(list)).alias(r.alias())
            }
            Node::JsonTable(r) => {
                let mut stack = Vec::new();
                children(node, &mut stack).map_err(|_| CONSTRUCT)?;
                let mut list = Vec::new();
                let mut val = Val::default();
                while let Some(node) = stack.pop() {
                    self.spend(1)?;
                    match node {
                        Node::JsonTableColumn(c) => {
                            if c.name().is_some() && c.columns().is_empty() {
                                list.push(Col { name: c.name(), val: Val::default() });
                            }
                            children(node, &mut stack).map_err(|_| CONSTRUCT)?;
                        }
                        Node::JsonArgument(_)
                        | Node::JsonValueExpr(_)
                        | Node::JsonBehavior(_)
                        | Node::JsonTablePathSpec(_) => children(node, &mut stack).map_err(|_| CONSTRUCT)?,
                        Node::TypeName(_) | Node::None => {}
                        node => val.add(&self.value(node, &lateral)?),
                    }
                }
                self.record(&val, Place::Rows);
                for c in &mut list {
                    c.val = val.clone();
                }
                Rel::derived(None, Columns::listed(list)).alias(r.alias())
            }
            Node::RangeTableSample(s) => {
                let method = s.method().iter().filter_map(Node::as_str).collect::<Vec<_>>();
                if !matches!(
                    method.as_slice(),
                    ["system" | "bernoulli"] | ["pg_catalog", "system" | "bernoulli"]
                ) {
                    return Err(Stop("it samples by a method that is not built in"));
                }
                for node in s.args().iter().chain([s.repeatable()]) {
                    let val = self.value(node, &lateral)?;
                    self.record(&val, Place::Rows);
                }
                return self.item(s.relation(), rels, with, starred);
            }
            Node::JoinExpr(_) => return self.deeper(|t| t.from(node, rels, with, starred)),
            _ => return Err(CONSTRUCT),
        };
        let columns = if starred { self.columns(&rel)? } else { Columns::default() };
        rels.push(rel);
        Ok(columns)
    }

    /// A relation of the catalogue, by every meaning of its name.
    fn table(&mut self, r: &'a nodes::RangeVar) -> Rel<'a> {
        let n = name(r);
        let tables: Vec<&'a Table> = self.world.index.candidates(self.world.catalog, n).collect();
        let body = if tables.is_empty() {
            let structure = match n.schema {
                _ if self.world.made.iter().any(|m| m.is(n)) => true,
                None => listed(known::SYSTEM_RELATIONS, n.name),
                Some(schema) => system(schema, n.name) == Some(true),
            };
            let mut val = if structure { Val::default() } else { Val::unknown() };
            let own = match n.schema {
                None => n.name.starts_with("pg_"),
                Some(schema) => system(schema, n.name).is_some(),
            };
            if own && !structure && !self.world.all && !self.world.taints.is_empty() {
                val.sources.push(CONTENTS);
            }
            self.trace.vague |= val.unknown;
            let mut columns = Columns::open(val);
            if structure && !self.world.taints.is_empty() {
                for (name, part) in known::definitions(n.name) {
                    let val = Val { column: Some(DEFINITION), ..Val::definition(*part) };
                    columns.list.push(Col { name: Some(name), val });
                }
            }
            Body::Columns(Rc::new(columns))
        } else {
            for (base, place) in
                tables.iter().filter_map(|t| self.world.taints.get(&t.oid)).flat_map(|t| &t.asks)
            {
                self.record(&Val { sources: vec![*base], ..Val::default() }, *place);
            }
            // A view that chooses its rows by what is hidden, a foreign table, what holds anything.
            self.trace.vague |= tables.iter().any(|t| match system(&t.schema, &t.name) {
                Some(structure) => !structure && known::secret_columns(&t.name).is_none(),
                None => self.world.taints.get(&t.oid).is_some_and(|t| t.whole),
            });
            if self.world.all {
                self.trace.views.extend(tables.iter().map(|t| t.oid));
            }
            Body::Tables(tables)
        };
        let rel = Rel {
            name: Some(n.name),
            schema: n.schema,
            aliased: false,
            rename: Vec::new(),
            body,
            shy: false,
        };
        rel.alias(r.alias())
    }

    /// `pg_options_to_table` of a column of the system's, as pg_dump and `\des+` list options: their names are structure, their values
    /// may be passwords. Of anything else it is a function like others, since names come out of what it is given.
    fn options(&mut self, call: Node<'a>, scope: &Scope<'_, 'a>) -> Traced<Option<Columns<'a>>> {
        let Node::FuncCall(f) = call else { return Ok(None) };
        let (Some(name), Some(Node::ColumnRef(column))) =
            (last(f.funcname()).and_then(Node::as_str), f.args().get(0).filter(|_| f.args().len() == 1))
        else {
            return Ok(None);
        };
        if name != "pg_options_to_table" || self.world.index.user(name) {
            return Ok(None);
        }
        let mut val = self.reference(column, scope)?;
        let system = |(oid, _): Base| {
            let table = self.world.index.table(self.world.catalog, oid);
            table.is_some_and(|t| t.schema == "pg_catalog")
        };
        if !val.column.take().is_some_and(system) {
            return Ok(None);
        }
        val.arrays = false;
        let col = |name, val| Col { name: Some(name), val };
        Ok(Some(Columns::listed(vec![col("option_name", Val::default()), col("option_value", val)])))
    }

    fn range_function(&mut self, r: &'a nodes::RangeFunction, scope: &Scope<'_, 'a>) -> Traced<Columns<'a>> {
        let mut all = Columns::default();
        let single = r.functions().len() == 1;
        for pair in r.functions() {
            let pair = pair.as_node_list().ok_or(CONSTRUCT)?;
            let call = pair.first().ok_or(CONSTRUCT)?;
            if let Some(options) = self.options(call, scope)? {
                all.join(options);
                continue;
            }
            let mut val = self.value(call, scope)?;
            val.column = None;
            val.arrays = false;
            if val.sources.is_empty() {
                self.trace.vague |= val.unknown;
            } else {
                self.record(&val, Place::Rows);
            }
            // `AS x(a int, b text)`, of the whole or of one of ROWS FROM.
            let defined = match pair.get(1) {
                Some(Node::NodeList(l)) => Some(l),
                _ => None,
            };
            let mut named: Vec<Option<&'a str>> = Vec::new();
            for node in defined.into_iter().flat_map(|l| l.iter()) {
                if let Node::ColumnDef(d) = node {
                    named.push(d.colname());
                }
            }
            if single {
                named.extend(r.coldeflist().iter().map(nodes::ColumnDef::colname));
            }
            if !named.is_empty() {
                let list = named.into_iter().map(|name| Col { name, val: val.clone() }).collect();
                all.join(Columns::listed(list));
                continue;
            }
            let scalar = match call {
                Node::FuncCall(f) => {
                    let name = last(f.funcname()).and_then(Node::as_str);
                    let shadowed = name.is_none_or(|n| self.world.index.user(n));
                    let scalar = |n: &&str| {
                        listed(known::SCALAR_FUNCTIONS, n) || matches!(known::defines(n), Some(Part::Text(_)))
                    };
                    name.filter(|n| !shadowed && scalar(n))
                }
                _ => None,
            };
            match scalar {
                Some(function) => {
                    // Called by its one OUT parameter, or its alias, or the function's name.
                    let called = r.alias().and_then(nodes::Alias::aliasname).filter(|_| single);
                    let name = known::out_parameter(function).or(called).or(Some(function));
                    all.join(Columns::listed(vec![Col { name, val }]));
                }
                None => {
                    let named = match call {
                        Node::FuncCall(f) => last(f.funcname())
                            .and_then(Node::as_str)
                            .filter(|n| !self.world.index.user(n))
                            .and_then(known::columns_of),
                        _ => None,
                    };
                    let col = |name: &&'static str| Col { name: Some(name), val: val.clone() };
                    all.join(match named {
                        Some(names) => Columns::listed(names.iter().map(col).collect()),
                        None => Columns::open(val),
                    });
                }
            }
        }
        if r.ordinality {
            all.join(Columns::listed(vec![Col { name: Some("ordinality"), val: Val::default() }]));
        }
        Ok(all)
    }

    // ----------------------------------------------------------------------------------------------------- names

    /// The relations `fields` without its last part names.
    fn relation(&mut self, fields: &'a NodeList, scope: &Scope<'_, 'a>) -> Traced<Vec<Rel<'a>>> {
        let part =
            |back: usize| fields.len().checked_sub(back).and_then(|i| fields.get(i)).and_then(Node::as_str);
        let table = part(2).ok_or(CONSTRUCT)?;
        self.called(table, part(3), scope)
    }

    /// Relations of the nearest scope that has any of this name.
    fn called(&mut self, table: &str, schema: Option<&str>, scope: &Scope<'_, 'a>) -> Traced<Vec<Rel<'a>>> {
        let mut level = Some(scope);
        while let Some(here) = level {
            self.spend(here.rels.len() + 1)?;
            let named = |r: &&Rel<'a>| {
                r.name == Some(table)
                    && schema.is_none_or(|s| {
                        !r.aliased
                            && match (&r.body, r.schema) {
                                (_, Some(written)) => written == s,
                                (Body::Tables(tables), None) => tables.iter().any(|t| t.schema == s),
                                // A relation nobody knows may be of any schema.
                                (Body::Columns(c), None) => c.rest.is_some(),
                            }
                    })
            };
            let found: Vec<Rel<'a>> = here.rels.iter().filter(named).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
            level = here.parent;
        }
        Ok(Vec::new())
    }

    /// A column of a relation; `None` when it has none of this name.
    fn of(&mut self, rel: &Rel<'a>, wanted: &str) -> Traced<Option<Val>> {
        let mut found: Option<Val> = None;
        let put = |val: Val, found: &mut Option<Val>| match found {
            None => *found = Some(val),
            Some(so_far) => {
                // Of several tables of one name one hides it: only the server knows which is meant.
                let differ = so_far.hidden() != val.hidden();
                let columns = [&*so_far, &val].iter().all(|v| v.one_of || v.column.is_some() && !v.unknown);
                so_far.add(&val);
                so_far.unknown |= differ;
                so_far.one_of = columns;
            }
        };
        match &rel.body {
            Body::Columns(columns) => {
                self.spend(columns.list.len() + 1)?;
                for c in columns.list.iter().filter(|c| c.name == Some(wanted)) {
                    self.spend(VALUE)?;
                    put(c.val.clone(), &mut found);
                }
                if found.is_none() {
                    for c in columns.list.iter().filter(|c| c.name.is_none()) {
                        self.spend(VALUE)?;
                        put(Val { column: None, ..c.val.clone() }, &mut found);
                    }
                    if let Some(rest) = &columns.rest {
                        put(Val { column: None, ..rest.clone() }, &mut found);
                    }
                }
                if self.hides(&columns.named) {
                    found.get_or_insert_default().add(&columns.named);
                }
            }
            Body::Tables(tables) => {
                for table in tables {
                    self.spend(table.columns.len() + 1)?;
                    for (i, c) in table.columns.iter().enumerate() {
                        let name = rel.rename.get(i).copied().unwrap_or(c.name.as_str());
                        if name == wanted {
                            put(self.column(table, c), &mut found);
                        }
                    }
                }
                if found.is_none() && tables.iter().any(|t| known::system_column(t, wanted)) {
                    found = Some(Val::default());
                }
            }
        }
        Ok(found)
    }

    /// Whether a relation may have columns nobody knows the names of.
    fn open(rel: &Rel<'a>) -> bool {
        match &rel.body {
            Body::Columns(c) => c.rest.is_some() || c.list.iter().any(|c| c.name.is_none()),
            // Of several tables of one name, one may lack the column.
            Body::Tables(tables) => tables.len() > 1,
        }
    }

    fn unqualified_here(&mut self, wanted: &str, rels: &[Rel<'a>]) -> Traced<Option<Val>> {
        let mut found: Option<Val> = None;
        for rel in rels.iter().filter(|r| !r.shy) {
            if let Some(val) = self.of(rel, wanted)? {
                match &mut found {
                    None => found = Some(val),
                    Some(so_far) => so_far.add(&val),
                }
            }
        }
        Ok(found)
    }

    /// A column by its name alone, and whether it is certain that there is one; `None` when no scope can have one.
    ///
    /// The nearest scope that has it is meant. But what columns a table has may change until the server looks (in this transaction, or
    /// in one that is waited for), and then an outer one is: what is hidden there counts too.
    fn unqualified(&mut self, wanted: &str, scope: &Scope<'_, 'a>) -> Traced<Option<(Val, bool)>> {
        let mut found: Option<Val> = None;
        let mut certain = false;
        let mut level = Some(scope);
        while let Some(here) = level {
            if let Some(val) = self.unqualified_here(wanted, here.rels)? {
                match &mut found {
                    None => found = Some(val),
                    Some(so_far) if !certain || self.elsewhere(&val, so_far) => so_far.add(&val),
                    Some(_) => {}
                }
                certain |= here.rels.iter().filter(|r| !r.shy).any(|r| self.has(r, wanted));
            }
            level = here.parent;
        }
        Ok(found.map(|val| (val, certain)))
    }

    /// More is hidden than how something is defined.
    fn hides(&self, val: &Val) -> bool {
        val.unknown || val.sources.iter().any(|b| *b != SETTING && !self.world.defines(*b))
    }

    /// `other` hides what `val` does not derive from.
    fn elsewhere(&self, other: &Val, val: &Val) -> bool {
        let new = |b: &Base| *b != SETTING && !self.world.defines(*b) && !val.sources.contains(b);
        !self.world.all && other.sources.iter().any(new)
    }

    fn has(&self, rel: &Rel<'a>, wanted: &str) -> bool {
        match &rel.body {
            Body::Columns(c) => c.list.iter().any(|c| c.name == Some(wanted)),
            Body::Tables(tables) => {
                let has = |t: &&Table| {
                    t.columns
                        .iter()
                        .enumerate()
                        .any(|(i, c)| rel.rename.get(i).copied().unwrap_or(c.name.as_str()) == wanted)
                        || known::system_column(t, wanted)
                };
                tables.iter().all(has)
            }
        }
    }

    /// What a name stands for that has no other before it.
    fn named(&mut self, wanted: &str, scope: &Scope<'_, 'a>) -> Traced<Val> {
        // A whole row, where no column is called so.
        let rels = self.called(wanted, None, scope)?;
        let (mut val, certain) = match self.unqualified(wanted, scope)? {
            Some(found) => found,
            None if rels.is_empty() && !self.world.body => (Val::unknown(), false),
            None => (Val::default(), false),
        };
        for rel in &rels {
            let row = self.row(rel)?;
            if !certain || self.elsewhere(&row, &val) {
                val.add(&row);
            }
        }
        Ok(val)
    }

    fn reference(&mut self, c: &'a nodes::ColumnRef, scope: &Scope<'_, 'a>) -> Traced<Val> {
        self.spend(1)?;
        let fields = c.fields();
        let end = last(fields).ok_or(CONSTRUCT)?;
        if matches!(end, Node::A_Star(_)) {
            // A whole row, as in `count(c.*)`; of `*` alone nobody says whose.
            if fields.len() < 2 {
                return Err(CONSTRUCT);
            }
            let rels = self.relation(fields, scope)?;
            let mut val = if rels.is_empty() { Val::unknown() } else { Val::default() };
            for rel in &rels {
                val.add(&self.row(rel)?);
            }
            return Ok(val);
        }
        let wanted = end.as_str().ok_or(CONSTRUCT)?;
        if fields.len() == 1 {
            return self.named(wanted, scope);
        }
        let rels = self.relation(fields, scope)?;
        if rels.is_empty() {
            return Ok(if self.world.body { Val::default() } else { Val::unknown() });
        }
        let mut val: Option<Val> = None;
        for rel in &rels {
            let found = self.of(rel, wanted)?;
            let absent = found.is_none();
            let mut found = match found {
                Some(found) => found,
                // `t.f` calls f(t) when t has no column f.
                None => {
                    let mut row = self.row(rel)?;
                    row.add(&self.applied(wanted, &row.clone())?);
                    row
                }
            };
            // Of several tables of one name some lack the column: there it is an error, unless a function takes their rows.
            let called = matches!(rel.body, Body::Columns(_)) || self.takes_rows(wanted);
            if !absent && called && Self::open(rel) && !self.has(rel, wanted) {
                let row = self.row(rel)?;
                found.add(&self.applied(wanted, &row)?);
            }
            match &mut val {
                None => val = Some(found),
                Some(so_far) => so_far.add(&found),
            }
        }
        Ok(val.unwrap_or_default())
    }

    /// A function of this name may be called in the notation of a column.
    fn takes_rows(&self, function: &str) -> bool {
        self.world.index.user(function)
            || listed(known::PURE_FUNCTIONS, function)
            || listed(known::TYPES, function)
            || function.contains("record")
            || function.starts_with("pg_")
    }

    /// A function called in the notation of a column.
    fn applied(&mut self, function: &str, row: &Val) -> Traced<Val> {
        if self.world.index.user(function) {
            let mut val = self.summary(function);
            self.trace.unknown_function |= val.stranger;
            self.trace.stranger |= val.stranger && row.hidden();
            self.trace.effects |=
                row.hidden() && self.world.summaries.get(function).is_some_and(|s| s.effects);
            val.column = None;
            return Ok(val);
        }
        // Casts and functions that are built in: of the row itself. What can fail because of it is refused like any other.
        if row.hidden() && !alone(function) {
            self.record(&row.clone(), Place::Computed);
        }
        let harmless = listed(known::PURE_FUNCTIONS, function) || listed(known::TYPES, function);
        if known::defines(function).is_some() {
            return Ok(Val::definition(Part::Whole));
        }
        if known::acts(function) {
            self.trace.effects |= row.hidden();
            self.trace.stranger |= row.hidden();
            self.trace.unknown_function = true;
        }
        Ok(if harmless { Val::default() } else { Val::unknown() })
    }

    // ------------------------------------------------------------------------------------------------- expressions

    /// What an expression derives from, noting on the way what its parts are used for.
    fn value(&mut self, node: Node<'a>, scope: &Scope<'_, 'a>) -> Traced<Val> {
        let (joins, arrays) = (self.joins, self.arrays);
        let val = self.derived(node, scope)?;
        if self.joins > joins && (val.arrays || self.arrays > arrays) {
            self.risks += 1;
            if val.arrays {
                self.record(&val, Place::Computed);
            }
        }
        Ok(val)
    }

    /// Of an expression whose parts are worked out one by one until the answer is certain (AND, OR, COALESCE, IN, BETWEEN, rows, ANY): where
    /// a hidden value decides which, whether a part is reached that can fail, or has an effect, tells of it.
    fn one_by_one(
        &mut self,
        parts: impl Iterator<Item = Node<'a>>,
        scope: &Scope<'_, 'a>,
        fallible: bool,
    ) -> Traced<Val> {
        let risks = self.risks;
        let mut acc = Val::default();
        for part in parts {
            acc.add(&self.deeper(|t| t.value(part, scope))?);
        }
        if fallible || self.risks > risks {
            self.record(&acc, Place::Computed);
        }
        Ok(acc)
    }

    /// The same of COALESCE, the last of which is worked out only where the others are NULL: of columns themselves that is all it tells.
    fn coalesce(&mut self, c: &'a nodes::CoalesceExpr, scope: &Scope<'_, 'a>, fallible: bool) -> Traced<Val> {
        let risks = self.risks;
        let mut acc: Option<Val> = None;
        let mut computed = Val::default();
        let mut columns = Val::default();
        let last = c.args().len().saturating_sub(1);
        for (i, arg) in c.args().iter().enumerate() {
            let val = self.deeper(|t| t.value(arg, scope))?;
            if i < last && val.column.is_some() {
                columns.add(&val);
            } else if i < last {
                computed.add(&val);
            }
            match &mut acc {
                None => acc = Some(val),
                Some(acc) => acc.or(&val),
            }
        }
        let mut acc = acc.unwrap_or_default();
        acc.column = None;
        if fallible {
            self.record(&acc, Place::Computed);
        } else if self.risks > risks {
            self.record(&computed, Place::Computed);
            self.record(&columns, Place::Null);
        }
        Ok(acc)
    }

    fn derived(&mut self, node: Node<'a>, scope: &Scope<'_, 'a>) -> Traced<Val> {
        match node {
            Node::None => return Ok(Val::default()),
            // Most of a long list.
            Node::A_Const(_) | Node::ParamRef(_) => return self.spend(1).map(|()| Val::default()),
            Node::ColumnRef(c) => return self.reference(c, scope),
            Node::A_Indirection(i) => {
                if let Some(val) = self.field(i, scope)? {
                    return Ok(val);
                }
            }
            // Deeper than this nobody writes definitions; what derives from one is then masked whole.
            _ if self.depth + 8 < DEPTH_MAX => {
                if let Some(val) = self.unchanged(node, scope)? {
                    return Ok(Val { column: None, ..val });
                }
            }
            _ => {}
        }
        let mut acc = Val::default();
        // Each with whether something above it can fail because of its value.
        let mut stack: Vec<(Node<'a>, bool)> = vec![(node, false)];
        while let Some((node, fallible)) = stack.pop() {
            self.spend(1)?;
            let direct = |n: Node<'a>| matches!(n, Node::ColumnRef(_));
            match node {
                Node::None
                | Node::A_Const(_)
                | Node::ParamRef(_)
                | Node::SQLValueFunction(_)
                | Node::SetToDefault(_)
                | Node::GroupingFunc(_)
                | Node::CurrentOfExpr(_)
                | Node::TypeName(_)
                | Node::JsonFormat(_)
                | Node::JsonReturning(_)
                | Node::String(_)
                | Node::Integer(_)
                | Node::Float(_)
                | Node::Boolean(_) => {}
                Node::MergeSupportFunc(_) => {
                    // Before PostgreSQL 17 a call like others.
                    if self.world.index.user("merge_action") {
                        acc.add(&self.summary("merge_action"));
                    }
                }
                Node::ColumnRef(c) => {
                    let val = self.reference(c, scope)?;
                    if fallible {
                        self.record(&val, Place::Computed);
                    }
                    acc.add(&val);
                }
                Node::TypeCast(c) => {
                    let fails = self.cast(c, scope, &mut acc)?;
                    self.risks += usize::from(fails);
                    stack.push((c.arg(), fallible || fails));
                }
                Node::A_Expr(e) if self.counted(e, scope)? => {}
                Node::A_Expr(e) => {
                    if !plain_operator(e.name()) {
                        acc.unknown = true;
                    }
                    let own = self.fails(e, scope)?;
                    self.risks += usize::from(own);
                    let sides = [e.lexpr(), e.rexpr()];
                    if one_by_one(e) && self.depth + 8 < DEPTH_MAX {
                        acc.add(&self.one_by_one(sides.into_iter(), scope, fallible || own)?);
                    } else {
                        stack.extend(sides.map(|side| (side, fallible || own)));
                    }
                }
                Node::BoolExpr(b) if self.depth + 8 < DEPTH_MAX => {
                    acc.add(&self.one_by_one(b.args().iter(), scope, fallible)?);
                }
                Node::BoolExpr(b) => stack.extend(b.args().iter().map(|a| (a, true))),
                Node::FuncCall(f) => self.call(f, scope, fallible, &mut acc, &mut stack)?,
                Node::CaseExpr(c) => {
                    let arg = self.deeper(|t| t.value(c.arg(), scope))?;
                    self.record(&arg, Place::Case);
                    acc.add(&arg);
                    for when in c.args() {
                        let Node::CaseWhen(w) = when else { return Err(CONSTRUCT) };
                        let condition =
                            self.deeper(|t| t.predicate(w.expr(), scope, Ask::Finer(Place::Case)))?;
                        acc.add(&condition);
                        stack.push((w.result(), fallible));
                    }
                    stack.push((c.defresult(), fallible));
                }
                Node::NullTest(t) if direct(t.arg()) => {
                    let mut val = self.value(t.arg(), scope)?;
                    if val.column.is_some() || val.one_of {
                        self.record(&val, Place::Null);
                    } else {
                        // A whole row, or something computed: which part is NULL is more than one bit.
                        self.record(&val, Place::Predicate);
                    }
                    val.sources.clear();
                    acc.add(&val);
                }
                Node::NullTest(t) if !matches!(t.arg(), Node::FuncCall(_) | Node::SubLink(_)) => {
                    stack.push((t.arg(), fallible));
                }
                Node::NullTest(t) => {
                    // Whether there is a definition is structure.
                    let mut val = self.deeper(|tracer| tracer.value(t.arg(), scope))?;
                    if val.text.is_some() {
                        self.record(&val, Place::Null);
                        val.sources.clear();
                    } else if fallible {
                        self.record(&val, Place::Computed);
                    }
                    acc.add(&val);
                }
                Node::BooleanTest(t) => stack.push((t.arg(), fallible)),
                Node::CollateClause(c) => stack.push((c.arg(), fallible)),
                Node::CoalesceExpr(c) if self.depth + 8 < DEPTH_MAX => {
                    acc.add(&self.coalesce(c, scope, fallible)?);
                }
                Node::CoalesceExpr(c) => stack.extend(c.args().iter().map(|a| (a, true))),
                // Which of them it is shows by its size.
                Node::MinMaxExpr(m) => stack.extend(m.args().iter().map(|a| (a, true))),
                Node::RowExpr(r) => stack.extend(r.args().iter().map(|a| (a, fallible))),
                Node::A_ArrayExpr(a) => {
                    self.arrays += 1;
                    let elements = a.elements().iter();
                    self.joins += usize::from(!elements.clone().all(constant));
                    stack.extend(a.elements().iter().map(|a| (a, fallible)));
                }
                Node::NodeList(l) => stack.extend(l.iter().map(|a| (a, fallible))),
                Node::NamedArgExpr(a) => stack.push((a.arg(), fallible)),
                Node::ResTarget(t) => stack.push((t.val(), fallible)),
                Node::MultiAssignRef(m) => stack.push((m.source(), fallible)),
                Node::SubLink(l) => {
                    let val = self.deeper(|t| t.sublink(l, scope))?;
                    if fallible {
                        self.record(&val, Place::Computed);
                    }
                    acc.add(&val);
                }
                Node::A_Indirection(i) => {
                    if let Some(val) = self.field(i, scope)? {
                        if fallible {
                            self.record(&val, Place::Computed);
                        }
                        acc.add(&val);
                        continue;
                    }
                    let mut subscript = false;
                    for part in i.indirection() {
                        match part {
                            // What is not there is NULL.
                            Node::A_Indices(n) => {
                                subscript = true;
                                stack.extend([(n.lidx(), true), (n.uidx(), true)]);
                            }
                            part => {
                                let Some(field) = part.as_str() else { continue };
                                // `(x).f` calls f(x).
                                let user = self.world.index.user(field);
                                if known::defines(field).is_some() {
                                    acc.add(&Val::definition(Part::Whole));
                                } else if user || known::acts(field) || listed(known::ROW_FUNCTIONS, field) {
                                    let given = self.deeper(|t| t.value(i.arg(), scope))?;
                                    if user || known::acts(field) {
                                        acc.add(&self.applied(field, &given)?);
                                    } else {
                                        self.record(&given, Place::Rows);
                                    }
                                } else if listed(known::PURE_FUNCTIONS, field) && !alone(field) {
                                    self.risks += 1;
                                    subscript = true;
                                }
                            }
                        }
                    }
                    stack.push((i.arg(), fallible || subscript));
                }
                Node::XmlExpr(x) => {
                    use nodes::XmlExprOp as Op;
                    let total = matches!(x.op, Op::IS_XMLCONCAT | Op::IS_XMLELEMENT | Op::IS_XMLFOREST);
                    self.risks += usize::from(!total);
                    let parts = x.named_args().iter().chain(x.args().iter());
                    stack.extend(parts.map(|a| (a, fallible || !total)));
                }
                Node::XmlSerialize(x) => {
                    acc.unknown |= !x.type_name().is_some_and(built_in);
                    stack.push((x.expr(), fallible || !x.type_name().is_some_and(holds_text)));
                }
                // A key may not be NULL, nor there twice.
                Node::JsonKeyValue(k) => stack.extend([(k.key(), true), (k.value().into(), fallible)]),
                Node::JsonObjectConstructor(_)
                | Node::JsonArrayConstructor(_)
                | Node::JsonValueExpr(_)
                | Node::JsonObjectAgg(_)
                | Node::JsonArrayAgg(_)
                | Node::JsonOutput(_)
                | Node::JsonScalarExpr(_) => {
                    let fallible = fallible || narrow(node);
                    let mut parts = Vec::new();
                    children(node, &mut parts).map_err(|_| CONSTRUCT)?;
                    stack.extend(parts.into_iter().map(|p| (p, fallible)));
                }
                Node::JsonAggConstructor(j) => {
                    let filter =
                        self.deeper(|t| t.predicate(j.agg_filter(), scope, Ask::Finer(Place::Predicate)))?;
                    acc.add(&filter);
                    for sort in j.agg_order() {
                        if let Node::SortBy(s) = sort {
                            let val = self.deeper(|t| t.value(s.node(), scope))?;
                            self.record(&val, Place::Sort);
                        }
                    }
                    if let Some(w) = j.over() {
                        self.window(w, scope)?;
                    }
                }
                Node::JsonArrayQueryConstructor(j) => {
                    let Node::SelectStmt(q) = j.query() else { return Err(CONSTRUCT) };
                    let val = self.select(q, scope)?.all();
                    if fallible || narrow(node) {
                        self.record(&val, Place::Computed);
                    }
                    acc.add(&val);
                }
                Node::JsonFuncExpr(_)
                | Node::JsonParseExpr(_)
                | Node::JsonSerializeExpr(_)
                | Node::JsonIsPredicate(_)
                | Node::JsonArgument(_)
                | Node::JsonBehavior(_) => {
                    let mut parts = Vec::new();
                    children(node, &mut parts).map_err(|_| CONSTRUCT)?;
                    self.risks += 1;
                    stack.extend(parts.into_iter().map(|p| (p, true)));
                }
                _ => return Err(CONSTRUCT),
            }
        }
        acc.column = None;
        Ok(acc)
    }

    /// What hands the text of a definition on as it is, or puts several together; `None`: any other expression.
    fn unchanged(&mut self, node: Node<'a>, scope: &Scope<'_, 'a>) -> Traced<Option<Val>> {
        let mut acc = Val::default();
        match node {
            Node::CoalesceExpr(c) => acc = self.coalesce(c, scope, false)?,
            Node::CaseExpr(c) => {
                let mut chosen_by = self.deeper(|t| t.value(c.arg(), scope))?;
                self.record(&chosen_by, Place::Case);
                for when in c.args() {
                    let Node::CaseWhen(w) = when else { return Err(CONSTRUCT) };
                    chosen_by.add(&self.deeper(|t| t.predicate(w.expr(), scope, Ask::Finer(Place::Case)))?);
                    acc.or(&self.deeper(|t| t.value(w.result(), scope))?);
                }
                acc.or(&self.deeper(|t| t.value(c.defresult(), scope))?);
                if chosen_by.hidden() || chosen_by.stranger {
                    acc.add(&chosen_by);
                }
            }
            Node::CollateClause(c) => acc = self.deeper(|t| t.value(c.arg(), scope))?,
            Node::TypeCast(c) if whole_text(c) => {
                acc = self.deeper(|t| t.value(c.arg(), scope))?;
                acc.type_oid = TEXT;
            }
            Node::SubLink(l) if l.sub_link_type == nodes::SubLinkType::EXPR_SUBLINK => {
                acc = self.deeper(|t| t.sublink(l, scope))?;
            }
            Node::SubLink(l) if l.sub_link_type == nodes::SubLinkType::ARRAY_SUBLINK => {
                acc = self.deeper(|t| t.sublink(l, scope))?;
                acc.type_oid = TEXT_ARRAY;
            }
            Node::A_Expr(e) if e.kind == nodes::A_Expr_Kind::AEXPR_OP => {
                let operator =
                    plain_operator(e.name()) && last(e.name()).and_then(Node::as_str) == Some("||");
                // A long chain is no definition's.
                let short = !matches!(e.lexpr(), Node::A_Expr(_)) || self.depth < DEPTH_MAX / 2;
                if !operator || !short {
                    return Ok(None);
                }
                self.joins += 1;
                for side in [e.lexpr(), e.rexpr()] {
                    acc.beside(&self.deeper(|t| t.value(side, scope))?);
                }
                acc.type_oid = TEXT;
            }
            Node::FuncCall(f) => return self.shown(f, scope),
            _ => return Ok(None),
        }
        Ok(Some(acc))
    }

    /// The same of a call: of what shows a definition, or puts such texts together.
    fn shown(&mut self, f: &'a nodes::FuncCall, scope: &Scope<'_, 'a>) -> Traced<Option<Val>> {
        let parts = f.funcname();
        let part = |i: usize| parts.get(i).and_then(Node::as_str);
        let function = match (parts.len(), part(0), part(1)) {
            (1, Some(f), _) if !self.world.index.user(f) => f,
            (2, Some("pg_catalog"), Some(f)) => f,
            _ => return Ok(None),
        };
        if function == "current_setting" && !known::of_server(f) && !self.world.taints.is_empty() {
            let mut acc = Val::setting();
            for arg in f.args() {
                let val = self.deeper(|t| t.value(arg, scope))?;
                self.record(&val, Place::Computed);
                if val.hidden() {
                    acc.add(&val);
                }
            }
            return Ok(Some(acc));
        }
        let defined = known::defines(function).filter(|_| !self.world.taints.is_empty());
        let collects = matches!(
            function,
            "array_agg"
                | "array_to_string"
                | "btrim"
                | "concat"
                | "format"
                | "max"
                | "min"
                | "rtrim"
                | "string_agg"
                | "unnest"
        );
        if matches!(function, "btrim" | "rtrim") && !f.args().iter().nth(1).is_none_or(punctuation) {
            return Ok(None);
        }
        // What it makes of the others is said by its first.
        let written = |n| matches!(n, Node::A_Const(c) if matches!(literal::value(c), Some(pg_raw_parse::ConstValue::String(s)) if !s.contains('*')));
        if function == "format" && !f.args().first().is_some_and(written) {
            return Ok(None);
        }
        self.joins += usize::from(function == "array_agg");
        let plain = matches!(f.agg_filter(), Node::None) && f.over().is_none() && !f.agg_within_group;
        if !plain || !(defined.is_some() || collects) {
            return Ok(None);
        }
        for sort in f.agg_order() {
            let val = self.deeper(|t| t.value(sort.node(), scope))?;
            self.operator(sort.use_op())?;
            self.record(&val, Place::Sort);
        }
        let mut acc = defined.map(Val::definition).unwrap_or_default();
        acc.type_oid = if defined.is_some() { TEXT } else { 0 };
        for (i, arg) in f.args().iter().enumerate() {
            let val = self.deeper(|t| t.value(arg, scope))?;
            if matches!(function, "array_agg" | "btrim" | "max" | "min" | "rtrim" | "unnest") {
                acc.or(&val);
            } else if defined.is_none() {
                acc.beside(&val);
            } else if val.hidden() {
                // A parse tree, read; anything else is one definition asked about by another. pg_get_expr takes nothing but a tree that
                // is stored, so it does not matter when another relation may have a column of that name.
                let tree = function == "pg_get_expr" && i == 0 && !val.unknown;
                let stored = |base| self.world.defines(base);
                let whole = val.column.is_some_and(stored) || tree && val.sources.iter().copied().all(stored);
                let text = acc.text.filter(|_| whole);
                acc.add(&val);
                acc.text = text;
            }
        }
        if listed(known::CHOOSING_FUNCTIONS, function) && !self.alike(f.args(), scope)? {
            let sources = acc.sources.iter().copied().filter(|b| !self.world.defines(*b)).collect();
            self.record(&Val { sources, ..Val::default() }, Place::Computed);
        }
        match function {
            "array_agg" | "enum_range" => acc.type_oid = TEXT_ARRAY,
            "array_to_string" | "btrim" | "concat" | "format" | "rtrim" | "string_agg" => acc.type_oid = TEXT,
            // As many rows as it has elements.
            "unnest" => self.record(&acc, Place::Rows),
            _ => {}
        }
        Ok(Some(acc))
    }

    /// Field selection from a row that is in scope: `(c).ssn`.
    fn field(&mut self, i: &'a nodes::A_Indirection, scope: &Scope<'_, 'a>) -> Traced<Option<Val>> {
        let (Node::ColumnRef(c), Some(wanted)) = (i.arg(), i.indirection().first().and_then(Node::as_str))
        else {
            return Ok(None);
        };
        if c.fields().len() != 1 || i.indirection().len() != 1 {
            return Ok(None);
        }
        let called = c.fields().first().and_then(Node::as_str).ok_or(CONSTRUCT)?;
        if self.unqualified(called, scope)?.is_some() {
            return Ok(None);
        }
        let rels = self.called(called, None, scope)?;
        let [rel] = rels.as_slice() else { return Ok(None) };
        if !self.has(rel, wanted) {
            let mut row = self.row(rel)?;
            row.add(&self.applied(wanted, &row.clone())?);
            return Ok(Some(row));
        }
        self.of(rel, wanted)
    }

    /// Whether a cast can fail because of the value; notes types nobody knows.
    fn cast(&mut self, c: &'a nodes::TypeCast, scope: &Scope<'_, 'a>, acc: &mut Val) -> Traced<bool> {
        if constant(c.arg()) {
            return Ok(false);
        }
        let Some(t) = c.type_name().filter(|t| built_in(t)) else {
            let names = c.type_name().map(nodes::TypeName::names);
            let last = names.and_then(|n| n.len().checked_sub(1).and_then(|i| n.get(i)));
            let extension = c.type_name().is_some_and(|t| self.world.index.of_extension(t));
            acc.unknown |= !extension
                && !last.and_then(nodes::String::sval).is_some_and(|n| self.world.index.is_enum(n));
            return Ok(true);
        };
        let names = t.names();
        let to = names
            .len()
            .checked_sub(1)
            .and_then(|i| names.get(i))
            .and_then(nodes::String::sval)
            .unwrap_or_default();
        let arrays = !t.array_bounds().is_empty();
        if !arrays && matches!(to, "text" | "varchar" | "bpchar" | "name" | "bytea" | "json" | "jsonb") {
            // From text to bytea and json it is read, and may not be one.
            if !matches!(to, "bytea" | "json" | "jsonb") {
                return Ok(false);
            }
        }
        if !t.typmods().is_empty() || arrays {
            return Ok(true);
        }
        let Node::ColumnRef(column) = c.arg() else { return Ok(true) };
        let from = self.reference(column, scope)?.type_oid;
        Ok(match to {
            "numeric" | "float8" | "float4" => !matches!(from, 20 | 21 | 23 | 700 | 701 | 1700),
            "date" | "timestamp" | "timestamptz" => !matches!(from, 1082 | 1114 | 1184),
            "json" | "jsonb" => !matches!(from, 114 | 3802),
            "bytea" => from != 17,
            // Of a number it is its byte.
            "char" => !matches!(from, 18 | 19 | 25 | 1042 | 1043),
            _ => true,
        })
    }

    /// Whether an operator can fail, or answer NULL, because of what it is given.
    fn fails(&mut self, e: &'a nodes::A_Expr, scope: &Scope<'_, 'a>) -> Traced<bool> {
        use nodes::A_Expr_Kind as Kind;
        let operator = last(e.name()).and_then(Node::as_str).unwrap_or_default();
        Ok(match e.kind {
            Kind::AEXPR_LIKE | Kind::AEXPR_ILIKE => !plain_pattern(e.rexpr()),
            Kind::AEXPR_IN
            | Kind::AEXPR_BETWEEN
            | Kind::AEXPR_NOT_BETWEEN
            | Kind::AEXPR_DISTINCT
            | Kind::AEXPR_NOT_DISTINCT => false,
            Kind::AEXPR_OP => match operator {
                "~~" | "!~~" | "~~*" | "!~~*" => !plain_pattern(e.rexpr()),
                "||" => {
                    self.joins += 1;
                    false
                }
                "=" | "<>" | "!=" | "<" | ">" | "<=" | ">=" => false,
                // The column's own keys, by a name that is written out.
                "->" | "->>" | "#>" | "#>>" => {
                    !(matches!(e.lexpr(), Node::ColumnRef(_)) && constant(e.rexpr()))
                }
                "-" if matches!(e.lexpr(), Node::None) => !matches!(e.rexpr(), Node::ColumnRef(_)),
                "+" | "-" | "*" => {
                    let (column, other) = match (e.lexpr(), e.rexpr()) {
                        (Node::ColumnRef(c), other) | (other, Node::ColumnRef(c)) => (c, other),
                        _ => return Ok(true),
                    };
                    let small = matches!(other, Node::A_Const(c)
                        if matches!(literal::value(c), Some(pg_raw_parse::ConstValue::Integer(n)) if n.abs() < 1_000_000));
                    // An overflow would tell how large it is.
                    !(small && matches!(self.reference(column, scope)?.type_oid, 701 | 1700))
                }
                _ => true,
            },
            _ => true,
        })
    }

    fn call(
        &mut self,
        f: &'a nodes::FuncCall,
        scope: &Scope<'_, 'a>,
        fallible: bool,
        acc: &mut Val,
        stack: &mut Vec<(Node<'a>, bool)>,
    ) -> Traced<()> {
        if known::column_before_16(f, self.world.catalog.server_version) {
            let val = self.named("system_user", scope)?;
            self.record(&val, if fallible { Place::Computed } else { Place::Output });
            acc.add(&val);
        }
        for sort in f.agg_order() {
            let val = self.deeper(|t| t.value(sort.node(), scope))?;
            self.operator(sort.use_op())?;
            self.record(&val, Place::Sort);
            // WITHIN GROUP: they are its input.
            if f.agg_within_group {
                acc.add(&val);
            }
        }
        let filter = self.deeper(|t| t.predicate(f.agg_filter(), scope, Ask::Finer(Place::Predicate)))?;
        acc.unknown |= filter.unknown;
        if let Some(w) = f.over() {
            self.window(w, scope)?;
        }
        let parts = f.funcname();
        let part = |i: usize| parts.get(i).and_then(Node::as_str);
        let index = self.world.index;
        let (function, schema) = match (parts.len(), part(0), part(1)) {
            (1, Some(f), _) => (f, None),
            (2, Some(schema), Some(f)) => (f, Some(schema)),
            (_, _, Some(f)) => (f, Some("")),
            _ => ("", Some("")),
        };
        let of_users = schema.is_none() && index.user(function) || schema.is_some_and(|s| s != "pg_catalog");
        let extension = known::EXTENSION_FUNCTIONS.contains(&function) && index.in_c(function);
        let standard =
            schema == Some("information_schema") && known::INFORMATION_FUNCTIONS.contains(&function);
        let pure = extension || standard || (!of_users && listed(known::PURE_FUNCTIONS, function));
        if pure {
            if function == "count" && !f.agg_distinct && f.args().len() == 1 {
                // How many are not NULL.
                let arg = f.args().first().unwrap_or(Node::None);
                if let Node::ColumnRef(c) = arg {
                    let val = self.reference(c, scope)?;
                    // Of what is computed it tells how often that is NULL.
                    if val.column.is_some() || !val.hidden() || self.whole_row(c, scope)? {
                        self.record(&val, Place::Count);
                        acc.unknown |= val.stranger;
                        return Ok(());
                    }
                }
            }
            if listed(known::ROW_FUNCTIONS, function) {
                if known::defines(function).is_some() && !self.world.taints.is_empty() {
                    acc.add(&Val::definition(Part::Whole));
                }
                self.risks += 1;
                for arg in f.args() {
                    let val = self.deeper(|t| t.value(arg, scope))?;
                    self.record(&val, Place::Rows);
                    acc.add(&val);
                }
                return Ok(());
            }
            if function == "current_setting" && !known::of_server(f) && !self.world.taints.is_empty() {
                acc.add(&Val::setting());
            }
            if known::defines(function).is_some() && !self.world.taints.is_empty() {
                let val = Val::definition(Part::Whole);
                if fallible {
                    self.record(&val, Place::Computed);
                }
                acc.add(&val);
            }
            self.joins +=
                usize::from(matches!(function, "array_agg" | "array_append" | "array_cat" | "array_prepend"));
            self.grows |= matches!(function, "array_fill" | "lpad" | "repeat" | "rpad")
                && !f.args().get(1).is_some_and(|n| is_number_below(n, 1_000));
            let safe = f.args().is_empty() || listed(known::TOTAL_FUNCTIONS, function);
            self.risks += usize::from(!safe || listed(known::REMEMBERED_FUNCTIONS, function));
            let chosen = listed(known::CHOOSING_FUNCTIONS, function) && !self.alike(f.args(), scope)?;
            for (i, arg) in f.args().iter().enumerate() {
                let total = known::total(function, f.args(), i);
                self.risks += usize::from(!total && !constant(arg));
                stack.push((arg, fallible || chosen || !total));
            }
            return Ok(());
        }
        let mut given = Val::default();
        for arg in f.args() {
            let val = self.deeper(|t| t.value(arg, scope))?;
            given.add(&val);
        }
        if !of_users && listed(known::EFFECT_FUNCTIONS, function) {
            self.trace.effects |= given.hidden();
            self.risks += 1;
            acc.add(&given);
            return Ok(());
        }
        let result = if of_users { self.summary(function) } else { Val { stranger: true, ..Val::unknown() } };
        self.trace.unknown_function |= result.stranger;
        self.trace.stranger |= result.stranger && given.hidden();
        self.trace.effects |= given.hidden() && self.world.summaries.get(function).is_some_and(|s| s.effects);
        // What it makes of them may fail because of their values.
        self.record(&given, Place::Computed);
        self.risks += 1;
        if fallible {
            self.record(&result, Place::Computed);
        }
        acc.add(&given);
        acc.add(&result);
        Ok(())
    }

    /// Values of one column, or made of it alone: which of them is chosen does not show by its size more than its own does.
    fn alike(&mut self, args: &'a NodeList, scope: &Scope<'_, 'a>) -> Traced<bool> {
        let mut stack: Vec<Node<'a>> = args.iter().collect();
        let mut only: Option<&'a nodes::ColumnRef> = None;
        while let Some(node) = stack.pop() {
            self.spend(1)?;
            match node {
                Node::ColumnRef(_) if only.is_some() => return Ok(false),
                Node::ColumnRef(c) => only = Some(c),
                Node::CaseExpr(_) | Node::CoalesceExpr(_) | Node::MinMaxExpr(_) | Node::SubLink(_) => {
                    return Ok(false);
                }
                _ => {}
            }
            children(node, &mut stack).map_err(|_| CONSTRUCT)?;
        }
        let Some(only) = only else { return Ok(true) };
        if only.fields().iter().any(|f| matches!(f, Node::A_Star(_))) {
            return Ok(true);
        }
        let val = self.reference(only, scope)?;
        Ok(val.column.is_some() || !val.hidden())
    }

    /// What a function of users shows besides its arguments.
    fn summary(&mut self, function: &str) -> Val {
        match self.world.summaries.get(function) {
            Some(summary) => {
                self.trace.launders |= summary.launders;
                for (base, place) in &summary.asks {
                    self.record(&Val { sources: vec![*base], ..Val::default() }, *place);
                }
                let (unknown, stranger) = (summary.stranger, summary.stranger);
                Val { sources: summary.sources.clone(), unknown, stranger, ..Val::default() }
            }
            None => Val { stranger: true, ..Val::unknown() },
        }
    }

    fn window(&mut self, w: &'a nodes::WindowDef, scope: &Scope<'_, 'a>) -> Traced<()> {
        let sorts = w.order_clause().iter().map(nodes::SortBy::node);
        for node in w.partition_clause().iter().chain(sorts).chain([w.start_offset(), w.end_offset()]) {
            let val = self.deeper(|t| t.value(node, scope))?;
            self.record(&val, Place::Window);
        }
        for sort in w.order_clause() {
            self.operator(sort.use_op())?;
        }
        Ok(())
    }

    fn operator(&self, parts: &NodeList) -> Traced<()> {
        if plain_operator(parts) { Ok(()) } else { Err(Stop("it names an operator's schema")) }
    }

    fn sublink(&mut self, l: &'a nodes::SubLink, scope: &Scope<'_, 'a>) -> Traced<Val> {
        use nodes::SubLinkType as Sub;
        let Node::SelectStmt(q) = l.subselect() else { return Err(CONSTRUCT) };
        let risks = self.risks;
        let columns = self.select(q, scope)?;
        // More than one row is an error, and that it was run shows: it takes its time, and is counted.
        self.risks += 1;
        if l.sub_link_type == nodes::SubLinkType::EXISTS_SUBLINK {
            // What it would answer does not matter, only whether: its conditions have been noted.
            if self.world.all {
                self.record(&columns.all(), Place::Output);
            }
            let unknown = columns.all().stranger;
            return Ok(Val { unknown, ..Val::default() });
        }
        let mut val = match columns.list.as_slice() {
            [only] if columns.rest.is_none() => Val { column: None, ..only.val.clone() },
            _ => columns.all(),
        };
        if !plain_operator(l.oper_name()) {
            val.unknown = true;
        }
        if !matches!(l.testexpr(), Node::None) {
            val.add(&self.value(l.testexpr(), scope)?);
        }
        // Rows are compared until one decides.
        if !matches!(l.sub_link_type, Sub::EXPR_SUBLINK | Sub::ARRAY_SUBLINK) && self.risks > risks + 1 {
            self.record(&val, Place::Computed);
        }
        Ok(val)
    }

    /// Whether a reference means a row, which is never NULL for what its columns hold.
    fn whole_row(&mut self, c: &'a nodes::ColumnRef, scope: &Scope<'_, 'a>) -> Traced<bool> {
        match (c.fields().len(), last(c.fields())) {
            (_, Some(Node::A_Star(_))) => Ok(true),
            (1, Some(name)) => Ok(self.unqualified(name.as_str().unwrap_or_default(), scope)?.is_none()),
            _ => Ok(false),
        }
    }

    /// A condition: notes what it asks of columns, and says what it derives from.
    fn predicate(&mut self, node: Node<'a>, scope: &Scope<'_, 'a>, ask: Ask) -> Traced<Val> {
        let mut acc = Val::default();
        let mut stack = vec![node];
        let place = match ask {
            Ask::Rows(place) | Ask::Finer(place) => place,
        };
        while let Some(node) = stack.pop() {
            self.spend(1)?;
            match node {
                Node::None | Node::A_Const(_) | Node::ParamRef(_) | Node::CurrentOfExpr(_) => continue,
                Node::BoolExpr(b) => {
                    stack.extend(b.args().iter());
                    continue;
                }
                Node::NullTest(t) if matches!(t.arg(), Node::ColumnRef(_)) => {
                    let val = self.value(node, scope)?;
                    acc.add(&val);
                    self.record(&val, place);
                    continue;
                }
                Node::A_Expr(e) if matches!(ask, Ask::Rows(_)) && self.equality(e, scope)? => continue,
                Node::A_Expr(e) if self.counted(e, scope)? => continue,
                _ => {}
            }
            let val = self.value(node, scope)?;
            self.record(&val, place);
            acc.add(&val);
        }
        Ok(acc)
    }

    /// `pg_get_expr(…) LIKE 'nextval(%'`, `… ~ '^nextval'`, `… <> ''`, as mappers ask whether a column counts by itself: structure.
    fn counted(&mut self, e: &'a nodes::A_Expr, scope: &Scope<'_, 'a>) -> Traced<bool> {
        use nodes::A_Expr_Kind as Kind;
        let operator = last(e.name()).and_then(Node::as_str).unwrap_or_default();
        let asks = matches!(e.kind, Kind::AEXPR_LIKE | Kind::AEXPR_ILIKE)
            || (e.kind == Kind::AEXPR_OP
                && plain_operator(e.name())
                && matches!(operator, "~" | "~*" | "!~" | "!~*" | "~~" | "!~~" | "=" | "<>"));
        // What the other side begins with: `'nextval(''' || pg_get_serial_sequence(…)`, as drizzle-kit writes it.
        let (mut first, mut rest) = (e.rexpr(), Vec::new());
        while let Node::A_Expr(chain) = first {
            if operator != "="
                || chain.name().len() != 1
                || chain.name().first().and_then(Node::as_str) != Some("||")
            {
                return Ok(false);
            }
            rest.push(chain.rexpr());
            first = chain.lexpr();
        }
        let Node::A_Const(c) = first else { return Ok(false) };
        let Some(pg_raw_parse::ConstValue::String(pattern)) = literal::value(c) else { return Ok(false) };
        let fine = match operator {
            "=" if pattern.starts_with("nextval('") => true,
            "=" | "<>" => pattern.is_empty() && rest.is_empty(),
            _ => pattern.split('|').all(|pattern| {
                let pattern = pattern.trim_start_matches(['^', '%', '(']).to_ascii_lowercase();
                let word = ["nextval", "uuid_generate", "gen_random_uuid"]
                    .iter()
                    .find_map(|w| pattern.strip_prefix(w));
                word.is_some_and(|end| {
                    end.trim_end_matches(['%', '(', ')', '\\', '\'', '.', '*', ':', '$']).is_empty()
                })
            }),
        };
        if !asks || !fine || matches!(e.lexpr(), Node::None) {
            return Ok(false);
        }
        for part in rest {
            if self.deeper(|t| t.value(part, scope))?.hidden() {
                return Ok(false);
            }
        }
        let val = self.deeper(|t| t.value(e.lexpr(), scope))?;
        let shape = val.text == Some(Text::Sql) || (val.text.is_some() && pattern.is_empty());
        if shape {
            self.record(&val, Place::Null);
        }
        Ok(shape)
    }

    /// `column = value`, `column IN (values)`, `(a, b) = (1, 2)`.
    fn equality(&mut self, e: &'a nodes::A_Expr, scope: &Scope<'_, 'a>) -> Traced<bool> {
        use nodes::A_Expr_Kind as Kind;
        let names = e.name();
        let equal = plain_operator(names) && last(names).and_then(Node::as_str) == Some("=");
        if !equal && e.kind != Kind::AEXPR_IN {
            return Ok(false);
        }
        let mut pairs: Vec<(&'a nodes::ColumnRef, Vec<Node<'a>>)> = Vec::new();
        match (e.kind, e.lexpr(), e.rexpr()) {
            (Kind::AEXPR_OP, Node::ColumnRef(c), other) | (Kind::AEXPR_OP, other, Node::ColumnRef(c))
                if constant(other) || self.computes(other) =>
            {
                pairs.push((c, vec![other]));
            }
            (Kind::AEXPR_OP, Node::TypeCast(c), other) | (Kind::AEXPR_OP, other, Node::TypeCast(c))
                if !constant(c.into()) && (constant(other) || self.computes(other)) =>
            {
                let Some(column) = self.spelled(c, scope)? else { return Ok(false) };
                pairs.push((column, vec![other]));
            }
            (Kind::AEXPR_OP, Node::ColumnRef(l), Node::ColumnRef(r)) if self.world.body => {
                // A parameter is a value like others.
                pairs.push(match (self.parameter(l, scope)?, self.parameter(r, scope)?) {
                    (false, true) => (l, vec![e.rexpr()]),
                    (true, false) => (r, vec![e.lexpr()]),
                    _ => return Ok(false),
                });
            }
            (Kind::AEXPR_OP, Node::RowExpr(l), Node::RowExpr(r)) if l.args().len() == r.args().len() => {
                for pair in l.args().iter().zip(r.args().iter()) {
                    match pair {
                        (Node::ColumnRef(c), other) | (other, Node::ColumnRef(c)) if constant(other) => {
                            pairs.push((c, vec![other]));
                        }
                        _ => return Ok(false),
                    }
                }
            }
            // NOT IN asks the same of each.
            (Kind::AEXPR_IN, Node::ColumnRef(c), list) => {
                let Some(list) = list.as_node_list() else { return Ok(false) };
                if !list.iter().all(|v| constant(v) || self.computes(v)) {
                    return Ok(false);
                }
                pairs.push((c, list.iter().collect()));
            }
            // What IN with these is to the server too.
            (Kind::AEXPR_OP_ANY, Node::ColumnRef(c), list) if equal => {
                let list = match list {
                    Node::TypeCast(cast) if cast.type_name().is_some_and(|t| self.elements_whole(t)) => {
                        cast.arg()
                    }
                    list => list,
                };
                let Node::A_ArrayExpr(list) = list else { return Ok(false) };
                if !list.elements().iter().all(constant) {
                    return Ok(false);
                }
                pairs.push((c, list.elements().iter().collect()));
            }
            _ => return Ok(false),
        }
        let mut found = Vec::new();
        for (c, values) in pairs {
            let val = self.reference(c, scope)?;
            if !val.hidden() {
                continue;
            }
            if !values.iter().all(|v| as_written(*v, val.type_oid)) {
                return Ok(false);
            }
            // Of whichever table it is, it is its column.
            let bases = match val.column {
                Some(base) if !val.unknown => vec![base],
                _ if val.one_of => val.sources.clone(),
                _ => return Ok(false),
            };
            if values.len() + self.trace.probes.len() > PROBES_MAX && !self.world.all {
                return Ok(false);
            }
            found.push((val, bases, values));
        }
        for (val, bases, values) in found {
            self.record(&val, Place::Equality);
            values.into_iter().for_each(|value| self.probe(&bases, probed(value)));
        }
        Ok(true)
    }

    /// `email::text`, which is `email` as long as nothing is lost on the way: two values are the same text only where they are the same.
    fn spelled(
        &mut self,
        cast: &'a nodes::TypeCast,
        scope: &Scope<'_, 'a>,
    ) -> Traced<Option<&'a nodes::ColumnRef>> {
        let Node::ColumnRef(column) = cast.arg() else { return Ok(None) };
        if !cast.type_name().and_then(plain_type).is_some_and(|to| matches!(to, "text" | "varchar")) {
            return Ok(None);
        }
        let val = self.reference(column, scope)?;
        // Of numbers and dates settings decide how they are written.
        let own = matches!(val.type_oid, 19 | 20 | 21 | 23 | 25 | 1042 | 1043 | 2950);
        let of_extension = |(oid, number): Base| {
            let table = self.world.index.table(self.world.catalog, oid);
            let column = table.and_then(|t| t.columns.iter().find(|c| c.number == number));
            let name = column.map(|c| c.type_name.rsplit('.').next().unwrap_or_default());
            name == Some("citext") && self.world.index.in_c("citextin")
        };
        Ok((own || val.column.is_some_and(of_extension)).then_some(column))
    }

    /// An array of a type that leaves texts, and numbers, what they are.
    fn elements_whole(&self, t: &nodes::TypeName) -> bool {
        let last = t.names().iter().next_back().and_then(nodes::String::sval);
        let known = matches!(last, Some("int2" | "int4" | "int8" | "numeric" | "text" | "uuid" | "varchar"));
        t.typmods().is_empty() && (known && built_in(t) || self.world.index.of_extension(t))
    }

    /// A value made of nothing but written and bound ones, of one parameter at most, by what makes the same of them each time: to ask about
    /// it is to ask about one value, which the text and the parameter name.
    fn computes(&self, node: Node<'a>) -> bool {
        let mut parameter = None;
        let mut stack = vec![node];
        let mut left = COMPUTED_MAX;
        while let Some(node) = stack.pop() {
            if left == 0 {
                return false;
            }
            left -= 1;
            match node {
                Node::A_Const(_) => {}
                Node::ParamRef(p) if parameter.is_none_or(|known| known == p.number) => {
                    parameter = Some(p.number);
                }
                Node::TypeCast(c) => {
                    let whole = |t: &nodes::TypeName| {
                        t.typmods().is_empty()
                            && t.array_bounds().is_empty()
                            && (holds_text(t) || self.world.index.of_extension(t) && is_citext(t))
                    };
                    if !c.type_name().is_some_and(whole) {
                        return false;
                    }
                    stack.push(c.arg());
                }
                Node::A_Expr(e)
                    if e.kind == nodes::A_Expr_Kind::AEXPR_OP
                        && plain_operator(e.name())
                        && last(e.name()).and_then(Node::as_str) == Some("||") =>
                {
                    stack.extend([e.lexpr(), e.rexpr()]);
                }
                Node::FuncCall(f) => {
                    let function = last(f.funcname()).and_then(Node::as_str).unwrap_or_default();
                    let own = f.funcname().len() == 1 && !self.world.index.user(function)
                        || f.funcname().len() == 2
                            && f.funcname().first().and_then(Node::as_str) == Some("pg_catalog");
                    let plain = f.over().is_none()
                        && matches!(f.agg_filter(), Node::None)
                        && f.agg_order().is_empty()
                        && !(f.agg_distinct || f.agg_within_group || f.agg_star || f.func_variadic);
                    if !(own && plain && listed(known::TEXT_MAKERS, function)) {
                        return false;
                    }
                    stack.extend(f.args().iter());
                }
                _ => return false,
            }
        }
        true
    }

    /// Nothing in scope has this name: in the body of a function it is a parameter's.
    fn parameter(&mut self, c: &'a nodes::ColumnRef, scope: &Scope<'_, 'a>) -> Traced<bool> {
        let Some(wanted) = last(c.fields()).and_then(Node::as_str) else { return Ok(false) };
        if c.fields().len() > 1 {
            return Ok(self.relation(c.fields(), scope)?.is_empty());
        }
        Ok(self.unqualified(wanted, scope)?.is_none() && self.called(wanted, None, scope)?.is_empty())
    }

    fn probe(&mut self, bases: &[Base], value: ProbeValue) {
        if !self.trace.probes.iter().any(|(known, v)| *v == value && known == bases) {
            self.trace.probes.push((bases.to_vec(), value));
        }
    }
}

/// Whether ON CONFLICT may look at this constraint of the table. Expressions may mean any.
fn may_mean(infer: &nodes::InferClause, constraint: &Constraint, table: &Table) -> bool {
    if let Some(name) = infer.conname() {
        return name == constraint.name;
    }
    let mut named = Vec::new();
    for element in infer.index_elems() {
        match element {
            Node::IndexElem(e) => match e.name() {
                Some(name) => named.push(name),
                None => return true,
            },
            _ => return true,
        }
    }
    let number = |n: &i16| table.columns.iter().find(|c| c.number == *n).map(|c| c.name.as_str());
    constraint.compares.iter().all(|(_, n)| number(n).is_none_or(|name| named.contains(&name)))
}

/// The values an INSERT gives a column; none where it is left to its default, `None` where they are not all written out or bound.
fn inserted<'a>(
    insert: &'a nodes::InsertStmt,
    table: &Table,
    column: &TableColumn,
    sent: &dyn Fn(Node<'a>) -> bool,
) -> Option<Vec<Node<'a>>> {
    let mut named = insert.cols().iter().map(|c| match c {
        Node::ResTarget(target) => target.name(),
        _ => None,
    });
    let at = if insert.cols().is_empty() {
        table.columns.iter().position(|c| c.number == column.number)?
    } else {
        match named.position(|name| name == Some(column.name.as_str())) {
            Some(at) => at,
            None => return Some(Vec::new()),
        }
    };
    let query = match insert.select_stmt() {
        Node::None => return Some(Vec::new()),
        Node::SelectStmt(query) => query,
        _ => return None,
    };
    let mut values = Vec::new();
    let mut take = |value: Option<Node<'a>>| match value {
        // Fewer values than columns: the rest gets defaults.
        None | Some(Node::SetToDefault(_)) => Some(()),
        Some(value) => sent(value).then(|| values.push(value)),
    };
    if query.values_lists().is_empty() {
        let one = query.from_clause().is_empty() && query.larg().is_none();
        take(Some(query.target_list().get(at).filter(|_| one)?.val()))?;
    }
    for row in query.values_lists() {
        take(row.as_node_list()?.get(at))?;
    }
    Some(values)
}

/// Values one statement may ask about.
const PROBES_MAX: usize = 100;

fn probed(node: Node<'_>) -> ProbeValue {
    let mut node = node;
    loop {
        match node {
            Node::TypeCast(c) => node = c.arg(),
            Node::ParamRef(p) => return ProbeValue::Parameter(u16::try_from(p.number).unwrap_or(u16::MAX)),
            Node::A_Const(c) => {
                use pg_raw_parse::ConstValue as Value;
                return ProbeValue::Literal(match literal::value(c) {
                    Some(Value::Integer(i)) => Probe::digest(i.to_string().as_bytes()),
                    Some(Value::Float(s) | Value::String(s) | Value::BitString(s)) => {
                        Probe::digest(s.as_bytes())
                    }
                    Some(Value::Boolean(b)) => Probe::digest(if b { b"t" } else { b"f" }),
                    _ => Probe::digest(b""),
                });
            }
            node => return computed(node),
        }
    }
}

/// Nodes of a value that is computed.
const COMPUTED_MAX: usize = 32;

/// What tells a value apart that [`Tracer::computes`]: all of its text.
fn computed(node: Node<'_>) -> ProbeValue {
    use pg_raw_parse::ConstValue as Value;
    let (mut text, mut parameter) = (Vec::new(), None);
    // Each with how long it is, so that no two are written alike.
    let mut put = |tag: u8, word: &str, parts: usize| {
        text.push(tag);
        text.extend_from_slice(&(word.len() as u64).to_be_bytes());
        text.extend_from_slice(word.as_bytes());
        text.extend_from_slice(&(parts as u64).to_be_bytes());
    };
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        match node {
            Node::A_Const(c) => match literal::value(c) {
                Some(Value::Integer(i)) => put(b'i', &i.to_string(), 0),
                Some(Value::Float(s)) => put(b'f', s, 0),
                Some(Value::String(s)) => put(b's', s, 0),
                Some(Value::BitString(s)) => put(b'b', s, 0),
                Some(Value::Boolean(b)) => put(if b { b't' } else { b'u' }, "", 0),
                _ => put(b'n', "", 0),
            },
            Node::ParamRef(p) => {
                parameter = Some(u16::try_from(p.number).unwrap_or(u16::MAX));
                put(b'p', "", 0);
            }
            Node::TypeCast(c) => {
                let names = c.type_name().map(nodes::TypeName::names);
                let last = names.and_then(|n| n.iter().next_back()).and_then(nodes::String::sval);
                put(b'c', last.unwrap_or_default(), 1);
                stack.push(c.arg());
            }
            Node::A_Expr(e) => {
                put(b'o', last(e.name()).and_then(Node::as_str).unwrap_or_default(), 2);
                stack.extend([e.lexpr(), e.rexpr()]);
            }
            Node::FuncCall(f) => {
                put(b'a', last(f.funcname()).and_then(Node::as_str).unwrap_or_default(), f.args().len());
                stack.extend(f.args().iter());
            }
            _ => {}
        }
    }
    let text = Probe::digest(&text);
    parameter.map_or(ProbeValue::Literal(text), |number| ProbeValue::Computed { number, text })
}

/// Casts leave a value what it is counted as: the same text is not another value under another length (`$1::varchar(3)`), or after
/// something was renamed (`'16400'::regclass::text`), nor another date in another time zone.
fn as_written(node: Node<'_>, column: u32) -> bool {
    /// Of what is longer nobody asks about beginnings.
    const LONG: i32 = 100;
    let mut node = node;
    while let Node::TypeCast(c) = node {
        let Some(t) = c.type_name() else { return false };
        let names = t.names();
        let last = names.len().checked_sub(1).and_then(|i| names.get(i)).and_then(nodes::String::sval);
        let catalogue = last.is_none_or(|n| n.starts_with("reg") || n == "oid");
        // A date, a time, a timestamp.
        let zoneless = matches!(column, 1082 | 1083 | 1114);
        let moves = zoneless && last.is_some_and(|n| matches!(n, "timestamptz" | "timetz"));
        let cut = |n: Node<'_>| is_number_below(n, LONG) || !is_number_below(n, i32::MAX);
        if catalogue || moves || !t.array_bounds().is_empty() || t.typmods().iter().any(cut) {
            return false;
        }
        node = c.arg();
    }
    true
}

/// `';'`: to take it from the end of a definition leaves the definition.
fn punctuation(node: Node<'_>) -> bool {
    matches!(node, Node::A_Const(c) if matches!(literal::value(c), Some(pg_raw_parse::ConstValue::String(";" | " " | "\""))))
}

/// A cast to a type that holds every text whole.
fn whole_text(c: &nodes::TypeCast) -> bool {
    c.type_name().is_some_and(holds_text)
}

fn holds_text(t: &nodes::TypeName) -> bool {
    plain_type(t).is_some_and(|to| matches!(to, "text" | "varchar" | "bpchar" | "name"))
}

fn is_citext(t: &nodes::TypeName) -> bool {
    t.names().iter().next_back().and_then(nodes::String::sval) == Some("citext")
}

/// A built-in type's name, without a length or an array's brackets.
fn plain_type(t: &nodes::TypeName) -> Option<&str> {
    let plain = built_in(t) && t.typmods().is_empty() && t.array_bounds().is_empty();
    let names = t.names();
    names.len().checked_sub(1).and_then(|i| names.get(i)).and_then(nodes::String::sval).filter(|_| plain)
}

/// A constructor of JSON that may fail because of a value: its result may not fit, or it reads the value as JSON.
fn narrow(node: Node<'_>) -> bool {
    let output = match node {
        Node::JsonObjectConstructor(j) => j.output(),
        Node::JsonArrayConstructor(j) => j.output(),
        Node::JsonArrayQueryConstructor(j) => j.output(),
        Node::JsonObjectAgg(j) => j.constructor().and_then(|c| c.output()),
        Node::JsonArrayAgg(j) => j.constructor().and_then(|c| c.output()),
        Node::JsonValueExpr(j) => {
            return j.format().is_some_and(|f| f.format_type != nodes::JsonFormatType::JS_FORMAT_DEFAULT);
        }
        _ => None,
    };
    let fits = |t: &nodes::TypeName| {
        holds_text(t) || plain_type(t).is_some_and(|to| matches!(to, "json" | "jsonb" | "bytea"))
    };
    output.is_some_and(|o| !o.type_name().is_some_and(fits))
}

/// The parts of this one are worked out until the answer is certain.
fn one_by_one(e: &nodes::A_Expr) -> bool {
    use nodes::A_Expr_Kind as Kind;
    let row = |n| matches!(n, Node::RowExpr(_));
    match e.kind {
        Kind::AEXPR_IN
        | Kind::AEXPR_BETWEEN
        | Kind::AEXPR_NOT_BETWEEN
        | Kind::AEXPR_BETWEEN_SYM
        | Kind::AEXPR_NOT_BETWEEN_SYM => true,
        _ => row(e.lexpr()) || row(e.rexpr()),
    }
}

/// Given nothing but a value it tells nothing of it: neither fails, nor answers NULL, nor chooses among several.
fn alone(function: &str) -> bool {
    listed(known::TOTAL_FUNCTIONS, function) && !listed(known::CHOOSING_FUNCTIONS, function)
}

/// A pattern that LIKE never fails on: one that ends with its escape fails where the text gets that far.
fn plain_pattern(node: Node<'_>) -> bool {
    matches!(node, Node::A_Const(c)
        if matches!(literal::value(c), Some(pg_raw_parse::ConstValue::String(s)) if !s.contains('\\')))
}

fn is_number_below(node: Node<'_>, limit: i32) -> bool {
    matches!(node, Node::A_Const(c) if matches!(literal::value(c), Some(pg_raw_parse::ConstValue::Integer(n)) if n < limit))
}

fn arrays(column: &TableColumn) -> bool {
    /// The array types of the built-in ones before PostgreSQL 8.4, `oidvector[]` to `inet[]`.
    const ARRAYS: std::ops::RangeInclusive<u32> = 1000..=1041;
    column.type_name.ends_with("[]") || (ARRAYS.contains(&column.type_oid) && column.type_oid != 1033)
}

fn last(list: &NodeList) -> Option<Node<'_>> {
    list.len().checked_sub(1).and_then(|i| list.get(i))
}

impl<'a> Columns<'a> {
    fn join(&mut self, other: Columns<'a>) {
        if self.rest.is_some() || other.rest.is_some() {
            // Positions are lost, names are not.
            let mut rest = self.rest.take().unwrap_or_default();
            if let Some(more) = &other.rest {
                rest.add(more);
            }
            self.rest = Some(rest);
        }
        if self.stars > 0 {
            other.list.iter().for_each(|c| self.moved.hide(&c.val));
        }
        self.stars += other.stars;
        self.lone |= other.lone;
        self.moved.hide(&other.moved);
        self.named.hide(&other.named);
        self.list.extend(other.list);
    }

    fn push(&mut self, col: Col<'a>) {
        if self.stars > 0 {
            self.moved.hide(&col.val);
        }
        self.lone |= col.val.hidden();
        self.list.push(col);
    }

    /// How many tables may stand here by `*` so that nothing hidden moves while there are as many columns as before: one can lose what
    /// another gains, but not one that hides something, which nobody may change who does not see it.
    fn fixed(&self) -> usize {
        if self.lone { 1 } else { 2 }
    }

    /// A column by name, out of the list.
    fn take(&mut self, name: &str) -> Val {
        match self.list.iter().position(|c| c.name == Some(name)) {
            Some(at) => {
                let val = self.list.remove(at).val;
                self.called(val)
            }
            None => self.all(),
        }
    }

    fn find(&self, name: &str) -> Val {
        let found = self.list.iter().find(|c| c.name == Some(name));
        found.map_or_else(|| self.all(), |c| self.called(c.val.clone()))
    }

    /// What a column shows that was found by its name.
    fn called(&self, mut val: Val) -> Val {
        if !self.named.plain() {
            val.add(&self.named);
        }
        val
    }
}

impl<'a> Rel<'a> {
    fn derived(name: Option<&'a str>, columns: Columns<'a>) -> Rel<'a> {
        Rel {
            name,
            schema: None,
            aliased: true,
            rename: Vec::new(),
            body: Body::Columns(Rc::new(columns)),
            shy: false,
        }
    }

    fn shy(name: &'a str, columns: Columns<'a>) -> Rel<'a> {
        Rel { shy: true, ..Rel::derived(Some(name), columns) }
    }

    fn alias(mut self, alias: Option<&'a nodes::Alias>) -> Rel<'a> {
        let Some(alias) = alias else { return self };
        self.name = alias.aliasname();
        self.aliased = true;
        if !alias.colnames().is_empty() {
            match &mut self.body {
                Body::Tables(_) => {
                    self.rename = alias.colnames().iter().filter_map(Node::as_str).collect();
                }
                Body::Columns(columns) => {
                    *columns = Rc::new((**columns).clone().renamed(alias.colnames()));
                }
            }
        }
        self
    }
}

impl<'a> Scope<'_, 'a> {
    fn cte(&self, name: &str) -> Option<Rc<Columns<'a>>> {
        let mut level = Some(self);
        while let Some(here) = level {
            if let Some((_, columns)) = here.ctes.iter().rev().find(|(n, _)| *n == name) {
                return Some(columns.clone());
            }
            level = here.parent;
        }
        None
    }
}

/// The name the server gives an expression (`FigureColname`); `None`: not followed, it may be any.
fn figure(node: Node<'_>) -> Option<&str> {
    match figured(node, DEPTH_MAX) {
        Figured::Weak(name) | Figured::Strong(name) => Some(name),
        Figured::No => Some("?column?"),
        Figured::Unknown => None,
    }
}

enum Figured<'a> {
    No,
    Weak(&'a str),
    Strong(&'a str),
    Unknown,
}

/// `*`, `t.*`, `(f()).*`.
fn starred(node: Node<'_>) -> bool {
    let parts = match node {
        Node::ColumnRef(c) => c.fields(),
        Node::A_Indirection(i) => i.indirection(),
        _ => return false,
    };
    matches!(last(parts), Some(Node::A_Star(_)))
}

fn figured(node: Node<'_>, depth: usize) -> Figured<'_> {
    use nodes::SubLinkType as Sub;
    let Some(depth) = depth.checked_sub(1) else { return Figured::Unknown };
    fn string(list: &NodeList) -> Option<&str> {
        list.iter().rev().find_map(Node::as_str)
    }
    match node {
        Node::ColumnRef(c) => string(c.fields()).map_or(Figured::No, Figured::Strong),
        Node::A_Indirection(i) => match string(i.indirection()) {
            Some(name) => Figured::Strong(name),
            None => figured(i.arg(), depth),
        },
        Node::FuncCall(f) => string(f.funcname()).map_or(Figured::Unknown, Figured::Strong),
        Node::A_Expr(e) if e.kind == nodes::A_Expr_Kind::AEXPR_NULLIF => Figured::Strong("nullif"),
        Node::A_Expr(_) | Node::A_Const(_) | Node::ParamRef(_) | Node::BoolExpr(_) | Node::NullTest(_) => {
            Figured::No
        }
        Node::TypeCast(c) => match figured(c.arg(), depth) {
            Figured::Strong(name) => Figured::Strong(name),
            Figured::Unknown => Figured::Unknown,
            _ => {
                let names = c.type_name().map(nodes::TypeName::names);
                let last = names.and_then(|n| n.len().checked_sub(1).and_then(|i| n.get(i)));
                last.and_then(nodes::String::sval).map_or(Figured::Unknown, Figured::Weak)
            }
        },
        Node::CollateClause(c) => figured(c.arg(), depth),
        Node::JsonObjectConstructor(_) => Figured::Strong("json_object"),
        Node::JsonArrayConstructor(_) | Node::JsonArrayQueryConstructor(_) => Figured::Strong("json_array"),
        Node::JsonObjectAgg(_) => Figured::Strong("json_objectagg"),
        Node::JsonArrayAgg(_) => Figured::Strong("json_arrayagg"),
        Node::GroupingFunc(_) => Figured::Strong("grouping"),
        Node::SubLink(l) => match (l.sub_link_type, l.subselect()) {
            (Sub::EXISTS_SUBLINK, _) => Figured::Strong("exists"),
            (Sub::ARRAY_SUBLINK, _) => Figured::Strong("array"),
            (Sub::EXPR_SUBLINK, Node::SelectStmt(s)) if s.op == nodes::SetOperation::SETOP_NONE => {
                match s.target_list().iter().next() {
                    // What `*` is expanded to names it.
                    Some(t) if starred(t.val()) => Figured::Unknown,
                    // It has a name by then, if only `?column?`: a cast around it leaves it.
                    Some(t) => match t.name() {
                        Some(name) => Figured::Strong(name),
                        None => match figured(t.val(), depth) {
                            Figured::Weak(name) | Figured::Strong(name) => Figured::Strong(name),
                            Figured::No => Figured::Strong("?column?"),
                            Figured::Unknown => Figured::Unknown,
                        },
                    },
                    None => Figured::Unknown,
                }
            }
            (Sub::EXPR_SUBLINK, _) => Figured::Unknown,
            _ => Figured::No,
        },
        Node::CaseExpr(c) => match figured(c.defresult(), depth) {
            Figured::Strong(name) => Figured::Strong(name),
            Figured::Unknown => Figured::Unknown,
            _ => Figured::Weak("case"),
        },
        Node::A_ArrayExpr(_) => Figured::Strong("array"),
        Node::RowExpr(_) => Figured::Strong("row"),
        Node::CoalesceExpr(_) => Figured::Strong("coalesce"),
        Node::MinMaxExpr(m) => Figured::Strong(match m.op {
            nodes::MinMaxOp::IS_GREATEST => "greatest",
            _ => "least",
        }),
        Node::None => Figured::No,
        _ => Figured::Unknown,
    }
}

// ------------------------------------------------------------------------------------------------------ definitions

/// The queries of the body of a function in SQL: `prosrc`, or `BEGIN ATOMIC … END` or `RETURN …` as the server prints them.
pub(crate) fn body(function: &Function) -> Option<String> {
    if !function.language.eq_ignore_ascii_case("sql") {
        return None;
    }
    let text = function.body.trim();
    if text.is_empty() {
        return None;
    }
    if let Some(rest) = text.strip_prefix("BEGIN ATOMIC") {
        return rest.trim_end().strip_suffix("END").map(str::to_owned);
    }
    match text.strip_prefix("RETURN ") {
        Some(rest) => Some(format!("SELECT {rest}")),
        None => Some(text.to_owned()),
    }
}

/// What calling every function of one name shows and does; `None` when that cannot be told.
pub(crate) fn summarise(world: World<'_>, functions: &[&Function]) -> Option<Summary> {
    let mut summary = Summary::default();
    for function in functions {
        let text = body(function)?;
        let tree = super::parse(text.as_bytes()).ok()?;
        // Its defaults, and what its arguments are cast to, belong to it.
        let text = format!("CREATE FUNCTION f({}) RETURNS int LANGUAGE sql AS ''", function.arguments);
        let given =
            if world.index.converts() || function.arguments.contains(" DEFAULT ") { &*text } else { "" };
        let given = super::parse(given.as_bytes()).ok()?;
        for statement in given.stmts().chain(tree.stmts()) {
            let trace = trace(World { body: true, ..world }, statement).ok()?;
            // A body that chooses its rows by hidden columns asks about them, with values nobody sees.
            let asks = |p: &Place| !matches!(p, Place::Output | Place::Null | Place::Count | Place::Write);
            let asked = trace.reads.iter().any(|(base, p)| asks(p) && !world.defines(*base));
            if trace.stranger || trace.effects || (!world.all && asked) {
                return None;
            }
            let facts = facts::read(statement).ok()?;
            summary.launders |= trace.keeps();
            summary.effects |= !trace.writes.is_empty()
                || facts.functions.iter().any(|f| listed(known::EFFECT_FUNCTIONS, f));
            for out in trace.outputs? {
                if out.unknown {
                    return None;
                }
                summary.sources.extend(out.sources);
            }
            if world.all {
                summary.sources.extend(trace.reads.iter().map(|(base, _)| *base));
            }
        }
    }
    summary.sources.sort_unstable();
    summary.sources.dedup();
    Some(summary)
}

/// A value that goes through these functions of users may ask about what is hidden, or show it.
pub(crate) fn betrays(world: World<'_>, functions: &[Box<str>]) -> bool {
    let mut tracer = Tracer::new(world);
    functions.iter().any(|function| {
        let val = tracer.summary(function);
        val.hidden() || tracer.trace.launders
    })
}

/// The texts of a function that can be parsed; of PL/pgSQL only some can.
pub(crate) fn texts(function: &Function) -> Vec<String> {
    if function.language.eq_ignore_ascii_case("plpgsql") {
        return plpgsql::pieces(&function.body).into_iter().map(str::to_owned).collect();
    }
    body(function).into_iter().collect()
}

/// A place where what is compared may be somebody else's.
fn compares(place: Place) -> bool {
    matches!(place, Place::Predicate | Place::Join | Place::Case)
}

/// Whoever may write a setting, or into another relation, says what a query compares with.
fn steered(text: &str, statement: Node<'_>) -> bool {
    let mut names = facts::read(statement).map(|f| f.names).unwrap_or_default();
    names.sort_unstable_by_key(|n| (n.schema, n.name));
    names.dedup();
    names.len() > 1 || text.contains("current_setting")
}

/// What a view that cannot be shown asks about hidden columns as others like: its own conditions where they are steered, and those of
/// the views it is made of.
pub(crate) fn view_asks(view: &Table, world: World<'_>) -> Vec<(Base, Place)> {
    let definition = view.definition.as_deref().unwrap_or_default();
    let Ok(tree) = super::parse(definition.as_bytes()) else { return Vec::new() };
    let mut found = Vec::new();
    for statement in tree.stmts() {
        let names = facts::read(statement).map(|f| f.names).unwrap_or_default();
        let tables = names.into_iter().flat_map(|n| world.index.candidates(world.catalog, n));
        let below = tables.filter_map(|t| world.taints.get(&t.oid)).flat_map(|t| &t.asks);
        found.extend(below.copied());
        if let Some(trace) = trace(world, statement).ok().filter(|_| steered(definition, statement)) {
            let own = trace.reads.into_iter();
            found.extend(own.filter(|(base, place)| compares(*place) && !world.defines(*base)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What is known of functions of one name that [`summarise`] cannot tell: that they store what is hidden, or nobody knows what, or ask
/// about it what their callers like. What goes through variables of PL/pgSQL is not seen.
pub(crate) fn betrayed(world: World<'_>, functions: &[&Function]) -> Option<Summary> {
    let mut summary = Summary { stranger: true, ..Summary::default() };
    for function in functions {
        let sql = function.language.eq_ignore_ascii_case("sql");
        let mut all = texts(function);
        if !sql {
            all.extend(plpgsql::queries(&function.body));
        }
        for tree in all.iter().filter_map(|text| super::parse(text.as_bytes()).ok()) {
            for statement in tree.stmts() {
                let Ok(trace) = trace(World { body: true, ..world }, statement) else {
                    summary.launders |= sql && facts::read(statement).is_ok_and(|f| f.writes || f.ddl);
                    continue;
                };
                // What it hands to a setting, a lock or a listener is there to be looked at.
                summary.launders |= trace.keeps() || trace.effects;
                let asks = |(base, place): &&(Base, Place)| compares(*place) && !world.defines(*base);
                if !function.arguments.is_empty() || steered(&function.body, statement) {
                    summary.asks.extend(trace.reads.iter().filter(asks));
                }
            }
        }
    }
    (summary.launders || !summary.asks.is_empty()).then_some(summary)
}
