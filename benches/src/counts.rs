//! Instructions and allocations per unit of work, counted under callgrind: a gate that a busy machine cannot blur.
//!
//! Each loop runs in a process of its own, so that adding one does not move the heap under the others. Only what happens inside
//! [`counted`], on its thread, is collected: no set-up, no drainer. Counts belong to a compiler and to what the CPU offers
//! (valgrind shows programs at most AVX2); the table names the compiler, and says so when it is another.
//!
//! Not a measure of time: a cache miss costs no instruction, and an instruction of SHA-256 costs what any costs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::{Loop, Seen, Size, loops};

/// A rise by more than this is a finding.
pub const RISE_MAX: f64 = 0.03;

/// How often a loop is called at most while it is counted.
const CALLS_MAX: u64 = 400;

/// What callgrind is told to collect: the name of the function below, hash and all.
const COUNTED: &str = "*benches*counted*";
const HEADER: &str = "# Instructions and allocations per unit, under callgrind: cargo xtask bench --counts\n";

/// The part of a run that is counted.
#[inline(never)]
fn counted(call: &mut dyn FnMut(&mut Seen), calls: u64, seen: &mut Seen) {
    for _ in 0..calls {
        call(seen);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CountError {
    #[error("no loop is called {0}")]
    NoLoop(String),
    #[error("valgrind: {0}")]
    Start(#[from] std::io::Error),
    #[error("{name}: valgrind ended with {status}: {stderr}")]
    Failed { name: &'static str, status: std::process::ExitStatus, stderr: String },
    #[error("{0}: callgrind collected nothing inside `counted`")]
    Nothing(&'static str),
    #[error("line {0} of the table is not `loop instructions allocations unit`")]
    Malformed(usize),
}

/// What valgrind runs: warms one loop up, then the part that is counted. Returns how many units that was.
///
/// # Errors
/// [`CountError::NoLoop`].
pub fn run(name: &str) -> Result<u64, CountError> {
    let wanted = loops().find(|l| l.name == name).ok_or_else(|| CountError::NoLoop(name.to_owned()))?;
    let mut running = (wanted.make)(Size::Full);
    let at_once = running.pause.as_ref().map_or(u64::MAX, |p| p.calls);
    let calls = (4_000 / running.units).clamp(4, CALLS_MAX).min(at_once);
    let mut seen = Seen::measuring();
    // Buffers reach their size and caches their content before anything is counted.
    for _ in 0..calls.div_ceil(4) {
        (running.call)(&mut seen);
    }
    if let Some(pause) = &mut running.pause {
        (pause.settle)();
    }
    counted(&mut running.call, calls, &mut seen);
    std::hint::black_box(&seen);
    Ok(calls * running.units)
}

/// Per unit of work.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub instructions: f64,
    pub allocations: f64,
    pub unit: String,
}

/// Loop → count, and the compiler it was counted for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub compiler: String,
    pub counts: BTreeMap<String, Count>,
}

/// True when there is a valgrind to ask.
pub fn available() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Counts every loop; `program` takes `--loop NAME` and answers with [`run`]. `said` hears of each as it is done.
///
/// # Errors
/// The first that fails.
pub fn count(program: &Path, mut said: impl FnMut(&str, &Count)) -> Result<Table, CountError> {
    let mut table = Table { compiler: compiler(), counts: BTreeMap::new() };
    for l in loops() {
        let count = count_one(program, l)?;
        said(l.name, &count);
        table.counts.insert(l.name.to_owned(), count);
    }
    Ok(table)
}

fn count_one(program: &Path, l: &Loop) -> Result<Count, CountError> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(&out);
    let output = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(file)
        .arg(program)
        .args(["--loop", l.name])
        .output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CountError::Failed { name: l.name, status: output.status, stderr });
    }
    let units: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0);
    let (instructions, allocations) = totals(&std::fs::read_to_string(&out)?);
    if units == 0 || instructions == 0 {
        return Err(CountError::Nothing(l.name));
    }
    let per = |n: u64| n as f64 / units as f64;
    Ok(Count { instructions: per(instructions), allocations: per(allocations), unit: l.unit.to_owned() })
}

/// Instructions and calls of the allocator in a callgrind file (format: valgrind manual, "Callgrind Format Specification").
fn totals(file: &str) -> (u64, u64) {
    let (mut instructions, mut allocations) = (0, 0);
    // A name stands beside its number the first time and is left out later: `cfn=(12) malloc`, `cfn=(12)`.
    let mut names: HashMap<&str, bool> = HashMap::new();
    let allocators: HashSet<&str> =
        ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"].into();
    let mut into_allocator = false;
    let mut inside = false;
    for line in file.lines() {
        if let Some(rest) = line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:")) {
            instructions = rest.trim().parse().unwrap_or(instructions);
        } else if let Some((called, id)) = line
            .strip_prefix("cfn=")
            .map(|id| (true, id))
            .or_else(|| line.strip_prefix("fn=").map(|id| (false, id)))
        {
            let (id, name) = id.split_once(' ').unwrap_or((id, ""));
            let known = names.entry(id).or_default();
            if !name.is_empty() {
                *known = allocators.contains(name);
            }
            if called {
                into_allocator = *known;
            } else {
                inside = *known;
            }
        } else if let Some(calls) = line.strip_prefix("calls=") {
            // realloc may call malloc: one allocation.
            if std::mem::take(&mut into_allocator) && !inside {
                allocations += calls.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            }
        }
    }
    (instructions, allocations)
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    said.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

