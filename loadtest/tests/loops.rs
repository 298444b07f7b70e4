//! The whole program against its own stub: every mode, both loops, every login, with and without TLS.
//!
//! Black box like the program itself: what is checked is the JSON it writes and the code it ends with.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

struct Stub {
    process: Child,
    address: String,
}

impl Stub {
    fn start(arguments: &[&str]) -> Stub {
        let mut process = Command::new(LOADTEST)
            .arg("stub")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        Stub { process, address: line.trim().to_owned() }
    }

    fn url(&self, options: &str) -> String {
        format!("stub=postgres://bench:bench@{}/bench{options}@{}", self.address, self.process.id())
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
    }
}

fn loadtest(arguments: &[&str]) -> Output {
    Command::new(LOADTEST).args(arguments).env_remove("PGPASSWORD").output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The first target's first repetition, after a run that must have gone well.
fn measured(arguments: &[&str]) -> Value {
    let json = tempfile::NamedTempFile::new().expect("temporary file");
    let path = json.path().to_str().expect("UTF-8");
    let out = loadtest(&[&["run", "--reps", "1", "--json", path], arguments].concat());
    assert!(out.status.success(), "{arguments:?}: {}{}", text(&out.stdout), text(&out.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(path).expect("written")).expect("JSON");
    report.pointer("/sections/0/lines/0/repetitions/0").expect("one measurement").clone()
}

fn number(measured: &Value, path: &str) -> f64 {
    let found = measured.pointer(path).and_then(Value::as_f64);
    assert!(found.is_some(), "{path} in {measured}");
    found.expect("just asserted")
}

const SHORT: [&str; 4] = ["--seconds", "0.3", "--warm", "0.05"];

#[test]
fn every_way_of_asking_is_answered_plain_and_over_tls() {
    let stub = Stub::start(&["--tls"]);
    for options in ["", "?sslmode=require"] {
        for mode in ["simple", "extended", "prepared", "pipelined", "churn"] {
            let url = stub.url(options);
            let sql = "select abalance from pgbench_accounts where aid = {1-1000}";
            let m = measured(
                &[&SHORT[..], &["--mode", mode, "--clients", "4", "--sql", sql, "--target", &url]].concat(),
            );
            assert!(number(&m, "/answered") > 20.0, "{mode}{options}: {m}");
            assert_eq!(m["answered"], m["units"], "{mode}{options}");
            assert_eq!((&m["failed"], &m["unanswered"]), (&0.into(), &0.into()), "{mode}{options}: {m}");
            let (p50, max) = (number(&m, "/latency/p50_us"), number(&m, "/latency/max_us"));
            assert!(p50 > 1.0 && p50 <= max, "{mode}{options}: {m}");
            assert!(number(&m, "/cpu_us") > 0.1, "{mode}{options}: {m}");
        }
    }
}

#[test]
fn rows_and_bytes_are_counted_whole() {
    let stub = Stub::start(&["--tls", "--rows", "20000"]);
    for options in ["", "?sslmode=require"] {
        for (mode, sql) in [("bulk", "select * from customers"), ("copy", "copy customers to stdout")] {
            let (url, requests) = (stub.url(options), ["--requests", "3", "--clients", "1"]);
            let m = measured(&[&requests[..], &["--mode", mode, "--sql", sql, "--target", &url]].concat());
            assert_eq!(
                (&m["rows"], &m["units"], &m["answered"]),
                (&60_000.into(), &60_000.into(), &3.into())
            );
            let per_row = number(&m, "/bytes") / 60_000.0;
            assert!((150.0..300.0).contains(&per_row), "{mode}{options}: {per_row} bytes a row");
        }
    }
}

#[test]
fn an_open_loop_asks_at_its_rate_whatever_the_number_of_threads() {
    let stub = Stub::start(&[]);
    for threads in ["1", "3"] {
        let pace =
            ["--rate", "500", "--seconds", "1", "--warm", "0.1", "--clients", "6", "--threads", threads];
        let m = measured(&[&pace[..], &["--target", &stub.url("")]].concat());
        let per_second = number(&m, "/per_second");
        assert!((450.0..550.0).contains(&per_second), "{threads} threads: {m}");
    }
}

#[test]
fn a_herd_is_held_and_its_memory_read() {
    // More than the files a shell usually allows: the program takes what it may.
    let stub = Stub::start(&[]);
    let m = measured(&["--mode", "idle", "--clients", "1500", "--target", &stub.url("")]);
    assert_eq!(m["units"], 1500);
    // A connection has buffers, so it is not for nothing; and it is not a process.
    let kb = number(&m, "/memory/rss_kb_per_connection");
    assert!((0.01..200.0).contains(&kb), "{m}");
}

#[test]
fn every_login_lets_in_who_knows_the_password_only() {
    for method in ["trust", "password", "md5", "scram"] {
        let stub = Stub::start(&["--auth", method, "--password", "p@ss word"]);
        let right = stub.url("").replace("bench:bench", "bench:p%40ss%20word");
        let m = measured(&["--requests", "8", "--clients", "2", "--mode", "churn", "--target", &right]);
        assert_eq!(m["answered"], 8, "{method}: {m}");
        let out = loadtest(&["run", "--requests", "1", "--target", &stub.url("")]);
        assert_eq!(out.status.success(), method == "trust", "{method}: {}", text(&out.stderr));
        if method != "trust" {
            assert!(text(&out.stderr).contains("login refused: 28P01"), "{method}: {}", text(&out.stderr));
        }
    }
}

#[test]
fn statements_of_a_file_are_mixed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (answers, statements) = (folder.path().join("answers"), folder.path().join("statements"));
    let lines = "{\"text\": \"select 1\", \"columns\": [\"a\"], \"rows\": [[\"1\"]]}\n\
                 {\"text\": \"select 3\", \"columns\": [\"a\"], \"rows\": [[\"1\"], [\"2\"], [null]]}\n";
    std::fs::write(&answers, lines).expect("written");
    std::fs::write(&statements, "select 1\n-- not this\nselect 3\n").expect("written");
    let stub = Stub::start(&["--answers", answers.to_str().expect("UTF-8")]);
    for mode in ["simple", "prepared"] {
        let file = ["--file", statements.to_str().expect("UTF-8"), "--requests", "400", "--mode", mode];
        let m = measured(&[&file[..], &["--target", &stub.url("")]].concat());
        // One or three rows each, by chance: neither all of one nor all of the other.
        let rows = number(&m, "/rows");
        assert!((600.0..1000.0).contains(&rows), "{mode}: {m}");
    }
}

#[test]
fn a_recorded_answer_is_replayed_byte_for_byte() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (first, second) = (path("first"), path("second"));
    let record = |stub: &Stub, file: &str, options: &str| {
        let target = stub.url(options);
        let out =
            loadtest(&["record-answer", "--target", &target, "--sql", "select * from customers", "-o", file]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        std::fs::read(file).expect("written")
    };
    let original = record(&Stub::start(&["--rows", "3000"]), &first, "");
    assert_eq!((original[0], &original[original.len() - 6..]), (b'T', &b"Z\0\0\0\x05I"[..]));
    let replay = format!("customers={first}");
    let again = record(&Stub::start(&["--tls", "--replay", &replay]), &second, "?sslmode=require");
    assert!(original == again, "{} and {} bytes", original.len(), again.len());
}

#[test]
fn what_fails_is_said_and_changes_the_exit_code() {
    let out = loadtest(&["run", "--target", "gate=postgres://u:secret@127.0.0.1:1/d"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("target gate") && said.contains("refused") && !said.contains("secret"), "{said}");
    assert_eq!(loadtest(&["run"]).status.code(), Some(2));
    assert_eq!(loadtest(&["run", "--mode", "fast", "--target", "a=postgres://h/d"]).status.code(), Some(2));
    for wrong in [
        ["--rate", "0"].as_slice(),
        &["--clients", "0"],
        &["--mode", "bulk"],
        &["--baseline", "b"],
        &["--sql", ""],
    ] {
        let out = loadtest(&[&["run", "--target", "a=postgres://127.0.0.1:1/d"], wrong].concat());
        let said = text(&out.stderr);
        assert_eq!(
            (out.status.code(), said.lines().filter(|l| !l.starts_with("rep")).count()),
            (Some(1), 1),
            "{said}"
        );
    }
}
