//! Where calls live while they are in flight: indexed, reused, and safe against answers that come too late.
//!
//! A key carries the generation of its place, so an answer to a call that is gone finds nothing. On the wire a key and the
//! number of the try make one `u64`; the top bit is left to probes (see [`crate::engine`]).

/// Names a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

const ATTEMPT_BITS: u32 = 12;
const GENERATION_BITS: u32 = 28;
const INDEX_BITS: u32 = 23;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
/// The part of a try's number that fits the wire.
pub(crate) const ATTEMPT_MASK: u32 = (1 << ATTEMPT_BITS) - 1;
/// Most calls, waiting ones included.
pub(crate) const CALLS_MAX: usize = 1 << INDEX_BITS;

impl Key {
    /// The id of a try on the wire.
    pub(crate) fn wire(self, attempt: u32) -> u64 {
        let place = u64::from(self.index) << GENERATION_BITS | u64::from(self.generation);
        place << ATTEMPT_BITS | u64::from(attempt & ATTEMPT_MASK)
    }

    /// The call and the try that an id on the wire means.
    pub(crate) fn from_wire(id: u64) -> (Key, u32) {
        let low = |value: u64, bits: u32| u32::try_from(value & ((1 << bits) - 1)).unwrap_or(0);
        let place = id >> ATTEMPT_BITS;
        let index = low(place >> GENERATION_BITS, INDEX_BITS);
        (Key { index, generation: low(place, GENERATION_BITS) }, low(id, ATTEMPT_BITS))
    }
}

/// A place for each call.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Takes a value in; gives it back if there are [`CALLS_MAX`] already.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.value = Some(value);
            return Ok(Key { index, generation: place.generation });
        }
        match u32::try_from(self.places.len()) {
            Ok(index) if self.places.len() < CALLS_MAX => {
                self.places.push(Place { generation: 0, value: Some(value) });
                Ok(Key { index, generation: 0 })
            }
            _ => Err(value),
        }
    }

    /// The value, unless it is gone.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation == key.generation { place.value.as_mut() } else { None }
    }

    /// Takes the value out; the key is then worth nothing.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = (place.generation + 1) & GENERATION_MASK;
        self.free.push(key.index);
        Some(value)
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// All values.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        (0..).zip(&mut self.places).filter_map(|(index, place)| {
            let key = Key { index, generation: place.generation };
            place.value.as_mut().map(|value| (key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_of_the_past_finds_nothing() {
        let mut slab = Slab::default();
        let old = slab.insert('a').unwrap();
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('b').unwrap();
        assert_eq!(old.index, new.index);
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get_mut(new), Some(&mut 'b'));
        assert_eq!(slab.len(), 1);
    }

    proptest! {
        #[test]
        fn a_wire_id_names_call_and_try(
            index in 0_u32..1 << INDEX_BITS, generation in 0..=GENERATION_MASK, attempt in 0..=ATTEMPT_MASK
        ) {
            let key = Key { index, generation };
            let id = key.wire(attempt);
            prop_assert_eq!(id >> 63, 0);
            prop_assert_eq!(Key::from_wire(id), (key, attempt));
        }
    }
}
