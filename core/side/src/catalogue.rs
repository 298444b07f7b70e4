//! What a target's catalogue says: loading a [`policy::Catalog`], keeping it fresh, snapshots as files.
//!
//! Not judgement: nothing here knows which column matters. A load is one short read-only transaction of an ordinary role, in one
//! snapshot of the target. Definitions are read with `search_path = pg_catalog`, so that every other name in them is qualified.
//! Works on PostgreSQL 12 to 18.
//!
//! Invariant: a catalogue is published only when something in it changed, with a version no other catalogue of this process has.
//! TOAST tables are left out on purpose: they hold other tables' values, and a table that is not in the catalogue is unknown.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use flow::Answer;
use flow::access::{Address, Connection, Directory};
use policy::Catalog;
use policy::catalog::{Code, Constraint, Follows, Function, Table, TableColumn, Writes};
use ring::digest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("cannot reach {target}: {why}")]
    Unreachable { target: String, why: String },
    #[error("cannot log in to {target} as {user}: {why}")]
    Login { target: String, user: String, why: String },
    #[error("no catalogue within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("reading {what}: {why}")]
    Query { what: &'static str, why: String },
    #[error("not a catalogue snapshot: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot start a runtime: {0}")]
    Runtime(io::Error),
}

/// Loads the catalogue of `database` behind a connection, and waits for it: for commands, never on a runtime's thread.
///
/// # Errors
/// [`CatalogueError`] says at which step.
pub fn load(connection: &Connection, database: &str) -> Result<Catalog, CatalogueError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CatalogueError::Runtime)?;
    runtime.block_on(fetch(connection, database))
}

/// Loads the catalogue of `database` behind a connection.
///
/// # Errors
/// [`CatalogueError`] says at which step.
pub async fn fetch(connection: &Connection, database: &str) -> Result<Catalog, CatalogueError> {
    let both = async {
        match attempt(connection, database).await {
            // Something was dropped between our snapshot and a function that looks at the newest state (pg_get_viewdef).
            Err(CatalogueError::Query { .. }) => attempt(connection, database).await,
            other => other,
        }
    };
    tokio::time::timeout(LOAD_MAX, both).await.unwrap_or(Err(CatalogueError::TimedOut(LOAD_MAX)))
}

/// A snapshot as a file's text.
///
/// # Errors
/// None in practice; the encoder's type says it may.
pub fn snapshot_to_json(catalog: &Catalog) -> Result<String, CatalogueError> {
    Ok(serde_json::to_string_pretty(catalog)?)
}

/// Reads what [`snapshot_to_json`] wrote. It gets a version of this process.
///
/// # Errors
/// [`CatalogueError::Json`] with line and column.
pub fn snapshot_from_json(text: &str) -> Result<Catalog, CatalogueError> {
    let mut catalog: Catalog = serde_json::from_str(text)?;
    catalog.version = next_version();
    Ok(catalog)
}

fn next_version() -> u64 {
    static VERSION: AtomicU64 = AtomicU64::new(1);
    VERSION.fetch_add(1, Ordering::Relaxed)
}

// --------------------------------------------------------------------------------------------------------------- loading

async fn attempt(connection: &Connection, database: &str) -> Result<Catalog, CatalogueError> {
    let target = &*connection.target;
    let unreachable =
        |e: io::Error| CatalogueError::Unreachable { target: target.to_string(), why: e.to_string() };
    let mut config = Config::new();
    config.user(&connection.user).dbname(database).application_name("lockgate catalogue");
    if !connection.credential.secret().is_empty() {
        // The one place where the secret leaves zeroized memory: the client library keeps a copy for the length of a login.
        config.password(connection.credential.secret());
    }
    config.ssl_mode(if target.tls.is_some() { SslMode::Require } else { SslMode::Disable });
    let dial = Duration::from_millis(target.dial_ms);
    let late = |_| CatalogueError::Unreachable {
        target: target.to_string(),
        why: format!("no answer within {} ms", dial.as_millis()),
    };
    match (&target.address, &target.tls) {
        (Address::Unix(path), _) => {
            let stream = tokio::time::timeout(dial, UnixStream::connect(path))
                .await
                .map_err(late)?
                .map_err(unreachable)?;
            config.ssl_mode(SslMode::Disable);
            log_in(&config, stream, NoTls, connection, database).await
        }
        (Address::Tcp { host, port }, tls) => {
            let stream = tokio::time::timeout(dial, TcpStream::connect((host.as_str(), *port)))
                .await
                .map_err(late)?
                .map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            match tls {
                Some(tls) => {
                    let mut maker = MakeRustlsConnect::new((*tls.config).clone());
                    let made = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, &tls.name.to_str());
                    let connector = match made {
                        Ok(connector) => connector,
                        Err(never) => match never {},
                    };
                    log_in(&config, stream, connector, connection, database).await
                }
                None => log_in(&config, Guarded::new(stream), NoTls, connection, database).await,
            }
        }
    }
}

