//! Finished code by name and level: what a backend has generated once it does not generate again.
//!
//! A kernel's name ends in a hash of everything that its code depends on, and a routine's symbol says as much, so the
//! bytes are the same whether they come from here or from LLVM. One compilation gains where the float model runs for
//! calibration; processes that compile many models, as tests do, gain most.

use crate::llvm::Routine;
use crate::relocate::CodeKey;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// An object and what it calls.
#[derive(Clone)]
pub struct Finished {
    /// A relocatable ELF object.
    pub object: Arc<[u8]>,
    /// Routines that the object refers to by their symbols.
    pub routines: Vec<Arc<dyn Routine>>,
}

/// All objects that a backend has generated so far.
#[derive(Default)]
pub struct CodeCache {
    finished: Mutex<BTreeMap<CodeKey, Finished>>,
}

impl CodeCache {
    /// The object of this name and level; made by `make` if it is the first time.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept then.
    pub fn get_or<E>(
        &self,
        key: &CodeKey,
        make: impl FnOnce() -> Result<Finished, E>,
    ) -> Result<Finished, E> {
        // A thread that panicked has inserted a whole entry or none.
        let lock = || self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(key) {
            return Ok(found.clone());
        }
        let made = make()?;
        lock().insert(key.clone(), made.clone());
        Ok(made)
    }
}

impl fmt::Debug for CodeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "CodeCache({} objects)", finished.len())
    }
}
