//! `coi-default`: a Debian in which an agent, and a developer, find what they expect.

use super::image::{Base, Recipe};

/// Debian 12 with systemd, the usual tools of a developer, Node, and the user `code`.
pub(super) const RECIPE: Recipe = Recipe {
    alias: "coi-default",
    description: "COI's default image: Debian 12 with developer's tools",
    base: Base::Debian { suite: "bookworm", packages: PACKAGES },
    files: &[
        ("/etc/systemd/network/eth0.network", 0o644, "[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\n"),
        ("/etc/systemd/system/service.d/container.conf", 0o644, CONTAINER),
        ("/etc/sudoers.d/code", 0o440, "code ALL=(ALL) NOPASSWD: ALL\n"),
        ("/etc/default/locale", 0o644, "LANG=C.UTF-8\n"),
        ("/etc/machine-id", 0o444, ""),
    ],
    dirs: &[],
    links: &[
        // The servers that DHCP names, asked directly: a monitor then sees who asks whom.
        ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"),
        ("/etc/systemd/system/apt-daily.timer", "/dev/null"),
        ("/etc/systemd/system/apt-daily-upgrade.timer", "/dev/null"),
        ("/etc/systemd/system/dpkg-db-backup.timer", "/dev/null"),
        ("/etc/systemd/system/e2scrub_all.timer", "/dev/null"),
        ("/etc/systemd/system/fstrim.timer", "/dev/null"),
        ("/etc/systemd/system/systemd-networkd-wait-online.service", "/dev/null"),
    ],
    commands: &[
        &["useradd", "--create-home", "--shell", "/bin/bash", "--uid", "1000", "code"],
        &["systemctl", "enable", "systemd-networkd", "systemd-resolved"],
        &["systemctl", "disable", "ssh.service"],
        &["update-ca-certificates"],
        // Host keys that all containers share would be worse than none: `ssh-keygen -A` makes a container its own.
        &["find", "/etc/ssh", "-name", "ssh_host_*", "-delete"],
        &["find", "/var/lib/apt/lists", "/var/log", "-type", "f", "-delete"],
    ],
    remove: &["/etc/hostname"],
};

const PACKAGES: &[&str] = &[
    // The system.
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "iputils-ping",
    "procps",
    "sudo",
    // The developer's.
    "bash",
    "bzip2",
    "curl",
    "file",
    "gawk",
    "gcc",
    "git",
    "jq",
    "less",
    "libc6-dev",
    "make",
    "nodejs",
    "npm",
    "openssh-client",
    "openssh-server",
    "openssl",
    "patch",
    "perl",
    "python3",
    "python3-pip",
    "python3-venv",
    "ripgrep",
    "strace",
    "tmux",
    "unzip",
    "vim-tiny",
    "xz-utils",
    "zip",
    // The attacker's, so that tests can show what becomes of them.
    "ncat",
    "netcat-openbsd",
    "netcat-traditional",
    "socat",
];

/// systemd's sandboxing of services needs mounts that a container may not make on some hosts; the container is the
/// sandbox. The same settings as in the images of the Incus project.
const CONTAINER: &str = "\
[Service]
ProcSubset=all
ProtectProc=default
ProtectControlGroups=no
ProtectKernelTunables=no
NoNewPrivileges=no
LoadCredential=
PrivateNetwork=no
";
