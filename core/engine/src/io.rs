//! What the rest of the crate knows of the kernel and of tasks, in one place: a worker's loop, sockets, a timer.
//!
//! Bytes move by plain non-blocking `recv` and `send`. So no buffer is ever owned by the kernel between two wake-ups: an idle
//! connection holds none, and any future here may be dropped without losing a byte. Whether a ring or epoll tells what is ready
//! (`wait.rs`) makes no difference to anybody else.
//!
//! Invariant: everything here belongs to one thread, that of the [`Runtime`] it was made under.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};

use crate::ring::{Flags, Ring};
pub(crate) use crate::tasks::spawn;
use crate::tasks::{Sleep, Tasks};
use crate::wait::{Kind, Source, Sources};

/// Which kernel interface drives a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Uring(Flags),
    Epoll,
}

impl Driver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Driver::Uring(_) => "io_uring",
            Driver::Epoll => "epoll",
        }
    }

    /// # Errors
    /// One line that says why there is none.
    pub(crate) fn probe_uring() -> Result<Driver, String> {
        Flags::probe().map(Driver::Uring)
    }
}

thread_local! {
    static SOURCES: RefCell<Option<Rc<Sources>>> = const { RefCell::new(None) };
}

fn sources() -> io::Result<Rc<Sources>> {
    let here = SOURCES.try_with(|here| here.borrow().clone()).ok().flatten();
    here.ok_or_else(|| io::Error::other("not on a worker's thread"))
}

/// One worker's loop; built on the thread that runs it.
pub(crate) struct Runtime {
    tasks: Rc<Tasks>,
    sources: Rc<Sources>,
    spin: Spin,
}

impl Runtime {
    /// `spin`: how long to look for news before sleeping.
    ///
    /// # Errors
    /// The kernel lacks memory or descriptors.
    pub(crate) fn new(driver: Driver, spin: Duration) -> io::Result<Runtime> {
        let sources = Rc::new(match driver {
            Driver::Uring(flags) => Sources::on_ring(Ring::new(flags)?),
            Driver::Epoll => Sources::on_epoll()?,
        });
        let tasks = Tasks::new()?;
        sources.add_bell(tasks.bell())?;
        Ok(Runtime { tasks, sources, spin: Spin { limit: spin, hope: 0 } })
    }

    /// Runs until the future is done, then drops every other task.
    ///
    /// # Errors
    /// The kernel does not wait for us any more.
    pub(crate) fn block_on(&mut self, future: impl Future<Output = ()> + 'static) -> io::Result<()> {
        self.tasks.settle();
        SOURCES.set(Some(self.sources.clone()));
        let done = Rc::new(Cell::new(false));
        let tell = done.clone();
        spawn(async move {
            future.await;
            tell.set(true);
        });
        let outcome = self.turn_until(&done);
        self.tasks.leave();
        SOURCES.set(None);
        self.sources.flush();
        outcome
    }

    fn turn_until(&mut self, done: &Cell<bool>) -> io::Result<()> {
        loop {
            self.tasks.turn();
            if done.get() {
                return Ok(());
            }
            let now = Instant::now();
            let next = self.tasks.tick(now);
            let mut rung = false;
            if self.tasks.has_ready() {
                self.sources.wait(Some(Duration::ZERO), &mut rung)?;
            } else {
                self.spin.wait(&self.sources, now, next, &mut rung)?;
            }
            if rung {
                self.tasks.hear();
            }
        }
    }
}

/// Staying awake through short silences: waking up a sleeping core takes longer than many an answer. It is done only while
/// silences were short lately, so an idle worker sleeps.
struct Spin {
    limit: Duration,
    /// Rises with every silence that spinning would have bridged, falls with every other.
    hope: u8,
}

const HOPE_MAX: u8 = 16;
const HOPE_STEP: u8 = 4;

impl Spin {
    fn wait(
        &mut self,
        sources: &Sources,
        since: Instant,
        next: Option<Duration>,
        rung: &mut bool,
    ) -> io::Result<()> {
        if self.limit.is_zero() {
            return sources.wait(next, rung).map(drop);
        }
        if self.hope > 0 {
            loop {
                if sources.wait(Some(Duration::ZERO), rung)? > 0 {
                    self.hope = (self.hope + HOPE_STEP).min(HOPE_MAX);
                    return Ok(());
                }
                let silence = since.elapsed();
                if next.is_some_and(|next| silence >= next) {
                    return Ok(());
                }
                if silence >= self.limit {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        let next = next.map(|next| next.saturating_sub(since.elapsed()));
        let news = sources.wait(next, rung)?;
        if news > 0 && since.elapsed() <= self.limit {
            self.hope = (self.hope + HOPE_STEP).min(HOPE_MAX);
        } else {
            self.hope = self.hope.saturating_sub(1);
        }
        Ok(())
    }
}

/// Half a millisecond to a millisecond late at worst.
pub(crate) async fn sleep(time: Duration) {
    Sleep::new(time).await;
}

/// `future`'s output, or `None` when `time` passes first. Every future of this module may be dropped safely.
pub(crate) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // Most futures are ready at once and need no timer.
    let mut timer: Option<Sleep> = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        pin!(timer.get_or_insert_with(|| Sleep::new(time))).poll(cx).map(|()| None)
    })
    .await
}

