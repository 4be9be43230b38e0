//! The flags of `coi run` and `coi shell` that set settings, made from the table of settings.

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use toml::Value;

use crate::config::{Flag, KEYS, Key, Sets, Shape};

/// What flags set: the last layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings(pub(super) Vec<(&'static Key, Value)>);

impl Settings {
    /// The text that a flag sets, if it is there.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().rfind(|(key, _)| key.name == name).and_then(|(_, value)| value.as_str())
    }

    /// Sets something that goes before every other layer, and behind the flags.
    pub(super) fn first(&mut self, name: &str, text: &str) {
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            self.0.insert(0, (key, Value::String(text.to_owned())));
        }
    }
}

fn flags() -> impl Iterator<Item = (&'static Key, Flag)> {
    KEYS.iter().filter_map(|key| Some((key, key.flag?)))
}

impl Args for Settings {
    fn augment_args(command: Command) -> Command {
        flags()
            .fold(command.next_help_heading("Settings"), |command, (key, flag)| command.arg(arg(key, flag)))
            .next_help_heading(None)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut settings = Self::default();
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for (key, flag) in flags() {
            let values: Vec<Value> = match flag.sets {
                Sets::Given(_) => matches.get_many(flag.name).into_iter().flatten().cloned().collect(),
                Sets::This(value) if matches.get_flag(flag.name) => key.parse(value).into_iter().collect(),
                Sets::This(_) => Vec::new(),
            };
            self.0.extend(values.into_iter().map(|value| (key, value)));
        }
        Ok(())
    }
}

fn arg(key: &'static Key, flag: Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name);
    let stands_for = match flag.sets {
        Sets::Given(stands_for) => stands_for,
        Sets::This(value) => {
            let help = format!("{} [sets: {} = {value}]", key.doc(), key.name);
            return arg.help(help).action(ArgAction::SetTrue);
        }
    };
    let arg = arg.help(format!("{} [setting: {}]", key.doc(), key.name)).value_name(stands_for);
    let arg = match key.shape {
        Shape::Word(words) => {
            arg.value_parser(PossibleValuesParser::new(words.iter().copied()).map(Value::String))
        }
        _ => arg.value_parser(move |text: &str| key.parse(text)),
    };
    match key.shape {
        Shape::Boolean => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Shape::Variables | Shape::Set(_) | Shape::List(_) | Shape::Mounts => arg.action(ArgAction::Append),
        _ => arg,
    }
}
