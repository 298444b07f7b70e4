//! loadtest: load for anything that speaks PostgreSQL, and what it costs the one in the middle.
//!
//! A black box: it knows a wire protocol, a clock and /proc. Not a benchmark suite for PostgreSQL itself.
//! Invariant: imports nothing of ours, so it cannot be kind to us.
//!
//! Reading order: `workload` (what is asked), `client` over `wire` (one connection), `drive` (the loop), `run` (one measurement),
//! `measure` (the kernel's view), `report` and `html` (what comes out), `stub` (a server faster than any proxy), `canonical` (what
//! happens without arguments).
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod canonical;
mod certificate;
mod cli;
mod client;
mod cores;
mod drive;
mod html;
mod interrupt;
mod measure;
mod record;
mod report;
mod run;
mod stats;
mod stub;
mod target;
mod wire;
mod workload;

use cli::{Cli, Command, Output};
use report::{Conditions, Headline, Report, Section};
use stub::answers::{ACCOUNTS, Answers, CUSTOMERS, Origins};
use target::Target;
use workload::{Mode, Pace, Statement, Stop, Workload};

/// Measured, but not everything went well.
const EXIT_FAILURES: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ready = interrupt::listen().and_then(|()| raise_open_files());
    let done = ready.and_then(|()| match cli.command {
        None => canonical::run(&cli.canonical).and_then(|report| out(&report, &cli.output)),
        Some(Command::Run(args)) => run_command(&args).and_then(|report| out(&report, &cli.output)),
        Some(Command::Stub(args)) => serve(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::RecordAnswer(args)) => record_answer(&args).map(|()| ExitCode::SUCCESS),
    });
    done.unwrap_or_else(|error| {
        eprintln!("loadtest: {error:#}");
        ExitCode::FAILURE
    })
}

/// As many as we may, and those we start: an idle herd needs one per connection here and two in a proxy.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("open files")
}

