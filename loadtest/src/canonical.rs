//! What happens without arguments: the proxies installed here, side by side, under the workloads that decide whether one may stand in
//! front of production.
//!
//! Not a contest of configurations: one worker each, in front of the same servers, on a core of its own; the servers and the load on
//! the others. Invariant: everything started is ended, by its process id, on every way out; nothing outside a temporary folder is
//! written, but the reports asked for.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::setpriority_process;

use crate::cli;
use crate::measure::{self, Cpu};
use crate::report::{Conditions, Headline, Measured, Report, Section};
use crate::target::Target;
use crate::workload::{Mode, Statement, Stop, Workload};
use crate::{certificate, cores, interrupt, run, stub::answers::Origins};

mod child;
mod proxies;
mod servers;

use child::Account;
use proxies::{Kind, Login, Proxy, Running, Surroundings};
use servers::Server;

const ONE_ROW: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = {1-100000}";
const ALL_ROWS: &str = "SELECT * FROM customers";
const COPY: &str = "COPY customers TO STDOUT";
const DIRECT: &str = "direct";

/// Behind the proxies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    Stub,
    Postgres,
}

/// One line of the canonical table.
struct Plan {
    id: &'static str,
    title: &'static str,
    behind: Behind,
    mode: Mode,
    sql: &'static str,
    clients: usize,
    tls: bool,
    login: Login,
    headline: Headline,
    /// Also in the quick run.
    quick: bool,
}

impl Plan {
    const fn new(id: &'static str, title: &'static str, mode: Mode, clients: usize) -> Plan {
        let (behind, login, headline) = (Behind::Stub, Login::Trust, Headline::CpuUsPerQuery);
        Plan { id, title, behind, mode, sql: ONE_ROW, clients, tls: false, login, headline, quick: false }
    }

    const fn quick(self) -> Plan {
        Plan { quick: true, ..self }
    }

    const fn tls(self) -> Plan {
        Plan { tls: true, ..self }
    }

    const fn bulk(id: &'static str, title: &'static str, behind: Behind, sql: &'static str) -> Plan {
        let plan = Plan::new(id, title, Mode::Bulk, 1);
        Plan { behind, sql, headline: Headline::CpuNsPerRow, ..plan }
    }

    const fn headline(self, headline: Headline) -> Plan {
        Plan { headline, ..self }
    }

    fn all() -> Vec<Plan> {
        let connection = Headline::CpuUsPerConnection;
        let scram =
            Plan::new("churn-scram", "connect, SCRAM login, one query, close, 4 clients", Mode::Churn, 4);
        vec![
            Plan::new("simple-16", "1-row SELECT, simple, 16 clients", Mode::Simple, 16).quick(),
            Plan::new("simple-64", "1-row SELECT, simple, 64 clients", Mode::Simple, 64),
            Plan::new("extended-16", "1-row SELECT, extended, 16 clients", Mode::Extended, 16),
            Plan::new("prepared-16", "1-row SELECT, prepared, 16 clients", Mode::Prepared, 16).quick(),
            Plan::new("prepared-64", "1-row SELECT, prepared, 64 clients", Mode::Prepared, 64),
            Plan::new(
                "pipelined-16",
                "1-row SELECT, prepared, 16 under way on each of 16 clients",
                Mode::Pipelined,
                16,
            ),
            Plan::new("tls-16", "1-row SELECT, simple over TLS, 16 clients", Mode::Simple, 16).tls().quick(),
            Plan::new("one-client", "1-row SELECT, simple, one client", Mode::Simple, 1)
                .headline(Headline::LatencyP50Us)
                .quick(),
            Plan::bulk("bulk-postgres", "rows × 10 columns from PostgreSQL", Behind::Postgres, ALL_ROWS)
                .quick(),
            Plan::bulk(
                "copy-postgres",
                "rows × 10 columns from PostgreSQL, COPY TO STDOUT",
                Behind::Postgres,
                COPY,
            )
            .quick(),
            Plan::bulk("bulk-stub", "rows × 10 columns from the stub server", Behind::Stub, ALL_ROWS).quick(),
            Plan::bulk(
                "copy-stub",
                "rows × 10 columns from the stub server, COPY TO STDOUT",
                Behind::Stub,
                COPY,
            ),
            Plan::new("churn", "connect, log in (trust), one query, close, 4 clients", Mode::Churn, 4)
                .headline(connection)
                .quick(),
            Plan { login: Login::Scram, ..scram }.headline(connection),
            Plan::new("idle", "idle connections after one query", Mode::Idle, 1000)
                .headline(Headline::RssKbPerConnection)
                .quick(),
            Plan::new("idle-tls", "idle TLS connections after one query", Mode::Idle, 1000)
                .headline(Headline::RssKbPerConnection)
                .tls(),
        ]
    }
}

