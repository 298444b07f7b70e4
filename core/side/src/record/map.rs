//! A file mapped shared, seen as 64-bit atomics. The one module of this crate with `unsafe`.
//!
//! Not a ring: positions and frames are [`super::ring`]'s. Words are only ever touched as atomics, so that no use of this
//! module, however wrong, is a data race: the drainer of this process, and through the page cache any reader of the file, may
//! look while a worker writes.
//!
//! Invariant: the mapping lies within the file for as long as it lives. The file is ours (mode 0600, under the state lock);
//! somebody with our rights who truncates it kills the process by SIGBUS.

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Shared memory of a file, in words.
pub(super) struct Map {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is owned by this value alone and is only reached through atomics; which thread does it is all the same.
unsafe impl Send for Map {}
// SAFETY: `&Map` gives out `&[AtomicU64]` and nothing else, and atomics may be shared.
unsafe impl Sync for Map {}

impl Map {
    /// Gives `file` this many bytes on the disk (not only in its size) and maps them.
    ///
    /// # Errors
    /// A full disk shows here, never later: a store to a mapped page that has no block would be a SIGBUS.
    pub(super) fn create(file: &File, bytes: usize) -> io::Result<Map> {
        match fallocate(file, FallocateFlags::empty(), 0, bytes as u64) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => zeroes(file, bytes)?,
            Err(e) => return Err(e.into()),
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours; `file` is `bytes` long (above).
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        }?;
        let base =
            NonNull::new(base.cast::<AtomicU64>()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        let map = Map { base, words: bytes / size_of::<AtomicU64>() };
        // Every page is faulted in for writing now: a worker's first lap costs what the later ones cost, and a page that cannot
        // be written is an error here. Kernels before 5.14 do not know the advice; then the first lap is slower.
        // SAFETY: the range is exactly the mapping made above; this advice changes no contents.
        match unsafe { madvise(map.base.as_ptr().cast(), bytes, Advice::LinuxPopulateWrite) } {
            Ok(()) | Err(Errno::INVAL) => Ok(map),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is page-aligned, valid for `words` words until drop, and initialised (a file's bytes always are).
        // AtomicU64 has u64's layout, and any change from outside this process is a change of atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is the one mapped in `create`, and `&mut self` says nobody holds a borrow of it any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// For file systems without fallocate.
fn zeroes(file: &File, bytes: usize) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let block = vec![0; 64 << 10];
    let mut at = 0;
    while at < bytes {
        let n = block.len().min(bytes - at);
        file.write_all_at(block.get(..n).unwrap_or_default(), at as u64)?;
        at += n;
    }
    Ok(())
}

/// Copies whole words in. `to` must be as long as `from` in words; what does not fit is not copied.
pub(super) fn copy_in(to: &[AtomicU64], from: &[u8]) {
    let (words, _) = from.as_chunks::<8>();
    for (to, word) in to.iter().zip(words) {
        to.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
    }
}

/// Appends words to `to`.
pub(super) fn copy_out(from: &[AtomicU64], to: &mut Vec<u8>) {
    let start = to.len();
    to.resize(start + size_of_val(from), 0);
    let (words, _) = to.get_mut(start..).unwrap_or_default().as_chunks_mut::<8>();
    for (word, from) in words.iter_mut().zip(from) {
        *word = from.load(Ordering::Relaxed).to_ne_bytes();
    }
}
