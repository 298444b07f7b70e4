//! Names of prepared statements and portals: mostly empty or short, so they live without a heap allocation.

use std::hash::{Hash, Hasher};
use std::ops::Deref;

const INLINE: usize = 30;

/// A statement's or portal's name, as the client spelled it. Compares and hashes as bytes.
#[derive(Clone)]
pub(crate) enum Name {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

impl Name {
    pub(crate) fn new(bytes: &[u8]) -> Name {
        let mut inline = [0; INLINE];
        match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(bytes);
                Name::Inline(len, inline)
            }
            _ => Name::Heap(bytes.into()),
        }
    }
}

impl Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Name::Inline(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Name::Heap(bytes) => bytes,
        }
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_names_compare_as_bytes() {
        for len in [0, 1, 29, 30, 31, 300] {
            let bytes = vec![b'x'; len];
            assert_eq!(&*Name::new(&bytes), &bytes[..]);
            assert_eq!(Name::new(&bytes), Name::new(&bytes));
        }
        assert_ne!(Name::new(b"a"), Name::new(b""));
    }
}
