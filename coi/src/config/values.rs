//! The types of the settings.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::table::{Amount, Setting, Shape};
use crate::image::{AGENTS, Agent, Base};

impl Setting for bool {
    const SHAPE: Shape = Shape::Boolean;

    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wrong(Self::SHAPE))
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for String {
    const SHAPE: Shape = Shape::Text("a text");

    fn read(value: &Value) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong(Self::SHAPE))?;
        if text.contains('\0') { Err("it cannot hold a zero byte".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn value(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl<T: Setting> Setting for Option<T> {
    const SHAPE: Shape = T::SHAPE;

    fn read(value: &Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn value(&self) -> Option<Value> {
        self.as_ref().and_then(T::value)
    }

    fn amount(&self) -> Option<Amount> {
        self.as_ref().and_then(T::amount)
    }
}

/// A whole number of something, within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<const FROM: i64, const TO: i64>(pub i64);

impl<const FROM: i64, const TO: i64> Setting for Number<FROM, TO> {
    const SHAPE: Shape = Shape::Number { from: FROM, to: TO };

    fn read(value: &Value) -> Result<Self, String> {
        let number = value.as_integer().filter(|number| (FROM..=TO).contains(number));
        number.map(Self).ok_or_else(|| wrong(Self::SHAPE))
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Integer(self.0))
    }

    fn amount(&self) -> Option<Amount> {
        u128::try_from(self.0).ok().map(|number| Amount { unit: "number", number })
    }
}

/// Texts of which later ones replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl Setting for List {
    const SHAPE: Shape = Shape::List("texts");

    fn read(value: &Value) -> Result<Self, String> {
        texts(value).map(Self)
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Array(self.0.iter().cloned().map(Value::String).collect()))
    }
}

/// What an image is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildBase(pub String);

impl Setting for BuildBase {
    const SHAPE: Shape =
        Shape::Text("`\"images:debian/12\"`, `\"debootstrap:bookworm\"`, or the alias of a local image");

    fn read(value: &Value) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| wrong(Self::SHAPE))?;
        Base::parse(text).map(|_| Self(text.to_owned()))
    }

    fn value(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}

/// Agents that are put into an image, each as `NAME` or `NAME@VERSION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentNames(pub Vec<String>);

impl Default for AgentNames {
    fn default() -> Self {
        Self(AGENTS.iter().map(|agent| agent.name.to_owned()).collect())
    }
}

impl Setting for AgentNames {
    const SHAPE: Shape =
        Shape::List("agents: `claude`, `opencode`, `codex`, each with `@VERSION` if need be");

    fn read(value: &Value) -> Result<Self, String> {
        let names = texts(value)?;
        names.iter().try_for_each(|name| Agent::parse(name).map(drop))?;
        Ok(Self(names))
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Array(self.0.iter().cloned().map(Value::String).collect()))
    }
}

/// Texts to which later ones are added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(pub Vec<String>);

impl Setting for Set {
    const SHAPE: Shape = Shape::Set("texts");

    fn read(value: &Value) -> Result<Self, String> {
        texts(value).map(Self)
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Array(self.0.iter().cloned().map(Value::String).collect()))
    }
}

/// Names of environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariableNames(pub Vec<String>);

impl Setting for VariableNames {
    const SHAPE: Shape = Shape::Set("names of environment variables");

    fn read(value: &Value) -> Result<Self, String> {
        let names = texts(value)?;
        match names.iter().find(|name| !is_variable(name)) {
            Some(name) => Err(format!("`{name}` is no name of an environment variable")),
            None => Ok(Self(names)),
        }
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Array(self.0.iter().cloned().map(Value::String).collect()))
    }
}

/// Environment variables and their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(pub BTreeMap<String, String>);

impl Setting for Variables {
    const SHAPE: Shape = Shape::Variables;

    fn read(value: &Value) -> Result<Self, String> {
        let table = value.as_table().ok_or_else(|| wrong(Self::SHAPE))?;
        let each = table.iter().map(|(name, value)| {
            if !is_variable(name) {
                return Err(format!("`{name}` is no name of an environment variable"));
            }
            Ok((name.clone(), String::read(value)?))
        });
        each.collect::<Result<_, _>>().map(Self)
    }

