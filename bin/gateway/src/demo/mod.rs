//! `lockgate demo`: everything in one process and one command, for somebody who has just heard of it.
//!
//! A made-up shop in a database of our own, a gateway in front of it that is configured by ordinary files and
//! started by the same code as
//! `lockgate run`, and a screen that says what to try. `--tour` tries it itself and fails when anything is
//! not as it says.
//!
//! Invariants: loopback unless asked otherwise; no root, no network, nothing installed; the gateway's
//! password for the database exists for one run; a port that is taken is no failure.
//!
//! Reading order: [`database`] (listens), [`session`] (the protocol), [`dialect`] (the SQL), [`values`]
//! (types), [`introspect`] (the catalogue), [`data`] (the shop), [`tour`].

mod data;
mod database;
mod dialect;
mod introspect;
mod session;
#[cfg(test)]
mod tests;
mod tour;
mod values;

use std::fs::{File, TryLockError};
use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use ring::rand::SecureRandom as _;
use ring::{digest, hmac, pbkdf2};
use serde::{Deserialize, Serialize};
use side::record::LedgerError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use zeroize::Zeroizing;

use crate::assemble::{self, Gateway};
use crate::cli::Failure;
use crate::settings::{self, Options};
use database::Database;

/// What ana and bo type. It protects made-up data on loopback.
const PASSWORD: &str = "demo";
const AGENT: &str = "agent:demo";
/// How many ports after the first are tried.
const PORTS: u16 = 64;
/// Demos at once that keep their files apart by number.
const DEMOS: u8 = 9;
const SCRAM_ITERATIONS: u32 = 4096;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Play the client too, show every step, and end: exit code 1 when a step does not do what it says.
    #[arg(long)]
    tour: bool,
    /// Print one JSON object when ready, for scripts.
    #[arg(long, conflicts_with = "tour")]
    json: bool,
    /// Where to keep configuration, certificates and record [default: ~/.lockgate/demo].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Port to listen on; when it is taken, the next free one.
    #[arg(long, default_value_t = 7432)]
    port: u16,
}

/// Starts everything, says so, and waits for the end.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    log();
    // Before the first thread: a signal must find us listening.
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("wait for signals")?;
    let home = Home::open(args.dir.as_deref())?;
    let database = Database::start().context("start the demo database")?;
    let (mut port, mut moved) = (args.port, false);
    let (gateway, facts, _port) = loop {
        let held = free(args.bind, port)?;
        let address = held.address;
        let facts = home.write(&database, address)?;
        let settings = settings::load(&facts.config, &Options::process(), None).map_err(Failure::from)?;
        match assemble::start(settings) {
            Ok(gateway) => break (gateway, facts, held),
            // Somebody was faster: on to the next one.
            Err(_)
                if TcpListener::bind(address).is_err()
                    && address.port() < args.port.saturating_add(PORTS) =>
            {
                port = address.port() + 1;
            }
            Err(error) => match error.downcast_ref() {
                Some(LedgerError::Foreign { version, .. }) if !std::mem::replace(&mut moved, true) => {
                    home.set_record_aside(*version)?;
                }
                _ => return Err(error.context("start the gateway")),
            },
        }
    };
    let outcome = if args.tour {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        println!("{}", headline(&gateway, &database, &facts));
        runtime.block_on(tour::play(&facts))
    } else {
        if args.json {
            println!("{}", serde_json::to_string(&facts)?);
        } else {
            println!("{}", screen(&gateway, &database, &facts));
        }
        std::io::stdout().flush()?;
        signals.forever().next();
        if !args.json && std::io::stdout().is_terminal() {
            println!("\n  stopping …");
        }
        Ok(ExitCode::SUCCESS)
    };
    gateway.stop(Duration::from_secs(1));
    drop(database);
    home.close();
    outcome
}

/// Warnings only, on standard error: standard output belongs to the screen.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LOCKGATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second start in one process (a test) keeps the first.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).compact().try_init();
}

