//! Who writes the record: opening (and mending what a killed predecessor left), the workers' recorders, the drainer.
//!
//! Not on tokio: the drainer is one plain thread that may wait for the disk. It looks as often as it takes for a good piece to
//! gather, at most 200 and at least four times a second; a worker wakes it only when its ring is half full, so an append is a copy
//! and two stores and never a system call. Nobody waits for the drainer to *see* an entry: readers look into the rings too.
//!
//! Syncing is a second thread's: a disk that takes a second for it must not keep the rings from being emptied.
//!
//! Invariant: a ring's tail moves only after the frames before it are written to the log. A killed process leaves frames in its
//! rings; the next [`Ledger::open`] writes them to the log before it does anything else, those already there left out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};

use flow::record::{Entry, What};
use flow::{Fault, Recorder};

use super::ring::{self, Origin, Piece, Ring, Spool, Walk};
use super::segment::{self, BATCH_HEADER, Chain, Disk, End, RealDisk, SegmentReader, Stop, VERSION, Writer};
use super::{Places, spools};

#[derive(Clone, Debug)]
pub struct Options {
    /// Size of each worker's ring. A power of two; an entry may be a quarter of it.
    pub ring_bytes: u64,
    /// A segment that would grow beyond this is finished and the next one begun.
    pub segment_bytes: u64,
    /// How long an append waits for room in a full ring before it fails, and the whole worker with it. Sessions ask first
    /// ([`Recorder::has_room`]) and wait by themselves; only the outcome of a statement cannot, and a part of the ring is kept free
    /// for these.
    pub full_wait: Duration,
    /// How often the log is put on the disk. Surviving `kill -9` does not need it; losing power costs at most this.
    pub sync_every: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ring_bytes: 8 << 20,
            segment_bytes: 64 << 20,
            full_wait: Duration::from_millis(20),
            sync_every: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("another lockgate writes the record in {}: one state directory, one gateway", .0.display())]
    Locked(PathBuf),
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("ring_bytes is {0}: it must be a power of two from 64 KiB to 4 GiB")]
    RingSize(u64),
    #[error("the record has no worker {0}")]
    NoWorker(usize),
    #[error("worker {0} has its recorder already")]
    Taken(usize),
    #[error("segment {}: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "segment {} is of version {version} of the format, and this lockgate reads {VERSION}; nothing was changed: read it with the \
         lockgate that wrote it, and move the directory `record` away to begin a new one",
        path.display()
    )]
    Foreign { path: PathBuf, version: u32 },
    #[error(
        "the record was closed with {bytes} bytes that could not be written; they are in the spool: {why}"
    )]
    Unwritten { bytes: u64, why: String },
}

/// How the record is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing can be written to the log at the moment. Entries gather in the rings until these are full.
    pub broken: Option<String>,
    /// Why the log may not survive a loss of power: its last sync failed.
    pub unsynced: Option<String>,
    /// Bytes in rings that are not in the log yet.
    pub pending_bytes: u64,
    /// Frames written to the log since the start.
    pub written: u64,
    /// Appends refused since the start.
    pub refused: u64,
}

/// The record of one gateway, open for writing.
pub struct Ledger {
    shared: Arc<Shared>,
    producers: Vec<Mutex<Option<Producer>>>,
    gateway: Mutex<Option<Producer>>,
    /// For looking at only: who holds a ring keeps its file.
    rings: Vec<Weak<Ring>>,
    drainer: Mutex<Option<JoinHandle<Result<(), LedgerError>>>>,
    /// Held for as long as this lives.
    _lock: File,
}

/// What the drainer and the recorders share.
#[derive(Default)]
struct Shared {
    drainer: OnceLock<Thread>,
    /// No more entries.
    closed: AtomicBool,
    /// The drainer is to drain and end.
    stop: AtomicBool,
    broken: AtomicBool,
    why: Mutex<String>,
    unsynced: Mutex<Option<String>>,
    written: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    fn wake(&self) {
        if let Some(thread) = self.drainer.get() {
            thread.unpark();
        }
    }

    fn why(&self) -> String {
        self.why.lock().map(|w| w.clone()).unwrap_or_default()
    }
}

impl Ledger {
    /// Opens the record below `state` for `workers` workers, after writing to the log what a predecessor left in its rings.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] when another process has it; a full disk shows here and not in the middle of the night.
    pub fn open(state: &Path, workers: usize, options: Options) -> Result<Ledger, LedgerError> {
        Ledger::open_on(state, workers, options, Box::new(RealDisk))
    }

