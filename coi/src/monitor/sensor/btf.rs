//! Where the running kernel keeps what the programs read: a reader for the few parts of BTF that say so.
//!
//! It promises an offset for every member in [`Offsets`], or an error that names the one that is missing. It
//! knows structures and unions, also nameless ones; no functions, no relocation. The format is the kernel's
//! `Documentation/bpf/btf.rst`.

use std::collections::HashMap;

use coi_common::Offsets;

/// Why the offsets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel has no BTF, or it cannot be read.
    #[error(
        "cannot read the kernel's type information in {path}: {source}; COI needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF (Debian's and Ubuntu's are)"
    )]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The bytes are not BTF as we know it.
    #[error("the kernel's type information is malformed at byte {at}")]
    Malformed {
        /// Where.
        at: usize,
    },
    /// The kernel has no such member.
    #[error("this kernel's struct {structure} has no member {member}; COI does not know this kernel")]
    NoMember {
        /// The structure.
        structure: &'static str,
        /// The member, with dots where it is nested.
        member: &'static str,
    },
}

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
/// Modifiers: they add nothing to where a member is.
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_TYPE_TAG: u32 = 18;

/// The types of a kernel.
pub(super) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type begins, by its id; id 0 is void.
    types: Vec<usize>,
    structures: HashMap<String, u32>,
}

struct Member {
    name: u32,
    ty: u32,
    /// In bytes.
    offset: u32,
    /// In bits.
    bit: u32,
}

impl Btf {
    /// The running kernel's.
    pub(super) fn of_this_kernel() -> Result<Self, BtfError> {
        let bytes = std::fs::read(PATH).map_err(|source| BtfError::Read { path: PATH.into(), source })?;
        Self::parse(bytes)
    }

