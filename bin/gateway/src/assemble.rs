//! Joins the rooms: settings → record, side path, engine. Swaps what a reload changes and takes everything down in order.
//!
//! `run` and `demo` both start a gateway here, so both run the same code. It handles no signals and prints nothing.
//!
//! Invariant: nothing accepts a client before the record is open, and the record closes after the last client has gone.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arc_swap::{ArcSwap, ArcSwapOption};
use flow::access::{Connection, Directory, Published, ServerTls};
use flow::record::Entry;
use flow::{Answer, Ask, Fault, Recorder};
use side::record::{Ledger, Options};

use crate::config;
use crate::settings::Settings;
use crate::{policies, rules};

/// A running gateway. Stop it with [`Gateway::stop`]; dropping it stops it at once.
pub(crate) struct Gateway {
    engine: engine::Engine,
    side: side::Side,
    ledger: Arc<Ledger>,
    published: Published,
    /// What is offered to clients, by listener; swapped by a reload.
    tls: Vec<(SocketAddr, Arc<ArcSwapOption<ServerTls>>)>,
    workers: usize,
    settings: Mutex<Arc<Settings>>,
    stopped: Mutex<bool>,
}

/// How the last client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// All by themselves.
    Drained,
    /// Some were cut off.
    Cut,
}

/// Binds, opens and starts everything. Nothing is left running when it fails.
pub(crate) fn start(settings: Settings) -> anyhow::Result<Gateway> {
    let workers = match settings.workers {
        config::Workers::Auto => crate::run::processors(),
        config::Workers::Count(n) => usize::from(n),
    };
    // A ring for every worker of every listener: each has its own way into the record.
    let rings = workers * settings.listeners.len();
    let options = Options { ring_bytes: settings.ring_bytes, ..Options::default() };
    let ledger = Ledger::open(&settings.record_home, rings, options).context("open the record")?;
    let ledger = Arc::new(ledger);
    let published: Published = Arc::new(ArcSwap::new(settings.directory.clone()));
    let side = side::Side::start(side::SideSettings {
        published: published.clone(),
        fixed: settings.fixed.clone(),
        refresh: settings.catalogue_refresh,
    })
    .context("start the side path")?;

    // One gate for all listeners: a cancel request may come in by another one.
    let gate: Arc<dyn flow::Service> =
        Arc::new(postgres::Gate::new(published.clone(), recorders(&ledger, workers)));
    let mut tls = Vec::new();
    let mut listeners = Vec::new();
    for listener in &settings.listeners {
        let offered = Arc::new(ArcSwapOption::new(listener.tls.clone()));
        tls.push((listener.address, offered.clone()));
        listeners.push(engine::Listener { address: listener.address, tls: offered, service: gate.clone() });
    }
    let limits = {
        let published = published.clone();
        Arc::new(move || published.load().limits)
    };
    let tuning = engine::Tuning { spin: settings.spin, ..engine::Tuning::default() };
    let asked = engine::Settings {
        workers: engine::Workers::Count(workers),
        io: match settings.io {
            config::Io::Auto => engine::Io::Auto,
            config::Io::Uring => engine::Io::Uring,
            config::Io::Epoll => engine::Io::Epoll,
        },
        listeners,
        desk: side.desk(),
        limits,
    };
    let engine = match engine::Engine::start_tuned(asked, tuning) {
        Ok(engine) => engine,
        Err(error) => {
            side.stop();
            ledger.close().context("close the record")?;
            return Err(error.into());
        }
    };
    let gateway = Gateway {
        engine,
        side,
        ledger,
        published,
        tls,
        workers,
        settings: Mutex::new(Arc::new(settings)),
        stopped: Mutex::new(false),
    };
    let detail =
        format!("lockgate {}, policy {}", env!("CARGO_PKG_VERSION"), gateway.directory().policy.revision);
    gateway.ledger.gateway_event("start", &detail).context("record the start")?;
    gateway.with_settings(keep_policy);
    gateway.load_catalogues(&[]);
    Ok(gateway)
}

