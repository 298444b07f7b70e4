//! The record: every entry a worker appended, in the page cache before `append` returns, in a chained log soon after.
//!
//! Not a database and not a search: readers walk. Reading order: [`ring`](self) (worker → page cache), `segment` (the log's
//! bytes), [`Ledger`] (who writes), [`read`] (who reads), [`jsonl`] (what people and programs see).
//!
//! Invariant: what `append` accepted is read back exactly once, whatever process was killed when; what cannot be recorded is
//! refused, so that what was to be recorded does not happen.

mod ledger;
#[expect(unsafe_code, reason = "a shared mapping has no safe form; this module is only that")]
mod map;
mod ring;
mod segment;

pub mod jsonl;
pub mod read;

pub use ledger::{Health, Ledger, LedgerError, Options};

use std::path::{Path, PathBuf};

/// Where the parts lie below a state directory.
struct Places {
    record: PathBuf,
    spool: PathBuf,
    log: PathBuf,
    lock: PathBuf,
}

impl Places {
    fn new(state: &Path) -> Places {
        let record = state.join("record");
        Places { spool: record.join("spool"), log: record.join("log"), lock: record.join("lock"), record }
    }
}

/// The ring files of a spool directory, by name. None when there is no such directory.
fn spools(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "ring") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}