    fn open_on(
        state: &Path,
        workers: usize,
        options: Options,
        disk: Box<dyn Disk>,
    ) -> Result<Ledger, LedgerError> {
        if !ring::capacity_is_sound(options.ring_bytes) {
            return Err(LedgerError::RingSize(options.ring_bytes));
        }
        let places = Places::new(state);
        for dir in [&places.record, &places.spool, &places.log] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))?;
        }
        let lock = lock(&places.lock)?;
        let mut recovery = recover(&places, &options, disk)?;
        for file in recovery.writer.take_unsynced().map_err(io_error("open", &places.log))? {
            file.sync_data().map_err(io_error("sync the record in", &places.log))?;
        }
        for spool in recovery.spools {
            std::fs::remove_file(&spool).map_err(io_error("remove", &spool))?;
        }

        let shared = Arc::new(Shared::default());
        let mut rings = Vec::new();
        let mut producers = Vec::new();
        for worker in 0..=workers {
            // The last ring is the gateway's own: [`Ledger::gateway_event`].
            let path = places.spool.join(format!("{worker:03}.ring"));
            let worker = u32::try_from(worker).map_err(|_| LedgerError::NoWorker(worker))?;
            let ring = Ring::create(&path, Origin { run: recovery.run, worker }, options.ring_bytes)
                .map_err(io_error("allocate", &path))?;
            let ring = Arc::new(ring);
            rings.push(ring.clone());
            producers.push(Producer::new(ring, shared.clone(), options.full_wait));
        }
        let gateway = producers.pop().ok_or(LedgerError::NoWorker(workers))?;
        let looks = rings.iter().map(Arc::downgrade).collect();
        let (sync, files) = mpsc::channel();
        let syncer = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("lg-sync".into())
                .spawn(move || sync_files(&files, &shared))
                .map_err(io_error("start the thread that syncs", &places.log))?
        };
        let drainer = Drainer {
            sync,
            syncer,
            rings,
            writer: recovery.writer,
            shared: shared.clone(),
            batch: Vec::new(),
            sync_every: options.sync_every,
        };
        let thread = std::thread::Builder::new()
            .name("lg-record".into())
            .spawn(move || drainer.run())
            .map_err(io_error("start the thread that writes", &places.log))?;
        // Set before anybody can append; nobody else sets it.
        let _ = shared.drainer.set(thread.thread().clone());
        Ok(Ledger {
            shared,
            producers: producers.into_iter().map(|p| Mutex::new(Some(p))).collect(),
            gateway: Mutex::new(Some(gateway)),
            rings: looks,
            drainer: Mutex::new(Some(thread)),
            _lock: lock,
        })
    }

    /// The recorder of one worker; there is one, and it is given once.
    ///
    /// # Errors
    /// [`LedgerError::NoWorker`] and [`LedgerError::Taken`].
    pub fn recorder(&self, worker: usize) -> Result<Box<dyn Recorder + Send>, LedgerError> {
        let slot = self.producers.get(worker).ok_or(LedgerError::NoWorker(worker))?;
        let producer = slot.lock().ok().and_then(|mut p| p.take()).ok_or(LedgerError::Taken(worker))?;
        Ok(Box::new(producer))
    }

    /// Records something about the gateway itself (start, reload, stop). From any thread; waits its turn.
    ///
    /// # Errors
    /// As an append's.
    pub fn gateway_event(&self, event: &str, detail: &str) -> Result<(), Fault> {
        let entry = Entry { session: [0; 16], unix_ns: unix_ns(), what: What::Gateway { event, detail } };
        let mut gateway = self.gateway.lock().map_err(|_| Fault::Unrecorded)?;
        gateway.as_mut().ok_or(Fault::Unrecorded)?.append(&entry)
    }

    pub fn health(&self) -> Health {
        let ended = self.drainer.lock().ok().is_none_or(|d| d.as_ref().is_none_or(JoinHandle::is_finished));
        let broken = if self.shared.broken.load(Ordering::Acquire) {
            Some(self.shared.why())
        } else if ended && !self.shared.stop.load(Ordering::Acquire) {
            Some("the thread that writes the record has ended".to_owned())
        } else {
            None
        };
        Health {
            broken,
            unsynced: self.shared.unsynced.lock().ok().and_then(|u| u.clone()),
            pending_bytes: self.pending(),
            written: self.shared.written.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
        }
    }

    fn pending(&self) -> u64 {
        self.rings.iter().filter_map(Weak::upgrade).map(|r| r.head().saturating_sub(r.tail())).sum()
    }

    /// Takes no more entries, writes what is in the rings to the log and puts it on the disk. Again: nothing.
    ///
    /// # Errors
    /// [`LedgerError::Unwritten`]: what the log could not take stays in the rings for the next start.
    pub fn close(&self) -> Result<(), LedgerError> {
        self.shared.closed.store(true, Ordering::SeqCst);
        // A ring whose producer is gone can be removed once it is empty.
        for slot in self.producers.iter().chain([&self.gateway]) {
            if let Ok(mut producer) = slot.lock() {
                producer.take();
            }
        }
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        let thread = self.drainer.lock().ok().and_then(|mut d| d.take());
        match thread.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(LedgerError::Unwritten {
                bytes: self.pending(),
                why: "the thread that writes the record panicked".to_owned(),
            }),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(e) = self.close() {
            tracing::error!(error = %e, "closing the record");
        }
    }
}

