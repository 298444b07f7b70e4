//! The tasks and timers of one worker: a queue of futures, run in the order they were woken.
//!
//! It knows nothing of sockets: the loop that waits for them is in `io.rs`. A future that is woken without cause is polled without
//! cause, so every future in this crate looks again for itself whether what it waits for has come.
//!
//! Invariants: tasks never leave their thread; a waker may, and then it goes through [`Home`], whose bell the loop hears. A task is
//! in the queue at most once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

thread_local! {
    static TASKS: RefCell<Option<Rc<Tasks>>> = const { RefCell::new(None) };
}

/// Starts a task on this thread's worker. Without one there is nobody to run it, and it is dropped.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    if let Some(tasks) = Tasks::here() {
        tasks.add(Box::pin(future));
    }
}

pub(crate) struct Tasks {
    places: RefCell<Vec<Place>>,
    free: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<u32>>,
    timers: Timers,
    home: Arc<Home>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Where a task lives. Its future is taken out while it runs.
struct Place {
    future: Option<Task>,
    call: Arc<Call>,
}

impl Tasks {
    /// # Errors
    /// No descriptor is left for the bell.
    pub(crate) fn new() -> std::io::Result<Rc<Tasks>> {
        let bell = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let home = Home { called: Mutex::default(), bell, rung: AtomicBool::new(false) };
        Ok(Rc::new(Tasks {
            places: RefCell::default(),
            free: RefCell::default(),
            ready: RefCell::default(),
            timers: Timers::default(),
            home: Arc::new(home),
        }))
    }

    fn here() -> Option<Rc<Tasks>> {
        TASKS.try_with(|here| here.borrow().clone()).ok().flatten()
    }

    /// From now on this thread's tasks.
    pub(crate) fn settle(self: &Rc<Tasks>) {
        TASKS.set(Some(self.clone()));
    }

    /// Drops every task, and is this thread's no longer.
    pub(crate) fn leave(&self) {
        // Outside the borrow: what a task drops may wake or start another.
        while let Some(place) = self.places.borrow_mut().pop() {
            drop(place);
        }
        TASKS.set(None);
    }

    /// Rings when another thread woke a task: becomes readable each time, and is never read.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.home.bell.as_fd()
    }

    /// Takes over what other threads woke.
    pub(crate) fn hear(&self) {
        if self.home.rung.swap(false, Ordering::AcqRel) {
            let mut called = self.home.called.lock().unwrap_or_else(PoisonError::into_inner);
            self.ready.borrow_mut().extend(called.drain(..));
        }
    }

    fn add(&self, future: Task) {
        let mut places = self.places.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => index,
            None => u32::try_from(places.len()).unwrap_or(u32::MAX),
        };
        let call = Arc::new(Call { task: index, queued: AtomicBool::new(true), home: self.home.clone() });
        let place = Place { future: Some(future), call };
        match places.get_mut(index as usize) {
            Some(free) => *free = place,
            None => places.push(place),
        }
        self.ready.borrow_mut().push_back(index);
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Runs every task that is in the queue now, once. What they wake has its turn after the kernel's events.
    pub(crate) fn turn(&self) {
        let count = self.ready.borrow().len();
        for _ in 0..count {
            let Some(index) = self.ready.borrow_mut().pop_front() else { return };
            self.run(index);
        }
    }

    fn run(&self, index: u32) {
        let taken = self.places.borrow_mut().get_mut(index as usize).and_then(|place| {
            // Before it runs: woken while running, it must run again.
            place.call.queued.store(false, Ordering::Release);
            place.future.take().map(|future| (future, Waker::from(place.call.clone())))
        });
        let Some((mut future, waker)) = taken else { return };
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(index as usize) else { return };
        match poll {
            Poll::Pending => place.future = Some(future),
            Poll::Ready(()) => {
                // The place is free for another before the future is dropped: dropping may start tasks.
                self.free.borrow_mut().push(index);
                drop(places);
                drop(future);
            }
        }
    }

    // Timers.

    /// Wakes whose time has come, and tells how long until the next.
    pub(crate) fn tick(&self, now: Instant) -> Option<Duration> {
        let mut waiting = self.timers.waiting.borrow_mut();
        while let Some(first) = waiting.front() {
            if first.at > now {
                return Some(first.at.saturating_duration_since(now));
            }
            if let Some(due) = waiting.pop_front() {
                // Only pushes to the queue: wakers of this thread run nothing.
                due.waker.wake();
            }
        }
        None
    }
}

/// Timers in order of their time. Nearly all last equally long, so a new one goes to the end; and the memory is kept.
#[derive(Default)]
struct Timers {
    waiting: RefCell<VecDeque<Timer>>,
    made: Cell<u64>,
}

