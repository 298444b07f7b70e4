//! The driver matrix: the same script direct and through the gateway, on PostgreSQL 15 and 18, TLS on and off, io_uring and epoll.
//!
//! Scripts are in `tests/drivers`. Each prints what it saw and fails by itself when something is wrong; here the two outputs are
//! compared, so a difference is a failure even where the script did not think of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::Type;

use crate::gateway::{BOTH, Gateway, Io, Settings};
use crate::servers::{self, UPSTREAM_PASSWORD, connection_env, tls_files};

/// Environment of one run.
type Env = Vec<(&'static str, String)>;

fn matrix(name: &str, run: impl Fn(&Env) -> String) {
    for version in [15, 18] {
        let server = servers::postgres(version);
        for tls in [false, true] {
            // A database of its own for each run: every script starts from nothing. Direct as the role the gateway uses, so that
            // owners and permissions are the same.
            let database = servers::database(server);
            let env = connection_env("127.0.0.1", server.port, "gw", UPSTREAM_PASSWORD, &database, tls);
            let direct = yardstick(|| run(&env));
            assert!(!direct.trim().is_empty(), "{name} printed nothing");
            if std::env::var_os("LOCKGATE_E2E_DIRECT_ONLY").is_some() {
                println!("{direct}");
                continue;
            }
            for io in BOTH {
                let gateway = Gateway::shared(io, server);
                let database = servers::database(server);
                let through = run(&gateway.env("app", &database, tls));
                let label = format!("{name} on PostgreSQL {version}, TLS {tls}, {io:?}");
                same(&label, &direct, &through);
            }
        }
    }
}

/// An identity that a rule touches, on another table than those it uses: the drivers' ordinary work must not notice.
#[test]
fn under_a_rule_ordinary_work_is_unchanged() {
    let rule = "\x20 - name: elsewhere\n    on: {columns: [public.secrets.value], groups: [support]}\n    mask: redact\n";
    for (version, io) in [(15, Io::Epoll), (18, Io::Uring)] {
        let server = servers::postgres(version);
        let gateway = Gateway::start(Settings::new(io, server).rules(rule));
        let python = |name: &str| {
            let mut command = Command::new(servers::python());
            command.arg(script(name));
            command
        };
        let node = || {
            let mut command = Command::new("node");
            command.arg("--no-deprecation").arg(script("with_node.js"));
            command.env("NODE_PATH", servers::node().join("node_modules"));
            command
        };
        for (name, command) in [
            ("psycopg", &(|| python("with_psycopg.py")) as &dyn Fn() -> Command),
            ("asyncpg", &|| python("with_asyncpg.py")),
            ("node-postgres", &node),
            ("pgbench", &|| {
                let mut command = Command::new("sh");
                command.arg(script("pgbench.sh"));
                command
            }),
        ] {
            let run = |env: Env| output(command().env("JUDGED", "1"), &env);
            let database = servers::database(server);
            let direct = yardstick(|| {
                run(connection_env("127.0.0.1", server.port, "gw", UPSTREAM_PASSWORD, &database, true))
            });
            let database = servers::database(server);
            let through = run(gateway.env("ana", &database, true));
            // psql, inside pgbench's script, is told at login which session it is.
            let through: Vec<_> =
                through.lines().filter(|l| !l.starts_with("NOTICE:  lockgate: session")).collect();
            let label = format!("{name} under a rule on PostgreSQL {version}, {io:?}");
            same(&label, direct.trim_end(), &through.join("\n"));
        }
    }
}

/// Applications behind object-relational mappers, under masks on three columns of one of their tables: nothing is refused, and
/// what they see differs in those columns only.
#[test]
fn mappers_under_masks_see_the_rest_unchanged() {
    let rule = "\x20 - name: people\n    on: {columns: [customers.email, customers.ssn, customers.card], groups: [support]}\n    mask: redact\n";
    for (version, io) in [(15, Io::Uring), (18, Io::Epoll)] {
        let server = servers::postgres(version);
        let gateway = Gateway::start(Settings::new(io, server).rules(rule));
        for name in ["with_sqlalchemy.py", "with_django.py", "with_node_orms.js"] {
            let run = |env: Env| {
                let mut command = if name.ends_with("js") {
                    let mut command = Command::new("node");
                    command.arg("--no-deprecation").env("NODE_PATH", servers::node().join("node_modules"));
                    command
                } else {
                    Command::new(servers::python())
                };
                output(command.arg(script(name)), &env)
            };
            let database = servers::database(server);
            let direct =
                run(connection_env("127.0.0.1", server.port, "gw", UPSTREAM_PASSWORD, &database, true));
            assert!(direct.contains("secret-"), "{name} shows no masked column");
            let database = servers::database(server);
            let through = run(gateway.env("ana", &database, true));
            same(
                &format!("{name} under masks on PostgreSQL {version}, {io:?}"),
                &redacted(&direct),
                &through,
            );
        }
    }
}

/// What a mask makes of the values that begin with `secret-`.
fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("secret-") {
        let (before, value) = rest.split_at(at);
        let end = value.find(['\'', '"']).unwrap_or(value.len());
        out += before;
        out += "***";
        rest = value.get(end..).unwrap_or_default();
    }
    out + rest
}

