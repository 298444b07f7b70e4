//! What an identity has used up within the hour: rows it was sent, and different values of masked columns it asked about.
//!
//! One [`Budgets`] for all workers, so that pages fetched over several connections add up. Not durable: a gateway that starts anew
//! counts anew. A budget of N rows an hour is a bucket: N at once, and what was used comes back evenly over an hour. Invariant: over any
//! number of sessions, never more than that is granted; a session that grants itself a few in advance returns what it did not use. No
//! clock: the caller says what time it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use policy::judge::{Limited, Probe};
use policy::rule::RowLimit;

use crate::limits::{BUDGETS_MAX, ROWS_GRANTED_MAX, SMALL_ROWS};
use crate::session::Now;

/// The budgets of every identity, by rule.
#[derive(Debug, Default)]
pub struct Budgets {
    /// By identity and rule.
    all: Mutex<HashMap<Key, Arc<Budget>>>,
}

type Key = (Box<str>, Box<str>);

/// One identity's under one rule.
#[derive(Debug, Default)]
pub struct Budget {
    used: Mutex<Used>,
}

/// A bucket that drains evenly: what was used goes down to nothing within the hour.
#[derive(Debug, Default)]
struct Used {
    /// Thousandths of rows, as of `at_ns`.
    milli: u64,
    at_ns: u64,
    /// Digests of values, and when each was last asked about.
    probes: HashMap<u64, u64>,
}

const HOUR_NS: u64 = 3_600_000_000_000;

impl Used {
    /// Thousandths of rows used, now.
    fn milli(&mut self, per_hour: u64, now: Now) -> &mut u64 {
        // A worker that read its clock a moment earlier changes nothing.
        let passed = now.mono_ns.saturating_sub(self.at_ns);
        let back = u128::from(passed) * u128::from(per_hour) * 1_000 / u128::from(HOUR_NS);
        // Looked at again before a thousandth has come back, time goes on running.
        if back > 0 {
            self.milli = self.milli.saturating_sub(u64::try_from(back).unwrap_or(u64::MAX));
            self.at_ns = now.mono_ns;
        }
        &mut self.milli
    }

    /// No other value may be asked about.
    fn asked_all(&mut self, per_hour: u32, now: Now) -> bool {
        let most = usize::try_from(per_hour).unwrap_or(usize::MAX);
        if self.probes.len() >= most {
            self.probes.retain(|_, asked| now.mono_ns.saturating_sub(*asked) < HOUR_NS);
        }
        self.probes.len() >= most
    }

    /// Nothing in it is younger than an hour.
    fn idle(&self, now: Now) -> bool {
        let old = |at: u64| now.mono_ns.saturating_sub(at) >= HOUR_NS;
        old(self.at_ns) && self.probes.values().all(|at| old(*at))
    }
}

impl Budgets {
    /// The budget of an identity under a rule; the same for every session.
    pub fn of(&self, identity: &str, rule: &str, now: Now) -> Arc<Budget> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(identity), Box::from(rule));
        if let Some(found) = all.get(&key) {
            return found.clone();
        }
        if all.len() >= BUDGETS_MAX {
            // What nobody holds and an hour has emptied says nothing; anything else must be kept, or reconnecting would reset it.
            all.retain(|_, b| Arc::strong_count(b) > 1 || !b.used().idle(now));
        }
        all.entry(key).or_default().clone()
    }
}

impl Budget {
    fn used(&self) -> std::sync::MutexGuard<'_, Used> {
        // Counters are whole after every line: a poisoned lock holds nothing half-done.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up to `want` rows of what is left. Near the end only a part of it, so that sessions side by side share the rest. The last
    /// hundredth is for results that are `small` by the form of their statement: who has read their fill can still look something up,
    /// and a large result that is cut takes none of it.
    fn take(&self, want: u64, per_hour: u64, small: bool, now: Now) -> u64 {
        let mut used = self.used();
        let milli = used.milli(per_hour, now);
        let kept = if small { 0 } else { per_hour / 100 };
        let left = (per_hour - kept).saturating_mul(1_000).saturating_sub(*milli) / 1_000;
        let granted = want.min((left / 8).max(1)).min(left);
        *milli += granted * 1_000;
        granted
    }

