//! Rules as people write them (`policy/*.yaml`), and the [`Policy`] compiled from them.
//!
//! Not a YAML reader: the caller turns a file into a [`PolicyFile`] and says on which line each rule stands. Invariant: a policy is
//! compiled whole or not at all, and every mistake is reported in one go. Shape of the file: README.md, "Rule reference".

use foldhash::{HashMap, HashSet, HashSetExt as _};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::catalog::Catalog;
use crate::detect::Detector;
use crate::judge::{Bound, Judge};
use crate::lineage::ColumnName;
use crate::mask::{HashKey, Mask, Path, Treatment};
use crate::shape;
use crate::sql::facts::{CLASSES, OBJECTS};
use crate::subject::Subject;
use crate::verdict::{Block, Pass};

/// One policy file as written.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// Mode of every rule that names none.
    #[serde(default)]
    pub mode: Mode,
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Checked by `lockgate policy test`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Test>,
}

/// Whether a rule acts or only says what it would have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Enforce,
    Observe,
}

/// One rule: where it holds, and one thing it does.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in the whole policy; clients are told this name.
    pub name: String,
    #[serde(default)]
    pub on: On,
    /// Mask the columns of `on.columns`. `null`, `redact`, `hash`, `{fixed: text}` or `{partial: {keep_last: 4}}`.
    #[serde(default, deserialize_with = "present_mask", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Mask>")]
    pub mask: Option<Mask>,
    /// Mask what these find in the texts and JSON values of `on.columns`: `email`, `card`, `iban`, `phone`, `national-id`, `key`,
    /// `jwt`. The rest of a value is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detect: Vec<Detector>,
    /// Refuse the statement with this message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Reserved: approvals are not built yet, and a rule that asks for one is a mistake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub approve: Option<serde_json::Value>,
    /// Block only UPDATE and DELETE that leave no row out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing_where: bool,
    /// Block only UPDATE and DELETE that do not name their rows by the table's primary key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing_key: bool,
    /// Block only queries without LIMIT and without `column = value`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unbounded: bool,
    /// Block everything but this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Only>,
    /// Let statements run, but end a result with `block`'s message when it has more rows than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Rows>,
    /// For masks: what conditions, joins, sorting and grouping may do with the masked columns; default `equality`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicates: Option<Predicates>,
    /// For masks under `predicates: equality`: how many different values of the columns one identity may ask about in an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    /// Who the rule does not hold for: `group:dba`, `identity:ana@corp.com`, or a plain name, which means either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// The whole of what is allowed, in each list that is given; a list that is absent allows everything of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Only {
    /// `schema.table`, `table`, `*.table` or `schema.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<String>>,
    /// Statement classes, at every depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statements: Option<Vec<String>>,
    /// Functions called by name, whatever their schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub functions: Option<Vec<String>>,
    /// Whole statements in their normal form, `?` for every literal, as `lockgate suggest` writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shapes: Option<Vec<String>>,
}

/// How many rows may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Of one result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_result: Option<u64>,
    /// Of all results of one identity under this rule, in every hour, over all its sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<u64>,
}

/// What a statement may do with a masked column besides showing it masked.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Predicates {
    /// Nothing: not even look up a row by its value.
    Refuse,
    /// `column = value` with a value written out or bound, counted against `probes`; and whether it is NULL.
    #[default]
    Equality,
    /// Anything.
    Allow,
}

/// Where a rule holds. Everything that is said must hold at once; within one list any entry is enough.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct On {
    /// Connection names; absent or `*`: every connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<OneOrMany>,
    /// For masks and `rows`: `schema.table.column`, `table.column` or `*.table.column` (any schema).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// For masks: only these places in the JSON values of `columns`: `$.contact.email`, `$.cards[*].number`, `$..ssn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub json: Vec<String>,
    /// For blocks: statement classes (`drop`, `update`, …) or class and object (`create-function`, `alter-system`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// For blocks: `schema.table`, `table` or `*.table`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// For blocks: functions called by name, whatever their schema.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
    /// Only members of one of these groups. A trailing `*` stands for any ending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Only these identities. With `groups`: either is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn list(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// A statement and what the rules should make of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    #[serde(rename = "as", default)]
    pub who: Who,
    /// Connection; absent: every one that a rule names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    pub sql: String,
    pub expect: Expect,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Who {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Runs, and nothing in its answer is masked.
    Pass,
    /// Refused by this rule.
    Block(String),
    /// Runs, with these columns of its answer masked.
    Mask(Vec<String>),
}

