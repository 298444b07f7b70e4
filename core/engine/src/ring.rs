//! io_uring, for waiting only: polls that stay armed. Data moves by plain `recv` and `send`, so the kernel never holds a buffer
//! of ours, and the one `unsafe` here hands over entries that point at nothing.
//!
//! A watch is a multishot poll: armed once per socket, it posts a completion for every change. Entries are only written down;
//! they go to the kernel with the next wait, all together.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::wait::{Fate, Key, Said};

/// Ring flags, most wanted first. Single issuer with deferred task work saved 12 % CPU per round trip when measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    Deferred,
    Cooperative,
    Plain,
}

/// Entries written down before the kernel is told in between.
const ENTRIES: u32 = 256;
/// Completions the kernel may post between two turns without holding some back.
const COMPLETIONS: u32 = 4096;

impl Flags {
    /// The best ring this kernel gives us.
    ///
    /// # Errors
    /// One line that says why there is none.
    pub(crate) fn probe() -> Result<Flags, String> {
        // On a thread of its own: a ring's end is finished later on the thread that made it, which interrupts whatever system
        // call that thread is in by then (seen: EINTR from a read of the caller's).
        let probe = std::thread::Builder::new().name("lg-probe".to_owned()).spawn(Flags::probe_here);
        match probe.map(std::thread::JoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("probing for io_uring panicked".to_owned()),
            Err(error) => Err(format!("cannot probe for io_uring: {error}")),
        }
    }

    fn probe_here() -> Result<Flags, String> {
        let mut last = None;
        for flags in [Flags::Deferred, Flags::Cooperative, Flags::Plain] {
            // Some sandboxes let a ring be made and refuse to enter it: so enter it.
            match flags.builder().build(8).and_then(|ring| ring.submit().map(|_| ring)) {
                Ok(ring) if !ring.params().is_feature_ext_arg() => {
                    return Err(
                        "this kernel's io_uring cannot wait with a timeout (Linux 5.11 can)".to_owned()
                    );
                }
                Ok(_) => return Ok(flags),
                Err(error) => last = Some(error),
            }
        }
        Err(why_no_ring(last))
    }

    fn builder(self) -> io_uring::Builder {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS);
        match self {
            Flags::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag();
            }
            Flags::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
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

pub(crate) struct Ring {
    ring: IoUring,
    /// Watches that ended by themselves and must be armed again.
    again: VecDeque<(RawFd, Key)>,
}

/// What a completion is about, in the two bits of its number that a [`Key`] leaves.
const WATCH: u64 = 0;
const ROOM: u64 = 1;
const FORGOTTEN: u64 = 2;
const ABOUT: u32 = 62;

impl Ring {
    /// To be called on the thread that uses it: a single-issuer ring belongs to its maker.
    ///
    /// # Errors
    /// The kernel does not give us one.
    pub(crate) fn new(flags: Flags) -> io::Result<Ring> {
        Ok(Ring { ring: flags.builder().build(ENTRIES)?, again: VecDeque::new() })
    }

    /// Tells of every change from now on that makes the socket readable, and once now if it is.
    ///
    /// # Errors
    /// The kernel does not take entries.
    pub(crate) fn watch(&mut self, fd: RawFd, key: Key) -> io::Result<()> {
        let events = u32::from((PollFlags::IN | PollFlags::RDHUP).bits());
        self.push(&opcode::PollAdd::new(Fd(fd), events).multi(true).build().user_data(number(WATCH, key)))
    }

    /// Tells once when there is room to write.
    ///
    /// # Errors
    /// The kernel does not take entries.
    pub(crate) fn await_room(&mut self, fd: RawFd, key: Key) -> io::Result<()> {
        let events = u32::from(PollFlags::OUT.bits());
        self.push(&opcode::PollAdd::new(Fd(fd), events).build().user_data(number(ROOM, key)))
    }

    /// Tells once when somebody waits to be accepted.
    ///
    /// # Errors
    /// The kernel does not take entries.
    pub(crate) fn await_client(&mut self, fd: RawFd, key: Key) -> io::Result<()> {
        let events = u32::from(PollFlags::IN.bits());
        self.push(&opcode::PollAdd::new(Fd(fd), events).build().user_data(number(WATCH, key)))
    }

    /// Ends the socket's watches. Until the kernel has read this, at the next wait, the socket is not really closed.
    pub(crate) fn forget(&mut self, key: Key, room_too: bool) {
        self.again.retain(|(_, ended)| *ended != key);
        for about in [WATCH, ROOM].into_iter().take(if room_too { 2 } else { 1 }) {
            let entry = opcode::PollRemove::new(number(about, key)).build().user_data(number(FORGOTTEN, key));
            if self.push(&entry).is_err() {
                tracing::error!("the ring does not let go of a socket");
            }
        }
    }

    /// See [`crate::wait::Sources::wait`]. `hear` returns the descriptor of a watch that must be armed again.
    ///
    /// # Errors
    /// The ring does not work.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut hear: impl FnMut(Key, Said, Fate) -> Option<RawFd>,
    ) -> io::Result<()> {
        while let Some((fd, key)) = self.again.pop_front() {
            self.watch(fd, key)?;
        }
        if !self.ring.completion().is_empty() || timeout == Some(Duration::ZERO) {
            let submission = self.ring.submission();
            // With nothing to say and nothing to hear there is no reason to enter.
            if !submission.is_empty() || submission.taskrun() || submission.cq_overflow() {
                drop(submission);
                entered(self.ring.submit())?;
            }
        } else if let Some(timeout) = timeout {
            let timeout = Timespec::from(timeout);
            entered(self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)))?;
        } else {
            entered(self.ring.submit_and_wait(1))?;
        }
        for completion in self.ring.completion() {
            let (about, key) = (completion.user_data() >> ABOUT, Key::from_number(completion.user_data()));
            let result = completion.result();
            if about == FORGOTTEN || result == -Errno::CANCELED.raw_os_error() {
                continue;
            }
            let events = PollFlags::from_bits_retain(u16::try_from(result).unwrap_or(0));
            let said = Said {
                readable: about == WATCH && events.intersects(PollFlags::IN),
                writable: about == ROOM,
                over: events.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
                failed: result < 0,
            };
            let fate = match about {
                WATCH if cqueue::more(completion.flags()) => Fate::Stays,
                WATCH => Fate::Ended,
                _ => Fate::RoomTold,
            };
            if let Some(fd) = hear(key, said, fate) {
                self.again.push_back((fd, key));
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) {
        if let Err(error) = entered(self.ring.submit()) {
            tracing::error!(%error, "the ring does not let go of its sockets");
        }
    }

    #[expect(unsafe_code, reason = "the kernel trusts what an entry says about memory")]
    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        for _ in 0..2 {
            // SAFETY: only polls are pushed: no entry points at memory. A descriptor that is no longer ours can only wake us
            // without cause, and `Source`s are removed before theirs is closed.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            entered(self.ring.submit())?;
        }
        Err(io::Error::other("the ring takes no entries"))
    }
}

/// What is no failure of entering: a signal, the time, and completions that must be read first.
fn entered(outcome: io::Result<usize>) -> io::Result<()> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INTR | Errno::TIME | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

fn number(about: u64, key: Key) -> u64 {
    about << ABOUT | key.number()
}
