//! Policies without a gateway: `policy test`, and the policies of the past that `why` reads.
//!
//! Nothing here connects to anything: catalogues come from files. Invariant: a statement that cannot be told offline is said to be
//! untold, and counts as not passed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use flow::record::{Entry, How, Verdict, What};
use policy::rule::{PolicyFile, Source};
use policy::{Catalog, Outcome, Subject, TestResult};
use serde::{Deserialize, Serialize};
use serde_json::json;
use side::ids;
use side::record::{jsonl, read};

use crate::cli::{Failure, Offline, PolicyTestArgs, WhyArgs};
use crate::look;
use crate::settings::{self, Options, Settings};

/// Where the policies that were in force are kept, beside the record that names them.
const KEPT: &str = "policies";

/// What `policy` commands work on: rules, and the catalogues that are known.
pub(crate) struct Desk {
    pub(crate) sources: Vec<Source>,
    /// With a configuration: its identities and connections.
    pub(crate) settings: Option<Settings>,
    /// From the command line; holds for every connection.
    catalogue: Option<Arc<Catalog>>,
}

impl Desk {
    pub(crate) fn open(from: &Offline) -> anyhow::Result<Desk> {
        let catalogue = match &from.catalogue {
            None => None,
            Some(path) => Some(settings::catalogue(path).map_err(anyhow::Error::msg)?),
        };
        // Offline commands do nothing: the commands secrets come from are not run.
        let options = Options { insecure_listen: true, run_commands: false, ..Options::process() };
        match (&from.config, from.policy.as_slice()) {
            (_, files @ [_, ..]) => {
                let sources = settings::policies(files, &options).map_err(Failure::from)?;
                Ok(Desk { sources, settings: None, catalogue })
            }
            (Some(config), []) => {
                let settings = settings::load(config, &options, None).map_err(Failure::from)?;
                Ok(Desk { sources: settings.sources.clone(), settings: Some(settings), catalogue })
            }
            (None, []) => bail!("name the rules: -c CONFIG, or --policy FILE"),
        }
    }

    /// Who `--as` means. A name the configuration knows has its groups; any other name has those that are written.
    pub(crate) fn subject(&self, who: &str) -> anyhow::Result<Subject> {
        let mut identity = None;
        let mut groups: Vec<Arc<str>> = Vec::new();
        for part in who.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            match part.split_once(':') {
                Some(("group", group)) => groups.push(group.into()),
                Some(("identity", name)) => identity = Some(name),
                _ if identity.is_none() => identity = Some(part),
                _ => bail!("`{who}` names two identities; groups are written group:NAME"),
            }
        }
        let known = self.settings.as_ref().zip(identity);
        if let Some((settings, name)) = known {
            match settings.directory.identities.get(name) {
                Some(found) => groups.extend(found.subject.groups.iter().cloned()),
                None => bail!("there is no identity `{name}` in the configuration"),
            }
        }
        Ok(Subject { identity: identity.unwrap_or("somebody").into(), groups })
    }

    /// The rules, compiled. Hashes are keyed with anything: what they say is never shown.
    pub(crate) fn policy(&self) -> anyhow::Result<policy::Policy> {
        policy::compile(&self.sources, Some(policy::mask::HashKey::new(b"offline"))).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", problems.join("\n"))
        })
    }

    /// The connection and what is known of its tables.
    ///
    /// # Errors
    /// There is no such connection, or nothing is known of it.
    pub(crate) fn known(&self, connection: &str) -> anyhow::Result<Arc<Catalog>> {
        if let Some(settings) = &self.settings
            && !settings.directory.connections.contains_key(connection)
            && settings.directory.any.is_none()
        {
            let mut known: Vec<&str> = settings.directory.connections.keys().map(String::as_str).collect();
            known.sort_unstable();
            bail!("there is no connection `{connection}`; there are: {}", known.join(", "));
        }
        self.catalogue(connection).with_context(|| {
            format!(
                "nothing is known of the tables behind `{connection}`: make a snapshot with\n\
                 lockgate catalogue snapshot {connection} -c CONFIG -o FILE   and name it with --catalogue FILE"
            )
        })
    }

    /// What is known of the tables behind a connection.
    pub(crate) fn catalogue(&self, connection: &str) -> Option<Arc<Catalog>> {
        let fixed = || self.settings.as_ref()?.fixed.get(connection).cloned();
        self.catalogue.clone().or_else(fixed)
    }
}

