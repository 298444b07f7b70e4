//! One leg of a connection: a socket, TLS on it if there is any, and who may write to it.
//!
//! Invariant: at most one task writes to a leg ([`Leg::writing`]); what others want to say meanwhile waits in `pending`, in order,
//! and the writer sends it before it lets go. So `pending` is empty whenever nobody writes.
//! Bounded: whoever put bytes into `pending` reads nothing more until they are gone, so it holds at most one event's output per
//! task of the connection.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, BufRead, IoSlice, Write};

use flow::TlsFacts;
use rustls::Connection;

use crate::bell::Bell;
use crate::io::Socket;
use crate::pool::{Input, Pool};

/// What one try to read gave.
pub(crate) enum Got {
    Bytes {
        /// Plain bytes, appended to the input.
        bytes: usize,
        /// The socket filled all the room there was: there is probably more.
        full: bool,
    },
    Nothing,
    End,
}

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    All,
    /// The socket takes no more now. This many bytes are on their way; we are the writer and must go on.
    Some(usize),
    /// Another task is writing and will send these.
    Queued,
}

#[derive(Default)]
pub(crate) struct Leg {
    socket: RefCell<Option<Socket>>,
    tls: RefCell<Option<Box<Connection>>>,
    writing: Cell<bool>,
    /// How often a writer has let go.
    let_goes: Cell<u32>,
    pending: RefCell<Vec<u8>>,
    /// Somebody reads from this leg, or will.
    pub(crate) pumped: Cell<bool>,
    /// The session was told that this side is closed.
    pub(crate) ended: Cell<bool>,
    /// Writing failed: what is sent from now on goes nowhere. Reading finds out by itself.
    broken: Cell<bool>,
    /// There may be bytes inside TLS already: look before waiting for the socket.
    pub(crate) eager: Cell<bool>,
    /// Any byte of this side was ever taken by the session.
    pub(crate) heard: Cell<bool>,
    /// Events of this side so far that changed something.
    pub(crate) events: Cell<u32>,
    /// The other side's `events` when this side's bytes were last shown.
    pub(crate) seen: Cell<u32>,
    pub(crate) bell: Bell,
}

impl Leg {
    pub(crate) fn open(&self, socket: Socket) {
        *self.socket.borrow_mut() = Some(socket);
        self.broken.set(false);
    }

    /// Forgets the socket: another may be tried in its place.
    pub(crate) fn reset(&self) {
        self.let_go_of_socket();
        *self.tls.borrow_mut() = None;
        self.pending.borrow_mut().clear();
        self.writing.set(false);
        self.broken.set(true);
    }

    /// Whoever waits on the socket wakes up and lets go too; then it is closed.
    pub(crate) fn let_go_of_socket(&self) {
        if let Some(socket) = self.socket.borrow_mut().take() {
            socket.rouse();
        }
    }

    pub(crate) fn socket(&self) -> Option<Socket> {
        self.socket.borrow().clone()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.socket.borrow().is_some()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls.borrow().is_some()
    }

    pub(crate) fn is_settled(&self) -> bool {
        !self.writing.get() || self.broken.get()
    }

    // Reading.

    /// Reads what is there now. `size` is the room to offer, `together` how many untaken bytes must fit at least.
    pub(crate) fn read(
        &self,
        pool: &Pool,
        input: &mut Input,
        size: usize,
        together: usize,
    ) -> io::Result<Got> {
        let socket = self.socket.borrow();
        let Some(socket) = socket.as_ref() else { return Ok(Got::End) };
        let together = together.max(size).max(input.len().saturating_add(READ_ROOM_MIN));
        if let Some(tls) = self.tls.borrow_mut().as_deref_mut() {
            let before = input.len();
            unload(tls, pool, input)?;
            if input.len() > before {
                return Ok(Got::Bytes { bytes: input.len() - before, full: false });
            }
            let mut sealed = pool.take(size);
            let room = sealed.capacity();
            let got = socket.receive(&mut sealed);
            let result = match got {
                Ok(Some(0)) => Ok(Got::End),
                Ok(Some(n)) => {
                    unseal(tls, &sealed, pool, input).map(|open| match (input.len() - before, open) {
                        (0, true) => Got::Nothing,
                        (0, false) => Got::End,
                        (bytes, _) => Got::Bytes { bytes, full: n == room },
                    })
                }
                Ok(None) => Ok(Got::Nothing),
                Err(error) => Err(error),
            };
            pool.give(sealed);
            return result;
        }
        let buffer = input.room(pool, together);
        let room = buffer.capacity() - buffer.len();
        Ok(match socket.receive(buffer)? {
            None => Got::Nothing,
            Some(0) => Got::End,
            Some(bytes) => Got::Bytes { bytes, full: bytes == room },
        })
    }

