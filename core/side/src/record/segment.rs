//! Segments of the log: what is written, and reading it back one frame at a time.
//!
//! Not a tree and not signed: sealing builds on the chain that is here. `log/NNNNNNNN.lgr` is a header (`magic 8 · version u32 ·
//! number u64 · first sequence number u64 · created u64 (Unix ns) · chain 32 · crc32 u32`) and batches (`crc32 u32 · length u32 ·
//! first sequence number u64 · run u64 · worker u32 · count u32 · chain 32 · frames`), integers little-endian. The frames are a ring's,
//! as they lay there ([`super::ring`]): a batch is what the drainer found in one ring at one look, copied and not rewritten.
//!
//! A batch's chain field is SHA-256 over the chain field before it, its own length to count, and its frames; the header carries the
//! last chain field of the segment before (zeros in the first). So every byte of every entry and their order are under the chain,
//! at one digest per batch. Run, worker and each frame's position name it in its ring, so that what was written twice around a
//! crash is known.
//!
//! Invariant: sequence numbers grow by one from frame to frame, from batch to batch and from segment to segment. Nothing is ever
//! changed in place.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ::ring::digest;

use super::ring::{self, Origin, Piece, Walk};

/// The last chain field so far.
pub(super) type Chain = [u8; 32];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    pub(super) first: u64,
    pub(super) created: u64,
    pub(super) chain: Chain,
}

impl SegmentHeader {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for n in [self.number, self.first, self.created] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.chain);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn read(bytes: &[u8; HEADER_BYTES]) -> Option<SegmentHeader> {
        let mut r = Fields(bytes.get(12..)?);
        let header = SegmentHeader { number: r.u64()?, first: r.u64()?, created: r.u64()?, chain: r.take()? };
        (header.bytes() == bytes).then_some(header)
    }

    /// The version a segment says it is of, when it is not ours.
    fn foreign(bytes: &[u8; HEADER_BYTES]) -> Option<u32> {
        let version = Fields(bytes.strip_prefix(MAGIC)?).u32()?;
        (version != VERSION).then_some(version)
    }
}

/// Frames of one ring that went into the log together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Sequence number of its first frame.
    pub(super) first: u64,
    pub(super) origin: Origin,
    pub(super) count: u32,
    pub(super) chain: Chain,
    frames: Box<[u8]>,
}

impl Batch {
    /// What the chain field must be after `before`.
    pub(super) fn expected_chain(&self, before: &Chain) -> Chain {
        link(before, &fields(self.frames.len() as u32, self.first, self.origin, self.count), &self.frames)
    }

    /// Position and entry of each frame; `None`: these bytes are not `count` frames.
    pub(super) fn frames(&self) -> Option<Vec<(u64, &[u8])>> {
        let mut out = Vec::with_capacity((self.count as usize).min(self.frames.len() / ring::FRAME_HEADER));
        let position = ring::position(&self.frames)?;
        for piece in Walk::new(&self.frames, position, u64::MAX, false) {
            match piece {
                Piece::Frame { position, entry, .. } => out.push((position, entry)),
                Piece::Torn { .. } | Piece::Cut { .. } => return None,
            }
        }
        (out.len() == self.count as usize).then_some(out)
    }
}

fn fields(len: u32, first: u64, origin: Origin, count: u32) -> [u8; FIELDS_BYTES] {
    let mut out = [0; FIELDS_BYTES];
    let all = [
        &len.to_le_bytes()[..],
        &first.to_le_bytes()[..],
        &origin.run.to_le_bytes()[..],
        &origin.worker.to_le_bytes()[..],
        &count.to_le_bytes()[..],
    ];
    for (to, from) in out.iter_mut().zip(all.into_iter().flatten()) {
        *to = *from;
    }
    out
}

