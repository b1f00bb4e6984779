//! The file: a prelinked template with machine code, manifest and weights appended.
//!
//! ```text
//! template          ELF shared library; header fields patched, anchor filled
//! -- 64 KiB --      segment R:   program headers, manifest, section table, kernel symbols
//! -- 64 KiB --      segment R-X: kernel code and its constants
//! -- 64 KiB --      segment R:   weights | index | digest table | trailer
//! ```
//! The three segments are ordinary PT_LOADs, so the system's loader maps them; there are no relocations in them
//! and their pages stay clean and shared. Virtual addresses are file offsets plus one constant (`delta`).
//!
//! - The **anchor** is a 64-byte record inside the template (found by its magic, which occurs once). It tells
//!   the runtime where it was linked and where the index lies.
//! - The **index** (128 bytes) gives all offsets and the digest of manifest and code.
//! - The **digest table** has one BLAKE3 digest for each MiB of the file before the index, counted afresh at the
//!   start of the weights, so that the runtime can check weights in mapped memory.
//! - The **trailer** (64 bytes) ends the file and finds the index without ELF. Its **root** is the digest of
//!   everything from the index to the root itself. Hence root, table and chunks cover every byte of the file.
//!
//! A digest proves integrity, not origin: it finds damage, not malice.

mod digest;
mod elf;
mod read;
mod tail;
mod write;

pub use digest::{CHUNK, Digest};
pub use read::{ArtifactView, read};
pub use tail::{Index, Tail};
pub use write::{WeightsLayout, Written, write};

/// Alignment of the appended segments, for pages of 4, 16 and 64 KiB.
pub const SEGMENT_ALIGN: u64 = 64 << 10;

/// Version of the container.
pub const FORMAT: u32 = 1;

/// Marks the anchor in the template.
pub const ANCHOR_MAGIC: [u8; 16] = *b"\x7frsqc anchor v1\x01";

/// Bytes of the anchor record.
pub const ANCHOR_LEN: usize = 64;

/// The anchor's fields behind the magic: five little-endian numbers of 64 bits, then their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorFields {
    /// Virtual address of the anchor itself; the image base is the anchor's address minus this.
    pub self_vaddr: u64,
    /// Virtual address minus file offset, in the appended segments.
    pub delta: u64,
    /// Virtual address of the index.
    pub index_vaddr: u64,
    /// Virtual address behind the trailer.
    pub end_vaddr: u64,
    /// Always 0.
    pub reserved: u64,
}

impl AnchorFields {
    /// The fields and their checksum, as they stand behind the magic.
    pub fn encode(&self) -> [u64; 6] {
        let fields = [
            self.self_vaddr,
            self.delta,
            self.index_vaddr,
            self.end_vaddr,
            self.reserved,
        ];
        let [a, b, c, d, e] = fields;
        [a, b, c, d, e, Self::checksum(&fields)]
    }

    /// Reads the fields; `None` if the checksum differs (an unfilled template, or damage).
    pub fn decode(words: &[u64; 6]) -> Option<AnchorFields> {
        let [self_vaddr, delta, index_vaddr, end_vaddr, reserved, check] = *words;
        let fields = AnchorFields {
            self_vaddr,
            delta,
            index_vaddr,
            end_vaddr,
            reserved,
        };
        let sum = Self::checksum(&[self_vaddr, delta, index_vaddr, end_vaddr, reserved]);
        (sum == check && index_vaddr < end_vaddr).then_some(fields)
    }

    fn checksum(fields: &[u64; 5]) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for field in fields {
            hasher.update(&field.to_le_bytes());
        }
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        u64::from_le_bytes(first)
    }
}
