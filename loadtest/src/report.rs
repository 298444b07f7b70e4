//! What comes out: every measurement, its summary, the conditions it was taken under. Printed as a table, written as JSON.
//!
//! Not the HTML page (`html.rs`), which is drawn from the same `Report`. Invariant: a number is never shown without its repetitions
//! being in the JSON; what could not be measured says why; no password is in it.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::stats::{Ratio, Spread};

/// Other work on a target's core that is worth a remark.
const FOREIGN_SHARE_MAX: f64 = 0.05;

/// One target under one workload, once.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Queries, rows or connections: what CPU is divided by.
    pub(crate) units: u64,
    pub(crate) per_second: f64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) unanswered: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) mb_per_second: f64,
    pub(crate) latency: Option<Latency>,
    /// The target's CPU time per unit.
    pub(crate) cpu_us: Option<f64>,
    /// How much of it was outside the kernel.
    pub(crate) user_share: Option<f64>,
    /// How many cores the target kept busy.
    pub(crate) target_busy: Option<f64>,
    /// How much of the target's core went to neither the target nor idling, where it has a core of its own.
    pub(crate) foreign_share: Option<f64>,
    /// How many cores each load thread kept busy: near 1, we were the bottleneck.
    pub(crate) load_busy: f64,
    pub(crate) asked_per_second: Option<f64>,
    pub(crate) memory: Option<Memory>,
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_kb_per_connection: f64,
    /// Of the whole machine: both ends of every connection, and whoever else was busy.
    pub(crate) slab_kb_per_connection: f64,
    pub(crate) rss_kb_before: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) mean_us: f64,
    /// Quantile and microseconds, denser towards 1.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Latency {
    pub(crate) fn of(ns: &Histogram<u64>) -> Latency {
        let at = |quantile: f64| ns.value_at_quantile(quantile) as f64 / 1e3;
        // Up to the quantile that one answer decides.
        let tenths = ((ns.len() as f64).log10() * 10.0).floor().clamp(0.0, 60.0) as i32;
        let quantiles = (0..=tenths).map(|tenth| 1.0 - 10f64.powf(-f64::from(tenth) / 10.0));
        Latency {
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: ns.max() as f64 / 1e3,
            mean_us: ns.mean() / 1e3,
            curve: quantiles.map(|q| (q, at(q))).collect(),
        }
    }
}

/// What a section compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Headline {
    CpuUsPerQuery,
    CpuNsPerRow,
    CpuUsPerConnection,
    LatencyP50Us,
    RssKbPerConnection,
}

impl Headline {
    pub(crate) fn of_unit(unit: &str) -> Headline {
        match unit {
            "row" => Headline::CpuNsPerRow,
            "connection" => Headline::CpuUsPerConnection,
            _ => Headline::CpuUsPerQuery,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Headline::CpuUsPerQuery => "CPU µs per query",
            Headline::CpuNsPerRow => "CPU ns per row",
            Headline::CpuUsPerConnection => "CPU µs per connection",
            Headline::LatencyP50Us => "latency p50, µs",
            Headline::RssKbPerConnection => "RSS KB per connection",
        }
    }

    pub(crate) fn value(self, m: &Measured) -> Option<f64> {
        match self {
            Headline::CpuUsPerQuery | Headline::CpuUsPerConnection => m.cpu_us,
            Headline::CpuNsPerRow => m.cpu_us.map(|us| us * 1e3),
            Headline::LatencyP50Us => m.latency.as_ref().map(|l| l.p50_us),
            Headline::RssKbPerConnection => m.memory.as_ref().map(|m| m.rss_kb_per_connection),
        }
    }
}

/// One workload under which targets were compared.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Section {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) headline: Headline,
    pub(crate) lines: Vec<Line>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) target: String,
    pub(crate) headline: Option<Spread>,
    /// Against the baseline's headline.
    pub(crate) ratio: Option<Ratio>,
    /// Why there are fewer repetitions than asked for, or none.
    pub(crate) missing: Option<String>,
    /// Why this target cannot do that at all, which is no failure.
    pub(crate) inapplicable: Option<String>,
    pub(crate) repetitions: Vec<Measured>,
}

impl Section {
    pub(crate) fn new(
        id: &str,
        title: &str,
        unit: &'static str,
        headline: Headline,
        targets: &[&str],
    ) -> Section {
        let line = |target: &&str| Line {
            target: (*target).to_owned(),
            headline: None,
            ratio: None,
            missing: None,
            inapplicable: None,
            repetitions: Vec::new(),
        };
        let (id, title) = (id.to_owned(), title.to_owned());
        Section { id, title, unit, headline, lines: targets.iter().map(line).collect() }
    }

    pub(crate) fn put(&mut self, target: &str, measured: Result<Measured, String>) {
        let Some(line) = self.lines.iter_mut().find(|line| line.target == target) else { return };
        match measured {
            Ok(measured) => line.repetitions.push(measured),
            Err(why) => line.missing = Some(why),
        }
    }

