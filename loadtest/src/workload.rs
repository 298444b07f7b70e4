//! What is asked, how, how much at once, and until when. Builds the bytes of a request; sends nothing.
//!
//! Not a benchmark's schema: any statement, in which `{1-100000}` stands for a random number (a literal in the simple protocol, a
//! bound parameter in the others, so that the gateway sees what an application would send).
//! Invariant: building a request allocates nothing once its buffer has grown; every request ends in exactly one ReadyForQuery.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::wire;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Query messages
    Simple,
    /// Parse, Bind, Describe, Execute and Sync for every statement
    Extended,
    /// parsed once per connection; Bind, Describe, Execute and Sync for every statement
    Prepared,
    /// prepared, with several statements under way per connection (--depth, 16 unless told)
    Pipelined,
    /// simple; rows counted by walking frames, no cell decoded
    Bulk,
    /// simple; COPY … TO STDOUT, rows counted
    Copy,
    /// connect, log in, one statement, close
    Churn,
    /// connect, log in, one statement, then silence: memory per connection
    Idle,
}

impl Mode {
    /// What a measurement is divided by.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Mode::Simple | Mode::Extended | Mode::Prepared | Mode::Pipelined => "query",
            Mode::Bulk | Mode::Copy => "row",
            Mode::Churn | Mode::Idle => "connection",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// A connection asks again when it is answered.
    Closed,
    /// So many requests per second over all connections, whatever the target does.
    Open(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stop {
    After { warm: Duration, measured: Duration },
    Requests(u64),
}

#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) mode: Mode,
    pub(crate) statements: Vec<Statement>,
    pub(crate) clients: usize,
    /// Requests under way per connection.
    pub(crate) depth: usize,
    pub(crate) threads: usize,
    pub(crate) pace: Pace,
    pub(crate) stop: Stop,
}

impl Workload {
    pub(crate) fn new(mode: Mode, statements: Vec<Statement>, clients: usize, stop: Stop) -> Workload {
        let depth = if mode == Mode::Pipelined { 16 } else { 1 };
        Workload { mode, statements, clients, depth, threads: 1, pace: Pace::Closed, stop }
    }

    /// Said once per connection, before it is measured; false: nothing to say.
    pub(crate) fn prepare(&self, out: &mut Vec<u8>) -> bool {
        if !matches!(self.mode, Mode::Prepared | Mode::Pipelined) {
            return false;
        }
        for (number, statement) in self.statements.iter().enumerate() {
            wire::frame(out, b'P', |b| {
                name(b, Some(number));
                statement.with_parameters(b);
                b.extend_from_slice(&[0, 0]);
            });
        }
        wire::sync(out);
        true
    }

    /// One request, ending in what ReadyForQuery answers.
    pub(crate) fn request(&self, random: &mut Random, out: &mut Vec<u8>) {
        let number = match self.statements.len() {
            1 => 0,
            n => random.between(0, n as u64 - 1) as usize,
        };
        let Some(statement) = self.statements.get(number) else { return };
        match self.mode {
            Mode::Simple | Mode::Bulk | Mode::Copy | Mode::Churn | Mode::Idle => {
                wire::frame(out, b'Q', |b| {
                    statement.with_literals(random, b);
                    b.push(0);
                });
            }
            Mode::Extended => {
                wire::frame(out, b'P', |b| {
                    b.push(0);
                    statement.with_parameters(b);
                    b.extend_from_slice(&[0, 0]);
                });
                self.bind(statement, None, random, out);
            }
            Mode::Prepared | Mode::Pipelined => self.bind(statement, Some(number), random, out),
        }
    }

    fn bind(&self, statement: &Statement, number: Option<usize>, random: &mut Random, out: &mut Vec<u8>) {
        wire::frame(out, b'B', |b| {
            b.push(0);
            name(b, number);
            // All parameters and results as text.
            b.extend_from_slice(&[0, 0]);
            b.extend_from_slice(&statement.parameters().to_be_bytes());
            for (low, high) in statement.ranges() {
                let at = b.len();
                b.extend_from_slice(&[0; 4]);
                decimal(random.between(low, high), b);
                let length = (b.len() - at - 4) as u32;
                if let Some(slot) = b.get_mut(at..at + 4) {
                    slot.copy_from_slice(&length.to_be_bytes());
                }
            }
            b.extend_from_slice(&[0, 0]);
        });
        wire::describe_execute(out);
        wire::sync(out);
    }
}

/// `s7`, or nothing for the unnamed one.
fn name(out: &mut Vec<u8>, number: Option<usize>) {
    if let Some(number) = number {
        out.push(b's');
        decimal(number as u64, out);
    }
    out.push(0);
}

/// Text with places for random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Between(u64, u64),
}

