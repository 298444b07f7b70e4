//! A closed-loop load generator for anything that speaks PostgreSQL: so many clients, each with one statement under way.
//!
//! Not a benchmark suite yet: one statement, three protocol modes, no TLS. Several targets are measured in turns within one run,
//! because numbers of different runs (other kernel, other neighbours) cannot be compared. Closed loop: a slow target is also asked
//! less, so read throughput and latency together.
//! Invariant: imports nothing of ours; one failed statement fails the run.
#![forbid(unsafe_code)]

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio_postgres::{Client, NoTls};

const HELP: &str = "\
loadtest [OPTIONS] --target NAME=DSN[@PID] [--target NAME=DSN[@PID]]...

  --target NAME=DSN@PID  what to ask: a name, a connection string, and the process whose CPU time to read (optional)
                         gate=postgres://app@127.0.0.1:7432/shop@4711
  --mode MODE            simple | extended | prepared                       [prepared]
  --sql SQL              the statement                                      [select 1]
  --clients N            connections, one statement under way on each       [16]
  --seconds S            of measuring per target and round                  [5]
  --rounds R             A B C, A B C, ... ; every line is one measurement  [3]

The password is read from PGPASSWORD. Latencies are in microseconds. CPU is that of all threads of PID, per statement.
";

#[derive(Clone, Copy)]
enum Mode {
    Simple,
    Extended,
    Prepared,
}

struct Target {
    name: String,
    dsn: String,
    pid: Option<u32>,
}

