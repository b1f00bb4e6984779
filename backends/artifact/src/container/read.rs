//! Reading an artifact from the bytes of its file, without loading it.

use super::digest::{CHUNK, Digest, hash};
use super::tail::{TRAILER_LEN, Tail};
use super::{ANCHOR_LEN, ANCHOR_MAGIC, AnchorFields};
use crate::error::ArtifactError;
use crate::manifest::{self, Manifest};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An artifact whose index, manifest and code are checked.
#[derive(Clone, Debug)]
pub struct ArtifactView<'a> {
    /// The validated manifest.
    pub manifest: Manifest,
    /// The machine code.
    pub code: &'a [u8],
    /// The weights, not checked yet (see [`ArtifactView::verify_full`]).
    pub weights: &'a [u8],
    /// The digest of everything; identifies the artifact.
    pub root: Digest,
    bytes: &'a [u8],
    tail: Tail,
}

/// Reads an artifact: the end of the file with its root digest, then manifest and code with theirs, then the
/// rules of a plan. The template and the weights are checked by [`ArtifactView::verify_full`].
///
/// # Errors
/// [`ArtifactError::NotAnArtifact`], `Corrupt`, `Version` or `Invalid`.
pub fn read(bytes: &[u8]) -> Result<ArtifactView<'_>, ArtifactError> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err(ArtifactError::NotAnArtifact("it is not a shared library".into()));
    }
    let trailer = bytes
        .len()
        .checked_sub(TRAILER_LEN)
        .and_then(|at| bytes.get(at..))
        .unwrap_or(&[]);
    let (file_len, index_offset) = Tail::locate(trailer)?;
    if file_len != bytes.len() as u64 {
        let found = bytes.len();
        return Err(ArtifactError::corrupt(format!(
            "it has {found} bytes, its trailer says {file_len}"
        )));
    }
    let tail_bytes = usize::try_from(index_offset).ok().and_then(|at| bytes.get(at..));
    let tail = Tail::parse(tail_bytes.ok_or_else(|| ArtifactError::corrupt("the index lies outside"))?)?;
    let part = |(offset, len): (u64, u64)| {
        let begin = usize::try_from(offset).ok();
        let end = offset.checked_add(len).and_then(|e| usize::try_from(e).ok());
        let range = begin.zip(end).and_then(|(begin, end)| bytes.get(begin..end));
        range.ok_or_else(|| ArtifactError::corrupt("a part lies outside the file"))
    };
    let (encoded, code) = (part(tail.index.manifest)?, part(tail.index.code)?);
    let mut core = blake3::Hasher::new();
    core.update(encoded).update(code);
    if *core.finalize().as_bytes() != tail.index.core {
        return Err(ArtifactError::corrupt("the digest of manifest and code differs"));
    }
    check_anchor(part((tail.index.anchor_offset, ANCHOR_LEN as u64))?, &tail)?;
    let manifest = manifest::decode(encoded)?;
    crate::validate(&manifest)?;
    let agree = |segment: &Option<manifest::Segment>, (offset, length): (u64, u64)| {
        segment
            .as_ref()
            .is_some_and(|s| (s.offset, s.length) == (offset, length))
    };
    if !agree(&manifest.code, tail.index.code) || !agree(&manifest.weights, tail.index.weights) {
        return Err(ArtifactError::corrupt("manifest and index disagree"));
    }
    let weights = part(tail.index.weights)?;
    Ok(ArtifactView {
        manifest,
        code,
        weights,
        root: tail.root,
        bytes,
        tail,
    })
}

fn check_anchor(anchor: &[u8], tail: &Tail) -> Result<(), ArtifactError> {
    let (magic, fields) = anchor.split_at_checked(ANCHOR_MAGIC.len()).unwrap_or((&[], &[]));
    let mut words = [0u64; 6];
    for (word, bytes) in words.iter_mut().zip(fields.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let fields = AnchorFields::decode(&words).filter(|f| {
        magic == ANCHOR_MAGIC
            && f.self_vaddr == tail.index.anchor_vaddr
            && f.delta == tail.index.delta
            && f.index_vaddr == tail.index.index_vaddr
    });
    fields
        .map(|_| ())
        .ok_or_else(|| ArtifactError::corrupt("the anchor differs"))
}

impl ArtifactView<'_> {
    /// The end of the file: offsets and digests.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Checks the digest of every byte of the file, on all processors.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] naming the first chunk that differs.
    pub fn verify_full(&self) -> Result<(), ArtifactError> {
        let weights_at = usize::try_from(self.tail.index.weights.0).unwrap_or(usize::MAX);
        let index_at = usize::try_from(self.tail.index_offset).unwrap_or(usize::MAX);
        let head = self.bytes.get(..weights_at).unwrap_or(&[]);
        let weights = self.bytes.get(weights_at..index_at).unwrap_or(&[]);
        let chunks: Vec<&[u8]> = head.chunks(CHUNK).chain(weights.chunks(CHUNK)).collect();
        if chunks.len() != self.tail.digests.len() {
            return Err(ArtifactError::corrupt("the digest table is incomplete"));
        }
        let first_bad = AtomicUsize::new(usize::MAX);
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some((chunk, digest)) = chunks.get(i).zip(self.tail.digests.get(i)) else {
                    return;
                };
                if hash(chunk) != *digest {
                    first_bad.fetch_min(i, Ordering::Relaxed);
                }
            }
        };
        // Threads pay off from about 16 MiB on.
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(chunks.len() / 16);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        match first_bad.into_inner() {
            usize::MAX => Ok(()),
            bad => Err(ArtifactError::corrupt(format!("the digest of MiB {bad} differs"))),
        }
    }
}
