//! Durations and sizes as people write them.

/// A unit and what one of it is worth.
type Unit = (&'static str, u64);

const DURATIONS: &[Unit] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZES: &[Unit] = &[
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// The nanoseconds of `10s`, `500ms`, `2m`, `1h` or `1d`.
pub(super) fn duration(text: &str) -> Option<u64> {
    parse(text, DURATIONS)
}

/// The bytes of `50MiB`, `8KiB`, `1GB` or `512B`.
pub(super) fn size(text: &str) -> Option<u64> {
    parse(text, SIZES)
}

fn parse(text: &str, units: &[Unit]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ');
    let (_, worth) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*worth)
}

/// A number of bytes, short.
pub(super) fn show_size(bytes: u64) -> String {
    match SIZES[..3].iter().find(|(_, worth)| bytes >= *worth) {
        Some((unit, worth)) => show(bytes, *worth, unit),
        None => format!("{bytes} bytes"),
    }
}

/// A number of nanoseconds, short.
pub(super) fn show_duration(nanoseconds: u64) -> String {
    match DURATIONS.iter().find(|(_, worth)| nanoseconds >= *worth) {
        Some((unit, worth)) => show(nanoseconds, *worth, unit),
        None => "no time".to_owned(),
    }
}

fn show(amount: u64, worth: u64, unit: &str) -> String {
    let tenths = u128::from(amount) * 10 / u128::from(worth);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_written() {
        assert_eq!(duration("10s"), Some(10_000_000_000));
        assert_eq!(duration("500ms"), Some(500_000_000));
        assert_eq!(duration("2 m"), Some(120_000_000_000));
        assert_eq!(size("50MiB"), Some(50 << 20));
        assert_eq!(size("1GB"), Some(1_000_000_000));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "s", "10", "10 parsecs", "-1s", "1.5s", "99999999999999999999s", "300000000000d"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
        for text in ["", "MiB", "50", "50mib", "50Mib", "18446744073709551615KiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn quantities_are_shown_short() {
        assert_eq!(show_size(52_428_800), "50 MiB");
        assert_eq!(show_size(1_600_000), "1.5 MiB");
        assert_eq!(show_size(12), "12 bytes");
        assert_eq!(show_duration(4_150_000_000), "4.1 s");
        assert_eq!(show_duration(0), "no time");
        assert_eq!(show_duration(30_000_000_000), "30 s");
    }
}
