//! `[audit]` of the configuration.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::monitor::event::EventKind;

/// What is done about what runs while nothing can be written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFullDisk {
    /// It is frozen until there is room again; so are containers that are only to be frozen and killed by rules.
    #[default]
    Freeze,
    /// It goes on. What is missing in the log is counted, and told when there is room.
    Continue,
}

/// How the audit log is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What to do while the disk takes no records.
    pub on_full_disk: OnFullDisk,
    /// A file is rotated before it is longer than so many bytes.
    #[serde(deserialize_with = "size")]
    pub max_file_size: u64,
    /// A file is rotated when its first record is so old.
    #[serde(deserialize_with = "duration")]
    pub max_file_age: Duration,
    /// A file is rotated no sooner, however long it is: who follows it by its name has so long to find the next one.
    #[serde(deserialize_with = "duration")]
    pub min_file_age: Duration,
    /// So many rotated files of a log are kept.
    pub keep_files: usize,
    /// So old a rotated file may become.
    #[serde(deserialize_with = "duration")]
    pub keep_age: Duration,
    /// So many bytes the rotated files of a log may have together.
    #[serde(deserialize_with = "size")]
    pub keep_size: u64,
    /// A checkpoint is signed when the last one is so old and something was written since.
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Duration,
    /// Or when so many records were written since.
    pub checkpoint_records: u64,
    /// How often the monitor says that it is at work.
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// The kinds of kernel events that are written down beside alerts.
    #[serde(deserialize_with = "kinds")]
    pub events: Vec<EventKind>,
}

impl Default for Options {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            on_full_disk: OnFullDisk::default(),
            max_file_size: 16 << 20,
            max_file_age: DAY,
            min_file_age: Duration::from_secs(1),
            keep_files: 60,
            keep_age: 90 * DAY,
            keep_size: 512 << 20,
            checkpoint_interval: Duration::from_secs(60),
            checkpoint_records: 1000,
            heartbeat: Duration::from_secs(60),
            events: Vec::new(),
        }
    }
}

/// A time that is longer than nothing: `30s`, `12h`, `90d`.
pub fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    let span: Span = text
        .parse()
        .map_err(|error| D::Error::custom(format!("{error}; write \"30s\", \"12h\" or \"90d\"")))?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(D::Error::custom)?;
    match Duration::try_from(duration) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(D::Error::custom("it must be longer than nothing")),
    }
}

/// A number of bytes, or a text such as `16MiB`.
fn size<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    let text = match Size::deserialize(input)? {
        Size::Bytes(bytes) => return Ok(bytes),
        Size::Text(text) => text,
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(D::Error::custom("a size is a number of bytes, or of KiB, MiB or GiB: \"16MiB\"")),
    };
    let number: u64 = number.parse().map_err(D::Error::custom)?;
    number.checked_mul(1 << shift).ok_or_else(|| D::Error::custom("that is more than there is"))
}

fn kinds<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<EventKind>, D::Error> {
    let names = Vec::<String>::deserialize(input)?;
    let kind = |name: &String| {
        EventKind::from_name(name).ok_or_else(|| {
            let all: Vec<_> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
            D::Error::custom(format!("there is no kind of event {name:?}; there are {}", all.join(", ")))
        })
    };
    names.iter().map(kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written() {
        let options: Options = toml::from_str(
            "on_full_disk = \"continue\"\nmax_file_size = \"64KiB\"\nkeep_size = 7\nkeep_age = \"90d\"\n\
             heartbeat = \"1s\"\nevents = [\"exec\"]",
        )
        .unwrap();
        assert_eq!(
            options,
            Options {
                on_full_disk: OnFullDisk::Continue,
                max_file_size: 64 << 10,
                keep_size: 7,
                heartbeat: Duration::from_secs(1),
                events: vec![EventKind::Exec],
                ..Options::default()
            }
        );
        for wrong in [
            "on_full_disk = 1",
            "keep_age = \"soon\"",
            "keep_age = \"0s\"",
            "max_file_size = \"1 parsec\"",
            "keep_size = \"99999999999GiB\"",
            "events = [\"exe\"]",
            "what = 1",
        ] {
            assert!(toml::from_str::<Options>(wrong).is_err(), "{wrong}");
        }
    }
}
