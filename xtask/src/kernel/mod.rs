//! `cargo xtask test --kernel`: COI on kernels that this machine does not run.
//!
//! Each kernel is booted in an emulator, with a file system in memory that holds the built `coi`, busybox, the program
//! that takes routes into the kernel (tests/routes) and this program, which does the looking there ([`guest`], [`routes`])
//! and says what it found on the serial console. No module is loaded and no disk or network is attached; a whole run takes
//! some minutes, since every instruction is emulated: times mean nothing.

mod guest;
mod routes;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::check::cargo;
use crate::coi::{CoiError, Signals, io_error};
use crate::run::{Cmd, Mark, Report, Step};
use crate::setup::{self, Kernel};

pub(crate) use guest::guest;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a kernel may take from its start to its end.
const LIMIT: Duration = Duration::from_secs(600);
/// How much of the console is shown when it did not come to its end.
const CONSOLE_LINES: usize = 25;
/// What the guest's lines begin with; the kernel has words of its own on the console.
const SAYS: &str = "coi-kernel:";

/// The first process.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmp /tmp
ip link set lo up
xtask kernel-guest /usr/bin/coi
poweroff -f
";

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    /// It is as it should be.
    Pass(String),
    /// It is not.
    Fail(String),
    /// Something that cannot be seen there.
    Hole(String),
    /// Where the daemon's programs are attached.
    Hooks(String),
    /// That was all.
    End,
}

impl Said {
    /// Reads a line of the console.
    fn read(line: &str) -> Option<Self> {
        let (_, said) = line.split_once(SAYS)?;
        let (word, rest) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
        match word {
            "PASS" => Some(Self::Pass(rest.to_owned())),
            "FAIL" => Some(Self::Fail(rest.to_owned())),
            "HOLE" => Some(Self::Hole(rest.to_owned())),
            "HOOKS" => Some(Self::Hooks(rest.to_owned())),
            "END" => Some(Self::End),
            _ => None,
        }
    }

    /// Says it, in the guest.
    fn say(&self) {
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        match self {
            Self::Pass(what) => println!("{SAYS} PASS {}", one_line(what)),
            Self::Fail(what) => println!("{SAYS} FAIL {}", one_line(what)),
            Self::Hole(what) => println!("{SAYS} HOLE {}", one_line(what)),
            Self::Hooks(what) => println!("{SAYS} HOOKS {}", one_line(what)),
            Self::End => println!("{SAYS} END"),
        }
    }
}

/// Runs COI on every kernel that set-up found; fails if anything was not as it should be on any.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let kernels = report.time("kernels", setup::ensure_kernels)?;
    report.run("build of coi", cargo().args(["build", "-p", "coi"]))?;
    report.run("build of the routes", cargo().args(["build", "-p", "coi-routes"]))?;
    let dir = tempfile::Builder::new().prefix("coi-kernel-").tempdir()?;
    let initramfs = report.time("initramfs", || pack(dir.path()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failed = Vec::new();
    for kernel in &kernels {
        let name = format!("Linux {}", kernel.version);
        let booted = report.time(&name, || match runtime.block_on(boot(kernel, &initramfs)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(None),
            Err(error) => Err(Some(error)),
        });
        match booted {
            Ok(()) => {}
            Err(None) => failed.push(name),
            Err(Some(error)) => return Err(error),
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("not as it should be on {}", failed.join(", ")).into())
    }
}

/// Makes the file system that the kernels begin with.
fn pack(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    for path in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "var/log"] {
        let path = root.join(path);
        fs::create_dir_all(&path).map_err(io_error(path.display().to_string()))?;
    }
    write(&root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    write(&root.join("etc/group"), "root:x:0:\n")?;
    let busybox = Cmd::new("which").arg("busybox").output()?;
    copy(Path::new(busybox.trim()), &root.join("bin/busybox"))?;
    let xtask = std::env::current_exe()?;
    let mut libraries = BTreeSet::new();
    for program in [xtask.with_file_name("coi"), xtask.with_file_name("routes"), xtask] {
        let name = program.file_name().ok_or("a program without a name")?;
        // What is only for a debugger is most of it, and all of it is held in the guest's memory.
        Cmd::new("strip").arg("-o").arg(root.join("usr/bin").join(name)).arg(&program).output()?;
        libraries.extend(libraries_of(&Cmd::new("ldd").arg(&program).output()?));
    }
    for library in libraries {
        let inside = root.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(inside.parent().unwrap_or(&root))?;
        copy(&library, &inside)?;
    }
    let image = dir.join("initramfs");
    let script = "find . | busybox cpio -o -H newc >\"$0\"";
    Cmd::new("sh").args(["-c", script]).arg(&image).dir(&root).limit(Duration::from_secs(120)).output()?;
    Ok(image)
}

fn write(path: &Path, text: &str) -> std::result::Result<(), CoiError> {
    fs::write(path, text).map_err(io_error(path.display().to_string()))
}

fn copy(from: &Path, to: &Path) -> std::result::Result<(), CoiError> {
    fs::copy(from, to).map(drop).map_err(io_error(from.display().to_string()))
}

/// The files that `ldd` names, the dynamic linker among them.
fn libraries_of(printed: &str) -> impl Iterator<Item = PathBuf> {
    printed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from)
}