impl Table {
    pub fn text(&self) -> String {
        let mut out = format!("{HEADER}# {}\n", self.compiler);
        for (name, c) in &self.counts {
            let (instructions, allocations) = (c.instructions, c.allocations);
            let _infallible = writeln!(out, "{name:28} {instructions:12.1} {allocations:8.2} {}", c.unit);
        }
        out
    }

    /// # Errors
    /// [`CountError::Malformed`].
    pub fn parse(text: &str) -> Result<Table, CountError> {
        let mut table = Table::default();
        for (number, line) in text.lines().enumerate() {
            if let Some(comment) = line.strip_prefix("# ") {
                if comment.starts_with("rustc ") {
                    table.compiler = comment.to_owned();
                }
                continue;
            }
            let mut words = line.split_whitespace();
            let mut next = || words.next().ok_or(CountError::Malformed(number + 1));
            let name = next()?.to_owned();
            let mut number_of = || next()?.parse().map_err(|_| CountError::Malformed(number + 1));
            let (instructions, allocations) = (number_of()?, number_of()?);
            let unit = words.collect::<Vec<_>>().join(" ");
            table.counts.insert(name, Count { instructions, allocations, unit });
        }
        Ok(table)
    }

    /// What changed for the worse from `self` to `now`, and what changed for the better.
    pub fn compare(&self, now: &Table) -> (Vec<String>, Vec<String>) {
        let (mut worse, mut better) = (Vec::new(), Vec::new());
        for (name, new) in &now.counts {
            let Some(old) = self.counts.get(name) else {
                worse.push(format!("{name}: not in the table"));
                continue;
            };
            let (was, is) = (old.instructions, new.instructions);
            let change = format!("{name}: {was:.1} -> {is:.1} instructions per {} ({:+.1} %)", new.unit, {
                (is / was - 1.0) * 100.0
            });
            if is > was * (1.0 + RISE_MAX) {
                worse.push(change);
            } else if is < was * (1.0 - RISE_MAX) {
                better.push(change);
            }
            let (was, is) = (old.allocations, new.allocations);
            // The table has two digits; growing tables make fractions of an allocation, and so do caches that are hashed at random:
            // then it is a draw, allowed three standard deviations.
            let part = was.fract();
            let chance = 3.0 * (part * (1.0 - part) / CALLS_MAX as f64).sqrt();
            if is > was * (1.0 + RISE_MAX) + 0.02 + chance {
                worse.push(format!("{name}: {was:.2} -> {is:.2} allocations per {}", new.unit));
            }
        }
        for name in self.counts.keys().filter(|n| !now.counts.contains_key(*n)) {
            worse.push(format!("{name}: in the table, and no such loop any more"));
        }
        (worse, better)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocator_calls_are_added_up_and_nested_ones_left_out() {
        let file = "events: Ir\nfn=(1) benches::counted\n5 10\ncfn=(2) malloc\ncalls=7 0\n5 70\ncfn=(3) memcpy\ncalls=9 0\n5 9\n\
            fn=(4) other\ncfn=(2)\ncalls=2 0\n6 20\ncfn=(5) realloc\ncalls=1 +3\n6 5\n\
            fn=(5)\ncfn=(2)\ncalls=1 0\n7 5\nfn=(2)\n8 90\n\ntotals: 123\n";
        assert_eq!(totals(file), (123, 10));
    }

    fn table(instructions: f64, allocations: f64) -> Table {
        let count = Count { instructions, allocations, unit: "round trip".into() };
        Table { compiler: "rustc 1.95.0".into(), counts: BTreeMap::from([("flow/x".into(), count)]) }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let written = table(1234.5, 2.25);
        assert_eq!(Table::parse(&written.text()).unwrap(), written);
        assert!(Table::parse("flow/x many 1 row").is_err());
        assert!(Table::parse("flow/x 12").is_err());
    }

    #[test]
    fn a_rise_over_three_percent_is_found_and_a_fall_is_said() {
        let before = table(1000.0, 2.0);
        let bad = |now: &Table| before.compare(now).0.len();
        assert_eq!(bad(&table(1029.0, 2.0)), 0);
        assert_eq!(bad(&table(1031.0, 2.0)), 1);
        assert_eq!(bad(&table(1000.0, 3.0)), 1);
        assert_eq!(bad(&table(1000.0, 2.1)), 1);
        let drawn = table(1000.0, 0.06);
        assert_eq!(drawn.compare(&table(1000.0, 0.10)).0.len(), 0, "three standard deviations");
        assert_eq!(drawn.compare(&table(1000.0, 0.13)).0.len(), 1);
        let (worse, better) = before.compare(&table(900.0, 2.0));
        assert_eq!((worse.len(), better.len()), (0, 1));
        assert_eq!(bad(&Table::default()), 1, "a loop that is gone");
        assert_eq!(Table::default().compare(&before).0.len(), 1, "a loop that is new");
    }

    #[test]
    fn the_committed_table_has_every_loop() {
        let committed = Table::parse(include_str!("../counts.txt")).unwrap();
        let names: Vec<_> = committed.counts.keys().cloned().collect();
        let mut wanted: Vec<_> = loops().map(|l| l.name.to_owned()).collect();
        wanted.sort();
        assert_eq!(names, wanted, "cargo xtask bench --counts writes the table anew");
    }
}
