//! Decisions by statement shape, so that a statement seen before costs a hash and a comparison.
//!
//! One per core and without locks. Not shared, not persistent, and not a place where anything is decided. Invariant: a decision is
//! found only under the same binding of rules to a catalogue (policy, subject's rules, catalogue version) and the same text up to
//! literals that provably did not matter. Replaced by CLOCK: an entry used since the hand passed stays one more round.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use crate::judge::{Decision, Judge};
use crate::shape::shape;

/// Entries kept.
pub const ENTRIES_MAX: usize = 4_096;
/// Bytes of keys kept.
pub const KEY_BYTES_MAX: usize = 4 << 20;
/// A text longer than this is judged anew each time: one of them may not push out hundreds of others.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// A bounded cache of decisions.
pub struct DecisionCache {
    /// Key: binding, kind (shape or exact), text.
    places: HashMap<Arc<[u8]>, usize, Folding>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
    /// Kept between calls, so that a hit allocates nothing.
    key: Vec<u8>,
    pub hits: u64,
    pub misses: u64,
}

/// Sixteen bytes per multiplication, keyed at random: SipHash took half of a hit. Whoever finds collisions anyway gains little, the
/// table being bounded.
struct Folding([u64; 3]);

impl Default for Folding {
    fn default() -> Folding {
        let random = RandomState::new();
        Folding([random.hash_one(0u8), random.hash_one(1u8) | 1, random.hash_one(2u8)])
    }
}

impl BuildHasher for Folding {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        let [state, left, right] = self.0;
        Fold { state, left, right }
    }
}

struct Fold {
    state: u64,
    left: u64,
    right: u64,
}

