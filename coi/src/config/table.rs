//! What a setting is, and the macro by which all of them stand in one table.

use toml::Value;

/// A setting: one row of the table.
#[derive(Debug)]
pub struct Key {
    /// Its name, with dots between the tables it is in.
    pub name: &'static str,
    /// Other names that it is known by in files.
    pub also: &'static [&'static str],
    /// What it is, line by line, as in the source.
    pub(super) doc: &'static str,
    /// What its values look like.
    pub shape: Shape,
    /// Its value if nobody sets it.
    pub default: fn() -> Option<Value>,
    /// Why a value of this shape is none of it.
    pub(super) check: fn(&Value) -> Result<(), String>,
    /// How much of something a value asks for.
    pub(super) amount: fn(&Value) -> Option<Amount>,
    /// What a workspace may do with it.
    pub workspace: Workspace,
    /// The flag of `coi run` and `coi shell` that sets it, without its dashes.
    pub flag: Option<Flag>,
}

/// A flag that sets a setting.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without its dashes.
    pub name: &'static str,
    /// What it sets.
    pub sets: Sets,
}

/// What a flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sets {
    /// The value that it is given; what stands for that in the help.
    Given(&'static str),
    /// Always this value: it takes none.
    This(&'static str),
}

impl Key {
    /// What it is.
    pub fn doc(&self) -> String {
        self.doc.split('\n').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
    }

    /// The environment variable that sets it, if one does.
    pub fn variable(&self) -> Option<String> {
        let settable = !matches!(self.shape, Shape::Variables | Shape::Mounts);
        settable.then(|| format!("COI_{}", self.name.replace(['.', '-'], "_").to_uppercase()))
    }

    /// The value that this text is, if it is one.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = self.shape.parse(text)?;
        (self.check)(&value)?;
        Ok(value)
    }
}

/// What the values of a setting look like, and what becomes of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A text of some form; a later one replaces an earlier one.
    Text(&'static str),
    /// `true` or `false`; a later one replaces an earlier one.
    Boolean,
    /// A whole number; a later one replaces an earlier one.
    Number {
        /// The least.
        from: i64,
        /// The most.
        to: i64,
    },
    /// One of these words; a later one replaces an earlier one.
    Word(&'static [&'static str]),
    /// Texts; a later list replaces an earlier one.
    List(&'static str),
    /// Texts; later ones are added.
    Set(&'static str),
    /// A table of texts; each replaces one of its name, an empty one takes it away.
    Variables,
    /// Tables with `host`, `container` and `readonly`; later ones are added.
    Mounts,
}

impl Shape {
    /// In words, for errors and documentation.
    pub fn words(self) -> String {
        match self {
            Self::Text(what) => what.to_owned(),
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Number { from, to: i64::MAX } => format!("a whole number from {from}"),
            Self::Number { from, to } => format!("a whole number from {from} to {to}"),
            Self::Word(words) => {
                words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ")
            }
            Self::List(what) | Self::Set(what) => format!("a list of {what}"),
            Self::Variables => "a table of texts".to_owned(),
            Self::Mounts => "tables with `host`, `container` and `readonly`".to_owned(),
        }
    }

    /// The type that TOML has for it, as errors say it.
    pub(super) fn toml(self) -> &'static str {
        match self {
            Self::Text(_) | Self::Word(_) => "a text",
            Self::Boolean => "true or false",
            Self::Number { .. } => "a whole number",
            Self::List(_) | Self::Set(_) => "a list of texts",
            Self::Variables => "a table of texts",
            Self::Mounts => "a list of tables",
        }
    }

    /// Whether a value has the type that it must have in TOML.
    pub(super) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text(_) | Self::Word(_) => value.is_str(),
            Self::Boolean => value.is_bool(),
            Self::Number { .. } => value.is_integer(),
            Self::List(_) | Self::Set(_) => {
                value.as_array().is_some_and(|list| list.iter().all(Value::is_str))
            }
            Self::Variables => value.as_table().is_some_and(|table| table.values().all(Value::is_str)),
            Self::Mounts => value.as_array().is_some_and(|list| list.iter().all(Value::is_table)),
        }
    }

    fn parse(self, text: &str) -> Result<Value, String> {
        let words = || self.words();
        match self {
            Self::Text(_) | Self::Word(_) => Ok(Value::String(text.to_owned())),
            Self::Boolean => text.parse().map(Value::Boolean).map_err(|_| format!("it takes {}", words())),
            Self::Number { .. } => {
                text.parse().map(Value::Integer).map_err(|_| format!("it takes {}", words()))
            }
            Self::List(_) | Self::Set(_) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Ok(Value::Array(parts.map(|part| Value::String(part.to_owned())).collect()))
            }
            Self::Variables => match text.split_once('=') {
                Some((name, value)) => Ok(Value::Table(
                    [(name.to_owned(), Value::String(value.to_owned()))].into_iter().collect(),
                )),
                None => Err("it takes NAME=VALUE".to_owned()),
            },
            Self::Mounts => super::values::Mount::parse(text).map(|mount| Value::Array(vec![mount.value()])),
        }
    }
}