pub(crate) fn test(args: &PolicyTestArgs) -> anyhow::Result<ExitCode> {
    let desk = Desk::open(&args.from)?;
    let results =
        policy::run_tests(&desk.sources, &|connection| desk.catalogue(connection)).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", problems.join("\n"))
        })?;
    let passed = results.iter().filter(|r| r.outcome == Outcome::Passed).count();
    let mut out = std::io::stdout().lock();
    if args.format.json() {
        let lines: Vec<_> = results.iter().map(as_json).collect();
        let all = json!({"passed": passed, "tests": results.len(), "results": lines});
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    } else {
        let rows = std::iter::once(["", "TEST", "ON", "STATEMENT", "WHY"].map(str::to_owned))
            .chain(results.iter().map(as_row))
            .collect::<Vec<_>>();
        if results.is_empty() {
            writeln!(out, "no tests: write some under `tests:` of a policy file")?;
        } else {
            write!(out, "{}\n{passed} of {} passed\n", look::table(&rows), results.len())?;
        }
    }
    if let Some(file) = &args.junit {
        std::fs::write(file, junit(&results)).with_context(|| format!("write {}", file.display()))?;
    }
    if passed == results.len() { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::from(3)) }
}

/// What became of a test, in a word and a sentence.
fn told(outcome: &Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Passed => ("ok", String::new()),
        Outcome::Failed { expected, got } => ("FAILED", format!("expected {expected}, got {got}")),
        Outcome::Untold(why) => ("UNTOLD", (*why).to_owned()),
    }
}

fn as_row(result: &TestResult) -> [String; 5] {
    let (word, why) = told(&result.outcome);
    let place = format!("{} #{}", result.file, result.number + 1);
    [word.to_owned(), place, result.connection.clone(), look::one_line(result.sql.as_bytes()), why]
}

fn as_json(result: &TestResult) -> serde_json::Value {
    let (word, why) = told(&result.outcome);
    json!({
        "file": result.file, "test": result.number + 1, "connection": result.connection, "sql": result.sql,
        "outcome": word.to_lowercase(), "why": why,
    })
}

/// The format build servers read.
fn junit(results: &[TestResult]) -> String {
    let escaped = |text: &str| {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                // XML 1.0 has no place for the others.
                c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
                c => out.push(c),
            }
        }
        out
    };
    let failed = results.iter().filter(|r| r.outcome != Outcome::Passed).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"lockgate policy\" tests=\"{}\" failures=\"{failed}\">\n",
        results.len()
    );
    for result in results {
        let name = escaped(&format!("#{} on {}: {}", result.number + 1, result.connection, result.sql));
        out += &format!("  <testcase classname=\"{}\" name=\"{name}\"", escaped(&result.file));
        match told(&result.outcome) {
            ("ok", _) => out += "/>\n",
            (word, why) => {
                out += &format!("><failure type=\"{word}\">{}</failure></testcase>\n", escaped(&why))
            }
        }
    }
    out + "</testsuite>\n"
}

// ---- the policies of the past ----

/// A policy file as it was when its revision was in force.
#[derive(Serialize, Deserialize)]
struct KeptFile {
    name: String,
    file: PolicyFile,
    lines: Vec<Option<u32>>,
}

