//! The few ELF structures that the writer touches: headers of the template, added segments, kernel symbols.

use super::{ANCHOR_LEN, ANCHOR_MAGIC, SEGMENT_ALIGN};
use crate::error::ArtifactError;
use object::elf::{
    EM_X86_64, ET_DYN, FileHeader64, PF_R, PF_X, PT_LOAD, PT_PHDR, ProgramHeader64, SHF_ALLOC, SHF_EXECINSTR,
    SHT_NULL, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB, STB_LOCAL, STT_FUNC, SectionFlags, SectionHeader64,
    SectionType, Sym64, SymbolInfo, SymbolOther, SymbolSection,
};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, U16, U32, U64};

const LE: LittleEndian = LittleEndian;

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;

/// What the writer needs to know of the template.
pub(super) struct Template {
    pub anchor_offset: u64,
    pub anchor_vaddr: u64,
    /// First file offset and address that appended segments may use, multiples of [`SEGMENT_ALIGN`].
    pub append_offset: u64,
    pub append_vaddr: u64,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    names: Vec<u8>,
}

fn bad(text: impl std::fmt::Display) -> ArtifactError {
    ArtifactError::Template(text.to_string())
}

impl Template {
    pub fn parse(bytes: &[u8]) -> Result<Template, ArtifactError> {
        let header = Header::parse(bytes).map_err(bad)?;
        if header.e_machine(LE) != EM_X86_64 || header.e_type(LE) != ET_DYN || !header.is_little_endian() {
            return Err(bad("it is not an x86-64 shared library"));
        }
        let segments = header.program_headers(LE, bytes).map_err(bad)?.to_vec();
        let sections = header.section_headers(LE, bytes).map_err(bad)?.to_vec();
        let names = match header.section_strings_index(LE, bytes) {
            Ok(index) => sections
                .get(index.0)
                .and_then(|s| s.data(LE, bytes).ok())
                .unwrap_or(&[0])
                .to_vec(),
            Err(_) => vec![0],
        };
        if segments.iter().any(|s| s.p_type(LE) == PT_PHDR) {
            return Err(bad("it has a PT_PHDR, which the moved table would contradict"));
        }
        let anchor_offset = find_once(bytes)? as u64;
        let anchor_vaddr =
            vaddr_of(&segments, anchor_offset).ok_or_else(|| bad("the anchor is in no segment"))?;
        let loads = || segments.iter().filter(|s| s.p_type(LE) == PT_LOAD);
        let top = loads().try_fold(0, |top: u64, s| {
            Some(top.max(s.p_vaddr(LE).checked_add(s.p_memsz(LE))?))
        });
        let append_offset = (bytes.len() as u64).checked_next_multiple_of(SEGMENT_ALIGN);
        // Not below the offset, so that `delta` is not negative.
        let append_vaddr = top
            .zip(append_offset)
            .and_then(|(t, o)| t.max(o).checked_next_multiple_of(SEGMENT_ALIGN));
        match (append_offset, append_vaddr) {
            (Some(append_offset), Some(append_vaddr)) if loads().count() > 0 => Ok(Template {
                anchor_offset,
                anchor_vaddr,
                append_offset,
                append_vaddr,
                segments,
                sections,
                names,
            }),
            _ => Err(bad("it has no usable segments")),
        }
    }
}

/// Offset of the anchor; its magic must occur exactly once.
fn find_once(bytes: &[u8]) -> Result<usize, ArtifactError> {
    let mut found = bytes
        .windows(ANCHOR_LEN)
        .enumerate()
        .filter(|(_, w)| w.starts_with(&ANCHOR_MAGIC));
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(at),
        (None, _) => Err(bad("it has no anchor")),
        (Some(_), Some(_)) => Err(bad("it has more than one anchor")),
    }
}

