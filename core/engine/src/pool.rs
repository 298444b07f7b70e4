//! Read buffers and output buffers, one pool per worker.
//!
//! Invariant: a pool keeps at most [`KEPT`] buffers of each size; everything beyond goes back to the allocator, so a burst of
//! connections leaves nothing behind but a bounded reserve.

use std::cell::RefCell;

use flow::limits::{READ_BYTES_MAX, READ_BYTES_MIN};

/// Read-buffer sizes: each four times the one before (`limits.rs`).
pub(crate) const SIZES: [usize; 3] = [READ_BYTES_MIN, READ_BYTES_MIN * 4, READ_BYTES_MAX];
const _: () = assert!(READ_BYTES_MIN * 16 == READ_BYTES_MAX);

/// Kept per size: at most 32 × 16 KiB + 16 × 64 KiB + 8 × 256 KiB = 3.5 MiB per worker.
const KEPT: [usize; 3] = [32, 16, 8];
/// Output buffers kept, and the largest that is kept.
const OUTS_KEPT: usize = 32;
const OUT_BYTES_KEPT: usize = 512 << 10;

#[derive(Default)]
pub(crate) struct Pool {
    reads: [RefCell<Vec<Vec<u8>>>; 3],
    outs: RefCell<Vec<Vec<u8>>>,
}

impl Pool {
    /// An empty buffer with room for at least `bytes`.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        for (size, shelf) in SIZES.iter().zip(&self.reads) {
            if bytes <= *size {
                return shelf.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(*size));
            }
        }
        Vec::with_capacity(bytes)
    }

    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        for ((size, shelf), kept) in SIZES.iter().zip(&self.reads).zip(KEPT) {
            if buffer.capacity() == *size && shelf.borrow().len() < kept {
                shelf.borrow_mut().push(buffer);
                return;
            }
        }
    }

    /// A buffer for what an event sends of its own. It has no room yet when the reserve is empty: most events need none.
    pub(crate) fn take_out(&self) -> Vec<u8> {
        self.outs.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_out(&self, mut buffer: Vec<u8>) {
        let mut outs = self.outs.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= OUT_BYTES_KEPT && outs.len() < OUTS_KEPT {
            buffer.clear();
            outs.push(buffer);
        }
    }
}

/// What one side said and the session has not taken yet.
///
/// Invariant: `start <= buffer.len() <= buffer.capacity()`; with nothing untaken and [`Input::rest`] called, no buffer is held.
#[derive(Default)]
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
}

impl Input {
    pub(crate) fn untaken(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len().saturating_sub(self.start)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.buffer.len());
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Makes room so that `together` bytes from the first untaken one fit, and gives the buffer to append to.
    pub(crate) fn room(&mut self, pool: &Pool, together: usize) -> &mut Vec<u8> {
        if self.start.saturating_add(together) > self.buffer.capacity() {
            if together > self.buffer.capacity() {
                let mut larger = pool.take(together);
                larger.extend_from_slice(self.untaken());
                pool.give(std::mem::replace(&mut self.buffer, larger));
            } else {
                self.buffer.drain(..self.start);
            }
            self.start = 0;
        }
        &mut self.buffer
    }

    /// Gives the buffer back when nothing is left in it.
    pub(crate) fn rest(&mut self, pool: &Pool) {
        if self.is_empty() && self.buffer.capacity() > 0 {
            pool.give(std::mem::take(&mut self.buffer));
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untaken_bytes_stay_in_front_whatever_the_room() {
        let pool = Pool::default();
        let mut input = Input::default();
        input.room(&pool, 16).extend_from_slice(b"0123456789");
        input.take(4);
        for together in [10, SIZES[0], SIZES[0] + 1, SIZES[2] + 1] {
            input.room(&pool, together);
            assert_eq!(input.untaken(), b"456789");
            assert!(input.buffer.capacity() - input.start >= together);
        }
        input.take(99);
        input.rest(&pool);
        assert_eq!(input.buffer.capacity(), 0);
    }

    #[test]
    fn the_reserve_is_bounded() {
        let pool = Pool::default();
        for _ in 0..1000 {
            pool.give(Vec::with_capacity(SIZES[0]));
            pool.give(Vec::with_capacity(SIZES[2] + 1));
            pool.give_out(Vec::with_capacity(100));
            pool.give_out(Vec::with_capacity(OUT_BYTES_KEPT + 1));
        }
        assert_eq!(pool.reads[0].borrow().len(), KEPT[0]);
        assert_eq!(pool.reads[2].borrow().len(), 0);
        assert_eq!(pool.outs.borrow().len(), OUTS_KEPT);
    }
}