fn link(before: &Chain, fields: &[u8], frames: &[u8]) -> Chain {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    context.update(fields);
    context.update(frames);
    let mut out = [0; 32];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

/// Why a segment could not be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    /// The file ends inside a batch (or its header): torn, or being written right now.
    #[error("ends inside a batch")]
    Short,
    #[error("is of version {0} of the format, and this lockgate reads {VERSION}")]
    Foreign(u32),
    #[error("{0}")]
    Damaged(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a segment from its beginning, checking the CRC of every batch.
pub(super) struct SegmentReader {
    input: BufReader<File>,
    pub(super) header: SegmentHeader,
    /// Where the next batch begins.
    pub(super) offset: u64,
    length: u64,
}

impl SegmentReader {
    /// # Errors
    /// [`Stop::Short`] for a segment that was made but not begun.
    pub(super) fn open(path: &Path) -> Result<SegmentReader, Stop> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut input = BufReader::with_capacity(256 << 10, file);
        let mut header = [0; HEADER_BYTES];
        if length < HEADER_BYTES as u64 {
            return Err(Stop::Short);
        }
        input.read_exact(&mut header)?;
        if let Some(version) = SegmentHeader::foreign(&header) {
            return Err(Stop::Foreign(version));
        }
        let header = SegmentHeader::read(&header).ok_or(Stop::Damaged("the segment's header is damaged"))?;
        Ok(SegmentReader { input, header, offset: HEADER_BYTES as u64, length })
    }

    pub(super) fn next(&mut self) -> Result<Option<Batch>, Stop> {
        if self.offset == self.length {
            return Ok(None);
        }
        let left = self.length.saturating_sub(self.offset);
        if left < BATCH_HEADER as u64 {
            return Err(Stop::Short);
        }
        let mut head = [0; BATCH_HEADER];
        self.read(&mut head)?;
        let damaged = Stop::Damaged("a batch's checksum does not match");
        let mut r = Fields(&head);
        let (Some(crc), Some(len), Some(first), Some(run), Some(worker), Some(count), Some(chain)) =
            (r.u32(), r.u32(), r.u64(), r.u64(), r.u32(), r.u32(), r.take())
        else {
            return Err(damaged);
        };
        if len > FRAMES_MAX {
            return Err(Stop::Damaged("a batch's length is not possible"));
        }
        if u64::from(len) > left - BATCH_HEADER as u64 {
            return Err(Stop::Short);
        }
        let mut frames = vec![0; len as usize].into_boxed_slice();
        self.read(&mut frames)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(head.get(4..).unwrap_or_default());
        hasher.update(&frames);
        if hasher.finalize() != crc {
            return Err(damaged);
        }
        self.offset += BATCH_HEADER as u64 + u64::from(len);
        Ok(Some(Batch { first, origin: Origin { run, worker }, count, chain, frames }))
    }

    /// The file shrank under us: the writer took a failed write back.
    fn read(&mut self, to: &mut [u8]) -> Result<(), Stop> {
        self.input.read_exact(to).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Stop::Short,
            _ => Stop::Io(e),
        })
    }
}

/// The segments of a directory in order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".lgr"))
            .filter(|n| n.len() >= 8 && n.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|n| n.parse().ok());
        if let Some(number) = number {
            out.push((number, path));
        }
    }
    out.sort();
    Ok(out)
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.lgr"))
}

/// What the log asks of the disk; a test puts a failing one in its place.
pub(super) trait Disk: Send {
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }
}

pub(super) struct RealDisk;

impl Disk for RealDisk {}

/// The end of the log, where batches are appended. One writer, under the state lock.
pub(super) struct Writer {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    segment_bytes: u64,
    /// The segment being written; `None`: the next commit begins one.
    open: Option<Open>,
    /// Number of the last segment that exists.
    number: u64,
    end: End,
    /// Finished segments.
    unsynced: Vec<File>,
    /// The open segment has bytes that were not synced.
    grown: bool,
}

struct Open {
    file: File,
    /// Where the next batch goes.
    length: u64,
    /// A failed write may have left bytes behind `length`.
    dirty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Of the next frame.
    pub(super) seq: u64,
    pub(super) chain: Chain,
}

impl Writer {
    /// Goes on after `end`: in segment `number`, cut to `length`, or (`length` is `None`) in a new one after it.
    pub(super) fn new(
        dir: &Path,
        disk: Box<dyn Disk>,
        segment_bytes: u64,
        number: u64,
        length: Option<u64>,
        end: End,
    ) -> io::Result<Writer> {
        let open = match length {
            None => None,
            Some(length) => {
                let file = OpenOptions::new().read(true).write(true).open(path(dir, number))?;
                file.set_len(length)?;
                Some(Open { file, length, dirty: false })
            }
        };
        Ok(Writer {
            dir: dir.to_owned(),
            disk,
            segment_bytes,
            open,
            number,
            end,
            unsynced: Vec::new(),
            grown: false,
        })
    }