/// Ends the task that moves the bytes when the load ends, however it ends.
struct Pump(tokio::task::JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn log_in<S, T>(
    config: &Config,
    stream: S,
    tls: T,
    connection: &Connection,
    database: &str,
) -> Result<Catalog, CatalogueError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: tokio_postgres::tls::TlsConnect<S>,
    T::Stream: Send + 'static,
{
    let (client, pump) = config.connect_raw(stream, tls).await.map_err(|e| CatalogueError::Login {
        target: connection.target.to_string(),
        user: connection.user.clone(),
        why: words(&e),
    })?;
    let _pump = Pump(tokio::spawn(async move {
        if let Err(e) = pump.await {
            tracing::debug!(error = %words(&e), "the connection of a catalogue load broke");
        }
    }));
    read(&client, database).await
}

async fn read(client: &Client, database: &str) -> Result<Catalog, CatalogueError> {
    let failed = |what| move |e: tokio_postgres::Error| CatalogueError::Query { what, why: words(&e) };
    // The search_path in force at login is read before ours replaces it.
    let row = client
        .query_one(
            "select pg_catalog.current_setting('server_version_num')::pg_catalog.int4, \
             pg_catalog.current_schemas(false)::pg_catalog.text[]",
            &[],
        )
        .await
        .map_err(failed("server version and search_path"))?;
    let server_version: i32 = cell(&row, 0, "server version")?;
    let mut catalog = Catalog {
        version: 0,
        database: database.to_owned(),
        server_version: u32::try_from(server_version).unwrap_or_default(),
        search_path: cell(&row, 1, "search_path")?,
        tables: Vec::new(),
        functions: Vec::new(),
        ..Catalog::default()
    };
    client
        .batch_execute(
            "begin isolation level repeatable read read only; set local search_path = pg_catalog; \
             set local statement_timeout = '9s'",
        )
        .await
        .map_err(failed("a snapshot"))?;

    let mut place: HashMap<u32, usize> = HashMap::new();
    for row in client.query(TABLES, &[]).await.map_err(failed("tables"))? {
        let oid = cell(&row, 0, "tables")?;
        place.insert(oid, catalog.tables.len());
        catalog.tables.push(Table {
            oid,
            schema: cell(&row, 1, "tables")?,
            name: cell(&row, 2, "tables")?,
            kind: letter(&row, 3, "tables")?,
            columns: Vec::new(),
            parents: Vec::new(),
            definition: None,
        });
    }
    for row in client.query(COLUMNS, &[]).await.map_err(failed("columns"))? {
        let table: u32 = cell(&row, 0, "columns")?;
        let Some(table) = place.get(&table).and_then(|n| catalog.tables.get_mut(*n)) else { continue };
        table.columns.push(TableColumn {
            number: cell(&row, 1, "columns")?,
            name: cell(&row, 2, "columns")?,
            type_oid: cell(&row, 3, "columns")?,
            type_name: cell(&row, 4, "columns")?,
            not_null: cell(&row, 5, "columns")?,
            generated: cell(&row, 6, "columns")?,
        });
    }
    for row in client.query(PARENTS, &[]).await.map_err(failed("inheritance"))? {
        let table: u32 = cell(&row, 0, "inheritance")?;
        if let Some(table) = place.get(&table).and_then(|n| catalog.tables.get_mut(*n)) {
            table.parents.push(cell(&row, 1, "inheritance")?);
        }
    }
    for row in optional(client, "view definitions", VIEWS).await? {
        let view: u32 = cell(&row, 0, "view definitions")?;
        if let Some(view) = place.get(&view).and_then(|n| catalog.tables.get_mut(*n)) {
            view.definition = cell(&row, 1, "view definitions")?;
        }
    }
    // SQL-standard bodies came with 14; before, prosrc is all there is.
    let body = if catalog.server_version >= 140_000 {
        "coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)"
    } else {
        "p.prosrc"
    };
    for row in optional(client, "functions", &FUNCTIONS.replace("{body}", body)).await? {
        catalog.functions.push(Function {
            oid: cell(&row, 0, "functions")?,
            schema: cell(&row, 1, "functions")?,
            name: cell(&row, 2, "functions")?,
            language: cell(&row, 3, "functions")?,
            kind: letter(&row, 4, "functions")?,
            body: cell::<Option<String>>(&row, 5, "functions")?.unwrap_or_default(),
            arguments: cell::<Option<String>>(&row, 6, "functions")?.unwrap_or_default(),
            rows: cell(&row, 7, "functions")?,
        });
    }
    for row in client.query(ENUMS, &[]).await.map_err(failed("enum types"))? {
        catalog.enums.push(cell(&row, 0, "enum types")?);
    }
    for row in client.query(KEYS, &[]).await.map_err(failed("primary keys"))? {
        catalog.keys.push((cell(&row, 0, "primary keys")?, cell(&row, 1, "primary keys")?));
    }
    for row in client.query(INDEXES, &[]).await.map_err(failed("indexes"))? {
        catalog.indexes.push((cell(&row, 0, "indexes")?, cell(&row, 1, "indexes")?));
    }
    let mut constraints = Vec::new();
    for row in client.query(CONSTRAINTS, &[]).await.map_err(failed("constraints"))? {
        let table = cell(&row, 0, "constraints")?;
        let columns: Vec<i16> = cell(&row, 3, "constraints")?;
        let refers: u32 = cell(&row, 4, "constraints")?;
        let referred: Vec<i16> = cell(&row, 5, "constraints")?;
        let own = columns.into_iter().map(|column| (table, column));
        constraints.push(Constraint {
            table,
            name: cell(&row, 1, "constraints")?,
            unique: cell(&row, 2, "constraints")?,
            compares: own.chain(referred.into_iter().map(|column| (refers, column))).collect(),
        });
    }
    catalog.constraints = Some(constraints);
    catalog.writes = writes(client).await?;
    catalog.code = code(client).await?;
    client.batch_execute("commit").await.map_err(failed("the end of the snapshot"))?;
    catalog.version = next_version();
    Ok(catalog)
}

/// What writes set in motion; `None` where the target does not let us see all of it.
async fn writes(client: &Client) -> Result<Option<Writes>, CatalogueError> {
    const WHAT: &str = "what writes set in motion";
    let mut writes = Writes::default();
    let Some(rows) = permitted(client, WHAT, CODE_ON_WRITE).await? else { return Ok(None) };
    for row in rows {
        writes.code.push(cell(&row, 0, WHAT)?);
    }
    let Some(rows) = permitted(client, WHAT, CASCADES).await? else { return Ok(None) };
    for row in rows {
        writes.cascades.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?));
    }
    let Some(rows) = permitted(client, WHAT, DEFERRED).await? else { return Ok(None) };
    for row in rows {
        writes.deferred.push(cell(&row, 0, WHAT)?);
    }
    Ok(Some(writes))
}