struct Timer {
    at: Instant,
    number: u64,
    waker: Waker,
}

impl Timers {
    fn add(&self, at: Instant, waker: &Waker) -> u64 {
        let number = self.made.get();
        self.made.set(number.wrapping_add(1));
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.partition_point(|timer| timer.at <= at);
        waiting.insert(place, Timer { at, number, waker: waker.clone() });
        number
    }

    fn remove(&self, at: Instant, number: u64) {
        let mut waiting = self.waiting.borrow_mut();
        let from = waiting.partition_point(|timer| timer.at < at);
        let found = waiting.iter().skip(from).take_while(|timer| timer.at == at);
        if let Some(offset) = found.into_iter().position(|timer| timer.number == number) {
            waiting.remove(from + offset);
        }
    }
}

/// A waker of one task.
struct Call {
    task: u32,
    queued: AtomicBool,
    home: Arc<Home>,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let at_home = TASKS.try_with(|here| match here.borrow().as_ref() {
            Some(tasks) if Arc::ptr_eq(&tasks.home, &self.home) => {
                tasks.ready.borrow_mut().push_back(self.task);
                true
            }
            _ => false,
        });
        if !at_home.unwrap_or(false) {
            self.home.call(self.task);
        }
    }
}

/// What other threads know of a worker's tasks.
struct Home {
    called: Mutex<Vec<u32>>,
    bell: OwnedFd,
    rung: AtomicBool,
}

impl Home {
    fn call(&self, task: u32) {
        self.called.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full, and then it is readable anyway.
            let _full = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// Ready when its time has come.
pub(crate) struct Sleep {
    at: Instant,
    timer: Option<(Rc<Tasks>, u64)>,
}

impl Sleep {
    pub(crate) fn new(time: Duration) -> Sleep {
        let now = Instant::now();
        // Beyond what the clock can say is as good as a year.
        let at = now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400));
        Sleep { at, timer: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        // A task waits: its waker is the same every time.
        if self.timer.is_none()
            && let Some(tasks) = Tasks::here()
        {
            let number = tasks.timers.add(self.at, cx.waker());
            self.timer = Some((tasks, number));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((tasks, number)) = self.timer.take() {
            tasks.timers.remove(self.at, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> Rc<Tasks> {
        let tasks = Tasks::new().unwrap();
        tasks.settle();
        tasks
    }

    #[test]
    fn a_task_woken_from_another_thread_runs() {
        let tasks = settled();
        let (waker, runs) = (Rc::new(RefCell::new(None::<Waker>)), Rc::new(Cell::new(0)));
        let (left, count) = (waker.clone(), runs.clone());
        spawn(std::future::poll_fn(move |cx| {
            count.set(count.get() + 1);
            *left.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        tasks.turn();
        assert_eq!(runs.get(), 1);
        let woken = waker.borrow().clone().unwrap();
        std::thread::spawn(move || (0..3).for_each(|_| woken.wake_by_ref())).join().unwrap();
        assert!(!tasks.has_ready());
        let mut counter = [0; 8];
        rustix::io::read(tasks.bell(), &mut counter).unwrap();
        tasks.hear();
        tasks.turn();
        assert_eq!(runs.get(), 2);
        tasks.leave();
    }

    #[test]
    fn a_task_that_starts_another_while_it_ends_frees_its_place_first() {
        let tasks = settled();
        struct Starts;
        impl Drop for Starts {
            fn drop(&mut self) {
                spawn(std::future::pending());
            }
        }
        let starts = Starts;
        spawn(async move { drop(starts) });
        tasks.turn();
        tasks.turn();
        assert_eq!((tasks.places.borrow().len(), tasks.free.borrow().len()), (2, 1));
        tasks.leave();
    }

    #[test]
    fn timers_wake_in_order_and_leave_nothing() {
        let tasks = settled();
        let mut naps: Vec<_> = [30, 10, 20].map(|ms| Box::pin(Sleep::new(Duration::from_millis(ms)))).into();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(naps.iter_mut().all(|nap| nap.as_mut().poll(&mut cx).is_pending()));
        let first = naps[1].at;
        assert_eq!(tasks.tick(first - Duration::from_millis(1)), Some(Duration::from_millis(1)));
        assert!(tasks.tick(first).unwrap() <= Duration::from_millis(11));
        assert_eq!(tasks.timers.waiting.borrow().len(), 2);
        drop(naps);
        assert_eq!(tasks.timers.waiting.borrow().len(), 0);
        tasks.leave();
    }
}
