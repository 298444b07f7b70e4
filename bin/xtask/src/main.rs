//! `cargo xtask`: one word for everything people and CI do to this repository.
//!
//! Not a build system: each verb prints the commands it runs, and each of them works when typed by hand.
//! Invariant: no dependency but `anyhow`, so that the first command of the README starts within seconds.
#![forbid(unsafe_code)]

mod license;
mod setup;
mod tidy;

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask VERB

  demo [ARGS]   build lockgate and run `lockgate demo` (try: cargo xtask demo --tour)
  test [ARGS]   run every test, with PostgreSQL servers of its own; ARGS go to `cargo test`
  setup         check for what the build and the tests need; installs it with apt-get when root
  lint          cargo fmt --check, clippy without warnings, cargo-deny when it is installed
  tidy          what no compiler checks: import table, README map, unsafe, licences, housekeeping
  tidy --bless  rewrite the lists in bin/xtask/lists that a reviewer reads
  ci            lint, tidy, test, bench --check: what .ci/run runs
  bench [ARGS]  micro-benchmarks; ARGS go to criterion
  bench --counts  count instructions under valgrind and write benches/counts.txt
  bench --check   count, and fail where that table is exceeded by more than 3 %
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let done = root().and_then(|root| {
        std::env::set_current_dir(&root).context("enter the repository")?;
        match verb.as_str() {
            "demo" => demo(&rest),
            "test" => test(&rest),
            "setup" => setup::check(setup::Need::Tests),
            "lint" => lint(),
            "tidy" => tidy::run(&root, rest.first().is_some_and(|a| a == "--bless")),
            "ci" => lint()
                .and_then(|()| tidy::run(&root, false))
                .and_then(|()| test(&[]))
                .and_then(|()| bench(&["--check".to_owned()])),
            "bench" => bench(&rest),
            "" | "help" | "-h" | "--help" => {
                print!("{HELP}");
                Ok(())
            }
            other => bail!("no such verb: {other}\n\n{HELP}"),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {verb}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &[String]) -> Result<()> {
    setup::check(setup::Need::Build)?;
    cargo("build", ["build", "--release", "-p", "gateway", "--bin", "lockgate"])?;
    // exec, so that Ctrl-C and signals reach lockgate itself. The build above made this a start, not a build.
    let error = command(["run", "--quiet", "--release", "-p", "gateway", "--bin", "lockgate", "--", "demo"])
        .args(args)
        .exec();
    Err(error).context("start lockgate demo")
}

fn test(args: &[String]) -> Result<()> {
    setup::check(setup::Need::Tests)?;
    // The end-to-end tests start target/debug/lockgate; cargo builds it for them because it is a binary of their package.
    cargo("test", ["test", "--workspace"].into_iter().chain(strs(args)))?;
    if args.is_empty() {
        // Not part of `--workspace`'s default: benches run once each on tiny inputs, so that they cannot rot.
        cargo("benches in smoke mode", ["test", "-p", "benches", "--benches"])?;
    }
    Ok(())
}

fn bench(args: &[String]) -> Result<()> {
    let counts = |to: &str| {
        let run = ["run", "--quiet", "--release", "-p", "benches", "--bin", "counts", "--", to, COUNTS];
        cargo("instruction counts", run)
    };
    match args {
        [only] if only == "--counts" => counts("--write"),
        [only] if only == "--check" => counts("--check"),
        _ => cargo("bench", ["bench", "-p", "benches", "--benches", "--"].into_iter().chain(strs(args))),
    }
}

/// The committed table of instructions per unit of work.
const COUNTS: &str = "benches/counts.txt";

fn lint() -> Result<()> {
    cargo("fmt", ["fmt", "--all", "--check"])?;
    cargo("clippy", ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // Building cargo-deny takes minutes; what it would say of licences, bans and sources, `tidy` says from `cargo tree`. Where it
    // is installed it is asked too, as the better-known witness. Advisories need the network and are CI's own business.
    let installed = command(["deny", "--version"]).output().is_ok_and(|o| o.status.success());
    if installed {
        cargo("deny", ["deny", "check", "licenses", "bans", "sources"])
    } else {
        println!(
            "xtask: cargo-deny is not installed; `cargo xtask tidy` checks licences, bans and sources itself"
        );
        Ok(())
    }
}

/// Runs cargo, says so first, and how long it took after.
fn cargo<S: AsRef<OsStr>>(what: &str, args: impl IntoIterator<Item = S>) -> Result<()> {
    let mut command = command(args);
    println!("xtask: {}", shown(&command));
    let began = Instant::now();
    let status = command.status().with_context(|| format!("start {}", shown(&command)))?;
    println!("xtask: {what}: {} after {:.1} s", if status.success() { "ok" } else { "FAILED" }, {
        began.elapsed().as_secs_f32()
    });
    if status.success() { Ok(()) } else { bail!("{} failed ({status})", shown(&command)) }
}

/// cargo itself, without what the cargo that started us has set for this very package.
fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

fn shown(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    format!("cargo {}", args.join(" "))
}

fn strs(args: &[String]) -> impl Iterator<Item = &str> {
    args.iter().map(String::as_str)
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).context("bin/xtask has no grandparent")?;
    Ok(root.to_path_buf())
}
