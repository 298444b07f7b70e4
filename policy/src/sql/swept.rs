//! Whether one write brings more values to compare than its text, or its bound values, hold.
//!
//! A unique index answers each write: is one of these values there already? Whoever has to send each value asks slowly; a range that
//! the server makes (`generate_series`, another table, a column of the same one) halves the question with every statement. Not a
//! judgement of which columns matter: the caller names them. Invariant: what is not understood is taken for more.

use pg_raw_parse::{Node, nodes};

use super::children::children;
use super::facts::{self, Name, constant, name};
use super::known::{self, listed};
use super::with::{self, Ctes};

/// Of a table that is written to: columns whose values are compared, by name, and the place of each where an INSERT names none.
pub(crate) type Compared<'c> = Vec<(&'c str, Option<usize>)>;

/// True when a write, at any depth, gives a compared column values that its text does not hold.
pub(crate) fn swept<'c>(
    statement: Node<'_>,
    compared: &dyn Fn(Name<'_>) -> Compared<'c>,
    key: &dyn Fn(Name<'_>) -> Option<Vec<String>>,
    one: &dyn Fn(&str) -> bool,
) -> bool {
    let Ok(ctes) = with::ctes(statement) else { return true };
    let mut writes = Vec::new();
    let mut stack = vec![statement];
    while let Some(node) = stack.pop() {
        if matches!(node, Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::MergeStmt(_)) {
            writes.push(node);
        }
        if children(node, &mut stack).is_err() {
            return true;
        }
    }
    let text = Text { ctes, key, one };
    writes.into_iter().any(|write| text.sweeps(write, compared))
}

struct Text<'a, 'k> {
    ctes: Ctes<'a>,
    key: &'k dyn Fn(Name<'_>) -> Option<Vec<String>>,
    /// Whether a function of this name answers with one row.
    one: &'k dyn Fn(&str) -> bool,
}

/// Queries inside of each other, and CTEs that name each other.
const DEPTH_MAX: usize = 12;

impl<'a> Text<'a, '_> {
    fn sweeps<'c>(&self, write: Node<'a>, compared: &dyn Fn(Name<'_>) -> Compared<'c>) -> bool {
        let relation = match write {
            Node::InsertStmt(i) => i.relation(),
            Node::UpdateStmt(u) => u.relation(),
            Node::MergeStmt(m) => m.relation(),
            _ => None,
        };
        let Some(relation) = relation else { return true };
        let columns = compared(name(relation));
        if columns.is_empty() {
            return false;
        }
        let is = |called: Option<&str>| called.is_none_or(|c| columns.iter().any(|(name, _)| *name == c));
        let set = |target: Node<'a>| match target {
            Node::ResTarget(t) => is(t.name()) && !self.fixed(t.val()),
            _ => true,
        };
        match write {
            Node::InsertStmt(i) => {
                let Node::SelectStmt(query) = i.select_stmt() else { return false };
                let named: Vec<Option<&str>> = i
                    .cols()
                    .iter()
                    .map(|c| match c {
                        Node::ResTarget(t) => t.name(),
                        _ => None,
                    })
                    .collect();
                let given = columns.iter().any(|(column, at)| {
                    let place =
                        if named.is_empty() { *at } else { named.iter().position(|n| *n == Some(*column)) };
                    let Some(at) = place else { return false };
                    let star = query.target_list().iter().any(|t| !self.fixed(t.val()) && is_star(t.val()));
                    star || query.op != nodes::SetOperation::SETOP_NONE
                        || !query.values_lists().is_empty()
                        || query.target_list().get(at).is_some_and(|t| !self.fixed(t.val()))
                });
                let updated =
                    i.on_conflict_clause().is_some_and(|c| c.target_list().iter().any(|t| set(t.into())));
                (given || updated) && !self.few(query, DEPTH_MAX, false)
            }
            Node::UpdateStmt(u) => {
                let by_key = || {
                    (self.key)(name(relation)).is_some_and(|key| {
                        let key: Vec<&str> = key.iter().map(String::as_str).collect();
                        facts::by_key(u.where_clause(), Some(facts::called(relation)), &key, &|_| false)
                    })
                };
                let sets: Vec<Node<'a>> =
                    u.target_list().iter().map(Node::from).filter(|t| set(*t)).collect();
                !sets.is_empty() && !by_key() && {
                    let mut from = u.from_clause().iter();
                    !matches!((from.next(), from.next()), (Some(item), None)
                        if self.few_in(item, DEPTH_MAX, false) && sets.iter().all(|t| only_of(*t, item)))
                }
            }
            Node::MergeStmt(m) => {
                let source = m.source_relation();
                let mut written = false;
                for when in m.merge_when_clauses() {
                    let inserts = when.command_type == nodes::CmdType::CMD_INSERT;
                    written |= when.values().iter().any(|v| !self.fixed(v));
                    for target in when.target_list().iter().filter(|t| set(*t)) {
                        written = true;
                        if !inserts && !only_of(target, source) {
                            return true;
                        }
                    }
                }
                written && !self.few_in(source, DEPTH_MAX, false)
            }
            _ => true,
        }
    }

    /// As many rows as are written out or bound. `lateral`: and so are the columns of what stands beside it.
    fn few(&self, query: &'a nodes::SelectStmt, depth: usize, lateral: bool) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        if query.op != nodes::SetOperation::SETOP_NONE {
            return [query.larg(), query.rarg()]
                .into_iter()
                .flatten()
                .all(|arm| self.few(arm, depth, lateral));
        }
        if !query.values_lists().is_empty() {
            return !query.values_lists().iter().any(|row| facts::makes_rows(row, self.one));
        }
        // By itself, `SELECT unnest($1), unnest($2)` takes apart what was sent.
        let alone = query.from_clause().is_empty();
        let elements = |node| matches!(node, Node::FuncCall(f) if alone && takes_apart(f, false));
        if query.target_list().iter().any(|t| !elements(t.val()) && facts::makes_rows(t.val(), self.one)) {
            return false;
        }
        let mut from = query.from_clause().iter();
        match (from.next(), from.next()) {
            (None, _) => true,
            (Some(item), None) if self.few_in(item, depth, lateral) => true,
            // PostgREST: what it was sent, and LATERAL the elements of that.
            (Some(values), Some(item))
                if from.next().is_none() && sent_once(values) && self.few_in(item, depth, true) =>
            {
                true
            }
            (Some(Node::RangeVar(r)), None) if self.ctes.get(r).is_some() => false,
            _ => facts::few(Node::SelectStmt(query), self.key),
        }
    }

    fn few_in(&self, item: Node<'a>, depth: usize, lateral: bool) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        match item {
            Node::RangeSubselect(r) => {
                matches!(r.subquery(), Node::SelectStmt(q) if self.few(q, depth, lateral))
            }
            Node::RangeVar(r) => {
                let query = self.ctes.get(r).map(nodes::CommonTableExpr::ctequery);
                matches!(query, Some(Node::SelectStmt(q)) if self.few(q, depth, false))
            }
            // `unnest($1)`, `json_to_recordset($1)`: no more rows than what was sent has elements.
            Node::RangeFunction(r) => r.functions().iter().all(|pair| {
                let call = pair.as_node_list().and_then(|pair| pair.first());
                matches!(call, Some(Node::FuncCall(f)) if takes_apart(f, lateral))
            }),
            _ => false,
        }
    }

    /// It is a value of the text, or made of such: the same for every row.
    fn fixed(&self, node: Node<'_>) -> bool {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            if let Node::CaseExpr(c) = node {
                // Whichever it is, it was sent.
                stack.push(c.defresult());
                for when in c.args() {
                    let Node::CaseWhen(w) = when else { return false };
                    stack.push(w.result());
                }
                continue;
            }
            if matches!(node, Node::ColumnRef(_) | Node::SubLink(_))
                || facts::row_function(node, self.one)
                || facts::other_each_time(node)
            {
                return false;
            }
            if children(node, &mut stack).is_err() {
                return false;
            }
        }
        true
    }
}

