//! Names of prepared statements and portals: mostly empty or short, so they live without a heap allocation; and what they name.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// `__asyncpg_stmt_1__` fits, and a name is three words.
const INLINE: usize = 22;

/// A statement's or portal's name, as the client spelled it. Compares and hashes as bytes.
#[derive(Clone)]
pub(crate) enum Name {
    Inline(u8, [u8; INLINE]),
    Heap(Arc<[u8]>),
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

/// Things that have a name.
pub(crate) type ByName<T> = HashMap<Name, T, RandomState>;

/// Things by name. The unnamed one, which most clients use for everything, lies beside the table and costs no hash.
///
/// The hash is fast and keyed at random; whoever finds names that collide all the same slows down the session they are in, whose table
/// is bounded, and no other.
pub(crate) struct Named<T> {
    unnamed: Option<T>,
    named: Option<Box<ByName<T>>>,
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named { unnamed: None, named: None }
    }
}

impl<T> Named<T> {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&T> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.as_ref()?.get(name) }
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<&mut T> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.as_mut()?.get_mut(name) }
    }

    /// Returns what had the name before.
    pub(crate) fn insert(&mut self, name: Name, thing: T) -> Option<T> {
        if name.is_empty() {
            self.unnamed.replace(thing)
        } else {
            self.named.get_or_insert_default().insert(name, thing)
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<T> {
        if name.is_empty() { self.unnamed.take() } else { self.named.as_mut()?.remove(name) }
    }

    pub(crate) fn clear(&mut self) {
        self.unnamed = None;
        self.clear_named();
    }

    /// All that have a name.
    pub(crate) fn clear_named(&mut self) {
        if let Some(named) = &mut self.named
            && !named.is_empty()
        {
            named.clear();
        }
    }

    /// All that have a name, taken out.
    pub(crate) fn take_named(&mut self) -> Option<Box<ByName<T>>> {
        self.named.take_if(|named| !named.is_empty())
    }

    /// How many have a name.
    pub(crate) fn len(&self) -> usize {
        self.named.as_ref().map_or(0, |n| n.len())
    }

    /// `bytes` as a name; a long one that is known here already shares its bytes.
    pub(crate) fn name(&self, bytes: &[u8]) -> Name {
        match &self.named {
            Some(named) if bytes.len() > INLINE => match named.get_key_value(bytes) {
                Some((name, _)) => name.clone(),
                None => Name::new(bytes),
            },
            _ => Name::new(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_found_by_name_and_long_names_are_shared() {
        let mut things = Named::default();
        let long = [b'l'; 60];
        for (n, name) in [&b""[..], b"a", &long].into_iter().enumerate() {
            assert!(things.get(name).is_none());
            things.insert(Name::new(name), n);
            assert_eq!(things.get(name), Some(&n));
        }
        assert_eq!(things.len(), 2);
        let (Name::Heap(one), Name::Heap(two)) = (things.name(&long), things.name(&long)) else {
            panic!("a long name lies on the heap")
        };
        assert!(Arc::ptr_eq(&one, &two));
        things.remove(b"");
        things.remove(b"a");
        assert!(things.get(b"").is_none() && things.get(b"a").is_none() && things.get(&long).is_some());
        things.clear();
        assert_eq!(things.len(), 0);
    }

    #[test]
    fn long_and_short_names_compare_as_bytes() {
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 300] {
            assert_eq!(size_of::<Name>(), 24);
            let bytes = vec![b'x'; len];
            assert_eq!(&*Name::new(&bytes), &bytes[..]);
            assert_eq!(Name::new(&bytes), Name::new(&bytes));
        }
        assert_ne!(Name::new(b"a"), Name::new(b""));
    }
}