/// What runs without being called by name.
async fn code(client: &Client) -> Result<Code, CatalogueError> {
    const WHAT: &str = "code that writes and casts set in motion";
    let mut code = Code::default();
    for row in optional(client, WHAT, RULES).await? {
        code.rules.push((cell(&row, 0, WHAT)?, cell::<Option<String>>(&row, 1, WHAT)?.unwrap_or_default()));
    }
    for row in optional(client, WHAT, &made("casttarget", CONVERSIONS)).await? {
        code.conversions.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?));
    }
    for row in optional(client, WHAT, &made("castsource", TYPED)).await? {
        code.typed.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?, cell(&row, 2, WHAT)?));
    }
    for row in optional(client, WHAT, DEFAULTS).await? {
        let expression = cell::<Option<String>>(&row, 2, WHAT)?.unwrap_or_default();
        code.defaults.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?, expression));
    }
    for row in optional(client, WHAT, TRIGGERS).await? {
        let (table, function, on): (u32, u32, i16) =
            (cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?, cell(&row, 2, WHAT)?);
        // Of rows, BEFORE or INSTEAD OF, on INSERT or UPDATE: it may change the row.
        if on & 1 != 0 && on & 66 != 0 && on & 20 != 0 && code.triggers.last() != Some(&(table, function)) {
            code.triggers.push((table, function));
        }
        code.fired.push((table, function, on));
    }
    for row in optional(client, WHAT, RUN_ON_WRITE).await? {
        code.run.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?, cell(&row, 2, WHAT)?));
    }
    for row in optional(client, WHAT, ON_DDL).await? {
        code.on_ddl.push(cell(&row, 0, WHAT)?);
    }
    for row in optional(client, WHAT, MADE_OF).await? {
        code.made_of.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?));
    }
    for row in optional(client, WHAT, FOLLOWS).await? {
        code.follows.push(Follows {
            of: cell(&row, 0, WHAT)?,
            on: cell(&row, 1, WHAT)?,
            columns: cell(&row, 2, WHAT)?,
            to: cell(&row, 3, WHAT)?,
            does: cell(&row, 4, WHAT)?,
        });
    }
    for row in optional(client, WHAT, BUILT_IN_TRIGGERS).await? {
        code.built_in.push((cell(&row, 0, WHAT)?, cell(&row, 1, WHAT)?, cell(&row, 2, WHAT)?));
    }
    Ok(code)
}

/// What a hardened target may not let everybody read. Without it, views and functions are unknown, which masks more.
async fn optional(client: &Client, what: &'static str, sql: &str) -> Result<Vec<Row>, CatalogueError> {
    Ok(permitted(client, what, sql).await?.unwrap_or_default())
}

/// The rows, or `None` when our role may not see them.
async fn permitted(
    client: &Client,
    what: &'static str,
    sql: &str,
) -> Result<Option<Vec<Row>>, CatalogueError> {
    let failed = |e: tokio_postgres::Error| CatalogueError::Query { what, why: words(&e) };
    client.batch_execute("savepoint part").await.map_err(failed)?;
    match client.query(sql, &[]).await {
        Ok(rows) => Ok(Some(rows)),
        Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            tracing::warn!(what, error = %words(&e), "the target does not let our role read this");
            client.batch_execute("rollback to savepoint part").await.map_err(failed)?;
            Ok(None)
        }
        Err(e) => Err(failed(e)),
    }
}

