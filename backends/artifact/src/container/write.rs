//! Writing an artifact: one pass, no linker. The same input gives the same bytes.

use super::digest::{ChunkWriter, Digest};
use super::elf::{SectionTable, Template};
use super::tail::{Index, Tail};
use super::{ANCHOR_MAGIC, AnchorFields, CHUNK, SEGMENT_ALIGN};
use crate::ALIGN;
use crate::error::ArtifactError;
use crate::manifest::{self, Manifest, Segment};
use std::io::Write;

/// Assigns offsets in the weight segment, in the order in which [`write()`] will get the slices.
#[derive(Clone, Debug, Default)]
pub struct WeightsLayout {
    len: u64,
}

impl WeightsLayout {
    /// An empty segment.
    pub fn new() -> Self {
        Self::default()
    }

    /// The offset of the next slice, which has `bytes` bytes.
    ///
    /// # Errors
    /// [`ArtifactError::TooLarge`] if the offsets overflow.
    pub fn push(&mut self, bytes: u64) -> Result<u64, ArtifactError> {
        let too_large = || ArtifactError::TooLarge("the weights".into());
        let offset = self
            .len
            .checked_next_multiple_of(ALIGN as u64)
            .ok_or_else(too_large)?;
        self.len = offset.checked_add(bytes).ok_or_else(too_large)?;
        Ok(offset)
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What [`write()`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the file in bytes.
    pub file_len: u64,
    /// Its root digest.
    pub root: Digest,
}

/// File offsets of everything that is appended.
struct Places {
    manifest: (u64, u64),
    sections: u64,
    /// End of the first appended segment.
    meta_end: u64,
    code: (u64, u64),
    weights: (u64, u64),
    index: u64,
    head_chunks: u64,
    weight_chunks: u64,
    file_len: u64,
}

/// Writes an artifact.
///
/// `weights` are stored in order, each at the next multiple of 64 ([`WeightsLayout`] computes the same offsets).
/// The manifest's `code` and `weights` segments are filled in; the rest must be valid (see
/// [`crate::validate()`]). Give a buffered or unbuffered `out`; large slices are written whole.
///
/// # Errors
/// [`ArtifactError::Template`] for an unusable template, `Invalid` for an invalid manifest, `TooLarge`, `Io`.
pub fn write(
    template: &[u8],
    manifest: &Manifest,
    code: &[u8],
    weights: &[&[u8]],
    out: &mut dyn Write,
) -> Result<Written, ArtifactError> {
    let parsed = Template::parse(template)?;
    let mut layout = WeightsLayout::new();
    for slice in weights {
        layout.push(slice.len() as u64)?;
    }
    let functions = functions(manifest);
    // Offsets have a fixed width in the encoding, so that a first encoding tells the length of the final one.
    let mut manifest = manifest.clone();
    manifest.code = Some(Segment {
        offset: 1,
        length: code.len() as u64,
    });
    manifest.weights = Some(Segment {
        offset: 1,
        length: layout.len(),
    });
    crate::validate(&manifest)?;
    let manifest_len = manifest::encode(&manifest).len() as u64;
    let sections_len = SectionTable::new(&parsed, &functions, (0, code.len() as u64), 0).len();
    let places = places(
        &parsed,
        manifest_len,
        sections_len,
        code.len() as u64,
        layout.len(),
    )
    .ok_or_else(|| ArtifactError::TooLarge("the artifact".into()))?;
    manifest.code = Some(Segment {
        offset: places.code.0,
        length: places.code.1,
    });
    manifest.weights = Some(Segment {
        offset: places.weights.0,
        length: places.weights.1,
    });
    let manifest = manifest::encode(&manifest);
    let sections = SectionTable::new(&parsed, &functions, places.code, places.sections);

    let mut out = ChunkWriter::new(out);
    out.put(&patched(template, &parsed, &places, &sections)?)?;
    out.pad_to(parsed.append_offset)?;
    let weights_end = places.file_len.saturating_sub(places.weights.0);
    out.put(&parsed.segment_table([
        (
            parsed.append_offset,
            places.meta_end.saturating_sub(parsed.append_offset),
            false,
        ),
        (places.code.0, places.code.1.max(1), true),
        (places.weights.0, weights_end, false),
    ]))?;
    out.pad_to(places.manifest.0)?;
    out.put(&manifest)?;
    out.pad_to(places.sections)?;
    out.put(sections.bytes())?;
    out.pad_to(places.code.0)?;
    out.put(code)?;
    out.pad_to(places.weights.0)?;
    out.end_chunk();
    for slice in weights {
        let at = out
            .position
            .checked_next_multiple_of(ALIGN as u64)
            .unwrap_or(u64::MAX);
        out.pad_to(at)?;
        out.put(slice)?;
    }
    out.pad_to(places.index)?;
    out.end_chunk();
    let mut core = blake3::Hasher::new();
    core.update(&manifest).update(code);
    let index = Index {
        manifest: places.manifest,
        code: places.code,
        weights: places.weights,
        head_chunks: places.head_chunks,
        weight_chunks: places.weight_chunks,
        anchor_offset: parsed.anchor_offset,
        anchor_vaddr: parsed.anchor_vaddr,
        delta: parsed.delta(),
        index_vaddr: places.index.wrapping_add(parsed.delta()),
        core: *core.finalize().as_bytes(),
    };
    let digests = std::mem::take(&mut out.digests);
    let tail = Tail {
        index,
        digests,
        file_len: places.file_len,
        index_offset: places.index,
        root: [0; 32],
    };
    let tail = tail.encode();
    out.put_uncovered(&tail)?;
    let root = tail.last_chunk::<32>().copied().unwrap_or_default();
    Ok(Written {
        file_len: out.position,
        root,
    })
}

/// Symbols of the kernels: our names, never the model's.
fn functions(manifest: &Manifest) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for kernel in &manifest.kernels {
        for entry in &kernel.entries {
            all.push((format!("{}.{}", kernel.name, entry.level), entry.offset));
        }
    }
    all.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    all
}

fn places(template: &Template, manifest: u64, sections: u64, code: u64, weights: u64) -> Option<Places> {
    let next = |at: u64, align: u64| at.checked_next_multiple_of(align);
    let table_end = template
        .append_offset
        .checked_add(template.segment_table_len() as u64)?;
    let manifest = (next(table_end, 64)?, manifest);
    let sections_at = next(manifest.0.checked_add(manifest.1)?, 64)?;
    let meta_end = sections_at.checked_add(sections)?;
    let code = (next(meta_end, SEGMENT_ALIGN)?, code);
    // A segment of no bytes is not mapped; one byte of padding is.
    let weights = (next(code.0.checked_add(code.1.max(1))?, SEGMENT_ALIGN)?, weights);
    let index = next(weights.0.checked_add(weights.1)?, 64)?;
    let head_chunks = weights.0.div_ceil(CHUNK as u64);
    let weight_chunks = index.checked_sub(weights.0)?.div_ceil(CHUNK as u64);
    let tail = Tail::encoded_len(head_chunks.checked_add(weight_chunks)?)?;
    let file_len = index.checked_add(tail)?;
    let sections = sections_at;
    Some(Places {
        manifest,
        sections,
        meta_end,
        code,
        weights,
        index,
        head_chunks,
        weight_chunks,
        file_len,
    })
}

/// The template with its header and its anchor filled in.
fn patched(
    template: &[u8],
    parsed: &Template,
    places: &Places,
    sections: &SectionTable,
) -> Result<Vec<u8>, ArtifactError> {
    let mut file = template.to_vec();
    let shoff = sections.header_offset(places.sections);
    parsed.patch_header(&mut file, parsed.append_offset, shoff, sections.count)?;
    let fields = AnchorFields {
        self_vaddr: parsed.anchor_vaddr,
        delta: parsed.delta(),
        index_vaddr: places.index.wrapping_add(parsed.delta()),
        end_vaddr: places.file_len.wrapping_add(parsed.delta()),
        reserved: 0,
    };
    let bytes: Vec<u8> = fields.encode().iter().flat_map(|w| w.to_le_bytes()).collect();
    let begin = (parsed.anchor_offset as usize).checked_add(ANCHOR_MAGIC.len());
    let end = begin.and_then(|b| b.checked_add(bytes.len()));
    match begin.zip(end).and_then(|(begin, end)| file.get_mut(begin..end)) {
        Some(room) => room.copy_from_slice(&bytes),
        None => return Err(ArtifactError::Template("the anchor is cut off".into())),
    }
    Ok(file)
}
