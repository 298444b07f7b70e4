//! The report as one page: no script, no font, no address but its own. Opens from a mail, in light and in dark.
//!
//! Not another analysis: what it draws is `Report`, and the JSON has every number. Invariant: every text that is not ours is escaped;
//! every plot names its unit and draws minimum and maximum beside the median.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::{Headline, Latency, Line, Measured, Report, Section, number};
use crate::stats::Spread;

/// Room for a plot, in its own units; the page scales it.
const WIDTH: f64 = 560.0;
const LEFT: f64 = 128.0;
const RIGHT: f64 = 92.0;
const ROW: f64 = 30.0;
const CURVE_HEIGHT: f64 = 250.0;
/// Less than some fifty answers is a list, not a distribution.
const CURVE_POINTS_MIN: usize = 17;
/// So many colours are told apart; further targets share the last.
const COLOURS: usize = 8;

pub(crate) fn page(report: &Report) -> String {
    let page = Page { report, colours: colours(report) };
    let mut out = String::with_capacity(64 * 1024);
    // Writing to a string does not fail, here and below.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>loadtest {date}</title><style>{STYLE}</style>\
         </head><body><main><h1>What it costs to stand in between</h1><p class=\"lede\">{date} · {machine} · {kernel}</p>",
        date = escaped(&report.conditions.date),
        machine = escaped(&report.conditions.machine),
        kernel = escaped(&report.conditions.kernel),
    );
    page.overview(&mut out);
    for section in &report.sections {
        page.section(section, &mut out);
    }
    page.conditions(&mut out);
    out += "</main></body></html>\n";
    out
}

struct Page<'r> {
    report: &'r Report,
    colours: BTreeMap<&'r str, usize>,
}

/// The same colour for a target everywhere, in order of appearance.
fn colours(report: &Report) -> BTreeMap<&str, usize> {
    let mut colours = BTreeMap::new();
    for line in report.sections.iter().flat_map(|section| &section.lines) {
        let next = colours.len().min(COLOURS - 1);
        colours.entry(line.target.as_str()).or_insert(next);
    }
    colours
}

