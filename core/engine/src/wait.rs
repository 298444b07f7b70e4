//! Waiting for sockets. Each is made known to the kernel once, when it is born, and the kernel then tells of every change (an
//! edge); what it said is kept in the socket's [`Source`] until an operation finds that it no longer holds. So a wait costs no
//! system call of its own: one call per turn brings the news of all sockets.
//!
//! Invariant: a source errs only by saying "readable" or "writable" too often. Either is taken back only by an operation that met
//! the end of the data or of the room, and the kernel tells when that changes.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
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
    /// The same, on a Unix socket.
    UnixStream,
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

/// A socket the kernel watches. One small allocation: there are as many of these as sockets.
pub(crate) struct Source {
    sources: Rc<Sources>,
    key: Key,
    fd: OwnedFd,
    kind: Kind,
    facts: Cell<u8>,
    /// Who waits, or did: a waker is kept between waits, because it is nearly always the same one.
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

// What is known of a source.
const READABLE: u8 = 1;
const WRITABLE: u8 = 1 << 1;
/// The peer ended its stream, or is gone.
const OVER: u8 = 1 << 2;
/// The kernel cannot watch it.
const FAILED: u8 = 1 << 3;
/// Somebody waits.
const READER: u8 = 1 << 4;
const WRITER: u8 = 1 << 5;
/// The kernel was asked to tell about room to write.
const WANTS_ROOM: u8 = 1 << 6;
/// The kernel was asked to be silent about it.
const DEAF: u8 = 1 << 7;

impl Source {
    fn is(&self, fact: u8) -> bool {
        self.facts.get() & fact != 0
    }

    /// Sets or clears a fact, and tells whether it held before.
    fn set(&self, fact: u8, holds: bool) -> bool {
        let before = self.facts.get();
        self.facts.set(if holds { before | fact } else { before & !fact });
        before & fact != 0
    }

    fn hear(&self, said: Said) {
        let ends = said.over || said.failed;
        if ends {
            self.set(OVER, true);
        }
        if said.failed {
            self.set(FAILED, true);
        }
        if said.readable || ends {
            self.set(READABLE, true);
            self.wake(READER, &self.reader);
        }
        if said.writable || ends {
            self.set(WRITABLE, true);
            self.wake(WRITER, &self.writer);
        }
    }

