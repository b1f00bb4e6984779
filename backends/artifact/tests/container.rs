//! The container on a synthetic template: round trip, damage of every kind, determinism.

use rsqc_artifact::ArtifactError;
use rsqc_artifact::container::{ANCHOR_MAGIC, CHUNK, SEGMENT_ALIGN, WeightsLayout, read, write};
use rsqc_artifact::manifest::*;

/// A shared library of one segment that holds nothing but an anchor.
fn template(anchors: usize) -> Vec<u8> {
    let mut t = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    t.extend([3, 0, 62, 0, 1, 0, 0, 0]); // ET_DYN, x86-64, version
    t.extend([0; 8]); // entry
    t.extend(64u64.to_le_bytes()); // program headers
    t.extend([0; 8]); // section headers
    t.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    t.extend([1, 0, 0, 0, 4, 0, 0, 0]); // PT_LOAD, R
    for word in [0u64, 0x1000, 0x1000, 0x400, 0x9_0000, 0x1000] {
        t.extend(word.to_le_bytes());
    }
    for i in 0..anchors {
        t.resize(256 + 128 * i, 0xEE);
        t.extend(ANCHOR_MAGIC);
        t.extend([0; 48]);
    }
    t.resize(0x400, 0x11);
    t
}

fn manifest() -> Manifest {
    let (version_major, version_minor) = VERSION;
    let constant = |c| Expr {
        node: Some(expr::Node::Constant(c)),
    };
    let entries = vec![
        Entry {
            level: "portable".into(),
            offset: 0,
        },
        Entry {
            level: "avx2".into(),
            offset: 64,
        },
    ];
    Manifest {
        version_major,
        version_minor,
        model_name: "\u{1F980} model\nwith a strange name".into(),
        recipe: "x = 1".into(),
        exprs: vec![constant(1), constant(7)],
        kernels: vec![Kernel {
            name: "f32_add".into(),
            entries,
        }],
        buffers: vec![Buffer {
            kind: Some(buffer::Kind::Weight(WeightRange {
                offset: 64,
                length: 7,
            })),
            bytes: 1,
            elem: ElemType::U8.into(),
            ..Buffer::default()
        }],
        blocks: vec![Block::default()],
        ..Manifest::default()
    }
}

fn artifact(weights: &[&[u8]]) -> Vec<u8> {
    let code: Vec<u8> = (0..200u8).collect();
    let mut out = Vec::new();
    let written = write(&template(1), &manifest(), &code, weights, &mut out).expect("writes");
    assert_eq!(written.file_len, out.len() as u64);
    assert_eq!(written.root, out[out.len() - 32..]);
    out
}

fn intact(bytes: &[u8]) -> Result<(), ArtifactError> {
    read(bytes)?.verify_full()
}

#[test]
fn round_trip() {
    let second: Vec<u8> = (0..3 * CHUNK + 5).map(|i| (i % 251) as u8).collect();
    let weights: [&[u8]; 3] = [&[1; 7], &second, &[]];
    let mut layout = WeightsLayout::new();
    let offsets: Vec<u64> = weights
        .iter()
        .map(|w| layout.push(w.len() as u64).expect("small"))
        .collect();
    assert_eq!(offsets, [0, 64, 64 + (second.len() as u64).next_multiple_of(64)]);
    let bytes = artifact(&weights);
    let view = read(&bytes).expect("reads");
    view.verify_full().expect("intact");
    assert_eq!(view.code, (0..200u8).collect::<Vec<_>>());
    assert_eq!(view.weights.len() as u64, layout.len());
    assert_eq!(&view.weights[64..][..second.len()], second);
    assert_eq!(view.manifest.model_name, manifest().model_name);
    let segment = view.manifest.weights.expect("filled in");
    assert_eq!(segment.offset % SEGMENT_ALIGN, 0);
    assert_eq!(&bytes[segment.offset as usize..][..7], [1; 7]);
    assert_eq!(bytes, artifact(&weights), "same input, same bytes");
}

