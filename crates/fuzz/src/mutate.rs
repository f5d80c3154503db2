//! Makes a hostile input of a valid one. The mutations know the two ways in which numbers and lengths are written here:
//! the variable-length integers of bincode (a byte up to 250, else a marker and 2, 4, 8 or 16 bytes) and those of
//! protobuf (7 bits a byte), beside integers of fixed width.

use crate::dice::Dice;

/// Changes `bytes` in one to four ways. `other` is another input, to splice with; `words` are pieces worth putting in.
pub fn mutate(dice: &mut Dice, bytes: &[u8], other: &[u8], words: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let times = 1 + [0, 0, 0, 1, 1, 2, 3][dice.below(7)];
    for _ in 0..times {
        once(dice, &mut bytes, other, words);
    }
    bytes.truncate(bytes_max);
    bytes
}

fn once(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>]) {
    let at = dice.below(bytes.len());
    match dice.below(20) {
        0..3 => change(bytes, at, |byte| byte ^ (1 << dice.below(8))),
        3 => change(bytes, at, |_| dice.draw() as u8),
        4 => change(bytes, at, |_| *dice.pick(&[0, 1, 2, 0x7f, 0x80, 250, 251, 252, 253, 254, 255])),
        5 => change(bytes, at, |byte| byte.wrapping_add(1)),
        6 => change(bytes, at, |byte| byte.wrapping_sub(1)),
        7 => overwrite(bytes, at, &fixed(dice)),
        8..10 => replace(bytes, at, 1, &bincode_number(dice)),
        10 => replace(bytes, at, 1, &protobuf_number(dice)),
        11 => bytes.truncate(at),
        12 => replace(bytes, at, 1 + dice.below(16), &[]),
        13 => {
            let from = dice.below(bytes.len());
            let piece = piece(bytes, from, 1 + dice.below(64)).to_vec();
            replace(bytes, at, 0, &piece);
        }
        14 => {
            let length = 1 + dice.below(9);
            let random: Vec<u8> = (0..length).map(|_| dice.draw() as u8).collect();
            replace(bytes, at, 0, &random);
        }
        15 => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[dice.below(other.len()).min(other.len())..]);
        }
        16 => {
            let from = dice.below(other.len());
            let piece = piece(other, from, 1 + dice.below(128)).to_vec();
            let over = if dice.chance(50) { piece.len() } else { 0 };
            replace(bytes, at, over, &piece);
        }
        17 if !words.is_empty() => {
            let word = dice.pick(words).clone();
            replace(bytes, at, dice.below(3), &word);
        }
        17 => bytes.extend((0..=dice.below(4)).map(|_| 0)),
        18 => {
            let value = *dice.pick(&[0, 0xff, b'a', 0x80]);
            let length = 1 + dice.below(200);
            replace(bytes, at, length, &vec![value; length]);
        }
        _ => {
            let from = dice.below(bytes.len());
            if !bytes.is_empty() {
                bytes.swap(at, from);
            }
        }
    }
}

fn change(bytes: &mut [u8], at: usize, to: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = to(*byte);
    }
}

fn piece(bytes: &[u8], from: usize, length: usize) -> &[u8] {
    &bytes[from.min(bytes.len())..(from + length).min(bytes.len())]
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(with) {
        *byte = *new;
    }
}

/// Puts `with` in place of `count` bytes.
fn replace(bytes: &mut Vec<u8>, at: usize, count: usize, with: &[u8]) {
    let start = at.min(bytes.len());
    let end = (start + count).min(bytes.len());
    bytes.splice(start..end, with.iter().copied());
}

/// An integer of 2, 4 or 8 bytes, either end first.
fn fixed(dice: &mut Dice) -> Vec<u8> {
    let number = dice.hostile().to_le_bytes();
    let mut bytes = number[..*dice.pick(&[2, 4, 8])].to_vec();
    if dice.chance(30) {
        bytes.reverse();
    }
    bytes
}

/// As bincode writes it, not always in the shortest way.
fn bincode_number(dice: &mut Dice) -> Vec<u8> {
    let number = dice.hostile();
    let (marker, width) = *dice.pick(&[(251, 2), (252, 4), (253, 8), (253, 8), (254, 16)]);
    let wide = u128::from(number) | if dice.chance(30) { u128::from(dice.hostile()) << 64 } else { 0 };
    [&[marker][..], &wide.to_le_bytes()[..width]].concat()
}

/// As protobuf writes it, sometimes with more bytes than a number may have.
fn protobuf_number(dice: &mut Dice) -> Vec<u8> {
    let mut number = dice.hostile();
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    if dice.chance(10) {
        bytes.extend([0xff; 4]);
    }
    bytes.push(number as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_empty_ones_are_no_trouble() {
        let make = |case| {
            let mut dice = Dice::of_case("a target", 1, case);
            (0..50).map(|_| mutate(&mut dice, b"", b"", &[], 100)).collect::<Vec<_>>()
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let mut dice = Dice::new(1);
        let long = (0..500).map(|_| mutate(&mut dice, &[7; 64], &[9; 64], &[], 80)).collect::<Vec<_>>();
        assert!(long.iter().all(|bytes| bytes.len() <= 80));
        assert!(long.iter().any(|bytes| bytes.contains(&9)), "some are spliced");
    }
}
