//! Secrets in command lines.
//!
//! What a process was started with is evidence, and often has a password in it. This file decides what of it is one.
//! It promises that a value is replaced by [`MASK`] where its name says what it is (`--password x`, `--token=x`,
//! `API_KEY=x`, `Authorization: Bearer x`, `?access_token=x`, `https://user:x@host`), where a known program takes it
//! under a short name (`mysql -px`, `sshpass -p x`, `curl -u me:x`), and where its form does (`ghp_...`, a JWT, a
//! private key); and that names, programs and addresses stay. Rules have seen the events as they were.
//!
//! It does not know a secret that stands alone without a name or a known form, and where only arguments joined by blanks
//! are to be had (a parent's), a secret with blanks in it loses its first word only, unless it is quoted.

use std::{borrow::Cow, sync::LazyLock};

use aho_corasick::AhoCorasick;
use regex::{Captures, Regex};
use serde_json::{Map, Value};

/// What stands for a secret.
pub const MASK: &str = "[redacted]";

/// A secret shorter than this is not looked for elsewhere in a record: it would be found in half of all words.
const FINDABLE: usize = 6;

/// How deep command lines within command lines are looked into: `sh -c "ssh host 'mysql -px'"`.
const DEPTH: usize = 4;

/// Words of a name of which one alone says that its value is a secret.
const SECRET_WORDS: &[&str] = &[
    "authorization",
    "bearer",
    "credential",
    "credentials",
    "jwt",
    "pass",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pat",
    "pin",
    "psk",
    "pw",
    "secret",
    "secrets",
    "sig",
    "signature",
    "token",
    "totp",
    "cookie",
];

/// What such a name may have within a word.
const SECRET_PARTS: &[&str] = &[
    "accesskey",
    "accesstoken",
    "apikey",
    "authkey",
    "authtoken",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
];

/// Words before `key` with which it is a secret; in an environment variable's name any word is.
const KEY_WORDS: &[&str] = &[
    "access",
    "account",
    "api",
    "app",
    "auth",
    "client",
    "deploy",
    "encryption",
    "license",
    "master",
    "private",
    "secret",
    "service",
    "session",
    "shared",
    "signing",
    "storage",
    "subscription",
];

/// Last words of names whose values are about a secret, and not one.
const NOT_SECRET: &[&str] = &[
    "cmd", "command", "count", "dir", "env", "expiry", "expires", "fd", "file", "format", "helper", "id",
    "length", "manager", "name", "path", "policy", "prompt", "stdin", "store", "ttl", "type", "uri", "url",
];

/// Programs that take a secret under a short option: attached to it, as the next argument, or after a colon.
const SHORT: &[(&[&str], char, Form)] = &[
    (
        &["mysql", "mysqladmin", "mysqldump", "mysqlimport", "mariadb", "mariadb-admin", "mariadb-dump"],
        'p',
        Form::Attached,
    ),
    (&["sshpass"], 'p', Form::Either),
    (&["7z", "7za", "7zr", "7zz", "rar", "unrar"], 'p', Form::Attached),
    (&["zip", "unzip"], 'P', Form::Either),
    (&["mongo", "mongosh", "mongodump", "mongorestore", "mongoexport", "mongoimport"], 'p', Form::Either),
    (&["redis-cli", "valkey-cli"], 'a', Form::Either),
    (&["ldapsearch", "ldapadd", "ldapmodify", "ldapdelete", "ldapwhoami", "ldappasswd"], 'w', Form::Either),
    (&["docker", "podman", "nerdctl", "buildah", "skopeo", "helm", "oras", "crane", "az"], 'p', Form::Login),
    (&["curl"], 'u', Form::User),
    (&["curl"], 'U', Form::User),
    (&["curl"], 'b', Form::Either),
    (&["wget2", "http", "https", "xh"], 'a', Form::User),
    (&["smbclient", "rpcclient"], 'U', Form::User),
];

