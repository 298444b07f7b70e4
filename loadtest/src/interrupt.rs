//! Ctrl-C and SIGTERM: whoever measures or waits stops with an error, so that what was started is ended on the way out.
//!
//! Invariant: a signal ends nothing by itself; a second one does, for those who do not want to wait for the tidying up.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

pub(crate) fn listen() -> Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down and only raises it, the second finds it up and ends us.
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone()).context("signals")?;
        signal_hook::flag::register(signal, flag.clone()).context("signals")?;
    }
    INTERRUPTED.set(flag).ok().context("signals are already listened to")
}

/// An error once somebody wants us to stop.
pub(crate) fn check() -> Result<()> {
    let interrupted = INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed));
    ensure!(!interrupted, "interrupted");
    Ok(())
}

/// Sleeps, unless interrupted.
pub(crate) fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}