    pub(crate) fn inapplicable(&mut self, target: &str, why: &str) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.target == target) {
            line.inapplicable = Some(why.to_owned());
        }
    }

    /// Fills in what follows from the repetitions.
    pub(crate) fn summarise(&mut self, baseline: &str) {
        for line in &mut self.lines {
            line.headline = Spread::of(line.repetitions.iter().filter_map(|m| self.headline.value(m)));
        }
        let base = self.lines.iter().find(|line| line.target == baseline).and_then(|line| line.headline);
        for line in &mut self.lines {
            line.ratio = Ratio::of(line.headline, base);
        }
    }
}

impl Line {
    pub(crate) fn spread(&self, of: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.repetitions.iter().filter_map(of))
    }

    fn sum(&self, of: impl Fn(&Measured) -> u64) -> u64 {
        self.repetitions.iter().map(of).sum()
    }
}

/// Where and how the numbers were taken.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Conditions {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) placement: String,
    pub(crate) repetitions: usize,
    /// Name and version of what was compared.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) notes: Vec<String>,
}

impl Conditions {
    pub(crate) fn here(placement: String, repetitions: usize) -> Conditions {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, key: &str| {
            let found = text.lines().find(|l| l.starts_with(key));
            found.and_then(|l| l.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let (cpu, memory) = (file("/proc/cpuinfo"), file("/proc/meminfo"));
        let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
        let kib = line(&memory, "MemTotal").and_then(|m| m.split(' ').next()?.parse::<f64>().ok());
        Conditions {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            command: std::env::args().map(|a| without_password(&a)).collect::<Vec<_>>().join(" "),
            machine: format!(
                "{}, {cores} cores, {:.0} GiB",
                line(&cpu, "model name").unwrap_or_else(|| "unknown processor".to_owned()),
                kib.unwrap_or(0.0) / 1024.0 / 1024.0
            ),
            kernel: format!("Linux {}", file("/proc/sys/kernel/osrelease").trim()),
            placement,
            repetitions,
            versions: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// `postgres://user:secret@host` → `postgres://user:***@host`
fn without_password(argument: &str) -> String {
    let Some((scheme, rest)) = argument.split_once("://") else { return argument.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((who, place)) = authority.rsplit_once('@') else { return argument.to_owned() };
    match who.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{place}{path}"),
        None => argument.to_owned(),
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) conditions: Conditions,
    pub(crate) baseline: String,
    pub(crate) sections: Vec<Section>,
}

impl Report {
    /// Anything that failed, was left unanswered, or could not be measured at all.
    pub(crate) fn has_failures(&self) -> bool {
        let mut lines = self.sections.iter().flat_map(|s| &s.lines);
        lines.any(|l| {
            let none = l.repetitions.is_empty() && l.inapplicable.is_none();
            l.sum(|m| m.failed + m.unanswered) > 0 || none || l.missing.is_some()
        })
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let c = &self.conditions;
        for text in [&c.date, &c.machine, &c.kernel, &c.placement, &c.command] {
            out += &format!("{text}\n");
        }
        for (name, version) in &c.versions {
            out += &format!("  {name}: {version}\n");
        }
        for section in &self.sections {
            section.table(&self.baseline, &mut out);
        }
        for note in &c.notes {
            out += &format!("note: {note}\n");
        }
        out
    }
}

impl Section {
    fn plural(&self) -> String {
        match self.unit {
            "query" => "queries/s".to_owned(),
            unit => format!("{unit}s/s"),
        }
    }

    fn table(&self, baseline: &str, out: &mut String) {
        let open = self.lines.iter().flat_map(|l| &l.repetitions).any(|m| m.asked_per_second.is_some());
        // Writing to a string does not fail.
        let _ = writeln!(out, "\n{}: {}", self.title, self.headline.words());
        let _ = writeln!(
            out,
            "{:<18}{:>10}{:>10}{:>10}{:>9}{:>15}{:>10}{:>9}{:>9}{:>9}{:>10}{:>7}{:>7}",
            "target",
            "median",
            "min",
            "max",
            "ratio",
            self.plural(),
            "MB/s",
            "p50 µs",
            "p99",
            "p99.9",
            "max",
            "busy",
            "load"
        );
        for line in &self.lines {
            let latency = |of: fn(&Latency) -> f64| median(line.spread(|m| m.latency.as_ref().map(of)), 0);
            let h = line.headline;
            let _ = writeln!(
                out,
                "{:<18}{:>10}{:>10}{:>10}{:>9}{:>15}{:>10}{:>9}{:>9}{:>9}{:>10}{:>7}{:>7}",
                line.target,
                number(h.map(|h| h.median), 2),
                number(h.map(|h| h.min), 2),
                number(h.map(|h| h.max), 2),
                line.ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", r.median)),
                median(line.spread(|m| (m.per_second > 0.0).then_some(m.per_second)), 0),
                median(line.spread(|m| (m.mb_per_second > 0.0).then_some(m.mb_per_second)), 1),
                latency(|l| l.p50_us),
                latency(|l| l.p99_us),
                latency(|l| l.p999_us),
                latency(|l| l.max_us),
                median(line.spread(|m| m.target_busy), 2),
                median(line.spread(|m| (m.load_busy > 0.0).then_some(m.load_busy)), 2),
            );
        }
        let based = self.lines.iter().any(|l| l.target == baseline && l.headline.is_some());
        if based {
            let _ = writeln!(out, "  ratio: medians, to {baseline}");
        }
        for line in &self.lines {
            line.remarks(open, out);
        }
    }
}

impl Line {
    /// Others on the target's core make it wait and start cold: its own figures rise.
    pub(crate) fn disturbed(&self) -> Option<String> {
        let share = self.spread(|m| m.foreign_share)?.median;
        (share > FOREIGN_SHARE_MAX).then(|| format!("other work took {:.0} % of its core", share * 100.0))
    }

    fn remarks(&self, open: bool, out: &mut String) {
        let name = &self.target;
        if let Some(why) = &self.missing {
            let _ = writeln!(out, "  {name}: not measured: {why}");
        }
        if let Some(disturbed) = self.disturbed() {
            let _ = writeln!(out, "  {name}: {disturbed}");
        }
        if let Some(why) = &self.inapplicable {
            let _ = writeln!(out, "  {name}: {why}");
        }
        let (failed, unanswered) = (self.sum(|m| m.failed), self.sum(|m| m.unanswered));
        if failed > 0 {
            let said = self.repetitions.iter().find_map(|m| m.error.as_deref()).unwrap_or("no text");
            let _ = writeln!(out, "  {name}: {failed} failed: {said}");
        }
        if unanswered > 0 {
            let _ =
                writeln!(out, "  {name}: {unanswered} unanswered; their time so far is among the latencies");
        }
        let short = |m: &&Measured| m.asked_per_second.is_some_and(|asked| m.per_second < 0.99 * asked);
        if open && let Some(m) = self.repetitions.iter().find(short) {
            let asked = m.asked_per_second.unwrap_or_default();
            let _ =
                writeln!(out, "  {name}: {:.0} of {asked:.0} per second were answered in time", m.per_second);
        }
        if let Some(slab) = self.spread(|m| m.memory.as_ref().map(|m| m.slab_kb_per_connection)) {
            let _ =
                writeln!(out, "  {name}: kernel (Slab, whole machine) {:.1} KB per connection", slab.median);
        }
        if self.repetitions.iter().any(|m| m.load_busy > 0.95 && m.target_busy.is_some_and(|b| b < 0.9)) {
            let _ = writeln!(out, "  {name}: the load, not the target, was busy all the time: see --threads");
        }
    }
}

fn median(spread: Option<Spread>, digits: usize) -> String {
    number(spread.map(|s| s.median), digits)
}

pub(crate) fn number(n: Option<f64>, digits: usize) -> String {
    n.map_or_else(|| "-".to_owned(), |n| format!("{n:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_reach_the_conditions() {
        let hidden = without_password("gate=postgres://u:p%40@127.0.0.1:1/d?sslmode=require@17");
        assert_eq!(hidden, "gate=postgres://u:***@127.0.0.1:1/d?sslmode=require@17");
        for text in ["--sql", "postgres://u@h/d", "select 'a://b'"] {
            assert_eq!(without_password(text), text);
        }
    }

    #[test]
    fn a_section_knows_its_ratios_and_what_is_missing() {
        let mut section = Section::new("s", "S", "row", Headline::CpuNsPerRow, &["a", "b", "c"]);
        let took = |us: f64| Ok(Measured { cpu_us: Some(us), units: 1, ..Measured::default() });
        for (a, b) in [(1.0, 0.5), (3.0, 0.5), (2.0, 1.0)] {
            section.put("a", took(a));
            section.put("b", took(b));
        }
        section.put("c", Err("no TLS".to_owned()));
        section.summarise("a");
        let [a, b, c] = section.lines.as_slice() else { panic!("three lines") };
        assert_eq!(a.headline, Some(Spread { min: 1000.0, median: 2000.0, max: 3000.0 }));
        assert_eq!(
            (a.ratio, b.ratio),
            (Some(Ratio { median: 1.0, min: 1.0 }), Some(Ratio { median: 0.25, min: 0.5 }))
        );
        assert!(c.headline.is_none() && c.repetitions.is_empty());
        let report =
            Report { conditions: Conditions::default(), baseline: "a".into(), sections: vec![section] };
        assert!(report.has_failures());
        assert!(report.table().contains("c: not measured: no TLS"));
    }

    #[test]
    fn a_curve_ends_where_one_answer_decides() {
        let mut h = Histogram::new(3).expect("valid");
        for us in 1..=1000u64 {
            h.record(us * 1000).expect("fits");
        }
        let l = Latency::of(&h);
        assert_eq!(l.curve.len(), 31);
        assert!((l.p50_us - 500.0).abs() < 1.0 && (l.max_us - 1000.0).abs() < 1.0, "{l:?}");
    }
}
