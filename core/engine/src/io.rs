//! Everything this crate takes from an async runtime, in one place: tasks, a timer, and "this socket is readable / writable".
//!
//! Bytes move by plain non-blocking `recv` and `send` after readiness. So no buffer is ever owned by the kernel between two
//! wake-ups: an idle connection holds none, any future here may be dropped without losing a byte, and swapping the runtime means
//! rewriting this file. On a ring the readiness is a poll operation, and all polls of a loop turn go down in one system call.
//!
//! Invariant: a dropped [`Socket::readable`] leaves an armed poll behind until the socket is shut down, so wait again on the same
//! future where that can happen often.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use monoio::net::{TcpListener, TcpStream, UnixStream};
use monoio::time::TimeDriver;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// Which kernel interface drives a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Uring(Flags),
    Epoll,
}

/// Ring flags, most wanted first. Single issuer with deferred task work saved 12 % CPU per round trip when measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    Deferred,
    Cooperative,
    Plain,
}

impl Driver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Driver::Uring(_) => "io_uring",
            Driver::Epoll => "epoll",
        }
    }

    /// The best ring this kernel gives us.
    ///
    /// # Errors
    /// One line that says why there is none.
    pub(crate) fn probe_uring() -> Result<Driver, String> {
        // On a thread of its own: a ring's end is finished later on the thread that made it, which interrupts whatever system
        // call that thread is in by then (seen: EINTR from a read of the caller's).
        let probe = std::thread::Builder::new().name("lg-probe".to_owned()).spawn(Driver::probe_here);
        match probe.map(std::thread::JoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("probing for io_uring panicked".to_owned()),
            Err(error) => Err(format!("cannot probe for io_uring: {error}")),
        }
    }

    fn probe_here() -> Result<Driver, String> {
        let mut last = None;
        for flags in [Flags::Deferred, Flags::Cooperative, Flags::Plain] {
            // Some sandboxes let a ring be made and refuse to enter it: so enter it.
            match flags.builder().build(8).and_then(|ring| ring.submit()) {
                Ok(_) => return Ok(Driver::Uring(flags)),
                Err(error) => last = Some(error),
            }
        }
        Err(why_no_ring(last))
    }
}

impl Flags {
    fn builder(self) -> io_uring::Builder {
        let mut builder = io_uring::IoUring::builder();
        match self {
            Flags::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
            }
            Flags::Cooperative => {
                builder.setup_coop_taskrun();
            }
            Flags::Plain => {}
        }
        builder
    }
}

fn why_no_ring(error: Option<io::Error>) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match error.as_ref().and_then(io::Error::raw_os_error).map(Errno::from_raw_os_error) {
        _ if matches!(sysctl.trim(), "1" | "2") => {
            format!("io_uring is switched off by sysctl kernel.io_uring_disabled={}", sysctl.trim())
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "io_uring is refused with EPERM; a container's seccomp profile does that by default".to_owned()
        }
        Some(Errno::NOSYS) => "this kernel has no io_uring".to_owned(),
        Some(Errno::NOMEM) => {
            "io_uring is refused with ENOMEM; raise the locked-memory limit (ulimit -l)".to_owned()
        }
        Some(other) => format!("io_uring cannot be used: {}", io::Error::from(other)),
        None => "io_uring cannot be used".to_owned(),
    }
}

/// One worker's runtime; built on the thread that uses it (a single-issuer ring belongs to its maker).
pub(crate) enum Runtime {
    Uring(Box<monoio::Runtime<TimeDriver<IoUringDriver>>>),
    Epoll(Box<monoio::Runtime<TimeDriver<LegacyDriver>>>),
}

impl Runtime {
    pub(crate) fn new(driver: Driver) -> io::Result<Runtime> {
        Ok(match driver {
            Driver::Uring(flags) => Runtime::Uring(Box::new(
                RuntimeBuilder::<IoUringDriver>::new()
                    .with_entries(1024)
                    .uring_builder(flags.builder())
                    .enable_timer()
                    .build()?,
            )),
            Driver::Epoll => {
                Runtime::Epoll(Box::new(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?))
            }
        })
    }

