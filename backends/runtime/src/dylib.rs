//! Client of an artifact's C interface, for rsqc's own tools: checks the file, then loads it.
//!
//! The file is opened once; every byte is checked through that descriptor before the same descriptor is loaded, so
//! that a rename in between changes nothing. The descriptor is never closed: the loader recognises libraries by
//! name, and a reused `/proc/self/fd/N` would be answered with this library again.
#![allow(unsafe_code)]

use crate::abi::{
    API_VERSION, Api, COptions, CSessionOptions, CStepTime, CTensor, DIM_EXPRESSION, VERIFY_DEFAULT,
    VERIFY_NONE,
};
use crate::error::RuntimeError;
use crate::exec::StepTime;
use crate::memory::FileMap;
use crate::session::{SessionOptions, output_bytes};
use crate::tensor::{Tensor, TensorView};
use rsqc_artifact::container::{self, ArtifactView};
use rsqc_artifact::manifest::{self, Manifest};
use rsqc_artifact::validate::MAX_RANK;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::path::Path;
use std::sync::Arc;

/// An artifact's file, mapped and readable without loading it.
#[derive(Debug)]
pub struct ArtifactFile {
    file: File,
    map: FileMap,
}

impl ArtifactFile {
    /// Opens and maps a file.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] if it cannot be opened or is no regular file.
    pub fn open(path: &Path) -> Result<ArtifactFile, RuntimeError> {
        let fail = |e: std::io::Error| RuntimeError::Io(e.to_string());
        let file = File::open(path).map_err(fail)?;
        let info = file.metadata().map_err(fail)?;
        if !info.is_file() {
            return Err(RuntimeError::Io("not a regular file".into()));
        }
        let len =
            usize::try_from(info.len()).map_err(|_| RuntimeError::Io("the file is too large".into()))?;
        let map = FileMap::new(&file, len)?;
        Ok(ArtifactFile { file, map })
    }

    /// Reads the artifact: index, manifest and code are checked (see [`container::read`]).
    ///
    /// # Errors
    /// [`RuntimeError::Corrupt`] or `Version`.
    pub fn view(&self) -> Result<ArtifactView<'_>, RuntimeError> {
        Ok(container::read(self.map.as_slice())?)
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_slice()
    }
}

/// A loaded artifact.
pub struct Artifact {
    api: &'static Api,
    model: *mut c_void,
    manifest: Manifest,
    root: [u8; 32],
    level: String,
}

// SAFETY: a model of the C interface is immutable and may be used by any thread.
unsafe impl Send for Artifact {}
// SAFETY: as above.
unsafe impl Sync for Artifact {}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact")
            .field("model", &self.manifest.model_name)
            .finish_non_exhaustive()
    }
}

type Lookup = unsafe extern "C" fn(u32) -> *const Api;

impl Artifact {
    /// Checks every byte of a file and loads it; the level is the machine's best, or that of `RSQC_CPU_LEVEL`.
    ///
    /// # Errors
    /// [`RuntimeError::Io`], `Corrupt`, `Version` or `Cpu`.
    pub fn open(path: &Path) -> Result<Arc<Artifact>, RuntimeError> {
        Artifact::open_at(path, None)
    }

    /// As [`Artifact::open`], with a forced level.
    ///
    /// # Errors
    /// As [`Artifact::open`].
    pub fn open_at(path: &Path, level: Option<&str>) -> Result<Arc<Artifact>, RuntimeError> {
        let file = ArtifactFile::open(path)?;
        let view = file.view()?;
        view.verify_full()?;
        let (root, manifest) = (view.root, view.manifest);
        drop(file.map);
        let api = load(file.file)?;
        // Every byte was just checked; the runtime need not do it again.
        let artifact = Artifact::open_model(api, level, VERIFY_NONE, manifest)?;
        if artifact.root != root {
            return Err(RuntimeError::Corrupt(
                "the loader gave another library than the one checked".into(),
            ));
        }
        Ok(Arc::new(artifact))
    }

    /// Loads a file as any program would, with no checks but those of the runtime inside it. The file's code runs
    /// before any check.
    ///
    /// # Errors
    /// [`RuntimeError::Io`], `Corrupt`, `Version` or `Cpu`.
    pub fn open_unchecked(path: &Path, level: Option<&str>) -> Result<Arc<Artifact>, RuntimeError> {
        let file = File::open(path).map_err(|e| RuntimeError::Io(e.to_string()))?;
        let artifact = Artifact::open_model(load(file)?, level, VERIFY_DEFAULT, Manifest::default())?;
        Ok(Arc::new(artifact))
    }