fn cell<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    n: usize,
    what: &'static str,
) -> Result<T, CatalogueError> {
    row.try_get(n).map_err(|e| CatalogueError::Query { what, why: words(&e) })
}

fn letter(row: &Row, n: usize, what: &'static str) -> Result<char, CatalogueError> {
    let text: &str = cell(row, n, what)?;
    text.chars().next().ok_or_else(|| CatalogueError::Query { what, why: "an empty kind".to_owned() })
}

/// An error with its causes; the library's own text stops at "db error".
fn words(e: &tokio_postgres::Error) -> String {
    let mut out = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        let more = e.to_string();
        if !out.contains(&more) {
            out = format!("{out}: {more}");
        }
        cause = e.source();
    }
    out
}

const TABLES: &str = "select c.oid, n.nspname::text, c.relname::text, c.relkind::text \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') order by c.oid";

const COLUMNS: &str = "select a.attrelid, a.attnum, a.attname::text, a.atttypid, format_type(a.atttypid, null), \
    a.attnotnull, case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end \
    from pg_attribute a join pg_class c on c.oid = a.attrelid \
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum and a.attgenerated <> '' \
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c') \
    order by a.attrelid, a.attnum";

const PARENTS: &str = "select inhrelid, inhparent from pg_inherits order by inhrelid, inhseqno";

const VIEWS: &str = "select c.oid, pg_get_viewdef(c.oid) \
    from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('v', 'm') and n.nspname not in ('pg_catalog', 'information_schema')";

/// An aggregate is written in what its parts are.
const FUNCTIONS: &str = "select p.oid, n.nspname::text, p.proname::text, \
    case when p.prokind = 'a' then coalesce((select min(pl.lanname::text) from pg_aggregate a \
        join pg_proc part on part.oid in (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, \
            a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn) \
        join pg_language pl on pl.oid = part.prolang and pl.lanname not in ('internal', 'c') \
        where a.aggfnoid = p.oid), 'c') else l.lanname::text end, p.prokind::text, {body}, pg_get_function_arguments(p.oid), p.proretset \
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang \
    where n.nspname not in ('pg_catalog', 'information_schema') order by p.oid";

/// Types of users called so in any schema are all enums.
const ENUMS: &str = "select t.typname::text from pg_type t join pg_namespace n on n.oid = t.typnamespace \
    where n.nspname not in ('pg_catalog', 'information_schema') \
    group by t.typname having bool_and(t.typtype = 'e') order by 1";

const KEYS: &str = "select conrelid, conkey from pg_constraint where contype = 'p' order by 1";

const INDEXES: &str = "select i.indrelid, c.relname::text from pg_index i join pg_class c on c.oid = i.indexrelid \
    join pg_namespace n on n.oid = c.relnamespace \
    where n.nspname not in ('pg_catalog', 'pg_toast', 'information_schema') order by 1, 2";

/// Unique indexes (an exclusion constraint's index too) and foreign keys, and what they compare. The columns of expressions and
/// predicates are dependencies of the index; one that was made by a constraint depends on nothing but that.
const CONSTRAINTS: &str = "select i.indrelid, c.relname::text, i.indisunique, \
        array(select k from unnest(i.indkey::int2[]) k where k > 0 \
            union select d.refobjsubid::int2 from pg_depend d where d.classid = 'pg_class'::regclass \
                and d.objid = i.indexrelid and d.refclassid = 'pg_class'::regclass \
                and d.refobjid = i.indrelid and d.refobjsubid > 0 \
            order by 1), 0::oid, '{}'::int2[] \
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace \
    where (i.indisunique or i.indisexclusion) and n.nspname not in ('pg_catalog', 'pg_toast', 'information_schema') \
    union all select conrelid, conname::text, false, conkey, confrelid, confkey from pg_constraint where contype = 'f' \
    order by 1, 2";