/// `mask: null` is a mask; a missing `mask` is none.
fn present_mask<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Mask>, D::Error> {
    Ok(Some(Option::<Mask>::deserialize(d)?.unwrap_or(Mask::Null)))
}

/// A policy file with its origin, ready for [`compile`].
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// As it should appear in messages: `policy/shop.yaml`.
    pub name: String,
    pub file: PolicyFile,
    /// Line of each rule, where known.
    pub lines: Vec<Option<u32>>,
}

/// A mistake in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {path}: {message}")]
pub struct Problem {
    pub file: String,
    /// `rules[2].mask`
    pub path: String,
    pub line: Option<u32>,
    pub message: String,
}

/// A compiled, immutable policy: every file of a configuration together.
#[derive(Debug, Default)]
pub struct Policy {
    /// Short hash of everything the policy was compiled from.
    pub revision: String,
    rules: Vec<Arc<Compiled>>,
    key: Option<HashKey>,
    scopes: Mutex<HashMap<Vec<usize>, Arc<Scope>>>,
}

/// A rule, checked.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub name: String,
    /// `policy/shop.yaml:12`
    pub place: String,
    pub enforce: bool,
    pub action: Action,
    connections: Vec<String>,
    groups: Vec<String>,
    identities: Vec<String>,
    except: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Action {
    Mask { columns: Vec<ColumnPattern>, mask: Treatment, asking: Asking },
    Block(BlockRule),
    Rows(RowsRule),
}

/// How a masked column may be asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    pub predicates: Predicates,
    pub probes: u32,
}

impl Default for Asking {
    fn default() -> Asking {
        Asking { predicates: Predicates::default(), probes: PROBES_PER_HOUR }
    }
}

impl Asking {
    pub(crate) fn stricter(&self, than: &Asking) -> bool {
        (self.predicates, self.probes) < (than.predicates, than.probes)
    }
}

/// Different values of a masked column one identity may ask about in an hour where a rule does not say.
pub const PROBES_PER_HOUR: u32 = 1_000;

#[derive(Debug)]
pub(crate) struct RowsRule {
    pub tables: Vec<TablePattern>,
    pub columns: Vec<ColumnPattern>,
    pub limit: Arc<RowLimit>,
}

/// How many rows the results of a statement may have. The key of the hourly budget is the identity and [`RowLimit::rule`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowLimit {
    pub rule: String,
    /// `policy/shop.yaml:12`
    pub place: String,
    /// What the rule says to whoever meets the limit.
    pub message: String,
    pub per_result: Option<u64>,
    pub per_hour: Option<u64>,
    /// False: the rule only observes; count and record, and let the rows pass.
    pub enforce: bool,
}

impl RowLimit {
    /// The error that ends a result at its limit, or refuses a statement whose budget is used up.
    pub fn refusal(&self, hourly: bool) -> Block {
        let (limit, of) = if hourly { (self.per_hour, "an hour") } else { (self.per_result, "one result") };
        Block {
            rule: self.rule.clone(),
            place: self.place.clone(),
            message: self.message.clone(),
            sqlstate: "54000",
            schema: None,
            table: None,
            column: None,
            hint: format!(
                "The limit is {} rows in {of}. Ask for fewer (WHERE, LIMIT, an aggregate), or ask the owner of this connection.",
                limit.unwrap_or_default()
            ),
        }
    }
}

#[derive(Debug)]
pub(crate) struct BlockRule {
    pub message: String,
    pub statements: Vec<String>,
    pub tables: Vec<TablePattern>,
    pub functions: Vec<String>,
    pub missing_where: bool,
    pub missing_key: bool,
    pub unbounded: bool,
    pub only: Option<OnlyRule>,
}

