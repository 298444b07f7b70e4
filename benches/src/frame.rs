//! Frames: where the cost is finding the next message, because there is next to nothing in each.

use ::flow::Side;

use crate::wire::{Gate, Wire, put, put_description, put_end, put_query, put_row};
use crate::{Loop, Running, Seen, Size, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "frame/rows-of-12-bytes", unit: "frame", make: tiny_rows },
    Loop { name: "frame/pipeline-plain", unit: "execution", make: |size| pipeline(world::NOTHING, size) },
    Loop { name: "frame/pipeline-rules", unit: "execution", make: |size| pipeline(&world::full(), size) },
];

/// DataRows of one cell of one byte.
fn tiny_rows(size: Size) -> Running {
    let mut wire = Wire::new(Gate::unrecorded(world::NOTHING));
    let mut seen = Seen::measuring();
    let (mut query, mut description, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    put_query(&mut query, "SELECT 1");
    put_description(&mut description, &[0], 0);
    let count = size.pick(5_000, 5);
    for _ in 0..count {
        put_row(&mut rows, ["1"]);
    }
    wire.say(Side::Client, &query, usize::MAX, &mut seen);
    wire.say(Side::Server, &description, usize::MAX, &mut seen);
    let bytes = rows.len();
    let read = size.pick(64 << 10, 7);
    Running::new(count, move |seen| wire.say(Side::Server, &rows, read, seen)).bytes(bytes)
}

/// Many executions of one prepared statement in one read, one Sync, and all the answers in one read: what a driver's
/// `executemany` sends.
fn pipeline(rules: &str, size: Size) -> Running {
    let mut wire = Wire::new(Gate::unrecorded(rules));
    let mut seen = Seen::measuring();
    let none = 0u16.to_be_bytes();
    let mut prepare = Vec::new();
    put(&mut prepare, b'P', &[b"s\0UPDATE orders SET total = total + 1 WHERE id = $1\0", &none]);
    put(&mut prepare, b'S', &[]);
    wire.say(Side::Client, &prepare, usize::MAX, &mut seen);
    let mut prepared = Vec::new();
    put(&mut prepared, b'1', &[]);
    put(&mut prepared, b'Z', &[b"I"]);
    wire.say(Side::Server, &prepared, usize::MAX, &mut seen);
    let count = size.pick(100, 3);
    let parameter = [&1u16.to_be_bytes()[..], &4u32.to_be_bytes(), b"4711"].concat();
    let mut asked = Vec::new();
    for _ in 0..count {
        put(&mut asked, b'B', &[b"\0s\0", &none, &parameter, &none]);
        put(&mut asked, b'E', &[b"\0", &0u32.to_be_bytes()]);
    }
    put(&mut asked, b'S', &[]);
    // The session may put Describes of its own in between: the target answers what it was really asked.
    wire.say(Side::Client, &asked, usize::MAX, &mut seen);
    let answered = answers(wire.passed(&asked));
    wire.say(Side::Server, &answered, usize::MAX, &mut seen);
    Running::new(count, move |seen| {
        wire.say(Side::Client, &asked, usize::MAX, seen);
        wire.say(Side::Server, &answered, usize::MAX, seen);
    })
}

/// What a server says to these messages when all goes well and no rows come.
fn answers(mut asked: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(([tag, length @ ..], _)) = asked.split_first_chunk::<5>() {
        match tag {
            b'B' => put(&mut out, b'2', &[]),
            b'D' => put(&mut out, b'n', &[]),
            b'E' => put_end(&mut out, "UPDATE 1", false),
            _ => put(&mut out, b'Z', &[b"I"]),
        }
        asked = asked.get(1 + u32::from_be_bytes(*length) as usize..).unwrap_or_default();
    }
    out
}