/// Tables on which a write may run code of users, or a policy that looks at other tables. Dependencies on built-in functions are not recorded by the server, so what is
/// found here is a user's; written in C it belongs to an extension. Before 15 a generated column's dependencies are its table's.
const CODE_ON_WRITE: &str = "with \
    foreign_code as (select p.oid from pg_proc p join pg_language l on l.oid = p.prolang \
        where l.lanname not in ('internal', 'c')), \
    code as (select d.classid, d.objid from pg_depend d where \
        (d.refclassid = 'pg_proc'::regclass and d.refobjid in (select oid from foreign_code)) \
        or (d.refclassid = 'pg_operator'::regclass and d.refobjid in \
            (select o.oid from pg_operator o where o.oprcode in (select oid from foreign_code))) \
        or (d.refclassid = 'pg_opclass'::regclass and d.refobjid in \
            (select k.oid from pg_opclass k join pg_amproc a on a.amprocfamily = k.opcfamily \
                where a.amproc in (select oid from foreign_code)))), \
    domains as (select c.contypid from code join pg_constraint c on c.oid = code.objid \
        where code.classid = 'pg_constraint'::regclass and c.contypid <> 0) \
    select tgrelid from pg_trigger where not tgisinternal \
    union select ev_class from pg_rewrite where rulename <> '_RETURN' \
    union select a.adrelid from code join pg_attrdef a on a.oid = code.objid \
        where code.classid = 'pg_attrdef'::regclass \
    union select a.attrelid from code join pg_attribute a on a.atttypid = code.objid \
        where code.classid = 'pg_type'::regclass and not a.attisdropped \
    union select c.conrelid from code join pg_constraint c on c.oid = code.objid \
        where code.classid = 'pg_constraint'::regclass and c.conrelid <> 0 \
    union select i.indrelid from code join pg_index i on i.indexrelid = code.objid \
        where code.classid = 'pg_class'::regclass \
    union select c.oid from code join pg_class c on c.oid = code.objid \
        where code.classid = 'pg_class'::regclass and c.relkind in ('r', 'p') \
    union select p.polrelid from code join pg_policy p on p.oid = code.objid \
        where code.classid = 'pg_policy'::regclass \
    union select p.polrelid from pg_policy p join pg_depend d on d.objid = p.oid \
        where d.classid = 'pg_policy'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid <> p.polrelid \
    union select a.attrelid from pg_attribute a join pg_type t on t.oid = a.atttypid \
        left join pg_type e on e.oid = t.typelem \
        where exists (select from domains) and a.attnum > 0 and not a.attisdropped \
        and (t.typtype in ('d', 'c', 'r', 'm') or e.typtype in ('d', 'c', 'r', 'm')) \
        and t.typnamespace <> 'pg_catalog'::regnamespace \
    order by 1";

const RULES: &str = "select r.ev_class, pg_get_ruledef(r.oid) from pg_rewrite r join pg_class c on c.oid = r.ev_class \
    join pg_namespace n on n.oid = c.relnamespace \
    where r.rulename <> '_RETURN' and n.nspname not in ('pg_catalog', 'information_schema') order by r.oid";

/// From a cast's type or a checked domain to the arrays, domains, ranges and rows made of it.
const MADE: &str = "with recursive \
    foreign_code as (select p.oid, p.proname::text from pg_proc p join pg_language l on l.oid = p.prolang \
        where l.lanname not in ('internal', 'c')), \
    made (type, function) as ( \
        (select c.{cast}, f.proname from pg_cast c join foreign_code f on f.oid = c.castfunc where c.{cast} >= 16384 \
        union select k.contypid, f.proname from pg_constraint k \
            join pg_depend d on d.classid = 'pg_constraint'::regclass and d.objid = k.oid \
            left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid \
            join foreign_code f on f.oid = case when d.refclassid = 'pg_proc'::regclass then d.refobjid else o.oprcode end \
            where k.contypid <> 0) \
        union select of.oid, m.function from made m cross join lateral ( \
            select t.oid from pg_type t where t.typelem = m.type and t.typlen = -1 or t.typbasetype = m.type \
            union all select r.rngtypid from pg_range r where r.rngsubtype = m.type \
            union all select c.reltype from pg_attribute a join pg_class c on c.oid = a.attrelid \
                where a.atttypid = m.type and a.attnum > 0 and not a.attisdropped and c.reltype <> 0) of) ";

/// `cast`: whether casts into types of users are meant or out of them.
fn made(cast: &str, what: &str) -> String {
    MADE.replace("{cast}", cast) + what
}

const CONVERSIONS: &str = "select t.typname::text, array_agg(distinct m.function order by m.function) \
    from made m join pg_type t on t.oid = m.type \
    where t.typnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) group by 1 order by 1";

const TYPED: &str = "select m.type, t.typname::text, array_agg(distinct m.function order by m.function) \
    from made m join pg_type t on t.oid = m.type where m.type >= 16384 group by 1, 2 order by 1";

/// Of columns, and of domains whose columns have none of their own.
const DEFAULTS: &str = "select a.adrelid, a.adnum, pg_get_expr(a.adbin, a.adrelid) from pg_attrdef a \
    where exists (select from pg_depend d left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid \
        join pg_proc p on p.oid = case when d.refclassid = 'pg_proc'::regclass then d.refobjid else o.oprcode end \
        join pg_language l on l.oid = p.prolang \
        where l.lanname not in ('internal', 'c') \
        and (d.classid = 'pg_attrdef'::regclass and d.objid = a.oid \
            or d.classid = 'pg_class'::regclass and d.objid = a.adrelid and d.objsubid = a.adnum)) \
    union all select a.attrelid, a.attnum, pg_get_expr(t.typdefaultbin, 0) from pg_attribute a join pg_type t on t.oid = a.atttypid \
    join pg_class c on c.oid = a.attrelid \
    where t.typdefaultbin is not null and not a.atthasdef and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') \
    and exists (select from pg_depend d left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid \
        join pg_proc p on p.oid = case when d.refclassid = 'pg_proc'::regclass then d.refobjid else o.oprcode end \
        join pg_language l on l.oid = p.prolang \
        where l.lanname not in ('internal', 'c') and d.classid = 'pg_type'::regclass and d.objid = t.oid) order by 1, 2";

