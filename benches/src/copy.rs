//! COPY … TO STDOUT, in reads of 64 KiB: one CopyData message per row, passing unseen or with three of ten columns masked.

use ::flow::Side;

use crate::wire::{Gate, Wire, put, put_query};
use crate::{Loop, Running, Seen, Size, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "copy/forward", unit: "row", make: |size| lines(world::NOTHING, false, size) },
    Loop { name: "copy/masked-3-of-10-text", unit: "row", make: |size| lines(world::THREE, false, size) },
    Loop { name: "copy/masked-3-of-10-csv", unit: "row", make: |size| lines(world::THREE, true, size) },
];

fn lines(rules: &str, csv: bool, size: Size) -> Running {
    let mut wire = Wire::new(Gate::unrecorded(rules));
    let mut seen = Seen::measuring();
    let mut query = Vec::new();
    put_query(
        &mut query,
        if csv { "COPY customers TO STDOUT (FORMAT csv)" } else { "COPY customers TO STDOUT" },
    );
    wire.say(Side::Client, &query, usize::MAX, &mut seen);
    let mut begin = Vec::new();
    put(&mut begin, b'H', &[&[0], &10u16.to_be_bytes(), &[0; 20]]);
    wire.say(Side::Server, &begin, usize::MAX, &mut seen);
    let mut rows = Vec::new();
    let count = size.pick(2_000, 5);
    for i in 0..count {
        put(&mut rows, b'd', &[world::copy_line(i * 7, csv).as_bytes()]);
    }
    let bytes = rows.len();
    let read = size.pick(64 << 10, 77);
    Running::new(count, move |seen| wire.say(Side::Server, &rows, read, seen)).bytes(bytes)
}
