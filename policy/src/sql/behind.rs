//! What code of users may do to a session without being called by name: functions behind views, triggers, rules, defaults and types.
//!
//! Not a call graph: a text reaches whatever function or relation it names anywhere, whether that is a call or not, so the answer is
//! rather too much than too little. Of row policies it is known only that they are there: they count as all functions of users together.

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::lineage::system;
use super::mentions::Mentions;
use crate::catalog::{Catalog, Table};

/// By relation, what reading it and what writing to it may set in motion; by name, what a value of a type goes through. What is absent
/// does nothing.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    reads: HashMap<u32, Mentions>,
    writes: HashMap<u32, Mentions>,
    types: HashMap<Box<str>, Mentions>,
    operators: HashMap<Box<str>, Mentions>,
    /// At the end of a transaction.
    commits: Mentions,
    /// Of a relation the catalogue does not have nothing is known.
    any: Mentions,
}

/// Something that may run code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Thing<'c> {
    /// All functions that are called so ([`key`]).
    Function(String),
    Read(u32),
    Write(u32),
    Type(&'c str),
    Operator(&'c str),
    /// Every function there is.
    Any,
}

struct Graph<'c> {
    catalog: &'c Catalog,
    functions: HashSet<String>,
    operators: HashSet<&'c str>,
    relations: HashMap<String, Vec<u32>>,
    /// Who reaches what.
    reached_by: HashMap<Thing<'c>, HashSet<Thing<'c>>>,
}

impl<'c> Graph<'c> {
    fn reaches(&mut self, from: &Thing<'c>, to: Thing<'c>) {
        if *from != to {
            self.reached_by.entry(to).or_default().insert(from.clone());
        }
    }

    /// `from` holds this text; `writes`: it may write to what it names.
    fn says(&mut self, from: &Thing<'c>, text: &str, writes: bool) {
        let text = text.to_lowercase();
        let mut named = Vec::new();
        for name in names(&text) {
            for oid in self.relations.get(name).into_iter().flatten() {
                named.push(if writes { Thing::Write(*oid) } else { Thing::Read(*oid) });
            }
            named.extend(self.functions.get(name).map(|name| Thing::Function(name.clone())));
        }
        if !self.operators.is_empty() {
            named.extend(symbols(&text).filter_map(|o| self.operators.get(o).copied()).map(Thing::Operator));
        }
        named.into_iter().for_each(|to| self.reaches(from, to));
    }

    fn relation(&mut self, table: &'c Table) {
        let (read, write) = (Thing::Read(table.oid), Thing::Write(table.oid));
        self.reaches(&write, read.clone());
        if let Some(definition) = &table.definition {
            self.says(&read, definition, false);
            // A view hands its writes on.
            self.says(&write, definition, true);
        }
        for parent in &table.parents {
            // A row written to a parent may be one of this.
            self.reaches(&Thing::Write(*parent), write.clone());
        }
    }

    fn all(&mut self) {
        let catalog = self.catalog;
        for function in &catalog.functions {
            let from = Thing::Function(key(&function.name));
            self.says(&from, &function.body, true);
            self.says(&from, &function.arguments, true);
        }
        for table in &catalog.tables {
            self.relation(table);
        }
        let code = &catalog.code;
        let mut explained: HashSet<u32> = HashSet::new();
        for (relation, text) in &code.rules {
            explained.insert(*relation);
            self.says(&Thing::Write(*relation), text, true);
        }
        for (relation, _, expression) in &code.defaults {
            explained.insert(*relation);
            self.says(&Thing::Write(*relation), expression, true);
        }
        for (name, functions) in &code.conversions {
            for function in functions {
                self.reaches(&Thing::Type(name), Thing::Function(key(function)));
            }
        }
        for (name, functions) in &code.made_of {
            let from = match self.operators.get(name.as_str()) {
                Some(operator) => Thing::Operator(operator),
                None => Thing::Function(key(name)),
            };
            for function in functions {
                self.reaches(&from, Thing::Function(key(function)));
            }
        }
        for (relation, _, functions) in &code.run {
            explained.insert(*relation);
            for function in functions {
                self.reaches(&Thing::Write(*relation), Thing::Function(key(function)));
            }
        }
        let by_oid: HashMap<u32, &str> = catalog.functions.iter().map(|f| (f.oid, f.name.as_str())).collect();
        for (relation, function, _) in &code.fired {
            explained.insert(*relation);
            if let Some(name) = by_oid.get(function) {
                self.reaches(&Thing::Write(*relation), Thing::Function(key(name)));
            }
        }
        let types: HashSet<&'c str> = code.conversions.iter().map(|(name, _)| name.as_str()).collect();
        let columns = catalog.tables.iter().flat_map(|t| t.columns.iter().map(|c| (t.oid, c)));
        for (relation, column) in columns.filter(|_| !types.is_empty()) {
            let name = column.type_name.trim_end_matches("[]").rsplit('.').next().unwrap_or_default();
            if let Some(name) = types.get(name.trim_matches('"')) {
                explained.insert(relation);
                self.reaches(&Thing::Write(relation), Thing::Type(name));
            }
        }
        let Some(writes) = &catalog.writes else { return };
        for relation in writes.code.iter().filter(|oid| !explained.contains(oid)) {
            self.reaches(&Thing::Write(*relation), Thing::Any);
        }
        for (from, to) in &writes.cascades {
            self.reaches(&Thing::Write(*from), Thing::Write(*to));
        }
    }
}