/// What a direct run gives when nothing goes wrong in it: pgbench on a busy machine was seen to lose connections to the server
/// itself. The run through the gateway has one try.
fn yardstick(run: impl Fn() -> String) -> String {
    let whole = |line: &str| {
        let done =
            line.strip_prefix("number of transactions actually processed: ").and_then(|n| n.split_once('/'));
        done.is_none_or(|(done, wanted)| done == wanted)
    };
    let mut output = run();
    for _ in 0..2 {
        if output.lines().all(whole) {
            break;
        }
        output = run();
    }
    output
}

#[track_caller]
fn same(label: &str, direct: &str, through: &str) {
    if direct != through {
        let mut shown = String::new();
        let (a, b): (Vec<_>, Vec<_>) = (direct.lines().collect(), through.lines().collect());
        for i in 0..a.len().max(b.len()) {
            let (x, y) = (a.get(i).unwrap_or(&"(nothing)"), b.get(i).unwrap_or(&"(nothing)"));
            if x != y {
                shown += &format!("line {}\n  direct:  {x}\n  through: {y}\n", i + 1);
                if shown.len() > 3000 {
                    break;
                }
            }
        }
        panic!("{label}: the gateway changed the output\n{shown}");
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(name)
}

/// Runs to a good end; returns what it printed on both streams.
#[track_caller]
fn output(command: &mut Command, env: &Env) -> String {
    let output = command.envs(env.iter().cloned()).stdin(Stdio::null()).output().expect("start the driver");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

#[test]
fn psql() {
    matrix("psql", |env| {
        // Through the shell, so that errors stand where they happened.
        let line = format!("exec psql -X -a -f '{}' 2>&1", script("psql.sql").display());
        output(Command::new("sh").args(["-c", &line]), env)
            .lines()
            // Where psql was started from.
            .map(|l| l.replace(&format!("psql:{}:", script("psql.sql").display()), "psql:"))
            .collect::<Vec<_>>()
            .join("\n")
    });
}

#[test]
fn pgbench() {
    matrix("pgbench", |env| output(Command::new("sh").arg(script("pgbench.sh")), env));
}

#[test]
fn psycopg() {
    matrix("psycopg", |env| output(Command::new(servers::python()).arg(script("with_psycopg.py")), env));
}

#[test]
fn asyncpg() {
    matrix("asyncpg", |env| output(Command::new(servers::python()).arg(script("with_asyncpg.py")), env));
}

#[test]
fn node_postgres() {
    matrix("node-postgres", |env| {
        let modules = servers::node().join("node_modules");
        output(
            Command::new("node")
                .arg("--no-deprecation")
                .arg(script("with_node.js"))
                .env("NODE_PATH", modules),
            env,
        )
    });
}

#[test]
fn tokio_postgres() {
    matrix("tokio-postgres", |env| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(with_tokio_postgres(env)).expect("tokio-postgres")
    });
}

/// tokio-postgres: pipelining by itself, binary results, portals, COPY both ways, notifications, cancel.
async fn with_tokio_postgres(env: &Env) -> Result<String, tokio_postgres::Error> {
    use std::fmt::Write as _;
    let mut seen = String::new();
    let (client, connection) = connect(env).await?;
    let (tx, mut notifications) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(forward_messages(connection, tx));
    client.batch_execute("create table t (id int primary key, v text, b bytea)").await?;
    let insert = client.prepare("insert into t values ($1, $2, $3)").await?;
    let writes = (0..300_i32).map(|i| {
        let (client, insert) = (&client, &insert);
        async move { client.execute(insert, &[&i, &format!("v{i}"), &vec![0_u8; 10]]).await }
    });
    let written = futures_util::future::try_join_all(writes).await?;
    let _ = writeln!(seen, "pipelined {}", written.iter().sum::<u64>());
    let row = client.query_one("select count(*), max(id), min(v) from t", &[]).await?;
    let _ = writeln!(seen, "{:?}", (row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, String>(2)));
    for message in client.simple_query("select 1 as a; select 'x' as b; delete from t where id < 10").await? {
        let _ = writeln!(seen, "{message:?}");
    }
    let mut client = client;
    let transaction = client.transaction().await?;
    let portal = transaction.bind("select id from t order by id", &[]).await?;
    for _ in 0..3 {
        let rows = transaction.query_portal(&portal, 7).await?;
        let _ = writeln!(seen, "{:?}", rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>());
    }
    let failed = transaction.query("select * from no_such", &[]).await;
    let _ = writeln!(seen, "{:?}", failed.err().and_then(|e| e.code().map(|c| c.code().to_owned())));
    let failed = transaction.query("select 1", &[]).await;
    let _ = writeln!(seen, "{:?}", failed.err().and_then(|e| e.code().map(|c| c.code().to_owned())));
    transaction.rollback().await?;
    let sink = client.copy_in("copy t (id, v) from stdin (format binary)").await?;
    let mut writer = Box::pin(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]));
    for i in 1000..3000_i32 {
        writer.as_mut().write(&[&i, &"copied"]).await?;
    }
    let _ = writeln!(seen, "copied in {}", writer.as_mut().finish().await?);
    let rows = client.copy_out("copy (select id, v from t order by id) to stdout (format binary)").await?;
    let rows = BinaryCopyOutStream::new(rows, &[Type::INT4, Type::TEXT]);
    let rows: Vec<_> = futures_util::TryStreamExt::try_collect(rows).await?;
    let _ = writeln!(seen, "copied out {}", rows.len());
    client.batch_execute("listen chan; notify chan, 'hello'").await?;
    let _ = writeln!(seen, "{:?}", notifications.recv().await);
    let token = client.cancel_token();
    let connector = connector(env);
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        match connector {
            Some(connector) => token.cancel_query(connector).await,
            None => token.cancel_query(tokio_postgres::NoTls).await,
        }
    };
    let (slept, cancelled) = tokio::join!(client.query("select pg_sleep(30)", &[]), cancel);
    cancelled?;
    let _ = writeln!(seen, "{:?}", slept.err().and_then(|e| e.code().map(|c| c.code().to_owned())));
    let row = client.query_one("select $1::text || '!'", &[&"z".repeat(1_000_000)]).await?;
    let _ = writeln!(seen, "big {}", row.get::<_, String>(0).len());
    Ok(seen)
}

