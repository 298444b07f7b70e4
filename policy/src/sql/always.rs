//! Conditions that hold for every row by their form: both sides are the same, nothing is NULL, no row is looked at.
//!
//! Not a solver: what somebody writes who has to write a WHERE and means all rows. Invariant: a form nobody thought of is a condition.

use pg_raw_parse::{Node, nodes};

use super::children::children;
use super::facts::{Known, Target};
use super::known::{TOTAL_FUNCTIONS, listed};
use super::literal;

/// What is known of a column, as a reference names it.
pub(super) type Columns<'k> = dyn Fn(&nodes::ColumnRef) -> Known + 'k;

/// Columns that every row has, and that tell no row from another as a user sees it. `ctid` does, compared by `=`.
const SYSTEM: &[&str] = &["cmax", "cmin", "tableoid", "xmax", "xmin"];

pub(super) fn last(column: &nodes::ColumnRef) -> Option<&str> {
    column.fields().iter().next_back().and_then(Node::as_str)
}

fn operator(e: &nodes::A_Expr) -> Option<&str> {
    e.name().iter().next_back().and_then(Node::as_str)
}

fn called(f: &nodes::FuncCall) -> Option<&str> {
    f.funcname().iter().next_back().and_then(Node::as_str)
}

/// The same expression, or the same columns under casts and arithmetic: `id + 0` and `id`, `(id, 1)` and `(id, 1)`.
pub(super) fn alike(a: Node<'_>, b: Node<'_>) -> bool {
    let (a, b) = (spelled(a), spelled(b));
    match (a, b) {
        (Some(a), Some(b)) => {
            let columns = |s: &Spelled| -> Vec<String> {
                let mut columns: Vec<String> = s.0.iter().filter(|w| w.starts_with('.')).cloned().collect();
                columns.sort_unstable();
                columns.dedup();
                columns
            };
            !columns(&a).is_empty() && (a.0 == b.0 || (!a.1 && !b.1 && columns(&a) == columns(&b)))
        }
        _ => false,
    }
}

/// The parts of an expression in words, those of columns with a dot in front; true: some of them are more than casts and arithmetic.
struct Spelled(Vec<String>, bool);

fn spelled(node: Node<'_>) -> Option<Spelled> {
    let mut out = Spelled(Vec::new(), false);
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        match node {
            Node::ColumnRef(c) => {
                let fields: Option<Vec<&str>> = c.fields().iter().map(Node::as_str).collect();
                out.0.push(format!(".{}", fields?.join(".")));
                continue;
            }
            Node::A_Const(c) => {
                use pg_raw_parse::ConstValue as Value;
                out.0.push(match literal::value(c) {
                    Some(Value::Integer(n)) => n.to_string(),
                    Some(Value::Float(s) | Value::String(s)) => format!("'{s}"),
                    _ => "?".to_owned(),
                });
            }
            Node::A_Expr(e) if e.kind == nodes::A_Expr_Kind::AEXPR_OP => {
                let operator = operator(e)?;
                out.1 |= !matches!(operator, "+" | "-" | "*" | "/");
                out.0.push(operator.to_owned());
            }
            Node::FuncCall(f) if f.over().is_none() => {
                out.1 = true;
                out.0.push(called(f)?.to_owned());
            }
            Node::TypeName(_) => continue,
            Node::TypeCast(_) | Node::RowExpr(_) | Node::A_ArrayExpr(_) | Node::NodeList(_) | Node::None => {}
            Node::CoalesceExpr(_) => {
                out.1 = true;
                out.0.push("coalesce".to_owned());
            }
            _ => return None,
        }
        children(node, &mut stack).ok()?;
    }
    Some(out)
}

