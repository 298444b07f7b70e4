//! `lockgate run`: start, say so, obey signals, drain.
//!
//! SIGHUP reads the configuration again, all or nothing. SIGTERM and SIGINT stop accepting and let sessions end after their
//! running statement, for at most `gateway.drain`; a second one ends everything at once, as SIGQUIT does. SIGUSR1 and SIGUSR2
//! (pause, resume) are not there yet and say so instead of killing the process.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::assemble::{self, Gateway, Stopped};
use crate::cli::{Failure, RunArgs};
use crate::logging;
use crate::mistake::Mistake;
use crate::settings::{self, Options};

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let options = Options { insecure_listen: args.insecure_listen, ..Options::process() };
    let settings = settings::load(&args.file.config, &options, None).map_err(Failure::from)?;
    let person = logging::start();
    // Before the first thread: a signal must find us listening.
    let mut signals =
        Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2]).context("wait for signals")?;
    raise_file_limit();
    let warnings = settings.warnings.clone();
    let gateway = Arc::new(assemble::start(settings).map_err(permitted)?);
    let pid_file = PidFile::write(&gateway);
    summary(&gateway, person)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }

    watch_record(&gateway);

    let mut stopping: Option<std::thread::JoinHandle<Stopped>> = None;
    let handle = signals.handle();
    for signal in signals.forever() {
        match signal {
            SIGHUP => {
                // A thread: secrets may take their time, and a stop must not wait for them.
                let (gateway, file, insecure) =
                    (gateway.clone(), args.file.config.clone(), args.insecure_listen);
                std::thread::spawn(move || reload(&gateway, &file, insecure));
            }
            SIGUSR1 | SIGUSR2 => tracing::warn!("pause and resume are not there yet"),
            SIGTERM | SIGINT if stopping.is_none() => {
                let within = gateway.with_settings(|s| s.drain);
                tracing::info!(
                    within_ms = millis(within),
                    "stopping: sessions end after their running statement"
                );
                let (gateway, end) = (gateway.clone(), handle.clone());
                stopping = Some(std::thread::spawn(move || {
                    let how = gateway.stop(within);
                    end.close();
                    how
                }));
            }
            _ => {
                tracing::warn!("stopping now: every session is cut off");
                gateway.kill();
                if stopping.is_none() {
                    let (gateway, end) = (gateway.clone(), handle.clone());
                    stopping = Some(std::thread::spawn(move || {
                        let how = gateway.stop(Duration::ZERO);
                        end.close();
                        how
                    }));
                }
            }
        }
    }
    let how = stopping.and_then(|thread| thread.join().ok());
    drop(pid_file);
    tracing::info!(drained = how == Some(Stopped::Drained), "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Says when the record cannot be written, and when it can again: everything stops being served in between.
fn watch_record(gateway: &Arc<Gateway>) {
    let gateway = Arc::downgrade(gateway);
    std::thread::spawn(move || {
        let mut trouble = None;
        while let Some(gateway) = gateway.upgrade() {
            let now = gateway.record_trouble();
            drop(gateway);
            if now != trouble {
                match &now {
                    Some(why) => tracing::error!(why, "the record cannot be written"),
                    None => tracing::info!("the record is written again"),
                }
                trouble = now;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// Reads the whole configuration again and puts it in force, or says why the old one stays.
fn reload(gateway: &Gateway, file: &Path, insecure_listen: bool) {
    // One after the other, so that the newest file wins.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let options = Options { insecure_listen, ..Options::process() };
    let loaded = gateway.with_settings(|now| settings::load(file, &options, Some(now)));
    match loaded {
        Ok(new) => {
            let revision = new.directory.policy.revision.clone();
            for warning in &new.warnings {
                tracing::warn!("{warning}");
            }
            let waits = gateway.reload(new);
            for wait in &waits {
                tracing::warn!("{wait}");
            }
            let mut detail = format!("in force: policy {revision}");
            for wait in &waits {
                detail += &format!("; {wait}");
            }
            gateway.record("reload", &detail);
            tracing::info!(policy = revision, "configuration reloaded");
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                tracing::error!(
                    file = mistake.file,
                    line = mistake.line,
                    column = mistake.column,
                    "{}",
                    mistake.message
                );
            }
            let detail: Vec<String> = mistakes.iter().map(place).collect();
            gateway.record("reload refused", &detail.join("; "));
            tracing::error!(
                mistakes = mistakes.len(),
                "configuration not reloaded: the old one stays in force"
            );
        }
    }
}

fn place(mistake: &Mistake) -> String {
    format!("{}:{}:{}: {}", mistake.file, mistake.line, mistake.column, mistake.message)
}

/// What is running, once: a block for a person, one line of JSON for a program.
fn summary(gateway: &Gateway, person: bool) -> anyhow::Result<()> {
    let directory = gateway.directory();
    let (driver, why) = gateway.driver();
    let rules = gateway.rules();
    let listeners: Vec<String> = gateway.with_settings(|s| {
        let named = gateway.addresses().iter().zip(&s.listeners);
        named
            .map(|(a, l)| format!("postgres {a} ({})", if l.tls.is_some() { "TLS" } else { "no TLS" }))
            .collect()
    });
    let mut connections: Vec<String> = directory
        .connections
        .values()
        .chain(&directory.any)
        .map(|c| {
            format!(
                "{} → {} as {}{}",
                c.name,
                c.target,
                c.user,
                if c.target.tls.is_some() { " (TLS)" } else { "" }
            )
        })
        .collect();
    connections.sort();
    let record = gateway.with_settings(|s| s.record_home.join("record").display().to_string());
    if !person {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            driver,
            why_not_io_uring = why,
            workers = gateway.workers(),
            listeners = listeners.join(", "),
            connections = connections.join(", "),
            identities = directory.identities.len(),
            masks = rules.masks,
            blocks = rules.blocks,
            observed = rules.observed,
            policy = directory.policy.revision,
            record,
            "ready"
        );
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "lockgate {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  workers      {}, {driver}", gateway.workers())?;
    if let Some(why) = why {
        writeln!(out, "               not io_uring: {why}")?;
    }
    for (n, listener) in listeners.iter().enumerate() {
        writeln!(out, "  {:<12} {listener}", if n == 0 { "listeners" } else { "" })?;
    }
    for (n, connection) in connections.iter().enumerate() {
        writeln!(out, "  {:<12} {connection}", if n == 0 { "connections" } else { "" })?;
    }
    writeln!(out, "  {:<12} {}", "identities", directory.identities.len())?;
    writeln!(
        out,
        "  {:<12} {} mask, {} block; {} of them only observe; revision {}",
        "rules", rules.masks, rules.blocks, rules.observed, directory.policy.revision
    )?;
    writeln!(out, "  {:<12} {record}\n", "record")?;
    Ok(())
}

/// A gateway of thousands of clients needs two files for each: take what we are allowed.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Not allowed is not the same as not working: it has its own exit code.
fn permitted(error: anyhow::Error) -> anyhow::Error {
    let denied = error
        .chain()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    if denied { Failure::NotPermitted(format!("{error:#}")).into() } else { error }
}

/// The processors this process may run on.
pub(crate) fn processors() -> usize {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => usize::try_from(set.count()).unwrap_or(1).max(1),
        Err(_) => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `<state>/lockgate.pid`, for `lockgate reload`; gone when the gateway is. The record's lock is what keeps a second one out.
struct PidFile(std::path::PathBuf);

/// Its name in the state directory.
pub(crate) const PID_FILE: &str = "lockgate.pid";

impl PidFile {
    fn write(gateway: &Gateway) -> Option<PidFile> {
        let state = gateway.with_settings(|s| s.state.clone());
        let path = state.join(PID_FILE);
        let written = std::fs::create_dir_all(&state)
            .and_then(|()| std::fs::write(&path, format!("{}\n", std::process::id())));
        match written {
            Ok(()) => Some(PidFile(path)),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "cannot write the process id");
                None
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(%error, file = %self.0.display(), "cannot remove the process id");
        }
    }
}
