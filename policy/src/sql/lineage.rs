//! Proofs about data: can anything a statement answers, or stores, derive from a masked column?
//!
//! First form, by names: a statement is clean when nothing in it *could* denote a masked column. Every relation named anywhere is
//! looked up (without a schema it stands for all of that name), and every column reference, star, whole row, USING list and call is
//! held against what those relations hide. No scopes are built, so a name that is harmless where it stands may count as a hit:
//! the answer errs to "not clean", and then [`super::trace`] follows the names through their scopes. This is the fast path: most
//! statements of most applications name nothing masked.
//!
//! Invariant: [`Proof::clean`] is true only if no expression in the statement reads a masked column of a base table or a tainted
//! column of a view, and no function in it is unknown. All walks are loops.

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use pg_raw_parse::{Node, nodes};

use super::children::{Unknown, children};
use super::commands;
use super::facts::{Name, act, name};
use super::known::{self, Part, listed};
use super::plpgsql;
use super::trace::{self, Place, Summaries, World};
use super::with::{self, Ctes};
use crate::catalog::{Catalog, Constraint, Follows, Function, Table, TableColumn};
use crate::judge::Made;

/// A catalogue, ready to be asked by name.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_name: HashMap<Box<str>, Vec<usize>>,
    by_oid: HashMap<u32, usize>,
    /// Functions of users by name.
    functions: HashMap<Box<str>, User>,
    enums: HashSet<Box<str>>,
    keys: HashMap<u32, Vec<i16>>,
    /// Places in the catalogue's list, by table.
    constraints: HashMap<u32, Vec<usize>>,
    /// The same of functions, by name.
    bodies: HashMap<Box<str>, Vec<usize>>,
    /// Functions of triggers, by the table they stand on or one it descends from, and on what they fire.
    fired: HashMap<u32, Vec<(usize, i16)>>,
    /// Tables that descend from one directly.
    children: HashMap<u32, Vec<u32>>,
    /// Names of functions that some relation has a column of.
    fields: HashSet<Box<str>>,
    /// By the relation they stand on.
    rules: HashMap<u32, Vec<Rewrite>>,
    /// Functions that a write to a table, or to one it descends from, calls without naming them; true: an INSERT only.
    run: HashMap<u32, Vec<(Box<str>, bool)>>,
    /// Places in the catalogue's list of foreign keys, by the table they refer to.
    follows: HashMap<u32, Vec<usize>>,
    /// Functions that aggregates and operators of a name are made of.
    made_of: HashMap<Box<str>, Vec<Box<str>>>,
    /// Tables that have an index of this name.
    indexes: HashMap<Box<str>, Vec<u32>>,
    /// Functions of users that bring a value into a type of this name.
    conversions: HashMap<Box<str>, Vec<Box<str>>>,
    /// The same by number: checks of domains, and functions that bring a value out of it.
    typed: HashMap<u32, Vec<Box<str>>>,
    /// These by name, and which of the names stand for what a function that tells of something hidden brings values out of.
    outs: HashMap<Box<str>, Vec<Box<str>>>,
    telling: HashSet<Box<str>>,
}

/// All functions of users that have one name.
#[derive(Debug, Clone, Copy)]
struct User {
    /// Every one of them is written in C.
    c: bool,
    /// One of them may answer with any number of rows.
    rows: bool,
}

/// A relation by schema and name, as a rule's text says it.
type Named = (Option<Box<str>>, Box<str>);

/// A rewrite rule: what it adds to the write it stands on.
#[derive(Debug, Default)]
struct Rewrite {
    reads: Vec<Named>,
    writes: Vec<Named>,
    functions: Vec<Box<str>>,
    /// It answers with rows.
    shows: bool,
    /// Nobody here understands it.
    opaque: bool,
}

impl Rewrite {
    fn read(definition: &str) -> Rewrite {
        let opaque = Rewrite { opaque: true, ..Rewrite::default() };
        let Ok(tree) = super::parse(definition.as_bytes()) else { return opaque };
        let mut statements = tree.stmts();
        let (Some(statement @ Node::RuleStmt(rule)), None) = (statements.next(), statements.next()) else {
            return opaque;
        };
        let Ok(facts) = super::facts::read(statement) else { return opaque };
        let named = |name: &Name<'_>| (name.schema.map(Into::into), name.name.into());
        let mut written: Vec<Name<'_>> = facts.acts.iter().filter_map(|a| a.target).collect();
        let mut rewrite = Rewrite { writes: written.iter().map(named).collect(), ..Rewrite::default() };
        // Of each name one is the target's, and one that of the rule's own relation.
        written.extend(rule.relation().map(name));
        for name in &facts.names {
            match written.iter().position(|t| t == name) {
                Some(at) => drop(written.swap_remove(at)),
                None => rewrite.reads.push(named(name)),
            }
        }
        rewrite.functions = facts.functions.iter().map(|f| (*f).into()).collect();
        let shows = |action: Node<'_>| match action {
            Node::SelectStmt(_) => true,
            Node::InsertStmt(s) => s.returning_clause().is_some(),
            Node::UpdateStmt(s) => s.returning_clause().is_some(),
            Node::DeleteStmt(s) => s.returning_clause().is_some(),
            _ => false,
        };
        rewrite.shows = rule.actions().iter().any(shows);
        rewrite
    }
}

/// What must not be shown of one relation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Taint {
    /// Tainted columns by name and number.
    pub columns: HashMap<Box<str>, i16>,
    /// Numbers of those that are made of others: they derive from these.
    pub derived: HashMap<i16, Vec<(u32, i16)>>,
    /// Numbers of columns of a view that are another relation's: this one.
    pub same: HashMap<i16, (u32, i16)>,
    /// Of a system relation: what of it holds definitions, by number. They are all of its tainted columns.
    pub parts: HashMap<i16, Part>,
    /// Nothing is known of it: every column is tainted, and so is a statement that names it.
    pub whole: bool,
    /// Of a view that chooses its rows so: what it asks about hidden columns, with values that others may write.
    pub asks: Vec<((u32, i16), Place)>,
}

impl Taint {
    /// It is a system relation that shows definitions.
    pub(crate) fn defines(&self) -> bool {
        !self.parts.is_empty()
    }
}

/// Taints by relation OID; what is absent is harmless.
pub(crate) type Taints = HashMap<u32, Taint>;

/// Whether this very column must not be shown.
pub(crate) fn hidden(taints: &Taints, (table, number): (u32, i16)) -> bool {
    taints.get(&table).is_some_and(|t| t.columns.values().any(|n| *n == number))
}

impl Index {
    /// A function that is not one of PostgreSQL's own harmless ones, or may be a user's of the same name.
    pub(crate) fn stranger(&self, function: &str) -> bool {
        self.user(function)
            || !(listed(known::PURE_FUNCTIONS, function) || listed(known::EFFECT_FUNCTIONS, function))
    }

    /// There is a function of users of this name. An extension's, in C, that has the name of a harmless one does what that does, for
    /// its own types (`max(citext)`).
    pub(crate) fn user(&self, function: &str) -> bool {
        self.functions.get(function).is_some_and(|f| !(f.c && listed(known::PURE_FUNCTIONS, function)))
    }

    /// A function of this name answers with one row for each call.
    pub(crate) fn one_row(&self, function: &str) -> bool {
        match self.functions.get(function) {
            Some(user) => !user.rows && !listed(known::ROW_FUNCTIONS, function),
            None => known::one_row(function),
        }
    }

