//! The machine: one pinned thread per core accepts clients, drives a [`flow::Session`] for each, and moves its bytes.
//!
//! It knows sockets, buffers, TLS, time and back-pressure, and no protocol: what bytes mean is the session's business. It never
//! waits for the side path; sessions do ([`flow::Step::Ask`]).
//!
//! Reading order: [`Engine`] (start, drain, end) · `worker` (a thread's life) · `conn` (a connection: pumps, events, steps) ·
//! `leg` (one side: reading, writing, TLS) · `dial` · `io` (a worker's loop and its sockets) · `wait`, `ring` (who tells what is
//! ready) · `tasks` · `sockets`, `pool`, `mail`, `bell`.
#![deny(unsafe_code)] // two `expect`s: entries pushed in `ring.rs`, and SO_RCVLOWAT in `io.rs`

mod bell;
mod conn;
mod dial;
mod io;
mod leg;
mod mail;
mod pool;
mod ring;
mod sockets;
mod stats;
mod tasks;
mod wait;
mod worker;

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use flow::access::{Limits, ServerTls};
use flow::{Desk, Service};

pub use crate::stats::WorkerStats;

use crate::dial::Resolver;
use crate::io::Driver;
use crate::mail::{Letter, Postbox};
use crate::stats::Counters;
use crate::worker::{Bound, Plan, Shared};

/// Which kernel interface to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// io_uring where it is allowed, else epoll with a reason ([`Engine::driver`]).
    #[default]
    Auto,
    /// io_uring or not at all.
    Uring,
    Epoll,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// One per CPU this process may run on.
    #[default]
    Auto,
    Count(usize),
}

pub struct Settings {
    pub workers: Workers,
    pub io: Io,
    pub listeners: Vec<Listener>,
    pub desk: Arc<dyn Desk>,
    /// Asked for every client and twice a second, so a reload takes effect at once.
    pub limits: Arc<dyn Fn() -> Limits + Send + Sync>,
}

/// What may be switched off, to measure it or to get out of its way.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// While rows stream ([`flow::Phase::Streaming`]) and come fast, wait for 64 KiB or 1 ms before reading: fewer wake-ups for us
    /// and for the sender.
    pub gather: bool,
    /// How long a worker looks for news before it sleeps, while silences were that short lately. Answers come sooner, for CPU time
    /// nobody else may have: only where a worker has its core to itself. Zero: never.
    pub spin: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { gather: true, spin: Duration::ZERO }
    }
}

pub struct Listener {
    /// Port 0: any free one, see [`Engine::addresses`].
    pub address: SocketAddr,
    /// What is offered to clients that connect from now on; swapped by a reload.
    pub tls: Arc<ArcSwapOption<ServerTls>>,
    pub service: Arc<dyn Service>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    NoRing(String),
    #[error("cannot start worker {worker}")]
    Worker { worker: usize, source: std::io::Error },
    #[error("there must be at least one worker")]
    NoWorkers,
}

/// The running machine. Dropping it leaves the workers running; [`Engine::drain`] or [`Engine::kill_all`] ends them.
pub struct Engine {
    driver: Driver,
    why_not_uring: Option<String>,
    addresses: Vec<SocketAddr>,
    workers: Vec<Handle>,
}

struct Handle {
    stats: Arc<Counters>,
    postbox: Arc<Postbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Binds every listener and starts the workers.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(settings: Settings) -> Result<Engine, StartError> {
        Engine::start_tuned(settings, Tuning::default())
    }