struct Options {
    targets: Vec<Target>,
    mode: Mode,
    sql: String,
    clients: usize,
    seconds: f64,
    rounds: usize,
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|o| o.map_or_else(help, |o| run(&o))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn help() -> Result<()> {
    print!("{HELP}");
    Ok(())
}

/// `None`: help was asked for.
fn options(mut args: impl Iterator<Item = String>) -> Result<Option<Options>> {
    let mut o = Options {
        targets: Vec::new(),
        mode: Mode::Prepared,
        sql: "select 1".to_owned(),
        clients: 16,
        seconds: 5.0,
        rounds: 3,
    };
    while let Some(key) = args.next() {
        if key == "-h" || key == "--help" {
            return Ok(None);
        }
        let value = args.next().with_context(|| format!("{key} needs a value"))?;
        match key.as_str() {
            "--target" => o.targets.push(target(&value)?),
            "--mode" => {
                o.mode = match value.as_str() {
                    "simple" => Mode::Simple,
                    "extended" => Mode::Extended,
                    "prepared" => Mode::Prepared,
                    other => bail!("no mode {other}: simple, extended or prepared"),
                }
            }
            "--sql" => o.sql = value,
            "--clients" => o.clients = value.parse().context("--clients")?,
            "--seconds" => o.seconds = value.parse().context("--seconds")?,
            "--rounds" => o.rounds = value.parse().context("--rounds")?,
            other => bail!("no option {other}\n\n{HELP}"),
        }
    }
    ensure!(!o.targets.is_empty(), "at least one --target is needed\n\n{HELP}");
    ensure!(
        o.clients > 0 && o.seconds > 0.0 && o.rounds > 0,
        "clients, seconds and rounds must be above zero"
    );
    Ok(Some(o))
}

fn target(value: &str) -> Result<Target> {
    let (name, rest) = value.split_once('=').context("--target is NAME=DSN[@PID]")?;
    let pid = rest.rsplit_once('@').and_then(|(dsn, pid)| Some((dsn, pid.parse().ok()?)));
    let (dsn, pid) = pid.map_or((rest, None), |(dsn, pid)| (dsn, Some(pid)));
    Ok(Target { name: name.to_owned(), dsn: dsn.to_owned(), pid })
}

fn run(options: &Options) -> Result<()> {
    println!(
        "{:<16}{:>6}{:>12}{:>10}{:>10}{:>10}{:>10}{:>14}",
        "target", "round", "per second", "p50", "p99", "p99.9", "max", "CPU us/stmt"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for round in 1..=options.rounds {
        for target in &options.targets {
            let measured = runtime.block_on(measure(options, target));
            let (latencies, seconds, cpu) = measured.with_context(|| target.name.clone())?;
            let statements = latencies.len();
            let us = |ns: u64| ns as f64 / 1000.0;
            println!(
                "{:<16}{round:>6}{:>12.0}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>14}",
                target.name,
                statements as f64 / seconds,
                us(latencies.value_at_quantile(0.5)),
                us(latencies.value_at_quantile(0.99)),
                us(latencies.value_at_quantile(0.999)),
                us(latencies.max()),
                cpu.map_or_else(|| "-".to_owned(), |ns| format!("{:.2}", us(ns) / statements.max(1) as f64)),
            );
        }
    }
    Ok(())
}

async fn measure(options: &Options, target: &Target) -> Result<(Histogram<u64>, f64, Option<u64>)> {
    let mut config: tokio_postgres::Config = target.dsn.parse().context("connection string")?;
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config.password(password);
    }
    let mut clients = Vec::new();
    for _ in 0..options.clients {
        let (client, connection) = config.connect(NoTls).await.context("connect")?;
        // Its error is the client's next error too.
        tokio::spawn(async move { drop(connection.await) });
        clients.push(Arc::new(client));
    }
    // Everything that happens once (caches, prepared statements, page faults) is not measured.
    let warm = until(Duration::from_secs_f64(options.seconds / 10.0));
    all(&clients, options, warm).await?;
    let before = target.pid.map(cpu_ns).transpose()?;
    let began = Instant::now();
    let latencies = all(&clients, options, until(Duration::from_secs_f64(options.seconds))).await?;
    let seconds = began.elapsed().as_secs_f64();
    let after = target.pid.map(cpu_ns).transpose()?;
    let cpu = before.zip(after).map(|(b, a)| a.saturating_sub(b));
    Ok((latencies, seconds, cpu))
}

fn until(time: Duration) -> Instant {
    Instant::now() + time
}

/// All clients at once, until `end`; their latencies together, in nanoseconds.
async fn all(clients: &[Arc<Client>], options: &Options, end: Instant) -> Result<Histogram<u64>> {
    let mut running = tokio::task::JoinSet::new();
    for client in clients {
        running.spawn(one(client.clone(), options.mode, options.sql.clone(), end));
    }
    let mut total = Histogram::new(3)?;
    while let Some(done) = running.join_next().await {
        total.add(done.context("a client's task")??)?;
    }
    Ok(total)
}

async fn one(client: Arc<Client>, mode: Mode, sql: String, end: Instant) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let prepared = match mode {
        Mode::Prepared => Some(client.prepare(&sql).await.context("prepare")?),
        Mode::Simple | Mode::Extended => None,
    };
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(latencies);
        }
        match (&prepared, mode) {
            (Some(statement), _) => drop(client.query(statement, &[]).await?),
            (None, Mode::Simple) => drop(client.simple_query(&sql).await?),
            // Parse, Bind, Describe, Execute and Sync in one go.
            (None, _) => drop(client.query_typed(&sql, &[]).await?),
        }
        latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))?;
    }
}

/// CPU time of all threads of a process that are alive now, in nanoseconds (the first field of `schedstat`).
fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let path = thread?.path().join("schedstat");
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        sum += first.with_context(|| format!("{} has no number", path.display()))?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_may_name_a_process() {
        let t = target("gate=postgres://app@127.0.0.1:7432/shop@4711").expect("valid");
        assert_eq!(
            (t.name.as_str(), t.dsn.as_str(), t.pid),
            ("gate", "postgres://app@127.0.0.1:7432/shop", Some(4711))
        );
        let t = target("direct=postgres://app@127.0.0.1:5432/shop").expect("valid");
        assert_eq!((t.dsn.as_str(), t.pid), ("postgres://app@127.0.0.1:5432/shop", None));
        assert!(target("nonsense").is_err());
    }

    #[test]
    fn options_are_checked() {
        let parse = |line: &str| options(line.split(' ').map(str::to_owned));
        assert!(parse("--mode fast").is_err());
        assert!(parse("--clients 0 --target a=b").is_err());
        assert!(parse("--mode simple").is_err(), "no target");
        assert_eq!(parse("--target a=b --clients 3").expect("valid").expect("not help").clients, 3);
    }

    #[test]
    fn our_own_cpu_time_grows() {
        let before = cpu_ns(std::process::id()).expect("readable");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(30) {
            std::hint::spin_loop();
        }
        assert!(cpu_ns(std::process::id()).expect("readable") > before);
    }
}
