//! What a statement is and does: its classes at every depth, what it names, whom it writes to, COPY's details, settings.
//!
//! Not a proof about data (that is [`super::lineage`]). Invariant: a statement node the grammar can produce has a class; a walk
//! that meets anything else says so and the text is refused. The walk is a loop; nothing here recurses with the input.

use foldhash::HashSet;
use pg_raw_parse::{Node, nodes};

use super::always;
use super::children::{Unknown, children};
use super::with::{self, Ctes};
use super::{known, literal};

/// A relation as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name<'a> {
    pub schema: Option<&'a str>,
    pub name: &'a str,
}

/// One statement, at any depth.
#[derive(Debug)]
pub(crate) struct Act<'a> {
    /// `drop`
    pub class: &'static str,
    /// `table`: together `drop-table`.
    pub object: &'static str,
    /// The one table a DML statement writes to; for the others every relation the text names counts.
    pub target: Option<Name<'a>>,
    /// What its conditions call the target: its alias, else its name.
    pub called: Option<Name<'a>>,
    /// The WHERE of an UPDATE or DELETE, the join of a MERGE that does either; [`every_row`] says whether it leaves a row out.
    pub condition: Option<Node<'a>>,
    /// The relations FROM or USING names beside the target.
    pub beside: Vec<&'a nodes::RangeVar>,
    /// What `ON CONFLICT DO UPDATE` is met with. Written values say which row, as long as each is one ([`written`]).
    pub inserted: Option<Node<'a>>,
    /// A SELECT that is rows of values.
    pub values: bool,
    /// It reaches tables it does not name (DROP SCHEMA, DROP OWNED, … CASCADE).
    pub anything: bool,
}

#[derive(Debug)]
pub(crate) struct Copy<'a> {
    pub relation: Option<Name<'a>>,
    pub query: bool,
    pub columns: Vec<&'a str>,
    pub is_from: bool,
    /// To or from a server file or program; `None`: the wire.
    pub program: bool,
    pub file: Option<&'a str>,
    pub format: &'a str,
    pub delimiter: Option<&'a str>,
    pub null: Option<&'a str>,
    pub quote: Option<&'a str>,
    pub escape: Option<&'a str>,
    /// `None`: written in a way we do not read.
    pub header: Option<bool>,
    /// An option that changes the bytes in a way we do not follow.
    pub strange: bool,
}

/// The value `set_config` is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Constant(&'a str),
    Parameter,
    Computed,
}

#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    pub acts: Vec<Act<'a>>,
    /// Every relation named anywhere; no CTEs.
    pub names: Vec<Name<'a>>,
    /// The CTEs that are named, as often as they are.
    pub ctes: Vec<&'a str>,
    /// Last part of every function name called.
    pub functions: Vec<&'a str>,
    /// Names behind a dot that call a function where there is no such column: of `(x).f`, and of `t.f`.
    pub applied: Vec<&'a str>,
    pub beside: Vec<&'a str>,
    /// `SET name = value` (the value when it is one constant), RESET without one.
    pub settings: Vec<(&'a str, Option<Vec<&'a str>>)>,
    /// `set_config(name, value, …)` with a constant name, else `None`.
    pub set_config: Vec<Option<(&'a str, Value<'a>)>>,
    /// `SELECT set_config(name, 'value', …) FROM pg_settings WHERE name = 'setting'`, which sets what older servers do not have
    /// (pg_dump): setting and value, as long as that is the system's pg_settings.
    pub settings_row: Option<(&'a str, &'a str)>,
    pub copies: Vec<Copy<'a>>,
    /// Columns that an UPDATE, a MERGE or ON CONFLICT sets.
    pub sets: Vec<&'a str>,
    pub ddl: bool,
    pub writes: bool,
    /// Ends a transaction: deferred constraints speak here.
    pub commits: bool,
    /// One row of its answer can carry any number of stored rows: an aggregate that keeps its inputs, ARRAY(SELECT …), a neighbour's
    /// value, recursion.
    pub collects: bool,
    /// Aggregates and windows that can each pick one row's value, by FILTER, CASE or a frame.
    picks: usize,
    /// An INSERT says what becomes of rows that are there already.
    pub on_conflict: bool,
    /// Rows of constants may have been left out of its text.
    pub rows_left_out: bool,
    /// It is the only statement of its text.
    pub alone: bool,
}

/// Reads one top-level statement.
pub(crate) fn read(statement: Node<'_>) -> Result<Facts<'_>, Unknown> {
    let mut facts = Facts { settings_row: settings_row(statement), ..Facts::default() };
    let (mut relations, mut with) = (Vec::new(), false);
    let mut stack = vec![statement];
    while let Some(node) = stack.pop() {
        if let Some(act) = act(node) {
            facts.ddl |= changes_catalogue(act.class);
            facts.writes |= writes(act.class);
            facts.acts.push(act);
            besides(node, &mut facts.acts);
        }
        match node {
            // The server does not take them, and each costs more than an argument does.
            Node::SelectStmt(s)
                if [s.target_list().len(), s.sort_clause().len(), s.group_clause().len()]
                    .iter()
                    .any(|n| *n > OUTPUTS_MAX) =>
            {
                return Err(Unknown);
            }
            Node::ReturningClause(r) if r.exprs().len() > OUTPUTS_MAX => return Err(Unknown),
            Node::RangeVar(r) => relations.push(r),
            Node::FuncCall(f) => function(f, &mut facts),
            Node::A_Indirection(i) => {
                for field in i.indirection().iter().filter_map(Node::as_str) {
                    facts.applied.push(field);
                    facts.collects |= collects(field);
                }
            }
            Node::ColumnRef(c) if c.fields().len() > 1 => {
                let last = c.fields().iter().next_back().and_then(Node::as_str);
                facts.beside.extend(last);
                facts.collects |= last.is_some_and(collects);
            }
            Node::VariableSetStmt(s) => setting(s, &mut facts),
            Node::CopyStmt(c) => facts.copies.push(copy(c)),
            Node::UpdateStmt(u) => {
                facts.sets.extend(u.target_list().iter().filter_map(nodes::ResTarget::name))
            }
            Node::OnConflictClause(c) => {
                facts.sets.extend(c.target_list().iter().filter_map(nodes::ResTarget::name));
            }
            Node::MergeWhenClause(w) => facts.sets.extend(w.target_list().iter().filter_map(|t| match t {
                Node::ResTarget(t) => t.name(),
                _ => None,
            })),
            Node::InsertStmt(i) => facts.on_conflict |= i.on_conflict_clause().is_some(),
            Node::TransactionStmt(t) => {
                use nodes::TransactionStmtKind as Kind;
                facts.commits |= !matches!(
                    t.kind,
                    Kind::TRANS_STMT_BEGIN
                        | Kind::TRANS_STMT_START
                        | Kind::TRANS_STMT_ROLLBACK
                        | Kind::TRANS_STMT_ROLLBACK_TO
                );
            }
            Node::ConstraintsSetStmt(_) => facts.commits = true,
            Node::SubLink(l) if l.sub_link_type == nodes::SubLinkType::ARRAY_SUBLINK => facts.collects = true,
            Node::WithClause(w) => {
                facts.collects |= w.recursive;
                with = true;
            }
            Node::JsonArrayAgg(_) | Node::JsonObjectAgg(_) | Node::JsonArrayQueryConstructor(_) => {
                facts.collects = true
            }
            Node::DropStmt(d) => facts.names.extend(d.objects().iter().filter_map(|o| dropped(d, o))),
            Node::CommentStmt(c) => facts.names.extend(listed(c.object())),
            Node::SecLabelStmt(c) => facts.names.extend(listed(c.object())),
            Node::GrantStmt(g) if relations_granted(g) => facts.names.extend(g.objects().iter().map(name)),
            Node::SelectStmt(s) if s.into_clause().is_some() => {
                facts.ddl = true;
                facts.writes = true;
            }
            _ => {}
        }
        children(node, &mut stack)?;
    }
    let ctes = if with { with::ctes(statement)? } else { Ctes::default() };
    for relation in relations {
        match ctes.get(relation) {
            Some(cte) => facts.ctes.extend(cte.ctename()),
            None => facts.names.push(name(relation)),
        }
    }
    // A table on its side: so many rows in one.
    facts.collects |= facts.picks >= PICKS_MIN;
    Ok(facts)
}

/// `MaxTupleAttributeNumber` (htup_details.h).
const OUTPUTS_MAX: usize = 1_664;

/// More picked values in a row than reports have beside each other for one thing.
const PICKS_MIN: usize = 8;

pub(crate) fn name(r: &nodes::RangeVar) -> Name<'_> {
    Name { schema: r.schemaname(), name: r.relname().unwrap_or_default() }
}

