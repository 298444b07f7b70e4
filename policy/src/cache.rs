//! Decisions by statement shape, so that a statement seen before costs a hash and a comparison.
//!
//! One per core and without locks. Not shared, not persistent, and not a place where anything is decided. Invariant: a decision is
//! found only under the same binding of rules to a catalogue (policy, subject's rules, catalogue version) and the same text up to
//! literals that provably did not matter.
//!
//! Who sends endless new shapes does not push out what others use. A shape is kept for good at its second use; until then, once the
//! place is full, it is on probation, in an eighth of the room (2Q, Johnson and Shasha 1994; the memory of what left probation is
//! S3-FIFO's, Yang and others 2023). And an owner who holds more than an eighth makes room among its own and what was never of use,
//! seven times of eight; the eighth time the oldest of anybody's that nobody used goes, so that nothing stays only because its owner
//! left.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::judge::{Decision, Judge};
use crate::shape::shape;
use crate::verdict::Verdict;

/// Entries kept.
pub const ENTRIES_MAX: usize = 16_384;
/// Bytes kept, of keys and decisions: 1 KiB for each, and most take half of it.
pub const BYTES_MAX: usize = 16 << 20;
/// A text longer than this is judged anew each time: one of them may not push out hundreds of others.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// Texts answered by their exact bytes, before their shape is looked at: each at most [`EXACT_BYTES_MAX`] long.
const EXACT_MAX: usize = 256;
const EXACT_BYTES_MAX: usize = 1 << 10;
/// Shapes remembered, by four bytes of their hash, that left probation unused.
const GONE_MAX: usize = ENTRIES_MAX;
/// One part in so many: of the room, what is probation's, and what an owner may take from others.
const SHARE: usize = 8;

/// A bounded cache of decisions.
pub struct DecisionCache {
    /// Key: binding, kind (shape or exact), text.
    places: HashMap<Arc<[u8]>, Place, RandomState>,
    kept: Ring,
    probation: Ring,
    gone: Vec<u32>,
    exact: Vec<Exact>,
    /// Made between calls, so that a hit allocates nothing.
    key: Vec<u8>,
    pub hits: u64,
    pub misses: u64,
}

/// Whose statements are judged: what one of them does to the cache, another does not feel. Any number that tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner(pub usize);

#[derive(Clone, Copy)]
struct Place {
    kept: bool,
    at: usize,
}

struct Slot {
    key: Arc<[u8]>,
    decision: Arc<Decision>,
    owner: Owner,
    bytes: usize,
    /// Since the hand came by.
    used: bool,
    /// Ever, where it is.
    proven: bool,
}

/// A text as it was sent, twice at least.
#[derive(Default)]
struct Exact {
    /// Of the text that was here last, known or not: a text takes the place when it comes a second time.
    last: u64,
    known: Option<Known>,
}

struct Known {
    binding: u64,
    text: Arc<[u8]>,
    decision: Arc<Decision>,
}

const SHAPE: u8 = b's';
const EXACT: u8 = b'x';

impl Default for DecisionCache {
    fn default() -> DecisionCache {
        DecisionCache::with_bounds(ENTRIES_MAX, BYTES_MAX)
    }
}

impl DecisionCache {
    pub fn new() -> DecisionCache {
        DecisionCache::default()
    }

    pub fn with_bounds(entries_max: usize, bytes_max: usize) -> DecisionCache {
        let (few, some) = ((entries_max / SHARE).max(1), bytes_max / SHARE);
        DecisionCache {
            places: HashMap::default(),
            kept: Ring::new(entries_max.saturating_sub(few).max(1), bytes_max - some),
            probation: Ring::new(few, some),
            gone: Vec::new(),
            exact: Vec::new(),
            key: Vec::new(),
            hits: 0,
            misses: 0,
        }
    }

    /// [`DecisionCache::statement_of`] where nobody is to be told apart.
    pub fn statement(&mut self, judge: &Judge, sql: &[u8], readable: bool) -> Arc<Decision> {
        self.statement_of(Owner::default(), judge, sql, readable)
    }

