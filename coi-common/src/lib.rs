//! The records that cross from kernel to user, and nothing else.
//!
//! Every record in a ring begins with a [`Header`]; its `kind` says which body follows, and the body says how
//! long the text behind it is. Both sides are compiled from this file, so the layout needs no version.
//! Numbers are in the machine's byte order unless said otherwise.
#![no_std]

/// How many bytes of arguments an exec record keeps, all of them together with their NULs.
pub const ARGS_KEPT: usize = 8192;
/// How many bytes of a path a record keeps.
pub const PATH_KEPT: usize = 1024;
/// How many parts of a path, and mounts on the way, are followed from a file to its root.
pub const PATH_DEPTH: usize = 40;
/// The longest single name in a path, with its NUL.
pub const NAME_SPACE: usize = 256;
/// How many bytes of a cgroup's path are compared, its NUL included.
pub const CGROUP_PATH: usize = 192;
/// Sums of bytes read surface at this step, and when the thread ends.
pub const READ_STEP: u64 = 1 << 20;
/// Sums of bytes read surface at so many files, too.
pub const FILES_STEP: u64 = 64;
/// Sums of bytes sent surface at this step, and when the thread ends.
pub const SEND_STEP: u64 = 256 << 10;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`Exec`], then the path, then the arguments.
    Exec = 1,
    /// [`Open`], then the path as the caller passed it.
    ExecFailed = 2,
    /// [`Fork`].
    Fork = 3,
    /// [`Exit`].
    Exit = 4,
    /// [`Connect`], then the path of an AF_UNIX address.
    Connect = 5,
    /// [`Connect`], about the peer.
    Accept = 6,
    /// [`Redirect`].
    Redirect = 7,
    /// [`Open`], then the path.
    Open = 8,
    /// [`Sum`].
    Read = 9,
    /// [`Sum`].
    Send = 10,
    /// [`Cgroup`], then its path: an expected cgroup was made.
    CgroupMade = 11,
    /// [`Cgroup`], then its path: a watched cgroup was removed.
    CgroupGone = 12,
    /// [`Local`].
    Bind = 13,
    /// [`Local`].
    Listen = 14,
    /// [`Change`], then the place of the first text, the first text, and the same for the second.
    Change = 15,
    /// [`Open`], then the path: a file of the workspace was mapped.
    Map = 16,
    /// [`Syscall`], then the text that one of its arguments is.
    Syscall = 17,
    /// [`Submission`].
    IoUring = 18,
}

impl Kind {
    /// One more than the largest discriminant.
    pub const COUNT: u32 = 19;

    /// The bit of this kind in a set of kinds.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The kind with this number.
    pub const fn from_u32(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Exec,
            2 => Self::ExecFailed,
            3 => Self::Fork,
            4 => Self::Exit,
            5 => Self::Connect,
            6 => Self::Accept,
            7 => Self::Redirect,
            8 => Self::Open,
            9 => Self::Read,
            10 => Self::Send,
            11 => Self::CgroupMade,
            12 => Self::CgroupGone,
            13 => Self::Bind,
            14 => Self::Listen,
            15 => Self::Change,
            16 => Self::Map,
            17 => Self::Syscall,
            18 => Self::IoUring,
            _ => return None,
        })
    }
}

/// In [`Header::flags`]: the container's init has not run yet; this is LXC's own doing.
pub const FLAG_SETUP: u32 = 1 << 0;
/// In [`Header::flags`]: the arguments were longer than what was kept.
pub const FLAG_ARGS_TRUNCATED: u32 = 1 << 1;
/// In [`Header::flags`]: the arguments could not be read.
pub const FLAG_ARGS_UNREADABLE: u32 = 1 << 2;
/// In [`Header::flags`]: the path was longer or deeper than what was kept; its end is there.
pub const FLAG_PATH_TRUNCATED: u32 = 1 << 3;
/// In [`Header::flags`]: the path could not be read.
pub const FLAG_PATH_UNREADABLE: u32 = 1 << 4;
/// In [`Header::flags`]: the path is what the caller passed, not what the kernel resolved.
pub const FLAG_PATH_AS_PASSED: u32 = 1 << 5;
/// In [`Header::flags`]: the address is what the caller passed, not the socket's.
pub const FLAG_ADDRESS_AS_PASSED: u32 = 1 << 6;