impl Page<'_> {
    fn colour(&self, target: &str) -> usize {
        self.colours.get(target).copied().unwrap_or(0)
    }

    /// All sections by all targets: the median, and how it compares.
    fn overview(&self, out: &mut String) {
        let lines = || self.report.sections.iter().flat_map(|section| &section.lines);
        let has_number = |target: &str| lines().any(|line| line.target == target && line.headline.is_some());
        let mut targets: Vec<&str> = Vec::new();
        for name in lines().map(|line| line.target.as_str()).filter(|name| has_number(name)) {
            if !targets.contains(&name) {
                targets.push(name);
            }
        }
        *out += "<div class=\"wide\"><table class=\"overview\"><thead><tr><th>work</th>";
        for target in &targets {
            let _ = write!(out, "<th><i class=\"dot c{}\"></i>{}</th>", self.colour(target), escaped(target));
        }
        *out += "</tr></thead><tbody>";
        for section in &self.report.sections {
            let _ = write!(
                out,
                "<tr><th><a href=\"#{}\">{}</a><small>{}</small></th>",
                escaped(&section.id),
                escaped(&section.title),
                section.headline.words()
            );
            for target in &targets {
                let line = section.lines.iter().find(|line| line.target == *target);
                match line.and_then(|line| Some((line.headline?, line))) {
                    Some((spread, line)) => {
                        let ratio = line.ratio.map(|ratio| ratio.median);
                        let class = match ratio {
                            Some(r) if r <= 0.95 => "better",
                            Some(r) if r >= 1.05 => "worse",
                            _ => "",
                        };
                        let _ = write!(
                            out,
                            "<td class=\"{class}\">{}<small>{}</small></td>",
                            short(spread.median),
                            ratio.map_or_else(String::new, |r| format!("{r:.2} ×"))
                        );
                    }
                    None => *out += "<td>–</td>",
                }
            }
            *out += "</tr>";
        }
        *out += "</tbody></table></div>";
        let disturbed = lines().filter(|line| line.disturbed().is_some()).count();
        if disturbed > 0 {
            let _ = write!(
                out,
                "<p class=\"warning\">Others worked on the proxy's core during {disturbed} of {} series. That raises every figure, and \
                 not all alike: take these for a hint, and measure again on a quiet machine.</p>",
                lines().filter(|line| !line.repetitions.is_empty()).count()
            );
        }
        let taken = match self.report.conditions.repetitions {
            1 => "Single measurements".to_owned(),
            n => format!("Medians of {n} interleaved repetitions"),
        };
        let _ = write!(
            out,
            "<p class=\"note\">{taken}; less is better. × is to {}. Within 5 % is not coloured; look at the whiskers before believing a \
             difference.</p>",
            escaped(&self.report.baseline)
        );
    }

    fn section(&self, section: &Section, out: &mut String) {
        let _ = write!(
            out,
            "<section id=\"{}\"><h2>{}</h2><div class=\"plots\">",
            escaped(&section.id),
            escaped(&section.title)
        );
        self.bars(section, out);
        self.curves(section, out);
        *out += "</div>";
        let remarks = section.lines.iter().flat_map(|line| {
            let all = line.missing.iter().chain(&line.inapplicable).cloned().chain(line.disturbed());
            all.map(|why| format!("{}: {}", escaped(&line.target), escaped(&why)))
        });
        let remarks: Vec<String> = remarks.collect();
        if !remarks.is_empty() {
            let _ = write!(out, "<p class=\"note\">{}.</p>", remarks.join("; "));
        }
        details(section, out);
        *out += "</section>";
    }

    /// A bar to the median, a whisker from minimum to maximum.
    fn bars(&self, section: &Section, out: &mut String) {
        let lines: Vec<(&Line, Spread)> =
            section.lines.iter().filter_map(|line| Some((line, line.headline?))).collect();
        let top = lines.iter().map(|(_, spread)| spread.max).fold(0.0, f64::max);
        if top <= 0.0 {
            return;
        }
        let (step, last) = ticks(top);
        let x = |value: f64| LEFT + value.max(0.0) / last * (WIDTH - LEFT - RIGHT);
        let height = lines.len() as f64 * ROW + 48.0;
        let words = section.headline.words();
        let _ = write!(
            out,
            "<figure><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{words} by target\">"
        );
        let foot = height - 34.0;
        let mut tick = 0.0;
        while tick <= last * 1.0001 {
            let at = x(tick);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} 4V{foot:.1}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                foot + 14.0,
                axis(tick)
            );
            tick += step;
        }
        let _ = write!(
            out,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\">{words}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            height - 7.0
        );
        for (n, (line, spread)) in lines.iter().enumerate() {
            let middle = 4.0 + (n as f64 + 0.5) * ROW;
            let ratio = line.ratio.map_or_else(String::new, |r| format!(" · {:.2}×", r.median));
            let _ = write!(
                out,
                "<g class=\"c{colour}\"><text class=\"name\" x=\"{}\" y=\"{:.1}\">{}</text>\
                 <rect class=\"bar\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\"/>\
                 <path class=\"whisker\" d=\"M{min:.1} {middle}H{max:.1}M{min:.1} {up:.1}v8M{max:.1} {up:.1}v8\"/>\
                 <circle class=\"median\" cx=\"{median:.1}\" cy=\"{middle}\" r=\"3.5\"/>\
                 <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}{ratio}</text>\
                 <title>{}: median {}, minimum {}, maximum {} ({} repetitions)</title></g>",
                LEFT - 8.0,
                middle + 4.0,
                escaped(&line.target),
                middle - 8.0,
                x(spread.median) - LEFT,
                x(spread.max) + 7.0,
                middle + 4.0,
                short(spread.median),
                escaped(&line.target),
                short(spread.median),
                short(spread.min),
                short(spread.max),
                line.repetitions.len(),
                colour = self.colour(&line.target),
                min = x(spread.min),
                max = x(spread.max),
                median = x(spread.median),
                up = middle - 4.0,
            );
        }
        *out += "</svg></figure>";
    }

    /// Latency by quantile: both axes logarithmic, the quantile's towards 1, so that the tail has room.
    fn curves(&self, section: &Section, out: &mut String) {
        let curves: Vec<(&Line, Vec<(f64, f64)>)> = section
            .lines
            .iter()
            .map(|line| (line, middle_curve(line)))
            .filter(|(_, curve)| curve.len() > CURVE_POINTS_MIN)
            .collect();
        let points = || curves.iter().flat_map(|(_, curve)| curve.iter());
        let low = points().map(|(_, us)| *us).fold(f64::INFINITY, f64::min).max(0.1).log10().floor();
        let high = points().map(|(_, us)| *us).fold(1.0, f64::max).log10().ceil();
        let nines = points().map(|(q, _)| nines_of(*q)).fold(0.0, f64::max);
        if curves.is_empty() || nines <= 0.0 || high <= low {
            return;
        }
        let (left, right, foot) = (56.0, 12.0, CURVE_HEIGHT - 34.0);
        let x = |n: f64| left + n / nines * (WIDTH - left - right);
        let y = |us: f64| foot - (us.max(0.1).log10() - low) / (high - low) * (foot - 8.0);
        let _ = write!(
            out,
            "<figure><svg viewBox=\"0 0 {WIDTH} {CURVE_HEIGHT}\" role=\"img\" aria-label=\"latency by percentile\">"
        );
        for (n, name) in
            [(0.0, "0"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99"), (5.0, "99.999")]
        {
            if n > nines {
                break;
            }
            let at = x(n);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} 8V{foot}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{}\">{name}</text>",
                foot + 14.0
            );
        }
        for decade in (low as i32)..=(high as i32) {
            let us = 10f64.powi(decade);
            let name = match us {
                us if us >= 1e6 => format!("{} s", us / 1e6),
                us if us >= 1e3 => format!("{} ms", us / 1e3),
                us => format!("{us} µs"),
            };
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{left} {at:.1}H{}\"/><text class=\"name\" x=\"{}\" y=\"{:.1}\">{name}</text>",
                WIDTH - right,
                left - 6.0,
                y(us) + 4.0,
                at = y(us),
            );
        }
        for (line, curve) in &curves {
            let path = curve.iter().map(|(q, us)| format!("{:.1} {:.1}", x(nines_of(*q)), y(*us)));
            let _ = write!(
                out,
                "<path class=\"curve c{}\" d=\"M{}\"><title>{}</title></path>",
                self.colour(&line.target),
                path.collect::<Vec<_>>().join("L"),
                escaped(&line.target)
            );
        }
        let _ = write!(
            out,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\">latency by percentile, middle repetition</text></svg><figcaption>",
            (left + WIDTH - right) / 2.0,
            CURVE_HEIGHT - 4.0
        );
        for (line, _) in &curves {
            let colour = self.colour(&line.target);
            let _ = write!(out, "<span><i class=\"dot c{colour}\"></i>{}</span>", escaped(&line.target));
        }
        *out += "</figcaption></figure>";
    }

    fn conditions(&self, out: &mut String) {
        let c = &self.report.conditions;
        *out += "<section><h2>Conditions</h2><table class=\"conditions\">";
        let rows = [
            ("date", &c.date),
            ("machine", &c.machine),
            ("kernel", &c.kernel),
            ("placement", &c.placement),
            ("command", &c.command),
        ];
        let versions = c.versions.iter().map(|(name, version)| (name.as_str(), version));
        for (name, value) in rows.into_iter().chain(versions) {
            let _ = write!(out, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value));
        }
        *out += "</table><ul>";
        for note in &c.notes {
            let _ = write!(out, "<li>{}</li>", escaped(note));
        }
        *out += "</ul><p class=\"note\">CPU is the kernel's accounting of the target's process and its children, in the window the answers \
                 were counted in. <em>busy</em>: cores the target kept busy; <em>load</em>: what each thread of load did; near 1 the load was \
                 the bottleneck, not the target.</p></section>";
    }
}