    fn value(&self) -> Option<Value> {
        let each = self.0.iter().map(|(name, value)| (name.clone(), Value::String(value.clone())));
        Some(Value::Table(each.collect()))
    }
}

/// Something of the host that the container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host: absolute, or from the home with `~/`.
    pub host: String,
    /// Where the container sees it: absolute.
    pub container: String,
    /// The container cannot write to it.
    pub readonly: bool,
}

impl Mount {
    const KEYS: [&'static str; 3] = ["host", "container", "readonly"];

    /// Reads `HOST:CONTAINER` or `HOST:CONTAINER:ro`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (text, readonly) = match text.strip_suffix(":ro") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let Some((host, container)) = text.split_once(':') else {
            return Err(
                "it takes HOST:CONTAINER, or HOST:CONTAINER:ro for one that cannot be written to".into()
            );
        };
        Self::new(host, container, readonly)
    }

    fn new(host: &str, container: &str, readonly: bool) -> Result<Self, String> {
        let up = |path: &str| path.split('/').any(|part| part == "..");
        if !(host.starts_with('/') || host.starts_with("~/") || host == "~")
            || up(host)
            || host.contains('\0')
        {
            return Err(format!("`{host}` is no absolute path of the host, nor one that begins with ~/"));
        }
        if !container.starts_with('/') || container == "/" || up(container) || container.contains('\0') {
            return Err(format!("`{container}` is no absolute path in the container"));
        }
        Ok(Self { host: host.to_owned(), container: container.into(), readonly })
    }

    /// As it stands in a file.
    pub(super) fn value(&self) -> Value {
        let mut table = Table::new();
        table.insert("host".into(), Value::String(self.host.clone()));
        table.insert("container".into(), Value::String(self.container.clone()));
        table.insert("readonly".into(), Value::Boolean(self.readonly));
        Value::Table(table)
    }

    fn read(value: &Value) -> Result<Self, String> {
        let table = value.as_table().ok_or_else(|| wrong(Shape::Mounts))?;
        if let Some(key) = table.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            return Err(format!("a mount has no `{key}`; it has {}", Self::KEYS.join(", ")));
        }
        let text = |key: &str| {
            let text = table.get(key).and_then(Value::as_str);
            text.ok_or_else(|| format!("a mount needs `{key} = \"...\"`"))
        };
        let readonly = match table.get("readonly") {
            None => false,
            Some(value) => value.as_bool().ok_or("`readonly` is true or false")?,
        };
        Self::new(text("host")?, text("container")?, readonly)
    }
}

/// What of the host the container sees beside the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(pub Vec<Mount>);

impl Setting for Mounts {
    const SHAPE: Shape = Shape::Mounts;

    fn read(value: &Value) -> Result<Self, String> {
        let list = value.as_array().ok_or_else(|| wrong(Self::SHAPE))?;
        list.iter().map(Mount::read).collect::<Result<_, _>>().map(Self)
    }

    fn value(&self) -> Option<Value> {
        Some(Value::Array(self.0.iter().map(Mount::value).collect()))
    }
}

/// Types that are one of a few words.
macro_rules! words {
    ($( $(#[$doc:meta])* pub enum $Type:ident { $( $(#[$word_doc:meta])* $Word:ident = $word:literal, )* } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Type { $( $(#[$word_doc])* $Word, )* }

        impl $Type {
            /// The word for it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$Word => $word, )* }
            }
        }

        impl Setting for $Type {
            const SHAPE: Shape = Shape::Word(&[$($word),*]);

            fn read(value: &Value) -> Result<Self, String> {
                match value.as_str() {
                    $( Some($word) => Ok(Self::$Word), )*
                    _ => Err(wrong(Self::SHAPE)),
                }
            }

            fn value(&self) -> Option<Value> {
                Some(Value::String(self.name().to_owned()))
            }
        }
    )* };
}

