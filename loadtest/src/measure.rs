//! What the kernel says a process used: CPU time and memory of it and its children, from /proc.
//!
//! Not a profiler. Nanoseconds per thread (schedstat) as long as every thread that was there is still there; when one ended its
//! nanoseconds are gone with it, and the ten-millisecond ticks of `stat`, which parents inherit, are taken instead.
//! Invariant: a process that cannot be read is an error, never a zero.
//! Source: proc(5); Documentation/scheduler/sched-stats.rst.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// The CPU time of a process and its descendants, so far.
pub(crate) struct Cpu {
    threads: BTreeMap<u32, u64>,
    user_ticks: u64,
    system_ticks: u64,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) ns: u64,
    /// How much of it was outside the kernel; `None`: too little to say in ticks.
    pub(crate) user_share: Option<f64>,
}

impl Cpu {
    pub(crate) fn read(pid: u32) -> Result<Cpu> {
        let mut cpu = Cpu { threads: BTreeMap::new(), user_ticks: 0, system_ticks: 0 };
        for member in family(pid)? {
            // A child may end between the listing and the reading; the process itself may not.
            let Ok(stat) = fs::read_to_string(format!("/proc/{member}/stat")) else { continue };
            let fields = after_name(&stat);
            let tick = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
            // Fields 14 to 17 of proc(5): utime, stime, and those of children that have been waited for.
            cpu.user_ticks += tick(11) + tick(13);
            cpu.system_ticks += tick(12) + tick(14);
            let Ok(tasks) = fs::read_dir(format!("/proc/{member}/task")) else { continue };
            for task in tasks.flatten() {
                let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
                let ns = text.split_whitespace().next().and_then(|n| n.parse().ok());
                let tid = task.file_name().to_str().and_then(|n| n.parse().ok());
                if let Some((tid, ns)) = tid.zip(ns) {
                    cpu.threads.insert(tid, ns);
                }
            }
        }
        Ok(cpu)
    }

    pub(crate) fn since(&self, before: &Cpu) -> Used {
        let user = self.user_ticks.saturating_sub(before.user_ticks);
        let system = self.system_ticks.saturating_sub(before.system_ticks);
        let ticks = user + system;
        let all_alive = before.threads.keys().all(|tid| self.threads.contains_key(tid));
        let ns = if all_alive && !self.threads.is_empty() {
            self.threads
                .iter()
                .map(|(tid, now)| now.saturating_sub(before.threads.get(tid).copied().unwrap_or(0)))
                .sum()
        } else {
            ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second()
        };
        // Below ten ticks the share is a guess.
        let user_share = (ticks >= 10).then(|| user as f64 / ticks as f64);
        Used { ns, user_share }
    }
}

/// CPU time of everybody on a core, with what a hypervisor took, so far, in nanoseconds; interrupts are nobody's.
pub(crate) fn core_ns(core: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let name = format!("cpu{core}");
    let mut lines = text.lines().map(str::split_whitespace);
    let fields = lines.find_map(|mut fields| (fields.next() == Some(name.as_str())).then_some(fields));
    let ticks: Vec<u64> =
        fields.with_context(|| format!("core {core}"))?.filter_map(|f| f.parse().ok()).collect();
    // user, nice, system and, behind idle, iowait, irq and softirq, steal.
    let used: u64 = [0, 1, 2, 7].iter().filter_map(|n| ticks.get(*n)).sum();
    Ok(used * 1_000_000_000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory of a process and its descendants, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for member in family(pid)? {
        let Ok(text) = fs::read_to_string(format!("/proc/{member}/statm")) else { continue };
        let pages = text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
        sum += pages.context("/proc/PID/statm has no second number")? * rustix::param::page_size() as u64;
    }
    Ok(sum)
}

/// The kernel's own memory (`Slab`), of the whole machine, in bytes.
pub(crate) fn slab() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("Slab:")).context("/proc/meminfo has no Slab")?;
    let kb = line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    Ok(kb.context("/proc/meminfo: Slab is no number")? * 1024)
}

/// The process and everything below it.
pub(crate) fn family(pid: u32) -> Result<Vec<u32>> {
    fs::metadata(format!("/proc/{pid}")).with_context(|| format!("process {pid}"))?;
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(parent) = after_name(&stat).get(1).and_then(|f| f.parse().ok()) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(member) = found.get(next) {
        found.extend(children.remove(member).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

/// The fields of `stat` after the name, which may itself hold spaces and brackets. The first is the state, the second the parent.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn our_own_cpu_time_grows_as_long_as_we_spin() {
        let me = std::process::id();
        let before = Cpu::read(me).expect("readable");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let used = Cpu::read(me).expect("readable").since(&before);
        assert!(used.ns > 1_000_000, "{used:?}");
        assert!(core_ns(0).expect("there is a first core") > 0);
    }

    #[test]
    fn a_thread_that_ended_makes_ticks_count() {
        let before = Cpu { threads: [(1, 5_000), (2, 7_000)].into(), user_ticks: 0, system_ticks: 0 };
        let after = Cpu { threads: [(1, 6_000)].into(), user_ticks: 30, system_ticks: 10 };
        let used = after.since(&before);
        assert_eq!(used.ns, 40 * 1_000_000_000 / rustix::param::clock_ticks_per_second());
        assert_eq!(used.user_share, Some(0.75));
        let grown =
            Cpu { threads: [(1, 6_000), (2, 7_000), (3, 400)].into(), user_ticks: 1, system_ticks: 0 };
        assert_eq!(grown.since(&before).ns, 1_400);
    }

    #[test]
    fn children_are_family() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().expect("sleep exists");
        let family = family(std::process::id()).expect("readable");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        assert!(family.contains(&child.id()));
        assert!(resident(std::process::id()).expect("readable") > 100_000);
        assert!(slab().expect("readable") > 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Cpu::read(u32::MAX).is_err() && resident(u32::MAX).is_err());
        assert!(core_ns(99_999).is_err());
    }
}
