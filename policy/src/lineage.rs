//! What a statement reads and writes, in names: the public form of the analysis, for `policy explain` and whoever checks it.
//!
//! Not what judgements are made from (those follow hidden columns only and do not leave this crate): here every column of every table
//! is followed, down through views and functions in SQL. Invariant: [`Lineage::untraced`] says so when anything was left out.

use std::collections::BTreeSet;

use foldhash::{HashMap, HashMapExt as _};
use std::fmt;

use pg_raw_parse::Node;

use crate::catalog::{Catalog, Function};
use crate::sql::facts;
use crate::sql::lineage::{Index, Taints};
pub use crate::sql::trace::Place;
use crate::sql::trace::{self, Base, Summaries, Trace, World};

/// One statement of a text.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    /// Statement classes at every depth: `select`, `delete`, `create-table`.
    pub classes: Vec<String>,
    /// `None`: how many columns its answer has cannot be told.
    pub outputs: Option<Vec<OutputColumn>>,
    pub reads: Vec<Read>,
    pub writes: Vec<Written>,
    /// Functions called by name.
    pub functions: Vec<String>,
    /// Why nothing more can be said; then the lists above are not complete.
    pub untraced: Option<&'static str>,
}

#[derive(Debug, Clone, Default)]
pub struct OutputColumn {
    pub name: String,
    /// Base columns its value derives from.
    pub sources: Vec<ColumnName>,
    /// It is the very column, unchanged.
    pub is_column: bool,
    /// It may derive from anything else as well.
    pub unknown: bool,
}

/// A column, and what it is read for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Read {
    pub column: ColumnName,
    pub place: Place,
}

/// A table that is written to, and what flows into it.
#[derive(Debug, Clone)]
pub struct Written {
    /// As the statement writes it.
    pub table: String,
    pub sources: Vec<ColumnName>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnName {
    pub schema: String,
    pub table: String,
    pub column: String,
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.schema, self.table, self.column)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |columns: &[ColumnName]| columns.iter().map(ColumnName::to_string).collect::<Vec<_>>().join(", ");
        writeln!(f, "classes    {}", self.classes.join(", "))?;
        if !self.functions.is_empty() {
            writeln!(f, "functions  {}", self.functions.join(", "))?;
        }
        match &self.outputs {
            None => writeln!(f, "output     cannot be told")?,
            Some(outputs) => {
                for o in outputs {
                    let how = match (o.is_column, o.sources.is_empty(), o.unknown) {
                        (_, _, true) => "may derive from anything, known: ",
                        (true, ..) => "is ",
                        (_, true, _) => "derives from no column",
                        _ => "derives from ",
                    };
                    writeln!(f, "output     {}  {how}{}", o.name, list(&o.sources))?;
                }
            }
        }
        for r in &self.reads {
            writeln!(f, "reads      {}  {:?}", r.column, r.place)?;
        }
        for w in &self.writes {
            writeln!(f, "writes     {}  from {}", w.table, list(&w.sources))?;
        }
        match self.untraced {
            Some(why) => writeln!(f, "untraced   {why}"),
            None => Ok(()),
        }
    }
}

/// The lineage of every statement of a text, read as PostgreSQL's grammar reads it.
///
/// # Errors
/// Why the text was not read.
pub fn explain(catalog: &Catalog, sql: &str) -> Result<Vec<Lineage>, String> {
    Explainer::new(catalog).explain(sql)
}

/// The same for many texts against one catalogue.
pub struct Explainer<'c> {
    catalog: &'c Catalog,
    index: Index,
    taints: Taints,
    summaries: Summaries,
    /// By view: what its columns derive from, and what it reads besides.
    views: HashMap<u32, View>,
}

#[derive(Debug, Clone, Default)]
struct View {
    columns: HashMap<i16, Vec<Base>>,
    /// Those that are another relation's column, unchanged.
    same: HashMap<i16, Base>,
    reads: Vec<(Base, Place)>,
}