/// In [`Header::flags`]: the file is in no directory, as a memfd is.
pub const FLAG_PATH_NOWHERE: u32 = 1 << 7;

/// In [`Header::flags`]: the exec itself gave the process privileges, as a setuid program does.
pub const FLAG_EXEC_SECURE: u32 = 1 << 8;

/// A record that user space may make out of any bytes.
///
/// # Safety
/// The type is `repr(C)`, has no padding and is valid for every pattern of bits.
pub unsafe trait Record: Copy {}

/// What every record begins with.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Header {
    /// CLOCK_BOOTTIME, in nanoseconds.
    pub time: u64,
    /// The watched cgroup: an ancestor of the acting process's own, or that itself.
    pub scope: u64,
    /// When the process was started, CLOCK_BOOTTIME in nanoseconds; with `tgid` it identifies the process.
    pub start_time: u64,
    /// The same for the parent.
    pub parent_start_time: u64,
    /// A [`Kind`].
    pub kind: u32,
    /// Bits named `FLAG_*`.
    pub flags: u32,
    /// The process id on the host.
    pub tgid: u32,
    /// The thread id on the host.
    pub tid: u32,
    /// The process id in its own PID namespace.
    pub vpid: u32,
    /// The parent's process id on the host.
    pub parent_tgid: u32,
    /// The process group on the host.
    pub pgid: u32,
    /// The session on the host.
    pub sid: u32,
    /// The effective user id on the host.
    pub uid: u32,
    /// Zero.
    pub reserved: u32,
    /// The effective capabilities in the process's user namespace, bit N for capability N.
    pub capabilities: u64,
}

/// What a standard stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StreamKind {
    /// Nothing is open there.
    Closed = 0,
    /// A regular file or a directory.
    File = 1,
    /// A nameless pipe.
    Pipe = 2,
    /// A named pipe.
    Fifo = 3,
    /// The terminal's side of a pseudo-terminal.
    Pty = 4,
    /// Another terminal.
    Tty = 5,
    /// Another device, such as /dev/null.
    Device = 6,
    /// An AF_INET or AF_INET6 socket.
    Inet = 7,
    /// An AF_UNIX socket.
    Unix = 8,
    /// Anything else.
    Other = 9,
}

impl StreamKind {
    /// The kind with this number; an unknown one is [`StreamKind::Other`].
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Closed,
            1 => Self::File,
            2 => Self::Pipe,
            3 => Self::Fifo,
            4 => Self::Pty,
            5 => Self::Tty,
            6 => Self::Device,
            7 => Self::Inet,
            8 => Self::Unix,
            _ => Self::Other,
        }
    }
}

/// An open file behind a standard stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// The inode number: of the pipe, the file or the socket.
    pub inode: u64,
    /// AF_UNIX: the inode number of the connected peer, or 0.
    pub peer_inode: u64,
    /// AF_INET and AF_INET6: the peer.
    pub peer: Address,
    /// Character devices: the device number as the kernel keeps it, major in the upper 12 bits.
    pub device: u32,
    /// A [`StreamKind`].
    pub kind: u8,
    /// Bit 0: open for reading; bit 1: for writing.
    pub access: u8,
    /// Zero.
    pub reserved: u16,
}

/// An internet address. All zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Address {
    /// IPv6, or IPv4 in the first four bytes; network order.
    pub ip: [u8; 16],
    /// AF_INET (2), AF_INET6 (10), AF_UNIX (1), or 0.
    pub family: u16,
    /// In the host's order.
    pub port: u16,
}

/// The size of a `struct sockaddr_in6`; of a `sockaddr_in` it is 16.
pub const SOCKADDR: usize = 28;

/// How long the table of system calls is.
pub const CALLS: u32 = 544;

/// Where in it the calls of socketcall(2) begin, which is one of the 32-bit ones.
pub const I386_SOCKETCALL: u32 = 512;

/// How many programs there may be for system calls. Those that are named here are jumped to by name.
pub const PROGRAMS: u32 = 16;
/// In place of a program: what the end of every call does by itself with one that reads.
pub const READ: u32 = 1;
/// The program for calls that send.
pub const SEND: u32 = 2;

