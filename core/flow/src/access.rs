//! Who may open what: the checked, ready-to-use form of the configuration that sessions read.
//!
//! A [`Directory`] is immutable; a reload publishes a new one ([`Published`]). A session keeps the one it logged in with for its
//! connection and identity, and asks for the newest policy at every statement.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use arc_swap::ArcSwap;
use policy::{Catalog, Policy, Subject};
use zeroize::Zeroizing;

/// The directory in force, swapped whole by a reload.
pub type Published = Arc<ArcSwap<Directory>>;

/// Everything a session may need to know, as of one configuration.
pub struct Directory {
    pub identities: HashMap<String, Arc<Identity>>,
    pub connections: HashMap<String, Arc<Connection>>,
    /// The connection named `*`: any other database name opens the database of that name behind it.
    pub any: Option<Arc<Connection>>,
    pub policy: Arc<Policy>,
    /// What a client is told of a refusal.
    pub deny_detail: DenyDetail,
    /// Secret for mock SCRAM salts, so that an unknown user looks like a known one. Random per start.
    pub mock_seed: [u8; 32],
    pub limits: Limits,
}

impl Directory {
    /// The connection a client asked for by database name, if `identity` may open it.
    pub fn connection(&self, name: &str, identity: &Identity) -> Option<&Arc<Connection>> {
        self.connections.get(name).or(self.any.as_ref()).filter(|c| c.allows(identity))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub login_ms: u64,
    /// 0: never.
    pub idle_ms: u64,
    /// Per gateway; further clients get 53300.
    pub clients_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyDetail {
    /// Rule, policy file and line, decision.
    Full,
    /// Rule and decision.
    Rule,
    /// Decision only.
    Minimal,
}

/// Somebody who can log in.
pub struct Identity {
    pub subject: Subject,
    /// SCRAM-SHA-256 verifier, when this identity has a password.
    pub scram: Option<ScramVerifier>,
    /// SHA-256 of each token this identity may send as its password, inside TLS only.
    pub tokens: Vec<[u8; 32]>,
    /// No proof asked, from loopback addresses only.
    pub trust: bool,
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as PostgreSQL stores it (RFC 5803; scram-common.c).
#[derive(Clone)]
pub struct ScramVerifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: [u8; 32],
    pub server_key: [u8; 32],
}

/// A target and what a client may do with it.
pub struct Connection {
    pub name: String,
    pub target: Arc<Target>,
    /// The role we log in as.
    pub user: String,
    /// The database behind it; `None` on the connection `*`: the name the client gave.
    pub database: Option<String>,
    pub credential: Credential,
    /// Identities and groups; `*` is everybody.
    pub allow: Vec<String>,
    pub record: RecordLevel,
    pub banner: Banner,
    /// Prefix `application_name` upstream with `lg/<identity>/`.
    pub tag_application: bool,
    pub catalogues: Catalogues,
}

impl Connection {
    pub fn allows(&self, identity: &Identity) -> bool {
        self.allow.iter().any(|a| {
            a == "*" || *a == *identity.subject.identity || identity.subject.groups.iter().any(|g| **g == **a)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLevel {
    /// Session start and end only.
    Sessions,
    /// Every statement, its parameters and its outcome.
    Statements,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Banner {
    /// Only for tools a person sits at (psql, pgcli), and only where a rule is active.
    Auto,
    Never,
}

/// Where to connect. TLS is part of the address: there is no falling back to plain text.
pub struct Target {
    pub address: Address,
    pub tls: Option<ClientTls>,
    pub dial_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp {
        host: String,
        port: u16,
    },
    /// A Unix socket's path, complete (`/run/postgresql/.s.PGSQL.5432`).
    Unix(std::path::PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// TLS towards a target.
pub struct ClientTls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: rustls::pki_types::ServerName<'static>,
}

/// TLS towards clients. A reload swaps both together by publishing a new one to the listener.
pub struct ServerTls {
    pub config: Arc<rustls::ServerConfig>,
    /// `tls-server-end-point` channel binding data: the hash of our certificate (RFC 5929 §4.1).
    pub endpoint: Vec<u8>,
}

/// What we prove ourselves to a target with. Never leaves this type except into a proof.
pub struct Credential {
    secret: Zeroizing<String>,
    keys: Mutex<Vec<ScramKeys>>,
}

/// SCRAM keys derived once for a target's salt.
#[derive(Clone)]
pub struct ScramKeys {
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub client_key: Zeroizing<[u8; 32]>,
    pub server_key: Zeroizing<[u8; 32]>,
}

impl Credential {
    pub fn new(secret: Zeroizing<String>) -> Credential {
        Credential { secret, keys: Mutex::new(Vec::new()) }
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The keys for this salt, if somebody derived them already.
    pub fn keys(&self, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let keys = self.keys.lock().ok()?;
        keys.iter().find(|k| k.salt == salt && k.iterations == iterations).cloned()
    }

    /// Keeps derived keys; a target has one salt per role, so a handful is plenty.
    pub fn keep(&self, new: ScramKeys) {
        if let Ok(mut keys) = self.keys.lock() {
            keys.retain(|k| k.salt != new.salt);
            if keys.len() >= 8 {
                keys.remove(0);
            }
            keys.push(new);
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

/// The catalogue snapshots behind one connection, by database name.
#[derive(Default)]
pub struct Catalogues {
    /// Counts what was published, so that who looked once sees by a load whether to look again.
    generation: AtomicU64,
    by_database: RwLock<HashMap<String, Arc<Catalog>>>,
    /// Databases whose catalogue changed as far as sessions saw on the wire.
    stale: Mutex<HashSet<String>>,
    /// For each of them the version that was in use when that was last seen.
    changed: RwLock<HashMap<String, u64>>,
}

impl Catalogues {
    pub fn get(&self, database: &str) -> Option<Arc<Catalog>> {
        self.by_database.read().ok()?.get(database).cloned()
    }

    pub fn publish(&self, database: &str, catalog: Arc<Catalog>) {
        if let Ok(mut map) = self.by_database.write() {
            map.insert(database.to_owned(), catalog);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Grows with every [`Catalogues::publish`]. Ask for it before [`Catalogues::get`]: as long as it stays, so does the answer.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A session saw a statement that changes the catalogue. The side path reloads it soon (it polls [`Catalogues::take_stale`]).
    pub fn mark_stale(&self, database: &str) {
        let version = self.get(database).map_or(0, |catalog| catalog.version);
        if let Ok(mut changed) = self.changed.write() {
            changed.insert(database.to_owned(), version);
        }
        if let Ok(mut stale) = self.stale.lock()
            && !stale.contains(database)
        {
            stale.insert(database.to_owned());
        }
    }

    /// Whether a session saw a change that a catalogue of this version may not have.
    pub fn changed_since(&self, database: &str, version: u64) -> bool {
        self.changed.read().is_ok_and(|changed| changed.get(database).is_some_and(|at| *at >= version))
    }

    /// The databases to reload; clears the marks. Only those whose catalogue somebody uses.
    pub fn take_stale(&self) -> Vec<String> {
        let marked = self.stale.lock().map(|mut s| std::mem::take(&mut *s)).unwrap_or_default();
        marked.into_iter().filter(|d| self.get(d).is_some()).collect()
    }

    /// Every database known, for the periodic refresh.
    pub fn databases(&self) -> Vec<String> {
        self.by_database.read().map(|m| m.keys().cloned().collect()).unwrap_or_default()
    }
}
