//! The work whose price is told, and the files that it is done on.
//!
//! All that is needed is made here, and lies in the page cache when the first round begins.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::super::cgroup::Cgroup;
use super::super::programs;
use crate::coi::{Signals, io_error};
use crate::run::Step;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The loops of one system call.
const LOOPS: &str = include_str!("loops.c");
/// How long one piece of work may take: a hundred times what it does.
const LIMIT: Duration = Duration::from_secs(300);

const C_FILES: usize = 60;
const REPOSITORY_FILES: usize = 5_000;
const SMALL_FILES: usize = 20_000;
const FILES_PER_DIRECTORY: usize = 100;

/// Real work: a script, and what puts things back before it.
pub(super) struct Work {
    /// What it is measured as.
    pub(super) name: &'static str,
    before: &'static str,
    script: &'static str,
}

/// In the order of the table.
pub(super) const WORKS: &[Work] = &[
    Work { name: "build", before: "make -s clean", script: "make -s -j2" },
    Work {
        name: "git",
        before: ":",
        script: "cd repository; i=0; while [ $i -lt 10 ]; do git grep -c needle >/dev/null; git status --porcelain; \
                 i=$((i+1)); done",
    },
    Work {
        name: "cat",
        before: ":",
        script: "i=0; while [ $i -lt 3 ]; do xargs cat <small.list >/dev/null; i=$((i+1)); done",
    },
    Work { name: "true", before: ":", script: "i=0; while [ $i -lt 2000 ]; do /bin/true; i=$((i+1)); done" },
];

/// What the batches of one loop took, in nanoseconds per call.
#[derive(Default)]
pub(super) struct Batches {
    /// As it passed.
    pub(super) times: Vec<f64>,
    /// CPU, that of children included.
    pub(super) cpus: Vec<f64>,
}

/// What a piece of work took.
pub(super) struct Done {
    /// As it passed.
    pub(super) time: Duration,
    /// Of all its processes.
    pub(super) cpu: Duration,
}

/// A directory with all that the work needs.
pub(super) struct Workshop {
    dir: PathBuf,
}

impl Workshop {
    /// Makes everything, and does each work once, so that nothing is there for the first time when it is measured.
    pub(super) async fn furnish(dir: &Path, step: &Step, signals: &mut Signals) -> Result<Self> {
        let workshop = Self { dir: dir.to_owned() };
        step.say("the loops");
        programs::compile(dir, "loops", LOOPS)?;
        programs::compile(dir, "true", programs::TRUE)?;
        workshop.write("bytes", &"x".repeat(1 << 20))?;
        step.say("a C project");
        workshop.c_project()?;
        step.say("small files");
        let small = workshop.texts("small", SMALL_FILES, 400)?;
        workshop.write("small.list", &small)?;
        step.say("a repository");
        workshop.texts("repository", REPOSITORY_FILES, 2_000)?;
        let commit = "git init -q; git add .; git -c user.name=x -c user.email=x@example.org commit -qm all";
        for script in [format!("cd repository; {commit}")]
            .iter()
            .map(String::as_str)
            .chain(WORKS.iter().flat_map(|work| [work.before, work.script]))
        {
            let mut command = Command::new("sh");
            workshop.set_out(command.args(["-ec", script]).kill_on_drop(true));
            let ended = signals.unless(script, LIMIT, command.output()).await?.map_err(io_error("sh"))?;
            succeeded(script, &ended)?;
        }
        Ok(workshop)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        Ok(fs::write(&path, text).map_err(io_error(path.display().to_string()))?)
    }

    /// Files of text, about this long; answers their names, one per line.
    fn texts(&self, name: &str, count: usize, bytes: usize) -> Result<String> {
        let mut names = String::new();
        for file in 0..count {
            let directory = format!("{name}/{}", file / FILES_PER_DIRECTORY);
            if file % FILES_PER_DIRECTORY == 0 {
                let path = self.dir.join(&directory);
                fs::create_dir_all(&path).map_err(io_error(path.display().to_string()))?;
            }
            let line =
                format!("file {file}: {}\n", if file % 50 == 0 { "a needle" } else { "hay and straw" });
            let path = format!("{directory}/{file}.txt");
            self.write(&path, &line.repeat(bytes / line.len()))?;
            writeln!(names, "{path}")?;
        }
        Ok(names)
    }

