//! A PostgreSQL of its own for a test: fresh data, a free port, ended with the test.
//!
//! PostgreSQL 15, or the one whose `bin` folder is in `LG_TEST_PG_BIN`. Without one a test says so and is not run.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Server {
    /// For files of the test.
    pub(crate) dir: PathBuf,
    bin: PathBuf,
    port: u16,
    child: Child,
}

/// The server refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--pdeathsig", "QUIT"])
        .arg(program);
    command
}

impl Server {
    /// `None`: there is no PostgreSQL here.
    pub(crate) fn start(settings: &[&str]) -> Option<Server> {
        let bin = std::env::var("LG_TEST_PG_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".into());
        let bin = PathBuf::from(bin);
        if !bin.join("initdb").exists() {
            // Past the test harness, which shows what a passing test printed to nobody.
            let place = bin.display();
            writeln!(std::io::stderr(), "SKIPPED: no PostgreSQL in {place} (LG_TEST_PG_BIN names another)")
                .expect("stderr");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("lockgate-policy-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("the postgres user may enter");
        let data = dir.join("data");
        let made = as_postgres(&bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let log = fs::File::create(dir.join("log")).expect("a log");
        let ours =
            ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=10"];
        let child = as_postgres(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .args(ours.iter().chain(settings).flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        let server = Server { dir, bin, port, child };
        let start = Instant::now();
        while !server.psql("postgres", &["-c", "select 1"]).status.success() {
            let patient = start.elapsed() < Duration::from_secs(60);
            assert!(patient, "PostgreSQL does not answer: {}", server.dir.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    /// psql as a superuser, with these arguments.
    pub(crate) fn psql(&self, database: &str, args: &[&str]) -> Output {
        // Some distributions of the server come without clients.
        let ours = self.bin.join("psql");
        Command::new(if ours.exists() { ours } else { "psql".into() })
            .args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", database])
            .args(["-p", &self.port.to_string()])
            .args(args)
            .output()
            .expect("psql starts")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = as_postgres(&self.bin.join("pg_ctl"))
            .arg("-D")
            .arg(self.dir.join("data"))
            .args(["-m", "immediate", "-w", "stop"])
            .stdout(Stdio::null())
            .status();
        if !stopped.is_ok_and(|s| s.success()) {
            let _ended_otherwise = self.child.kill();
        }
        let _its_status = self.child.wait();
        let _left_in_the_temporary_folder = fs::remove_dir_all(&self.dir);
    }
}
