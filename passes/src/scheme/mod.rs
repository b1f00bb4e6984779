//! Quantization schemes: what the user asks for, by name ([`grammar`]) or as a recipe file ([`recipe`]).

mod calibrator;
mod glob;
pub mod grammar;
mod layer;
mod legality;
pub mod listing;
mod parameters;
mod recipe;

pub use calibrator::Calibrator;
pub use glob::matches;
pub use layer::{Activations, LayerScheme, Quantized, ScaleSource, WeightScales, ZeroPoint};
pub use listing::{SchemeInfo, SchemeKind, listing};

use rsqc_ir::diag::{Blame, Diag};

/// A rule of a recipe: layers whose name matches get this scheme. The last rule that matches decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Override {
    /// Pattern over layer names: `*` is any text, `?` one character.
    pub pattern: String,
    /// What these layers become.
    pub scheme: LayerScheme,
}

/// A scheme: the default of all layers and overrides by layer name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scheme {
    /// What layers become that no override names.
    pub default: LayerScheme,
    /// Overrides in file order.
    pub overrides: Vec<Override>,
    /// The recipe's text, embedded in the artifact; `None` for a scheme given by name.
    pub recipe: Option<String>,
}

impl Scheme {
    /// The scheme of this name, e.g. `none` or `w8a8`. See [`grammar`].
    ///
    /// Errors: blame `User` for what the grammar does not know (with a suggestion), `Unsupported` for what it knows but
    /// rsqc cannot do yet.
    pub fn parse(text: &str) -> Result<Scheme, Diag> {
        Ok(Scheme {
            default: grammar::Spec::parse(text)?.resolve()?,
            overrides: Vec::new(),
            recipe: None,
        })
    }

    /// The scheme that a recipe file's text describes; `file` names it in messages.
    pub fn from_recipe(file: &str, text: &str) -> Result<Scheme, Diag> {
        recipe::parse(file, text)
    }

    /// What the layer of this name becomes, and which rule said so.
    pub fn of_layer(&self, name: &str) -> (&LayerScheme, Option<&Override>) {
        let rule = self.overrides.iter().rev().find(|o| matches(&o.pattern, name));
        (rule.map_or(&self.default, |o| &o.scheme), rule)
    }

    /// Whether no layer can be quantized.
    pub fn is_float(&self) -> bool {
        self.default == LayerScheme::Float && self.overrides.iter().all(|o| o.scheme == LayerScheme::Float)
    }

    /// Whether any layer may use the method of this name.
    pub fn uses(&self, method: &str) -> bool {
        let all = std::iter::once(&self.default).chain(self.overrides.iter().map(|o| &o.scheme));
        all.filter_map(LayerScheme::quantized)
            .any(|q| q.method(method).is_some())
    }

    /// Why samples are needed, as the part of the scheme that asks for them; `None` if no layer can need any.
    pub fn needs_samples(&self) -> Option<String> {
        let all = std::iter::once(&self.default).chain(self.overrides.iter().map(|o| &o.scheme));
        all.filter_map(LayerScheme::quantized).find_map(|q| {
            let method = q.methods.iter().find(|m| listing::needs_samples(m.name));
            let part = method.map(|m| m.name).or(q.is_static().then_some("static"));
            part.map(|p| format!("`{p}` of {q}"))
        })
    }

    /// Short name for file names and summaries.
    pub fn name(&self) -> String {
        match self.recipe {
            Some(_) => format!("{} (recipe)", self.default),
            None => self.default.to_string(),
        }
    }
}

fn user(loc: &str, message: String) -> Diag {
    Diag::new(Blame::User, loc, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_matching_override_decides() {
        let text = "scheme = \"w8a8\"\n[[layer]]\nmatch = \"/enc/*\"\nscheme = \"none\"\n[[layer]]\nmatch = \"/enc/fc?\"\nscheme = \"w8a8\"\n";
        let s = Scheme::from_recipe("r.toml", text).expect("well formed");
        for (layer, want) in [("/head", "w8a8"), ("/enc/q", "none"), ("/enc/fc1", "w8a8")] {
            assert_eq!(s.of_layer(layer).0.to_string(), want);
        }
        assert_eq!(s.name(), "w8a8 (recipe)");
        assert!(!s.is_float());
        assert!(Scheme::parse("none").expect("known").is_float());
        assert_eq!(s.needs_samples(), None);
        let text = "scheme = \"w8a8\"\n[[layer]]\nmatch = \"a\"\nscheme = \"w8a8-static+mse\"\n";
        let s = Scheme::from_recipe("r.toml", text).expect("well formed");
        assert_eq!(s.needs_samples().as_deref(), Some("`mse` of w8a8-static+mse"));
    }

    #[test]
    fn recipes_reject_what_they_do_not_know() {
        for (text, want) in [
            ("schem = \"w8a8\"", "unknown field `schem`"),
            (
                "scheme = \"w8a8\"\n[[layer]]\nmatch = \"x\"\n",
                "missing field `scheme`",
            ),
            ("scheme = 3", "expected a string"),
            ("scheme = \"w8a8+mse\"", "computed at run time"),
            (
                "scheme = \"w8a8\"\n[[layer]]\nmatch = \"x\"\nscheme = \"w8a8-static+ema:momentum=7\"\n",
                "cannot be `7`",
            ),
            (
                "scheme = \"w8a8\"\n[[layer]]\nmatch = \"x\"\nscheme = \"w8a8\"\nalpha = 1\n",
                "unknown field `alpha`",
            ),
            ("", "missing field `scheme`"),
        ] {
            let e = Scheme::from_recipe("r.toml", text).expect_err("invalid");
            assert_eq!(e.blame, Blame::User);
            assert!(e.message.contains(want), "{}", e.message);
            assert!(e.loc.starts_with("r.toml"));
        }
        let e = Scheme::from_recipe("r.toml", "scheme = \"w4a16\"").expect_err("not yet");
        assert_eq!(e.blame, Blame::Unsupported);
    }
}
