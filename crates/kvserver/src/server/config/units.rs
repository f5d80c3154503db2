//! Durations and sizes with units, as configuration writes them: `"100ms"`, `"64MiB"`.

/// Durations, largest unit first, in µs.
const TIMES: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)];
/// Sizes that are written, largest unit first, in bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Sizes that are read as well.
const DECIMAL_SIZES: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];

/// A duration in µs.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let units: Vec<_> = TIMES.to_vec();
    parse(text, &units, "a duration needs a whole number and a unit, like \"100ms\" (us, ms, s, m, h)")
}

/// A size in bytes.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units: Vec<_> = SIZES.iter().chain(&DECIMAL_SIZES).copied().collect();
    parse(
        text,
        &units,
        "a size needs a whole number and a unit, like \"64MiB\" (B, KiB, MiB, GiB, kB, MB, GB)",
    )
}

fn parse(text: &str, units: &[(&str, u64)], expected: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    let number = number.parse::<u64>().ok();
    let (Some(number), Some(factor)) = (number, factor) else {
        return Err(format!("{text:?}: {expected}"));
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// A duration as people write it, in the largest unit that loses nothing.
pub fn show_time(micros: u64) -> String {
    show(micros, &TIMES)
}

/// A size as people write it, in the largest unit that loses nothing.
pub fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().find(|(_, factor)| value >= *factor && value.is_multiple_of(*factor));
    match (exact, units.last()) {
        (Some((name, factor)), _) => format!("{}{name}", value / factor),
        (None, Some((name, _))) => format!("{value}{name}"),
        (None, None) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(parse_time("100ms"), Ok(100_000));
        assert_eq!(parse_time("2 s"), Ok(2_000_000));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("5MB"), Ok(5_000_000));
        assert_eq!(parse_size("0B"), Ok(0));
    }

    #[test]
    fn what_lacks_a_number_or_a_unit_is_refused() {
        for text in ["", "5", "ms", "5 parsecs", "1.5s", "-1s", "5mib"] {
            assert!(parse_time(text).is_err() && parse_size(text).is_err(), "{text:?}");
        }
        assert!(parse_size("99999999999GiB").unwrap_err().contains("too large"));
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for value in [0, 1, 999, 1000, 50_000, 1 << 20, 3 << 30, 3_600_000_000] {
            assert_eq!(parse_time(&show_time(value)), Ok(value));
            assert_eq!(parse_size(&show_size(value)), Ok(value));
        }
    }
}
