//! `lockgate sql`: a small client for machines without psql. It speaks the same protocol as everybody else
//! and has no way around the gateway.
//!
//! It is not psql: no meta-commands but `\q`, no COPY FROM STDIN, no variables. Invariants: TLS is verified
//! or refused, never silently dropped; a password is never taken from the command line, where every user of
//! the machine can read it.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::mpsc;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::DbError;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Config, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use crate::demo;

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// A connection's name, or postgres://user@host:port/connection?sslrootcert=ca.crt.
    #[arg(value_name = "CONNECTION|DSN")]
    target: String,
    /// Who you are.
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// Run this and exit; may be given several times.
    #[arg(short, long, value_name = "SQL")]
    command: Vec<String>,
    /// The gateway, when only a connection's name is given and no demo runs.
    #[arg(long, value_name = "HOST:PORT")]
    gateway: Option<String>,
    /// The authority that signed the gateway's certificate (PEM) [default: the running demo's, else the
    /// system's].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the password or token, readable by you only. Otherwise: PGPASSWORD, or you are asked.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Where the demo keeps its files.
    #[arg(long, value_name = "DIR")]
    demo_dir: Option<PathBuf>,
}

/// Where to connect, and how to know that it is the right place.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) tls: Trust,
    pub(crate) application: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Loopback only.
    Plain,
    Authority(PathBuf),
    System,
}

/// What a statement gave.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// One per result set.
    pub(crate) tables: Vec<Table>,
    /// Rows that COPY … TO STDOUT sent, as they came.
    pub(crate) copied: Option<String>,
    /// Rows affected, of statements without a result.
    pub(crate) affected: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

/// A connection, its notices, and the way to cancel.
pub(crate) struct Client {
    client: tokio_postgres::Client,
    notices: mpsc::UnboundedReceiver<DbError>,
    connector: Option<MakeRustlsConnect>,
}

