//! Connecting to a target: names to addresses, addresses to a socket, all under one deadline.
//!
//! Names are looked up by the C library on threads of their own (it may block for seconds) and remembered for a short while.

use std::collections::HashMap;
use std::io as std_io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flow::DialError;
use flow::access::{Address, Target};
use rustix::io::Errno;

use crate::io::{self, Socket};
use crate::mail::{Letter, Postbox, Reply};
use crate::sockets;
use crate::worker::Worker;

/// How long addresses of a name are believed; PgBouncer's default (`dns_max_ttl`).
const NAME_TTL_MS: u64 = 15_000;
/// Names one worker remembers. Names come from the configuration, so this is never reached by a client's doing.
const NAMES_MAX: usize = 256;
const RESOLVER_THREADS: usize = 4;
/// Pause before the next try at a Unix socket whose backlog is full.
const UNIX_RETRY: Duration = Duration::from_millis(5);

/// # Errors
/// Why not, as [`DialError`].
pub(crate) async fn dial(worker: &Worker, target: &Target) -> Result<Socket, DialError> {
    let time = Duration::from_millis(target.dial_ms);
    match io::within(time, connect(worker, target)).await {
        Some(result) => result,
        None => Err(DialError::TimedOut(target.dial_ms)),
    }
}

async fn connect(worker: &Worker, target: &Target) -> Result<Socket, DialError> {
    let (host, port) = match &target.address {
        Address::Unix(path) => loop {
            match sockets::connect_unix(path) {
                Ok(fd) => return Socket::unix(fd).map_err(refused(target)),
                Err(Errno::AGAIN) => io::sleep(UNIX_RETRY).await,
                Err(error) => return Err(refused(target)(error.into())),
            }
        },
        Address::Tcp { host, port } => (host, *port),
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let addresses = match literal {
        Ok(address) => vec![address],
        Err(_) => resolve(worker, host).await?,
    };
    let mut last = DialError::Resolve(host.clone());
    // An address that does not answer must leave time for the others.
    let share_ms = target.dial_ms / u64::try_from(addresses.len()).unwrap_or(1).max(1);
    for address in addresses {
        let attempt = connect_tcp(SocketAddr::new(address, port));
        match io::within(Duration::from_millis(share_ms), attempt).await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => last = refused(target)(error),
            None => last = DialError::TimedOut(share_ms),
        }
    }
    // The name may have moved: ask again next time.
    worker.names.borrow_mut().remove(host);
    Err(last)
}

async fn connect_tcp(address: SocketAddr) -> std_io::Result<Socket> {
    let socket = Socket::connecting(sockets::connect_tcp(address)?)?;
    socket.writable().await?;
    if socket.is_over() {
        sockets::failure(&socket)?;
    }
    Ok(socket)
}

fn refused(target: &Target) -> impl Fn(std_io::Error) -> DialError + '_ {
    move |error| DialError::Connect(format!("{target}: {error}"))
}

async fn resolve(worker: &Worker, host: &str) -> Result<Vec<IpAddr>, DialError> {
    let now_ms = worker.now_ms();
    let known = worker.names.borrow().get(host).cloned();
    if let Some((until_ms, addresses)) = known
        && now_ms < until_ms
    {
        return Ok(addresses);
    }
    let waiting = worker.slots.open();
    worker.resolver.look_up(host, worker.postbox.clone(), waiting.number);
    match waiting.reply().await {
        Reply::Resolved(Ok(addresses)) if !addresses.is_empty() => {
            let mut names = worker.names.borrow_mut();
            if names.len() >= NAMES_MAX {
                names.clear();
            }
            names.insert(host.to_owned(), (now_ms.saturating_add(NAME_TTL_MS), addresses.clone()));
            Ok(addresses)
        }
        Reply::Resolved(Err(error)) => Err(DialError::Resolve(format!("{host}: {error}"))),
        _ => Err(DialError::Resolve(host.to_owned())),
    }
}

pub(crate) type Names = HashMap<String, (u64, Vec<IpAddr>)>;

/// The threads that look names up. Started when the first name is asked for.
#[derive(Default)]
pub(crate) struct Resolver {
    jobs: Mutex<Option<Sender<Job>>>,
}

struct Job {
    host: String,
    postbox: Arc<Postbox>,
    number: u64,
    asked: Instant,
}

/// A question this old has no one waiting any more; answering it would only hold up the next.
const STALE: Duration = Duration::from_secs(60);

impl Resolver {
    fn look_up(&self, host: &str, postbox: Arc<Postbox>, number: u64) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = jobs.get_or_insert_with(start);
        let job = Job { host: host.to_owned(), postbox, number, asked: Instant::now() };
        if let Err(lost) = sender.send(job) {
            let error = "the resolver is not running".to_owned();
            lost.0.postbox.post(Letter::Reply(number, Reply::Resolved(Err(error))));
        }
    }
}

fn start() -> Sender<Job> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..RESOLVER_THREADS {
        let receiver = receiver.clone();
        let thread = std::thread::Builder::new().name("lg-resolve".to_owned());
        if let Err(error) = thread.spawn(move || work(&receiver)) {
            tracing::warn!(%error, "cannot start a thread to look names up");
        }
    }
    sender
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if job.asked.elapsed() > STALE {
            continue;
        }
        let found = (job.host.as_str(), 0)
            .to_socket_addrs()
            .map(|all| all.map(|a| a.ip()).collect::<Vec<_>>())
            .map_err(|error| error.to_string());
        job.postbox.post(Letter::Reply(job.number, Reply::Resolved(found)));
    }
}
