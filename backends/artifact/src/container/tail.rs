//! The end of the file: index, digest table, trailer.

use super::digest::{Digest, hash};
use super::{CHUNK, FORMAT};
use crate::error::ArtifactError;

/// First bytes of the trailer.
const TRAILER_MAGIC: [u8; 8] = *b"RSQCTAIL";

/// Bytes of the trailer: magic, format (u32), 0 (u32), file length (u64), index offset (u64), root.
pub(super) const TRAILER_LEN: usize = 64;

/// Bytes of the index: twelve numbers of 64 bits and a digest.
pub(super) const INDEX_LEN: usize = 128;

/// Where everything lies. Offsets and lengths in bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// The encoded manifest.
    pub manifest: (u64, u64),
    /// The machine code.
    pub code: (u64, u64),
    /// The weights.
    pub weights: (u64, u64),
    /// Digests of the bytes before the weights.
    pub head_chunks: u64,
    /// Digests of the weights and the padding behind them, up to the index.
    pub weight_chunks: u64,
    /// Offset of the anchor.
    pub anchor_offset: u64,
    /// Virtual address of the anchor.
    pub anchor_vaddr: u64,
    /// Virtual address minus file offset of the appended segments.
    pub delta: u64,
    /// Virtual address of the index itself.
    pub index_vaddr: u64,
    /// BLAKE3 of the manifest followed by the code.
    pub core: Digest,
}

impl Index {
    pub(super) fn encode(&self) -> Vec<u8> {
        let words = [
            self.manifest.0,
            self.manifest.1,
            self.code.0,
            self.code.1,
            self.weights.0,
            self.weights.1,
            self.head_chunks,
            self.weight_chunks,
            self.anchor_offset,
            self.anchor_vaddr,
            self.delta,
            self.index_vaddr,
        ];
        let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        out.extend_from_slice(&self.core);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Index> {
        let mut words = bytes
            .chunks_exact(8)
            .map(|c| c.try_into().map_or(0, u64::from_le_bytes));
        let mut next = || words.next();
        Some(Index {
            manifest: (next()?, next()?),
            code: (next()?, next()?),
            weights: (next()?, next()?),
            head_chunks: next()?,
            weight_chunks: next()?,
            anchor_offset: next()?,
            anchor_vaddr: next()?,
            delta: next()?,
            index_vaddr: next()?,
            core: bytes.get(96..INDEX_LEN)?.try_into().ok()?,
        })
    }
}

/// The checked end of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The index.
    pub index: Index,
    /// Digests of the chunks: first those before the weights, then those of the weights.
    pub digests: Vec<Digest>,
    /// Length of the file.
    pub file_len: u64,
    /// Offset of the index.
    pub index_offset: u64,
    /// The digest of everything.
    pub root: Digest,
}

impl Tail {
    /// The end of the file, trailer included.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.index.encode();
        for digest in &self.digests {
            out.extend_from_slice(digest);
        }
        out.extend_from_slice(&TRAILER_MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.file_len.to_le_bytes());
        out.extend_from_slice(&self.index_offset.to_le_bytes());
        let root = hash(&out);
        out.extend_from_slice(&root);
        out
    }

    /// Length of the end of a file with that many digests.
    pub(super) fn encoded_len(digests: u64) -> Option<u64> {
        digests
            .checked_mul(32)?
            .checked_add((INDEX_LEN as u64).checked_add(TRAILER_LEN as u64)?)
    }

    /// Reads the trailer, the last [`TRAILER_LEN`] bytes: the file's length and the offset of the index.
    pub(super) fn locate(trailer: &[u8]) -> Result<(u64, u64), ArtifactError> {
        let (magic, rest) = trailer.split_at_checked(8).unwrap_or((&[], &[]));
        if trailer.len() != TRAILER_LEN || magic != TRAILER_MAGIC {
            return Err(ArtifactError::NotAnArtifact(
                "the trailer is missing (cut off, or another kind of file)".into(),
            ));
        }
        let word = |at: usize| {
            let bytes = rest.get(at..).and_then(|b| b.first_chunk::<8>());
            bytes.map_or(0, |b| u64::from_le_bytes(*b))
        };
        let format = word(0);
        if format != u64::from(FORMAT) {
            return Err(ArtifactError::Version {
                found: format!("container {}", format & 0xFFFF_FFFF),
                known: format!("container {FORMAT}"),
            });
        }
        Ok((word(8), word(16)))
    }

    /// Reads and checks the end of a file: `bytes` from the index to the last byte.
    ///
    /// # Errors
    /// [`ArtifactError`] if the root differs or a number contradicts another.
    pub fn parse(bytes: &[u8]) -> Result<Tail, ArtifactError> {
        let at = bytes.len().checked_sub(TRAILER_LEN);
        let trailer = at.and_then(|at| bytes.get(at..)).unwrap_or(&[]);
        let (file_len, index_offset) = Tail::locate(trailer)?;
        let (covered, root) = bytes
            .split_last_chunk::<32>()
            .ok_or_else(|| ArtifactError::corrupt("too short"))?;
        if hash(covered) != *root {
            return Err(ArtifactError::corrupt("the root digest differs"));
        }
        let index = bytes.get(..INDEX_LEN).and_then(Index::decode);
        let index = index.ok_or_else(|| ArtifactError::corrupt("the index is cut off"))?;
        let table = at.and_then(|at| bytes.get(INDEX_LEN..at)).unwrap_or(&[]);
        let digests: Vec<Digest> = table.as_chunks().0.to_vec();
        let tail = Tail {
            index,
            digests,
            file_len,
            index_offset,
            root: *root,
        };
        tail.check(bytes.len() as u64)
            .ok_or_else(|| ArtifactError::corrupt("the index contradicts itself"))?;
        Ok(tail)
    }

    /// All ranges lie in the file, in order, and the table is complete.
    fn check(&self, own_len: u64) -> Option<()> {
        let i = &self.index;
        let end = |range: (u64, u64)| range.0.checked_add(range.1);
        let count = i.head_chunks.checked_add(i.weight_chunks)?;
        let covered = self.index_offset.checked_sub(i.weights.0)?;
        let ok = self.index_offset.checked_add(own_len)? == self.file_len
            && Tail::encoded_len(count)? == own_len
            && count == self.digests.len() as u64
            && end(i.manifest)? <= i.code.0
            && end(i.code)? <= i.weights.0
            && end(i.weights)? <= self.index_offset
            && i.head_chunks == i.weights.0.div_ceil(CHUNK as u64)
            && i.weight_chunks == covered.div_ceil(CHUNK as u64)
            && i.anchor_offset < i.manifest.0
            && i.index_vaddr == self.index_offset.checked_add(i.delta)?;
        ok.then_some(())
    }
}
