//! One client of the demo database: the PostgreSQL protocol's rules on one side, a SQLite connection on the
//! other.
//!
//! Messages are read and written by pgwire; what they mean is decided here, because the order of replies,
//! what an error skips, and when a transaction ends are exactly what the gateway in front relies on
//! (PostgreSQL docs, "Message Flow").
//!
//! Invariant: after an error of the extended protocol nothing is answered until Sync; every Query and every
//! Sync is answered with one ReadyForQuery that tells the state SQLite is really in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use pgwire::api::auth::StartupHandler as _;
use pgwire::api::{ClientInfo as _, METADATA_USER, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::copy::{CopyData, CopyDone, CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{DataRow, FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, CloseComplete, Execute, Parse, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{PgWireBackendMessage as Say, PgWireFrontendMessage as Hear};
use pgwire::tokio::server::{MaybeTls, PgWireMessageServerCodec, negotiate_tls};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, Statement};
use tokio::sync::watch;
use tokio_util::codec::Framed;

use super::database::{Running, Shared};
use super::dialect::{self, Copy, Hint, Item, Output, Refused, Sql};
use super::introspect::{self, Catalogue};
use super::values::{Kind, Unfit};

/// Encoded rows a portal with a row limit may keep back, in bytes.
const PORTAL_BYTES_MAX: usize = 256 << 20;

/// serialization_failure: SQLite's one writer is somebody else.
const BUSY: &str = "40001";

type Socket = Framed<MaybeTls, PgWireMessageServerCodec<()>>;

/// Serves one connection until it ends.
///
/// # Errors
/// When the socket or SQLite fails beyond what a client can be told.
pub(crate) async fn serve(
    socket: std::net::TcpStream,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
    full: bool,
) -> anyhow::Result<()> {
    let socket = tokio::net::TcpStream::from_std(socket)?;
    let Some(mut socket) = negotiate_tls::<()>(socket, None).await? else { return Ok(()) };
    while !matches!(socket.state(), PgWireConnectionState::ReadyForQuery) {
        let message = tokio::select! {
            _ = stopped.changed() => return Ok(()),
            message = socket.next() => message,
        };
        match message {
            None => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Hear::CancelRequest(request))) => {
                shared.cancel(&request);
                return Ok(());
            }
            Some(Ok(_)) if full => {
                let error = Failure::fatal("53300", "sorry, too many clients already");
                socket.send(Say::ErrorResponse(error.into())).await?;
                return Ok(());
            }
            Some(Ok(message)) => {
                if let Err(error) = shared.login.on_startup(&mut socket, message).await {
                    let info = ErrorInfo::from(error);
                    let error = Failure {
                        severity: "FATAL",
                        detail: None,
                        hint: None,
                        at: None,
                        sqlstate: info.code,
                        message: info.message,
                    };
                    socket.send(Say::ErrorResponse(error.into())).await?;
                    return Ok(());
                }
            }
        }
    }
    let (pid, key) = socket.pid_and_secret_key();
    let user = socket.metadata().get(METADATA_USER).cloned().unwrap_or_default();
    let db = shared.open().context("open a session's connection")?;
    let running = shared.enter(pid, key, &db);
    let catalogue = Catalogue::default();
    let sleeping = running.clone();
    let outcome = match catalogue.functions(&db, pid, user, move |time| sleeping.sleep(time)) {
        Ok(()) => {
            let mut session = Session {
                db,
                socket,
                running,
                catalogue,
                statements: HashMap::new(),
                portals: HashMap::new(),
                settings: HashMap::new(),
                implicit: false,
                explicit: false,
                failed: false,
                skipping: false,
            };
            session.run(&mut stopped).await
        }
        Err(error) => Err(error.into()),
    };
    shared.leave(pid);
    outcome
}

struct Session {
    db: Connection,
    socket: Socket,
    running: Arc<Running>,
    catalogue: Catalogue,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    settings: HashMap<String, String>,
    /// A transaction we opened around what runs until the next Sync or the end of a Query.
    implicit: bool,
    /// A transaction the client opened.
    explicit: bool,
    /// The client's transaction failed; only its end is taken.
    failed: bool,
    /// An error of the extended protocol: everything up to Sync is passed over.
    skipping: bool,
}

struct Prepared {
    /// `None`: an empty statement.
    item: Option<Item>,
    /// Type OIDs as announced.
    parameters: Vec<u32>,
    columns: Vec<Column>,
}

struct Portal {
    prepared: Arc<Prepared>,
    values: Vec<Value>,
    formats: Vec<i16>,
    /// Rows kept back by a row limit, and the command tag's first word.
    kept: Option<(VecDeque<DataRow>, String)>,
    done: bool,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    table: u32,
    attribute: i16,
    /// `None`: nobody knows before the first row.
    kind: Option<Kind>,
}

/// What a client is told went wrong.
#[derive(Debug)]
struct Failure {
    severity: &'static str,
    sqlstate: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    /// Characters from 1.
    at: Option<usize>,
}

/// What may end the handling of a message: an error for the client, or the connection.
#[derive(Debug)]
enum Stop {
    Failed(Box<Failure>),
    Gone(anyhow::Error),
}

type Done<T = ()> = Result<T, Stop>;

