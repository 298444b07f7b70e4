//! What forwarding costs: CPU time of one worker per round trip, on io_uring and on epoll, taken in turns.
//!
//! `cargo run --release -p engine --example measure [ROUNDS]`, or `… measure serve ADDRESS [epoll] [plain]` to stand in front of
//! something real. One thread plays all clients and all targets: it sends on every
//! connection, answers on every connection, reads on every connection, so the worker always finds as many ready sockets as there
//! are connections. Worker and peers are on different CPUs. Quote minima, and quote them side by side only.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measuring tool: any failure ends it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engine::{Engine, Io, Listener, Settings, Tuning, Workers};
use flow::access::{Address, Limits, Target};
use flow::{Acceptor, Answer, Ask, Desk, Event, Fault, Flow, Peer, Phase, Reply, Service, Session, Step};
use policy::Pass;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, target, how @ ..] = words.as_slice()
        && serve == "serve"
    {
        return serve_until_end(target.parse().unwrap(), how);
    }
    let rounds: u32 = std::env::args().nth(1).map_or(5, |n| n.parse().unwrap());
    println!("{:>10} {:>6} {:>10} {:>12} {:>12}", "driver", "conns", "us/trip", "user us", "system us");
    for conns in [1, 16, 64] {
        let mut best = [(f64::MAX, 0.0, 0.0); 2];
        for _ in 0..rounds {
            for (io, best) in [Io::Uring, Io::Epoll].into_iter().zip(&mut best) {
                let trips = if conns == 1 { 20_000 } else { 100_000 };
                let cost = round_trips(io, conns, trips / conns);
                if cost.0 < best.0 {
                    *best = cost;
                }
            }
        }
        for (name, (all, user, system)) in ["io_uring", "epoll"].iter().zip(best) {
            println!("{name:>10} {conns:>6} {all:>10.2} {user:>12.2} {system:>12.2}");
        }
    }
    println!("{:>10} {:>8} {:>10} {:>10}", "driver", "gather", "ns/KiB", "MB/s");
    for gather in [false, true, false, true] {
        for io in [Io::Uring, Io::Epoll] {
            let (ns, rate) = bulk(io, gather, 4 << 30);
            println!("{:>10} {gather:>8} {ns:>10.1} {rate:>10.0}", format!("{io:?}"));
        }
    }
    println!(
        "{:>10} {:>8} {:>8} {:>8} {:>8} {:>10}",
        "driver", "gather", "p50 us", "p99 us", "max us", "bulk MB/s"
    );
    for gather in [false, true, false, true] {
        for io in [Io::Uring, Io::Epoll] {
            let (p50, p99, max, rate) = mixed(io, gather);
            println!("{:>10} {gather:>8} {p50:>8} {p99:>8} {max:>8} {rate:>10.0}", format!("{io:?}"));
        }
    }
    for (io, count) in [(Io::Uring, 2000), (Io::Epoll, 2000)] {
        println!("{io:?}: {} bytes of memory per idle connection ({count} open)", idle(io, count));
    }
}

/// Forwards to `target` until standard input ends; then says what it cost.
fn serve_until_end(target: SocketAddr, how: &[String]) {
    let io = if how.iter().any(|w| w == "epoll") { Io::Epoll } else { Io::Uring };
    let engine = start(io, !how.iter().any(|w| w == "plain"), target);
    println!("{}", engine.addresses()[0].port());
    let mut ignored = Vec::new();
    std::io::stdin().read_to_end(&mut ignored).unwrap();
    println!("{how:?}: {} ms of CPU, {:?}", worker_cpu().0 / 1_000_000, engine.stats());
}

fn start(io: Io, gather: bool, target: SocketAddr) -> Engine {
    let address = Address::Tcp { host: target.ip().to_string(), port: target.port() };
    let target = Arc::new(Target { address, tls: None, dial_ms: 10_000 });
    let settings = Settings {
        workers: Workers::Count(1),
        io,
        listeners: vec![Listener {
            address: "127.0.0.1:0".parse().unwrap(),
            tls: Arc::default(),
            service: Arc::new(Relays(target)),
        }],
        desk: Arc::new(Nobody),
        limits: Arc::new(|| Limits { login_ms: 60_000, idle_ms: 0, clients_max: 100_000 }),
    };
    Engine::start_tuned(settings, Tuning { gather, ..Tuning::default() }).unwrap()
}

