//! What is called clean does not depend on a masked value: random statements against two real databases that differ in the masked
//! values only, compared byte for byte, errors and notices included where their text would not be withheld.
//!
//! Not a proof, and not the end-to-end test of masking: nothing of the gateway runs here. It needs PostgreSQL 15 (or the one whose
//! `bin` folder is in `LG_TEST_PG_BIN`) and says so when there is none. The seed is fixed; `LG_SOUND_STATEMENTS` and `LG_SOUND_SEED`
//! make it larger or other. Invariant: each statement runs alone, in a transaction that is rolled back.
#![expect(clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;

use policy::lineage::Explainer;
use policy::mask::Mask;
use policy::rule::{On, PolicyFile, Rule, Source};
use policy::{Catalog, Decision, Judge, Origin, Subject, Verdict, compile};
use serde_json::Value;
use support::Server;

const STATEMENTS: usize = 12_000;
const SEED: u64 = 23;

/// Columns the rule masks. `{secret}` in [`SCHEMA`] is what differs between the databases, in these columns only.
const MASKED: &[&str] =
    &["customers.email", "customers.ssn", "customers.salary", "parted.ssn", "ghost.email", "pins.pin"];

const SCHEMA: &str = r#"
    create table customers (id int primary key, name text not null check (name <> 'bad'), city text, email text, ssn text,
        salary numeric, tags text[]);
    insert into customers select i, 'name' || i, (array['rome','oslo','bonn'])[i % 3 + 1], '{secret}' || i || '@x.io',
        i || '{secret}' || i * 7, i * 100 + length('{secret}') * 1000, array['t' || i] from generate_series(1, 7) i;
    create table customers_archive () inherits (customers);
    insert into customers_archive select i, 'old' || i, 'rome', '{secret}' || i, '{secret}' || i, length('{secret}') + i, null
        from generate_series(11, 13) i;
    create table orders (id int primary key, customer_id int references customers deferrable, item text unique,
        amount numeric check (amount >= 0));
    insert into orders select i, i % 7 + 1, 'item' || i, i * 1.5 from generate_series(1, 8) i;
    create table kv (k text primary key, v text unique deferrable initially deferred);
    insert into kv values ('a', 'x'), ('b', null);
    create table parted (id int, region text, ssn text, check (id > 0)) partition by list (region);
    create table parted_eu partition of parted for values in ('eu');
    create table parted_us partition of parted for values in ('us');
    insert into parted select i, case when i % 2 = 0 then 'eu' else 'us' end, '{secret}' || i from generate_series(1, 5) i;
    create table ghost (id int, email_domain text generated always as (split_part(email, '@', 1)) stored, email text);
    insert into ghost values (1, default, '{secret}@y'), (2, default, 'b{secret}@y');
    create table noisy (id int);
    create table accounts (id int primary key, label text unique);
    insert into accounts values (1, 'one'), (2, 'two');
    create table pins (account int references accounts on delete set null on update cascade, pin text,
        check (account is not null or pin is null), check (account < 50));
    insert into pins values (1, '{secret}1'), (2, '{secret}2');
    create table base (id int check (id < 100));
    create table leaf (hidden text) inherits (base);
    insert into base values (1);
    insert into leaf values (2, 'seen');
    create view v_contact as select id, name, ssn as tax_no from customers;
    create view v_over as select tax_no as t, id from v_contact;
    create view v_orders as select id, item from orders;
    create view v_union as select v as x from kv union select ssn from customers;
    create view v_filter as select id from customers where ssn > '4';
    create view v_whole as select c, id from customers c;
    create view v_alias as select c.city as ssn, c.ssn as city from customers c;
    create function get_contact(int) returns text language sql stable as 'select email from customers where id = $1';
    create function get_contact(customers) returns text language sql stable as 'select $1.email';
    create view v_sub as select c.id, (select max(o.item) from orders o where o.customer_id = c.id) as last, c.email from customers c;
    create view v_rec as with recursive r(n, t) as (select 1, name from customers where id = 1
        union all select n + 1, t || email from r, customers where n < 2 and id = 2) select n, t from r;
    create function item_of(int) returns text language sql stable as 'select item from orders where id = $1';
    create function people() returns table (who text, mail text) language sql stable as 'select name, email from customers';
    create function atomic_f(i int) returns text language sql begin atomic select city from customers where id = i; end;
    create function pure_f(int) returns int language sql as 'select $1';
    create function tell() returns trigger language plpgsql as
        'begin raise exception ''%'', (select max(ssn) from customers); end';
    create trigger tell before insert or update or delete on noisy for each row execute function tell();
    insert into orders values (99, 1, 'pad', 1);