    /// Returns rows that were taken and not used.
    fn give_back(&self, rows: u64) {
        let mut used = self.used();
        used.milli = used.milli.saturating_sub(rows.saturating_mul(1_000));
    }

    /// Whether one more value may be asked about; one that was asked about within the hour always may.
    pub fn probe(&self, digest: u64, per_hour: u32, now: Now) -> bool {
        let mut used = self.used();
        let full = used.asked_all(per_hour, now);
        if let Some(asked) = used.probes.get_mut(&digest) {
            *asked = now.mono_ns;
            return true;
        }
        if full {
            return false;
        }
        used.probes.insert(digest, now.mono_ns);
        true
    }
}

/// Counts the rows of one result against its limits.
#[derive(Debug)]
pub struct Meter {
    /// Rows that may pass before anybody has to look again.
    free: u64,
    /// Rows that were free so far.
    granted: u64,
    /// Of the dearest of the limits.
    weight: u64,
    collects: bool,
    /// Asked for a few rows.
    few: bool,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    limit: Arc<RowLimit>,
    /// Of this result.
    left: u64,
    budget: Option<Arc<Budget>>,
    /// It only observes, and was reached.
    passed: bool,
}

/// A result is at its limit: no further row may pass.
#[derive(Debug, Clone)]
pub struct Cut {
    pub limit: Arc<RowLimit>,
    /// The hour's budget is used up; else the result's own limit.
    pub hourly: bool,
}

impl Meter {
    /// `None` where nothing limits.
    pub fn new(limits: &[Limited], budgets: &Budgets, identity: &str, now: Now) -> Option<Meter> {
        if limits.is_empty() {
            return None;
        }
        let line = |Limited { limit, .. }: &Limited| Line {
            limit: limit.clone(),
            left: limit.per_result.unwrap_or(u64::MAX),
            budget: limit.per_hour.map(|_| budgets.of(identity, &limit.rule, now)),
            passed: false,
        };
        Some(Meter {
            free: 0,
            granted: 0,
            weight: limits.iter().map(|l| l.weight).max().unwrap_or(1),
            collects: limits.iter().any(|l| l.collects),
            few: limits.iter().all(|l| l.few),
            lines: limits.iter().map(line).collect(),
        })
    }

    /// Whether one more row, of so many bytes, may pass.
    ///
    /// # Errors
    /// The limit that is reached.
    #[inline]
    pub fn row(&mut self, bytes: usize, now: Now) -> Result<(), Cut> {
        let carried = if self.collects { bytes as u64 / Limited::BYTES_PER_ROW } else { 0 };
        let cost = self.weight.max(carried);
        while self.free < cost {
            self.refill(cost - self.free, now)?;
        }
        self.free -= cost;
        Ok(())
    }

    /// Limits that only observe and were reached.
    pub fn observed(&self) -> impl Iterator<Item = &RowLimit> {
        self.lines.iter().filter(|line| line.passed).map(|line| &*line.limit)
    }

    #[cold]
    fn refill(&mut self, need: u64, now: Now) -> Result<(), Cut> {
        let small = self.granted + need <= SMALL_ROWS;
        let mut grant = if small { SMALL_ROWS - self.granted } else { need.max(ROWS_GRANTED_MAX) };
        for line in &mut self.lines {
            if line.left == 0 {
                if line.limit.enforce {
                    return Err(Cut { limit: line.limit.clone(), hourly: false });
                }
                line.passed = true;
                continue;
            }
            grant = grant.min(line.left);
        }
        for at in 0..self.lines.len() {
            let Some(line) = self.lines.get_mut(at) else { break };
            let (Some(budget), Some(per_hour)) = (&line.budget, line.limit.per_hour) else { continue };
            let granted = budget.take(grant, per_hour, small && self.few, now);
            if granted == 0 && !line.limit.enforce {
                line.passed = true;
                continue;
            }
            // The lines before this one took as much as they could: they get the difference back.
            for earlier in self.lines.iter().take(at) {
                if let Some(budget) = &earlier.budget {
                    budget.give_back(grant - granted);
                }
            }
            grant = granted;
            if grant == 0 {
                let limit = self.lines.get(at).map(|l| l.limit.clone());
                return limit.map_or(Ok(()), |limit| Err(Cut { limit, hourly: true }));
            }
        }
        for line in &mut self.lines {
            line.left = line.left.saturating_sub(grant);
        }
        self.free += grant;
        self.granted += grant;
        Ok(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.free > 0 {
            for line in &self.lines {
                if let Some(budget) = &line.budget {
                    budget.give_back(self.free);
                }
            }
        }
    }
}

/// Before a statement is sent that may meet values already there: the first enforced budget for that which is used up.
pub fn met_too_often<'p>(
    conflicts: &'p [Probe],
    budgets: &Budgets,
    identity: &str,
    now: Now,
) -> Option<&'p Probe> {
    let mut enforced = conflicts.iter().filter(|c| c.enforce);
    enforced.find(|c| budgets.of(identity, &c.rule, now).used().asked_all(c.per_hour, now))
}

