//! The demo as people start it: the tour must hold every claim it makes, and a demo that waits must be
//! reachable by `lockgate sql` and end when told to. Both run the built binary in a directory of their own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and so do its helpers")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LOCKGATE: &str = env!("CARGO_BIN_EXE_lockgate");

fn lockgate(args: &[&str]) -> Command {
    let mut command = Command::new(LOCKGATE);
    command.args(args).env_remove("PGPASSWORD").env_remove("LOCKGATE_CONFIG").env_remove("LOCKGATE_LOG");
    command
}

/// Waits for the end, but not for ever.
fn wait(child: &mut Child, within: Duration) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > within {
            child.kill().unwrap();
            panic!("still running after {within:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Plays the tour in a directory; what it printed, and what it complained of.
fn tour(home: &std::path::Path) -> (String, String) {
    let mut child = lockgate(&["demo", "--tour", "--dir"])
        .arg(home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reader = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            from.read_to_string(&mut text).map(|_| text)
        })
    };
    let out = reader(Box::new(child.stdout.take().unwrap()));
    let err = reader(Box::new(child.stderr.take().unwrap()));
    let status = wait(&mut child, Duration::from_secs(120));
    let (out, err) = (out.join().unwrap().unwrap(), err.join().unwrap().unwrap());
    assert!(status.success(), "{status}\n{out}{err}");
    (out, err)
}

#[test]
fn the_tour_ends_by_itself_and_every_claim_holds() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let (text, _) = tour(&home);
    assert!(text.contains("10 steps, ") && text.contains(" claims, all of them hold."), "{text}");
    assert!(!text.contains('✗'), "{text}");
    // Another lockgate's record is in the way of the next one: kept, and said so. Bytes 8 to 12 of a segment are its version.
    let segment = "record/log/00000001.lgr";
    let mut other = std::fs::read(home.join(segment)).unwrap();
    *other.get_mut(8).unwrap() = 1;
    std::fs::write(home.join(segment), &other).unwrap();
    let (text, complaint) = tour(&home);
    assert!(text.contains("all of them hold."), "{text}");
    let aside = complaint.trim().strip_prefix("The record of an earlier lockgate was moved to ").unwrap();
    let kept = std::path::Path::new(aside.trim_end_matches('.')).join("log/00000001.lgr");
    assert_eq!(std::fs::read(kept).unwrap(), other);
}

#[test]
fn a_demo_answers_lockgate_sql_and_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let mut demo = lockgate(&["demo", "--json", "--dir"])
        .arg(&home)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    let facts: serde_json::Value = loop {
        let mut line = String::new();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ended before it was ready");
        if line.starts_with('{') {
            break serde_json::from_str(&line).unwrap();
        }
    };
    let sql = |user: &str, text: &str| {
        let output =
            lockgate(&["sql", "shop", "--as", user, "-c", text, "--demo-dir"]).arg(&home).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };

    const CARD: &str = "select card_number from payments where id = 80001";
    let (well, masked, error) = sql("ana", CARD);
    assert!(well && masked.contains("************1319"), "{masked}{error}");
    let (well, clear, error) = sql("bo", CARD);
    assert!(well && clear.contains("4111111111111319"), "{clear}{error}");
    let (well, masked, error) = sql("agent:demo", CARD);
    assert!(well && masked.contains("************1319"), "{masked}{error}");
    let (well, _, error) = sql("ana", "drop table payments");
    assert!(!well && error.contains("DETAIL:") && error.contains("HINT:"), "{error}");
    let wrong = lockgate(&["sql", "shop", "--as", "ana", "-c", "select 1", "--demo-dir"])
        .arg(&home)
        .env("PGPASSWORD", "wrong")
        .output()
        .unwrap();
    assert!(
        !wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("authentication failed")
    );

    // A second one finds other ports, and a directory is for one demo at a time.
    let second = lockgate(&["demo", "--json", "--dir"]).arg(&home).output().unwrap();
    assert!(
        !second.status.success() && String::from_utf8_lossy(&second.stderr).contains("another demo runs")
    );

    assert!(std::path::Path::new(facts["record"].as_str().unwrap()).is_dir(), "the record is where it says");
    assert_eq!(u64::from(demo.id()), facts["pid"]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = wait(&mut demo, Duration::from_secs(10));
    assert!(status.success(), "{status}");
    let (well, _, error) = sql("ana", "select 1");
    assert!(!well && error.contains("no demo is running"), "{error}");
}
