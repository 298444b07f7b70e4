//! How long a judgement takes: `cargo run --release -p policy --example speed`.
//!
//! Not the benchmark of record (that is `benches/`); a quick look while changing the analysis.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use policy::catalog::{Catalog, Table, TableColumn};
use policy::rule::{PolicyFile, Rule, Source};
use policy::{DecisionCache, Subject, compile};

fn main() {
    let column = |i: i16| TableColumn {
        number: i,
        name: format!("c{i}"),
        type_oid: 25,
        type_name: "text".into(),
        not_null: false,
        generated: None,
    };
    let tables = (0..200)
        .map(|t| Table {
            oid: 20_000 + t,
            schema: "public".into(),
            name: format!("t{t}"),
            kind: 'r',
            columns: (1..=10).map(column).collect(),
            parents: vec![],
            definition: None,
        })
        .collect();
    let catalog = Arc::new(Catalog { tables, ..Catalog::default() });
    let rules = (0..50)
        .map(|i| -> Rule {
            let text = if i < 10 {
                format!(r#"{{"name":"m{i}","on":{{"columns":["t{}.c{}"]}},"mask":"redact"}}"#, i / 2, i % 2 + 4)
            } else {
                format!(r#"{{"name":"b{i}","on":{{"statements":["drop","delete"],"tables":["x{i}"]}},"block":"no"}}"#)
            };
            serde_json::from_str(&text).unwrap_or_default()
        })
        .collect();
    let source = Source { file: PolicyFile { rules, ..PolicyFile::default() }, ..Source::default() };
    let policy = compile(&[source], None).unwrap_or_default();
    let judge = policy.scope(&Subject { identity: "a".into(), groups: vec![] }, "c").bind(catalog);
    let join = "SELECT t1.c1, t1.c2, t2.c3, count(*) FROM t1 JOIN t2 ON t1.c1 = t2.c1 LEFT JOIN t7 ON t7.c1 = t2.c2 \
                WHERE t1.c3 = 'abc' AND t2.c2 > 100 AND t7.c2 IS NOT NULL GROUP BY t1.c1, t1.c2, t2.c3 ORDER BY t1.c1 LIMIT 50";
    // Names masked columns (t1.c4, t1.c5, t2.c4, t2.c5): followed through its scopes.
    let traced = "SELECT t1.c1, t1.c4, upper(t2.c5), count(*) FROM t1 JOIN t2 ON t1.c1 = t2.c1 LEFT JOIN t7 ON t7.c1 = t2.c2 \
                  WHERE t1.c3 = 'abc' AND t1.c4 = $1 AND t7.c2 IS NOT NULL GROUP BY t1.c1, t1.id, t2.id, 4 ORDER BY t1.c1 LIMIT 50";
    let mut cache = DecisionCache::new();
    for (name, sql) in [("lookup", "SELECT c1, c2 FROM t1 WHERE c1 = 42"), ("join", join), ("masked", traced)]
    {
        let time = |label: &str, n: u32, f: &mut dyn FnMut()| {
            let best = (0..7)
                .map(|_| {
                    let start = Instant::now();
                    (0..n).for_each(|_| f());
                    start.elapsed().as_nanos() / u128::from(n)
                })
                .min()
                .unwrap_or_default();
            println!("{name:8} {label:9} {best:>7} ns   ({} bytes)", sql.len());
        };
        time("uncached", 10_000, &mut || {
            black_box(judge.statement(black_box(sql.as_bytes())));
        });
        time("cached", 200_000, &mut || {
            black_box(cache.statement(&judge, black_box(sql.as_bytes()), true));
        });
    }
}