    /// Writes `count` frames of one ring; they lie in `batch` behind [`BATCH_HEADER`] bytes that are for this to fill. All of it or
    /// nothing: after an error the log ends where it ended before, and the frames still are in their ring.
    pub(super) fn write(
        &mut self,
        origin: Origin,
        batch: &mut [u8],
        count: u32,
        unix_ns: u64,
    ) -> io::Result<()> {
        let Some((head, frames)) = batch.split_first_chunk_mut::<BATCH_HEADER>() else {
            return Err(io::Error::other("a batch without room for its header"));
        };
        if count == 0 {
            return Ok(());
        }
        let len = u32::try_from(frames.len()).map_err(io::Error::other)?;
        let fields = fields(len, self.end.seq, origin, count);
        let chain = link(&self.end.chain, &fields, frames);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&fields);
        crc.update(&chain);
        crc.update(frames);
        let crc = crc.finalize().to_le_bytes();
        for (to, from) in head.iter_mut().zip(crc.iter().chain(&fields).chain(&chain)) {
            *to = *from;
        }
        self.append(batch, unix_ns)?;
        self.end = End { seq: self.end.seq + u64::from(count), chain };
        Ok(())
    }

    fn append(&mut self, bytes: &[u8], unix_ns: u64) -> io::Result<()> {
        if let Some(open) = &mut self.open
            && open.length > HEADER_BYTES as u64
            && open.length + bytes.len() as u64 > self.segment_bytes
        {
            open.tidy()?;
            if let Some(open) = self.open.take() {
                self.unsynced.push(open.file);
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let number = self.number + 1;
                let at = path(&self.dir, number);
                let file = self.disk.create(&at)?;
                let header =
                    SegmentHeader { number, first: self.end.seq, created: unix_ns, chain: self.end.chain };
                if let Err(e) = self.disk.write_at(&file, &header.bytes(), 0) {
                    // Or the next try would find the name taken.
                    std::fs::remove_file(&at)?;
                    return Err(e);
                }
                self.number = number;
                let open = none.insert(Open { file, length: HEADER_BYTES as u64, dirty: false });
                // The name of a new segment is part of what must not be lost with the power.
                File::open(&self.dir)?.sync_all()?;
                open
            }
        };
        open.tidy()?;
        open.dirty = true;
        match self.disk.write_at(&open.file, bytes, open.length) {
            Ok(()) => {
                open.length += bytes.len() as u64;
                open.dirty = false;
                self.grown = true;
                Ok(())
            }
            Err(e) => {
                // If this fails too, the next try begins with it.
                if let Err(also) = open.tidy() {
                    tracing::warn!(error = %also, "cannot take a failed write to the record back yet");
                }
                Err(e)
            }
        }
    }

    /// The files whose content is not known to be on the disk, to be synced by somebody who may wait for that. They count as
    /// taken care of.
    pub(super) fn take_unsynced(&mut self) -> io::Result<Vec<File>> {
        let open = self.open.as_ref().filter(|_| self.grown).map(|o| o.file.try_clone()).transpose()?;
        self.grown = false;
        let mut files = std::mem::take(&mut self.unsynced);
        files.extend(open);
        Ok(files)
    }

    /// A segment is finished and not synced yet, or the open one has grown.
    pub(super) fn unsynced(&self) -> (bool, bool) {
        (!self.unsynced.is_empty(), self.grown)
    }
}

impl Open {
    /// Takes back what a failed write may have left.
    fn tidy(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.length)?;
            self.dirty = false;
        }
        Ok(())
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

const MAGIC: &[u8; 8] = b"LGLOG\0\0\x01";
pub(super) const VERSION: u32 = 2;
pub(super) const HEADER_BYTES: usize = 8 + 4 + 3 * 8 + 32 + 4;
const FIELDS_BYTES: usize = 4 + 2 * 8 + 2 * 4;
pub(super) const BATCH_HEADER: usize = 4 + FIELDS_BYTES + 32;
/// No frame is longer than a quarter of the largest capacity, and a batch with a frame that long has no other.
const FRAMES_MAX: u32 = (ring::CAPACITY_MAX / 4) as u32;