    pub(crate) fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Runtime::Uring(runtime) => runtime.block_on(future),
            Runtime::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

/// Starts a task on this worker.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(future));
}

/// Millisecond granularity.
pub(crate) async fn sleep(time: Duration) {
    monoio::time::sleep(time).await;
}

/// `future`'s output, or `None` when `time` passes first. Every future of this module may be dropped safely.
pub(crate) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    let (mut future, mut timer) = (pin!(future), pin!(monoio::time::sleep(time)));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        timer.as_mut().poll(cx).map(|()| None)
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

/// A connected stream socket, TCP or Unix.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn tcp(fd: OwnedFd) -> io::Result<Socket> {
        TcpStream::from_std(fd.into()).map(Socket::Tcp)
    }

    pub(crate) fn unix(fd: OwnedFd) -> io::Result<Socket> {
        UnixStream::from_std(fd.into()).map(Socket::Unix)
    }

    // `relaxed: false`: the epoll driver keeps a readiness flag that only its own operations clear; asking the kernel instead
    // is what keeps our own `recv` and `send` from spinning on a stale flag.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.readable(false).await,
            Socket::Unix(stream) => stream.readable(false).await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.writable(false).await,
            Socket::Unix(stream) => stream.writable(false).await,
        }
    }

    /// Appends what there is, up to the spare capacity. `Ok(None)`: nothing now. `Ok(Some(0))`: end of stream.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        loop {
            match rustix::net::recv(self, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT) {
                Ok((_, n)) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
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
                Err(Errno::AGAIN) => return Ok(None),
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
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// [`Socket::readable`] waits until this many bytes are there (SO_RCVLOWAT). False: this kind of socket cannot. Lowering it
    /// wakes up who already waits for less (`tcp_set_rcvlowat`), and receiving takes what is there whatever was set.
    pub(crate) fn wait_for(&self, bytes: u32) -> bool {
        let Socket::Tcp(_) = self else { return false };
        let Ok(bytes) = libc::c_int::try_from(bytes) else { return false };
        set_low_water_mark(self.as_fd(), bytes)
    }

    /// Ends this direction, or both; whoever waits on the socket wakes up. Failing means the peer was faster.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _already_gone = rustix::net::shutdown(self, how);
    }
}

impl AsFd for Socket {
    #[expect(unsafe_code, reason = "monoio 0.2's streams implement AsRawFd but not AsFd")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        let raw = match self {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
        };
        // SAFETY: the stream owns `raw`, closes it only when dropped, and is borrowed from `self` for as long as the result.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

/// A listening socket of this worker.
pub(crate) struct Listener {
    inner: TcpListener,
    /// The same socket once more, for accepting from and for shutting down.
    fd: StdListener,
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
        let fd = listener.try_clone()?;
        Ok(Listener { inner: TcpListener::from_std(listener)?, fd })
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.inner.readable(false).await
    }

    /// # Errors
    /// Errors that will not pass by trying again at once (out of descriptors or memory).
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        match self.fd.accept() {
            Ok((stream, peer)) => Ok(Accepted::Client(Socket::tcp(stream.into())?, peer)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Accepted::Nobody),
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => Ok(Accepted::Lost),
                _ => Err(error),
            },
        }
    }

    /// Stops accepting, and wakes whoever waits in [`Listener::readable`].
    pub(crate) fn shutdown(&self) {
        let _already_gone = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }
}

#[expect(unsafe_code, reason = "no safe wrapper in our dependencies knows SO_RCVLOWAT")]
fn set_low_water_mark(fd: BorrowedFd<'_>, bytes: libc::c_int) -> bool {
    let (value, len) = (std::ptr::from_ref(&bytes).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `fd` is open while borrowed; `value` points at an int that outlives the call, and `len` is its size.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, len) == 0 }
}
