//! The demo database: SQLite in memory behind the real PostgreSQL protocol, on a loopback port.
//!
//! It is there so that the gateway has something to stand in front of on a machine that has nothing: the
//! gateway speaks to it as to any PostgreSQL, over TCP, with a SCRAM password that only the two of them know.
//! It is not a PostgreSQL, and its errors say so.
//!
//! One database lives in memory under a name of its own (SQLite's `memdb` file system), and every session has
//! its own connection to it: SQLite's ordinary locks keep transactions apart, where one connection behind a
//! mutex would let one client's transaction swallow another's statements, and a shared cache would lock by
//! table and fail at once. A session is a thread: SQLite calls block, and nobody but their own session should
//! wait for them.
//!
//! Invariant: bound to loopback only; nothing is written to disk; dropping [`Database`] ends every session.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use base64::Engine as _;
use pgwire::api::auth::sasl::SASLAuthStartupHandler;
use pgwire::api::auth::sasl::scram::{ScramAuth, gen_salted_password};
use pgwire::api::auth::{AuthSource, DefaultServerParameterProvider, LoginInfo, Password};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::startup::SecretKey;
use rusqlite::{Connection, InterruptHandle, OpenFlags};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{data, introspect, session};

/// Sessions at once; a demo that needs more is no demo.
pub(crate) const SESSIONS_MAX: usize = 100;
/// The role the gateway logs in as.
pub(crate) const ROLE: &str = "gateway";
const SCRAM_ITERATIONS: usize = 4096;

/// A running demo database.
pub(crate) struct Database {
    address: SocketAddr,
    password: Zeroizing<String>,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
    /// The memory lives as long as one connection to it does.
    _keep: Mutex<Connection>,
}

/// What every session of one database shares.
pub(crate) struct Shared {
    uri: String,
    pub(crate) login: SASLAuthStartupHandler<DefaultServerParameterProvider>,
    running: Mutex<HashMap<i32, (SecretKey, Arc<Running>)>>,
    sessions: AtomicUsize,
}

/// How to stop what a session is doing.
pub(crate) struct Running {
    interrupt: InterruptHandle,
    /// Asked to stop; cleared when the next statement begins.
    cancelled: AtomicBool,
}

impl Database {
    /// Starts a database with the made-up shop in it.
    ///
    /// # Errors
    /// When no loopback port can be had, or SQLite refuses.
    pub(crate) fn start() -> anyhow::Result<Database> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = COUNT.fetch_add(1, Ordering::Relaxed);
        let uri = format!("file:/lockgate-demo-{}-{name}?vfs=memdb", std::process::id());
        let mut keep = open(&uri).context("open the demo database in memory")?;
        data::fill(&mut keep).context("fill the demo database")?;

        let password = Zeroizing::new(secret()?);
        let salt = secret()?.into_bytes();
        let salted = gen_salted_password(&password, &salt, SCRAM_ITERATIONS);
        let mut scram = ScramAuth::new(Arc::new(OneRole { salt, salted: Zeroizing::new(salted) }));
        scram.set_iterations(SCRAM_ITERATIONS);
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version =
            format!("{} (lockgate demo, SQLite {})", introspect::short_version(), rusqlite::version());
        parameters.is_superuser = false;
        parameters.time_zone = "UTC".to_owned();
        parameters.date_style = "ISO, MDY".to_owned();
        let login = SASLAuthStartupHandler::new(Arc::new(parameters)).with_scram(scram);

        let listener =
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a loopback port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            uri,
            login,
            running: Mutex::new(HashMap::new()),
            sessions: AtomicUsize::new(0),
        });
        let accepting = shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("demo-database".to_owned()).spawn(move || {
            runtime.block_on(accept(listener, accepting, stopped));
        })?;
        Ok(Database { address, password, stop, shared, _keep: Mutex::new(keep) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the gateway proves itself with. Different at every start.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Sessions notice between two messages; a running statement is interrupted. Nobody listening means
        // nobody is left.
        self.stop.send_replace(true);
        self.shared.interrupt_all();
    }
}

impl Shared {
    /// A connection of a session's own.
    pub(crate) fn open(&self) -> rusqlite::Result<Connection> {
        open(&self.uri)
    }

