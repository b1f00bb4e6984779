//! The backend: choice, packing and code generation behind one trait.

use crate::level::{Level, LevelFacts};
use crate::llvm::{Output, Worker};
use crate::pack::{Matrix, pack_f32, pack_i8_segments};
use crate::relocate::{CodeKey, merge};
use crate::select::choose;
use rayon::prelude::*;
use rsqc_backend::{Backend, Code, KernelSpec, Launch, TextForm};
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::target::{CPU_AVX512VNNI, TargetDesc};
use rsqc_ir::{Const, Layout, ScalarType};
use std::collections::BTreeMap;

/// The x86-64 backend.
#[derive(Clone, Debug)]
pub struct Cpu {
    target: TargetDesc,
    /// Whether float products may be fused with their sums.
    fused: bool,
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu::new(CPU_AVX512VNNI)
    }
}

impl Cpu {
    /// The backend, scheduling for this target.
    pub fn new(target: TargetDesc) -> Self {
        Cpu { target, fused: true }
    }

    /// A kernel's name: other code, another name.
    fn named(&self, kernel: &str) -> String {
        if self.fused {
            kernel.to_owned()
        } else {
            format!("{kernel}_unfused")
        }
    }

    /// Compiles every kernel for every level, in parallel, one LLVM context a worker.
    fn compile(
        &self,
        kernels: &BTreeMap<String, KernelSpec>,
        levels: &[String],
        output: Output,
    ) -> Result<BTreeMap<CodeKey, Vec<u8>>, Diag> {
        let levels = parse_levels(levels)?;
        let mut jobs = Vec::new();
        for (name, spec) in kernels {
            let choice = choose(spec)?;
            let now = self.named(&choice.launch.kernel);
            if now != *name {
                let message = format!("the kernel is now called {now}");
                return Err(Diag::internal(name, message));
            }
            jobs.extend(levels.iter().map(|level| (name, choice.clone(), *level)));
        }
        let compiled: Vec<Result<(CodeKey, Vec<u8>), Diag>> = jobs
            .par_iter()
            .map_init(Worker::new, |worker, (name, choice, level)| {
                let failed = |e: &dyn std::fmt::Display| Diag::internal(name.as_str(), e.to_string());
                let worker = worker.as_ref().map_err(|e| failed(e))?;
                let emit = worker.kernel(*level);
                let emit = if self.fused { emit } else { emit.unfused() };
                choice.emit(&emit);
                let bytes = worker.finish(emit, output).map_err(|e| failed(&e))?;
                Ok((((*name).clone(), *level), bytes))
            })
            .collect();
        compiled.into_iter().collect()
    }
}

fn parse_levels(names: &[String]) -> Result<Vec<Level>, Diag> {
    let mut levels = Vec::new();
    for name in names {
        let level = Level::from_name(name).ok_or_else(|| {
            let all: Vec<&str> = Level::ALL.iter().map(|l| l.name()).collect();
            Diag::new(Blame::User, "", format!("unknown cpu level `{name}`"))
                .help(format!("levels are {}", all.join(", ")))
        })?;
        levels.push(level);
    }
    levels.sort_unstable();
    levels.dedup();
    Ok(levels)
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn target(&self) -> &TargetDesc {
        &self.target
    }

    fn select(&self, spec: &KernelSpec) -> Result<Launch, Diag> {
        let mut launch = choose(spec)?.launch;
        launch.kernel = self.named(&launch.kernel);
        Ok(launch)
    }

    fn reproducible(&self) -> Box<dyn Backend> {
        Box::new(Cpu {
            fused: false,
            ..self.clone()
        })
    }

    fn pack(&self, c: &Const, layout: Layout) -> Result<Vec<u8>, Diag> {
        let failed = |message: String| Diag::internal(&*c.name, message);
        match layout {
            Layout::OffsetBinary => Ok(c.bytes().iter().map(|b| b ^ 0x80).collect()),
            Layout::PackedWeight => {
                let shape = c.ty.static_shape();
                let Some([outer @ .., inner, n]) = shape.as_deref() else {
                    return Err(failed(format!(
                        "a packed weight has two dimensions or more, not {}",
                        c.ty
                    )));
                };
                let k = outer.iter().product::<usize>() * inner;
                match c.ty.storage() {
                    ScalarType::I8 => {
                        let codes: Vec<i8> = c.bytes().iter().map(|b| *b as i8).collect();
                        // Scales are operands of the epilogue, not part of the matrix.
                        pack_i8_segments(Matrix::row_major(&codes, k, *n), *inner, &[1.0])
                    }
                    ScalarType::F32 => {
                        let values: Vec<f32> = c
                            .bytes()
                            .chunks_exact(4)
                            .map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four")))
                            .collect();
                        pack_f32(Matrix::row_major(&values, k, *n))
                    }
                    other => return Err(failed(format!("weights of type {other} have no packed form"))),
                }
                .map_err(|e| failed(e.to_string()))
            }
        }
    }

    fn generate(&self, kernels: &BTreeMap<String, KernelSpec>, levels: &[String]) -> Result<Code, Diag> {
        let objects = self.compile(kernels, levels, Output::Object)?;
        let blob = merge(&objects).map_err(|e| Diag::internal("", e.to_string()))?;
        let mut code = Code {
            blob: blob.bytes,
            entries: BTreeMap::new(),
        };
        // Keys are ordered by name, then level.
        for ((name, level), offset) in blob.entries {
            let of_kernel: &mut Vec<(String, u64)> = code.entries.entry(name).or_default();
            of_kernel.push((level.name().into(), offset));
        }
        Ok(code)
    }

    fn text(
        &self,
        kernels: &BTreeMap<String, KernelSpec>,
        levels: &[String],
        form: TextForm,
    ) -> Result<String, Diag> {
        let output = match form {
            TextForm::LlvmIr => Output::Ir,
            TextForm::Asm => Output::Asm,
            TextForm::Ptx => return Err(Diag::new(Blame::User, "", "the cpu backend has no ptx")),
        };
        let mut text = String::new();
        for ((name, level), bytes) in self.compile(kernels, levels, output)? {
            text += &format!("; kernel {name}, level {level} ({} lanes)\n", level.lanes());
            text += &String::from_utf8_lossy(&bytes);
        }
        Ok(text)
    }
}
