//! The two ways into the kernel from a 64-bit program: `syscall`, and `int 0x80`, which has the numbers and the
//! layouts of 32-bit programs. io_uring, the third, is built on the first.

use std::arch::asm;
use std::io;
use std::ptr;
use std::thread;

/// An error number, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

/// What a system call gave back.
pub(crate) type Result<T = u64> = std::result::Result<T, Errno>;

/// An error of the standard library's as the kernel gave it.
pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// `syscall`.
    Native,
    /// `int $0x80`.
    Int80,
}

/// Makes a system call through one of the entries: `call!(Native, SYS_close, fd)`.
macro_rules! call {
    ($entry:expr, $number:expr $(, $argument:expr)* $(,)?) => {{
        // SAFETY: memory that a route hands to the kernel is from `low`, which never frees or moves any, or outlives
        // the call as a local does; no route unmaps or remaps what Rust knows of.
        #[allow(clippy::unnecessary_cast, reason = "some arguments have the type already")]
        unsafe { $crate::sys::enter($entry, $number as u64, &[$($argument as u64),*]) }
    }};
}
pub(crate) use call;

/// Makes a system call.
///
/// # Safety
/// What the call does to memory must be allowed, as for any foreign function.
pub(crate) unsafe fn enter(entry: Entry, number: u64, arguments: &[u64]) -> Result {
    let mut words = [0; 6];
    words[..arguments.len()].copy_from_slice(arguments);
    let result = match entry {
        // SAFETY: the caller's promise.
        Entry::Native => unsafe { native(number, words) },
        // SAFETY: the caller's promise.
        Entry::Int80 => unsafe { int80(number, words) },
    };
    if (-4095..0).contains(&result) { Err(Errno((-result) as i32)) } else { Ok(result as u64) }
}

unsafe fn native(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    let result;
    // SAFETY: the caller's promise; these are the registers that the entry reads and changes.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// The sixth argument would go in rbp, which a compiler needs for itself; no route has one.
unsafe fn int80(number: u64, [a, b, c, d, e, f]: [u64; 6]) -> i64 {
    assert_eq!(f, 0, "int 0x80 has five arguments here");
    assert!([a, b, c, d, e].iter().all(|word| fits(*word)), "int 0x80 cannot address this");
    let result: u64;
    // SAFETY: the caller's promise; these are the registers that the entry reads and changes. rbx is the compiler's
    // and is put back.
    unsafe {
        asm!(
            "xchg {a}, rbx",
            "int 0x80",
            "xchg {a}, rbx",
            a = inout(reg) a => _,
            inlateout("rax") number => result,
            in("rcx") b, in("rdx") c, in("rsi") d, in("rdi") e,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    // A 32-bit program sees 32 bits.
    i64::from(result as i32)
}

/// Is it a number of 32 bits, with or without a sign?
fn fits(word: u64) -> bool {
    u32::try_from(word).is_ok() || i32::try_from(word as i64).is_ok()
}

/// Runs something in a process of its own, which ends with the error number; gives that and the process's id.
pub(crate) fn in_child(act: impl FnOnce() -> Result) -> (Result, u32) {
    let child = fork(|| match act() {
        Ok(_) => 0,
        Err(Errno(errno)) => errno,
    });
    let code = wait(child);
    (if code == 0 { Ok(0) } else { Err(Errno(code)) }, child as u32)
}

/// Makes a process that ends with what `act` gives.
pub(crate) fn fork(act: impl FnOnce() -> i32) -> i32 {
    // SAFETY: no other thread of this process allocates or holds a lock, so that the child may do what its parent may.
    match unsafe { libc::fork() } {
        0 => {
            let code = act();
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(code) }
        }
        child => {
            assert!(child > 0, "fork: {}", io::Error::last_os_error());
            child
        }
    }
}

/// Waits for a child's end: its exit code, or 128 + N for signal N.
pub(crate) fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` lives.
    let waited = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    assert_eq!(waited, child, "waitpid: {}", io::Error::last_os_error());
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// Runs something in another thread of this process, to its end.
pub(crate) fn in_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(act).join().unwrap())
}

/// Memory below 4 GiB, which both entries can address. It is never given back.
pub(crate) mod low {
    use super::*;

    /// Puts a value there.
    pub(crate) fn place<T: Copy>(value: T) -> &'static mut T {
        let address = allocate(size_of::<T>(), libc::MAP_PRIVATE).cast::<T>();
        // SAFETY: fresh, large enough, and aligned to a page.
        unsafe {
            address.write(value);
            &mut *address
        }
    }

    /// Puts bytes there.
    pub(crate) fn bytes(bytes: &[u8]) -> &'static mut [u8] {
        fill(allocate(bytes.len(), libc::MAP_PRIVATE), bytes)
    }

    /// Puts text and a NUL there; gives its address.
    pub(crate) fn text(text: impl AsRef<[u8]>) -> u64 {
        bytes(&[text.as_ref(), b"\0"].concat()).as_ptr() as u64
    }

    /// Puts bytes there that this process's children share.
    pub(crate) fn shared(bytes: &[u8]) -> &'static mut [u8] {
        fill(allocate(bytes.len(), libc::MAP_SHARED), bytes)
    }

    fn fill(address: *mut u8, bytes: &[u8]) -> &'static mut [u8] {
        // SAFETY: fresh and large enough.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), address, bytes.len());
            std::slice::from_raw_parts_mut(address, bytes.len())
        }
    }

    fn allocate(size: usize, sharing: i32) -> *mut u8 {
        let flags = libc::MAP_ANONYMOUS | libc::MAP_32BIT | sharing;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new memory, at an address of the kernel's choice.
        let address = unsafe { libc::mmap(ptr::null_mut(), size.max(1), access, flags, -1, 0) };
        assert_ne!(address, libc::MAP_FAILED, "no memory below 4 GiB: {}", io::Error::last_os_error());
        address.cast()
    }
}
