//! The ring between one worker and the drainer: a file mapped shared, so that what was appended is in the page cache.
//!
//! Not the log: nothing stays here for longer than the drainer needs. A frame is in the record from the moment the head position
//! behind it is published; that is a store to shared memory, no system call, and survives `kill -9`.
//!
//! Layout of `spool/NNN.ring`, words little-endian: one page of header (magic · version and worker · run · capacity · CRC of
//! these · head on its own cache line · tail on its own), then `capacity` bytes. Positions count bytes for ever; a position's
//! place is itself modulo the capacity. A frame is `check u32 · length u32 · position u64 · entry`, padded to eight bytes with zeros.
//! The frame's own position is its sequence number: it grows without holes, and a frame of an earlier lap can never be taken for
//! one of this lap. The check is there for pages that a loss of power kept and others that it did not; it is made while the frame
//! is copied, word by word.
//!
//! Invariant: `tail <= head <= tail + capacity`; only the producer moves the head, only the drainer moves the tail, and the tail
//! moves only after what is before it has been written to the log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::{self, Map};

/// One ring, as its producer and the drainer share it.
pub(super) struct Ring {
    map: Map,
    pub(super) capacity: u64,
    pub(super) origin: Origin,
    pub(super) path: PathBuf,
}

/// Where a frame came from: with its position, the frame's name for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Origin {
    /// Which start of the gateway: Unix nanoseconds, raised so that it is never the one of an earlier run.
    pub(super) run: u64,
    pub(super) worker: u32,
}

impl Ring {
    /// Makes the file under a temporary name and shows it only when it is whole, so that a reader never meets half a header.
    pub(super) fn create(path: &Path, origin: Origin, capacity: u64) -> io::Result<Ring> {
        let new = path.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
        let made = || {
            let bytes = usize::try_from(HEADER_BYTES + capacity).map_err(io::Error::other)?;
            let ring = Ring { map: Map::create(&file, bytes)?, capacity, origin, path: path.to_owned() };
            map::copy_in(ring.map.words(), &Header { origin, capacity }.bytes());
            std::fs::rename(&new, path)?;
            Ok(ring)
        };
        made().inspect_err(|_| {
            // On a full disk it may hold what room there was. If it stays, the next start removes it.
            let _ = std::fs::remove_file(&new);
        })
    }

    pub(super) fn head(&self) -> u64 {
        self.word(HEAD_WORD).map_or(0, |w| w.load(Ordering::Acquire))
    }

    pub(super) fn tail(&self) -> u64 {
        self.word(TAIL_WORD).map_or(0, |w| w.load(Ordering::Acquire))
    }

    /// The drainer's word that everything before `tail` is in the log.
    pub(super) fn release(&self, tail: u64) {
        if let Some(word) = self.word(TAIL_WORD) {
            word.store(tail, Ordering::Release);
        }
    }

    /// The producer's: copies a frame in at `head` and publishes it. The entry lies in `frame` behind [`FRAME_HEADER`] bytes and is
    /// padded ([`pad`]); `length` is its own.
    pub(super) fn publish(&self, head: u64, frame: &[u8], length: u32) {
        let (first, second) = self.places(head, frame.len() as u64);
        let (words, _) = frame.as_chunks::<8>();
        let (a, b) = words.split_at_checked(first.len()).unwrap_or((words, &[]));
        let mut check = Check::new(length, head);
        let mut place = first.iter().chain(second);
        let (lengths, position) = (place.next(), place.next());
        // The two words of the header are skipped here; the second may already be on the other side of the ring's end.
        let in_first = first.len().min(HEADER_OF_FRAME);
        check.copy(first.get(in_first..).unwrap_or_default(), a.get(in_first..).unwrap_or_default());
        let in_second = HEADER_OF_FRAME - in_first;
        check.copy(second.get(in_second..).unwrap_or_default(), b.get(in_second..).unwrap_or_default());
        if let (Some(lengths), Some(position)) = (lengths, position) {
            position.store(head, Ordering::Relaxed);
            lengths.store(u64::from(check.end()) | u64::from(length) << 32, Ordering::Relaxed);
        }
        if let Some(word) = self.word(HEAD_WORD) {
            // Release: whoever sees the new head sees the frame. The other processes and our successor see the same memory.
            word.store(head + frame.len() as u64, Ordering::Release);
        }
    }

    /// Appends the bytes between two positions to `out`.
    pub(super) fn copy_out(&self, from: u64, to: u64, out: &mut Vec<u8>) {
        let (first, second) = self.places(from, to - from);
        map::copy_out(first, out);
        map::copy_out(second, out);
    }