impl Session {
    async fn run(&mut self, stopped: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
        loop {
            let message = tokio::select! {
                _ = stopped.changed() => {
                    let goodbye = Failure::fatal("57P01", "terminating connection because the demo stops");
                    self.socket.send(Say::ErrorResponse(goodbye.into())).await?;
                    return Ok(());
                }
                message = self.socket.next() => message,
            };
            let message = match message {
                None | Some(Ok(Hear::Terminate(_))) => return Ok(()),
                Some(Err(error)) => {
                    let error = Failure::fatal("08P01", &error.to_string());
                    self.socket.send(Say::ErrorResponse(error.into())).await?;
                    return Ok(());
                }
                Some(Ok(message)) => message,
            };
            if self.skipping && !matches!(message, Hear::Sync(_)) {
                continue;
            }
            self.running.begin();
            let simple = matches!(message, Hear::Query(_));
            match self.take(message).await {
                Ok(()) => {}
                Err(Stop::Gone(error)) => return Err(error),
                Err(Stop::Failed(mut failure)) => {
                    if self.running.cancelled() && failure.sqlstate == BUSY {
                        // Cancelled while it waited for a writer.
                        *failure = Failure::cancelled();
                    }
                    self.fail()?;
                    self.socket.feed(Say::ErrorResponse((*failure).into())).await?;
                    if simple {
                        self.ready().await?;
                    } else {
                        self.skipping = true;
                        self.socket.flush().await?;
                    }
                }
            }
        }
    }

