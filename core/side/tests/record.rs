//! The record from outside: many workers at once, a reader beside the writer, `kill -9`, and what an append costs.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flow::record::{Entry, How, Statement, Values, Verdict, What};
use side::record::read::{Reader, Sessions, session, verify};
use side::record::{Ledger, Options};

fn statement(worker: u8, n: u64, text: &[u8]) -> Entry<'_> {
    Entry {
        session: [worker; 16],
        unix_ns: n,
        what: What::Statement(Statement {
            number: n,
            how: How::Query,
            of: 0,
            text,
            length: text.len() as u64,
            parameters: Values::default(),
            verdict: Verdict::Allow,
            rules: "",
            policy: "3f1c",
        }),
    }
}

/// The statement numbers of each worker in the order of the record.
fn numbers(state: &Path, workers: usize) -> Vec<Vec<u64>> {
    let mut out = vec![Vec::new(); workers];
    let mut last = 0;
    for recorded in Reader::open(state).unwrap() {
        let recorded = recorded.unwrap();
        assert_eq!(recorded.seq, last + 1, "a hole in the record");
        last = recorded.seq;
        let entry = recorded.entry().unwrap();
        if let What::Statement(s) = entry.what {
            let worker = usize::from(entry.session[0]);
            // The text tells its own length and content.
            assert!(s.text.iter().all(|b| *b == (s.number % 251) as u8) && s.length == s.text.len() as u64);
            out[worker].push(s.number);
        }
    }
    out
}

fn text(n: u64) -> Vec<u8> {
    let len = match n % 50 {
        0 => 9000,
        1 => 0,
        m => m * 17,
    };
    vec![(n % 251) as u8; usize::try_from(len).unwrap()]
}

#[test]
fn many_workers_and_a_reader_beside_them() {
    const EACH: u64 = 40_000;
    let dir = tempfile::tempdir().unwrap();
    // Small, so that they are full time and again, wrap thousands of times, and segments rotate.
    let options = Options {
        ring_bytes: 64 << 10,
        segment_bytes: 1 << 20,
        full_wait: Duration::from_secs(20),
        ..Options::default()
    };
    let ledger = Ledger::open(dir.path(), 3, options).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|worker| {
                let mut recorder = ledger.recorder(worker).unwrap();
                scope.spawn(move || {
                    for n in 1..=EACH {
                        recorder.append(&statement(worker as u8, n, &text(n))).unwrap();
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                for seen in numbers(dir.path(), 3) {
                    assert!(seen.iter().copied().eq(1..=seen.len() as u64), "a hole, a double or disorder");
                }
                looks += 1;
            }
            looks
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 3);
    });
    for seen in numbers(dir.path(), 3) {
        assert!(seen.iter().copied().eq(1..=EACH));
    }
    ledger.close().unwrap();
    for seen in numbers(dir.path(), 3) {
        assert!(seen.iter().copied().eq(1..=EACH));
    }
    let verified = verify(dir.path()).unwrap();
    assert_eq!((verified.first, verified.last), (1, 3 * EACH));
    assert!(verified.segments > 10);
}

#[test]
fn an_entry_can_be_read_the_moment_append_returns() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), 1, Options::default()).unwrap();
    let mut recorder = ledger.recorder(0).unwrap();
    for n in 1..=300 {
        recorder.append(&statement(0, n, &text(n))).unwrap();
        assert_eq!(numbers(dir.path(), 1)[0].last(), Some(&n));
    }
}

