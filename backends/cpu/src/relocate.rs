//! Merges the objects of all kernels into one position-independent blob; no linker is involved.
//!
//! Kernels are compiled so that an object refers to nothing but itself and the routines of its level, which stand once
//! in front of all kernels: all references are relative to the instruction pointer, from code to constants and back. Each object's `.text*` sections and then its `.rodata*`
//! sections are laid out with their own alignment, objects in key order; relative relocations are then plain
//! arithmetic, and the blob runs wherever it is mapped (64-byte aligned).
//!
//! **An undefined symbol or an unknown relocation is an error**: it would mean a library call that LLVM slipped in.

use crate::level::Level;
use crate::llvm::KERNEL_SYMBOL;
use object::elf::{R_X86_64_PC32, R_X86_64_PC64, R_X86_64_PLT32};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionFlags, elf};
use std::collections::BTreeMap;

/// Alignment of the blob's start, and the largest that a section may ask for.
pub const BLOB_ALIGN: u64 = 64;

/// Filler between functions: `int3`.
const PAD: u8 = 0xcc;

/// Identifies a kernel's code: its name and level.
pub type CodeKey = (String, Level);

/// Code of many kernels, ready to be mapped executable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// The bytes; valid at any address that is a multiple of [`BLOB_ALIGN`].
    pub bytes: Vec<u8>,
    /// Offset of each kernel's entry.
    pub entries: BTreeMap<CodeKey, u64>,
}

/// Why objects could not be merged. Each names the kernel.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    /// The object does not parse.
    #[error("kernel {kernel}: malformed object: {text}")]
    Malformed {
        /// Kernel name.
        kernel: String,
        /// The reader's explanation.
        text: String,
    },
    /// A reference to something outside the object.
    #[error("kernel {kernel}: undefined symbol `{symbol}`")]
    Undefined {
        /// Kernel name.
        kernel: String,
        /// What is referred to.
        symbol: String,
    },
    /// A relocation that cannot be applied without knowing the address, or is not known.
    #[error("kernel {kernel}: relocation type {kind} against `{symbol}`")]
    UnknownRelocation {
        /// Kernel name.
        kernel: String,
        /// What is referred to.
        symbol: String,
        /// ELF relocation type.
        kind: u32,
    },
    /// A relocation whose value or place does not fit.
    #[error("kernel {kernel}: relocation against `{symbol}` does not fit")]
    Range {
        /// Kernel name.
        kernel: String,
        /// What is referred to.
        symbol: String,
    },
    /// A section that has no place in a read-only blob.
    #[error("kernel {kernel}: unexpected section `{section}`")]
    Section {
        /// Kernel name.
        kernel: String,
        /// Its name.
        section: String,
    },
    /// The object does not define the kernel symbol.
    #[error("kernel {kernel}: no entry point")]
    NoEntry {
        /// Kernel name.
        kernel: String,
    },
}

/// Merges objects that refer to nothing but themselves: [`merge_with`] without routines.
///
/// # Errors
/// [`RelocateError`], see its variants.
pub fn merge<T: AsRef<[u8]>>(objects: &BTreeMap<CodeKey, T>) -> Result<Blob, RelocateError> {
    merge_with(objects, &BTreeMap::new())
}

/// Merges objects into one blob: routines, then kernels, each in key order; the same objects give the same bytes. Kernels
/// may refer to the routines of their level, whose names are their symbols. Equal objects share one place: two levels
/// often give a kernel the same code.
///
/// # Errors
/// [`RelocateError`], see its variants.
pub fn merge_with<T: AsRef<[u8]>>(
    kernels: &BTreeMap<CodeKey, T>,
    routines: &BTreeMap<CodeKey, T>,
) -> Result<Blob, RelocateError> {
    let mut bytes = Vec::new();
    let none = Symbols::new();
    let mut symbols: BTreeMap<Level, Symbols> = BTreeMap::new();
    let mut placed: Placed = BTreeMap::new();
    for ((symbol, level), object) in routines {
        let entry = place_once(&mut bytes, &mut placed, (symbol, symbol), object.as_ref(), &none)?;
        let of_level = symbols.entry(*level).or_default();
        of_level.insert(symbol, entry);
    }
    let mut blob = Blob::default();
    for (key, object) in kernels {
        let known = symbols.get(&key.1).unwrap_or(&none);
        let names = (&*key.0, KERNEL_SYMBOL);
        let entry = place_once(&mut bytes, &mut placed, names, object.as_ref(), known)?;
        blob.entries.insert(key.clone(), entry);
    }
    blob.bytes = bytes;
    Ok(blob)
}

/// Where the routines of a level are.
type Symbols<'a> = BTreeMap<&'a str, u64>;

/// Where objects are, with what they refer to.
type Placed<'a> = BTreeMap<(&'a [u8], Vec<u64>), u64>;

/// Adds an object unless the same code is there already; gives its entry, the symbol `entry`.
fn place_once<'a>(
    blob: &mut Vec<u8>,
    placed: &mut Placed<'a>,
    (kernel, entry): (&str, &str),
    object: &'a [u8],
    symbols: &Symbols<'_>,
) -> Result<u64, RelocateError> {
    let mut linker = Linker {
        kernel,
        entry,
        blob,
        symbols,
    };
    let key = (object, linker.outside(object)?);
    if let Some(entry) = placed.get(&key) {
        return Ok(*entry);
    }
    let at = linker.add(object)?;
    placed.insert(key, at);
    Ok(at)
}

/// Adds one object to the blob.
struct Linker<'a> {
    kernel: &'a str,
    /// Symbol of its entry.
    entry: &'a str,
    blob: &'a mut Vec<u8>,
    /// What it may refer to.
    symbols: &'a Symbols<'a>,
}

