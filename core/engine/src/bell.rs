//! Waiting for another task of the same worker. One thread, so no lock and no missed ring: a condition is checked and the waker
//! left in one go.

use std::cell::RefCell;
use std::task::{Poll, Waker};

#[derive(Default)]
pub(crate) struct Bell {
    waiting: RefCell<Vec<Waker>>,
}

impl Bell {
    /// Wakes everybody who waits; each looks for itself whether its condition holds.
    pub(crate) fn ring(&self) {
        if !self.waiting.borrow().is_empty() {
            // Taken out first: a waker may lead straight back here.
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }

    pub(crate) fn listen(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|w| w.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    pub(crate) async fn until(&self, mut condition: impl FnMut() -> bool) {
        std::future::poll_fn(|cx| {
            if condition() {
                return Poll::Ready(());
            }
            self.listen(cx.waker());
            Poll::Pending
        })
        .await;
    }
}