fn connector(env: &Env) -> Option<tokio_postgres_rustls::MakeRustlsConnect> {
    let tls = env.iter().any(|(k, v)| *k == "PGSSLMODE" && v == "verify-full");
    tls.then(|| {
        let pem = std::fs::read(&tls_files().ca).expect("read the CA");
        let mut roots = rustls::RootCertStore::empty();
        for cert in
            <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(&pem)
        {
            roots.add(cert.expect("PEM")).expect("a CA");
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tokio_postgres_rustls::MakeRustlsConnect::new(config)
    })
}

type Messages = std::pin::Pin<
    Box<dyn futures_util::Stream<Item = Result<tokio_postgres::AsyncMessage, tokio_postgres::Error>> + Send>,
>;

async fn connect(env: &Env) -> Result<(tokio_postgres::Client, Messages), tokio_postgres::Error> {
    let get = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str()).expect(key);
    let mut config = tokio_postgres::Config::new();
    config.host(get("PGHOST")).port(get("PGPORT").parse().expect("port")).user(get("PGUSER"));
    config.password(get("PGPASSWORD")).dbname(get("PGDATABASE"));
    match connector(env) {
        Some(connector) => {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            let (client, mut connection) = config.connect(connector).await?;
            Ok((client, Box::pin(futures_util::stream::poll_fn(move |cx| connection.poll_message(cx)))))
        }
        None => {
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            let (client, mut connection) = config.connect(tokio_postgres::NoTls).await?;
            Ok((client, Box::pin(futures_util::stream::poll_fn(move |cx| connection.poll_message(cx)))))
        }
    }
}

async fn forward_messages(mut messages: Messages, tx: tokio::sync::mpsc::UnboundedSender<(String, String)>) {
    while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
        if let tokio_postgres::AsyncMessage::Notification(n) = message {
            let _the_test_may_be_over = tx.send((n.channel().to_owned(), n.payload().to_owned()));
        }
    }
}
