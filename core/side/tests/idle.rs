//! What the side path costs while nothing happens. A process of its own, so that nobody else's threads count.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use flow::access::{DenyDetail, Directory, Limits};
use flow::record::{Entry, How, Outcome, Statement, Values, Verdict, What};
use side::record::{Ledger, Options};
use side::{Side, SideSettings};

/// Nanoseconds on a processor of this process's threads, by name (`/proc/thread-self/schedstat`, first field).
fn on_processor() -> HashMap<String, u64> {
    let mut out = HashMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
        let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
        *out.entry(name).or_default() += stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    out
}

#[test]
fn an_idle_side_path_takes_no_processor_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), 16, Options::default()).unwrap();
    ledger.gateway_event("start", "").unwrap();
    let published = Arc::new(ArcSwap::from_pointee(Directory {
        identities: HashMap::new(),
        connections: HashMap::new(),
        any: None,
        policy: Arc::default(),
        deny_detail: DenyDetail::Full,
        mock_seed: [0; 32],
        limits: Limits { login_ms: 1, idle_ms: 0, clients_max: 1 },
    }));
    let settings = SideSettings { published, fixed: HashMap::new(), refresh: Duration::from_secs(30) };
    let side = Side::start(settings).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let before = on_processor();
    std::thread::sleep(Duration::from_secs(3));
    let after = on_processor();
    for name in ["lg-record", "lg-side"] {
        let spent = Duration::from_nanos(after.get(name).unwrap() - before.get(name).unwrap());
        println!("{name}: {spent:?} in 3 s");
        // A thousandth, in a debug build.
        assert!(spent < Duration::from_millis(3), "{name}: {spent:?}");
    }
    side.stop();
    ledger.close().unwrap();
}

/// What recording takes of the processor beside the workers, at a rate. `cargo test --release -p side --test idle -- --ignored --nocapture`
/// prints it per statement; a number to look at.
#[test]
#[ignore = "a measurement of some seconds"]
fn what_the_writer_takes_per_statement() {
    for (per_second, seconds) in [(100_u64, 5_u64), (80_000, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 1, Options::default()).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        let text = b"SELECT id, name, balance FROM customers WHERE id = 4711";
        let before = on_processor();
        let start = std::time::Instant::now();
        let mut said = 0;
        while said < per_second * seconds {
            let due = start.elapsed().as_micros() as u64 * per_second / 1_000_000;
            while said < due {
                // As a session does.
                while !recorder.has_room(text.len()) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                said += 1;
                let statement = What::Statement(Statement {
                    number: said,
                    how: How::Query,
                    of: 0,
                    text,
                    length: text.len() as u64,
                    parameters: Values::default(),
                    verdict: Verdict::Allow,
                    rules: "",
                    policy: "3f1c9a7b01d2",
                });
                let outcome =
                    Outcome { number: said, rows: 1, bytes: 200, masked_cells: 0, sqlstate: "", micros: 90 };
                for what in [statement, What::Outcome(outcome)] {
                    let appended = recorder.append(&Entry { session: [7; 16], unix_ns: said, what });
                    assert!(appended.is_ok(), "{:?}", ledger.health());
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(500));
        let after = on_processor();
        for name in ["lg-record", "lg-sync"] {
            // A thread that has just begun has no name yet.
            let spent = after.get(name).unwrap() - before.get(name).copied().unwrap_or(0);
            println!("{per_second} a second: {name} {} ns per statement", spent / said);
        }
        drop(recorder);
        ledger.close().unwrap();
    }
}
