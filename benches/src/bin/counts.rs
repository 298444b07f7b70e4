//! `counts`: instructions and allocations of every hot loop, under callgrind.
//!
//! `counts --write FILE` writes the table, `counts --check FILE` compares with it. `counts --loop NAME` is what valgrind runs. Not
//! a measure of time. Without valgrind nothing is counted: it says so, and a check passes.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use benches::counts::{self, Table};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--loop", name] => counts::run(name).map(|units| println!("{units}")).map_err(Into::into),
        ["--write", file] => write(file),
        ["--check", file] => check(file),
        _ => Err("usage: counts --write FILE | --check FILE | --loop NAME".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: there is no valgrind.
fn count() -> Result<Option<Table>, Box<dyn Error>> {
    if !counts::available() {
        println!("counts: valgrind is not installed; nothing was counted");
        return Ok(None);
    }
    let table = counts::count(&std::env::current_exe()?, |name, c| {
        println!("{name:28} {:12.1} {:8.2} {}", c.instructions, c.allocations, c.unit);
    })?;
    Ok(Some(table))
}

fn write(file: &str) -> Result<(), Box<dyn Error>> {
    match count()? {
        Some(table) => Ok(std::fs::write(file, table.text())?),
        None => Err("the table was left as it is".into()),
    }
}

fn check(file: &str) -> Result<(), Box<dyn Error>> {
    let committed = Table::parse(&std::fs::read_to_string(file)?)?;
    let Some(now) = count()? else { return Ok(()) };
    if now.compiler != committed.compiler {
        println!("counts: the table is {}'s, this is {}", committed.compiler, now.compiler);
    }
    let (worse, better) = committed.compare(&now);
    for line in &better {
        println!("counts: better: {line}");
    }
    for line in &worse {
        eprintln!("counts: worse: {line}");
    }
    if worse.is_empty() {
        println!("counts: {} loops, none more than 3 % above {file}", now.counts.len());
        return Ok(());
    }
    Err(format!("{} finding(s); if they are meant: cargo xtask bench --counts", worse.len()).into())
}
