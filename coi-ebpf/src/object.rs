//! What each of the objects has to have: a licence, without which the kernel gives out fewer helpers, and an answer to a
//! panic, which no program that the kernel takes comes to.

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
