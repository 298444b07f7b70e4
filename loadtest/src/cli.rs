//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::stub::auth::Method;
use crate::workload::Mode;

/// Load for anything that speaks PostgreSQL; what it costs, side by side
///
/// Without a command: the canonical comparison of the proxies installed here (pgbouncer, haproxy, lockgate), each in front of a stub
/// server and, where PostgreSQL is installed, in front of a PostgreSQL of its own. Nothing that runs already is touched.
#[derive(Parser)]
#[command(name = "loadtest", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) canonical: Canonical,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Put one workload on targets of yours, in turns
    Run(Run),
    /// Be a fake PostgreSQL with canned answers
    Stub(Stub),
    /// Take down a real answer for the stub to replay
    RecordAnswer(RecordAnswer),
}

#[derive(Args)]
pub(crate) struct Output {
    /// Write all measurements and their conditions as JSON
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with plots; it needs nothing but itself
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Canonical {
    /// Few and short measurements: under a minute, to see that all is there
    #[arg(long)]
    pub(crate) quick: bool,
    /// Repetitions, interleaved [default: 5; quick: 1]
    #[arg(long, value_name = "N")]
    pub(crate) reps: Option<usize>,
    /// Measured seconds of each [default: 1.5; quick: 0.4]
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<f64>,
    /// Only sections whose id contains this (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Vec<String>,
    /// Leave out targets whose name contains this (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub(crate) without: Vec<String>,
    /// What ratios are to [default: pgbouncer, else haproxy, else direct]
    #[arg(long, value_name = "TARGET")]
    pub(crate) baseline: Option<String>,
    /// The lockgate to measure [default: beside this program, else on PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) lockgate: Option<PathBuf>,
    /// Its acceptance configurations [default: deploy/acceptance, looked for upwards]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) acceptance: Option<PathBuf>,
    /// Rows of bulk results [default: 1000000; quick: 100000]
    #[arg(long, value_name = "N")]
    pub(crate) rows: Option<u64>,
    /// Do not start a PostgreSQL, even if there is one
    #[arg(long)]
    pub(crate) no_postgres: bool,
    /// Priority of everything started (needs root below 0)
    #[arg(long, value_name = "N", default_value_t = -10, allow_negative_numbers = true)]
    pub(crate) nice: i32,
}

#[derive(Args)]
pub(crate) struct Run {
    /// NAME=postgres://USER[:PASSWORD]@HOST:PORT/DB[?sslmode=require][@PID|@pidfile:PATH] (repeatable)
    ///
    /// The process, with its children, is whose CPU and memory is read. The password may come from PGPASSWORD instead. A unix socket:
    /// postgres:///DB?host=/folder
    #[arg(long = "target", value_name = "TARGET", required = true)]
    pub(crate) targets: Vec<String>,
    /// What a request is
    #[arg(long, value_enum, default_value_t = Mode::Simple)]
    pub(crate) mode: Mode,
    /// The statement (repeatable: taken at random); {1-100000} is a random number [default: select 1]
    #[arg(long, value_name = "SQL")]
    pub(crate) sql: Vec<String>,
    /// Statements, one per line, taken at random
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Connections
    #[arg(long, short, value_name = "N", default_value_t = 16)]
    pub(crate) clients: usize,
    /// Requests under way per connection [default: 1; pipelined: 16]
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
    /// Open loop: so many requests per second over all connections; latency from when each was due
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// Measured seconds
    #[arg(long, short, value_name = "S", default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Unmeasured seconds before [default: a tenth of the measured]
    #[arg(long, value_name = "S")]
    pub(crate) warm: Option<f64>,
    /// So many requests instead of seconds, all of them measured
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "warm"])]
    pub(crate) requests: Option<u64>,
    /// Repetitions, interleaved
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) reps: usize,
    /// Threads of load, the connections shared among them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// Cores for the load, such as 0 or 0-2,5 [default: wherever]
    #[arg(long, value_name = "CORES")]
    pub(crate) cores: Option<String>,
    /// What ratios are to [default: the first target]
    #[arg(long, value_name = "NAME")]
    pub(crate) baseline: Option<String>,
}

#[derive(Args)]
pub(crate) struct Stub {
    /// Where to listen; port 0 takes a free one. The address is the first line of output
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// JSON lines: {"text" or "contains": …, and "columns" and "rows", or "replay": FILE, or "generate": ROWS}
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
    /// A recorded answer (record-answer) for statements that contain TEXT (repeatable)
    #[arg(long, value_name = "TEXT=FILE")]
    pub(crate) replay: Vec<String>,
    /// Rows of the built-in table `customers`, in SELECT and COPY
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) rows: u64,
    /// What its columns say their table's oid is (TABLE: customers or pgbench_accounts; repeatable) [default: none]
    #[arg(long, value_name = "TABLE=OID")]
    pub(crate) origin: Vec<String>,
    /// How clients prove who they are
    #[arg(long, value_enum, default_value_t = Method::Trust)]
    pub(crate) auth: Method,
    /// Everybody's password
    #[arg(long, value_name = "TEXT", default_value = "bench")]
    pub(crate) password: String,
    /// Offer TLS, with a certificate made on the spot unless one is given
    #[arg(long)]
    pub(crate) tls: bool,
    /// PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct RecordAnswer {
    /// postgres://USER[:PASSWORD]@HOST:PORT/DB
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: String,
    #[arg(long, value_name = "SQL")]
    pub(crate) sql: String,
    /// Where the bytes go
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  loadtest --html report.html                        compare what is installed
  loadtest --quick --only simple                     a first look, in seconds
  loadtest run --mode prepared --clients 64 \\
      --target direct=postgres://app@127.0.0.1:5432/shop \\
      --target gate=postgres://app@127.0.0.1:7432/shop@$(pidof lockgate) --baseline direct
  loadtest run --rate 2000 --sql 'select * from t where id = {1-100000}' \\
      --target postgres://app@127.0.0.1/shop
  loadtest run --mode bulk --requests 3 --sql 'select * from customers' \\
      --target postgres://app@127.0.0.1/shop
  loadtest stub --listen 127.0.0.1:6000 --tls        something fast to put a proxy in front of
  loadtest record-answer --sql 'select * from t' -o t.bin --target postgres://app@127.0.0.1/shop
  loadtest stub --replay 'from t=t.bin'

Exit codes: 0 all measured, 1 could not be done, 2 wrong usage,
3 measured, but requests failed or a target could not be";