    /// The words of `len` bytes from `position`: up to the end of the ring, and the rest from its beginning.
    fn places(&self, position: u64, len: u64) -> (&[AtomicU64], &[AtomicU64]) {
        let data = self.map.words().get(HEADER_WORDS..).unwrap_or_default();
        let start = (position & (self.capacity - 1)) / 8;
        let words = (len / 8).min(data.len() as u64);
        let first = words.min(data.len() as u64 - start);
        let run = |from: u64, n: u64| data.get(from as usize..(from + n) as usize).unwrap_or_default();
        (run(start, first), run(0, words - first))
    }

    fn word(&self, n: usize) -> Option<&AtomicU64> {
        self.map.words().get(n)
    }
}

struct Header {
    origin: Origin,
    capacity: u64,
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.origin.worker.to_le_bytes());
        out.extend_from_slice(&self.origin.run.to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        let crc = u64::from(crc32fast::hash(&out));
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn read(bytes: &[u8]) -> Option<Header> {
        let worker = u32::from_le_bytes(array(bytes, 12)?);
        let run = u64::from_le_bytes(array(bytes, 16)?);
        let capacity = u64::from_le_bytes(array(bytes, 24)?);
        let header = Header { origin: Origin { run, worker }, capacity };
        (bytes.get(..40)? == header.bytes() && capacity_is_sound(capacity)).then_some(header)
    }
}

/// What a spool file held when it was looked at, read through the file and not through a mapping: the writer may be alive.
pub(super) struct Spool {
    pub(super) origin: Origin,
    pub(super) tail: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) frame_max: u64,
}

impl Spool {
    /// `None`: this is not a ring, or its header is damaged.
    pub(super) fn read(path: &Path) -> io::Result<Option<Spool>> {
        let file = File::open(path)?;
        let mut header = [0; HEADER_BYTES as usize];
        // The positions move while we look. The tail is read before the head (both lie in this page, so twice), which can only
        // show a window too large: what it shows too much of was drained, and the reader of the log knows it by its position.
        if !read_full(&file, &mut header, 0)? {
            return Ok(None);
        }
        let Some(Header { origin, capacity }) = Header::read(&header) else { return Ok(None) };
        let Some(tail) = array(&header, TAIL_WORD * 8).map(u64::from_le_bytes) else { return Ok(None) };
        if !read_full(&file, &mut header, 0)? {
            return Ok(None);
        }
        let Some(head) = array(&header, HEAD_WORD * 8).map(u64::from_le_bytes) else { return Ok(None) };
        // More than a lap: the writer overtook us between the two looks; only the last lap can still be there.
        let tail = tail.max(head.saturating_sub(capacity));
        if tail > head || tail % 8 != 0 || head % 8 != 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(head - tail).map_err(io::Error::other)?];
        let place = tail & (capacity - 1);
        let first = bytes.len().min(usize::try_from(capacity - place).map_err(io::Error::other)?);
        if let Some((a, b)) = bytes.split_at_mut_checked(first)
            && !(read_full(&file, a, HEADER_BYTES + place)? && read_full(&file, b, HEADER_BYTES)?)
        {
            return Ok(None);
        }
        Ok(Some(Spool { origin, tail, bytes, frame_max: capacity / 4 }))
    }

    pub(super) fn walk(&self) -> Walk<'_> {
        Walk::new(&self.bytes, self.tail, self.frame_max, false)
    }
}