/// It is NULL for no row.
pub(super) fn never_null(node: Node<'_>, known: &Columns<'_>) -> bool {
    let mut stack = vec![node];
    while let Some(node) = stack.pop() {
        match node {
            Node::ColumnRef(c) => {
                if !known(c).not_null && !last(c).is_some_and(|name| SYSTEM.contains(&name) || name == "ctid")
                {
                    return false;
                }
            }
            Node::A_Const(c) => {
                if literal::value(c).is_none() {
                    return false;
                }
            }
            // One of them is enough, and the last is a constant as a rule.
            Node::CoalesceExpr(c) => {
                if !c.args().iter().any(|a| matches!(a, Node::A_Const(c) if literal::value(c).is_some())) {
                    stack.extend(c.args().iter());
                }
            }
            Node::A_Expr(e)
                if e.kind == nodes::A_Expr_Kind::AEXPR_OP
                    && matches!(operator(e), Some("+" | "-" | "*" | "/" | "||" | "=" | "<" | ">")) =>
            {
                stack.extend([e.lexpr(), e.rexpr()]);
            }
            Node::FuncCall(f) if called(f).is_some_and(|f| listed(TOTAL_FUNCTIONS, f)) => {
                stack.extend(f.args().iter());
            }
            Node::TypeCast(c) => stack.push(c.arg()),
            Node::None => {}
            _ => return false,
        }
    }
    true
}

/// It is the same for every row: it names no column of one, and no query in it does.
pub(super) fn unrelated(node: Node<'_>, target: &Target<'_>, known: &Columns<'_>) -> bool {
    let own =
        |name: Option<&str>| [target.name, target.called].into_iter().flatten().any(|t| Some(t.name) == name);
    let mut stack: Vec<(Node<'_>, Option<bool>)> = vec![(node, None)];
    let mut below = Vec::new();
    while let Some((node, inside)) = stack.pop() {
        match node {
            // Inside of a query a name is that query's own, as far as it can be: the table's where it reads the same table.
            Node::ColumnRef(c) => {
                let system = last(c).is_some_and(|name| SYSTEM.contains(&name));
                let related = match (inside, c.fields().len()) {
                    (None, _) => true,
                    (Some(_), 2..) => own(c.fields().first().and_then(Node::as_str)),
                    (Some(reads_it), _) => !reads_it && known(c).exists,
                };
                if !system && related {
                    return false;
                }
            }
            Node::CurrentOfExpr(_) => return false,
            Node::FuncCall(f) if called(f) == Some("pg_typeof") => continue,
            Node::SubLink(l) => {
                let reads_it = matches!(l.subselect(), Node::SelectStmt(s) if s.from_clause().iter().any(
                    |item| matches!(item, Node::RangeVar(r) if target.name.is_some_and(|t| r.relname() == Some(t.name)))));
                stack.extend([(l.testexpr(), inside), (l.subselect(), Some(reads_it))]);
                continue;
            }
            _ => {}
        }
        if children(node, &mut below).is_err() {
            return false;
        }
        stack.extend(below.drain(..).map(|child| (child, inside)));
    }
    true
}

/// A size, which is never below zero.
pub(super) fn size(node: Node<'_>, known: &Columns<'_>) -> bool {
    const SIZES: &[&str] =
        &["abs", "bit_length", "cardinality", "char_length", "character_length", "length", "octet_length"];
    matches!(node, Node::FuncCall(f) if called(f).is_some_and(|f| SIZES.contains(&f))
        && f.args().iter().all(|a| never_null(a, known)))
}

/// `CASE … THEN true ELSE true END`.
pub(super) fn case_of_true(case: &nodes::CaseExpr) -> bool {
    let yes = |mut node: Node<'_>| {
        while let Node::TypeCast(c) = node {
            node = c.arg();
        }
        matches!(node, Node::A_Const(c)
            if matches!(literal::value(c), Some(pg_raw_parse::ConstValue::Boolean(true))))
    };
    yes(case.defresult())
        && case.args().iter().all(|when| matches!(when, Node::CaseWhen(w) if yes(w.result())))
}