    async fn take(&mut self, message: Hear) -> Done {
        match message {
            Hear::Query(query) => {
                self.statements.remove("");
                self.portals.remove("");
                let items = dialect::read(&query.query).map_err(|r| Failure::refused(r, &query.query))?;
                if items.is_empty() {
                    self.say(Say::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
                }
                for item in &items {
                    self.allowed(Some(item))?;
                    self.item(item).await?;
                }
                self.finish()?;
                self.ready().await?;
            }
            Hear::Parse(parse) => self.parse(parse).await?,
            Hear::Bind(bind) => self.bind(bind).await?,
            Hear::Describe(describe) => {
                let name = describe.name.unwrap_or_default();
                if describe.target_type == b'S' {
                    let prepared =
                        self.statements.get(&name).ok_or_else(|| Failure::no_statement(&name))?.clone();
                    self.say(Say::ParameterDescription(ParameterDescription::new(
                        prepared.parameters.clone(),
                    )))
                    .await?;
                    self.describe(&prepared.columns, &[]).await?;
                } else {
                    let portal = self.portals.get(&name).ok_or_else(|| Failure::no_portal(&name))?;
                    let (columns, formats) = (portal.prepared.columns.clone(), portal.formats.clone());
                    self.describe(&columns, &formats).await?;
                }
            }
            Hear::Execute(execute) => self.execute(execute).await?,
            Hear::Close(close) => {
                let name = close.name.unwrap_or_default();
                if close.target_type == b'S' {
                    self.statements.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                self.say(Say::CloseComplete(CloseComplete::new())).await?;
            }
            Hear::Flush(_) => self.flush().await?,
            Hear::Sync(_) => {
                if std::mem::take(&mut self.skipping) {
                    // The transaction, if it was ours, went when the error came.
                } else if let Err(Stop::Failed(failure)) = self.finish() {
                    self.fail()?;
                    self.say(Say::ErrorResponse((*failure).into())).await?;
                }
                self.ready().await?;
            }
            // A copy that failed leaves these behind; PostgreSQL ignores them too.
            Hear::CopyData(_) | Hear::CopyDone(_) | Hear::CopyFail(_) => {}
            _ => return Err(Failure::fatal("08P01", "unexpected message").into()),
        }
        Ok(())
    }

    /// In a failed transaction only its end is taken.
    fn allowed(&self, item: Option<&Item>) -> Done {
        let ends = match item {
            Some(Item::Commit | Item::Rollback) => true,
            Some(Item::Savepoint(text, _)) => text.starts_with("rollback"),
            _ => false,
        };
        if self.failed && !ends {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Failure::new("25P02", message).into());
        }
        Ok(())
    }

    /// A statement of the simple protocol.
    async fn item(&mut self, item: &Item) -> Done {
        match item {
            Item::Sql(sql) => {
                self.open()?;
                let text = self.prepare_catalogue(sql)?;
                let mut described = false;
                stream(&self.db, &mut self.socket, &text, sql, &[], &[], None, Some(&mut described)).await?;
                self.after(sql);
            }
            other => self.utility(other, true).await?,
        }
        Ok(())
    }

    /// Everything that is not for SQLite as it is.
    async fn utility(&mut self, item: &Item, describe: bool) -> Done {
        match item {
            Item::Sql(_) => return Err(Failure::new("XX000", "not a utility statement").into()),
            Item::Begin => {
                if self.explicit {
                    self.warn("25001", "there is already a transaction in progress").await?;
                } else if !std::mem::take(&mut self.implicit) {
                    self.sqlite("begin")?;
                }
                self.explicit = true;
                self.tag("BEGIN").await?;
            }
            Item::Commit if self.failed => {
                self.end("rollback")?;
                self.tag("ROLLBACK").await?;
            }
            Item::Commit | Item::Rollback => {
                if !self.explicit {
                    self.warn("25P01", "there is no transaction in progress").await?;
                }
                let commit = *item == Item::Commit;
                self.end(if commit { "commit" } else { "rollback" })?;
                self.tag(if commit { "COMMIT" } else { "ROLLBACK" }).await?;
            }
            Item::Savepoint(text, tag) => {
                if !self.explicit {
                    let message = format!("{tag} can only be used in transaction blocks");
                    return Err(Failure::new("25P01", &message).into());
                }
                self.sqlite(text)?;
                // Back before what failed: the transaction goes on.
                self.failed = false;
                self.tag(tag).await?;
            }
            Item::Set { name, value, tag } => {
                self.set(name, value.as_deref()).await?;
                self.tag(tag).await?;
            }
            Item::Show(name) => {
                let Some(value) = self.settings.get(name).cloned().or_else(|| introspect::setting(name))
                else {
                    let message = format!("unrecognized configuration parameter \"{name}\"");
                    return Err(Failure::new("42704", &message).into());
                };
                if describe {
                    self.describe(&show_columns(name), &[]).await?;
                }
                let mut row = BytesMut::new();
                Kind::Text
                    .encode(ValueRef::Text(value.as_bytes()), false, &mut row)
                    .map_err(Failure::from)?;
                self.say(Say::DataRow(DataRow::new(row, 1))).await?;
                self.tag("SHOW").await?;
            }
            Item::Explain(text) => {
                let steps: Vec<String> = {
                    let mut statement = self.db.prepare(text).map_err(Failure::from)?;
                    let rows = statement.query_map((), |row| row.get(3)).map_err(Failure::from)?;
                    rows.collect::<rusqlite::Result<_>>().map_err(Failure::from)?
                };
                if describe {
                    self.describe(&show_columns("QUERY PLAN"), &[]).await?;
                }
                for step in steps {
                    let mut row = BytesMut::new();
                    Kind::Text
                        .encode(ValueRef::Text(step.as_bytes()), false, &mut row)
                        .map_err(Failure::from)?;
                    self.say(Say::DataRow(DataRow::new(row, 1))).await?;
                }
                self.tag("EXPLAIN").await?;
            }
            Item::Copy(copy) => self.copy(copy).await?,
            Item::Nothing(tag) => {
                match *tag {
                    "DISCARD ALL" => {
                        self.statements.clear();
                        self.settings.clear();
                    }
                    "DEALLOCATE ALL" => self.statements.clear(),
                    _ => {}
                }
                self.tag(tag).await?;
            }
        }
        Ok(())
    }

    async fn set(&mut self, name: &str, value: Option<&str>) -> Done {
        let reported = match name {
            "client_encoding" => {
                let plain = value.unwrap_or("utf8").to_ascii_lowercase().replace('-', "");
                if !matches!(plain.as_str(), "utf8" | "unicode" | "default") {
                    return Err(Failure::from(Refused::sqlite("client encoding but UTF8")).into());
                }
                Some("client_encoding")
            }
            "application_name" => Some("application_name"),
            "standard_conforming_strings" if value.is_some_and(|v| !v.eq_ignore_ascii_case("on")) => {
                return Err(Failure::from(Refused::sqlite("backslashes in plain strings")).into());
            }
            // Moments are always shown in UTC, with their offset: other zones would only be claimed.
            _ => None,
        };
        match value {
            Some(value) if name != "timezone" => {
                self.settings.insert(name.to_owned(), value.to_owned());
                if let Some(name) = reported {
                    let value = if name == "client_encoding" { "UTF8" } else { value };
                    self.say(Say::ParameterStatus(ParameterStatus::new(name.to_owned(), value.to_owned())))
                        .await?;
                }
            }
            Some(_) => {}
            None => {
                self.settings.remove(name);
            }
        }
        Ok(())
    }

    async fn parse(&mut self, parse: Parse) -> Done {
        let name = parse.name.unwrap_or_default();
        let mut items = dialect::read(&parse.query).map_err(|r| Failure::refused(r, &parse.query))?;
        if items.len() > 1 {
            return Err(
                Failure::new("42601", "cannot insert multiple commands into a prepared statement").into()
            );
        }
        let item = items.pop();
        if item.is_some() {
            self.allowed(item.as_ref())?;
        }
        let mut prepared = Prepared { item: None, parameters: Vec::new(), columns: Vec::new() };
        match &item {
            Some(Item::Sql(sql)) => {
                let text = self.prepare_catalogue(sql)?;
                let mut statement = self.db.prepare(&text).map_err(Failure::from)?;
                let tables = tables(&text);
                for n in 0..statement.parameter_count() {
                    let asked = parse.type_oids.get(n).copied().filter(|oid| *oid != 0 && *oid != 705);
                    prepared.parameters.push(asked.unwrap_or_else(|| {
                        let hint = sql.parameters.get(n).and_then(Option::as_ref);
                        hint.and_then(|h| hinted(&self.db, h, &tables)).unwrap_or(Kind::Text).oid()
                    }));
                }
                prepared.columns = columns(&self.db, &statement, sql).map_err(Failure::from)?;
                if prepared.columns.iter().any(|c| c.kind.is_none()) && statement.readonly() {
                    // Nobody but a first row can tell what an expression is: look at one, with nothing bound.
                    let peeked = peek(&mut statement, prepared.columns.len());
                    for (column, kind) in prepared.columns.iter_mut().zip(peeked) {
                        column.kind.get_or_insert(kind);
                    }
                }
                for column in &mut prepared.columns {
                    column.kind.get_or_insert(Kind::Text);
                }
            }
            Some(Item::Show(name)) => prepared.columns = show_columns(name),
            Some(Item::Explain(_)) => prepared.columns = show_columns("QUERY PLAN"),
            _ => {}
        }
        prepared.item = item;
        self.statements.insert(name, Arc::new(prepared));
        self.say(Say::ParseComplete(ParseComplete::new())).await
    }

    async fn bind(&mut self, bind: Bind) -> Done {
        let name = bind.statement_name.unwrap_or_default();
        let prepared = self.statements.get(&name).ok_or_else(|| Failure::no_statement(&name))?.clone();
        self.allowed(prepared.item.as_ref())?;
        if bind.parameters.len() != prepared.parameters.len() {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{name}\" requires {}",
                bind.parameters.len(),
                prepared.parameters.len()
            );
            return Err(Failure::new("08P01", &message).into());
        }
        let mut values = Vec::with_capacity(bind.parameters.len());
        for (n, (bytes, oid)) in bind.parameters.iter().zip(&prepared.parameters).enumerate() {
            let binary = format_of(&bind.parameter_format_codes, n) == 1;
            values.push(match bytes {
                None => Value::Null,
                Some(bytes) => match Kind::of_oid(*oid) {
                    Some(kind) => kind.decode(bytes, binary).map_err(Failure::from)?,
                    None if binary => return Err(Failure::from(Unfit::Unknown(*oid)).into()),
                    None => Kind::Text.read_text(bytes).map_err(Failure::from)?,
                },
            });
        }
        let portal =
            Portal { prepared, values, formats: bind.result_column_format_codes, kept: None, done: false };
        self.portals.insert(bind.portal_name.unwrap_or_default(), portal);
        self.say(Say::BindComplete(BindComplete::new())).await
    }

