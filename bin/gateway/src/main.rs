//! The binary `lockgate`: config → settings → assemble → run → drain, and the commands around it.
//!
//! Exit codes: 0 ok · 1 failed while running · 2 wrong usage · 3 the record is not sound · 69 a target cannot be reached ·
//! 77 not permitted · 78 the configuration is wrong.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod assemble;
mod cli;
mod config;
mod demo;
mod doctor;
mod explain;
mod logging;
mod look;
mod mistake;
mod policies;
mod rules;
mod run;
mod secret;
mod settings;
mod sql;
mod suggest;
mod tls;
mod tools;
mod units;
mod upstream;
mod yaml;

fn main() -> ExitCode {
    let args = cli::Cli::parse();
    match cli::dispatch(args) {
        Ok(code) => code,
        Err(error) => cli::explain(&error),
    }
}