const TRIGGERS: &str =
    "select tgrelid, tgfoid, tgtype from pg_trigger where not tgisinternal order by 1, 2, 3";

/// By the dependencies of what is evaluated on a write. Before 15 a generated column's are its own.
const RUN_ON_WRITE: &str = "with code as (select d.classid, d.objid, d.objsubid, p.proname::text \
        from pg_depend d left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid \
        join pg_proc p on p.oid = case when d.refclassid = 'pg_proc'::regclass then d.refobjid else o.oprcode end \
        join pg_language l on l.oid = p.prolang where l.lanname not in ('internal', 'c')) \
    select r.oid, r.inserts, array_agg(distinct r.proname order by r.proname) from ( \
        select a.adrelid as oid, t.attgenerated = '' as inserts, c.proname from code c \
            join pg_attrdef a on c.classid = 'pg_attrdef'::regclass and a.oid = c.objid \
            join pg_attribute t on t.attrelid = a.adrelid and t.attnum = a.adnum \
        union all select c.objid, false, c.proname from code c where c.classid = 'pg_class'::regclass and c.objsubid > 0 \
        union all select k.conrelid, false, c.proname from code c \
            join pg_constraint k on c.classid = 'pg_constraint'::regclass and k.oid = c.objid where k.conrelid <> 0 \
        union all select i.indrelid, false, c.proname from code c \
            join pg_index i on c.classid = 'pg_class'::regclass and i.indexrelid = c.objid) r group by 1, 2 order by 1, 2";

const ON_DDL: &str = "select distinct p.proname::text from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid \
    where e.evtenabled <> 'D' order by 1";

const MADE_OF: &str = "select n.name, array_agg(distinct p.proname::text order by p.proname::text) from ( \
        select f.proname::text as name, unnest(array[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, \
            a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) as part from pg_aggregate a join pg_proc f on f.oid = a.aggfnoid \
        union all select o.oprname::text, o.oprcode from pg_operator o) n \
    join pg_proc p on p.oid = n.part join pg_language l on l.oid = p.prolang \
    where l.lanname not in ('internal', 'c') and p.pronamespace <> 'pg_catalog'::regnamespace group by 1 order by 1";

const FOLLOWS: &str = "select confrelid, 8::int2, '{}'::text[], conrelid, \
        case confdeltype when 'c' then 8 else 16 end::int2 \
    from pg_constraint where contype = 'f' and confdeltype not in ('a', 'r') \
    union all select confrelid, 16::int2, array(select a.attname::text from pg_attribute a \
        where a.attrelid = confrelid and a.attnum = any (confkey)), conrelid, 16::int2 \
    from pg_constraint where contype = 'f' and confupdtype not in ('a', 'r') order by 1, 2, 4";

/// What a trigger is given ends with a zero byte each; those in it are no text of a column's name.
const BUILT_IN_TRIGGERS: &str = "select t.tgrelid, p.proname::text, string_to_array(encode(t.tgargs, 'escape'), '\\000') \
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_language l on l.oid = p.prolang \
    where not t.tgisinternal and l.lanname in ('internal', 'c') order by 1, 2, t.oid";

const CASCADES: &str = "select distinct confrelid, conrelid from pg_constraint \
    where contype = 'f' and (confupdtype not in ('a', 'r') or confdeltype not in ('a', 'r')) order by 1, 2";

const DEFERRED: &str = "select tgrelid from pg_trigger where tgdeferrable \
    union select conrelid from pg_constraint where condeferrable and conrelid <> 0 order by 1";

/// Whole of a load, both tries.
const LOAD_MAX: Duration = Duration::from_secs(10);

// ----------------------------------------------------------------------------------------------------------------- guard

/// A plain TCP stream on which a password in clear is never given away: whoever sits in between may ask for one by
/// AuthenticationCleartextPassword, and the client library would answer.
///
/// It reads along the server's messages up to AuthenticationOk (protocol documentation, "Message Formats").
struct Guarded {
    stream: TcpStream,
    /// The beginning of the message being read; `None` once the login is over.
    head: Option<Vec<u8>>,
    /// Bytes of the body still to come.
    skip: usize,
}