/// A proxy in front of a server, or nothing in front of it.
struct Lane {
    name: &'static str,
    running: Option<Running>,
}

/// What is running, and where everything is. Fields are dropped in order: proxies before servers before the folder.
struct Stage {
    lanes: Vec<(Behind, Login, Vec<Lane>)>,
    stub: Server,
    scram_stub: Server,
    postgres: Option<Server>,
    catalogue: PathBuf,
    account: Option<Account>,
    proxy_cores: Vec<usize>,
    cert: PathBuf,
    key: PathBuf,
    started: usize,
    folder: tempfile::TempDir,
}

pub(crate) fn run(args: &cli::Canonical) -> Result<Report> {
    let reps = args.reps.unwrap_or(if args.quick { 1 } else { 5 });
    let seconds = args.seconds.unwrap_or(if args.quick { 0.4 } else { 1.5 });
    let rows = args.rows.unwrap_or(if args.quick { 100_000 } else { 1_000_000 });
    ensure!(
        reps > 0 && (0.01..1e4).contains(&seconds) && rows > 0,
        "reps, seconds and rows must be above zero"
    );
    let mut proxies = proxies::installed(args.lockgate.as_deref(), args.acceptance.as_deref())?;
    proxies.retain(|proxy| !args.without.iter().any(|part| proxy.name().contains(part.as_str())));
    let postgres = if args.no_postgres { None } else { servers::postgres_installed()? };
    let wanted = |id: &str| args.only.is_empty() || args.only.iter().any(|part| id.contains(part.as_str()));
    let plans: Vec<Plan> = Plan::all()
        .into_iter()
        .filter(|plan| wanted(plan.id) && (plan.quick || !args.quick))
        .filter(|plan| plan.behind == Behind::Stub || postgres.is_some())
        .collect();
    ensure!(!plans.is_empty(), "no section is left: the ids are in the JSON of a whole run");

    let (proxy_cores, rest, mut placement) = places()?;
    cores::pin(&rest)?;
    placement += &priority(args.nice);

    let needs_postgres = plans.iter().any(|plan| plan.behind == Behind::Postgres);
    let bin = postgres.as_ref().filter(|_| needs_postgres).map(|(bin, _)| bin.as_path());
    let mut conditions = Conditions::here(placement, reps);
    conditions.versions = versions(&proxies, postgres.as_ref());
    conditions.notes = notes(&proxies, postgres.is_some() && !needs_postgres || postgres.is_none());
    eprintln!("starting servers");
    let mut stage = Stage::new(&proxies, bin, rows, &rest, proxy_cores)?;

    let names: Vec<&str> = std::iter::once(DIRECT).chain(proxies.iter().map(Proxy::name)).collect();
    let baseline = match &args.baseline {
        Some(name) => name.clone(),
        None => ["pgbouncer", "haproxy"].into_iter().find(|n| names.contains(n)).unwrap_or(DIRECT).to_owned(),
    };
    ensure!(names.contains(&baseline.as_str()), "no target is called {baseline}");
    let length = Length { seconds, clients_max: if args.quick { 200 } else { usize::MAX }, rows, reps };
    let progress = Progress::new(plans.iter().map(|plan| targets(plan, &proxies).len() * reps).sum());
    let mut sections = Vec::new();
    for plan in &plans {
        let mut section = section(plan, &proxies, &names, &length);
        stage.compare(plan, &proxies, &length, &mut section, &progress)?;
        section.summarise(&baseline);
        sections.push(section);
    }
    progress.bar.finish_and_clear();
    Ok(Report { conditions, baseline, sections })
}