    async fn execute(&mut self, execute: Execute) -> Done {
        let name = execute.name.unwrap_or_default();
        let limit = usize::try_from(execute.max_rows).ok().filter(|n| *n > 0);
        // Taken out while it runs; put back unless the statement ended the transaction it lives in.
        let mut portal = self.portals.remove(&name).ok_or_else(|| Failure::no_portal(&name))?;
        let prepared = portal.prepared.clone();
        self.allowed(prepared.item.as_ref())?;
        match &prepared.item {
            None => self.say(Say::EmptyQueryResponse(EmptyQueryResponse::new())).await?,
            Some(Item::Sql(sql)) => {
                self.open()?;
                let text = self.prepare_catalogue(sql)?;
                if portal.done {
                    self.tag(&counted(sql, 0)).await?;
                } else if let Some(limit) = limit {
                    if portal.kept.is_none() {
                        let mut keep = VecDeque::new();
                        let tag = stream(
                            &self.db,
                            &mut self.socket,
                            &text,
                            sql,
                            &portal.values,
                            &portal.formats,
                            Some((&prepared.columns, Some(&mut keep))),
                            None,
                        )
                        .await?;
                        portal.kept = Some((keep, tag));
                        self.after(sql);
                    }
                    let (mut sent, mut left, mut tag) = (0, 0, String::new());
                    if let Some((kept, whole)) = &mut portal.kept {
                        while sent < limit
                            && let Some(row) = kept.pop_front()
                        {
                            self.socket.feed(Say::DataRow(row)).await.map_err(anyhow::Error::from)?;
                            sent += 1;
                        }
                        left = kept.len();
                        tag = if sql.counts && !prepared.columns.is_empty() {
                            counted(sql, sent)
                        } else {
                            whole.clone()
                        };
                    }
                    // PostgreSQL too says "suspended" when the limit was met exactly.
                    if left > 0 || sent == limit {
                        self.say(Say::PortalSuspended(PortalSuspended::new())).await?;
                    } else {
                        portal.done = true;
                        self.tag(&tag).await?;
                    }
                } else if let Some((kept, _)) = portal.kept.take() {
                    let sent = kept.len();
                    for row in kept {
                        self.say(Say::DataRow(row)).await?;
                    }
                    portal.done = true;
                    self.tag(&counted(sql, sent)).await?;
                } else {
                    let how = Some((prepared.columns.as_slice(), None));
                    stream(
                        &self.db,
                        &mut self.socket,
                        &text,
                        sql,
                        &portal.values,
                        &portal.formats,
                        how,
                        None,
                    )
                    .await?;
                    portal.done = true;
                    self.after(sql);
                }
            }
            Some(item) => {
                if matches!(item, Item::Copy(_)) {
                    self.open()?;
                }
                self.utility(item, false).await?;
                if matches!(item, Item::Commit | Item::Rollback) {
                    return Ok(());
                }
            }
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    async fn describe(&mut self, columns: &[Column], formats: &[i16]) -> Done {
        if columns.is_empty() {
            self.say(Say::NoData(NoData::new())).await
        } else {
            self.say(Say::RowDescription(description(columns, formats))).await
        }
    }

    async fn copy(&mut self, copy: &Copy) -> Done {
        self.open()?;
        match &copy.insert {
            None => copy_out(&self.db, &mut self.socket, copy).await,
            Some(insert) => {
                let rows = self.copy_in(copy, insert).await?;
                self.tag(&format!("COPY {rows}")).await
            }
        }
    }

    async fn copy_in(&mut self, copy: &Copy, insert: &str) -> Done<usize> {
        let kinds: Vec<Kind> = {
            let statement = self.db.prepare(&copy.select.text).map_err(Failure::from)?;
            let columns = columns(&self.db, &statement, &copy.select).map_err(Failure::from)?;
            columns.iter().map(|c| c.kind.unwrap_or(Kind::Text)).collect()
        };
        let count = kinds.len();
        let width = i16::try_from(count).unwrap_or(i16::MAX);
        self.say(Say::CopyInResponse(CopyInResponse::new(0, width, vec![0; count]))).await?;
        self.flush().await?;
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            match self.socket.next().await {
                None => return Err(Stop::Gone(anyhow::anyhow!("the client left in the middle of a COPY"))),
                Some(Err(error)) => return Err(Stop::Gone(error.into())),
                Some(Ok(Hear::CopyData(data))) => {
                    if bytes.len() + data.data.len() > PORTAL_BYTES_MAX {
                        return Err(Failure::new(
                            "54000",
                            "the demo database takes no COPY as large as this",
                        )
                        .into());
                    }
                    bytes.extend_from_slice(&data.data);
                }
                Some(Ok(Hear::CopyDone(_))) => break,
                Some(Ok(Hear::CopyFail(fail))) => {
                    let message = format!("COPY from stdin failed: {}", fail.message);
                    return Err(Failure::new("57014", &message).into());
                }
                // A client may have sent Sync with the Execute; PostgreSQL passes over it too.
                Some(Ok(Hear::Sync(_) | Hear::Flush(_))) => {}
                Some(Ok(_)) => {
                    return Err(
                        Failure::new("08P01", "unexpected message type during COPY from stdin").into()
                    );
                }
            }
        }
        let marks = (1..=count).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
        let mut statement = self.db.prepare(&format!("{insert} values ({marks})")).map_err(Failure::from)?;
        let mut rows = 0;
        for (number, fields) in copy_rows(&bytes, copy).into_iter().enumerate() {
            if (number == 0 && copy.header)
                || (fields.len() == 1 && fields.first() == Some(&Some(b"\\.".to_vec())))
            {
                continue;
            }
            if fields.len() != count {
                let message =
                    format!("line {}: {} fields where the table has {count}", number + 1, fields.len());
                return Err(Failure::new("22P04", &message).into());
            }
            for (n, (field, kind)) in (1usize..).zip(fields.iter().zip(&kinds)) {
                let value = match field {
                    None => Value::Null,
                    Some(bytes) => kind.read_text(bytes).map_err(Failure::from)?,
                };
                statement.raw_bind_parameter(n, value).map_err(Failure::from)?;
            }
            statement.raw_execute().map_err(Failure::from)?;
            rows += 1;
        }
        Ok(rows)
    }

    /// The text to run: for the catalogue, with its tables in place, or nothing where the demo has nothing.
    fn prepare_catalogue(&mut self, sql: &Sql) -> Done<String> {
        if !sql.catalogue {
            return Ok(sql.text.clone());
        }
        self.catalogue.refresh(&self.db).map_err(Failure::from)?;
        if let Err(error) = self.db.prepare(&sql.text) {
            let failure = Failure::from(error);
            return Err(Failure {
                sqlstate: "0A000".to_owned(),
                message: format!(
                    "the demo database is SQLite behind the PostgreSQL protocol: it cannot answer this catalogue query ({})",
                    failure.message
                ),
                hint: None,
                ..failure
            }
            .into());
        }
        Ok(sql.text.clone())
    }

    fn after(&mut self, sql: &Sql) {
        if sql.ddl {
            // Plans and types of what was prepared may be wrong now; SQLite prepares anew, and the catalogue
            // looks at its version.
            self.portals.clear();
        }
    }

    /// Begins our own transaction where the client has none.
    fn open(&mut self) -> Done {
        if !self.explicit && !self.implicit {
            self.sqlite("begin")?;
            self.implicit = true;
        }
        Ok(())
    }

    /// Ends our own transaction.
    fn finish(&mut self) -> Done {
        if self.implicit {
            self.end("commit")?;
        }
        Ok(())
    }

    fn end(&mut self, how: &str) -> Done {
        self.portals.clear();
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch(how)
        {
            // A commit that found others reading stays open in SQLite; in PostgreSQL a failed commit is a
            // rollback.
            if !self.db.is_autocommit() {
                self.sqlite("rollback")?;
            }
            (self.implicit, self.explicit, self.failed) = (false, false, false);
            return Err(Failure::from(error).into());
        }
        (self.implicit, self.explicit, self.failed) = (false, false, false);
        Ok(())
    }

    /// A statement failed: our own transaction is undone, the client's waits for its end.
    fn fail(&mut self) -> anyhow::Result<()> {
        self.portals.clear();
        if self.explicit {
            self.failed = true;
        } else {
            self.implicit = false;
            if !self.db.is_autocommit() {
                self.db.execute_batch("rollback").context("undo a failed statement")?;
            }
        }
        Ok(())
    }

    fn sqlite(&self, text: &str) -> Done {
        self.db.execute_batch(text).map_err(|e| Failure::from(e).into())
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let status = match (self.failed, self.explicit) {
            (true, _) => TransactionStatus::Error,
            (false, true) => TransactionStatus::Transaction,
            (false, false) => TransactionStatus::Idle,
        };
        self.socket.send(Say::ReadyForQuery(ReadyForQuery::new(status))).await?;
        Ok(())
    }

    async fn tag(&mut self, tag: &str) -> Done {
        self.say(Say::CommandComplete(CommandComplete::new(tag.to_owned()))).await
    }

    async fn warn(&mut self, sqlstate: &str, message: &str) -> Done {
        let warning = Failure { severity: "WARNING", ..Failure::new(sqlstate, message) };
        self.say(Say::NoticeResponse(NoticeResponse::new(warning.fields()))).await
    }

    async fn say(&mut self, message: Say) -> Done {
        self.socket.feed(message).await.map_err(|e| Stop::Gone(e.into()))
    }

    async fn flush(&mut self) -> Done {
        self.socket.flush().await.map_err(|e| Stop::Gone(e.into()))
    }
}

/// Columns as announced, and where to put rows instead of sending them.
type Announced<'a> = Option<(&'a [Column], Option<&'a mut VecDeque<DataRow>>)>;

/// Runs a statement and sends its rows and its tag; with a place to keep them, sends nothing and gives the
/// tag back.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one session, borrowed apart so that rows can stream while SQLite steps"
)]
async fn stream(
    db: &Connection,
    socket: &mut Socket,
    text: &str,
    sql: &Sql,
    values: &[Value],
    formats: &[i16],
    announced: Announced<'_>,
    describe: Option<&mut bool>,
) -> Done<String> {
    let mut statement = db.prepare(text).map_err(Failure::from)?;
    let (mut shape, mut keep) = match announced {
        Some((columns, keep)) => (columns.to_vec(), keep),
        None => (columns(db, &statement, sql).map_err(Failure::from)?, None),
    };
    let width = statement.column_count();
    if shape.len() != width {
        return Err(Failure::new("0A000", "cached plan must not change result type").into());
    }
    for (n, value) in (1usize..).zip(values) {
        statement.raw_bind_parameter(n, value).map_err(Failure::from)?;
    }
    if describe.is_none() && values.len() < statement.parameter_count()
        || describe.is_some() && statement.parameter_count() > 0
    {
        return Err(Failure::new("42P02", "there is no parameter $1").into());
    }
    let mut described = describe.is_none() || width == 0;
    let (mut count, mut held) = (0usize, 0usize);
    {
        let mut rows = statement.raw_query();
        loop {
            let row = rows.next().map_err(Failure::from)?;
            if !described {
                for (n, column) in shape.iter_mut().enumerate() {
                    let first = row.and_then(|r| r.get_ref(n).ok());
                    column.kind.get_or_insert_with(|| seen(first));
                }
                send(socket, Say::RowDescription(description(&shape, formats))).await?;
                described = true;
            }
            let Some(row) = row else { break };
            if width > 0 {
                let mut cells = BytesMut::new();
                for (n, column) in shape.iter().enumerate() {
                    let cell = row.get_ref(n).map_err(Failure::from)?;
                    let binary = format_of(formats, n) == 1;
                    column
                        .kind
                        .unwrap_or(Kind::Text)
                        .encode(cell, binary, &mut cells)
                        .map_err(Failure::from)?;
                }
                let row = DataRow::new(cells, i16::try_from(width).unwrap_or(i16::MAX));
                match &mut keep {
                    Some(keep) => {
                        held += row.data.len();
                        if held > PORTAL_BYTES_MAX {
                            return Err(Failure::new(
                                "54000",
                                "the demo database keeps no result as large as this",
                            )
                            .into());
                        }
                        keep.push_back(row);
                    }
                    None => send(socket, Say::DataRow(row)).await?,
                }
            }
            count += 1;
        }
    }
    if width == 0 {
        count = usize::try_from(db.changes()).unwrap_or(usize::MAX);
    }
    let tag = counted(sql, count);
    if keep.is_none() {
        send(socket, Say::CommandComplete(CommandComplete::new(tag.clone()))).await?;
    }
    Ok(tag)
}