impl Guarded {
    fn new(stream: TcpStream) -> Guarded {
        Guarded { stream, head: Some(Vec::with_capacity(AUTHENTICATION_HEAD)), skip: 0 }
    }

    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(head) = &mut self.head {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            head.push(*first);
            let length = head.get(1..5).and_then(|l| l.first_chunk::<4>()).map(|l| u32::from_be_bytes(*l));
            match (head.first(), length) {
                (Some(b'R'), _) if head.len() < AUTHENTICATION_HEAD => {}
                (Some(b'R'), Some(length)) => {
                    let code = head.get(5..9).and_then(|c| c.first_chunk::<4>());
                    match code.map(|c| u32::from_be_bytes(*c)) {
                        Some(0) => self.head = None,
                        Some(3) => {
                            return Err(io::Error::new(
                                io::ErrorKind::PermissionDenied,
                                "the target asks for the password in clear and the connection has no TLS",
                            ));
                        }
                        _ => {
                            head.clear();
                            self.skip = (length as usize).saturating_sub(8);
                        }
                    }
                }
                (Some(_), Some(length)) => {
                    head.clear();
                    self.skip = (length as usize).saturating_sub(4);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = &polled {
            let new = buf.filled().get(before..).unwrap_or_default();
            if let Err(e) = self.look(new) {
                return Poll::Ready(Err(e));
            }
        }
        polled
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tag, length, code.
const AUTHENTICATION_HEAD: usize = 9;

// ---------------------------------------------------------------------------------------------------------------- keeper

/// Catalogues that do not come from a target, by connection name.
pub type Fixed = HashMap<String, Arc<Catalog>>;

/// Told when the load it waited for has ended.
pub(crate) type Waiter = Box<dyn FnOnce(Answer) + Send>;

/// Loads and reloads: one load at a time per connection and database, with a rest after each ([`FLOOR`], [`BUSY_ONE_IN`]).
pub(crate) struct Keeper {
    fixed: ArcSwap<Fixed>,
    flights: Mutex<HashMap<Key, Flight>>,
    /// Loads at once, whatever is asked.
    loads: Semaphore,
    handle: tokio::runtime::Handle,
    stopped: AtomicBool,
}

/// A connection by its identity, not its name: a reload may bring another one of the same name. The flight keeps it alive.
type Key = (usize, String);

struct Flight {
    connection: Arc<Connection>,
    /// Waiting for a load that has not looked at the target yet.
    next: Vec<Waiter>,
    /// Waiting for the load that is under way.
    current: Vec<Waiter>,
    running: bool,
    /// When the next load may begin.
    rested: Option<Instant>,
    /// Content of what was published last, to know a change.
    published: Option<(Arc<Catalog>, [u8; 32])>,
    failing: bool,
}

impl Keeper {
    pub(crate) fn new(fixed: Fixed, handle: tokio::runtime::Handle) -> Keeper {
        Keeper {
            fixed: ArcSwap::from_pointee(fixed),
            flights: Mutex::new(HashMap::new()),
            loads: Semaphore::new(LOADS_MAX),
            handle,
            stopped: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_fixed(&self, fixed: Fixed) {
        // Beside no flight's landing: it looks here before it publishes.
        let _flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        self.fixed.store(Arc::new(fixed));
    }

    /// Answers once the catalogue behind `connection` is as new as this moment (or just newer than `newer_than` where it is
    /// already). The same version as before means: nothing changed.
    pub(crate) fn ask(
        self: &Arc<Keeper>,
        connection: Arc<Connection>,
        database: String,
        newer_than: u64,
        waiter: Waiter,
    ) {
        let known = connection.catalogues.get(&database);
        if let Some(fixed) = self.fixed.load().get(&connection.name) {
            if known.is_none_or(|k| !Arc::ptr_eq(&k, fixed)) {
                connection.catalogues.publish(&database, fixed.clone());
            }
            return waiter(Answer::Done);
        }
        if known.is_some_and(|k| k.version > newer_than) {
            return waiter(Answer::Done);
        }
        let key = (Arc::as_ptr(&connection).addr(), database);
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopped.load(Ordering::Acquire) {
            drop(flights);
            return waiter(Answer::Failed("the side path has stopped".to_owned()));
        }
        let flight = flights.entry(key.clone()).or_insert_with(|| Flight {
            connection,
            next: Vec::new(),
            current: Vec::new(),
            running: false,
            rested: None,
            published: None,
            failing: false,
        });
        // Any catalogue will do: the one on its way does. Otherwise it may have looked before what the asker has seen.
        if newer_than == 0 && !flight.current.is_empty() {
            flight.current.push(waiter);
        } else {
            flight.next.push(waiter);
        }
        if !flight.running {
            flight.running = true;
            let keeper = self.clone();
            self.handle.spawn(async move { keeper.fly(key).await });
        }
    }

    /// Loads as long as somebody waits.
    async fn fly(self: Arc<Keeper>, key: Key) {
        loop {
            if let Some(rested) = self.with(&key, |f| f.rested).flatten() {
                tokio::time::sleep_until(rested).await;
            }
            let Ok(_permit) = self.loads.acquire().await else { return };
            // Who asked up to here is served by this load: it has not looked yet.
            let connection = self.with(&key, |f| {
                f.current = std::mem::take(&mut f.next);
                f.connection.clone()
            });
            let Some(connection) = connection else { return };
            let began = Instant::now();
            let result = match fetch(&connection, &key.1).await {
                Ok(catalog) => hashed(catalog).await,
                Err(e) => Err(e),
            };
            let waiting = self.with(&key, |f| {
                f.rested = Some(began + FLOOR.max(began.elapsed() * BUSY_ONE_IN));
                let answer = match result {
                    Ok((catalog, hash)) => {
                        // A file may have taken the target's place while we were reading there.
                        if !self.fixed.load().contains_key(&f.connection.name) {
                            f.publish(&key.1, catalog, hash);
                        }
                        f.failing = false;
                        Answer::Done
                    }
                    Err(e) => {
                        // Once, not every half minute of a target's maintenance.
                        if !std::mem::replace(&mut f.failing, true) {
                            let connection = &f.connection.name;
                            tracing::warn!(connection, database = key.1, error = %e, "catalogue not loaded");
                        }
                        Answer::Failed(e.to_string())
                    }
                };
                f.running = !f.next.is_empty();
                (std::mem::take(&mut f.current), answer, f.running)
            });
            let Some((waiters, answer, more)) = waiting else { return };
            for waiter in waiters {
                waiter(answer.clone());
            }
            if !more {
                return;
            }
        }
    }

    fn with<T>(&self, key: &Key, look: impl FnOnce(&mut Flight) -> T) -> Option<T> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key).map(look)
    }

    /// Reloads what is known: every `refresh` (0: never) all of it, and soon what a session saw being changed.
    pub(crate) async fn keep(self: Arc<Keeper>, published: Arc<ArcSwap<Directory>>, refresh: Duration) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(LOOK_FOR_STALE).await;
            let all = !refresh.is_zero() && last.elapsed() >= refresh;
            if all {
                last = Instant::now();
                self.forget();
            }
            let directory = published.load_full();
            for connection in directory.connections.values().chain(directory.any.as_ref()) {
                let stale = connection.catalogues.take_stale();
                let databases = if all { connection.catalogues.databases() } else { stale };
                for database in databases {
                    // Nobody waits for it, and the flight itself says when it fails.
                    let nobody = Box::new(|_| {});
                    self.ask(connection.clone(), database, u64::MAX, nobody);
                }
            }
        }
    }

    /// The runtime has ended and nothing will load any more: dropping the waiters answers them.
    pub(crate) fn abandon(&self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        self.stopped.store(true, Ordering::Release);
        let left = std::mem::take(&mut *flights);
        // A waiter may ask again at once: not while we hold the lock.
        drop(flights);
        drop(left);
    }

    /// Drops what connections that are gone, or databases that never were, left behind.
    fn forget(&self) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|(_, database), f| {
            f.running
                || (Arc::strong_count(&f.connection) > 1 && f.connection.catalogues.get(database).is_some())
        });
    }
}