    /// The decision about `sql`, from memory when one of its shape was made for the same judge. `readable`: the session
    /// reads plain strings without backslashes, and each byte of ASCII as what it is; otherwise nothing can be said.
    pub fn statement_of(&mut self, owner: Owner, judge: &Judge, sql: &[u8], readable: bool) -> Arc<Decision> {
        if judge.scope().is_empty() {
            return judge.statement(sql);
        }
        if !readable {
            return judge.unreadable();
        }
        if sql.len() > TEXT_BYTES_MAX {
            self.misses += 1;
            return judge.statement(sql);
        }
        let hash = self.places.hasher().hash_one(sql);
        if let Some(known) = self.exact(judge, sql, hash) {
            let decision = known.decision.clone();
            self.hits += 1;
            return decision;
        }
        let decision = self.by_shape(owner, judge, sql);
        self.note_exact(judge, sql, hash, &decision);
        decision
    }

    /// The text's own bytes, shared, when they are remembered as they are: who has to keep a text needs no copy of it.
    pub fn text(&self, judge: &Judge, sql: &[u8]) -> Option<Arc<[u8]>> {
        let hash = self.places.hasher().hash_one(sql);
        self.exact(judge, sql, hash).map(|known| known.text.clone())
    }

    fn exact(&self, judge: &Judge, sql: &[u8], hash: u64) -> Option<&Known> {
        let known = self.exact.get(hash as usize % EXACT_MAX)?.known.as_ref()?;
        (known.binding == judge.bound.id && *known.text == *sql).then_some(known)
    }

    fn note_exact(&mut self, judge: &Judge, sql: &[u8], hash: u64, decision: &Arc<Decision>) {
        if sql.len() > EXACT_BYTES_MAX {
            return;
        }
        if self.exact.is_empty() {
            self.exact.resize_with(EXACT_MAX, Exact::default);
        }
        let Some(place) = self.exact.get_mut(hash as usize % EXACT_MAX) else { return };
        if place.last == hash {
            let (binding, decision) = (judge.bound.id, decision.clone());
            place.known = Some(Known { binding, text: sql.into(), decision });
        }
        place.last = hash;
    }

    fn by_shape(&mut self, owner: Owner, judge: &Judge, sql: &[u8]) -> Arc<Decision> {
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
        self.keep(owner, decision.clone());
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
        self.hits += 1;
        if place.kept {
            let slot = self.kept.slots.get_mut(place.at)?;
            (slot.used, slot.proven) = (true, true);
            return Some(slot.decision.clone());
        }
        let slot = self.probation.remove(place.at, false, &mut self.places)?;
        let decision = slot.decision.clone();
        self.put(slot, true);
        Some(decision)
    }

    fn keep(&mut self, owner: Owner, decision: Arc<Decision>) {
        let key: Arc<[u8]> = self.key.as_slice().into();
        let bytes = key.len() + size(&decision);
        // A shape that was on probation not long ago is no stranger.
        let tag = self.tag(&key);
        let seen = tag.is_some_and(|(place, tag)| self.gone.get(place) == Some(&tag));
        let kept = seen || self.kept.has_room(bytes);
        self.put(Slot { key, decision, owner, bytes, used: false, proven: false }, kept);
    }

    fn put(&mut self, slot: Slot, kept: bool) {
        let ring = if kept { &mut self.kept } else { &mut self.probation };
        if slot.bytes > ring.bytes_max {
            return;
        }
        let mut gone = Vec::new();
        while !ring.has_room(slot.bytes)
            && let Some(victim) = ring.victim(slot.owner)
            && let Some(old) = ring.remove(victim, kept, &mut self.places)
        {
            gone.push(old.key);
        }
        self.places.insert(slot.key.clone(), Place { kept, at: ring.slots.len() });
        ring.add(slot);
        if !kept {
            for key in gone {
                self.forget(&key);
            }
        }
    }

    /// Where a key that left probation is remembered, and as what.
    fn tag(&self, key: &[u8]) -> Option<(usize, u32)> {
        let hash = self.places.hasher().hash_one(key);
        Some((hash as usize % GONE_MAX, (hash >> 32) as u32 | 1))
    }

    fn forget(&mut self, key: &[u8]) {
        if self.gone.is_empty() {
            self.gone.resize(GONE_MAX, 0);
        }
        if let Some((place, tag)) = self.tag(key)
            && let Some(gone) = self.gone.get_mut(place)
        {
            *gone = tag;
        }
    }
}

