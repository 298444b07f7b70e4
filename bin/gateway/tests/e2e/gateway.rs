//! A running `lockgate`, configured the way an operator would: by a file, an environment and nothing else.
//!
//! Invariant: a gateway dies with its [`Gateway`] (or with this process), and its whole output is kept for the assertions.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use crate::servers::{self, PASSWORD, RUN, Server, UPSTREAM_PASSWORD, connection_env, tls_files};

/// A token identity `agent` may use instead of a password.
pub(crate) const TOKEN: &str = "agent-token-e2e-9f31c7";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Io {
    Uring,
    Epoll,
}

pub(crate) const BOTH: [Io; 2] = [Io::Uring, Io::Epoll];

impl Io {
    fn key(self) -> &'static str {
        match self {
            Io::Uring => "io_uring",
            Io::Epoll => "epoll",
        }
    }
}

/// What varies between gateways; the rest of the configuration is below.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) io: Io,
    pub(crate) workers: u32,
    /// Port of the target on loopback.
    pub(crate) target: u16,
    /// Query part of the target's URL.
    pub(crate) sslmode: String,
    /// More keys of `gateway:`.
    pub(crate) more: String,
    /// YAML list items below `rules:`.
    pub(crate) rules: String,
}

impl Settings {
    /// In front of `server`, TLS verified in full.
    pub(crate) fn new(io: Io, server: &Server) -> Settings {
        Settings {
            io,
            workers: 2,
            target: server.port,
            sslmode: verify_full(),
            more: String::new(),
            rules: String::new(),
        }
    }

    /// In front of something on loopback that speaks no TLS.
    pub(crate) fn plain(io: Io, port: u16) -> Settings {
        let sslmode = "sslmode=disable".to_owned();
        Settings { io, workers: 2, target: port, sslmode, more: String::new(), rules: String::new() }
    }

    pub(crate) fn rules(mut self, rules: &str) -> Settings {
        self.rules = rules.to_owned();
        self
    }

    pub(crate) fn more(mut self, more: &str) -> Settings {
        self.more = more.to_owned();
        self
    }

    fn yaml(&self, port: u16) -> String {
        let Settings { io, workers, target, sslmode, more, rules } = self;
        let files = tls_files();
        let (cert, key, io) = (files.cert.display(), files.key.display(), io.key());
        let rules = if rules.is_empty() { "[]".to_owned() } else { format!("\n{rules}") };
        format!(
            "version: 1\n\
             gateway: {{workers: {workers}, io: {io}, state: ./state{more}}}\n\
             listeners:\n  - {{protocol: postgres, bind: \"127.0.0.1:{port}\", tls: {{cert: {cert}, key: {key}}}}}\n\
             identities:\n\
             \x20 - {{name: app, password: {{from: env, name: E2E_PASSWORD}}}}\n\
             \x20 - {{name: ana, groups: [support], password: {{from: env, name: E2E_PASSWORD}}}}\n\
             \x20 - {{name: agent, groups: [support], tokens: [{{from: env, name: E2E_TOKEN}}]}}\n\
             \x20 - {{name: raw, auth: trust}}\n\
             \x20 - {{name: raw_support, groups: [support], auth: trust}}\n\
             connections:\n\
             \x20 - name: \"*\"\n\
             \x20   upstream: \"postgres://gw@127.0.0.1:{target}/postgres?{sslmode}\"\n\
             \x20   password: {{from: env, name: E2E_UPSTREAM}}\n\
             \x20   allow: [\"*\"]\n\
             \x20   tag_application: false\n\
             mode: enforce\n\
             rules: {rules}\n"
        )
    }
}

pub(crate) fn verify_full() -> String {
    format!("sslmode=verify-full&sslrootcert={}", tls_files().ca.display())
}

pub(crate) struct Gateway {
    child: Child,
    pub(crate) port: u16,
    folder: PathBuf,
    settings: Settings,
}

/// The binary under test: cargo built it for us. `LOCKGATE_BIN` names another build (a release, a package).
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("LOCKGATE_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_lockgate")), PathBuf::from)
}

