//! The proxies we know how to start: found on this machine, configured in a temporary folder, one worker each.
//!
//! Not a judgement of how they should be run in production. Each gets what its manual says and what the others get: one thread, TLS
//! offered where it can, no logging of connections, room for every client, sessions that keep their server connection.
//! Invariant: nothing of theirs outside the temporary folder is read or written.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::child::{self, Account, Child, Spec, folder, free_port};
use crate::interrupt;
use crate::record;
use crate::target::Target;

/// How long one may take from its start to its first answer.
const BOOT: Duration = Duration::from_secs(15);
/// Clients any of them must have room for.
const CLIENTS: usize = 6000;
pub(crate) const USER: &str = "bench";
pub(crate) const PASSWORD: &str = "bench";
pub(crate) const DATABASE: &str = "bench";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Haproxy,
    Pgbouncer,
    LockgateForward,
    LockgateFull,
}

#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    /// lockgate's configuration.
    config: PathBuf,
}

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    Trust,
    Scram,
}

impl Proxy {
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Haproxy => "haproxy",
            Kind::Pgbouncer => "pgbouncer",
            Kind::LockgateForward => "lockgate-forward",
            Kind::LockgateFull => "lockgate-full",
        }
    }

    /// Terminates TLS and logs clients in itself.
    pub(crate) fn speaks_postgres(&self) -> bool {
        self.kind != Kind::Haproxy
    }
}

/// What is installed here.
pub(crate) fn installed(lockgate: Option<&Path>, acceptance: Option<&Path>) -> Result<Vec<Proxy>> {
    let mut found = Vec::new();
    let mut add = |kind, program: PathBuf, flag: &str, config: PathBuf| -> Result<()> {
        let version = version(&program, flag)?;
        found.push(Proxy { kind, program, version, config });
        Ok(())
    };
    if let Some(program) = on_path("haproxy") {
        add(Kind::Haproxy, program, "-v", PathBuf::new())?;
    }
    if let Some(program) = on_path("pgbouncer") {
        add(Kind::Pgbouncer, program, "--version", PathBuf::new())?;
    }
    let beside = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join("lockgate")));
    let ours = match lockgate {
        Some(path) => Some(path.canonicalize().with_context(|| path.display().to_string())?),
        None => beside.filter(|p| p.is_file()).or_else(|| on_path("lockgate")),
    };
    if let Some(program) = ours {
        let configs = match acceptance {
            Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
            None => upwards("deploy/acceptance").context(
                "lockgate is here, but not its deploy/acceptance: name the folder with --acceptance",
            )?,
        };
        for (kind, name) in [(Kind::LockgateForward, "forward.yaml"), (Kind::LockgateFull, "full.yaml")] {
            add(kind, program.clone(), "--version", configs.join(name))?;
        }
    }
    Ok(found)
}

pub(crate) fn version(program: &Path, flag: &str) -> Result<String> {
    let out = Command::new(program).arg(flag).output().with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").trim().to_owned())
}

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where only root's PATH leads.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Looks in this folder and those above, then from where the program is.
fn upwards(what: &str) -> Option<PathBuf> {
    let here = std::env::current_dir().ok();
    let exe = std::env::current_exe().ok();
    let starts = here.into_iter().chain(exe);
    let mut folders = starts.flat_map(|start| start.ancestors().map(Path::to_owned).collect::<Vec<_>>());
    folders.find_map(|folder| Some(folder.join(what)).filter(|path| path.is_dir()))
}

/// What all of them are given.
pub(crate) struct Surroundings<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) account: Option<&'a Account>,
    pub(crate) cores: &'a [usize],
    /// PEM files the account may read.
    pub(crate) cert: &'a Path,
    pub(crate) key: &'a Path,
}

