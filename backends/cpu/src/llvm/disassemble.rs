//! Machine code back to instructions, through LLVM's own disassembler: what proofs about generated code read.
#![allow(unsafe_code)]

use super::machine::initialise;
use inkwell::llvm_sys::disassembler::{
    LLVMCreateDisasm, LLVMDisasmContextRef, LLVMDisasmDispose, LLVMDisasmInstruction,
    LLVMDisassembler_Option_AsmPrinterVariant, LLVMSetDisasmOptions,
};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ptr::null_mut;

/// Longest x86 instruction.
const LONGEST: usize = 15;

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it starts in the code.
    pub offset: usize,
    /// Its encoding.
    pub bytes: Vec<u8>,
    /// Intel syntax, words separated by single spaces.
    pub text: String,
}

/// Why code could not be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DisassembleError {
    /// LLVM was built without the disassembler.
    #[error("llvm has no x86 disassembler")]
    Unavailable,
    /// No instruction starts there.
    #[error("no instruction at offset {0}")]
    Invalid(usize),
    /// A call or a jump through a register or memory: where it leads cannot be followed.
    #[error("`{text}` at offset {offset} leaves the code")]
    Leaves {
        /// Where it is.
        offset: usize,
        /// The instruction.
        text: String,
    },
}

/// Every instruction that can run when the function at `entry` is called, by offset.
///
/// # Errors
/// [`DisassembleError`]; kernels call subroutines of their own only, and jump to constant places only.
pub fn reachable(code: &[u8], entry: usize) -> Result<Vec<Instruction>, DisassembleError> {
    let decoder = Decoder::new()?;
    let mut found: BTreeMap<usize, Instruction> = BTreeMap::new();
    let mut starts = vec![entry];
    while let Some(mut at) = starts.pop() {
        while !found.contains_key(&at) {
            let instruction = decoder.decode(code, at)?;
            let flow = flow(&instruction);
            let end = at + instruction.bytes.len();
            if let Flow::Leaves = flow {
                let text = instruction.text;
                return Err(DisassembleError::Leaves { offset: at, text });
            }
            found.insert(at, instruction);
            let target = |distance: i64| {
                usize::try_from(end as i64 + distance).map_err(|_| DisassembleError::Invalid(at))
            };
            match flow {
                Flow::Next => at = end,
                Flow::Branch(distance) => {
                    starts.push(target(distance)?);
                    at = end;
                }
                Flow::Jump(distance) => at = target(distance)?,
                Flow::End | Flow::Leaves => break,
            }
        }
    }
    Ok(found.into_values().collect())
}

/// What runs after an instruction. Distances count from its end.
enum Flow {
    Next,
    Branch(i64),
    Jump(i64),
    End,
    Leaves,
}

fn flow(i: &Instruction) -> Flow {
    let short = || i64::from(*i.bytes.last().expect("instructions have bytes") as i8);
    let near = || {
        let end = i
            .bytes
            .last_chunk::<4>()
            .expect("a near jump ends in its distance");
        i64::from(i32::from_le_bytes(*end))
    };
    match i.bytes[..] {
        [0xeb, _] => Flow::Jump(short()),
        [0xe9, ..] => Flow::Jump(near()),
        // Code behind a call runs as well.
        [0xe8, ..] => Flow::Branch(near()),
        [0x70..=0x7f, _] => Flow::Branch(short()),
        [0x0f, 0x80..=0x8f, ..] => Flow::Branch(near()),
        [0xc3] | [0xcc] | [0x0f, 0x0b] => Flow::End,
        _ => {
            let word = i.text.split(' ').next().unwrap_or_default();
            if word.starts_with('j') || word.starts_with("loop") || word.starts_with("call") {
                Flow::Leaves
            } else {
                Flow::Next
            }
        }
    }
}

struct Decoder(LLVMDisasmContextRef);

impl Decoder {
    fn new() -> Result<Decoder, DisassembleError> {
        initialise();
        // SAFETY: the triple is a C string, and no callbacks are given that could be called.
        let context =
            unsafe { LLVMCreateDisasm(c"x86_64-unknown-linux-gnu".as_ptr(), null_mut(), 0, None, None) };
        if context.is_null() {
            return Err(DisassembleError::Unavailable);
        }
        // SAFETY: the context was just created.
        unsafe { LLVMSetDisasmOptions(context, LLVMDisassembler_Option_AsmPrinterVariant) };
        Ok(Decoder(context))
    }

    fn decode(&self, code: &[u8], offset: usize) -> Result<Instruction, DisassembleError> {
        let invalid = DisassembleError::Invalid(offset);
        let Some(rest) = code.get(offset..) else {
            return Err(invalid);
        };
        let mut bytes = rest[..rest.len().min(LONGEST)].to_vec();
        let mut text = [0; 256];
        // SAFETY: the context is live; both buffers are passed with their lengths, and LLVM ends the text with a NUL.
        let length = unsafe {
            LLVMDisasmInstruction(
                self.0,
                bytes.as_mut_ptr(),
                bytes.len() as u64,
                offset as u64,
                text.as_mut_ptr(),
                text.len(),
            )
        };
        if length == 0 {
            return Err(invalid);
        }
        bytes.truncate(length);
        // SAFETY: see above.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(Instruction {
            offset,
            bytes,
            text: words.join(" "),
        })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the context is live and used no more.
        unsafe { LLVMDisasmDispose(self.0) };
    }
}
