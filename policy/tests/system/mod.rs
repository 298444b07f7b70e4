//! The system relations a snapshot has, for tests.

use policy::catalog::{Table, TableColumn};

pub(crate) fn tables() -> Vec<Table> {
    let text = include_str!("postgres-15.txt");
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let oid = words.next().expect("OID").parse().expect("a number");
            let (schema, name) = words.next().and_then(|n| n.split_once('.')).expect("schema.name");
            let kind = words.next().and_then(|k| k.chars().next()).expect("kind");
            let column = |(word, number): (&str, i16)| {
                let (name, type_oid) = word.split_once(':').expect("name:type");
                TableColumn {
                    number,
                    name: name.into(),
                    type_oid: type_oid.parse().expect("a number"),
                    type_name: String::new(),
                    not_null: false,
                    generated: None,
                }
            };
            Table {
                oid,
                schema: schema.into(),
                name: name.into(),
                kind,
                columns: words.zip(1..).map(column).collect(),
                parents: vec![],
                definition: None,
            }
        })
        .collect()
}