/// Where a 32-bit call has its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// In registers.
    Registers = 0,
    /// In memory, where the first register says: the old mmap(2).
    Block = 1,
    /// In memory, where the second register says; the first says which of the calls behind [`I386_SOCKETCALL`] it is.
    Socketcall = 2,
}

/// What is done with a system call.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Entry {
    /// Its number on x86-64.
    pub number: u16,
    /// The number of the program that goes on with it; 0 if nobody looks at it.
    pub program: u8,
    /// Which argument is a text; [`NO_TEXT`] if none.
    pub text: u8,
    /// A [`Form`].
    pub form: u8,
    /// Zero.
    pub reserved: u8,
}

/// In [`Entry::text`].
pub const NO_TEXT: u8 = u8::MAX;

/// In place of a protocol: a raw or packet socket, whose packets are of its own making. IPPROTO_RAW.
pub const PROTOCOL_RAW: u32 = 255;

/// A process runs another program: the body of [`Kind::Exec`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Exec {
    /// Standard input, output and error.
    pub stdio: [Stream; 3],
    /// The bytes of the path that follow; its parts, last first, each ended by a NUL.
    pub path_len: u32,
    /// The bytes of the arguments that follow the path, each ended by a NUL.
    pub args_len: u32,
}

/// The body of [`Kind::Fork`]: the header is about the child, `parent_*` about the process that forked.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Fork {
    /// Zero.
    pub reserved: u64,
}

/// The body of [`Kind::Exit`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Exit {
    /// As wait(2) gives it: the code in bits 8 to 15, the signal in bits 0 to 6.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

/// The body of [`Kind::Connect`] and [`Kind::Accept`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Connect {
    /// Standard input, output and error.
    pub stdio: [Stream; 3],
    /// The socket's inode number.
    pub inode: u64,
    /// The peer.
    pub peer: Address,
    /// The call's result where it is known: 0 or a negative error number. 1 where it is not known yet.
    pub result: i32,
    /// IPPROTO_TCP (6), IPPROTO_UDP (17), [`PROTOCOL_RAW`], or another; says nothing for AF_UNIX.
    pub protocol: u32,
    /// What the caller's memory says the address is: a `struct sockaddr_in` or `sockaddr_in6`. All zero where it was
    /// not asked.
    pub passed: [u8; SOCKADDR],
    /// The bytes of an AF_UNIX path that follow: its parts, last first, each ended by a NUL; a NUL and an abstract
    /// name; or, with [`FLAG_ADDRESS_AS_PASSED`], what the caller passed.
    pub path_len: u32,
    /// 1 if the AF_UNIX address is abstract.
    pub is_abstract: u32,
}

/// The body of [`Kind::Redirect`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Redirect {
    /// Standard input, output and error, after it.
    pub stdio: [Stream; 3],
    /// Which of them was replaced.
    pub fd: u32,
    /// Zero.
    pub reserved: u32,
}

/// The body of [`Kind::Open`] and [`Kind::ExecFailed`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Open {
    /// The inode number.
    pub inode: u64,
    /// The file system's device number as the kernel keeps it.
    pub device: u32,
    /// `f_flags` of the opened file.
    pub flags: u32,
    /// 0 or a negative error number.
    pub result: i32,
    /// 1 if this call made the file.
    pub created: u32,
    /// The bytes of the path that follow: its parts, last first, each ended by a NUL; or, with
    /// [`FLAG_PATH_AS_PASSED`], one text ended by a NUL.
    pub path_len: u32,
    /// `i_mode`: the file's type and permissions.
    pub mode: u32,
    /// The bytes of the caller's own text behind the path, its NUL included; 0 where it is not known.
    pub passed_len: u32,
    /// Zero.
    pub reserved: u32,
}

/// The body of [`Kind::Read`] and [`Kind::Send`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Sum {
    /// Bytes since the thread's last such record.
    pub bytes: u64,
    /// Files read for the first time in a while since then; 0 for what is sent.
    pub files: u64,
}

/// The body of [`Kind::Bind`] and [`Kind::Listen`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Local {
    /// The socket's own address.
    pub address: Address,
    /// As in [`Connect`].
    pub protocol: u32,
}

