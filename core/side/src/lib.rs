//! The slow half: recording, catalogues, key derivation. What may wait waits here, so that workers never do.
//!
//! Not an engine and not a protocol: it sees neither sockets of clients nor bytes of a session. Invariant: when this half stalls
//! or dies, workers fail closed; nothing they decide gets looser.
//!
//! Reading order: [`record`] (what happened), [`catalogue`] (what a target holds), [`desk`] (what workers ask), [`ids`] (what
//! things are called).
#![deny(unsafe_code)]

pub mod catalogue;
pub mod desk;
pub mod ids;
pub mod record;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flow::Desk;
use flow::access::Published;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::catalogue::{Fixed, Keeper};
use crate::desk::FrontDesk;

pub struct SideSettings {
    /// The connections whose catalogues are kept fresh.
    pub published: Published,
    /// Connections whose catalogue is a file: it is never loaded from the target.
    pub fixed: Fixed,
    /// How often every known catalogue is reloaded; zero: only on demand.
    pub refresh: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum SideError {
    #[error("cannot start the side path's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// The running side path: one tokio thread, and a few more for what blocks.
pub struct Side {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    desk: Arc<FrontDesk>,
    keeper: Arc<Keeper>,
}

impl Side {
    /// # Errors
    /// [`SideError::Thread`] when the system has no thread for us.
    pub fn start(settings: SideSettings) -> Result<Side, SideError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("lg-side")
            .enable_all()
            .build()
            .map_err(SideError::Thread)?;
        let handle = runtime.handle().clone();
        let keeper = Arc::new(Keeper::new(settings.fixed, handle.clone()));
        handle.spawn(keeper.clone().keep(settings.published, settings.refresh));
        let desk = Arc::new(FrontDesk::new(keeper.clone(), handle.clone()));
        Ok(Side { runtime: Mutex::new(Some(runtime)), handle, desk, keeper })
    }

    pub fn desk(&self) -> Arc<dyn Desk> {
        self.desk.clone()
    }

    /// For others of the slow half (console, demo) to spawn on.
    pub fn runtime_handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Replaces the catalogues that are files, after a reload of the configuration.
    pub fn set_fixed(&self, fixed: Fixed) {
        self.keeper.set_fixed(fixed);
    }

    /// Ends every task; what is still owed an answer is told that we stopped. Again: nothing.
    pub fn stop(&self) {
        let Some(runtime) = self.runtime.lock().ok().and_then(|mut r| r.take()) else { return };
        if Handle::try_current().is_ok() {
            // On a runtime's thread we must not wait.
            runtime.shutdown_background();
        } else {
            runtime.shutdown_timeout(STOP_MAX);
        }
        self.keeper.abandon();
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Key derivations (two at a time) and hashing of catalogues.
const BLOCKING_THREADS_MAX: usize = 8;
const STOP_MAX: Duration = Duration::from_secs(2);