/// What somebody needs to know of a running demo: printed by `--json`, kept in `demo.json`, read by `lockgate
/// sql`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) connection: String,
    pub(crate) identities: Vec<Who>,
    pub(crate) dir: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) policy: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) record: PathBuf,
    pub(crate) pid: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) group: String,
    /// Ready to paste, where the password is no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dsn: Option<String>,
    /// Where the token is, for who logs in with one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Facts {
    /// What this identity logs in with.
    pub(crate) fn secret(&self, name: &str) -> Option<Zeroizing<String>> {
        let who = self.identities.iter().find(|w| w.name == name)?;
        match &who.token_file {
            Some(file) => crate::secret::file(file).ok(),
            None => Some(Zeroizing::new(PASSWORD.to_owned())),
        }
    }
}

/// A demo that runs on this machine, as others see it.
pub(crate) struct Running {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) ca: PathBuf,
    facts: Facts,
}

impl Running {
    /// Looks where demos keep their files; one whose lock is free is over.
    pub(crate) fn find(dir: Option<&Path>) -> Option<Running> {
        let places = match dir {
            Some(dir) => vec![dir.to_owned()],
            None => (1..=DEMOS).filter_map(place).collect(),
        };
        places.iter().find_map(|dir| {
            let lock = File::open(dir.join("lock")).ok()?;
            if !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)) {
                return None;
            }
            let facts: Facts = serde_json::from_slice(&std::fs::read(dir.join("demo.json")).ok()?).ok()?;
            Some(Running { host: facts.host.clone(), port: facts.port, ca: facts.ca.clone(), facts })
        })
    }

    pub(crate) fn secret(&self, name: &str) -> Option<Zeroizing<String>> {
        self.facts.secret(name)
    }
}

/// `~/.lockgate/demo`, and for further demos at the same time `demo-2` and so on.
fn place(number: u8) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty())?;
    let name = if number == 1 { "demo".to_owned() } else { format!("demo-{number}") };
    Some(Path::new(&home).join(".lockgate").join(name))
}

/// The directory of this demo, held by a lock.
struct Home {
    dir: PathBuf,
    _lock: File,
    /// A temporary one goes with us.
    temporary: bool,
}