impl Gateway {
    pub(crate) fn start(settings: Settings) -> Gateway {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let folder = RUN.join(format!("gateway-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&folder).expect("create the gateway's folder");
        let port = servers::free_port();
        fs::write(folder.join("lockgate.yaml"), settings.yaml(port)).expect("write the configuration");
        let child = launch(&folder);
        let mut gateway = Gateway { child, port, folder, settings };
        gateway.ready();
        gateway
    }

    /// One gateway per target and driver, for tests that only talk through it.
    pub(crate) fn shared(io: Io, server: &'static Server) -> Arc<Gateway> {
        type ByTarget = HashMap<(Io, u32), Arc<Gateway>>;
        static ALL: LazyLock<Mutex<ByTarget>> = LazyLock::new(Mutex::default);
        let mut all = ALL.lock().expect("no test panics while it starts one");
        let start = || Arc::new(Gateway::start(Settings::new(io, server)));
        all.entry((io, server.version)).or_insert_with(start).clone()
    }

    /// Starts again on the same port and state, after [`Gateway::kill`] or [`Gateway::exit`].
    pub(crate) fn restart(&mut self) {
        self.child = launch(&self.folder);
        self.ready();
    }

    fn ready(&mut self) {
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait().expect("ask for the gateway's status") {
                panic!("the gateway ended with {status}:\n{}", self.log());
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "the gateway does not listen:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn env(&self, user: &str, database: &str, tls: bool) -> Vec<(&'static str, String)> {
        connection_env("127.0.0.1", self.port, user, PASSWORD, database, tls)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name (`TERM`, `HUP`, …).
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|s| s.success()), "kill -{name} failed; the gateway said:\n{}", self.log());
    }

    /// Kills it as the kernel would: no handler runs.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("reap");
    }

    /// Waits for it to end by itself.
    pub(crate) fn exit(&mut self, within: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("ask for the gateway's status") {
                return status;
            }
            assert!(began.elapsed() < within, "still running after {within:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Rewrites the configuration with other rules and asks for a reload; returns without waiting.
    pub(crate) fn reload(&mut self, rules: &str) {
        rules.clone_into(&mut self.settings.rules);
        fs::write(self.folder.join("lockgate.yaml"), self.settings.yaml(self.port)).expect("rewrite");
        self.signal("HUP");
    }

    /// Everything it printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The whole record, one JSON object a line.
    pub(crate) fn record(&self) -> String {
        let output = Command::new(binary())
            .args(["record", "export", "--format", "jsonl", "--state"])
            .arg(self.state())
            .output()
            .expect("start lockgate record export");
        assert!(output.status.success(), "record export: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("JSON is UTF-8")
    }

    /// What a command that looks at the state directory answers.
    pub(crate) fn ask(&self, args: &[&str]) -> String {
        let output = Command::new(binary())
            .args(args)
            .arg("--state")
            .arg(self.state())
            .output()
            .expect("start lockgate");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// The exit code and the words of a command that fails.
    pub(crate) fn refuses(&self, args: &[&str]) -> (i32, String) {
        let output = Command::new(binary())
            .args(args)
            .arg("--state")
            .arg(self.state())
            .output()
            .expect("start lockgate");
        let code = output.status.code().expect("an exit code");
        assert_ne!(code, 0, "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        (code, String::from_utf8(output.stderr).expect("text"))
    }

    /// The record as soon as `part` is in it: what happens after a statement (its outcome) is written when it happens, not before.
    pub(crate) fn record_with(&self, part: &str) -> String {
        let began = Instant::now();
        loop {
            let record = self.record();
            if record.contains(part) {
                return record;
            }
            assert!(began.elapsed() < Duration::from_secs(5), "`{part}` is not in the record:\n{record}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Resident memory, in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.status("VmRSS")
    }

    /// The most it ever was, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status("VmHWM")
    }

    fn status(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the gateway runs");
        let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok()).expect("a number of kB")
    }

    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the gateway runs").count()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone_already = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

fn launch(folder: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("open log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(binary());
    command.args(["run", "-c", "lockgate.yaml"]).current_dir(folder).stdin(Stdio::null());
    command.envs([("E2E_PASSWORD", PASSWORD), ("E2E_UPSTREAM", UPSTREAM_PASSWORD), ("E2E_TOKEN", TOKEN)]);
    command.stdout(log.try_clone().expect("log")).stderr(log);
    servers::spawn(command)
}
