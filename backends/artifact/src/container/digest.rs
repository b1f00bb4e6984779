//! Digests: BLAKE3 of chunks, and a writer that computes them on the way.

use std::io::Write;

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

/// Bytes that one digest of the table covers.
pub const CHUNK: usize = 1 << 20;

/// The digest of some bytes.
pub(super) fn hash(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// Writes through and collects the digest of every chunk.
pub(super) struct ChunkWriter<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    in_chunk: usize,
    /// Digests of the finished chunks.
    pub digests: Vec<Digest>,
    /// Bytes written.
    pub position: u64,
}

impl<'a> ChunkWriter<'a> {
    pub fn new(out: &'a mut dyn Write) -> Self {
        ChunkWriter {
            out,
            hasher: blake3::Hasher::new(),
            in_chunk: 0,
            digests: Vec::new(),
            position: 0,
        }
    }

    /// Writes bytes that belong to chunks.
    pub fn put(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let room = CHUNK.saturating_sub(self.in_chunk).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.hasher.update(now);
            self.out.write_all(now)?;
            self.position = self.position.saturating_add(room as u64);
            self.in_chunk = self.in_chunk.saturating_add(room);
            bytes = later;
            if self.in_chunk == CHUNK {
                self.end_chunk();
            }
        }
        Ok(())
    }

    /// Writes zeros up to a file offset.
    pub fn pad_to(&mut self, offset: u64) -> std::io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.position < offset {
            let left = offset.saturating_sub(self.position).min(ZEROS.len() as u64);
            self.put(ZEROS.get(..left as usize).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    /// Ends the chunk under way, if it has any bytes: the next one starts here.
    pub fn end_chunk(&mut self) {
        if self.in_chunk > 0 {
            self.digests.push(*self.hasher.finalize().as_bytes());
            self.hasher.reset();
            self.in_chunk = 0;
        }
    }

    /// Writes bytes that no chunk covers.
    pub fn put_uncovered(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes)?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        Ok(())
    }
}
