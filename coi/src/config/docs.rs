//! The reference of the settings, made from the table that the settings themselves are made from.

use std::fmt::Write as _;

use super::file::shown;
use super::keys::KEYS;
use super::table::Key;

const INTRODUCTION: &str = "\
# Configuration: the reference

This page is generated from COI's own table of settings.

`coi run` and `coi shell` honour the same settings. They come in layers; a later one goes before an earlier one:

1. what is built in;
2. `/etc/coi/config.toml`, the machine's;
3. `~/.coi/config.toml`, yours; under sudo, that of who called it;
4. `.coi/config.toml` in the workspace;
5. the file that `COI_CONFIG` names;
6. a profile, see [Profiles](#profiles);
7. variables of the environment, such as `COI_CONTAINER_IMAGE`;
8. flags.

`coi config show --origin` says what is in force and where it comes from. A name that is not known and a value of another
type are errors, in every layer. `coi config schema` prints a JSON Schema for editors.

An empty text sets nothing. Lists that say \"later ones are added\" have the entries of all layers; tables of variables
are merged by name, and an empty value takes a variable away. In a variable of the environment, a list is separated by
commas.

The tables `[rules]`, `[users]`, `[audit]`, `[respond]`, `[[notify]]` and `[monitor]` of `/etc/coi/config.toml` are the
daemon's: see `docs/authoring.md`, `docs/audit.md`, `docs/response.md` and `docs/continuity.md`.

## Workspaces

A workspace's configuration may be by whoever wrote the repository, and what runs in its container can write to it. So it
may only tighten, as said with each setting. If it asks for more, nothing is started, until you have seen what it asks
for and allowed it:

```console
$ coi trust
$ coi trust --list
$ coi untrust
```

What is allowed is just that: another setting or another value asks again. It is kept in `~/.coi/trust.json`. What you
allow yourself goes for you alone. If your `~/.coi` lies in the workspace, what is in it counts as the workspace's, and
nothing can be trusted: choose a workspace below your home.

In a workspace neither `.coi` nor a file in it may be a symbolic link, and only files of the workspace's owner and your
own are read.

## Profiles

A profile is a directory with a `config.toml` of its own: `~/.coi/profiles/NAME/` is yours, `.coi/profiles/NAME/` the
workspace's, which may do as little as its configuration. `default`, which sets nothing, and `hardened` are built in. It
is chosen with `--profile`, `COI_DEFAULTS_PROFILE` or `defaults.profile`. Two of one name are an error.

```toml
inherits = \"hardened\"         # another profile, whose settings are replaced one by one

[container]
image = \"coi-rust\"

[defaults.environment]
RUST_BACKTRACE = \"1\"
HTTP_PROXY = \"\"               # takes the variable away again
```

A list in a profile replaces the list of the profile that it builds on. `CONTEXT.md` in the directory is for the agent
(`context = \"CONTEXT.md\"` may say so), `build.sh` is run in the image that `coi build --profile NAME` makes
([images.md](images.md)); a workspace's need trust. `coi profile list`, `info`, `create` and `validate` are for looking after them.

## Settings

";

/// The whole reference.
fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut section = "";
    for key in KEYS {
        let (this, _) = key.name.rsplit_once('.').unwrap_or((key.name, ""));
        if this != section {
            section = this;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "### [{section}]\n");
        }
        entry(&mut text, key);
    }
    text.trim_end().to_owned() + "\n"
}

fn entry(text: &mut String, key: &Key) {
    let _ = writeln!(text, "`{}`: {}\n", key.name, key.doc());
    let _ = writeln!(text, "- takes {}", key.shape.words());
    if matches!(key.shape, super::Shape::Set(_) | super::Shape::Mounts) {
        let _ = writeln!(text, "- later ones are added");
    }
    match (key.default)() {
        Some(default) => {
            let _ = writeln!(text, "- default: `{}`", shown(&default));
        }
        None => text.push_str("- default: not set\n"),
    }
    let mut names: Vec<String> = key.flag.iter().map(|flag| format!("`--{}`", flag.name)).collect();
    names.extend(key.variable().map(|variable| format!("`{variable}`")));
    if !names.is_empty() {
        let _ = writeln!(text, "- also set by: {}", names.join(", "));
    }
    if !key.also.is_empty() {
        let also: Vec<String> = key.also.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "- in files also: {}", also.join(", "));
    }
    let _ = writeln!(text, "- a workspace {}\n", key.workspace.words());
}

/// `COI_UPDATE_DOCS=1 cargo test -p coi the_reference` writes it anew.
#[test]
fn the_reference_of_the_settings_is_what_is_committed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    if std::env::var_os("COI_UPDATE_DOCS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == reference(),
        "docs/config.md is old; COI_UPDATE_DOCS=1 cargo test -p coi the_reference"
    );
}
