//! The log: for people on a terminal, JSON lines everywhere else. `LOCKGATE_LOG` chooses what is in it (`info`, `debug`,
//! `engine=debug`, …). No secret, statement or row is ever logged; those belong to the record.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; true: to a person.
pub(crate) fn start() -> bool {
    let person = std::io::stdout().is_terminal();
    let wanted = std::env::var("LOCKGATE_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
        eprintln!("lockgate: LOCKGATE_LOG={wanted} is not understood ({error}); logging `info`");
        EnvFilter::new("info")
    });
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stdout);
    // A second start (a test, the demo) keeps the first.
    let _ = if person {
        base.compact().with_target(false).try_init()
    } else {
        base.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    person
}