async fn copy_out(db: &Connection, socket: &mut Socket, copy: &Copy) -> Done {
    let mut statement = db.prepare(&copy.select.text).map_err(Failure::from)?;
    let shape = columns(db, &statement, &copy.select).map_err(Failure::from)?;
    let width = i16::try_from(shape.len()).unwrap_or(i16::MAX);
    send(socket, Say::CopyOutResponse(CopyOutResponse::new(0, width, vec![0; shape.len()]))).await?;
    if copy.header {
        let names: Vec<Option<Vec<u8>>> = shape.iter().map(|c| Some(c.name.clone().into_bytes())).collect();
        send(socket, Say::CopyData(CopyData::new(copy_line(&names, copy)))).await?;
    }
    let mut count = 0usize;
    {
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(Failure::from)? {
            let mut fields = Vec::with_capacity(shape.len());
            for (n, column) in shape.iter().enumerate() {
                let cell = row.get_ref(n).map_err(Failure::from)?;
                let kind = column.kind.unwrap_or_else(|| seen(Some(cell)));
                fields.push(kind.to_text(cell).map_err(Failure::from)?);
            }
            send(socket, Say::CopyData(CopyData::new(copy_line(&fields, copy)))).await?;
            count += 1;
        }
    }
    send(socket, Say::CopyDone(CopyDone::new())).await?;
    send(socket, Say::CommandComplete(CommandComplete::new(format!("COPY {count}")))).await
}

