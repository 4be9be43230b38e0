//! Sigma's selections: fields with modifiers and values, and how they are written in our language.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value as Json};

use super::{Skipped, condition};
use crate::monitor::event::{EventKind, Field};

/// Where a rule's events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Process,
    File,
    Network,
}

impl Source {
    pub(super) fn of(rule: &Json) -> Result<Self, Skipped> {
        let source = rule.get("logsource").ok_or(Skipped::Form("logsource"))?;
        let text = |key: &str| source.get(key).and_then(Json::as_str).unwrap_or("-");
        match (text("product"), text("category"), source.get("service")) {
            ("linux", "process_creation", None) => Ok(Self::Process),
            ("linux", "file_event", None) => Ok(Self::File),
            ("linux", "network_connection", None) => Ok(Self::Network),
            (product, category, _) => {
                Err(Skipped::Source(format!("{product}/{category}/{}", text("service"))))
            }
        }
    }

    pub(super) fn kind(self) -> EventKind {
        match self {
            Self::Process => EventKind::Exec,
            Self::File => EventKind::Open,
            Self::Network => EventKind::Connect,
        }
    }
}

/// What a rule looks for.
#[derive(Clone, Debug)]
pub(super) struct Detection {
    pub(super) source: Source,
    pub(super) sig: Sig,
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sig {
    And(Vec<Sig>),
    Or(Vec<Sig>),
    Not(Box<Sig>),
    Constant(bool),
    Exists(Field),
    /// A boolean field.
    Holds(Field),
    Test(Test),
}

/// A field that has, begins with, ... one value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Test {
    pub(super) field: Field,
    pub(super) how: How,
    pub(super) value: String,
    /// Whether large and small letters differ.
    pub(super) cased: bool,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Equal,
    Contains,
    StartsWith,
    EndsWith,
    Regex,
    Cidr,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The value is a number or an address.
    Same,
}

impl Sig {
    pub(super) fn and(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 { parts.remove(0) } else { Self::And(parts) }
    }

    pub(super) fn or(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 { parts.remove(0) } else { Self::Or(parts) }
    }
}

impl Detection {
    pub(super) fn read(rule: &Json, source: Source) -> Result<Self, Skipped> {
        let detection = rule.get("detection").and_then(Json::as_object).ok_or(Skipped::Form("detection"))?;
        let mut selections = BTreeMap::new();
        for (name, value) in
            detection.iter().filter(|(name, _)| !matches!(name.as_str(), "condition" | "timeframe"))
        {
            selections.insert(name.clone(), selection(value, source)?);
        }
        let condition = match detection.get("condition") {
            Some(Json::String(text)) => condition::read(text, &selections)?,
            Some(Json::Array(texts)) => {
                let texts = texts.iter().map(|text| text.as_str().ok_or(Skipped::Form("condition")));
                Sig::or(texts.map(|text| condition::read(text?, &selections)).collect::<Result<_, _>>()?)
            }
            _ => return Err(Skipped::Form("condition")),
        };
        let sig = match source {
            // Sigma's file events are of files that are made or changed.
            Source::File => Sig::And(vec![Sig::Holds(Field::FileWrite), condition]),
            Source::Process | Source::Network => condition,
        };
        Ok(Self { source, sig })
    }
}

fn selection(value: &Json, source: Source) -> Result<Sig, Skipped> {
    match value {
        Json::Object(fields) => fields_of(fields, source),
        Json::Array(many) if !many.is_empty() => {
            let of = |one: &Json| match one {
                Json::Object(fields) => fields_of(fields, source),
                _ => Err(Skipped::Keywords),
            };
            Ok(Sig::or(many.iter().map(of).collect::<Result<_, _>>()?))
        }
        _ => Err(Skipped::Keywords),
    }
}

fn fields_of(fields: &Map<String, Json>, source: Source) -> Result<Sig, Skipped> {
    let tests = fields.iter().map(|(key, value)| field_of(key, value, source));
    Ok(Sig::and(tests.collect::<Result<_, _>>()?))
}

