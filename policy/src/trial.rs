//! Runs the `tests:` of policy files: a statement, who sends it, and what the rules should make of it.
//!
//! Offline: no server says where a column comes from; the analysis does ([`crate::lineage`]). Invariant: what cannot be told is
//! [`Outcome::Untold`], never a success.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::judge::{Decision, Judge};
use crate::lineage;
use crate::mask::HashKey;
use crate::plan::CopyPlan;
use crate::rule::{Expect, Policy, Problem, Source, Test, compile};
use crate::subject::Subject;
use crate::verdict::Verdict;

/// One test and what came of it.
#[derive(Debug, Clone)]
pub struct TestResult {
    /// As in [`Source::name`].
    pub file: String,
    /// Its place in the file's list, from 0.
    pub number: usize,
    pub sql: String,
    /// The connection it was tried on; a test that names none is tried on every connection the rules name.
    pub connection: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed {
        expected: String,
        got: String,
    },
    /// Not decidable here.
    Untold(&'static str),
}

/// Compiles the files together and runs every test in them. `catalogs` tells what is known of a connection's tables: where it does not,
/// only refusals can be told, and answers of identities that no mask touches.
///
/// # Errors
/// What is wrong with the files; then nothing was run.
pub fn run_tests(
    sources: &[Source],
    catalogs: &dyn Fn(&str) -> Option<Arc<Catalog>>,
) -> Result<Vec<TestResult>, Vec<Problem>> {
    // What a hash says is not tested, only that there is one.
    let policy = compile(sources, Some(HashKey::new(b"tests")))?;
    let mut results = Vec::new();
    for source in sources {
        for (number, test) in source.file.tests.iter().enumerate() {
            for connection in connections(test, sources) {
                let outcome = one(&policy, catalogs(&connection), test, &connection);
                let (file, sql) = (source.name.clone(), test.sql.clone());
                results.push(TestResult { file, number, sql, connection, outcome });
            }
        }
    }
    Ok(results)
}

fn connections(test: &Test, sources: &[Source]) -> Vec<String> {
    if let Some(name) = &test.on {
        return vec![name.clone()];
    }
    let rules = sources.iter().flat_map(|s| &s.file.rules);
    let mut names: Vec<String> = rules
        .filter_map(|r| r.on.connection.as_ref())
        .flat_map(|c| c.list())
        .map(|c| c.trim_end_matches('*').to_owned())
        .filter(|c| !c.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        names.push("any".to_owned());
    }
    names
}

fn one(policy: &Policy, catalog: Option<Arc<Catalog>>, test: &Test, connection: &str) -> Outcome {
    let subject = Subject {
        identity: test.who.identity.as_deref().unwrap_or("somebody").into(),
        groups: test.who.groups.iter().map(|g| g.as_str().into()).collect(),
    };
    let judge = policy.scope(&subject, connection).bind(catalog.clone().unwrap_or_default());
    let decision = judge.statement(test.sql.as_bytes());
    let words = |columns: &[String]| {
        if columns.is_empty() { "pass".to_owned() } else { format!("mask {}", columns.join(", ")) }
    };
    let (expected, wanted) = match &test.expect {
        Expect::Block(rule) => (format!("block by {rule}"), None),
        Expect::Pass => (words(&[]), Some(Vec::new())),
        Expect::Mask(columns) => (words(columns), Some(columns.clone())),
    };
    let got = match (&decision.verdict, &test.expect) {
        (Verdict::Block(block), Expect::Block(rule)) if block.rule == *rule => return Outcome::Passed,
        (Verdict::Block(block), _) => {
            return Outcome::Failed { expected, got: format!("block by {}: {}", block.rule, block.message) };
        }
        (Verdict::Pass, Expect::Block(_)) => return Outcome::Failed { expected, got: "it runs".into() },
        (Verdict::Pass, _) if catalog.is_none() && judge.scope().masks() => {
            return Outcome::Untold("what is masked cannot be told without a catalogue snapshot");
        }
        (Verdict::Pass, _) => match masked(&judge, &decision, &test.sql) {
            Ok(got) => got,
            Err(why) => return Outcome::Untold(why),
        },
    };
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    let shown = words(&got);
    if wanted.map(sorted) == Some(sorted(got)) {
        Outcome::Passed
    } else {
        Outcome::Failed { expected, got: shown }
    }
}

/// The names of the masked columns of the answer.
fn masked(judge: &Judge, decision: &Decision, sql: &str) -> Result<Vec<String>, &'static str> {
    if decision.clean {
        return Ok(Vec::new());
    }
    if decision.copies.iter().any(|c| matches!(c, CopyPlan::Rows(_))) {
        return Err("the columns of a COPY have no names here; test a SELECT of the same");
    }
    let told = lineage::explain(judge.catalog(), sql).map_err(|_| "it cannot be parsed")?;
    let [statement] = told.as_slice() else {
        return Err("what several statements answer cannot be told here; test them one by one");
    };
    let masked = judge.masked_outputs(decision, statement);
    let (Some(outputs), Some(masked)) = (&statement.outputs, masked) else {
        return Err("the columns of its answer cannot be told without a server");
    };
    if outputs.iter().any(|o| o.unknown) {
        return Err(
            "a column of its answer may derive from anything: it reads something that is not in the catalogue",
        );
    }
    Ok(outputs.iter().zip(masked).filter(|(_, masked)| *masked).map(|(o, _)| o.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Table;

    fn catalog() -> Catalog {
        Catalog {
            search_path: vec!["public".into()],
            tables: vec![
                Table::of(20_000, "people", &["id", "name", "ssn"], None),
                Table::of(20_001, "orders", &["id", "item"], None),
            ],
            ..Catalog::default()
        }
    }

    fn outcomes(tests: &str, catalog: Option<&Catalog>) -> Vec<Outcome> {
        let file = format!(
            r#"{{"rules": [
                {{"name": "m", "on": {{"connection": "shop", "columns": ["people.ssn"], "groups": ["support"]}}, "mask": "hash"}},
                {{"name": "d", "on": {{"statements": ["drop"]}}, "block": "no"}}], "tests": [{tests}]}}"#
        );
        let file = serde_json::from_str(&file).expect("shape");
        let source = Source { name: "p.yaml".into(), file, lines: vec![] };
        run_tests(&[source], &|_| catalog.cloned().map(Arc::new))
            .expect("compiles")
            .into_iter()
            .map(|r| r.outcome)
            .collect()
    }

    fn test(groups: &str, sql: &str, expect: &str) -> String {
        format!(r#"{{"as": {{"groups": [{groups}]}}, "sql": "{sql}", "expect": {expect}}}"#)
    }

    #[test]
    fn expectations_are_held_against_what_happens() {
        let catalog = catalog();
        for (groups, sql, expect) in [
            (r#""support""#, "SELECT name, ssn FROM people", r#"{"mask": ["ssn"]}"#),
            (r#""support""#, "SELECT * FROM people p, orders", r#"{"mask": ["ssn"]}"#),
            (
                r#""support""#,
                "SELECT p.ssn AS x, upper(p.ssn), o.item FROM people p JOIN orders o ON o.id = p.id",
                r#"{"mask": ["upper", "x"]}"#,
            ),
            (r#""support""#, "SELECT name FROM people WHERE ssn = '1'", r#""pass""#),
            (r#""support""#, "SELECT x FROM (SELECT ssn AS x FROM people) s", r#"{"mask": ["x"]}"#),
            (
                r#""support""#,
                "SELECT * FROM people a JOIN people b USING (id)",
                r#"{"mask": ["ssn", "ssn"]}"#,
            ),
            (r#""support""#, "UPDATE people SET name = 'x' RETURNING *", r#"{"mask": ["ssn"]}"#),
            (r#""support""#, "DROP TABLE people", r#"{"block": "d"}"#),
            (r#""support""#, "SELECT item FROM orders", r#""pass""#),
            ("", "SELECT ssn FROM people", r#""pass""#),
            (
                r#""support""#,
                "UPDATE orders SET item = ssn FROM people",
                r#"{"block": "masked-data-copied"}"#,
            ),
        ] {
            assert_eq!(outcomes(&test(groups, sql, expect), Some(&catalog)), [Outcome::Passed], "{sql}");
        }
        for (sql, expect, said) in [
            ("SELECT name, ssn FROM people", r#""pass""#, "mask ssn"),
            ("SELECT name FROM people", r#"{"mask": ["name"]}"#, "pass"),
            ("SELECT name, ssn FROM people", r#"{"mask": ["name", "ssn"]}"#, "mask ssn"),
            ("SELECT 1", r#"{"block": "d"}"#, "it runs"),
            ("DROP TABLE x", r#""pass""#, "block by d: no"),
            ("DROP TABLE x", r#"{"block": "m"}"#, "block by d: no"),
        ] {
            match outcomes(&test(r#""support""#, sql, expect), Some(&catalog)).as_slice() {
                [Outcome::Failed { got, .. }] => assert_eq!(got, said, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_told_is_no_success() {
        let catalog = catalog();
        let support = r#""support""#;
        for sql in ["SELECT ssn FROM nowhere", "SELECT 1; SELECT ssn FROM people", "COPY people TO STDOUT"] {
            let got = outcomes(&test(support, sql, r#""pass""#), Some(&catalog));
            assert!(matches!(got.as_slice(), [Outcome::Untold(_)]), "{sql}: {got:?}");
        }
        let got = outcomes(&test(support, "SELECT 1 FROM people", r#""pass""#), None);
        assert!(matches!(got.as_slice(), [Outcome::Untold(_)]), "{got:?}");
        assert_eq!(outcomes(&test("", "SELECT 1 FROM people", r#""pass""#), None), [Outcome::Passed]);
        assert_eq!(outcomes(&test(support, "DROP TABLE x", r#"{"block": "d"}"#), None), [Outcome::Passed]);
    }
}