impl Statement {
    pub(crate) fn parse(sql: &str) -> Result<Statement> {
        ensure!(!sql.trim().is_empty(), "a statement is empty");
        ensure!(!sql.contains('\0'), "a statement cannot hold a NUL byte");
        let mut parts = Vec::new();
        let mut rest = sql;
        let mut from = 0;
        while let Some(at) = rest.get(from..).and_then(|r| r.find('{')).map(|at| from + at) {
            let (before, after) = rest.split_at(at);
            let Some((range, after)) = after.split_once('}').and_then(|(r, after)| Some((range(r)?, after)))
            else {
                from = at + 1;
                continue;
            };
            ensure!(range.0 <= range.1, "{{{}-{}}} is empty", range.0, range.1);
            parts.push(Part::Text(before.as_bytes().to_vec()));
            parts.push(Part::Between(range.0, range.1));
            rest = after;
            from = 0;
        }
        parts.push(Part::Text(rest.as_bytes().to_vec()));
        let statement = Statement { parts };
        ensure!(statement.ranges().count() <= 100, "at most 100 random numbers in a statement");
        Ok(statement)
    }

    /// One statement per line; empty lines and comments (`--`) are not.
    pub(crate) fn parse_file(text: &str) -> Result<Vec<Statement>> {
        let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
        let real = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("--"));
        let found = real.map(|(n, line)| Statement::parse(line).with_context(|| format!("line {n}")));
        let found = found.collect::<Result<Vec<_>>>()?;
        ensure!(!found.is_empty(), "no statement in it");
        Ok(found)
    }

    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Between(low, high) => Some((*low, *high)),
        })
    }

    fn parameters(&self) -> u16 {
        self.ranges().count() as u16
    }

    fn with_literals(&self, random: &mut Random, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Between(low, high) => decimal(random.between(*low, *high), out),
            }
        }
    }

    /// `$1`, `$2`, … and the closing NUL.
    fn with_parameters(&self, out: &mut Vec<u8>) {
        let mut number = 0;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Between(..) => {
                    number += 1;
                    out.push(b'$');
                    decimal(number, out);
                }
            }
        }
        out.push(0);
    }
}

/// `{` has been taken already.
fn range(text: &str) -> Option<(u64, u64)> {
    let (low, high) = text.strip_prefix('{')?.split_once('-')?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

fn decimal(mut n: u64, out: &mut Vec<u8>) {
    let at = out.len();
    loop {
        out.push(b'0' + (n % 10) as u8);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(at..) {
        digits.reverse();
    }
}

/// xorshift64*: the same numbers every run, so that targets get the same work.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let n = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        low + n % (high - low).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(mode: Mode, sql: &[&str]) -> Workload {
        let statements = sql.iter().map(|s| Statement::parse(s).expect("valid")).collect();
        Workload::new(mode, statements, 1, Stop::Requests(1))
    }

    #[test]
    fn a_random_number_is_a_literal_or_a_parameter() {
        let sql = "select a from t where b = {7-7} and c = '{1,2}' or d = {0-9}";
        let mut out = Vec::new();
        workload(Mode::Simple, &[sql]).request(&mut Random::new(1), &mut out);
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.starts_with('Q') && text.contains("b = 7 and c = '{1,2}' or d = "), "{text:?}");
        out.clear();
        workload(Mode::Extended, &[sql]).request(&mut Random::new(1), &mut out);
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("b = $1 and c = '{1,2}' or d = $2\0"), "{text:?}");
        assert!(text.contains("\0\x02\0\0\0\x017\0\0\0\x01"), "two parameters, the first is 7: {text:?}");
        assert!(text.ends_with("S\0\0\0\x04"));
    }

    #[test]
    fn prepared_statements_have_names() {
        let w = workload(Mode::Prepared, &["select 1", "select {1-2}"]);
        let mut out = Vec::new();
        assert!(w.prepare(&mut out));
        let text = String::from_utf8_lossy(&out).into_owned();
        assert!(text.contains("s0\0select 1\0") && text.contains("s1\0select $1\0"), "{text:?}");
        assert!(!workload(Mode::Simple, &["select 1"]).prepare(&mut out));
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(3);
        let seen: std::collections::BTreeSet<u64> = (0..200).map(|_| random.between(3, 6)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        random.between(0, u64::MAX);
    }

    #[test]
    fn files_are_one_statement_per_line() {
        let found = Statement::parse_file("-- mixed\nselect 1;\n\n  select {1-9}\n").expect("valid");
        assert_eq!(found.len(), 2);
        assert!(Statement::parse_file("-- none\n").is_err());
        assert!(Statement::parse("select {9-1}").is_err());
    }
}
