//! A worker's counters. Written by their worker only (so: no locked instruction), read by anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flow::Side;

/// Its own cache lines, so that a reader does not slow two workers down.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) accepted: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) from_clients: AtomicU64,
    pub(crate) from_targets: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::Client => &self.from_clients,
            Side::Server => &self.from_targets,
        }
    }
}

/// On the worker's thread only.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// On the worker's thread only.
pub(crate) fn sub(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).saturating_sub(n), Relaxed);
}

/// What one worker did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerStats {
    pub accepted: u64,
    /// Clients connected now.
    pub open: u64,
    /// Bytes received from clients and from targets; inside TLS: plain bytes.
    pub from_clients: u64,
    pub from_targets: u64,
    /// Clients turned away because there were too many.
    pub refused: u64,
    /// Connections ended by a [`flow::Fault`], panics included.
    pub faults: u64,
    pub panics: u64,
    /// Times accepting failed (out of descriptors, …).
    pub accept_errors: u64,
}

impl From<&Counters> for WorkerStats {
    fn from(c: &Counters) -> WorkerStats {
        WorkerStats {
            accepted: c.accepted.load(Relaxed),
            open: c.open.load(Relaxed),
            from_clients: c.from_clients.load(Relaxed),
            from_targets: c.from_targets.load(Relaxed),
            refused: c.refused.load(Relaxed),
            faults: c.faults.load(Relaxed),
            panics: c.panics.load(Relaxed),
            accept_errors: c.accept_errors.load(Relaxed),
        }
    }
}