struct Length {
    seconds: f64,
    clients_max: usize,
    rows: u64,
    reps: usize,
}

fn section(plan: &Plan, proxies: &[Proxy], names: &[&str], length: &Length) -> Section {
    let title = match plan.mode {
        Mode::Idle => format!("{} {}", plan.clients.min(length.clients_max), plan.title),
        Mode::Bulk => format!("{} {}", length.rows, plan.title),
        _ => plan.title.to_owned(),
    };
    let mut section = Section::new(plan.id, &title, plan.mode.unit(), plan.headline, names);
    let taking_part = targets(plan, proxies);
    for name in names.iter().filter(|name| !taking_part.contains(name)) {
        let why = match *name {
            DIRECT => "nothing in between, no memory of its own",
            _ => "passes bytes through; does not do this itself",
        };
        section.inapplicable(name, why);
    }
    section
}

/// Who takes part.
fn targets(plan: &Plan, proxies: &[Proxy]) -> Vec<&'static str> {
    let direct = Some(DIRECT).filter(|_| plan.mode != Mode::Idle);
    let alone = plan.tls || plan.login == Login::Scram;
    let fit = proxies.iter().filter(|proxy| proxy.speaks_postgres() || !alone).map(Proxy::name);
    direct.into_iter().chain(fit).collect()
}

impl Stage {
    fn new(
        proxies: &[Proxy],
        bin: Option<&Path>,
        rows: u64,
        rest: &[usize],
        proxy_cores: Vec<usize>,
    ) -> Result<Stage> {
        let folder = tempfile::Builder::new().prefix("loadtest-").tempdir().context("a temporary folder")?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let account = Account::unprivileged()?;
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let made = certificate::make()?;
        for (path, text) in [(&cert, &made.0), (&key, &made.1)] {
            std::fs::write(path, text)?;
            let only_mine = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(path, only_mine)?;
        }
        // PgBouncer reads the key as the account, lockgate as us, who are root then.
        child::give(&key, account.as_ref())?;
        child::give(&cert, account.as_ref())?;
        let postgres =
            bin.map(|bin| servers::postgres(bin, folder.path(), account.as_ref(), rest, rows)).transpose()?;
        let catalogue = folder.path().join("catalogue.json");
        let lockgate = proxies.iter().find(|p| p.kind == Kind::LockgateFull);
        let origins = match (lockgate, &postgres) {
            (Some(lockgate), Some(server)) => {
                lockgate.snapshot(server.address, folder.path(), &catalogue)?;
                servers::origins(&catalogue)?
            }
            (Some(_), None) => servers::made_up_catalogue(&catalogue)?,
            (None, _) => Origins::default(),
        };
        let stub = servers::stub(folder.path(), rest, rows, origins, &[], "stub")?;
        let scram_stub =
            servers::stub(folder.path(), rest, 1000, origins, &["--auth", "scram"], "stub-scram")?;
        let (lanes, started) = (Vec::new(), 0);
        Ok(Stage {
            lanes,
            stub,
            scram_stub,
            postgres,
            catalogue,
            account,
            proxy_cores,
            cert,
            key,
            started,
            folder,
        })
    }

    fn server(&self, behind: Behind) -> Result<SocketAddr> {
        match behind {
            Behind::Stub => Ok(self.stub.address),
            Behind::Postgres => Ok(self.postgres.as_ref().context("no PostgreSQL was started")?.address),
        }
    }