/// `only:`, checked.
#[derive(Debug)]
pub(crate) struct OnlyRule {
    pub tables: Option<Vec<TablePattern>>,
    pub statements: Option<Vec<String>>,
    pub functions: Option<Vec<String>>,
    pub shapes: Option<HashSet<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablePattern {
    /// `None`: any.
    pub schema: Option<String>,
    pub table: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnPattern {
    pub table: TablePattern,
    pub column: String,
}

impl TablePattern {
    /// Case is ignored: catching `Customers` beside `customers` is safe, missing it is not.
    pub(crate) fn matches(&self, schema: Option<&str>, table: &str) -> bool {
        (self.table == "*" || self.table.eq_ignore_ascii_case(table))
            && match (&self.schema, schema) {
                (Some(wanted), Some(schema)) => wanted.eq_ignore_ascii_case(schema),
                // A name without a schema may mean any.
                _ => true,
            }
    }
}

/// The rules that touch one subject on one connection.
#[derive(Debug, Default)]
pub struct Scope {
    pub(crate) rules: Vec<Arc<Compiled>>,
    pub(crate) key: Option<HashKey>,
    pub(crate) enforces: bool,
    masks: bool,
    limits: Vec<Arc<RowLimit>>,
    /// The last catalogues bound, so that sessions share one resolution.
    bound: Mutex<Vec<(Weak<Catalog>, Arc<Bound>)>>,
}

/// Checks and compiles every file of a configuration together. `key` is what `hash` masks are keyed with.
///
/// # Errors
/// Every mistake found, in the order of the files.
pub fn compile(sources: &[Source], key: Option<HashKey>) -> Result<Policy, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut rules: Vec<Arc<Compiled>> = Vec::new();
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for source in sources {
        digest.update(source.name.as_bytes());
        match serde_json::to_vec(&source.file) {
            Ok(bytes) => digest.update(&bytes),
            Err(error) => problems.push(Problem {
                file: source.name.clone(),
                path: "$".into(),
                line: None,
                message: error.to_string(),
            }),
        }
        for (i, rule) in source.file.rules.iter().enumerate() {
            let line = source.lines.get(i).copied().flatten();
            let mut checker =
                Checker { file: &source.name, at: format!("rules[{i}]"), line, problems: &mut problems };
            if rules.iter().any(|r| r.name == rule.name) {
                checker.say("name", format!("there is another rule named {:?}", rule.name));
            }
            let mode = rule.mode.unwrap_or(source.file.mode);
            if let Some(compiled) = checker.rule(rule, mode, key.is_some()) {
                rules.push(Arc::new(compiled));
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let revision = digest.finish().as_ref().iter().take(6).map(|b| format!("{b:02x}")).collect();
    Ok(Policy { revision, rules, key, scopes: Mutex::default() })
}

/// Checks one rule and notes what is wrong under its path.
struct Checker<'a> {
    file: &'a str,
    at: String,
    line: Option<u32>,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn say(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            path: format!("{}.{field}", self.at),
            line: self.line,
            message: message.into(),
        });
    }

    fn rule(&mut self, rule: &Rule, mode: Mode, has_key: bool) -> Option<Compiled> {
        let before = self.problems.len();
        if rule.name.is_empty() || !rule.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            self.say("name", "a name is made of letters, digits, '-', '_' and '.'");
        }
        for (field, list) in
            [("on.groups", &rule.on.groups), ("on.identities", &rule.on.identities), ("except", &rule.except)]
        {
            for (i, entry) in list.iter().enumerate() {
                if entry.is_empty() {
                    self.say(&format!("{field}[{i}]"), "is empty");
                }
            }
        }
        if let Some(connection) = &rule.on.connection
            && (connection.list().is_empty() || connection.list().iter().any(String::is_empty))
        {
            self.say("on.connection", "is empty; leave it out to mean every connection");
        }
        if rule.approve.is_some() {
            self.say("approve", "approvals are not available yet; use block");
        }
        let action = match (&rule.mask, &rule.block) {
            (Some(_), None) if !rule.detect.is_empty() => {
                self.say("detect", "a rule masks or detects, not both; write two rules");
                None
            }
            (None, None) if !rule.detect.is_empty() => self.mask(rule, None, has_key),
            (Some(_), Some(_)) => {
                self.say("block", "a rule masks or blocks, not both; write two rules");
                None
            }
            (None, None) => {
                if rule.approve.is_none() {
                    self.say("mask", "a rule needs mask, detect or block");
                }
                None
            }
            (Some(mask), None) => self.mask(rule, Some(mask), has_key),
            (None, Some(message)) => match &rule.rows {
                Some(rows) => self.rows(rule, rows, message, mode),
                None => self.block(rule, message),
            },
        };
        let action = action.filter(|_| self.problems.len() == before)?;
        Some(Compiled {
            name: rule.name.clone(),
            place: self.place(),
            enforce: mode == Mode::Enforce,
            action,
            connections: rule.on.connection.as_ref().map(|c| c.list().to_vec()).unwrap_or_default(),
            groups: rule.on.groups.clone(),
            identities: rule.on.identities.clone(),
            except: rule.except.clone(),
        })
    }

    fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.to_owned(),
        }
    }

    /// A rule with `mask`, or without: with `detect`.
    fn mask(&mut self, rule: &Rule, mask: Option<&Mask>, has_key: bool) -> Option<Action> {
        for (field, list) in [
            ("on.statements", &rule.on.statements),
            ("on.tables", &rule.on.tables),
            ("on.functions", &rule.on.functions),
        ] {
            if !list.is_empty() {
                self.say(field, "belongs to block rules; a mask names on.columns");
            }
        }
        for (field, said) in [
            ("missing_where", rule.missing_where),
            ("missing_key", rule.missing_key),
            ("unbounded", rule.unbounded),
            ("only", rule.only.is_some()),
            ("rows", rule.rows.is_some()),
        ] {
            if said {
                self.say(field, "belongs to block rules");
            }
        }
        if rule.probes == Some(0) {
            self.say("probes", "0 allows no lookup; say predicates: refuse");
        }
        if rule.probes.is_some() && !matches!(rule.predicates, None | Some(Predicates::Equality)) {
            self.say("probes", "is counted under predicates: equality only");
        }
        if rule.on.columns.is_empty() {
            self.say("on.columns", "a mask needs the columns it masks");
        }
        match mask {
            Some(Mask::Hash) if !has_key => self.say("mask", "hash needs a key; none is configured"),
            Some(Mask::Partial(p)) if p.keep_first == 0 && p.keep_last == 0 => {
                self.say("mask.partial", "keeps nothing; say keep_first or keep_last, or use redact");
            }
            Some(Mask::Fixed(f)) if f.text().contains('\0') => {
                self.say("mask.fixed", "a text cannot hold a NUL character")
            }
            _ => {}
        }
        let mut paths = Vec::new();
        for (i, text) in rule.on.json.iter().enumerate() {
            match Path::parse(text) {
                Ok(path) => paths.push(path),
                Err(error) => self.say(&format!("on.json[{i}]"), error.to_string()),
            }
        }
        let treatment = match mask {
            Some(mask) if rule.on.json.is_empty() => Treatment::Whole(mask.clone()),
            Some(mask) => {
                let json: Vec<_> = paths.into_iter().map(|path| (path, mask.clone())).collect();
                if !Treatment::fits(&json) {
                    self.say("on.json", "more than 256 different steps in all");
                }
                Treatment::Inside { json, detect: Default::default() }
            }
            None => {
                if !rule.on.json.is_empty() {
                    self.say("on.json", "belongs to mask; detect looks at whole values");
                }
                Treatment::Inside { json: Vec::new(), detect: rule.detect.iter().copied().collect() }
            }
        };
        let columns = self.columns(rule);
        let asking = Asking {
            predicates: rule.predicates.unwrap_or_default(),
            probes: rule.probes.unwrap_or(PROBES_PER_HOUR),
        };
        Some(Action::Mask { columns, mask: treatment, asking })
    }

    fn columns(&mut self, rule: &Rule) -> Vec<ColumnPattern> {
        let mut columns = Vec::new();
        for (i, text) in rule.on.columns.iter().enumerate() {
            match parts(text).as_deref() {
                Some([table, column]) => {
                    columns.push(ColumnPattern { table: pattern(None, table), column: column.clone() });
                }
                Some([schema, table, column]) => {
                    columns
                        .push(ColumnPattern { table: pattern(Some(schema), table), column: column.clone() });
                }
                _ => self.say(
                    &format!("on.columns[{i}]"),
                    format!("{text:?} is not schema.table.column, table.column or *.table.column"),
                ),
            }
        }
        for (i, c) in columns.iter().enumerate() {
            if c.table.table == "*" || c.column == "*" {
                self.say(&format!("on.columns[{i}]"), "only the schema may be *");
            }
        }
        columns
    }

    fn rows(&mut self, rule: &Rule, rows: &Rows, message: &str, mode: Mode) -> Option<Action> {
        self.message(message);
        self.not_asked(rule);
        for (field, said) in [
            ("on.statements", !rule.on.statements.is_empty()),
            ("on.functions", !rule.on.functions.is_empty()),
            ("missing_where", rule.missing_where),
            ("missing_key", rule.missing_key),
            ("unbounded", rule.unbounded),
            ("only", rule.only.is_some()),
        ] {
            if said {
                self.say(field, "does not go with rows; write two rules");
            }
        }
        if rows.per_result.is_none() && rows.per_hour.is_none() {
            self.say("rows", "needs per_result or per_hour");
        }
        let limit = RowLimit {
            rule: rule.name.clone(),
            place: self.place(),
            message: message.to_owned(),
            per_result: rows.per_result,
            per_hour: rows.per_hour,
            enforce: mode == Mode::Enforce,
        };
        let (tables, columns) = (self.tables("on.tables", &rule.on.tables, false), self.columns(rule));
        Some(Action::Rows(RowsRule { tables, columns, limit: Arc::new(limit) }))
    }

    fn message(&mut self, message: &str) {
        if message.trim().is_empty() {
            self.say("block", "needs a message for whoever is refused");
        }
    }

    fn not_asked(&mut self, rule: &Rule) {
        for (field, said) in [
            ("predicates", rule.predicates.is_some()),
            ("probes", rule.probes.is_some()),
            ("detect", !rule.detect.is_empty()),
            ("on.json", !rule.on.json.is_empty()),
        ] {
            if said {
                self.say(field, "belongs to mask rules");
            }
        }
    }

    fn block(&mut self, rule: &Rule, message: &str) -> Option<Action> {
        self.message(message);
        self.not_asked(rule);
        if !rule.on.columns.is_empty() {
            self.say(
                "on.columns",
                "belongs to mask rules; a block names on.statements, on.tables or on.functions",
            );
        }
        if rule.on.statements.is_empty()
            && rule.on.tables.is_empty()
            && rule.on.functions.is_empty()
            && !rule.missing_where
            && !rule.missing_key
            && !rule.unbounded
            && rule.only.is_none()
        {
            self.say(
                "on",
                "a block needs statements, tables, functions, missing_where, missing_key, unbounded or only",
            );
        }
        let only = rule.only.as_ref().map(|only| self.only(rule, only));
        let statements = self.statements("on.statements", &rule.on.statements);
        let tables = self.tables("on.tables", &rule.on.tables, false);
        Some(Action::Block(BlockRule {
            message: message.to_owned(),
            statements,
            tables,
            functions: lower(&rule.on.functions),
            missing_where: rule.missing_where,
            missing_key: rule.missing_key,
            unbounded: rule.unbounded,
            only,
        }))
    }

    fn only(&mut self, rule: &Rule, only: &Only) -> OnlyRule {
        if !(rule.on.statements.is_empty() && rule.on.tables.is_empty() && rule.on.functions.is_empty())
            || rule.missing_where
            || rule.missing_key
            || rule.unbounded
        {
            self.say("only", "lists what is allowed and nothing else; write what is blocked as another rule");
        }
        if *only == Only::default() {
            self.say("only", "needs tables, statements, functions or shapes");
        }
        OnlyRule {
            tables: only.tables.as_ref().map(|t| self.tables("only.tables", t, true)),
            statements: only.statements.as_ref().map(|s| self.statements("only.statements", s)),
            functions: only.functions.as_ref().map(|f| lower(f)),
            shapes: only.shapes.as_ref().map(|s| self.shapes(s)),
        }
    }

    fn shapes(&mut self, texts: &[String]) -> HashSet<String> {
        let mut shapes = HashSet::new();
        for (i, text) in texts.iter().enumerate() {
            match shape::listed(text) {
                Some(shape) => drop(shapes.insert(shape)),
                None => self.say(
                    &format!("only.shapes[{i}]"),
                    format!("{text:?} is not one statement that can be read"),
                ),
            }
        }
        shapes
    }

    fn statements(&mut self, field: &str, words: &[String]) -> Vec<String> {
        let mut statements = Vec::new();
        for (i, word) in words.iter().enumerate() {
            let class = word.to_ascii_lowercase().replace(['_', ' '], "-");
            let known = CLASSES.contains(&class.as_str())
                || class.split_once('-').is_some_and(|(c, o)| CLASSES.contains(&c) && OBJECTS.contains(&o));
            if !known {
                self.say(
                    &format!("{field}[{i}]"),
                    format!(
                        "{word:?} is no statement class; known are {} and class-object like create-function",
                        CLASSES.join(", ")
                    ),
                );
            }
            statements.push(class);
        }
        statements
    }

    /// `wide`: `schema.*` stands for all of a schema.
    fn tables(&mut self, field: &str, texts: &[String], wide: bool) -> Vec<TablePattern> {
        let mut tables = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            match parts(text).as_deref() {
                Some([table]) if table != "*" => tables.push(pattern(None, table)),
                Some([schema, table]) if table != "*" || (wide && schema != "*") => {
                    tables.push(pattern(Some(schema), table));
                }
                _ => self
                    .say(&format!("{field}[{i}]"), format!("{text:?} is not schema.table, table or *.table")),
            }
        }
        tables
    }
}