/// How a program takes a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `-px` only: `-p` alone asks for it.
    Attached,
    /// `-px` or `-p x`.
    Either,
    /// As before, of the subcommand `login`.
    Login,
    /// `-u user:x`: what follows the first `:` (or `%`) is it.
    User,
}

/// Replaces the secrets of a record, in the arguments and wherever else they appear, and marks the record.
pub(super) fn record(object: &mut Map<String, Value>) {
    let mut found = Vec::new();
    let mut changed = false;
    if let Some(Value::Object(process)) = object.get_mut("process") {
        let args = process.get("args").and_then(Value::as_array);
        let args: Vec<String> =
            args.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if let Some(clean) = arguments(&args, &mut found) {
            changed = true;
            if process.contains_key("command_line") {
                process.insert("command_line".into(), clean.join(" ").into());
            }
            process.insert("args".into(), clean.into());
        }
    }
    // A piece of a longer secret must not go first, or the rest of that one would stay.
    found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    found.dedup();
    for (key, value) in object.iter_mut().filter(|(key, _)| is_from_inside(key)) {
        changed |= walk(value, key == "process", &found);
    }
    if changed && let Value::Object(coi) = object.entry("coi").or_insert_with(|| Value::Object(Map::new())) {
        coi.insert("redacted".into(), true.into());
    }
}

/// May what stands below this key be a container's words?
fn is_from_inside(key: &str) -> bool {
    !matches!(
        key,
        "@timestamp" | "container" | "ecs" | "event" | "host" | "observer" | "rule" | "threat" | "user"
    )
}

/// Cleans the texts below a value. Arguments have been cleaned one by one; joined they would mean something else.
fn walk(value: &mut Value, is_process: bool, found: &[String]) -> bool {
    match value {
        Value::String(text) => {
            let mut known = Cow::Borrowed(text.as_str());
            for secret in found.iter().filter(|secret| secret.len() >= FINDABLE) {
                if known.contains(secret.as_str()) {
                    known = Cow::Owned(known.replace(secret.as_str(), MASK));
                }
            }
            let clean = self::text(&known).into_owned();
            let changed = clean != *text;
            *text = clean;
            changed
        }
        Value::Array(values) => {
            values.iter_mut().fold(false, |changed, value| walk(value, false, found) | changed)
        }
        Value::Object(object) => object
            .iter_mut()
            .filter(|(key, _)| !(is_process && *key == "args"))
            .fold(false, |changed, (_, value)| walk(value, false, found) | changed),
        _ => false,
    }
}

/// The arguments without secrets, if there are any in them; `found` gets what they were.
pub fn arguments(args: &[String], found: &mut Vec<String>) -> Option<Vec<String>> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let clean = scan(&words, DEPTH, found);
    clean.iter().any(Option::is_some).then(|| {
        clean.into_iter().zip(args).map(|(clean, arg)| clean.unwrap_or_else(|| arg.clone())).collect()
    })
}

/// A command line, or any other text, without secrets.
pub fn text(text: &str) -> Cow<'_, str> {
    line(text, DEPTH, &mut Vec::new())
}

/// Splits a command line as a shell would, roughly, and cleans its words in their places.
fn line<'a>(text: &'a str, depth: usize, found: &mut Vec<String>) -> Cow<'a, str> {
    let whole = inline(text, found);
    if depth == 0 {
        return whole;
    }
    let ranges = words(&whole);
    let pieces: Vec<&str> = ranges.iter().map(|(start, end)| &whole[*start..*end]).collect();
    let clean = scan(&pieces, depth - 1, found);
    if clean.iter().all(Option::is_none) {
        return whole;
    }
    let mut out = String::with_capacity(whole.len());
    let mut at = 0;
    for ((start, end), clean) in ranges.into_iter().zip(clean) {
        if let Some(clean) = clean {
            out.push_str(&whole[at..start]);
            out.push_str(&clean);
            at = end;
        }
    }
    out.push_str(&whole[at..]);
    Cow::Owned(out)
}