    /// Finds the types in the bytes of a BTF section.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let mut btf = Self { bytes, strings: 0, types: vec![0], structures: HashMap::new() };
        let header = |at| btf.u32(at);
        if btf.bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Malformed { at: 0 });
        }
        let header_len = header(4)? as usize;
        let first = header_len.saturating_add(header(8)? as usize);
        let end = first.saturating_add(header(12)? as usize);
        btf.strings = header_len.saturating_add(header(16)? as usize);
        let mut at = first;
        while at < end {
            let id = btf.types.len() as u32;
            let info = btf.u32(at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == KIND_STRUCT && count > 0 {
                let name = btf.name(btf.u32(at)?)?.to_owned();
                btf.structures.entry(name).or_insert(id);
            }
            btf.types.push(at);
            at += 12
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return Err(BtfError::Malformed { at }),
                };
        }
        Ok(btf)
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.bytes.get(at..at.saturating_add(4)).ok_or(BtfError::Malformed { at })?;
        Ok(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn name(&self, offset: u32) -> Result<&str, BtfError> {
        let at = self.strings.saturating_add(offset as usize);
        let rest = self.bytes.get(at..).ok_or(BtfError::Malformed { at })?;
        let len = rest.iter().position(|byte| *byte == 0).ok_or(BtfError::Malformed { at })?;
        std::str::from_utf8(&rest[..len]).map_err(|_| BtfError::Malformed { at })
    }

    /// A structure's or union's members, behind any modifiers; empty for other types.
    fn members(&self, mut id: u32) -> Result<Vec<Member>, BtfError> {
        // Modifiers on modifiers end long before this many.
        for _ in 0..16 {
            let at = *self.types.get(id as usize).ok_or(BtfError::Malformed { at: 0 })?;
            let info = self.u32(at + 4)?;
            match info >> 24 & 0x1f {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_TYPE_TAG => id = self.u32(at + 8)?,
                KIND_STRUCT | KIND_UNION => {
                    // With the kind flag the upper byte of the offset is a bit field's size.
                    let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
                    return (0..(info & 0xffff) as usize)
                        .map(|i| {
                            let at = at + 12 + 12 * i;
                            let bit = self.u32(at + 8)? & mask;
                            Ok(Member { name: self.u32(at)?, ty: self.u32(at + 4)?, offset: bit / 8, bit })
                        })
                        .collect();
                }
                _ => break,
            }
        }
        Ok(Vec::new())
    }

    /// Finds a member by name, also inside nameless members.
    fn find(&self, id: u32, name: &str, depth: u32) -> Result<Option<(u32, u32)>, BtfError> {
        for member in self.members(id)? {
            let found = self.name(member.name)?;
            if found == name {
                return Ok(Some((member.offset, member.ty)));
            }
            if found.is_empty()
                && depth > 0
                && let Some((offset, ty)) = self.find(member.ty, name, depth - 1)?
            {
                return Ok(Some((member.offset + offset, ty)));
            }
        }
        Ok(None)
    }

    /// The offset of a member, in bytes; `a.b` is member `b` of member `a`.
    pub(super) fn offset(&self, structure: &'static str, member: &'static str) -> Result<u32, BtfError> {
        let missing = BtfError::NoMember { structure, member };
        let Some(mut id) = self.structures.get(structure).copied() else { return Err(missing) };
        let mut total = 0;
        for part in member.split('.') {
            match self.find(id, part, 8)? {
                Some((offset, ty)) => (total, id) = (total + offset, ty),
                None => return Err(missing),
            }
        }
        Ok(total)
    }

    /// The offset of a bit field among a structure's own members, in bits.
    fn bit(&self, structure: &'static str, member: &'static str) -> Result<u32, BtfError> {
        let missing = BtfError::NoMember { structure, member };
        let Some(id) = self.structures.get(structure).copied() else { return Err(missing) };
        for found in self.members(id)? {
            if self.name(found.name)? == member {
                return Ok(found.bit);
            }
        }
        Err(missing)
    }

    /// A structure's size, in bytes.
    fn size(&self, structure: &'static str) -> Result<u32, BtfError> {
        let id = self.structures.get(structure).ok_or(BtfError::NoMember { structure, member: "(size)" })?;
        self.u32(self.types[*id as usize] + 8)
    }

    /// All that the programs need.
    pub(super) fn offsets(&self) -> Result<Offsets, BtfError> {
        let at = |structure, member| self.offset(structure, member);
        let ring = |structure, member| at(structure, member).unwrap_or_default();
        // A kernel that has them no longer does not take the programs there, which is provided for: the verifier refuses
        // a place beyond the structure.
        let chokepoint = |structure, member| at(structure, member).unwrap_or(u32::MAX);
        Ok(Offsets {
            task_files: at("task_struct", "files")?,
            task_fs: at("task_struct", "fs")?,
            task_mm: at("task_struct", "mm")?,
            task_real_parent: at("task_struct", "real_parent")?,
            task_group_leader: at("task_struct", "group_leader")?,
            task_tgid: at("task_struct", "tgid")?,
            task_pid: at("task_struct", "pid")?,
            task_start_boottime: at("task_struct", "start_boottime")?,
            task_signal: at("task_struct", "signal")?,
            task_thread_pid: at("task_struct", "thread_pid")?,
            task_cred: at("task_struct", "cred")?,
            task_exit_code: at("task_struct", "exit_code")?,
            signal_pids: at("signal_struct", "pids")?,
            signal_live: at("signal_struct", "live")?,
            pid_level: at("pid", "level")?,
            pid_numbers: at("pid", "numbers")?,
            upid_size: self.size("upid")?,
            upid_ns: at("upid", "ns")?,
            cred_euid: at("cred", "euid")?,
            files_fdt: at("files_struct", "fdt")?,
            fdt_max_fds: at("fdtable", "max_fds")?,
            fdt_fd: at("fdtable", "fd")?,
            file_inode: at("file", "f_inode")?,
            file_path: at("file", "f_path")?,
            file_mode: at("file", "f_mode")?,
            file_flags: at("file", "f_flags")?,
            file_private_data: at("file", "private_data")?,
            path_mnt: at("path", "mnt")?,
            path_dentry: at("path", "dentry")?,
            inode_mode: at("inode", "i_mode")?,
            inode_ino: at("inode", "i_ino")?,
            inode_sb: at("inode", "i_sb")?,
            inode_rdev: at("inode", "i_rdev")?,
            inode_generation: at("inode", "i_generation")?,
            sb_dev: at("super_block", "s_dev")?,
            sb_magic: at("super_block", "s_magic")?,
            dentry_parent: at("dentry", "d_parent")?,
            dentry_name: at("dentry", "d_name.name")?,
            dentry_inode: at("dentry", "d_inode")?,
            vfsmount_root: at("vfsmount", "mnt_root")?,
            mount_mnt: at("mount", "mnt")?,
            mount_parent: at("mount", "mnt_parent")?,
            mount_mountpoint: at("mount", "mnt_mountpoint")?,
            fs_root: at("fs_struct", "root")?,
            mm_arg_start: at("mm_struct", "arg_start")?,
            mm_arg_end: at("mm_struct", "arg_end")?,
            mm_exe_file: at("mm_struct", "exe_file")?,
            socket_sk: at("socket", "sk")?,
            socket_type: at("socket", "type")?,
            sk_family: at("sock", "__sk_common.skc_family")?,
            sk_daddr: at("sock", "__sk_common.skc_daddr")?,
            sk_dport: at("sock", "__sk_common.skc_dport")?,
            sk_v6_daddr: at("sock", "__sk_common.skc_v6_daddr")?,
            sk_socket: at("sock", "sk_socket")?,
            sk_protocol: at("sock", "sk_protocol")?,
            socket_alloc_inode: at("socket_alloc", "vfs_inode")?,
            unix_peer: at("unix_sock", "peer")?,
            regs_di: at("pt_regs", "di")?,
            regs_si: at("pt_regs", "si")?,
            regs_dx: at("pt_regs", "dx")?,
            regs_r10: at("pt_regs", "r10")?,
            regs_r8: at("pt_regs", "r8")?,
            regs_r9: at("pt_regs", "r9")?,
            regs_bx: at("pt_regs", "bx")?,
            regs_cx: at("pt_regs", "cx")?,
            regs_bp: at("pt_regs", "bp")?,
            cgroup_root: at("cgroup", "root")?,
            cgroup_root_hierarchy_id: at("cgroup_root", "hierarchy_id")?,
            cgroup_level: at("cgroup", "level")?,
            cgroup_kn: at("cgroup", "kn")?,
            kernfs_node_id: at("kernfs_node", "id")?,
            task_thread_status: at("task_struct", "thread_info.status")?,
            regs_orig_ax: at("pt_regs", "orig_ax")?,
            cred_cap_effective: at("cred", "cap_effective")?,
            fs_pwd: at("fs_struct", "pwd")?,
            sk_num: at("sock", "__sk_common.skc_num")?,
            sk_rcv_saddr: at("sock", "__sk_common.skc_rcv_saddr")?,
            sk_v6_rcv_saddr: at("sock", "__sk_common.skc_v6_rcv_saddr")?,
            unix_addr: at("unix_sock", "addr")?,
            unix_path: at("unix_sock", "path")?,
            unix_address_len: at("unix_address", "len")?,
            unix_address_name: at("unix_address", "name")?,
            // A kernel without io_uring has no such structures and nothing that would ask for them.
            io_kiocb_opcode: ring("io_kiocb", "opcode"),
            io_kiocb_file: ring("io_kiocb", "file"),
            io_kiocb_flags: ring("io_kiocb", "flags"),
            io_kiocb_fd: ring("io_kiocb", "cqe.fd"),
            io_kiocb_async_data: ring("io_kiocb", "async_data"),
            io_async_msghdr_msg: ring("io_async_msghdr", "msg"),
            io_open_dfd: ring("io_open", "dfd"),
            io_open_filename: ring("io_open", "filename"),
            io_open_flags: ring("io_open", "how.flags"),
            io_rename_old_dfd: ring("io_rename", "old_dfd"),
            io_rename_oldpath: ring("io_rename", "oldpath"),
            io_rename_new_dfd: ring("io_rename", "new_dfd"),
            io_rename_newpath: ring("io_rename", "newpath"),
            io_link_old_dfd: ring("io_link", "old_dfd"),
            io_link_oldpath: ring("io_link", "oldpath"),
            io_link_new_dfd: ring("io_link", "new_dfd"),
            io_link_newpath: ring("io_link", "newpath"),
            io_unlink_dfd: ring("io_unlink", "dfd"),
            io_unlink_flags: ring("io_unlink", "flags"),
            io_unlink_filename: ring("io_unlink", "filename"),
            io_mkdir_dfd: ring("io_mkdir", "dfd"),
            io_mkdir_filename: ring("io_mkdir", "filename"),
            io_splice_fd_in: ring("io_splice", "splice_fd_in"),
            io_splice_flags: ring("io_splice", "flags"),
            io_accept_file_slot: ring("io_accept", "file_slot"),
            fdt_open_fds: at("fdtable", "open_fds")?,
            socket_file: at("socket", "file")?,
            msghdr_name: at("msghdr", "msg_name")?,
            msghdr_namelen: at("msghdr", "msg_namelen")?,
            filename_name: at("filename", "name")?,
            filename_uptr: chokepoint("filename", "uptr"),
            open_flags_open_flag: chokepoint("open_flags", "open_flag"),
            binprm_secureexec: self.bit("linux_binprm", "secureexec")? / 8,
            binprm_secureexec_bit: self.bit("linux_binprm", "secureexec")? % 8,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_kernel_has_every_member() {
        let offsets = Btf::of_this_kernel().unwrap().offsets().unwrap();
        // The kernel's own promises to user space: pt_regs on x86-64 is part of the ptrace interface.
        #[cfg(target_arch = "x86_64")]
        assert_eq!((offsets.regs_di, offsets.regs_si, offsets.regs_dx), (112, 104, 96));
        assert_eq!(offsets.upid_size, 16);
        assert_ne!(offsets.task_tgid, offsets.task_pid);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_and_no_panic(mut bytes: Vec<u8>, sizes: [u8; 5]) {
            if bytes.len() > 24 {
                bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
                for (i, size) in sizes.iter().enumerate() {
                    bytes[4 + 4 * i..8 + 4 * i].copy_from_slice(&u32::from(*size).to_ne_bytes());
                }
            }
            if let Ok(btf) = Btf::parse(bytes) {
                let _ = btf.offsets();
            }
        }
    }
}
