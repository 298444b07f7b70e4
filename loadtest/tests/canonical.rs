//! The program without arguments, with whatever proxies are installed: it ends well, says what it compared, and leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A place for temporary folders that unprivileged servers may reach into.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    folder
}

/// Lockgate is left out: a half-built one beside us is not what is tested here.
fn canonical(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["--quick", "--seconds", "0.1", "--rows", "5000", "--nice", "0", "--without", "lockgate"]);
    command.args(arguments).env("TMPDIR", temporary);
    command
}

/// Processes that live in this folder: everything we start has its working directory there.
fn living_in(folder: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let inside =
        processes.filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)));
    inside.filter_map(|p| fs::read_to_string(p.path().join("cmdline")).ok()).collect()
}

fn nothing_left(folder: &Path) {
    assert_eq!(living_in(folder), Vec::<String>::new(), "still running");
    let left: Vec<_> = fs::read_dir(folder).expect("still ours").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn compares_what_is_installed_and_leaves_nothing() {
    let (temporary, reports) = (place(), place());
    let (json, html) = (reports.path().join("r.json"), reports.path().join("r.html"));
    let out = canonical(temporary.path(), &["--json"]).arg(&json).arg("--html").arg(&html).output();
    let out = out.expect("the program runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stdout));
    nothing_left(temporary.path());
    let report: Value = serde_json::from_slice(&fs::read(json).expect("written")).expect("JSON");
    let sections = report["sections"].as_array().expect("sections");
    let ids: Vec<&str> = sections.iter().filter_map(|s| s["id"].as_str()).collect();
    for id in ["simple-16", "prepared-16", "tls-16", "one-client", "bulk-stub", "churn", "idle"] {
        assert!(ids.contains(&id), "{id} is not among {ids:?}");
    }
    for section in sections {
        for line in section["lines"].as_array().expect("lines") {
            let measured = line["repetitions"].as_array().expect("repetitions");
            assert_eq!(measured.is_empty(), line["inapplicable"].is_string(), "{line}");
            let units = measured.iter().map(|m| m["units"].as_u64().unwrap_or(0));
            assert!(units.clone().all(|n| n > 0), "{line}");
        }
    }
    assert!(report["conditions"]["machine"].as_str().is_some_and(|m| m.contains("GiB")), "{report}");
    let page = fs::read_to_string(html).expect("written");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
}

#[test]
fn an_interrupt_ends_everything_it_started() {
    let temporary = place();
    let mut process = canonical(temporary.path(), &["--only", "simple", "--reps", "1000", "--no-postgres"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let began = Instant::now();
    while living_in(temporary.path()).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "it started nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("our own child");
    assert_eq!(process.wait().expect("our own child").code(), Some(1));
    nothing_left(temporary.path());
}
