//! Zeroing and copying structures, eight bytes at a time: what the compiler calls for it goes byte by byte, which is dear.

/// Zeroes a structure of numbers.
///
/// # Safety
/// `place` may be written to, and zero is valid for `T`.
#[inline(always)]
pub unsafe fn zero<T>(place: *mut T) {
    for at in 0..words::<T>() {
        // SAFETY: within the structure. Volatile, or the compiler would see what it is and call for it.
        unsafe { core::ptr::write_volatile(place.cast::<u64>().add(at), 0) };
    }
}

/// Copies a structure of numbers.
///
/// # Safety
/// `from` may be read and `to` written to.
#[inline(always)]
pub unsafe fn copy<T: Copy>(from: *const T, to: *mut T) {
    for at in 0..words::<T>() {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(to.cast::<u64>().add(at), from.cast::<u64>().add(at).read()) };
    }
}

/// An address that the kernel gives in words, as it keeps it: in network order.
#[inline(always)]
pub fn octets(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: as many bytes, and any are valid.
    unsafe { core::mem::transmute(words) }
}

const fn words<T>() -> usize {
    const { assert!(align_of::<T>() == 8 && size_of::<T>().is_multiple_of(8), "it is not made of words") };
    size_of::<T>() / 8
}
