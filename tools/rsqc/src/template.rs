//! The template of every artifact: the runtime as a prelinked shared library, without a model. `build.rs` makes it.

/// The bytes of the template; input of [`rsqc_artifact::container::write`].
pub static TEMPLATE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/template.so"));