    fn open_model(
        api: &'static Api,
        level: Option<&str>,
        verify: u32,
        manifest: Manifest,
    ) -> Result<Artifact, RuntimeError> {
        let level = level.map(CString::new).transpose();
        let level = level.map_err(|_| RuntimeError::Invalid("the level's name holds a zero".into()))?;
        let options = COptions {
            struct_size: size_of::<COptions>() as u32,
            verify,
            level: level.as_ref().map_or(std::ptr::null(), |l| l.as_ptr()),
            log: None,
            log_context: std::ptr::null_mut(),
        };
        let mut model = std::ptr::null_mut();
        let mut text = [0u8; 1024];
        // SAFETY: all pointers are valid for the call.
        let status = unsafe {
            (api.open)(
                &raw const options,
                &raw mut model,
                text.as_mut_ptr().cast::<c_char>(),
                text.len(),
            )
        };
        if status != 0 {
            let text = CStr::from_bytes_until_nul(&text).map_or("", |t| t.to_str().unwrap_or(""));
            return Err(from_status(status, text.to_owned()));
        }
        let mut artifact = Artifact {
            api,
            model,
            manifest,
            root: [0; 32],
            level: String::new(),
        };
        // SAFETY: `model` is open; the strings and digests live as long as it.
        unsafe {
            artifact.root = *(api.root)(model).cast::<[u8; 32]>();
            artifact.level = CStr::from_ptr((api.level)(model)).to_string_lossy().into_owned();
            if verify != VERIFY_NONE {
                let mut len = 0;
                let bytes = (api.manifest)(model, &raw mut len);
                artifact.manifest = manifest::decode(std::slice::from_raw_parts(bytes, len))?;
            }
        }
        Ok(artifact)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The digest that identifies the file.
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// The level whose kernels run.
    pub fn level(&self) -> &str {
        &self.level
    }
}

impl Drop for Artifact {
    fn drop(&mut self) {
        // SAFETY: opened by `open_model`, closed once; sessions hold the artifact alive.
        unsafe { (self.api.close)(self.model) };
    }
}

/// Loads an opened file and returns its interface. Leaks the descriptor on purpose (see the module's text).
fn load(file: File) -> Result<&'static Api, RuntimeError> {
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("no zero in it");
    // SAFETY: loads a library; its initialisers are those of the template, which do nothing.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        // SAFETY: dlerror returns null or a string that lives until the next call in this thread.
        let text = unsafe {
            libc::dlerror()
                .as_ref()
                .map(|t| CStr::from_ptr(t).to_string_lossy().into_owned())
        };
        return Err(RuntimeError::Io(format!(
            "cannot load it: {}",
            text.unwrap_or_default()
        )));
    }
    let _ = file.into_raw_fd();
    // SAFETY: the library is loaded.
    let lookup = unsafe { libc::dlsym(library, c"rsqc_model_api".as_ptr()) };
    if lookup.is_null() {
        return Err(RuntimeError::Io("it is a library without rsqc_model_api".into()));
    }
    // SAFETY: the function has this type in every artifact.
    let api = unsafe { std::mem::transmute::<*mut c_void, Lookup>(lookup)(API_VERSION).as_ref() };
    api.filter(|api| api.struct_size as usize >= size_of::<Api>())
        .ok_or_else(|| RuntimeError::Version(format!("the artifact does not offer interface {API_VERSION}")))
}

fn from_status(status: i32, text: String) -> RuntimeError {
    match status {
        1 => RuntimeError::Invalid(text),
        2 | 3 => RuntimeError::Shape(text),
        4 => RuntimeError::NoMemory(text),
        5 => RuntimeError::Corrupt(text),
        6 => RuntimeError::Version(text),
        7 => RuntimeError::Cpu(text),
        8 => RuntimeError::Busy,
        10 => RuntimeError::Unsupported(text),
        _ => RuntimeError::Internal(text),
    }
}

/// A session of a loaded artifact.
#[derive(Debug)]
pub struct ArtifactSession {
    artifact: Arc<Artifact>,
    session: *mut c_void,
}