impl Gateway {
    /// Where each listener listens, in the order of the configuration.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.engine.addresses()
    }

    /// `io_uring` or `epoll`, and why it is not io_uring.
    pub(crate) fn driver(&self) -> (&'static str, Option<String>) {
        self.engine.driver()
    }

    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.published.load_full()
    }

    pub(crate) fn rules(&self) -> rules::Count {
        self.with_settings(|s| s.rules)
    }

    /// Looks at the settings in force. No lock is held meanwhile: a reload that waits for a secret keeps nobody else waiting.
    pub(crate) fn with_settings<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        look(&settings)
    }

    /// Why the record cannot be written at the moment.
    pub(crate) fn record_trouble(&self) -> Option<String> {
        self.ledger.health().broken
    }

    /// Puts checked settings in force, all of them at once. Says what needs a restart to take effect.
    ///
    /// Sessions go on: each keeps its connection and identity, and asks for the newest policy at every statement.
    pub(crate) fn reload(&self, new: Settings) -> Vec<String> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waits = Vec::new();
        let mut differs = |what: &str, different: bool| {
            if different {
                waits.push(format!("{what} changed: takes effect after a restart"));
            }
        };
        differs("gateway.workers", settings.workers != new.workers);
        differs("gateway.io", settings.io != new.io);
        differs("gateway.spin_us", settings.spin != new.spin);
        differs(
            "gateway.state or record.to",
            settings.record_home != new.record_home || settings.state != new.state,
        );
        differs("record.ring", settings.ring_bytes != new.ring_bytes);
        differs("gateway.catalogue_refresh", settings.catalogue_refresh != new.catalogue_refresh);
        let addresses = |s: &Settings| s.listeners.iter().map(|l| l.address).collect::<Vec<_>>();
        differs("listeners", addresses(&settings) != addresses(&new));
        for listener in &new.listeners {
            if let Some((_, offered)) = self.tls.iter().find(|(address, _)| *address == listener.address) {
                offered.store(listener.tls.clone());
            }
        }
        keep_policy(&new);
        let before = self.published.swap(new.directory.clone());
        self.side.set_fixed(new.fixed.clone());
        *settings = Arc::new(new);
        drop(settings);
        let known: Vec<Arc<Connection>> = before.connections.values().chain(&before.any).cloned().collect();
        self.load_catalogues(&known);
        waits
    }

    /// Writes something about the gateway into the record.
    pub(crate) fn record(&self, event: &str, detail: &str) {
        if let Err(fault) = self.ledger.gateway_event(event, detail) {
            tracing::error!(event, %fault, "cannot record");
        }
    }

    /// Stops accepting, lets sessions end after their running statement, at most `within`; then everything else, in order.
    pub(crate) fn stop(&self, within: Duration) -> Stopped {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *stopped, true) {
            return Stopped::Drained;
        }
        let how = if self.engine.drain(within) { Stopped::Drained } else { Stopped::Cut };
        self.engine.join();
        self.side.stop();
        self.record(
            "stop",
            if how == Stopped::Drained { "every session ended" } else { "sessions were cut off" },
        );
        if let Err(error) = self.ledger.close() {
            tracing::error!(%error, "the record is not complete on disk; the next start takes what is left");
        }
        how
    }

    /// Cuts off every session. For a second signal, while [`Gateway::stop`] waits.
    pub(crate) fn kill(&self) {
        self.engine.kill_all();
    }

    /// Loads the catalogues rules need, in the background, so that the first session does not wait. `but`: these have theirs.
    fn load_catalogues(&self, but: &[Arc<Connection>]) {
        let directory = self.directory();
        for connection in directory.connections.values() {
            // On the connection `*` the database is known when somebody opens one.
            let Some(database) = connection.database.clone() else { continue };
            let ruled = directory.identities.values().any(|identity| {
                connection.allows(identity)
                    && !directory.policy.scope(&identity.subject, &connection.name).is_empty()
            });
            if !ruled
                || (but.iter().any(|b| Arc::ptr_eq(b, connection))
                    && connection.catalogues.get(&database).is_some())
            {
                continue;
            }
            let ask =
                Ask::Catalogue { connection: connection.clone(), database: database.clone(), newer_than: 0 };
            let connection = connection.clone();
            self.side.desk().ask(
                ask,
                Box::new(move |answer| match answer {
                    Answer::Done => {
                        let tables = connection.catalogues.get(&database).map_or(0, |c| c.tables.len());
                        tracing::info!(connection = connection.name, database, tables, "catalogue loaded");
                    }
                    // Not fatal: the target may be down, and the first session asks again.
                    Answer::Failed(why) => {
                        tracing::warn!(
                            connection = connection.name,
                            database,
                            why,
                            "catalogue not loaded yet"
                        );
                    }
                }),
            );
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// So that `lockgate why` can say what a rule said when it decided. A gateway that cannot keep it still enforces it.
fn keep_policy(settings: &Settings) {
    let revision = &settings.directory.policy.revision;
    if let Err(error) = policies::keep(&settings.record_home, revision, &settings.sources) {
        tracing::warn!(%error, revision, "the rules of this revision are not kept; `lockgate why` will not know them");
    }
}

/// Gives each worker its recorder; the engine asks once for every listener.
fn recorders(
    ledger: &Arc<Ledger>,
    workers: usize,
) -> impl Fn(usize) -> Box<dyn Recorder + Send> + Send + Sync + 'static {
    let ledger = ledger.clone();
    let given = Mutex::new(vec![0_usize; workers]);
    move |worker| {
        let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = given.get_mut(worker).map_or(0, |n| std::mem::replace(n, *n + 1));
        match ledger.recorder(turn * workers + worker) {
            Ok(recorder) => recorder,
            Err(error) => {
                tracing::error!(worker, %error, "no way into the record: this worker refuses everything");
                Box::new(NoRecord)
            }
        }
    }
}

/// Nothing may pass unrecorded: without a way into the record nothing passes.
struct NoRecord;

impl Recorder for NoRecord {
    fn append(&mut self, _: &Entry<'_>) -> Result<(), Fault> {
        Err(Fault::Unrecorded)
    }
}
