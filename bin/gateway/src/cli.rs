//! The command line: what can be asked, and which exit code an answer has. The work is elsewhere.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::mistake::Mistake;
use crate::{demo, doctor, explain, look, policies, run, sql, suggest, tools};

/// A gateway in front of PostgreSQL that masks columns, blocks statements and records everything.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a database, a gateway and a policy in one command.
    Demo(demo::DemoArgs),
    /// Start the gateway.
    Run(RunArgs),
    /// Send SQL through a gateway, for machines without psql.
    Sql(sql::SqlArgs),
    /// Check, explain and show configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Try rules out, without a gateway or a database.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Explain a decision of the past: the number in a refusal, or in the record.
    Why(WhyArgs),
    /// What lockgate knows of a database's tables.
    #[command(subcommand)]
    Catalogue(CatalogueCommand),
    /// Export and verify the record.
    #[command(subcommand)]
    Record(RecordCommand),
    /// List sessions.
    Sessions(SessionsArgs),
    /// Show what happened in a session, in order.
    Replay(ReplayArgs),
    /// Propose an allow-list of statements from what somebody has sent.
    Suggest(SuggestArgs),
    /// Make a running gateway read its configuration again.
    Reload(ReloadArgs),
    /// Look at this machine: io_uring, limits, kernel.
    Doctor(Format),
    /// Tokens for identities.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Passwords for identities.
    #[command(subcommand)]
    Password(PasswordCommand),
    /// Which version this is.
    Version(Format),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "LOCKGATE_CONFIG")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// Allow listeners without TLS on addresses others can reach.
    #[arg(long)]
    pub(crate) insecure_listen: bool,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a configuration and everything it names. Exit code 78 when something is wrong.
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Allow listeners without TLS on addresses others can reach.
        #[arg(long)]
        insecure_listen: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Print the JSON schema of configuration files, for editors.
    Schema {
        /// The schema of policy files instead.
        #[arg(long)]
        policy: bool,
    },
    /// Print a configuration as it was read.
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// With every default filled in (it always is; accepted for clarity).
        #[arg(long)]
        effective: bool,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Run the `tests:` of policy files. Exit code 3 when one does not pass.
    Test(PolicyTestArgs),
    /// Say what would become of a statement, and why.
    Explain(PolicyExplainArgs),
    /// List the sensitive columns somebody can see in clear, with a statement that shows each. Exit code 3 when there is one.
    Reach(PolicyReachArgs),
}

