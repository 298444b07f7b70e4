//! The commands that need no running gateway: configurations, catalogue snapshots, tokens and passwords; and `reload`, which
//! sends a signal to one.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::json;

use crate::cli::{Failure, Format, ReloadArgs};
use crate::settings::{self, Options};
use crate::{config, rules, run, secret};

pub(crate) fn check(file: &Path, insecure_listen: bool, format: Format) -> anyhow::Result<ExitCode> {
    // A check must not do anything: commands secrets come from are not run.
    let options = Options { insecure_listen, run_commands: false, ..Options::process() };
    let mut out = std::io::stdout().lock();
    match settings::load(file, &options, None) {
        Ok(settings) => {
            let directory = &settings.directory;
            let connections = directory.connections.len() + usize::from(directory.any.is_some());
            let rules::Count { masks, blocks, observed, .. } = settings.rules;
            if format.json() {
                let found = json!({
                    "ok": true, "warnings": settings.warnings, "listeners": settings.listeners.len(),
                    "identities": directory.identities.len(), "connections": connections,
                    "masks": masks, "blocks": blocks, "observed": observed, "policy": directory.policy.revision,
                });
                writeln!(out, "{found}")?;
            } else {
                for warning in &settings.warnings {
                    writeln!(out, "warning: {warning}")?;
                }
                writeln!(
                    out,
                    "{}: ok: {} listeners, {} identities, {connections} connections, {masks} mask and {blocks} block rules \
                     ({observed} of them only observe), policy {}",
                    file.display(),
                    settings.listeners.len(),
                    directory.identities.len(),
                    directory.policy.revision,
                )?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(mistakes) if format.json() => {
            writeln!(out, "{}", json!({"ok": false, "mistakes": mistakes}))?;
            Ok(ExitCode::from(78))
        }
        Err(mistakes) => Err(Failure::from(mistakes).into()),
    }
}

pub(crate) fn schema(policy: bool) -> anyhow::Result<ExitCode> {
    let schema =
        if policy { schemars::schema_for!(rules::PolicyFile) } else { schemars::schema_for!(config::File) };
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&schema)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(file: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let written = settings::written(file, &Options::process()).map_err(Failure::from)?;
    let mut out = std::io::stdout().lock();
    let mut shown = Vec::new();
    for (path, mut file) in written.files {
        // Defaults live in these two: show them even where nothing was written.
        if shown.is_empty() {
            file.gateway.get_or_insert_default();
            file.record.get_or_insert_default();
        }
        shown.push((path, file));
    }
    if format.json() {
        let files: Vec<_> = shown.iter().map(|(path, file)| json!({"file": path, "config": file})).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&files)?)?;
    } else {
        for (path, file) in &shown {
            writeln!(out, "# {}\n{}", path.display(), serde_saphyr::to_string(file).context("write YAML")?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn snapshot(
    file: &Path,
    connection: &str,
    database: Option<String>,
    output: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    // Whether clients could reach us safely is not the question here.
    let options = Options { insecure_listen: true, ..Options::process() };
    let settings = settings::load(file, &options, None).map_err(Failure::from)?;
    let directory = &settings.directory;
    let found =
        if connection == "*" { directory.any.as_ref() } else { directory.connections.get(connection) };
    let Some(found) = found else {
        let mut known: Vec<&str> = directory.connections.keys().map(String::as_str).collect();
        known.extend(directory.any.iter().map(|_| "*"));
        known.sort_unstable();
        bail!("there is no connection `{connection}`; there are: {}", known.join(", "));
    };
    let Some(database) = database.or_else(|| found.database.clone()) else {
        bail!("the connection `*` has no database of its own: say --database NAME");
    };
    let catalog = side::catalogue::load(found, &database)
        .map_err(|error| Failure::Unreachable(format!("{}: {error}", found.target)))?;
    let text = side::catalogue::snapshot_to_json(&catalog).context("write the snapshot")?;
    match output {
        None => writeln!(std::io::stdout().lock(), "{text}")?,
        Some(path) => {
            std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
            let columns: usize = catalog.tables.iter().map(|t| t.columns.len()).sum();
            eprintln!("{}: {} tables, {columns} columns", path.display(), catalog.tables.len());
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn reload(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let state = match (&args.state, &args.config) {
        _ if args.pid.is_some() => None,
        (Some(state), _) => Some(state.clone()),
        (None, Some(config)) => {
            // What the gateway would refuse is said here, where somebody is looking.
            let options = Options { insecure_listen: true, run_commands: false, ..Options::process() };
            Some(settings::load(config, &options, None).map_err(Failure::from)?.state)
        }
        (None, None) => Some(PathBuf::from(settings::STATE_DEFAULT)),
    };
    let number = match (args.pid, state) {
        (Some(pid), _) => pid,
        (None, state) => {
            let path = state.unwrap_or_default().join(run::PID_FILE);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("no gateway is running here: {}", path.display()))?;
            text.trim().parse().with_context(|| format!("{} holds no process id", path.display()))?
        }
    };
    let Some(pid) = rustix::process::Pid::from_raw(number).filter(|_| number > 1) else {
        bail!("{number} is not a process id");
    };
    match rustix::process::kill_process(pid, rustix::process::Signal::HUP) {
        Ok(()) => {}
        Err(rustix::io::Errno::PERM) => {
            return Err(Failure::NotPermitted(format!("process {number} belongs to somebody else")).into());
        }
        Err(error) => bail!("process {number}: {error}"),
    }
    writeln!(
        std::io::stdout().lock(),
        "process {number} was asked to reload; its log and the record (`lockgate record export`) say how that went"
    )?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn token_hash() -> anyhow::Result<ExitCode> {
    let token = from_stdin("token")?;
    if token.len() < settings::TOKEN_BYTES_MIN {
        bail!("a token of less than {} characters can be guessed", settings::TOKEN_BYTES_MIN);
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    writeln!(std::io::stdout().lock(), "{hex}")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn password_hash() -> anyhow::Result<ExitCode> {
    let password = from_stdin("password")?;
    if password.is_empty() {
        bail!("the password is empty");
    }
    let verifier = settings::derive(&password).map_err(anyhow::Error::msg)?;
    writeln!(std::io::stdout().lock(), "{}", side::desk::verifier_to_text(&verifier))?;
    Ok(ExitCode::SUCCESS)
}

/// Never an argument: those are visible to everybody on the machine.
fn from_stdin(what: &str) -> anyhow::Result<zeroize::Zeroizing<String>> {
    let mut input = std::io::stdin().lock();
    if input.is_terminal() {
        eprintln!("Type the {what}, then Enter and Ctrl-D (it is shown as you type; a pipe is better).");
    }
    secret::take(&mut input).map_err(anyhow::Error::msg).with_context(|| format!("read the {what}"))
}

pub(crate) fn version(format: Format) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if format.json() {
        writeln!(out, "{}", json!({"name": "lockgate", "version": env!("CARGO_PKG_VERSION")}))?;
    } else {
        writeln!(out, "lockgate {}", env!("CARGO_PKG_VERSION"))?;
    }
    Ok(ExitCode::SUCCESS)
}
