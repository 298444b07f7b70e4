//! What the micro-benchmarks share: every hot loop with its inputs, and three ways to run it.
//!
//! Criterion measures time (`benches/loops.rs`), `counts` measures instructions and allocations under callgrind, and the test below runs
//! each loop once on tiny inputs and compares what came out with `outputs.txt`, so that none can rot. Not a test of behaviour, and
//! nothing here is linked into the gateway.
//!
//! Invariant: a loop reaches the crates through the same public doors as the engine does; nothing is made public for a bench.
//!
//! Reading order: [`world`] (policy, catalogue, data), [`wire`] (a session without sockets), then the loops by file, [`counts`].
#![forbid(unsafe_code)]

pub mod counts;
pub mod wire;
pub mod world;

mod copy;
mod decide;
mod flow;
mod frame;
mod mask;
mod record;
mod row;
mod tls;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

/// How much work one call of a loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// What is measured.
    Full,
    /// Enough to see that it works; cut in odd places.
    Tiny,
}

impl Size {
    pub(crate) fn pick<T>(self, full: T, tiny: T) -> T {
        match self {
            Size::Full => full,
            Size::Tiny => tiny,
        }
    }
}

/// A hot loop by name.
pub struct Loop {
    /// `file/what`.
    pub name: &'static str,
    /// What is counted: one row, one round trip.
    pub unit: &'static str,
    pub make: fn(Size) -> Running,
}

/// A loop with its inputs ready.
pub struct Running {
    /// Units of work in one call.
    pub units: u64,
    /// Bytes that come in by one call, where bytes per second say something.
    pub bytes: Option<u64>,
    pub call: Box<dyn FnMut(&mut Seen)>,
    /// Where calls fill something that others empty.
    pub pause: Option<Pause>,
}

/// For loops that fill a ring: after so many calls it is waited until the ring is empty, outside of what is measured.
pub struct Pause {
    pub calls: u64,
    pub settle: Box<dyn FnMut()>,
}

impl Running {
    pub(crate) fn new(units: u64, call: impl FnMut(&mut Seen) + 'static) -> Running {
        Running { units, bytes: None, call: Box::new(call), pause: None }
    }

    pub(crate) fn bytes(self, bytes: usize) -> Running {
        Running { bytes: Some(bytes as u64), ..self }
    }
}

/// Where the output of a loop goes: past the optimiser when measuring, into a digest when checking.
#[derive(Debug)]
pub struct Seen {
    checking: bool,
    /// What comes now holds a random id: only its length is the same every time.
    lengths: bool,
    length: u64,
    hash: u64,
}

impl Seen {
    pub fn measuring() -> Seen {
        Seen { checking: false, lengths: false, length: 0, hash: 0 }
    }

    pub fn checking() -> Seen {
        // FNV-1a: enough to notice a change, and the same on every machine.
        Seen { checking: true, lengths: false, length: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Bytes that came out.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        black_box(bytes);
        if self.checking {
            self.digest(bytes);
        }
    }

    /// What `work` lets out holds a random id: only lengths go into the digest.
    pub fn random(&mut self, work: impl FnOnce(&mut Seen)) {
        let before = std::mem::replace(&mut self.lengths, true);
        work(self);
        self.lengths = before;
    }

    #[cold]
    fn digest(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let length = bytes.len().to_le_bytes();
        for b in if self.lengths { &length[..] } else { bytes } {
            self.hash = (self.hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// `bytes hash`, as `outputs.txt` has it.
    pub fn summary(&self) -> String {
        format!("{} {:016x}", self.length, self.hash)
    }
}

/// Every loop.
pub fn loops() -> impl Iterator<Item = &'static Loop> {
    [
        flow::LOOPS,
        row::LOOPS,
        copy::LOOPS,
        mask::LOOPS,
        decide::LOOPS,
        record::LOOPS,
        frame::LOOPS,
        tls::LOOPS,
    ]
    .into_iter()
    .flatten()
}

/// `main` of the criterion bench. Without cargo's `--bench` each loop runs once on tiny inputs.
pub fn criterion() {
    let measuring = std::env::args().any(|a| a == "--bench");
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for wanted in loops() {
        let (file, name) = wanted.name.split_once('/').unwrap_or((wanted.name, ""));
        let mut group = criterion.benchmark_group(file);
        let mut running = (wanted.make)(if measuring { Size::Full } else { Size::Tiny });
        group.throughput(match running.bytes {
            Some(bytes) => Throughput::Bytes(bytes),
            None => Throughput::Elements(running.units),
        });
        if running.pause.is_some() {
            // Most of the wall clock is spent waiting for the ring to be emptied.
            group.measurement_time(Duration::from_millis(300)).sample_size(20);
        }
        group.bench_function(name, |bencher| bencher.iter_custom(|calls| time(&mut running, calls)));
        group.finish();
    }
    criterion.final_summary();
}

/// How long `calls` calls take, pauses not counted.
fn time(running: &mut Running, calls: u64) -> Duration {
    let mut seen = Seen::measuring();
    let mut spent = Duration::ZERO;
    let mut left = calls;
    while left > 0 {
        let run = running.pause.as_ref().map_or(left, |p| p.calls.min(left));
        let began = Instant::now();
        for _ in 0..run {
            (running.call)(&mut seen);
        }
        spent += began.elapsed();
        if let Some(pause) = &mut running.pause {
            (pause.settle)();
        }
        left -= run;
    }
    black_box(&seen);
    spent
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// Each loop twice on tiny inputs: what comes out is what `outputs.txt` says. `UPDATE_EXPECT=1` rewrites it.
    #[test]
    fn every_loop_gives_what_it_gave() {
        let mut now = String::from(
            "# loop, units per call, bytes that came out of two calls on tiny inputs, their FNV-1a\n",
        );
        for l in loops() {
            let mut running = (l.make)(Size::Tiny);
            let mut seen = Seen::checking();
            for _ in 0..2 {
                (running.call)(&mut seen);
                if let Some(pause) = &mut running.pause {
                    (pause.settle)();
                }
            }
            assert!(running.units > 0 && seen.length > 0, "{} does nothing", l.name);
            writeln!(now, "{} {} {}", l.name, running.units, seen.summary()).unwrap();
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("outputs.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(before, now, "UPDATE_EXPECT=1 rewrites outputs.txt, if this change was meant");
    }

    #[test]
    fn names_are_unique_and_have_two_parts() {
        let mut names: Vec<_> = loops().map(|l| l.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|n| n.contains('/')), "`file/what`");
    }
}