/// Boots a kernel, shows what is said, and answers whether all passed.
async fn boot(kernel: &Kernel, initramfs: &Path) -> Result<bool> {
    let mut signals = Signals::catch()?;
    let name = format!("Linux {}", kernel.version);
    let step = Step::begin(&*name);
    step.say("booting");
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulated also where the processor could do it: nested virtual machines are not to be relied on.
    qemu.args([
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "1024",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
    ]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    qemu.args(["-append", "console=ttyS0 panic=-1 loglevel=3"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut running = qemu.spawn().map_err(io_error("qemu-system-x86_64"))?;
    let out = running.stdout.take().ok_or("the emulator has no output")?;
    let mut said = Vec::new();
    let mut console = Vec::new();
    let read = signals.unless(&name, LIMIT, listen(out, &step, &mut said, &mut console)).await;
    // Where it has powered itself off there is nothing to kill.
    let _ = running.kill().await;
    let ended = read.is_ok() && said.last() == Some(&Said::End);
    let failures = said.iter().filter(|said| matches!(said, Said::Fail(_))).count();
    let passed = ended && failures == 0;
    let count = said.iter().filter(|said| matches!(said, Said::Pass(_))).count();
    step.end(if passed { Mark::Ok } else { Mark::Failed }, &format!("{count} passed, {failures} failed"));
    for said in &said {
        match said {
            Said::Pass(what) => anstream::println!("     pass  {what}"),
            Said::Fail(what) => anstream::println!("     FAIL  {what}"),
            Said::Hole(what) => anstream::println!("     hole  {what}"),
            Said::Hooks(what) => anstream::println!("    hooks  {what}"),
            Said::End => {}
        }
    }
    if !ended {
        anstream::println!("it did not come to its end; the last that it said:");
        let skipped = console.len().saturating_sub(CONSOLE_LINES);
        console.iter().skip(skipped).for_each(|line| anstream::println!("   | {line}"));
    }
    read??;
    Ok(passed)
}

/// Reads the console to its end.
async fn listen(
    out: tokio::process::ChildStdout,
    step: &Step,
    said: &mut Vec<Said>,
    console: &mut Vec<String>,
) -> io::Result<()> {
    let mut out = BufReader::new(out);
    let mut line = Vec::new();
    while out.read_until(b'\n', &mut line).await? > 0 {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(what) = Said::read(&text) {
            if let Said::Pass(what) | Said::Fail(what) = &what {
                step.say(what.clone());
            }
            said.push(what);
        }
        console.push(text);
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_among_the_kernels_words() {
        let heard = |line| Said::read(line);
        assert_eq!(heard("coi-kernel: PASS an exec\r"), Some(Said::Pass("an exec".into())));
        assert_eq!(heard("[ 1.2] coi-kernel: FAIL x y"), Some(Said::Fail("x y".into())));
        assert_eq!(heard("coi-kernel: END"), Some(Said::End));
        assert_eq!((heard("PASS"), heard("coi-kernel: SING"), heard("")), (None, None, None));
    }

    #[test]
    fn libraries() {
        let printed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        let found: Vec<_> = libraries_of(printed).collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld.so"].map(PathBuf::from));
    }
}