/// A row for each element of what was sent. `lateral`: what stands beside it was.
fn takes_apart(call: &nodes::FuncCall, lateral: bool) -> bool {
    let parts = call.funcname();
    let function = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str);
    let given = |arg| sent(arg) || (lateral && matches!(arg, Node::ColumnRef(_)));
    function.is_some_and(|f| listed(known::ELEMENT_FUNCTIONS, f)) && call.args().iter().all(given)
}

/// `(SELECT $1 AS sent) alias`: one row of what was sent.
fn sent_once(item: Node<'_>) -> bool {
    let Node::RangeSubselect(r) = item else { return false };
    matches!(r.subquery(), Node::SelectStmt(q) if q.op == nodes::SetOperation::SETOP_NONE
        && q.from_clause().is_empty()
        && q.values_lists().is_empty()
        && q.target_list().iter().all(|t| sent(t.val())))
}

/// Each column in it is one of `item`, and says so: those of the row that is changed are other values.
fn only_of(target: Node<'_>, item: Node<'_>) -> bool {
    let alias = match item {
        Node::RangeSubselect(r) => r.alias(),
        Node::RangeFunction(r) => r.alias(),
        Node::RangeVar(r) => r.alias(),
        _ => None,
    };
    let called = alias.and_then(nodes::Alias::aliasname).or(match item {
        Node::RangeVar(r) => r.relname(),
        _ => None,
    });
    let mut stack = vec![target];
    while let Some(node) = stack.pop() {
        if let Node::ColumnRef(c) = node
            && !(c.fields().len() == 2
                && called.is_some()
                && c.fields().first().and_then(Node::as_str) == called)
        {
            return false;
        }
        if children(node, &mut stack).is_err() {
            return false;
        }
    }
    true
}

fn is_star(node: Node<'_>) -> bool {
    matches!(node, Node::ColumnRef(c) if c.fields().iter().any(|f| matches!(f, Node::A_Star(_))))
}

/// Written out or bound, alone or in an array.
fn sent(node: Node<'_>) -> bool {
    let mut node = node;
    while let Node::TypeCast(c) = node {
        node = c.arg();
    }
    match node {
        Node::A_ArrayExpr(a) => a.elements().iter().all(constant),
        node => constant(node),
    }
}
