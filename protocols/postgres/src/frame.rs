//! Where messages begin and end: one tag byte, then a length that counts itself (4 bytes, big-endian) and the body.
//!
//! Invariant: a header is believed only after its length was checked; nothing is allocated for a length.

use flow::{Fault, Side};

/// Longest body the protocol allows: `MaxAllocSize`-bound, 1 GB (pqcomm.c `PQ_LARGE_MESSAGE_LIMIT`).
pub(crate) const BODY_MAX: usize = 0x3fff_ffff;
/// Tag and length.
pub(crate) const HEADER: usize = 5;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) tag: u8,
    /// Body bytes, without the length field.
    pub(crate) body: usize,
}

impl Header {
    /// The whole message, header included.
    pub(crate) fn total(self) -> usize {
        HEADER + self.body
    }
}

/// The header at the start of `input`; `None` while fewer than five bytes are there.
pub(crate) fn header(input: &[u8], side: Side) -> Result<Option<Header>, Fault> {
    let Some(([tag, length @ ..], _)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    match length.checked_sub(4) {
        Some(body) if body <= BODY_MAX => Ok(Some(Header { tag: *tag, body })),
        _ => Err(Fault::Protocol { side, what: "message length out of range" }),
    }
}

/// The message at the start of `input`, when all of it is there.
pub(crate) fn body(input: &[u8], header: Header) -> Option<&[u8]> {
    input.get(HEADER..header.total())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_length_below_four_and_above_a_gigabyte() {
        for bad in [[b'Q', 0, 0, 0, 3], [b'Q', 0xff, 0xff, 0xff, 0xff], [b'Q', 0x7f, 0xff, 0xff, 0xff]] {
            assert!(header(&bad, Side::Client).is_err());
        }
        assert_eq!(header(b"Q\0\0\0\x04", Side::Client).unwrap(), Some(Header { tag: b'Q', body: 0 }));
        assert_eq!(header(b"Q\0\0\0", Side::Client).unwrap(), None);
    }
}