fn lock(path: &Path) -> Result<File, LedgerError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LedgerError::Locked(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => {
            Err(LedgerError::Io { what: "lock", path: path.to_owned(), source })
        }
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { what, path, source }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

// ---------------------------------------------------------------------------------------------------------------- append

/// A worker's end of its ring.
struct Producer {
    ring: Arc<Ring>,
    shared: Arc<Shared>,
    head: u64,
    /// The tail as last seen: the real one is here or further on.
    tail: u64,
    /// Room for a frame's header, and the entry being appended.
    frame: Vec<u8>,
    full_wait: Duration,
}

impl Producer {
    fn new(ring: Arc<Ring>, shared: Arc<Shared>, full_wait: Duration) -> Producer {
        let mut frame = Vec::with_capacity(4096);
        frame.resize(ring::FRAME_HEADER, 0);
        Producer { head: 0, tail: 0, frame, ring, shared, full_wait }
    }

    fn refuse(&self) -> Fault {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        Fault::Unrecorded
    }

    /// Waits for `need` bytes of room, not longer than agreed.
    #[cold]
    fn make_room(&mut self, need: u64) -> Result<(), Fault> {
        let deadline = Instant::now() + self.full_wait;
        self.shared.wake();
        let mut nap = Duration::from_micros(20);
        loop {
            if self.has(need) {
                return Ok(());
            }
            // A log that cannot be written makes no room: do not hold up the worker's other sessions for it.
            if self.shared.broken.load(Ordering::Acquire) || Instant::now() >= deadline {
                return Err(self.refuse());
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(1));
        }
    }
}

impl Producer {
    /// Room in the ring as last seen.
    fn free(&self) -> u64 {
        self.ring.capacity - (self.head - self.tail)
    }

    /// The same, looked at again when it is less than that.
    fn has(&mut self, bytes: u64) -> bool {
        if self.free() < bytes {
            self.tail = self.ring.tail();
        }
        self.free() >= bytes
    }
}

impl Recorder for Producer {
    fn append(&mut self, entry: &Entry<'_>) -> Result<(), Fault> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(self.refuse());
        }
        self.frame.truncate(ring::FRAME_HEADER);
        entry.encode(&mut self.frame);
        let length = ring::pad(&mut self.frame);
        let need = self.frame.len() as u64;
        let Some(length) = length.filter(|_| need <= self.ring.capacity / 4) else {
            tracing::error!(bytes = need, "an entry is larger than a quarter of its ring");
            return Err(self.refuse());
        };
        if !self.has(need) {
            self.make_room(need)?;
        }
        self.ring.publish(self.head, &self.frame, length);
        self.head += need;
        if !self.has(self.ring.capacity / 2) {
            self.shared.wake();
        }
        Ok(())
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        // A quarter of the ring is for the outcomes of what was let through.
        let need = (bytes + ENTRY_BYTES) as u64 + self.ring.capacity / 4;
        // One that can never be taken, or not as long as the log is broken, is refused and not waited for.
        let hopeless = need > self.ring.capacity / 2
            || self.shared.broken.load(Ordering::Acquire)
            || self.shared.closed.load(Ordering::Acquire);
        self.has(need) || hopeless || {
            self.shared.wake();
            false
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------- drain

struct Drainer {
    sync: mpsc::Sender<File>,
    syncer: JoinHandle<()>,
    rings: Vec<Arc<Ring>>,
    writer: Writer,
    shared: Arc<Shared>,
    /// Room for a batch's header, and what was copied out of a ring.
    batch: Vec<u8>,
    sync_every: Duration,
}

impl Drainer {
    fn run(mut self) -> Result<(), LedgerError> {
        let mut wait = LOOK_MIN;
        let mut synced = Instant::now();
        loop {
            // Before the pass: what was appended before the stop is seen by a pass that begins after it.
            let stop = self.shared.stop.load(Ordering::SeqCst);
            let mut result = self.pass();
            let (finished, grown) = self.writer.unsynced();
            if finished || (grown && (stop || synced.elapsed() >= self.sync_every)) {
                synced = Instant::now();
                result = result.and_then(|n| self.hand_over().map(|()| n));
            }
            let failed = result.is_err();
            match result {
                Ok(drained) => {
                    // As long as it takes for a piece to gather, were it to go on like this; not more than twice as long as before.
                    let often = drained.saturating_mul(100) / PIECE_BYTES;
                    let often = u32::try_from(often).unwrap_or(u32::MAX).max(50);
                    wait = (wait * 100 / often).clamp(LOOK_MIN, LOOK_MAX);
                    self.mended();
                }
                Err(e) => self.broke(&e),
            }
            if stop {
                return self.finish();
            }
            if failed {
                // Workers with full rings wake us for nothing: the disk is asked once a second whatever they do.
                let until = Instant::now() + RETRY;
                while let Some(left) = until.checked_duration_since(Instant::now())
                    && !self.shared.stop.load(Ordering::SeqCst)
                {
                    std::thread::park_timeout(left);
                }
            } else {
                std::thread::park_timeout(wait);
            }
        }
    }

    /// Has somebody else wait for the disk.
    fn hand_over(&mut self) -> io::Result<()> {
        for file in self.writer.take_unsynced()? {
            self.sync.send(file).map_err(|_| io::Error::other("the thread that syncs has ended"))?;
        }
        Ok(())
    }

    /// Writes what is in the rings now, a bounded piece of each at a time. How many bytes that were.
    fn pass(&mut self) -> io::Result<u64> {
        let mut drained = 0;
        let heads: Vec<u64> = self.rings.iter().map(|r| r.head()).collect();
        loop {
            let mut moved = false;
            for n in 0..self.rings.len() {
                let (Some(ring), Some(&head)) = (self.rings.get(n).cloned(), heads.get(n)) else { continue };
                let tail = ring.tail();
                if tail < head {
                    let (to, frames) = self.drain(&ring, tail, head)?;
                    ring.release(to);
                    drained += to - tail;
                    self.shared.written.fetch_add(u64::from(frames), Ordering::Relaxed);
                    moved = true;
                }
            }
            if !moved {
                return Ok(drained);
            }
        }
    }

    /// Writes a piece of one ring; how far it got and how many frames it wrote.
    fn drain(&mut self, ring: &Ring, tail: u64, head: u64) -> io::Result<(u64, u32)> {
        let mut size = (head - tail).min(PIECE_BYTES);
        loop {
            self.batch.clear();
            self.batch.resize(BATCH_HEADER, 0);
            ring.copy_out(tail, tail + size, &mut self.batch);
            let window = self.batch.get(BATCH_HEADER..).unwrap_or_default();
            let (mut done, mut frames, mut loss) = (tail, 0, None);
            for piece in Walk::new(window, tail, ring.capacity / 4, tail + size < head) {
                match piece {
                    Piece::Frame { next, .. } => (done, frames) = (next, frames + 1),
                    // Cannot be while memory is sound. What can be saved is; the loss is said where it cannot be overlooked.
                    Piece::Torn { position, next } => {
                        loss = Some((position, next));
                        break;
                    }
                    Piece::Cut { need } if done == tail => size = need.max(size + 8).min(head - tail),
                    Piece::Cut { .. } => {}
                }
            }
            if done > tail {
                self.batch.truncate(BATCH_HEADER + (done - tail) as usize);
                self.writer.write(ring.origin, &mut self.batch, frames, unix_ns())?;
                return Ok((done, frames));
            }
            if let Some((position, next)) = loss {
                let mut batch = Batching::new(ring.origin);
                batch.put(position, &torn(&ring.path, position, next));
                batch.write(&mut self.writer)?;
                return Ok((next, 1));
            }
        }
    }

    fn mended(&self) {
        if self.shared.broken.swap(false, Ordering::AcqRel) {
            tracing::info!("the record can be written again");
        }
    }

    fn broke(&self, e: &io::Error) {
        if let Ok(mut why) = self.shared.why.lock() {
            *why = e.to_string();
        }
        if !self.shared.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(error = %e, "the record cannot be written; statements are refused once its rings are full");
        }
    }

    /// Removes the rings that are empty and nobody writes to any more; others are drained by the next start.
    fn finish(self) -> Result<(), LedgerError> {
        // It ends when it has synced what it was given.
        drop(self.sync);
        if self.syncer.join().is_err() {
            tracing::error!("the thread that syncs the record panicked");
        }
        let mut left = 0;
        for ring in self.rings {
            let bytes = ring.head() - ring.tail();
            left += bytes;
            let path = ring.path.clone();
            // A recorder still alive may be in the middle of an append that it began before the end.
            if bytes == 0 && Arc::strong_count(&ring) == 1 {
                std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        if self.shared.broken.load(Ordering::Acquire) {
            return Err(LedgerError::Unwritten { bytes: left, why: self.shared.why() });
        }
        Ok(())
    }
}

/// Syncs what it is given, in order. An error is said and shown; the file's next sync tries again.
fn sync_files(files: &mpsc::Receiver<File>, shared: &Shared) {
    while let Ok(file) = files.recv() {
        let failed = file.sync_data().err().map(|e| e.to_string());
        if let Ok(mut unsynced) = shared.unsynced.lock() {
            if let Some(why) = &failed
                && unsynced.is_none()
            {
                tracing::error!(why, "the record cannot be synced; it would not survive a loss of power");
            }
            *unsynced = failed;
        }
    }
}

/// Frames on their way into the log that are not copied out of a ring in one piece.
struct Batching {
    origin: Origin,
    bytes: Vec<u8>,
    count: u32,
}

impl Batching {
    fn new(origin: Origin) -> Batching {
        Batching { origin, bytes: vec![0; BATCH_HEADER], count: 0 }
    }

    fn put(&mut self, position: u64, entry: &[u8]) {
        ring::put_frame(&mut self.bytes, position, entry);
        self.count += 1;
    }

    fn write(&mut self, writer: &mut Writer) -> io::Result<()> {
        writer.write(self.origin, &mut self.bytes, self.count, unix_ns())?;
        self.bytes.truncate(BATCH_HEADER);
        self.count = 0;
        Ok(())
    }
}

fn gateway_entry(event: &str, detail: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Entry { session: [0; 16], unix_ns: unix_ns(), what: What::Gateway { event, detail } }.encode(&mut out);
    out
}

fn torn(path: &Path, position: u64, next: u64) -> Vec<u8> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    gateway_entry(
        "record.torn",
        &format!(
            "{} bytes of ring {name} at position {position} were no frame and are lost",
            next - position
        ),
    )
}

// --------------------------------------------------------------------------------------------------------------- recover

struct Recovery {
    writer: Writer,
    /// Greater than any run in the log.
    run: u64,
    /// Drained; to be removed.
    spools: Vec<PathBuf>,
}

/// Mends the end of the log and writes to it what the spools of a predecessor hold.
fn recover(places: &Places, options: &Options, disk: Box<dyn Disk>) -> Result<Recovery, LedgerError> {
    let mut notes = Vec::new();
    let mut segments = segment::list(&places.log).map_err(io_error("list", &places.log))?;
    // What a kill between making a segment and writing its header leaves.
    while let Some((_, path)) = segments.last() {
        match SegmentReader::open(path) {
            Err(Stop::Short) => {
                let bytes = std::fs::metadata(path).map_err(io_error("read", path))?.len();
                if bytes > 0 {
                    notes.push(format!("{bytes} bytes of a segment's header were dropped"));
                }
                std::fs::remove_file(path).map_err(io_error("remove", path))?;
                segments.pop();
            }
            _ => break,
        }
    }
    let mut last = match segments.last() {
        None => Last::default(),
        Some((number, path)) => scan(*number, path)?,
    };
    if let Some(torn) = &last.torn {
        notes.push(set_aside(&places.log, torn)?);
    }
    // What was in flight when the predecessor died lies in the last segment it wrote to. When that is a fresh one, it may be the
    // one before.
    if let Some((number, path)) = segments.len().checked_sub(2).and_then(|n| segments.get(n)) {
        // Damage there is for `verify` to say; here it could only mean an entry written twice.
        for (origin, position) in scan(*number, path).map(|s| s.drained).unwrap_or_default() {
            last.drained.entry(origin).or_insert(position);
        }
    }
    let spools = spools(&places.spool).map_err(io_error("list", &places.spool))?;
    let mut found = Vec::new();
    for path in &spools {
        match Spool::read(path).map_err(io_error("read", path))? {
            Some(spool) => found.push((path, spool)),
            None => {
                let aside = path.with_extension("damaged");
                std::fs::rename(path, &aside).map_err(io_error("set aside", path))?;
                notes.push(format!("ring {} was unreadable and set aside", name(&aside)));
            }
        }
    }
    let past = last.drained.keys().chain(found.iter().map(|(_, s)| &s.origin)).map(|o| o.run).max();
    let run = unix_ns().max(past.map_or(0, |r| r + 1));

    let mut writer =
        Writer::new(&places.log, disk, options.segment_bytes, last.number, last.length, last.end)
            .map_err(io_error("open the log in", &places.log))?;
    let failed = || io_error("write the record in", &places.log);
    for (n, note) in notes.iter().enumerate() {
        tracing::warn!("{note}");
        let mut batch = Batching::new(Origin { run, worker: LEDGER });
        batch.put(n as u64, &gateway_entry("record.truncated", note));
        batch.write(&mut writer).map_err(failed())?;
    }
    let mut saved = 0_u64;
    for (path, spool) in &found {
        let drained = last.drained.get(&spool.origin).copied();
        let mut batch = Batching::new(spool.origin);
        let mut next = None;
        for piece in spool.walk() {
            let (position, entry, after) = match piece {
                Piece::Frame { position, entry, next } => (position, Cow::Borrowed(entry), Some(next)),
                // What is said of it is no longer or shorter than what was lost only by chance.
                Piece::Torn { position, next } => (position, Cow::Owned(torn(path, position, next)), None),
                // The walk was told that nothing follows.
                Piece::Cut { .. } => continue,
            };
            if drained.is_some_and(|d| position <= d) {
                continue;
            }
            // The frames of a batch follow each other without a gap.
            if next != Some(position) || batch.bytes.len() as u64 > PIECE_BYTES {
                batch.write(&mut writer).map_err(failed())?;
            }
            batch.put(position, &entry);
            (saved, next) = (saved + 1, after);
        }
        batch.write(&mut writer).map_err(failed())?;
    }
    if saved > 0 {
        tracing::info!(
            entries = saved,
            "saved entries that a previous run had recorded and not yet written to the log"
        );
    }
    let spools = found.into_iter().map(|(path, _)| path.clone()).collect();
    Ok(Recovery { writer, run, spools })
}

/// What the last segment says.
struct Last {
    number: u64,
    /// Of its sound part; `None`: begin a new one.
    length: Option<u64>,
    end: End,
    drained: HashMap<Origin, u64>,
    torn: Option<Torn>,
}

struct Torn {
    path: PathBuf,
    offset: u64,
    why: String,
}

impl Default for Last {
    fn default() -> Last {
        let end = End { seq: 1, chain: [0; 32] };
        Last { number: 0, length: None, end, drained: HashMap::new(), torn: None }
    }
}

fn scan(number: u64, path: &Path) -> Result<Last, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged { path: path.to_owned(), what };
    let mut reader = match SegmentReader::open(path) {
        Ok(reader) => reader,
        Err(Stop::Io(source)) => return Err(io_error("read", path)(source)),
        Err(Stop::Foreign(version)) => return Err(LedgerError::Foreign { path: path.to_owned(), version }),
        // Not ours to repair: without its header nothing says where the chain stands.
        Err(e) => return Err(damaged(e.to_string())),
    };
    if reader.header.number != number {
        return Err(damaged(format!("its header says number {}", reader.header.number)));
    }
    let mut end = End { seq: reader.header.first, chain: reader.header.chain };
    let mut drained = HashMap::new();
    let mut torn = None;
    loop {
        let offset = reader.offset;
        let why = match reader.next() {
            Ok(None) => break,
            Ok(Some(batch)) if batch.first == end.seq && batch.chain == batch.expected_chain(&end.chain) => {
                match batch.frames().as_deref() {
                    Some([.., (position, _)]) => {
                        end = End { seq: batch.first + u64::from(batch.count), chain: batch.chain };
                        drained.insert(batch.origin, *position);
                        continue;
                    }
                    Some([]) | None => "a batch is not made of frames".to_owned(),
                }
            }
            Ok(Some(_)) => "the chain is broken".to_owned(),
            Err(Stop::Io(source)) => return Err(io_error("read", path)(source)),
            Err(e) => e.to_string(),
        };
        torn = Some(Torn { path: path.to_owned(), offset, why });
        reader.offset = offset;
        break;
    }
    Ok(Last { number, length: Some(reader.offset), end, drained, torn })
}

/// Keeps what is cut off the log's end, whatever it is: usually half a frame, but it is not ours to judge.
fn set_aside(log: &Path, torn: &Torn) -> Result<String, LedgerError> {
    let file = File::open(&torn.path).map_err(io_error("open", &torn.path))?;
    let length = file.metadata().map_err(io_error("read", &torn.path))?.len();
    let size = usize::try_from(length.saturating_sub(torn.offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, torn.offset).map_err(io_error("read", &torn.path))?;
    let aside = log.join(format!("{}.torn-{}", name(&torn.path), torn.offset));
    let write = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()
    };
    write().map_err(io_error("write", &aside))?;
    Ok(format!(
        "segment {} was cut at byte {} ({}); the {size} bytes behind it are in {}",
        name(&torn.path),
        torn.offset,
        torn.why,
        name(&aside)
    ))
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The worker number of entries that the ledger itself writes while it opens.
const LEDGER: u32 = u32::MAX;
/// Frames of this many bytes are written at once, under one digest; the ring gets its room back in such pieces. Twice this fits
/// into a core's second-level cache.
const PIECE_BYTES: u64 = 256 << 10;
/// Between two looks: at 80,000 statements a second a piece gathers in about 13 ms; while nothing comes, four wake-ups a second cost
/// nothing measurable, and nobody waits for them.
const LOOK_MIN: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(250);
/// Of an entry, beside its texts and values, with its frame: generously.
const ENTRY_BYTES: usize = 512;
const RETRY: Duration = Duration::from_secs(1);
const _: () = assert!(size_of::<Chain>() == 32);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::read::{Reader, verify};

    /// Takes `room` more bytes, half-writes what is one too many, and then is full until told otherwise.
    #[derive(Clone)]
    struct SmallDisk {
        room: Arc<Mutex<u64>>,
    }

    impl Disk for SmallDisk {
        fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
            // Held while it writes: what a test sets meanwhile must stay.
            let mut room = self.room.lock().unwrap();
            let n = usize::try_from(*room).unwrap().min(bytes.len());
            file.write_all_at(&bytes[..n], at)?;
            *room -= n as u64;
            if n < bytes.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
        }
    }

    fn small() -> Options {
        Options { ring_bytes: 64 << 10, segment_bytes: 100 << 10, ..Options::default() }
    }

    fn numbered(n: u64) -> (String, [u8; 16]) {
        (format!("{n}"), [1; 16])
    }

    /// Appends and waits until it is in the log: a batch of its own.
    fn append_alone(ledger: &Ledger, recorder: &mut dyn Recorder, n: u64) {
        append(recorder, n).unwrap();
        while ledger.health().pending_bytes > 0 {
            ledger.shared.wake();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn append(recorder: &mut dyn Recorder, n: u64) -> Result<(), Fault> {
        let (text, session) = numbered(n);
        let what = What::Closed { reason: &text, statements: n, from_client: 0, to_client: 0 };
        recorder.append(&Entry { session, unix_ns: n, what })
    }

    /// The numbers appended, in the order of the record, and what the gateway said.
    fn contents(state: &Path) -> (Vec<u64>, Vec<String>) {
        let (mut numbers, mut said) = (Vec::new(), Vec::new());
        for (n, recorded) in Reader::open(state).unwrap().enumerate() {
            let recorded = recorded.unwrap();
            assert_eq!(recorded.seq, n as u64 + 1);
            match recorded.entry().unwrap().what {
                What::Closed { statements, .. } => numbers.push(statements),
                What::Gateway { event, detail } => said.push(format!("{event}: {detail}")),
                other => panic!("{other:?}"),
            }
        }
        (numbers, said)
    }

    #[test]
    fn a_full_disk_refuses_once_the_ring_is_full_and_recovers_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk { room: Arc::new(Mutex::new(20_000)) };
        let ledger = Ledger::open_on(dir.path(), 1, small(), Box::new(disk.clone())).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        let mut n = 0;
        while append(recorder.as_mut(), n + 1).is_ok() {
            n += 1;
            assert!(n < 100_000, "the disk is never full");
            if n % 200 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let health = ledger.health();
        assert!(health.broken.is_some() && health.pending_bytes > 60_000, "{health:?}");
        // Everything that was accepted can be read, in the log or in the ring.
        assert_eq!(contents(dir.path()).0, (1..=n).collect::<Vec<_>>());
        // Refused at once, not after the wait for room.
        let start = Instant::now();
        assert!(append(recorder.as_mut(), 0).is_err());
        assert!(start.elapsed() < Duration::from_millis(150));

        *disk.room.lock().unwrap() = u64::MAX / 2;
        let start = Instant::now();
        while append(recorder.as_mut(), n + 1).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "never mended: {:?}", ledger.health());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(contents(dir.path()).0, (1..=n + 1).collect::<Vec<_>>());
        ledger.close().unwrap();
        assert_eq!(ledger.health().broken, None);
        assert_eq!(contents(dir.path()).0, (1..=n + 1).collect::<Vec<_>>());
        assert_eq!(verify(dir.path()).unwrap().last, n + 1);
    }

    #[test]
    fn closed_on_a_full_disk_it_keeps_the_rest_for_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk { room: Arc::new(Mutex::new(1000)) };
        let ledger = Ledger::open_on(dir.path(), 1, small(), Box::new(disk)).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        for n in 1..=100 {
            append(recorder.as_mut(), n).unwrap();
        }
        drop(recorder);
        assert!(matches!(ledger.close(), Err(LedgerError::Unwritten { bytes: 1.., .. })));
        drop(ledger);
        Ledger::open(dir.path(), 3, small()).unwrap().close().unwrap();
        assert_eq!(contents(dir.path()), ((1..=100).collect(), vec![]));
    }

    #[test]
    fn a_torn_end_of_the_log_is_cut_at_every_byte_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 1, small()).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        for n in 1..=3 {
            append_alone(&ledger, recorder.as_mut(), n);
        }
        drop(recorder);
        ledger.close().unwrap();
        drop(ledger);
        let log = dir.path().join("record/log");
        let whole = std::fs::read(segment::path(&log, 1)).unwrap();
        let frame = (whole.len() - segment::HEADER_BYTES) / 3;
        for cut in segment::HEADER_BYTES..whole.len() {
            for name in std::fs::read_dir(&log).unwrap() {
                std::fs::remove_file(name.unwrap().path()).unwrap();
            }
            std::fs::write(segment::path(&log, 1), &whole[..cut]).unwrap();
            let sound = ((cut - segment::HEADER_BYTES) / frame) as u64;
            let torn = (cut - segment::HEADER_BYTES) % frame;
            // Reading does not wait for the repair.
            assert_eq!(contents(dir.path()), ((1..=sound).collect(), vec![]), "{cut}");
            Ledger::open(dir.path(), 1, small()).unwrap().close().unwrap();
            let (numbers, said) = contents(dir.path());
            assert_eq!(numbers, (1..=sound).collect::<Vec<_>>(), "{cut}");
            assert_eq!(said.len(), usize::from(torn > 0), "{cut}: {said:?}");
            if torn > 0 {
                assert!(
                    said[0].starts_with("record.truncated: ") && said[0].contains(&format!("{torn} bytes"))
                );
                let offset = cut - torn;
                let aside = std::fs::read(log.join(format!("00000001.lgr.torn-{offset}"))).unwrap();
                assert_eq!(aside, whole[offset..cut]);
            }
            verify(dir.path()).unwrap();
        }
    }

    #[test]
    fn what_a_dead_ring_holds_is_written_once_however_often_we_are_killed_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 1, small()).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        for n in 1..=50 {
            append(recorder.as_mut(), n).unwrap();
        }
        let spool = dir.path().join("record/spool/000.ring");
        // As a kill would leave it: all written, the tail not moved. The file is copied before the drainer can have looked.
        let mut ring = std::fs::read(&spool).unwrap();
        drop(recorder);
        ledger.close().unwrap();
        drop(ledger);
        ring[128..136].fill(0);
        for _ in 0..3 {
            std::fs::write(&spool, &ring).unwrap();
            assert_eq!(contents(dir.path()).0, (1..=50).collect::<Vec<_>>());
            Ledger::open(dir.path(), 1, small()).unwrap().close().unwrap();
            assert_eq!(contents(dir.path()).0, (1..=50).collect::<Vec<_>>());
        }
        // With a torn last frame: the rest is saved and the loss is said.
        let log = dir.path().join("record/log");
        for (_, path) in segment::list(&log).unwrap() {
            std::fs::remove_file(path).unwrap();
        }
        let head = u64::from_le_bytes(ring[64..72].try_into().unwrap());
        let last = 4096 + usize::try_from(head).unwrap() - 9;
        ring[last] ^= 1;
        std::fs::write(&spool, &ring).unwrap();
        Ledger::open(dir.path(), 1, small()).unwrap().close().unwrap();
        let (numbers, said) = contents(dir.path());
        assert_eq!(numbers, (1..=49).collect::<Vec<_>>());
        assert!(said.len() == 1 && said[0].starts_with("record.torn: "), "{said:?}");
    }

    #[test]
    fn one_writer_one_recorder_and_nothing_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 2, small()).unwrap();
        assert!(matches!(Ledger::open(dir.path(), 2, small()), Err(LedgerError::Locked(_))));
        let mut recorder = ledger.recorder(1).unwrap();
        assert!(matches!(ledger.recorder(1), Err(LedgerError::Taken(1))));
        assert!(matches!(ledger.recorder(2), Err(LedgerError::NoWorker(2))));
        append(recorder.as_mut(), 1).unwrap();
        ledger.gateway_event("stop", "test").unwrap();
        ledger.close().unwrap();
        assert!(append(recorder.as_mut(), 2).is_err());
        assert!(ledger.gateway_event("late", "").is_err());
        assert_eq!(ledger.health().refused, 1);
        drop(ledger);
        Ledger::open(dir.path(), 2, small()).unwrap().close().unwrap();
        assert_eq!(contents(dir.path()), (vec![1], vec!["stop: test".to_owned()]));
        let left: Vec<_> = std::fs::read_dir(dir.path().join("record/spool")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn an_entry_larger_than_a_quarter_of_the_ring_is_refused_and_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 1, small()).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        let entry = |len: usize| Entry {
            session: [0; 16],
            unix_ns: 0,
            what: What::Data { number: 1, bytes: &[b'x'; 64 << 10][..len], total: 0 },
        };
        assert!(recorder.append(&entry(16 << 10)).is_err());
        recorder.append(&entry((16 << 10) - 80)).unwrap();
        assert_eq!(ledger.health().refused, 1);
        assert!(matches!(
            Ledger::open(dir.path(), 1, Options { ring_bytes: 100_000, ..small() }),
            Err(LedgerError::RingSize(100_000))
        ));
    }

    #[test]
    fn every_changed_byte_of_a_log_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        // A segment takes two batches of one entry: six of them make three.
        let options = Options { segment_bytes: 400, ..small() };
        let ledger = Ledger::open(dir.path(), 1, options).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        for n in 1..=6 {
            append_alone(&ledger, recorder.as_mut(), n);
        }
        drop(recorder);
        ledger.close().unwrap();
        drop(ledger);
        let whole = verify(dir.path()).unwrap();
        assert_eq!((whole.segments, whole.first, whole.last), (3, 1, 6));
        let mut flips = 0;
        for (number, path) in segment::list(&dir.path().join("record/log")).unwrap() {
            let good = std::fs::read(&path).unwrap();
            let frame = (good.len() - segment::HEADER_BYTES) / 2;
            for at in 0..good.len() {
                // A length made longer in the last segment looks torn, which takes half a second to be sure of.
                for bit in if number == 3 { vec![0x01] } else { vec![0x01, 0x80, 0xff] } {
                    let mut bad = good.clone();
                    bad[at] ^= bit;
                    std::fs::write(&path, &bad).unwrap();
                    let before = (number - 1) * 2 + 1;
                    let expected = before + (at.saturating_sub(segment::HEADER_BYTES) / frame) as u64;
                    match verify(dir.path()) {
                        Err(crate::record::read::VerifyError::Broken { seq, .. }) => {
                            assert_eq!(seq, expected, "segment {number}, byte {at}");
                        }
                        other => panic!("segment {number}, byte {at}: {other:?}"),
                    }
                    flips += 1;
                }
            }
            std::fs::write(&path, &good).unwrap();
        }
        assert!(flips > 1000);
        // A missing segment, and one too short at a frame's end.
        let path = segment::path(&dir.path().join("record/log"), 2);
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("from entry 3 on"));
        let frame = (good.len() - segment::HEADER_BYTES) / 2;
        std::fs::write(&path, &good[..segment::HEADER_BYTES + frame]).unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("from entry 4 on"));
        std::fs::write(&path, &good).unwrap();
        assert_eq!(verify(dir.path()).unwrap(), whole);
    }

    #[test]
    fn in_a_batch_of_many_nothing_can_be_changed_dropped_or_moved_either() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), 1, small()).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        append_alone(&ledger, recorder.as_mut(), 1);
        // The drainer is asleep for longer than this takes.
        for n in 2..=20 {
            append(recorder.as_mut(), n).unwrap();
        }
        drop(recorder);
        ledger.close().unwrap();
        drop(ledger);
        let path = segment::path(&dir.path().join("record/log"), 1);
        let good = std::fs::read(&path).unwrap();
        let frame = (good.len() - segment::HEADER_BYTES - 2 * BATCH_HEADER) / 20;
        let batch = segment::HEADER_BYTES + BATCH_HEADER + frame;
        assert_eq!(u32::from_le_bytes(good[batch + 28..batch + 32].try_into().unwrap()), 19, "one batch");
        assert_eq!(verify(dir.path()).unwrap().last, 20);
        // Whoever changes something can make the checksums right; the chain is what holds.
        let broken = |mut bad: Vec<u8>| {
            let length = u32::try_from(bad.len() - batch - BATCH_HEADER).unwrap();
            bad[batch + 4..batch + 8].copy_from_slice(&length.to_le_bytes());
            let crc = crc32fast::hash(&bad[batch + 4..]);
            bad[batch..batch + 4].copy_from_slice(&crc.to_le_bytes());
            std::fs::write(&path, &bad).unwrap();
            match verify(dir.path()) {
                Err(crate::record::read::VerifyError::Broken { seq: 2, what, .. }) => what,
                other => panic!("{other:?}"),
            }
        };
        let first = batch + BATCH_HEADER;
        for at in (batch + 4..good.len()).step_by(3) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            if !(batch + 4..batch + 8).contains(&at) {
                broken(bad);
            }
        }
        assert_eq!(
            broken(good[..good.len() - frame].to_vec()),
            "the chain is broken",
            "the last one dropped"
        );
        assert_eq!(broken([&good[..first], &good[first + frame..]].concat()), "the chain is broken");
        let swapped =
            [&good[..first], &good[first + frame..first + 2 * frame], &good[first..first + frame]].concat();
        assert_eq!(broken([&swapped, &good[first + 2 * frame..]].concat()), "the chain is broken");
        let mut fewer = good.clone();
        fewer[batch + 28] -= 1;
        assert_eq!(broken(fewer), "the chain is broken");
        std::fs::write(&path, &good).unwrap();
        verify(dir.path()).unwrap();
    }

    #[test]
    fn a_log_of_another_version_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        Ledger::open(dir.path(), 1, small()).unwrap().gateway_event("start", "").unwrap();
        let path = segment::path(&dir.path().join("record/log"), 1);
        let mut other = std::fs::read(&path).unwrap();
        other[8] = 1;
        std::fs::write(&path, &other).unwrap();
        let said = Ledger::open(dir.path(), 1, small()).err().unwrap().to_string();
        assert!(said.contains("is of version 1 of the format"), "{said}");
        assert!(verify(dir.path()).unwrap_err().to_string().contains("is of version 1 of the format"));
        assert_eq!(std::fs::read(&path).unwrap(), other);
    }

    #[test]
    fn who_asks_first_waits_early_and_leaves_room_for_outcomes() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk { room: Arc::new(Mutex::new(u64::MAX / 2)) };
        let ledger = Ledger::open_on(dir.path(), 1, small(), Box::new(disk.clone())).unwrap();
        let mut recorder = ledger.recorder(0).unwrap();
        let mut n = 0;
        // As fast as it goes: sooner or later the drainer is behind.
        while recorder.has_room(100) {
            n += 1;
            append(recorder.as_mut(), n).unwrap();
            assert!(n < 10_000_000, "the ring never fills");
        }
        // A quarter of the ring is left for those who cannot wait.
        for _ in 0..100 {
            n += 1;
            append(recorder.as_mut(), n).unwrap();
        }
        let start = Instant::now();
        while !recorder.has_room(100) {
            assert!(start.elapsed() < Duration::from_secs(10), "never drained: {:?}", ledger.health());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(recorder.has_room(1 << 40), "what can never be taken is refused, not waited for");
        *disk.room.lock().unwrap() = 0;
        while append(recorder.as_mut(), n + 1).is_ok() {
            n += 1;
        }
        while ledger.health().broken.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(recorder.has_room(100), "a broken log is not waited for");
        *disk.room.lock().unwrap() = u64::MAX / 2;
        drop(recorder);
        ledger.close().unwrap();
        assert_eq!(contents(dir.path()).0, (1..=n).collect::<Vec<_>>());
    }
}
