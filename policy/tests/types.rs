//! What a mask writes is a value of its column's type: every type of a real PostgreSQL takes every mask back, in text and in binary.
//!
//! Not a test of which column is masked. It needs PostgreSQL 15 (or the one whose `bin` folder is in `LG_TEST_PG_BIN`) with psql and
//! says so when there is none. Invariant: the types are the server's own list (pg_type), so a new one cannot be forgotten; the server
//! judges by its input and receive functions, through COPY FROM.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;
use std::sync::Arc;

use policy::catalog::{Table, TableColumn};
use policy::mask::{Cell, HashKey, Masked};
use policy::rule::{PolicyFile, Source};
use policy::{Catalog, Column, Format, Subject, compile};

use support::Server;

const OF_USERS: &str = "
    create type mood as enum ('sad', 'ok');
    create type pair as (a int, b text);
    create domain email as text check (value is null or length(value) > 0);
    create domain small as int check (value is null or value < 100);
    create type textrange as range (subtype = text);";

/// Every type a column can have, which of them are domains, and which the server reads in binary.
const TYPES: &str = "
    select t.oid, format_type(t.oid, -1), t.typtype, t.typreceive <> 0
    from pg_type t left join pg_class c on c.oid = t.typrelid
    where t.typtype in ('b', 'c', 'd', 'e', 'm', 'r') and (t.typrelid = 0 or c.relkind = 'c')
      and not (t.typelem <> 0 and t.typname like '\\_%' and exists (
          select from pg_type e left join pg_class ec on ec.oid = e.typrelid
          where e.typarray = t.oid and ((e.typrelid <> 0 and ec.relkind <> 'c') or e.typtype = 'p')))
      and t.typnamespace <> 'information_schema'::regnamespace
    order by t.oid";

/// Masks that look at nothing, at the whole value, at places, and for findings.
const MASKS: &[&str] = &[
    r#""mask": null"#,
    r#""mask": "redact""#,
    r#""mask": "hash""#,
    r#""mask": {"partial": {"keep_last": 4}}"#,
    r#""mask": {"fixed": "hidden"}"#,
    r#""mask": {"fixed": ""}"#,
    r#""mask": {"fixed": "7"}"#,
    r#""mask": {"fixed": "-1.50"}"#,
    r#""mask": {"fixed": "true"}"#,
    r#""mask": {"fixed": "2000-01-02"}"#,
    r#""mask": {"fixed": "23:59:58"}"#,
    r#""mask": {"fixed": "2024-02-29 23:59:58"}"#,
    r#""mask": {"fixed": "123e4567-e89b-12d3-a456-426614174000"}"#,
    r#""mask": {"fixed": "\\x00ff"}"#,
    r#""mask": {"fixed": "{\"a\": [1, null]}"}"#,
    r#""mask": {"fixed": "{}"}"#,
    r#""mask": {"fixed": "a text of more than sixty-three bytes, which is the longest name there can be"}"#,
    r#""detect": ["email", "card", "iban", "phone", "national-id", "key", "jwt"]"#,
];
const PLACES: &[&str] = &[
    r#""mask": "redact""#,
    r#""mask": null"#,
    r#""mask": "hash""#,
    r#""mask": {"partial": {"keep_last": 4}}"#,
    r#""mask": {"fixed": "a\"b\\c\td"}"#,
];

/// What stands in every cell before it is masked: a value for the types whose masks look at it.
fn value(type_oid: u32, format: Format) -> Vec<u8> {
    let json = r#"{"mail": "write to ana@example.org", "n": [4111111111111111, {"mail": "\u0061na@x.io\n"}], "x": null}"#;
    match (type_oid, format) {
        (3802, Format::Binary) => [b"\x01", json.as_bytes()].concat(),
        (114 | 3802, _) => json.into(),
        (142, _) => b"<a b=\"ana@example.org\">4111 1111 1111 1111</a>".to_vec(),
        (18, _) => b"x".to_vec(),
        (19, _) => b"ana@example.org".to_vec(),
        _ => b"ana@example.org and +49 30 1234567".to_vec(),
    }
}

struct Kind {
    oid: u32,
    name: String,
    domain: bool,
    receives: bool,
}

