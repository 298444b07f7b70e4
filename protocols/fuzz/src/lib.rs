//! What the session targets share: a gate with rules, a catalogue and one identity, and sessions driven without sockets.
//!
//! Not a test of its own. The oracle of both targets: nothing panics, and the bytes that come out do not depend on where the bytes that
//! go in were cut (lengths are compared: keys and decision ids are random).

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flow::access::{
    Address, Banner, Catalogues, Connection, Credential, DenyDetail, Directory, Identity, Limits, Published,
    RecordLevel, Target,
};
use flow::drive::Drive;
use flow::record::Entry;
use flow::{Fault, Peer, Recorder, Service, Side};
use policy::catalog::{Catalog, Table, TableColumn};

const RULES: &str = r#"{"mode": "enforce", "rules": [
    {"name": "mask", "on": {"columns": ["public.customers.email"]}, "mask": "redact"},
    {"name": "drop", "on": {"statements": ["drop"]}, "block": "no"}]}"#;

/// Counts; what is recorded is another target's business.
struct Count;

impl Recorder for Count {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert!(Entry::decode(&bytes).is_ok(), "recorded what cannot be read");
        Ok(())
    }
}

fn catalog() -> Catalog {
    let column = |number, name: &str, type_oid, type_name: &str| TableColumn {
        number,
        name: name.into(),
        type_oid,
        type_name: type_name.into(),
        not_null: false,
        generated: None,
    };
    let columns =
        vec![column(1, "id", 23, "int4"), column(2, "name", 25, "text"), column(3, "email", 25, "text")];
    Catalog {
        version: 1,
        database: "shop".into(),
        server_version: 150_000,
        search_path: vec!["public".into()],
        tables: vec![Table {
            oid: 16400,
            schema: "public".into(),
            name: "customers".into(),
            kind: 'r',
            columns,
            parents: Vec::new(),
            definition: None,
        }],
        functions: Vec::new(),
        ..Catalog::default()
    }
}

fn published() -> Published {
    let file = serde_json::from_str(RULES).expect("rules are JSON");
    let source = policy::rule::Source { name: "policy.yaml".into(), file, lines: Vec::new() };
    let policy = policy::compile(&[source], None).unwrap_or_else(|_| panic!("the rules compile"));
    let catalogues = Catalogues::default();
    catalogues.publish("shop", Arc::new(catalog()));
    let address = Address::Tcp { host: "127.0.0.1".into(), port: 5432 };
    let connection = Connection {
        name: "shop".into(),
        target: Arc::new(Target { address, tls: None, dial_ms: 1000 }),
        user: "gw".into(),
        database: Some("shop".into()),
        credential: Credential::new(String::new().into()),
        allow: vec!["*".into()],
        record: RecordLevel::Statements,
        banner: Banner::Never,
        tag_application: false,
        catalogues,
    };
    let subject = policy::Subject { identity: "ana".into(), groups: vec!["support".into()] };
    let identity = Identity { subject, scram: None, tokens: Vec::new(), trust: true };
    Arc::new(ArcSwap::from_pointee(Directory {
        identities: HashMap::from([("ana".into(), Arc::new(identity))]),
        connections: HashMap::from([("shop".into(), Arc::new(connection))]),
        any: None,
        policy: Arc::new(policy),
        deny_detail: DenyDetail::Full,
        mock_seed: [7; 32],
        limits: Limits { login_ms: 60_000, idle_ms: 0, clients_max: 10 },
    }))
}

/// A session that has seen nothing yet.
pub fn fresh() -> Drive {
    thread_local! {
        static GATE: postgres::Gate = postgres::Gate::new(published(), |_| Box::new(Count));
    }
    let loopback = [127, 0, 0, 1];
    let peer = Peer { address: (loopback, 999).into(), listener: (loopback, 7432).into(), tls: None };
    Drive::new(GATE.with(|gate| gate.worker(0).accept(peer)))
}

/// A session that is logged in on both sides.
pub fn ready() -> Drive {
    let mut drive = fresh();
    drive.feed(Side::Client, b"\0\0\0\x20\0\x03\0\0user\0ana\0database\0shop\0\0");
    drive.feed(Side::Server, b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x4d\0\0\x04\xd2Z\0\0\0\x05I");
    let answer = drive.take(Side::Client);
    assert!(answer.ends_with(b"Z\0\0\0\x05I"), "the fuzzer's own login failed: {answer:?}");
    let _startup = drive.take(Side::Server);
    drive
}

/// Plays `script` on `drive` with every piece cut into runs of `cut` bytes; how much came out on each side, and whether it ended.
pub fn play(mut drive: Drive, script: &[(Side, Vec<u8>)], cut: usize) -> (usize, usize, bool) {
    let (mut client, mut server) = (0, 0);
    for (side, bytes) in script {
        for run in bytes.chunks(cut.max(1)) {
            drive.feed(*side, run);
            client += drive.take(Side::Client).len();
            server += drive.take(Side::Server).len();
        }
    }
    (client, server, drive.closed.is_some())
}

/// Reads a script: `control, length, bytes`. Bit 0 of control is the side; without bit 1 the bytes are a tag and a body and get
/// their right length, so that the fuzzer need not guess it.
pub fn script(mut bytes: &[u8]) -> Vec<(Side, Vec<u8>)> {
    let mut script = Vec::new();
    while let [control, length, rest @ ..] = bytes {
        let (piece, after) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = after;
        let side = if control & 1 == 0 { Side::Client } else { Side::Server };
        let piece = match piece.split_first() {
            Some((tag, body)) if control & 2 == 0 => {
                let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
                [&[*tag][..], &length.to_be_bytes(), body].concat()
            }
            _ => piece.to_vec(),
        };
        script.push((side, piece));
    }
    script
}