/// What the rest of the statement calls a relation: an alias hides the name and its schema.
pub(crate) fn called(r: &nodes::RangeVar) -> Name<'_> {
    match r.alias().and_then(nodes::Alias::aliasname) {
        Some(alias) => Name { schema: None, name: alias },
        None => name(r),
    }
}

fn relations_granted(g: &nodes::GrantStmt) -> bool {
    g.targtype == nodes::GrantTargetType::ACL_TARGET_OBJECT
        && matches!(g.objtype, nodes::ObjectType::OBJECT_TABLE | nodes::ObjectType::OBJECT_SEQUENCE)
}

/// `[schema,] name` written as a list of strings, for what DROP and COMMENT name.
fn listed(object: Node<'_>) -> Option<Name<'_>> {
    let parts = object.as_node_list()?;
    let part = |back: usize| parts.len().checked_sub(back).and_then(|i| parts.get(i)).and_then(Node::as_str);
    Some(Name { schema: part(2), name: part(1)? })
}

fn dropped<'a>(drop: &nodes::DropStmt, object: Node<'a>) -> Option<Name<'a>> {
    use nodes::ObjectType as T;
    match drop.remove_type {
        T::OBJECT_TABLE
        | T::OBJECT_VIEW
        | T::OBJECT_MATVIEW
        | T::OBJECT_FOREIGN_TABLE
        | T::OBJECT_SEQUENCE
        | T::OBJECT_INDEX => listed(object),
        // The last part is the trigger's, rule's or policy's own name.
        T::OBJECT_TRIGGER | T::OBJECT_RULE | T::OBJECT_POLICY => {
            let parts = object.as_node_list()?;
            let part =
                |back: usize| parts.len().checked_sub(back).and_then(|i| parts.get(i)).and_then(Node::as_str);
            Some(Name { schema: part(3), name: part(2)? })
        }
        _ => None,
    }
}

fn writes(class: &str) -> bool {
    matches!(class, "insert" | "update" | "delete" | "merge" | "truncate")
}

fn changes_catalogue(class: &str) -> bool {
    matches!(class, "create" | "alter" | "drop" | "do" | "call" | "execute" | "import" | "reassign")
}

/// Functions whose one value can be made of many rows and taken apart again. min, sum, count and their like cannot.
fn collects(function: &str) -> bool {
    ["_agg", "_agg_strict", "_agg_unique", "_agg_unique_strict"].iter().any(|end| function.ends_with(end))
        || function.contains("_to_xml")
        || matches!(
            function,
            "xmlagg"
                | "ts_stat"
                | "lag"
                | "lead"
                | "nth_value"
                | "first_value"
                | "last_value"
                | "percentile_disc"
                | "percentile_cont"
        )
}

/// Whether an aggregate answers with one row's value where it is asked for one row, or with a number that is made of many.
fn picks(call: &nodes::FuncCall, function: &str, facts: &mut Facts<'_>) {
    let computed = !call.args().iter().all(|a| matches!(a, Node::ColumnRef(_)));
    match function {
        "any_value" | "avg" | "max" | "min" | "mode" | "sum"
            if computed || call.over().is_some() || !matches!(call.agg_filter(), Node::None) =>
        {
            facts.picks += 1;
        }
        _ => {}
    }
    if matches!(function, "avg" | "bit_or" | "bit_xor" | "sum") && computed {
        let mut stack: Vec<Node<'_>> = call.args().iter().collect();
        while let Some(node) = stack.pop() {
            let names = match node {
                Node::A_Expr(e) => e.name(),
                Node::FuncCall(f) => f.funcname(),
                node => {
                    let _ = children(node, &mut stack);
                    continue;
                }
            };
            let last = names.len().checked_sub(1).and_then(|i| names.get(i)).and_then(Node::as_str);
            // Each row at a place of its own.
            facts.collects |= matches!(last, Some("^" | "<<" | "power" | "pow" | "exp"));
            let _ = children(node, &mut stack);
        }
    }
}

fn function<'a>(call: &'a nodes::FuncCall, facts: &mut Facts<'a>) {
    let parts = call.funcname();
    let Some(last) = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str) else {
        return;
    };
    facts.functions.push(last);
    facts.collects |= collects(last);
    picks(call, last, facts);
    if last == "set_config" {
        let text = |i: usize| match call.args().get(i) {
            Some(Node::A_Const(c)) => string(c),
            _ => None,
        };
        // Named notation may give them in any order.
        let value = match call.args().get(1) {
            Some(Node::ParamRef(_)) => Value::Parameter,
            Some(Node::TypeCast(c)) if matches!(c.arg(), Node::ParamRef(_)) => Value::Parameter,
            _ => text(1).map_or(Value::Computed, Value::Constant),
        };
        facts.set_config.push(text(0).map(|name| (name, value)));
    }
}

fn settings_row(statement: Node<'_>) -> Option<(&str, &str)> {
    let constant = |node| match node {
        Node::A_Const(c) => string(c),
        _ => None,
    };
    let is_name = |node| {
        let Node::ColumnRef(c) = node else { return false };
        c.fields().len() == 1 && c.fields().get(0).and_then(Node::as_str) == Some("name")
    };
    let Node::SelectStmt(select) = statement else { return None };
    let (Node::A_Expr(condition), Node::RangeVar(table)) =
        (select.where_clause(), select.from_clause().get(0)?)
    else {
        return None;
    };
    let Node::FuncCall(call) = select.target_list().get(0)?.val() else { return None };
    let equal = condition.kind == nodes::A_Expr_Kind::AEXPR_OP
        && condition.name().len() == 1
        && condition.name().get(0).and_then(Node::as_str) == Some("=");
    let one = select.from_clause().len() == 1 && select.larg().is_none() && select.with_clause().is_none();
    let system =
        table.relname() == Some("pg_settings") && table.schemaname().is_none_or(|s| s == "pg_catalog");
    let named =
        table.alias().is_none() && is_name(condition.lexpr()) && call.args().get(0).is_some_and(is_name);
    // A literal is read only where the rest fits.
    if !(equal && one && system && named) {
        return None;
    }
    Some((constant(condition.rexpr())?, constant(call.args().get(1)?)?))
}

fn string(c: &nodes::A_Const) -> Option<&str> {
    match literal::value(c) {
        Some(pg_raw_parse::ConstValue::String(s)) => Some(s),
        _ => None,
    }
}

