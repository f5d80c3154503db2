//! A key as the state keeps it: 24 bytes, with keys up to 23 bytes inside and longer ones in one shared allocation.
//!
//! Ordered and hashed as its bytes, so that maps can be searched by `&[u8]`. Small and inline, keys cost no allocation and
//! no pointer to follow.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU8;
use std::sync::Arc;

/// Longest key that needs no allocation, in bytes.
pub const INLINE_BYTES_MAX: usize = 23;

/// A key of the store. Cloning never copies more than 24 bytes.
#[derive(Clone)]
pub struct Key(Repr);

#[derive(Clone)]
enum Repr {
    // The length is kept plus one, so that zero is free to tell the other variant.
    Inline { length_plus_one: NonZeroU8, bytes: [u8; INLINE_BYTES_MAX] },
    Shared(Arc<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 24, "maps have many of them");

impl Key {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { length_plus_one, bytes } => &bytes[..usize::from(length_plus_one.get()) - 1],
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Key {
        let length_plus_one = u8::try_from(key.len() + 1).ok().and_then(NonZeroU8::new);
        match length_plus_one {
            Some(length_plus_one) if key.len() <= INLINE_BYTES_MAX => {
                let mut bytes = [0; INLINE_BYTES_MAX];
                bytes[..key.len()].copy_from_slice(key);
                Key(Repr::Inline { length_plus_one, bytes })
            }
            _ => Key(Repr::Shared(Arc::from(key))),
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_length_around_the_inline_bound_keeps_its_bytes() {
        for length in [0, 1, 22, 23, 24, 25, 254, 255, 256, 300] {
            let bytes = vec![7; length];
            assert_eq!(Key::from(&bytes[..]).as_bytes(), &bytes[..], "length {length}");
        }
    }

    proptest! {
        #[test]
        fn keys_are_ordered_as_their_bytes(
            a in proptest::collection::vec(0_u8..3, 0..30),
            b in proptest::collection::vec(0_u8..3, 0..30),
        ) {
            let (x, y) = (Key::from(&a[..]), Key::from(&b[..]));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
        }
    }
}