    /// The functions that a write to a table runs by its triggers; `event` as [`crate::catalog::Code::fired`] has it.
    pub(crate) fn fired<'c>(
        &self,
        catalog: &'c Catalog,
        table: u32,
        event: i16,
    ) -> impl Iterator<Item = &'c Function> {
        let all = self.fired.get(&table).into_iter().flatten();
        all.filter(move |(_, on)| on & event != 0).filter_map(|(at, _)| catalog.functions.get(*at))
    }

    /// Adds the functions that are called in the notation of a column.
    pub(crate) fn dotted(&self, facts: &mut super::facts::Facts<'_>) {
        let called = |f: &&str| known::acts(f) || self.functions.contains_key(*f);
        let field = |f: &&str| self.fields.contains(*f) && !listed(known::TEXT_RUNNERS, f);
        let beside = facts.beside.iter().copied().filter(called).filter(|f| !field(f));
        facts.functions.extend(facts.applied.iter().copied().filter(called).chain(beside));
    }

    /// What functions of users do by themselves when they are called, and those that they call, as far as their texts can be parsed.
    pub(crate) fn within<'n>(
        &self,
        catalog: &Catalog,
        called: impl Iterator<Item = &'n str>,
    ) -> Vec<pg_raw_parse::ParseResult> {
        let mut stack: Vec<String> =
            called.filter(|f| self.bodies.contains_key(*f)).map(str::to_owned).collect();
        let (mut seen, mut out) = (HashSet::new(), Vec::new());
        while let Some(name) = stack.pop().filter(|_| seen.len() < BODIES_MAX) {
            let places = self.bodies.get(name.as_str()).into_iter().flatten();
            let functions: Vec<&Function> = places.filter_map(|i| catalog.functions.get(*i)).collect();
            if !seen.insert(name) {
                continue;
            }
            for tree in functions.into_iter().flat_map(commands::statements) {
                for facts in tree.stmts().filter_map(|s| super::facts::read(s).ok()) {
                    let known = |f: &&&str| self.bodies.contains_key(**f);
                    stack.extend(facts.functions.iter().filter(known).map(|f| (*f).to_owned()));
                }
                out.push(tree);
            }
        }
        out
    }

    /// Functions that a value written as a type of this name goes through.
    pub(crate) fn conversions(&self, t: &nodes::TypeName) -> &[Box<str>] {
        if self.conversions.is_empty() {
            return &[];
        }
        let names = t.names();
        let last = names.len().checked_sub(1).and_then(|i| names.get(i)).and_then(nodes::String::sval);
        last.and_then(|name| self.conversions.get(name)).map_or(&[], Vec::as_slice)
    }

    /// The same for a type as `format_type` writes it.
    fn converted(&self, type_name: &str) -> &[Box<str>] {
        let name = type_name.rsplit('.').next().unwrap_or_default().trim_matches(['"', '[', ']']);
        self.conversions.get(name).map_or(&[], Vec::as_slice)
    }

    /// Functions that a write to a table calls without naming them, but for triggers; `inserts`: it is an INSERT.
    pub(crate) fn run(&self, table: u32, inserts: bool) -> impl Iterator<Item = &str> {
        let all = self.run.get(&table).into_iter().flatten();
        all.filter(move |(_, only)| inserts || !only).map(|(f, _)| &**f)
    }

    /// What becomes of rows that refer to a table.
    pub(crate) fn follows<'c>(&self, catalog: &'c Catalog, table: u32) -> impl Iterator<Item = &'c Follows> {
        let all = self.follows.get(&table).into_iter().flatten();
        all.filter_map(|i| catalog.code.follows.get(*i))
    }

    /// Functions that an aggregate or an operator is made of.
    pub(crate) fn made_of(&self, name: &str) -> &[Box<str>] {
        self.made_of.get(name).map_or(&[], Vec::as_slice)
    }

    /// Types or operators of users run code.
    pub(crate) fn runs_unnamed(&self) -> bool {
        !self.conversions.is_empty() || !self.made_of.is_empty()
    }

    /// A cast out of a type of this name tells of something hidden.
    pub(crate) fn tells(&self, t: &nodes::TypeName) -> bool {
        !self.telling.is_empty()
            && t.names()
                .iter()
                .next_back()
                .and_then(nodes::String::sval)
                .is_some_and(|name| self.telling.contains(name))
    }

    pub(crate) fn any_tells(&self) -> bool {
        !self.telling.is_empty()
    }

    /// Says so of those of which it is known by now what is hidden.
    pub(crate) fn find_telling(&mut self, catalog: &Catalog, taints: &Taints, summaries: &Summaries) {
        if self.outs.is_empty() {
            return;
        }
        let known = Words::new(catalog, taints, summaries);
        let tells = |f: &str| known.functions.contains_key(&f.to_lowercase());
        let telling =
            self.outs.iter().filter(|(_, all)| all.iter().any(|f| tells(f))).map(|(name, _)| name.clone());
        self.telling = telling.collect();
    }

    /// Functions that a parameter declared to be of this type may go through.
    pub(crate) fn typed(&self, oid: u32) -> &[Box<str>] {
        self.typed.get(&oid).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn converts(&self) -> bool {
        !self.conversions.is_empty()
    }

    /// Whether a rule on a relation, or on what its own rules write to, reads what is hidden, shows it, or calls what nobody knows.
    pub(crate) fn betrays(&self, catalog: &Catalog, taints: &Taints, relation: u32) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let found = |(schema, name): &Named| {
            let name = Name { schema: schema.as_deref(), name };
            self.candidates(catalog, name).map(|t| t.oid).collect::<Vec<u32>>()
        };
        let is_hidden = |oid: &u32| taints.get(oid).is_some_and(|t| !t.defines());
        let any_hidden = |names: &[Named]| names.iter().flat_map(found).any(|oid| is_hidden(&oid));
        let (mut seen, mut stack) = (HashSet::new(), vec![relation]);
        while let Some(oid) = stack.pop().filter(|_| seen.len() < RULES_MAX) {
            if !seen.insert(oid) {
                continue;
            }
            for rule in self.rules.get(&oid).into_iter().flatten() {
                if rule.opaque
                    || rule.functions.iter().any(|f| self.stranger(f))
                    || any_hidden(&rule.reads)
                    || (rule.shows && (is_hidden(&oid) || any_hidden(&rule.writes)))
                {
                    return true;
                }
                stack.extend(rule.writes.iter().flat_map(found));
            }
            // A view without rules hands its writes on to its table.
            let view = self.table(catalog, oid).and_then(|t| t.definition.as_deref());
            if let Some(tree) = view.and_then(|text| super::parse(text.as_bytes()).ok()) {
                let facts = tree.stmts().filter_map(|s| super::facts::read(s).ok().map(|f| f.names));
                stack.extend(facts.flatten().flat_map(|n| self.candidates(catalog, n)).map(|t| t.oid));
            }
        }
        !stack.is_empty()
    }

    /// A type that an extension brings in C, and nobody's code besides: what casts to it does no more than one to a built-in type.
    pub(crate) fn of_extension(&self, t: &nodes::TypeName) -> bool {
        let names = t.names();
        let last = names.len().checked_sub(1).and_then(|i| names.get(i)).and_then(nodes::String::sval);
        let input = last.and_then(|last| known::EXTENSION_TYPES.iter().find(|(name, _)| *name == last));
        names.len() <= 2
            && !t.pct_type
            && input.is_some_and(|(_, input)| self.in_c(input))
            && self.conversions(t).is_empty()
    }

    pub(crate) fn is_enum(&self, name: &str) -> bool {
        self.enums.contains(name)
    }

    /// The columns of a table's primary key.
    pub(crate) fn key(&self, table: u32) -> Option<&[i16]> {
        self.keys.get(&table).map(Vec::as_slice).filter(|k| !k.is_empty())
    }

    /// What writes to a table are compared with.
    pub(crate) fn constraints<'c>(
        &self,
        catalog: &'c Catalog,
        table: u32,
    ) -> impl Iterator<Item = &'c Constraint> {
        let all = catalog.constraints.as_deref().unwrap_or_default();
        self.constraints.get(&table).into_iter().flatten().filter_map(|i| all.get(*i))
    }

    /// The tables with an index of this name.
    pub(crate) fn indexed(&self, name: &str) -> &[u32] {
        self.indexes.get(name).map_or(&[], Vec::as_slice)
    }

    /// All of this name are of users and written in C.
    pub(crate) fn in_c(&self, function: &str) -> bool {
        self.functions.get(function).is_some_and(|f| f.c)
    }

    pub(crate) fn new(catalog: &Catalog) -> Index {
        let mut index = Index::default();
        for (i, table) in catalog.tables.iter().enumerate() {
            index.by_name.entry(table.name.as_str().into()).or_default().push(i);
            index.by_oid.insert(table.oid, i);
        }
        index.enums = catalog.enums.iter().map(|e| e.as_str().into()).collect();
        index.keys = catalog.keys.iter().cloned().collect();
        // A key of a table does not hold for those that inherit from it; that of a partitioned one does.
        for table in &catalog.tables {
            for parent in &table.parents {
                index.children.entry(*parent).or_default().push(table.oid);
                if index.table(catalog, *parent).is_none_or(|p| p.kind != 'p') {
                    index.keys.remove(parent);
                }
            }
        }
        for (i, constraint) in catalog.constraints.iter().flatten().enumerate() {
            index.constraints.entry(constraint.table).or_default().push(i);
        }
        for (table, name) in &catalog.indexes {
            index.indexes.entry(name.as_str().into()).or_default().push(*table);
        }
        for (relation, definition) in &catalog.code.rules {
            index.rules.entry(*relation).or_default().push(Rewrite::read(definition));
        }
        for (name, functions) in &catalog.code.conversions {
            let functions = functions.iter().map(|f| f.as_str().into()).collect();
            index.conversions.insert(name.as_str().into(), functions);
        }
        for (oid, name, functions) in &catalog.code.typed {
            let functions: Vec<Box<str>> = functions.iter().map(|f| f.as_str().into()).collect();
            index.outs.entry(name.as_str().into()).or_default().extend(functions.iter().cloned());
            index.typed.insert(*oid, functions);
        }
        let places: HashMap<u32, usize> =
            catalog.functions.iter().enumerate().map(|(i, f)| (f.oid, i)).collect();
        for (table, function, on) in &catalog.code.fired {
            let Some(at) = places.get(function) else { continue };
            let (mut seen, mut stack) = (HashSet::new(), vec![*table]);
            while let Some(oid) = stack.pop().filter(|oid| seen.insert(*oid)) {
                index.fired.entry(oid).or_default().push((*at, *on));
                stack.extend(index.table(catalog, oid).into_iter().flat_map(|t| &t.parents));
            }
        }
        let runs = |index: &mut Index, table: u32, function: &str, inserts: bool| {
            let (mut seen, mut stack) = (HashSet::new(), vec![table]);
            while let Some(oid) = stack.pop().filter(|oid| seen.insert(*oid)) {
                index.run.entry(oid).or_default().push((function.into(), inserts));
                stack.extend(index.table(catalog, oid).into_iter().flat_map(|t| &t.parents));
            }
        };
        for (table, inserts, functions) in &catalog.code.run {
            functions.iter().for_each(|f| runs(&mut index, *table, f, *inserts));
        }
        for (table, column) in catalog.tables.iter().flat_map(|t| t.columns.iter().map(|c| (t.oid, c))) {
            if index.conversions.is_empty() {
                break;
            }
            for function in index.converted(&column.type_name).to_vec() {
                runs(&mut index, table, &function, false);
            }
        }
        for (i, follows) in catalog.code.follows.iter().enumerate() {
            index.follows.entry(follows.of).or_default().push(i);
        }
        for (name, functions) in &catalog.code.made_of {
            let functions = functions.iter().map(|f| f.as_str().into());
            index.made_of.entry(name.as_str().into()).or_default().extend(functions);
        }
        for (i, function) in catalog.functions.iter().enumerate() {
            index.bodies.entry(function.name.as_str().into()).or_default().push(i);
            // Both are for superusers to write; citext's are `textin` and its like under names of their own.
            let c = ["c", "internal"].iter().any(|l| function.language.eq_ignore_ascii_case(l));
            let named = User { c: true, rows: false };
            let named = index.functions.entry(function.name.as_str().into()).or_insert(named);
            *named = User { c: named.c && c, rows: named.rows || function.rows };
        }
        for column in catalog.tables.iter().flat_map(|t| &t.columns) {
            if known::acts(&column.name) || index.functions.contains_key(column.name.as_str()) {
                index.fields.insert(column.name.as_str().into());
            }
        }
        index
    }

    pub(crate) fn table<'c>(&self, catalog: &'c Catalog, oid: u32) -> Option<&'c Table> {
        self.by_oid.get(&oid).and_then(|i| catalog.tables.get(*i))
    }

    /// Every relation a name may mean.
    pub(crate) fn candidates<'c>(
        &self,
        catalog: &'c Catalog,
        name: Name<'_>,
    ) -> impl Iterator<Item = &'c Table> {
        self.by_name
            .get(name.name)
            .into_iter()
            .flatten()
            .filter_map(|i| catalog.tables.get(*i))
            .filter(move |t| name.schema.is_none_or(|s| s == t.schema))
    }
}