"#;

/// The catalogue as the side path would load it; only triggers are code here.
const CATALOGUE: &str = "
    select json_build_object('database', current_database(), 'server_version', current_setting('server_version_num')::int,
        'search_path', json_build_array('public'),
        'tables', (select json_agg(json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname,
                'kind', c.relkind::text,
                'columns', coalesce((select json_agg(json_build_object('number', a.attnum, 'name', a.attname,
                        'type_oid', a.atttypid::bigint, 'type_name', format_type(a.atttypid, null), 'not_null', a.attnotnull,
                        'generated', case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end) order by a.attnum)
                    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'),
                'parents', coalesce((select json_agg(inhparent::bigint) from pg_inherits where inhrelid = c.oid), '[]'),
                'definition', case when c.relkind in ('v', 'm') and n.nspname = 'public' then pg_get_viewdef(c.oid) end)
                order by c.oid)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')),
        'functions', (select json_agg(json_build_object('oid', p.oid::bigint, 'schema', n.nspname, 'name', p.proname,
                'language', l.lanname, 'kind', p.prokind::text, 'body', p.prosrc))
            from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
            where n.nspname not in ('pg_catalog', 'information_schema')),
        'writes', json_build_object(
            'code', (select json_agg(tgrelid::bigint) from pg_trigger where not tgisinternal),
            'cascades', (select json_agg(json_build_array(confrelid::bigint, conrelid::bigint)) from pg_constraint
                where contype = 'f' and (confupdtype not in ('a', 'r') or confdeltype not in ('a', 'r'))),
            'deferred', (select json_agg(distinct tgrelid::bigint) from pg_trigger where tgdeferrable)))";

/// Runs a script; what it printed, and what it complained of.
fn script(server: &Server, database: &str, script: &str) -> (String, String) {
    let file = server.dir.join(format!("{database}.sql"));
    fs::write(&file, script).expect("a script");
    let file = file.display().to_string();
    let output = server.psql(database, &["-F", "\x1f", "-v", "VERBOSITY=verbose", "-f", &file]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&format!("{file}:"), "");
    (text(&output.stdout), text(&output.stderr))
}

// ------------------------------------------------------------------------------------------------------------- statements

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn percent(&mut self, p: usize) -> bool {
        self.below(100) < p
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const TABLES: &[(&str, &[&str])] = &[
    ("customers", &["id", "name", "city", "email", "ssn", "salary", "tags"]),
    ("orders", &["id", "customer_id", "item", "amount"]),
    ("kv", &["k", "v"]),
    ("customers_archive", &["id", "name", "ssn"]),
    ("v_contact", &["id", "name", "tax_no"]),
    ("v_over", &["t", "id"]),
    ("v_orders", &["id", "item"]),
    ("parted", &["id", "region", "ssn"]),
    ("parted_eu", &["id", "ssn"]),
    ("ghost", &["id", "email_domain", "email"]),
    ("v_union", &["x"]),
    ("v_filter", &["id"]),
    ("v_whole", &["c", "id"]),
    ("v_alias", &["ssn", "city"]),
    ("accounts", &["id", "label"]),
    ("v_sub", &["id", "last", "email"]),
    ("v_rec", &["n", "t"]),
];
const FUNCTIONS: &[&str] = &[
    "upper",
    "lower",
    "md5",
    "row_to_json",
    "to_jsonb",
    "max",
    "length",
    "coalesce",
    "concat",
    "json_agg",
    "array_agg",
    "hashtext",
    "text",
    "get_contact",
    "pure_f",
    "abs",
    "quote_literal",
    "item_of",
    "atomic_f",
    "initcap",
    "reverse",
    "min",
    "count",
    "to_json",
    "string_to_array",
    "ascii",
    "sum",
];

#[derive(Clone)]
struct From {
    text: String,
    called: String,
    columns: Vec<&'static str>,
}

fn table(d: &mut Dice, depth: usize) -> From {
    if depth > 0 && d.percent(12) {
        let called = d.pick(&["s0", "s1"]).to_owned();
        return From {
            text: format!("({}) {called}", query(d, depth - 1, &[])),
            called,
            columns: vec!["id", "name", "ssn", "q"],
        };
    }
    let (name, columns) = TABLES[d.below(TABLES.len())];
    let alias = match d.below(4) {
        0 => format!(" a{}", d.below(3)),
        1 => format!(" AS {}", d.pick(&["x", "c", "customers", "orders", "old"])),
        2 if d.percent(30) => " y(q,w,e)".to_owned(),
        _ => String::new(),
    };
    let called = match alias.trim_start_matches(" AS").trim().split('(').next() {
        None | Some("") => name.to_owned(),
        Some(alias) => alias.to_owned(),
    };
    let prefix = match d.below(20) {
        0 | 1 => "public.",
        2 => "ONLY ",
        _ => "",
    };
    From { text: format!("{prefix}{name}{alias}"), called, columns: columns.to_vec() }
}

fn expression(d: &mut Dice, from: &[From], depth: usize) -> String {
    let source = from[d.below(from.len())].clone();
    let column = d.pick(&source.columns);
    let called = &source.called;
    let x = d.below(100);
    if depth == 0 && x >= 66 {
        return column.to_owned();
    }
    match x {
        0..35 => column.to_owned(),
        35..50 => format!("{called}.{column}"),
        50..55 => called.clone(),
        55..58 => format!("{called}.*"),
        58..61 => {
            let field = d.pick(&["row_to_json", "text", "get_contact", "id", column]);
            format!("({called}).{field}")
        }
        61..64 => {
            let field = d.pick(&["row_to_json", "get_contact", "text", "ctid", "nope", "pure_f"]);
            format!("{called}.{field}")
        }
        64..66 => d.pick(&["1", "'x'", "now() IS NULL", "NULL"]).to_owned(),
        66..76 => match d.pick(FUNCTIONS) {
            _ if d.percent(10) => "count(*)".to_owned(),
            f => format!("{f}({})", expression(d, from, depth - 1)),
        },
        76..78 => format!("({})::text", expression(d, from, depth - 1)),
        78..80 => format!("({})::int", expression(d, from, depth - 1)),
        80..83 => format!("{} || {}", expression(d, from, depth - 1), expression(d, from, depth - 1)),
        83..86 => format!("CASE WHEN {} IS NULL THEN 1 ELSE 2 END", expression(d, from, depth - 1)),
        86..89 => format!("({})", query(d, depth - 1, &[])),
        89..91 => format!("EXISTS ({})", query(d, depth - 1, from)),
        91..93 => format!("ARRAY[{}::text]", expression(d, from, depth - 1)),
        93..95 => format!("ROW({})", expression(d, from, depth - 1)),
        95..97 => format!("(SELECT {})", expression(d, from, depth - 1)),
        97 => format!("row_number() OVER (ORDER BY {})", expression(d, from, depth - 1)),
        98 => {
            let (a, b) = (expression(d, from, depth - 1), expression(d, from, depth - 1));
            match d.below(6) {
                0 => format!("nullif({a}::text, {b}::text)"),
                1 => format!("greatest({a}::text, {b}::text)"),
                2 => format!("substr({a}::text, 2, 1)"),
                3 => format!("left({a}::text, 2) || right({b}::text, 1)"),
                4 => format!("count({a}) FILTER (WHERE {b} IS NULL)"),
                _ => format!("string_agg({a}::text, ',' ORDER BY {b})"),
            }
        }
        _ => {
            let (a, b) = (expression(d, from, depth - 1), expression(d, from, depth - 1));
            match d.below(6) {
                0 => format!("{a}::text = {b}::text"),
                1 => format!("coalesce({a}::text, {b}::text)"),
                2 => format!("CASE {a}::text WHEN {b}::text THEN 1 END"),
                3 => format!("{a}::text IN ('rome', {b}::text)"),
                4 => format!("substring({a}::text from '^[0-5]')"),
                _ => format!("json_build_object('k', {a})::text"),
            }
        }
    }
}

fn query(d: &mut Dice, depth: usize, outer: &[From]) -> String {
    let n = [1, 1, 1, 2, 2, 3][d.below(6)];
    let mut from: Vec<From> = (0..n).map(|_| table(d, depth)).collect();
    let mut text = from[0].text.clone();
    for t in &from[1..] {
        text = match d.below(20) {
            0..8 => format!("{text}, {}", t.text),
            8..12 => format!("{text} JOIN {} ON true", t.text),
            12..14 => format!("{text} NATURAL JOIN {}", t.text),
            14..17 => format!("{text} JOIN {} USING ({})", t.text, d.pick(&["id", "name", "ssn"])),
            _ => format!("({text} CROSS JOIN {}) {}", t.text, d.pick(&["", "j"])),
        };
    }
    if d.percent(8) {
        let inner = query(d, depth.saturating_sub(1), &from);
        let _ = write!(text, ", LATERAL ({inner}) l");
    }
    if d.percent(8) {
        let of = expression(d, &from, 0);
        let function = match d.below(7) {
            0 => format!("unnest(ARRAY[{of}]) u(ssn)"),
            1 => "generate_series(1, 2) id".to_owned(),
            2 => "people() p(city)".to_owned(),
            3 => format!("regexp_split_to_table({of}::text, '1') name"),
            4 => "ROWS FROM (generate_series(1, 2), people()) WITH ORDINALITY rf(email)".to_owned(),
            5 => format!("jsonb_each_text(jsonb_build_object('k', {of})) je"),
            _ => format!("(VALUES (1, {of}), (2, 'v')) w(id, city)"),
        };
        let lateral = if function.starts_with("(VALUES") { "LATERAL " } else { "" };
        let _ = write!(text, ", {lateral}{function}");
        let (called, columns): (&str, Vec<&'static str>) = match function.rsplit(' ').next() {
            Some("u(ssn)") => ("u", vec!["ssn"]),
            Some("id") => ("id", vec!["id"]),
            Some("p(city)") => ("p", vec!["city", "mail"]),
            Some("name") => ("name", vec!["name"]),
            Some("rf(email)") => ("rf", vec!["email", "who", "mail", "ordinality"]),
            Some("je") => ("je", vec!["key", "value"]),
            _ => ("w", vec!["id", "city"]),
        };
        from.push(From { text: String::new(), called: called.to_owned(), columns });
    }
    from.extend_from_slice(outer);
    let outputs = if d.percent(12) {
        "*".to_owned()
    } else {
        let n = [1, 1, 2, 3][d.below(4)];
        (0..n).map(|_| expression(d, &from, depth)).collect::<Vec<_>>().join(", ")
    };
    let distinct = d.pick(&["", "", "", "DISTINCT "]);
    let mut query = format!("SELECT {distinct}{outputs} FROM {text}");
    if d.percent(25) {
        let _ = write!(query, " WHERE {} IS NOT NULL", expression(d, &from, depth));
    } else if d.percent(10) {
        let _ = write!(query, " WHERE {}.ssn LIKE '1%'", from[0].called);
    } else if d.percent(20) {
        let (a, b) = (expression(d, &from, 0), expression(d, &from, 0));
        let condition = match d.below(5) {
            0 => format!("{a}::text = {b}::text"),
            1 => format!("{a} IS NULL OR {b} IS NOT NULL"),
            2 => format!("{a}::text IN (SELECT {b}::text)"),
            3 => format!("NOT ({a}::text > 'm') AND {b} IS NOT NULL"),
            _ => format!("EXISTS (SELECT {a} WHERE {b}::text <> 'x')"),
        };
        let _ = write!(query, " WHERE {condition}");
    }
    if d.percent(5) {
        let by = expression(d, &from, 0);
        query = format!(
            "SELECT {by}, count(*), max({}) FROM {text} GROUP BY {}",
            expression(d, &from, 0),
            d.pick(&["1", "ROLLUP (1)"]).replace("ROLLUP (1)", &format!("ROLLUP ({by})"))
        );
    }
    if d.percent(12) {
        let _ = write!(query, " ORDER BY {}", expression(d, &from, 1));
    }
    if depth > 0 && d.percent(6) {
        let more = self::query(d, depth - 1, &[]);
        let _ = write!(query, " {} {more}", d.pick(&["UNION ALL", "UNION", "EXCEPT"]));
    }
    query
}

fn statement(d: &mut Dice) -> String {
    let any = |d: &mut Dice| TABLES[d.below(TABLES.len())].0;
    match d.below(100) {
        0..62 => query(d, 2, &[]),
        62 => format!(
            "WITH RECURSIVE r(id, name) AS ({} UNION ALL SELECT id + 1, {} FROM r WHERE id < 3) {}",
            d.pick(&["SELECT 1, name FROM customers", "SELECT id, email FROM customers", "SELECT 1, 'x'"]),
            d.pick(&["name", "name || 'y'", "(SELECT max(ssn) FROM customers)", "upper(r.name)"]),
            d.pick(&[
                "SELECT * FROM r",
                "SELECT name FROM r",
                "SELECT count(*) FROM r JOIN orders USING (id)"
            ])
        ),
        63 => format!(
            "MERGE INTO kv USING {} s ON kv.k = {} WHEN MATCHED THEN UPDATE SET v = {} WHEN NOT MATCHED THEN INSERT VALUES ({}, 'm')",
            d.pick(&["customers", "orders", "(SELECT id, name AS item FROM customers)"]),
            d.pick(&["s.id::text", "'a'", "s.name", "s.ssn"]),
            d.pick(&["'x'", "s.item", "s.email", "s.id::text"]),
            d.pick(&["s.id::text || 'k'", "s.ssn", "s.item"])
        ),
        64..68 => {
            let name = d.pick(&["q", "customers", "orders"]);
            format!("WITH {name} AS ({}) {}", query(d, 1, &[]), query(d, 1, &[]))
        }
        68..71 => format!(
            "INSERT INTO kv SELECT id::text, {} FROM {} RETURNING {}",
            d.pick(&["name", "ssn", "upper(email)", "item"]),
            any(d),
            d.pick(&["k", "*", "v", "kv"])
        ),
        71..74 => format!(
            "UPDATE customers SET {} = {} RETURNING {}",
            d.pick(&["name", "ssn"]),
            d.pick(&["'z'", "name", "ssn", "city", "NULL", "'bad'"]),
            d.pick(&["id", "*", "name", "ssn", "customers", "customers.*"])
        ),
        74..77 => format!("DELETE FROM {} RETURNING {}", any(d), d.pick(&["id", "*", "name"])),
        77..90 => {
            // Writes that may fail, some of them at the end only.
            let end = d.pick(&["", "", "; SET CONSTRAINTS ALL IMMEDIATE"]);
            let write = match d.below(14) {
                0 => format!(
                    "INSERT INTO orders VALUES ({}, {}, 'item{}', {})",
                    d.below(12),
                    d.below(20),
                    d.below(12),
                    d.below(3) as i32 - 1
                ),
                1 => format!("INSERT INTO kv VALUES ('{}', '{}')", d.pick(&["a", "c"]), d.pick(&["x", "y"])),
                2 => format!("UPDATE orders SET amount = amount - {}", d.below(4)),
                3 => format!("UPDATE orders SET item = 'item{}' WHERE id = {}", d.below(9), d.below(9)),
                4 => format!("DELETE FROM accounts WHERE id = {}", d.below(3)),
                5 => format!("UPDATE accounts SET id = id + {}", d.below(90)),
                6 => format!("INSERT INTO accounts VALUES ({}, '{}')", d.below(4), d.pick(&["one", "four"])),
                7 => "INSERT INTO noisy VALUES (1)".to_owned(),
                8 => format!(
                    "INSERT INTO customers (id, name) VALUES ({}, {})",
                    d.below(10),
                    d.pick(&["NULL", "'bad'", "'ok'"])
                ),
                9 => format!(
                    "INSERT INTO parted (id, region) VALUES ({}, '{}')",
                    d.below(2),
                    d.pick(&["eu", "mars"])
                ),
                10 => format!("UPDATE base SET id = id + {}", d.pick(&["1", "98"])),
                11 => format!(
                    "UPDATE parted SET id = id - {}, region = '{}'",
                    d.below(2),
                    d.pick(&["eu", "us", "mars"])
                ),
                12 => {
                    format!("INSERT INTO orders SELECT id, id, name FROM customers WHERE id > {}", d.below(9))
                }
                _ => format!("UPDATE kv SET v = '{}' FROM orders o WHERE o.id = 1", d.pick(&["x", "z"])),
            };
            format!("{write}{end}")
        }
        90..93 => format!("TABLE {}", any(d)),
        93..96 => format!("EXPLAIN (COSTS OFF) {}", query(d, 1, &[])),
        96..98 => format!("CREATE TEMP TABLE zz AS {}", query(d, 1, &[])),
        _ => format!("WITH w AS (UPDATE orders SET item=item RETURNING *) {}", query(d, 1, &[])),
    }
}

// ----------------------------------------------------------------------------------------------------------------- judging

/// What each statement printed and complained of.
type Said = HashMap<usize, (Vec<String>, Vec<String>)>;

fn run(server: &Server, database: &str, statements: &[(usize, &str)]) -> Said {
    run_as(server, database, statements, "")
}

/// The same with something before each.
fn run_as(server: &Server, database: &str, statements: &[(usize, &str)], before: &str) -> Said {
    let mut lines = String::from(
        "\\pset null '\x02'\nset statement_timeout = 3000;\nset max_parallel_workers_per_gather = 0;\n",
    );
    // Writes last: what they leave behind, rolled back, is of another size in each database, and may change plans and the order of
    // equals.
    let writes =
        |sql: &str| ["INSERT ", "UPDATE ", "DELETE ", "MERGE ", "CREATE "].iter().any(|w| sql.contains(w));
    let reads = statements.iter().filter(|(_, sql)| !writes(sql));
    for (i, sql) in reads.chain(statements.iter().filter(|(_, sql)| writes(sql))) {
        let _ = writeln!(lines, "\\echo @@{i}\n\\warn @@{i}\nBEGIN;\n{before} {sql};\nROLLBACK;");
    }
    let (out, err) = script(server, database, &lines);
    let mut said = Said::new();
    for (printed, text) in [(true, &out), (false, &err)] {
        let mut current = None;
        for line in text.lines() {
            // Complaints begin with the script's line number.
            match line.rsplit_once("@@").map(|(_, n)| n.parse::<usize>()) {
                Some(Ok(i)) if line.starts_with("@@") => current = Some(i),
                _ => {
                    if let Some(i) = current {
                        let entry = said.entry(i).or_default();
                        let lines = if printed { &mut entry.0 } else { &mut entry.1 };
                        lines.push(line.to_owned());
                    }
                }
            }
        }
    }
    said
}

// ---------------------------------------------------------------------------------------------------- the server's own analysis

/// The columns a plan in JSON reads, as `relation.column`: conditions and keys of every node, outputs of all but scans (which hand up
/// whole rows where that is cheaper).
fn planned(plan: &Value) -> BTreeSet<(String, String)> {
    let mut aliases = HashMap::new();
    let mut texts = Vec::new();
    let mut stack = vec![(plan, true)];
    while let Some((node, top)) = stack.pop() {
        let Value::Object(node) = node else {
            if let Value::Array(items) = node {
                stack.extend(items.iter().map(|i| (i, top)));
            }
            continue;
        };
        let text = |key: &str| node.get(key).and_then(Value::as_str);
        if let (Some(alias), Some(relation)) = (text("Alias"), text("Relation Name")) {
            aliases.insert(alias.to_owned(), relation.to_owned());
        }
        let scan = text("Node Type").is_some_and(|t| t.ends_with("Scan"));
        for (key, value) in node {
            match (key.as_str(), value) {
                ("Plan" | "Plans", inner) => {
                    let subplan = |n: &Value| n.get("Subplan Name").is_some();
                    match inner {
                        Value::Array(items) => stack.extend(items.iter().map(|i| (i, subplan(i)))),
                        other => stack.push((other, top)),
                    }
                }
                ("Output", _) if scan && !top => {}
                ("Alias" | "Relation Name" | "Schema" | "Node Type" | "CTE Name" | "Subplan Name", _) => {}
                (_, Value::String(t)) => texts.push(t.clone()),
                (_, Value::Array(items)) => {
                    texts.extend(items.iter().filter_map(Value::as_str).map(str::to_owned))
                }
                _ => {}
            }
        }
    }
    let mut found = BTreeSet::new();
    for text in &texts {
        let mut rest = text.as_str();
        while let Some(at) = rest.find(|c: char| c == '\'' || c.is_ascii_alphabetic() || c == '_') {
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix('\'') {
                rest = after.split_once('\'').map_or("", |(_, r)| r);
                continue;
            }
            let word =
                |t: &str| t.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(t.len());
            let end = word(rest);
            let name = &rest[..end];
            rest = &rest[end..];
            let Some(relation) = aliases.get(name) else { continue };
            if let Some(after) = rest.strip_prefix('.') {
                let column = &after[..if after.starts_with('*') { 1 } else { word(after) }];
                found.insert((relation.clone(), column.to_owned()));
            }
        }
    }
    found
}

/// What our analysis says is read contains what the server's plan reads.
fn contains_what_is_planned(server: &Server, catalog: &Catalog, statements: &[String]) {
    let explainer = Explainer::new(catalog);
    let numbered: Vec<(usize, &str)> = statements
        .iter()
        .map(String::as_str)
        .enumerate()
        .filter(|(_, s)| !s.contains(';') && !s.starts_with("EXPLAIN") && !s.starts_with("CREATE"))
        .collect();
    let said = run_as(server, "one", &numbered, "EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON)");
    let table = |name: &str| catalog.tables.iter().find(|t| t.schema == "public" && t.name == name);
    let (mut held, mut untraced, mut columns) = (0, 0, 0);
    let mut wrong = String::new();
    for (i, sql) in &numbered {
        let Some((printed, _)) = said.get(i) else { continue };
        let Ok(plan) = serde_json::from_str::<Value>(&printed.join("\n")) else { continue };
        let lineage = explainer.explain(sql).expect("the server reads it, so we do").remove(0);
        if lineage.untraced.is_some() {
            untraced += 1;
            continue;
        }
        held += 1;
        let unknown = lineage.outputs.iter().flatten().any(|o| o.unknown);
        for (relation, column) in planned(&plan) {
            if SYSTEM_COLUMNS.contains(&column.as_str()) {
                continue;
            }
            // Renamed by `y(q,w,e)`.
            let renamed = ["q", "w", "e"].iter().position(|n| *n == column);
            let column = match renamed.and_then(|n| table(&relation)?.columns.get(n)) {
                Some(c) => c.name.clone(),
                None => column,
            };
            // A child's column is its parent's.
            let mut family: Vec<u32> = table(&relation).iter().map(|t| t.oid).collect();
            let mut next = 0;
            while let Some(oid) = family.get(next).copied() {
                let parents = catalog.tables.iter().filter(|t| t.oid == oid).flat_map(|t| &t.parents);
                family.extend(parents);
                next += 1;
            }
            let names: Vec<&str> =
                catalog.tables.iter().filter(|t| family.contains(&t.oid)).map(|t| t.name.as_str()).collect();
            columns += 1;
            let read = |wanted: &str| {
                lineage.reads.iter().any(|r| {
                    names.contains(&r.column.table.as_str())
                        && (r.column.column == wanted || r.column.column == "*")
                })
            };
            let fine = if column == "*" {
                table(&relation).is_some_and(|t| t.columns.iter().all(|c| read(&c.name)))
            } else {
                read(&column)
            };
            if !fine && !unknown {
                let _ =
                    writeln!(wrong, "{sql}\n  plan reads {relation}.{column}, not among {:?}", lineage.reads);
            }
        }
    }
    eprintln!("{held} statements planned and traced, {columns} columns held; {untraced} not traced");
    assert!(wrong.is_empty(), "{wrong}");
    assert!(held * 5 > numbered.len() && untraced * 20 < held, "the statements say too little");
}

const SYSTEM_COLUMNS: &[&str] = &["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// SQLSTATEs, which are not withheld.
fn states(complaints: &[String]) -> Vec<&str> {
    complaints
        .iter()
        .filter_map(|l| l.split_once(":  ").filter(|(kind, _)| kind.ends_with("ERROR")))
        .map(|(_, rest)| rest.get(..5).unwrap_or(rest))
        .collect()
}

fn judge(catalog: &str) -> Judge {
    let catalog: Catalog = serde_json::from_str(catalog).expect("a catalogue");
    let rule = Rule {
        name: "m".into(),
        on: On { columns: MASKED.iter().map(|c| (*c).to_owned()).collect(), ..On::default() },
        mask: Some(Mask::Redact),
        ..Rule::default()
    };
    let file = PolicyFile { rules: vec![rule], ..PolicyFile::default() };
    let policy = compile(&[Source { file, ..Source::default() }], None).expect("compiles");
    let judge = policy.scope(&Subject { identity: "a".into(), groups: vec![] }, "c").bind(Arc::new(catalog));
    assert!(judge.unresolved().is_empty(), "{:?}", judge.unresolved());
    judge
}

#[test]
fn what_is_called_clean_does_not_depend_on_a_masked_value() {
    let Some(server) = Server::start(&["autovacuum=off", "jit=off"]) else { return };
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_) => default,
    };
    let mut dice = Dice(number("LG_SOUND_SEED", SEED));
    let count = number("LG_SOUND_STATEMENTS", STATEMENTS as u64) as usize;
    for (database, secret) in [("one", "3s"), ("two", "81zzz")] {
        script(&server, "postgres", &format!("create database {database}"));
        let (_, complaints) = script(&server, database, &SCHEMA.replace("{secret}", secret));
        assert_eq!(complaints, "");
    }
    let catalog = script(&server, "one", &format!("set search_path = pg_catalog; {CATALOGUE}")).0;
    let judge = judge(&catalog);

    let mut statements: Vec<String> = (0..count).map(|_| statement(&mut dice)).collect();
    statements.sort_unstable();
    statements.dedup();
    contains_what_is_planned(&server, judge.catalog(), &statements);
    let decisions: Vec<Arc<Decision>> = statements.iter().map(|s| judge.statement(s.as_bytes())).collect();
    let interesting: Vec<(usize, &str)> = (0..)
        .zip(&statements)
        .zip(&decisions)
        // A value that is asked about is a dependence the rule allows, and counts.
        .filter(|(_, d)| d.verdict == Verdict::Pass && d.probes.is_empty())
        .map(|((i, s), _)| (i, s.as_str()))
        .collect();
    let (one, two) = (run(&server, "one", &interesting), run(&server, "two", &interesting));

    let (mut clean, mut spoken, mut failed, mut partly, mut vague) = (0, 0, 0, 0, 0);
    let mut wrong = String::new();
    let nothing = (Vec::new(), Vec::new());
    for (i, sql) in &interesting {
        let (a, b) = (one.get(i).unwrap_or(&nothing), two.get(i).unwrap_or(&nothing));
        let (state_a, state_b) = (states(&a.1), states(&b.1));
        if state_a.contains(&"57014") || state_b.contains(&"57014") {
            continue;
        }
        let decision = &decisions[*i];
        failed += usize::from(!state_a.is_empty());
        let same = if decision.clean {
            clean += 1;
            let complaints = if decision.withhold {
                state_a == state_b
            } else {
                spoken += usize::from(!state_a.is_empty());
                a.1 == b.1
            };
            complaints && a.0 == b.0
        } else if let Some(outputs) = decision.outputs.as_ref().filter(|o| !o.contains(&Origin::Unknown)) {
            // What the client receives: errors by their SQLSTATE, how many rows there are, clean cells, and of a masked cell
            // whether it is NULL.
            partly += usize::from(state_a.is_empty());
            let shown = |rows: &[String]| -> Vec<Vec<String>> {
                let cell = |(c, o): (&str, &Origin)| match o {
                    Origin::Clean => c.to_owned(),
                    _ if c == "\x02" => "NULL".to_owned(),
                    _ => "***".to_owned(),
                };
                // json_agg writes lines: what has too few cells goes on from the line before.
                let mut whole: Vec<String> = Vec::new();
                for row in rows {
                    match whole.last_mut() {
                        Some(last) if row.matches('\x1f').count() + 1 < outputs.len() => last.push_str(row),
                        _ => whole.push(row.clone()),
                    }
                }
                whole.iter().map(|r| r.split('\x1f').zip(outputs).map(cell).collect()).collect()
            };
            state_a == state_b && shown(&a.0) == shown(&b.0)
        } else {
            vague += 1;
            if std::env::var_os("LG_SOUND_VAGUE").is_some() {
                eprintln!("vague: {sql}");
            }
            true
        };
        if !same {
            let _ = writeln!(wrong, "{sql}\n  one: {a:?}\n  two: {b:?}");
        }
    }
    eprintln!(
        "{} statements, {} run: {clean} clean, {partly} traced, {vague} left to the server's word; {failed} failed, {spoken} of them in \
         their own words",
        statements.len(),
        interesting.len()
    );
    assert!(wrong.is_empty(), "{wrong}");
    // The dice, the schema and the comparison are worth something only if all of this happened.
    assert!(clean * 12 > statements.len() && spoken > 20 && partly > 20, "the statements say too little");

    // And the comparison sees a leak where there is one, by every way out it compares.
    for leak in [
        "SELECT ssn FROM customers",
        "SELECT count(*) FROM customers WHERE salary > 3000",
        "SELECT ssn::int FROM customers",
        "INSERT INTO noisy VALUES (1)",
        "UPDATE customers SET name = 'bad'",
        "DELETE FROM accounts",
        "SELECT id FROM v_filter",
    ] {
        let decision = judge.statement(leak.as_bytes());
        assert!(decision.withhold || decision.verdict != Verdict::Pass, "{leak}");
        let statement = [(0, leak)];
        assert_ne!(run(&server, "one", &statement), run(&server, "two", &statement), "{leak}");
    }
}
