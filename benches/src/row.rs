//! Rows of a result on their way to the client, in reads of 64 KiB: passing unseen, and masked.
//!
//! The result never ends: the description was sent before, only rows are measured.

use ::flow::Side;

use crate::wire::{Gate, Wire, put_description, put_query, put_row};
use crate::{Loop, Running, Seen, Size, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "row/forward", unit: "row", make: |size| rows(world::NOTHING, size) },
    Loop { name: "row/forward-judged", unit: "row", make: |size| judged(size) },
    Loop { name: "row/masked-1-of-10", unit: "row", make: |size| rows(world::ONE, size) },
    Loop { name: "row/masked-3-of-10", unit: "row", make: |size| rows(world::THREE, size) },
    Loop { name: "row/masked-10-of-10", unit: "row", make: |size| rows(world::TEN, size) },
];

fn rows(rules: &str, size: Size) -> Running {
    stream(rules, "SELECT * FROM customers", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], size)
}

/// Rules are in force and none of these columns is masked: rows must cost what they cost without rules.
fn judged(size: Size) -> Running {
    let clean = [0, 1, 5, 6, 7, 8, 9];
    stream(
        &world::full(),
        "SELECT id, name, phone, address, notes, created_at, balance FROM customers",
        &clean,
        size,
    )
}

fn stream(rules: &str, sql: &str, columns: &[usize], size: Size) -> Running {
    let mut wire = Wire::new(Gate::unrecorded(rules));
    let mut seen = Seen::measuring();
    let (mut query, mut description, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    put_query(&mut query, sql);
    put_description(&mut description, columns, 0);
    let count = size.pick(2_000, 5);
    for i in 0..count {
        let cells = world::customer(i * 7);
        put_row(&mut rows, columns.iter().filter_map(|c| cells.get(*c)).map(String::as_str));
    }
    wire.say(Side::Client, &query, usize::MAX, &mut seen);
    wire.say(Side::Server, &description, usize::MAX, &mut seen);
    let bytes = rows.len();
    let read = size.pick(64 << 10, 77);
    Running::new(count, move |seen| wire.say(Side::Server, &rows, read, seen)).bytes(bytes)
}