fn setting<'a>(set: &'a nodes::VariableSetStmt, facts: &mut Facts<'a>) {
    use nodes::VariableSetKind as Kind;
    let values = || {
        set.args()
            .iter()
            .map(|arg| match arg {
                Node::A_Const(c) => string(c).or(Some("")),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
    };
    match set.kind {
        Kind::VAR_SET_VALUE => facts.settings.push((set.name().unwrap_or_default(), values())),
        // SET TRANSACTION …, and the isolation level of a session.
        Kind::VAR_SET_MULTI => facts.settings.push(("transaction", None)),
        // Back to what the session began with, which the start-up packet's allow-list has seen.
        _ => {}
    }
}

fn copy(c: &nodes::CopyStmt) -> Copy<'_> {
    let mut copy = Copy {
        relation: c.relation().map(name),
        query: !matches!(c.query(), Node::None),
        columns: c.attlist().iter().filter_map(Node::as_str).collect(),
        is_from: c.is_from,
        program: c.is_program,
        file: c.filename(),
        format: "text",
        delimiter: None,
        null: None,
        quote: None,
        escape: None,
        header: Some(false),
        strange: false,
    };
    for option in c.options() {
        let text = option.arg().as_str();
        match option.defname().unwrap_or_default() {
            "format" => copy.format = text.unwrap_or("?"),
            "delimiter" => copy.delimiter = text,
            "null" => copy.null = text,
            "quote" => copy.quote = text,
            "escape" => copy.escape = text,
            "encoding" => {
                copy.strange |=
                    !text.is_some_and(|t| t.eq_ignore_ascii_case("utf8") || t.eq_ignore_ascii_case("utf-8"));
            }
            "header" => {
                copy.header = match option.arg() {
                    Node::None => Some(true),
                    Node::Boolean(b) => Some(b.boolval),
                    Node::Integer(i) => match i.ival {
                        0 => Some(false),
                        1 => Some(true),
                        _ => None,
                    },
                    Node::String(_) => match text.unwrap_or_default().to_ascii_lowercase().as_str() {
                        "true" | "on" => Some(true),
                        "false" | "off" => Some(false),
                        _ => None,
                    },
                    _ => None,
                }
            }
            // Which values of csv are quoted; how rows come in.
            "force_quote" | "force_not_null" | "force_null" | "freeze" | "default" | "on_error"
            | "log_verbosity" | "reject_limit" => {}
            _ => copy.strange = true,
        }
    }
    copy
}