impl Fold {
    fn mix(&mut self, a: u64, b: u64) {
        let product = u128::from(a ^ self.state ^ self.left) * u128::from(b ^ self.right);
        let [low, high] = [product as u64, (product >> 64) as u64];
        // The second half keeps what a factor of zero would swallow.
        self.state = (low ^ high).wrapping_add((self.state ^ b).rotate_left(23)) ^ self.left.rotate_left(7);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<16>();
        let half = |n: u128| (n as u64, (n >> 64) as u64);
        for chunk in chunks {
            let (a, b) = half(u128::from_le_bytes(*chunk));
            self.mix(a, b);
        }
        let mut last = [0u8; 16];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let (a, b) = half(u128::from_le_bytes(last));
        self.mix(a, b ^ bytes.len() as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.state = self.state.wrapping_add((n as u64).wrapping_mul(self.left));
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(self.left);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

struct Slot {
    key: Arc<[u8]>,
    decision: Arc<Decision>,
    used: bool,
}

const SHAPE: u8 = b's';
const EXACT: u8 = b'x';

impl Default for DecisionCache {
    fn default() -> DecisionCache {
        DecisionCache::with_bounds(ENTRIES_MAX, KEY_BYTES_MAX)
    }
}

impl DecisionCache {
    pub fn new() -> DecisionCache {
        DecisionCache::default()
    }

    pub fn with_bounds(entries_max: usize, bytes_max: usize) -> DecisionCache {
        DecisionCache {
            places: HashMap::default(),
            slots: Vec::new(),
            hand: 0,
            bytes: 0,
            entries_max: entries_max.max(1),
            bytes_max,
            key: Vec::new(),
            hits: 0,
            misses: 0,
        }
    }

    /// The decision about `sql`, from memory when one of its shape was made for the same judge. `standard_strings`: the session
    /// reads plain strings without backslashes and in UTF-8; otherwise nothing can be said.
    pub fn statement(&mut self, judge: &Judge, sql: &[u8], standard_strings: bool) -> Arc<Decision> {
        if judge.scope().is_empty() {
            return judge.statement(sql);
        }
        if !standard_strings {
            return judge.unreadable();
        }
        if sql.len() > TEXT_BYTES_MAX {
            self.misses += 1;
            return judge.statement(sql);
        }
        self.begin_key(judge, SHAPE);
        let shaped = shape(sql, &mut self.key);
        if shaped && let Some(found) = self.find() {
            return found;
        }
        self.exact_key(judge, sql);
        if let Some(found) = self.find() {
            return found;
        }
        let decision = judge.statement(sql);
        if shaped && !decision.literals_matter {
            self.begin_key(judge, SHAPE);
            shape(sql, &mut self.key);
        }
        self.misses += 1;
        self.keep(decision.clone());
        decision
    }

    fn begin_key(&mut self, judge: &Judge, kind: u8) {
        self.key.clear();
        self.key.extend_from_slice(&judge.bound.id.to_le_bytes());
        self.key.push(kind);
    }

    fn exact_key(&mut self, judge: &Judge, sql: &[u8]) {
        self.begin_key(judge, EXACT);
        self.key.extend_from_slice(sql);
    }

    fn find(&mut self) -> Option<Arc<Decision>> {
        let place = *self.places.get(self.key.as_slice())?;
        let slot = self.slots.get_mut(place)?;
        slot.used = true;
        self.hits += 1;
        Some(slot.decision.clone())
    }

    fn keep(&mut self, decision: Arc<Decision>) {
        let key: Arc<[u8]> = self.key.as_slice().into();
        while !self.slots.is_empty()
            && (self.slots.len() >= self.entries_max || self.bytes + key.len() > self.bytes_max)
        {
            self.evict();
        }
        self.bytes += key.len();
        self.places.insert(key.clone(), self.slots.len());
        self.slots.push(Slot { key, decision, used: false });
    }

    /// Moves the hand to the first entry nobody used since it last came by, and removes it.
    fn evict(&mut self) {
        for _ in 0..=self.slots.len() {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            match self.slots.get_mut(self.hand) {
                Some(slot) if slot.used => {
                    slot.used = false;
                    self.hand += 1;
                }
                _ => break,
            }
        }
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        if self.slots.is_empty() {
            return;
        }
        let gone = self.slots.swap_remove(self.hand);
        self.bytes -= gone.key.len();
        self.places.remove(&gone.key);
        // The last entry took its place; the hand goes on to the next one, so that it is not judged twice in one round.
        if let Some(moved) = self.slots.get(self.hand) {
            self.places.insert(moved.key.clone(), self.hand);
            self.hand += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::rule::{Source, compile};
    use crate::subject::Subject;

    fn judge() -> Judge {
        let file = r#"{"rules": [{"name": "no-drop", "on": {"statements": ["drop"]}, "block": "no"}]}"#;
        let source = Source { file: serde_json::from_str(file).expect("shape"), ..Source::default() };
        let policy = compile(&[source], None).expect("compiles");
        policy
            .scope(&Subject { identity: "a".into(), groups: vec![] }, "c")
            .bind(Arc::new(Catalog::default()))
    }

    #[test]
    fn literals_share_a_decision_and_rules_do_not() {
        let (a, b) = (judge(), judge());
        let mut cache = DecisionCache::new();
        let one = cache.statement(&a, b"select 1 where 'x' = 'y'", true);
        let two = cache.statement(&a, b"select 22 where 'z' = ''", true);
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!((cache.hits, cache.misses), (1, 1));
        let other = cache.statement(&b, b"select 1 where 'x' = 'y'", true);
        assert!(!Arc::ptr_eq(&one, &other));
        cache.statement(&a, b"set application_name = 'a'", true);
        cache.statement(&a, b"set client_encoding = 'sjis'", true);
        let utf8 = cache.statement(&a, b"set client_encoding = 'utf8'", true);
        assert_eq!(utf8.verdict, crate::Verdict::Pass, "its literal mattered");
        assert!(matches!(cache.statement(&a, b"select 1", false).verdict, crate::Verdict::Block(_)));
    }

    #[test]
    fn the_hash_spreads_and_depends_on_every_byte() {
        let hasher = Folding::default();
        let base = vec![b'a'; 100];
        let mut seen = std::collections::HashSet::new();
        seen.insert(hasher.hash_one(&base[..]));
        for i in 0..100 {
            for bit in 0..8 {
                let mut changed = base.clone();
                changed[i] ^= 1 << bit;
                seen.insert(hasher.hash_one(&changed[..]));
            }
            seen.insert(hasher.hash_one(&base[..i]));
        }
        assert_eq!(seen.len(), 901);
        let low: std::collections::HashSet<_> = seen.iter().map(|h| h & 0xfff).collect();
        assert!(low.len() > 600, "{} of 4096 places for 901 keys", low.len());
    }

    #[test]
    fn bounds_hold_and_what_is_used_stays() {
        let judge = judge();
        let mut cache = DecisionCache::with_bounds(8, 1 << 10);
        let hot = cache.statement(&judge, b"select hot", true);
        for i in 0..1_000 {
            cache.statement(&judge, format!("select c{i} from t").as_bytes(), true);
            assert!(Arc::ptr_eq(&hot, &cache.statement(&judge, b"select hot", true)), "evicted after {i}");
            assert!(
                cache.slots.len() <= 8 && cache.bytes <= 1 << 10 && cache.places.len() == cache.slots.len()
            );
        }
        for (i, slot) in cache.slots.iter().enumerate() {
            assert_eq!(cache.places.get(&slot.key), Some(&i));
        }
    }
}