/// Where the words of a command line are. Quotes hold a word together, and stay part of it.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => {
                quote = Some(c);
                start.get_or_insert(at);
            }
            (None, c) if c.is_whitespace() || matches!(c, ';' | '|' | '(' | ')' | '`' | ',') => {
                words.extend(start.take().map(|start| (start, at)));
            }
            (None, _) => {
                start.get_or_insert(at);
            }
        }
    }
    words.extend(start.map(|start| (start, text.len())));
    words
}

/// What the words so far say of the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Plain,
    /// It is a secret, unless it is an option.
    Secret,
    /// It is a secret, or the scheme before it.
    Credentials,
    /// What follows its colon is.
    User,
}

/// The words of a command line without secrets: for each its replacement, where there is one.
fn scan(words: &[&str], depth: usize, found: &mut Vec<String>) -> Vec<Option<String>> {
    let mut program = "";
    let mut next = Next::Plain;
    let mut setting = false;
    let mut login = false;
    let mut clean = Vec::with_capacity(words.len());
    let mut before = "";
    for word in words {
        let (open, bare, close) = unquote(word);
        let is_script =
            is_script_option(std::mem::replace(&mut before, bare)) && bare.contains(char::is_whitespace);
        let was = std::mem::replace(&mut next, Next::Plain);
        let mask = |secret: &str, found: &mut Vec<String>| {
            if !secret.is_empty() && secret != MASK {
                found.push(secret.to_owned());
            }
            format!("{open}{MASK}{close}")
        };
        if bare == MASK || bare.is_empty() {
            // `Bearer [redacted]` is clean already; an empty word says nothing.
            clean.push(None);
            continue;
        }
        match was {
            Next::Secret if !bare.starts_with('-') => {
                clean.push(Some(mask(bare, found)));
                continue;
            }
            Next::Credentials if is_scheme(bare) => {
                next = Next::Secret;
                clean.push(None);
                continue;
            }
            Next::Credentials => {
                clean.push(Some(mask(bare, found)));
                continue;
            }
            Next::User if !bare.starts_with('-') => {
                clean.push(user(bare, found).map(|bare| format!("{open}{bare}{close}")));
                continue;
            }
            _ => {}
        }
        let base = bare.rsplit('/').next().unwrap_or(bare);
        if SHORT.iter().any(|(programs, ..)| programs.contains(&base)) {
            program = base;
            login = false;
        }
        login |= bare == "login";
        if let Some((done, after)) = short(program, login, bare, found) {
            next = after;
            clean.push(done.map(|bare| format!("{open}{bare}{close}")));
            if program == "sshpass" {
                // What follows is another program's.
                program = "";
            }
            continue;
        }
        // `sh -c 'TOKEN=x command'` is more than a value.
        if !is_script && let Some((done, after)) = named(bare, setting, found) {
            next = after;
            clean.push(done.map(|bare| format!("{open}{bare}{close}")));
            continue;
        }
        setting |= matches!(bare, "set" | "config" | "setx" | "export");
        let done = if depth > 0 && bare.contains(char::is_whitespace) {
            line(bare, depth, found)
        } else {
            inline(bare, found)
        };
        clean.push(match done {
            Cow::Owned(done) => Some(format!("{open}{done}{close}")),
            Cow::Borrowed(_) => None,
        });
    }
    clean
}

/// Is what follows a command line: `-c`, `-lc`, `eval`?
fn is_script_option(word: &str) -> bool {
    let letters = word.strip_prefix('-').and_then(|letters| letters.strip_suffix('c'));
    letters.is_some_and(|letters| letters.bytes().all(|letter| letter.is_ascii_lowercase()))
        || matches!(word, "eval" | "--command")
}

/// A word's quotes, and what is in them.
fn unquote(word: &str) -> (&str, &str, &str) {
    for quote in ['"', '\''] {
        if word.len() >= 2 && word.starts_with(quote) && word.ends_with(quote) {
            return (&word[..1], &word[1..word.len() - 1], &word[word.len() - 1..]);
        }
    }
    ("", word, "")
}