impl Linker<'_> {
    /// Where the routines are that an object refers to, in the order of its symbols.
    fn outside(&self, bytes: &[u8]) -> Result<Vec<u64>, RelocateError> {
        let file: ElfFile64 = ElfFile64::parse(bytes).map_err(|e| self.malformed(e))?;
        let undefined = file.symbols().filter(|s| s.is_undefined());
        let names = undefined.filter_map(|s| s.name().ok().map(str::to_owned));
        Ok(names.filter_map(|n| self.symbols.get(&*n).copied()).collect())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<u64, RelocateError> {
        let file: ElfFile64 = ElfFile64::parse(bytes).map_err(|e| self.malformed(e))?;
        let placed = self.place(&file)?;
        for section in file.sections() {
            let Some(&base) = placed.get(&section.index().0) else {
                continue;
            };
            for (offset, relocation) in section.relocations() {
                self.relocate(&file, &placed, base, section.size(), offset, &relocation)?;
            }
        }
        let entry = file
            .symbols()
            .find(|s| s.name() == Ok(self.entry) && s.is_definition());
        let place = entry.and_then(|s| Some(placed.get(&s.section_index()?.0)? + s.address()));
        place.ok_or_else(|| RelocateError::NoEntry {
            kernel: self.kernel.into(),
        })
    }

    /// Copies the sections that are needed at run time; gives their offsets in the blob.
    fn place(&mut self, file: &ElfFile64) -> Result<BTreeMap<usize, u64>, RelocateError> {
        let mut placed = BTreeMap::new();
        for prefix in [".text", ".rodata"] {
            for section in file.sections() {
                let name = section.name().map_err(|e| self.malformed(e))?;
                if !is_alloc(&section) || section.size() == 0 {
                    continue;
                }
                if ![".text", ".rodata"].iter().any(|p| name.starts_with(p)) || section.align() > BLOB_ALIGN {
                    return Err(RelocateError::Section {
                        kernel: self.kernel.into(),
                        section: name.into(),
                    });
                }
                if !name.starts_with(prefix) {
                    continue;
                }
                // Entries get a cache line of their own, so that inner loops align the same way in any company.
                let align = if prefix == ".text" {
                    BLOB_ALIGN
                } else {
                    section.align().max(1)
                };
                let base = (self.blob.len() as u64).next_multiple_of(align);
                self.blob.resize(base as usize, PAD);
                self.blob
                    .extend_from_slice(section.data().map_err(|e| self.malformed(e))?);
                placed.insert(section.index().0, base);
            }
        }
        Ok(placed)
    }

    fn relocate(
        &mut self,
        file: &ElfFile64,
        placed: &BTreeMap<usize, u64>,
        base: u64,
        size: u64,
        offset: u64,
        relocation: &object::Relocation,
    ) -> Result<(), RelocateError> {
        let (symbol, target) = self.resolve(file, placed, relocation.target())?;
        let RelocationFlags::Elf { r_type } = relocation.flags() else {
            return Err(self.malformed("relocation without a type"));
        };
        let width = match r_type {
            // A PLT reference to a symbol that is defined here is a direct one.
            R_X86_64_PC32 | R_X86_64_PLT32 => 4,
            R_X86_64_PC64 => 8,
            kind => {
                return Err(RelocateError::UnknownRelocation {
                    kernel: self.kernel.into(),
                    symbol,
                    kind: kind.0,
                });
            }
        };
        let range = || RelocateError::Range {
            kernel: self.kernel.into(),
            symbol: symbol.clone(),
        };
        if offset.checked_add(width).is_none_or(|end| end > size) {
            return Err(range());
        }
        let place = base + offset;
        let value = (target as i64)
            .wrapping_add(relocation.addend())
            .wrapping_sub(place as i64);
        let place = place as usize;
        if width == 4 {
            let value = i32::try_from(value).map_err(|_| range())?;
            self.blob[place..place + 4].copy_from_slice(&value.to_le_bytes());
        } else {
            self.blob[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Name and blob offset of what a relocation refers to.
    fn resolve(
        &self,
        file: &ElfFile64,
        placed: &BTreeMap<usize, u64>,
        target: RelocationTarget,
    ) -> Result<(String, u64), RelocateError> {
        let RelocationTarget::Symbol(index) = target else {
            return Err(self.malformed("relocation without a symbol"));
        };
        let symbol = file.symbol_by_index(index).map_err(|e| self.malformed(e))?;
        let section = symbol.section_index();
        let mut name = symbol.name().map_err(|e| self.malformed(e))?.to_owned();
        if let (true, Some(section)) = (name.is_empty(), section) {
            let section = file.section_by_index(section).map_err(|e| self.malformed(e))?;
            name = section.name().map_err(|e| self.malformed(e))?.to_owned();
        }
        match section.and_then(|section| placed.get(&section.0)) {
            Some(base) => Ok((name, base.wrapping_add(symbol.address()))),
            None => match self.symbols.get(&*name) {
                Some(place) if symbol.is_undefined() => Ok((name, *place)),
                _ => Err(RelocateError::Undefined {
                    kernel: self.kernel.into(),
                    symbol: name,
                }),
            },
        }
    }

    fn malformed(&self, text: impl std::fmt::Display) -> RelocateError {
        RelocateError::Malformed {
            kernel: self.kernel.into(),
            text: text.to_string(),
        }
    }
}

/// Whether a section is part of the running image.
fn is_alloc<'data>(section: &impl ObjectSection<'data>) -> bool {
    match section.flags() {
        SectionFlags::Elf { sh_flags, .. } => sh_flags.0 & elf::SHF_ALLOC.0 != 0,
        _ => false,
    }
}
