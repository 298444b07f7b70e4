//! Against a real PostgreSQL of our own, in a temporary folder, on loopback: Debian's 15, or the one whose `bin` folder is in
//! `LG_TEST_PG_BIN`. What the stub cannot prove: that its logins, TLS and answers are also PostgreSQL's.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn bin(program: &str) -> String {
    let folder = std::env::var("LG_TEST_PG_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
    format!("{folder}/{program}")
}

/// PostgreSQL refuses root.
fn as_postgres(program: &str, arguments: &[&str]) -> Command {
    if !rustix::process::geteuid().is_root() {
        let mut command = Command::new(program);
        command.args(arguments);
        return command;
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--", program])
        .args(arguments);
    command
}

fn run(mut command: Command) -> Output {
    let out = command.output().expect("the program is installed");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

struct Server {
    folder: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("our own folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let data = path("data");
        run(as_postgres(&bin("initdb"), &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"]));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        // Root's files are refused as keys, and `postgres` may not read ours: it copies them.
        for (name, text) in
            [("server.crt", made.cert.pem()), ("server.key", made.signing_key.serialize_pem())]
        {
            fs::write(path(name), text).expect("written");
            run(as_postgres("install", &["-m", "600", &path(name), &format!("{data}/{name}")]));
        }
        let hba = "local all all trust\nhost all scram 127.0.0.1/32 scram-sha-256\n\
                   host all md5 127.0.0.1/32 md5\nhost all clear 127.0.0.1/32 password\n\
                   host all postgres 127.0.0.1/32 trust\n";
        fs::write(path("hba"), hba).expect("written");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={data}"),
            format!("hba_file={}", path("hba")),
            "ssl=on".to_owned(),
            "fsync=off".to_owned(),
        ];
        let arguments: Vec<&str> = settings.iter().flat_map(|s| ["-c", s.as_str()]).collect();
        let process = as_postgres(&bin("postgres"), &[&["-D", &data][..], &arguments].concat())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).expect("written"))
            .spawn()
            .expect("PostgreSQL starts");
        let server = Server { folder, process, port };
        let until = Instant::now() + Duration::from_secs(30);
        while !server.loadtest(&["run", "--requests", "1", "--clients", "1"], "postgres", "").0 {
            let log = fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let sql = "create role clear login password 'secret'; create role scram login password 'secret'; \
                   set password_encryption = 'md5'; create role md5 login password 'secret'";
        let url = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        run(as_postgres(&bin("psql"), &["-qX", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql]));
        server
    }

    /// Whether it went well, and the first measurement.
    fn loadtest(&self, arguments: &[&str], who: &str, options: &str) -> (bool, Value, String) {
        let json = tempfile::NamedTempFile::new().expect("temporary file");
        let host = if options.contains("host=") { String::new() } else { format!("127.0.0.1:{}", self.port) };
        let target = format!("pg=postgres://{who}@{host}/postgres{options}@{}", self.process.id());
        let out = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(arguments)
            .args(["--reps", "1", "--target", &target, "--json"])
            .arg(json.path())
            .env_remove("PGPASSWORD")
            .output()
            .expect("the program runs");
        let report: Value =
            serde_json::from_slice(&fs::read(json.path()).unwrap_or_default()).unwrap_or_default();
        let measured = report.pointer("/sections/0/lines/0/repetitions/0").cloned().unwrap_or_default();
        (out.status.success(), measured, String::from_utf8_lossy(&out.stderr).into_owned())
    }

    fn socket(&self) -> String {
        self.folder.path().join("data").to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        // Fast shutdown; already gone is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        drop(self.process.wait());
        assert!(Path::new(&self.socket()).exists(), "the folder outlives the server");
    }
}

#[test]
fn postgresql_agrees() {
    let server = Server::start();
    for who in ["clear", "md5", "scram"] {
        for tls in ["", "?sslmode=require"] {
            let churn = ["run", "--mode", "churn", "--requests", "4", "--clients", "2"];
            let (fine, m, said) = server.loadtest(&churn, &format!("{who}:secret"), tls);
            assert!(fine && m["answered"] == 4, "{who}{tls}: {m} {said}");
            let (fine, _, said) = server.loadtest(&churn, &format!("{who}:wrong"), tls);
            assert!(!fine && said.contains("28P01"), "{who}{tls}: {said}");
        }
    }
    let sql = "select {1-9}::int + {1-9}::int";
    for mode in ["simple", "extended", "prepared", "pipelined"] {
        for place in [String::new(), format!("?host={}", server.socket())] {
            // The socket's name holds the port.
            let place = place.replace("?host=", &format!("?port={}&host=", server.port));
            let work = ["run", "--mode", mode, "--requests", "200", "--clients", "4", "--sql", sql];
            let (fine, m, said) = server.loadtest(&work, "postgres", &place);
            assert!(fine && m["answered"] == 200 && m["rows"] == 200, "{mode}{place}: {m} {said}");
        }
    }
    for (mode, sql) in [
        ("bulk", "select n, 'x' || n from generate_series(1, 10000) n"),
        ("copy", "copy (select n from generate_series(1, 10000) n) to stdout"),
    ] {
        let work = ["run", "--mode", mode, "--requests", "2", "--clients", "1", "--sql", sql];
        let (fine, m, said) = server.loadtest(&work, "postgres", "?sslmode=require");
        assert!(fine && m["rows"] == 20_000, "{mode}: {m} {said}");
    }
    let (fine, m, said) = server.loadtest(&["run", "--mode", "idle", "--clients", "20"], "postgres", "");
    assert!(
        fine && m.pointer("/memory/rss_kb_per_connection").and_then(Value::as_f64) > Some(100.0),
        "{m} {said}"
    );
    let (fine, m, _) = server.loadtest(&["run", "--requests", "3", "--sql", "select 1/0"], "postgres", "");
    let error = m["error"].as_str().unwrap_or_default();
    assert!(!fine && m["failed"] == 3 && error.contains("22012 division by zero"), "{m}");
}