/// The body of [`Kind::Change`]: names changed, not contents. Each name is a place (the parts of a directory's
/// path, last first, each ended by a NUL) and what the caller passed, relative to it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Change {
    /// The system call's number on x86-64.
    pub syscall: u32,
    /// 0 or a negative error number.
    pub result: i32,
    /// The bytes of the affected name's place, and of its text.
    pub place_len: u32,
    #[allow(missing_docs)]
    pub text_len: u32,
    /// The same of the other name, if there is one.
    pub other_place_len: u32,
    #[allow(missing_docs)]
    pub other_text_len: u32,
    /// The third argument: flags, where the call has them there.
    pub argument2: u64,
}

/// The body of [`Kind::Syscall`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Syscall {
    /// The system call's number on x86-64.
    pub number: u32,
    /// The bytes of text that follow, the NUL included.
    pub text_len: u32,
    /// What it gave back.
    pub result: i64,
    /// Its first four arguments.
    pub arguments: [u64; 4],
}

/// The body of [`Kind::IoUring`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Submission {
    /// An `IORING_OP_*`.
    pub opcode: u32,
    /// Zero.
    pub reserved: u32,
}

/// The body of [`Kind::CgroupMade`] and [`Kind::CgroupGone`]. The header's process is who did it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Cgroup {
    /// The cgroup's id.
    pub id: u64,
    /// Its depth below the hierarchy's root.
    pub level: u32,
    /// The bytes of the path that follow, its NUL included.
    pub path_len: u32,
}

// SAFETY: repr(C), fields laid out without padding (asserted below), numbers and arrays of numbers only.
unsafe impl Record for Header {}
// SAFETY: see above.
unsafe impl Record for Exec {}
// SAFETY: see above.
unsafe impl Record for Fork {}
// SAFETY: see above.
unsafe impl Record for Exit {}
// SAFETY: see above.
unsafe impl Record for Connect {}
// SAFETY: see above.
unsafe impl Record for Redirect {}
// SAFETY: see above.
unsafe impl Record for Open {}
// SAFETY: see above.
unsafe impl Record for Sum {}
// SAFETY: see above.
unsafe impl Record for Cgroup {}
// SAFETY: see above.
unsafe impl Record for Local {}
// SAFETY: see above.
unsafe impl Record for Change {}
// SAFETY: see above.
unsafe impl Record for Syscall {}
// SAFETY: see above.
unsafe impl Record for Submission {}

const _: () = {
    assert!(size_of::<Header>() == 4 * 8 + 10 * 4 + 8);
    assert!(size_of::<Address>() == 20);
    assert!(size_of::<Stream>() == 2 * 8 + 20 + 8 + 4);
    assert!(size_of::<Exec>() == 3 * 48 + 8);
    assert!(size_of::<Connect>() == 3 * 48 + 8 + 20 + 8 + 28 + 8);
    assert!(size_of::<Local>() == 24);
    assert!(size_of::<Change>() == 32);
    assert!(size_of::<Syscall>() == 48);
    assert!(size_of::<Submission>() == 8);
    assert!(size_of::<Redirect>() == 3 * 48 + 8);
    assert!(size_of::<Open>() == 40);
    assert!(size_of::<Cgroup>() == 16);
};

/// Why a watched cgroup is watched, kept in the kernel by the cgroup's id.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Scope {
    /// The inode number of the workspace's directory, or 0.
    pub workspace_inode: u64,
    /// The device number of the workspace's file system, as the kernel keeps it.
    pub workspace_device: u32,
    /// 1 while the container's init runs; always 1 for a plain cgroup.
    pub started: u32,
    /// 1 if every event of it is wanted from the beginning, whether a rule needs it or not.
    pub everything: u32,
    /// The cgroup's depth below the hierarchy's root.
    pub level: u32,
    /// The PID namespace that the container's init is process 1 of; the kernel's address of it.
    pub init_namespace: u64,
}

/// The key of the loss counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LossKey {
    /// The watched cgroup.
    pub scope: u64,
    /// The [`Kind`] of the lost records.
    pub kind: u32,
    /// [`LOST_RING`] or [`LOST_BUDGET`].
    pub reason: u32,
}