#[test]
fn sessions_are_found_by_the_end_of_their_id_and_executions_told_with_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), 1, Options::default()).unwrap();
    let mut recorder = ledger.recorder(0).unwrap();
    let ids = ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5GAV"];
    for id in ids {
        let id = side::ids::parse_session(id).unwrap();
        let mut append = |unix_ns, what| recorder.append(&Entry { session: id, unix_ns, what }).unwrap();
        append(
            1,
            What::Opened {
                identity: "ana",
                groups: "support",
                connection: "shop",
                database: "app",
                protocol: "postgres",
                client: "127.0.0.1:5",
                application: "psql",
                tls: false,
                policy: "1",
            },
        );
        let base = |number, how, of, text, verdict| {
            What::Statement(Statement {
                number,
                how,
                of,
                text,
                length: 0,
                parameters: Values::default(),
                verdict,
                rules: "",
                policy: "",
            })
        };
        append(2, base(1, How::Parse, 0, b"select $1", Verdict::Mask));
        append(3, base(2, How::Execute, 1, b"", Verdict::Mask));
        append(4, base(3, How::Query, 0, b"drop table x", Verdict::Block));
        append(5, What::Closed { reason: "client", statements: 3, from_client: 0, to_client: 0 });
    }
    let sessions = Sessions::scan(dir.path()).unwrap();
    assert_eq!(sessions.lines.len(), 2);
    let line = sessions.find("g5fav").unwrap();
    assert_eq!((line.id.as_str(), line.identity.as_str(), line.statements), (ids[0], "ana", 2));
    assert_eq!((line.blocked, line.masked, line.closed_ns), (1, 1, Some(5)));
    assert_eq!(sessions.find("last").unwrap().id, ids[1]);
    assert_eq!(sessions.find("q69g5gav-3").unwrap().id, ids[1]);
    assert!(sessions.find("AV").is_err() && sessions.find("nothing").is_err() && sessions.find("").is_err());
    let (_, told) = session(dir.path(), "5FAV").unwrap();
    let texts: Vec<_> = told.iter().map(|t| t.prepared.as_deref()).collect();
    assert_eq!(texts, [None, None, Some(&b"select $1"[..]), None, None]);
}

/// Runs in a process of its own, started and killed by the test below.
#[test]
#[ignore = "started by kill_nine_loses_nothing"]
fn child_that_appends_until_killed() {
    let Ok(state) = std::env::var("LG_TEST_STATE") else { return };
    let options = Options { ring_bytes: 1 << 20, full_wait: Duration::from_secs(20), ..Options::default() };
    let ledger = Ledger::open(Path::new(&state), 2, options).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let mut recorder = ledger.recorder(worker).unwrap();
            let first = std::env::var("LG_TEST_FIRST").unwrap().parse::<u64>().unwrap();
            scope.spawn(move || {
                for n in first.. {
                    recorder.append(&statement(worker as u8, n, &text(n))).unwrap();
                    // One write, after the append returned: what the parent can read was recorded.
                    println!("at {worker} {n}");
                }
            });
        }
    });
}

#[test]
fn kill_nine_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = [1_u64; 2];
    for round in 0..8_u64 {
        let first = next[0].max(next[1]);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_appends_until_killed", "--ignored", "--nocapture"])
            .env("LG_TEST_STATE", dir.path())
            .env("LG_TEST_FIRST", first.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = [0_u64; 2];
        let start = Instant::now();
        // Different moments of the drainer's round.
        let life = Duration::from_millis(60 + round * 23);
        let mut killed = false;
        for line in &mut lines {
            let line = line.unwrap();
            if let Some((worker, n)) = line.strip_prefix("at ").and_then(|l| l.split_once(' ')) {
                last[worker.parse::<usize>().unwrap()] = n.parse().unwrap();
            }
            if !killed && last.iter().all(|l| *l > 0) && start.elapsed() > life {
                // SIGKILL.
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(!child.wait().unwrap().success() && killed);
        assert!(last.iter().all(|l| *l >= first), "{last:?}");
        // Dead, and nobody has opened it again: the reader has all of them.
        for (worker, seen) in numbers(dir.path(), 2).into_iter().enumerate() {
            let newest = *seen.last().unwrap();
            // The last append may have returned without its number being told.
            assert!(newest >= last[worker], "round {round}: {newest} < {}", last[worker]);
            let from = seen.iter().position(|n| *n == first).unwrap();
            assert!(seen[from..].iter().copied().eq(first..=newest), "round {round}: holes or doubles");
            assert!(seen.windows(2).all(|w| w[0] < w[1]), "round {round}: doubles or disorder");
            next[worker] = newest + 1;
        }
    }
    let before = numbers(dir.path(), 2);
    Ledger::open(dir.path(), 1, Options::default()).unwrap().close().unwrap();
    assert_eq!(numbers(dir.path(), 2), before);
    verify(dir.path()).unwrap();
}

/// A number to look at, with a bound that only something broken would cross (debug builds and busy machines included).
#[test]
fn what_an_append_costs() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), 1, Options::default()).unwrap();
    let mut recorder = ledger.recorder(0).unwrap();
    let text = [b'x'; 200];
    let mut best = f64::MAX;
    let mut whole = 0.0;
    for _ in 0..100 {
        let start = Instant::now();
        for n in 0..1000 {
            recorder.append(&statement(0, n, &text)).unwrap();
        }
        let ns = start.elapsed().as_nanos() as f64 / 1000.0;
        best = best.min(ns);
        whole += ns;
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("append of a 200-byte statement: best {best:.0} ns, mean {:.0} ns", whole / 100.0);
    assert!(best < 5000.0);
}