/// A relation of the system by name: `Some(true)` shows structure only, `Some(false)` may hold contents.
pub(crate) fn system(schema: &str, relation: &str) -> Option<bool> {
    match schema {
        "pg_catalog" => Some(listed(known::SYSTEM_RELATIONS, relation)),
        "information_schema" => Some(!listed(known::INFORMATION_SECRETS, relation)),
        _ if schema == "pg_toast" || schema.starts_with("pg_toast_temp") => Some(false),
        _ => None,
    }
}

/// What is asked of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// May its answer be shown as it is?
    Output,
    /// May what it stores be stored? RETURNING of the statement itself is judged by the server's word about origin, its target
    /// need not be known, and `masked = constant` may choose its rows.
    Write,
}

#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Why nothing can be proved.
    pub unproved: Option<&'static str>,
    /// Relations whose masked columns are read.
    pub hits: Vec<u32>,
    /// A relation with something to hide is named at all; one that only shows definitions does not count.
    pub names_masked: bool,
    /// A built-in with an effect outside the statement is called.
    pub effects: bool,
    /// A function nobody knows is called.
    pub unknown_function: bool,
}

impl Proof {
    pub(crate) fn clean(&self) -> bool {
        self.unproved.is_none() && self.hits.is_empty()
    }
}

pub(crate) struct Prover<'c> {
    pub catalog: &'c Catalog,
    pub index: &'c Index,
    pub taints: &'c Taints,
    pub made: &'c [Made],
}

const DEFINITION: &str = "it reads how something is defined";

/// Functions whose texts are looked at for one text.
const BODIES_MAX: usize = 256;

/// Relations that one write may reach through rules.
const RULES_MAX: usize = 256;

/// Names compared for one statement, about 10 ms; beyond, nothing is proved.
const COMPARISONS_MAX: usize = 4_000_000;

#[derive(Default)]
struct Gathered<'a> {
    relations: Vec<&'a nodes::RangeVar>,
    target: Option<&'a nodes::RangeVar>,
    derived: Vec<&'a str>,
    with: bool,
    ctes: Ctes<'a>,
    refs: Vec<&'a nodes::ColumnRef>,
    /// For each `*`: the relations of its FROM.
    stars: Vec<Vec<&'a nodes::RangeVar>>,
    stars_seen: usize,
    using: Vec<&'a str>,
    named_join: bool,
    natural: bool,
    changes: bool,
    problems: Vec<&'static str>,
    effects: bool,
    unknown_function: bool,
}

impl<'c> Prover<'c> {
    /// A relation the catalogue does not have is called as one with something to hide: whatever rules say of the one may hold for the
    /// other.
    fn named_as_masked(&self, name: Name<'_>) -> bool {
        let known = self.index.candidates(self.catalog, name).next().is_some();
        let alike = Name { schema: None, ..name };
        let mut others = self.index.candidates(self.catalog, alike);
        !known && others.any(|t| self.taints.get(&t.oid).is_some_and(|taint| !taint.defines()))
    }

    /// A foreign key to a masked column asks for each row whether its value is there.
    fn refers_to_masked(&self, key: &nodes::Constraint) -> bool {
        let Some(to) = key.pktable() else { return true };
        let named: Vec<&str> = key.pk_attrs().iter().filter_map(Node::as_str).collect();
        self.index.candidates(self.catalog, name(to)).any(|table| {
            let Some(taint) = self.taints.get(&table.oid) else { return false };
            let is = |n: &i16, of: &str| table.columns.iter().any(|c| c.number == *n && c.name == of);
            let primary = self.index.key(table.oid).unwrap_or_default();
            taint.whole
                || taint.columns.values().any(|n| match named.as_slice() {
                    [] => primary.contains(n),
                    named => named.iter().any(|of| is(n, of)),
                })
        })
    }

    pub(crate) fn prove(&self, statement: Node<'_>, question: Question) -> Proof {
        let mut gathered = Gathered::default();
        let mut stack = Vec::with_capacity(32);
        self.enter(statement, &mut gathered, question, true);
        let _ = children(statement, &mut stack);
        if question == Question::Write {
            stack.retain(|n| !matches!(n, Node::ReturningClause(_)));
        }
        self.walk(&mut stack, &mut gathered, question);
        if gathered.with {
            match with::ctes(statement) {
                Ok(ctes) => gathered.ctes = ctes,
                Err(Unknown) => gathered.problems.push("it holds a construct nobody here understands"),
            }
        }
        let chosen = if question == Question::Write { equalities(statement) } else { HashSet::new() };
        self.judge(&gathered, &chosen)
    }