    fn wake(&self, who: u8, waker: &RefCell<Option<Waker>>) {
        if self.set(who, false)
            && let Some(waker) = &*waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    fn wait(&self, who: u8, waker: &RefCell<Option<Waker>>, cx: &Context<'_>) {
        let mut waker = waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.set(who, true);
    }

    /// Wakes whoever waits, as if the peer had gone; costs no system call.
    pub(crate) fn rouse(&self) {
        self.hear(Said { over: true, ..Said::default() });
    }

    /// The peer ended its stream, or is gone; some of what it sent may still be unread.
    pub(crate) fn is_over(&self) -> bool {
        self.is(OVER)
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// A read did not fill its room: everything was read, except the end of the stream if that has come.
    pub(crate) fn was_read(&self) {
        self.set(READABLE, self.is(OVER));
    }

    /// There was nothing to read.
    ///
    /// # Errors
    /// Nobody would ever tell when there is.
    pub(crate) fn has_nothing(&self) -> io::Result<()> {
        self.set(READABLE, false);
        self.watched()
    }

    /// There was no room to write.
    ///
    /// # Errors
    /// Nobody would ever tell when there is.
    pub(crate) fn has_no_room(&self) -> io::Result<()> {
        self.set(WRITABLE, false);
        self.watched()
    }

    fn watched(&self) -> io::Result<()> {
        if self.is(FAILED) { Err(io::Error::other("the kernel cannot watch this socket")) } else { Ok(()) }
    }

    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is(READABLE) {
            return Poll::Ready(());
        }
        self.wait(READER, &self.reader, cx);
        Poll::Pending
    }

    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.is(WRITABLE) {
            return Poll::Ready(Ok(()));
        }
        self.wait(WRITER, &self.writer, cx);
        if !self.set(WANTS_ROOM, true) {
            let asked = match &mut *self.sources.kernel.borrow_mut() {
                Kernel::Ring(ring) => ring.await_room(self.fd.as_raw_fd(), self.key),
                Kernel::Epoll { set, .. } => epoll_modify(set, self, READS | ROOM | epoll::EventFlags::ET),
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
    pub(crate) fn look_again(&self) -> io::Result<()> {
        self.set(READABLE, false);
        match &mut *self.sources.kernel.borrow_mut() {
            Kernel::Ring(ring) => ring.await_client(self.fd.as_raw_fd(), self.key),
            Kernel::Epoll { set, .. } if self.set(DEAF, false) => {
                epoll_modify(set, self, epoll::EventFlags::IN)
            }
            Kernel::Epoll { .. } => Ok(()),
        }
    }

    /// For listening sockets: nothing more is to be told until [`Source::look_again`].
    ///
    /// # Errors
    /// The kernel goes on telling.
    pub(crate) fn look_away(&self) -> io::Result<()> {
        match &mut *self.sources.kernel.borrow_mut() {
            Kernel::Ring(_) => Ok(()),
            Kernel::Epoll { set, .. } => {
                self.set(DEAF, true);
                epoll_modify(set, self, epoll::EventFlags::empty())
            }
        }
    }

    /// Turns of the worker's loop so far: how often the kernel was asked for news.
    pub(crate) fn turns(&self) -> u64 {
        self.sources.turns.get()
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.sources.remove(self);
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
    /// Dangling when free.
    source: Weak<Source>,
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
    pub(crate) fn add(self: &Rc<Sources>, fd: OwnedFd, kind: Kind) -> io::Result<Rc<Source>> {
        let free = self.free.borrow_mut().pop();
        let index = free.unwrap_or_else(|| {
            let mut places = self.places.borrow_mut();
            places.push(Place::default());
            u32::try_from(places.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.places.borrow().get(index as usize).map_or(0, |place| place.generation);
        let facts = if kind == Kind::Connecting { WANTS_ROOM } else { 0 };
        // From here on dropping it gives its place back.
        let source = Rc::new(Source {
            sources: self.clone(),
            key: Key { index, generation },
            fd,
            kind,
            facts: Cell::new(facts),
            reader: RefCell::default(),
            writer: RefCell::default(),
        });
        let (raw, key) = (source.fd.as_raw_fd(), source.key);
        match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(ring) => match kind {
                Kind::Stream | Kind::UnixStream => ring.watch(raw, key),
                Kind::Connecting => ring.watch(raw, key).and_then(|()| ring.await_room(raw, key)),
                // Asked for by `look_again`.
                Kind::Listening => Ok(()),
            },
            Kernel::Epoll { set, .. } => {
                let flags = match kind {
                    Kind::Stream | Kind::UnixStream => READS | epoll::EventFlags::ET,
                    Kind::Connecting => READS | ROOM | epoll::EventFlags::ET,
                    Kind::Listening => epoll::EventFlags::IN,
                };
                epoll_add(set, source.as_fd(), key, flags)
            }
        }?;
        if let Some(place) = self.places.borrow_mut().get_mut(index as usize) {
            place.source = Rc::downgrade(&source);
        }
        Ok(source)
    }

    /// Before its descriptor is closed.
    fn remove(&self, source: &Source) {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(source.key.index as usize) else { return };
        place.source = Weak::new();
        place.generation = (place.generation + 1) % Key::GENERATIONS;
        self.free.borrow_mut().push(source.key.index);
        match &mut *self.kernel.borrow_mut() {
            // A ring holds on to the socket until it is told to let go.
            Kernel::Ring(ring) => ring.forget(source.key, source.is(WANTS_ROOM)),
            // Closing the descriptor removes it: it has no duplicate.
            Kernel::Epoll { .. } => {}
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
            // Others hold it too, so this is never the last, and nothing is dropped in here.
            let source = place.source.upgrade().filter(|_| place.generation == key.generation)?;
            source.hear(said);
            Some(source)
        };
        match &mut *self.kernel.borrow_mut() {
            Kernel::Ring(ring) => ring.wait(timeout, |key, said, fate| {
                let source = hear(key, said)?;
                match fate {
                    Fate::Stays => None,
                    // Listening sockets are watched again when somebody wants to accept.
                    Fate::Ended => {
                        (source.kind != Kind::Listening && !said.failed).then(|| source.fd.as_raw_fd())
                    }
                    Fate::RoomTold => {
                        source.set(WANTS_ROOM, false);
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
                        over: flags.intersects(ENDS),
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
const ROOM: epoll::EventFlags = epoll::EventFlags::OUT;
const ENDS: epoll::EventFlags =
    epoll::EventFlags::RDHUP.union(epoll::EventFlags::HUP).union(epoll::EventFlags::ERR);

fn epoll_add(set: &OwnedFd, fd: BorrowedFd<'_>, key: Key, flags: epoll::EventFlags) -> io::Result<()> {
    Ok(epoll::add(set, fd, epoll::EventData::new_u64(key.number()), flags)?)
}

fn epoll_modify(set: &OwnedFd, source: &Source, flags: epoll::EventFlags) -> io::Result<()> {
    Ok(epoll::modify(set, source.as_fd(), epoll::EventData::new_u64(source.key.number()), flags)?)
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