impl Home {
    fn open(asked: Option<&Path>) -> anyhow::Result<Home> {
        if let Some(dir) = asked {
            return match Home::take(dir)? {
                Some(lock) => Ok(Home { dir: dir.canonicalize()?, _lock: lock, temporary: false }),
                None => bail!("another demo runs in {}", dir.display()),
            };
        }
        for dir in (1..=DEMOS).filter_map(place) {
            match Home::take(&dir) {
                Ok(Some(lock)) => return Ok(Home { dir, _lock: lock, temporary: false }),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "no place in the home directory");
                    break;
                }
            }
        }
        let name = format!("lockgate-demo-{}-{}", std::process::id(), &*random(6)?);
        let dir = std::env::temp_dir().join(name);
        match Home::take(&dir)? {
            Some(lock) => Ok(Home { dir, _lock: lock, temporary: true }),
            None => bail!("{} is taken", dir.display()),
        }
    }

    /// Makes the directory and its lock; `None`: somebody holds it.
    fn take(dir: &Path) -> anyhow::Result<Option<File>> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("make {}", dir.display()))?;
        let path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }

    /// A demo begins anew where the record is another lockgate's, and keeps that.
    fn set_record_aside(&self, version: u32) -> anyhow::Result<()> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = self.dir.join(format!("record.version-{version}.{seconds}"));
        std::fs::rename(self.dir.join("record"), &aside)
            .with_context(|| format!("move the record to {}", aside.display()))?;
        eprintln!("The record of an earlier lockgate was moved to {}.", aside.display());
        Ok(())
    }

    /// Everything the gateway reads, and `demo.json` for `lockgate sql`.
    fn write(&self, database: &Database, address: SocketAddr) -> anyhow::Result<Facts> {
        let token = Zeroizing::new(format!("lgd_{}", &*random(24)?));
        let digest: String = digest::digest(&digest::SHA256, token.as_bytes())
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let config = include_str!("lockgate.yaml")
            .replace("@LISTEN@", &address.to_string())
            .replace("@ANA@", &verifier(PASSWORD)?)
            .replace("@BO@", &verifier(PASSWORD)?)
            .replace("@TOKEN@", &digest)
            .replace("@ROLE@", database::ROLE)
            .replace("@UPSTREAM@", &database.address().to_string());
        self.file("lockgate.yaml", config.as_bytes())?;
        self.file("policy.yaml", include_bytes!("policy.yaml"))?;
        self.file("catalogue.json", &serde_json::to_vec_pretty(&data::catalog())?)?;
        self.file("upstream.password", database.password().as_bytes())?;
        self.file("agent.token", token.as_bytes())?;
        let certificates = Certificates::make(address.ip())?;
        self.file("ca.crt", certificates.ca.as_bytes())?;
        self.file("tls.crt", certificates.server.as_bytes())?;
        self.file("tls.key", certificates.key.as_bytes())?;
        // Somebody who listens everywhere still reaches it here.
        let host =
            if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { address.ip().to_string() };
        let in_url = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let dsn = |name: &str| {
            Some(format!("postgresql://{name}:{PASSWORD}@{in_url}:{}/{}", address.port(), data::DATABASE))
        };
        let who = |name: &str, group: &str| Who {
            name: name.to_owned(),
            group: group.to_owned(),
            dsn: dsn(name),
            token_file: None,
        };
        let agent = Who { dsn: None, token_file: Some(self.dir.join("agent.token")), ..who(AGENT, "agents") };
        let facts = Facts {
            port: address.port(),
            connection: data::DATABASE.to_owned(),
            identities: vec![who("ana", "support"), who("bo", "dba"), agent],
            dir: self.dir.clone(),
            config: self.dir.join("lockgate.yaml"),
            policy: self.dir.join("policy.yaml"),
            ca: self.dir.join("ca.crt"),
            record: self.dir.join("record"),
            pid: std::process::id(),
            host,
        };
        self.file("demo.json", &serde_json::to_vec_pretty(&facts)?)?;
        Ok(facts)
    }

    /// Writes a file that only we can read, in place of one that may be there.
    fn file(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        let write = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            File::options().create_new(true).write(true).mode(0o600).open(&path)?.write_all(bytes)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    fn close(self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(%error, dir = %self.dir.display(), "the demo's temporary directory stays behind");
        }
    }
}

/// A port that nobody listens on, and that no other demo takes while we hold this.
#[derive(Debug)]
struct Port {
    address: SocketAddr,
    /// The gateway's sockets share their port (SO_REUSEPORT), so two demos that start at once would share it
    /// with each other, and each get half of the other's clients. A name in the abstract namespace is held by
    /// one process and goes with it.
    _ours: UnixListener,
}

/// The first port from `port` on that nobody holds.
fn free(ip: IpAddr, port: u16) -> anyhow::Result<Port> {
    let last = port.saturating_add(PORTS);
    for port in port..=last {
        let name = UnixAddress::from_abstract_name(format!("lockgate-demo-port-{port}"))?;
        let ours = match UnixListener::bind_addr(&name) {
            Ok(ours) => ours,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => continue,
            Err(error) => return Err(error).context("keep other demos off a port"),
        };
        match TcpListener::bind((ip, port)) {
            Ok(_) => return Ok(Port { address: SocketAddr::new(ip, port), _ours: ours }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("listen on {ip}:{port}")),
        }
    }
    bail!("every port from {port} to {last} is taken; choose another with --port")
}

/// A throwaway authority and a certificate of its making.
struct Certificates {
    ca: String,
    server: String,
    key: Zeroizing<String>,
}