    fn walk<'a>(&self, stack: &mut Vec<Node<'a>>, out: &mut Gathered<'a>, question: Question) {
        while let Some(node) = stack.pop() {
            self.enter(node, out, question, false);
            if children(node, stack).is_err() {
                out.problems.push("it holds a construct nobody here understands");
            }
        }
    }

    fn enter<'a>(&self, node: Node<'a>, out: &mut Gathered<'a>, question: Question, root: bool) {
        let alias = |a: Option<&'a nodes::Alias>| a.and_then(nodes::Alias::aliasname);
        if let Some(act) = act(node)
            && !matches!(
                act.class,
                "select"
                    | "insert"
                    | "update"
                    | "delete"
                    | "merge"
                    | "explain"
                    | "prepare"
                    | "declare"
                    | "transaction"
                    | "set"
                    | "show"
                    | "listen"
                    | "unlisten"
                    | "notify"
                    | "deallocate"
                    | "discard"
                    | "close"
                    | "move"
                    | "lock"
                    | "truncate"
                    | "vacuum"
                    | "analyze"
                    | "cluster"
                    | "reindex"
                    | "refresh"
                    | "checkpoint"
                    | "comment"
                    | "grant"
                    | "revoke"
                    | "copy"
            )
            && !(act.class == "create" && matches!(act.object, "table-as" | "materialized-view" | "view"))
        {
            out.problems.push("it is of a kind whose answer cannot be traced");
        }
        match node {
            // Constants of views, defaults and policies stand in a plan.
            Node::ExplainStmt(_) if !self.taints.is_empty() => out.problems.push(DEFINITION),
            Node::VariableShowStmt(v)
                if !self.taints.is_empty() && known::of_users(v.name().unwrap_or_default()) =>
            {
                out.problems.push(DEFINITION);
            }
            Node::RangeVar(r) => out.relations.push(r),
            Node::ColumnRef(c) => {
                if plain_star(c) {
                    out.stars_seen += 1;
                } else {
                    out.refs.push(c);
                }
            }
            Node::SelectStmt(s) => {
                let mut first = true;
                for target in s.target_list() {
                    if matches!(target.val(), Node::ColumnRef(c) if plain_star(c)) {
                        let scope = if first { relations_of(s.from_clause().iter()) } else { Vec::new() };
                        first = false;
                        out.stars.push(scope);
                    }
                }
            }
            Node::InsertStmt(s) => {
                self.changes(s.relation(), s.returning_clause(), [].into_iter(), out, (root, question))
            }
            Node::UpdateStmt(s) => {
                self.changes(
                    s.relation(),
                    s.returning_clause(),
                    s.from_clause().iter(),
                    out,
                    (root, question),
                );
            }
            Node::DeleteStmt(s) => {
                self.changes(
                    s.relation(),
                    s.returning_clause(),
                    s.using_clause().iter(),
                    out,
                    (root, question),
                );
            }
            Node::MergeStmt(s) => {
                let source = [s.source_relation()].into_iter();
                self.changes(s.relation(), s.returning_clause(), source, out, (root, question));
            }
            Node::CommonTableExpr(c) => {
                out.with = true;
                for n in [c.search_clause().is_some(), c.cycle_clause().is_some()] {
                    if n {
                        out.problems.push("it searches or cycles through rows");
                    }
                }
            }
            Node::RangeSubselect(r) => out.derived.extend(alias(r.alias())),
            Node::RangeFunction(r) => out.derived.extend(alias(r.alias())),
            Node::RangeTableFunc(r) => out.derived.extend(alias(r.alias())),
            Node::JsonTable(r) => out.derived.extend(alias(r.alias())),
            Node::JoinExpr(j) => {
                out.named_join |= j.alias().is_some() || j.join_using_alias().is_some();
                out.natural |= j.is_natural;
                out.using.extend(j.using_clause().iter().filter_map(nodes::String::sval));
            }
            Node::ViewStmt(v) => {
                // The view's own name is new; it is found again by pointer.
                out.target = v.view();
            }
            Node::IntoClause(i) => out.target = i.rel(),
            Node::FuncCall(f) => {
                if known::column_before_16(f, self.catalog.server_version) {
                    out.problems.push("it names what is a column before PostgreSQL 16");
                }
                self.call(f, out);
            }
            Node::TypeCast(c) => {
                let literal = matches!(c.arg(), Node::A_Const(_) | Node::ParamRef(_));
                let known = |t: &nodes::TypeName| built_in(t) || self.index.of_extension(t);
                if !literal && !c.type_name().is_some_and(known) {
                    out.problems.push("it casts to a type that is not built in");
                }
            }
            Node::MergeSupportFunc(_) if self.index.user("merge_action") => {
                out.problems.push("it calls a function that is not known to be harmless");
            }
            Node::TypeName(t) if !self.index.conversions(t).is_empty() || self.index.tells(t) => {
                out.problems.push("it calls a function that is not known to be harmless");
            }
            Node::A_Expr(e) if !plain_operator(e.name()) => {
                out.problems.push("it names an operator's schema")
            }
            Node::SubLink(s) if !plain_operator(s.oper_name()) => {
                out.problems.push("it names an operator's schema")
            }
            Node::SortBy(s) if !plain_operator(s.use_op()) => {
                out.problems.push("it names an operator's schema")
            }
            Node::A_Indirection(i) => {
                for field in i.indirection().iter().filter_map(Node::as_str) {
                    // `(x).f` calls f(x).
                    if known::defines(field).is_some() && !self.taints.is_empty() {
                        out.problems.push(DEFINITION);
                    }
                    if self.index.user(field) || known::acts(field) {
                        out.unknown_function = true;
                        out.problems.push("it calls a function that is not known to be harmless");
                    }
                }
            }
            Node::RangeTableSample(s) => {
                let method = s.method().iter().filter_map(Node::as_str).collect::<Vec<_>>();
                if !matches!(
                    method.as_slice(),
                    ["system" | "bernoulli"] | ["pg_catalog", "system" | "bernoulli"]
                ) {
                    out.problems.push("it samples by a method that is not built in");
                }
            }
            Node::ReturningClause(r) if !r.options().is_empty() => {
                out.problems.push("it renames OLD or NEW");
            }
            _ => {}
        }
    }

    fn changes<'a>(
        &self,
        relation: Option<&'a nodes::RangeVar>,
        returning: Option<&'a nodes::ReturningClause>,
        others: impl Iterator<Item = Node<'a>>,
        out: &mut Gathered<'a>,
        (root, question): (bool, Question),
    ) {
        out.changes = true;
        let mut written = relation.into_iter().flat_map(|r| self.index.candidates(self.catalog, name(r)));
        if written.any(|t| self.index.betrays(self.catalog, self.taints, t.oid)) {
            out.problems.push("a rule on what it writes to reads masked data");
        }
        if root && question == Question::Write {
            out.target = relation;
            return;
        }
        for target in returning.into_iter().flat_map(|r| r.exprs().iter()) {
            if let Node::ResTarget(t) = target
                && matches!(t.val(), Node::ColumnRef(c) if plain_star(c))
            {
                let mut scope = relations_of(others);
                scope.extend(relation);
                out.stars.push(scope);
                return self.more_stars(returning, out);
            }
        }
    }

    /// `RETURNING *, *`: the first one's scope is every one's; only the count has to agree.
    fn more_stars<'a>(&self, returning: Option<&'a nodes::ReturningClause>, out: &mut Gathered<'a>) {
        let stars = returning.into_iter().flat_map(|r| r.exprs().iter()).filter(
            |n| matches!(n, Node::ResTarget(t) if matches!(t.val(), Node::ColumnRef(c) if plain_star(c))),
        );
        for _ in stars.skip(1) {
            out.stars.push(Vec::new());
        }
    }

    fn call<'a>(&self, call: &'a nodes::FuncCall, out: &mut Gathered<'a>) {
        let parts = call.funcname();
        let part = |i: usize| parts.get(i).and_then(Node::as_str);
        let (function, shadowed) = match (parts.len(), part(0), part(1)) {
            (1, Some(f), _) => (f, self.index.functions.get(f).map(|u| u.c).filter(|_| self.index.user(f))),
            (2, Some("pg_catalog"), Some(f)) => (f, None),
            (2, Some("information_schema"), Some(f)) if known::INFORMATION_FUNCTIONS.contains(&f) => return,
            (_, _, Some(f)) => (f, Some(false)),
            _ => ("", Some(false)),
        };
        let extension = known::EXTENSION_FUNCTIONS.contains(&function) && self.index.in_c(function);
        if extension || (shadowed.is_none() && listed(known::PURE_FUNCTIONS, function)) {
            if known::defines(function).is_some()
                || (function == "current_setting" && !known::of_server(call))
            {
                out.problems.push(DEFINITION);
            }
            return;
        }
        if shadowed.is_none() && listed(known::EFFECT_FUNCTIONS, function) {
            out.effects = true;
            return;
        }
        out.unknown_function = true;
        out.problems.push("it calls a function that is not known to be harmless");
    }

    /// Holds what was gathered against what is hidden.
    fn judge(&self, gathered: &Gathered<'_>, chosen: &HashSet<*const nodes::ColumnRef>) -> Proof {
        let mut proof = Proof {
            effects: gathered.effects,
            unknown_function: gathered.unknown_function,
            ..Proof::default()
        };
        let mut unproved = |why: &'static str| {
            proof.unproved.get_or_insert(why);
        };
        for why in &gathered.problems {
            unproved(why);
        }
        // Relations by the name expressions call them, with what each hides.
        let mut called: HashMap<&str, Vec<(u32, &Taint)>> = HashMap::new();
        let mut tables: HashMap<&str, Vec<&Table>> = HashMap::new();
        let mut hidden: HashMap<&str, u32> = HashMap::new();
        let mut tainted: Vec<(u32, &Taint)> = Vec::new();
        let mut seen: HashMap<(Name<'_>, bool), Vec<(u32, &Taint)>> = HashMap::new();
        let mut met: HashSet<(&str, Name<'_>)> = HashSet::new();
        for relation in &gathered.relations {
            let n = name(relation);
            let alias = relation.alias();
            let reference = alias.and_then(nodes::Alias::aliasname).unwrap_or(n.name);
            let cte = gathered.ctes.get(relation).is_some();
            let found = seen.entry((n, cte)).or_insert_with(|| {
                let mut taints = Vec::new();
                let mut any = cte;
                for table in self.index.candidates(self.catalog, n) {
                    any = true;
                    match system(&table.schema, &table.name) {
                        Some(true) | None => {}
                        Some(false) => unproved("it reads a system relation that can hold data"),
                    }
                    if let Some(taint) = self.taints.get(&table.oid) {
                        if taint.whole {
                            unproved("it reads a relation that cannot be traced");
                        }
                        taints.push((table.oid, taint));
                    }
                }
                if !any {
                    let fine = match n.schema {
                        _ if self.made.iter().any(|m| m.is(n)) => true,
                        None => listed(known::SYSTEM_RELATIONS, n.name),
                        Some(schema) => system(schema, n.name) == Some(true),
                    };
                    let target = gathered.target.is_some_and(|t| std::ptr::eq(t, *relation));
                    if !fine && !target {
                        unproved("it names a relation the catalogue does not have");
                    }
                    if fine && !self.taints.is_empty() && !known::definitions(n.name).is_empty() {
                        unproved(DEFINITION);
                    }
                }
                tainted.extend(taints.iter().copied());
                taints
            });
            if !found.is_empty() && alias.is_some_and(|a| !a.colnames().is_empty()) {
                unproved("it renames the columns of a masked table");
            }
            if !met.insert((reference, n)) {
                continue;
            }
            called.entry(reference).or_default().extend(found.iter().copied());
            tables.entry(reference).or_default().extend(self.index.candidates(self.catalog, n));
        }
        for (oid, taint) in &tainted {
            for column in taint.columns.keys() {
                hidden.entry(column).or_insert(*oid);
            }
        }
        proof.names_masked = tainted.iter().any(|(_, taint)| !taint.defines());
        for derived in gathered.derived.iter().copied().chain(["excluded"]) {
            called.entry(derived).or_default();
        }
        if !tainted.is_empty() {
            if gathered.named_join {
                unproved("it names a join with a masked table");
            }
            if gathered.natural {
                unproved("it joins a masked table by whatever columns match");
            }
            if gathered.changes {
                for version in ["old", "new"] {
                    called.entry(version).or_default().extend(tainted.iter().copied());
                }
            }
        }
        for column in &gathered.using {
            if let Some(oid) = hidden.get(column) {
                proof.hits.push(*oid);
            }
        }
        if gathered.stars.len() != gathered.stars_seen {
            unproved("it has a * nobody here understands");
        }
        for scope in &gathered.stars {
            for relation in scope {
                let seen = |cte: bool| seen.get(&(name(relation), cte));
                for (oid, _) in [true, false].into_iter().filter_map(seen).flatten() {
                    proof.hits.push(*oid);
                }
            }
        }
        let mut budget = COMPARISONS_MAX;
        for reference in &gathered.refs {
            if chosen.contains(&std::ptr::from_ref(*reference)) {
                continue;
            }
            let fields = reference.fields();
            let back = |n: usize| fields.len().checked_sub(n).and_then(|i| fields.get(i));
            let qualifier = back(2).and_then(Node::as_str);
            let hit = match (qualifier, back(1)) {
                (None, Some(Node::String(s))) => {
                    let column = s.sval().unwrap_or_default();
                    // A masked column, or the whole row of what is called so.
                    hidden.get(column).copied().or_else(|| called.get(column)?.first().map(|(oid, _)| *oid))
                }
                (Some(qualifier), Some(Node::A_Star(_))) => match called.get(qualifier) {
                    Some(taints) => taints.first().map(|(oid, _)| *oid),
                    None => tainted.first().map(|(oid, _)| *oid),
                },
                (Some(qualifier), Some(Node::String(s))) => {
                    let column = s.sval().unwrap_or_default();
                    let of = tables.get(qualifier);
                    let cost: usize = of.into_iter().flatten().map(|t| t.columns.len() + 1).sum();
                    if cost > budget {
                        unproved("it compares too many names");
                        break;
                    }
                    budget -= cost;
                    let is_column = |t: &&Table| {
                        t.columns.iter().any(|c| c.name == column) || known::system_column(t, column)
                    };
                    // `t.f` calls f(t) when t has no column f.
                    if (self.index.user(column) || known::acts(column))
                        && !of.is_some_and(|t| !t.is_empty() && t.iter().all(is_column))
                    {
                        proof.unknown_function = true;
                        unproved("it calls a function that is not known to be harmless");
                    }
                    let found = match called.get(qualifier) {
                        Some(taints) => taints
                            .iter()
                            .find(|(_, taint)| {
                                taint.columns.contains_key(column)
                                    || !of.is_some_and(|t| t.iter().all(is_column))
                            })
                            .map(|(oid, _)| *oid),
                        None => tainted.first().map(|(oid, _)| *oid),
                    };
                    // What the client does not say of the row that was to be inserted comes from code.
                    let fills = |taint: &Taint| {
                        taint.columns.get(column).is_some_and(|n| taint.derived.contains_key(n))
                    };
                    let mut excluded = tainted.iter().filter(|_| qualifier == "excluded");
                    found.or_else(|| excluded.find(|(_, t)| fills(t)).map(|(oid, _)| *oid))
                }
                _ => {
                    unproved("it refers to a column in a way nobody here understands");
                    None
                }
            };
            if let Some(oid) = hit {
                proof.hits.push(oid);
            }
        }
        proof.hits.sort_unstable();
        proof.hits.dedup();
        proof
    }
}

