//! The model inside a loaded artifact: from the anchor to checked parts, in mapped memory.
//!
//! Everything is probed before it is touched: a file that was cut off after it was linked maps without an error
//! and would kill the process on first touch.
#![allow(unsafe_code)]

use crate::cpu;
use crate::error::RuntimeError;
use crate::model::{KernelSource, Model};
use crate::weights::Weights;
use rsqc_artifact::Level;
use rsqc_artifact::container::{AnchorFields, Tail};
use rsqc_artifact::manifest;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Weights up to this size are checked in full when the model is opened.
const CHECK_AT_OPEN: u64 = 32 << 20;

/// How much of the weights is checked when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Small ones at once, large ones before each part is first used.
    Default,
    /// Everything at once.
    All,
    /// Nothing.
    None,
}

impl Verify {
    /// From the number in `rsqc_options`.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] for an unknown number.
    pub fn from_code(code: u32) -> Result<Verify, RuntimeError> {
        match code {
            0 => Ok(Verify::Default),
            1 => Ok(Verify::All),
            2 => Ok(Verify::None),
            _ => Err(RuntimeError::Invalid(format!("there is no verify level {code}"))),
        }
    }
}

/// A mapped artifact whose index is checked.
#[derive(Debug)]
pub struct Image {
    /// Address of file offset 0 of the appended part.
    base: *const u8,
    tail: Tail,
}

// SAFETY: the image is never unmapped (the template is linked with `-z nodelete`) and read only.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

fn corrupt(text: &str) -> RuntimeError {
    RuntimeError::Corrupt(text.into())
}

impl Image {
    /// Finds and checks the index, from the anchor's address and fields.
    ///
    /// # Errors
    /// [`RuntimeError::Corrupt`] if this is a bare template, or the file is cut off or damaged.
    pub fn find(anchor: usize, fields: &[u64; 6]) -> Result<Image, RuntimeError> {
        if fields.iter().all(|word| *word == 0) {
            return Err(corrupt("this library is a bare template without a model"));
        }
        let fields = AnchorFields::decode(fields).ok_or_else(|| corrupt("the anchor is damaged"))?;
        let image = anchor.wrapping_sub(fields.self_vaddr as usize);
        let begin = image.wrapping_add(fields.index_vaddr as usize);
        let len = (fields.end_vaddr - fields.index_vaddr) as usize;
        probe(begin, len)?;
        // SAFETY: probed: mapped and readable; the mapping is never changed.
        let tail = Tail::parse(unsafe { std::slice::from_raw_parts(begin as *const u8, len) })?;
        let index = &tail.index;
        if index.anchor_vaddr != fields.self_vaddr
            || index.index_vaddr != fields.index_vaddr
            || index.delta != fields.delta
        {
            return Err(corrupt("anchor and index disagree"));
        }
        Ok(Image {
            base: image.wrapping_add(index.delta as usize) as *const u8,
            tail,
        })
    }

    fn part(&self, (offset, len): (u64, u64)) -> &'static [u8] {
        // SAFETY: called for parts that `load` has probed; the image is mapped for the rest of the process.
        unsafe { std::slice::from_raw_parts(self.base.wrapping_add(offset as usize), len as usize) }
    }

    /// The encoded manifest. Only of an image that was loaded.
    pub fn manifest(&self) -> &'static [u8] {
        self.part(self.tail.index.manifest)
    }

    /// The digest that identifies the file.
    pub fn root(&self) -> &[u8; 32] {
        &self.tail.root
    }

    /// Checks manifest and code, checks the weights as `verify` says, and makes a model.
    ///
    /// # Errors
    /// [`RuntimeError::Corrupt`], `Version` or `Cpu`.
    pub fn load(&self, verify: Verify, level: Option<Level>) -> Result<Arc<Model>, RuntimeError> {
        let index = &self.tail.index;
        for (offset, len) in [index.manifest, index.code] {
            probe(self.base.addr().wrapping_add(offset as usize), len as usize)?;
        }
        let covered = (self.tail.index_offset - index.weights.0) as usize;
        let weights_at = self.base.wrapping_add(index.weights.0 as usize);
        probe_large(weights_at.addr(), covered)?;
        let (encoded, code) = (self.part(index.manifest), self.part(index.code));
        let mut core = blake3::Hasher::new();
        core.update(encoded).update(code);
        if *core.finalize().as_bytes() != index.core {
            return Err(corrupt("the digest of manifest and code differs"));
        }
        let manifest = manifest::decode(encoded)?;
        let digests = self.tail.digests[index.head_chunks as usize..].to_vec();
        // SAFETY: probed, never unmapped; index, table and trailer follow as slack.
        let mut weights = unsafe { Weights::image(weights_at, index.weights.1 as usize, covered, digests) };
        match verify {
            Verify::None => weights.trust(),
            Verify::Default if covered as u64 > CHECK_AT_OPEN => {}
            Verify::Default | Verify::All => check_all(&weights)?,
        }
        Model::assemble(
            manifest,
            KernelSource::Mapped {
                base: code.as_ptr(),
                len: code.len(),
            },
            weights,
            level,
        )
    }
}

