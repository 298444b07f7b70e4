//! Whole round trips through a session: what a statement costs beside the kernel's sockets.
//!
//! `plain`: no rule touches the identity, sessions are recorded and statements are not (`forward.yaml`). `rules`: the fifty rules of
//! `full.yaml`. `full`: these, and every statement and its outcome appended to the real ring.

use ::flow::Side;
use ::flow::access::RecordLevel;

use crate::wire::{Gate, Nowhere, Records, Wire, put, put_description, put_end, put_query, put_row};
use crate::{Loop, Running, Seen, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "flow/query-plain", unit: "round trip", make: |_| round_trips(query(), plain(), None) },
    Loop { name: "flow/query-rules", unit: "round trip", make: |_| round_trips(query(), rules(), None) },
    Loop {
        name: "flow/query-reported",
        unit: "round trip",
        make: |_| round_trips(query(), reported(), None),
    },
    Loop { name: "flow/query-full", unit: "round trip", make: |_| recorded(query()) },
    Loop { name: "flow/query-masked-full", unit: "round trip", make: |_| recorded(masked()) },
    Loop { name: "flow/query-blocked-full", unit: "round trip", make: |_| recorded(blocked()) },
    Loop { name: "flow/prepared-plain", unit: "round trip", make: |_| prepared(plain(), None) },
    Loop { name: "flow/prepared-rules", unit: "round trip", make: |_| prepared(rules(), None) },
    Loop {
        name: "flow/prepared-full",
        unit: "round trip",
        make: |_| {
            let records = Records::open();
            prepared(full(&records), Some(records))
        },
    },
    Loop { name: "flow/unnamed-plain", unit: "round trip", make: |_| round_trips(unnamed(), plain(), None) },
    Loop { name: "flow/unnamed-full", unit: "round trip", make: |_| recorded(unnamed()) },
    Loop { name: "flow/login-plain", unit: "login", make: |_| logins(plain()) },
    Loop { name: "flow/login-rules", unit: "login", make: |_| logins(rules()) },
];

fn plain() -> Gate {
    Gate::unrecorded(world::NOTHING)
}

fn rules() -> Gate {
    Gate::unrecorded(&world::full())
}

/// Statements are reported, and the record costs nothing: the session's own part of recording.
fn reported() -> Gate {
    Gate::new(&world::full(), RecordLevel::Statements, Box::new(Nowhere))
}

fn full(records: &Records) -> Gate {
    Gate::new(&world::full(), RecordLevel::Statements, records.recorder())
}

/// A statement and its answer, each in one read.
struct Talk {
    asked: Vec<u8>,
    answered: Vec<u8>,
    /// The answer names the decision.
    random: bool,
}

/// Id, name and balance of one customer.
const THREE: [usize; 3] = [0, 1, 9];
const ALL: [usize; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

fn put_three(out: &mut Vec<u8>) {
    let cells = world::customer(4711);
    put_row(out, THREE.iter().filter_map(|i| cells.get(*i)).map(String::as_str));
}

/// A lookup that policy proves clean.
fn query() -> Talk {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    put_query(&mut asked, world::LOOKUP);
    put_description(&mut answered, &THREE, 0);
    put_three(&mut answered);
    put_end(&mut answered, "SELECT 1", true);
    Talk { asked, answered, random: false }
}

/// A lookup of which three of ten columns are masked.
fn masked() -> Talk {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    put_query(&mut asked, "SELECT * FROM customers WHERE id = 4711");
    put_description(&mut answered, &ALL, 0);
    put_row(&mut answered, world::customer(4711).iter().map(String::as_str));
    put_end(&mut answered, "SELECT 1", true);
    Talk { asked, answered, random: false }
}

/// A statement that is refused: the target answers the stand-in with its own error.
fn blocked() -> Talk {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    put_query(&mut asked, "DROP TABLE customers");
    put(&mut answered, b'E', &[b"SERROR\0VERROR\0C42601\0Msyntax error\0\0"]);
    put(&mut answered, b'Z', &[b"I"]);
    Talk { asked, answered, random: true }
}

fn put_parse(out: &mut Vec<u8>, name: &str) {
    let sql = "SELECT id, name, balance FROM customers WHERE id = $1";
    put(out, b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &0u16.to_be_bytes()]);
}