impl Certificates {
    fn make(ip: IpAddr) -> anyhow::Result<Certificates> {
        use rcgen::{
            BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
            KeyUsagePurpose,
        };
        let ca_key = KeyPair::generate().context("make a key")?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "lockgate demo, throwaway authority");
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().context("make a key")?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !ip.is_unspecified() && !ip.is_loopback() {
            names.push(ip.to_string());
        }
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "lockgate demo");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let server = server.signed_by(&key, &issuer)?;
        Ok(Certificates { ca: ca_cert.pem(), server: server.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }
}

/// `SCRAM-SHA-256$…` for a password, with a salt of its own (RFC 5802; scram-common.c).
fn verifier(password: &str) -> anyhow::Result<String> {
    let mut salt = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    let iterations = NonZeroU32::new(SCRAM_ITERATIONS).context("iterations")?;
    let mut salted = Zeroizing::new([0u8; 32]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), salted.as_mut());
    let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_ref());
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    Ok(format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    ))
}

fn random(bytes: usize) -> anyhow::Result<Zeroizing<String>> {
    let mut buffer = Zeroizing::new(vec![0u8; bytes]);
    ring::rand::SystemRandom::new()
        .fill(&mut buffer)
        .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(&*buffer)))
}

/// What runs, in four lines.
fn headline(gateway: &Gateway, database: &Database, facts: &Facts) -> String {
    let (driver, why) = gateway.driver();
    let why = why.map(|why| format!(" ({why}; see lockgate doctor)")).unwrap_or_default();
    let workers = gateway.workers();
    let cores = if workers == 1 { "core" } else { "cores" };
    let rules = gateway.rules();
    let at = gateway.addresses().first().map(ToString::to_string).unwrap_or_default();
    format!(
        "  ✓ demo database       PostgreSQL-compatible, in memory, {} made-up customers (SQLite on {})\n\
         \x20 ✓ gateway             {at}, {workers} {cores}, {driver}{why}\n\
         \x20 ✓ policy              {}: {}, {}\n\
         \x20 ✓ recording           {}\n",
        thousands(data::CUSTOMERS),
        database.address(),
        short(&facts.policy),
        plural(rules.masks, "masking rule"),
        plural(rules.blocks, "blocking rule"),
        short(&facts.record),
    )
}

fn screen(gateway: &Gateway, database: &Database, facts: &Facts) -> String {
    let dsn = |name: &str| {
        facts.identities.iter().find(|w| w.name == name).and_then(|w| w.dsn.clone()).unwrap_or_default()
    };
    let config = short(&facts.config);
    let elsewhere = if place(1).as_deref() == Some(facts.dir.as_path()) {
        String::new()
    } else {
        format!(" --demo-dir {}", short(&facts.dir))
    };
    format!(
        "{}
  Open another terminal and try:

    psql \"{}\"        no psql? → lockgate sql shop --as ana{elsewhere}
    1. select * from payments limit 3;          email and card_number are masked
    2. select upper(email) from customers;      so is what is made of them
    3. drop table payments;                     blocked, with the reason
    4. update orders set status = 'void';       blocked: no WHERE

  As bo (dba), clear:   psql \"{}\"
  As an agent (reads):  lockgate sql shop --as {AGENT}{elsewhere}
  Watch it again:       lockgate sessions -c {config}
                        lockgate replay last -c {config}

  Guided:  lockgate demo --tour          Your own database next:  lockgate run -c lockgate.yaml
  Ctrl-C stops everything; nothing was installed.",
        headline(gateway, database, facts),
        dsn("ana"),
        dsn("bo"),
    )
}