async fn send(socket: &mut Socket, message: Say) -> Done {
    socket.feed(message).await.map_err(|e| Stop::Gone(e.into()))
}

/// One row of COPY in text or csv.
fn copy_line(fields: &[Option<Vec<u8>>], copy: &Copy) -> Bytes {
    let mut line = Vec::new();
    for (n, field) in fields.iter().enumerate() {
        if n > 0 {
            line.push(copy.delimiter);
        }
        match field {
            None => line.extend_from_slice(&copy.null),
            Some(bytes) if copy.csv => {
                let quote = *bytes == copy.null
                    || bytes.iter().any(|b| *b == copy.delimiter || matches!(b, b'"' | b'\n' | b'\r'))
                    || *bytes == b"\\.";
                if quote {
                    line.push(b'"');
                }
                for b in bytes {
                    if *b == b'"' {
                        line.push(b'"');
                    }
                    line.push(*b);
                }
                if quote {
                    line.push(b'"');
                }
            }
            Some(bytes) => {
                for b in bytes {
                    match b {
                        b'\\' => line.extend_from_slice(b"\\\\"),
                        b'\n' => line.extend_from_slice(b"\\n"),
                        b'\r' => line.extend_from_slice(b"\\r"),
                        b'\t' => line.extend_from_slice(b"\\t"),
                        b if *b == copy.delimiter => line.extend_from_slice(&[b'\\', *b]),
                        b => line.push(*b),
                    }
                }
            }
        }
    }
    line.push(b'\n');
    Bytes::from(line)
}

/// The rows of what a client copied in.
fn copy_rows(bytes: &[u8], copy: &Copy) -> Vec<Vec<Option<Vec<u8>>>> {
    let mut rows = Vec::new();
    let mut row: Vec<Option<Vec<u8>>> = Vec::new();
    let (mut field, mut raw, mut quoted, mut inside) = (Vec::new(), Vec::new(), false, false);
    let mut input = bytes.iter().copied().peekable();
    let finish = |field: &mut Vec<u8>, raw: &mut Vec<u8>, quoted: &mut bool| {
        // NULL is recognised before escapes are undone, and never in quotes.
        let null = *raw == copy.null && !*quoted;
        *quoted = false;
        raw.clear();
        let field = std::mem::take(field);
        if null { None } else { Some(field) }
    };
    while let Some(b) = input.next() {
        if inside {
            match b {
                b'"' if input.next_if_eq(&b'"').is_some() => field.push(b'"'),
                b'"' => inside = false,
                b => field.push(b),
            }
            continue;
        }
        match b {
            b'"' if copy.csv => (inside, quoted) = (true, true),
            b'\n' => {
                row.push(finish(&mut field, &mut raw, &mut quoted));
                rows.push(std::mem::take(&mut row));
            }
            b'\r' if input.peek() == Some(&b'\n') => {}
            b if b == copy.delimiter => row.push(finish(&mut field, &mut raw, &mut quoted)),
            b'\\' if !copy.csv => {
                raw.push(b);
                if let Some(next) = input.next() {
                    raw.push(next);
                    field.extend_from_slice(&match next {
                        b'n' => vec![b'\n'],
                        b't' => vec![b'\t'],
                        b'r' => vec![b'\r'],
                        b'.' => vec![b'\\', b'.'],
                        other => vec![other],
                    });
                }
            }
            b => {
                raw.push(b);
                field.push(b);
            }
        }
    }
    if !field.is_empty() || !row.is_empty() || quoted {
        row.push(finish(&mut field, &mut raw, &mut quoted));
        rows.push(row);
    }
    rows
}