#[test]
fn every_flipped_byte_is_found() {
    let bytes = artifact(&[&[5; 100], &[6; 300]]);
    let mut copy = bytes.clone();
    // All of the template, the anchor, the tables and the tail; a sample of the padding between.
    let parts = (0..bytes.len()).filter(|i| bytes[*i] != 0 || i % 97 == 0 || i + 400 > bytes.len());
    let mut tried = 0;
    for i in parts {
        let bit = 1 << (i % 8);
        copy[i] ^= bit;
        assert!(intact(&copy).is_err(), "byte {i} of {}", bytes.len());
        copy[i] ^= bit;
        tried += 1;
    }
    assert!(tried > 3000, "{tried}");
    intact(&copy).expect("restored");
}

#[test]
fn every_truncation_is_found() {
    let bytes = artifact(&[&[5; 100]]);
    let view = read(&bytes).expect("reads");
    let index = view.tail().index;
    let starts = [index.manifest, index.code, index.weights].map(|(offset, len)| [offset, offset + len]);
    let mut cuts: Vec<usize> = starts.concat().iter().map(|x| *x as usize).collect();
    cuts.extend([
        0,
        1,
        63,
        64,
        120,
        0x400,
        bytes.len() - 1,
        bytes.len() - 32,
        bytes.len() - 64,
        bytes.len() - 65,
    ]);
    cuts.extend((0..bytes.len()).step_by(4093));
    for cut in cuts {
        for end in [cut.saturating_sub(1), cut, cut + 1] {
            assert!(end >= bytes.len() || read(&bytes[..end]).is_err(), "{end}");
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(read(&longer).is_err());
}

#[test]
fn other_files_and_other_versions() {
    let refused = |bytes: &[u8]| read(bytes).expect_err("must be refused").to_string();
    assert!(refused(b"").contains("not an rsqc artifact"));
    assert!(refused(&template(1)).contains("trailer is missing"));
    let mut bytes = artifact(&[&[1; 71]]);
    let at = bytes.len() - 56;
    bytes[at] = 9;
    assert!(refused(&bytes).contains("the file has container 9, this reader knows container 1"));
}

#[test]
fn bad_templates_and_bad_plans() {
    let refused = |template: &[u8], manifest: &Manifest| {
        let mut out = Vec::new();
        write(template, manifest, &[0; 100], &[&[1; 71]], &mut out)
            .expect_err("must be refused")
            .to_string()
    };
    assert!(refused(&template(0), &manifest()).contains("no anchor"));
    assert!(refused(&template(2), &manifest()).contains("more than one anchor"));
    assert!(refused(b"#!/bin/sh", &manifest()).contains("unusable template"));
    let mut wild = manifest();
    wild.kernels[0].entries[0].offset = 100;
    assert!(refused(&template(1), &wild).contains("outside the code"));
    let mut wild = manifest();
    if let Some(buffer::Kind::Weight(range)) = &mut wild.buffers[0].kind {
        range.length = 8;
    }
    assert!(refused(&template(1), &wild).contains("outside the weights"));
}

#[test]
fn kernels_are_named_for_disassemblers() {
    use object::{Object, ObjectSection, ObjectSymbol};
    let bytes = artifact(&[&[1; 71]]);
    let file = object::File::parse(&*bytes).expect("an object file");
    let code = read(&bytes).expect("reads").tail().index.code;
    let delta = read(&bytes).expect("reads").tail().index.delta;
    let mut symbols: Vec<_> = file
        .symbols()
        .map(|s| (s.name().expect("named"), s.address(), s.size()))
        .collect();
    symbols.retain(|s| !s.0.is_empty());
    let start = code.0 + delta;
    assert_eq!(
        symbols,
        [("f32_add.portable", start, 64), ("f32_add.avx2", start + 64, 136)]
    );
    let section = file.section_by_name(".text.rsqc").expect("a section");
    assert_eq!(section.data().expect("data"), read(&bytes).expect("reads").code);
}