    fn start(&mut self, proxy: &Proxy, behind: Behind, login: Login) -> Result<Running> {
        self.started += 1;
        let around = Surroundings {
            folder: self.folder.path(),
            account: self.account.as_ref(),
            cores: &self.proxy_cores,
            cert: &self.cert,
            key: &self.key,
        };
        let catalogue = Some(self.catalogue.as_path()).filter(|_| behind == Behind::Stub);
        proxy.start(&around, self.server(behind)?, login, catalogue, &self.started.to_string())
    }

    /// All repetitions of one line, targets in turns.
    fn compare(
        &mut self,
        plan: &Plan,
        proxies: &[Proxy],
        length: &Length,
        section: &mut Section,
        progress: &Progress,
    ) -> Result<()> {
        let work = workload(plan, length)?;
        let taking_part = targets(plan, proxies);
        for repetition in 1..=length.reps {
            for name in &taking_part {
                let proxy = proxies.iter().find(|p| p.name() == *name);
                let measured = match proxy {
                    None => self.direct(plan).and_then(|target| run::measure(&target, &work)),
                    Some(proxy) if plan.mode == Mode::Idle => self.idle(plan, proxy, &work),
                    Some(proxy) => self.lane(plan, proxy).and_then(|target| self.watched(&target, &work)),
                };
                interrupt::check()?;
                progress.step(plan, repetition, name, measured.as_ref().ok());
                section.put(name, measured.map_err(|error| format!("{error:#}")));
            }
        }
        Ok(())
    }

    /// Measures, and looks who else was on the proxy's core meanwhile.
    fn watched(&self, target: &Target, work: &Workload) -> Result<Measured> {
        let (&[core], Some(pid)) = (self.proxy_cores.as_slice(), target.pid) else {
            return run::measure(target, work);
        };
        let read = || Ok::<_, anyhow::Error>((measure::core_ns(core)?, Cpu::read(pid)?, Instant::now()));
        let before = read()?;
        let measured = run::measure(target, work)?;
        let after = read()?;
        let all = after.0.saturating_sub(before.0);
        let foreign = all.saturating_sub(after.1.since(&before.1).ns) as f64;
        let share = foreign / (after.2 - before.2).as_nanos().max(1) as f64;
        Ok(Measured { foreign_share: Some(share), ..measured })
    }

    fn direct(&self, plan: &Plan) -> Result<Target> {
        let address = match plan.login {
            Login::Trust => self.server(plan.behind)?,
            Login::Scram => self.scram_stub.address,
        };
        proxies::target(DIRECT, address, plan.tls, None)
    }

    /// A proxy in its lane; started when first needed.
    fn lane(&mut self, plan: &Plan, proxy: &Proxy) -> Result<Target> {
        let same = |behind: Behind, login: Login| behind == plan.behind && login == plan.login;
        let known = self.lanes.iter().find(|(behind, login, _)| same(*behind, *login));
        let known = known.and_then(|(_, _, lanes)| lanes.iter().find(|lane| lane.name == proxy.name()));
        if let Some(Lane { running: Some(running), .. }) = known {
            return running.target(proxy.name(), plan.tls);
        }
        let running = self.start(proxy, plan.behind, plan.login)?;
        let target = running.target(proxy.name(), plan.tls)?;
        let lane = Lane { name: proxy.name(), running: Some(running) };
        match self.lanes.iter_mut().find(|(behind, login, _)| same(*behind, *login)) {
            Some((_, _, lanes)) => lanes.push(lane),
            None => self.lanes.push((plan.behind, plan.login, vec![lane])),
        }
        Ok(target)
    }

    /// Memory is read in a proxy that has done little else: freed memory of earlier work would hide what a connection takes.
    fn idle(&mut self, plan: &Plan, proxy: &Proxy, work: &Workload) -> Result<Measured> {
        let running = self.start(proxy, plan.behind, plan.login)?;
        let target = running.target(proxy.name(), plan.tls)?;
        let stop = Stop::After { warm: Duration::ZERO, measured: Duration::from_millis(300) };
        let warm = Workload::new(Mode::Simple, work.statements.clone(), 4, stop);
        run::measure(&target, &warm)?;
        interrupt::pause(Duration::from_millis(300))?;
        run::measure(&target, work)
    }
}