fn counted(sql: &Sql, count: usize) -> String {
    if sql.counts { format!("{} {count}", sql.tag) } else { sql.tag.to_owned() }
}

fn show_columns(name: &str) -> Vec<Column> {
    vec![Column { name: name.to_owned(), table: 0, attribute: 0, kind: Some(Kind::Text) }]
}

fn description(columns: &[Column], formats: &[i16]) -> RowDescription {
    let fields = columns.iter().enumerate().map(|(n, c)| {
        let kind = c.kind.unwrap_or(Kind::Text);
        FieldDescription::new(
            c.name.clone(),
            i32::try_from(c.table).unwrap_or_default(),
            c.attribute,
            kind.oid(),
            kind.size(),
            kind.modifier(),
            format_of(formats, n),
        )
    });
    RowDescription::new(fields.collect())
}

/// None: text for all; one: for all; else one each.
fn format_of(formats: &[i16], n: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(n).copied().unwrap_or(0),
    }
}

/// What a statement will return: SQLite's word on origins and declared types, ours on expressions.
fn columns(db: &Connection, statement: &Statement<'_>, sql: &Sql) -> rusqlite::Result<Vec<Column>> {
    let metadata = statement.columns_with_metadata();
    let declared = statement.columns();
    let width = metadata.len();
    let star = sql.outputs.iter().position(|o| *o == Some(Output::Star));
    let tables = tables(&sql.text);
    let mut columns = Vec::with_capacity(width);
    for (n, (meta, declared)) in metadata.zip(declared).enumerate() {
        let mut column = Column { name: spelled(meta.name()), table: 0, attribute: 0, kind: None };
        if !sql.compound
            && meta.database_name() == Some("main")
            && let (Some(table), Some(origin)) = (meta.table_name(), meta.origin_name())
            && let Ok(oid) = introspect::table_oid(db, table)
        {
            column.table = oid;
            column.attribute = introspect::attribute(db, table, origin)?;
        }
        column.kind = declared.decl_type().map(Kind::declared);
        if column.kind.is_none() {
            let hint = match star {
                Some(star) if n >= star => (sql.outputs.len() + n).checked_sub(width).filter(|i| *i > star),
                _ => Some(n),
            };
            column.kind = match hint.and_then(|i| sql.outputs.get(i)).and_then(Option::as_ref) {
                Some(Output::Of(kind)) => Some(*kind),
                Some(Output::Like(name)) => hinted(db, &Hint::Column(name.clone()), &tables),
                _ => None,
            };
        }
        columns.push(column);
    }
    Ok(columns)
}

/// SQLite names a column without a name after its text; PostgreSQL after its function, or not at all.
fn spelled(name: &str) -> String {
    if let Some((function, _)) = name.split_once('(') {
        let function = function.trim();
        if !function.is_empty() && function.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
            return function.to_ascii_lowercase();
        }
        return "?column?".to_owned();
    }
    let plain = name.bytes().all(|b| b == b'_' || b == b' ' || b.is_ascii_alphanumeric() || b >= 0x80);
    if plain && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        "?column?".to_owned()
    }
}

/// Words of the statement that may be tables.
fn tables(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|w| !w.is_empty())
        .map(str::to_ascii_lowercase)
        .collect()
}

/// The type a hint points at, looking only at tables the statement names.
fn hinted(db: &Connection, hint: &Hint, tables: &[String]) -> Option<Kind> {
    let (table, column) = match hint {
        Hint::Of(kind) => return Some(*kind),
        Hint::Place(table, place) => {
            let place = i64::try_from(*place).ok()?;
            let declared: String = db
                .query_row(
                    "select type from pragma_table_info(?1) where cid = ?2",
                    rusqlite::params![table, place],
                    |r| r.get(0),
                )
                .ok()?;
            return Some(Kind::declared(&declared));
        }
        Hint::Column(name) => match name.split_once('.') {
            Some((table, column)) => (Some(table), column),
            None => (None, name.as_str()),
        },
    };
    let mut find = db
        .prepare_cached(
            "select s.name, c.type from main.sqlite_schema s, pragma_table_info(s.name) c
             where s.type in ('table', 'view') and c.name = ?1 collate nocase",
        )
        .ok()?;
    let mut rows = find.query([column]).ok()?;
    while let Ok(Some(row)) = rows.next() {
        let (owner, declared): (String, String) = (row.get(0).ok()?, row.get(1).ok()?);
        let owner = owner.to_ascii_lowercase();
        if table.map_or_else(|| tables.contains(&owner), |t| t == owner) {
            return Some(Kind::declared(&declared));
        }
    }
    None
}

/// Runs a read-only statement for one row, to see what its values are.
fn peek(statement: &mut Statement<'_>, width: usize) -> Vec<Kind> {
    let mut rows = statement.raw_query();
    let row = rows.next().ok().flatten();
    (0..width).map(|n| seen(row.and_then(|r| r.get_ref(n).ok()))).collect()
}