impl Behind {
    pub(crate) fn new(catalog: &Catalog) -> Behind {
        let mut own: HashMap<Thing<'_>, Mentions> = HashMap::new();
        let mut behind = Behind::default();
        for function in &catalog.functions {
            let text = [&function.body[..], &function.arguments[..]].join("\n");
            let does = Mentions::of_code(&function.language, text.as_bytes());
            if does != Mentions::default() {
                behind.any = behind.any.or(does);
                let known = own.entry(Thing::Function(key(&function.name))).or_default();
                *known = known.or(does);
            }
        }
        if own.is_empty() {
            return behind;
        }
        own.insert(Thing::Any, behind.any);
        let mut graph = Graph {
            catalog,
            functions: catalog.functions.iter().map(|f| key(&f.name)).collect(),
            operators: catalog
                .code
                .made_of
                .iter()
                .map(|(name, _)| name.as_str())
                .filter(|n| is_symbol(n))
                .collect(),
            relations: HashMap::new(),
            reached_by: HashMap::new(),
        };
        for table in catalog.tables.iter().filter(|t| system(&t.schema, &t.name).is_none()) {
            graph.relations.entry(key(&table.name)).or_default().push(table.oid);
        }
        graph.all();
        // From those that do something to all who reach them.
        let mut all = own.clone();
        let mut stack: Vec<Thing<'_>> = own.into_keys().collect();
        while let Some(thing) = stack.pop() {
            let does = all.get(&thing).copied().unwrap_or_default();
            for from in graph.reached_by.get(&thing).into_iter().flatten() {
                let known = all.entry(from.clone()).or_default();
                let more = known.or(does);
                if more != *known {
                    *known = more;
                    stack.push(from.clone());
                }
            }
        }
        for (thing, does) in all {
            match thing {
                Thing::Read(oid) => drop(behind.reads.insert(oid, does)),
                Thing::Write(oid) => drop(behind.writes.insert(oid, does)),
                Thing::Type(name) => drop(behind.types.insert(name.into(), does)),
                Thing::Operator(name) => drop(behind.operators.insert(name.into(), does)),
                Thing::Function(_) | Thing::Any => {}
            }
        }
        behind.commits = match &catalog.writes {
            Some(writes) => {
                let each = writes.deferred.iter().filter_map(|oid| behind.writes.get(oid));
                each.fold(Mentions::default(), |all, does| all.or(*does))
            }
            None => behind.any,
        };
        behind
    }

    /// Nothing does anything.
    pub(crate) fn is_quiet(&self) -> bool {
        self.any == Mentions::default()
    }

    /// What the end of a transaction sets in motion.
    pub(crate) fn commits(&self) -> Mentions {
        self.commits
    }

    pub(crate) fn of(&self, relation: u32, written: bool) -> Mentions {
        let known = if written { &self.writes } else { &self.reads };
        known.get(&relation).copied().unwrap_or_default()
    }

    /// What a value written as a type of this name goes through.
    pub(crate) fn of_type(&self, name: &str) -> Mentions {
        self.types.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn of_operator(&self, name: &str) -> Mentions {
        self.operators.get(name).copied().unwrap_or_default()
    }

    /// There are types, or operators, that go through code which does something.
    pub(crate) fn has_unnamed(&self) -> bool {
        !self.types.is_empty() || !self.operators.is_empty()
    }
}

/// What an operator may be written with (scan.l).
fn of_symbol(c: char) -> bool {
    "~!@#^&|`?+-*/%<>=".contains(c)
}

fn is_symbol(name: &str) -> bool {
    name.chars().all(of_symbol)
}

/// The operators of a text.
fn symbols(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !of_symbol(c)).filter(|symbol| !symbol.is_empty())
}