fn read_full(file: &File, to: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(to, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Pads the frame whose entry lies behind [`FRAME_HEADER`] bytes; the entry's length. `None`: longer than a length can say.
pub(super) fn pad(frame: &mut Vec<u8>) -> Option<u32> {
    let length = u32::try_from(frame.len().checked_sub(FRAME_HEADER)?).ok()?;
    let whole = frame.len().next_multiple_of(8);
    // Of known size, a store; what is too much goes again.
    frame.extend_from_slice(&[0; 8]);
    frame.truncate(whole);
    Some(length)
}

/// Appends a whole frame, as it would lie in a ring at `position`.
pub(super) fn put_frame(out: &mut Vec<u8>, position: u64, entry: &[u8]) {
    let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(entry);
    out.resize(at + (out.len() - at).next_multiple_of(8), 0);
    let check = Check::of(length, position, out.get(at + FRAME_HEADER..).unwrap_or_default());
    if let Some(room) = out.get_mut(at..at + 4) {
        room.copy_from_slice(&check.to_le_bytes());
    }
}

/// The position that the frame at the beginning of these bytes says it has.
pub(super) fn position(frame: &[u8]) -> Option<u64> {
    array(frame, 8).map(u64::from_le_bytes)
}

/// Fletcher's checksum over 64-bit words: the sum of the words, and the sum of these sums, which knows their order. Two additions
/// per word; a CRC cost as much as the rest of an append.
struct Check {
    sum: u64,
    sums: u64,
}

impl Check {
    fn new(length: u32, position: u64) -> Check {
        let mut check = Check { sum: 0, sums: 0 };
        check.word(u64::from(length));
        check.word(position);
        check
    }

    fn word(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
        self.sums = self.sums.wrapping_add(self.sum);
    }

    /// Copies words into the ring and sums them up in passing.
    fn copy(&mut self, to: &[AtomicU64], from: &[[u8; 8]]) {
        let mut one = |to: &AtomicU64, word: &[u8; 8]| {
            let word = u64::from_le_bytes(*word);
            to.store(word.to_le(), Ordering::Relaxed);
            self.word(word);
        };
        // Four at a time: the loop cost as much as the work in it.
        let ((to, last_to), (from, last_from)) = (to.as_chunks::<4>(), from.as_chunks::<4>());
        for (to, from) in to.iter().zip(from) {
            to.iter().zip(from).for_each(|(to, word)| one(to, word));
        }
        last_to.iter().zip(last_from).for_each(|(to, word)| one(to, word));
    }

    /// Of a frame's length, position, and padded entry.
    fn of(length: u32, position: u64, entry: &[u8]) -> u32 {
        let mut check = Check::new(length, position);
        entry.as_chunks::<8>().0.iter().for_each(|word| check.word(u64::from_le_bytes(*word)));
        check.end()
    }

    /// Both sums in 32 bits: every bit of them reaches the upper half of the product.
    fn end(self) -> u32 {
        let mixed = (self.sum ^ self.sums.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as u32
    }
}

/// Cuts the bytes between two positions into frames.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    position: u64,
    frame_max: u64,
    /// There is more behind these bytes: a frame that reaches out of them is cut, not torn.
    more: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Frame {
        position: u64,
        entry: &'a [u8],
        /// Where the next one begins.
        next: u64,
    },
    /// Bytes that are no frame, up to the next one that is.
    Torn { position: u64, next: u64 },
    /// The window ends inside a frame: this many bytes from its beginning are needed.
    Cut { need: u64 },
}

enum Look<'a> {
    Frame(&'a [u8], usize),
    Cut(u64),
    Bad,
}

impl<'a> Walk<'a> {
    pub(super) fn new(bytes: &'a [u8], position: u64, frame_max: u64, more: bool) -> Walk<'a> {
        Walk { bytes, position, frame_max, more }
    }

    fn look(&self, skip: usize) -> Look<'a> {
        let bytes = self.bytes.get(skip..).unwrap_or_default();
        let position = self.position + skip as u64;
        let Some(header) = bytes.first_chunk::<FRAME_HEADER>() else {
            return if self.more { Look::Cut(FRAME_HEADER as u64) } else { Look::Bad };
        };
        let length = array(header, 4).map_or(0, u32::from_le_bytes);
        let whole = (FRAME_HEADER as u64 + u64::from(length)).next_multiple_of(8);
        if array(header, 8).map(u64::from_le_bytes) != Some(position) || whole > self.frame_max {
            return Look::Bad;
        }
        if whole > bytes.len() as u64 {
            return if self.more { Look::Cut(whole) } else { Look::Bad };
        }
        let Some(padded) = bytes.get(FRAME_HEADER..whole as usize) else { return Look::Bad };
        match (padded.get(..length as usize), array(header, 0).map(u32::from_le_bytes)) {
            (Some(entry), Some(check)) if check == Check::of(length, position, padded) => {
                Look::Frame(entry, whole as usize)
            }
            _ => Look::Bad,
        }
    }

    fn advance(&mut self, by: usize) -> (u64, u64) {
        let position = self.position;
        self.bytes = self.bytes.get(by..).unwrap_or_default();
        self.position += by as u64;
        (position, self.position)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.bytes.is_empty() {
            return None;
        }
        match self.look(0) {
            Look::Frame(entry, whole) => {
                let (position, next) = self.advance(whole);
                Some(Piece::Frame { position, entry, next })
            }
            Look::Cut(need) => {
                self.bytes = &[];
                Some(Piece::Cut { need })
            }
            Look::Bad => {
                let good =
                    (8..self.bytes.len()).step_by(8).find(|&skip| !matches!(self.look(skip), Look::Bad));
                let (position, next) = self.advance(good.unwrap_or(self.bytes.len()));
                Some(Piece::Torn { position, next })
            }
        }
    }
}

/// Powers of two, so that a place is a mask away; at least one page.
pub(super) fn capacity_is_sound(capacity: u64) -> bool {
    capacity.is_power_of_two() && (CAPACITY_MIN..=CAPACITY_MAX).contains(&capacity)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(super) const FRAME_HEADER: usize = 16;
/// In words.
const HEADER_OF_FRAME: usize = FRAME_HEADER / 8;
pub(super) const CAPACITY_MIN: u64 = 64 << 10;
pub(super) const CAPACITY_MAX: u64 = 1 << 32;
const MAGIC: &[u8; 8] = b"LGRING\0\x01";
const VERSION: u32 = 2;
const HEADER_BYTES: u64 = 4096;
const HEADER_WORDS: usize = HEADER_BYTES as usize / 8;
/// Bytes 64 and 128: a cache line each.
const HEAD_WORD: usize = 8;
const TAIL_WORD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(position: u64, entry: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, position, entry);
        out
    }

    fn ring(dir: &Path, capacity: u64) -> Ring {
        Ring::create(&dir.join("000.ring"), Origin { run: 7, worker: 0 }, capacity).unwrap()
    }

    #[test]
    fn frames_wrap_around_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let ring = ring(dir.path(), CAPACITY_MIN);
        let (mut position, mut out) = (0, Vec::new());
        for n in 0..5000_u32 {
            let entry: Vec<u8> = (0..(n % 301)).map(|i| (i + n) as u8).collect();
            let frame = frame(position, &entry);
            // As a producer has it: the header is not filled.
            let mut given = [&[0xee; FRAME_HEADER][..], &entry].concat();
            let length = pad(&mut given).unwrap();
            ring.publish(position, &given, length);
            let spool = Spool::read(&ring.path).unwrap().unwrap();
            let next = position + frame.len() as u64;
            assert_eq!(spool.walk().collect::<Vec<_>>(), [Piece::Frame { position, entry: &entry, next }]);
            out.clear();
            ring.copy_out(position, next, &mut out);
            assert_eq!(out, frame);
            ring.release(next);
            position = next;
        }
        assert!(position > 10 * CAPACITY_MIN);
    }

    #[test]
    fn a_torn_frame_is_seen_at_every_cut_and_what_follows_is_found() {
        let (a, b, c) = (frame(80, b"first entry"), frame(112, b"second one"), frame(144, b"third"));
        assert_eq!((a.len(), b.len()), (32, 32));
        let whole = [a, b, c].concat();
        // The last frame cut anywhere: the first two stay.
        for cut in 65..whole.len() {
            let mut torn = whole.clone();
            torn[cut..].fill(0xaa);
            let pieces: Vec<_> = Walk::new(&torn, 80, 4096, false).collect();
            assert!(matches!(pieces[2..], [Piece::Torn { position: 144, next: 168 }]), "{cut}: {pieces:?}");
            assert!(matches!(pieces[..2], [Piece::Frame { .. }, Piece::Frame { .. }]));
        }
        // Any byte of the middle one changed: the third is found again.
        for at in 32..64 {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            let pieces: Vec<_> = Walk::new(&torn, 80, 4096, false).collect();
            assert!(
                matches!(
                    pieces[..],
                    [
                        Piece::Frame { .. },
                        Piece::Torn { position: 112, next: 144 },
                        Piece::Frame { position: 144, .. }
                    ]
                ),
                "{at}: {pieces:?}"
            );
        }
        // A frame of an earlier lap in the place of a new one is torn, not read.
        assert!(matches!(
            Walk::new(&whole, 80 + 4096, 4096, false).collect::<Vec<_>>()[..],
            [Piece::Torn { next: 4264, .. }]
        ));
    }

    #[test]
    fn a_window_that_ends_inside_a_frame_says_how_much_it_needs() {
        let whole = [frame(0, b"first entry"), frame(32, &[1; 100])].concat();
        for end in 33..whole.len() {
            let pieces: Vec<_> = Walk::new(&whole[..end], 0, 4096, true).collect();
            let need = if end < 48 { 16 } else { 120 };
            assert_eq!(pieces[1..], [Piece::Cut { need }], "{end}");
        }
    }

    #[test]
    fn a_damaged_header_is_no_ring() {
        let dir = tempfile::tempdir().unwrap();
        let ring = ring(dir.path(), CAPACITY_MIN);
        let good = std::fs::read(&ring.path).unwrap();
        assert!(Spool::read(&ring.path).unwrap().is_some());
        for at in 0..40 {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let path = dir.path().join("bad.ring");
            std::fs::write(&path, &bad).unwrap();
            assert!(Spool::read(&path).unwrap().is_none(), "{at}");
        }
    }
}