fn plain_star(c: &nodes::ColumnRef) -> bool {
    c.fields().len() == 1 && matches!(c.fields().first(), Some(Node::A_Star(_)))
}

pub(super) fn plain_operator(parts: &pg_raw_parse::list::NodeList) -> bool {
    match parts.len() {
        0 | 1 => true,
        2 => parts.first().and_then(Node::as_str) == Some("pg_catalog"),
        _ => false,
    }
}

pub(crate) fn built_in(t: &nodes::TypeName) -> bool {
    let names = t.names();
    let last = names
        .len()
        .checked_sub(1)
        .and_then(|i| names.get(i))
        .and_then(nodes::String::sval)
        .unwrap_or_default();
    let schema = if names.len() > 1 { names.first().and_then(nodes::String::sval) } else { None };
    names.len() <= 2
        && matches!(schema, None | Some("pg_catalog"))
        && listed(known::TYPES, last)
        && !t.pct_type
}

/// The relations a `*` stands for: those of FROM, through joins and samples, not inside subqueries.
fn relations_of<'a>(from: impl Iterator<Item = Node<'a>>) -> Vec<&'a nodes::RangeVar> {
    let mut stack: Vec<Node<'a>> = from.collect();
    let mut found = Vec::new();
    while let Some(node) = stack.pop() {
        match node {
            Node::RangeVar(r) => found.push(r),
            Node::JoinExpr(j) => stack.extend([j.larg(), j.rarg()]),
            Node::RangeTableSample(s) => stack.push(s.relation()),
            _ => {}
        }
    }
    found
}