/// A short option under which a known program takes a secret.
fn short(program: &str, login: bool, word: &str, found: &mut Vec<String>) -> Option<(Option<String>, Next)> {
    let mut letters = word.strip_prefix('-')?.chars();
    let letter = letters.next().filter(|letter| *letter != '-')?;
    let (_, _, form) =
        SHORT.iter().find(|(programs, option, _)| programs.contains(&program) && *option == letter)?;
    let attached = letters.as_str();
    let masked = |found: &mut Vec<String>| {
        found.push(attached.to_owned());
        Some((Some(format!("-{letter}{MASK}")), Next::Plain))
    };
    match (form, attached) {
        (Form::Attached, "") => None,
        (Form::Login, _) if !login => None,
        (Form::Either | Form::Login, "") => Some((None, Next::Secret)),
        (Form::User, "") => Some((None, Next::User)),
        (Form::User, attached) => {
            let clean = user(attached, found).map(|clean| format!("-{letter}{clean}"));
            Some((clean, Next::Plain))
        }
        (_, MASK) => Some((None, Next::Plain)),
        _ => masked(found),
    }
}

/// `user:secret` without the secret.
fn user(word: &str, found: &mut Vec<String>) -> Option<String> {
    let at = word.find([':', '%'])?;
    let secret = &word[at + 1..];
    if secret.is_empty() || secret == MASK {
        return None;
    }
    found.push(secret.to_owned());
    Some(format!("{}{MASK}", &word[..=at]))
}

/// A word that names a secret, with it or before it.
fn named(word: &str, setting: bool, found: &mut Vec<String>) -> Option<(Option<String>, Next)> {
    static NAME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^(-{0,2}(?:[A-Za-z0-9_./-]*/:)?[A-Za-z_][\w.-]*)(=|:|$)").ok());
    let captures = NAME.as_ref()?.captures(word)?;
    let (name, separator) = (captures.get(1)?.as_str(), captures.get(2)?.as_str());
    let value = &word[name.len() + separator.len()..];
    let bare = name.trim_start_matches('-');
    let is_option = bare.len() < name.len();
    // `-auth` of a URL, `//registry/:_authToken`: the last part is the name.
    let bare = bare.rsplit(['/', ':']).next().unwrap_or(bare);
    // openssl's `pass:x`.
    if separator == ":" && bare == "pass" && !is_option && !value.is_empty() && value != MASK {
        found.push(value.to_owned());
        return Some((Some(format!("pass:{MASK}")), Next::Plain));
    }
    let is_user = is_option && matches!(bare, "user" | "proxy-user" | "auth");
    if !is_user && !is_secret_name(bare, separator == "=" && !is_option) {
        return None;
    }
    let next = match (separator, is_user) {
        (":", _) => Next::Credentials,
        (_, true) => Next::User,
        _ => Next::Secret,
    };
    match separator {
        // An option, or `config set NAME VALUE`; a word alone names nothing.
        "" if is_option || (setting && bare.contains(['_', '-', '.'])) => Some((None, next)),
        "" => None,
        _ if value.is_empty() => Some((None, if separator == ":" { next } else { Next::Plain })),
        _ if is_user => {
            Some((user(value, found).map(|value| format!("{name}{separator}{value}")), Next::Plain))
        }
        _ => {
            let blanks = value.len() - value.trim_start().len();
            let (before, value) = value.split_at(blanks);
            let (scheme, value) = match value.split_once(' ') {
                Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme} "), rest),
                // `API_KEY=$(cat file)` and `TOKEN=$TOKEN` name where it is.
                _ if value.starts_with('$') => return Some((None, Next::Plain)),
                _ => (String::new(), value),
            };
            let (_, bare_value, _) = unquote(value);
            if bare_value == MASK {
                return Some((None, Next::Plain));
            }
            if separator == ":" && is_scheme(bare_value) {
                return Some((None, Next::Secret));
            }
            found.push(bare_value.to_owned());
            Some((Some(format!("{name}{separator}{before}{scheme}{MASK}")), Next::Plain))
        }
    }
}