/// A path as people write it: under the home directory with a tilde.
fn short(path: &Path) -> String {
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty() && h != "/");
    match home.and_then(|home| path.strip_prefix(&home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn thousands(n: i64) -> String {
    if n < 1_000 { n.to_string() } else { format!("{},{:03}", n / 1_000, n % 1_000) }
}

#[cfg(test)]
mod files {
    //! The files the demo writes, read by what `lockgate run` reads them with.

    use std::sync::Arc;

    use policy::{Judge, Verdict};

    use super::*;

    fn judge(settings: &settings::Settings, name: &str) -> Judge {
        let identity = &settings.directory.identities[name];
        assert!(settings.directory.connection("shop", identity).is_some(), "{name} may open shop");
        let scope = settings.directory.policy.scope(&identity.subject, "shop");
        scope.bind(Arc::new(data::catalog()))
    }

    #[test]
    fn they_load_and_judge_as_the_screen_says() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        assert!(Home::open(Some(dir.path())).is_err(), "one demo a directory");
        let database = Database::start().unwrap();
        let facts =
            home.write(&database, free("127.0.0.1".parse().unwrap(), 17_432).unwrap().address).unwrap();
        let settings = settings::load(&facts.config, &Options::process(), None)
            .unwrap_or_else(|wrong| panic!("{}", wrong.iter().map(ToString::to_string).collect::<String>()));
        assert_eq!(settings.fixed["shop"].tables.len(), data::TABLES.len());

        let blocked = |who: &str, sql: &str| match &judge(&settings, who).statement(sql.as_bytes()).verdict {
            Verdict::Pass => None,
            Verdict::Block(block) => Some(block.rule.clone()),
        };
        let by = |rule: &str| Some(rule.to_owned());
        assert_eq!(blocked("ana", "drop table payments"), by("no-destructive-ddl"));
        assert_eq!(blocked("ana", "truncate orders"), by("no-destructive-ddl"));
        assert_eq!(blocked("ana", "update orders set status = 'void'"), by("no-unbounded-writes"));
        assert_eq!(blocked(AGENT, "delete from orders where id = 1"), by("agents-only-read"));
        for sql in [
            "select id, email, card_number, amount from payments order by id limit 3",
            "select upper(email) from payments order by id limit 2",
            "update orders set status = 'shipped' where id = 1",
            "copy payments (id, email, card_number) to stdout",
            "select count(*) from payments",
            "select version()",
        ] {
            assert_eq!(blocked("ana", sql), None, "{sql}");
        }
        assert!(
            settings.directory.policy.scope(&settings.directory.identities["bo"].subject, "shop").is_empty()
        );

        // Everything that proves something is ours alone.
        use std::os::unix::fs::PermissionsExt as _;
        for name in ["upstream.password", "agent.token", "tls.key", "lockgate.yaml", "demo.json"] {
            let mode = std::fs::metadata(facts.dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}");
        }
        let written = std::fs::read_to_string(facts.dir.join("lockgate.yaml")).unwrap();
        assert!(!written.contains(database.password()) && !written.contains(&*facts.secret(AGENT).unwrap()));
        let left = regex_lite::Regex::new("@[A-Z]+@").unwrap();
        assert!(!left.is_match(&written), "every placeholder was filled: {written}");
        assert!(!std::fs::read_to_string(facts.dir.join("demo.json")).unwrap().contains(database.password()));
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let ip = "127.0.0.1".parse().unwrap();
        let first = TcpListener::bind((ip, 0)).unwrap();
        let taken = first.local_addr().unwrap().port();
        let found = free(ip, taken).unwrap();
        let port = found.address.port();
        assert!(port > taken && port <= taken.saturating_add(PORTS), "{taken} is taken, {port} was found");
        // Another demo, which has not bound anything yet, keeps off it too.
        let other = free(ip, port).unwrap().address.port();
        assert!(other > port, "{port} is ours, {other} was found");
        drop(found);
        assert_eq!(free(ip, port).unwrap().address.port(), port);
    }

    #[test]
    fn a_running_demo_is_found_and_one_that_ended_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path())).unwrap();
        let database = Database::start().unwrap();
        home.write(&database, "127.0.0.1:7777".parse().unwrap()).unwrap();
        let found = Running::find(Some(dir.path())).unwrap();
        assert_eq!((found.host.as_str(), found.port), ("127.0.0.1", 7777));
        assert_eq!(found.secret("ana").unwrap().as_str(), PASSWORD);
        assert!(found.secret(AGENT).unwrap().starts_with("lgd_") && found.secret("nobody").is_none());
        drop(home);
        assert!(Running::find(Some(dir.path())).is_none());
    }
}
