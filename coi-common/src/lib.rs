//! The records that cross from kernel to user, and nothing else.
#![no_std]
