//! One measurement: a target under a workload, once. And several of them in turns.
//!
//! Invariant: targets take turns within a repetition (A B C, A B C, …), because a machine's speed drifts and numbers of different
//! minutes cannot be compared; CPU is read around the same window the answers are counted in.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;

use crate::drive::{Driver, Tally, Window};
use crate::interrupt::{self, pause};
use crate::measure::{self, Cpu};
use crate::report::{Latency, Measured, Memory};
use crate::target::Target;
use crate::workload::{Mode, Pace, Stop, Workload};

/// After logging in, before an idle connection's memory is read: allocators and kernels tidy up for a while.
const SETTLE: Duration = Duration::from_millis(1500);
const IDLE_WATCHED: Duration = Duration::from_secs(1);

/// Measures a target under a workload, once.
pub(crate) fn measure(target: &Target, work: &Workload) -> Result<Measured> {
    interrupt::check()?;
    let before = (work.mode == Mode::Idle).then(|| memory(target)).transpose()?;
    let (ready, readied) = mpsc::channel::<Result<()>>();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 0..work.threads {
            let (ready, (start, started)) = (ready.clone(), mpsc::channel::<Window>());
            let handle = scope.spawn(move || -> Result<Option<Tally>> {
                let logged_in = Driver::new(target, work, thread).and_then(|mut driver| {
                    driver.log_in()?;
                    Ok(driver)
                });
                let driver = match logged_in {
                    Ok(driver) => driver,
                    Err(error) => {
                        // Main gave up only if another thread failed before us.
                        drop(ready.send(Err(error)));
                        return Ok(None);
                    }
                };
                drop(ready.send(Ok(())));
                // No window: somebody else's login failed, or silence was the work.
                let Ok(window) = started.recv() else { return Ok(None) };
                driver.run(window).map(Some)
            });
            threads.push((handle, start));
        }
        for _ in 0..work.threads {
            readied.recv().context("a load thread ended")??;
        }
        if let Some(before) = before {
            let idle = idle(target, work, before);
            drop(threads);
            return idle;
        }
        let window = Window::new(work.stop, Instant::now());
        let cpu = |pid: u32| Cpu::read(pid).map(|cpu| (cpu, Instant::now()));
        let read = || target.pid.map(cpu).transpose();
        let mut from = read()?;
        for (_, start) in &threads {
            start.send(window).context("a load thread ended")?;
        }
        let mut to = None;
        if let Stop::After { warm, measured } = work.stop {
            pause(warm.saturating_sub(window.origin.elapsed()))?;
            from = read()?;
            pause((warm + measured).saturating_sub(window.origin.elapsed()))?;
            to = read()?;
        }
        let mut tallies = Vec::new();
        for (handle, _) in threads {
            match handle.join() {
                Ok(tally) => tallies.push(tally?.context("a load thread did nothing")?),
                Err(_) => bail!("a load thread panicked"),
            }
        }
        if matches!(work.stop, Stop::Requests(_)) {
            to = read()?;
        }
        let used = from.zip(to).map(|((before, began), (after, ended))| {
            (after.since(&before), ended.duration_since(began).as_secs_f64())
        });
        summed(work, &tallies, used)
    })
}

fn memory(target: &Target) -> Result<(u64, u64)> {
    let pid = target.pid.context("idle reads a process's memory: name it with @PID")?;
    Ok((measure::resident(pid)?, measure::slab()?))
}

fn idle(target: &Target, work: &Workload, before: (u64, u64)) -> Result<Measured> {
    pause(SETTLE)?;
    let after = memory(target)?;
    let pid = target.pid.context("idle reads a process's memory: name it with @PID")?;
    let (cpu, began) = (Cpu::read(pid)?, Instant::now());
    pause(IDLE_WATCHED)?;
    let used = Cpu::read(pid)?.since(&cpu).ns as f64 / began.elapsed().as_nanos() as f64;
    let per_connection =
        |after: u64, before: u64| (after as f64 - before as f64) / 1024.0 / work.clients as f64;
    Ok(Measured {
        memory: Some(Memory {
            rss_kb_per_connection: per_connection(after.0, before.0),
            slab_kb_per_connection: per_connection(after.1, before.1),
            rss_kb_before: before.0 as f64 / 1024.0,
        }),
        target_busy: Some(used),
        units: work.clients as u64,
        ..Measured::default()
    })
}

/// Adds up what the threads saw. `used`: the target's CPU, and over how many seconds.
fn summed(work: &Workload, tallies: &[Tally], used: Option<(measure::Used, f64)>) -> Result<Measured> {
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut m = Measured::default();
    let mut unit_rate = 0.0;
    let mut own_ns = 0;
    for tally in tallies {
        latencies.add(&tally.latencies)?;
        let units = match work.mode {
            Mode::Bulk | Mode::Copy => tally.rows,
            _ => tally.answered,
        };
        m.seconds = m.seconds.max(tally.seconds);
        m.units += units;
        m.answered += tally.answered;
        m.failed += tally.failed;
        m.unanswered += tally.unanswered;
        m.rows += tally.rows;
        m.bytes += tally.bytes;
        m.error = m.error.take().or_else(|| tally.error.clone());
        if tally.seconds > 0.0 {
            unit_rate += units as f64 / tally.seconds;
            m.mb_per_second += tally.bytes as f64 / 1e6 / tally.seconds;
        }
        own_ns += tally.own_ns;
    }
    m.per_second = unit_rate;
    m.load_busy = own_ns as f64 / 1e9 / m.seconds.max(1e-9) / tallies.len().max(1) as f64;
    m.latency = (!latencies.is_empty()).then(|| Latency::of(&latencies));
    if let Some((used, seconds)) = used {
        let busy = used.ns as f64 / 1e9 / seconds.max(1e-9);
        m.target_busy = Some(busy);
        m.user_share = used.user_share;
        m.cpu_us = match work.stop {
            Stop::Requests(_) => (m.units > 0).then(|| used.ns as f64 / 1e3 / m.units as f64),
            // Both per second, each over its own seconds: readings of the clock and of /proc are some microseconds apart.
            Stop::After { .. } => (unit_rate > 0.0).then(|| busy * 1e6 / unit_rate),
        };
    }
    if let (Pace::Open(rate), Stop::After { .. }) = (work.pace, work.stop) {
        m.asked_per_second = Some(rate);
    }
    Ok(m)
}
