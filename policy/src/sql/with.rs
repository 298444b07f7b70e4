//! Which relations of a statement are CTEs, and which of them.
//!
//! A name is a CTE where a WITH in force there says so, and a table everywhere else: `SELECT * FROM t WHERE (WITH t AS …)` reads the
//! table. Not the columns of a CTE (`trace.rs`). Invariant: what is not found to be a CTE is a table.
//! Source: parse_cte.c and `scanNameSpaceForCTE` of PostgreSQL 18.

use foldhash::HashMap;
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

/// A CTE in force, and the place of the one before it.
type Known<'a> = (&'a nodes::CommonTableExpr, Option<usize>);

/// Finds them in one top-level statement.
pub(crate) fn ctes(statement: Node<'_>) -> Result<Ctes<'_>, Unknown> {
    let mut found = Ctes::default();
    let mut known: Vec<Known<'_>> = Vec::new();
    let mut stack = vec![(statement, None)];
    let mut below = Vec::new();
    while let Some((node, within)) = stack.pop() {
        if let Node::RangeVar(r) = node
            && let Some(cte) = look_up(r, within, &known)
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
        let mut inside = within;
        if let Some(clause) = clause {
            let first = stack.len();
            for cte in clause.ctes() {
                stack.push((cte.ctequery(), inside));
                known.push((cte, inside));
                inside = Some(known.len() - 1);
            }
            if clause.recursive {
                stack.iter_mut().skip(first).for_each(|(_, scope)| *scope = inside);
            }
        }
        children(node, &mut below)?;
        stack.extend(below.drain(..).filter_map(|child| match child {
            // Its CTEs are there already, each with what it may name; what is written to is a table.
            Node::WithClause(_) => None,
            Node::RangeVar(r) if target.is_some_and(|t| std::ptr::eq(t, r)) => None,
            child => Some((child, inside)),
        }));
    }
    Ok(found)
}

fn look_up<'a>(
    relation: &nodes::RangeVar,
    mut within: Option<usize>,
    known: &[Known<'a>],
) -> Option<&'a nodes::CommonTableExpr> {
    if relation.schemaname().is_some() {
        return None;
    }
    let name = relation.relname()?;
    while let Some((cte, before)) = within.and_then(|at| known.get(at)) {
        if cte.ctename() == Some(name) {
            return Some(cte);
        }
        within = *before;
    }
    None
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
