//! Memory that ends (or starts) at an unmapped page, so that any access beyond it kills the test.
#![allow(unsafe_code, dead_code)]

/// A buffer of exactly the wanted size.
pub struct Guarded {
    map: *mut u8,
    mapped: usize,
    data: *mut u8,
    len: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    /// Copies `bytes` so that they end at a guard page, or start behind one.
    pub fn new(bytes: &[u8], at_end: bool) -> Guarded {
        let inside = bytes.len().max(1).next_multiple_of(PAGE);
        let mapped = inside + 2 * PAGE;
        // SAFETY: a fresh private mapping of known size; the two pages around the inside lose their access rights.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            let map = map.cast::<u8>();
            let start = map.add(PAGE);
            assert_eq!(
                libc::mprotect(start.cast(), inside, libc::PROT_READ | libc::PROT_WRITE),
                0
            );
            let data = if at_end {
                start.add(inside - bytes.len())
            } else {
                start
            };
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
            Guarded {
                map,
                mapped,
                data,
                len: bytes.len(),
            }
        }
    }

    /// The address.
    pub fn ptr(&self) -> *mut u8 {
        self.data
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self` and holds `len` bytes here.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and nothing refers to it any more.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
    }
}