    /// [`Engine::start`] with other than the default tuning.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start_tuned(settings: Settings, tuning: Tuning) -> Result<Engine, StartError> {
        let (driver, why_not_uring) = match settings.io {
            Io::Epoll => (Driver::Epoll, Some("epoll was asked for".to_owned())),
            Io::Uring => (Driver::probe_uring().map_err(StartError::NoRing)?, None),
            Io::Auto => match Driver::probe_uring() {
                Ok(driver) => (driver, None),
                Err(why) => (Driver::Epoll, Some(why)),
            },
        };
        let cpus = allowed_cpus();
        let count = match settings.workers {
            Workers::Auto => cpus.len().max(1),
            Workers::Count(0) => return Err(StartError::NoWorkers),
            Workers::Count(n) => n,
        };
        if count <= cpus.len() {
            let used = cpus.get(..count).unwrap_or_default();
            tracing::info!(driver = driver.name(), cpus = ?used, "one worker on each of these processors");
        } else {
            // A fixed place would only put two on one processor while another is free.
            tracing::info!(driver = driver.name(), workers = count, cpus = ?cpus, "more workers than processors: not pinned");
        }
        let mut addresses = Vec::with_capacity(settings.listeners.len());
        let mut bound: Vec<Vec<Bound>> = (0..count).map(|_| Vec::new()).collect();
        for listener in settings.listeners {
            let (address, sockets) = sockets::listen(listener.address, count)
                .map_err(|source| StartError::Listen { address: listener.address, source })?;
            addresses.push(address);
            for (mine, socket) in bound.iter_mut().zip(sockets) {
                let (tls, service) = (listener.tls.clone(), listener.service.clone());
                mine.push(Bound { socket, address, tls, service });
            }
        }
        let mut engine = Engine { driver, why_not_uring, addresses, workers: Vec::with_capacity(count) };
        let (base, resolver) = (Instant::now(), Arc::new(Resolver::default()));
        let open = Arc::new(AtomicUsize::new(0));
        for (index, listeners) in bound.into_iter().enumerate() {
            let cpu = if count <= cpus.len() { cpus.get(index).copied() } else { None };
            let shared = Shared {
                base,
                stats: Arc::default(),
                postbox: Arc::default(),
                desk: settings.desk.clone(),
                limits: settings.limits.clone(),
                resolver: resolver.clone(),
                open: open.clone(),
            };
            if let Err(source) = engine.add_worker(Plan { index, driver, tuning, cpu, listeners, shared }) {
                engine.kill_all();
                engine.join();
                return Err(StartError::Worker { worker: index, source });
            }
        }
        Ok(engine)
    }

    fn add_worker(&mut self, plan: Plan) -> std::io::Result<()> {
        let (stats, postbox) = (plan.shared.stats.clone(), plan.shared.postbox.clone());
        let (sender, receiver) = channel();
        let thread =
            std::thread::Builder::new().name(format!("lg-worker-{}", plan.index)).spawn(move || {
                worker::run(plan, move |outcome| {
                    // Nobody listens only if the starting thread is gone, and then nobody wants to know.
                    let _nobody = sender.send(outcome);
                });
            })?;
        let started = receiver.recv().unwrap_or_else(|_| Err(std::io::Error::other("the worker panicked")));
        self.workers.push(Handle { stats, postbox, thread: Mutex::new(Some(thread)) });
        started
    }

    /// `io_uring` or `epoll`, and one line that says why it is not io_uring.
    pub fn driver(&self) -> (&'static str, Option<String>) {
        (self.driver.name(), self.why_not_uring.clone())
    }

    /// Where each listener listens, in the order they were given.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What each worker did so far.
    pub fn stats(&self) -> Vec<WorkerStats> {
        self.workers.iter().map(|w| WorkerStats::from(&*w.stats)).collect()
    }

    /// Stops accepting, tells every session ([`flow::Event::Drain`]) and waits until the last has gone, at most `within`. Then
    /// the rest is killed ([`flow::Event::Kill`]). Returns when all workers have ended, true when nobody had to be killed.
    pub fn drain(&self, within: Duration) -> bool {
        self.tell(|| Letter::Drain);
        if self.ended_within(within) {
            return true;
        }
        self.kill_all();
        // The grace a worker gives its sessions, and some for a busy machine.
        self.ended_within(Duration::from_secs(3));
        false
    }

    /// Stops accepting and ends every session now; the workers end within about a second.
    pub fn kill_all(&self) {
        self.tell(|| Letter::Kill);
    }

    /// Waits until every worker has ended, by [`Engine::drain`] or [`Engine::kill_all`].
    pub fn join(&self) {
        for worker in &self.workers {
            let thread = worker.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread
                && thread.join().is_err()
            {
                tracing::error!("a worker ended by a panic");
            }
        }
    }

    fn tell(&self, letter: impl Fn() -> Letter) {
        for worker in &self.workers {
            worker.postbox.post(letter());
        }
    }

    fn ended_within(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        loop {
            let running = |w: &Handle| {
                let thread = w.thread.lock().unwrap_or_else(PoisonError::into_inner);
                thread.as_ref().is_some_and(|t| !t.is_finished())
            };
            if !self.workers.iter().any(running) {
                return true;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The CPUs this process may run on: the container's or the service's cpuset, not the machine's.
fn allowed_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => Vec::new(),
    }
}
