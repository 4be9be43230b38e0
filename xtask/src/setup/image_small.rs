//! `coi-small`: `coi-tiny` with what a session needs, for tests of sessions that need no whole system.

use super::image::{Base, Recipe};
use super::image_tiny::{self, INITTAB, RC, UDHCPC};

/// Busybox, and the host's bash and tmux.
pub(super) const RECIPE: Recipe = Recipe {
    alias: "coi-small",
    description: "COI's test image for sessions: busybox, bash and tmux",
    base: Base::Busybox {
        files: &[
            "/usr/bin/bash",
            "/usr/bin/tmux",
            "/lib/terminfo/s/screen-256color",
            "/lib/terminfo/t/tmux-256color",
            "/lib/terminfo/x/xterm-256color",
            "/usr/lib/locale/C.utf8/LC_CTYPE",
        ],
    },
    files: &[
        ("/etc/inittab", 0o644, INITTAB),
        ("/etc/rc", 0o755, RC),
        ("/etc/udhcpc.sh", 0o755, UDHCPC),
        (
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/bash\n\
             code:x:1000:1000:code:/home/code:/bin/bash\n\
             nobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("/etc/group", 0o644, "root:x:0:\ncode:x:1000:\nnogroup:x:65534:\n"),
        ("/etc/shadow", 0o600, "root:!::0:::::\ncode:!::0:::::\n"),
        ("/etc/os-release", 0o644, "ID=coi-small\nNAME=coi-small\n"),
        ("/etc/bash.bashrc", 0o644, "PS1='\\u@\\h:\\w\\$ '\n"),
    ],
    links: &[
        ("/sbin/init", "/bin/busybox"),
        ("/sbin/poweroff", "/bin/busybox"),
        ("/sbin/reboot", "/bin/busybox"),
        ("/bin/bash", "/usr/bin/bash"),
        ("/usr/bin/env", "/bin/busybox"),
        ("/var/run", "/run"),
    ],
    ..image_tiny::RECIPE
};