    /// TLS has something of its own to say (an alert, a key update): true when nobody is writing who would send it.
    pub(crate) fn tls_speaks(&self) -> bool {
        !self.writing.get() && self.tls.borrow().as_ref().is_some_and(|tls| tls.wants_write())
    }

    // Writing.

    /// Sends what the socket takes at once. With [`Sent::Some`] the caller is the writer and owes [`Leg::finish`].
    pub(crate) fn send(&self, bytes: &[u8]) -> Sent {
        if self.broken.get() || !self.is_open() {
            return Sent::All;
        }
        if self.writing.get() {
            self.pending.borrow_mut().extend_from_slice(bytes);
            return Sent::Queued;
        }
        match self.push(bytes) {
            Some((_, true)) => Sent::All,
            Some((n, false)) => {
                self.writing.set(true);
                Sent::Some(n)
            }
            None => Sent::All,
        }
    }

    /// Becomes the writer of what only waits in TLS.
    pub(crate) fn hold(&self) {
        self.writing.set(true);
    }

    /// Puts the rest behind the queue, for a writer that owns nothing.
    pub(crate) fn queue(&self, bytes: &[u8]) {
        self.pending.borrow_mut().extend_from_slice(bytes);
    }

    /// The writer's work: sends `bytes`, then everything that was queued meanwhile, then lets go.
    pub(crate) async fn finish(&self, mut bytes: &[u8]) {
        let mut own = Vec::new();
        loop {
            if !self.push_all(bytes).await {
                self.pending.borrow_mut().clear();
                break;
            }
            own.clear();
            std::mem::swap(&mut own, &mut *self.pending.borrow_mut());
            if own.is_empty() {
                break;
            }
            bytes = &own;
            if !self.push_all(bytes).await {
                self.pending.borrow_mut().clear();
                break;
            }
            bytes = &[];
        }
        self.let_go();
    }

    /// Ends being the writer. Pending bytes must have been sent.
    fn let_go(&self) {
        // The memory of a burst is not kept for the life of the connection.
        *self.pending.borrow_mut() = Vec::new();
        self.writing.set(false);
        self.let_goes.set(self.let_goes.get().wrapping_add(1));
        self.bell.ring();
    }

