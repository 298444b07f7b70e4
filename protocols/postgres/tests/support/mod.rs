//! What the tests of sessions share: a directory with one client and one connection, and messages written as words.

use std::collections::HashMap;
use std::sync::Arc;

use flow::access::*;
use policy::catalog::{Catalog, Function, Table, TableColumn};

fn column(number: i16, name: &str, type_oid: u32, type_name: &str) -> TableColumn {
    TableColumn {
        number,
        name: name.into(),
        type_oid,
        type_name: type_name.into(),
        not_null: false,
        generated: None,
    }
}

/// customers (16400: id, name, email) and orders (16500: id, item), and a view (16600: k) of a function that gives names away.
pub(crate) fn catalog() -> Catalog {
    let table = |oid, name: &str, columns| Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: 'r',
        columns,
        parents: Vec::new(),
        definition: None,
    };
    Catalog {
        version: 1,
        database: "shop".into(),
        server_version: 150_000,
        search_path: vec!["public".into()],
        tables: vec![
            table(
                16400,
                "customers",
                vec![
                    column(1, "id", 23, "int4"),
                    column(2, "name", 25, "text"),
                    column(3, "email", 25, "text"),
                ],
            ),
            table(16500, "orders", vec![column(1, "id", 23, "int4"), column(2, "item", 25, "text")]),
            Table {
                kind: 'v',
                definition: Some("SELECT mess() AS k".into()),
                ..table(16600, "v_mess", vec![column(1, "k", 23, "int4")])
            },
        ],
        functions: vec![Function {
            oid: 16700,
            schema: "public".into(),
            name: "mess".into(),
            language: "plpgsql".into(),
            kind: 'f',
            body: "begin deallocate s1; prepare s1 as select email from customers; return 1; end".into(),
            arguments: String::new(),
            rows: false,
        }],
        ..Catalog::default()
    }
}

pub(crate) fn directory(rules: &str) -> Directory {
    let file: policy::rule::PolicyFile = serde_json::from_str(rules).unwrap();
    let source = policy::rule::Source { name: "policy.yaml".into(), file, lines: Vec::new() };
    let policy = policy::compile(&[source], None).unwrap();
    let catalogues = Catalogues::default();
    catalogues.publish("shop", Arc::new(catalog()));
    let connection = Connection {
        name: "shop".into(),
        target: Arc::new(Target {
            address: Address::Tcp { host: "127.0.0.1".into(), port: 5432 },
            tls: None,
            dial_ms: 1000,
        }),
        user: "gw".into(),
        database: Some("shop".into()),
        credential: Credential::new(String::new().into()),
        allow: vec!["*".into()],
        record: RecordLevel::Statements,
        banner: Banner::Auto,
        tag_application: false,
        catalogues,
    };
    let identity = Identity {
        subject: policy::Subject { identity: "ana".into(), groups: vec!["support".into()] },
        scram: None,
        tokens: Vec::new(),
        trust: true,
    };
    Directory {
        identities: HashMap::from([("ana".into(), Arc::new(identity))]),
        connections: HashMap::from([("shop".into(), Arc::new(connection))]),
        any: None,
        policy: Arc::new(policy),
        deny_detail: DenyDetail::Rule,
        mock_seed: [7; 32],
        limits: Limits { login_ms: 60_000, idle_ms: 0, clients_max: 10 },
    }
}

/// Splits a line into words; quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(match c {
                    'n' => '\n',
                    't' => '\t',
                    c => c,
                });
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => {
                word.push(c);
                quoted = !quoted;
            }
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words.retain(|w| !w.is_empty());
    words
}

pub(crate) fn encode(line: &str) -> Vec<u8> {
    let words = words(line);
    let (tag, fields) = words.split_first().unwrap();
    let mut body = Vec::new();
    for field in fields {
        if let Some(text) = field.strip_prefix('"') {
            body.extend_from_slice(text.trim_end_matches('"').as_bytes());
            body.push(0);
        } else if field == "null" {
            body.extend_from_slice(&(-1_i32).to_be_bytes());
        } else {
            let (kind, value) = field.split_once(':').unwrap_or_else(|| panic!("{line}: {field}"));
            match kind {
                "i16" => body.extend_from_slice(&value.parse::<i16>().unwrap().to_be_bytes()),
                "i32" => body.extend_from_slice(&value.parse::<i32>().unwrap().to_be_bytes()),
                "u32" => body.extend_from_slice(&value.parse::<u32>().unwrap().to_be_bytes()),
                "s" => body.extend_from_slice(value.trim_matches('"').as_bytes()),
                "cell" => {
                    let value = value.trim_matches('"');
                    body.extend_from_slice(&(value.len() as i32).to_be_bytes());
                    body.extend_from_slice(value.as_bytes());
                }
                "col" => {
                    let v: Vec<&str> = value.split(',').collect();
                    body.extend_from_slice(v[0].as_bytes());
                    body.push(0);
                    body.extend_from_slice(&v[1].parse::<u32>().unwrap().to_be_bytes());
                    body.extend_from_slice(&v[2].parse::<i16>().unwrap().to_be_bytes());
                    body.extend_from_slice(&v[3].parse::<u32>().unwrap().to_be_bytes());
                    body.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
                    body.extend_from_slice(&v[4].parse::<i16>().unwrap().to_be_bytes());
                }
                "b" => {
                    let hex: Vec<u8> = value.bytes().collect();
                    for pair in hex.chunks(2) {
                        body.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
                    }
                }
                _ => panic!("{line}: {field}"),
            }
        }
    }
    let mut out = Vec::new();
    if tag != "start" {
        out.extend_from_slice(tag.as_bytes());
    }
    out.extend_from_slice(&((body.len() + 4) as u32).to_be_bytes());
    out.extend_from_slice(&body);
    out
}
