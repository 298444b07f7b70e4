//! What a connection costs in memory, counted by an allocator that watches the worker's thread: nothing per round trip, little
//! while idle, one read buffer while a gigabyte passes.

#[cfg(test)]
#[macro_use]
#[expect(dead_code, reason = "shared with the tests of behaviour")]
mod support;

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

    use engine::Io;
    use flow::{Event, Fault, Flow, Phase, Step};

    use crate::support::*;

    struct Watching;

    thread_local! {
        static WATCHED: Cell<bool> = const { Cell::new(false) };
    }
    static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
    static LIVE: AtomicI64 = AtomicI64::new(0);
    static PEAK: AtomicI64 = AtomicI64::new(0);
    /// The counters are one for the whole process: one test at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    fn note(bytes: i64) {
        if WATCHED.try_with(Cell::get).unwrap_or(false) {
            if bytes > 0 {
                ALLOCATIONS.fetch_add(1, SeqCst);
            }
            let live = LIVE.fetch_add(bytes, SeqCst) + bytes;
            PEAK.fetch_max(live, SeqCst);
        }
    }

    // SAFETY: every call goes to the system's allocator unchanged; counting touches atomics and a const thread-local only.
    unsafe impl GlobalAlloc for Watching {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            note(layout.size() as i64);
            // SAFETY: the caller's promise is passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            note(-(layout.size() as i64));
            // SAFETY: the caller's promise is passed on.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Watching = Watching;

    on_both_drivers! {
        a_round_trip_allocates_nothing
        a_rewritten_round_trip_allocates_nothing
        a_gigabyte_passes_through_one_buffer
        idle_connections_hold_no_buffer
    }

    fn watched_gate(io: Io, target: Upstream) -> Gate {
        gate_that(io, target, forward_all)
    }

    fn gate_that(io: Io, target: Upstream, does: fn(&mut Flow<'_>) -> Result<Step, Fault>) -> Gate {
        Gate::start(io, move |_| {
            // Sessions are made on the worker's thread: from here on it is watched.
            WATCHED.with(|w| w.set(true));
            session(Phase::Busy, move |event, flow| match event {
                Event::Opened => Ok(Step::Dial(target.plain())),
                Event::Received => does(flow),
                other => usual(&other),
            })
        })
    }

    /// Rewrites what it forwards, so that every event has bytes of its own to send.
    fn rewrite(flow: &mut Flow<'_>) -> Result<Step, Fault> {
        flow.send(flow.speaker().other(), b"*");
        flow.discard(1);
        forward_all(flow)
    }

    fn trip(client: &mut TcpStream, len: usize) {
        let mut got = vec![0; len];
        client.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
    }

    fn a_round_trip_allocates_nothing(io: Io) {
        trips_allocate_nothing(io, forward_all);
    }

    fn a_rewritten_round_trip_allocates_nothing(io: Io) {
        trips_allocate_nothing(io, rewrite);
    }

    fn trips_allocate_nothing(io: Io, does: fn(&mut Flow<'_>) -> Result<Step, Fault>) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let gate = gate_that(io, echo(), does);
        let mut clients: Vec<_> = (0..8).map(|_| gate.connect()).collect();
        for client in &mut clients {
            for _ in 0..200 {
                trip(client, 100);
            }
        }
        // The sweeper's first round makes room for its list.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let before = ALLOCATIONS.load(SeqCst);
        for _ in 0..500 {
            for client in &mut clients {
                trip(client, 100);
            }
        }
        let during = ALLOCATIONS.load(SeqCst) - before;
        assert_eq!(during, 0, "allocations in 4,000 round trips");
        drop(clients);
        end(&gate);
    }

    fn a_gigabyte_passes_through_one_buffer(io: Io) {
        const TOTAL: usize = 1 << 30;
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let target = target(|mut stream| {
            let block = noise(1 << 20);
            for _ in 0..TOTAL / block.len() {
                stream.write_all(&block).unwrap();
            }
        });
        let gate = watched_gate(io, target);
        let before = LIVE.load(SeqCst);
        PEAK.store(before, SeqCst);
        let mut client = gate.connect();
        let mut buffer = vec![0; 256 << 10];
        let mut got = 0;
        while let n @ 1.. = client.read(&mut buffer).unwrap() {
            got += n;
        }
        let grown = PEAK.load(SeqCst) - before;
        assert_eq!(got, TOTAL);
        // One buffer of each size on the way up, and what the pool keeps of them.
        assert!(grown < 1 << 20, "{grown} bytes were held");
        end(&gate);
        println!("{io:?}: {grown} bytes at most while 1 GiB passed");
    }

    fn idle_connections_hold_no_buffer(io: Io) {
        const COUNT: usize = 2_000;
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let gate = watched_gate(io, lazy_target());
        let mut warm: Vec<_> = (0..64).map(|_| gate.connect()).collect();
        for client in &mut warm {
            trip(client, 1);
        }
        let before = LIVE.load(SeqCst);
        let mut clients: Vec<_> = (0..COUNT).map(|_| gate.connect()).collect();
        for client in &mut clients {
            trip(client, 1);
        }
        let each = (LIVE.load(SeqCst) - before) / COUNT as i64;
        println!("{io:?}: {each} bytes per idle connection after one round trip ({COUNT} open)");
        assert!(each < 4096, "{each} bytes per idle connection");
        drop(clients);
        drop(warm);
        gate.eventually(|s| s.open == 0);
        assert!(gate.engine.drain(std::time::Duration::from_secs(5)));
    }

    /// The next test counts from a quiet state.
    fn end(gate: &Gate) {
        gate.engine.kill_all();
        gate.engine.join();
    }

    /// Answers one byte on each connection and keeps it open, with no thread per connection once it has.
    fn lazy_target() -> Upstream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            let mut streams = listener.incoming();
            loop {
                let mut stream = streams.next().unwrap().unwrap();
                kept.push(stream.try_clone().unwrap());
                // A byte may take until all clients are connected: each is answered when its turn comes.
                std::thread::spawn(move || {
                    if stream.read_exact(&mut [0]).is_ok() {
                        stream.write_all(&[0]).unwrap();
                    }
                });
            }
        });
        Upstream { address }
    }
}
