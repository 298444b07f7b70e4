//! What stands behind the proxies: our stub, and a PostgreSQL with a database made for the occasion.
//!
//! Not anybody's database: the cluster is made in the temporary folder and gone with it. Settings are for a benchmark's reader, not for
//! data (no fsync), and the same for every target.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::child::{Account, Child, Spec, folder, free_port};
use super::proxies::{DATABASE, PASSWORD, USER, on_path, target, version};
use crate::interrupt;
use crate::record;
use crate::stub::answers::{ACCOUNTS, CUSTOMERS, CUSTOMERS_COLUMNS, Origins};

const BOOT: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    /// Kept for its end.
    _child: Child,
    pub(crate) address: SocketAddr,
}

/// This program again, as a stub, in a process of its own: its CPU is not the load's.
pub(crate) fn stub(
    parent: &Path,
    cores: &[usize],
    rows: u64,
    origins: Origins,
    more: &[&str],
    name: &str,
) -> Result<Server> {
    let folder = folder(parent, name, None)?;
    let program = std::env::current_exe().context("this program's own path")?;
    let (rows, customers, accounts) = (
        rows.to_string(),
        format!("{CUSTOMERS}={}", origins.customers),
        format!("{ACCOUNTS}={}", origins.accounts),
    );
    let mut arguments = vec!["stub", "--tls", "--rows", &rows, "--origin", &customers, "--origin", &accounts];
    arguments.extend_from_slice(more);
    let mut child = Child::start(&Spec {
        program: &program,
        arguments: arguments.into_iter().map(OsStr::new).collect(),
        environment: Vec::new(),
        folder: &folder,
        account: None,
        cores,
        end: Signal::TERM,
    })?;
    let line = child.first_line(BOOT).context("the stub server")?;
    let address = line.parse().with_context(|| format!("the stub server said {line:?}"))?;
    Ok(Server { _child: child, address })
}

/// Where PostgreSQL's programs are, the newest of those installed, and which version they say they are.
pub(crate) fn postgres_installed() -> Result<Option<(PathBuf, String)>> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .collect();
    folders.sort();
    let debian = folders.pop().map(|(_, bin)| bin);
    let other =
        || on_path("initdb").and_then(|initdb| Some(initdb.canonicalize().ok()?.parent()?.to_owned()));
    match debian.or_else(other) {
        Some(bin) => {
            let version = version(&bin.join("postgres"), "--version")?;
            Ok(Some((bin, version)))
        }
        None => Ok(None),
    }
}