impl<'c> Explainer<'c> {
    pub fn new(catalog: &'c Catalog) -> Explainer<'c> {
        let mut explainer = Explainer {
            catalog,
            index: Index::new(catalog),
            taints: Taints::new(),
            summaries: Summaries::new(),
            views: HashMap::new(),
        };
        explainer.define();
        explainer
    }

    /// Functions first, then views, in rounds until nothing more is told.
    fn define(&mut self) {
        let mut functions: HashMap<&str, Vec<&Function>> = HashMap::new();
        for function in &self.catalog.functions {
            functions.entry(&function.name).or_default().push(function);
        }
        loop {
            let before = functions.len();
            functions.retain(|name, all| match trace::summarise(self.world(), all) {
                Some(summary) => {
                    self.summaries.insert((*name).into(), summary);
                    false
                }
                None => true,
            });
            if functions.len() == before {
                break;
            }
        }
        for table in self.catalog.tables.iter().filter(|t| matches!(t.kind, 'v' | 'm')) {
            let Some(trace) = table.definition.as_deref().and_then(|d| self.one(d)) else { continue };
            let outputs = trace.outputs.unwrap_or_default();
            let mut view = View { reads: trace.reads, ..View::default() };
            for (column, out) in table.columns.iter().zip(outputs) {
                view.columns.insert(column.number, out.sources);
                view.same.extend(out.column.map(|base| (column.number, base)));
            }
            self.views.insert(table.oid, view);
        }
    }

    fn one(&self, definition: &str) -> Option<Trace> {
        let tree = crate::sql::parse(definition.as_bytes()).ok()?;
        trace::trace(self.world(), tree.stmts().next()?).ok()
    }

    fn world(&self) -> World<'_> {
        World { all: true, ..World::new(self.catalog, &self.index, &self.taints, &self.summaries) }
    }

    /// # Errors
    /// Why the text was not read.
    pub fn explain(&self, sql: &str) -> Result<Vec<Lineage>, String> {
        let tree = crate::sql::parse(sql.as_bytes()).map_err(|refusal| refusal.to_string())?;
        tree.stmts()
            .map(|s| self.statement(s).ok_or_else(|| "it holds what nobody here understands".to_owned()))
            .collect()
    }

    fn statement(&self, statement: Node<'_>) -> Option<Lineage> {
        let facts = facts::read(statement).ok()?;
        let mut lineage = Lineage::default();
        for act in &facts.acts {
            let class = if act.object.is_empty() {
                act.class.to_owned()
            } else {
                format!("{}-{}", act.class, act.object)
            };
            if !lineage.classes.contains(&class) {
                lineage.classes.push(class);
            }
        }
        lineage.functions = facts.functions.iter().map(|f| (*f).to_owned()).collect();
        lineage.functions.sort_unstable();
        lineage.functions.dedup();
        let trace = match trace::trace(self.world(), statement) {
            Ok(trace) => trace,
            Err(why) => return Some(Lineage { untraced: Some(why.0), ..lineage }),
        };
        let mut reads: BTreeSet<(Base, Place)> = trace.reads.iter().copied().collect();
        // A view's own conditions are read with it.
        let mut stack: Vec<u32> = trace.reads.iter().map(|((oid, _), _)| *oid).chain(trace.views).collect();
        let mut seen = BTreeSet::new();
        while let Some(oid) = stack.pop() {
            if seen.insert(oid)
                && let Some(view) = self.views.get(&oid)
            {
                stack.extend(view.reads.iter().map(|((oid, _), _)| *oid));
                reads.extend(view.reads.iter().filter(|(_, place)| *place != Place::Output));
            }
        }
        let mut named: BTreeSet<Read> = BTreeSet::new();
        for (base, place) in reads {
            for column in self.names(&[base]) {
                named.insert(Read { column, place });
            }
        }
        lineage.reads = named.into_iter().collect();
        lineage.outputs = trace.outputs.map(|outs| {
            let output = |o: trace::Out| OutputColumn {
                is_column: o.column.is_some_and(|base| self.unchanged(base)),
                sources: self.names(&o.sources),
                name: o.name,
                unknown: o.unknown,
            };
            outs.into_iter().map(output).collect()
        });
        let written =
            |(table, sources): (String, Vec<Base>)| Written { table, sources: self.names(&sources) };
        lineage.writes = trace.writes.into_iter().map(written).collect();
        Some(lineage)
    }

    /// Down through views it stays the same column.
    fn unchanged(&self, base: Base) -> bool {
        let mut base = base;
        for _ in 0..=self.views.len() {
            let Some(view) = self.views.get(&base.0) else { return true };
            let Some(under) = view.same.get(&base.1) else { return false };
            base = *under;
        }
        false
    }