    /// Waits until everything queued before this call is with the kernel, or never will be.
    pub(crate) fn settled(&self) -> impl Future<Output = ()> + '_ {
        // A busy writer may be writing again before we are woken: that it let go once is what counts.
        let seen = self.let_goes.get();
        self.bell.until(move || self.is_settled() || self.let_goes.get() != seen)
    }

    /// False: broken.
    async fn push_all(&self, mut bytes: &[u8]) -> bool {
        loop {
            match self.push(bytes) {
                Some((_, true)) => return true,
                Some((n, false)) => bytes = bytes.get(n..).unwrap_or_default(),
                None => return false,
            }
            let Some(socket) = self.socket() else { return false };
            if socket.writable().await.is_err() {
                self.snap();
                return false;
            }
        }
    }

    /// How many bytes were accepted, and whether everything is with the kernel. `None`: broken.
    fn push(&self, bytes: &[u8]) -> Option<(usize, bool)> {
        if self.broken.get() {
            return None;
        }
        let result = {
            let socket = self.socket.borrow();
            let socket = socket.as_ref()?;
            match self.tls.borrow_mut().as_deref_mut() {
                Some(tls) => push_sealed(socket, tls, bytes),
                None => push_plain(socket, bytes),
            }
        };
        match result {
            Ok(progress) => Some(progress),
            Err(_) => {
                self.snap();
                None
            }
        }
    }

    /// Nothing more will be written, and nobody has to wait for that any longer.
    pub(crate) fn give_up(&self) {
        self.snap();
    }

    fn snap(&self) {
        self.broken.set(true);
        self.bell.ring();
    }

    // TLS.

    /// Runs a handshake; `early` is what the peer already sent of it. The caller is the only task that uses this leg to read.
    ///
    /// # Errors
    /// What went wrong, in rustls' words.
    pub(crate) async fn handshake(
        &self,
        tls: Connection,
        early: &[u8],
        pool: &Pool,
    ) -> Result<TlsFacts, String> {
        // Nobody writes into a handshake: what others say goes to `pending` and is sent inside TLS afterwards.
        self.bell.until(|| self.is_settled()).await;
        self.hold();
        *self.tls.borrow_mut() = Some(Box::new(tls));
        let mut sealed = pool.take(0);
        sealed.extend_from_slice(early);
        let result = self.shake(&mut sealed).await;
        pool.give(sealed);
        if result.is_err() {
            // The alert, if rustls has one. It may not fit; then the peer learns by the closed socket.
            let _best_effort = self.push(&[]);
        }
        self.eager.set(true);
        self.finish(&[]).await;
        result
    }

    async fn shake(&self, sealed: &mut Vec<u8>) -> Result<TlsFacts, String> {
        let socket = self.socket().ok_or("no socket")?;
        loop {
            if !sealed.is_empty() {
                let mut tls = self.tls.borrow_mut();
                let tls = tls.as_deref_mut().ok_or("no TLS")?;
                let mut rest = sealed.as_slice();
                // Plain bytes that came with the end of the handshake stay inside rustls until the next read.
                while !rest.is_empty() {
                    tls.read_tls(&mut rest).map_err(|e| e.to_string())?;
                    tls.process_new_packets().map_err(|e| e.to_string())?;
                }
                sealed.clear();
            }
            loop {
                let progress = {
                    let mut tls = self.tls.borrow_mut();
                    let tls = tls.as_deref_mut().ok_or("no TLS")?;
                    push_sealed(&socket, tls, &[])
                };
                match progress {
                    Ok((_, true)) => break,
                    Ok((_, false)) => socket.writable().await.map_err(|e| e.to_string())?,
                    Err(error) => {
                        self.snap();
                        return Err(error.to_string());
                    }
                }
            }
            {
                let tls = self.tls.borrow();
                let tls = tls.as_deref().ok_or("no TLS")?;
                if !tls.is_handshaking() {
                    return Ok(TlsFacts { alpn: tls.alpn_protocol().map(<[u8]>::to_vec) });
                }
            }
            socket.readable().await;
            if socket.receive(sealed).map_err(|e| e.to_string())? == Some(0) {
                return Err("the peer closed during the handshake".to_owned());
            }
        }
    }

    /// Says goodbye inside TLS, if there is TLS and the socket takes it at once.
    pub(crate) fn close_notify(&self) {
        if self.writing.get() || self.broken.get() {
            return;
        }
        if let Some(tls) = self.tls.borrow_mut().as_deref_mut() {
            tls.send_close_notify();
        }
        if self.has_tls() {
            let _best_effort = self.push(&[]);
        }
    }
}

/// Least room worth a system call.
const READ_ROOM_MIN: usize = 4096;

fn push_plain(socket: &Socket, bytes: &[u8]) -> io::Result<(usize, bool)> {
    let mut sent = 0;
    loop {
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok((sent, true));
        }
        match socket.send(rest)? {
            Some(n) => sent += n,
            None => return Ok((sent, false)),
        }
    }
}

/// rustls holds at most 64 KiB of records (its default limit), so a slow peer costs that much and no more.
fn push_sealed(socket: &Socket, tls: &mut Connection, bytes: &[u8]) -> io::Result<(usize, bool)> {
    let mut sent = 0;
    loop {
        while tls.wants_write() {
            match tls.write_tls(&mut Records(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((sent, false)),
                Err(error) => return Err(error),
            }
        }
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok((sent, true));
        }
        match tls.writer().write(rest)? {
            // Only inside a handshake, whose writer is the handshake itself.
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => sent += n,
        }
    }
}

struct Records<'a>(&'a Socket);

impl Write for Records<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn write_vectored(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match runs {
            [one] => self.write(one),
            _ => self.0.send_runs(runs)?.ok_or_else(|| io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decrypts all of `sealed`. False: the peer said goodbye.
fn unseal(tls: &mut Connection, sealed: &[u8], pool: &Pool, input: &mut Input) -> io::Result<bool> {
    let mut rest = sealed;
    let mut open = true;
    while !rest.is_empty() {
        if tls.read_tls(&mut rest)? == 0 {
            break;
        }
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        open = !state.peer_has_closed();
        unload(tls, pool, input)?;
        if !open {
            break;
        }
    }
    Ok(open)
}

/// Moves what is decrypted into the input.
fn unload(tls: &mut Connection, pool: &Pool, input: &mut Input) -> io::Result<()> {
    loop {
        let mut reader = tls.reader();
        let bytes = match reader.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(chunk) => {
                let together = input.len().saturating_add(chunk.len());
                input.room(pool, together).extend_from_slice(chunk);
                chunk.len()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        reader.consume(bytes);
    }
}
