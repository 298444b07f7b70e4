//! Looking at the record: `record export`, `record verify`, `sessions`, `replay`. Works beside a running gateway and after it.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use flow::record::{Entry, How, Verdict, What};
use serde_json::json;
use side::record::jsonl;
use side::record::read::{self, Reader, SessionLine, Sessions, Told, VerifyError};

use crate::cli::{Failure, Format, Place, ReplayArgs, SessionsArgs};
use crate::settings::{self, Options};

/// The directory the record is below.
pub(crate) fn home(place: &Place) -> anyhow::Result<PathBuf> {
    match (&place.state, &place.config) {
        (Some(state), _) => Ok(state.clone()),
        (None, Some(config)) => {
            Ok(settings::record_home(config, &Options::process()).map_err(Failure::from)?)
        }
        (None, None) => Ok(settings::STATE_DEFAULT.into()),
    }
}

pub(crate) fn export(place: &Place) -> anyhow::Result<ExitCode> {
    let home = home(place)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut lines = jsonl::Lines::default();
    let mut damage = Vec::new();
    for recorded in Reader::open(&home)? {
        // What can be read is printed, around what cannot.
        match recorded.map_err(anyhow::Error::from).and_then(|r| Ok(lines.line(&r)?)) {
            Ok(line) => writeln!(out, "{line}")?,
            Err(error) => damage.push(format!("{error:#}")),
        }
    }
    out.flush()?;
    if damage.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Unsound(damage.join("\n")).into())
}