/// In [`LossKey::reason`]: the ring had no room.
pub const LOST_RING: u32 = 0;
/// In [`LossKey::reason`]: the container had more on the way than one may have.
pub const LOST_BUDGET: u32 = 1;

/// How many bytes of one container may be on the way in the priority ring: some 900 forks, which the reader takes in
/// milliseconds.
pub const PRIORITY_BUDGET: u64 = 256 << 10;
/// The same for what a flood cannot consist of as easily: connections, redirections, a shell on a socket.
pub const DECISIVE_BUDGET: u64 = 512 << 10;
/// The same in the bulk ring: some 1900 opens.
pub const BULK_BUDGET: u64 = 384 << 10;

/// Bytes in the two rings, of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// In the priority ring.
    pub priority: u64,
    /// In the bulk ring.
    pub bulk: u64,
}

/// How many bytes of a name the tests on opened files compare: one less than a power of two, so that a mask bounds them.
pub const TEST_SPACE: usize = 63;

/// What is told at functions that every route passes, where the kernel takes programs there: files opened.
pub const TOLD_OPENS: u32 = 1;
/// The same: AF_UNIX connections.
pub const TOLD_UNIX_CONNECTS: u32 = 2;
/// The same: connections accepted.
pub const TOLD_ACCEPTS: u32 = 4;
/// The same: where datagrams over AF_UNIX go.
pub const TOLD_UNIX_DATAGRAMS: u32 = 8;

/// A test on the name of an opened file, the key of its map. Aligned, so that it can be zeroed by words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct NameKey {
    /// One of `FORM_*`.
    pub form: u8,
    /// The text, filled up with NULs.
    pub text: [u8; TEST_SPACE],
}

/// In [`NameKey::form`]: the last part of the path is the text.
pub const FORM_NAME: u8 = 0;
/// In [`NameKey::form`]: a part above the last is the text.
pub const FORM_DIRECTORY: u8 = 1;
/// In [`NameKey::form`]: the last part begins with these [`AFFIX`] bytes.
pub const FORM_PREFIX: u8 = 2;
/// In [`NameKey::form`]: the last part ends with these [`AFFIX`] bytes.
pub const FORM_SUFFIX: u8 = 3;
/// How many bytes of a beginning or an end are compared.
pub const AFFIX: usize = 4;

/// An attribute of an open: for writing.
pub const OPEN_WRITE: u32 = 1;
/// An attribute of an open: it made the file.
pub const OPEN_CREATE: u32 = 2;

/// The tests that an open with these attributes may pass: bit N of a test's value says that it asks for the attributes
/// N. By arithmetic, since a table would have to be indexed where older verifiers lose the index's bounds.
pub const fn passing(attributes: u32) -> u32 {
    let (write, create) = (attributes & OPEN_WRITE, (attributes & OPEN_CREATE) / OPEN_CREATE);
    1 | write << 1 | create << 2 | (write & create) << 3
}

/// Which events anybody wants. Tests are sets as [`passing`] describes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Wanted {
    /// By [`Kind::bit`].
    pub kinds: u32,
    /// 1 if there is a cgroup of which everything is wanted.
    pub somewhere_everything: u32,
    /// The opens that are wanted whatever their name.
    pub any: u32,
    /// The opens that are wanted of the workspace's files.
    pub workspace: u32,
    /// For [`FORM_NAME`]: bit N for texts of N bytes, and the texts' first bytes.
    pub name_lengths: u64,
    #[allow(missing_docs)]
    pub name_first: [u64; 4],
    /// The same for [`FORM_DIRECTORY`].
    pub directory_lengths: u64,
    #[allow(missing_docs)]
    pub directory_first: [u64; 4],
    /// For [`FORM_PREFIX`]: the texts' first bytes.
    pub prefix_first: [u64; 4],
    /// For [`FORM_SUFFIX`]: the texts' last bytes.
    pub suffix_last: [u64; 4],
}

