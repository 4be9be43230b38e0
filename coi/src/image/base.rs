//! What an image is built on.

use std::fmt;

/// The server that `images:` stands for, as it does for Incus's own client.
pub(super) const SERVER: &str = "https://images.linuxcontainers.org";

/// What an image is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// An image of the public image server, which Incus fetches itself.
    Server(String),
    /// A minimal Debian of this suite, made by the host's debootstrap.
    Debootstrap(String),
    /// An image that is here, by its alias or fingerprint.
    Local(String),
}

impl Base {
    /// Reads it. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!(
                "{why}: it takes `images:debian/12`, `debootstrap:bookworm`, or the alias of a local image"
            ))
        };
        if text.is_empty() || text.len() > 128 || text.contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return wrong("it is no name");
        }
        match text.split_once(':') {
            Some(("images", alias)) if !alias.is_empty() => Ok(Self::Server(alias.to_owned())),
            Some(("debootstrap", suite)) if is_suite(suite) => Ok(Self::Debootstrap(suite.to_owned())),
            Some(("debootstrap", _)) => wrong("debootstrap: takes the name of a suite of Debian"),
            Some((server, _)) => wrong(&format!("`{server}:` is no server that COI knows")),
            None if text.starts_with('-') => wrong("it is no name"),
            None => Ok(Self::Local(text.to_owned())),
        }
    }
}

/// The alias under which a suite's minimal Debian is kept.
pub(super) fn base_alias(suite: &str) -> String {
    format!("coi-base-{suite}")
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(alias) => write!(f, "images:{alias}"),
            Self::Debootstrap(suite) => write!(f, "debootstrap:{suite}"),
            Self::Local(name) => f.write_str(name),
        }
    }
}

/// Suites are arguments and parts of paths.
fn is_suite(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 32
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases() {
        let parse = |text| Base::parse(text).unwrap();
        assert_eq!(parse("images:debian/12"), Base::Server("debian/12".into()));
        assert_eq!(parse("debootstrap:bookworm"), Base::Debootstrap("bookworm".into()));
        assert_eq!(parse("coi-default"), Base::Local("coi-default".into()));
        for text in ["images:debian/12", "debootstrap:trixie", "coi-tiny"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_none() {
        let texts = [
            "",
            "-f",
            "a b",
            "images:",
            "debootstrap:",
            "debootstrap:../x",
            "debootstrap:-x",
            "docker:debian",
            "a\nb",
        ];
        let errors = texts.map(|text| format!("{text:?}: {}", Base::parse(text).unwrap_err()));
        insta::assert_snapshot!(errors.join("\n"));
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text: String) {
            if let Ok(base) = Base::parse(&text) {
                proptest::prop_assert_eq!(base.to_string(), text);
            }
        }
    }
}