/// Everything else there is to say, for those who open it.
fn details(section: &Section, out: &mut String) {
    let _ = write!(
        out,
        "<details><summary>all figures</summary><div class=\"wide\"><table><thead><tr><th>target</th><th>{}</th>\
         <th>min</th><th>max</th><th>ratio</th><th>{}s per second</th><th>MB/s</th><th>p50 µs</th><th>p90</th><th>p99</th>\
         <th>p99.9</th><th>max</th><th>user</th><th>busy</th><th>load</th><th>failed</th></tr></thead><tbody>",
        section.headline.words(),
        if section.headline == Headline::CpuUsPerQuery { "querie" } else { section.unit },
    );
    for line in section.lines.iter().filter(|line| !line.repetitions.is_empty()) {
        let median = |of: &dyn Fn(&Measured) -> Option<f64>| line.spread(of).map(|spread| spread.median);
        let latency = |of: fn(&Latency) -> f64| median(&|m| m.latency.as_ref().map(of));
        let above = |n: f64| (n > 0.0).then_some(n);
        let cells = [
            line.headline.map_or_else(|| "–".to_owned(), |spread| short(spread.median)),
            line.headline.map_or_else(|| "–".to_owned(), |spread| short(spread.min)),
            line.headline.map_or_else(|| "–".to_owned(), |spread| short(spread.max)),
            number(line.ratio.map(|ratio| ratio.median), 2),
            number(median(&|m| above(m.per_second)), 0),
            number(median(&|m| above(m.mb_per_second)), 1),
            number(latency(|l| l.p50_us), 0),
            number(latency(|l| l.p90_us), 0),
            number(latency(|l| l.p99_us), 0),
            number(latency(|l| l.p999_us), 0),
            number(latency(|l| l.max_us), 0),
            number(median(&|m| m.user_share), 2),
            number(median(&|m| m.target_busy), 2),
            number(median(&|m| above(m.load_busy)), 2),
            line.repetitions.iter().map(|m| m.failed + m.unanswered).sum::<u64>().to_string(),
        ];
        let _ = write!(out, "<tr><th>{}</th>", escaped(&line.target));
        for cell in cells {
            let _ = write!(out, "<td>{cell}</td>");
        }
        *out += "</tr>";
    }
    *out += "</tbody></table></div></details>";
}

