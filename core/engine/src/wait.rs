//! Waiting for sockets. Each is made known to the kernel once, when it is born, and the kernel then tells of every change (an
//! edge); what it said is kept in the socket's [`Source`] until an operation finds that it no longer holds. So a wait costs no
//! system call of its own: one call per turn brings the news of all sockets.
//!
//! Invariant: a source errs only by saying "readable" or "writable" too often. Either is taken back only by an operation that met
//! the end of the data or of the room, and the kernel tells when that changes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::ring::Ring;

/// What a socket is registered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connected stream: for reading. Room to write is asked for when it is missed.
    Stream,
    /// A stream that is still connecting: for writing too.
    Connecting,
    /// A listening socket: the kernel says again at every turn that somebody waits, so that accepting need not go on until it
    /// fails (a failing accept costs as much as a good one).
    Listening,
}

/// What the kernel says about a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// End of stream, or broken: reading comes to an end without blocking.
    pub(crate) over: bool,
    /// The kernel cannot watch this socket any longer.
    pub(crate) failed: bool,
}

/// Names a source to the kernel; the generation tells a socket from the one that had its place before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// Generations that are told apart; what is left of 64 bits is the ring's.
    pub(crate) const GENERATIONS: u32 = 1 << 30;
    /// The bell other threads ring.
    const BELL: Key = Key { index: u32::MAX, generation: 0 };

    pub(crate) fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of a number made by `number`")]
    pub(crate) fn from_number(number: u64) -> Key {
        Key { index: number as u32, generation: (number >> 32) as u32 & (Key::GENERATIONS - 1) }
    }
}

/// A registered socket.
pub(crate) struct Source {
    key: Key,
    kind: Kind,
    fd: RawFd,
    readable: Cell<bool>,
    writable: Cell<bool>,
    over: Cell<bool>,
    failed: Cell<bool>,
    /// The kernel was asked to tell about room to write.
    wants_room: Cell<bool>,
    /// The kernel was asked to be silent about it.
    deaf: Cell<bool>,
    reader: Waiter,
    writer: Waiter,
}

/// Who waits. Its waker is kept between waits: it is nearly always the same one.
#[derive(Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    waits: Cell<bool>,
}

impl Waiter {
    fn wait(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.waits.set(true);
    }

    fn wake(&self) {
        if self.waits.replace(false)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

impl Source {
    fn hear(&self, said: Said) {
        if said.over || said.failed {
            self.over.set(true);
        }
        if said.failed {
            self.failed.set(true);
        }
        if said.readable || said.over || said.failed {
            self.readable.set(true);
            self.reader.wake();
        }
        if said.writable || said.over || said.failed {
            self.writable.set(true);
            self.writer.wake();
        }
    }

    /// Wakes whoever waits, as if the peer had gone; costs no system call.
    pub(crate) fn rouse(&self) {
        self.hear(Said { over: true, ..Said::default() });
    }

    /// The peer ended its stream, or is gone; some of what it sent may still be unread.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// A read did not fill its room: everything was read, except the end of the stream if that has come.
    pub(crate) fn was_read(&self) {
        self.readable.set(self.over.get());
    }

    /// There was nothing to read.
    ///
    /// # Errors
    /// Nobody would ever tell when there is.
    pub(crate) fn has_nothing(&self) -> io::Result<()> {
        self.readable.set(false);
        self.watched()
    }

    /// There was no room to write.
    ///
    /// # Errors
    /// Nobody would ever tell when there is.
    pub(crate) fn has_no_room(&self) -> io::Result<()> {
        self.writable.set(false);
        self.watched()
    }

    fn watched(&self) -> io::Result<()> {
        if self.failed.get() { Err(io::Error::other("the kernel cannot watch this socket")) } else { Ok(()) }
    }
}

/// All sources of one worker, and the kernel's interface that knows them.
pub(crate) struct Sources {
    places: RefCell<Vec<Place>>,
    free: RefCell<Vec<u32>>,
    kernel: RefCell<Kernel>,
    turns: Cell<u64>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    source: Option<Rc<Source>>,
}

enum Kernel {
    Ring(Box<Ring>),
    Epoll { set: OwnedFd, events: Vec<epoll::Event> },
}

/// Events taken from epoll at once. Many more than a turn should take, few enough to stay in cache.
const EVENTS_MAX: usize = 256;

impl Sources {
    pub(crate) fn on_ring(ring: Ring) -> Sources {
        Sources::on(Kernel::Ring(Box::new(ring)))
    }

    /// # Errors
    /// No descriptor is left.
    pub(crate) fn on_epoll() -> io::Result<Sources> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Sources::on(Kernel::Epoll { set, events: Vec::with_capacity(EVENTS_MAX) }))
    }