fn field_of(key: &str, value: &Json, source: Source) -> Result<Sig, Skipped> {
    let mut modifiers = key.split('|');
    let name = modifiers.next().unwrap_or_default();
    let mut form = Form { how: How::Equal, all: false, any_case: false, cased: false, exists: false };
    for modifier in modifiers {
        match modifier {
            "contains" => form.how = How::Contains,
            "startswith" => form.how = How::StartsWith,
            "endswith" => form.how = How::EndsWith,
            "re" => form.how = How::Regex,
            "cidr" => form.how = How::Cidr,
            "lt" => form.how = How::Less,
            "lte" => form.how = How::LessOrEqual,
            "gt" => form.how = How::Greater,
            "gte" => form.how = How::GreaterOrEqual,
            "all" => form.all = true,
            "i" => form.any_case = true,
            "cased" => form.cased = true,
            "exists" => form.exists = true,
            other => return Err(Skipped::Modifier(other.to_owned())),
        }
    }
    let values = match value {
        Json::Array(values) if values.is_empty() => return Err(Skipped::Value("an empty list".to_owned())),
        Json::Array(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    let tests = values.iter().map(|value| test_of(name, &form, value, source)).collect::<Result<_, _>>()?;
    Ok(if form.all { Sig::and(tests) } else { Sig::or(tests) })
}

/// The modifiers of a field.
struct Form {
    how: How,
    all: bool,
    any_case: bool,
    cased: bool,
    exists: bool,
}

fn test_of(name: &str, form: &Form, value: &Json, source: Source) -> Result<Sig, Skipped> {
    let plain = match value {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        Json::Bool(value) => value.to_string(),
        Json::Null => String::new(),
        Json::Array(_) | Json::Object(_) => return Err(Skipped::Value(value.to_string())),
    };
    let truth = || match plain.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Skipped::Value(format!("{name}: {other}"))),
    };
    // Outgoing connections are what COI reports as connect.
    if (source, name) == (Source::Network, "Initiated") {
        return truth().map(Sig::Constant);
    }
    let field = field_named(name, source).ok_or_else(|| Skipped::Field(name.to_owned()))?;
    if form.exists {
        let exists = Sig::Exists(field);
        return Ok(if truth()? { exists } else { Sig::Not(Box::new(exists)) });
    }
    if value.is_null() {
        return Ok(Sig::Not(Box::new(Sig::Exists(field))));
    }
    let mut test = Test { field, how: form.how, value: plain, cased: form.cased || is_path(field) };
    match field {
        Field::ProcessUserId if test.how == How::Equal && test.value == "root" => test.value = "0".to_owned(),
        Field::ProcessUserId => return Err(Skipped::Value(format!("{name}: {}", test.value))),
        Field::DestinationPort if test.value.parse::<u16>().is_err() => {
            return Err(Skipped::Value(format!("{name}: {}", test.value)));
        }
        Field::DestinationIp if !matches!(test.how, How::Cidr | How::Equal) => return by_text(&test),
        Field::DestinationPort | Field::DestinationIp if test.how == How::Equal => test.how = How::Same,
        Field::DestinationPort | Field::DestinationIp => {}
        _ if test.how == How::Regex && form.any_case => test.value = format!("(?i){}", test.value),
        _ if matches!(
            test.how,
            How::Less | How::LessOrEqual | How::Greater | How::GreaterOrEqual | How::Cidr
        ) =>
        {
            return Err(Skipped::Value(format!("{name}: {}", test.value)));
        }
        _ => {}
    }
    if matches!(test.how, How::Equal | How::Contains | How::StartsWith | How::EndsWith) {
        by_pattern(&mut test);
        if test.value.is_empty() && test.how != How::Equal {
            return Ok(Sig::Exists(field));
        }
    }
    Ok(Sig::Test(test))
}

/// An address whose text begins with whole numbers and dots is in a network.
fn by_text(test: &Test) -> Result<Sig, Skipped> {
    let parts: Vec<&str> = test.value.trim_end_matches('.').split('.').collect();
    let whole = test.how == How::StartsWith && test.value.ends_with('.') && (1..=3).contains(&parts.len());
    if !whole || parts.iter().any(|part| part.parse::<u8>().is_err()) {
        return Err(Skipped::Value(format!("{}: {}", test.field.def().name, test.value)));
    }
    let rest = [".0"; 3][parts.len() - 1..].concat();
    let value = format!("{}{rest}/{}", parts.join("."), parts.len() * 8);
    Ok(Sig::Test(Test { how: How::Cidr, value, ..test.clone() }))
}

