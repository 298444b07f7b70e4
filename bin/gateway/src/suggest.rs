//! `lockgate suggest`: what somebody has sent until now, as a policy file that allows nothing else. Observe, propose, enforce.
//!
//! Not a judgement of what ought to be allowed: a person reads the proposal, and what was left out is said at its end.
//! Invariant: no literal and no parameter of a statement is written, only shapes ([`policy::shape`]) and the names of tables.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use flow::record::{Entry, How, SessionId, Statement, Verdict, What};
use policy::shape;
use side::ids;
use side::record::jsonl;
use side::record::read::Reader;

use crate::cli::{Failure, SuggestArgs};
use crate::look;

pub(crate) fn suggest(args: &SuggestArgs) -> anyhow::Result<ExitCode> {
    let since = args.since.as_deref().map(|s| since(s, SystemTime::now())).transpose()?.unwrap_or_default();
    let mut learner = Learner { since, ..Learner::new(args) };
    let mut damage = Vec::new();
    let shown = std::io::stderr().is_terminal();
    for (n, recorded) in Reader::open(&look::home(&args.place)?)?.enumerate() {
        // What can be read is learned from, around what cannot.
        match &recorded.map_err(anyhow::Error::from) {
            Ok(recorded) => match recorded.entry() {
                Ok(entry) => learner.entry(&entry),
                Err(error) => damage.push(error.to_string()),
            },
            Err(error) => damage.push(format!("{error:#}")),
        }
        if shown && n > 0 && n % PROGRESS == 0 {
            eprintln!("{} entries read, {} shapes so far", grouped(n as u64), learner.shapes.len());
        }
    }
    let proposal = learner.proposal(damage.len())?;
    match &args.output {
        Some(file) => {
            std::fs::write(file, proposal).with_context(|| format!("write {}", file.display()))?;
            eprintln!("lockgate: {} written; read it, then name it under `policies:`", file.display());
        }
        None => std::io::stdout().lock().write_all(proposal.as_bytes())?,
    }
    if damage.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::Unsound(damage.join("\n")).into())
}

/// What is known of one shape.
#[derive(Default)]
struct Seen {
    /// It ran: as a query, or as the execution of a prepared statement.
    times: u64,
    /// 0: not in the time that is asked for.
    last_ns: u64,
    tables: Vec<String>,
}

/// A text of a statement, taken apart once.
enum Text {
    Shapes(Vec<String>),
    Cut,
    Unreadable,
}

/// Decisions of one kind that were left out: how many, and the first of them.
#[derive(Default)]
struct Left {
    count: u64,
    first: Vec<String>,
}

impl Left {
    fn add(&mut self, session: &SessionId, number: u64) {
        self.count += 1;
        if self.first.len() < EXAMPLES {
            self.first.push(ids::decision(session, number));
        }
    }
}

struct Learner<'a> {
    args: &'a SuggestArgs,
    /// Unix ns.
    since: u64,
    /// Open sessions of the identity, and the texts they prepared.
    sessions: HashMap<SessionId, HashMap<u64, Text>>,
    shapes: HashMap<String, Seen>,
    /// Who else was there, to say so when nothing was found.
    identities: Vec<String>,
    refused: Left,
    cut: Left,
    unreadable: Left,
    functions: Left,
}

