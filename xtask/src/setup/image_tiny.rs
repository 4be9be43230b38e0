//! `coi-tiny`: one megabyte that boots in well under a second, for tests that need a container and little in it.

use super::image::{Base, Recipe};

/// Static busybox, an address by DHCP, and the user `code`.
pub(super) const RECIPE: Recipe = Recipe {
    alias: "coi-tiny",
    description: "COI's test image: busybox",
    base: Base::Busybox { files: &[] },
    files: &[
        ("/etc/inittab", 0o644, INITTAB),
        ("/etc/rc", 0o755, RC),
        ("/etc/udhcpc.sh", 0o755, UDHCPC),
        (
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\n\
             code:x:1000:1000:code:/home/code:/bin/sh\n\
             nobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("/etc/group", 0o644, "root:x:0:\ncode:x:1000:\nnogroup:x:65534:\n"),
        ("/etc/shadow", 0o600, "root:!::0:::::\ncode:!::0:::::\n"),
        ("/etc/os-release", 0o644, "ID=coi-tiny\nNAME=coi-tiny\n"),
    ],
    dirs: &[
        ("/", 0o755, 0),
        ("/dev", 0o755, 0),
        ("/home/code", 0o755, 1000),
        ("/mnt", 0o755, 0),
        ("/proc", 0o555, 0),
        ("/root", 0o700, 0),
        ("/run", 0o755, 0),
        ("/sys", 0o555, 0),
        ("/tmp", 0o1777, 0),
        ("/var/tmp", 0o1777, 0),
    ],
    links: &[
        ("/sbin/init", "/bin/busybox"),
        ("/sbin/poweroff", "/bin/busybox"),
        ("/sbin/reboot", "/bin/busybox"),
        // What scripts name with this path.
        ("/usr/bin/env", "/bin/busybox"),
        ("/var/run", "/run"),
    ],
    commands: &[],
    remove: &[],
};

/// Something has to be respawned, or init ends up in a busy loop; a stop comes as a signal.
pub(super) const INITTAB: &str =
    "::sysinit:/etc/rc\n::respawn:/bin/sleep 2147483647\n::ctrlaltdel:/sbin/poweroff\n";

pub(super) const RC: &str = "\
#!/bin/sh
mount -t tmpfs -o mode=755 tmpfs /run 2>/dev/null
hostname -F /etc/hostname 2>/dev/null
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  ip link set eth0 up
  udhcpc -i eth0 -b -t 20 -T 1 -A 1 -S -s /etc/udhcpc.sh -p /run/udhcpc.pid >/run/udhcpc.log 2>&1 &
fi
: >/run/ready
";

pub(super) const UDHCPC: &str = "\
#!/bin/sh
case \"$1\" in
bound | renew)
  ip addr flush dev $interface
  ip addr add $ip/${mask:-24} dev $interface
  for gateway in $router; do
    ip route replace default via $gateway dev $interface
    break
  done
  : >/etc/resolv.conf
  for server in $dns; do echo nameserver $server >>/etc/resolv.conf; done
  ;;
deconfig)
  ip addr flush dev $interface
  ip link set $interface up
  ;;
esac
";
