//! What goes wrong in real life: clients vanish, targets die, readers are slow, cells are huge, configurations are broken, the
//! gateway itself is killed. Bounded memory, the right error, nothing hung, nothing unrecorded.
//!
//! `RUN_SLOW_TESTS=1` makes them larger: the 1 GB cell, more rounds of killing.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use crate::behaviour::RULES;
use crate::gateway::{BOTH, Gateway, Io, Settings};
use crate::servers;
use crate::wire::{Client, PATIENCE, message, query, read_message, tags};

fn slow() -> bool {
    std::env::var_os("RUN_SLOW_TESTS").is_some()
}

#[test]
fn a_huge_cell_passes_in_bounded_memory() {
    // PostgreSQL's own limit for one value is just under 1 GB.
    let bytes: usize = if slow() { 1_000_000_000 } else { 256 << 20 };
    for io in BOTH {
        let server = servers::postgres(18);
        let gateway = Gateway::start(Settings::new(io, server).rules(RULES));
        for user in ["raw", "raw_support"] {
            let mut client = Client::login(gateway.port, user, "postgres");
            let before = gateway.rss_kib();
            client.send(&query(&format!("select repeat('x', {bytes})")));
            let (mut seen, mut wrong) = (0_usize, 0_usize);
            let mut head = [0; 5];
            loop {
                client.stream.read_exact(&mut head).expect("a message");
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
                if head[0] == b'D' {
                    // Cell count and length, then the cell, piece by piece: we must not hold it either.
                    let mut start = [0; 6];
                    client.stream.read_exact(&mut start).expect("cell length");
                    let mut left = length - 6;
                    let mut buffer = vec![0; 256 << 10];
                    while left > 0 {
                        let want = left.min(buffer.len());
                        let n = client.stream.read(&mut buffer[..want]).expect("cell");
                        assert!(n > 0, "the stream ended {left} bytes early");
                        wrong += buffer[..n].iter().filter(|b| **b != b'x').count();
                        seen += n;
                        left -= n;
                    }
                } else {
                    let mut rest = vec![0; length];
                    client.stream.read_exact(&mut rest).expect("message");
                    assert_ne!(head[0], b'E', "{}", String::from_utf8_lossy(&rest));
                    if head[0] == b'Z' {
                        break;
                    }
                }
            }
            assert_eq!((seen, wrong), (bytes, 0), "{io:?}, {user}: the cell changed on its way");
            let grown = gateway.peak_kib().saturating_sub(before);
            assert!(grown < 32 * 1024, "{io:?}, {user}: {grown} KiB for one cell");
        }
        assert_eq!(Client::login(gateway.port, "raw", "postgres").value("select 1"), "1");
    }
}

#[test]
fn a_huge_masked_cell_is_never_held_whole() {
    let server = servers::postgres(15);
    let gateway = Gateway::start(Settings::new(Io::Uring, server).rules(RULES));
    let database = servers::database(server);
    server.sql(&database, "create table customers (id int, email text); insert into customers values (1, repeat('needle', 10000000))");
    let mut client = Client::login(gateway.port, "raw_support", &database);
    let before = gateway.rss_kib();
    let answer = client.query("select email, id from customers");
    let grown = gateway.peak_kib().saturating_sub(before);
    assert!(!answer.iter().any(|m| m.body.windows(6).any(|w| w == b"needle")), "LEAK");
    assert!(grown < 32 * 1024, "{grown} KiB to mask one cell of 60 MB");
    // Nor does the length of a long row tell that of a masked cell.
    for sql in [
        "select repeat('x', 2000000), email, id from customers",
        "select email, id, repeat('x', 2000000) from customers",
    ] {
        let row = client.query(sql).into_iter().find(|m| m.tag == 'D').expect("a row");
        assert!(
            row.body.len() < 2_000_100
                && row.body.ends_with(if sql.contains("id from") { b"1" } else { b"x" })
        );
    }
    assert_eq!(client.value("select 'usable'"), "usable");
}