impl<'a> Learner<'a> {
    fn new(args: &'a SuggestArgs) -> Learner<'a> {
        Learner {
            args,
            since: 0,
            sessions: HashMap::new(),
            shapes: HashMap::new(),
            identities: Vec::new(),
            refused: Left::default(),
            cut: Left::default(),
            unreadable: Left::default(),
            functions: Left::default(),
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        match &entry.what {
            What::Opened { identity, connection, .. } => {
                if *identity == self.args.identity
                    && self.args.on.as_deref().is_none_or(|on| on == *connection)
                {
                    self.sessions.insert(entry.session, HashMap::new());
                } else if self.identities.len() < EXAMPLES && !self.identities.iter().any(|i| i == identity) {
                    self.identities.push((*identity).to_owned());
                }
            }
            What::Statement(statement) => self.statement(entry, statement),
            What::Closed { .. } => drop(self.sessions.remove(&entry.session)),
            What::Refused { .. } | What::Outcome(_) | What::Data { .. } | What::Gateway { .. } => {}
        }
    }

    fn statement(&mut self, entry: &Entry<'_>, statement: &Statement<'_>) {
        let Some(prepared) = self.sessions.get_mut(&entry.session) else { return };
        let (now, number) = (entry.unix_ns >= self.since, statement.number);
        if statement.verdict == Verdict::Block {
            if now {
                self.refused.add(&entry.session, number);
            }
            return;
        }
        let own;
        let text = match statement.how {
            How::FunctionCall => {
                if now {
                    self.functions.add(&entry.session, number);
                }
                return;
            }
            How::Query => {
                own = take_apart(statement, &mut self.shapes);
                Some(&own)
            }
            // Kept also when it is older than what is asked for: it may be executed later.
            How::Parse => {
                let text = take_apart(statement, &mut self.shapes);
                Some(&*prepared.entry(number).insert_entry(text).into_mut())
            }
            How::Execute => prepared.get(&statement.of),
        };
        if !now {
            return;
        }
        match text {
            Some(Text::Shapes(shapes)) => {
                for shape in shapes {
                    let Some(seen) = self.shapes.get_mut(shape) else { continue };
                    seen.times += u64::from(statement.how != How::Parse);
                    seen.last_ns = seen.last_ns.max(entry.unix_ns);
                }
            }
            Some(Text::Cut) => self.cut.add(&entry.session, number),
            // An execution of what the record does not show being prepared: nobody can say what it was.
            Some(Text::Unreadable) | None => self.unreadable.add(&entry.session, number),
        }
    }

    /// The policy file.
    fn proposal(&self, damage: usize) -> anyhow::Result<String> {
        let SuggestArgs { identity, on, min_count, .. } = self.args;
        let (mut kept, rare): (Vec<_>, Vec<_>) = self
            .shapes
            .iter()
            .filter(|(_, seen)| seen.last_ns > 0)
            .partition(|(_, seen)| seen.times.max(1) >= *min_count);
        if kept.is_empty() {
            let place = on.as_ref().map(|on| format!(" on `{on}`")).unwrap_or_default();
            let mut why = format!(
                "there is nothing to learn from: the record has no allowed statement of `{identity}`{place}"
            );
            if !rare.is_empty() {
                why = format!(
                    "there is nothing to learn from: none of {} shapes was seen {min_count} times",
                    rare.len()
                );
            } else if !self.identities.is_empty() {
                why += &format!("; it has sessions of {}", self.identities.join(", "));
            }
            bail!(why);
        }
        kept.sort_by(|(a, x), (b, y)| y.times.cmp(&x.times).then_with(|| a.cmp(b)));
        let mut out = String::new();
        let name: String = identity
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        let connection = on.as_ref().map(|on| format!("connection: {}, ", quoted(on))).unwrap_or_default();
        writeln!(
            out,
            "# What {} sent, as `lockgate suggest` found it in the record. Read it, strike what should not be",
            look::one_line(identity.as_bytes())
        )?;
        writeln!(
            out,
            "# there, and name this file under `policies:`. In this mode it refuses nothing, and the record says what it"
        )?;
        writeln!(
            out,
            "# would refuse; `mode: enforce` refuses. A `?` stands for any literal: masks and other rules hold besides."
        )?;
        writeln!(out, "mode: observe\nrules:\n  - name: learned-{name}")?;
        writeln!(out, "    on: {{{connection}identities: [{}]}}", quoted(identity))?;
        writeln!(out, "    block: this statement is not one that was learned\n    only:\n      shapes:")?;
        for (shape, seen) in kept {
            let times = match seen.times {
                0 => "prepared only".to_owned(),
                1 => "once".to_owned(),
                n => format!("{} times", grouped(n)),
            };
            let read = match seen.tables.as_slice() {
                [] => String::new(),
                tables => format!(", read {}", look::one_line(tables.join(", ").as_bytes())),
            };
            writeln!(out, "        # {times}, last {}{read}", day(seen.last_ns))?;
            writeln!(out, "        - {}", quoted(shape))?;
        }
        self.left_out(&mut out, &rare, damage)?;
        Ok(out)
    }

    /// What a person has to decide about.
    fn left_out(&self, out: &mut String, rare: &[(&String, &Seen)], damage: usize) -> std::fmt::Result {
        let kinds = [
            (&self.refused, "refused statements"),
            (&self.cut, "statements whose text is cut in the record"),
            (&self.unreadable, "statements that cannot be read, or whose preparing the record does not show"),
            (&self.functions, "function calls by number, which no list can allow"),
        ];
        if kinds.iter().all(|(left, _)| left.count == 0) && rare.is_empty() && damage == 0 {
            return Ok(());
        }
        writeln!(out, "\n# Left out (`lockgate why ID` tells of each):")?;
        for (left, what) in kinds.iter().filter(|(left, _)| left.count > 0) {
            let more = if left.count > left.first.len() as u64 { ", …" } else { "" };
            writeln!(out, "# - {} {what}: {}{more}", grouped(left.count), left.first.join(", "))?;
        }
        if damage > 0 {
            writeln!(out, "# - what {damage} damaged places of the record held")?;
        }
        if !rare.is_empty() {
            writeln!(
                out,
                "# - {} shapes seen fewer than {} times:",
                grouped(rare.len() as u64),
                self.args.min_count
            )?;
            let mut rare: Vec<_> = rare.iter().map(|(shape, seen)| (seen.times.max(1), shape)).collect();
            rare.sort_by(|(n, a), (m, b)| m.cmp(n).then_with(|| a.cmp(b)));
            for (times, shape) in rare {
                writeln!(out, "#   {times} × {}", look::one_line(shape.as_bytes()))?;
            }
        }
        Ok(())
    }
}

/// The shapes of a text, each known from now on.
fn take_apart(statement: &Statement<'_>, known: &mut HashMap<String, Seen>) -> Text {
    if statement.length > statement.text.len() as u64 {
        return Text::Cut;
    }
    let Some(shapes) = shape::statements(statement.text) else { return Text::Unreadable };
    if shapes.iter().any(|shape| !known.contains_key(shape)) {
        let tables = shape::tables(statement.text);
        for (n, shape) in shapes.iter().enumerate() {
            let tables = || tables.get(n).cloned().unwrap_or_default();
            known.entry(shape.clone()).or_insert_with(|| Seen { tables: tables(), ..Seen::default() });
        }
    }
    Text::Shapes(shapes)
}

/// `30d` before `now`, or the beginning of a day (UTC), as Unix ns.
fn since(text: &str, now: SystemTime) -> anyhow::Result<u64> {
    let ns = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    };
    let units = [('d', 86_400), ('h', 3_600), ('m', 60)];
    if let Some((unit, seconds)) = units.iter().find(|(unit, _)| text.ends_with(*unit))
        && let Some(number) = text.strip_suffix(*unit).and_then(|n| n.parse::<u64>().ok())
    {
        let back = Duration::from_secs(number.saturating_mul(*seconds));
        return Ok(now.checked_sub(back).map_or(0, ns));
    }
    let day: jiff::civil::Date = text
        .parse()
        .with_context(|| format!("--since {text}: say a day (2026-11-01) or how long ago (30d, 12h)"))?;
    let begin = day.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_nanosecond();
    Ok(u64::try_from(begin).unwrap_or_default())
}

fn day(unix_ns: u64) -> String {
    jsonl::time(unix_ns).chars().take_while(|c| *c != 'T').collect()
}

/// 1234567 → 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// As YAML, on one line, whatever it holds.
fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_control() && (c == ' ' || !c.is_whitespace()) && c != '\u{feff}';
    if text.chars().all(plain) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if plain(c) => out.push(c),
            c => out += &format!("\\U{:08x}", u32::from(c)),
        }
    }
    out + "\""
}

