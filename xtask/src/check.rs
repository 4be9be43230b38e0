//! `cargo xtask check`: what has to hold for every commit and needs no root: format, lints, tests of the crates.

use std::path::PathBuf;

use crate::run::{Cmd, Report, RunError};
use crate::setup;

/// Runs the checks one after the other; the first that fails ends it.
pub(crate) fn run(report: &mut Report) -> Result<(), RunError> {
    report.run("format", cargo().args(["fmt", "--all", "--check"]))?;
    report.run("lints", of_workspace("clippy").args(["--all-targets", "--", "-D", "warnings"]))?;
    report.run("lints of coi-ebpf", clippy_ebpf())?;
    report.run("build", of_workspace("build").arg("--all-targets"))?;
    report.run("tests of the crates", of_workspace("test").args(["--lib", "--bins", "--no-fail-fast"]))
}

/// A cargo command for all that is compiled for this machine. Always for all of it: cargo chooses the features of what COI
/// depends on by what is selected, and would compile it once more for each other choice.
pub(crate) fn of_workspace(command: &str) -> Cmd {
    cargo().args([command, "--workspace", "--exclude", "coi-ebpf"])
}

/// clippy for the kernel programs, as `coi/build.rs` compiles them: for BPF, with a `core` of their own.
fn clippy_ebpf() -> Cmd {
    let flags = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let mut clippy = cargo()
        .args(["clippy", "-p", "coi-ebpf", "--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        // Flags and compiler mode differ from the workspace's: in the same directory each build would undo the other.
        .arg("--target-dir")
        .arg(workspace().join("target/check-ebpf"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    if let Some(library) = setup::cached_rust_library() {
        clippy = clippy.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    clippy
}

/// The cargo that runs this program, in the workspace.
pub(crate) fn cargo() -> Cmd {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Cmd::new(cargo).shown_as("cargo").dir(&workspace())
}

/// The root of the workspace that this program was built from.
pub(crate) fn workspace() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root
}