    /// Sixty files that include what C files include, and do a little.
    fn c_project(&self) -> Result<()> {
        let mut main = "#include <stdio.h>\n".to_owned();
        let mut calls = String::new();
        for file in 0..C_FILES {
            let source = format!(
                "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <errno.h>\n\
                 static int compare(const void *a, const void *b) {{ return *(const int *)a - *(const int *)b; }}\n\
                 int work_{file}(int count)\n{{\n\tint *numbers = calloc(count, sizeof *numbers), sum = 0;\n\
                 \tfor (int i = 0; i < count; i++) numbers[i] = (i * {file} + 7) % 101;\n\
                 \tqsort(numbers, count, sizeof *numbers, compare);\n\
                 \tfor (int i = 0; i < count; i++) sum += numbers[i] * (i % {});\n\tfree(numbers);\n\treturn sum;\n}}\n",
                file + 2
            );
            self.write(&format!("work_{file}.c"), &source)?;
            writeln!(main, "int work_{file}(int count);")?;
            write!(calls, " + work_{file}(100)")?;
        }
        self.write(
            "main.c",
            &format!("{main}int main(void) {{ printf(\"%d\\n\", 0{calls}); return 0; }}\n"),
        )?;
        self.write(
            "Makefile",
            "objects := main.o $(patsubst %.c,%.o,$(wildcard work_*.c))\n\
             project: $(objects)\n\t$(CC) -o $@ $^\n\
             %.o: %.c\n\t$(CC) -O2 -c -o $@ $<\n\
             clean:\n\trm -f project $(objects)\n",
        )
    }

    /// The same surroundings for every command.
    fn set_out<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
    }

    /// The batches of each loop.
    pub(super) async fn loops(
        &self,
        place: &Cgroup,
        batches: u32,
        signals: &mut Signals,
    ) -> Result<HashMap<String, Batches>> {
        let mut command = place.command(self.dir.join("loops"));
        command.arg(batches.to_string()).arg(self.dir.join("bytes")).arg(self.dir.join("true"));
        let output = self.set_out(&mut command).output();
        let ended = signals.unless("the loops", LIMIT, output).await?.map_err(io_error("sh"))?;
        succeeded("the loops", &ended)?;
        let mut loops = HashMap::<String, Batches>::new();
        for line in String::from_utf8_lossy(&ended.stdout).lines() {
            if let [name, time, cpu] = line.split(' ').collect::<Vec<_>>()[..] {
                let batches = loops.entry(name.to_owned()).or_default();
                batches.times.push(time.parse()?);
                batches.cpus.push(cpu.parse()?);
            }
        }
        Ok(loops)
    }

    /// Does a piece of work.
    pub(super) async fn work(&self, work: &Work, place: &Cgroup, signals: &mut Signals) -> Result<Done> {
        let mut before = Command::new("sh");
        self.set_out(before.args(["-ec", work.before]).kill_on_drop(true));
        let ended = signals.unless(work.before, LIMIT, before.output()).await?.map_err(io_error("sh"))?;
        succeeded(work.before, &ended)?;

        let mut command = place.command("sh");
        self.set_out(command.args(["-ec", work.script])).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(io_error("sh"))?;
        // Kept open: what the work prints goes nowhere, but it goes.
        let mut out = child.stdout.take().map(BufReader::new);
        let mut moved = String::new();
        if let Some(out) = &mut out {
            signals.unless(work.name, LIMIT, out.read_line(&mut moved)).await?.map_err(io_error("a pipe"))?;
        }
        let cpu = place.cpu()?;
        let begun = Instant::now();
        let ended = signals.unless(work.name, LIMIT, child.wait_with_output()).await?;
        let time = begun.elapsed();
        succeeded(work.script, &ended.map_err(io_error("sh"))?)?;
        Ok(Done { time, cpu: place.cpu()?.saturating_sub(cpu) })
    }
}

fn succeeded(what: &str, ended: &std::process::Output) -> Result<()> {
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(format!("`{what}` failed ({}): {}", ended.status, said.trim()).into())
}