/// A proxy that answers.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// Starts it in front of `server` and waits for its first answer. `catalogue`: lockgate asks the server without.
    pub(crate) fn start(
        &self,
        around: &Surroundings<'_>,
        server: SocketAddr,
        login: Login,
        catalogue: Option<&Path>,
        place: &str,
    ) -> Result<Running> {
        let address = free_port()?;
        let folder = folder(around.folder, &format!("{}-{place}", self.name()), around.account)?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            child::give(&path, around.account)?;
            Ok(path)
        };
        let (cert, key) = (around.cert.display(), around.key.display());
        let file;
        let (arguments, environment): (Vec<&OsStr>, _) = match self.kind {
            Kind::Haproxy => {
                file = write("haproxy.cfg", &haproxy(address, server))?;
                (vec![OsStr::new("-db"), OsStr::new("-f"), file.as_os_str()], Vec::new())
            }
            Kind::Pgbouncer => {
                let users = write("users.txt", &format!("\"{USER}\" \"{PASSWORD}\"\n"))?;
                let mut text = pgbouncer(address, server, login, &users);
                text += &format!("client_tls_sslmode = allow\nclient_tls_cert_file = {cert}\n");
                text += &format!("client_tls_key_file = {key}\n");
                file = write("pgbouncer.ini", &text)?;
                (vec![file.as_os_str()], Vec::new())
            }
            Kind::LockgateForward | Kind::LockgateFull => {
                let state = child::folder(&folder, "state", None)?;
                let mut environment = lockgate(address, server, login, &state);
                environment.push(("LG_TLS_CERT", cert.to_string()));
                environment.push(("LG_TLS_KEY", key.to_string()));
                if let Some(catalogue) = catalogue {
                    environment.push(("LG_CATALOGUE", catalogue.display().to_string()));
                }
                (vec![OsStr::new("run"), OsStr::new("-c"), self.config.as_os_str()], environment)
            }
        };
        // lockgate may be in a folder only we can read, and needs no other account.
        let account = around.account.filter(|_| matches!(self.kind, Kind::Haproxy | Kind::Pgbouncer));
        let child = Child::start(&Spec {
            program: &self.program,
            arguments,
            environment,
            folder: &folder,
            account,
            cores: around.cores,
            end: Signal::TERM,
        })?;
        let mut running = Running { child, address };
        running.wait(self.name())?;
        Ok(running)
    }

    /// What lockgate knows of a database's tables, taken down by itself.
    pub(crate) fn snapshot(&self, server: SocketAddr, folder: &Path, output: &Path) -> Result<()> {
        let state = child::folder(folder, "snapshot-state", None)?;
        let environment = lockgate(free_port()?, server, Login::Trust, &state);
        let out = Command::new(&self.program)
            .args([
                OsStr::new("catalogue"),
                OsStr::new("snapshot"),
                OsStr::new("-c"),
                self.config.as_os_str(),
            ])
            .args([OsStr::new("-o"), output.as_os_str(), OsStr::new(DATABASE)])
            .envs(environment)
            .output()
            .context("lockgate catalogue snapshot")?;
        if !out.status.success() {
            bail!("lockgate catalogue snapshot: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }
}

impl Running {
    pub(crate) fn target(&self, name: &str, tls: bool) -> Result<Target> {
        target(name, self.address, tls, Some(self.child.pid()))
    }

    fn wait(&mut self, name: &str) -> Result<()> {
        let until = Instant::now() + BOOT;
        let target = self.target(name, false)?;
        loop {
            // A table of both servers: a gateway that masks must know its catalogue before it can answer.
            let asked =
                record::ask(&target, "select abalance from pgbench_accounts where aid = 1", Some(BOOT));
            let Err(error) = asked else { return Ok(()) };
            self.child.check()?;
            interrupt::check()?;
            if Instant::now() > until {
                return Err(
                    error.context(format!("it does not answer; it said: {}", self.child.last_words()))
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(crate) fn target(name: &str, address: SocketAddr, tls: bool, pid: Option<u32>) -> Result<Target> {
    let mode = if tls { "require" } else { "disable" };
    let url = format!("postgres://{USER}:{PASSWORD}@{address}/{DATABASE}?sslmode={mode}");
    Target::from_url(name, &url, pid)
}

fn haproxy(address: SocketAddr, server: SocketAddr) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn {CLIENTS}\n\
         defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
         listen postgres\n  bind {address} backlog 4096\n  server one {server}\n"
    )
}

fn pgbouncer(address: SocketAddr, server: SocketAddr, login: Login, users: &Path) -> String {
    let auth = match login {
        Login::Trust => "trust",
        Login::Scram => "scram-sha-256",
    };
    format!(
        "[databases]\n{DATABASE} = host={} port={} dbname={DATABASE} user={USER} password={PASSWORD}\n\
         [pgbouncer]\nlisten_addr = {}\nlisten_port = {}\nunix_socket_dir =\n\
         auth_type = {auth}\nauth_file = {}\npool_mode = session\n\
         default_pool_size = {CLIENTS}\nmax_client_conn = {CLIENTS}\nmax_db_connections = 0\n\
         log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\n",
        server.ip(),
        server.port(),
        address.ip(),
        address.port(),
        users.display()
    )
}

/// What lockgate's acceptance configurations read from the environment.
fn lockgate(
    address: SocketAddr,
    server: SocketAddr,
    login: Login,
    state: &Path,
) -> Vec<(&'static str, String)> {
    let auth = match login {
        Login::Trust => "trust",
        Login::Scram => "scram",
    };
    vec![
        ("LG_LISTEN_PG", address.to_string()),
        ("LG_PG", server.to_string()),
        ("LG_PG_USER", USER.to_owned()),
        ("LG_PG_PASSWORD", PASSWORD.to_owned()),
        ("LG_PG_DB", DATABASE.to_owned()),
        ("LG_STATE", state.display().to_string()),
        ("LG_WORKERS", "1".to_owned()),
        ("LG_AUTH", auth.to_owned()),
    ]
}