#[test]
fn a_slow_reader_costs_little_and_disturbs_nobody() {
    for io in BOTH {
        let server = servers::postgres(15);
        let gateway = Gateway::start(Settings::new(io, server));
        let before = gateway.rss_kib();
        let rows = 300_000_usize;
        let mut slow: Vec<Client> = (0..4)
            .map(|_| {
                let mut client = Client::login(gateway.port, "raw", "postgres");
                client
                    .send(&query(&format!("select g, repeat('y', 1000) from generate_series(1, {rows}) g")));
                client
            })
            .collect();
        let mut other = Client::login(gateway.port, "raw", "postgres");
        let mut worst = Duration::ZERO;
        for _ in 0..100 {
            let began = Instant::now();
            assert_eq!(other.value("select 1"), "1");
            worst = worst.max(began.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        let grown = gateway.rss_kib().saturating_sub(before);
        assert!(grown < 4 * 16 * 1024, "{io:?}: {grown} KiB for four readers that do not read");
        assert!(worst < Duration::from_millis(1500), "{io:?}: another session waited {worst:?}");
        // Nothing was lost while it waited.
        let all = slow[0].until('Z');
        assert_eq!(all.iter().filter(|m| m.tag == 'D').count(), rows);
        assert_eq!(tags(&all), "T D C Z");
    }
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    for io in BOTH {
        let server = servers::postgres(15);
        let gateway = Gateway::start(Settings::new(io, server));
        let database = servers::database(server);
        let files = gateway.open_files();
        for statement in [
            "select 'idle'",
            "select pg_sleep(300)",
            "select g, repeat('z', 1000) from generate_series(1, 10000000) g",
            "begin; create table t (id int); insert into t values (1)",
            "copy (select 1) to stdout",
        ] {
            let mut client = Client::login(gateway.port, "raw", &database);
            client.send(&query(statement));
            std::thread::sleep(Duration::from_millis(200));
            drop(client); // no Terminate
        }
        server.eventually(
            "postgres",
            &format!("select count(*) from pg_stat_activity where datname = '{database}'"),
            "0",
            Duration::from_secs(5),
        );
        let began = Instant::now();
        while gateway.open_files() > files {
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{io:?}: {} files, {files} before",
                gateway.open_files()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_target_that_ends_a_session_is_believed() {
    for io in BOTH {
        let server = servers::postgres(18);
        let gateway = Gateway::shared(io, server);
        for statement in ["select pg_sleep(300)", "select g from generate_series(1, 100000000) g"] {
            let mut client = Client::login(gateway.port, "raw", "postgres");
            let pid = client.value("select pg_backend_pid()");
            client.send(&query(statement));
            std::thread::sleep(Duration::from_millis(200));
            server.sql("postgres", &format!("select pg_terminate_backend({pid})"));
            let began = Instant::now();
            let mut error = None;
            while let Ok(message) = client.try_next() {
                assert!(!matches!(message.tag, 'C' | 'Z'), "{io:?}: a truncated success");
                if message.tag == 'E' {
                    error = Some(message.field('C'));
                }
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{io:?}: took {:?}", began.elapsed());
            assert_eq!(error.as_deref(), Some("57P01"), "{io:?}, `{statement}`");
        }
    }
}

/// A target that logs everybody in and then does `then` with each connection, on a thread of its own.
fn stub(then: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if greet(&mut stream).is_ok() {
                then(stream);
            }
        }
    });
    port
}

/// Reads the startup packet, answers AuthenticationOk, a few parameters, a key, ReadyForQuery.
fn greet(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut packet = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    stream.read_exact(&mut packet)?;
    let mut answer = message(b'R', &[0; 4]);
    for (name, value) in [
        ("server_version", "15.0"),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("integer_datetimes", "on"),
    ] {
        answer.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    answer.extend(message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]));
    answer.extend(message(b'Z', b"I"));
    stream.write_all(&answer)
}

#[test]
fn a_target_that_dies_in_a_row_is_an_error_not_a_result() {
    for io in BOTH {
        let port = stub(|mut stream| {
            let mut buffer = [0; 1024];
            let _query = stream.read(&mut buffer);
            // A row description, one row, half of another, and gone.
            let mut half = message(b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
            half.extend(message(b'D', b"\0\x01\0\0\0\x03one"));
            half.extend(&message(b'D', b"\0\x01\0\0\0\x03two")[..8]);
            let _the_gateway_may_be_gone = stream.write_all(&half);
        });
        let gateway = Gateway::start(Settings::plain(io, port));
        let mut client = Client::login(gateway.port, "raw", "postgres");
        client.send(&query("select a"));
        let began = Instant::now();
        while let Ok(message) = client.try_next() {
            assert!(!matches!(message.tag, 'C' | 'Z'), "{io:?}: a truncated success: {message:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{io:?}: hung for {:?}", began.elapsed());
        // A target that is not there at all: told at login, at once.
        let gateway = Gateway::start(Settings::plain(io, servers::free_port()));
        let mut client = Client::connect(gateway.port);
        client.send(&crate::wire::startup(&[("user", "raw"), ("database", "postgres")]));
        let answer = client.until('Z');
        let error = answer.iter().find(|m| m.tag == 'E').expect("an error");
        assert!(error.field('C').starts_with("08"), "{error:?}");
    }
}

#[test]
fn five_thousand_idle_connections_cost_little() {
    const CLIENTS: usize = 5_000;
    // Both ends of ours and both of the gateway's are in two processes: two descriptors a client, each.
    let limit = servers::raise_file_limit();
    assert!(
        limit > 2 * CLIENTS + 500,
        "this test needs {} open files, the hard limit is {limit}",
        2 * CLIENTS + 500
    );
    for io in BOTH {
        let held = Arc::new(Mutex::new(Vec::new()));
        let keep = held.clone();
        let port = stub(move |stream| keep.lock().expect("no panic while held").push(stream));
        let gateway = Gateway::start(Settings::plain(io, port));
        let warm = Client::login(gateway.port, "raw", "postgres");
        let (rss, files) = (gateway.rss_kib(), gateway.open_files());
        let clients: Vec<Client> =
            (0..CLIENTS).map(|_| Client::login(gateway.port, "raw", "postgres")).collect();
        let each = gateway.rss_kib().saturating_sub(rss) as f64 / CLIENTS as f64;
        println!("{io:?}: {each:.1} KiB per idle connection");
        assert!(each < 24.0, "{io:?}: {each:.1} KiB per idle connection");
        let began = Instant::now();
        drop(Client::login(gateway.port, "raw", "postgres"));
        assert!(began.elapsed() < Duration::from_secs(5), "{io:?}: a login took {:?}", began.elapsed());
        drop((clients, warm));
        let began = Instant::now();
        while gateway.open_files() > files {
            // A machine whose disk is busy with a build takes a minute for what is half a second otherwise.
            assert!(
                began.elapsed() < Duration::from_secs(180),
                "{io:?}: {} files left",
                gateway.open_files()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        held.lock().expect("no panic while held").clear();
    }
}

#[test]
fn a_reload_under_load_lets_nothing_slip() {
    for io in BOTH {
        let server = servers::postgres(15);
        let mut gateway = Gateway::start(Settings::new(io, server).rules(RULES));
        let database = servers::database(server);
        server.sql(&database, "create table victims (id int)");
        let port = gateway.port;
        let (stop, probes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..6)
            .map(|_| {
                let (stop, probes, database) = (stop.clone(), probes.clone(), database.clone());
                std::thread::spawn(move || {
                    let mut client = Client::login(port, "raw_support", &database);
                    while !stop.load(Ordering::Relaxed) {
                        let refused = client.query("truncate victims");
                        assert_eq!(refused[0].field('C'), "42501", "passed during a reload");
                        assert_eq!(client.value("select 1"), "1");
                        probes.fetch_add(1, Ordering::Relaxed);
                        // Without a pause two of the six keep both processors to themselves: the kernel was seen (6.18, autogroups,
                        // a backend being a group of its own) to leave the others' backends, ready to run, waiting for a minute.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                })
            })
            .collect();
        let more = format!(
            "{RULES}  - name: another\n    on: {{connection: \"*\", statements: [grant]}}\n    block: no GRANT\n"
        );
        for round in 0..30 {
            match round % 10 {
                // Broken on purpose: the old policy must stay.
                7 => gateway.reload("  - {name: broken, on: {conn"),
                n if n % 2 == 0 => gateway.reload(&more),
                _ => gateway.reload(RULES),
            }
            std::thread::sleep(Duration::from_millis(40));
        }
        gateway.reload(&more);
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no probe failed");
        }
        assert!(probes.load(Ordering::Relaxed) > 100, "hardly any probes: {probes:?}");
        let mut client = Client::login(port, "raw_support", &database);
        let refused = client.query("grant select on victims to public");
        assert_eq!(
            refused[0].field('n'),
            "another",
            "{io:?}: the last reload is not in force:\n{}",
            gateway.log()
        );
    }
}

#[test]
fn a_term_signal_drains() {
    for io in BOTH {
        let server = servers::postgres(15);
        let mut gateway = Gateway::start(Settings::new(io, server).more(", drain: 20s"));
        let mut idle = Client::login(gateway.port, "raw", "postgres");
        let mut busy = Client::login(gateway.port, "raw", "postgres");
        busy.send(&query("select pg_sleep(1.5), 'finished'"));
        std::thread::sleep(Duration::from_millis(200));
        gateway.signal("TERM");
        let began = Instant::now();
        assert_eq!(idle.next().field('C'), "57P01", "{io:?}: an idle client is told why");
        assert!(began.elapsed() < Duration::from_secs(1), "{io:?}: and at once");
        let answer = busy.until('Z');
        assert!(answer.iter().any(|m| m.body.windows(8).any(|w| w == b"finished")), "{io:?}: {answer:?}");
        let status = gateway.exit(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{io:?}:\n{}", gateway.log());
        assert!(TcpStream::connect(("127.0.0.1", gateway.port)).is_err(), "{io:?}: still listening");
    }
}

#[test]
fn nothing_reaches_the_database_that_is_not_in_the_record() {
    let rounds = if slow() { 100 } else { 6 };
    for io in BOTH {
        let server = servers::postgres(15);
        let database = servers::database(server);
        server.sql(&database, "create table nonces (nonce text)");
        let mut gateway = Gateway::start(Settings::new(io, server));
        for round in 0..rounds {
            let port = gateway.port;
            let everybody_is_in = Arc::new(Barrier::new(17));
            let threads: Vec<_> = (0..16)
                .map(|n| {
                    let (database, everybody_is_in) = (database.clone(), everybody_is_in.clone());
                    std::thread::spawn(move || {
                        let mut client = Client::login(port, "raw", &database);
                        everybody_is_in.wait();
                        for i in 0.. {
                            let sql = query(&format!("insert into nonces values ('nonce-{round}-{n}-{i}-')"));
                            // It is about to be killed under us: any failure ends the thread.
                            if client.stream.write_all(&sql).is_err() {
                                return;
                            }
                            loop {
                                match read_message(&mut client.stream) {
                                    Ok(m) if m.tag == 'Z' => break,
                                    Ok(_) => {}
                                    Err(_) => return,
                                }
                            }
                        }
                    })
                })
                .collect();
            everybody_is_in.wait();
            std::thread::sleep(Duration::from_millis(400 + 37 * round));
            gateway.kill();
            for thread in threads {
                thread.join().expect("no login failed");
            }
            let sessions = format!(
                "select count(*) from pg_stat_activity where datname = '{database}' and pid <> pg_backend_pid()"
            );
            server.eventually(&database, &sessions, "0", Duration::from_secs(10));
            let record = gateway.record();
            let stored = server
                .sql(&database, &format!("select nonce from nonces where nonce like 'nonce-{round}-%'"));
            let stored: BTreeSet<&str> = stored.lines().collect();
            assert!(
                stored.len() > 50,
                "{io:?}, round {round}: hardly anything was inserted: {}",
                stored.len()
            );
            // One pass over the record: every nonce it names.
            let recorded: BTreeSet<&str> = record
                .match_indices("nonce-")
                .filter_map(|(at, _)| record[at..].split('\'').next())
                .collect();
            let missing: Vec<_> = stored.difference(&recorded).collect();
            assert!(missing.is_empty(), "{io:?}, round {round}: executed but not recorded: {missing:?}");
            let began = Instant::now();
            gateway.restart();
            assert!(began.elapsed() < Duration::from_secs(2), "{io:?}: ready after {:?}", began.elapsed());
            let verify = std::process::Command::new(crate::gateway::binary())
                .args(["record", "verify", "--state"])
                .arg(gateway.state())
                .output()
                .expect("start lockgate record verify");
            assert!(
                verify.status.success(),
                "{io:?}, round {round}: {}",
                String::from_utf8_lossy(&verify.stderr)
            );
        }
    }
}
