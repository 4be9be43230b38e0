//! The table of settings. Whoever honours one adds its row here, and nothing else is to be done: `Config` gets the
//! field, files, environment and flags are read by it, `coi config` and docs/config.md show it.
//!
//! A row is `"name" | "other name" field: Type = DEFAULT, Workspace::..., flag "name" "VALUE";`. Types are in
//! [`values`](super::values). The word for workspaces is chosen so that a stranger's repository can gain nothing by it:
//! in doubt `Asks`.

use super::table::{Workspace, settings};
use super::values::{
    AgentNames, BuildBase, Compression, CpuAllowance, CpuCount, DiskSize, List, MemoryEnforce, MemoryLimit,
    Mounts, NetworkMode, Number, PermissionMode, Rate, Set, Swap, Time, TimezoneMode, ToolName,
    VariableNames, Variables,
};
use crate::monitor::service::api::PROTECTED;

settings! {
    /// The container itself.
    container: Container {
        /// The alias of the image that it is made from.
        "container.image" | "defaults.image" | "image" image: String = "coi-default".to_owned(),
            Workspace::Asks, flag "image" "ALIAS";
        /// It stays when it stops, with all that was installed in it, and is started again by the next `coi shell`.
        "container.persistent" | "defaults.persistent" | "persistent" persistent: bool = false,
            Workspace::Tightens(&["false"]), flag "persistent" "BOOL";
        /// How many seconds it has to shut down by itself.
        "container.shutdown_timeout" shutdown_timeout: Number<0, 3600> = Number(60), Workspace::Lowers;
        /// Docker can run in it: containers may be nested in it. More of the kernel is open to it then. Images with device
        /// nodes in them cannot be unpacked.
        "container.docker" docker: bool = false, Workspace::Tightens(&["false"]);
    }

    /// The image that `coi build` makes.
    build: Build {
        /// What it is made on: an image of the image server, a Debian made by this machine's debootstrap, or a local
        /// image.
        "container.build.base" base: BuildBase = BuildBase("images:debian/12".to_owned()), Workspace::Asks;
        /// The agents that are installed with npm, each with its version if it is to be that one: `claude@2.1.0`.
        "container.build.agents" agents: AgentNames = AgentNames::default(), Workspace::Asks;
        /// Docker is installed. For containers to use it, set `container.docker` as well.
        "container.build.docker" docker: bool = false, Workspace::Tightens(&["false"]);
        /// What is run at the end, as root in the image, one by one, after the profile's `build.sh`.
        "container.build.commands" commands: List = List::default(), Workspace::Asks;
        /// How the image is compressed. Incus needs the program of that name.
        "container.build.compression" compression: Compression = Compression::Zstd, Workspace::Sets;
    }

    /// What every command in the container gets.
    defaults: Defaults {
        /// The profile that is used.
        "defaults.profile" profile: Option<String> = None, Workspace::Asks, flag "profile" "NAME";
        /// Variables of the caller's environment that are handed on, by their names. Those that are not set are left
        /// out.
        "defaults.forward_env" | "forward_env" forward_env: VariableNames = VariableNames::default(),
            Workspace::Asks;
        /// Variables and their values. One that an agent or a tool looks at can send it, and its token, elsewhere: hence
        /// a workspace's needs trust.
        "defaults.environment" | "environment" environment: Variables = Variables::default(),
            Workspace::Asks, flag "env" "NAME=VALUE";
    }

    /// What the container may use of the machine. Without a limit, what Incus's profile says holds.
    limits: Limits {
        /// How many CPUs, or which.
        "limits.cpu.count" cpu_count: Option<CpuCount> = None, Workspace::Lowers, flag "limit-cpu" "COUNT";
        /// How much of their time.
        "limits.cpu.allowance" cpu_allowance: Option<CpuAllowance> = None,
            Workspace::Lowers, flag "limit-cpu-allowance" "SHARE";
        /// Who goes first where CPUs are scarce.
        "limits.cpu.priority" cpu_priority: Option<Number<0, 10>> = None,
            Workspace::Lowers, flag "limit-cpu-priority" "N";
        /// How much memory.
        "limits.memory.limit" memory: Option<MemoryLimit> = None,
            Workspace::Lowers, flag "limit-memory" "SIZE";
        /// Whether it gets more memory while nobody else needs it.
        "limits.memory.enforce" memory_enforce: Option<MemoryEnforce> = None,
            Workspace::Tightens(&["hard"]), flag "limit-memory-enforce" "HOW";
        /// Whether its memory may be swapped out, or how much of it.
        "limits.memory.swap" memory_swap: Option<Swap> = None,
            Workspace::Lowers, flag "limit-memory-swap" "SWAP";
        /// How fast it may read from its disk.
        "limits.disk.read" disk_read: Option<Rate> = None,
            Workspace::Lowers, flag "limit-disk-read" "RATE";
        /// How fast it may write to it.
        "limits.disk.write" disk_write: Option<Rate> = None,
            Workspace::Lowers, flag "limit-disk-write" "RATE";
        /// How fast it may do either, instead of the two.
        "limits.disk.max" disk_max: Option<Rate> = None,
            Workspace::Lowers, flag "limit-disk-max" "RATE";
        /// Who goes first where the disk is busy.
        "limits.disk.priority" disk_priority: Option<Number<0, 10>> = None,
            Workspace::Lowers, flag "limit-disk-priority" "N";
        /// How large its disk may become. Not every storage driver of Incus's can tell.
        "limits.disk.size" disk_size: Option<DiskSize> = None,
            Workspace::Lowers, flag "limit-disk-size" "SIZE";
        /// How many processes it may have.
        "limits.runtime.max_processes" max_processes: Option<Number<1, { i64::MAX }>> = None,
            Workspace::Lowers, flag "limit-processes" "COUNT";
        /// How long it may run. Its session is saved then as at every end.
        "limits.runtime.max_duration" max_duration: Option<Time> = None,
            Workspace::Lowers, flag "limit-duration" "TIME";
    }

    /// Who its commits are by. What the container's own git configuration says goes first.
    git: Git {
        /// The name.
        "git.name" name: Option<String> = None, Workspace::Asks;
        /// The address.
        "git.email" email: Option<String> = None, Workspace::Asks;
        /// What of the two is not set is taken from your own git configuration on the host.
        "git.seed_host_identity" seed_host_identity: bool = true, Workspace::Tightens(&["false"]);
        /// Its hooks, `.git/hooks` and `.husky`, can be changed in the container, and run on the host.
        "git.writable_hooks" writable_hooks: bool = false, Workspace::Tightens(&["false"]);
    }

    /// What of the workspace is protected from what runs inside.
    security: Security {
        /// What can only be read in the container, as paths from the workspace: it says which programs run on the host.
        "security.protected_paths" protected_paths: List =
            List(PROTECTED.iter().map(|path| (*path).to_owned()).collect()), Workspace::Asks;
        /// What else can only be read.
        "security.additional_protected_paths" additional_protected_paths: Set = Set::default(), Workspace::Sets;
        /// What of it may be changed all the same.
        "security.writable_paths" writable_paths: Set = Set::default(), Workspace::Asks;
        /// What is not to be seen in the container: something empty is in its place.
        "security.secret_paths" secret_paths: Set = Set::default(), Workspace::Sets;
        /// The workspace's `.env` files are not to be seen either.
        "security.mask_env" | "mask_env" mask_env: bool = false, Workspace::Tightens(&["true"]);
    }

    /// What else of the host a container sees.
    mounts: MountSettings {
        /// Directories and files, each `{ host, container, readonly }`.
        "mounts.default" default: Mounts = Mounts::default(), Workspace::Asks;
    }

    /// Where things are.
    paths: Paths {
        /// The workspace has the same path in the container as on the host, not `/workspace`.
        "paths.preserve_workspace_path" preserve_workspace_path: bool = false, Workspace::Asks;
    }

    /// What of the network it may reach.
    network: Network {
        /// Everything: there is nothing else yet.
        "network.mode" mode: NetworkMode = NetworkMode::Open, Workspace::Sets;
    }

    /// ssh.
    ssh: Ssh {
        /// The agent at `SSH_AUTH_SOCK` can be used from inside. The keys stay outside, but whatever runs inside can
        /// log in with them meanwhile.
        "ssh.forward_agent" forward_agent: bool = false, Workspace::Tightens(&["false"]);
    }

    /// Which time its clock shows.
    timezone: Timezone {
        /// The host's, UTC, or that of `name`.
        "timezone.mode" mode: TimezoneMode = TimezoneMode::Host, Workspace::Sets;
        /// Such as `Europe/Berlin`, for the mode `fixed`.
        "timezone.name" name: Option<String> = None, Workspace::Sets;
    }

    /// The monitor.
    monitoring: Monitoring {
        /// Whether the container is monitored, and does not start where it cannot be. Without the monitor nothing that
        /// happens in it is seen, recorded or stopped; its workspace is protected all the same.
        "monitoring.enabled" enabled: bool = true, Workspace::Tightens(&["true"]), flag "no-monitor" sets "false";
    }

    /// The agent.
    tool: Tool {
        /// Which. What is resumed goes on with its own.
        "tool.name" name: ToolName = ToolName::Claude, Workspace::Asks, flag "tool" "NAME";
        /// Whether it acts without asking: the container is what confines it.
        "tool.permission_mode" permission_mode: PermissionMode = PermissionMode::Bypass,
            Workspace::Tightens(&["interactive"]);
        /// What `~/SANDBOX_CONTEXT.md` says about where it runs it is told by its own means, such as Claude Code's
        /// `~/.claude/CLAUDE.md`. The file is there in either case.
        "tool.auto_context" auto_context: bool = true, Workspace::Asks;
    }
}