impl Flight {
    fn publish(&mut self, database: &str, catalog: Catalog, hash: [u8; 32]) {
        let known = self.connection.catalogues.get(database);
        let same = match (&known, &self.published) {
            (Some(known), Some((ours, before))) => Arc::ptr_eq(known, ours) && *before == hash,
            _ => false,
        };
        if !same {
            let catalog = Arc::new(catalog);
            self.published = Some((catalog.clone(), hash));
            self.connection.catalogues.publish(database, catalog);
        }
    }
}

/// Hashing a large catalogue takes tens of milliseconds: not on the thread that answers everybody.
async fn hashed(catalog: Catalog) -> Result<(Catalog, [u8; 32]), CatalogueError> {
    let hashing = tokio::task::spawn_blocking(move || {
        let hash = content_hash(&catalog)?;
        Ok((catalog, hash))
    });
    hashing.await.unwrap_or_else(|e| Err(CatalogueError::Runtime(io::Error::other(e))))
}

/// SHA-256 over everything but the version.
fn content_hash(catalog: &Catalog) -> Result<[u8; 32], CatalogueError> {
    struct Sink(digest::Context);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let Catalog {
        version: _,
        database,
        server_version,
        search_path,
        tables,
        functions,
        writes,
        enums,
        keys,
        indexes,
        constraints,
        code,
    } = catalog;
    let mut sink = io::BufWriter::new(Sink(digest::Context::new(&digest::SHA256)));
    serde_json::to_writer(
        &mut sink,
        &(
            database,
            server_version,
            search_path,
            tables,
            functions,
            writes,
            enums,
            keys,
            indexes,
            constraints,
            code,
        ),
    )?;
    let sink = sink.into_inner().map_err(|e| CatalogueError::Runtime(e.into_error()))?;
    let mut out = [0; 32];
    out.iter_mut().zip(sink.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
    Ok(out)
}

/// Between the beginnings of two loads of one database.
const FLOOR: Duration = Duration::from_millis(250);
/// A target with a large catalogue spends at most this part of its time on our loads, whatever clients ask about.
const BUSY_ONE_IN: u32 = 2;
const LOADS_MAX: usize = 4;
/// A session that saw a table being made marks it; nobody waits for this reload.
const LOOK_FOR_STALE: Duration = Duration::from_millis(500);
