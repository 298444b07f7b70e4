//! One worker: a thread with a runtime of its own, its listeners, its connections, one sweeper and one mail task.
//!
//! Invariant: nothing in here is shared with another worker but counters, the letter box and the count of open clients; a worker
//! ends when it is told to and its last connection is gone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use flow::access::{Limits, ServerTls};
use flow::{Acceptor, Desk, Event, Now, Peer, Service};

use crate::bell::Bell;
use crate::conn::{Conn, Due};
use crate::dial::{Names, Resolver};
use crate::io::{self, Accepted, Driver};
use crate::mail::{Letter, Postbox, Slots};
use crate::pool::Pool;
use crate::stats::{Counters, add, sub};

/// How often deadlines are looked at. They are all much longer.
const SWEEP: Duration = Duration::from_millis(500);
/// Pause after accepting failed for lack of something (EMFILE, ENOMEM): trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in a row before the others have a turn.
const ACCEPTS_MAX: usize = 32;
/// How long killed sessions have for their last words.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// What a worker is started with; crosses to its thread.
pub(crate) struct Plan {
    pub(crate) index: usize,
    pub(crate) driver: Driver,
    pub(crate) tuning: crate::Tuning,
    pub(crate) cpu: Option<usize>,
    pub(crate) listeners: Vec<Bound>,
    pub(crate) shared: Shared,
}

/// One listening socket of one worker.
pub(crate) struct Bound {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ArcSwapOption<ServerTls>>,
    pub(crate) service: Arc<dyn Service>,
}

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) base: Instant,
    pub(crate) stats: Arc<Counters>,
    pub(crate) postbox: Arc<Postbox>,
    pub(crate) desk: Arc<dyn Desk>,
    pub(crate) limits: Arc<dyn Fn() -> Limits + Send + Sync>,
    pub(crate) resolver: Arc<Resolver>,
    /// Clients open on all workers together.
    pub(crate) open: Arc<AtomicUsize>,
}

/// A worker's state, for its own thread only.
pub(crate) struct Worker {
    pub(crate) pool: Pool,
    pub(crate) stats: Arc<Counters>,
    pub(crate) slots: Rc<Slots>,
    pub(crate) postbox: Arc<Postbox>,
    pub(crate) desk: Arc<dyn Desk>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) names: RefCell<Names>,
    /// Coarse time: set by the sweeper, read by everybody else without asking the clock.
    pub(crate) tick_ms: Cell<u64>,
    pub(crate) gather: bool,
    limits: Arc<dyn Fn() -> Limits + Send + Sync>,
    open: Arc<AtomicUsize>,
    base: Instant,
    /// Unix time at `base`, as the calendar now has it.
    unix_base_ns: Cell<u64>,
    conns: RefCell<HashMap<u64, Weak<Conn>>>,
    numbers: Cell<u64>,
    listeners: RefCell<Vec<Rc<io::Listener>>>,
    /// Tasks that accept.
    accepting: Cell<usize>,
    draining: Cell<bool>,
    over: Cell<bool>,
    bell: Bell,
}

/// The whole life of a worker, on its own thread. `ready` is called once, with the outcome of starting.
pub(crate) fn run(plan: Plan, ready: impl FnOnce(std::io::Result<()>) + 'static) {
    if let Some(cpu) = plan.cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::warn!(worker = plan.index, cpu, %error, "cannot pin the worker; it runs unpinned");
        }
    }
    let mut runtime = match io::Runtime::new(plan.driver, plan.tuning.spin) {
        Ok(runtime) => runtime,
        Err(error) => return ready(Err(error)),
    };
    let index = plan.index;
    if let Err(error) = runtime.block_on(live(plan, ready)) {
        tracing::error!(worker = index, %error, "the worker cannot go on");
    }
}

async fn live(plan: Plan, ready: impl FnOnce(std::io::Result<()>)) {
    let shared = plan.shared;
    let worker = Rc::new(Worker {
        pool: Pool::default(),
        stats: shared.stats,
        slots: Rc::default(),
        postbox: shared.postbox,
        desk: shared.desk,
        resolver: shared.resolver,
        names: RefCell::default(),
        tick_ms: Cell::new(0),
        gather: plan.tuning.gather,
        limits: shared.limits,
        open: shared.open,
        base: shared.base,
        unix_base_ns: Cell::new(0),
        conns: RefCell::default(),
        numbers: Cell::new(0),
        listeners: RefCell::default(),
        accepting: Cell::new(0),
        draining: Cell::new(false),
        over: Cell::new(false),
        bell: Bell::default(),
    });
    worker.tick_ms.set(worker.now_ms());
    worker.set_calendar();
    for bound in plan.listeners {
        let listener = match io::Listener::new(bound.socket) {
            Ok(listener) => Rc::new(listener),
            Err(error) => return ready(Err(error)),
        };
        worker.listeners.borrow_mut().push(listener.clone());
        worker.accepting.set(worker.accepting.get() + 1);
        let acceptor = bound.service.worker(plan.index);
        io::spawn(accept(worker.clone(), listener, bound.address, bound.tls, acceptor));
    }
    io::spawn(sweep(worker.clone()));
    io::spawn(read_mail(worker.clone()));
    ready(Ok(()));
    worker.bell.until(|| worker.is_done()).await;
    // The sweeper and the mail task see this and end; the turns are theirs.
    worker.over.set(true);
    worker.bell.ring();
    worker.postbox.close();
    for _ in 0..4 {
        io::yield_now().await;
    }
}