fn workload(plan: &Plan, length: &Length) -> Result<Workload> {
    let measured = Duration::from_secs_f64(length.seconds);
    let stop = match plan.mode {
        // A whole result, so that its beginning and end count as they do in life; the stub's is soon over.
        Mode::Bulk => {
            Stop::Requests(if plan.behind == Behind::Stub { 1 + 1_000_000 / length.rows } else { 1 })
        }
        _ => Stop::After { warm: measured / 5, measured },
    };
    let statements = vec![Statement::parse(plan.sql)?];
    let clients = plan.clients.min(length.clients_max);
    Ok(Workload::new(plan.mode, statements, clients, stop))
}

/// The cores of the proxy, of all others, and that in words.
fn places() -> Result<(Vec<usize>, Vec<usize>, String)> {
    let all = cores::allowed()?;
    let words = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => {
            let text = format!("proxy on core {last}, servers and load on {}", words(rest));
            Ok((vec![*last], rest.to_vec(), text))
        }
        _ => Ok((all.clone(), all.clone(), format!("everything on core {}", words(&all)))),
    }
}

fn priority(nice: i32) -> String {
    match setpriority_process(None, nice) {
        Ok(()) => format!(", nice {nice}"),
        Err(_) => format!(", ordinary priority (nice {nice} is not permitted)"),
    }
}

fn versions(proxies: &[Proxy], postgres: Option<&(PathBuf, String)>) -> Vec<(String, String)> {
    let mut versions: Vec<(String, String)> =
        proxies.iter().map(|proxy| (proxy.name().to_owned(), proxy.version.clone())).collect();
    versions.extend(postgres.map(|(_, version)| ("postgres".to_owned(), version.clone())));
    versions.push(("loadtest".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    versions
}

fn notes(proxies: &[Proxy], without_postgres: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let has = |kind: Kind| proxies.iter().any(|proxy| proxy.kind == kind);
    for (kind, name) in
        [(Kind::Haproxy, "haproxy"), (Kind::Pgbouncer, "pgbouncer"), (Kind::LockgateFull, "lockgate")]
    {
        if !has(kind) {
            notes.push(format!("without {name}: not found, or not wanted"));
        }
    }
    if without_postgres {
        notes.push("no PostgreSQL: everything in front of the stub server".to_owned());
    }
    if has(Kind::LockgateFull) {
        notes.push(
            "lockgate-forward: no rule touches the identity; lockgate-full: 10 masked columns over 5 tables, 50 rules, \
             every statement recorded before it is forwarded"
                .to_owned(),
        );
    }
    let autogroup = std::fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").unwrap_or_default();
    if autogroup.trim() == "1" {
        notes.push("the scheduler's autogroup is on: priorities count only within this session".to_owned());
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    notes.push(format!("load average before: {}", load.split(' ').next().unwrap_or("unknown")));
    notes
}

/// A bar on a terminal, plain lines elsewhere.
struct Progress {
    bar: ProgressBar,
    plain: bool,
}

impl Progress {
    fn new(steps: usize) -> Progress {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new(steps as u64) };
        bar.set_length(steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left  {wide_msg}") {
            bar.set_style(style);
        }
        Progress { bar, plain }
    }

    fn step(&self, plan: &Plan, repetition: usize, name: &str, measured: Option<&Measured>) {
        self.bar.inc(1);
        let value = measured.and_then(|m| plan.headline.value(m));
        let value = match (measured, value) {
            (None, _) => "failed".to_owned(),
            (_, Some(value)) => format!("{value:.2} {}", plan.headline.words()),
            (Some(m), None) => format!("{:.0} per second", m.per_second),
        };
        let text = format!("{} · {repetition} · {name}: {value}", plan.id);
        match self.plain {
            true => {
                eprintln!("{}/{} {text}", self.bar.position(), self.bar.length().unwrap_or_default());
            }
            false => self.bar.set_message(text),
        }
    }
}