words! {
    /// Which time the container's clock shows.
    pub enum TimezoneMode {
        /// The host's.
        Host = "host",
        /// That of `timezone.name`.
        Fixed = "fixed",
        /// UTC.
        Utc = "utc",
    }

    /// How an image is compressed.
    pub enum Compression {
        /// Fast and small.
        Zstd = "zstd",
        /// Everywhere.
        Gzip = "gzip",
        /// Small and slow.
        Xz = "xz",
        /// Not at all.
        None = "none",
    }

    /// What becomes of a container that wants more memory than it may have.
    pub enum MemoryEnforce {
        /// It may have more while nobody else needs it.
        Soft = "soft",
        /// It gets none.
        Hard = "hard",
    }

    /// An agent.
    pub enum ToolName {
        /// Claude Code.
        Claude = "claude",
        /// opencode.
        Opencode = "opencode",
        /// Codex.
        Codex = "codex",
        /// aider.
        Aider = "aider",
        /// A plain shell.
        Bash = "bash",
    }

    /// Whether an agent asks before it acts.
    pub enum PermissionMode {
        /// It asks for nothing.
        Bypass = "bypass",
        /// It asks.
        Interactive = "interactive",
    }

    /// What of the network the container may reach.
    pub enum NetworkMode {
        /// Everything.
        Open = "open",
    }
}