/// Column references of `… WHERE column = constant AND …` of an UPDATE or DELETE: a lookup, not a computation.
fn equalities(statement: Node<'_>) -> HashSet<*const nodes::ColumnRef> {
    let condition = match statement {
        Node::UpdateStmt(s) => s.where_clause(),
        Node::DeleteStmt(s) => s.where_clause(),
        _ => return HashSet::new(),
    };
    let constant = |node: Node<'_>| match node {
        Node::A_Const(_) | Node::ParamRef(_) => true,
        Node::TypeCast(c) => matches!(c.arg(), Node::A_Const(_) | Node::ParamRef(_)),
        _ => false,
    };
    let mut found = HashSet::new();
    let mut stack = vec![condition];
    while let Some(node) = stack.pop() {
        match node {
            Node::BoolExpr(b) if b.boolop == nodes::BoolExprType::AND_EXPR => stack.extend(b.args().iter()),
            Node::A_Expr(e)
                if e.kind == nodes::A_Expr_Kind::AEXPR_OP
                    && e.name().len() == 1
                    && e.name().first().and_then(Node::as_str) == Some("=") =>
            {
                match (e.lexpr(), e.rexpr()) {
                    (Node::ColumnRef(c), other) | (other, Node::ColumnRef(c)) if constant(other) => {
                        found.insert(std::ptr::from_ref(c));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether a statement that changes the catalogue can do so under masks: it may not rename, re-parent or copy what is masked, nor
/// bring code of its own.
pub(crate) fn harmless_ddl(statement: Node<'_>, prover: &Prover<'_>) -> Result<(), &'static str> {
    use nodes::{AlterTableType as Cmd, ObjectType as T};
    const CODE: &str = "it defines code that cannot be analysed";
    const RELATION: &str = "it changes a relation with masked columns";
    // Tables of the type follow, masked ones too, and the catalogue does not say which those are.
    const TYPED: &str = "it changes tables made of a type";
    let cascades = |behavior| behavior == nodes::DropBehavior::DROP_CASCADE;
    let known_and_plain = |relation: Option<&nodes::RangeVar>| {
        let Some(relation) = relation else { return Err(CODE) };
        // A relation the catalogue does not have was made a moment ago, in this session, from clean data.
        for table in prover.index.candidates(prover.catalog, name(relation)) {
            if prover.taints.contains_key(&table.oid) || system(&table.schema, &table.name).is_some() {
                return Err(RELATION);
            }
        }
        Ok(())
    };
    if takes_columns(statement, prover) {
        return Err("it may drop columns of a table with masked ones");
    }
    match statement {
        // Rows of its parents move into it: their columns are its own, its checks and bounds are questions about them, and its name is
        // known to nobody.
        Node::CreateStmt(c) => {
            for parent in c.inh_relations() {
                let Node::RangeVar(parent) = parent else { return Err(CODE) };
                known_and_plain(Some(parent))?;
                if prover.named_as_masked(name(parent)) {
                    return Err(RELATION);
                }
            }
        }
        Node::CreateSeqStmt(_)
        | Node::AlterSeqStmt(_)
        | Node::CreateEnumStmt(_)
        | Node::CompositeTypeStmt(_)
        | Node::AlterEnumStmt(_)
        | Node::CreateDomainStmt(_)
        | Node::DropStmt(_)
        | Node::DropOwnedStmt(_)
        | Node::DropRoleStmt(_)
        | Node::DropdbStmt(_)
        | Node::CreateRoleStmt(_) => {}
        Node::CreateSchemaStmt(s) if s.schema_elts().is_empty() => {}
        Node::IndexStmt(i) if i.relation().is_some_and(|r| Beside::new(prover, r).index(i)) => {}
        Node::IndexStmt(i) => known_and_plain(i.relation())?,
        Node::AlterTableStmt(a)
            if a.objtype == T::OBJECT_TABLE
                && a.relation().is_some_and(|r| {
                    let beside = Beside::new(prover, r);
                    a.cmds().iter().all(|c| matches!(c, Node::AlterTableCmd(c) if beside.command(c)))
                }) => {}
        Node::AlterTableStmt(a) => {
            known_and_plain(a.relation())?;
            for command in a.cmds().iter() {
                match command {
                    Node::AlterTableCmd(c) if a.objtype == T::OBJECT_TYPE && cascades(c.behavior) => {
                        return Err(TYPED);
                    }
                    Node::AlterTableCmd(c)
                        if !matches!(
                            c.subtype,
                            Cmd::AT_AddInherit
                                | Cmd::AT_AttachPartition
                                | Cmd::AT_AddOf
                                | Cmd::AT_GenericOptions
                        ) => {}
                    _ => return Err("it joins a table to others"),
                }
            }
        }
        Node::RenameStmt(r) => match r.rename_type {
            T::OBJECT_ATTRIBUTE if cascades(r.behavior) => return Err(TYPED),
            T::OBJECT_TYPE | T::OBJECT_ROLE | T::OBJECT_DOMAIN | T::OBJECT_DOMCONSTRAINT => {}
            _ => known_and_plain(r.relation())?,
        },
        Node::AlterObjectSchemaStmt(a) => known_and_plain(a.relation())?,
        Node::AlterOwnerStmt(a) => known_and_plain(a.relation())?,
        _ => return Err(CODE),
    }
    // A type called `text`, found before the built-in one, could check values that are cast to it; so could one called `upper`.
    let named = match statement {
        Node::CreateDomainStmt(d) => d.domainname().iter().next_back().and_then(nodes::String::sval),
        Node::CreateEnumStmt(e) => e.type_name().iter().next_back().and_then(nodes::String::sval),
        Node::CompositeTypeStmt(c) => c.typevar().and_then(nodes::RangeVar::relname),
        Node::RenameStmt(r) if matches!(r.rename_type, T::OBJECT_TYPE | T::OBJECT_DOMAIN) => r.newname(),
        _ => None,
    };
    if named.is_some_and(known::type_or_call) {
        return Err("it makes a type of a built-in one's name");
    }
    // Defaults, checks, generated columns and index expressions run as code of this statement.
    let mut gathered = Gathered::default();
    let mut stack = vec![statement];
    while let Some(node) = stack.pop() {
        match node {
            Node::FuncCall(f) => prover.call(f, &mut gathered),
            Node::Constraint(c)
                if c.contype == nodes::ConstrType::CONSTR_FOREIGN && prover.refers_to_masked(c) =>
            {
                return Err("it compares with a masked column");
            }
            // Its values go through functions of users.
            Node::TypeName(t) if !prover.index.conversions(t).is_empty() => return Err(CODE),
            Node::A_Indirection(_) => prover.enter(node, &mut gathered, Question::Output, false),
            _ => {}
        }
        children(node, &mut stack).map_err(|_| CODE)?;
    }
    if gathered.problems.contains(&DEFINITION) {
        return Err("it stores how something is defined");
    }
    if gathered.unknown_function { Err(CODE) } else { Ok(()) }
}

/// Whether a DROP … CASCADE may take columns of a table with something to hide, by their type or by what they are generated with: what
/// stands behind them would move to other places.
fn takes_columns(statement: Node<'_>, prover: &Prover<'_>) -> bool {
    use nodes::ObjectType as T;
    /// The first OID that is no built-in type's.
    const FIRST_OF_USERS: u32 = 16_384;
    let (behavior, kind, objects) = match statement {
        Node::DropStmt(d) => (d.behavior, Some(d.remove_type), d.objects().iter().collect()),
        Node::DropOwnedStmt(d) => (d.behavior, None, Vec::new()),
        _ => return false,
    };
    if behavior != nodes::DropBehavior::DROP_CASCADE {
        return false;
    }
    let last = |object: &Node<'_>| match object {
        Node::NodeList(l) => l.iter().next_back().and_then(Node::as_str).map(str::to_owned),
        object => object.as_str().map(str::to_owned),
    };
    let dropped: Vec<String> = objects.iter().filter_map(last).collect();
    let named = |name: &str| dropped.iter().any(|d| d == name);
    let goes = |column: &TableColumn| {
        let of_users = column.type_oid >= FIRST_OF_USERS;
        let (schema, base) = column.type_name.rsplit_once('.').unwrap_or(("", &column.type_name));
        let plain = |name: &str| name.trim_end_matches("[]").trim_matches('"').to_owned();
        match kind {
            Some(
                T::OBJECT_INDEX | T::OBJECT_POLICY | T::OBJECT_RULE | T::OBJECT_SEQUENCE | T::OBJECT_TRIGGER,
            ) => false,
            // Its rows may be what a column holds.
            Some(T::OBJECT_TABLE | T::OBJECT_VIEW | T::OBJECT_MATVIEW | T::OBJECT_FOREIGN_TABLE) => {
                of_users && named(&plain(base))
            }
            // Written without its schema it is found by search_path.
            Some(T::OBJECT_SCHEMA) => {
                let found = |s: &String| schema.is_empty() && named(s);
                of_users && (named(&plain(schema)) || prover.catalog.search_path.iter().any(found))
            }
            // The type may be made of the one that is dropped.
            Some(T::OBJECT_TYPE | T::OBJECT_DOMAIN) => of_users,
            Some(T::OBJECT_COLLATION) => true,
            _ => of_users || column.generated.is_some(),
        }
    };
    let tables = prover.catalog.tables.iter().filter(|t| matches!(t.kind, 'r' | 'p' | 'f'));
    let hides = |t: &&Table| prover.taints.get(&t.oid).is_some_and(|taint| !taint.defines());
    tables.filter(hides).flat_map(|t| &t.columns).any(goes)
}

/// The columns of a table that has masked ones beside them, as far as all tables it may mean agree: what speaks of these only neither
/// shows a masked value nor asks about one, and leaves every column where it was and called what it was.
struct Beside<'c> {
    tables: Vec<(&'c Table, Option<&'c Taint>)>,
    name: Name<'c>,
}

impl<'c> Beside<'c> {
    fn new(prover: &Prover<'c>, relation: &'c nodes::RangeVar) -> Beside<'c> {
        let name = name(relation);
        let tables = prover.index.candidates(prover.catalog, name);
        Beside { tables: tables.map(|t| (t, prover.taints.get(&t.oid))).collect(), name }
    }

    fn plain(&self, column: &str) -> bool {
        let plain = |(table, taint): &(&Table, Option<&Taint>)| {
            matches!(table.kind, 'r' | 'p')
                && system(&table.schema, &table.name).is_none()
                && !taint.is_some_and(|t| t.whole || t.columns.contains_key(column))
                && table.columns.iter().any(|c| c.name == column)
        };
        !self.tables.is_empty() && self.tables.iter().all(plain)
    }

    /// Every column an expression names is one of these, or the one it is added with. A row as a whole is none.
    fn speaks_of(&self, node: Node<'_>, added: Option<&str>) -> bool {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            match node {
                Node::ColumnRef(c) => {
                    let fields: Option<Vec<&str>> = c.fields().iter().map(Node::as_str).collect();
                    let known = match fields.as_deref() {
                        Some([column]) => self.plain(column) || added == Some(column),
                        Some([table, column]) => *table == self.name.name && self.plain(column),
                        _ => false,
                    };
                    if !known {
                        return false;
                    }
                }
                Node::SubLink(_) | Node::RangeVar(_) => return false,
                _ => {}
            }
            if children(node, &mut stack).is_err() {
                return false;
            }
        }
        true
    }

    fn all(&self, columns: &pg_raw_parse::list::NodeList) -> bool {
        columns.iter().all(|c| c.as_str().is_some_and(|c| self.plain(c)))
    }

    fn index(&self, index: &nodes::IndexStmt) -> bool {
        let element = |e: &nodes::IndexElem| match e.name() {
            Some(column) => self.plain(column),
            None => self.speaks_of(e.expr(), None),
        };
        // Of an expression over no column at all there is nothing to say about this table.
        !self.tables.is_empty()
            && index.index_params().iter().all(element)
            && index.index_including_params().iter().all(|e| matches!(e, Node::IndexElem(e) if element(e)))
            && index.exclude_op_names().is_empty()
            && self.speaks_of(index.where_clause(), None)
    }

    fn constraint(&self, constraint: &nodes::Constraint, added: Option<&str>) -> bool {
        use nodes::ConstrType as T;
        match constraint.contype {
            T::CONSTR_NULL | T::CONSTR_NOTNULL => added.is_some(),
            T::CONSTR_DEFAULT => added.is_some() && self.speaks_of(constraint.raw_expr(), None),
            T::CONSTR_CHECK => self.speaks_of(constraint.raw_expr(), added),
            T::CONSTR_UNIQUE => {
                constraint.indexname().is_none()
                    && (added.is_some() || !constraint.keys().is_empty())
                    && self.all(constraint.keys())
                    && self.all(constraint.including())
            }
            // What it refers to is looked at with the rest.
            T::CONSTR_FOREIGN => {
                (added.is_some() || self.all(constraint.fk_attrs()))
                    && constraint.fk_del_set_cols().is_empty()
            }
            _ => false,
        }
    }

    fn command(&self, command: &nodes::AlterTableCmd) -> bool {
        use nodes::AlterTableType as Cmd;
        let named = || command.name().is_some_and(|c| self.plain(c));
        if self.tables.iter().any(|(t, taint)| {
            !matches!(t.kind, 'r' | 'p')
                || taint.is_some_and(|t| t.whole)
                || system(&t.schema, &t.name).is_some()
        }) {
            return false;
        }
        match (command.subtype, command.def()) {
            // It comes behind the others.
            (Cmd::AT_AddColumn, Node::ColumnDef(column)) => {
                let ours = |c| matches!(c, Node::Constraint(c) if self.constraint(c, column.colname()));
                !self.tables.is_empty() && column.constraints().iter().all(ours)
            }
            (Cmd::AT_ColumnDefault, def) => named() && self.speaks_of(def, None),
            (Cmd::AT_SetNotNull | Cmd::AT_DropNotNull, _) => named(),
            (Cmd::AT_AddConstraint, Node::Constraint(constraint)) => self.constraint(constraint, None),
            // To what holds every value it has: none becomes another's equal.
            (Cmd::AT_AlterColumnType, Node::ColumnDef(column)) => {
                let wide = |t: &nodes::TypeName| {
                    let last = t.names().iter().next_back().and_then(nodes::String::sval);
                    built_in(t)
                        && t.array_bounds().is_empty()
                        && (matches!(last, Some("varchar")) || t.typmods().is_empty())
                        && matches!(last, Some("int8" | "numeric" | "text" | "varchar"))
                };
                named()
                    && matches!(column.raw_default(), Node::None)
                    && column.coll_clause().is_none()
                    && column.type_name().is_some_and(wide)
            }
            _ => false,
        }
    }
}

/// The taint of every relation, from the columns rules name: descendants, ancestors, generated columns and views follow; and what
/// functions of users in SQL show.
pub(crate) fn spread(
    catalog: &Catalog,
    index: &Index,
    named: &HashMap<u32, Vec<i16>>,
) -> (Taints, Summaries) {
    let mut taints = Taints::new();
    for (oid, columns) in named {
        if let Some(table) = index.table(catalog, *oid) {
            let taint = taints.entry(*oid).or_default();
            taint.columns.extend(
                table
                    .columns
                    .iter()
                    .filter(|c| columns.contains(&c.number))
                    .map(|c| (c.name.as_str().into(), c.number)),
            );
            generated(table, taint);
        }
    }
    // Foreign tables may show anything of any server, this one included, and so may what they are partitions or children of.
    let mut foreign: Vec<u32> = catalog.tables.iter().filter(|t| t.kind == 'f').map(|t| t.oid).collect();
    while let Some(oid) = foreign.pop().filter(|_| !taints.is_empty()) {
        let taint = taints.entry(oid).or_default();
        if !std::mem::replace(&mut taint.whole, true) {
            foreign.extend(index.table(catalog, oid).into_iter().flat_map(|t| &t.parents));
        }
    }
    if taints.is_empty() {
        return (taints, Summaries::new());
    }
    // Definitions may repeat what is masked. Where nothing is, nobody asks.
    for table in &catalog.tables {
        taints.extend(defined(table).map(|taint| (table.oid, taint)));
    }
    // What code fills with hidden values hides them too, and views and functions may be made of that.
    for _ in 0..ROUNDS_MAX {
        let mut resolved = taints.clone();
        let summaries = definitions(catalog, index, &mut resolved);
        let mut more = false;
        let found = filled(catalog, index, &resolved, &summaries);
        let wide =
            |(base, of): Filled| family(catalog, index, base).into_iter().map(move |base| (base, of.clone()));
        for ((oid, number), of) in found.into_iter().flat_map(wide) {
            let column =
                index.table(catalog, oid).and_then(|t| t.columns.iter().find(|c| c.number == number));
            let taint = taints.entry(oid).or_default();
            if let Some(column) = column.filter(|c| !taint.columns.contains_key(c.name.as_str())) {
                taint.columns.insert(column.name.as_str().into(), number);
                taint.derived.insert(number, of);
                more = true;
                index.table(catalog, oid).into_iter().for_each(|table| generated(table, taint));
            }
        }
        if !more {
            return (resolved, summaries);
        }
    }
    // Nobody writes such chains; what code may fill counts as hidden then, all of it.
    let tables = catalog.code.triggers.iter().map(|(table, _)| table);
    for table in tables.chain(catalog.code.defaults.iter().map(|(table, ..)| table)) {
        taints.entry(*table).or_default().whole = true;
    }
    let mut resolved = taints;
    let summaries = definitions(catalog, index, &mut resolved);
    (resolved, summaries)
}

