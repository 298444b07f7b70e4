//! Which cores run what. A proxy alone on its core, everybody else on the others: otherwise the scheduler is what is measured.
//!
//! Children inherit the affinity of the thread that starts them, so there is no moment in which they run elsewhere.

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this process may use.
pub(crate) fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("affinity")?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Puts this thread, and all it starts from now on, on these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).with_context(|| format!("cores {cores:?}"))
}

/// `0-2,5`
pub(crate) fn parse(text: &str) -> Result<Vec<usize>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |n: &str| n.trim().parse::<usize>().with_context(|| format!("{n:?} is no core"));
        let (from, to) = (number(from)?, number(to)?);
        ensure!(from <= to && to < CpuSet::MAX_CPU, "{part:?} is no range of cores");
        cores.extend(from..=to);
    }
    Ok(cores)
}

/// Runs something while this thread is on other cores; threads and children it starts stay there.
pub(crate) fn while_on<T>(cores: &[usize], run: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = allowed()?;
    pin(cores)?;
    let result = run();
    pin(&before)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_numbers_and_ranges() {
        assert_eq!(parse("0-2,5").expect("valid"), [0, 1, 2, 5]);
        for text in ["", "a", "3-1", "0-99999"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_runs_elsewhere_comes_back() {
        let before = allowed().expect("readable");
        let one = [*before.last().expect("at least one core")];
        let inside = while_on(&one, allowed).expect("allowed cores may be chosen");
        assert_eq!(inside, one);
        assert_eq!(allowed().expect("readable"), before);
    }
}