pub(crate) fn verify(place: &Place, format: Format) -> anyhow::Result<ExitCode> {
    match read::verify(&home(place)?) {
        Ok(found) => {
            let chain: String = found.chain.iter().map(|b| format!("{b:02x}")).collect();
            let mut out = std::io::stdout().lock();
            if format.json() {
                let found = json!({
                    "sound": true, "segments": found.segments, "first": found.first, "last": found.last, "chain": chain,
                });
                writeln!(out, "{found}")?;
            } else {
                writeln!(
                    out,
                    "sound: entries {} to {} in {} segments\nchain: {chain}",
                    found.first, found.last, found.segments
                )?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(broken @ VerifyError::Broken { .. }) => Err(Failure::Unsound(broken.to_string()).into()),
        Err(VerifyError::Read(error)) => Err(error.into()),
    }
}

pub(crate) fn sessions(args: &SessionsArgs) -> anyhow::Result<ExitCode> {
    let found = Sessions::scan(&home(&args.place)?)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.format.json() {
        let lines: Vec<_> = found.lines.iter().map(as_json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?;
    } else {
        let mut rows = vec![
            [
                "SESSION",
                "OPENED",
                "LASTED",
                "IDENTITY",
                "CONNECTION",
                "STATEMENTS",
                "BLOCKED",
                "MASKED",
                "CLIENT",
            ]
            .map(str::to_owned),
        ];
        rows.extend(found.lines.iter().map(|line| {
            [
                line.id.clone(),
                time(line.opened_ns),
                line.closed_ns
                    .map_or_else(|| "open".to_owned(), |end| lasted(end.saturating_sub(line.opened_ns))),
                line.identity.clone(),
                line.connection.clone(),
                line.statements.to_string(),
                line.blocked.to_string(),
                line.masked.to_string(),
                format!("{} {}", line.client, line.application),
            ]
        }));
        write!(out, "{}", table(&rows))?;
    }
    out.flush()?;
    for damage in &found.damage {
        eprintln!("lockgate: {damage}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let (line, told) = read::session(&home(&args.place)?, &args.session)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if args.format.json() {
        let mut entries = Vec::new();
        for Told { recorded, prepared } in &told {
            let entry = recorded.entry()?;
            let text = jsonl::render(recorded.seq, recorded.pending, &entry, prepared.as_deref());
            entries.push(serde_json::from_str::<serde_json::Value>(&text).context("an entry as JSON")?);
        }
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&json!({"session": as_json(&line), "entries": entries}))?
        )?;
    } else {
        write!(out, "{}", timeline(&line, &told)?)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The session as people read it: when, what, how it was judged, what came of it.
fn timeline(line: &SessionLine, told: &[Told]) -> anyhow::Result<String> {
    use std::fmt::Write as _;
    let mut out = String::new();
    writeln!(out, "session {}  {}", line.id, time(line.opened_ns))?;
    let groups = if line.groups.is_empty() { String::new() } else { format!(" ({})", line.groups) };
    writeln!(out, "{}{groups} on {} (database {})", line.identity, line.connection, line.database)?;
    writeln!(out, "from {} {}\n", line.client, line.application)?;
    let mut entries = told.iter().peekable();
    while let Some(Told { recorded, prepared }) = entries.next() {
        let entry = recorded.entry()?;
        // A COPY arrives in as many pieces as the network made of it: one line tells of them all.
        let mut sent = 0;
        if let What::Data { number, bytes, .. } = entry.what {
            sent = bytes.len() as u64;
            while let Some(next) = entries.peek() {
                match next.recorded.entry()? {
                    Entry { what: What::Data { number: n, bytes, .. }, .. } if n == number => {
                        sent += bytes.len() as u64
                    }
                    _ => break,
                }
                entries.next();
            }
        }
        write!(out, "{}", moment(&entry, prepared.as_deref(), line.opened_ns, sent))?;
    }
    writeln!(
        out,
        "\n{} statements, {} blocked, {} masked; {} rows, {}, {} cells masked",
        line.statements,
        line.blocked,
        line.masked,
        line.rows,
        size(line.bytes),
        line.masked_cells
    )?;
    Ok(out)
}

/// `sent`: the bytes of all the pieces, for data.
fn moment(entry: &Entry<'_>, prepared: Option<&[u8]>, opened_ns: u64, sent: u64) -> String {
    let since = entry.unix_ns.saturating_sub(opened_ns);
    let at = format!("{:>4}.{:03}", since / 1_000_000_000, since / 1_000_000 % 1_000);
    let gap = " ".repeat(at.len());
    match &entry.what {
        What::Opened { tls, protocol, policy, .. } => {
            format!("{at}  opened    {protocol}, {}, policy {policy}\n", if *tls { "TLS" } else { "no TLS" })
        }
        What::Statement(s) => {
            let how = match s.how {
                How::Query => "query",
                How::Parse => "prepare",
                How::Execute => "execute",
                How::FunctionCall => "function",
            };
            let text = prepared.filter(|_| s.text.is_empty()).unwrap_or(s.text);
            let mut out = format!("{at}  {how:<8} #{} {}\n", s.number, one_line(text));
            if s.length > text.len() as u64 && prepared.is_none() {
                out += &format!("{gap}           … {} bytes in all\n", s.length);
            }
            if !s.parameters.is_empty() {
                let shown: Vec<String> = s
                    .parameters
                    .iter()
                    .enumerate()
                    .map(|(n, p)| format!("${} = {}", n + 1, p.map_or_else(|| "NULL".to_owned(), quoted)))
                    .collect();
                out += &format!("{gap}           {}\n", shown.join(", "));
            }
            let verdict = match s.verdict {
                Verdict::Allow => None,
                Verdict::Mask => Some("masked"),
                Verdict::Block => Some("BLOCKED"),
                Verdict::Observe => Some("would be refused or masked (observe)"),
            };
            if let Some(verdict) = verdict {
                let rules = if s.rules.is_empty() { String::new() } else { format!(" by {}", s.rules) };
                out += &format!("{gap}  {verdict}{rules}\n");
            }
            out
        }
        What::Outcome(o) => {
            let end = match o.sqlstate {
                "" => "ok".to_owned(),
                "skipped" => "skipped after an earlier error".to_owned(),
                code => format!("ERROR {code}"),
            };
            let cells = if o.masked_cells == 0 {
                String::new()
            } else {
                format!(", {} cells masked", o.masked_cells)
            };
            format!(
                "{at}  └ #{} {end}: {} rows, {}, {}{cells}\n",
                o.number,
                o.rows,
                size(o.bytes),
                lasted(o.micros.saturating_mul(1_000))
            )
        }
        What::Data { number, .. } => format!("{at}  data      #{number} {} sent by the client\n", size(sent)),
        What::Closed { reason, .. } => format!("{at}  closed    {reason}\n"),
        What::Refused { sqlstate, reason, .. } => format!("{at}  refused   {sqlstate} {reason}\n"),
        What::Gateway { event, detail } => format!("{at}  gateway   {event} {detail}\n"),
    }
}

fn as_json(line: &SessionLine) -> serde_json::Value {
    json!({
        "session": line.id, "identity": line.identity, "groups": line.groups, "connection": line.connection,
        "database": line.database, "client": line.client, "application": line.application,
        "opened": time(line.opened_ns), "closed": line.closed_ns.map(time), "reason": line.reason,
        "statements": line.statements, "blocked": line.blocked, "masked": line.masked, "rows": line.rows,
        "bytes": line.bytes, "masked_cells": line.masked_cells,
    })
}

/// Text of a client on one line; nothing in it can move the cursor of whoever looks.
pub(crate) fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len());
    let mut space = false;
    for c in text.trim().chars() {
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if std::mem::take(&mut space) {
            out.push(' ');
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn quoted(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(char::is_control) => format!("'{text}'"),
        _ => value.iter().fold("\\x".to_owned(), |out, b| out + &format!("{b:02x}")),
    }
}

fn time(unix_ns: u64) -> String {
    jsonl::time(unix_ns)
}

fn lasted(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        1_000_000_000..60_000_000_000 => format!("{:.1} s", ns as f64 / 1e9),
        _ => format!("{} min {} s", ns / 60_000_000_000, ns / 1_000_000_000 % 60),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// Columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out += line.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use flow::record::{Outcome, Statement, Values};

    use super::*;

    #[test]
    fn a_statement_and_its_outcome_are_told() {
        let at = |ns, what| Entry { session: [1; 16], unix_ns: ns, what };
        let statement = at(
            1_500_000_000,
            What::Statement(Statement {
                number: 3,
                how: How::Execute,
                of: 2,
                text: b"",
                length: 0,
                parameters: Values::split(3, b"\xff\xff\xff\xff\0\0\0\x01a\0\0\0\x02\xff\0").unwrap().0,
                verdict: Verdict::Block,
                rules: "no-drop",
                policy: "p",
            }),
        );
        assert_eq!(
            moment(&statement, Some(b"drop\n  table\x1b[2J t"), 0, 0),
            "   1.500  execute  #3 drop table\\u{1b}[2J t\n                   $1 = NULL, $2 = 'a', $3 = \\xff00\n          BLOCKED by no-drop\n"
        );
        let outcome = at(
            1_600_000_000,
            What::Outcome(Outcome {
                number: 3,
                rows: 2,
                bytes: 2048,
                masked_cells: 4,
                sqlstate: "",
                micros: 1_500,
            }),
        );
        assert_eq!(
            moment(&outcome, None, 0, 0),
            "   1.600  └ #3 ok: 2 rows, 2.0 KiB, 1.5 ms, 4 cells masked\n"
        );
    }

    #[test]
    fn tables_align() {
        let rows = [["A".to_owned(), "LONG".to_owned()], ["äbc".to_owned(), "x".to_owned()]];
        assert_eq!(table(&rows), "A    LONG\näbc  x\n");
    }
}
