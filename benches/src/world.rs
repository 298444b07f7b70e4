//! The world the loops run in: a catalogue, policies, and rows like those of the performance tests' table of customers.
//!
//! The rules are `deploy/acceptance/full.yaml`'s own. Everything is made by counting: the same on every machine and at every run.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use ::flow::access::{
    Address, Banner, Catalogues, Connection, Credential, DenyDetail, Directory, Identity, Limits, Published,
    RecordLevel, Target,
};
use arc_swap::ArcSwap;
use policy::catalog::{Catalog, Table, TableColumn};
use policy::mask::HashKey;
use policy::rule::{PolicyFile, Source};
use policy::{Judge, Policy, Subject};

/// What a rule may say of the columns of customers; the first three are those that `full.yaml` masks.
pub const NOTHING: &str = "rules: []";
pub const ONE: &str =
    r#"{"rules": [{"name": "m", "on": {"columns": ["customers.email"]}, "mask": "redact"}]}"#;
pub const THREE: &str = r#"{"rules": [{"name": "m", "on": {"columns":
    ["customers.email", "customers.ssn", "customers.card"]}, "mask": "redact"}]}"#;
pub const TEN: &str = r#"{"rules": [{"name": "m", "on": {"columns": ["customers.id", "customers.name", "customers.email",
    "customers.ssn", "customers.card", "customers.phone", "customers.address", "customers.notes", "customers.created_at",
    "customers.balance"]}, "mask": "redact"}]}"#;

/// A lookup, a join of about 200 bytes, and a list so long that reading it is all there is.
pub const LOOKUP: &str = "SELECT id, name, balance FROM customers WHERE id = 4711";
pub const JOIN: &str = "SELECT c.id, c.name, o.id, o.total, p.amount FROM customers c JOIN orders o ON o.customer_id = c.id \
    LEFT JOIN payments p ON p.order_id = o.id WHERE c.balance > 100 AND o.state = 'open' ORDER BY o.total DESC LIMIT 50";

pub fn long_list() -> String {
    format!("SELECT id FROM customers WHERE id IN (1{})", ", 1234567".repeat(1_700))
}

/// `deploy/acceptance/full.yaml`'s rules.
pub fn full() -> String {
    let file = include_str!("../../deploy/acceptance/full.yaml");
    let (_, rules) = file.split_once("\nrules:\n").expect("full.yaml ends with its rules");
    format!("rules:\n{rules}")
}

pub fn policy(rules: &str) -> Policy {
    let file: PolicyFile = serde_saphyr::from_str(rules).expect("the rules are well-formed");
    let source = Source { name: "bench.yaml".into(), file, lines: Vec::new() };
    policy::compile(&[source], Some(HashKey::new(&[7; 32]))).expect("the rules compile")
}

pub fn judge(rules: &str) -> Judge {
    policy(rules).scope(&subject(), "bench").bind(Arc::new(catalog()))
}

fn subject() -> Subject {
    Subject { identity: "bench".into(), groups: Vec::new() }
}

/// Table OID of customers.
pub const CUSTOMERS: u32 = 16_400;
/// Name, type OID, type name, in the order of the table.
pub const COLUMNS: [(&str, u32, &str); 10] = [
    ("id", 20, "int8"),
    ("name", 25, "text"),
    ("email", 25, "text"),
    ("ssn", 25, "text"),
    ("card", 25, "text"),
    ("phone", 25, "text"),
    ("address", 25, "text"),
    ("notes", 25, "text"),
    ("created_at", 1184, "timestamptz"),
    ("balance", 1700, "numeric"),
];

fn table(oid: u32, name: &str, columns: &[(&str, u32, &str)]) -> Table {
    let column = |(i, (name, type_oid, type_name)): (usize, &(&str, u32, &str))| TableColumn {
        number: i16::try_from(i + 1).unwrap_or(i16::MAX),
        name: (*name).into(),
        type_oid: *type_oid,
        type_name: (*type_name).into(),
        not_null: false,
        generated: None,
    };
    Table {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: 'r',
        columns: columns.iter().enumerate().map(column).collect(),
        parents: Vec::new(),
        definition: None,
    }
}