async fn accept(
    worker: Rc<Worker>,
    listener: Rc<io::Listener>,
    address: SocketAddr,
    tls: Arc<ArcSwapOption<ServerTls>>,
    mut acceptor: Box<dyn Acceptor>,
) {
    let mut complained = false;
    // One at a time, because to find that nobody waits costs as much as a connection; more when more come at every turn.
    let (mut at_once, mut last_turn) = (1, 0);
    while !worker.draining.get() {
        let turn = match listener.readable().await {
            Ok(turn) => turn,
            Err(error) => {
                tracing::error!(%error, %address, "cannot wait for clients");
                break;
            }
        };
        at_once = if turn == last_turn + 1 { (at_once * 2).min(ACCEPTS_MAX) } else { 1 };
        last_turn = turn;
        for _ in 0..at_once {
            if worker.draining.get() {
                break;
            }
            match listener.accept() {
                Ok(Accepted::Nobody) => {
                    at_once = 1;
                    break;
                }
                Ok(Accepted::Lost) => {}
                Ok(Accepted::Client(socket, peer)) => {
                    complained = false;
                    worker.welcome(socket, peer, address, &tls, acceptor.as_mut());
                }
                Err(error) => {
                    add(&worker.stats.accept_errors, 1);
                    if !std::mem::replace(&mut complained, true) && !worker.draining.get() {
                        tracing::warn!(%error, %address, "cannot accept; trying again");
                    }
                    if let Err(error) = listener.look_away() {
                        tracing::error!(%error, %address, "cannot pause accepting");
                    }
                    io::sleep(ACCEPT_PAUSE).await;
                    break;
                }
            }
        }
    }
    worker.accepting.set(worker.accepting.get().saturating_sub(1));
    worker.bell.ring();
}

async fn sweep(worker: Rc<Worker>) {
    let mut conns = Vec::new();
    while io::within(SWEEP, worker.bell.until(|| worker.over.get())).await.is_none() {
        let now_ms = worker.now_ms();
        worker.tick_ms.set(now_ms);
        worker.set_calendar();
        let limits = (worker.limits)();
        worker.collect(&mut conns);
        for conn in conns.drain(..) {
            match conn.due(now_ms, limits.login_ms, limits.idle_ms) {
                Due::Nothing => {}
                Due::Expire(deadline) => conn.tell(Event::Expired(deadline)),
                Due::End => conn.end(),
            }
        }
    }
}

async fn read_mail(worker: Rc<Worker>) {
    while let Some(letter) = worker.postbox.next().await {
        match letter {
            Letter::Reply(number, reply) => worker.slots.deliver(number, reply),
            Letter::Drain => {
                worker.stop_accepting();
                for conn in worker.all() {
                    if !conn.is_alone() {
                        conn.tell(Event::Drain);
                    }
                }
            }
            Letter::Kill => {
                worker.stop_accepting();
                for conn in worker.all() {
                    conn.tell(Event::Kill);
                }
                let worker = worker.clone();
                io::spawn(async move {
                    io::sleep(KILL_GRACE).await;
                    for conn in worker.all() {
                        conn.end();
                    }
                });
            }
        }
    }
}

impl Worker {
    pub(crate) fn now(&self) -> Now {
        let mono_ns = nanoseconds(self.base.elapsed());
        Now { mono_ns, unix_ns: self.unix_base_ns.get().saturating_add(mono_ns) }
    }

    /// Reads the calendar anew. Two clocks per event would be one too many, and people's time moves by seconds if at all.
    fn set_calendar(&self) {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.unix_base_ns.set(nanoseconds(unix).saturating_sub(nanoseconds(self.base.elapsed())));
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn next_number(&self) -> u64 {
        let number = self.numbers.get();
        self.numbers.set(number.wrapping_add(1));
        number
    }

    pub(crate) fn enlist(&self, conn: &Rc<Conn>) {
        self.conns.borrow_mut().insert(conn.number, Rc::downgrade(conn));
    }

    pub(crate) fn delist(&self, number: u64, alone: bool) {
        self.conns.borrow_mut().remove(&number);
        if !alone {
            sub(&self.stats.open, 1);
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        if self.draining.get() {
            self.bell.ring();
        }
    }

    /// Every connection; collected first, because what is done to one may end it.
    fn all(&self) -> Vec<Rc<Conn>> {
        let mut all = Vec::new();
        self.collect(&mut all);
        all
    }

    fn collect(&self, all: &mut Vec<Rc<Conn>>) {
        all.extend(self.conns.borrow().values().filter_map(Weak::upgrade));
    }

    fn welcome(
        self: &Rc<Worker>,
        socket: io::Socket,
        address: SocketAddr,
        listener: SocketAddr,
        tls: &ArcSwapOption<ServerTls>,
        acceptor: &mut dyn Acceptor,
    ) {
        if self.open.fetch_add(1, Ordering::Relaxed) >= (self.limits)().clients_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            add(&self.stats.refused, 1);
            socket.shutdown(rustix::net::Shutdown::Both);
            return;
        }
        add(&self.stats.accepted, 1);
        add(&self.stats.open, 1);
        let tls = tls.load_full();
        let peer = Peer { address, listener, tls: tls.clone() };
        let accept = std::panic::AssertUnwindSafe(|| acceptor.accept(peer));
        match std::panic::catch_unwind(accept) {
            Ok(session) => Conn::serve(self, socket, session, tls),
            Err(_) => {
                add(&self.stats.panics, 1);
                add(&self.stats.faults, 1);
                sub(&self.stats.open, 1);
                self.open.fetch_sub(1, Ordering::Relaxed);
                socket.shutdown(rustix::net::Shutdown::Both);
            }
        }
    }

    fn stop_accepting(&self) {
        self.draining.set(true);
        for listener in self.listeners.take() {
            listener.close();
        }
        self.bell.ring();
    }

    fn is_done(&self) -> bool {
        self.draining.get() && self.accepting.get() == 0 && self.conns.borrow().is_empty()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