/// What is asked for under names that nothing here has, and why it has not.
pub(super) const REASONS: &[(&str, &str)] = &[
    (
        "container.build.script",
        "a profile's build script is the file build.sh beside its config.toml; leave it out",
    ),
    ("container.privileged", PRIVILEGED),
    ("security.privileged", PRIVILEGED),
    ("incus", "what Incus is asked for is COI's own, and its containers are never privileged; leave it out"),
    ("monitoring", "what rules find and do is changed in a rule file: ~/.coi/rules/NAME.toml"),
    ("network", "what of the network a container reaches cannot be limited yet; leave it out"),
    ("rules", "changes to rules stand in a rule file: ~/.coi/rules/NAME.toml, or .coi/rules/NAME.toml"),
];

const PRIVILEGED: &str = "COI's containers are never privileged, and nothing changes that; leave it out";

/// The tables of this file that are not here: who reads them.
pub const DAEMONS: &[&str] = &["rules", "users", "audit", "respond", "notify", "monitor"];

/// The names of the tables at the top of a configuration file, and of the settings that stand there.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let names = KEYS.iter().flat_map(|key| key.also.iter().copied().chain([key.name]));
    let tops = names.filter_map(|name| name.split('.').next());
    tops.collect::<std::collections::BTreeSet<_>>().into_iter()
}
