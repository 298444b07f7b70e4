//! Statements as applications and tools write them, judged under masks on three columns of one table: nothing may be refused, and
//! what names no masked column passes unseen.
//!
//! Not run against a server (`tests/sound.rs` and the gateway's own tests do that). The exceptions, which are refused by design, are
//! in `tests/rules/ask.txt`; README.md names those that ordinary applications meet.

use std::fmt::Write as _;
use std::sync::Arc;

use policy::catalog::{Table, TableColumn};
use policy::rule::{PolicyFile, Rule, Source};
use policy::{Catalog, Judge, Origin, Subject, Verdict, compile};

mod system;

fn judge() -> Judge {
    let table = |oid, name: &str, columns: &[&str]| Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: 'r',
        columns: columns
            .iter()
            .zip(1..)
            .map(|(c, number)| TableColumn {
                number,
                name: (*c).into(),
                type_oid: 25,
                type_name: "text".into(),
                not_null: false,
                generated: None,
            })
            .collect(),
        parents: vec![],
        definition: None,
    };
    let catalog = Catalog {
        search_path: vec!["public".into()],
        tables: system::tables()
            .into_iter()
            .chain([
                table(20_000, "customers", &["id", "name", "city", "email", "ssn", "card", "created"]),
                table(20_001, "orders", &["id", "customer_id", "item", "amount"]),
                table(20_002, "pgbench_accounts", &["aid", "bid", "abalance", "filler"]),
            ])
            .collect(),
        keys: vec![(20_000, vec![1]), (20_001, vec![1]), (20_002, vec![1])],
        constraints: None,
        ..Catalog::default()
    };
    let rule = "{name: pii, on: {columns: [customers.email, customers.ssn, customers.card]}, mask: redact}";
    let rule: Rule = serde_saphyr::from_str(rule).expect("a rule");
    let source =
        Source { file: PolicyFile { rules: vec![rule], ..PolicyFile::default() }, ..Source::default() };
    let policy = compile(&[source], None).expect("compiles");
    policy.scope(&Subject { identity: "app".into(), groups: vec![] }, "shop").bind(Arc::new(catalog))
}

#[test]
fn applications_run_under_masks() {
    let judge = judge();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/apps");
    let (mut wrong, mut count) = (String::new(), 0);
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        let reflects = path.ends_with("reflection.sql");
        let text = std::fs::read_to_string(path).expect("readable");
        for sql in text.lines().filter(|l| !l.is_empty() && !l.starts_with("--")) {
            count += 1;
            let decision = judge.statement(sql.as_bytes());
            if let Verdict::Block(block) = &decision.verdict {
                let _ = writeln!(wrong, "{}: {}\n  {sql}", block.rule, block.message);
            }
            let named = ["email", "ssn", "card", "customers\".*"].iter().any(|c| sql.contains(c));
            if reflects {
                let told = decision.outputs.as_deref().unwrap_or_default();
                let hidden = told
                    .iter()
                    .filter(|o| matches!(o, Origin::Masked | Origin::Defined | Origin::Unknown))
                    .count();
                let trees = ["options", ".*", "subconninfo"].iter().any(|c| sql.contains(c));
                if !decision.clean && (told.is_empty() || (hidden > 0 && !trees)) {
                    let _ = writeln!(wrong, "{told:?}: {sql}");
                }
                continue;
            }
            // What shows definitions is told output by output: tests/rules/definitions.txt.
            let defines = ["pg_get_", "obj_description", "d.description"].iter().any(|c| sql.contains(c));
            if !named && !defines && !decision.clean {
                let _ = writeln!(wrong, "not clean: {sql}");
            }
            let looked_up = sql.contains("email = ") || sql.contains("email\" = ") || sql.contains("email=");
            if looked_up && !sql.contains("SET") && !sql.contains("set ") && decision.probes.is_empty() {
                let _ = writeln!(wrong, "no probe: {sql}");
            }
        }
    }
    assert!(count > 50, "the files were read");
    assert!(wrong.is_empty(), "\n{wrong}");
}