fn lower(names: &[String]) -> Vec<String> {
    names.iter().map(|n| n.to_ascii_lowercase()).collect()
}

/// `a.b."C.d"` → parts; `None` when a part is empty or a quote is open.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => parts.last_mut()?.push(c),
        }
    }
    (!quoted && parts.iter().all(|p| !p.is_empty() && *p == p.trim())).then_some(parts)
}

fn pattern(schema: Option<&String>, table: &str) -> TablePattern {
    TablePattern { schema: schema.filter(|s| *s != "*").cloned(), table: table.to_owned() }
}

/// `pattern` names `name`, or all that begin like it when it ends in `*`.
fn names(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

impl Compiled {
    fn touches(&self, subject: &Subject, connection: &str) -> bool {
        let any = |list: &[String], name: &str| list.iter().any(|p| names(p, name));
        let is = |list: &[String]| subject.groups.iter().any(|g| any(list, g));
        let who = (self.groups.is_empty() && self.identities.is_empty())
            || is(&self.groups)
            || any(&self.identities, &subject.identity);
        let excepted = self.except.iter().any(|entry| {
            let group = |p: &str| subject.groups.iter().any(|g| names(p, g));
            match entry.split_once(':') {
                Some(("group", p)) => group(p),
                Some(("identity", p)) => names(p, &subject.identity),
                _ => group(entry) || names(entry, &subject.identity),
            }
        });
        (self.connections.is_empty() || any(&self.connections, connection)) && who && !excepted
    }
}

/// Beyond this many different rule sets the table of shared scopes starts anew; live sessions keep theirs.
const SCOPES_MAX: usize = 4_096;
/// Catalogues a scope remembers: the newest of a few databases.
const BOUND_MAX: usize = 8;

impl Policy {
    /// The rules that touch `subject` on `connection`. Same rules, same `Arc`.
    pub fn scope(&self, subject: &Subject, connection: &str) -> Arc<Scope> {
        let chosen: Vec<usize> = self
            .rules
            .iter()
            .enumerate()
            .filter(|(_, r)| r.touches(subject, connection))
            .map(|(i, _)| i)
            .collect();
        // A poisoned lock holds nothing half-done: the map is only ever inserted into.
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = scopes.get(&chosen) {
            return scope.clone();
        }
        if scopes.len() >= SCOPES_MAX {
            scopes.clear();
        }
        let rules: Vec<_> = chosen.iter().filter_map(|i| self.rules.get(*i).cloned()).collect();
        let enforces = rules.iter().any(|r| r.enforce);
        let masks = rules.iter().any(|r| r.enforce && matches!(r.action, Action::Mask { .. }));
        let limits = rules
            .iter()
            .filter_map(|r| match &r.action {
                Action::Rows(rows) => Some(rows.limit.clone()),
                Action::Mask { .. } | Action::Block(_) => None,
            })
            .collect();
        let key = self.key.clone();
        let scope = Arc::new(Scope { rules, key, enforces, masks, limits, bound: Mutex::default() });
        scopes.insert(chosen, scope.clone());
        scope
    }

    /// How many rules there are.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Every column some mask rule names, by the rule's name: for whomever, wherever, enforced or observed.
    pub fn sensitive(&self, catalog: &Catalog) -> Vec<(String, ColumnName)> {
        let mut out = Vec::new();
        for rule in &self.rules {
            let Action::Mask { columns, .. } = &rule.action else { continue };
            for pattern in columns {
                let tables =
                    catalog.tables.iter().filter(|t| pattern.table.matches(Some(&t.schema), &t.name));
                for table in tables {
                    let named = table.columns.iter().filter(|c| c.name.eq_ignore_ascii_case(&pattern.column));
                    out.extend(named.map(|c| {
                        let (schema, table) = (table.schema.clone(), table.name.clone());
                        (rule.name.clone(), ColumnName { schema, table, column: c.name.clone() })
                    }));
                }
            }
        }
        out
    }
}

impl Scope {
    /// No rule touches: bytes are forwarded untouched, no catalogue is needed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Evidence for bytes no rule touches; none when one does.
    pub fn evidence(&self) -> Option<Pass> {
        self.is_empty().then(Pass::judged)
    }

    /// Evidence for what a target answers where no mask is in force; none when one is.
    pub fn unmasked(&self) -> Option<Pass> {
        (!self.masks).then(Pass::judged)
    }

    /// A mask rule is in force (enforced, not only observed).
    pub fn masks(&self) -> bool {
        self.masks
    }

    /// Every row limit: what holds for a result of which nothing is known.
    pub fn row_limits(&self) -> &[Arc<RowLimit>] {
        &self.limits
    }

    /// Name and place of every rule in scope, and whether it is enforced.
    pub fn named(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.rules.iter().map(|r| (r.name.as_str(), r.place.as_str(), r.enforce))
    }

    /// How many rules, for the banner.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Resolves the rules' tables and columns against a catalogue. Cheap when this scope has met this catalogue before.
    pub fn bind(self: &Arc<Scope>, catalog: Arc<Catalog>) -> Judge {
        let mut known = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(weak, _)| weak.strong_count() > 0);
        let found = known.iter().find(|(weak, _)| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(&catalog)));
        if let Some((_, bound)) = found {
            return Judge { scope: self.clone(), bound: bound.clone(), catalog, made: Arc::default() };
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let bound = Arc::new(Bound::new(NEXT.fetch_add(1, Ordering::Relaxed), self, &catalog));
        if known.len() >= BOUND_MAX {
            known.remove(0);
        }
        known.push((Arc::downgrade(&catalog), bound.clone()));
        Judge { scope: self.clone(), bound, catalog, made: Arc::default() }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(json: &str) -> Source {
        Source {
            name: "p.yaml".into(),
            file: serde_json::from_str(json).expect("shape"),
            lines: vec![Some(3), None],
        }
    }

    fn subject(identity: &str, groups: &[&str]) -> Subject {
        Subject { identity: identity.into(), groups: groups.iter().map(|g| Arc::from(*g)).collect() }
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let source = source(
            r#"{"rules": [
                {"name": "a b", "on": {"columns": ["x"], "statements": ["drop"]}, "mask": "hash"},
                {"name": "b", "on": {"statements": ["dorp"]}, "block": ""},
                {"name": "b", "approve": {"by": ["dba"]}},
                {"name": "c", "mask": null, "block": "no"},
                {"name": "d", "on": {"tables": ["a.b.c"]}, "block": "no"}]}"#,
        );
        let problems = compile(&[source], None).expect_err("all wrong");
        let paths: Vec<_> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "rules[0].name",
                "rules[0].on.statements",
                "rules[0].mask",
                "rules[0].on.columns[0]",
                "rules[1].block",
                "rules[1].on.statements[0]",
                "rules[2].approve",
                "rules[3].block",
                "rules[4].on.tables[0]",
            ]
        );
        assert_eq!(problems[0].line, Some(3));
        assert!(serde_json::from_str::<PolicyFile>(r#"{"rulez": []}"#).is_err());
    }

    #[test]
    fn places_inside_values_are_checked() {
        let source = source(
            r#"{"rules": [
                {"name": "a", "on": {"columns": ["t.c"], "json": ["$.a", "b", "$"]}, "mask": "redact"},
                {"name": "b", "on": {"columns": ["t.c"], "json": ["$.a"]}, "detect": ["email"]},
                {"name": "c", "on": {"columns": ["t.c"]}, "mask": null, "detect": ["email"]},
                {"name": "d", "on": {"statements": ["drop"], "json": ["$.a"]}, "block": "no", "detect": ["jwt"]},
                {"name": "e", "on": {"statements": ["drop"]}, "detect": ["national-id"]}]}"#,
        );
        let problems = compile(&[source], None).expect_err("all wrong");
        let paths: Vec<_> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "rules[0].on.json[1]",
                "rules[0].on.json[2]",
                "rules[1].on.json",
                "rules[2].detect",
                "rules[3].detect",
                "rules[3].on.json",
                "rules[4].on.statements",
                "rules[4].on.columns",
            ]
        );
        assert!(
            serde_json::from_str::<PolicyFile>(r#"{"rules": [{"name": "a", "detect": ["mail"]}]}"#).is_err()
        );
    }

    #[test]
    fn null_is_a_mask_and_absence_is_none() {
        let file = |mask: &str| {
            let json = format!(r#"{{"rules": [{{"name": "a", "on": {{"columns": ["t.c"]}}, {mask}}}]}}"#);
            serde_json::from_str::<PolicyFile>(&json).expect("shape").rules[0].mask.clone()
        };
        assert_eq!(file(r#""mask": null"#), Some(Mask::Null));
        assert_eq!(file(r#""mask": "redact""#), Some(Mask::Redact));
        assert_eq!(file(r#""block": "x""#), None);
        assert!(matches!(file(r#""mask": {"fixed": "x"}"#), Some(Mask::Fixed(f)) if f.text() == "x"));
        assert!(
            matches!(file(r#""mask": {"fixed": {"text": "x"}}"#), Some(Mask::Fixed(f)) if f.text() == "x")
        );
        assert!(
            matches!(file(r#""mask": {"partial": {"keep_last": 4}}"#), Some(Mask::Partial(p)) if p.keep_last == 4)
        );
    }

    #[test]
    fn subjects_are_chosen_by_group_identity_and_exception() {
        let policy = compile(
            &[source(
                r#"{"rules": [
                {"name": "a", "on": {"connection": ["shop", "test-*"], "groups": ["support"], "identities": ["bo"],
                 "columns": ["t.c"]}, "mask": "redact", "except": ["group:dba", "identity:eve", "zoe"]},
                {"name": "b", "on": {"statements": ["drop"]}, "block": "no", "mode": "observe"}]}"#,
            )],
            None,
        )
        .expect("compiles");
        let rules = |identity: &str, groups: &[&str], connection: &str| {
            let scope = policy.scope(&subject(identity, groups), connection);
            (scope.rules(), scope.masks())
        };
        assert_eq!(rules("ana", &["support"], "shop"), (2, true));
        assert_eq!(rules("ana", &["support"], "test-1"), (2, true));
        assert_eq!(rules("ana", &["support"], "other"), (1, false));
        assert_eq!(rules("bo", &[], "shop"), (2, true));
        assert_eq!(rules("ana", &["support", "dba"], "shop"), (1, false));
        assert_eq!(rules("dba", &["support"], "shop"), (2, true), "group:dba is no identity");
        assert_eq!(rules("eve", &["support"], "shop"), (1, false));
        assert_eq!(rules("ana", &["support", "zoe"], "shop"), (1, false));
        let (a, b) = (subject("ana", &["support"]), subject("bo", &[]));
        assert!(Arc::ptr_eq(&policy.scope(&a, "shop"), &policy.scope(&b, "shop")));
        assert!(Policy::default().scope(&a, "shop").is_empty());
    }

    #[test]
    fn a_listed_shape_is_one_statement() {
        let source = source(
            r#"{"rules": [{"name": "a", "only": {"shapes": ["select ?", "select 'open", "select 1; select 2", ""]}, "block": "no"}]}"#,
        );
        let problems = compile(&[source], None).expect_err("three of them");
        let paths: Vec<_> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["rules[0].only.shapes[1]", "rules[0].only.shapes[2]", "rules[0].only.shapes[3]"]);
    }

    #[test]
    fn the_schema_speaks_of_every_key() {
        let schema = serde_json::to_string(&schemars::schema_for!(PolicyFile)).expect("JSON");
        for key in [
            "missing_where",
            "missing_key",
            "keep_last",
            "connection",
            "except",
            "observe",
            "redact",
            "national-id",
            "functions",
            "shapes",
            "\"null\"",
        ] {
            assert!(schema.contains(key), "{key}");
        }
        assert!(!schema.contains("approve"));
    }

    #[test]
    fn the_revision_changes_with_the_rules() {
        let one = compile(
            &[source(r#"{"rules": [{"name": "b", "on": {"statements": ["drop"]}, "block": "no"}]}"#)],
            None,
        );
        let two = compile(
            &[source(r#"{"rules": [{"name": "b", "on": {"statements": ["drop"]}, "block": "No"}]}"#)],
            None,
        );
        let (one, two) = (one.expect("compiles").revision, two.expect("compiles").revision);
        assert_eq!(one.len(), 12);
        assert_ne!(one, two);
    }
}