/// `unshare -m sh -c 'mount -t tmpfs -o size=6m none DIR; LG_TEST_SMALL_FS=DIR cargo test -p side -- --ignored a_disk_that_is_full'`
#[test]
#[ignore = "needs an empty file system of 6 MiB in LG_TEST_SMALL_FS"]
fn a_disk_that_is_full_is_an_error_at_the_start_and_a_refusal_later() {
    let place = std::env::var("LG_TEST_SMALL_FS").unwrap();
    let state = Path::new(&place);
    // Somebody else's file, removed when room is wanted.
    std::fs::write(state.join("filler"), vec![0; 2 << 20]).unwrap();
    // Two rings of 8 MiB have no room.
    let refused = Ledger::open(state, 1, Options::default()).err().unwrap().to_string();
    assert!(refused.contains("allocate") && refused.contains("No space left"), "{refused}");
    let options = Options { ring_bytes: 1 << 20, ..Options::default() };
    let ledger = Ledger::open(state, 1, options.clone()).unwrap();
    let mut recorder = ledger.recorder(0).unwrap();
    let mut n = 0;
    while recorder.append(&statement(0, n + 1, &text(n + 1))).is_ok() {
        n += 1;
    }
    assert!(ledger.health().broken.is_some(), "{:?}", ledger.health());
    assert!(n > 1000 && numbers(state, 1)[0].iter().copied().eq(1..=n));
    // Killed here, nothing is lost; full, nothing can be mended: the next start says so and leaves everything as it is.
    drop(recorder);
    assert!(ledger.close().is_err());
    drop(ledger);
    assert!(numbers(state, 1)[0].iter().copied().eq(1..=n));
    assert!(Ledger::open(state, 1, options.clone()).is_err());
    assert!(numbers(state, 1)[0].iter().copied().eq(1..=n));
    std::fs::remove_file(state.join("filler")).unwrap();
    Ledger::open(state, 1, options).unwrap().close().unwrap();
    assert!(numbers(state, 1)[0].iter().copied().eq(1..=n));
    verify(state).unwrap();
}

#[test]
#[ignore = "a measurement: how fast the drainer takes bulk (COPY FROM STDIN) away"]
fn what_bulk_costs() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let ledger = Ledger::open(dir.path(), 1, options).unwrap();
    let mut recorder = ledger.recorder(0).unwrap();
    let bytes = vec![b'x'; 64 << 10];
    let start = Instant::now();
    for n in 0..8192_u64 {
        let what = What::Data { number: 1, bytes: &bytes, total: n };
        recorder.append(&Entry { session: [0; 16], unix_ns: n, what }).unwrap();
    }
    println!("512 MiB of data recorded at {:.0} MiB/s", 512.0 / start.elapsed().as_secs_f64());
}