pub(crate) fn postgres(
    bin: &Path,
    parent: &Path,
    account: Option<&Account>,
    cores: &[usize],
    rows: u64,
) -> Result<Server> {
    let folder = folder(parent, "postgres", account)?;
    let data = folder.join("data");
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.args(["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]);
    initdb.args(["-U", USER, "-D"]).arg(&data).current_dir(&folder);
    if let Some(Account { uid, gid }) = account {
        std::os::unix::process::CommandExt::gid(&mut initdb, *gid);
        std::os::unix::process::CommandExt::uid(&mut initdb, *uid);
    }
    let made = initdb.output().context("initdb")?;
    if !made.status.success() {
        bail!("initdb: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    let address = free_port()?;
    let settings = [
        format!("listen_addresses={}", address.ip()),
        format!("port={}", address.port()),
        format!("unix_socket_directories={}", folder.display()),
        "max_connections=500".to_owned(),
        "shared_buffers=512MB".to_owned(),
        "fsync=off".to_owned(),
        "autovacuum=off".to_owned(),
        "jit=off".to_owned(),
        "max_parallel_workers_per_gather=0".to_owned(),
        "max_wal_size=4GB".to_owned(),
    ];
    let mut arguments = vec![OsStr::new("-D"), data.as_os_str()];
    for setting in &settings {
        arguments.extend([OsStr::new("-c"), OsStr::new(setting)]);
    }
    let mut child = Child::start(&Spec {
        program: &bin.join("postgres"),
        arguments,
        environment: Vec::new(),
        folder: &folder,
        account,
        cores,
        // Fast shutdown: sessions are ended, not waited for.
        end: Signal::INT,
    })?;
    let until = Instant::now() + BOOT;
    // A role without password: trust, and lockgate logs in with one that nobody asks for.
    let url = format!("postgres://{USER}:{PASSWORD}@{address}/postgres");
    let first = crate::target::Target::from_url("postgres", &url, None)?;
    while let Err(error) = record::ask(&first, "select 1", Some(BOOT)) {
        child.check().context("PostgreSQL")?;
        interrupt::check()?;
        if Instant::now() > until {
            return Err(error.context("PostgreSQL does not answer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    record::ask(&first, &format!("create database {DATABASE}"), None)?;
    let bench = target("postgres", address, false, None)?;
    for sql in tables(rows) {
        record::ask(&bench, &sql, None).context("make the tables")?;
    }
    Ok(Server { _child: child, address })
}

/// Ten columns of what people's records hold, about 230 bytes a row, without chance.
fn tables(rows: u64) -> Vec<String> {
    vec![
        format!("create table {ACCOUNTS} (aid int primary key, bid int, abalance int, filler char(84))"),
        format!("insert into {ACCOUNTS} select n, 1, 0, '' from generate_series(1, 100000) n"),
        format!(
            "create unlogged table {CUSTOMERS} (id bigint, name text, email text, ssn text, card text, phone text, \
             address text, notes text, created_at timestamptz, balance numeric(12,2))"
        ),
        format!(
            "insert into {CUSTOMERS} select n, 'Customer ' || n % 997 || ' Kowalski', \
             'customer' || n || '@mail.example.org', \
             lpad((100 + n * 31 % 799)::text, 3, '0') || '-' || lpad((1 + n * 17 % 98)::text, 2, '0') \
             || '-' || lpad((n % 10000)::text, 4, '0'), \
             '4' || lpad((n * 7919 % 1000000000000000)::text, 15, '0'), \
             '+1-' || 201 + n * 13 % 788 || '-555-' || lpad((n * 37 % 10000)::text, 4, '0'), \
             1 + n * 7 % 9999 || ' Maple Avenue, Springfield, IL 62704', \
             case n % 20 when 13 then null when 3 then 'Asked to be reached at customer' || n || '@example.com' \
             else (array['Prefers contact by e-mail', 'Renewed the annual plan', 'Late payment', 'VIP'])[1 + n % 4] end, \
             timestamptz '2019-01-01 00:00:00+00' + (n * 197) * interval '1 second', \
             (n * 7919 % 1000000000)::numeric / 100 \
             from generate_series(1::bigint, {rows}) n"
        ),
        format!("vacuum (freeze, analyze) {CUSTOMERS}"),
        format!("vacuum (freeze, analyze) {ACCOUNTS}"),
    ]
}

/// The oids a catalogue snapshot gives the two tables.
pub(crate) fn origins(snapshot: &Path) -> Result<Origins> {
    let text = std::fs::read_to_string(snapshot).context("the catalogue snapshot")?;
    let json: serde_json::Value = serde_json::from_str(&text).context("the catalogue snapshot")?;
    let tables = json.get("tables").and_then(|t| t.as_array()).context("a snapshot without tables")?;
    let oid = |name: &str| {
        let table = tables.iter().find(|t| t.get("name").and_then(|n| n.as_str()) == Some(name))?;
        u32::try_from(table.get("oid")?.as_u64()?).ok()
    };
    let both = oid(CUSTOMERS).zip(oid(ACCOUNTS));
    let (customers, accounts) = both.context("the catalogue snapshot lacks our tables")?;
    Ok(Origins { customers, accounts })
}

/// A snapshot of a database that does not exist: where there is no PostgreSQL to take one of.
pub(crate) fn made_up_catalogue(path: &Path) -> Result<Origins> {
    let origins = Origins { customers: 90_001, accounts: 90_002 };
    let column = |(number, (name, kind)): (u32, &(&str, u32))| {
        let type_name = match kind {
            20 => "bigint",
            23 => "integer",
            1184 => "timestamp with time zone",
            1700 => "numeric",
            _ => "text",
        };
        serde_json::json!({"number": number, "name": name, "type_oid": kind, "type_name": type_name})
    };
    let table = |name: &str, oid: u32, columns: &[(&str, u32)]| {
        let columns: Vec<_> = (1..).zip(columns).map(column).collect();
        serde_json::json!({"oid": oid, "schema": "public", "name": name, "kind": "r", "columns": columns})
    };
    let accounts = [("aid", 23), ("bid", 23), ("abalance", 23), ("filler", 25)];
    let snapshot = serde_json::json!({
        "version": 1, "database": DATABASE, "server_version": 150_000, "search_path": ["public"],
        "tables": [
            table(CUSTOMERS, origins.customers, &CUSTOMERS_COLUMNS),
            table(ACCOUNTS, origins.accounts, &accounts),
        ],
        "functions": [], "writes": {"code": [], "cascades": [], "deferred": []},
    });
    std::fs::write(path, snapshot.to_string()).with_context(|| path.display().to_string())?;
    Ok(origins)
}