/// The class of a statement node; `None` for everything that is not a statement.
pub(crate) fn act(node: Node<'_>) -> Option<Act<'_>> {
    let plain = |class, object| Some(Act { class, object, ..MULTI_STATEMENT });
    let wide = |class, object| Some(Act { class, object, anything: true, ..MULTI_STATEMENT });
    match node {
        Node::SelectStmt(s) => {
            plain("select", "").map(|act| Act { values: !s.values_lists().is_empty(), ..act })
        }
        Node::InsertStmt(s) => dml("insert", s.relation(), None),
        Node::UpdateStmt(s) => {
            let beside = tables(s.from_clause().iter());
            dml("update", s.relation(), Some(s.where_clause())).map(|act| Act { beside, ..act })
        }
        Node::DeleteStmt(s) => {
            let beside = tables(s.using_clause().iter());
            dml("delete", s.relation(), Some(s.where_clause())).map(|act| Act { beside, ..act })
        }
        Node::MergeStmt(s) => dml("merge", s.relation(), None),
        Node::TruncateStmt(_) => plain("truncate", ""),
        Node::CopyStmt(c) => plain(
            "copy",
            match (c.is_program, c.filename().is_some(), c.is_from) {
                (true, _, _) => "program",
                (false, true, _) => "file",
                (false, false, true) => "from",
                (false, false, false) => "to",
            },
        ),
        Node::DropStmt(d) => {
            use nodes::ObjectType as T;
            let relation = matches!(
                d.remove_type,
                T::OBJECT_TABLE
                    | T::OBJECT_VIEW
                    | T::OBJECT_MATVIEW
                    | T::OBJECT_FOREIGN_TABLE
                    | T::OBJECT_SEQUENCE
                    | T::OBJECT_INDEX
            );
            let far = d.remove_type == T::OBJECT_SCHEMA
                || (!relation && d.behavior == nodes::DropBehavior::DROP_CASCADE)
                || d.remove_type == T::OBJECT_EXTENSION;
            if far { wide("drop", object(d.remove_type)) } else { plain("drop", object(d.remove_type)) }
        }
        Node::DropTableSpaceStmt(_) => plain("drop", "tablespace"),
        Node::DropUserMappingStmt(_) => plain("drop", "user-mapping"),
        Node::DropRoleStmt(_) => plain("drop", "role"),
        Node::DropdbStmt(_) => wide("drop", "database"),
        Node::DropOwnedStmt(_) => wide("drop", "owned"),
        Node::DropSubscriptionStmt(_) => plain("drop", "subscription"),

        Node::CreateStmt(_) => plain("create", "table"),
        Node::CreateTableAsStmt(c) if c.objtype == nodes::ObjectType::OBJECT_MATVIEW => {
            plain("create", "materialized-view")
        }
        Node::CreateTableAsStmt(_) => plain("create", "table-as"),
        Node::CreateSchemaStmt(_) => plain("create", "schema"),
        Node::CreateTableSpaceStmt(_) => plain("create", "tablespace"),
        Node::CreateExtensionStmt(_) => plain("create", "extension"),
        Node::CreateFdwStmt(_) => plain("create", "foreign-data-wrapper"),
        Node::CreateForeignServerStmt(_) => plain("create", "server"),
        Node::CreateUserMappingStmt(_) => plain("create", "user-mapping"),
        Node::CreatePolicyStmt(_) => plain("create", "policy"),
        Node::CreateAmStmt(_) => plain("create", "access-method"),
        Node::CreateTrigStmt(_) => plain("create", "trigger"),
        Node::CreateEventTrigStmt(_) => plain("create", "event-trigger"),
        Node::CreatePLangStmt(_) => plain("create", "language"),
        Node::CreateRoleStmt(_) => plain("create", "role"),
        Node::CreateSeqStmt(_) => plain("create", "sequence"),
        Node::DefineStmt(d) => plain("create", object(d.kind)),
        Node::CreateDomainStmt(_) => plain("create", "domain"),
        Node::CreateOpClassStmt(_) => plain("create", "operator-class"),
        Node::CreateOpFamilyStmt(_) => plain("create", "operator-family"),
        Node::IndexStmt(_) => plain("create", "index"),
        Node::CreateStatsStmt(_) => wide("create", "statistics"),
        Node::CreateFunctionStmt(f) => plain("create", if f.is_procedure { "procedure" } else { "function" }),
        Node::RuleStmt(_) => plain("create", "rule"),
        Node::CompositeTypeStmt(_) => plain("create", "type"),
        Node::CreateEnumStmt(_) => plain("create", "type"),
        Node::CreateRangeStmt(_) => plain("create", "type"),
        Node::ViewStmt(_) => plain("create", "view"),
        Node::CreatedbStmt(_) => plain("create", "database"),
        Node::CreateConversionStmt(_) => plain("create", "conversion"),
        Node::CreateCastStmt(_) => plain("create", "cast"),
        Node::CreateTransformStmt(_) => plain("create", "transform"),
        Node::CreatePublicationStmt(p) => {
            if p.for_all_tables {
                wide("create", "publication")
            } else {
                plain("create", "publication")
            }
        }
        Node::CreateSubscriptionStmt(_) => plain("create", "subscription"),
        Node::ImportForeignSchemaStmt(_) => plain("import", "foreign-schema"),

        Node::AlterTableStmt(a) => plain("alter", object(a.objtype)),
        Node::AlterTableSpaceOptionsStmt(_) => plain("alter", "tablespace"),
        Node::AlterTableMoveAllStmt(_) => wide("alter", "table"),
        Node::AlterCollationStmt(_) => plain("alter", "collation"),
        Node::AlterDomainStmt(_) => plain("alter", "domain"),
        Node::AlterDefaultPrivilegesStmt(_) => plain("alter", "default-privileges"),
        Node::AlterExtensionStmt(_) | Node::AlterExtensionContentsStmt(_) => plain("alter", "extension"),
        Node::AlterFdwStmt(_) => plain("alter", "foreign-data-wrapper"),
        Node::AlterForeignServerStmt(_) => plain("alter", "server"),
        Node::AlterUserMappingStmt(_) => plain("alter", "user-mapping"),
        Node::AlterPolicyStmt(_) => plain("alter", "policy"),
        Node::AlterEventTrigStmt(_) => plain("alter", "event-trigger"),
        Node::AlterRoleStmt(_) | Node::AlterRoleSetStmt(_) => plain("alter", "role"),
        Node::AlterSeqStmt(_) => plain("alter", "sequence"),
        Node::AlterOpFamilyStmt(_) => plain("alter", "operator-family"),
        Node::AlterStatsStmt(_) => plain("alter", "statistics"),
        Node::AlterFunctionStmt(a) => plain("alter", object(a.objtype)),
        Node::RenameStmt(r) => {
            let object = object(r.rename_type);
            if r.rename_type == nodes::ObjectType::OBJECT_SCHEMA {
                wide("alter", object)
            } else {
                plain("alter", object)
            }
        }
        Node::AlterObjectDependsStmt(a) => plain("alter", object(a.object_type)),
        Node::AlterObjectSchemaStmt(a) => plain("alter", object(a.object_type)),
        Node::AlterOwnerStmt(a) => plain("alter", object(a.object_type)),
        Node::AlterOperatorStmt(_) => plain("alter", "operator"),
        Node::AlterTypeStmt(_) => plain("alter", "type"),
        Node::AlterEnumStmt(_) => plain("alter", "type"),
        Node::AlterDatabaseStmt(_)
        | Node::AlterDatabaseRefreshCollStmt(_)
        | Node::AlterDatabaseSetStmt(_) => plain("alter", "database"),
        Node::AlterSystemStmt(_) => plain("alter", "system"),
        Node::AlterTSDictionaryStmt(_) | Node::AlterTSConfigurationStmt(_) => plain("alter", "text-search"),
        Node::AlterPublicationStmt(_) => plain("alter", "publication"),
        Node::AlterSubscriptionStmt(_) => plain("alter", "subscription"),
        Node::ReassignOwnedStmt(_) => wide("reassign", "owned"),

        Node::GrantStmt(g) => {
            let class = if g.is_grant { "grant" } else { "revoke" };
            if relations_granted(g) {
                plain(class, object(g.objtype))
            } else {
                wide(class, object(g.objtype))
            }
        }
        Node::GrantRoleStmt(g) => plain(if g.is_grant { "grant" } else { "revoke" }, "role"),
        Node::DoStmt(_) => plain("do", ""),
        Node::CallStmt(_) => plain("call", ""),
        Node::VariableSetStmt(_) => plain("set", ""),
        Node::VariableShowStmt(_) => plain("show", ""),
        Node::ExplainStmt(_) => plain("explain", ""),
        Node::ListenStmt(_) => plain("listen", ""),
        Node::UnlistenStmt(_) => plain("unlisten", ""),
        Node::NotifyStmt(_) => plain("notify", ""),
        Node::PrepareStmt(_) => plain("prepare", ""),
        Node::ExecuteStmt(_) => plain("execute", ""),
        Node::DeallocateStmt(_) => plain("deallocate", ""),
        Node::DeclareCursorStmt(_) => plain("declare", ""),
        Node::FetchStmt(f) => plain(if f.ismove { "move" } else { "fetch" }, ""),
        Node::ClosePortalStmt(_) => plain("close", ""),
        Node::TransactionStmt(_) => plain("transaction", ""),
        Node::ConstraintsSetStmt(_) => plain("set", "constraints"),
        Node::LockStmt(_) => plain("lock", ""),
        Node::VacuumStmt(v) => plain(if v.is_vacuumcmd { "vacuum" } else { "analyze" }, ""),
        Node::ClusterStmt(_) => plain("cluster", ""),
        Node::ReindexStmt(_) => plain("reindex", ""),
        Node::RefreshMatViewStmt(_) => plain("refresh", ""),
        Node::CheckPointStmt(_) => plain("checkpoint", ""),
        Node::DiscardStmt(_) => plain("discard", ""),
        Node::LoadStmt(_) => plain("load", ""),
        Node::CommentStmt(_) => plain("comment", ""),
        Node::SecLabelStmt(_) => plain("security-label", ""),
        _ => None,
    }
}

fn tables<'a>(from: impl Iterator<Item = Node<'a>>) -> Vec<&'a nodes::RangeVar> {
    from.filter_map(|item| match item {
        Node::RangeVar(r) => Some(r),
        _ => None,
    })
    .collect()
}

fn dml<'a>(
    class: &'static str,
    target: Option<&'a nodes::RangeVar>,
    condition: Option<Node<'a>>,
) -> Option<Act<'a>> {
    Some(Act { class, target: target.map(name), called: target.map(called), condition, ..MULTI_STATEMENT })
}

/// What a statement does besides its own class: the actions of a MERGE, and the update of `ON CONFLICT DO UPDATE`.
fn besides<'a>(node: Node<'a>, acts: &mut Vec<Act<'a>>) {
    use nodes::{CmdType as Command, MergeMatchKind as Kind};
    match node {
        Node::MergeStmt(m) => {
            let mut known = Vec::new();
            for when in m.merge_when_clauses() {
                // Rows the source does not have are all others: only what the clause itself asks leaves one out.
                let others = when.match_kind == Kind::MERGE_WHEN_NOT_MATCHED_BY_SOURCE;
                let condition = Some(if others { when.condition() } else { m.join_condition() });
                let (class, condition) = match when.command_type {
                    Command::CMD_UPDATE => ("update", condition),
                    Command::CMD_DELETE => ("delete", condition),
                    Command::CMD_INSERT => ("insert", None),
                    _ => continue,
                };
                if others || !known.contains(&class) {
                    let beside = tables([m.source_relation()].into_iter());
                    acts.extend(dml(class, m.relation(), condition).map(|act| Act { beside, ..act }));
                }
                if !others {
                    known.push(class);
                }
            }
        }
        Node::InsertStmt(i) => {
            let updates = i.on_conflict_clause().is_some_and(|c| !c.target_list().is_empty());
            if updates {
                let act = dml("update", i.relation(), Some(Node::None));
                acts.extend(act.map(|act| Act { inserted: Some(i.select_stmt()), ..act }));
            }
        }
        _ => {}
    }
}

/// Rows that a statement writes out, each of which is one row. `one`: whether a function of this name answers with one.
pub(crate) fn written(inserted: Node<'_>, one: &dyn Fn(&str) -> bool) -> bool {
    matches!(inserted, Node::SelectStmt(s) if !s.values_lists().is_empty()
        && !s.values_lists().iter().any(|row| makes_rows(row, one)))
}

