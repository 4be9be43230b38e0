//! `coi rules import`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{Code, Failure, Format, Result, out};
use crate::monitor::rules::sigma::{Imported, Skipped, import};
use crate::ui::{self, plain};

/// Import Sigma rules for Linux: processes, files and connections. Each comes with tests, each that is skipped with its
/// reason.
///
/// The rules are written to a new directory, one file each; the report goes to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules import --sigma sigma/rules/linux --output rules/sigma\n  \
                        coi rules import --sigma rule.yml --output imported")]
pub(super) struct Import {
    /// A Sigma rule, or a directory of them, searched to its bottom.
    #[arg(long, value_name = "FILE|DIR")]
    sigma: PathBuf,
    /// The directory to write to; a file that is there already is left alone, and an error.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

type Report = Vec<(PathBuf, std::result::Result<Imported, Skipped>)>;

impl Import {
    pub(super) fn execute(self) -> Result {
        let mut paths = Vec::new();
        find(&self.sigma, &mut paths)?;
        paths.sort();
        let mut report = Report::new();
        for path in paths {
            let yaml = fs::read_to_string(&path).map_err(Failure::system(path.display().to_string()))?;
            let imported = import(&path.to_string_lossy(), &yaml);
            if let (Some(directory), Ok(imported)) = (&self.output, &imported) {
                write(directory, imported)?;
            }
            report.push((path, imported));
        }
        if report.is_empty() {
            return Err(Failure::Usage(format!("there is no .yml file in {}", self.sigma.display())));
        }
        out(&match self.format {
            Format::Text => text(&report),
            Format::Json => format!("{:#}\n", object(&report)),
        })?;
        Ok(Code::OK)
    }
}

/// The rules below a path.
fn find(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Failure::System { what: path.display().to_string(), source };
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        // A symbolic link could lead back here.
        if entry.file_type().map_err(failed)?.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml") {
            found.push(path);
        }
    }
    Ok(())
}

fn write(directory: &Path, imported: &Imported) -> Result<()> {
    use std::io::Write as _;
    fs::create_dir_all(directory).map_err(Failure::system(directory.display().to_string()))?;
    let path = directory.join(format!("{}.toml", imported.id));
    let written = fs::File::create_new(&path).and_then(|mut file| file.write_all(imported.toml.as_bytes()));
    written.map_err(Failure::system(path.display().to_string()))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (path, result) in report {
        let path = plain(&path.to_string_lossy()).to_string();
        match result {
            Ok(imported) if !imported.dropped.is_empty() => {
                ui::err(&format!(
                    "coi: {path}: unknown techniques left out: {}",
                    imported.dropped.join(", ")
                ));
            }
            Ok(_) => {}
            Err(skipped) => {
                text.push_str(&format!("skipped {path}: {}\n", plain(&skipped.to_string())));
                *reasons.entry(skipped.reason()).or_default() += 1;
            }
        }
    }
    let imported = report.iter().filter(|(_, result)| result.is_ok()).count();
    text.push_str(&format!("{imported} imported, {} skipped\n", report.len() - imported));
    for (reason, count) in reasons {
        text.push_str(&format!("{count:>5} {}\n", plain(&reason)));
    }
    text
}

fn object(report: &Report) -> serde_json::Value {
    let one = |(path, result): &(PathBuf, std::result::Result<Imported, Skipped>)| match result {
        Ok(imported) => json!({ "file": path, "rule": imported.id, "dropped": imported.dropped }),
        Err(skipped) => json!({ "file": path, "skipped": skipped.to_string(), "reason": skipped.reason() }),
    };
    report.iter().map(one).collect()
}
