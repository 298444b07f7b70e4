//! `policy explain` and `policy reach`: what would become of a statement and why, and what somebody can see in clear.
//!
//! Nothing here connects to anything. What is printed comes from the judge and the analysis that decide in the gateway; there is no
//! second opinion in this file.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use policy::judge::Probe;
use policy::lineage::{self, ColumnName, Lineage};
use policy::reach;
use policy::{Decision, Judge, Verdict};
use serde_json::json;

use crate::cli::{PolicyExplainArgs, PolicyReachArgs};
use crate::look;
use crate::policies::Desk;

pub(crate) fn explain(args: &PolicyExplainArgs) -> anyhow::Result<ExitCode> {
    let desk = Desk::open(&args.from)?;
    let subject = desk.subject(&args.asker.who)?;
    let catalog = desk.known(&args.asker.on)?;
    let mut sql = args.sql.clone();
    if sql == "-" {
        sql.clear();
        std::io::stdin().read_to_string(&mut sql).context("read standard input")?;
    }
    let policy = desk.policy()?;
    let judge = policy.scope(&subject, &args.asker.on).bind(catalog.clone());
    let decision = judge.statement(sql.as_bytes());
    // A text the judge refused because it cannot be read has no lineage; the verdict says so.
    let statements = lineage::explain(&catalog, &sql).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    if args.format.json() {
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&as_json(&judge, &decision, &statements, &policy))?
        )?;
    } else {
        write!(out, "{}", as_text(&judge, &decision, &statements, &policy))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// In a word: what the client would meet.
fn verdict(judge: &Judge, decision: &Decision, statements: &[Lineage]) -> &'static str {
    match &decision.verdict {
        Verdict::Block(_) => "BLOCK",
        Verdict::Pass if judge.scope().is_empty() => "PASS",
        Verdict::Pass => {
            let masked = statements
                .iter()
                .any(|s| judge.masked_outputs(decision, s).is_none_or(|outputs| outputs.contains(&true)));
            if !decision.clean && (masked || statements.is_empty()) { "MASK" } else { "PASS" }
        }
    }
}

fn as_text(judge: &Judge, decision: &Decision, statements: &[Lineage], policy: &policy::Policy) -> String {
    let mut out = format!(
        "verdict  {} · {} of {} rules touch this · revision {}\n",
        verdict(judge, decision, statements),
        judge.scope().rules(),
        policy.rules(),
        policy.revision
    );
    let mut line = |label: &str, text: String| out += &format!("{label:<8} {text}\n");
    if let Verdict::Block(block) = &decision.verdict {
        let place = if block.place.is_empty() { "built in" } else { &block.place };
        line("rule", format!("{}  {place}", block.rule));
        line("", format!("{} (SQLSTATE {})", block.message, block.sqlstate));
        line("", block.hint.clone());
    }
    for statement in statements {
        line("class", statement.classes.join(", "));
        for read in &statement.reads {
            line(
                "reads",
                format!("{}  {:?}{}", read.column, read.place, masks(judge, &read.column)).to_owned(),
            );
        }
        let masked = judge.masked_outputs(decision, statement);
        for (n, output) in statement.outputs.iter().flatten().enumerate() {
            let cell = match masked.as_ref().and_then(|m| m.get(n)) {
                Some(true) => "masked",
                Some(false) => "in clear",
                None => "masked: what it is cannot be told",
            };
            let from: Vec<String> = output.sources.iter().map(ToString::to_string).collect();
            let from = match (output.is_column, from.is_empty()) {
                (_, true) => String::new(),
                (true, false) => format!("  is {}", from.join(", ")),
                (false, false) => format!("  derives from {}", from.join(", ")),
            };
            line("output", format!("{} {}{from}  → {cell}", n + 1, output.name));
        }
        for written in &statement.writes {
            let from: Vec<String> = written.sources.iter().map(ToString::to_string).collect();
            line("writes", format!("{}  from {}", written.table, from.join(", ")));
        }
        if let Some(why) = statement.untraced {
            line("untold", why.to_owned());
        }
    }
    for limited in &decision.limits {
        let limit = &limited.limit;
        let per = |n: Option<u64>, of: &str| n.map(|n| format!(" {n} rows {of}")).unwrap_or_default();
        let counts = match (limited.collects, limited.weight) {
            (true, _) => "; one row may carry many, counted by its bytes".to_owned(),
            (false, 1) => String::new(),
            (false, n) => format!("; one row counts {n}"),
        };
        let text = format!(
            "{}  {} {}{}{counts}",
            limit.rule,
            limit.place,
            per(limit.per_result, "per result"),
            per(limit.per_hour, "per hour")
        );
        line("limit", text);
    }
    for met in &decision.conflicts {
        let most = met.per_hour;
        let text = format!(
            "{}  counts an error about a masked value that is there already; {most} an hour",
            met.rule
        );
        line("probe", text);
    }
    for probe in &decision.probes {
        line(
            "probe",
            format!("{}  asks about a masked value; {} different ones an hour", probe.rule, probe.per_hour),
        );
    }
    for rule in &decision.observed {
        line("observe", format!("{rule}  would have acted"));
    }
    if decision.verdict == Verdict::Pass {
        let words = if decision.withhold { "; the text of errors and notices is withheld" } else { "" };
        line("", format!("would be sent to the database unchanged{words}"));
    }
    out
}