// SAFETY: a session may move between threads; `&mut self` keeps its calls apart.
unsafe impl Send for ArtifactSession {}

impl ArtifactSession {
    /// A session; with `profile`, each step is timed.
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`].
    pub fn new(
        artifact: &Arc<Artifact>,
        options: &SessionOptions,
        profile: bool,
    ) -> Result<ArtifactSession, RuntimeError> {
        let options = CSessionOptions {
            struct_size: size_of::<CSessionOptions>() as u32,
            threads: u32::try_from(options.threads).unwrap_or(u32::MAX),
            spin_us: if options.spin_us == 0 {
                -1
            } else {
                i32::try_from(options.spin_us).unwrap_or(i32::MAX)
            },
            profile: u32::from(profile),
            parallel_for: options.parallel_for.map(|p| p.call),
            parallel_context: options.parallel_for.map_or(std::ptr::null_mut(), |p| p.context),
        };
        let mut session = std::ptr::null_mut();
        let mut text = [0u8; 1024];
        // SAFETY: all pointers are valid for the call; the model is open.
        let status = unsafe {
            (artifact.api.session_new)(
                artifact.model,
                &raw const options,
                &raw mut session,
                text.as_mut_ptr().cast::<c_char>(),
                text.len(),
            )
        };
        if status != 0 {
            let text = CStr::from_bytes_until_nul(&text).map_or("", |t| t.to_str().unwrap_or(""));
            return Err(from_status(status, text.to_owned()));
        }
        Ok(ArtifactSession {
            artifact: Arc::clone(artifact),
            session,
        })
    }

    /// A session with a number of threads (0: default).
    ///
    /// # Errors
    /// [`RuntimeError::NoMemory`].
    pub fn with_threads(artifact: &Arc<Artifact>, threads: usize) -> Result<ArtifactSession, RuntimeError> {
        ArtifactSession::new(
            artifact,
            &SessionOptions {
                threads,
                ..SessionOptions::default()
            },
            false,
        )
    }

    /// The artifact.
    pub fn artifact(&self) -> &Arc<Artifact> {
        &self.artifact
    }

    /// Bytes of working memory that the session holds.
    pub fn memory_bytes(&self) -> u64 {
        // SAFETY: the session is alive.
        unsafe { (self.artifact.api.memory)(self.session) }
    }

    fn check(&self, status: i32) -> Result<(), RuntimeError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the session is alive; the text is copied before its next call.
        let text = unsafe { CStr::from_ptr((self.artifact.api.error)(self.session)) };
        Err(from_status(status, text.to_string_lossy().into_owned()))
    }

    /// Shapes of the outputs; `None` for a dimension that only the run tells.
    ///
    /// # Errors
    /// [`RuntimeError::Shape`] or `Invalid`.
    pub fn infer(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Vec<Option<i64>>>, RuntimeError> {
        let given = c_inputs(inputs);
        let mut dims = vec![[0i64; MAX_RANK]; self.artifact.manifest.outputs.len()];
        let mut outputs = c_outputs(&self.artifact.manifest, &mut dims);
        // SAFETY: the arrays are as long as stated and alive.
        let status = unsafe {
            (self.artifact.api.infer)(
                self.session,
                given.as_ptr(),
                given.len() as u32,
                outputs.as_mut_ptr(),
                outputs.len() as u32,
            )
        };
        self.check(status)?;
        let known = |d: &i64| (*d != DIM_EXPRESSION).then_some(*d);
        Ok(outputs
            .iter()
            .zip(&dims)
            .map(|(o, dims)| dims[..o.rank as usize].iter().map(known).collect())
            .collect())
    }

    /// Runs the model; allocates the outputs.
    ///
    /// # Errors
    /// Whatever the run reports.
    pub fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, RuntimeError> {
        let artifact = Arc::clone(&self.artifact);
        let ios = &artifact.manifest.outputs;
        let shapes = self.infer(inputs)?;
        let mut sizes = Vec::with_capacity(ios.len());
        for (io, shape) in ios.iter().zip(&shapes) {
            // A size that is computed in the run: ask with nothing, the run says how much it needs.
            let dims: Option<Vec<i64>> = shape.iter().copied().collect();
            sizes.push(dims.map_or(Ok(0), |dims| output_bytes(io, &dims))?);
        }
        let given = c_inputs(inputs);
        for _ in 0..2 {
            let mut data = Vec::with_capacity(sizes.len());
            for size in &sizes {
                data.push(zeroed(*size)?);
            }
            let mut dims = vec![[0i64; MAX_RANK]; ios.len()];
            let mut outputs = c_outputs(&artifact.manifest, &mut dims);
            for (output, data) in outputs.iter_mut().zip(&mut data) {
                output.data = data.as_mut_ptr().cast();
                output.capacity = data.len() as u64;
            }
            // SAFETY: the arrays are as long as stated; inputs and outputs are alive and do not overlap.
            let status = unsafe {
                (artifact.api.run)(
                    self.session,
                    given.as_ptr(),
                    given.len() as u32,
                    outputs.as_mut_ptr(),
                    outputs.len() as u32,
                    std::ptr::null_mut(),
                )
            };
            let shapes: Vec<Vec<i64>> = outputs
                .iter()
                .zip(&dims)
                .map(|(o, dims)| dims[..o.rank as usize].to_vec())
                .collect();
            if status == TOO_SMALL {
                for ((size, io), shape) in sizes.iter_mut().zip(ios).zip(&shapes) {
                    *size = (*size).max(output_bytes(io, shape)?);
                }
                continue;
            }
            self.check(status)?;
            let tensors = ios.iter().zip(shapes).zip(data).map(|((io, dims), mut data)| {
                data.truncate(crate::tensor::dense_bytes(io.elem(), &dims).unwrap_or(0));
                Tensor {
                    elem: io.elem(),
                    dims,
                    data,
                }
            });
            return Ok(tensors.collect());
        }
        Err(RuntimeError::Internal(
            "the outputs changed their sizes between two runs".into(),
        ))
    }

    /// Times of the steps of the last run, if the session profiles.
    ///
    /// # Errors
    /// [`RuntimeError::Busy`] never happens here; any other status is passed on.
    pub fn step_times(&mut self) -> Result<Vec<StepTime>, RuntimeError> {
        let mut count = 0;
        let call = |times: *mut CStepTime, capacity, count: &mut usize| {
            // SAFETY: `times` has `capacity` elements.
            unsafe { (self.artifact.api.step_times)(self.session, times, capacity, count) }
        };
        self.check(call(std::ptr::null_mut(), 0, &mut count))?;
        let mut times = vec![CStepTime::default(); count];
        self.check(call(times.as_mut_ptr(), times.len(), &mut count))?;
        Ok(times
            .iter()
            .map(|t| StepTime {
                step: t.step,
                ns: t.ns,
                calls: t.calls,
            })
            .collect())
    }
}

impl Drop for ArtifactSession {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { (self.artifact.api.session_free)(self.session) };
    }
}

/// `RSQC_TOO_SMALL`.
const TOO_SMALL: i32 = 3;

fn c_inputs(inputs: &[TensorView<'_>]) -> Vec<CTensor> {
    let tensor = |t: &TensorView<'_>| CTensor {
        struct_size: size_of::<CTensor>() as u32,
        dtype: t.elem as u32,
        rank: u32::try_from(t.dims.len()).unwrap_or(u32::MAX),
        reserved: 0,
        data: t.data.as_ptr().cast_mut().cast(),
        capacity: t.data.len() as u64,
        dims: t.dims.as_ptr().cast_mut(),
        strides: std::ptr::null(),
    };
    inputs.iter().map(tensor).collect()
}

fn c_outputs(m: &Manifest, dims: &mut [[i64; MAX_RANK]]) -> Vec<CTensor> {
    let tensor = |(io, dims): (&manifest::Io, &mut [i64; MAX_RANK])| CTensor {
        struct_size: size_of::<CTensor>() as u32,
        dtype: io.elem as u32,
        rank: MAX_RANK as u32,
        reserved: 0,
        data: std::ptr::null_mut(),
        capacity: 0,
        dims: dims.as_mut_ptr(),
        strides: std::ptr::null(),
    };
    m.outputs.iter().zip(dims).map(tensor).collect()
}

fn zeroed(bytes: usize) -> Result<Vec<u8>, RuntimeError> {
    let mut data = Vec::new();
    data.try_reserve_exact(bytes)
        .map_err(|_| RuntimeError::NoMemory(format!("{bytes} bytes")))?;
    data.resize(bytes, 0);
    Ok(data)
}