/// Resolves stars, question marks and escapes in a value: where it has any that are meant, it becomes a regular
/// expression.
fn by_pattern(test: &mut Test) {
    let mut plain = String::new();
    let mut regex = String::new();
    let mut wild = false;
    let mut chars = test.value.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => (wild, regex) = (true, regex + ".*"),
            '?' => (wild, regex) = (true, regex + "."),
            c => {
                let c = match chars.peek() {
                    Some(next @ ('*' | '?' | '\\')) if c == '\\' => {
                        let next = *next;
                        chars.next();
                        next
                    }
                    _ => c,
                };
                plain.push(c);
                regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
            }
        }
    }
    let exact = !test.cased && test.how != How::Contains;
    if !wild && !exact {
        test.value = plain;
        return;
    }
    let (start, end) = match test.how {
        How::Equal => ("^", "$"),
        How::StartsWith => ("^", ""),
        How::EndsWith => ("", "$"),
        _ => ("", ""),
    };
    let flags = if test.cased { "(?s)" } else { "(?is)" };
    test.value = format!("{flags}{start}{regex}{end}");
    test.how = How::Regex;
}

fn is_path(field: Field) -> bool {
    matches!(
        field,
        Field::ProcessExecutable | Field::ParentExecutable | Field::FilePath | Field::ProcessUserId
    )
}

fn field_named(name: &str, source: Source) -> Option<Field> {
    Some(match (name, source) {
        ("Image", _) => Field::ProcessExecutable,
        ("CommandLine", _) => Field::ProcessCommandLine,
        ("ParentImage", _) => Field::ParentExecutable,
        ("ParentCommandLine", _) => Field::ParentCommandLine,
        ("User", _) => Field::ProcessUserId,
        ("TargetFilename", Source::File) => Field::FilePath,
        ("DestinationIp", Source::Network) => Field::DestinationIp,
        ("DestinationPort", Source::Network) => Field::DestinationPort,
        _ => return None,
    })
}

impl fmt::Display for Detection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sig.fmt(f)
    }
}

impl fmt::Display for Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(parts) => joined(f, parts, " and "),
            Self::Or(parts) => match alike(parts) {
                Some(tests) => list(f, &tests),
                None => joined(f, parts, " or "),
            },
            Self::Not(inner) => write!(f, "not ({inner})"),
            Self::Constant(value) => write!(f, "{value}"),
            Self::Exists(field) => write!(f, "exists({})", field.def().name),
            Self::Holds(field) => f.write_str(field.def().name),
            Self::Test(test) => list(f, &[test]),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Sig], word: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        f.write_str(if i > 0 { word } else { "" })?;
        write!(f, "({part})")?;
    }
    Ok(())
}

/// Tests that differ in their values only.
fn alike(parts: &[Sig]) -> Option<Vec<&Test>> {
    let tests: Option<Vec<&Test>> =
        parts.iter().map(|part| if let Sig::Test(test) = part { Some(test) } else { None }).collect();
    let tests = tests?;
    let first = tests.first()?;
    let same = |test: &&Test| (test.field, test.how, test.cased) == (first.field, first.how, first.cased);
    let lists = !matches!(first.how, How::Less | How::LessOrEqual | How::Greater | How::GreaterOrEqual);
    (lists && tests.iter().all(same)).then_some(tests)
}

fn list(f: &mut fmt::Formatter<'_>, tests: &[&Test]) -> fmt::Result {
    let [first, ..] = tests else { return f.write_str("false") };
    let number = matches!(first.field, Field::DestinationPort);
    let operator = match first.how {
        How::Equal | How::Same => "in",
        How::Contains if first.cased => "contains",
        How::Contains => "icontains",
        How::StartsWith => "starts_with",
        How::EndsWith => "ends_with",
        How::Regex => "regex",
        How::Cidr => "in cidr",
        How::Less => "<",
        How::LessOrEqual => "<=",
        How::Greater => ">",
        How::GreaterOrEqual => ">=",
    };
    let value = |test: &Test| match number {
        true => test.value.clone(),
        false => format!("\"{}\"", test.value.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    let values: Vec<String> = tests.iter().map(|test| value(test)).collect();
    let values = match first.how {
        How::Less | How::LessOrEqual | How::Greater | How::GreaterOrEqual => values.concat(),
        _ => format!("[{}]", values.join(", ")),
    };
    write!(f, "{} {operator} {values}", first.field.def().name)
}
