//! Enough of PostgreSQL's catalogue for psql's `\d` and for drivers that look around: temporary tables named
//! like the system catalogues and filled from SQLite's own schema, and the functions such queries call.
//!
//! It is not PostgreSQL's catalogue: what the demo never has (policies, publications, extensions, …) is
//! answered with no rows, and a query that SQLite cannot run is refused with an error that says so. Columns
//! as in PostgreSQL 15, "System Catalogs".

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, params};

use super::data::{self, DATABASE, OID_VISITOR, SERVER_VERSION};
use super::values::Kind;

/// What our functions know about the schema as of the last [`Catalogue::refresh`].
#[derive(Default)]
pub(crate) struct Catalogue {
    names: Arc<Mutex<Names>>,
    /// `PRAGMA main.schema_version` when the tables were made; `None`: never.
    seen: Option<i64>,
}

#[derive(Default)]
struct Names {
    relations: HashMap<i64, String>,
    definitions: HashMap<i64, String>,
}

/// The OID of a table, stable for as long as the table is.
pub(crate) fn table_oid(db: &Connection, name: &str) -> rusqlite::Result<u32> {
    if let Some(table) = made(name) {
        return Ok(table.oid);
    }
    let row: i64 =
        db.query_row("select rowid from main.sqlite_schema where name = ?1", [name], |r| r.get(0))?;
    Ok(OID_VISITOR.saturating_add(u32::try_from(row).unwrap_or(u32::MAX / 2)))
}

/// The number of a column. In our own tables it depends on the name alone; a column that was added later is
/// far behind.
pub(crate) fn attribute(db: &Connection, table: &str, column: &str) -> rusqlite::Result<i16> {
    if let Some(table) = made(table) {
        let at = table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(column));
        return Ok(at.and_then(|at| i16::try_from(at + 1).ok()).unwrap_or(101));
    }
    db.query_row(
        "select cid + 1 from pragma_table_xinfo(?1) where name = ?2 collate nocase",
        [table, column],
        |r| r.get(0),
    )
    .or(Ok(101))
}

fn made(name: &str) -> Option<&'static data::Made> {
    data::TABLES.iter().find(|t| t.name.eq_ignore_ascii_case(name))
}

/// Catalogues that are always empty here.
const ABSENT: &[&str] = &[
    "pg_trigger",
    "pg_policy",
    "pg_statistic_ext",
    "pg_publication",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_subscription",
    "pg_inherits",
    "pg_foreign_table",
    "pg_foreign_server",
    "pg_extension",
    "pg_enum",
    "pg_range",
    "pg_sequence",
    "pg_rewrite",
    "pg_event_trigger",
    "pg_opclass",
    "pg_conversion",
    "pg_cast",
    "pg_matviews",
    "pg_auth_members",
    "pg_prepared_xacts",
];

/// Whether this catalogue is one of those that are always empty here.
pub(crate) fn absent(name: &str) -> bool {
    ABSENT.contains(&name)
}