fn connect(engine: &Engine, listener: &TcpListener, conns: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..conns {
        let client = TcpStream::connect(engine.addresses()[0]).unwrap();
        client.set_nodelay(true).unwrap();
        clients.push(client);
        let (server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        servers.push(server);
    }
    (clients, servers)
}

/// Microseconds of the worker's CPU per round trip: all, user, system.
fn round_trips(io: Io, conns: usize, trips: usize) -> (f64, f64, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = start(io, true, listener.local_addr().unwrap());
    pin(1);
    let (mut clients, mut servers) = connect(&engine, &listener, conns);
    let (question, answer) = ([b'q'; 60], [b'a'; 120]);
    let mut buffer = [0; 200];
    let mut turn = || {
        for client in &mut clients {
            client.write_all(&question).unwrap();
        }
        for server in &mut servers {
            server.read_exact(&mut buffer[..question.len()]).unwrap();
            server.write_all(&answer).unwrap();
        }
        for client in &mut clients {
            client.read_exact(&mut buffer[..answer.len()]).unwrap();
        }
    };
    for _ in 0..50 {
        turn();
    }
    let before = worker_cpu();
    for _ in 0..trips {
        turn();
    }
    let after = worker_cpu();
    engine.kill_all();
    engine.join();
    unpin();
    let n = (trips * conns) as f64;
    let share = |a: u64, b: u64| (b - a) as f64 / n / 1000.0;
    // The split comes in clock ticks: scale it to the exact total.
    let (user, system) = ((after.1 - before.1) as f64, (after.2 - before.2) as f64);
    let all = share(before.0, after.0);
    let part = user / (user + system).max(1.0);
    (all, all * part, all * (1.0 - part))
}

/// One stream from target to client: the worker's nanoseconds per KiB, and the rate.
fn bulk(io: Io, gather: bool, total: usize) -> (f64, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = start(io, gather, listener.local_addr().unwrap());
    let (mut clients, servers) = connect(&engine, &listener, 1);
    let (before, since) = (worker_cpu(), Instant::now());
    let writer = std::thread::spawn(move || {
        // PostgreSQL writes its results 8 KiB at a time.
        let block = [b'x'; 8192];
        for _ in 0..total / block.len() {
            (&servers[0]).write_all(&block).unwrap();
        }
    });
    let mut buffer = vec![0; 256 << 10];
    let mut got = 0;
    while got < total {
        got += clients[0].read(&mut buffer).unwrap();
    }
    let (after, took) = (worker_cpu(), since.elapsed());
    writer.join().unwrap();
    engine.kill_all();
    engine.join();
    ((after.0 - before.0) as f64 / (total >> 10) as f64, total as f64 / took.as_secs_f64() / 1e6)
}

/// Eight connections ask and are answered while a ninth streams: the latency of the eight in microseconds, and the stream's rate.
/// Every session says that it streams, so only the sizes of reads keep an answer from being held back.
fn mixed(io: Io, gather: bool) -> (u128, u128, u128, f64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = start(io, gather, listener.local_addr().unwrap());
    let (mut clients, mut servers) = connect(&engine, &listener, 9);
    let (mut bulk, source) = (clients.pop().unwrap(), servers.pop().unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let writer = std::thread::spawn(move || {
        let block = [b'x'; 8192];
        while !stop.load(Ordering::Relaxed) && (&source).write_all(&block).is_ok() {}
    });
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        let mut got = 0;
        while let Ok(n @ 1..) = bulk.read(&mut buffer) {
            got += n;
        }
        got
    });
    let since = Instant::now();
    let mut took = Vec::new();
    let mut buffer = [0; 200];
    while since.elapsed().as_secs() < 2 {
        for (client, server) in clients.iter_mut().zip(&mut servers) {
            let asked = Instant::now();
            client.write_all(&[b'q'; 60]).unwrap();
            server.read_exact(&mut buffer[..60]).unwrap();
            server.write_all(&[b'a'; 120]).unwrap();
            client.read_exact(&mut buffer[..120]).unwrap();
            took.push(asked.elapsed().as_micros());
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    let got = reader.join().unwrap();
    engine.kill_all();
    engine.join();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99), at(1.0), got as f64 / seconds / 1e6)
}

fn idle(io: Io, count: usize) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let engine = start(io, true, listener.local_addr().unwrap());
    let one_trip = |(clients, servers): &mut (Vec<TcpStream>, Vec<TcpStream>)| {
        for (client, server) in clients.iter_mut().zip(servers) {
            client.write_all(b"q").unwrap();
            server.read_exact(&mut [0]).unwrap();
            server.write_all(b"a").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    };
    let mut warm = connect(&engine, &listener, 64);
    one_trip(&mut warm);
    let before = resident();
    let mut all = connect(&engine, &listener, count);
    one_trip(&mut all);
    let after = resident();
    engine.kill_all();
    engine.join();
    after.saturating_sub(before) / count
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The worker thread's CPU time: nanoseconds, user ticks, system ticks.
fn worker_cpu() -> (u64, u64, u64) {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        if std::fs::read_to_string(path.join("comm")).unwrap_or_default().starts_with("lg-worker") {
            let ns = std::fs::read_to_string(path.join("schedstat")).unwrap();
            let stat = std::fs::read_to_string(path.join("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            let ns = ns.split(' ').next().unwrap().parse().unwrap();
            return (ns, fields[11].parse().unwrap(), fields[12].parse().unwrap());
        }
    }
    (0, 0, 0)
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

fn unpin() {
    let mut set = rustix::thread::CpuSet::new();
    (0..std::thread::available_parallelism().map_or(1, usize::from).max(2)).for_each(|cpu| set.set(cpu));
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

struct Relays(Arc<Target>);
struct Accept(Arc<Target>);
struct Relay(Arc<Target>);
struct Nobody;

impl Service for Relays {
    fn worker(&self, _: usize) -> Box<dyn Acceptor> {
        Box::new(Accept(self.0.clone()))
    }
}

impl Acceptor for Accept {
    fn accept(&mut self, _: Peer) -> Box<dyn Session> {
        Box::new(Relay(self.0.clone()))
    }
}

impl Session for Relay {
    fn on(&mut self, event: Event, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        match event {
            Event::Opened => Ok(Step::Dial(self.0.clone())),
            Event::Received => {
                flow.forward(usize::MAX, Pass::housekeeping());
                Ok(Step::READ)
            }
            Event::Dialled(Ok(())) | Event::TlsStarted(..) | Event::Answered(_) => Ok(Step::READ),
            _ => Ok(Step::CLOSE),
        }
    }

    fn phase(&self) -> Phase {
        Phase::Streaming
    }
}

impl Desk for Nobody {
    fn ask(&self, _: Ask, reply: Reply) {
        reply(Answer::Failed("nobody is here".to_owned()));
    }
}
