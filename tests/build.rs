//! Builds the programs that run inside containers, which have no C library: linked statically, which cargo has no
//! switch for in a package that others are linked dynamically with.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["routes", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let target = PathBuf::from(env::var("OUT_DIR")?).join("routes");
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.args(["rustc", "--quiet", "--release", "--locked", "--package", "coi-routes", "--target-dir"]);
    cargo.arg(&target).args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]);
    // Clippy's and others' wrappers and flags are for the outer build.
    for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    let built = cargo.status()?;
    if !built.success() {
        return Err(format!("the routes did not compile: {built}").into());
    }
    println!("cargo::rustc-env=COI_ROUTES={}", target.join("release/routes").display());
    Ok(())
}