/// Lets the other tasks and the kernel's events have a turn.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A stream socket, TCP or Unix. Closed when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Socket(Rc<Source>);

impl Socket {
    /// `fd` must be non-blocking, as everywhere here.
    pub(crate) fn tcp(fd: OwnedFd) -> io::Result<Socket> {
        sources()?.add(fd, Kind::Stream).map(Socket)
    }

    /// A connection on its way: [`Socket::writable`] when it is decided.
    pub(crate) fn connecting(fd: OwnedFd) -> io::Result<Socket> {
        sources()?.add(fd, Kind::Connecting).map(Socket)
    }

    pub(crate) fn unix(fd: OwnedFd) -> io::Result<Socket> {
        sources()?.add(fd, Kind::UnixStream).map(Socket)
    }

    pub(crate) fn readable(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|cx| self.0.poll_readable(cx))
    }

    pub(crate) fn writable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        std::future::poll_fn(|cx| self.0.poll_writable(cx))
    }

    /// Appends what there is, up to the spare capacity. `Ok(None)`: nothing now. `Ok(Some(0))`: end of stream.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let room = buffer.capacity() - buffer.len();
        loop {
            match rustix::net::recv(self, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT) {
                Ok((_, n)) => {
                    if n < room {
                        self.0.was_read();
                    }
                    return Ok(Some(n));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.0.has_nothing().map(|()| None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what fits. `Ok(None)`: nothing now.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.0.has_no_room().map(|()| None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what fits of several runs. `Ok(None)`: nothing now.
    pub(crate) fn send_runs(&self, runs: &[io::IoSlice<'_>]) -> io::Result<Option<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::sendmsg(self, runs, &mut rustix::net::SendAncillaryBuffer::default(), flags) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.0.has_no_room().map(|()| None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// [`Socket::readable`] waits until this many bytes are there (SO_RCVLOWAT). False: this kind of socket cannot. Lowering it
    /// wakes up who already waits for less (`tcp_set_rcvlowat`), and receiving takes what is there whatever was set.
    pub(crate) fn wait_for(&self, bytes: u32) -> bool {
        let Ok(bytes) = libc::c_int::try_from(bytes) else { return false };
        self.0.kind() != Kind::UnixStream && set_low_water_mark(self.as_fd(), bytes)
    }

    /// The peer ended its stream, or is gone; some of what it sent may still be unread.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_over()
    }

    /// Whoever waits on the socket looks up. No system call.
    pub(crate) fn rouse(&self) {
        self.0.rouse();
    }

    /// Ends this direction, or both. Failing means the peer was faster.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _already_gone = rustix::net::shutdown(self, how);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A listening socket of this worker.
pub(crate) struct Listener {
    source: Rc<Source>,
    closed: Cell<bool>,
}

/// What one try to accept gave.
pub(crate) enum Accepted {
    Client(Socket, SocketAddr),
    /// Nobody waits.
    Nobody,
    /// This one was gone already; try the next.
    Lost,
}

impl Listener {
    /// `listener` must be non-blocking.
    pub(crate) fn new(listener: StdListener) -> io::Result<Listener> {
        Ok(Listener { source: sources()?.add(listener.into(), Kind::Listening)?, closed: Cell::new(false) })
    }

    /// Waits until somebody wants to be accepted, or [`Listener::close`]. Tells how many turns of the loop have passed so far.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(crate) async fn readable(&self) -> io::Result<u64> {
        if !self.closed.get() {
            self.source.look_again()?;
            std::future::poll_fn(|cx| self.source.poll_readable(cx)).await;
        }
        Ok(self.source.turns())
    }

    /// A pause in accepting: the loop is not told of clients until the next [`Listener::readable`].
    ///
    /// # Errors
    /// The kernel goes on telling.
    pub(crate) fn look_away(&self) -> io::Result<()> {
        self.source.look_away()
    }

    /// # Errors
    /// Errors that will not pass by trying again at once (out of descriptors or memory).
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        match rustix::net::acceptfrom_with(&self.source, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
                Some(peer) => Ok(Accepted::Client(Socket::tcp(fd)?, peer)),
                None => Ok(Accepted::Lost),
            },
            Err(Errno::AGAIN) => Ok(Accepted::Nobody),
            Err(Errno::INTR | Errno::CONNABORTED) => Ok(Accepted::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Stops accepting, and wakes whoever waits in [`Listener::readable`].
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let _already_gone = rustix::net::shutdown(&self.source, Shutdown::Both);
        self.source.rouse();
    }
}

#[expect(unsafe_code, reason = "no safe wrapper in our dependencies knows SO_RCVLOWAT")]
fn set_low_water_mark(fd: BorrowedFd<'_>, bytes: libc::c_int) -> bool {
    use std::os::fd::AsRawFd;
    let (value, len) = (std::ptr::from_ref(&bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `fd` is open while borrowed; `value` points at an int that outlives the call, and `len` is its size.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, len) == 0 }
}