/// Where the kernel keeps what the programs read, in bytes from the start of each structure; taken from the
/// running kernel's BTF by user space before the programs are loaded.
#[allow(missing_docs, reason = "each field is named structure_member after the kernel's own")]
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Offsets {
    pub task_files: u32,
    pub task_fs: u32,
    pub task_mm: u32,
    pub task_real_parent: u32,
    pub task_group_leader: u32,
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_start_boottime: u32,
    pub task_signal: u32,
    pub task_thread_pid: u32,
    pub task_cred: u32,
    pub task_exit_code: u32,
    pub signal_pids: u32,
    pub signal_live: u32,
    pub pid_level: u32,
    pub pid_numbers: u32,
    pub upid_size: u32,
    pub upid_ns: u32,
    pub cred_euid: u32,
    pub files_fdt: u32,
    pub fdt_max_fds: u32,
    pub fdt_fd: u32,
    pub file_inode: u32,
    pub file_path: u32,
    pub file_mode: u32,
    pub file_flags: u32,
    pub file_private_data: u32,
    pub path_mnt: u32,
    pub path_dentry: u32,
    pub inode_mode: u32,
    pub inode_ino: u32,
    pub inode_sb: u32,
    pub inode_rdev: u32,
    pub inode_generation: u32,
    pub sb_dev: u32,
    pub sb_magic: u32,
    pub dentry_parent: u32,
    pub dentry_name: u32,
    pub dentry_inode: u32,
    pub vfsmount_root: u32,
    pub mount_mnt: u32,
    pub mount_parent: u32,
    pub mount_mountpoint: u32,
    pub fs_root: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    pub mm_exe_file: u32,
    pub socket_sk: u32,
    pub socket_type: u32,
    pub sk_family: u32,
    pub sk_daddr: u32,
    pub sk_dport: u32,
    pub sk_v6_daddr: u32,
    pub sk_socket: u32,
    pub sk_protocol: u32,
    pub socket_alloc_inode: u32,
    pub unix_peer: u32,
    pub regs_di: u32,
    pub regs_si: u32,
    pub regs_dx: u32,
    pub regs_r10: u32,
    pub regs_r8: u32,
    pub regs_r9: u32,
    pub regs_bx: u32,
    pub regs_cx: u32,
    pub regs_bp: u32,
    pub task_thread_status: u32,
    pub cgroup_root: u32,
    pub cgroup_root_hierarchy_id: u32,
    pub cgroup_level: u32,
    pub cgroup_kn: u32,
    pub kernfs_node_id: u32,
    pub regs_orig_ax: u32,
    pub cred_cap_effective: u32,
    pub fs_pwd: u32,
    pub sk_num: u32,
    pub sk_rcv_saddr: u32,
    pub sk_v6_rcv_saddr: u32,
    pub unix_addr: u32,
    pub unix_path: u32,
    pub unix_address_len: u32,
    pub unix_address_name: u32,
    pub io_kiocb_opcode: u32,
    pub io_kiocb_file: u32,
    pub io_kiocb_flags: u32,
    pub io_kiocb_fd: u32,
    pub io_kiocb_async_data: u32,
    pub io_async_msghdr_msg: u32,
    pub io_open_dfd: u32,
    pub io_open_filename: u32,
    pub io_open_flags: u32,
    pub io_rename_old_dfd: u32,
    pub io_rename_oldpath: u32,
    pub io_rename_new_dfd: u32,
    pub io_rename_newpath: u32,
    pub io_link_old_dfd: u32,
    pub io_link_oldpath: u32,
    pub io_link_new_dfd: u32,
    pub io_link_newpath: u32,
    pub io_unlink_dfd: u32,
    pub io_unlink_flags: u32,
    pub io_unlink_filename: u32,
    pub io_mkdir_dfd: u32,
    pub io_mkdir_filename: u32,
    pub io_splice_fd_in: u32,
    pub io_splice_flags: u32,
    pub io_accept_file_slot: u32,
    pub fdt_open_fds: u32,
    pub socket_file: u32,
    pub msghdr_name: u32,
    pub msghdr_namelen: u32,
    pub filename_name: u32,
    pub filename_uptr: u32,
    pub open_flags_open_flag: u32,
    /// A bit field's byte.
    pub binprm_secureexec: u32,
    /// A bit field's bit in that byte.
    pub binprm_secureexec_bit: u32,
}
