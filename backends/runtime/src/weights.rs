//! Where the weights live, and the late check of large ones.
#![allow(unsafe_code)]

use crate::error::RuntimeError;
use crate::memory::AlignedBuf;
use rsqc_artifact::ALIGN;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared bytes, as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes that one digest covers.
pub const CHUNK: usize = 1 << 20;

/// The weight segment of a model: [`ALIGN`]-aligned, with readable slack behind it.
pub struct Weights {
    ptr: *const u8,
    len: usize,
    _owner: Owner,
    check: Option<LateCheck>,
}

enum Owner {
    Copy(#[allow(dead_code, reason = "keeps the memory alive")] AlignedBuf),
    Shared(#[allow(dead_code, reason = "keeps the memory alive")] SharedBytes),
    Image,
}

/// Digests of chunks that are compared when a chunk is first used.
struct LateCheck {
    digests: Vec<[u8; 32]>,
    /// Bytes that the digests cover: the weights and the padding behind them.
    covered: usize,
    /// One bit a chunk: compared and equal.
    good: Vec<AtomicU64>,
    all_good: AtomicBool,
}

// SAFETY: the bytes are immutable and outlive the value (owned, shared, or part of the image).
unsafe impl Send for Weights {}
// SAFETY: as above.
unsafe impl Sync for Weights {}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        if let (Owner::Image, Some(check)) = (&self._owner, &self.check) {
            // The pages belong to a library that stays mapped; the kernel may have them back. They are clean, so
            // that another model of the same image would only read them again.
            let begin = self.ptr.addr().next_multiple_of(64 << 10);
            let end = self.ptr.addr().saturating_add(check.covered) & !((64 << 10) - 1);
            if begin < end {
                // SAFETY: whole pages inside the segment; file-backed, private and never written.
                unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED) };
            }
        }
    }
}

impl Weights {
    /// Weights of `len` bytes in memory; copied only if the bytes are not aligned or end without slack.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] if there are fewer than `len` bytes, [`RuntimeError::NoMemory`].
    pub fn shared(bytes: SharedBytes, len: usize) -> Result<Weights, RuntimeError> {
        let all: &[u8] = (*bytes).as_ref();
        if all.len() < len {
            return Err(RuntimeError::Invalid(format!(
                "the plan wants {len} bytes of weights, {} are given",
                all.len()
            )));
        }
        let ptr = all.as_ptr();
        if ptr.addr().is_multiple_of(ALIGN) && all.len() >= len.saturating_add(ALIGN) {
            return Ok(Weights {
                ptr,
                len,
                _owner: Owner::Shared(bytes),
                check: None,
            });
        }
        let total = len
            .checked_add(ALIGN)
            .ok_or_else(|| RuntimeError::NoMemory("weights".into()))?;
        let mut copy = AlignedBuf::new(total)?;
        copy.as_mut_slice()[..len].copy_from_slice(&all[..len]);
        Ok(Weights {
            ptr: copy.as_ptr(),
            len,
            _owner: Owner::Copy(copy),
            check: None,
        })
    }

    /// The weights of a mapped image, with the digests of their chunks (over `covered` bytes).
    ///
    /// # Safety
    /// `ptr` must stay valid for `covered` bytes plus [`ALIGN`] for the rest of the process.
    pub unsafe fn image(ptr: *const u8, len: usize, covered: usize, digests: Vec<[u8; 32]>) -> Weights {
        let good = (0..digests.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        let all_good = AtomicBool::new(digests.is_empty());
        let check = LateCheck {
            digests,
            covered,
            good,
            all_good,
        };
        Weights {
            ptr,
            len,
            _owner: Owner::Image,
            check: Some(check),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// The bytes, unchecked.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: valid for `len` bytes as long as the owner lives.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// Address of a byte.
    pub fn at(&self, offset: usize) -> *mut u8 {
        // Kernels take one pointer type; validation made sure that none writes a weight.
        self.ptr.wrapping_add(offset).cast_mut()
    }

    /// Gives up checking; on the caller's own risk.
    pub fn trust(&mut self) {
        if let Some(check) = &mut self.check {
            check.digests.clear();
            check.all_good.store(true, Ordering::Release);
        }
    }

    /// Whether chunks are left to check.
    pub fn pending(&self) -> bool {
        self.check
            .as_ref()
            .is_some_and(|c| !c.all_good.load(Ordering::Acquire))
    }

    /// The chunks of a byte range that were not checked yet.
    pub fn pending_chunks(&self, range: Range<usize>) -> Vec<usize> {
        let Some(check) = &self.check else {
            return Vec::new();
        };
        if range.is_empty() {
            return Vec::new();
        }
        let chunks = range.start / CHUNK..range.end.div_ceil(CHUNK).min(check.digests.len());
        chunks
            .filter(|c| check.good[c / 64].load(Ordering::Acquire) >> (c % 64) & 1 == 0)
            .collect()
    }

    /// All chunks that were not checked yet.
    pub fn all_pending_chunks(&self) -> Vec<usize> {
        self.check
            .as_ref()
            .map_or_else(Vec::new, |c| self.pending_chunks(0..c.covered))
    }

    /// Checks one chunk.
    ///
    /// # Errors
    /// [`RuntimeError::Corrupt`] if its digest differs.
    pub fn check_chunk(&self, chunk: usize) -> Result<(), RuntimeError> {
        let Some(check) = &self.check else { return Ok(()) };
        let begin = chunk * CHUNK;
        let end = (begin + CHUNK).min(check.covered);
        // SAFETY: the image is valid for `covered` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(self.ptr.add(begin), end - begin) };
        if *blake3::hash(bytes).as_bytes() != check.digests[chunk] {
            return Err(RuntimeError::Corrupt(format!(
                "the digest of weight chunk {chunk} differs"
            )));
        }
        check.good[chunk / 64].fetch_or(1 << (chunk % 64), Ordering::AcqRel);
        let good: u32 = check
            .good
            .iter()
            .map(|word| word.load(Ordering::Acquire).count_ones())
            .sum();
        if good as usize == check.digests.len() {
            check.all_good.store(true, Ordering::Release);
        }
        Ok(())
    }
}