/// A column and what it is made of: tables by OID, columns by number.
type Filled = ((u32, i16), Vec<(u32, i16)>);

/// What the text of code may name that is hidden, by names in lower case.
struct Words<'c> {
    tables: HashMap<String, Vec<(&'c Table, &'c Taint)>>,
    /// Functions of users whose answer may be made of what is hidden, and of what.
    functions: HashMap<String, Vec<(u32, i16)>>,
}

impl<'c> Words<'c> {
    /// Of functions in SQL that are followed it is known what they answer; of others their words say it.
    fn new(catalog: &'c Catalog, taints: &'c Taints, summaries: &Summaries) -> Words<'c> {
        let mut known = Words { tables: HashMap::new(), functions: HashMap::new() };
        for table in &catalog.tables {
            if let Some(taint) = taints.get(&table.oid).filter(|t| !t.defines()) {
                known.tables.entry(table.name.to_lowercase()).or_default().push((table, taint));
            }
        }
        let mut left = Vec::new();
        for function in &catalog.functions {
            match summaries.get(function.name.as_str()).filter(|s| !s.stranger) {
                Some(summary) if summary.sources.is_empty() => {}
                Some(summary) => {
                    drop(known.functions.insert(function.name.to_lowercase(), summary.sources.clone()));
                }
                None if in_c(function) => {}
                None => left.push((function, plpgsql::words(&function.body))),
            }
        }
        // What one of them answers, those that call it do: each is read again when it names another that was found.
        let mut found: HashSet<String> = known.functions.keys().cloned().collect();
        let mut first = true;
        while first || !found.is_empty() {
            let mut more = HashSet::new();
            left.retain(|(function, words)| {
                let anew = !found.is_disjoint(words)
                    || (first
                        && (words.contains("execute") || words.iter().any(|w| known.tables.contains_key(w))));
                if !anew {
                    return true;
                }
                let Seen { hidden, of } = known.seen(words);
                let tells = if function.language.eq_ignore_ascii_case("plpgsql") {
                    plpgsql::answers(&function.body, &function.arguments, &hidden)
                } else {
                    !hidden.words.is_disjoint(words) || !hidden.tables.is_empty()
                };
                if tells {
                    let name = function.name.to_lowercase();
                    known.functions.insert(name.clone(), of);
                    more.insert(name);
                }
                !tells
            });
            (found, first) = (more, false);
        }
        known
    }

    fn seen(&self, words: &HashSet<String>) -> Seen {
        let mut seen = Seen::default();
        for word in words {
            for (table, taint) in self.tables.get(word).into_iter().flatten() {
                seen.add(table, taint);
                seen.hidden.tables.insert(word.clone());
            }
            if let Some(of) = self.functions.get(word) {
                seen.hidden.words.insert(word.clone());
                seen.of.extend(of);
            }
        }
        seen.of.sort_unstable();
        seen.of.dedup();
        seen
    }
}

fn in_c(function: &Function) -> bool {
    ["c", "internal"].iter().any(|l| function.language.eq_ignore_ascii_case(l))
}

/// What a text names that is hidden, and the columns this is.
#[derive(Default)]
struct Seen {
    hidden: plpgsql::Hidden,
    of: Vec<(u32, i16)>,
}

impl Seen {
    fn add(&mut self, relation: &Table, taint: &Taint) {
        self.of.extend(taint.columns.values().map(|n| (relation.oid, *n)));
        self.hidden.words.extend(taint.columns.keys().map(|c| c.to_lowercase()));
    }
}

/// Columns that a default, a generated column, a trigger or a cast of users fills with what is hidden, and from what.
fn filled(catalog: &Catalog, index: &Index, taints: &Taints, summaries: &Summaries) -> Vec<Filled> {
    let world = World::new(catalog, index, taints, summaries);
    let known = Words::new(catalog, taints, summaries);
    let mut out = Vec::new();
    for (table, number, expression) in &catalog.code.defaults {
        let tree = super::parse(format!("SELECT {expression}").as_bytes());
        let traced = tree.ok().and_then(|tree| {
            let trace = trace::trace(World { body: true, ..world }, tree.stmts().next()?).ok()?;
            trace.outputs?.pop().filter(|o| !o.unknown).map(|o| o.sources)
        });
        let of = match traced {
            Some(of) if of.is_empty() => continue,
            Some(of) => of,
            // A function nobody can follow.
            None => {
                let words = plpgsql::words(expression);
                if !words.iter().any(|w| known.functions.contains_key(w)) {
                    continue;
                }
                known.seen(&words).of
            }
        };
        // A view's default goes to its table.
        let below = index.table(catalog, *table).and_then(|t| under(t, *number, world));
        out.push(((*table, *number), of.clone()));
        out.extend(below.map(|base| (base, of)));
    }
    let shows = |name: &str| known.functions.get(&name.to_lowercase());
    if index.converts() || !index.outs.is_empty() {
        for table in &catalog.tables {
            for column in &table.columns {
                let name =
                    column.type_name.rsplit('.').next().unwrap_or_default().trim_matches(['"', '[', ']']);
                // What a cast brings out of a column is as good as in it.
                let all = [index.conversions.get(name), index.outs.get(name)];
                let functions = all.into_iter().flatten().flatten();
                out.extend(
                    functions.filter_map(|f| shows(f)).map(|of| ((table.oid, column.number), of.clone())),
                );
            }
        }
    }
    for (table, function) in &catalog.code.triggers {
        let function = catalog.functions.iter().find(|f| f.oid == *function);
        let (Some(table), Some(function)) = (index.table(catalog, *table), function) else { continue };
        let words = plpgsql::words(&function.body);
        let mut seen = known.seen(&words);
        if let Some(taint) = taints.get(&table.oid).filter(|t| !t.defines()) {
            seen.add(table, taint);
            seen.hidden.rows.extend(["new", "old"].map(str::to_owned));
        }
        let Seen { hidden, of } = seen;
        let filled = if in_c(function) {
            continue;
        } else if function.language.eq_ignore_ascii_case("plpgsql") {
            plpgsql::filled(&function.body, &hidden)
        } else {
            // Nobody here reads it: what it names may go into any column.
            let row = !hidden.words.is_disjoint(&words) || !hidden.tables.is_empty();
            plpgsql::Filled { row, ..plpgsql::Filled::default() }
        };
        let fills = |name: &str| filled.row || filled.columns.contains(&name.to_lowercase());
        for column in table.columns.iter().filter(|c| fills(&c.name)) {
            out.push(((table.oid, column.number), of.clone()));
        }
    }
    // What triggers and rules write to other tables.
    let fired = catalog.code.fired.iter().filter_map(|(table, function, _)| {
        let function = catalog.functions.iter().find(|f| f.oid == *function)?;
        function.language.eq_ignore_ascii_case("plpgsql").then_some((*table, &function.body))
    });
    let rules = catalog.code.rules.iter().map(|(table, text)| (*table, text));
    for (table, text) in fired.chain(rules) {
        let Some(table) = index.table(catalog, table) else { continue };
        let mut seen = known.seen(&plpgsql::words(text));
        if let Some(taint) = taints.get(&table.oid).filter(|t| !t.defines()) {
            seen.add(table, taint);
            seen.hidden.rows.extend(["new", "old"].map(str::to_owned));
        }
        if seen.hidden == plpgsql::Hidden::default() {
            continue;
        }
        for (name, places) in plpgsql::stored(text, &seen.hidden) {
            for target in index.candidates(catalog, Name { schema: None, name: &name }) {
                let fills = |(i, c): (usize, &TableColumn)| match &places {
                    plpgsql::Places::All => true,
                    plpgsql::Places::Named(names) => names.iter().any(|n| n.eq_ignore_ascii_case(&c.name)),
                    plpgsql::Places::Numbered(at) => at.contains(&i),
                    plpgsql::Places::Row(at) => {
                        let own = i.checked_sub(*at).and_then(|i| table.columns.get(i));
                        own.is_some_and(|c| hidden(taints, (table.oid, c.number)))
                    }
                };
                let filled = target.columns.iter().enumerate().filter(|(i, c)| fills((*i, c)));
                out.extend(filled.map(|(_, c)| ((target.oid, c.number), seen.of.clone())));
            }
        }
    }
    // `tsvector_update_trigger(search, 'pg_catalog.english', name, email)`: which of them it fills is the function's matter.
    for (oid, _, given) in &catalog.code.built_in {
        let (Some(table), Some(taint)) = (index.table(catalog, *oid), taints.get(oid)) else { continue };
        let named = |number: i16| {
            let column = table.columns.iter().find(|c| c.number == number);
            column.is_some_and(|c| given.iter().any(|g| g.eq_ignore_ascii_case(&c.name)))
        };
        let of: Vec<(u32, i16)> = taint.columns.values().filter(|n| named(**n)).map(|n| (*oid, *n)).collect();
        if of.is_empty() {
            continue;
        }
        for column in table.columns.iter().filter(|c| named(c.number) && !of.contains(&(*oid, c.number))) {
            out.push(((*oid, column.number), of.clone()));
        }
    }
    out
}

