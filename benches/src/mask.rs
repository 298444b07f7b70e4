//! Each mask on a thousand cells, in text and in binary, as a plan applies it: without the walk through the row.

use policy::mask::Masked;
use policy::{Column, Format};

use crate::{Loop, Running, Size, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "mask/null-text", unit: "cell", make: |s| cells("'null'", "email", Format::Text, s) },
    Loop { name: "mask/null-binary", unit: "cell", make: |s| cells("'null'", "id", Format::Binary, s) },
    Loop { name: "mask/redact-text", unit: "cell", make: |s| cells("redact", "email", Format::Text, s) },
    Loop { name: "mask/redact-binary", unit: "cell", make: |s| cells("redact", "email", Format::Binary, s) },
    Loop {
        name: "mask/redact-int8-binary",
        unit: "cell",
        make: |s| cells("redact", "id", Format::Binary, s),
    },
    Loop {
        name: "mask/fixed-text",
        unit: "cell",
        make: |s| cells("{fixed: hidden}", "email", Format::Text, s),
    },
    Loop {
        name: "mask/fixed-int8-binary",
        unit: "cell",
        make: |s| cells("{fixed: '0'}", "id", Format::Binary, s),
    },
    Loop {
        name: "mask/fixed-numeric-binary",
        unit: "cell",
        make: |s| cells("{fixed: '0.00'}", "balance", Format::Binary, s),
    },
    Loop {
        name: "mask/partial-text",
        unit: "cell",
        make: |s| cells("{partial: {keep_last: 4}}", "card", Format::Text, s),
    },
    Loop {
        name: "mask/partial-binary",
        unit: "cell",
        make: |s| cells("{partial: {keep_last: 4}}", "card", Format::Binary, s),
    },
    Loop { name: "mask/hash-text", unit: "cell", make: |s| cells("hash", "email", Format::Text, s) },
    Loop { name: "mask/hash-binary", unit: "cell", make: |s| cells("hash", "email", Format::Binary, s) },
];

fn cells(mask: &str, column: &str, format: Format, size: Size) -> Running {
    let place = world::COLUMNS.iter().position(|c| c.0 == column).expect("a column of customers");
    let type_oid = world::COLUMNS.get(place).map_or(0, |c| c.1);
    let rules = format!("rules: [{{name: m, on: {{columns: [customers.{column}]}}, mask: {mask}}}]");
    let described = Column {
        name: column.as_bytes(),
        table: world::CUSTOMERS,
        attribute: i16::try_from(place + 1).unwrap_or(0),
        type_oid,
        format,
    };
    let plan = world::judge(&rules).plan(&[described]);
    let cell = plan.columns.first().cloned().flatten().expect("the column is masked");
    let count = size.pick(1_000_u64, 5);
    let values: Vec<Vec<u8>> = (0..count)
        .map(|i| match (type_oid, format) {
            (20, Format::Binary) => i.to_be_bytes().to_vec(),
            // 4711.00: one digit to the base of 10,000, weight 0, positive, scale 2.
            (1700, Format::Binary) => [1u16, 0, 0, 2, 4711].iter().flat_map(|n| n.to_be_bytes()).collect(),
            _ => world::customer(i * 7).get(place).map_or(Vec::new(), |c| c.clone().into_bytes()),
        })
        .collect();
    let mut out = Vec::new();
    Running::new(count, move |seen| {
        out.clear();
        for value in &values {
            let masked = cell.apply(std::hint::black_box(value), &mut out);
            out.push(if masked == Masked::Written { b'.' } else { b'0' });
        }
        seen.bytes(&out);
    })
}
