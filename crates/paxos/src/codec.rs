//! The one place that knows how values become bytes: bincode 2 with fixed limits, trailing bytes refused.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Decode, Encode};

/// Largest value that can be decoded, in bytes. Above every limit on what is encoded, see [`crate::limits`].
pub const DECODE_BYTES_MAX: usize = 48 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>> =
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>();

/// Up to this many bytes can only be a value of at most [`SMALL_DECODE_BYTES_MAX`]. A length takes its memory before what
/// it counts is read, so without this nine bytes take 48 MiB. Nothing that is encoded grows to 512 times its encoding.
const SMALL_BYTES: usize = 4 << 10;
const SMALL_DECODE_BYTES_MAX: usize = SMALL_BYTES * 512;

const SMALL_CONFIG: Configuration<LittleEndian, Varint, Limit<SMALL_DECODE_BYTES_MAX>> =
    bincode::config::standard().with_limit::<SMALL_DECODE_BYTES_MAX>();

/// Why bytes weren't taken for a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes aren't an encoding of the type.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The value ends before the bytes do.
    #[error("{0} trailing bytes")]
    Trailing(usize),
}

/// The bytes of a value.
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(value, &mut bytes);
    bytes
}

/// Appends the bytes of a value.
pub fn encode_into<T: Encode>(value: &T, bytes: &mut Vec<u8>) {
    // Writing to a Vec can't fail, and no type of ours refuses to be encoded.
    bincode::encode_into_std_write(value, bytes, CONFIG).expect("encoding into memory can't fail");
}

/// The value that `bytes` encode, all of them.
///
/// # Errors
/// [`CodecError`] for anything but exactly one value of at most [`DECODE_BYTES_MAX`] bytes.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let decoded = match bytes.len() {
        0..=SMALL_BYTES => bincode::decode_from_slice(bytes, SMALL_CONFIG),
        _ => bincode::decode_from_slice(bytes, CONFIG),
    };
    whole(bytes, decoded)
}

fn whole<T>(bytes: &[u8], decoded: Result<(T, usize), DecodeError>) -> Result<T, CodecError> {
    let (value, used) = decoded.map_err(|e| CodecError::Malformed(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}

/// As [`decode`], for a type that keeps slices of `bytes` instead of copies.
///
/// # Errors
/// As [`decode`].
pub fn decode_borrowed<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let decoded = match bytes.len() {
        0..=SMALL_BYTES => bincode::borrow_decode_from_slice(bytes, SMALL_CONFIG),
        _ => bincode::borrow_decode_from_slice(bytes, CONFIG),
    };
    whole(bytes, decoded)
}

/// The value that `bytes` begin with; what follows isn't looked at.
///
/// # Errors
/// [`CodecError::Malformed`] if they don't begin with one.
pub fn decode_prefix<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, _) =
        bincode::decode_from_slice(bytes, CONFIG).map_err(|e| CodecError::Malformed(e.to_string()))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&7_u64);
        bytes.push(0);
        assert_eq!(decode::<u64>(&bytes), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn a_hostile_length_is_refused_without_allocating() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_length_far_above_what_is_there_is_refused_before_it_takes_memory() {
        let mut bytes = vec![252];
        bytes.extend_from_slice(&(DECODE_BYTES_MAX as u32 - 100).to_le_bytes());
        let Err(CodecError::Malformed(reason)) = decode::<Vec<u8>>(&bytes) else {
            panic!("a value of nine bytes")
        };
        assert_eq!(reason, "LimitExceeded", "not the end of the bytes");
        bytes.resize(SMALL_BYTES + 1, 0);
        let Err(CodecError::Malformed(reason)) = decode::<Vec<u8>>(&bytes) else {
            panic!("a value of 4 KiB")
        };
        assert!(reason.starts_with("UnexpectedEnd"), "{reason}");
    }
}