/// Entries between two lines of progress.
const PROGRESS: usize = 1_000_000;
/// How many of a kind are named.
const EXAMPLES: usize = 10;

#[cfg(test)]
mod tests {
    use flow::record::Values;

    use super::*;

    fn args() -> SuggestArgs {
        SuggestArgs {
            identity: "app".into(),
            on: None,
            since: None,
            min_count: 1,
            place: crate::cli::Place { state: None, config: None },
            output: None,
        }
    }

    fn opened(identity: &'static str) -> What<'static> {
        What::Opened {
            identity,
            groups: "",
            connection: "shop",
            database: "shop",
            protocol: "postgres",
            client: "",
            application: "",
            tls: true,
            policy: "p",
        }
    }

    fn said(number: u64, how: How, of: u64, text: &'static str, verdict: Verdict) -> What<'static> {
        What::Statement(Statement {
            number,
            how,
            of,
            text: text.as_bytes(),
            length: text.len() as u64,
            parameters: Values::default(),
            verdict,
            rules: "",
            policy: "p",
        })
    }

    #[test]
    fn what_ran_is_proposed_and_the_rest_is_told() {
        let args = args();
        let mut learner = Learner { since: 1_000, ..Learner::new(&args) };
        let mut tell =
            |session: u8, unix_ns, what| learner.entry(&Entry { session: [session; 16], unix_ns, what });
        tell(1, 10, opened("app"));
        tell(2, 10, opened("other"));
        // Prepared before the time that is asked for, executed in it.
        tell(1, 20, said(1, How::Parse, 0, "select * from t where a = $1 and b = 'secret'", Verdict::Mask));
        tell(1, 30, said(2, How::Query, 0, "select too_old", Verdict::Allow));
        for n in 3..6 {
            tell(1, 2_000, said(n, How::Execute, 1, "", Verdict::Allow));
        }
        tell(1, 2_000, said(6, How::Parse, 0, "select 'it''s' as \"it's\"", Verdict::Observe));
        tell(1, 2_000, said(7, How::Query, 0, "drop table t", Verdict::Block));
        tell(1, 2_000, said(8, How::Query, 0, "select 0x1f", Verdict::Allow));
        tell(1, 2_000, said(9, How::FunctionCall, 0, "(function call) oid 1", Verdict::Allow));
        tell(2, 2_000, said(1, How::Query, 0, "select others", Verdict::Allow));
        let What::Statement(cut) = said(10, How::Query, 0, "select 'begi", Verdict::Allow) else {
            panic!("a statement")
        };
        tell(1, 2_000, What::Statement(Statement { length: 5_000_000, ..cut }));
        tell(1, 2_000, said(11, How::Query, 0, "begin; select a from u", Verdict::Allow));
        let text = learner.proposal(0).expect("something");
        for part in [
            "# 3 times, last 1970-01-01, read t\n        - 'select * from t where a = $n and b = ?'\n",
            "# once, last 1970-01-01\n        - 'begin'\n",
            "# prepared only, last 1970-01-01\n        - 'select ? as \"it''s\"'\n",
            "# once, last 1970-01-01, read u\n        - 'select a from u'\n",
            "# - 1 refused statements: ",
            "# - 1 statements whose text is cut",
            "# - 1 statements that cannot be read",
            "# - 1 function calls",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        for part in ["secret", "too_old", "others", "drop"] {
            assert!(!text.contains(part), "{part} is in:\n{text}");
        }
        // It is a policy: it reads back, and lists what it says.
        let file: policy::rule::PolicyFile = serde_saphyr::from_str(&text).expect("a policy file");
        let rule = file.rules.first().expect("a rule");
        assert_eq!((file.mode, rule.name.as_str()), (policy::rule::Mode::Observe, "learned-app"));
        let shapes = rule.only.as_ref().and_then(|o| o.shapes.clone()).expect("shapes");
        assert_eq!(
            shapes,
            ["select * from t where a = $n and b = ?", "begin", "select a from u", "select ? as \"it's\""]
        );
        let source = policy::rule::Source { name: "p".into(), file, lines: vec![None] };
        assert!(policy::compile(&[source], None).is_ok());
    }

    #[test]
    fn nothing_to_learn_from_is_said() {
        let args = SuggestArgs { identity: "nobody".into(), ..args() };
        let mut learner = Learner::new(&args);
        learner.entry(&Entry { session: [1; 16], unix_ns: 1, what: opened("app") });
        let error = learner.proposal(0).expect_err("nothing").to_string();
        assert!(error.contains("`nobody`") && error.ends_with("it has sessions of app"), "{error}");
    }

    #[test]
    fn any_text_is_one_line_of_yaml() {
        for text in ["a: b #c", "it's", "*", "a\n'b'\u{85}\u{2028}\t\"\\", "\u{feff}x", "null", "ä€😀"] {
            let written = quoted(text);
            assert!(!written.contains(['\n', '\u{85}', '\u{2028}']), "{written}");
            assert_eq!(serde_saphyr::from_str::<String>(&written).expect("YAML"), text);
        }
    }

    #[test]
    fn since_is_a_day_or_an_age() {
        let now = UNIX_EPOCH + Duration::from_secs(100 * 86_400);
        assert_eq!(since("30d", now).expect("an age"), 70 * 86_400 * 1_000_000_000);
        assert_eq!(since("12h", now).expect("an age"), (100 * 24 - 12) * 3_600 * 1_000_000_000);
        assert_eq!(since("1970-01-02", now).expect("a day"), 86_400 * 1_000_000_000);
        assert_eq!(since("999999999999d", now).expect("for ever"), 0);
        assert!(since("yesterday", now).is_err() && since("5", now).is_err() && since("xd", now).is_err());
        assert_eq!((grouped(1), grouped(1_234_567)), ("1".to_owned(), "1,234,567".to_owned()));
    }
}