/// About how much memory a decision takes, with its slot and place.
fn size(decision: &Decision) -> usize {
    let block = match &decision.verdict {
        Verdict::Block(b) => b.rule.len() + b.place.len() + b.message.len() + b.hint.len(),
        Verdict::Pass => 0,
    };
    let observed: usize = decision.observed.iter().map(|o| size_of::<String>() + o.len()).sum();
    let copies = decision.copies.len() * 256;
    let told = |d: &Decision| d.outputs.as_ref().map_or(0, Vec::len);
    let each: usize = decision.each.iter().map(|d| size_of::<Decision>() + told(d)).sum();
    let outputs = told(decision) + each;
    let asked = size_of_val(decision.limits.as_slice())
        + size_of_val(decision.probes.as_slice())
        + size_of_val(decision.conflicts.as_slice());
    size_of::<Decision>() + 2 * size_of::<Slot>() + block + observed + copies + outputs + asked
}

/// Slots in a row with a hand that goes round (CLOCK): an entry used since the hand passed stays one more round.
struct Ring {
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
    owners: HashMap<Owner, Held, RandomState>,
    evictions: usize,
}

#[derive(Clone, Copy, Default)]
struct Held {
    entries: usize,
    bytes: usize,
}

impl Ring {
    fn new(entries_max: usize, bytes_max: usize) -> Ring {
        Ring {
            slots: Vec::new(),
            hand: 0,
            bytes: 0,
            entries_max,
            bytes_max,
            owners: HashMap::default(),
            evictions: 0,
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.slots.len() < self.entries_max && self.bytes + bytes <= self.bytes_max
    }

    fn add(&mut self, slot: Slot) {
        self.bytes += slot.bytes;
        let held = self.owners.entry(slot.owner).or_default();
        held.entries += 1;
        held.bytes += slot.bytes;
        self.slots.push(slot);
    }

    /// Who goes so that `owner` has room: the first entry the hand comes to that nobody used since it last came by. `None`: empty.
    fn victim(&mut self, owner: Owner) -> Option<usize> {
        let held = self.owners.get(&owner).copied().unwrap_or_default();
        let greedy = held.entries * SHARE > self.entries_max || held.bytes * SHARE > self.bytes_max;
        self.evictions += 1;
        let own = greedy && !self.evictions.is_multiple_of(SHARE);
        let mut at = self.hand;
        // Twice round at most: what was used is not any more the second time.
        for _ in 0..=2 * self.slots.len() {
            at = if at < self.slots.len() { at } else { 0 };
            let slot = self.slots.get_mut(at)?;
            let passed_by = own && slot.proven && slot.owner != owner;
            if !passed_by && !std::mem::take(&mut slot.used) {
                break;
            }
            at += 1;
        }
        self.hand = at;
        Some(at)
    }

    fn remove(
        &mut self,
        at: usize,
        kept: bool,
        places: &mut HashMap<Arc<[u8]>, Place, RandomState>,
    ) -> Option<Slot> {
        if at >= self.slots.len() {
            return None;
        }
        let gone = self.slots.swap_remove(at);
        self.bytes -= gone.bytes;
        if let Some(held) = self.owners.get_mut(&gone.owner) {
            held.entries -= 1;
            held.bytes -= gone.bytes;
            if held.entries == 0 {
                self.owners.remove(&gone.owner);
            }
        }
        places.remove(&gone.key);
        // The last entry took its place; the hand goes on to the next one, so that it is not judged twice in one round.
        if let Some(moved) = self.slots.get(at) {
            places.insert(moved.key.clone(), Place { kept, at });
            self.hand += usize::from(self.hand == at);
        }
        if self.hand >= self.slots.len() {
            // Or what comes next, at the end, would be the next to go.
            self.hand = 0;
        }
        Some(gone)
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

    fn sound(cache: &DecisionCache) {
        for (ring, kept) in [(&cache.kept, true), (&cache.probation, false)] {
            assert!(ring.slots.len() <= ring.entries_max && ring.bytes <= ring.bytes_max);
            assert_eq!(ring.slots.iter().map(|s| s.bytes).sum::<usize>(), ring.bytes);
            assert_eq!(ring.owners.values().map(|h| h.entries).sum::<usize>(), ring.slots.len());
            for (at, slot) in ring.slots.iter().enumerate() {
                assert!(cache.places.get(&slot.key).is_some_and(|p| p.kept == kept && p.at == at));
            }
        }
        assert_eq!(cache.places.len(), cache.kept.slots.len() + cache.probation.slots.len());
    }

    #[test]
    fn bounds_hold_and_what_is_used_stays() {
        let judge = judge();
        let mut cache = DecisionCache::with_bounds(16, 32 << 10);
        let hot = cache.statement(&judge, b"select hot", true);
        for i in 0..1_000 {
            cache.statement(&judge, format!("select c{i} from t").as_bytes(), true);
            assert!(Arc::ptr_eq(&hot, &cache.statement(&judge, b"select hot", true)), "evicted after {i}");
            sound(&cache);
        }
        // Texts of which a few fill it.
        for i in 0..100 {
            let text = format!("select {} from t{i}", "a, ".repeat(1_000) + "a");
            cache.statement(&judge, text.as_bytes(), true);
            cache.statement(&judge, text.as_bytes(), true);
            sound(&cache);
        }
    }

    /// How many of the shapes of `owner` are found, in whatever order the hand stands.
    fn hits(cache: &mut DecisionCache, judge: &Judge, owner: usize, shapes: usize) -> u64 {
        let before = cache.hits;
        for i in 0..shapes {
            // Another literal each time: by shape, not by the exact text.
            let text = format!("select a{i} from t{owner} where id = {}", cache.hits);
            cache.statement_of(Owner(owner), judge, text.as_bytes(), true);
        }
        cache.hits - before
    }

    #[test]
    fn endless_new_shapes_do_not_change_what_others_find() {
        let judge = judge();
        for twice in [false, true] {
            let mut cache = DecisionCache::with_bounds(512, 4 << 20);
            // A working set of three quarters of what is kept.
            assert_eq!(hits(&mut cache, &judge, 1, 336), 0);
            for round in 0..20 {
                assert!(hits(&mut cache, &judge, 1, 336) >= 330, "round {round}, twice: {twice}");
                for i in 0..2_000 {
                    let text = format!("select x{i} from attack{round}");
                    for _ in 0..=u8::from(twice) {
                        cache.statement_of(Owner(2), &judge, text.as_bytes(), true);
                    }
                }
                sound(&cache);
            }
            let held = cache.kept.owners.get(&Owner(2)).copied().unwrap_or_default();
            assert!(held.entries <= 448 - 330, "{}", held.entries);
            // Who comes later, in the middle of it, gets in as well.
            hits(&mut cache, &judge, 3, 20);
            for round in 0..10 {
                for i in 0..500 {
                    let text = format!("select y{i} from attack{round}");
                    cache.statement_of(Owner(2), &judge, text.as_bytes(), true);
                }
                // What left probation is remembered, of sixteen mostly fifteen.
                let found = hits(&mut cache, &judge, 3, 20);
                assert!(round < 7 || found == 20, "round {round}, twice: {twice}: {found}");
            }
        }
    }

    #[test]
    fn a_large_working_set_is_learned_again_after_the_place_was_filled_with_rubbish() {
        let judge = judge();
        let mut cache = DecisionCache::with_bounds(512, 4 << 20);
        hits(&mut cache, &judge, 2, 2_000);
        // Larger than probation, used in turn: only the memory of what left probation tells.
        for _ in 0..6 {
            hits(&mut cache, &judge, 1, 300);
        }
        assert!(hits(&mut cache, &judge, 1, 300) > 290);
        sound(&cache);
    }

    #[test]
    fn a_text_that_comes_again_is_known_by_its_bytes() {
        let (a, b) = (judge(), judge());
        let mut cache = DecisionCache::new();
        let sql = b"select name from t where id = $1";
        let first = cache.statement(&a, sql, true);
        assert!(cache.text(&a, sql).is_none());
        cache.statement(&a, sql, true);
        assert_eq!(cache.text(&a, sql).as_deref(), Some(&sql[..]));
        assert!(Arc::ptr_eq(&first, &cache.statement(&a, sql, true)));
        assert!(cache.text(&b, sql).is_none(), "other rules");
        assert!(!Arc::ptr_eq(&first, &cache.statement(&b, sql, true)));
        assert_eq!((cache.hits, cache.misses), (2, 2));
    }
}
