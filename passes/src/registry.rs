//! THE list of passes. A new pass is one file and one row here; its place in compilation is in [`crate::pipeline`].

use crate::pass::{Pass, PassOptions};
use rsqc_ir::diag::{Blame, Diag};

/// Makes a pass from its options.
type Make = fn(&mut PassOptions) -> Result<Box<dyn Pass>, Diag>;

/// A row of the list.
pub struct PassInfo {
    /// Name on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    make: Make,
}

macro_rules! passes {
    ($($name:literal, $doc:literal, $make:expr;)*) => {
        /// All passes, grouped by folder.
        pub const PASSES: &[PassInfo] = &[$(PassInfo { name: $name, doc: $doc, make: $make }),*];
    };
}

passes! {}

/// The pass of this name with the given options.
fn make(name: &str, mut options: PassOptions) -> Result<Box<dyn Pass>, Diag> {
    let row = PASSES
        .iter()
        .find(|p| p.name == name)
        .ok_or_else(|| unknown(name))?;
    let pass = (row.make)(&mut options)?;
    options.finish()?;
    Ok(pass)
}

/// Passes from text `name,name:x=1:y=2,...`. Unknown names and options are user errors that list what exists.
pub fn parse(list: &str) -> Result<Vec<Box<dyn Pass>>, Diag> {
    list.split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| {
            let (name, options) = PassOptions::parse(s)?;
            make(&name, options)
        })
        .collect()
}

fn unknown(name: &str) -> Diag {
    let near = PASSES
        .iter()
        .map(|p| (strsim::osa_distance(name, p.name), p.name))
        .min()
        .filter(|(d, n)| *d <= n.len() / 2);
    let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
    let help = match near {
        Some((_, n)) => format!("did you mean `{n}`? passes: {}", names.join(", ")),
        None => format!("passes: {}", names.join(", ")),
    };
    Diag::new(Blame::User, name, format!("there is no pass `{name}`")).help(help)
}