    /// Makes this thread's session known to those who may cancel it.
    pub(crate) fn enter(&self, pid: i32, key: SecretKey, db: &Connection) -> Arc<Running> {
        let running =
            Arc::new(Running { interrupt: db.get_interrupt_handle(), cancelled: AtomicBool::new(false) });
        if let Ok(mut all) = self.running.lock() {
            all.insert(pid, (key, running.clone()));
        }
        MINE.set(Some(running.clone()));
        running
    }

    pub(crate) fn leave(&self, pid: i32) {
        if let Ok(mut all) = self.running.lock() {
            all.remove(&pid);
        }
    }

    /// A wrong key is ignored in silence, as PostgreSQL does.
    pub(crate) fn cancel(&self, request: &CancelRequest) {
        if let Ok(all) = self.running.lock()
            && let Some((key, running)) = all.get(&request.pid)
            && key.eq_value(&request.secret_key)
        {
            running.cancel();
        }
    }

    fn interrupt_all(&self) {
        if let Ok(all) = self.running.lock() {
            for (_, running) in all.values() {
                running.cancel();
            }
        }
    }
}

impl Running {
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.interrupt.interrupt();
    }

    pub(crate) fn begin(&self) {
        self.cancelled.store(false, Ordering::SeqCst);
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Sleeps; false when cancelled meanwhile.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let start = Instant::now();
        while let Some(rest) = time.checked_sub(start.elapsed()) {
            if self.cancelled() {
                return false;
            }
            std::thread::sleep(rest.min(Duration::from_millis(10)));
        }
        !self.cancelled()
    }
}

thread_local! {
    /// The session of this thread, for SQLite's busy handler, which is a bare function.
    static MINE: RefCell<Option<Arc<Running>>> = const { RefCell::new(None) };
}

/// Called by SQLite while another session writes: true to look again. Gives up after five seconds, or when
/// cancelled.
fn wait_for_others(times: i32) -> bool {
    const STEP: Duration = Duration::from_millis(5);
    if times >= 1_000 {
        return false;
    }
    MINE.with_borrow(|mine| match mine {
        Some(running) => running.sleep(STEP),
        None => {
            std::thread::sleep(STEP);
            true
        }
    })
}

fn open(uri: &str) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(uri, flags)?;
    db.busy_handler(Some(wait_for_others))?;
    // `"x"` is a name, never a text: SQLite's old guess would turn a mistyped column into data.
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.execute_batch(
        "pragma foreign_keys = on; pragma temp_store = memory; pragma case_sensitive_like = on;",
    )?;
    Ok(db)
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the demo database cannot listen");
            return;
        }
    };
    loop {
        let socket = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "the demo database could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Cancel requests need a place too, so the limit is looked at after the first message.
        let (shared, stopped) = (shared.clone(), stopped.clone());
        let spawned = socket.into_std().and_then(|socket| {
            std::thread::Builder::new().name("demo-session".to_owned()).spawn(move || {
                let count = shared.sessions.fetch_add(1, Ordering::SeqCst);
                let full = count >= SESSIONS_MAX;
                let done = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(anyhow::Error::from)
                    .and_then(|runtime| {
                        runtime.block_on(session::serve(socket, shared.clone(), stopped, full))
                    });
                shared.sessions.fetch_sub(1, Ordering::SeqCst);
                if let Err(error) = done {
                    tracing::debug!(%error, "a session of the demo database ended");
                }
            })
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "the demo database could not start a session");
        }
    }
}

/// 24 random bytes, spelled in base64 so that they fit a file and a DSN.
fn secret() -> anyhow::Result<String> {
    let mut bytes = Zeroizing::new([0u8; 24]);
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), bytes.as_mut())
        .map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes.as_ref()))
}

/// Knows the one role and its salted password.
struct OneRole {
    salt: Vec<u8>,
    salted: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for OneRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneRole(redacted)")
    }
}

#[async_trait]
impl AuthSource for OneRole {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let user = login.user().unwrap_or_default();
        if user != ROLE {
            return Err(PgWireError::InvalidPassword(user.to_owned()));
        }
        let database = login.database().unwrap_or(user);
        if database != data::DATABASE {
            return Err(PgWireError::UserError(Box::new(ErrorInfo::new(
                "FATAL".to_owned(),
                "3D000".to_owned(),
                format!("database \"{database}\" does not exist; the demo has \"{}\"", data::DATABASE),
            ))));
        }
        Ok(Password::new(Some(self.salt.clone()), self.salted.to_vec()))
    }
}