/// A row of values that is as many rows as a function in it makes.
pub(crate) fn makes_rows(row: Node<'_>, one: &dyn Fn(&str) -> bool) -> bool {
    // Of constants it is one, and there may be many.
    if row.as_node_list().is_some_and(|l| l.iter().all(constant)) {
        return false;
    }
    let mut stack = vec![row];
    while let Some(node) = stack.pop() {
        if row_function(node, one) || children(node, &mut stack).is_err() {
            return true;
        }
    }
    false
}

/// A statement that calls each of its functions once.
pub(crate) fn calls_once(statement: Node<'_>, one: &dyn Fn(&str) -> bool) -> bool {
    match statement {
        Node::SelectStmt(s) => {
            s.op == nodes::SetOperation::SETOP_NONE
                && s.from_clause().is_empty()
                && s.values_lists().is_empty()
                && s.with_clause().is_none()
                && !s.target_list().iter().any(|t| makes_rows(t.val(), one))
        }
        Node::CallStmt(_) => true,
        _ => false,
    }
}

/// A call of a function that may return rows.
pub(crate) fn row_function(node: Node<'_>, one: &dyn Fn(&str) -> bool) -> bool {
    if let Node::A_Indirection(i) = node {
        let many = |f: &str| known::listed(known::ROW_FUNCTIONS, f) || (known::acts(f) && !one(f));
        return i.indirection().iter().filter_map(Node::as_str).any(many);
    }
    let Node::FuncCall(f) = node else { return false };
    let parts = f.funcname();
    let function = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str);
    !function.is_some_and(one)
}

/// A call that may answer otherwise for each row, whatever it is given.
pub(crate) fn other_each_time(node: Node<'_>) -> bool {
    let Node::FuncCall(f) = node else { return false };
    let parts = f.funcname();
    let function = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str);
    f.over().is_some() || !function.is_some_and(known::stable)
}

/// More than one statement in one text.
pub(crate) const MULTI_STATEMENT: Act<'static> = Act {
    class: "multi-statement",
    object: "",
    target: None,
    called: None,
    condition: None,
    beside: Vec::new(),
    inserted: None,
    values: false,
    anything: false,
};

/// Every word a rule may write in `on.statements`, besides `class-object`.
pub(crate) const CLASSES: &[&str] = &[
    "alter",
    "analyze",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "move",
    "multi-statement",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "revoke",
    "security-label",
    "select",
    "set",
    "show",
    "transaction",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Every second word, for `create-function`, `drop-table`, `copy-program`, `alter-system`, …
pub(crate) const OBJECTS: &[&str] = &[
    "access-method",
    "aggregate",
    "cast",
    "collation",
    "column",
    "constraint",
    "constraints",
    "conversion",
    "database",
    "default-privileges",
    "domain",
    "event-trigger",
    "extension",
    "file",
    "foreign-data-wrapper",
    "foreign-schema",
    "foreign-table",
    "from",
    "function",
    "index",
    "language",
    "large-object",
    "materialized-view",
    "operator",
    "operator-class",
    "operator-family",
    "owned",
    "policy",
    "procedure",
    "program",
    "publication",
    "role",
    "routine",
    "rule",
    "schema",
    "sequence",
    "server",
    "statistics",
    "subscription",
    "system",
    "table",
    "table-as",
    "tablespace",
    "text-search",
    "to",
    "transform",
    "trigger",
    "type",
    "user-mapping",
    "view",
    "parameter",
];

fn object(kind: nodes::ObjectType::Type) -> &'static str {
    use nodes::ObjectType as T;
    match kind {
        T::OBJECT_ACCESS_METHOD => "access-method",
        T::OBJECT_AGGREGATE => "aggregate",
        T::OBJECT_CAST => "cast",
        T::OBJECT_COLLATION => "collation",
        T::OBJECT_COLUMN | T::OBJECT_ATTRIBUTE | T::OBJECT_DEFAULT => "column",
        T::OBJECT_CONVERSION => "conversion",
        T::OBJECT_DATABASE => "database",
        T::OBJECT_DEFACL => "default-privileges",
        T::OBJECT_DOMAIN => "domain",
        T::OBJECT_DOMCONSTRAINT | T::OBJECT_TABCONSTRAINT => "constraint",
        T::OBJECT_EVENT_TRIGGER => "event-trigger",
        T::OBJECT_EXTENSION => "extension",
        T::OBJECT_FDW => "foreign-data-wrapper",
        T::OBJECT_FOREIGN_SERVER => "server",
        T::OBJECT_FOREIGN_TABLE => "foreign-table",
        T::OBJECT_FUNCTION => "function",
        T::OBJECT_INDEX => "index",
        T::OBJECT_LANGUAGE => "language",
        T::OBJECT_LARGEOBJECT => "large-object",
        T::OBJECT_MATVIEW => "materialized-view",
        T::OBJECT_OPCLASS => "operator-class",
        T::OBJECT_OPERATOR => "operator",
        T::OBJECT_OPFAMILY | T::OBJECT_AMOP | T::OBJECT_AMPROC => "operator-family",
        T::OBJECT_PARAMETER_ACL => "parameter",
        T::OBJECT_POLICY => "policy",
        T::OBJECT_PROCEDURE => "procedure",
        T::OBJECT_PUBLICATION | T::OBJECT_PUBLICATION_NAMESPACE | T::OBJECT_PUBLICATION_REL => "publication",
        T::OBJECT_ROLE => "role",
        T::OBJECT_ROUTINE => "routine",
        T::OBJECT_RULE => "rule",
        T::OBJECT_SCHEMA => "schema",
        T::OBJECT_SEQUENCE => "sequence",
        T::OBJECT_SUBSCRIPTION => "subscription",
        T::OBJECT_STATISTIC_EXT => "statistics",
        T::OBJECT_TABLE => "table",
        T::OBJECT_TABLESPACE => "tablespace",
        T::OBJECT_TRANSFORM => "transform",
        T::OBJECT_TRIGGER => "trigger",
        T::OBJECT_TSCONFIGURATION | T::OBJECT_TSDICTIONARY | T::OBJECT_TSPARSER | T::OBJECT_TSTEMPLATE => {
            "text-search"
        }
        T::OBJECT_TYPE => "type",
        T::OBJECT_USER_MAPPING => "user-mapping",
        T::OBJECT_VIEW => "view",
        _ => "",
    }
}

/// What is known of a column of the table a WHERE speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub not_null: bool,
    /// The table's first column and a whole number: what serial keys look like, which begin at one.
    pub key_like: bool,
    /// The table has a column of this name.
    pub exists: bool,
}

/// The table a WHERE speaks of, and the names that FROM gives it beside its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target<'a> {
    pub name: Option<Name<'a>>,
    pub called: Option<Name<'a>>,
    pub again: Vec<Name<'a>>,
}