/// Rules, and what is known of the tables they speak of.
#[derive(Debug, Args)]
pub(crate) struct Offline {
    /// The gateway's configuration: its rules, identities, connections and catalogue files.
    #[arg(short, long, value_name = "FILE", env = "LOCKGATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Policy files by themselves; may be given several times, and wins over a configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Vec<PathBuf>,
    /// A catalogue snapshot (`lockgate catalogue snapshot`) for every connection.
    #[arg(long, value_name = "FILE")]
    pub(crate) catalogue: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyTestArgs {
    #[command(flatten)]
    pub(crate) from: Offline,
    /// Also write the results to this file, as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Who asks, and where.
#[derive(Debug, Args)]
pub(crate) struct Asker {
    /// An identity of the configuration, `group:NAME`, or `NAME,group:A,group:B`.
    #[arg(long = "as", value_name = "WHO")]
    pub(crate) who: String,
    /// The connection.
    #[arg(long, value_name = "CONNECTION")]
    pub(crate) on: String,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyExplainArgs {
    /// The statement; `-` reads it from standard input.
    #[arg(long)]
    pub(crate) sql: String,
    #[command(flatten)]
    pub(crate) asker: Asker,
    #[command(flatten)]
    pub(crate) from: Offline,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyReachArgs {
    #[command(flatten)]
    pub(crate) asker: Asker,
    #[command(flatten)]
    pub(crate) from: Offline,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The decision's id, as a refusal says it: n8q2m7b1-17.
    pub(crate) decision: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
enum CatalogueCommand {
    /// Read the catalogue of a connection's database and print it.
    Snapshot {
        connection: String,
        #[command(flatten)]
        file: ConfigFile,
        /// The database, on the connection `*`.
        #[arg(long)]
        database: Option<String>,
        /// Write to this file instead.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Where the record is: a state directory, or the configuration that names it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The gateway's state directory; wins over a configuration.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The gateway's configuration file.
    #[arg(short, long, value_name = "FILE", env = "LOCKGATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum RecordCommand {
    /// Print the whole record.
    Export {
        #[command(flatten)]
        place: Place,
        #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
    },
    /// Check that nothing in the record was changed or removed. Exit code 3 when something was.
    Verify {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExportFormat {
    Jsonl,
}

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A session's id, the end of one, a decision's id, or `last`.
    pub(crate) session: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) format: Format,
}

/// Propose an allow-list of statements from what somebody has sent.
///
/// Observe: let the identity work for as long as it takes to see everything it does; the record has it all. Propose: this command
/// prints a policy file with the shape of each statement that was allowed, literals left out, and says what it left out itself. Read
/// it and name it under `policies:`; its rule is in `mode: observe`, so the record says what it would refuse. Enforce: when nothing
/// more is, write `mode: enforce`. Exit code 1 when there is nothing to learn from, 3 when parts of the record are damaged.
#[derive(Debug, Args)]
pub(crate) struct SuggestArgs {
    /// The identity, as the record names it.
    #[arg(long = "as", value_name = "IDENTITY")]
    pub(crate) identity: String,
    /// Only what was sent on this connection; the rule holds there only.
    #[arg(long, value_name = "CONNECTION")]
    pub(crate) on: Option<String>,
    /// Only what was sent since then: a day (2026-11-01, UTC), or how long ago (30d, 12h).
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Leave out what was seen fewer times.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) min_count: u64,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Write to this file instead.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// The gateway's process.
    #[arg(long, conflicts_with = "state")]
    pub(crate) pid: Option<i32>,
    /// The gateway's state directory, where its process id is.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Its configuration file: checked first, and the state directory is taken from it.
    #[arg(short, long, value_name = "FILE", env = "LOCKGATE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Read a token from standard input and print its SHA-256, for `tokens:`.
    Hash,
}

#[derive(Debug, Subcommand)]
enum PasswordCommand {
    /// Read a password from standard input and print its SCRAM-SHA-256 verifier, for `verifier:`.
    Hash,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

impl Format {
    pub(crate) fn json(self) -> bool {
        matches!(self.output, Output::Json)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// A failure with an exit code of its own.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 78, every mistake.
    Invalid(Vec<Mistake>),
    /// 69
    Unreachable(String),
    /// 77
    NotPermitted(String),
    /// 3
    Unsound(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Invalid(mistakes) => {
                for mistake in mistakes {
                    writeln!(f, "{mistake}")?;
                }
                let n = mistakes.len();
                write!(f, "{n} mistake{}", if n == 1 { "" } else { "s" })
            }
            Failure::Unreachable(text) | Failure::NotPermitted(text) | Failure::Unsound(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<Vec<Mistake>> for Failure {
    fn from(mistakes: Vec<Mistake>) -> Failure {
        Failure::Invalid(mistakes)
    }
}

pub(crate) fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Run(args) => run::run(&args),
        Command::Sql(args) => sql::run(args),
        Command::Config(ConfigCommand::Check { file, insecure_listen, format }) => {
            tools::check(&file.config, insecure_listen, format)
        }
        Command::Config(ConfigCommand::Schema { policy }) => tools::schema(policy),
        Command::Config(ConfigCommand::Show { file, effective: _, format }) => {
            tools::show(&file.config, format)
        }
        Command::Policy(PolicyCommand::Test(args)) => policies::test(&args),
        Command::Policy(PolicyCommand::Explain(args)) => explain::explain(&args),
        Command::Policy(PolicyCommand::Reach(args)) => explain::reach(&args),
        Command::Why(args) => policies::why(&args),
        Command::Catalogue(CatalogueCommand::Snapshot { connection, file, database, output }) => {
            tools::snapshot(&file.config, &connection, database, output.as_deref())
        }
        Command::Record(RecordCommand::Export { place, format: ExportFormat::Jsonl }) => look::export(&place),
        Command::Record(RecordCommand::Verify { place, format }) => look::verify(&place, format),
        Command::Sessions(args) => look::sessions(&args),
        Command::Replay(args) => look::replay(&args),
        Command::Suggest(args) => suggest::suggest(&args),
        Command::Reload(args) => tools::reload(&args),
        Command::Doctor(format) => doctor::doctor(format),
        Command::Token(TokenCommand::Hash) => tools::token_hash(),
        Command::Password(PasswordCommand::Hash) => tools::password_hash(),
        Command::Version(format) => tools::version(format),
    }
}

/// Says what went wrong on standard error; the exit code that goes with it.
pub(crate) fn explain(error: &anyhow::Error) -> ExitCode {
    // Whoever reads our output has seen enough (`lockgate record export | head`).
    let broken_pipe = error
        .chain()
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe);
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    let failure = error.chain().find_map(|e| e.downcast_ref::<Failure>());
    match failure {
        Some(failure @ Failure::Invalid(_)) => eprintln!("{failure}"),
        _ => eprintln!("lockgate: {error:#}"),
    }
    ExitCode::from(match failure {
        None => 1,
        Some(Failure::Unsound(_)) => 3,
        Some(Failure::Unreachable(_)) => 69,
        Some(Failure::NotPermitted(_)) => 77,
        Some(Failure::Invalid(_)) => 78,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