/// The column that one of a view is.
fn under(view: &Table, number: i16, world: World<'_>) -> Option<(u32, i16)> {
    let tree = super::parse(view.definition.as_deref()?.as_bytes()).ok()?;
    let outputs = trace::trace(world, tree.stmts().next()?).ok()?.outputs?;
    let at = view.columns.iter().position(|c| c.number == number)?;
    outputs.get(at)?.column
}

/// A column, and those of the same name in the tables its table descends from and those that descend from it: their rows are shown
/// together, and what one fills may be stored in another.
fn family(catalog: &Catalog, index: &Index, (oid, number): (u32, i16)) -> Vec<(u32, i16)> {
    let Some(name) = index
        .table(catalog, oid)
        .and_then(|t| t.columns.iter().find(|c| c.number == number))
        .map(|c| &c.name)
    else {
        return Vec::new();
    };
    let (mut out, mut seen, mut stack) = (Vec::new(), HashSet::new(), vec![oid]);
    while let Some(oid) = stack.pop().filter(|oid| seen.insert(*oid)) {
        let Some(table) = index.table(catalog, oid) else { continue };
        out.extend(table.columns.iter().filter(|c| c.name == *name).map(|c| (oid, c.number)));
        stack.extend(&table.parents);
        stack.extend(index.children.get(&oid).into_iter().flatten());
    }
    out
}

/// What of a system relation shows definitions.
fn defined(table: &Table) -> Option<Taint> {
    if system(&table.schema, &table.name) != Some(true) {
        return None;
    }
    let known = known::definitions(&table.name);
    let mut taint = Taint::default();
    for column in &table.columns {
        if let Some((_, part)) = known.iter().find(|(name, _)| *name == column.name) {
            taint.columns.insert(column.name.as_str().into(), column.number);
            taint.parts.insert(column.number, *part);
        }
    }
    taint.defines().then_some(taint)
}

/// A generated column repeats what it is made of.
fn generated(table: &Table, taint: &mut Taint) {
    for column in &table.columns {
        let Some(expression) = &column.generated else { continue };
        let hidden = match super::parse(format!("SELECT {expression}").as_bytes()) {
            Err(_) => true,
            Ok(tree) => {
                let mut stack: Vec<Node<'_>> = tree.stmts().collect();
                let mut hidden = false;
                while let Some(node) = stack.pop() {
                    if let Node::ColumnRef(c) = node {
                        let fields = c.fields();
                        let last =
                            fields.len().checked_sub(1).and_then(|i| fields.get(i)).and_then(Node::as_str);
                        hidden |= last.is_none_or(|l| taint.columns.contains_key(l) || l == table.name);
                    }
                    hidden |= children(node, &mut stack).is_err();
                }
                hidden
            }
        };
        if hidden && !taint.columns.contains_key(column.name.as_str()) {
            let of = taint.columns.values().map(|n| (table.oid, *n)).collect();
            taint.columns.insert(column.name.as_str().into(), column.number);
            taint.derived.insert(column.number, of);
        }
    }
}

/// Views and functions made of others resolve from the bottom up: each round settles those whose parts are settled.
const ROUNDS_MAX: usize = 64;

fn definitions(catalog: &Catalog, index: &Index, taints: &mut Taints) -> Summaries {
    let mut summaries = Summaries::new();
    let mut views: Vec<&Table> = catalog
        .tables
        .iter()
        .filter(|t| matches!(t.kind, 'v' | 'm') && system(&t.schema, &t.name).is_none())
        .collect();
    // Until it is settled a view counts as untraceable, and a function is nobody's. What a rule names of it stays hidden, whatever
    // it is made of.
    let mut named: Taints = views.iter().filter_map(|v| taints.remove_entry(&v.oid)).collect();
    for view in &views {
        taints.insert(view.oid, Taint { whole: true, ..Taint::default() });
    }
    let mut functions: HashMap<&str, Vec<&Function>> = HashMap::new();
    for function in &catalog.functions {
        functions.entry(&function.name).or_default().push(function);
    }
    functions.retain(|_, all| all.iter().all(|f| trace::body(f).is_some()));
    for _ in 0..ROUNDS_MAX {
        let before = views.len() + functions.len();
        views.retain(|view| {
            let mut settled = settle(view, World::new(catalog, index, taints, &summaries), false);
            let waits = settled.is_none();
            if let Some(taint) = &mut settled {
                taint.columns.extend(named.remove(&view.oid).unwrap_or_default().columns);
            }
            match settled {
                Some(taint) if taint.columns.is_empty() => drop(taints.remove(&view.oid)),
                Some(taint) => drop(taints.insert(view.oid, taint)),
                None => {}
            }
            waits
        });
        functions.retain(|name, all| {
            match trace::summarise(World::new(catalog, index, taints, &summaries), all) {
                Some(summary) => {
                    summaries.insert((*name).into(), summary);
                    false
                }
                None => true,
            }
        });
        if views.len() + functions.len() == before {
            break;
        }
    }
    let mut left: HashMap<&str, Vec<&Function>> = HashMap::new();
    let mut run = Summaries::new();
    let mut others = Vec::new();
    let names: HashSet<String> = catalog
        .tables
        .iter()
        .filter(|t| taints.get(&t.oid).is_some_and(|t| !t.defines()))
        .map(|t| t.name.to_lowercase())
        .collect();
    for function in catalog.functions.iter().filter(|f| !summaries.contains_key(f.name.as_str())) {
        let words = plpgsql::words(&function.body);
        let names_hidden = !words.is_disjoint(&names);
        // Its text may be any query about what is hidden, by what it is given.
        let runs = function.language.eq_ignore_ascii_case("plpgsql")
            && !function.arguments.is_empty()
            && words.contains("execute")
            && (names_hidden || plpgsql::unwritten(&function.body));
        if runs {
            let summary = trace::Summary { stranger: true, launders: true, ..trace::Summary::default() };
            run.insert(function.name.as_str().into(), summary);
        } else if function.language.eq_ignore_ascii_case("sql") || names_hidden {
            left.entry(&function.name).or_default().push(function);
        } else if function.language.eq_ignore_ascii_case("plpgsql") {
            others.push((function, words));
        }
    }
    left.retain(|name, _| !run.contains_key(*name));
    summaries.extend(run);
    // What one of them does, those that call it do.
    let tells = |s: &trace::Summary| s.launders || !s.asks.is_empty();
    let mut new: HashSet<String> =
        summaries.iter().filter(|(_, s)| tells(s)).map(|(name, _)| name.to_lowercase()).collect();
    loop {
        let (callers, rest) = others.into_iter().partition(|(_, words)| !words.is_disjoint(&new));
        others = rest;
        let callers: Vec<(&Function, HashSet<String>)> = callers;
        for (function, _) in callers.into_iter().filter(|(f, _)| !summaries.contains_key(f.name.as_str())) {
            left.entry(&function.name).or_default().push(function);
        }
        new.clear();
        left.retain(|name, all| {
            let found = trace::betrayed(World::new(catalog, index, taints, &summaries), all);
            let stays = found.is_none();
            new.extend(found.is_some().then(|| name.to_lowercase()));
            summaries.extend(found.map(|summary| ((*name).into(), summary)));
            stays
        });
        if new.is_empty() {
            break;
        }
    }
    // Of those that choose their rows by what is hidden, what they ask; one may be made of another.
    for _ in 0..ROUNDS_MAX {
        let mut more = false;
        for view in views.iter().filter(|v| v.kind == 'v') {
            let asks = trace::view_asks(view, World::new(catalog, index, taints, &summaries));
            let taint = taints.entry(view.oid).or_default();
            more |= asks.len() > taint.asks.len();
            taint.asks = asks;
        }
        if !more {
            break;
        }
    }
    // The rest is made of what nobody can follow: column by column where at least that can be told.
    for view in &views {
        if let Some(mut taint) = settle(view, World::new(catalog, index, taints, &summaries), true) {
            taint.columns.extend(named.remove(&view.oid).unwrap_or_default().columns);
            taints.insert(view.oid, taint);
        }
    }
    summaries
}

/// What a view hides; `None`: it cannot be told (yet). One that chooses its rows by hidden columns stays hidden as a whole.
fn settle(view: &Table, world: World<'_>, partly: bool) -> Option<Taint> {
    let tree = super::parse(view.definition.as_deref()?.as_bytes()).ok()?;
    let mut statements = tree.stmts();
    let (Some(statement), None) = (statements.next(), statements.next()) else { return None };
    let trace = trace::trace(world, statement).ok()?;
    let asks = |place: &Place| !matches!(place, Place::Output | Place::Null | Place::Count);
    // Whoever made the view chose what it asks of definitions.
    let asked = trace.reads.iter().any(|(base, place)| asks(place) && !world.defines(*base));
    if trace.stranger || trace.effects || trace.launders || asked {
        return None;
    }
    let outputs = trace.outputs.filter(|o| o.len() == view.columns.len())?;
    let mut taint = Taint::default();
    for (column, out) in view.columns.iter().zip(outputs) {
        if out.unknown && !partly {
            return None;
        }
        if !out.unknown && out.sources.is_empty() {
            continue;
        }
        taint.columns.insert(column.name.as_str().into(), column.number);
        match out.column.filter(|_| !out.unknown) {
            Some(base) => drop(taint.same.insert(column.number, base)),
            None => drop(taint.derived.insert(column.number, out.sources)),
        }
    }
    Some(taint)
}