/// Types that are a text of some form.
macro_rules! texts {
    ($( $(#[$doc:meta])* pub struct $Type:ident($what:literal) = $amount:path; )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $Type(pub String);

        impl Setting for $Type {
            const SHAPE: Shape = Shape::Text($what);

            fn read(value: &Value) -> Result<Self, String> {
                let text = value.as_str().filter(|text| $amount(text).is_some());
                text.map(|text| Self(text.to_owned())).ok_or_else(|| wrong(Self::SHAPE))
            }

            fn value(&self) -> Option<Value> {
                Some(Value::String(self.0.clone()))
            }

            fn amount(&self) -> Option<Amount> {
                $amount(&self.0)
            }
        }
    )* };
}

texts! {
    /// How many CPUs, or which.
    pub struct CpuCount("a number of CPUs, or which: `\"2\"`, `\"0-3\"`, `\"0,2\"`") = cpus;
    /// How much of their time.
    pub struct CpuAllowance("a share, or a time in a time: `\"50%\"`, `\"25ms/100ms\"`") = share;
    /// An amount of memory.
    pub struct MemoryLimit("a size, or a share of the host's: `\"2GiB\"`, `\"50%\"`") = memory;
    /// An amount of swap, or whether there is any.
    pub struct Swap("`\"true\"`, `\"false\"` or a size: `\"1GiB\"`") = swap;
    /// How fast a disk may be used.
    pub struct Rate("a rate: `\"10MiB/s\"`, `\"1000iops\"`") = rate;
    /// A time, of at least a second.
    pub struct Time("a time: `\"2h\"`, `\"30m\"`, `\"1h30m\"`") = time;
    /// The size of a disk.
    pub struct DiskSize("a size: `\"10GiB\"`") = size;
}

impl Time {
    /// Its seconds.
    pub fn seconds(&self) -> u64 {
        time(&self.0).and_then(|amount| amount.number.try_into().ok()).unwrap_or(u64::MAX)
    }
}

fn time(text: &str) -> Option<Amount> {
    const UNITS: [(char, u128); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let (mut rest, mut units, mut seconds) = (text, &UNITS[..], 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = rest[digits..].chars().next()?;
        // The larger ones stand before the smaller ones, each once.
        let at = units.iter().position(|(name, _)| *name == unit)?;
        seconds += whole(&rest[..digits])? * units[at].1;
        (rest, units) = (&rest[digits + 1..], &units[at + 1..]);
    }
    of("seconds", (1..=u128::from(u32::MAX)).contains(&seconds).then_some(seconds))
}

fn of(unit: &'static str, number: Option<u128>) -> Option<Amount> {
    number.map(|number| Amount { unit, number })
}

fn whole(text: &str) -> Option<u128> {
    // More digits than these are no amount of anything.
    let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn cpus(text: &str) -> Option<Amount> {
    if let Some(count) = whole(text) {
        return of("cpus", (1..=4096).contains(&count).then_some(count));
    }
    let mut count = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (whole(first)?, whole(last)?);
        if first > last || last > 4096 {
            return None;
        }
        count += last - first + 1;
    }
    of("cpus", Some(count))
}

fn share(text: &str) -> Option<Amount> {
    if let Some(percent) = text.strip_suffix('%') {
        return of("percent", whole(percent).filter(|percent| (1..=100).contains(percent)));
    }
    let (part, period) = text.split_once('/')?;
    let (part, period) = (whole(part.strip_suffix("ms")?)?, whole(period.strip_suffix("ms")?)?);
    of("parts of a million", (part > 0 && period > 0).then(|| part * 1_000_000 / period.max(1)))
}

fn size(text: &str) -> Option<Amount> {
    const UNITS: [(&str, u128); 11] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("KB", 1_000),
        ("B", 1),
        ("", 1),
    ];
    let (number, worth) = UNITS.iter().find_map(|(unit, worth)| Some((text.strip_suffix(unit)?, worth)))?;
    of("bytes", whole(number).filter(|number| *number > 0).map(|number| number * worth))
}

fn memory(text: &str) -> Option<Amount> {
    if text.ends_with('%') { share(text) } else { size(text) }
}

fn swap(text: &str) -> Option<Amount> {
    match text {
        "true" => of("bytes", Some(u128::MAX)),
        "false" => of("bytes", Some(0)),
        text => size(text),
    }
}

fn rate(text: &str) -> Option<Amount> {
    match text.strip_suffix("iops") {
        Some(count) => of("operations", whole(count).filter(|count| *count > 0)),
        None => size(text.strip_suffix("/s")?).map(|amount| Amount { unit: "bytes per second", ..amount }),
    }
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or("it takes a list of texts")?;
    list.iter().map(String::read).collect()
}

/// Whether it can be the name of an environment variable, as shells have them.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

pub(super) fn wrong(shape: Shape) -> String {
    format!("it takes {}", shape.words())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount(read: fn(&str) -> Option<Amount>, text: &str) -> Option<(&'static str, u128)> {
        read(text).map(|amount| (amount.unit, amount.number))
    }

    #[test]
    fn amounts_are_read_as_incus_takes_them() {
        assert_eq!(amount(cpus, "2"), Some(("cpus", 2)));
        assert_eq!(amount(cpus, "0-3,6"), Some(("cpus", 5)));
        assert_eq!(amount(share, "50%"), Some(("percent", 50)));
        assert_eq!(amount(share, "25ms/100ms"), Some(("parts of a million", 250_000)));
        assert_eq!(amount(memory, "2GiB"), Some(("bytes", 2 << 30)));
        assert_eq!(amount(memory, "50%"), Some(("percent", 50)));
        assert_eq!(amount(rate, "10MiB/s"), Some(("bytes per second", 10 << 20)));
        assert_eq!(amount(rate, "1000iops"), Some(("operations", 1000)));
        assert_eq!(amount(swap, "false"), Some(("bytes", 0)));
        assert_eq!(amount(time, "1h30m"), Some(("seconds", 5400)));
        assert_eq!(amount(time, "2d"), Some(("seconds", 172_800)));
        for (read, wrong) in [
            (cpus as fn(&str) -> Option<Amount>, "0"),
            (cpus, "3-1"),
            (cpus, "1,"),
            (cpus, "-1"),
            (share, "0%"),
            (share, "101%"),
            (share, "5ms"),
            (memory, "2 GiB"),
            (memory, "0"),
            (memory, "lots"),
            (rate, "10MiB"),
            (time, ""),
            (time, "0s"),
            (time, "30"),
            (time, "30m1h"),
            (time, "1hé"),
            (size, "99999999999999999999GiB"),
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn mounts_are_absolute_and_lead_nowhere_else() {
        let mount = Mount::parse("~/.claude/skills:/home/code/.claude/skills:ro").unwrap();
        assert!(mount.readonly && mount.host == "~/.claude/skills");
        assert_eq!(Mount::read(&mount.value()), Ok(mount));
        for wrong in ["/a", "a:/b", "/a:b", "/a:/", "/a:/b/../c", "/a/../b:/c", "~ann/a:/b", "/a:/b:rw/.."] {
            assert!(Mount::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_an_amount_or_none(text in "[0-9kKMGTiB%/mhdsops,-]{0,24}") {
            for read in [cpus, share, memory, swap, rate, size, time] {
                let _ = read(&text);
            }
        }
    }
}