/// How much of something a value asks for. Amounts of different units cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    /// Of what.
    pub(super) unit: &'static str,
    /// How much.
    pub(super) number: u128,
}

/// What the configuration of a workspace may do with a setting, since it may be by whoever wrote the repository.
#[derive(Clone, Copy, Debug)]
pub enum Workspace {
    /// Whatever it likes: nobody loses anything by it.
    Sets,
    /// Make it one of these, which are the strictest; the rest asks for trust.
    Tightens(&'static [&'static str]),
    /// Make it less than it is without; more asks for trust.
    Lowers,
    /// Nothing but ask for trust.
    Asks,
    /// Nothing, trusted or not; why.
    Never(&'static str),
}

impl Workspace {
    /// In words, for the documentation.
    pub fn words(self) -> String {
        match self {
            Self::Sets => "may set it".to_owned(),
            Self::Tightens(values) => {
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                format!("may make it {}; else needs trust", values.join(" or "))
            }
            Self::Lowers => "may lower it; else needs trust".to_owned(),
            Self::Asks => "needs trust".to_owned(),
            Self::Never(_) => "may not".to_owned(),
        }
    }
}

/// A type that settings have.
pub(super) trait Setting: Sized {
    /// What its values look like in TOML.
    const SHAPE: Shape;

    /// Reads a value of this shape. The error says what it takes.
    fn read(value: &Value) -> Result<Self, String>;

    /// The value; `None` if it is not set.
    fn value(&self) -> Option<Value>;

    /// How much of something the value asks for, where that can be said.
    fn amount(&self) -> Option<Amount> {
        None
    }
}

/// The whole table: sections, and in each its settings.
///
/// ```text
/// /// What it is, for whoever reads the code and for docs/config.md.
/// "section.name" | "another.name"  field: Type = DEFAULT, Workspace::Asks, flag "name" "VALUE";
/// ```
/// A flag that takes no value is `flag "no-name" sets "false"`.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $name:literal $(| $also:literal)* $field:ident: $type:ty = $default:expr, $workspace:expr
                $(, flag $flag:literal $($sets:ident)? $value:literal)?;
            )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])* pub $field: $type, )*
            }
        )*

        /// All settings, as they are in force.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $( $(#[doc = $section_doc])* pub $section: $Section, )*
        }

        impl Default for Config {
            /// What is built in.
            fn default() -> Self {
                Self { $( $section: $Section { $( $field: $default, )* }, )* }
            }
        }

        impl Config {
            /// Makes it of the values that `get` has; what it has not has its default.
            pub(super) fn read(
                get: impl Fn(&'static str) -> Option<toml::Value>,
            ) -> Result<Self, (&'static str, String)> {
                Ok(Self {
                    $( $section: $Section {
                        $( $field: match get($name) {
                            Some(value) => {
                                $crate::config::table::Setting::read(&value).map_err(|why| ($name, why))?
                            }
                            None => $default,
                        }, )*
                    }, )*
                })
            }
        }

        /// The settings, in the order of the documentation.
        pub static KEYS: &[$crate::config::table::Key] = &[ $( $(
            $crate::config::table::Key {
                name: $name,
                also: &[$($also),*],
                doc: concat!($($doc, "\n"),*),
                shape: <$type as $crate::config::table::Setting>::SHAPE,
                default: || {
                    let default: $type = $default;
                    $crate::config::table::Setting::value(&default)
                },
                check: |value| <$type as $crate::config::table::Setting>::read(value).map(drop),
                amount: |value| {
                    let read = <$type as $crate::config::table::Setting>::read(value).ok()?;
                    $crate::config::table::Setting::amount(&read)
                },
                workspace: $workspace,
                flag: settings!(@flag $($flag $($sets)? $value)?),
            },
        )* )* ];
    };
    (@flag) => { None };
    (@flag $flag:literal $value:literal) => {
        Some($crate::config::table::Flag { name: $flag, sets: $crate::config::table::Sets::Given($value) })
    };
    (@flag $flag:literal sets $value:literal) => {
        Some($crate::config::table::Flag { name: $flag, sets: $crate::config::table::Sets::This($value) })
    };
}

pub(super) use settings;
