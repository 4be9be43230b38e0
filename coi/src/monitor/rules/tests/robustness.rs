//! Whatever is in a rule file, the answer is rules or errors that can be shown.

use proptest::prelude::*;

use super::*;
use crate::monitor::rules::{builtin_sources, recording, sigma};

/// Compiles, and shows what is wrong: it steers no terminal.
fn judge(text: &str) {
    show(compile(text).err());
    show(Overrides::parse(&source(text)).err());
}

fn show(errors: Option<Vec<RuleError>>) {
    for error in errors.into_iter().flatten() {
        let shown = error.drawn() + &error.to_string();
        assert!(!shown.contains(|c: char| c.is_control() && !"\n\t\r".contains(c)), "{shown:?}");
        assert!(!shown.replace("\r\n", "").contains('\r'), "{shown:?}");
    }
}

fn with(key: &str, value: &str) -> String {
    let mut rule = toml::Table::new();
    for (key, value) in
        [("id", "x"), ("title", "t"), ("severity", "info"), ("event", "open"), ("condition", "true")]
    {
        rule.insert(key.into(), value.into());
    }
    rule.insert(key.into(), value.into());
    let mut file = toml::Table::new();
    file.insert("rule".into(), toml::Value::Array(vec![rule.into()]));
    file.to_string()
}

/// Words that conditions are made of, and some that they are not.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "file.path",
        "process.args",
        "process.pid",
        "coi.file.write",
        "destination.ip",
        "and",
        "or",
        "not",
        "(",
        ")",
        "[",
        "]",
        ",",
        "==",
        "!=",
        "<",
        ">=",
        "in",
        "in cidr",
        "contains",
        "icontains",
        "starts_with",
        "glob",
        "regex",
        "any(",
        "all(",
        "exists(",
        "true",
        "@x",
        "$x",
        "'a'",
        "\"b\"",
        "'['",
        "'(?i)a+'",
        "'10.0.0.0/8'",
        "1",
        "-1",
        "50MiB",
        "é",
        "\\",
        "'",
        "\"",
        "=",
    ];
    prop_oneof![8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,5}"]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_file_or_an_error(text in "\\PC*|(?s:.{0,200})") {
        judge(&text);
    }

    #[test]
    fn any_text_is_a_condition_or_an_error(text in "(?s:.{0,100})") {
        judge(&with("condition", &text));
        judge(&with("message", &text));
        judge(&with("severity", &text));
        judge(&with("id", &text));
    }

    #[test]
    fn any_bytes_are_a_recording_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC*") {
        let header = recording::header("x", recording::Holds::Everything, &crate::monitor::rules::OwnRules::default());
        let all = [&bytes, [header.as_bytes(), b"\n", &bytes].concat().as_slice(), [header.as_bytes(), b"\n", text.as_bytes()].concat().as_slice()]
            .map(recording::Reader::all);
        for error in all.into_iter().filter_map(Result::err) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_text_is_a_sigma_rule_or_a_reason(text in "(?s:.{0,200})", condition in "[a-z0-9*()| ]{0,30}") {
        drop(sigma::import("x.yml", &text));
        let yaml = format!("title: t\nlogsource: {{product: linux, category: process_creation}}\ndetection:\n  s:\n    CommandLine|contains: {}\n  condition: {condition:?}\n", serde_json::Value::from(text));
        drop(sigma::import("x.yml", &yaml));
    }

    #[test]
    fn any_words_are_a_condition_or_an_error(words in proptest::collection::vec(word(), 0..20)) {
        judge(&with("condition", &words.join(" ")));
    }

    #[test]
    fn any_damage_to_a_file_is_survived(
        which in 0..5usize, from in 0..30_000usize, length in 0..60usize, put in "[\\[\\]{}\"'=.,a-z0-9 \n$@]{0,8}"
    ) {
        let mut text = builtin_sources().swap_remove(which).text;
        // A piece of the file is enough, and quicker.
        let begin = text.floor_char_boundary(from.min(text.len()));
        let end = text.floor_char_boundary((begin + length).min(text.len()));
        text.replace_range(begin..end, &put);
        let start = text[..begin].rfind("\n[[rule]]").unwrap_or(0);
        let stop = text[begin..].find("\n[[rule]]").map_or(text.len(), |offset| begin + offset);
        judge(&text[start..stop]);
    }
}

#[test]
fn macros_cannot_grow_without_end() {
    let mut text = "[macros]\nm0 = 'coi.file.write'\n".to_owned();
    for i in 1..40 {
        text.push_str(&format!("m{i} = '$m{0} and $m{0}'\n", i - 1));
    }
    text.push_str(&with("condition", "$m39"));
    let errors = compile(&text).unwrap_err();
    assert!(errors.iter().any(|error| error.to_string().contains("too large")), "{errors:?}");
}