    fn on(kernel: Kernel) -> Sources {
        let (places, free) = (RefCell::default(), RefCell::default());
        Sources { places, free, kernel: RefCell::new(kernel), turns: Cell::new(0) }
    }

    /// Turns so far: how often the kernel was asked for news.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.get()
    }

    /// # Errors
    /// The kernel has no memory for it.
    pub(crate) fn add_bell(&self, bell: BorrowedFd<'_>) -> io::Result<()> {
        match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(ring) => ring.watch(bell.as_raw_fd(), Key::BELL),
            // Nobody reads it: every ring is an edge.
            Kernel::Epoll { set, .. } => epoll_add(set, bell, Key::BELL, READS | epoll::EventFlags::ET),
        }
    }

    /// # Errors
    /// The kernel has no memory for it.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, kind: Kind) -> io::Result<Rc<Source>> {
        let mut places = self.places.borrow_mut();
        let free = self.free.borrow_mut().pop();
        let index = free.unwrap_or_else(|| {
            places.push(Place::default());
            u32::try_from(places.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(place) = places.get_mut(index as usize) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let source = Rc::new(Source {
            key: Key { index, generation: place.generation },
            kind,
            fd: fd.as_raw_fd(),
            readable: Cell::new(false),
            writable: Cell::new(false),
            over: Cell::new(false),
            failed: Cell::new(false),
            wants_room: Cell::new(kind == Kind::Connecting),
            deaf: Cell::new(false),
            reader: Waiter::default(),
            writer: Waiter::default(),
        });
        let key = source.key;
        let added = match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(ring) => match kind {
                Kind::Stream => ring.watch(source.fd, key),
                Kind::Connecting => ring.watch(source.fd, key).and_then(|()| ring.await_room(source.fd, key)),
                // Asked for by `look_again`.
                Kind::Listening => Ok(()),
            },
            Kernel::Epoll { set, .. } => {
                let flags = match kind {
                    Kind::Stream => READS | epoll::EventFlags::ET,
                    Kind::Connecting => READS | epoll::EventFlags::OUT | epoll::EventFlags::ET,
                    Kind::Listening => epoll::EventFlags::IN,
                };
                epoll_add(set, fd, key, flags)
            }
        };
        match added {
            Ok(()) => place.source = Some(source.clone()),
            Err(_) => self.free.borrow_mut().push(index),
        }
        added.map(|()| source)
    }

    /// To be called before the descriptor is closed.
    pub(crate) fn remove(&self, source: &Source) {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(source.key.index as usize) else { return };
        place.source = None;
        place.generation = (place.generation + 1) % Key::GENERATIONS;
        self.free.borrow_mut().push(source.key.index);
        match &mut *self.kernel.borrow_mut() {
            // A ring holds on to the socket until it is told to let go.
            Kernel::Ring(ring) => ring.forget(source.key, source.wants_room.get()),
            // Closing the descriptor removes it: it has no duplicate.
            Kernel::Epoll { .. } => {}
        }
    }

    pub(crate) fn poll_readable(&self, source: &Source, cx: &Context<'_>) -> Poll<()> {
        if source.readable.get() {
            return Poll::Ready(());
        }
        source.reader.wait(cx);
        Poll::Pending
    }

    pub(crate) fn poll_writable(
        &self,
        source: &Source,
        fd: BorrowedFd<'_>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        if source.writable.get() {
            return Poll::Ready(Ok(()));
        }
        source.writer.wait(cx);
        if !source.wants_room.replace(true) {
            let asked = match &mut *self.kernel.borrow_mut() {
                Kernel::Ring(ring) => ring.await_room(source.fd, source.key),
                Kernel::Epoll { set, .. } => {
                    epoll_modify(set, fd, source.key, READS | epoll::EventFlags::OUT | epoll::EventFlags::ET)
                }
            };
            if let Err(error) = asked {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Pending
    }

    /// For listening sockets: what was said before was used; tell again when somebody waits.
    ///
    /// # Errors
    /// The kernel does not.
    pub(crate) fn look_again(&self, source: &Source, fd: BorrowedFd<'_>) -> io::Result<()> {
        source.readable.set(false);
        match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(ring) => ring.await_client(source.fd, source.key),
            Kernel::Epoll { set, .. } if source.deaf.replace(false) => {
                epoll_modify(set, fd, source.key, epoll::EventFlags::IN)
            }
            Kernel::Epoll { .. } => Ok(()),
        }
    }

    /// For listening sockets: nothing more is to be told until [`Sources::look_again`].
    ///
    /// # Errors
    /// The kernel goes on telling.
    pub(crate) fn look_away(&self, source: &Source, fd: BorrowedFd<'_>) -> io::Result<()> {
        match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(_) => Ok(()),
            Kernel::Epoll { set, .. } => {
                source.deaf.set(true);
                epoll_modify(set, fd, source.key, epoll::EventFlags::empty())
            }
        }
    }

    /// Asks the kernel for news, and waits for some for `timeout` at most (`None`: for ever). Returns how many there were.
    ///
    /// # Errors
    /// Never, on a kernel that let us get this far.
    pub(crate) fn wait(&self, timeout: Option<Duration>, rung: &mut bool) -> io::Result<usize> {
        self.turns.set(self.turns.get().wrapping_add(1));
        let places = self.places.borrow();
        let mut count = 0;
        let mut hear = |key: Key, said: Said| {
            count += 1;
            if key == Key::BELL {
                *rung = true;
                return None;
            }
            let place = places.get(key.index as usize)?;
            let source = place.source.as_deref().filter(|_| place.generation == key.generation)?;
            source.hear(said);
            Some(source)
        };
        match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(ring) => ring.wait(timeout, |key, said, fate| {
                let source = hear(key, said)?;
                match fate {
                    Fate::Stays => None,
                    // Listening sockets are watched again when somebody wants to accept.
                    Fate::Ended => (source.kind != Kind::Listening && !said.failed).then_some(source.fd),
                    Fate::RoomTold => {
                        source.wants_room.set(false);
                        None
                    }
                }
            })?,
            Kernel::Epoll { set, events } => {
                events.clear();
                let timeout = timeout.map(timespec);
                match epoll::wait(set, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                for event in events.iter() {
                    let flags = event.flags;
                    let said = Said {
                        readable: flags.intersects(epoll::EventFlags::IN),
                        writable: flags.intersects(epoll::EventFlags::OUT),
                        over: flags.intersects(OVER),
                        failed: false,
                    };
                    hear(Key::from_number(event.data.u64()), said);
                }
            }
        }
        Ok(count)
    }

    /// Tells the kernel what was only written down so far, before the last socket is closed.
    pub(crate) fn flush(&self) {
        if let Kernel::Ring(ring) = &mut *self.kernel.borrow_mut() {
            ring.flush();
        }
    }
}

/// What became of the watch that brought the news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays,
    Ended,
    /// It was for room to write, and that is told once.
    RoomTold,
}

const READS: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP);
const OVER: epoll::EventFlags =
    epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);

fn epoll_add(set: &OwnedFd, fd: BorrowedFd<'_>, key: Key, flags: epoll::EventFlags) -> io::Result<()> {
    Ok(epoll::add(set, fd, epoll::EventData::new_u64(key.number()), flags)?)
}

fn epoll_modify(set: &OwnedFd, fd: BorrowedFd<'_>, key: Key, flags: epoll::EventFlags) -> io::Result<()> {
    Ok(epoll::modify(set, fd, epoll::EventData::new_u64(key.number()), flags)?)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
