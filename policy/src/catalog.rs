//! What the target's catalogue said: tables, their columns, how they descend from each other, functions.

use serde::{Deserialize, Serialize};

/// A snapshot of one database's catalogue. Plain data; loaded by the side path or from a file (`lockgate catalogue snapshot`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    /// Grows with every load of this process; part of every cache key.
    #[serde(default)]
    pub version: u64,
    pub database: String,
    /// `server_version_num`.
    pub server_version: u32,
    /// search_path in force at login for our role, resolved (`$user` replaced), as the server reports it.
    pub search_path: Vec<String>,
    pub tables: Vec<Table>,
    pub functions: Vec<Function>,
    /// What a write sets in motion. Absent (an older snapshot, or a target that does not tell): anything may follow from any write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<Writes>,
    /// Type names of users that are enums in every schema: reading one from text runs no code of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enums: Vec<String>,
    /// Primary keys: a table's OID and its columns' numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<(u32, Vec<i16>)>,
    /// Indexes by name, and the table of each: what is said of an index is said of its table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<(u32, String)>,
    /// What a write is compared with. Absent (an older snapshot): anything may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<Constraint>>,
    /// Code of users that runs without being called by name.
    #[serde(default)]
    pub code: Code,
}

/// Code of users that statements set in motion without naming it. In a snapshot of an older version there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Rewrite rules other than those of views: on which relation, and `pg_get_ruledef`.
    #[serde(default)]
    pub rules: Vec<(u32, String)>,
    /// Types of users by name, and the functions that bring a value into them: casts, checks of domains, their own or of what they are
    /// made of.
    #[serde(default)]
    pub conversions: Vec<(String, Vec<String>)>,
    /// By number and name, for who declares a parameter so: checks of domains as above, and casts out of a type instead of into it.
    #[serde(default)]
    pub typed: Vec<(u32, String, Vec<String>)>,
    /// Columns that a function of users fills: table, number, and the expression of the default or generated column.
    #[serde(default)]
    pub defaults: Vec<(u32, i16, String)>,
    /// Triggers that may change the row that is written: table and function.
    #[serde(default)]
    pub triggers: Vec<(u32, u32)>,
    /// All triggers: table, function, and on what they fire, as `pg_trigger.tgtype` says it (4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE).
    #[serde(default)]
    pub fired: Vec<(u32, u32, i16)>,
    /// Triggers whose function is built in or written in C: table, function by name, and what the trigger gives it, names of columns as
    /// a rule.
    #[serde(default)]
    pub built_in: Vec<(u32, String, Vec<String>)>,
    /// Functions of users that a write to a table calls, by name: those of defaults (true: an INSERT only), and those of checks,
    /// indexes and generated columns.
    #[serde(default)]
    pub run: Vec<(u32, bool, Vec<String>)>,
    /// Functions of event triggers, by name: they run when something is created, altered or dropped.
    #[serde(default)]
    pub on_ddl: Vec<String>,
    /// Aggregates and operators by name, and the functions of users they are made of.
    #[serde(default)]
    pub made_of: Vec<(String, Vec<String>)>,
    /// Foreign keys that cascade or set.
    #[serde(default)]
    pub follows: Vec<Follows>,
}

/// What becomes of rows that refer to one that is changed; events as in [`Code::fired`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The table that is changed, and by what.
    pub of: u32,
    pub on: i16,
    /// On UPDATE: the columns that have to change.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The table that refers to it, and what is done there.
    pub to: u32,
    pub does: i16,
}

/// A unique index, an exclusion constraint or a foreign key: whether a write meets it tells about the rows that are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// On which table, and as errors name it.
    pub table: u32,
    pub name: String,
    /// Of unique indexes; what `ON CONFLICT` looks at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unique: bool,
    /// The columns whose values it compares, of this table and of the one it refers to: OID and number.
    pub compares: Vec<(u32, i16)>,
}

/// What follows from a write besides the rows it names; tables by OID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    /// Writing to these may run code of users: a trigger, a rule, or a default, check, index, policy, generated column or domain that
    /// calls a function which is neither built in nor written in C.
    #[serde(default)]
    pub code: Vec<u32>,
    /// Changing rows of the first changes rows of the second: foreign keys that cascade or set.
    #[serde(default)]
    pub cascades: Vec<(u32, u32)>,
    /// Constraints and triggers of these may speak at the end of the transaction.
    #[serde(default)]
    pub deferred: Vec<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: r table, p partitioned, v view, m materialised view, f foreign, S sequence, c composite.
    pub kind: char,
    pub columns: Vec<TableColumn>,
    /// OIDs this table inherits from or is a partition of.
    #[serde(default)]
    pub parents: Vec<u32>,
    /// `pg_get_viewdef`, for views and materialised views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableColumn {
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    pub type_name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_null: bool,
    /// Generation expression, if it is a generated column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
}

#[cfg(test)]
impl Table {
    /// For tests: a table of texts in `public`, or a view.
    pub(crate) fn of(oid: u32, name: &str, columns: &[&str], definition: Option<&str>) -> Table {
        let column = |(name, number): (&&str, i16)| TableColumn {
            number,
            name: (*name).into(),
            type_oid: 25,
            type_name: "text".into(),
            not_null: false,
            generated: None,
        };
        Table {
            oid,
            schema: "public".into(),
            name: name.into(),
            kind: if definition.is_some() { 'v' } else { 'r' },
            columns: columns.iter().zip(1..).map(column).collect(),
            parents: Vec::new(),
            definition: definition.map(str::to_owned),
        }
    }
}

fn yes() -> bool {
    true
}

/// A function outside `pg_catalog` and `information_schema`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub language: String,
    /// `pg_proc.prokind`: f function, p procedure, a aggregate, w window.
    pub kind: char,
    /// Body (`prosrc`, or `pg_get_function_sqlbody` for SQL-standard bodies).
    #[serde(default)]
    pub body: String,
    /// `pg_get_function_arguments`: types and defaults.
    #[serde(default)]
    pub arguments: String,
    /// It may answer one call with any number of rows (`proretset`); an older snapshot does not say.
    #[serde(default = "yes")]
    pub rows: bool,
}
