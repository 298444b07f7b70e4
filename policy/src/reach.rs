//! Which sensitive columns somebody can see in clear, and by which statement: the question an owner asks of a policy.
//!
//! Sensitive is what any mask rule of the policy names, for whomever. For each such column a list of statements is judged as if the
//! subject had sent them, and what they would show is worked out as for `policy explain`. Invariant: nothing is called reachable
//! without a statement that shows it. The reverse is no proof: it says that none of the statements tried shows the column.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{Catalog, Table};
use crate::judge::{Decision, Judge};
use crate::lineage::{ColumnName, Explainer, Lineage};
use crate::plan::CopyPlan;
use crate::rule::Policy;
use crate::subject::Subject;
use crate::verdict::Verdict;

/// One sensitive column, and how it stands for one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub column: ColumnName,
    /// The rules that name it, for whomever.
    pub rules: Vec<String>,
    /// A statement that shows it.
    pub in_clear: Option<String>,
    /// How many statements were tried.
    pub tried: usize,
    /// Of those, how many would have been refused.
    pub refused: usize,
}

/// Every sensitive column of `catalog`, for `subject` on `connection`.
pub fn reach(policy: &Policy, subject: &Subject, connection: &str, catalog: &Arc<Catalog>) -> Vec<Reach> {
    let judge = policy.scope(subject, connection).bind(catalog.clone());
    let explainer = Explainer::new(catalog);
    let mut sensitive: BTreeMap<ColumnName, Vec<String>> = BTreeMap::new();
    for (rule, column) in policy.sensitive(catalog) {
        let rules = sensitive.entry(column).or_default();
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    let views = views(&explainer, catalog);
    let one = |(column, rules): (ColumnName, Vec<String>)| {
        let (mut in_clear, mut tried, mut refused) = (None, 0, 0);
        for text in statements(&column, &views, catalog) {
            tried += 1;
            let decision = judge.statement(text.as_bytes());
            if decision.verdict != Verdict::Pass {
                refused += 1;
            } else if in_clear.is_none() && shows(&judge, &decision, &explainer, &text, &column) {
                in_clear = Some(text);
            }
        }
        Reach { column, rules, in_clear, tried, refused }
    };
    sensitive.into_iter().map(one).collect()
}

/// Whether the statement's answer carries the column unmasked.
fn shows(
    judge: &Judge,
    decision: &Decision,
    explainer: &Explainer<'_>,
    text: &str,
    column: &ColumnName,
) -> bool {
    match decision.copies.first() {
        Some(CopyPlan::Pass) => return true,
        Some(CopyPlan::Rows(rows)) => {
            return rows.every.is_none() && rows.columns.iter().any(Option::is_none);
        }
        Some(CopyPlan::Binary(binary)) => {
            return binary.columns.as_ref().is_some_and(|c| c.iter().any(Option::is_none));
        }
        None => {}
    }
    let Ok(statements) = explainer.explain(text) else { return false };
    statements.iter().any(|lineage| {
        let masked = judge.masked_outputs(decision, lineage);
        let outputs = lineage.outputs.iter().flatten();
        outputs.zip(masked.unwrap_or_default()).any(|(o, masked)| !masked && o.sources.contains(column))
    })
}

/// Columns of views by what they derive from.
fn views(explainer: &Explainer<'_>, catalog: &Catalog) -> BTreeMap<ColumnName, Vec<String>> {
    let mut out: BTreeMap<ColumnName, Vec<String>> = BTreeMap::new();
    for view in catalog.tables.iter().filter(|t| matches!(t.kind, 'v' | 'm')) {
        for column in &view.columns {
            let text = format!("SELECT {} FROM {}", quoted(&column.name), named(view));
            let Ok(statements) = explainer.explain(&text) else { continue };
            let outputs = statements.iter().flat_map(|s: &Lineage| s.outputs.iter().flatten());
            for source in outputs.flat_map(|o| &o.sources) {
                out.entry(source.clone()).or_default().push(text.clone());
            }
        }
    }
    out
}

/// Ways to ask for a column: plainly, derived, carried in something larger, and through every view that has it.
fn statements(
    column: &ColumnName,
    views: &BTreeMap<ColumnName, Vec<String>>,
    catalog: &Catalog,
) -> Vec<String> {
    let (t, c) = (format!("{}.{}", quoted(&column.schema), quoted(&column.table)), quoted(&column.column));
    let mut out = vec![
        format!("SELECT {c} FROM {t}"),
        format!("SELECT * FROM {t}"),
        format!("SELECT x FROM (SELECT {c} AS x FROM {t}) s"),
        format!("WITH w AS (SELECT {c} AS x FROM {t}) SELECT x FROM w"),
        format!("SELECT {c} FROM {t} UNION ALL SELECT {c} FROM {t}"),
        format!("SELECT {c}::text FROM {t}"),
        format!("SELECT reverse({c}::text) FROM {t}"),
        format!("SELECT min({c}::text), max({c}::text), string_agg({c}::text, ',') FROM {t}"),
        format!("SELECT row_to_json(t) FROM {t} t"),
        format!("SELECT t FROM {t} t"),
        format!("SELECT CASE WHEN {c} IS NULL THEN 'n' ELSE {c}::text END FROM {t}"),
        format!("SELECT (SELECT {c} FROM {t} LIMIT 1)"),
        format!("COPY {t} ({c}) TO STDOUT"),
        format!("COPY (SELECT {c} FROM {t}) TO STDOUT"),
        format!("UPDATE {t} SET {c} = {c} RETURNING {c}"),
        format!("DELETE FROM {t} RETURNING {c}"),
    ];
    out.extend(views.get(column).into_iter().flatten().cloned());
    let calls = catalog.functions.iter().filter(|f| f.kind == 'f' && f.body.contains(&column.column));
    out.extend(calls.map(|f| format!("SELECT * FROM {}.{}()", quoted(&f.schema), quoted(&f.name))));
    out
}

fn named(table: &Table) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

/// As an identifier; quotes only where they are needed.
fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Source, compile};

    fn catalog() -> Arc<Catalog> {
        Arc::new(Catalog {
            search_path: vec!["public".into()],
            tables: vec![
                Table::of(20_000, "people", &["id", "ssn"], None),
                Table::of(20_001, "Mixed", &["id", "Card"], None),
                Table::of(20_002, "v", &["tax"], Some("SELECT upper(p.ssn) AS tax FROM people p")),
            ],
            ..Catalog::default()
        })
    }

    fn asked(groups: &[&str]) -> Vec<(String, Option<String>)> {
        let rules = r#"{"rules": [
            {"name": "ssn", "on": {"columns": ["people.ssn"], "groups": ["support"]}, "mask": "redact"},
            {"name": "card", "on": {"columns": ["Mixed.Card"], "groups": ["support", "sales"]}, "mask": "hash"}]}"#;
        let file = serde_json::from_str(rules).expect("shape");
        let source = Source { name: "p.yaml".into(), file, lines: vec![] };
        let policy = compile(&[source], Some(crate::mask::HashKey::new(b"k"))).expect("compiles");
        let groups = groups.iter().map(|g| (*g).into()).collect();
        let subject = Subject { identity: "ana".into(), groups };
        reach(&policy, &subject, "shop", &catalog())
            .into_iter()
            .map(|r| {
                assert!(r.tried >= 16, "{r:?}");
                (r.column.to_string(), r.in_clear)
            })
            .collect()
    }

    #[test]
    fn who_is_masked_sees_nothing_and_who_is_not_is_told_how() {
        let (card, ssn) = ("public.Mixed.Card".to_owned(), "public.people.ssn".to_owned());
        assert_eq!(asked(&["support"]), [(card.clone(), None), (ssn.clone(), None)]);
        assert_eq!(
            asked(&["sales"]),
            [(card.clone(), None), (ssn.clone(), Some("SELECT ssn FROM public.people".into()))]
        );
        assert_eq!(asked(&[])[0], (card, Some("SELECT \"Card\" FROM public.\"Mixed\"".into())));
    }
}
