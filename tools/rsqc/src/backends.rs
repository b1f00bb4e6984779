//! THE list of backends.

use rsqc_backend::Backend;

/// All backends by name; the first is the default.
pub fn all() -> Vec<Box<dyn Backend>> {
    vec![Box::new(rsqc_cpu::Cpu::default())]
}

/// The backend of this name.
pub fn find(name: &str) -> Option<Box<dyn Backend>> {
    all().into_iter().find(|b| b.name() == name)
}