/// True when a WHERE leaves no row out as far as its form tells: none, a condition that looks at no column, `a = a`, what holds for
/// every value of a column that is never NULL (`a IS NOT NULL`, `a LIKE '%'`, `id > 0`), or one of these beside OR.
pub(crate) fn every_row(
    condition: Node<'_>,
    target: &Target<'_>,
    known: &dyn Fn(&nodes::ColumnRef) -> Known,
) -> bool {
    fn trivial(
        node: Node<'_>,
        target: &Target<'_>,
        known: &dyn Fn(&nodes::ColumnRef) -> Known,
        depth: usize,
    ) -> bool {
        if depth == 0 {
            return true;
        }
        let looks_at_nothing = |node| always::unrelated(node, target, known);
        match node {
            Node::None => true,
            Node::BoolExpr(b) => match b.boolop {
                nodes::BoolExprType::AND_EXPR => {
                    b.args().iter().all(|a| trivial(a, target, known, depth - 1))
                }
                nodes::BoolExprType::OR_EXPR => {
                    // `v IS NULL OR v LIKE '%'`: in the other it is not NULL.
                    let nulls: HashSet<&str> =
                        b.args().iter().filter_map(is_null).filter_map(always::last).collect();
                    let known = |c: &nodes::ColumnRef| {
                        let known = known(c);
                        Known {
                            not_null: known.not_null || always::last(c).is_some_and(|n| nulls.contains(n)),
                            ..known
                        }
                    };
                    let mut others = b.args().iter().filter(|a| is_null(*a).is_none());
                    others.any(|a| trivial(a, target, &known, depth - 1))
                }
                _ => looks_at_nothing(node) || b.args().iter().all(|a| none(a, known)),
            },
            Node::BooleanTest(t) => {
                use nodes::BoolTestType as Test;
                match t.booltesttype {
                    Test::IS_TRUE | Test::IS_NOT_FALSE => trivial(t.arg(), target, known, depth - 1),
                    Test::IS_FALSE | Test::IS_NOT_TRUE => none(t.arg(), known),
                    _ => looks_at_nothing(node),
                }
            }
            Node::SubLink(l) if l.sub_link_type == nodes::SubLinkType::ANY_SUBLINK => {
                looks_at_nothing(node) || all_of(l.testexpr(), l.subselect(), target, known, depth - 1)
            }
            Node::NullTest(t) if t.nulltesttype == nodes::NullTestType::IS_NOT_NULL => {
                always::never_null(t.arg(), known) || looks_at_nothing(node)
            }
            Node::CaseExpr(c) => always::case_of_true(c) || looks_at_nothing(node),
            Node::A_Expr(e) => {
                let operator = e.name().first().and_then(Node::as_str).unwrap_or_default();
                use nodes::A_Expr_Kind as Kind;
                let (left, right) = (e.lexpr(), e.rexpr());
                match (e.kind, right) {
                    (Kind::AEXPR_NOT_DISTINCT, _) => return always::alike(left, right),
                    (Kind::AEXPR_DISTINCT, Node::A_Const(c)) => {
                        return literal::value(c).is_none() && always::never_null(left, known);
                    }
                    (Kind::AEXPR_OP_ANY, Node::SubLink(l)) if operator == "=" => {
                        return all_of(left, l.subselect(), target, known, depth - 1);
                    }
                    (Kind::AEXPR_OP_ANY, Node::A_ArrayExpr(a)) if operator == "=" => {
                        return a.elements().iter().any(|x| always::alike(left, x));
                    }
                    (Kind::AEXPR_OP_ALL, Node::A_ArrayExpr(a)) if matches!(operator, "<>" | "!=") => {
                        return matches!(left, Node::ColumnRef(c) if every_key(known(c)))
                            && a.elements().iter().all(|n| number(n).is_some_and(|n| n <= 0));
                    }
                    (Kind::AEXPR_IN, list) if operator == "=" => {
                        return list.as_node_list().is_some_and(|l| l.iter().any(|x| always::alike(left, x)));
                    }
                    (Kind::AEXPR_OP, _)
                        if matches!(operator, "=" | ">=" | "<=")
                            && (always::alike(left, right) || again(left, right, target)) =>
                    {
                        return true;
                    }
                    _ => {}
                }
                if matches!(operator, ">" | ">=")
                    && always::size(left, known)
                    && number(right).is_some_and(|n| n < 0 || (n == 0 && operator == ">="))
                {
                    return true;
                }
                if looks_at_nothing(node) {
                    return true;
                }
                match (left, right) {
                    // Behind the first place in the table is all of it.
                    (Node::ColumnRef(c), _) if always::last(c) == Some("ctid") => operator != "=",
                    // Whole numbers above all keys, and below.
                    (Node::ColumnRef(c), list) if e.kind == Kind::AEXPR_BETWEEN => {
                        let bounds = list.as_node_list().map(|l| (l.get(0), l.get(1)));
                        matches!(bounds, Some((Some(low), Some(high)))
                            if number(low).is_some_and(|n| n <= 1) && above_all(high))
                            && every_key(known(c))
                    }
                    (Node::ColumnRef(c), list) if e.kind == Kind::AEXPR_IN && operator == "<>" => {
                        list.as_node_list()
                            .is_some_and(|l| l.iter().all(|n| number(n).is_some_and(|n| n <= 0)))
                            && every_key(known(c))
                    }
                    (Node::ColumnRef(c), high) if matches!(operator, "<" | "<=") && above_all(high) => {
                        every_key(known(c))
                    }
                    (Node::ColumnRef(a), Node::ColumnRef(b)) => {
                        same(a, b) && !matches!(operator, "<>" | "!=" | "<" | ">")
                    }
                    (Node::ColumnRef(c), constant) => match (operator, bound(operator, constant)) {
                        (">", Some(n)) => n <= 0 && every_key(known(c)),
                        (">=", Some(n)) => n <= 1 && every_key(known(c)),
                        ("<>" | "!=", Some(n)) => n <= 0 && every_key(known(c)),
                        ("~~" | "~~*", _) => percents(constant) && known(c).not_null,
                        ("~" | "~*", _) => anything(constant, &["", "^", ".*"]) && known(c).not_null,
                        (">=", None) => anything(constant, &[""]) && known(c).not_null,
                        _ => false,
                    },
                    (constant, Node::ColumnRef(c)) => match (operator, bound(operator, constant)) {
                        ("<", Some(n)) => n <= 0 && every_key(known(c)),
                        ("<=", Some(n)) => n <= 1 && every_key(known(c)),
                        ("<>" | "!=", Some(n)) => n <= 0 && every_key(known(c)),
                        _ => false,
                    },
                    _ => false,
                }
            }
            // `WHERE CURRENT OF c` is one row.
            Node::CurrentOfExpr(_) => false,
            _ => looks_at_nothing(node),
        }
    }
    /// The number a column is compared with; what `column = number` is equal to does not matter, and is not looked at.
    fn bound(operator: &str, node: Node<'_>) -> Option<i64> {
        if matches!(operator, "<" | ">" | "<=" | ">=" | "<>" | "!=") { number(node) } else { None }
    }
    /// What holds for no row: `id IS NULL`, `id = -1`.
    fn none(node: Node<'_>, known: &dyn Fn(&nodes::ColumnRef) -> Known) -> bool {
        match node {
            Node::NullTest(t) => {
                matches!(t.arg(), Node::ColumnRef(c) if t.nulltesttype == nodes::NullTestType::IS_NULL && known(c).not_null)
            }
            Node::A_Expr(e) if e.kind == nodes::A_Expr_Kind::AEXPR_OP => {
                let operator = e.name().first().and_then(Node::as_str).unwrap_or_default();
                matches!((e.lexpr(), operator, number(e.rexpr())), (Node::ColumnRef(c), "=" | "<" | "<=", Some(n))
                    if n <= 0 && every_key(known(c)))
            }
            _ => false,
        }
    }
    /// A number no whole one of four bytes is above.
    fn above_all(node: Node<'_>) -> bool {
        match node {
            Node::A_Const(c) => match literal::value(c) {
                Some(pg_raw_parse::ConstValue::Integer(n)) => n == i32::MAX,
                Some(pg_raw_parse::ConstValue::Float(n)) => {
                    n.parse::<f64>().is_ok_and(|n| n >= f64::from(i32::MAX))
                }
                _ => false,
            },
            _ => false,
        }
    }
    fn every_key(known: Known) -> bool {
        known.not_null && known.key_like
    }
    fn number(node: Node<'_>) -> Option<i64> {
        match node {
            Node::A_Const(c) => match literal::value(c) {
                Some(pg_raw_parse::ConstValue::Integer(i)) => Some(i64::from(i)),
                Some(pg_raw_parse::ConstValue::Float(n)) => n.parse().ok(),
                _ => None,
            },
            Node::TypeCast(c) => number(c.arg()),
            Node::SubLink(l) => match l.subselect() {
                Node::SelectStmt(s) if s.from_clause().is_empty() && s.target_list().len() == 1 => {
                    s.target_list().get(0).and_then(|t| number(t.val()))
                }
                _ => None,
            },
            Node::A_Expr(e) if e.name().first().and_then(Node::as_str) == Some("-") => match e.lexpr() {
                Node::None => number(e.rexpr()).map(|n| -n),
                _ => None,
            },
            _ => None,
        }
    }
    fn anything(node: Node<'_>, patterns: &[&str]) -> bool {
        matches!(node, Node::A_Const(c) if string(c).is_some_and(|s| patterns.contains(&s)))
    }
    fn is_null(node: Node<'_>) -> Option<&nodes::ColumnRef> {
        match node {
            Node::NullTest(t) if t.nulltesttype == nodes::NullTestType::IS_NULL => match t.arg() {
                Node::ColumnRef(c) => Some(c),
                _ => None,
            },
            _ => None,
        }
    }
    /// `id IN (SELECT id FROM the table itself)`.
    fn all_of(
        column: Node<'_>,
        query: Node<'_>,
        target: &Target<'_>,
        known: &dyn Fn(&nodes::ColumnRef) -> Known,
        depth: usize,
    ) -> bool {
        let (Node::ColumnRef(column), Node::SelectStmt(s)) = (column, query) else { return false };
        let mut from = s.from_clause().iter();
        let (Some(Node::RangeVar(r)), None) = (from.next(), from.next()) else { return false };
        let itself = target.name.is_some_and(|t| {
            r.relname() == Some(t.name)
                && (t.schema == r.schemaname() || t.schema.is_none() || r.schemaname().is_none())
        });
        let answer = s.target_list().get(0).map(nodes::ResTarget::val);
        itself
            && s.op == nodes::SetOperation::SETOP_NONE
            && matches!((s.limit_count(), s.limit_offset()), (Node::None, Node::None))
            && s.group_clause().is_empty()
            && matches!(answer, Some(Node::ColumnRef(c)) if always::last(c) == always::last(column))
            && trivial(s.where_clause(), target, known, depth)
    }
    /// `a.id = b.id` of the same table.
    fn again(a: Node<'_>, b: Node<'_>, target: &Target<'_>) -> bool {
        let (Node::ColumnRef(a), Node::ColumnRef(b)) = (a, b) else { return false };
        let of = |c: &nodes::ColumnRef| -> Option<String> {
            let before = c.fields().len().checked_sub(2)?;
            c.fields().get(before).and_then(Node::as_str).map(str::to_owned)
        };
        let (Some(x), Some(y)) = (of(a), of(b)) else { return false };
        let own = |name: &str| target.called.is_some_and(|t| t.name == name);
        let other = |name: &str| target.again.iter().any(|n| n.name == name);
        always::last(a) == always::last(b) && ((own(&x) && other(&y)) || (own(&y) && other(&x)))
    }
    /// `'%'`, `'%%'`, …
    fn percents(node: Node<'_>) -> bool {
        matches!(node, Node::A_Const(c)
            if string(c).is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b == b'%')))
    }
    fn same(a: &nodes::ColumnRef, b: &nodes::ColumnRef) -> bool {
        a.fields().len() == b.fields().len()
            && a.fields()
                .iter()
                .zip(b.fields().iter())
                .all(|(x, y)| x.as_str().is_some() && x.as_str() == y.as_str())
    }
    trivial(condition, target, known, 32)
}