/// Bind with one parameter, Describe, Execute, Sync: what libpq sends for a prepared statement.
fn put_execution(out: &mut Vec<u8>, name: &str) {
    let none = 0u16.to_be_bytes();
    let parameter = [&1u16.to_be_bytes()[..], &4u32.to_be_bytes(), b"4711"].concat();
    put(out, b'B', &[b"\0", name.as_bytes(), b"\0", &none, &parameter, &none]);
    put(out, b'D', &[b"P\0"]);
    put(out, b'E', &[b"\0", &0u32.to_be_bytes()]);
    put(out, b'S', &[]);
}

fn put_execution_answer(out: &mut Vec<u8>) {
    put(out, b'2', &[]);
    put_description(out, &THREE, 0);
    put_three(out);
    put_end(out, "SELECT 1", true);
}

/// Parse and execution in one: what libpq's `PQexecParams` sends.
fn unnamed() -> Talk {
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    put_parse(&mut asked, "");
    put_execution(&mut asked, "");
    put(&mut answered, b'1', &[]);
    put_execution_answer(&mut answered);
    Talk { asked, answered, random: false }
}

fn round_trips(talk: Talk, gate: Gate, records: Option<Records>) -> Running {
    say(talk, Wire::new(gate), records)
}

fn recorded(talk: Talk) -> Running {
    let records = Records::open();
    round_trips(talk, full(&records), Some(records))
}

fn say(talk: Talk, mut wire: Wire, records: Option<Records>) -> Running {
    let running = Running::new(1, move |seen| {
        let mut once = |seen: &mut Seen| {
            wire.say(Side::Client, &talk.asked, usize::MAX, seen);
            wire.say(Side::Server, &talk.answered, usize::MAX, seen);
        };
        if talk.random { seen.random(once) } else { once(seen) }
    });
    // Three entries of under 350 bytes each.
    Running { pause: records.map(|r| r.pause(1_000)), ..running }
}

/// The statement is prepared once; only executions are measured.
fn prepared(gate: Gate, records: Option<Records>) -> Running {
    let mut wire = Wire::new(gate);
    let mut seen = Seen::measuring();
    let mut parse = Vec::new();
    put_parse(&mut parse, "customer_by_id");
    put(&mut parse, b'S', &[]);
    wire.say(Side::Client, &parse, usize::MAX, &mut seen);
    let mut done = Vec::new();
    put(&mut done, b'1', &[]);
    put(&mut done, b'Z', &[b"I"]);
    wire.say(Side::Server, &done, usize::MAX, &mut seen);
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    put_execution(&mut asked, "customer_by_id");
    put_execution_answer(&mut answered);
    say(Talk { asked, answered, random: false }, wire, records)
}

fn logins(gate: Gate) -> Running {
    let mut wire = Wire::new(gate);
    Running::new(1, move |seen| wire.again(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(talk: &Talk) -> String {
        let mut wire = Wire::new(rules());
        let mut seen = Seen::measuring();
        wire.say(Side::Client, &talk.asked, usize::MAX, &mut seen);
        wire.say(Side::Server, &talk.answered, usize::MAX, &mut seen);
        String::from_utf8_lossy(wire.passed(&talk.answered)).into_owned()
    }

    #[test]
    fn what_is_called_masked_is_masked_and_what_is_called_blocked_is_refused() {
        assert_eq!(said(&query()).matches("***").count(), 0);
        assert_eq!(said(&masked()).matches("***").count(), 3);
        assert!(said(&blocked()).contains("DROP is not allowed here"));
    }
}