/// ` ← mask-email (policy/shop.yaml:4)` where rules mask the column.
fn masks(judge: &Judge, column: &ColumnName) -> String {
    let rules = judge.mask_rules(column);
    let rules: Vec<String> = rules
        .iter()
        .map(|(name, place, enforced)| {
            format!("{name} ({place}{})", if *enforced { "" } else { ", observes" })
        })
        .collect();
    if rules.is_empty() { String::new() } else { format!("  ← {}", rules.join(", ")) }
}

fn as_json(
    judge: &Judge,
    decision: &Decision,
    statements: &[Lineage],
    policy: &policy::Policy,
) -> serde_json::Value {
    let word = verdict(judge, decision, statements);
    let names = |columns: &[ColumnName]| columns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let refused = match &decision.verdict {
        Verdict::Block(b) => json!({
            "rule": b.rule, "place": b.place, "message": b.message, "sqlstate": b.sqlstate, "hint": b.hint,
        }),
        Verdict::Pass => serde_json::Value::Null,
    };
    let statements: Vec<_> = statements
        .iter()
        .map(|s| {
            let masked = judge.masked_outputs(decision, s);
            let outputs = s.outputs.as_ref().map(|outputs| {
                let one = |(n, o): (usize, &lineage::OutputColumn)| {
                    json!({
                        "name": o.name, "sources": names(&o.sources), "is_column": o.is_column, "unknown": o.unknown,
                        "masked": masked.as_ref().and_then(|m| m.get(n)),
                    })
                };
                outputs.iter().enumerate().map(one).collect::<Vec<_>>()
            });
            let reads: Vec<_> = s
                .reads
                .iter()
                .map(|r| {
                    let rules: Vec<_> = judge.mask_rules(&r.column).iter().map(|(name, ..)| (*name).to_owned()).collect();
                    json!({"column": r.column.to_string(), "place": format!("{:?}", r.place), "masked_by": rules})
                })
                .collect();
            let writes: Vec<_> =
                s.writes.iter().map(|w| json!({"table": w.table, "sources": names(&w.sources)})).collect();
            json!({
                "classes": s.classes, "functions": s.functions, "outputs": outputs, "reads": reads, "writes": writes,
                "untold": s.untraced,
            })
        })
        .collect();
    let budgets = |probes: &[Probe]| {
        probes.iter().map(|p| json!({"rule": &*p.rule, "per_hour": p.per_hour})).collect::<Vec<_>>()
    };
    json!({
        "verdict": word.to_lowercase(), "refused": refused, "revision": policy.revision,
        "clean": decision.clean, "withhold": decision.withhold, "observed": decision.observed, "statements": statements,
        "limits": decision.limits.iter().map(|l| json!({
            "rule": l.limit.rule, "per_result": l.limit.per_result, "per_hour": l.limit.per_hour, "weight": l.weight,
            "collects": l.collects,
        })).collect::<Vec<_>>(),
        "probes": budgets(&decision.probes), "conflicts": budgets(&decision.conflicts),
    })
}

pub(crate) fn reach(args: &PolicyReachArgs) -> anyhow::Result<ExitCode> {
    let desk = Desk::open(&args.from)?;
    let subject = desk.subject(&args.asker.who)?;
    let catalog = desk.known(&args.asker.on)?;
    let found = reach::reach(&desk.policy()?, &subject, &args.asker.on, &catalog);
    let clear = found.iter().filter(|r| r.in_clear.is_some()).count();
    let mut out = std::io::stdout().lock();
    if args.format.json() {
        let lines: Vec<_> = found
            .iter()
            .map(|r| {
                json!({
                    "column": r.column.to_string(), "rules": r.rules, "in_clear": r.in_clear, "tried": r.tried, "refused": r.refused,
                })
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?;
    } else if found.is_empty() {
        writeln!(out, "no mask rule names a column of this catalogue")?;
    } else {
        let mut rows = vec![["COLUMN", "SENSITIVE BY", "IN CLEAR", "BY"].map(str::to_owned)];
        rows.extend(found.iter().map(|r| {
            let (clear, by) = match &r.in_clear {
                Some(text) => ("yes", look::one_line(text.as_bytes())),
                None => ("no", format!("none of {} statements tried ({} refused)", r.tried, r.refused)),
            };
            [r.column.to_string(), r.rules.join(", "), clear.to_owned(), by]
        }));
        write!(
            out,
            "{}\n{clear} of {} sensitive columns can be seen in clear\n",
            look::table(&rows),
            found.len()
        )?;
    }
    if clear == 0 { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::from(3)) }
}