fn vaddr_of(segments: &[Segment], offset: u64) -> Option<u64> {
    segments.iter().filter(|s| s.p_type(LE) == PT_LOAD).find_map(|s| {
        let inside = offset.checked_sub(s.p_offset(LE))?;
        (inside < s.p_filesz(LE))
            .then(|| s.p_vaddr(LE).checked_add(inside))
            .flatten()
    })
}

/// Offset and length in the file, and whether the segment is executable.
pub(super) type Range = (u64, u64, bool);

impl Template {
    /// Number of program headers after three segments are added.
    pub fn segment_table_len(&self) -> usize {
        self.segments
            .len()
            .saturating_add(3)
            .saturating_mul(size_of::<Segment>())
    }

    /// Virtual address minus file offset of the appended part.
    pub fn delta(&self) -> u64 {
        self.append_vaddr.saturating_sub(self.append_offset)
    }

    /// The new program header table: the three ranges as PT_LOADs behind the template's last one.
    pub fn segment_table(&self, added: [Range; 3]) -> Vec<u8> {
        let last = self
            .segments
            .iter()
            .rposition(|s| s.p_type(LE) == PT_LOAD)
            .unwrap_or(0);
        let mut out = Vec::new();
        for (i, segment) in self.segments.iter().enumerate() {
            out.extend_from_slice(object::pod::bytes_of(segment));
            if i != last {
                continue;
            }
            for (offset, len, code) in added {
                let vaddr = offset.wrapping_add(self.delta());
                let segment = Segment {
                    p_type: U32::new(LE, PT_LOAD),
                    p_flags: U32::new(LE, if code { PF_R | PF_X } else { PF_R }),
                    p_offset: U64::new(LE, offset),
                    p_vaddr: U64::new(LE, vaddr),
                    p_paddr: U64::new(LE, vaddr),
                    p_filesz: U64::new(LE, len),
                    p_memsz: U64::new(LE, len),
                    p_align: U64::new(LE, SEGMENT_ALIGN),
                };
                out.extend_from_slice(object::pod::bytes_of(&segment));
            }
        }
        out
    }

    /// Points the copied file header to the new tables.
    pub fn patch_header(
        &self,
        file: &mut [u8],
        phoff: u64,
        shoff: u64,
        sections: usize,
    ) -> Result<(), ArtifactError> {
        let mut header = *Header::parse(&*file).map_err(bad)?;
        let count = |n: usize| u16::try_from(n).map_err(|_| bad("too many headers"));
        header.e_phoff = U64::new(LE, phoff);
        header.e_phnum = U16::new(LE, count(self.segments.len().saturating_add(3))?);
        header.e_shoff = U64::new(LE, shoff);
        header.e_shnum = U16::new(LE, count(sections)?);
        header.e_shstrndx = U16::new(LE, SymbolSection(count(sections.saturating_sub(1))?));
        let bytes = object::pod::bytes_of(&header);
        file.get_mut(..bytes.len())
            .ok_or_else(|| bad("it is too short"))?
            .copy_from_slice(bytes);
        Ok(())
    }
}

/// A section table that adds the kernels' code and a symbol table to the template's sections, so that
/// disassemblers, debuggers and profilers see names.
pub(super) struct SectionTable {
    bytes: Vec<u8>,
    table_at: u64,
    /// Number of sections.
    pub count: usize,
}

impl SectionTable {
    /// Length does not depend on addresses, so that a table made with zeros tells the room.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// File offset of the section headers, for a table at `offset`.
    pub fn header_offset(&self, offset: u64) -> u64 {
        offset.saturating_add(self.table_at)
    }