fn seen(value: Option<ValueRef<'_>>) -> Kind {
    match value {
        Some(ValueRef::Integer(_)) => Kind::Int8,
        Some(ValueRef::Real(_)) => Kind::Numeric(None),
        Some(ValueRef::Blob(_)) => Kind::Bytea,
        Some(ValueRef::Text(_) | ValueRef::Null) | None => Kind::Text,
    }
}

impl Failure {
    fn new(sqlstate: &str, message: &str) -> Failure {
        Failure {
            severity: "ERROR",
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
            detail: None,
            hint: None,
            at: None,
        }
    }

    fn fatal(sqlstate: &str, message: &str) -> Failure {
        Failure { severity: "FATAL", ..Failure::new(sqlstate, message) }
    }

    fn cancelled() -> Failure {
        Failure::new("57014", "canceling statement due to user request")
    }

    fn no_statement(name: &str) -> Stop {
        Failure::new("26000", &format!("prepared statement \"{name}\" does not exist")).into()
    }

    fn no_portal(name: &str) -> Stop {
        Failure::new("34000", &format!("portal \"{name}\" does not exist")).into()
    }

    fn refused(refused: Refused, text: &str) -> Failure {
        let at = refused.at.and_then(|at| text.get(..at)).map(|before| before.chars().count() + 1);
        Failure { at, ..Failure::from(refused) }
    }

    fn fields(self) -> Vec<(u8, String)> {
        let mut fields = vec![
            (b'S', self.severity.to_owned()),
            (b'V', self.severity.to_owned()),
            (b'C', self.sqlstate),
            (b'M', self.message),
        ];
        fields.extend(self.detail.map(|d| (b'D', d)));
        fields.extend(self.hint.map(|h| (b'H', h)));
        fields.extend(self.at.map(|p| (b'P', p.to_string())));
        fields
    }
}

impl From<Failure> for ErrorResponse {
    fn from(failure: Failure) -> ErrorResponse {
        ErrorResponse::new(failure.fields())
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(Box::new(failure))
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Gone(error)
    }
}

impl From<PgWireError> for Stop {
    fn from(error: PgWireError) -> Stop {
        Stop::Gone(error.into())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        let hint = (refused.sqlstate == "0A000")
            .then(|| "lockgate run puts the gateway before a real PostgreSQL.".to_owned());
        Failure { hint, ..Failure::new(refused.sqlstate, &refused.message) }
    }
}

impl From<Unfit> for Failure {
    fn from(unfit: Unfit) -> Failure {
        let sqlstate = match unfit {
            Unfit::Text(_) => "22P02",
            Unfit::Binary(_) => "22P03",
            Unfit::Stored { .. } => "42804",
            Unfit::Unknown(_) => "0A000",
        };
        Failure::new(sqlstate, &unfit.to_string())
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        const DIALECT: &str = "The demo database is SQLite behind the PostgreSQL protocol; what only PostgreSQL knows does not run here.";
        let (code, extended, text) = match &error {
            rusqlite::Error::SqliteFailure(e, text) => {
                (e.code, e.extended_code, text.clone().unwrap_or_default())
            }
            rusqlite::Error::SqlInputError { error, msg, .. } => {
                (error.code, error.extended_code, msg.clone())
            }
            other => return Failure::new("XX000", &format!("the demo database (SQLite) says: {other}")),
        };
        match code {
            ErrorCode::OperationInterrupted => {
                return Failure::cancelled();
            }
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                let failure = Failure::new(
                    BUSY,
                    "could not serialize access: another session of the demo database is writing",
                );
                return Failure {
                    hint: Some("SQLite lets one session write at a time; try again.".to_owned()),
                    ..failure
                };
            }
            ErrorCode::ConstraintViolation => {
                use rusqlite::ffi;
                let sqlstate = match extended {
                    ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "23505",
                    ffi::SQLITE_CONSTRAINT_NOTNULL => "23502",
                    ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "23503",
                    ffi::SQLITE_CONSTRAINT_CHECK => "23514",
                    _ => "23000",
                };
                return Failure::new(sqlstate, &text);
            }
            _ => {}
        }
        let after =
            |prefix: &str| text.strip_prefix(prefix).map(|name| name.trim_start_matches("main.").to_owned());
        if text.contains("syntax error")
            || text.contains("unrecognized token")
            || text.contains("incomplete input")
        {
            let message = match text.strip_prefix("near \"").and_then(|t| t.split_once('"')) {
                Some((near, _)) => format!("syntax error at or near \"{near}\""),
                None if text.contains("incomplete") => "syntax error at end of input".to_owned(),
                None => text,
            };
            Failure { hint: Some(DIALECT.to_owned()), ..Failure::new("42601", &message) }
        } else if let Some(name) = after("no such table: ") {
            Failure::new("42P01", &format!("relation \"{name}\" does not exist"))
        } else if let Some(name) = after("no such column: ") {
            Failure::new("42703", &format!("column \"{name}\" does not exist"))
        } else if let Some(name) = after("no such function: ") {
            let failure = Failure::new("42883", &format!("function {name} does not exist"));
            Failure { hint: Some(DIALECT.to_owned()), ..failure }
        } else if text.starts_with("wrong number of arguments") {
            Failure { hint: Some(DIALECT.to_owned()), ..Failure::new("42883", &text) }
        } else if text.starts_with("ambiguous column name") {
            Failure::new("42702", &text)
        } else if text.ends_with("already exists") {
            Failure::new("42P07", &text)
        } else if text.starts_with("misuse of aggregate") {
            Failure::new("42803", &text)
        } else if text.starts_with("no such savepoint") {
            Failure::new("3B001", &text)
        } else if text.contains("values for") || text.contains("has no column named") {
            Failure::new(if text.contains("column named") { "42703" } else { "42601" }, &text)
        } else {
            let failure = Failure::new("XX000", &format!("the demo database (SQLite) says: {text}"));
            Failure { hint: Some(DIALECT.to_owned()), ..failure }
        }
    }
}