/// The queries whose rows a statement answers (or stores) have no bound of their own: neither LIMIT, nor `column = value` among
/// what WHERE asks, nor aggregates only. Each arm of a set operation counts.
pub(crate) fn unbounded(statement: Node<'_>) -> bool {
    let mut stack = vec![statement];
    while let Some(node) = stack.pop() {
        match node {
            Node::ExplainStmt(e) => stack.push(e.query()),
            Node::DeclareCursorStmt(d) => stack.push(d.query()),
            Node::PrepareStmt(p) => stack.push(p.query()),
            Node::CreateTableAsStmt(c) => stack.push(c.query()),
            Node::CopyStmt(c) if !c.is_from => match c.query() {
                Node::None => return true,
                query => stack.push(query),
            },
            Node::SelectStmt(s) => {
                // LIMIT ALL and LIMIT NULL are none.
                let limited = match s.limit_count() {
                    Node::None => false,
                    Node::A_Const(c) => literal::value(c).is_some(),
                    _ => true,
                };
                // One row of all of them.
                if gathers(s) && !s.from_clause().is_empty() && !asks_for_one(s.where_clause()) {
                    let mut from = s.from_clause().iter();
                    match (from.next(), from.next()) {
                        (Some(Node::RangeSubselect(r)), None) => stack.push(r.subquery()),
                        _ => return true,
                    }
                    continue;
                }
                for target in s.target_list() {
                    if let Node::SubLink(l) = target.val()
                        && l.sub_link_type == nodes::SubLinkType::ARRAY_SUBLINK
                    {
                        stack.push(l.subselect());
                    }
                }
                if limited {
                    continue;
                }
                if s.op != nodes::SetOperation::SETOP_NONE {
                    stack.extend([Node::from(s.larg()), s.rarg().into()]);
                } else if !s.from_clause().is_empty() && !asks_for_one(s.where_clause()) && !aggregates(s) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// An output is an aggregate that keeps what it is given.
fn gathers(s: &nodes::SelectStmt) -> bool {
    s.group_clause().is_empty()
        && s.target_list().iter().any(|t| match t.val() {
            Node::FuncCall(f) => {
                let parts = f.funcname();
                let last = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str);
                f.over().is_none() && last.is_some_and(collects)
            }
            Node::JsonArrayAgg(_) | Node::JsonObjectAgg(_) => true,
            _ => false,
        })
}

/// `column = value` or `column IN (values)` under AND only.
fn asks_for_one(condition: Node<'_>) -> bool {
    let mut stack = vec![condition];
    while let Some(node) = stack.pop() {
        match node {
            Node::BoolExpr(b) if b.boolop == nodes::BoolExprType::AND_EXPR => stack.extend(b.args().iter()),
            Node::A_Expr(e) => {
                use nodes::A_Expr_Kind as Kind;
                let equal = e.name().len() == 1 && e.name().first().and_then(Node::as_str) == Some("=");
                let found = match (e.kind, e.lexpr(), e.rexpr()) {
                    (Kind::AEXPR_OP, Node::ColumnRef(_), other)
                    | (Kind::AEXPR_OP, other, Node::ColumnRef(_)) => constant(other),
                    (Kind::AEXPR_IN, Node::ColumnRef(_), list) => {
                        list.as_node_list().is_some_and(|l| l.iter().all(constant))
                    }
                    _ => false,
                };
                if equal && found {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// Each of `key` is compared with written or bound values, by `=` or IN, under AND only: a few rows of one table, and which. `called`: the
/// table, as the condition calls it.
/// `variable`: what is no column there, but one value.
pub(crate) fn by_key(
    condition: Node<'_>,
    called: Option<Name<'_>>,
    key: &[&str],
    variable: &dyn Fn(&nodes::ColumnRef) -> bool,
) -> bool {
    use nodes::A_Expr_Kind as Kind;
    let constant = |mut node: Node<'_>| {
        while let Node::TypeCast(c) = node {
            node = c.arg();
        }
        constant(node) || matches!(node, Node::ColumnRef(c) if variable(c))
    };
    let constants = |mut list: Node<'_>| {
        while let Node::TypeCast(c) = list {
            list = c.arg();
        }
        match list {
            Node::A_ArrayExpr(list) => list.elements().iter().all(constant),
            list => constant(list),
        }
    };
    let mut asked = Vec::new();
    let mut stack = vec![condition];
    while let Some(node) = stack.pop() {
        match node {
            Node::BoolExpr(b) if b.boolop == nodes::BoolExprType::AND_EXPR => stack.extend(b.args().iter()),
            Node::A_Expr(e)
                if e.name().len() == 1 && e.name().first().and_then(Node::as_str) == Some("=") =>
            {
                let column = match (e.kind, e.lexpr(), e.rexpr()) {
                    (Kind::AEXPR_OP, Node::ColumnRef(c), other) if constant(other) => c,
                    (Kind::AEXPR_OP, other, Node::ColumnRef(c)) if constant(other) => c,
                    // `= ANY ($1)`, as drivers bind a list.
                    (Kind::AEXPR_OP_ANY, Node::ColumnRef(c), list) if constants(list) => c,
                    (Kind::AEXPR_IN, Node::ColumnRef(c), list)
                        if list.as_node_list().is_some_and(|l| l.iter().all(constant)) =>
                    {
                        c
                    }
                    _ => continue,
                };
                let part = |back: usize| {
                    let fields = column.fields();
                    fields.len().checked_sub(back).and_then(|i| fields.get(i)).and_then(Node::as_str)
                };
                // Another table may have the same name in another schema.
                let own = |table| {
                    called.is_some_and(|c| c.name == table && part(3).is_none_or(|s| c.schema == Some(s)))
                };
                if part(2).is_none_or(own) {
                    asked.extend(part(1));
                }
            }
            _ => {}
        }
    }
    !key.is_empty() && key.iter().all(|k| asked.contains(k))
}

/// It sends by `pg_notify` what it reads in other places than the rows of its own answer, where nobody counts it. What is written out
/// or bound may be sent from everywhere.
pub(crate) fn sends_uncounted(statement: Node<'_>) -> bool {
    let sends = |node: Node<'_>| {
        let Node::FuncCall(f) = node else { return false };
        let parts = f.funcname();
        let last = parts.len().checked_sub(1).and_then(|i| parts.get(i)).and_then(Node::as_str);
        last == Some("pg_notify") && !f.args().iter().all(constant)
    };
    let mut calls = 0usize;
    let mut stack = vec![statement];
    while let Some(node) = stack.pop() {
        calls += usize::from(sends(node));
        if children(node, &mut stack).is_err() {
            return true;
        }
    }
    let output = |target: Node<'_>| matches!(target, Node::ResTarget(t) if sends(t.val()));
    let returned = |clause: Option<&nodes::ReturningClause>| {
        clause.map_or(0, |c| c.exprs().iter().filter(|t| output(*t)).count())
    };
    let counted = match statement {
        // A row that is skipped, or made one with others, is sent all the same.
        Node::SelectStmt(s)
            if s.op == nodes::SetOperation::SETOP_NONE
                && matches!(s.limit_offset(), Node::None)
                && s.distinct_clause().is_empty() =>
        {
            s.target_list().iter().filter(|t| output((*t).into())).count()
        }
        Node::InsertStmt(s) => returned(s.returning_clause()),
        Node::UpdateStmt(s) => returned(s.returning_clause()),
        Node::DeleteStmt(s) => returned(s.returning_clause()),
        _ => 0,
    };
    calls > counted
}

/// A query whose answer is a few rows by its form: LIMIT up to ten, aggregates only, or one table by its key, as `key` knows it.
pub(crate) fn few(statement: Node<'_>, key: &dyn Fn(Name<'_>) -> Option<Vec<String>>) -> bool {
    let Node::SelectStmt(s) = statement else { return false };
    if s.op != nodes::SetOperation::SETOP_NONE || !s.values_lists().is_empty() {
        return false;
    }
    if let Node::A_Const(c) = s.limit_count()
        // Not marked as read: whether it may use the last of a budget is all that hangs on it.
        && matches!(literal::value(c), Some(pg_raw_parse::ConstValue::Integer(n)) if n <= 10)
    {
        return true;
    }
    let mut from = s.from_clause().iter();
    match (from.next(), from.next()) {
        (Some(Node::RangeVar(r)), None) => {
            // An alias may give the columns other names, and a CTE has no key.
            let renamed = r.alias().is_some_and(|a| !a.colnames().is_empty()) || s.with_clause().is_some();
            aggregates(s)
                || key(name(r)).filter(|_| !renamed).is_some_and(|key| {
                    let key: Vec<&str> = key.iter().map(String::as_str).collect();
                    by_key(s.where_clause(), Some(called(r)), &key, &|_| false)
                })
        }
        _ => aggregates(s),
    }
}

/// A query that stores its answer keeps nothing of single rows: it answers one row of counts and constants.
pub(crate) fn sums_only(statement: Node<'_>) -> bool {
    let query = match statement {
        Node::InsertStmt(i) => i.select_stmt(),
        Node::CreateTableAsStmt(c) => c.query(),
        _ => return false,
    };
    matches!(query, Node::SelectStmt(s) if s.op == nodes::SetOperation::SETOP_NONE
        && s.values_lists().is_empty()
        && s.with_clause().is_none()
        && counts_or_constants(s))
}

/// As [`aggregates`], of `count` alone and beside constants: no single value can be read from it.
fn counts_or_constants(s: &nodes::SelectStmt) -> bool {
    s.group_clause().is_empty()
        && s.target_list().iter().all(|t| {
            let mut node = t.val();
            while let Node::TypeCast(c) = node {
                node = c.arg();
            }
            match node {
                Node::FuncCall(f) => {
                    f.over().is_none()
                        && f.funcname().len() == 1
                        && f.funcname().first().and_then(Node::as_str).is_some_and(|n| n == "count")
                }
                node => constant(node),
            }
        })
}

/// One row whatever is read: every output an aggregate, no GROUP BY.
fn aggregates(s: &nodes::SelectStmt) -> bool {
    const ONE_ROW: &[&str] = &["avg", "count", "max", "min", "sum"];
    s.group_clause().is_empty()
        && s.target_list().iter().all(|t| match t.val() {
            Node::FuncCall(f) => {
                f.over().is_none()
                    && f.funcname().len() == 1
                    && f.funcname().first().and_then(Node::as_str).is_some_and(|n| ONE_ROW.contains(&n))
            }
            _ => false,
        })
}

/// A value written out or bound, under casts.
pub(crate) fn constant(node: Node<'_>) -> bool {
    let mut node = node;
    loop {
        match node {
            Node::A_Const(_) | Node::ParamRef(_) => return true,
            Node::TypeCast(c) => node = c.arg(),
            _ => return false,
        }
    }
}