/// Checks all chunks, on several threads if there is much to do.
fn check_all(weights: &Weights) -> Result<(), RuntimeError> {
    let chunks = weights.all_pending_chunks();
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = weights.check_chunk(*chunk) {
                failure
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .get_or_insert(error);
                return;
            }
        }
    };
    // A thread costs as much as hashing half a MiB: each gets some MiB to do, and small models stay on this one.
    let threads = cpu::default_threads().min(chunks.len() / 4);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without the thread the others do its share.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    failure
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

/// Added in Linux 5.14.
const MADV_POPULATE_READ: i32 = 22;

fn page_size() -> usize {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The whole pages around a range.
fn pages(begin: usize, len: usize) -> Option<(usize, usize)> {
    let page = page_size();
    let first = begin / page * page;
    let end = begin.checked_add(len)?.checked_next_multiple_of(page)?;
    Some((first, end - first))
}

/// Whether a range can be read, without risking a signal.
fn probe(begin: usize, len: usize) -> Result<(), RuntimeError> {
    let cut = || corrupt("the file is cut off, or a part is not mapped");
    if len == 0 {
        return Ok(());
    }
    let (first, size) = pages(begin, len).ok_or_else(cut)?;
    // SAFETY: only faults pages in; an unmapped or unbacked range is an error code.
    let result = unsafe { libc::madvise(first as *mut libc::c_void, size, MADV_POPULATE_READ) };
    if result == 0 {
        return Ok(());
    }
    if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
        return Err(cut());
    }
    // An older kernel: let it copy a byte of each page, which reports a fault as an error.
    let page = page_size();
    for at in (first..first + size).step_by(page) {
        let mut byte = 0u8;
        let local = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let remote = libc::iovec {
            iov_base: at as *mut libc::c_void,
            iov_len: 1,
        };
        // SAFETY: both descriptors are valid; the remote one is checked by the kernel.
        let read =
            unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        if read != 1 {
            return Err(cut());
        }
    }
    Ok(())
}

/// As [`probe`] for a range that must not be read in full: its ends are read, and between them all is mapped.
/// The file cannot be shorter than its last page, which was read with the index.
fn probe_large(begin: usize, len: usize) -> Result<(), RuntimeError> {
    let cut = || corrupt("a part of the weights is not mapped");
    if len == 0 {
        return Ok(());
    }
    probe(begin, 1)?;
    probe(begin + len - 1, 1)?;
    let (first, size) = pages(begin, len).ok_or_else(cut)?;
    let page = page_size();
    let mut residency = vec![0u8; (64 << 20) / page];
    let step = residency.len() * page;
    for at in (first..first + size).step_by(step) {
        let bytes = step.min(first + size - at);
        // SAFETY: `residency` has a byte for each page of the range.
        if unsafe { libc::mincore(at as *mut libc::c_void, bytes, residency.as_mut_ptr()) } != 0 {
            return Err(cut());
        }
    }
    Ok(())
}