pub(crate) fn run(args: SqlArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (target, password) = resolve(&args)?;
        let mut client = Client::connect(&target, &password).await?;
        drop(password);
        client.print_notices().await;
        if args.command.is_empty() {
            return read_and_run(&mut client, &target).await;
        }
        for command in &args.command {
            for statement in Splitter::new().all(command) {
                if !client.run_and_print(&statement).await {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn read_and_run(client: &mut Client, target: &Target) -> anyhow::Result<ExitCode> {
    let interactive = std::io::stdin().is_terminal();
    let (lines, mut arrived) = mpsc::channel::<std::io::Result<String>>(1);
    let (want, wanted) = std::sync::mpsc::channel::<String>();
    // Standard input blocks; a thread of its own reads a line whenever one is wanted.
    std::thread::spawn(move || {
        while let Ok(prompt) = wanted.recv() {
            if interactive {
                print!("{prompt}");
                if std::io::stdout().flush().is_err() {
                    break;
                }
            }
            let mut line = String::new();
            let sent = match std::io::stdin().lock().read_line(&mut line) {
                Ok(0) => break,
                Ok(_) => lines.blocking_send(Ok(line)),
                Err(error) => lines.blocking_send(Err(error)),
            };
            if sent.is_err() {
                break;
            }
        }
    });
    if interactive {
        println!("lockgate sql; end statements with ;   \\q quits");
    }
    let mut splitter = Splitter::new();
    let mut well = true;
    loop {
        let prompt = format!("{}{} ", target.database, if splitter.is_empty() { "=>" } else { "->" });
        if want.send(prompt).is_err() {
            break;
        }
        let line = match arrived.recv().await {
            None => break,
            Some(line) => line.context("read standard input")?,
        };
        if splitter.is_empty() && line.trim_start().starts_with('\\') {
            if line.trim() == "\\q" {
                break;
            }
            eprintln!("only \\q is known here; psql has the others");
            continue;
        }
        for statement in splitter.push(&line) {
            well &= client.run_and_print(&statement).await;
        }
    }
    let rest = splitter.finish();
    if let Some(statement) = rest {
        well &= client.run_and_print(&statement).await;
    }
    if interactive {
        println!();
    }
    Ok(if well || interactive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From what was typed to a place and a secret.
fn resolve(args: &SqlArgs) -> anyhow::Result<(Target, Zeroizing<String>)> {
    let running = demo::Running::find(args.demo_dir.as_deref());
    let mut target = if args.target.contains("://") {
        parse(&args.target)?
    } else {
        let (host, port) = match (&args.gateway, &running) {
            (Some(gateway), _) => {
                let (host, port) = gateway.rsplit_once(':').context("--gateway wants HOST:PORT")?;
                (host.trim_matches(['[', ']']).to_owned(), port.parse().context("--gateway wants HOST:PORT")?)
            }
            (None, Some(demo)) => (demo.host.clone(), demo.port),
            (None, None) => bail!(
                "no demo is running, so \"{}\" could be anywhere\n\
                 start one with: lockgate demo     or name the gateway: lockgate sql {} --gateway HOST:PORT --as USER",
                args.target,
                args.target
            ),
        };
        let tls = Trust::System;
        Target {
            host,
            port,
            user: String::new(),
            database: args.target.clone(),
            tls,
            application: "lockgate sql",
        }
    };
    if let Some(user) = &args.user {
        target.user.clone_from(user);
    }
    if target.user.is_empty() {
        bail!("who are you? lockgate sql {} --as USER", args.target);
    }
    let at_demo = running.filter(|d| d.port == target.port && is_here(&target.host));
    if let Some(ca) = &args.ca {
        target.tls = Trust::Authority(ca.clone());
    } else if target.tls == Trust::System
        && let Some(demo) = &at_demo
    {
        target.tls = Trust::Authority(demo.ca.clone());
    }
    let password = match (&args.password_file, std::env::var("PGPASSWORD"), at_demo) {
        (Some(file), _, _) => crate::secret::file(file).map_err(anyhow::Error::msg)?,
        (None, Ok(password), _) => Zeroizing::new(password),
        // The demo's passwords are in its own output; asking for them would be theatre.
        (None, Err(_), Some(demo)) if demo.secret(&target.user).is_some() => {
            demo.secret(&target.user).unwrap_or_default()
        }
        (None, Err(_), _) => {
            Zeroizing::new(rpassword::prompt_password(format!("Password for {}: ", target.user)).context(
                "ask for the password (set PGPASSWORD or --password-file where there is no terminal)",
            )?)
        }
    };
    Ok((target, password))
}

/// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. Percent signs stay as they are read by the
/// driver.
fn parse(dsn: &str) -> anyhow::Result<Target> {
    let (base, query) = dsn.split_once('?').unwrap_or((dsn, ""));
    let config: Config = base.parse().context("not a postgres:// address")?;
    if config.get_password().is_some() {
        bail!(
            "a password in the address can be read by everybody on this machine (ps)\n\
             leave it out and set PGPASSWORD, use --password-file, or type it when asked"
        );
    }
    let host = match config.get_hosts() {
        [tokio_postgres::config::Host::Tcp(host)] => host.clone(),
        [] => "127.0.0.1".to_owned(),
        _ => bail!("one TCP host, please"),
    };
    let mut tls = Trust::System;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("sslmode", "verify-full") => {}
            ("sslmode", "disable") if is_here(&host) => tls = Trust::Plain,
            ("sslmode", "disable") => bail!("sslmode=disable is for gateways on this machine only"),
            ("sslmode", other) => bail!(
                "sslmode={other}: this client verifies the gateway (verify-full) or, on this machine, uses no TLS (disable)"
            ),
            ("sslrootcert", "system") => {}
            ("sslrootcert", file) => tls = Trust::Authority(PathBuf::from(file)),
            (other, _) => bail!("{other} is not known here; sslmode and sslrootcert are"),
        }
    }
    Ok(Target {
        port: config.get_ports().first().copied().unwrap_or(7432),
        user: config.get_user().unwrap_or_default().to_owned(),
        database: config.get_dbname().context("the address names no connection: …/CONNECTION")?.to_owned(),
        host,
        tls,
        application: "lockgate sql",
    })
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Client {
    pub(crate) async fn connect(target: &Target, password: &str) -> anyhow::Result<Client> {
        let mut config = Config::new();
        config
            .host(&target.host)
            .port(target.port)
            .user(&target.user)
            .dbname(&target.database)
            .password(password)
            .application_name(target.application)
            .connect_timeout(std::time::Duration::from_secs(10));
        let connector = connector(&target.tls)?;
        let (send, notices) = mpsc::unbounded_channel();
        let client = match &connector {
            None => start(config.ssl_mode(SslMode::Disable), NoTls, send).await?,
            Some(tls) => start(config.ssl_mode(SslMode::Require), tls.clone(), send).await?,
        };
        Ok(Client { client, notices, connector })
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub(crate) async fn run(&self, sql: &str) -> Result<Answer, tokio_postgres::Error> {
        let mut answer = Answer::default();
        if copies_out(sql) {
            let rows: Vec<bytes::Bytes> = self.client.copy_out(sql).await?.try_collect().await?;
            let bytes: Vec<u8> = rows.concat();
            answer.copied = Some(String::from_utf8_lossy(&bytes).into_owned());
            return Ok(answer);
        }
        let mut messages = std::pin::pin!(self.client.simple_query_raw(sql).await?);
        let mut open: Option<Table> = None;
        while let Some(message) = messages.next().await {
            match message? {
                SimpleQueryMessage::RowDescription(columns) => {
                    let columns = columns.iter().map(|c| c.name().to_owned()).collect();
                    open = Some(Table { columns, rows: Vec::new() });
                }
                SimpleQueryMessage::Row(row) => {
                    if let Some(table) = &mut open {
                        table.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                    }
                }
                SimpleQueryMessage::CommandComplete(rows) => match open.take() {
                    Some(table) => answer.tables.push(table),
                    None => answer.affected.push(rows),
                },
                _ => {}
            }
        }
        Ok(answer)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The notices that came since the last look.
    fn notices(&mut self) -> Vec<DbError> {
        let mut all = Vec::new();
        while let Ok(notice) = self.notices.try_recv() {
            all.push(notice);
        }
        all
    }

    async fn print_notices(&mut self) {
        tokio::task::yield_now().await;
        for notice in self.notices() {
            eprint!("{}", spelled(&notice));
        }
    }

    /// Runs a statement and shows what came back; Ctrl-C cancels it. False when it failed.
    async fn run_and_print(&mut self, sql: &str) -> bool {
        let cancel = self.client.cancel_token();
        let connector = self.connector.clone();
        let outcome = {
            let mut running = std::pin::pin!(self.run(sql));
            loop {
                tokio::select! {
                    outcome = &mut running => break outcome,
                    pressed = tokio::signal::ctrl_c() => {
                        if pressed.is_err() {
                            continue;
                        }
                        eprintln!("Cancel request sent");
                        let sent = match &connector {
                            Some(tls) => cancel.cancel_query(tls.clone()).await,
                            None => cancel.cancel_query(NoTls).await,
                        };
                        if let Err(error) = sent {
                            eprintln!("could not cancel: {error}");
                        }
                    }
                }
            }
        };
        self.print_notices().await;
        match outcome {
            Ok(answer) => {
                print!("{}", answer.shown());
                true
            }
            Err(error) => {
                eprint!("{}", explained(&error));
                false
            }
        }
    }
}

async fn start<T>(
    config: &Config,
    tls: T,
    notices: mpsc::UnboundedSender<DbError>,
) -> anyhow::Result<tokio_postgres::Client>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(tls).await.map_err(|error| match error.as_db_error() {
        Some(refused) => anyhow::anyhow!("{}", spelled(refused).trim_end()),
        None => anyhow::Error::from(error).context("connect"),
    })?;
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notice(notice)) => {
                    if notices.send(notice).is_err() {
                        break;
                    }
                }
                Ok(_) => {}
                // The statement that was running is told by the driver.
                Err(_) => break,
            }
        }
    });
    Ok(client)
}

fn connector(trust: &Trust) -> anyhow::Result<Option<MakeRustlsConnect>> {
    let mut roots = rustls::RootCertStore::empty();
    match trust {
        Trust::Plain => return Ok(None),
        Trust::Authority(file) => {
            for certificate in authority(file)? {
                roots.add(certificate).with_context(|| format!("use the authority in {}", file.display()))?;
            }
        }
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            let (_, unusable) = roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                bail!(
                    "this system has no certificate authorities ({unusable} unusable); name one with --ca FILE"
                );
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn authority(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .with_context(|| format!("read certificates from {}", file.display()))
}

fn copies_out(sql: &str) -> bool {
    let mut words = sql.split_ascii_whitespace();
    words.next().is_some_and(|w| w.eq_ignore_ascii_case("copy"))
        && words.any(|w| w.trim_end_matches(';').eq_ignore_ascii_case("stdout"))
}

impl Answer {
    /// As psql would show it.
    pub(crate) fn shown(&self) -> String {
        let mut out = String::new();
        for table in &self.tables {
            out.push_str(&table.shown());
        }
        if let Some(copied) = &self.copied {
            out.push_str(copied);
        }
        for rows in &self.affected {
            out.push_str(&match rows {
                0 => "OK\n".to_owned(),
                1 => "OK, 1 row\n".to_owned(),
                n => format!("OK, {n} rows\n"),
            });
        }
        out
    }
}

impl Table {
    pub(crate) fn shown(&self) -> String {
        let text = |cell: &Option<String>| cell.as_deref().unwrap_or_default().replace('\n', "↵");
        let width = |n: usize, name: &String| {
            let cells = self.rows.iter().filter_map(|row| row.get(n)).map(|cell| text(cell).chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(n, name)| width(n, name)).collect();
        let numbers: Vec<bool> = (0..self.columns.len())
            .map(|n| {
                let mut cells = self.rows.iter().filter_map(|row| row.get(n)?.as_deref()).peekable();
                cells.peek().is_some() && cells.all(|c| c.parse::<f64>().is_ok())
            })
            .collect();
        let mut out = String::new();
        let heads: Vec<String> =
            self.columns.iter().zip(&widths).map(|(name, w)| format!(" {name:^w$} ")).collect();
        out.push_str(heads.join("|").trim_end());
        out.push('\n');
        out.push_str(&widths.iter().map(|w| "-".repeat(w + 2)).collect::<Vec<_>>().join("+"));
        out.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(widths.iter().zip(&numbers))
                .map(|(cell, (w, number))| {
                    let cell = text(cell);
                    if *number { format!(" {cell:>w$} ") } else { format!(" {cell:<w$} ") }
                })
                .collect();
            out.push_str(cells.join("|").trim_end());
            out.push('\n');
        }
        let count = self.rows.len();
        out.push_str(&format!("({count} row{})\n\n", if count == 1 { "" } else { "s" }));
        out
    }
}

/// An error or notice with everything a person may need of it.
pub(crate) fn spelled(error: &DbError) -> String {
    let mut out = format!("{}:  {}\n", error.severity(), error.message());
    if let Some(detail) = error.detail() {
        out.push_str(&format!("DETAIL:  {detail}\n"));
    }
    if let Some(hint) = error.hint() {
        out.push_str(&format!("HINT:  {hint}\n"));
    }
    out
}

pub(crate) fn explained(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refused) => spelled(refused),
        None => {
            let mut out = format!("lockgate: {error}");
            let mut cause = std::error::Error::source(error);
            while let Some(why) = cause {
                out.push_str(&format!(": {why}"));
                cause = why.source();
            }
            out.push('\n');
            out
        }
    }
}

/// Cuts what is typed into statements, at semicolons outside quotes and comments.
struct Splitter {
    text: String,
}

impl Splitter {
    fn new() -> Splitter {
        Splitter { text: String::new() }
    }

    fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    fn all(mut self, text: &str) -> Vec<String> {
        let mut statements = self.push(text);
        statements.extend(self.finish());
        statements
    }

    fn push(&mut self, line: &str) -> Vec<String> {
        self.text.push_str(line);
        let mut statements = Vec::new();
        while let Some(end) = statement_end(&self.text) {
            let rest = self.text.split_off(end);
            let statement = std::mem::replace(&mut self.text, rest);
            if !statement.trim().trim_end_matches(';').trim().is_empty() {
                statements.push(statement.trim().to_owned());
            }
        }
        statements
    }

    fn finish(self) -> Option<String> {
        let rest = self.text.trim();
        (!rest.is_empty()).then(|| rest.to_owned())
    }
}

/// One past the semicolon that ends the first statement, if it is there.
fn statement_end(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|r| !r.is_empty()) {
        let skip = |close: &str, from: usize| rest.get(from..)?.find(close).map(|i| from + i + close.len());
        at += match rest.as_bytes() {
            [b';', ..] => return Some(at + 1),
            [b'\'', ..] => skip("'", 1)?,
            [b'"', ..] => skip("\"", 1)?,
            [b'-', b'-', ..] => skip("\n", 2)?,
            [b'/', b'*', ..] => skip("*/", 2)?,
            [b'$', ..] => match rest.get(1..).and_then(|r| r.find('$')) {
                Some(end)
                    if rest
                        .get(1..=end)
                        .is_some_and(|tag| tag.bytes().all(|b| b == b'_' || b.is_ascii_alphabetic())) =>
                {
                    let mark = rest.get(..end + 2)?;
                    skip(mark, mark.len())?
                }
                _ => 1,
            },
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_semicolons_outside_quotes() {
        let all = |text: &str| Splitter::new().all(text);
        assert_eq!(all("select 1; select 2"), ["select 1;", "select 2"]);
        assert_eq!(
            all("select ';', \"a;b\", $$;$$, $x$;$x$ -- ;\n; x"),
            ["select ';', \"a;b\", $$;$$, $x$;$x$ -- ;\n;", "x"]
        );
        assert_eq!(all("select 'it''s;'; /* ; */ ;"), ["select 'it''s;';", "/* ; */ ;"]);
        assert_eq!(all(" ;; "), Vec::<String>::new());
        let mut splitter = Splitter::new();
        assert!(splitter.push("select $1,\n").is_empty() && !splitter.is_empty());
        assert_eq!(splitter.push("2;\n"), ["select $1,\n2;"]);
    }

    #[test]
    fn never_a_password_in_the_address_and_never_unverified() {
        for (dsn, word) in [
            ("postgres://ana:demo@127.0.0.1/shop", "PGPASSWORD"),
            ("postgres://ana@db.example.com/shop?sslmode=disable", "this machine"),
            ("postgres://ana@127.0.0.1/shop?sslmode=prefer", "verify-full"),
            ("postgres://ana@127.0.0.1/shop?password=demo", "not known"),
        ] {
            let error = parse(dsn).unwrap_err().to_string();
            assert!(error.contains(word), "{dsn}: {error}");
            assert!(!error.contains("demo@"), "{error}");
        }
        let target = parse("postgres://ana@127.0.0.1:7433/shop?sslrootcert=ca.crt").unwrap();
        assert_eq!((target.port, target.user.as_str(), target.database.as_str()), (7433, "ana", "shop"));
        assert_eq!(target.tls, Trust::Authority("ca.crt".into()));
    }

    #[test]
    fn tables_line_up() {
        let cell = |t: &str| Some(t.to_owned());
        let table = Table {
            columns: vec!["id".into(), "email".into()],
            rows: vec![vec![cell("1"), cell("a@x")], vec![cell("22"), None]],
        };
        assert_eq!(table.shown(), " id | email\n----+-------\n  1 | a@x\n 22 |\n(2 rows)\n\n");
    }
}
