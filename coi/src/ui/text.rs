//! Text from strangers.

use std::borrow::Cow;

/// The text as it may be shown: without control characters, escape sequences' beginnings among them, and
/// without the invisible characters that reorder or hide what follows. Line ends and tabs become blanks.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .filter_map(|c| match c {
                '\n' | '\t' => Some(' '),
                c if is_hidden(c) => None,
                c => Some(c),
            })
            .collect(),
    )
}

/// Control characters, and those that reorder or hide what follows.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(plain("/usr/bin/curl -s"), "/usr/bin/curl -s");
        assert_eq!(plain("a\x1b[2Jb\x07\r\nc\td\u{9b}31m"), "a[2Jb c d31m");
        assert_eq!(plain("gpj.\u{202e}exe"), "gpj.exe");
    }

    proptest::proptest! {
        #[test]
        fn never_a_control_character(text: String) {
            proptest::prop_assert!(!plain(&text).contains(char::is_control));
        }
    }
}
