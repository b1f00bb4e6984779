//! Memory that can fail: aligned heap blocks and executable mappings.
#![allow(unsafe_code)]

use crate::error::RuntimeError;
use rsqc_artifact::ALIGN;
use std::alloc::Layout;
use std::ptr::NonNull;

/// A zeroed heap block, aligned to [`ALIGN`].
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the block is owned and has no thread affinity.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access reads only through `as_slice`; raw writes are the callers' own obligation.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A block of at least `len` bytes (never empty).
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`] if the allocator has none.
    pub fn new(len: usize) -> Result<AlignedBuf, RuntimeError> {
        let len = len.max(ALIGN);
        let refused = || RuntimeError::NoMemory(format!("{len} bytes"));
        let layout = Layout::from_size_align(len, ALIGN).map_err(|_| refused())?;
        // SAFETY: the layout is not empty.
        let ptr = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or_else(refused)?;
        Ok(AlignedBuf { ptr, len })
    }

    /// Start address.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// The contents.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the block is initialised (zeroed) and `len` bytes long.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The contents, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len, ALIGN).expect("was accepted by new");
        // SAFETY: allocated by `new` with the same layout.
        unsafe { std::alloc::dealloc(self.ptr.as_ptr(), layout) };
    }
}

/// A private mapping that holds machine code: written first, then made read-only and executable.
#[derive(Debug)]
pub struct ExecMap {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is immutable after `new`.
unsafe impl Send for ExecMap {}
// SAFETY: as above.
unsafe impl Sync for ExecMap {}

impl ExecMap {
    /// Maps a copy of `code`, page-aligned, followed by at least [`ALIGN`] readable bytes.
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`] if the system refuses the mapping.
    pub fn new(code: &[u8]) -> Result<ExecMap, RuntimeError> {
        let len = code.len() + ALIGN;
        let refused = |what: &str| {
            RuntimeError::NoMemory(format!(
                "{what} of {len} bytes of code: {}",
                std::io::Error::last_os_error()
            ))
        };
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(refused("mapping"));
        }
        let map = ExecMap {
            ptr: NonNull::new(ptr.cast()).expect("mmap never returns page zero"),
            len,
        };
        // SAFETY: the mapping is writable and longer than the code; the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), map.ptr.as_ptr(), code.len()) };
        // SAFETY: the range is exactly the mapping.
        if unsafe { libc::mprotect(ptr, len, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
            return Err(refused("protecting"));
        }
        Ok(map)
    }

    /// Start address.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for ExecMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is owned; no code of it runs any more, since the model is gone.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

/// A file mapped for reading.
#[derive(Debug)]
pub struct FileMap {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is read only.
unsafe impl Send for FileMap {}
// SAFETY: as above.
unsafe impl Sync for FileMap {}

impl FileMap {
    /// Maps the first `len` bytes of a file. As with every mapping, the file must not be cut while it is in use.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] if the system refuses.
    pub fn new(file: &std::fs::File, len: usize) -> Result<FileMap, RuntimeError> {
        use std::os::fd::AsRawFd;
        if len == 0 {
            return Ok(FileMap {
                ptr: NonNull::dangling(),
                len,
            });
        }
        // SAFETY: a fresh read-only mapping at an address of the kernel's choice.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(RuntimeError::Io(format!(
                "cannot map the file: {}",
                std::io::Error::last_os_error()
            )));
        }
        Ok(FileMap {
            ptr: NonNull::new(ptr.cast()).expect("mmap never returns page zero"),
            len,
        })
    }

    /// The contents.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped readable for `len` bytes (or dangling with no bytes).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping is owned and no slice of it is left.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
        }
    }
}