impl Catalogue {
    /// Makes the catalogue tables anew when the schema has changed.
    pub(crate) fn refresh(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let version: i64 =
            db.query_row("select schema_version from pragma_schema_version", (), |r| r.get(0))?;
        if self.seen == Some(version) {
            return Ok(());
        }
        db.execute_batch(TABLES)?;
        let mut names = Names::default();
        let mut class = db.prepare(
            "insert into pg_class (oid, relname, relnamespace, relkind, relhasindex, relhastriggers, relnatts, relam, reltuples)
             values (?1, ?2, 2200, ?3, ?4, ?5, ?6, ?7, -1)",
        )?;
        let mut attribute_row = db.prepare(
            "insert into pg_attribute (attrelid, attname, atttypid, attlen, attnum, atttypmod, attnotnull, atthasdef)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let mut column_row = db.prepare(
            "insert into information_schema_columns values (?1, 'public', ?2, ?3, ?4, ?5, ?6, ?7, ?8, null, null, null)",
        )?;
        let mut objects = db.prepare(
            "select rowid, type, name, tbl_name, coalesce(sql, '') from main.sqlite_schema
             where type in ('table', 'view', 'index') order by type desc, rowid",
        )?;
        let objects: Vec<(i64, String, String, String, String)> = objects
            .query_map((), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (rowid, kind, name, table, sql) in &objects {
            if kind == "index" {
                self.index(db, *rowid, name, table, sql, &mut names, &mut class)?;
                continue;
            }
            let oid = i64::from(table_oid(db, name)?);
            let relkind = if kind == "view" { "v" } else { "r" };
            names.relations.insert(oid, name.clone());
            if kind == "view" {
                let body = sql
                    .split_once(" as ")
                    .or_else(|| sql.split_once(" AS "))
                    .map_or(sql.as_str(), |(_, b)| b);
                names.definitions.insert(oid, body.to_owned());
            }
            let mut columns =
                db.prepare("select name, type, \"notnull\", pk, dflt_value from pragma_table_xinfo(?1)")?;
            let columns: Vec<(String, String, bool, i64, Option<String>)> = columns
                .query_map([name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (place, (column, declared, not_null, key, default)) in (1i64..).zip(&columns) {
                let kind = Kind::declared(declared);
                let number = if relkind == "r" { i64::from(attribute(db, name, column)?) } else { place };
                let not_null = *not_null || *key > 0;
                attribute_row.execute(params![
                    oid,
                    column,
                    kind.oid(),
                    kind.size(),
                    number,
                    kind.modifier(),
                    not_null,
                    default.is_some()
                ])?;
                column_row.execute(params![
                    DATABASE,
                    name,
                    column,
                    number,
                    default,
                    if not_null { "NO" } else { "YES" },
                    kind.name(),
                    type_name(kind)
                ])?;
            }
            let keys = self.keys(db, oid, name, &columns, &mut names, &mut class)?;
            let foreign: i64 =
                db.query_row("select count(*) from pragma_foreign_key_list(?1)", [name], |r| r.get(0))?;
            let indexes = objects.iter().any(|(_, k, _, t, _)| k == "index" && t == name) || keys;
            let am = (relkind == "r").then_some(2);
            class.execute(params![
                oid,
                name,
                relkind,
                indexes,
                foreign > 0,
                columns.len() as i64,
                am.unwrap_or(0)
            ])?;
            db.execute(
                "insert into information_schema_tables values (?1, 'public', ?2, ?3)",
                params![DATABASE, name, if relkind == "v" { "VIEW" } else { "BASE TABLE" }],
            )?;
            let listed = if relkind == "v" {
                "insert into pg_views values ('public', ?1, 'gateway', ?2)"
            } else {
                "insert into pg_tables values ('public', ?1, 'gateway', ?2)"
            };
            db.execute(listed, params![name, sql])?;
        }
        self.foreign_keys(db, &mut names)?;
        for kind in EVERY_KIND {
            db.execute(
                "insert into pg_type (oid, typname, typlen) values (?1, ?2, ?3)",
                params![kind.oid(), type_name(*kind), kind.size()],
            )?;
        }
        if let Ok(mut known) = self.names.lock() {
            *known = names;
        }
        self.seen = Some(version);
        Ok(())
    }

    /// A primary key that is not one of SQLite's indexes of its own name gets a row of PostgreSQL's name.
    fn keys(
        &self,
        db: &Connection,
        oid: i64,
        table: &str,
        columns: &[(String, String, bool, i64, Option<String>)],
        names: &mut Names,
        class: &mut rusqlite::Statement<'_>,
    ) -> rusqlite::Result<bool> {
        let key: Vec<&str> = columns.iter().filter(|c| c.3 > 0).map(|c| c.0.as_str()).collect();
        if key.is_empty() {
            return Ok(false);
        }
        let index = oid + 100_000;
        let name = format!("{table}_pkey");
        let list = key.join(", ");
        class.execute(params![index, name, "i", false, false, key.len() as i64, 403])?;
        db.execute(
            "insert into pg_index (indexrelid, indrelid, indisprimary, indisunique) values (?1, ?2, 1, 1)",
            [index, oid],
        )?;
        db.execute(
            "insert into pg_constraint (oid, conname, contype, conrelid, conindid) values (?1, ?2, 'p', ?3, ?4)",
            params![index + 1, name, oid, index],
        )?;
        names.relations.insert(index, name.clone());
        names
            .definitions
            .insert(index, format!("CREATE UNIQUE INDEX {name} ON public.{table} USING btree ({list})"));
        names.definitions.insert(index + 1, format!("PRIMARY KEY ({list})"));
        Ok(true)
    }

    #[expect(clippy::too_many_arguments, reason = "one row of a catalogue, taken apart by the caller")]
    fn index(
        &self,
        db: &Connection,
        rowid: i64,
        name: &str,
        table: &str,
        sql: &str,
        names: &mut Names,
        class: &mut rusqlite::Statement<'_>,
    ) -> rusqlite::Result<()> {
        if name.starts_with("sqlite_autoindex") {
            return Ok(());
        }
        let oid = i64::from(OID_VISITOR) + rowid;
        let mut columns = db.prepare("select coalesce(name, '?') from pragma_index_info(?1)")?;
        let columns: Vec<String> =
            columns.query_map([name], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
        let unique = sql.to_ascii_lowercase().starts_with("create unique");
        let word = if unique { "UNIQUE INDEX" } else { "INDEX" };
        class.execute(params![oid, name, "i", false, false, columns.len() as i64, 403])?;
        db.execute(
            "insert into pg_index (indexrelid, indrelid, indisprimary, indisunique) values (?1, ?2, 0, ?3)",
            params![oid, table_oid(db, table)?, unique],
        )?;
        names.relations.insert(oid, name.to_owned());
        let definition =
            format!("CREATE {word} {name} ON public.{table} USING btree ({})", columns.join(", "));
        db.execute("insert into pg_indexes values ('public', ?1, ?2, ?3)", params![table, name, definition])?;
        names.definitions.insert(oid, definition);
        Ok(())
    }

    fn foreign_keys(&self, db: &Connection, names: &mut Names) -> rusqlite::Result<()> {
        let mut keys = db.prepare(
            "select s.name, k.\"table\", k.\"from\", coalesce(k.\"to\", 'id')
             from main.sqlite_schema s, pragma_foreign_key_list(s.name) k where s.type = 'table'",
        )?;
        let keys: Vec<(String, String, String, String)> = keys
            .query_map((), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (n, (table, other, from, to)) in (300_000i64..).zip(keys) {
            let confrelid = table_oid(db, &other).unwrap_or_default();
            db.execute(
                "insert into pg_constraint (oid, conname, contype, conrelid, confrelid) values (?1, ?2, 'f', ?3, ?4)",
                params![n, format!("{table}_{from}_fkey"), table_oid(db, &table)?, confrelid],
            )?;
            names.definitions.insert(n, format!("FOREIGN KEY ({from}) REFERENCES {other}({to})"));
        }
        Ok(())
    }

    /// Registers every function a PostgreSQL client may expect. `pid` and `sleep` belong to the session.
    pub(crate) fn functions(
        &self,
        db: &Connection,
        pid: i32,
        user: String,
        sleep: impl Fn(Duration) -> bool + Send + 'static,
    ) -> rusqlite::Result<()> {
        let plain = FunctionFlags::SQLITE_UTF8;
        let fixed = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        let version = version();
        for (name, value) in [
            ("version", version.as_str()),
            ("current_database", DATABASE),
            ("current_catalog", DATABASE),
            ("current_schema", "public"),
            ("current_user", user.as_str()),
            ("session_user", user.as_str()),
            ("current_role", user.as_str()),
        ] {
            let value = value.to_owned();
            db.create_scalar_function(name, 0, fixed, move |_| Ok(value.clone()))?;
        }
        for name in ["now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"] {
            db.create_scalar_function(name, 0, plain, |_| Ok(now()))?;
        }
        db.create_scalar_function("pg_backend_pid", 0, fixed, move |_| Ok(i64::from(pid)))?;
        db.create_scalar_function("pg_sleep", 1, plain, move |c| {
            let seconds: f64 = c.get(0)?;
            let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
            if sleep(time) { Ok(String::new()) } else { Err(cancelled()) }
        })?;
        for (name, value) in [
            ("pg_table_is_visible", 1),
            ("pg_type_is_visible", 1),
            ("pg_function_is_visible", 1),
            ("pg_is_in_recovery", 0),
            ("has_table_privilege", 1),
            ("has_schema_privilege", 1),
            ("has_database_privilege", 1),
            ("has_column_privilege", 1),
            ("pg_relation_is_publishable", 0),
            ("pg_relation_size", 0),
            ("pg_total_relation_size", 0),
            ("pg_table_size", 0),
            ("pg_my_temp_schema", 0),
            ("pg_is_other_temp_schema", 0),
        ] {
            db.create_scalar_function(name, -1, fixed, move |_| Ok(value))?;
        }
        for name in
            ["pg_get_expr", "obj_description", "col_description", "shobj_description", "array_to_string"]
        {
            db.create_scalar_function(name, -1, fixed, |_| Ok(None::<String>))?;
        }
        for (name, value) in [
            ("pg_get_userbyid", "gateway"),
            ("pg_encoding_to_char", "UTF8"),
            ("pg_size_pretty", "0 bytes"),
            ("current_schemas", "{pg_catalog,public}"),
        ] {
            db.create_scalar_function(name, -1, fixed, move |_| Ok(value))?;
        }
        for name in ["pg_get_indexdef", "pg_get_constraintdef", "pg_get_viewdef"] {
            let names = self.names.clone();
            db.create_scalar_function(name, -1, plain, move |c| {
                let oid = number(c)?;
                Ok(names.lock().ok().and_then(|n| n.definitions.get(&oid?).cloned()))
            })?;
        }
        let names = self.names.clone();
        db.create_scalar_function("pg_registry_out", 1, plain, move |c| {
            let Some(oid) = number(c)? else { return Ok(None) };
            let known = names.lock().ok().and_then(|n| n.relations.get(&oid).cloned());
            Ok(Some(match known {
                Some(name) => name,
                None => match u32::try_from(oid).ok().and_then(Kind::of_oid) {
                    Some(kind) => kind.name().to_owned(),
                    None => oid.to_string(),
                },
            }))
        })?;
        let names = self.names.clone();
        db.create_scalar_function("pg_registry_in", 1, plain, move |c| {
            let text: String = c.get(0)?;
            let name = text.rsplit('.').next().unwrap_or(&text).trim_matches('"').to_owned();
            if let Ok(oid) = name.parse::<i64>() {
                return Ok(oid);
            }
            let known = names
                .lock()
                .ok()
                .and_then(|n| n.relations.iter().find(|(_, v)| **v == name).map(|(k, _)| *k));
            known
                .or_else(|| {
                    EVERY_KIND
                        .iter()
                        .find(|k| type_name(**k) == name || k.name() == name)
                        .map(|k| k.oid().into())
                })
                .ok_or_else(|| rusqlite::Error::UserFunctionError(format!("no such table: {name}").into()))
        })?;
        db.create_scalar_function("format_type", 2, fixed, |c| {
            let (Some(oid), modifier) = (number(c)?, c.get::<Option<i64>>(1)?) else { return Ok(None) };
            let Some(kind) = u32::try_from(oid).ok().and_then(Kind::of_oid) else {
                return Ok(Some("???".to_owned()));
            };
            Ok(Some(match (kind, modifier) {
                (Kind::Numeric(_), Some(m)) if m >= 4 => {
                    format!("numeric({},{})", (m - 4) >> 16, (m - 4) & 0xffff)
                }
                _ => kind.name().to_owned(),
            }))
        })?;
        db.create_scalar_function("current_setting", -1, fixed, |c| {
            let name: String = c.get(0)?;
            Ok(setting(&name.to_ascii_lowercase()))
        })?;
        db.create_scalar_function("set_config", 3, plain, |c| c.get::<Option<String>>(1))?;
        db.create_scalar_function("pg_partition_ancestors", 1, fixed, |c| {
            c.get::<rusqlite::types::Value>(0)
        })?;
        db.create_scalar_function("quote_ident", 1, fixed, |c| c.get::<Option<String>>(0))?;
        db.create_scalar_function("pg_bool", 1, fixed, |c| {
            Ok(match c.get::<rusqlite::types::Value>(0)? {
                rusqlite::types::Value::Null => None,
                rusqlite::types::Value::Integer(i) => Some(i != 0),
                rusqlite::types::Value::Text(t) => {
                    Some(matches!(t.as_str(), "t" | "true" | "on" | "yes" | "1"))
                }
                _ => Some(false),
            })
        })?;
        self.text_functions(db)
    }

    fn text_functions(&self, db: &Connection) -> rusqlite::Result<()> {
        let fixed = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        // X REGEXP Y calls regexp(Y, X).
        db.create_scalar_function("regexp", 2, fixed, |c| {
            let (Some(pattern), Some(text)) = (c.get::<Option<String>>(0)?, c.get::<Option<String>>(1)?)
            else {
                return Ok(None);
            };
            let regex = regex_lite::Regex::new(&pattern).map_err(|e| {
                rusqlite::Error::UserFunctionError(format!("invalid regular expression: {e}").into())
            })?;
            Ok(Some(regex.is_match(&text)))
        })?;
        // X MATCH Y calls match(Y, X); it stands for ILIKE here.
        db.create_scalar_function("match", 2, fixed, |c| {
            let (Some(pattern), Some(text)) = (c.get::<Option<String>>(0)?, c.get::<Option<String>>(1)?)
            else {
                return Ok(None);
            };
            let mut regex = String::from("(?is)^");
            let mut chars = pattern.chars();
            while let Some(ch) = chars.next() {
                match ch {
                    '%' => regex.push_str(".*"),
                    '_' => regex.push('.'),
                    '\\' => regex
                        .push_str(&regex_lite::escape(&chars.next().map(String::from).unwrap_or_default())),
                    other => regex.push_str(&regex_lite::escape(&other.to_string())),
                }
            }
            regex.push('$');
            let regex = regex_lite::Regex::new(&regex)
                .map_err(|e| rusqlite::Error::UserFunctionError(format!("invalid pattern: {e}").into()))?;
            Ok(Some(regex.is_match(&text)))
        })?;
        db.create_scalar_function("reverse", 1, fixed, |c| {
            Ok(c.get::<Option<String>>(0)?.map(|t| t.chars().rev().collect::<String>()))
        })?;
        db.create_scalar_function("left", 2, fixed, |c| {
            let (Some(text), Some(n)) = (c.get::<Option<String>>(0)?, c.get::<Option<i64>>(1)?) else {
                return Ok(None);
            };
            Ok(Some(text.chars().take(cut(&text, n)).collect::<String>()))
        })?;
        db.create_scalar_function("right", 2, fixed, |c| {
            let (Some(text), Some(n)) = (c.get::<Option<String>>(0)?, c.get::<Option<i64>>(1)?) else {
                return Ok(None);
            };
            let keep = cut(&text, n);
            Ok(Some(text.chars().skip(text.chars().count() - keep).collect::<String>()))
        })?;
        db.create_scalar_function("char_length", 1, fixed, |c| {
            Ok(c.get::<Option<String>>(0)?.and_then(|t| i64::try_from(t.chars().count()).ok()))
        })
    }
}

/// How many characters left(text, n) and right(text, n) keep; a negative n counts from the other end.
fn cut(text: &str, n: i64) -> usize {
    let length = text.chars().count();
    let many = usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX);
    if n < 0 { length.saturating_sub(many) } else { many.min(length) }
}

/// The first argument as a number, however it is written.
fn number(c: &rusqlite::functions::Context<'_>) -> rusqlite::Result<Option<i64>> {
    Ok(match c.get::<rusqlite::types::Value>(0)? {
        rusqlite::types::Value::Integer(i) => Some(i),
        rusqlite::types::Value::Text(t) => t.parse().ok(),
        _ => None,
    })
}

fn cancelled() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error {
            code: rusqlite::ErrorCode::OperationInterrupted,
            extended_code: rusqlite::ffi::SQLITE_INTERRUPT,
        },
        None,
    )
}

/// The time as SQLite keeps it, in UTC.
fn now() -> String {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let micros = i64::try_from(unix.as_micros()).unwrap_or_default() - 946_684_800_000_000;
    format!("{}+00", super::values::moment_text(micros))
}

pub(crate) fn version() -> String {
    format!(
        "PostgreSQL {} (lockgate demo: SQLite {} behind the PostgreSQL protocol)",
        short_version(),
        rusqlite::version()
    )
}

pub(crate) fn short_version() -> String {
    format!("{}.{}", SERVER_VERSION / 10_000, SERVER_VERSION % 10_000)
}

/// What SHOW says of settings that nobody can change here.
pub(crate) fn setting(name: &str) -> Option<String> {
    Some(match name {
        "server_version" => short_version(),
        "server_version_num" => SERVER_VERSION.to_string(),
        "server_encoding" | "client_encoding" => "UTF8".to_owned(),
        "transaction_isolation" | "default_transaction_isolation" => "serializable".to_owned(),
        "search_path" => "public".to_owned(),
        "timezone" => "UTC".to_owned(),
        "datestyle" => "ISO, MDY".to_owned(),
        "intervalstyle" => "postgres".to_owned(),
        "standard_conforming_strings" | "integer_datetimes" => "on".to_owned(),
        "is_superuser"
        | "transaction_read_only"
        | "default_transaction_read_only"
        | "in_hot_standby"
        | "ssl"
        | "row_security" => "off".to_owned(),
        "statement_timeout"
        | "lock_timeout"
        | "idle_in_transaction_session_timeout"
        | "extra_float_digits" => "0".to_owned(),
        "max_identifier_length" => "63".to_owned(),
        "max_connections" => super::database::SESSIONS_MAX.to_string(),
        "application_name" => String::new(),
        "bytea_output" => "hex".to_owned(),
        "client_min_messages" => "notice".to_owned(),
        _ => return None,
    })
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Int2 => "int2",
        Kind::Int4 => "int4",
        Kind::Int8 => "int8",
        Kind::Oid => "oid",
        Kind::Float8 => "float8",
        Kind::Numeric(_) => "numeric",
        Kind::Text => "text",
        Kind::Varchar => "varchar",
        Kind::Name => "name",
        Kind::Char => "char",
        Kind::Date => "date",
        Kind::Timestamp => "timestamp",
        Kind::Timestamptz => "timestamptz",
        Kind::Bytea => "bytea",
    }
}

const EVERY_KIND: &[Kind] = &[
    Kind::Bool,
    Kind::Int2,
    Kind::Int4,
    Kind::Int8,
    Kind::Oid,
    Kind::Float8,
    Kind::Numeric(None),
    Kind::Text,
    Kind::Varchar,
    Kind::Name,
    Kind::Char,
    Kind::Date,
    Kind::Timestamp,
    Kind::Timestamptz,
    Kind::Bytea,
];

const TABLES: &str = r#"
drop table if exists temp.pg_class;
create temp table pg_class (oid oid, relname name, relnamespace oid, reltype oid default 0, reloftype oid default 0,
  relowner oid default 10, relam oid default 2, relfilenode oid default 0, reltablespace oid default 0, relpages int default 0,
  reltuples real default -1, relallvisible int default 0, reltoastrelid oid default 0, relhasindex bool default 0,
  relisshared bool default 0, relpersistence "char" default 'p', relkind "char", relnatts int2 default 0, relchecks int2 default 0,
  relhasrules bool default 0, relhastriggers bool default 0, relhassubclass bool default 0, relrowsecurity bool default 0,
  relforcerowsecurity bool default 0, relispopulated bool default 1, relreplident "char" default 'd',
  relispartition bool default 0, relacl text, reloptions text, relpartbound text);
drop table if exists temp.pg_attribute;
create temp table pg_attribute (attrelid oid, attname name, atttypid oid, attstattarget int default -1, attlen int2, attnum int2,
  attndims int default 0, atttypmod int default -1, attstorage "char" default 'x', attcompression "char" default '',
  attnotnull bool, atthasdef bool default 0, atthasmissing bool default 0, attidentity "char" default '',
  attgenerated "char" default '', attisdropped bool default 0, attislocal bool default 1, attinhcount int default 0,
  attcollation oid default 0, attacl text, attoptions text, attfdwoptions text);
drop table if exists temp.pg_type;
create temp table pg_type (oid oid, typname name, typnamespace oid default 11, typowner oid default 10, typlen int2,
  typbyval bool default 0, typtype "char" default 'b', typcategory "char" default 'U', typispreferred bool default 0,
  typisdefined bool default 1, typdelim "char" default ',', typrelid oid default 0, typelem oid default 0, typarray oid default 0,
  typnotnull bool default 0, typbasetype oid default 0, typtypmod int default -1, typndims int default 0,
  typcollation oid default 0, typdefault text);
drop table if exists temp.pg_namespace;
create temp table pg_namespace (oid oid, nspname name, nspowner oid default 10, nspacl text);
insert into pg_namespace (oid, nspname) values (11, 'pg_catalog'), (2200, 'public'), (13000, 'information_schema');
drop table if exists temp.pg_am;
create temp table pg_am (oid oid, amname name, amhandler text, amtype "char");
insert into pg_am values (2, 'heap', '', 't'), (403, 'btree', '', 'i');
drop table if exists temp.pg_attrdef;
create temp table pg_attrdef (oid oid, adrelid oid, adnum int2, adbin text);
drop table if exists temp.pg_collation;
create temp table pg_collation (oid oid, collname name, collnamespace oid);
drop table if exists temp.pg_description;
create temp table pg_description (objoid oid, classoid oid, objsubid int, description text);
drop table if exists temp.pg_index;
create temp table pg_index (indexrelid oid, indrelid oid, indnatts int2, indnkeyatts int2, indisunique bool default 0,
  indisprimary bool default 0, indisexclusion bool default 0, indimmediate bool default 1, indisclustered bool default 0,
  indisvalid bool default 1, indcheckxmin bool default 0, indisready bool default 1, indislive bool default 1,
  indisreplident bool default 0, indkey text, indexprs text, indpred text);
drop table if exists temp.pg_constraint;
create temp table pg_constraint (oid oid, conname name, connamespace oid default 2200, contype "char", condeferrable bool default 0,
  condeferred bool default 0, convalidated bool default 1, conrelid oid, contypid oid default 0, conindid oid default 0,
  conparentid oid default 0, confrelid oid default 0, conislocal bool default 1, conkey text, confkey text);
drop table if exists temp.pg_roles;
create temp table pg_roles (oid oid, rolname name, rolsuper bool, rolinherit bool, rolcreaterole bool, rolcreatedb bool,
  rolcanlogin bool, rolreplication bool, rolconnlimit int, rolvaliduntil timestamptz, rolbypassrls bool);
insert into pg_roles values (10, 'gateway', 0, 1, 0, 0, 1, 0, -1, null, 0);
drop table if exists temp.pg_user;
create temp table pg_user (usename name, usesysid oid, usecreatedb bool, usesuper bool);
insert into pg_user values ('gateway', 10, 0, 0);
drop table if exists temp.pg_database;
create temp table pg_database (oid oid, datname name, datdba oid, encoding int, datlocprovider "char", datistemplate bool,
  datallowconn bool, datconnlimit int, datcollate text, datctype text, daticulocale text, datcollversion text, datacl text,
  dattablespace oid);
insert into pg_database values (5, 'shop', 10, 6, 'c', 0, 1, -1, 'C', 'C', null, null, null, 1663);
drop table if exists temp.pg_proc;
create temp table pg_proc (oid oid, proname name, pronamespace oid, proowner oid, prolang oid, prokind "char", prorettype oid,
  proargtypes text, prosrc text);
drop table if exists temp.pg_language;
create temp table pg_language (oid oid, lanname name);
drop table if exists temp.pg_tablespace;
create temp table pg_tablespace (oid oid, spcname name);
insert into pg_tablespace values (1663, 'pg_default');
drop table if exists temp.pg_settings;
create temp table pg_settings (name text, setting text, unit text, category text, short_desc text, context text, vartype text,
  source text, min_val text, max_val text, enumvals text, boot_val text, reset_val text);
drop table if exists temp.pg_stat_activity;
create temp table pg_stat_activity (datid oid, datname name, pid int, usename name, application_name text, client_addr text,
  state text, query text);
drop table if exists temp.pg_tables;
create temp table pg_tables (schemaname name, tablename name, tableowner name, definition text);
drop table if exists temp.pg_views;
create temp table pg_views (schemaname name, viewname name, viewowner name, definition text);
drop table if exists temp.pg_indexes;
create temp table pg_indexes (schemaname name, tablename name, indexname name, indexdef text);
drop table if exists temp.information_schema_tables;
create temp table information_schema_tables (table_catalog name, table_schema name, table_name name, table_type varchar);
drop table if exists temp.information_schema_columns;
create temp table information_schema_columns (table_catalog name, table_schema name, table_name name, column_name name,
  ordinal_position int, column_default varchar, is_nullable varchar, data_type varchar, udt_name name,
  character_maximum_length int, numeric_precision int, numeric_scale int);
drop table if exists temp.information_schema_schemata;
create temp table information_schema_schemata (catalog_name name, schema_name name, schema_owner name);
insert into information_schema_schemata values ('shop', 'public', 'gateway'), ('shop', 'pg_catalog', 'gateway'),
  ('shop', 'information_schema', 'gateway');
"#;