/// The tables `full.yaml` speaks of, and a hundred it does not.
pub fn catalog() -> Catalog {
    let text = |name| (name, 25, "text");
    let id = ("id", 20, "int8");
    let mut tables = vec![
        table(CUSTOMERS, "customers", &COLUMNS),
        table(
            16_500,
            "orders",
            &[id, ("customer_id", 20, "int8"), ("total", 1700, "numeric"), text("state")],
        ),
        table(
            16_510,
            "payments",
            &[id, ("order_id", 20, "int8"), ("amount", 1700, "numeric"), text("card_number"), text("iban")],
        ),
        table(16_520, "employees", &[id, text("name"), ("salary", 1700, "numeric"), text("tax_id")]),
        table(16_530, "patients", &[id, text("diagnosis"), text("insurance_no")]),
        table(16_540, "leads", &[id, text("phone")]),
        table(16_550, "audit_log", &[id, text("what")]),
    ];
    for n in 0..100 {
        tables.push(table(20_000 + n, &format!("other_{n}"), &[id, text("a"), text("b"), text("c")]));
    }
    Catalog {
        version: 1,
        database: "bench".into(),
        server_version: 150_000,
        search_path: vec!["public".into()],
        tables,
        ..Catalog::default()
    }
}

/// A configuration with the identity and connection `bench`.
pub fn published(rules: &str, record: RecordLevel) -> Published {
    let catalogues = Catalogues::default();
    catalogues.publish("bench", Arc::new(catalog()));
    let address = Address::Tcp { host: "127.0.0.1".into(), port: 5432 };
    let connection = Connection {
        name: "bench".into(),
        target: Arc::new(Target { address, tls: None, dial_ms: 1000 }),
        user: "bench".into(),
        database: Some("bench".into()),
        credential: Credential::new(String::new().into()),
        allow: vec!["bench".into()],
        record,
        banner: Banner::Never,
        tag_application: false,
        catalogues,
    };
    let identity = Identity { subject: subject(), scram: None, tokens: Vec::new(), trust: true };
    Arc::new(ArcSwap::from_pointee(Directory {
        identities: HashMap::from([("bench".into(), Arc::new(identity))]),
        connections: HashMap::from([("bench".into(), Arc::new(connection))]),
        any: None,
        policy: Arc::new(policy(rules)),
        deny_detail: DenyDetail::Full,
        mock_seed: [7; 32],
        limits: Limits { login_ms: 60_000, idle_ms: 0, clients_max: 10 },
    }))
}

/// The ten cells of customer `i` as text, about 190 bytes.
pub fn customer(i: u64) -> [String; 10] {
    let first =
        pick(&["James", "Mary", "Wei", "Fatima", "Olga", "Juan", "Aisha", "Zoë", "Hiroshi", "Priya"], i);
    let last =
        pick(&["Smith", "Johnson", "García", "O'Brien", "Nguyen", "Kowalski", "Müller", "Patel"], i / 13);
    let street = pick(&["Oak St", "Maple Ave", "2nd St", "Elm Rd", "Sunset Blvd"], i);
    let town = pick(&["Springfield, IL 62704", "Portland, OR 97205", "Austin, TX 78701"], i);
    [
        i.to_string(),
        format!("{first} {last}"),
        format!("{}.{}{}@mail.example.org", first.to_lowercase(), last.to_lowercase(), i % 9973),
        format!("{:03}-{:02}-{:04}", 100 + i * 31 % 799, 1 + i * 17 % 98, 1 + i * 7 % 9998),
        format!("4111{:012}", (i * 7919 + 104_729) % 1_000_000_000_000),
        format!("+1-{}-555-{:04}", 201 + i * 13 % 788, i * 37 % 10_000),
        format!("{} {street}, {town}", 1 + i * 7 % 9999),
        pick(&["Prefers email contact", "Renewed annual plan", "VIP, handle with care"], i).to_owned(),
        format!("2019-{:02}-{:02} 12:{:02}:00+00", 1 + i % 12, 1 + i % 28, i % 60),
        format!("{}.{:02}", i * 7919 % 10_000_000, i % 100),
    ]
}

fn pick<'a>(of: &[&'a str], i: u64) -> &'a str {
    of.iter().cycle().nth(usize::try_from(i).unwrap_or(0) % of.len()).copied().unwrap_or_default()
}

/// The same as a row of COPY's text format, or of its csv.
pub fn copy_line(i: u64, csv: bool) -> String {
    let mut line = String::new();
    for (n, cell) in customer(i).iter().enumerate() {
        if n > 0 {
            line.push(if csv { ',' } else { '\t' });
        }
        let quoted = csv && (cell.contains(',') || n == 7);
        let _infallible = if quoted { write!(line, "\"{cell}\"") } else { write!(line, "{cell}") };
    }
    line.push('\n');
    line
}
