//! The slowest texts of each shape that are still let in: `cargo run --release -p policy --example worst`.
//!
//! Not the benchmark of record; it is what the bounds in `sql.rs` are set by, and its table is in README.md. For each shape the
//! largest text that is not refused for its size is found by halving, then judged several times; the best time is printed,
//! because the machine is shared. No shape may take longer than 5 ms.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::catalog::{Catalog, Table, TableColumn};
use policy::rule::{PolicyFile, Rule, Source};
use policy::{Judge, Subject, Verdict, compile};

fn judge() -> Judge {
    let column = |number: i16, name: &str| TableColumn {
        number,
        name: name.into(),
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
            columns: (1..=10).map(|i| column(i, &format!("c{i}"))).chain([column(11, "s")]).collect(),
            parents: vec![],
            definition: None,
        })
        .collect();
    let rules = (0..50)
        .map(|i| -> Rule {
            let text = if i < 10 {
                format!(r#"{{"name":"m{i}","on":{{"columns":["t{i}.s"]}},"mask":"redact"}}"#)
            } else {
                format!(r#"{{"name":"b{i}","on":{{"statements":["drop","delete"],"tables":["x{i}"]}},"block":"no"}}"#)
            };
            serde_json::from_str(&text).unwrap_or_default()
        })
        .collect();
    let source = Source { file: PolicyFile { rules, ..PolicyFile::default() }, ..Source::default() };
    let policy = compile(&[source], None).unwrap_or_default();
    let catalog = Arc::new(Catalog { tables, ..Catalog::default() });
    policy.scope(&Subject { identity: "a".into(), groups: vec![] }, "c").bind(catalog)
}

type Shape = (&'static str, fn(usize) -> String);

const SHAPES: &[Shape] = &[
    ("IN list of numbers", |n| format!("SELECT c1 FROM t1 WHERE c2 IN (1{})", ",1".repeat(n))),
    ("IN list of strings", |n| format!("SELECT c1 FROM t1 WHERE c2 IN ('a'{})", ",'a'".repeat(n))),
    ("IN list of columns", |n| format!("SELECT c1 FROM t1 WHERE c2 IN (c1{})", ",c1".repeat(n))),
    ("IN list of t.column", |n| format!("SELECT c1 FROM t1 WHERE c2 IN (t1.c1{})", ",t1.c1".repeat(n))),
    ("IN list of parameters", |n| format!("SELECT c1 FROM t1 WHERE c2 IN ($1{})", ",$1".repeat(n))),
    ("VALUES rows, SELECT", |n| format!("SELECT * FROM (VALUES (1,'a'){}) v", ",(1,'a')".repeat(n))),
    ("INSERT rows of literals", |n| format!("INSERT INTO t1 (c1,c2) VALUES (1,'a'){}", ",(1,'a')".repeat(n))),
    ("INSERT rows with now()", |n| {
        format!("INSERT INTO t1 (c1,c2) VALUES (1,now()){}", ",(1,now())".repeat(n))
    }),
    ("INSERT rows, then one more", |n| format!("INSERT INTO t1 VALUES (1){},(now())", ",(NULL)".repeat(n))),
    ("INSERT rows as of an ORM", |n| {
        let row =
            "(123456, 'some text, rather short', 3.14, NULL, '2026-01-01'::timestamp without time zone, $7)";
        format!("INSERT INTO t1 VALUES {row}{}", format!(", {row}").repeat(n / 10))
    }),
    ("INSERT rows with spaces", |n| {
        format!("INSERT INTO t1 VALUES (1){}", ",          (   1      )".repeat(n / 4))
    }),
    ("INSERT, head", |n| format!("INSERT INTO t1 ({}) VALUES (1)", "a,".repeat(n))),
    ("INSERT rows of strings", |n| {
        format!(
            "INSERT INTO t1 VALUES ('{0}'){1}",
            "x".repeat(90),
            format!(",('{}')", "x".repeat(90)).repeat(n / 30)
        )
    }),
    ("chain of +", |n| format!("SELECT c1{} FROM t1", "+c2".repeat(n))),
    ("chain of ||", |n| format!("SELECT c1{} FROM t1", "||s".repeat(n))),
    ("chain of + constants", |n| format!("SELECT 1{} FROM t1", "+1".repeat(n))),
    ("chain of AND", |n| format!("SELECT 1 FROM t1 WHERE c1{}", " AND c2".repeat(n))),
    ("chain of OR a = 1", |n| format!("SELECT 1 FROM t1 WHERE c1=1{}", " OR c2=1".repeat(n))),
    ("chain of -", |n| format!("SELECT {}1", "- ".repeat(n))),
    ("chain of NOT", |n| format!("SELECT {}true", "NOT ".repeat(n))),
    ("chain of casts", |n| format!("SELECT c1{} FROM t1", "::int".repeat(n))),
    ("chain of IS NULL", |n| format!("SELECT c1{} FROM t1", " IS NULL".repeat(n))),
    ("chain of COLLATE", |n| format!("SELECT c1{} FROM t1", " COLLATE x".repeat(n))),
    ("subscripts", |n| format!("SELECT c1{} FROM t1", "[1]".repeat(n))),
    ("dots", |n| format!("SELECT c1{} FROM t1", ".a".repeat(n))),
    ("many calls", |n| format!("SELECT 1{} FROM t1", ",f()".repeat(n))),
    ("many lower(s)", |n| format!("SELECT 1{} FROM t1", ",lower(s)".repeat(n))),
    ("many definitions", |n| format!("SELECT 1{} FROM pg_attrdef", ",pg_get_expr(adbin,adrelid)".repeat(n))),
    ("definitions chosen", |n| {
        format!("SELECT coalesce(''{}) FROM pg_class c", ",pg_get_viewdef(oid)".repeat(n))
    }),
    ("definitions in a row", |n| format!("SELECT ''{} FROM pg_description", "||description".repeat(n))),
    ("definitions in arrays", |n| {
        format!(
            "SELECT 1{} FROM pg_enum",
            ",array_to_string(ARRAY(SELECT enumlabel FROM pg_enum),',')".repeat(n)
        )
    }),
    ("INSERT ON CONFLICT", |n| {
        format!("INSERT INTO t1 (c1, s) VALUES (1, 'a'){} ON CONFLICT DO NOTHING", ",(1, now())".repeat(n))
    }),
    ("CASE branches", |n| format!("SELECT CASE {} END FROM t1", "WHEN c1 THEN s ".repeat(n.max(1)))),
    ("many columns", |n| format!("SELECT c1{} FROM t1", ",c2".repeat(n))),
    ("many columns with aliases", |n| format!("SELECT c1{} FROM t1 ORDER BY 1", ",c2 a".repeat(n))),
    ("many *", |n| format!("SELECT *{} FROM t1", ",*".repeat(n))),
    ("many t.*", |n| format!("SELECT t1.*{} FROM t1", ",t1.*".repeat(n))),
    ("many tables", |n| format!("SELECT 1 FROM t1{}", ",t1".repeat(n))),
    ("many aliased tables", |n| {
        let list: String = (0..n).map(|i| format!(",t{} a{i}", i % 200)).collect();
        format!("SELECT 1 FROM t1{list}")
    }),
    ("many joins", |n| format!("SELECT 1 FROM t1{}", " JOIN t1 ON true".repeat(n))),
    ("many joins USING", |n| format!("SELECT 1 FROM t1{}", " JOIN t1 USING (c1)".repeat(n))),
    ("unknown tables", |n| format!("SELECT 1 FROM t1{}", ",zz".repeat(n))),
    ("CTEs", |n| format!("WITH a AS (SELECT 1){} SELECT 1", ",a AS (SELECT s FROM t1)".repeat(n))),
    ("UNIONs", |n| format!("SELECT 1{}", " UNION SELECT 1".repeat(n))),
    ("subqueries side by side", |n| format!("SELECT 1{} FROM t1", ",(SELECT s)".repeat(n))),
    ("subqueries inside", |n| format!("SELECT {}1{}", "(SELECT ".repeat(n), ")".repeat(n))),
    ("parentheses", |n| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n))),
    ("parentheses side by side", |n| format!("SELECT 1{}", ",(1)".repeat(n))),
    ("ROWs", |n| format!("SELECT 1{}", ",ROW()".repeat(n))),
    ("ARRAYs", |n| format!("SELECT 1{}", ",ARRAY[1]".repeat(n))),
    ("many SELECT 1", |n| format!("SELECT 1{}", ";SELECT 1".repeat(n))),
    ("many SELECT FROM t", |n| format!("SELECT 1{}", ";SELECT s FROM t1".repeat(n))),
    ("many BEGIN", |n| format!("BEGIN{}", ";BEGIN".repeat(n))),
    ("many empty statements", |n| format!("SELECT 1{}", ";".repeat(n))),
    ("many DELETE", |n| format!("SELECT 1{}", ";DELETE FROM t1".repeat(n))),
    ("many INSERT", |n| format!("SELECT 1{}", ";INSERT INTO t1 VALUES(1)".repeat(n))),
    ("many SET", |n| format!("SELECT 1{}", ";SET x=1".repeat(n))),
    ("many COPY", |n| format!("SELECT 1{}", ";COPY t1 TO STDOUT".repeat(n))),
    ("DROP of many", |n| format!("DROP TABLE t1{}", ",t1".repeat(n))),
    ("GRANT on many", |n| format!("GRANT SELECT ON t1{} TO x", ",t1".repeat(n))),
    ("ALTER with many commands", |n| format!("ALTER TABLE t50 ADD a int{}", ",ADD a int".repeat(n))),
    ("CREATE with many columns", |n| format!("CREATE TABLE z (a int{})", ",a int".repeat(n))),
    ("ORDER BY", |n| format!("SELECT 1 FROM t1 ORDER BY c1{}", ",c1".repeat(n))),
    ("GROUP BY", |n| format!("SELECT 1 FROM t1 GROUP BY c1{}", ",c1".repeat(n))),
    ("windows", |n| format!("SELECT 1{} FROM t1", ",sum(c1)OVER()".repeat(n))),
    ("UPDATE SET", |n| format!("UPDATE t1 SET c1=1{}", ",c1=1".repeat(n))),
    ("set_config", |n| format!("SELECT 1{}", ",set_config('jit','x',false)".repeat(n))),
    ("one string", |n| format!("SELECT '{}'", "x".repeat(n))),
    ("one string, doubled quotes", |n| format!("SELECT '{}'", "''".repeat(n))),
    ("one E string", |n| format!("SELECT E'{}'", "\\n".repeat(n))),
    ("one U& string", |n| format!("SELECT U&'{}'", "\\0041".repeat(n))),
    ("one X string", |n| format!("SELECT X'{}'", "1f".repeat(n))),
    ("one dollar string", |n| format!("SELECT $a${}$a$", "$b".repeat(n))),
    ("string parts on lines", |n| format!("SELECT 'a'{}", "\n'a'".repeat(n))),
    ("many strings", |n| format!("SELECT 'a'{}", ",'a'".repeat(n))),
    ("many dollar strings", |n| format!("SELECT 1{}", ",$$$$".repeat(n))),
    ("one name", |n| format!("SELECT \"{}\"", "x".repeat(n))),
    ("one name of multibyte", |n| format!("SELECT {}", "ä".repeat(n))),
    ("one number", |n| format!("SELECT {}", "1".repeat(n))),
    ("one operator", |n| format!("SELECT 1 {} 1", "@".repeat(n))),
    ("one operator of + and -", |n| format!("SELECT 1 {}1", "+-".repeat(n))),
    ("one operator of -", |n| format!("SELECT 1 {} 1", "*-".repeat(n))),
    ("one comment", |n| format!("SELECT /*{}*/ 1", "x".repeat(n))),
    ("one comment of stars", |n| format!("SELECT /*{}*/ 1", "*".repeat(n))),
    ("comments in a comment", |n| format!("SELECT /*{}*/ 1", "/**/".repeat(n))),
    ("many comments", |n| format!("SELECT {} 1", "/**/".repeat(n))),
    ("line comments", |n| format!("SELECT {} 1", "--\n".repeat(n))),
    ("spaces", |n| format!("SELECT {} 1", " ".repeat(n))),
    ("words in a row", |n| format!("SELECT {}", "a ".repeat(n))),
    ("long words", |n| format!("SELECT 1{}", format!(",{}", "a".repeat(1_000)).repeat(n / 100))),
    ("error at the end", |n| format!("SELECT 1{} FROM FROM", ",c1".repeat(n))),
];

fn main() {
    let judge = judge();
    let too_large = |sql: &str| matches!(&judge.statement(sql.as_bytes()).verdict, Verdict::Block(b) if b.sqlstate.starts_with("54"));
    println!("{:28} {:>9} {:>9} {:>9}", "shape", "bytes", "ms", "repeats");
    let mut worst = Duration::ZERO;
    for (name, shape) in SHAPES {
        let (mut low, mut high) = (1, 6_500_000);
        while low + 1 < high && low * 100 / high < 98 {
            let middle = (low + high) / 2;
            let sql = shape(middle);
            if sql.len() > 6_500_000 || too_large(&sql) { high = middle } else { low = middle }
        }
        let sql = shape(low);
        let best = (0..25)
            .map(|_| {
                let start = Instant::now();
                black_box(judge.statement(black_box(sql.as_bytes())));
                start.elapsed()
            })
            .min()
            .unwrap_or_default();
        worst = worst.max(best);
        println!("{name:28} {:>9} {:>9.2} {low:>9}", sql.len(), best.as_secs_f64() * 1e3);
    }
    println!("worst {:.2} ms", worst.as_secs_f64() * 1e3);
}
