//! Judgement under the fifty rules of `full.yaml`: from the cache, past it, and what a result's description costs.
//!
//! The shape of a text is private to policy: it is measured by hits on texts of three lengths, of which the longest (15 KiB, nearly
//! all literals) is little else.

use policy::cache::DecisionCache;
use policy::{Column, Decision, Format, Judge, Verdict};

use crate::{Loop, Running, Seen, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "decide/hit-lookup", unit: "statement", make: |_| hit(world::LOOKUP.into()) },
    Loop { name: "decide/hit-join", unit: "statement", make: |_| hit(world::JOIN.into()) },
    Loop { name: "decide/hit-long-list", unit: "statement", make: |_| hit(world::long_list()) },
    Loop { name: "decide/miss-join", unit: "statement", make: |_| miss() },
    Loop { name: "decide/uncached-lookup", unit: "statement", make: |_| uncached(world::LOOKUP.into()) },
    Loop { name: "decide/uncached-join", unit: "statement", make: |_| uncached(world::JOIN.into()) },
    Loop { name: "decide/uncached-long-list", unit: "statement", make: |_| uncached(world::long_list()) },
    Loop { name: "decide/plan-10-columns", unit: "result", make: |_| plan() },
];

fn judge() -> Judge {
    world::judge(&world::full())
}

fn show(decision: &Decision, seen: &mut Seen) {
    let pass = decision.verdict == Verdict::Pass;
    seen.bytes(&[u8::from(pass), u8::from(decision.clean), u8::from(decision.withhold)]);
}

fn hit(sql: String) -> Running {
    let judge = judge();
    let mut cache = DecisionCache::new();
    cache.statement(&judge, sql.as_bytes(), true);
    let bytes = sql.len();
    let running = Running::new(1, move |seen| show(&cache.statement(&judge, sql.as_bytes(), true), seen));
    if bytes > 4_096 { running.bytes(bytes) } else { running }
}

/// A cache with room for one, asked about two in turn: looked up in vain, judged, kept, the other one thrown out.
fn miss() -> Running {
    let judge = judge();
    let mut cache = DecisionCache::with_bounds(1, 1 << 20);
    let texts = [world::JOIN.to_owned(), world::JOIN.replace("c.name", "c.phone")];
    Running::new(2, move |seen| {
        for text in &texts {
            show(&cache.statement(&judge, text.as_bytes(), true), seen);
        }
        assert_eq!(cache.hits, 0, "every question is a miss");
    })
}

fn uncached(sql: String) -> Running {
    let judge = judge();
    Running::new(1, move |seen| show(&judge.statement(sql.as_bytes()), seen))
}

/// The plan of a result of all ten columns of customers.
fn plan() -> Running {
    let judge = judge();
    Running::new(1, move |seen| {
        let columns: Vec<Column<'_>> = world::COLUMNS
            .iter()
            .zip(1..)
            .map(|((name, type_oid, _), attribute)| Column {
                name: name.as_bytes(),
                table: world::CUSTOMERS,
                attribute,
                type_oid: *type_oid,
                format: Format::Text,
            })
            .collect();
        let plan = judge.plan(&columns);
        let masked = plan.columns.iter().filter(|c| c.is_some()).count();
        seen.bytes(&[u8::try_from(masked).unwrap_or(u8::MAX)]);
    })
}
