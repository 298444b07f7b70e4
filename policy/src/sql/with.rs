//! Which relations of a statement are CTEs, and which of them.
//!
//! A name is a CTE where a WITH in force there says so, and a table everywhere else: `SELECT * FROM t WHERE (WITH t AS …)` reads the
//! table. Not the columns of a CTE (`trace.rs`). Invariant: what is not found to be a CTE is a table.
//! Source: parse_cte.c and `scanNameSpaceForCTE` of PostgreSQL 18.

use foldhash::{HashMap, HashMapExt as _};
use pg_raw_parse::{Node, nodes};

use super::children::{Unknown, children};

/// The relations of a statement that are CTEs.
#[derive(Debug, Default)]
pub(crate) struct Ctes<'a>(HashMap<*const nodes::RangeVar, &'a nodes::CommonTableExpr>);

impl<'a> Ctes<'a> {
    pub(crate) fn get(&self, relation: &nodes::RangeVar) -> Option<&'a nodes::CommonTableExpr> {
        if self.0.is_empty() { None } else { self.0.get(&std::ptr::from_ref(relation)).copied() }
    }
}

enum Step<'a> {
    Look(Node<'a>),
    /// From here on, and up to there, the name stands for it.
    Begins(&'a nodes::CommonTableExpr),
    Ends(&'a nodes::CommonTableExpr),
}

/// Finds them in one top-level statement.
pub(crate) fn ctes(statement: Node<'_>) -> Result<Ctes<'_>, Unknown> {
    let mut found = Ctes::default();
    // What a name stands for, the nearest last.
    let mut known: HashMap<&str, Vec<&nodes::CommonTableExpr>> = HashMap::new();
    let mut below = Vec::new();
    let mut stack = vec![Step::Look(statement)];
    while let Some(step) = stack.pop() {
        let node = match step {
            Step::Look(node) => node,
            Step::Begins(cte) => {
                known.entry(cte.ctename().unwrap_or_default()).or_default().push(cte);
                continue;
            }
            Step::Ends(cte) => {
                known.entry(cte.ctename().unwrap_or_default()).or_default().pop();
                continue;
            }
        };
        if let Node::RangeVar(r) = node
            && r.schemaname().is_none()
            && let Some(cte) = r.relname().and_then(|n| known.get(n)).and_then(|ctes| ctes.last())
        {
            found.0.insert(std::ptr::from_ref(r), cte);
        }
        let (clause, target) = match node {
            Node::SelectStmt(s) => (s.with_clause(), None),
            Node::InsertStmt(s) => (s.with_clause(), s.relation()),
            Node::UpdateStmt(s) => (s.with_clause(), s.relation()),
            Node::DeleteStmt(s) => (s.with_clause(), s.relation()),
            Node::MergeStmt(s) => (s.with_clause(), s.relation()),
            Node::IntoClause(i) => (None, i.rel()),
            _ => (None, None),
        };
        // What is pushed last is looked at first: the CTEs, the rest, and then their names mean nothing any more.
        let with = || clause.into_iter().flat_map(|c| c.ctes().iter());
        stack.extend(with().map(Step::Ends));
        children(node, &mut below)?;
        stack.extend(below.drain(..).filter_map(|child| match child {
            // Its CTEs are there by themselves; what is written to is a table.
            Node::WithClause(_) => None,
            Node::RangeVar(r) if target.is_some_and(|t| std::ptr::eq(t, r)) => None,
            child => Some(Step::Look(child)),
        }));
        let first = stack.len();
        if clause.is_some_and(|c| c.recursive) {
            stack.extend(with().map(|cte| Step::Look(cte.ctequery())));
            stack.extend(with().map(Step::Begins));
        } else {
            stack.extend(with().flat_map(|cte| [Step::Look(cte.ctequery()), Step::Begins(cte)]));
            if let Some(steps) = stack.get_mut(first..) {
                steps.reverse();
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(sql: &str) -> Vec<String> {
        let tree = crate::sql::parse(sql.as_bytes()).unwrap();
        let statement = tree.stmts().next().unwrap();
        let ctes = ctes(statement).unwrap();
        let (mut stack, mut tables) = (vec![statement], Vec::new());
        while let Some(node) = stack.pop() {
            if let Node::RangeVar(r) = node
                && ctes.get(r).is_none()
            {
                tables.push(r.relname().unwrap().to_owned());
            }
            children(node, &mut stack).unwrap();
        }
        tables.sort();
        tables
    }

    #[test]
    fn a_name_is_a_cte_where_its_with_is_in_force() {
        let none: [&str; 0] = [];
        assert_eq!(named("WITH t AS (SELECT 1) SELECT * FROM t, LATERAL (SELECT * FROM t) x"), none);
        assert_eq!(named("WITH t AS (SELECT 1) SELECT 1 UNION SELECT * FROM t WHERE EXISTS (TABLE t)"), none);
        assert_eq!(named("SELECT * FROM t WHERE (WITH t AS (SELECT 1 z) SELECT z = 1 FROM t)"), ["t"]);
        assert_eq!(named("SELECT (WITH t AS (SELECT 1) TABLE t), (TABLE t)"), ["t"]);
        assert_eq!(named("(WITH t AS (SELECT 1) TABLE t) UNION TABLE t"), ["t"]);
        assert_eq!(named("WITH t AS (SELECT 1) TABLE public.t"), ["t"]);
    }

    #[test]
    fn a_cte_sees_those_before_it_and_all_where_they_may_recurse() {
        let none: [&str; 0] = [];
        assert_eq!(named("WITH t AS (TABLE t) TABLE t"), ["t"]);
        assert_eq!(named("WITH a AS (TABLE b), b AS (TABLE a) TABLE b"), ["b"]);
        assert_eq!(named("WITH RECURSIVE a AS (TABLE b), b AS (SELECT 1 UNION TABLE b) TABLE a"), none);
        assert_eq!(named("WITH a AS (WITH b AS (SELECT 1) TABLE b) TABLE b"), ["b"]);
        assert_eq!(named("WITH a AS (SELECT 1), b AS (WITH c AS (TABLE a) TABLE c) TABLE b"), none);
    }

    #[test]
    fn what_is_written_to_is_a_table() {
        assert_eq!(named("WITH t AS (SELECT 1) INSERT INTO t SELECT * FROM t"), ["t"]);
        assert_eq!(
            named("WITH t AS (SELECT 1) UPDATE t SET a = (TABLE t) FROM t x RETURNING (TABLE t)"),
            ["t"]
        );
        assert_eq!(named("WITH t AS (SELECT 1) DELETE FROM t USING t x"), ["t"]);
        assert_eq!(
            named("WITH t AS (SELECT 1) MERGE INTO t USING t x ON true WHEN MATCHED THEN DELETE"),
            ["t"]
        );
        assert_eq!(named("WITH t AS (SELECT 1) SELECT * INTO t FROM t"), ["t"]);
        assert_eq!(named("WITH a AS (DELETE FROM t RETURNING *), t AS (TABLE a) TABLE t"), ["t"]);
    }
}