/// At each quantile the median over the repetitions, as far as all of them go.
fn middle_curve(line: &Line) -> Vec<(f64, f64)> {
    let curves: Vec<&Vec<(f64, f64)>> =
        line.repetitions.iter().filter_map(|m| m.latency.as_ref()).map(|l| &l.curve).collect();
    let length = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
    let at = |n: usize| {
        let points = curves.iter().filter_map(|curve| curve.get(n));
        let quantile = curves.first()?.get(n)?.0;
        Some((quantile, Spread::of(points.map(|(_, us)| *us))?.median))
    };
    (0..length).filter_map(at).collect()
}

/// How many nines a quantile has: 0.99 → 2.
fn nines_of(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-9).log10()
}

/// A step of 1, 2 or 5 and the multiple of it that holds the value.
fn ticks(top: f64) -> (f64, f64) {
    let rough = top / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    (step, (top / step).ceil() * step)
}

fn axis(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 10_000.0 => format!("{}k", v / 1e3),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fcfcfb;--ink:#1d1f23;--soft:#5c626b;--line:#dfe1e5;--good:#e2f3e5;--bad:#fbe6e2;\
--c0:#7b818a;--c1:#c2571a;--c2:#2f6fd0;--c3:#1d8a5b;--c4:#0c5a4b;--c5:#8a4fbf;--c6:#b3862a;--c7:#b0325e}\
@media(prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e8e9eb;--soft:#a0a6af;--line:#30343a;--good:#173323;--bad:#41211b;\
--c0:#9aa1ab;--c1:#ef8c4d;--c2:#74a6f5;--c3:#4cc38c;--c4:#8fe0cd;--c5:#bf93ea;--c6:#ddb35c;--c7:#ee7ba2}}\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:1180px;margin:0 auto;padding:32px 20px 64px}h1{font-size:28px;line-height:1.2;margin:0 0 4px}\
h2{font-size:18px;margin:44px 0 8px}.lede,.note{color:var(--soft)}.note{font-size:13px;max-width:80ch}.lede{margin:0 0 24px}\
a{color:inherit;text-decoration-color:var(--line);text-underline-offset:3px}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13.5px}\
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;vertical-align:top}\
th:first-child,.conditions td{text-align:left}thead th{color:var(--soft);font-weight:500}tbody th{font-weight:500}\
.overview{width:100%}.overview th:first-child{white-space:normal;min-width:150px}.warning{border-left:3px solid var(--c1);padding-left:12px;\
max-width:80ch}.overview small{display:block;color:var(--soft);font-weight:400;font-size:12px}\
.conditions td{white-space:normal;overflow-wrap:anywhere}.better{background:var(--good)}.worse{background:var(--bad)}\
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:12px 28px;align-items:start}\
figure{margin:0;min-width:0}svg{width:100%;height:auto;display:block}figcaption{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12.5px;\
color:var(--soft);padding-left:10%}.dot{display:inline-block;width:9px;height:9px;border-radius:50%;background:var(--c);margin-right:6px}\
text{font:12px system-ui,sans-serif;fill:var(--ink)}.tick,.axis{fill:var(--soft);text-anchor:middle}.name{text-anchor:end}\
.grid{stroke:var(--line);stroke-width:1;fill:none}.bar{fill:var(--c);opacity:.28}.whisker{stroke:var(--c);stroke-width:1.5;fill:none}\
.median{fill:var(--c)}.curve{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round}\
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}\
details{margin:8px 0}summary{cursor:pointer;color:var(--soft);font-size:13px}ul{padding-left:20px;color:var(--soft);font-size:13px}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Conditions;

    fn report() -> Report {
        let mut section = Section::new("x\"y", "a < b & c", "query", Headline::CpuUsPerQuery, &["a", "<b>"]);
        for n in 0..3 {
            let mut latencies = hdrhistogram::Histogram::new(3).expect("valid");
            (1..2000u64).for_each(|ns| latencies.record(ns * 1000).expect("fits"));
            let latency = Some(Latency::of(&latencies));
            let m = Measured { cpu_us: Some(10.0 + f64::from(n)), latency, ..Measured::default() };
            section.put("a", Ok(m));
        }
        section.put("<b>", Err("'no' <TLS>".to_owned()));
        section.summarise("a");
        let conditions = Conditions { command: "--sql '<script>'".to_owned(), ..Conditions::default() };
        Report { conditions, baseline: "a".to_owned(), sections: vec![section] }
    }

    /// Every element that is opened is closed, in order; what is between is text without angle brackets.
    fn well_formed(html: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html.strip_prefix("<!doctype html>").expect("a page");
        while let Some((text, after)) = rest.split_once('<') {
            assert!(!text.contains('>'), "a stray > in {text:?}");
            let (tag, after) = after.split_once('>').expect("a tag ends");
            let name = tag.trim_start_matches('/').split([' ', '/']).next().expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "closed in order");
            } else if !tag.ends_with('/') && name != "meta" {
                open.push(name);
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag:?}");
            rest = after;
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_page_is_well_formed_and_needs_nothing_else() {
        let html = page(&report());
        well_formed(&html);
        for foreign in ["http://", "https://", "<script", "<link", "<img", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        assert!(html.contains("--sql &#39;&lt;script&gt;&#39;") && html.contains("a &lt; b &amp; c"));
        assert!(html.contains("class=\"curve c0\"") && html.contains("class=\"whisker\""));
        assert!(html.contains("&lt;b&gt;: &#39;no&#39; &lt;TLS&gt;"));
    }

    #[test]
    fn ticks_hold_the_value() {
        for top in [0.3, 1.0, 7.7, 13.3, 99.0, 1234.0] {
            let (step, last) = ticks(top);
            assert!(last >= top && last / step <= 5.0, "{top}: {step} {last}");
        }
    }

    #[test]
    fn nothing_measured_is_still_a_page() {
        well_formed(&page(&Report {
            conditions: Conditions::default(),
            baseline: String::new(),
            sections: vec![Section::new("s", "s", "row", Headline::CpuNsPerRow, &["a"])],
        }));
    }
}
