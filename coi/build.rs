//! Compiles the kernel programs for `bpfel-unknown-none` and puts the objects into `OUT_DIR`.
//!
//! That needs rust-src of exactly this rustc and bpf-linker; `cargo xtask setup` brings both. Where rustup
//! has no rust-src to give, setup leaves one in the user's cache, and it is taken from there. aya-build does
//! nearly the same, but prints every line of the inner build as a warning.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = build() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    for path in ["../coi-ebpf", "../coi-common/src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(var("OUT_DIR")?);
    let target = out.join("ebpf");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", var("CARGO_CFG_TARGET_ARCH")?),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Clinker=bpf-linker".into(),
    ];
    let mut cargo = Command::new(var("CARGO")?);
    cargo
        .args(["build", "--release", "--package", "coi-ebpf", "--target", "bpfel-unknown-none"])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        // `build-std` on a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Clippy's and others' wrappers are for the outer build.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    let rust_src = rust_src()?;
    if let RustSrc::Cached(library) = &rust_src {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    let built = cargo.output()?;
    if !built.status.success() {
        return Err(format!(
            "the kernel programs did not compile (if bpf-linker or rust-src is missing, run: cargo xtask setup)\n{}",
            String::from_utf8_lossy(&built.stderr)
        )
        .into());
    }
    for object in ["coi-ebpf", "coi-deny"] {
        std::fs::copy(
            target.join("bpfel-unknown-none/release").join(object),
            out.join(object).with_extension("o"),
        )?;
    }
    Ok(())
}

enum RustSrc {
    Sysroot,
    Cached(PathBuf),
}

/// Finds the sources of this compiler's `core`.
fn rust_src() -> Result<RustSrc> {
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
    if sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").exists() {
        return Ok(RustSrc::Sysroot);
    }
    let version = rustc(&["--version"])?;
    let version = version.split(' ').nth(1).ok_or("rustc --version prints no version")?;
    println!("cargo::rerun-if-env-changed=XDG_CACHE_HOME");
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => Path::new(&var("HOME")?).join(".cache"),
    };
    let library = cache.join(format!("coi/rust-src-{version}/library"));
    if library.join("core").exists() {
        return Ok(RustSrc::Cached(library));
    }
    Err(format!(
        "the kernel programs need rust-src {version}, and it is neither in {} nor in {}; run: cargo xtask setup",
        sysroot.display(),
        library.display()
    )
    .into())
}

fn rustc(args: &[&str]) -> Result<String> {
    Ok(String::from_utf8(Command::new(var("RUSTC")?).args(args).output()?.stdout)?)
}

fn var(name: &str) -> Result<String> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
