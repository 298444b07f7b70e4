//! What other threads tell a worker: answers, resolved names, "drain", "end".
//!
//! Only one waker ever crosses threads, that of the worker's mail task, and it is used under the lock: [`Postbox::close`] on the
//! worker's thread guarantees that no other thread holds a task of a runtime that is gone.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use flow::Answer;

#[derive(Debug)]
pub(crate) enum Letter {
    /// For the slot of this number.
    Reply(u64, Reply),
    Drain,
    Kill,
}

#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    Resolved(Result<Vec<IpAddr>, String>),
}

/// A worker's letter box; any thread may drop a letter in.
#[derive(Default)]
pub(crate) struct Postbox {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    letters: VecDeque<Letter>,
    waker: Option<Waker>,
    closed: bool,
}

impl Postbox {
    pub(crate) fn post(&self, letter: Letter) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return;
        }
        inner.letters.push_back(letter);
        if let Some(waker) = &inner.waker {
            waker.wake_by_ref();
        }
    }

    /// The next letter; `None` once closed. One task of the worker calls this.
    pub(crate) async fn next(&self) -> Option<Letter> {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.closed {
                return Poll::Ready(None);
            }
            if let Some(letter) = inner.letters.pop_front() {
                return Poll::Ready(Some(letter));
            }
            if !inner.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                inner.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// On the worker's thread, before its runtime goes.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        inner.letters.clear();
        inner.waker = None;
    }
}

/// Where a task of this worker waits for a reply.
#[derive(Default)]
pub(crate) struct Slots {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Slot>>>,
}

#[derive(Default)]
pub(crate) struct Slot {
    reply: RefCell<Option<Reply>>,
    waker: RefCell<Option<Waker>>,
}

impl Slots {
    pub(crate) fn open(self: &Rc<Slots>) -> Waiting {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let slot = Rc::new(Slot::default());
        self.open.borrow_mut().insert(number, slot.clone());
        Waiting { number, slot, slots: self.clone() }
    }

    pub(crate) fn deliver(&self, number: u64, reply: Reply) {
        let slot = self.open.borrow_mut().remove(&number);
        if let Some(slot) = slot {
            *slot.reply.borrow_mut() = Some(reply);
            let waker = slot.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// A slot in use; dropping it gives the reply up.
pub(crate) struct Waiting {
    pub(crate) number: u64,
    slot: Rc<Slot>,
    slots: Rc<Slots>,
}

impl Waiting {
    pub(crate) async fn reply(&self) -> Reply {
        std::future::poll_fn(|cx| {
            if let Some(reply) = self.slot.reply.borrow_mut().take() {
                return Poll::Ready(reply);
            }
            *self.slot.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.slots.open.borrow_mut().remove(&self.number);
    }
}

/// Sends the answer to one [`flow::Ask`], whatever becomes of the desk: dropped without a word, it says so.
pub(crate) struct ReplyTo {
    postbox: Arc<Postbox>,
    number: u64,
    said: bool,
}

impl ReplyTo {
    pub(crate) fn new(postbox: Arc<Postbox>, number: u64) -> ReplyTo {
        ReplyTo { postbox, number, said: false }
    }

    pub(crate) fn say(mut self, answer: Answer) {
        self.said = true;
        self.postbox.post(Letter::Reply(self.number, Reply::Answer(answer)));
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if !self.said {
            let answer = Answer::Failed("the question was dropped unanswered".to_owned());
            self.postbox.post(Letter::Reply(self.number, Reply::Answer(answer)));
        }
    }
}