/// Counts a statement's probes before it is sent. `value`: the digest of what a probe asks about.
///
/// # Errors
/// The first that exceeds its budget and is enforced. One that only observes is counted.
pub fn probe<'p>(
    probes: &'p [Probe],
    budgets: &Budgets,
    identity: &str,
    now: Now,
    value: &dyn Fn(&Probe) -> Option<u64>,
) -> Result<(), &'p Probe> {
    for probe in probes {
        // NULL equals nothing: no value is asked about.
        let Some(digest) = value(probe) else { continue };
        let (table, column) = probe.column;
        // The same value of another column is another question.
        let digest = digest
            ^ (u64::from(table) << 16 | u64::from(column.unsigned_abs())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if !budgets.of(identity, &probe.rule, now).probe(digest, probe.per_hour, now) && probe.enforce {
            return Err(probe);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Now {
        Now { mono_ns: minute * 60_000_000_000, ..Now::default() }
    }

    fn limit(per_result: Option<u64>, per_hour: Option<u64>, enforce: bool) -> Limited {
        named("few", per_result, per_hour, enforce)
    }

    fn named(rule: &str, per_result: Option<u64>, per_hour: Option<u64>, enforce: bool) -> Limited {
        let text = String::new;
        let limit =
            RowLimit { rule: rule.into(), place: text(), message: text(), per_result, per_hour, enforce };
        Limited { limit: Arc::new(limit), weight: 1, collects: false, few: false }
    }

    fn rows(meter: &mut Meter, want: u64, minute: u64) -> (u64, Option<Cut>) {
        for n in 0..want {
            if let Err(cut) = meter.row(100, at(minute)) {
                return (n, Some(cut));
            }
        }
        (want, None)
    }

    #[test]
    fn a_result_ends_at_its_exact_row() {
        let budgets = Budgets::default();
        for n in [0, 1, 255, 256, 257, 10_000] {
            let mut meter = Meter::new(&[limit(Some(n), None, true)], &budgets, "ana", at(0)).unwrap();
            let (passed, cut) = rows(&mut meter, n + 10, 0);
            assert_eq!(passed, n);
            assert!(!cut.expect("cut").hourly);
        }
        assert!(Meter::new(&[], &budgets, "ana", at(0)).is_none());
    }

    #[test]
    fn an_hour_adds_up_over_sessions_and_comes_back_by_the_minute() {
        let budgets = Budgets::default();
        let few = [limit(None, Some(1_000), true)];
        let meter = |who: &str, minute| Meter::new(&few, &budgets, who, at(minute)).unwrap();
        // What a session took in advance and did not use is not lost.
        assert_eq!(rows(&mut meter("ana", 0), 400, 0).0, 400);
        assert_eq!(rows(&mut meter("ana", 0), 300, 0).0, 300);
        let (passed, cut) = rows(&mut meter("ana", 0), 1_000, 0);
        assert_eq!(passed, 290, "all but the last hundredth");
        assert!(cut.expect("cut").hourly);
        assert_eq!(rows(&mut meter("ana", 0), 1, 0).0, 0, "also of the next");
        let lookup = [Limited { few: true, ..few[0].clone() }];
        let mut lookup = Meter::new(&lookup, &budgets, "ana", at(0)).unwrap();
        assert_eq!(rows(&mut lookup, 1, 0).0, 1, "which is for looking things up");
        drop(lookup);
        assert_eq!(rows(&mut meter("ben", 0), 1_000, 0).0, 990, "somebody else has their own");
        assert_eq!(rows(&mut meter("ana", 30), 1_000, 30).0, 499, "half an hour brings half of it back");
        assert_eq!(rows(&mut meter("ana", 200), 2_000, 200).0, 990);
    }

    #[test]
    fn sessions_side_by_side_never_exceed_the_hour() {
        let budgets = Arc::new(Budgets::default());
        let total: u64 = std::thread::scope(|scope| {
            let run = || {
                let budgets = budgets.clone();
                scope.spawn(move || {
                    let few = [limit(None, Some(100_000), true)];
                    (0..50)
                        .map(|_| rows(&mut Meter::new(&few, &budgets, "ana", at(1)).unwrap(), 1_500, 1).0)
                        .sum::<u64>()
                })
            };
            let all = [run(), run(), run(), run()];
            all.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!((99_000..=100_000).contains(&total), "all of it but what is kept, and not one more: {total}");
    }

    #[test]
    fn the_stricter_of_two_limits_cuts_and_takes_no_more_than_it_gives() {
        let budgets = Budgets::default();
        let both = [named("wide", None, Some(5_000), true), limit(Some(7_000), Some(600), true)];
        let mut meter = Meter::new(&both, &budgets, "ana", at(0)).unwrap();
        let (passed, cut) = rows(&mut meter, 10_000, 0);
        assert_eq!((passed, cut.expect("cut").limit.rule.as_str()), (594, "few"));
        drop(meter);
        let mut meter = Meter::new(&both[..1], &budgets, "ana", at(0)).unwrap();
        assert_eq!(rows(&mut meter, 10_000, 0).0, 4_950 - 594);
    }

    #[test]
    fn rows_that_carry_others_count_for_them() {
        let budgets = Budgets::default();
        let joined = Limited { weight: 2, ..limit(Some(11), None, true) };
        let mut meter = Meter::new(&[joined], &budgets, "ana", at(0)).unwrap();
        assert_eq!(rows(&mut meter, 100, 0).0, 5, "a table joined with itself");
        let collected = Limited { collects: true, ..limit(Some(10_000), Some(20_000), true) };
        let mut meter = Meter::new(std::slice::from_ref(&collected), &budgets, "ana", at(0)).unwrap();
        assert!(meter.row(400_000, at(0)).is_err(), "25,000 rows in one");
        drop(meter);
        let mut meter = Meter::new(&[collected], &budgets, "ana", at(0)).unwrap();
        for _ in 0..1_000 {
            assert!(meter.row(80, at(0)).is_ok(), "what was refused was given back");
        }
        assert!(meter.row(80, at(0)).is_err());
    }

    #[test]
    fn a_limit_that_observes_says_so() {
        let budgets = Budgets::default();
        for limit in [limit(Some(10), None, false), limit(None, Some(10), false)] {
            let mut meter = Meter::new(&[limit], &budgets, "ana", at(0)).unwrap();
            assert_eq!(meter.observed().count(), 0);
            let (passed, cut) = rows(&mut meter, 2_000, 0);
            assert_eq!((passed, meter.observed().count()), (2_000, 1));
            assert!(cut.is_none());
        }
    }

    #[test]
    fn values_count_once_and_are_forgotten_after_an_hour() {
        let budget = Budget::default();
        for value in 0..3 {
            assert!(budget.probe(value, 3, at(0)));
        }
        assert!(!budget.probe(3, 3, at(1)));
        assert!(budget.probe(2, 3, at(30)), "asked before");
        assert!(budget.probe(3, 3, at(60)));
        assert!(budget.probe(4, 3, at(60)));
        assert!(!budget.probe(5, 3, at(60)), "2 was asked again within the hour");
        let (mut used, later) = (budget.used(), at(121));
        assert!(used.asked_all(3, at(60)) && !used.asked_all(3, later), "room comes back");
    }
}
