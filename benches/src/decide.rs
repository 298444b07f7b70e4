//! Judgement under the fifty rules of `full.yaml`: from the cache, past it, and what a result's description costs.
//!
//! `hit`: the very same text again. `shape`: the same but for a literal, which takes its shape. The shape of a text is private to
//! policy; of the longest text (15 KiB, nearly all literals, and too long to be known by its bytes) a hit is little else. `of-…-shapes`
//! and `under-…-rules` show how a hit by shape grows: it should not.

use policy::cache::DecisionCache;
use policy::{Column, Decision, Format, Judge, Verdict};

use crate::{Loop, Running, Seen, Size, world};

pub(crate) const LOOPS: &[Loop] = &[
    Loop { name: "decide/hit-lookup", unit: "statement", make: |_| hit(world::LOOKUP.into()) },
    Loop { name: "decide/hit-join", unit: "statement", make: |_| hit(world::JOIN.into()) },
    Loop { name: "decide/shape-lookup", unit: "statement", make: |_| by_shape(world::LOOKUP, "4711") },
    Loop { name: "decide/shape-join", unit: "statement", make: |_| by_shape(world::JOIN, "100") },
    Loop { name: "decide/of-10-shapes", unit: "statement", make: |size| of_shapes(10, size) },
    Loop { name: "decide/of-10000-shapes", unit: "statement", make: |size| of_shapes(10_000, size) },
    Loop { name: "decide/under-1-rule", unit: "statement", make: |_| under_rules(1) },
    Loop { name: "decide/under-1000-rules", unit: "statement", make: |_| under_rules(1_000) },
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

/// `sql` with another literal in place of `literal` every time, so many that none is known by its bytes.
fn by_shape_of(judge: Judge, sql: &str, literal: &str) -> Running {
    let texts: Vec<_> = (0..2_000).map(|n| sql.replace(literal, &(100_000 + n).to_string())).collect();
    assert_ne!(texts.first(), texts.last(), "there is a literal to change");
    let mut cache = DecisionCache::new();
    let mut at = 0;
    Running::new(1, move |seen| {
        at = (at + 1) % texts.len();
        let text = texts.get(at).map(String::as_bytes).unwrap_or_default();
        show(&cache.statement(&judge, text, true), seen);
    })
}

fn by_shape(sql: &str, literal: &str) -> Running {
    by_shape_of(judge(), sql, literal)
}

/// `n` in letters: part of a name, not a literal.
fn letters(mut n: usize) -> String {
    let mut out = String::new();
    loop {
        out.push(char::from(b'a' + u8::try_from(n % 26).unwrap_or(0)));
        n /= 26;
        if n == 0 {
            return out;
        }
    }
}

/// One of many shapes, all of them known, with a literal of its own.
fn of_shapes(count: usize, size: Size) -> Running {
    let judge = judge();
    let mut cache = DecisionCache::new();
    let count = size.pick(count, 10);
    let texts: Vec<_> = (0..count.max(2_000))
        .map(|n| {
            let column = letters(n % count);
            format!("SELECT id, name, balance AS n{column} FROM customers WHERE id = {}", 100_000 + n)
        })
        .collect();
    for _ in 0..2 {
        texts.iter().for_each(|t| drop(cache.statement(&judge, t.as_bytes(), true)));
    }
    let misses = cache.misses;
    let mut at = 0;
    Running::new(1, move |seen| {
        // A step that leads to all of them, and rarely to a neighbour.
        at = (at + 7_919) % texts.len();
        let text = texts.get(at).map(String::as_bytes).unwrap_or_default();
        show(&cache.statement(&judge, text, true), seen);
        assert_eq!(cache.misses, misses, "every shape is known");
    })
}

/// A hit by shape under so many rules that all touch the identity.
fn under_rules(count: usize) -> Running {
    let rules: String = (0..count)
        .map(|n| {
            format!(
                "  - {{name: r{n}, on: {{statements: [drop], tables: [other_{}]}}, block: no}}\n",
                n % 100
            )
        })
        .collect();
    by_shape_of(world::judge(&format!("rules:\n{rules}")), world::LOOKUP, "4711")
}

/// A cache with room for one, asked about many in turn: looked up in vain, judged, kept, another one thrown out.
fn miss() -> Running {
    let judge = judge();
    let mut cache = DecisionCache::with_bounds(1, 1 << 20);
    let texts: Vec<_> =
        (0..2_000).map(|n| world::JOIN.replace("c.name", &format!("c.name AS {}", letters(n)))).collect();
    let mut at = 0;
    Running::new(1, move |seen| {
        at = (at + 1) % texts.len();
        let text = texts.get(at).map(String::as_bytes).unwrap_or_default();
        show(&cache.statement(&judge, text, true), seen);
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