    /// `functions`: name and offset in the code, sorted by offset. `offset`: where the table will stand.
    pub fn new(
        template: &Template,
        functions: &[(String, u64)],
        code: (u64, u64),
        offset: u64,
    ) -> SectionTable {
        // Section 0 stands for "undefined"; a template without sections lacks even that.
        let undefined = part(0, SHT_NULL, 0, 0);
        let undefined = template.sections.is_empty().then_some(&undefined);
        let code_index = template.sections.len().max(1);
        let mut strings = vec![0u8];
        let mut symbols = object::pod::bytes_of(&Sym64::<LittleEndian>::default()).to_vec();
        for (i, (name, start)) in functions.iter().enumerate() {
            let end = functions.get(i.saturating_add(1)).map_or(code.1, |next| next.1);
            let symbol = Sym64::<LittleEndian> {
                st_name: U32::new(LE, append_string(&mut strings, name)),
                st_info: SymbolInfo::new(STB_LOCAL, STT_FUNC),
                st_other: SymbolOther(0),
                st_shndx: U16::new(LE, SymbolSection(code_index as u16)),
                st_value: U64::new(LE, code.0.wrapping_add(template.delta()).wrapping_add(*start)),
                st_size: U64::new(LE, end.saturating_sub(*start)),
            };
            symbols.extend_from_slice(object::pod::bytes_of(&symbol));
        }
        let mut names = template.names.clone();
        let labels = [".text.rsqc", ".symtab", ".strtab", ".shstrtab"].map(|n| append_string(&mut names, n));
        let [code_name, symtab_name, strtab_name, shstrtab_name] = labels;

        let symbol_count = functions.len().saturating_add(1);
        let strings_at = symbols.len();
        let names_at = strings_at.saturating_add(strings.len());
        let mut bytes = symbols;
        bytes.extend_from_slice(&strings);
        bytes.extend_from_slice(&names);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table_at = bytes.len() as u64;

        let code_section = Section {
            sh_flags: U64::new(LE, SHF_ALLOC | SHF_EXECINSTR),
            sh_addr: U64::new(LE, code.0.wrapping_add(template.delta())),
            sh_addralign: U64::new(LE, 64),
            ..part(code_name, SHT_PROGBITS, code.0, code.1 as usize)
        };
        let symtab = Section {
            sh_link: U32::new(LE, code_index.saturating_add(2) as u32),
            sh_info: U32::new(LE, symbol_count as u32),
            sh_entsize: U64::new(LE, size_of::<Sym64<LittleEndian>>() as u64),
            sh_addralign: U64::new(LE, 8),
            ..part(symtab_name, SHT_SYMTAB, offset, strings_at)
        };
        let strtab = part(
            strtab_name,
            SHT_STRTAB,
            offset.saturating_add(strings_at as u64),
            strings.len(),
        );
        let shstrtab = part(
            shstrtab_name,
            SHT_STRTAB,
            offset.saturating_add(names_at as u64),
            names.len(),
        );
        let all = undefined.into_iter().chain(&template.sections).chain([
            &code_section,
            &symtab,
            &strtab,
            &shstrtab,
        ]);
        let mut count = 0usize;
        for section in all {
            bytes.extend_from_slice(object::pod::bytes_of(section));
            count = count.saturating_add(1);
        }
        SectionTable {
            bytes,
            table_at,
            count,
        }
    }
}

/// A section that is not loaded.
fn part(name: u32, kind: SectionType, offset: u64, len: usize) -> Section {
    Section {
        sh_name: U32::new(LE, name),
        sh_type: U32::new(LE, kind),
        sh_flags: U64::new(LE, SectionFlags(0)),
        sh_addr: U64::new(LE, 0),
        sh_offset: U64::new(LE, offset),
        sh_size: U64::new(LE, len as u64),
        sh_link: U32::new(LE, 0),
        sh_info: U32::new(LE, 0),
        sh_addralign: U64::new(LE, u64::from(kind != SHT_NULL)),
        sh_entsize: U64::new(LE, 0),
    }
}

/// Appends a zero-terminated string; returns its offset.
fn append_string(table: &mut Vec<u8>, text: &str) -> u32 {
    let at = table.len() as u32;
    table.extend(text.bytes().filter(|b| *b != 0));
    table.push(0);
    at
}