fn is_scheme(word: &str) -> bool {
    ["basic", "bearer", "digest", "token", "apikey", "negotiate"]
        .iter()
        .any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// Is what has this name a secret? `variable`: it is assigned to, as in an environment.
fn is_secret_name(name: &str, variable: bool) -> bool {
    let parts = name_words(name);
    let Some(last) = parts.last() else { return false };
    if NOT_SECRET.contains(&last.as_str()) || matches!(name, "PWD" | "OLDPWD") {
        return false;
    }
    if parts.iter().any(|part| {
        SECRET_WORDS.contains(&part.as_str()) || SECRET_PARTS.iter().any(|secret| part.contains(secret))
    }) {
        return true;
    }
    match parts.as_slice() {
        [.., before, last] if last == "key" => variable || KEY_WORDS.contains(&before.as_str()),
        [.., last] if last == "pwd" || last == "auth" => parts.len() > 1 || last == "pwd",
        _ => false,
    }
}

/// The words of a name, in lower case: `apiKey`, `API_KEY` and `api-key` have the same.
fn name_words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        let boundary = !c.is_alphanumeric();
        if boundary || (was_lower && c.is_uppercase()) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase() || c.is_ascii_digit();
        if let Some(word) = words.last_mut().filter(|_| !boundary) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What has a secret within a word, each with what no such text is without, in any case. Most texts have none of that, and
/// are not searched for more: each thread that searches needs memory of its own for it, half a megabyte in all.
const FORMS: [(&str, &[&str]); 6] = [
    // https://user:secret@host
    (r"(?P<before>\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)(?P<secret>[^\s/@]+)(?P<after>@)", &["://"]),
    // Authorization: Bearer secret, wherever the quotes are.
    (
        r"(?P<before>(?i:\bauthorization\s*[:=]\s*(?:basic|bearer|token|digest|apikey|negotiate)\s+))(?P<secret>[^\s'\x22]+)",
        &["authorization"],
    ),
    (r"(?P<before>(?i:\bbearer\s+))(?P<secret>[A-Za-z0-9_.~+/=-]{8,})", &["bearer"]),
    // Forms that their issuers chose so that they can be found.
    (
        r"(?P<secret>\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|hf_[A-Za-z0-9]{24,}|dop_v1_[a-f0-9]{32,}|AGE-SECRET-KEY-1[A-Z0-9]{20,}))",
        &[
            "ghp_",
            "gho_",
            "ghu_",
            "ghs_",
            "ghr_",
            "github_pat_",
            "glpat-",
            "sk-",
            "xox",
            "xapp-",
            "AIza",
            "npm_",
            "pypi-",
            "hf_",
            "dop_v1_",
            "AGE-SECRET-KEY-1",
        ],
    ),
    (r"(?P<secret>\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*)", &["eyJ"]),
    (r"(?P<before>-----BEGIN [A-Z ]*PRIVATE KEY-----)(?P<secret>[^-]+)", &["-----BEGIN"]),
];

/// [`FORMS`], ready.
struct Forms {
    /// What comes before, the secret, what comes after.
    forms: Vec<Regex>,
    hints: AhoCorasick,
    /// Which form each hint is of.
    of: Vec<usize>,
}

impl Forms {
    /// None of them if one does not compile, which a test says.
    fn new() -> Option<Self> {
        let forms: Result<_, _> = FORMS.iter().map(|(form, _)| Regex::new(form)).collect();
        let all =
            || FORMS.iter().enumerate().flat_map(|(n, (_, hints))| hints.iter().map(move |hint| (n, hint)));
        let hints = AhoCorasick::builder().ascii_case_insensitive(true).build(all().map(|(_, hint)| hint));
        Some(Self { forms: forms.ok()?, hints: hints.ok()?, of: all().map(|(n, _)| n).collect() })
    }

    /// The forms that a text may have.
    fn possible(&self, text: &str) -> impl Iterator<Item = &Regex> {
        let mut possible = [false; FORMS.len()];
        for hint in self.hints.find_overlapping_iter(text) {
            possible[self.of[hint.pattern()]] = true;
        }
        self.forms.iter().zip(possible).filter_map(|(form, possible)| possible.then_some(form))
    }
}

/// Secrets that are known by where they stand within a word, or by their form.
fn inline<'a>(text: &'a str, found: &mut Vec<String>) -> Cow<'a, str> {
    static READY: LazyLock<Option<Forms>> = LazyLock::new(Forms::new);
    /// `?name=value`, or `"name": "value"` in a body.
    static PARAMETER: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"(?P<before>[?&]|["'{,]\s*)(?P<name>[A-Za-z_][\w.-]*)(?P<is>["']?\s*[=:]\s*["']?)(?P<secret>[^\s&#"',}]+)"#).ok()
    });
    let original = text;
    let mut text = Cow::Borrowed(text);
    for form in READY.iter().flat_map(|forms| forms.possible(original)) {
        let clean = form.replace_all(&text, |captures: &Captures<'_>| {
            found.push(captures["secret"].to_owned());
            let part = |name| captures.name(name).map_or("", |part| part.as_str());
            format!("{}{MASK}{}", part("before"), part("after"))
        });
        if let Cow::Owned(clean) = clean {
            text = Cow::Owned(clean);
        }
    }
    if let Some(parameter) = PARAMETER.as_ref().filter(|_| original.contains(['=', ':'])) {
        let mut any = false;
        let clean = parameter.replace_all(&text, |captures: &Captures<'_>| {
            let secret = &captures["secret"];
            if secret.contains(MASK) || is_scheme(secret) || !is_secret_name(&captures["name"], true) {
                return captures[0].to_owned();
            }
            any = true;
            found.push(secret.to_owned());
            format!("{}{}{}{MASK}", &captures["before"], &captures["name"], &captures["is"])
        });
        if let (true, Cow::Owned(clean)) = (any, clean) {
            text = Cow::Owned(clean);
        }
    }
    found.retain(|secret| !secret.contains(MASK));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn args(line: &[&str]) -> Option<Vec<String>> {
        arguments(&line.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), &mut Vec::new())
    }

    #[test]
    fn the_forms_compile() {
        assert_eq!(inline("x", &mut Vec::new()), "x");
        let text = "a?token=abcdef https://u:pw@h Authorization: Basic abc= Bearer abcdefgh eyJhbGciOiJ.eyJz.x \
                    ghp_0123456789012345678901234567890123 -----BEGIN OPENSSH PRIVATE KEY-----abc";
        assert_eq!(inline(text, &mut Vec::new()).matches(MASK).count(), 7);
    }

    #[test]
    fn each_issuers_form_is_found_by_its_hint() {
        for hint in FORMS[3].1 {
            let more = if *hint == "xox" { "b-" } else { "" };
            let secret = format!("{hint}{more}{}", "0".repeat(40));
            assert_eq!(inline(&format!("a {secret} b"), &mut Vec::new()), format!("a {MASK} b"));
        }
        let shouted = "AUTHORIZATION: BEARER x HTTPS://me:x@h -----BEGIN PRIVATE KEY-----x";
        assert_eq!(inline(shouted, &mut Vec::new()).matches(MASK).count(), 3);
    }

    #[test]
    fn what_is_no_secret_stays() {
        for line in [
            "mkdir -p /workspace/token/password",
            "docker run -p 8080:80 -e PATH=/bin nginx",
            "ssh -p 22 git@github.com",
            "git push https://git@github.com/o/r.git main",
            "claude --max-tokens 4096 --model opus",
            "grep -rn password src/",
            "make token -j8",
            "cargo test passes_the_token",
            "env PWD=/workspace OLDPWD=/ HOME=/root node index.js",
            "psql --password-file /run/pw",
            "kubectl create secret generic x",
            "docker login --password-stdin -u me",
            "tar --exclude-vcs -cf a.tar --sort=name .",
            "mysql -p -u root",
            "sort -k 2 --key 1",
            "python -c print(1)",
            "sh -c 'export TOKEN=$(cat /run/token); go'",
            "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE x",
            "curl -u me https://host/?page=2&author=x",
            "[redacted]",
            "",
        ] {
            assert_eq!(text(line), line);
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(args(&words), None, "{line}");
        }
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (line, clean) in [
            (
                &["curl", "-H", "Authorization: Bearer s3cr3t.v4lue", "https://h/"][..],
                &["curl", "-H", "Authorization: Bearer [redacted]", "https://h/"][..],
            ),
            (&["curl", "-HX-Api-Key: s3cr3t"], &["curl", "-HX-Api-Key: [redacted]"]),
            (&["curl", "-u", "me:s3cr3t", "x"], &["curl", "-u", "me:[redacted]", "x"]),
            (&["curl", "-ume:s3cr3t"], &["curl", "-ume:[redacted]"]),
            (&["curl", "--user=me:s3cr3t"], &["curl", "--user=me:[redacted]"]),
            (&["mysql", "-uroot", "-ps3cr3t"], &["mysql", "-uroot", "-p[redacted]"]),
            (
                &["sshpass", "-p", "s3cr3t", "ssh", "-p", "22", "h"],
                &["sshpass", "-p", "[redacted]", "ssh", "-p", "22", "h"],
            ),
            (
                &["docker", "login", "-u", "me", "-p", "s3cr3t"],
                &["docker", "login", "-u", "me", "-p", "[redacted]"],
            ),
            (&["x", "--password", "s3cr3t with blanks"], &["x", "--password", "[redacted]"]),
            (&["x", "--api-key=s3cr3t", "--verbose"], &["x", "--api-key=[redacted]", "--verbose"]),
            (
                &["env", "GEMINI_API_KEY=s3cr3t", "DB_PASSWORD=p", "x"],
                &["env", "GEMINI_API_KEY=[redacted]", "DB_PASSWORD=[redacted]", "x"],
            ),
            (
                &["git", "clone", "https://me:s3cr3t@github.com/o/r"],
                &["git", "clone", "https://me:[redacted]@github.com/o/r"],
            ),
            (
                &["wget", "http://h/?a=1&access_token=s3cr3t&b=2"],
                &["wget", "http://h/?a=1&access_token=[redacted]&b=2"],
            ),
            (&["openssl", "enc", "-pass", "pass:s3cr3t"], &["openssl", "enc", "-pass", "[redacted]"]),
            (
                &["openssl", "rsa", "-passin", "pass:s3cr3t"],
                &["openssl", "rsa", "-passin", "pass:[redacted]"],
            ),
            (
                &["npm", "config", "set", "//r.org/:_authToken=s3cr3t"],
                &["npm", "config", "set", "//r.org/:_authToken=[redacted]"],
            ),
            (
                &["aws", "configure", "set", "aws_secret_access_key", "s3cr3t"],
                &["aws", "configure", "set", "aws_secret_access_key", "[redacted]"],
            ),
            (
                &["bash", "-c", "curl -H 'Authorization: token s3cr3t' h; mysql -ps3cr3t db"],
                &["bash", "-c", "curl -H 'Authorization: token [redacted]' h; mysql -p[redacted] db"],
            ),
            (
                &["sh", "-c", "TOKEN=s3cr3t PASSWORD=\"two words\" go"],
                &["sh", "-c", "TOKEN=[redacted] PASSWORD=[redacted] go"],
            ),
            (
                &["curl", "-d", "{\"user\":\"me\",\"password\":\"s3cr3t\"}"],
                &["curl", "-d", "{\"user\":\"me\",\"password\":\"[redacted]\"}"],
            ),
            (&["echo", "ghp_012345678901234567890123456789abcdef"], &["echo", "[redacted]"]),
        ] {
            let wanted: Vec<String> = clean.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(args(line), Some(wanted), "{line:?}");
        }
        assert_eq!(
            text("curl -H Authorization: Bearer s3cr3t h"),
            "curl -H Authorization: Bearer [redacted] h"
        );
        assert_eq!(text("a reads /b after x --token s3cr3t -v"), "a reads /b after x --token [redacted] -v");
    }

    #[test]
    fn a_record_has_it_nowhere() {
        let Value::Object(mut object) = json!({
            "process": {
                "args": ["x", "--password", "hunter2 and 3"], "command_line": "x --password hunter2 and 3",
                "parent": {"command_line": "sh -c x --password hunter2"},
            },
            "coi": {"message": "x --password hunter2 and 3 connects", "evidence": [{"text": "hunter2 and 3"}]},
        }) else {
            unreachable!()
        };
        record(&mut object);
        let text = Value::Object(object.clone()).to_string();
        assert!(!text.contains("hunter2") && !text.contains("and 3"), "{text}");
        assert_eq!(object["coi"]["redacted"], true);
        assert_eq!(object["process"]["command_line"], "x --password [redacted]");
    }

    /// A secret: of no known form, and none that the test's own words have in them.
    fn secret() -> impl Strategy<Value = String> {
        "[A-Za-z0-9!%*+=._~/-]{0,40}Q7z[A-Za-z0-9]{5,20}"
            .prop_filter("an option", |s| !s.starts_with(['-', '$']))
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "password",
            "token",
            "api-key",
            "apiKey",
            "db_password",
            "client-secret",
            "access_token",
            "auth-token",
            "passphrase",
            "X-Api-Key",
            "secret",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "private-key",
        ])
    }

    proptest! {
        #[test]
        fn a_named_secret_never_stays(name in name(), secret in secret(), before in "[a-z ]{0,12}") {
            let url_safe = !secret.contains(['/', '@', '&', '#', '%', '+', '*', '!', '=']);
            let mut all = vec![
                vec!["x".into(), format!("--{name}={secret}")],
                vec!["x".into(), format!("--{name}"), secret.clone()],
                vec!["env".into(), format!("{name}={secret}"), "x".into()],
                vec!["curl".into(), "-H".into(), format!("{name}: {secret}")],
                vec!["curl".into(), "-H".into(), format!("Authorization: Bearer {secret}")],
                vec!["mysql".into(), format!("-p{secret}")],
                vec!["/usr/bin/sshpass".into(), "-p".into(), secret.clone()],
                vec!["curl".into(), "-u".into(), format!("user:{secret}")],
            ];
            if url_safe {
                all.push(vec!["x".into(), format!("https://user:{secret}@host/")]);
                all.push(vec!["x".into(), format!("https://host/?{name}={secret}")]);
            }
            for mut line in all {
                line.insert(0, before.clone());
                let clean = arguments(&line, &mut Vec::new());
                let joined = clean.as_ref().map(|clean| clean.join(" "));
                prop_assert!(joined.as_ref().is_some_and(|line| !line.contains("Q7z")), "{line:?}: {joined:?}");
                let clean = text(&line.join(" ")).into_owned();
                prop_assert!(!clean.contains("Q7z"), "{line:?}: {clean}");
                let inner = vec!["sh".to_owned(), "-c".to_owned(), line[1..].join(" ")];
                let clean = arguments(&inner, &mut Vec::new());
                prop_assert!(clean.is_some_and(|line| !line.join(" ").contains("Q7z")), "{inner:?}");
            }
        }

        #[test]
        fn any_text_is_taken(text: String, args: Vec<String>) {
            let clean = super::text(&text).into_owned();
            prop_assert_eq!(super::text(&clean).into_owned(), clean.clone());
            if let Some(clean) = arguments(&args, &mut Vec::new()) {
                prop_assert_eq!(clean.len(), args.len());
                prop_assert_eq!(arguments(&clean, &mut Vec::new()), None);
            }
        }
    }
}
