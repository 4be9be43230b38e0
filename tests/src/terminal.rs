//! A real terminal, with somebody who types and looks at it: tmux, on a server of its own.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::process::end;
use crate::{Coi, DEADLINE, program};

/// A terminal with a plain shell in it, which finds `coi` on its path.
#[derive(Debug)]
pub struct Terminal {
    dir: TempDir,
    /// One message whenever something was drawn.
    drawn: Receiver<()>,
}

impl Terminal {
    /// Opens one in the workspace.
    pub fn open(coi: &Coi) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut environment = coi.command(&[]);
        let path = format!("{}:{}", program().parent().unwrap().display(), std::env::var("PATH").unwrap());
        environment.env("PATH", path);
        let mut server = tmux(dir.path());
        server.envs(environment.get_envs().filter_map(|(key, value)| Some((key, value?))));
        server.args(["-f", "/dev/null", "new-session", "-d", "-x", "160", "-y", "50", "-c"]);
        end(server.arg(coi.workspace()).arg("sh")).expect(0);
        let output = dir.path().join("output");
        mkfifo(&output, Mode::S_IRWXU).unwrap();
        end(tmux(dir.path()).args(["pipe-pane", &format!("exec cat >'{}'", output.display())])).expect(0);
        let (to, drawn) = channel();
        thread::spawn(move || {
            let mut output = File::open(output).unwrap();
            let mut bytes = [0; 4096];
            while let Ok(1..) = output.read(&mut bytes) {
                if to.send(()).is_err() {
                    return;
                }
            }
        });
        Self { dir, drawn }
    }

    /// Types a line.
    pub fn enter(&self, line: &str) {
        end(tmux(self.dir.path()).args(["send-keys", "-l", line])).expect(0);
        self.press("Enter");
    }

    /// Presses keys, by tmux's names for them, such as `C-b`.
    pub fn press(&self, keys: &str) {
        end(tmux(self.dir.path()).arg("send-keys").args(keys.split(' '))).expect(0);
    }

    /// What can be seen now, with what has scrolled away.
    pub fn screen(&self) -> String {
        let screen = end(tmux(self.dir.path()).args(["capture-pane", "-p", "-J", "-S", "-"])).expect(0);
        screen.text().trim_end().to_owned()
    }

    /// Waits until this can be seen.
    #[track_caller]
    pub fn until(&self, text: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(self.drawn.recv_timeout(left).is_ok(), "{text:?} was not to be seen, only:\n{screen}");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the terminal:\n{}", self.screen());
        }
        let _ = end(tmux(self.dir.path()).arg("kill-server"));
    }
}

fn tmux(dir: &Path) -> Command {
    let mut tmux = Command::new("tmux");
    tmux.arg("-S").arg(dir.join("tmux")).stdin(Stdio::null()).env_remove("TMUX");
    tmux
}