/// Under which word of a text something is found: its name in lower case, or the longest word of one that is not plain.
fn key(name: &str) -> String {
    let name = name.to_lowercase();
    names(&name).max_by_key(|word| word.len()).unwrap_or_default().to_owned()
}

/// The words of a text that could be names, each as it is written.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
        .filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Code, Function, Writes};

    fn function(oid: u32, name: &str, body: &str) -> Function {
        Function {
            oid,
            schema: "public".into(),
            name: name.into(),
            language: "plpgsql".into(),
            kind: 'f',
            body: body.into(),
            arguments: String::new(),
            rows: false,
        }
    }

    #[test]
    fn what_stands_behind_relations_is_found_whatever_leads_there() {
        let table = |oid, name: &str, definition| Table::of(oid, name, &["a"], definition);
        let mut typed = table(9, "typed", None);
        typed.columns[0].type_name = "public.odd[]".into();
        let mut part = table(10, "part", None);
        part.parents.push(11);
        let catalog = Catalog {
            tables: vec![
                table(1, "plain", None),
                table(2, "v_calm", Some("SELECT calm(a) FROM plain")),
                table(3, "v_names", Some("SELECT outer_one(1) AS a")),
                table(4, "Over view", Some("SELECT a FROM v_names")),
                table(5, "v_over", Some("SELECT a FROM \"Over view\"")),
                table(6, "stamped", None),
                table(7, "audited", None),
                table(8, "cascading", None),
                typed,
                part,
                table(11, "whole", None),
                table(12, "checked", None),
                table(13, "v_audited", Some("SELECT a FROM audited")),
                table(14, "v_operator", Some("SELECT (a OPERATOR(public.<#>) 1) AS a FROM plain")),
                table(15, "compared", None),
                table(16, "v_first", Some("SELECT first_of(a) AS a FROM plain")),
            ],
            functions: vec![
                function(100, "calm", "begin return a || 'x'; end"),
                function(101, "inner_one", "begin prepare s0 as select 1; end"),
                function(102, "outer_one", "begin return (select inner_one(1)); end"),
                function(103, "stamp", "begin new.a := now(); return new; end"),
                function(
                    104,
                    "mark",
                    "begin perform set_config('application_name', new.a, false); return new; end",
                ),
                Function { kind: 'a', body: String::new(), ..function(106, "first_of", "") },
                function(105, "check_odd", "begin set standard_conforming_strings = off; return true; end"),
            ],
            code: Code {
                conversions: vec![("odd".into(), vec!["check_odd".into()])],
                made_of: ["<#>", "first_of"]
                    .map(|name| (name.to_owned(), vec!["inner_one".to_owned()]))
                    .into(),
                run: vec![(15, false, vec!["inner_one".into()])],
                fired: vec![(6, 103, 7), (7, 104, 5), (10, 104, 5)],
                ..Code::default()
            },
            writes: Some(Writes { code: vec![6, 7, 10, 12], cascades: vec![(8, 7)], deferred: vec![7] }),
            ..Catalog::default()
        };
        let behind = Behind::new(&catalog);
        let nothing = Mentions::default();
        for oid in [1, 2, 6, 7, 8, 9, 10, 11, 12, 13] {
            assert_eq!(behind.of(oid, false), nothing, "reading {oid}");
        }
        for oid in [1, 2, 6] {
            assert_eq!(behind.of(oid, true), nothing, "writing {oid}");
        }
        for oid in [3, 4, 5, 14, 16] {
            assert_eq!(behind.of(oid, false), Mentions { statements: true, ..nothing }, "{oid}");
        }
        for oid in [7, 8, 10, 11, 13] {
            assert_eq!(behind.of(oid, true), Mentions { settings: true, ..nothing }, "{oid}");
        }
        assert_eq!(behind.of(9, true), Mentions { quoting: true, ..nothing });
        assert_eq!(behind.of_type("odd"), Mentions { quoting: true, ..nothing });
        assert_eq!(behind.commits(), Mentions { settings: true, ..nothing });
        assert_eq!(behind.of(15, true), Mentions { statements: true, ..nothing });
        assert_eq!(behind.of_operator("<#>"), Mentions { statements: true, ..nothing });
        // A policy: nobody says which function.
        let any = behind.of(12, true);
        assert!(any.statements && any.settings && any.quoting);
    }
}
