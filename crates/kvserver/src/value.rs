//! A value as the state keeps it: version and bytes in one right-sized, shared allocation.
//!
//! Bytes are copied in, never sliced out of a batch: a small value would keep the whole batch alive.

use std::fmt;
use std::iter;
use std::sync::Arc;

const VERSION_BYTES: usize = 8;

/// A value with its version. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Arc<[u8]>);

impl Value {
    /// A value of these bytes.
    pub fn new(version: u64, bytes: &[u8]) -> Value {
        Value::concat(version, bytes, &[])
    }

    /// A value of two pieces one after the other.
    pub fn concat(version: u64, head: &[u8], tail: &[u8]) -> Value {
        let mut value: Arc<[u8]> = iter::repeat_n(0, VERSION_BYTES + head.len() + tail.len()).collect();
        // Just made, so nobody shares it.
        if let Some(room) = Arc::get_mut(&mut value) {
            room[..VERSION_BYTES].copy_from_slice(&version.to_le_bytes());
            room[VERSION_BYTES..VERSION_BYTES + head.len()].copy_from_slice(head);
            room[VERSION_BYTES + head.len()..].copy_from_slice(tail);
        }
        Value(value)
    }

    /// Replaces version and bytes; in place if the length stays and no clone of the state shares the value.
    pub fn set(&mut self, version: u64, bytes: &[u8]) {
        match Arc::get_mut(&mut self.0) {
            Some(room) if room.len() == VERSION_BYTES + bytes.len() => {
                room[..VERSION_BYTES].copy_from_slice(&version.to_le_bytes());
                room[VERSION_BYTES..].copy_from_slice(bytes);
            }
            _ => *self = Value::new(version, bytes),
        }
    }

    /// The shard's revision when the value was written.
    pub fn version(&self) -> u64 {
        self.0.first_chunk().map_or(0, |version| u64::from_le_bytes(*version))
    }

    /// The value's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0[VERSION_BYTES..]
    }

    /// Version and bytes as they lie in memory, for hashing.
    pub(crate) fn as_stored(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (version {})", String::from_utf8_lossy(self.as_bytes()), self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_what_it_was_given() {
        let value = Value::concat(9, b"ab", b"c");
        assert_eq!((value.version(), value.as_bytes()), (9, &b"abc"[..]));
        assert_eq!(value, Value::new(9, b"abc"));
    }

    #[test]
    fn a_shared_value_is_replaced_not_overwritten() {
        let mut value = Value::new(1, b"old");
        let before = value.clone();
        value.set(2, b"new");
        assert_eq!((before.version(), before.as_bytes()), (1, &b"old"[..]));
        value.set(3, b"own");
        assert_eq!((value.version(), value.as_bytes()), (3, &b"own"[..]));
    }
}
