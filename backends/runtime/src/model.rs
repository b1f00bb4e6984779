//! A model: validated plan, resolved kernels, weights. Immutable and shared by its sessions.
#![allow(unsafe_code)]

use crate::cpu;
use crate::error::RuntimeError;
use crate::layout::Layout;
use crate::memory::ExecMap;
use crate::weights::{SharedBytes, Weights};
use rsqc_artifact::manifest::Manifest;
use rsqc_artifact::{KernelFn, Level, validate};
use std::sync::Arc;

/// Where the machine code of the kernels is.
pub enum KernelSource<'a> {
    /// A position-independent blob; mapped executable by [`Model::from_parts`].
    Code(&'a [u8]),
    /// One function a kernel of the manifest, whatever the level.
    Functions(Vec<KernelFn>),
    /// Code that is mapped executable already, for the rest of the process.
    Mapped {
        /// Its first byte.
        base: *const u8,
        /// Its length in bytes.
        len: usize,
    },
}

impl<'a> From<&'a [u8]> for KernelSource<'a> {
    fn from(code: &'a [u8]) -> Self {
        KernelSource::Code(code)
    }
}

impl<'a> From<&'a Vec<u8>> for KernelSource<'a> {
    fn from(code: &'a Vec<u8>) -> Self {
        KernelSource::Code(code)
    }
}

impl From<Vec<KernelFn>> for KernelSource<'_> {
    fn from(functions: Vec<KernelFn>) -> Self {
        KernelSource::Functions(functions)
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    manifest: Manifest,
    layout: Layout,
    level: Level,
    kernels: Vec<KernelFn>,
    weights: Weights,
    /// Keeps the kernels mapped.
    _code: Option<ExecMap>,
}

impl Model {
    /// A model from its parts, for execution in this process.
    ///
    /// `code` is the blob that the manifest's kernel entries point into (or functions, in tests); the level is
    /// the machine's best, or the one that `RSQC_CPU_LEVEL` names. `manifest.code` and `manifest.weights` may be
    /// absent; if given, their lengths must be those of the parts.
    ///
    /// # Errors
    /// [`RuntimeError::Corrupt`] or [`RuntimeError::Version`] for a plan that breaks a rule, `Cpu` if this
    /// machine cannot run it, `NoMemory`.
    pub fn from_parts<'a>(
        manifest: Manifest,
        code: impl Into<KernelSource<'a>>,
        weights: SharedBytes,
    ) -> Result<Arc<Model>, RuntimeError> {
        let level = cpu::level_from_env()?;
        Model::from_parts_at(manifest, code, weights, level)
    }

    /// As [`Model::from_parts`], with a forced level (`None`: the machine's best).
    ///
    /// # Errors
    /// As [`Model::from_parts`]; `Cpu` if the machine lacks the level.
    pub fn from_parts_at<'a>(
        mut manifest: Manifest,
        code: impl Into<KernelSource<'a>>,
        weights: SharedBytes,
        level: Option<Level>,
    ) -> Result<Arc<Model>, RuntimeError> {
        let source = code.into();
        let code_len = match &source {
            KernelSource::Code(code) => code.len(),
            KernelSource::Functions(_) => 0,
            KernelSource::Mapped { len, .. } => *len,
        };
        let weight_len = (*weights).as_ref().len();
        manifest.code.get_or_insert_default().length = code_len as u64;
        let declared = manifest.weights.get_or_insert_default();
        if declared.length == 0 || declared.length > weight_len as u64 {
            declared.length = weight_len as u64;
        }
        let used = declared.length as usize;
        let weights = Weights::shared(weights, used)?;
        Model::assemble(manifest, source, weights, level)
    }

    /// The common end of all constructors.
    pub(crate) fn assemble(
        manifest: Manifest,
        source: KernelSource<'_>,
        weights: Weights,
        level: Option<Level>,
    ) -> Result<Arc<Model>, RuntimeError> {
        validate(&manifest)?;
        let level = match level {
            Some(level) => cpu::parse_level(level.name())?,
            None => cpu::best_level(),
        };
        let (kernels, map) = resolve(&manifest, source, level)?;
        let layout = Layout::new(&manifest)?;
        Ok(Arc::new(Model {
            manifest,
            layout,
            level,
            kernels,
            weights,
            _code: map,
        }))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The level whose kernels run.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn kernel(&self, id: u32) -> KernelFn {
        self.kernels[id as usize]
    }
}

/// The function of every kernel at the best usable level.
fn resolve(
    manifest: &Manifest,
    source: KernelSource<'_>,
    level: Level,
) -> Result<(Vec<KernelFn>, Option<ExecMap>), RuntimeError> {
    let (base, len, map) = match source {
        KernelSource::Functions(functions) => {
            if functions.len() != manifest.kernels.len() {
                return Err(RuntimeError::Invalid(format!(
                    "the plan has {} kernels, {} functions are given",
                    manifest.kernels.len(),
                    functions.len()
                )));
            }
            return Ok((functions, None));
        }
        KernelSource::Code(code) => {
            let map = ExecMap::new(code)?;
            (map.as_ptr(), code.len(), Some(map))
        }
        KernelSource::Mapped { base, len } => (base, len, None),
    };
    let usable = cpu::usable_levels(level);
    let mut kernels = Vec::with_capacity(manifest.kernels.len());
    for kernel in &manifest.kernels {
        let entry = usable
            .iter()
            .find_map(|level| kernel.entries.iter().find(|e| e.level == level.name()));
        let Some(entry) = entry else {
            let built: Vec<&str> = kernel.entries.iter().map(|e| e.level.as_str()).collect();
            return Err(RuntimeError::Cpu(format!(
                "kernel {} exists for {} only, this machine runs {level} and below",
                kernel.name,
                built.join(", ")
            )));
        };
        let offset = usize::try_from(entry.offset)
            .ok()
            .filter(|offset| *offset < len)
            .ok_or_else(|| RuntimeError::Corrupt(format!("kernel {} lies outside the code", kernel.name)))?;
        // SAFETY: the offset lies inside the executable mapping; the manifest says that a function with the
        // kernel interface starts there.
        kernels.push(unsafe { std::mem::transmute::<*const u8, KernelFn>(base.wrapping_add(offset)) });
    }
    Ok((kernels, map))
}