fn out(report: &Report, output: &Output) -> Result<ExitCode> {
    print!("{}", report.table());
    if let Some(path) = &output.json {
        write(path, &(serde_json::to_string_pretty(report)? + "\n"))?;
    }
    if let Some(path) = &output.html {
        write(path, &html::page(report))?;
    }
    Ok(if report.has_failures() { ExitCode::from(EXIT_FAILURES) } else { ExitCode::SUCCESS })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

fn run_command(args: &cli::Run) -> Result<Report> {
    let targets = args.targets.iter().map(|t| Target::parse(t)).collect::<Result<Vec<_>>>()?;
    let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    ensure!(distinct.len() == names.len(), "two targets have the same name");
    let baseline = args.baseline.as_deref().or_else(|| names.first().copied()).unwrap_or_default();
    ensure!(names.contains(&baseline), "no target is called {baseline}");
    let work = workload(args)?;
    if let Some(cores) = &args.cores {
        cores::pin(&cores::parse(cores)?)?;
    }
    let title = title(args, &work);
    let mut section = Section::new("run", &title, work.mode.unit(), headline(&targets, &work), &names);
    for repetition in 1..=args.reps {
        for target in &targets {
            eprintln!("repetition {repetition} of {}: {}", args.reps, target.name);
            let measured = run::measure(target, &work).with_context(|| format!("target {}", target.name))?;
            section.put(&target.name, Ok(measured));
        }
    }
    section.summarise(baseline);
    let placement = match &args.cores {
        Some(cores) => format!("load on cores {cores}"),
        None => "nothing pinned by us".to_owned(),
    };
    let conditions = Conditions::here(placement, args.reps);
    Ok(Report { conditions, baseline: baseline.to_owned(), sections: vec![section] })
}

fn workload(args: &cli::Run) -> Result<Workload> {
    let mut statements = args.sql.iter().map(|s| Statement::parse(s)).collect::<Result<Vec<_>>>()?;
    if let Some(path) = &args.file {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        statements.extend(Statement::parse_file(&text).with_context(|| path.display().to_string())?);
    }
    if statements.is_empty() {
        ensure!(!matches!(args.mode, Mode::Bulk | Mode::Copy), "bulk and copy need a statement: --sql");
        statements.push(Statement::parse("select 1")?);
    }
    ensure!(args.seconds > 0.0 && args.seconds < 1e6, "--seconds must be above zero");
    let warm = args.warm.unwrap_or(args.seconds / 10.0);
    ensure!((0.0..1e6).contains(&warm), "--warm must not be below zero");
    let stop = match args.requests {
        Some(requests) => Stop::Requests(requests),
        None => Stop::After {
            warm: Duration::from_secs_f64(warm),
            measured: Duration::from_secs_f64(args.seconds),
        },
    };
    let mut work = Workload::new(args.mode, statements, args.clients, stop);
    work.depth = args.depth.unwrap_or(work.depth);
    work.threads = args.threads.min(args.clients);
    if let Some(rate) = args.rate {
        ensure!(rate > 0.0 && rate.is_finite(), "--rate must be above zero");
        work.pace = Pace::Open(rate);
    }
    let positive = work.clients > 0 && work.depth > 0 && work.threads > 0 && args.reps > 0;
    ensure!(positive, "clients, depth, threads and reps must be above zero");
    ensure!(args.requests != Some(0), "--requests must be above zero");
    ensure!(work.mode != Mode::Churn || work.depth == 1, "a churning connection has one request");
    Ok(work)
}

fn title(args: &cli::Run, work: &Workload) -> String {
    let mode = format!("{:?}", work.mode).to_lowercase();
    let what = match (args.sql.as_slice(), &args.file) {
        ([], None) => "select 1".to_owned(),
        ([one], None) => one.clone(),
        _ => format!("{} statements", work.statements.len()),
    };
    let pace = match work.pace {
        Pace::Closed => String::new(),
        Pace::Open(rate) => format!(", {rate} per second"),
    };
    format!("{mode}, {} clients, depth {}{pace}: {what}", work.clients, work.depth)
}

/// CPU where processes were named, latency otherwise.
fn headline(targets: &[Target], work: &Workload) -> Headline {
    match work.mode {
        Mode::Idle => Headline::RssKbPerConnection,
        _ if targets.iter().all(|t| t.pid.is_none()) => Headline::LatencyP50Us,
        mode => Headline::of_unit(mode.unit()),
    }
}

fn serve(args: &cli::Stub) -> Result<()> {
    let mut origins = Origins::default();
    for origin in &args.origin {
        let (table, oid) = origin.split_once('=').context("--origin is TABLE=OID")?;
        let oid = oid.parse().context("--origin: an oid is a number")?;
        match table {
            CUSTOMERS => origins.customers = oid,
            ACCOUNTS => origins.accounts = oid,
            _ => anyhow::bail!("--origin: {table} is no table of the stub's"),
        }
    }
    let mut answers = Answers::new(args.rows, origins);
    if let Some(path) = &args.answers {
        answers.read(path)?;
    }
    for replay in &args.replay {
        let (part, path) = replay.split_once('=').context("--replay is TEXT=FILE")?;
        answers.replay(part, Path::new(path))?;
    }
    let tls = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Some(certificate::read(cert, key)?),
        _ if args.tls => {
            let (cert, key) = certificate::make()?;
            Some(certificate::server_config(cert.as_bytes(), key.as_bytes())?)
        }
        _ => None,
    };
    let auth = stub::auth::Auth::new(args.auth, args.password.clone())?;
    let stub = stub::Stub { answers, auth, tls };
    stub.serve(args.listen, |address| {
        println!("{address}");
        // Whoever started us reads the line; nobody reading it is no reason to stop.
        drop(std::io::stdout().flush());
    })
}

fn record_answer(args: &cli::RecordAnswer) -> Result<()> {
    let (bytes, rows) = record::answer(&Target::parse(&args.target)?, &args.sql, &args.output)?;
    println!("{}: {bytes} bytes, {rows} rows", args.output.display());
    Ok(())
}
