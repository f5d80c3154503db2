//! How a batch of requests stands in a log entry: encoded once by the leader, never again.
//!
//! `version: u8 | log time: u64 | (length: u32 | request bytes)*`, integers little-endian.

use crate::ids::LogTime;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 9;

/// Why bytes aren't a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Shorter than its header or than a request in it says.
    #[error("batch is cut short")]
    Short,
    /// A version this code doesn't know.
    #[error("batch has unknown version {0}")]
    Version(u8),
}

/// A batch being built. Its size is known before it is proposed.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    requests: usize,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder { bytes: vec![0; HEADER_BYTES], requests: 0 }
    }
}

impl BatchBuilder {
    /// Adds one encoded request.
    ///
    /// # Panics
    /// If the request is longer than 4 GiB; callers bound requests far below.
    pub fn push(&mut self, request: &[u8]) {
        let length = u32::try_from(request.len()).expect("requests are bounded far below 4 GiB");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(request);
        self.requests += 1;
    }

    /// Encoded size so far, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many requests are in it.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Whether no request is in it.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// The batch, stamped.
    pub fn finish(mut self, time: LogTime) -> Vec<u8> {
        self.bytes[0] = VERSION;
        self.bytes[1..HEADER_BYTES].copy_from_slice(&time.0.to_le_bytes());
        self.bytes
    }
}

/// A decoded batch: its stamp and an iterator over its requests.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// The log time the leader stamped it with.
    pub time: LogTime,
    rest: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`BatchError`] if there is none, or not one of ours.
    pub fn new(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(BatchError::Short)?;
        let (version, time) = header.split_first().ok_or(BatchError::Short)?;
        if *version != VERSION {
            return Err(BatchError::Version(*version));
        }
        let time = u64::from_le_bytes(time.try_into().map_err(|_| BatchError::Short)?);
        Ok(BatchView { time: LogTime(time), rest })
    }
}

impl<'a> Iterator for BatchView<'a> {
    type Item = Result<&'a [u8], BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.rest.split_at_checked(4).and_then(|(length, rest)| {
            let length = u32::from_le_bytes(length.try_into().ok()?);
            rest.split_at_checked(usize::try_from(length).ok()?)
        });
        match split {
            Some((request, rest)) => {
                self.rest = rest;
                Some(Ok(request))
            }
            None => {
                self.rest = &[];
                Some(Err(BatchError::Short))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_requests_and_stamp() {
        let mut builder = BatchBuilder::default();
        builder.push(b"one");
        builder.push(b"");
        let bytes = builder.finish(LogTime(42));
        let view = BatchView::new(&bytes).unwrap();
        assert_eq!(view.time, LogTime(42));
        assert_eq!(view.collect::<Result<Vec<_>, _>>().unwrap(), vec![&b"one"[..], &b""[..]]);
    }

    #[test]
    fn every_cut_is_noticed_or_ends_between_requests() {
        let mut builder = BatchBuilder::default();
        builder.push(b"abc");
        builder.push(b"defg");
        let bytes = builder.finish(LogTime(1));
        for cut in 0..bytes.len() {
            match BatchView::new(&bytes[..cut]) {
                Err(e) => assert_eq!(e, BatchError::Short),
                Ok(view) => {
                    let whole = cut == HEADER_BYTES || cut == HEADER_BYTES + 7;
                    assert_eq!(view.into_iter().all(|r| r.is_ok()), whole, "cut at {cut}");
                }
            }
        }
    }
}