#[test]
fn every_type_takes_every_mask_back() {
    let Some(server) = Server::start(&[]) else { return };
    answer(&server, OF_USERS);
    let kinds: Vec<Kind> = answer(&server, TYPES)
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split('|').collect();
            Kind {
                oid: parts[0].parse().expect("an oid"),
                name: parts[1].into(),
                domain: parts[2] == "d",
                receives: parts[3] == "t",
            }
        })
        .collect();
    assert!(kinds.len() > 150, "PostgreSQL 15 has more types than {}", kinds.len());
    for built_in in [
        "numeric",
        "jsonb",
        "tsquery",
        "int4multirange",
        "inet[]",
        "pg_lsn",
        "mood",
        "pair[]",
        "small",
        "textrange",
    ] {
        assert!(kinds.iter().any(|k| k.name == built_in), "{built_in}");
    }
    for (table, kinds) in [
        ("text", kinds.iter().collect()),
        ("binary", kinds.iter().filter(|k| k.receives).collect::<Vec<_>>()),
    ] {
        let columns: Vec<String> =
            kinds.iter().enumerate().map(|(i, k)| format!("c{i} {}", k.name)).collect();
        answer(&server, &format!("create table in_{table} ({})", columns.join(", ")));
    }

    let rules = MASKS
        .iter()
        .map(|m| (*m, ""))
        .chain(PLACES.iter().map(|m| (*m, r#", "json": ["$..mail", "$.n[0]"]"#)));
    let mut written: BTreeMap<&str, usize> = BTreeMap::new();
    for (mask, json) in rules {
        for format in [Format::Text, Format::Binary] {
            let cells = cells(&kinds, mask, json, format);
            let mut row = Vec::new();
            let mut columns = 0;
            for (kind, cell) in kinds.iter().zip(&cells) {
                if format == Format::Binary && !kind.receives {
                    continue;
                }
                // A column that passes is not this test's: NULL.
                let masked = cell.as_ref().and_then(|cell| {
                    let mut out = Vec::new();
                    match cell.apply(&value(kind.oid, format), &mut out) {
                        Masked::Null => None,
                        Masked::Written => Some(out),
                        Masked::Kept => {
                            panic!("{mask} keeps a value of {} with something to find", kind.name)
                        }
                    }
                });
                if let Some(masked) = &masked {
                    *written.entry(kind.name.as_str()).or_default() += 1;
                    assert!(!String::from_utf8_lossy(masked).contains("ana@"), "{mask}: {}", kind.name);
                }
                put(&mut row, masked.as_deref(), format, columns == 0);
                columns += 1;
            }
            let complaint = complaint(&server, &finish(row, columns, format), format);
            assert!(complaint.is_empty(), "{mask}{json} in {format:?}: {complaint}");
        }
    }
    // The test would hold if everything became NULL.
    for (kind, least) in [
        ("text", 40),
        ("numeric", 4),
        ("date", 2),
        ("uuid", 2),
        ("jsonb", 14),
        ("bytea", 2),
        ("boolean", 2),
        ("name", 20),
    ] {
        assert!(written.get(kind).is_some_and(|n| *n >= least), "{kind}: {:?}", written.get(kind));
    }
}

/// The cells a rule's masks become for a table with a column of each type.
fn cells(kinds: &[Kind], mask: &str, json: &str, format: Format) -> Vec<Option<Cell>> {
    let columns: Vec<String> = (0..kinds.len()).map(|i| format!(r#""every_type.c{i}""#)).collect();
    let file = format!(
        r#"{{"rules": [{{"name": "m", "on": {{"columns": [{}]{json}}}, {mask}}}]}}"#,
        columns.join(",")
    );
    let file: PolicyFile = serde_json::from_str(&file).expect("a policy file");
    let source = Source { name: "p.yaml".into(), file, lines: Vec::new() };
    let policy = compile(&[source], Some(HashKey::new(b"k"))).expect("compiles");
    let numbered = || kinds.iter().zip(1..);
    let table = Table {
        oid: 20_000,
        schema: "public".into(),
        name: "every_type".into(),
        kind: 'r',
        columns: numbered()
            .map(|(kind, number)| TableColumn {
                number,
                name: format!("c{}", number - 1),
                type_oid: kind.oid,
                type_name: kind.name.clone(),
                not_null: false,
                generated: None,
            })
            .collect(),
        parents: Vec::new(),
        definition: None,
    };
    let subject = Subject { identity: "ana".into(), groups: Vec::new() };
    let catalog = Catalog { tables: vec![table], ..Catalog::default() };
    let judge = policy.scope(&subject, "d").bind(Arc::new(catalog));
    let described: Vec<Column<'_>> = numbered()
        .map(|(kind, attribute)| Column { name: b"c", table: 20_000, attribute, type_oid: kind.oid, format })
        .collect();
    let cells = judge.plan(&described).columns;
    for (kind, cell) in kinds.iter().zip(&cells) {
        // The server reports a domain's base type; a catalogue has its own, which nobody knows: NULL.
        assert!(
            !kind.domain || cell.as_ref().is_some_and(|c| c.apply(b"x", &mut Vec::new()) == Masked::Null)
        );
    }
    cells.into_vec()
}

// -------------------------------------------------------------------------------------------------------------------- COPY

fn put(row: &mut Vec<u8>, cell: Option<&[u8]>, format: Format, first: bool) {
    match (format, cell) {
        (Format::Binary, None) => row.extend_from_slice(&[0xff; 4]),
        (Format::Binary, Some(cell)) => {
            row.extend_from_slice(&(cell.len() as u32).to_be_bytes());
            row.extend_from_slice(cell);
        }
        (Format::Text, cell) => {
            if !first {
                row.push(b'\t');
            }
            for b in cell.unwrap_or(b"\\N") {
                match b {
                    b'\\' if cell.is_some() => row.extend_from_slice(b"\\\\"),
                    b'\t' => row.extend_from_slice(b"\\t"),
                    b'\n' => row.extend_from_slice(b"\\n"),
                    b => row.push(*b),
                }
            }
        }
    }
}

fn finish(row: Vec<u8>, columns: usize, format: Format) -> Vec<u8> {
    match format {
        Format::Text => [row.as_slice(), b"\n"].concat(),
        Format::Binary => {
            let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
            [header, (columns as u16).to_be_bytes().as_slice(), row.as_slice(), &[0xff, 0xff]].concat()
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------- server

fn run(server: &Server, sql: &str) -> Output {
    server.psql("postgres", &["-v", "ON_ERROR_STOP=1", "-c", sql])
}

fn answer(server: &Server, sql: &str) -> String {
    let output = run(server, sql);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What the server complains of when it is given these rows.
fn complaint(server: &Server, rows: &[u8], format: Format) -> String {
    let file = server.dir.join("rows");
    fs::write(&file, rows).expect("a file");
    let format = if format == Format::Binary { "binary" } else { "text" };
    let output = run(server, &format!("\\copy in_{format} from '{}' (format {format})", file.display()));
    String::from_utf8_lossy(&output.stderr).into_owned()
}