/// Keeps what a revision was compiled from, so that its decisions can be explained when the files have changed.
///
/// # Errors
/// When it cannot be written; decisions stand without it.
pub(crate) fn keep(home: &Path, revision: &str, sources: &[Source]) -> std::io::Result<()> {
    let path = kept_path(home, revision);
    if path.exists() {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let files: Vec<KeptFile> = sources
        .iter()
        .map(|s| KeptFile { name: s.name.clone(), file: s.file.clone(), lines: s.lines.clone() })
        .collect();
    let half = path.with_extension("new");
    std::fs::write(&half, serde_json::to_vec_pretty(&files)?)?;
    std::fs::rename(half, path)
}

fn kept_path(home: &Path, revision: &str) -> PathBuf {
    home.join(KEPT).join(format!("{revision}.json"))
}

fn kept(home: &Path, revision: &str) -> anyhow::Result<Vec<KeptFile>> {
    let path = kept_path(home, revision);
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}

/// Explains a past decision: what was asked, which rules answered, and what these said at that time.
pub(crate) fn why(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let Some((_, number)) = ids::parse_decision(&args.decision) else {
        bail!("`{}` is not a decision's id; one looks like n8q2m7b1-17", args.decision);
    };
    let home = look::home(&args.place)?;
    let (line, told) = read::session(&home, &args.decision)?;
    let mut found = None;
    let mut outcome = None;
    for entry in &told {
        let Entry { what, .. } = entry.recorded.entry()?;
        match what {
            What::Statement(s) if s.number == number => found = Some(entry),
            What::Outcome(o) if o.number == number => outcome = Some(o.sqlstate.to_owned()),
            _ => {}
        }
    }
    let Some(found) = found else {
        bail!("session {} has no statement {number} in the record", line.id);
    };
    let entry = found.recorded.entry()?;
    let What::Statement(statement) = &entry.what else { bail!("the record changed while it was read") };
    let text = found.prepared.as_deref().filter(|_| statement.text.is_empty()).unwrap_or(statement.text);
    let verdict = match (statement.verdict, statement.how) {
        (Verdict::Allow, _) => "allowed",
        (Verdict::Mask, _) => "allowed, its answer masked",
        (Verdict::Block, How::Parse) => "refused when it was prepared",
        (Verdict::Block, _) => "refused",
        (Verdict::Observe, _) => "allowed; a rule in observe mode would have refused or masked",
    };
    let names: Vec<&str> = statement.rules.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    // A record from before revisions were kept, or one that was moved without them: the decision itself is still told.
    let (rules, missing) = match kept(&home, statement.policy) {
        Ok(files) => (named(&files, &names), None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let mut out = std::io::stdout().lock();
    if args.format.json() {
        let rules: Vec<_> =
            rules.iter().map(|r| json!({"rule": r.name, "place": r.place, "says": r.says})).collect();
        let all = json!({
            "decision": args.decision, "session": line.id, "time": jsonl::time(entry.unix_ns), "identity": line.identity,
            "groups": line.groups, "connection": line.connection, "statement": String::from_utf8_lossy(text),
            "verdict": verdict, "names": names, "revision": statement.policy, "rules": rules, "outcome": outcome,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "decision  {}  {}", args.decision, jsonl::time(entry.unix_ns))?;
    let groups = if line.groups.is_empty() { String::new() } else { format!(" ({})", line.groups) };
    writeln!(out, "asked by  {}{groups} on {}, session {}", line.identity, line.connection, line.id)?;
    writeln!(out, "asked     {}", look::one_line(text))?;
    writeln!(out, "verdict   {verdict} · revision {}", statement.policy)?;
    match outcome.as_deref() {
        Some("") => writeln!(out, "outcome   ok")?,
        Some(code) => writeln!(out, "outcome   {code}")?,
        None => {}
    }
    for name in &names {
        match rules.iter().find(|r| r.name == *name) {
            Some(rule) => {
                writeln!(out, "rule      {name}  {}, as it was then:", rule.place)?;
                for line in serde_saphyr::to_string(&rule.says).context("write YAML")?.lines() {
                    writeln!(out, "            {line}")?;
                }
            }
            None => match builtin(name) {
                Some(says) => writeln!(out, "rule      {name}  built in: {says}")?,
                None => writeln!(out, "rule      {name}")?,
            },
        }
    }
    if names.is_empty() {
        writeln!(out, "rule      none touched it")?;
    }
    if let Some(missing) = missing.filter(|_| names.iter().any(|n| builtin(n).is_none())) {
        writeln!(out, "\nwhat the rules said then is not known: {missing}")?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Said {
    name: String,
    place: String,
    says: policy::rule::Rule,
}

fn named(files: &[KeptFile], names: &[&str]) -> Vec<Said> {
    let mut out = Vec::new();
    for kept in files {
        for (n, rule) in kept.file.rules.iter().enumerate() {
            if names.contains(&rule.name.as_str()) {
                let place = match kept.lines.get(n).copied().flatten() {
                    Some(line) => format!("{}:{line}", kept.name),
                    None => kept.name.clone(),
                };
                out.push(Said { name: rule.name.clone(), place, says: rule.clone() });
            }
        }
    }
    out
}

/// Refusals that no file wrote: what is not understood is not passed.
fn builtin(name: &str) -> Option<&'static str> {
    match name {
        "not-understood" => Some(
            "an identity that rules touch may only send what can be read and resolved; see the message it was given",
        ),
        "code-not-analysed" => {
            Some("code and text run as SQL cannot be seen through, and a rule is in force")
        }
        "masked-data-copied" => {
            Some("a write, COPY or call would have carried masked data to where it is not masked")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junit_is_xml_whatever_a_statement_holds() {
        let result = |outcome| TestResult {
            file: "a.yaml".into(),
            number: 0,
            sql: "select '<\u{1}&\"'".into(),
            connection: "shop".into(),
            outcome,
        };
        let text = junit(&[result(Outcome::Passed), result(Outcome::Untold("no catalogue"))]);
        assert!(text.contains("tests=\"2\" failures=\"1\""), "{text}");
        assert!(text.contains("select '&lt;\u{fffd}&amp;&quot;'\"/>"), "{text}");
        assert!(text.contains("<failure type=\"UNTOLD\">no catalogue</failure>"), "{text}");
    }

    #[test]
    fn a_revision_is_kept_and_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let rule =
            policy::rule::Rule { name: "no-drop".into(), block: Some("no".into()), ..Default::default() };
        let file = PolicyFile { rules: vec![rule], ..Default::default() };
        let source = Source { name: "policy/a.yaml".into(), file, lines: vec![Some(4)] };
        keep(dir.path(), "3f1c", std::slice::from_ref(&source)).expect("kept");
        keep(dir.path(), "3f1c", &[]).expect("kept already: left alone");
        let said = named(&kept(dir.path(), "3f1c").expect("read"), &["no-drop", "other"]);
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].name.as_str(), said[0].place.as_str()), ("no-drop", "policy/a.yaml:4"));
        assert!(kept(dir.path(), "other").is_err());
    }
}