    /// The base columns, through views.
    fn names(&self, bases: &[Base]) -> Vec<ColumnName> {
        let mut names = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut stack = bases.to_vec();
        while let Some(base) = stack.pop() {
            if !seen.insert(base) {
                continue;
            }
            match self.views.get(&base.0).and_then(|v| v.columns.get(&base.1)) {
                Some(under) => stack.extend(under),
                None => {
                    let Some(table) = self.index.table(self.catalog, base.0) else { continue };
                    let column = table.columns.iter().find(|c| c.number == base.1);
                    names.insert(ColumnName {
                        schema: table.schema.clone(),
                        table: table.name.clone(),
                        column: column.map_or("*", |c| c.name.as_str()).to_owned(),
                    });
                }
            }
        }
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Table;

    fn catalog() -> Catalog {
        Catalog {
            search_path: vec!["public".into()],
            tables: vec![
                Table::of(20_000, "people", &["id", "name", "ssn"], None),
                Table::of(20_001, "orders", &["id", "person", "item"], None),
                Table::of(
                    20_002,
                    "v",
                    &["id", "tax"],
                    Some("SELECT p.id, upper(p.ssn) AS tax FROM people p WHERE p.name = 'x'"),
                ),
                Table::of(20_003, "w", &["t"], Some("SELECT v.tax FROM v")),
            ],
            functions: vec![Function {
                oid: 20_010,
                schema: "public".into(),
                name: "ssn_of".into(),
                language: "sql".into(),
                kind: 'f',
                body: "select ssn from people where id = $1".into(),
                arguments: String::new(),
                rows: false,
            }],
            constraints: Some(Vec::new()),
            ..Catalog::default()
        }
    }

    /// Outputs as `name=sources`, `=` doubled for the very column, `?` for unknown; then reads that are not outputs.
    fn told(sql: &str) -> String {
        let lineage = explain(&catalog(), sql).expect("read").remove(0);
        if let Some(why) = lineage.untraced {
            return why.to_owned();
        }
        let short = |c: &ColumnName| format!("{}.{}", c.table, c.column);
        let mut out: Vec<String> = match &lineage.outputs {
            None => vec!["…".into()],
            Some(outputs) => outputs
                .iter()
                .map(|o| {
                    let sources: Vec<_> = o.sources.iter().map(short).collect();
                    let how = if o.unknown {
                        "?"
                    } else if o.is_column {
                        "=="
                    } else {
                        "="
                    };
                    format!("{}{how}{}", o.name, sources.join("+"))
                })
                .collect(),
        };
        for r in lineage.reads.iter().filter(|r| r.place != Place::Output) {
            out.push(format!("{:?}:{}", r.place, short(&r.column)));
        }
        for w in &lineage.writes {
            out.push(format!("→{}:{}", w.table, w.sources.iter().map(short).collect::<Vec<_>>().join("+")));
        }
        out.join(" ")
    }

    #[test]
    fn every_value_is_followed() {
        let mut wrong = Vec::new();
        for (sql, want) in [
            ("SELECT id, upper(name) FROM people", "id==people.id upper=people.name"),
            (
                "SELECT * FROM people p JOIN orders o ON o.person = p.id",
                "id==people.id name==people.name ssn==people.ssn id==orders.id person==orders.person item==orders.item \
              Join:orders.person Join:people.id",
            ),
            (
                "SELECT * FROM people JOIN orders USING (id)",
                "id=orders.id+people.id name==people.name ssn==people.ssn person==orders.person item==orders.item \
              Join:orders.id Join:people.id",
            ),
            ("SELECT x FROM (SELECT ssn AS x, name FROM people) q", "x==people.ssn"),
            ("SELECT ssn FROM (SELECT name AS ssn FROM people) q", "ssn==people.name"),
            ("SELECT (SELECT ssn FROM (SELECT item FROM orders) o LIMIT 1) FROM people", "ssn=people.ssn"),
            ("SELECT q.b FROM people AS q(a, b)", "b==people.name"),
            ("SELECT a FROM people AS q(a, b)", "a==people.id"),
            (
                "WITH RECURSIVE r(a, b) AS (SELECT id, name FROM people UNION ALL SELECT b, a FROM r) SELECT a FROM r",
                "a=people.id+people.name",
            ),
            (
                "WITH d AS (DELETE FROM people WHERE id = 1 RETURNING ssn) SELECT * FROM d",
                "ssn==people.ssn Equality:people.id →people:",
            ),
            ("SELECT name FROM people UNION ALL SELECT item FROM orders", "name=orders.item+people.name"),
            (
                "SELECT name FROM people UNION SELECT item FROM orders",
                "name=orders.item+people.name Distinct:orders.item Distinct:people.name",
            ),
            (
                "SELECT l.i FROM people p, LATERAL (SELECT p.name || item AS i FROM orders) l",
                "i=orders.item+people.name",
            ),
            ("SELECT p FROM people p", "p=people.id+people.name+people.ssn"),
            (
                "SELECT (p).ssn, (p).* FROM people p",
                "ssn==people.ssn id==people.id name==people.name ssn==people.ssn",
            ),
            ("SELECT row_to_json(p) FROM people p", "row_to_json=people.id+people.name+people.ssn"),
            ("SELECT count(*), count(ssn) FROM people", "count= count= Count:people.ssn"),
            (
                "SELECT max(ssn) FROM people GROUP BY name HAVING min(id) > 1",
                "max=people.ssn Predicate:people.id Group:people.name",
            ),
            (
                "SELECT CASE WHEN ssn > 'a' THEN name END FROM people",
                "case=people.name+people.ssn Case:people.ssn",
            ),
            ("SELECT name AS n FROM people ORDER BY n, id", "n==people.name Sort:people.id Sort:people.name"),
            ("SELECT name AS ssn FROM people GROUP BY ssn", "ssn==people.name Group:people.ssn"),
            (
                "SELECT rank() OVER (PARTITION BY name ORDER BY ssn) FROM people",
                "rank= Window:people.name Window:people.ssn",
            ),
            (
                "SELECT name FROM people WHERE ssn = $1 AND id IN (1, 2) AND name IS NOT NULL AND ssn LIKE 'x%'",
                "name==people.name Equality:people.id Null:people.name Equality:people.ssn Predicate:people.ssn",
            ),
            (
                "SELECT 1 FROM people WHERE EXISTS (SELECT 1 FROM orders WHERE person = people.id)",
                "?column?= Predicate:orders.person Predicate:people.id",
            ),
            ("SELECT tax FROM v", "tax=people.ssn Equality:people.name"),
            ("SELECT t FROM w", "t=people.ssn Equality:people.name"),
            ("SELECT ssn_of(id) FROM people", "ssn_of=people.id+people.ssn Computed:people.id"),
            (
                "INSERT INTO orders (item) SELECT ssn FROM people RETURNING item",
                "item==orders.item Write:people.ssn →orders:people.ssn",
            ),
            (
                "INSERT INTO people VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET name = excluded.name || people.ssn",
                "Write:people.ssn →people:people.ssn",
            ),
            (
                "UPDATE people p SET name = o.item FROM orders o WHERE o.person = p.id RETURNING p.name, old.ssn",
                "name==people.name ssn==people.ssn Write:orders.item Predicate:orders.person Predicate:people.id \
              →people:orders.item",
            ),
            (
                "MERGE INTO people p USING orders o ON p.id = o.person WHEN MATCHED AND o.item = 'x' THEN UPDATE SET name = o.item",
                "Equality:orders.item Write:orders.item Join:orders.person Join:people.id →people:orders.item",
            ),
            ("VALUES (1, 'a'), (2, (SELECT name FROM people))", "column1= column2=people.name"),
            ("TABLE orders", "id==orders.id person==orders.person item==orders.item"),
            (
                "EXPLAIN SELECT name FROM people WHERE id = 1",
                "QUERY PLAN=people.id+people.name Equality:people.id",
            ),
            ("COPY (SELECT name FROM people) TO STDOUT", "name==people.name"),
            ("DECLARE c CURSOR FOR SELECT name FROM people", "name==people.name"),
            ("PREPARE s AS SELECT name FROM people LIMIT $1", "name==people.name"),
            ("SELECT g FROM generate_series(1, 3) g", "g="),
            ("SELECT x FROM people, unnest(array[name]) x", "x=people.name Rows:people.name"),
            ("SELECT * FROM people, unnest(array[name]) x", "… Rows:people.name"),
            (
                "SELECT j.v FROM people, json_table(name::json, '$' COLUMNS (v text PATH '$.v')) j",
                "v=people.name Rows:people.name Computed:people.name",
            ),
            ("SELECT nobody(id) FROM people", "nobody?people.id Computed:people.id"),
            ("SELECT nothing FROM people", "nothing?"),
            ("SELECT people.upper FROM people", "upper=people.id+people.name+people.ssn"),
            ("SELECT name FROM people WINDOW w AS (ORDER BY ssn)", "name==people.name Window:people.ssn"),
            (
                "SELECT name FROM people GROUP BY GROUPING SETS ((name), (ssn), ())",
                "name==people.name Group:people.name Group:people.ssn",
            ),
            (
                "SELECT string_agg(name, ',' ORDER BY ssn) FILTER (WHERE id = 1) FROM people",
                "string_agg=people.name Predicate:people.id Sort:people.ssn",
            ),
            ("FETCH c", "it is of a kind whose answer cannot be traced"),
        ] {
            let got = told(sql);
            if got != want {
                wrong.push(format!("{sql}\n  want {want}\n  got  {got}"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}
