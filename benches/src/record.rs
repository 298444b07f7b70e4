//! Appending to the record: an entry's bytes alone, and into the real ring (a shared mapping of a file) with its drainer at work.

use ::flow::record::{Entry, How, Statement, Values, Verdict, What};

use crate::wire::Records;
use crate::{Loop, Running};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "record/encode-200-B", unit: "entry", make: |_| encode(200) },
    Loop { name: "record/append-200-B", unit: "entry", make: |_| append(200) },
    Loop { name: "record/append-64-KiB", unit: "entry", make: |_| append(64 << 10) },
];

/// A statement with a text of this length.
fn entry(text: &[u8]) -> Entry<'_> {
    Entry {
        session: [7; 16],
        unix_ns: 1_700_000_000_000_000_000,
        what: What::Statement(Statement {
            number: 3,
            how: How::Query,
            of: 0,
            text,
            length: text.len() as u64,
            parameters: Values::default(),
            verdict: Verdict::Allow,
            rules: "",
            policy: "3f1c9a7b",
        }),
    }
}

fn text(length: usize) -> Vec<u8> {
    b"SELECT id FROM customers WHERE name = 'x' AND ".iter().copied().cycle().take(length).collect()
}

fn encode(length: usize) -> Running {
    let text = text(length);
    let mut out = Vec::new();
    Running::new(1, move |seen| {
        out.clear();
        entry(&text).encode(&mut out);
        seen.bytes(&out);
    })
}

fn append(length: usize) -> Running {
    let records = Records::open();
    let mut recorder = records.recorder();
    let text = text(length);
    let running = Running::new(1, move |seen| {
        recorder.append(&entry(&text)).expect("the record has room");
        seen.bytes(&text);
    });
    Running { pause: Some(records.pause(length as u64 + 256)), ..running }.bytes(length)
}
