//! Recipe files: a scheme and overrides by layer, as TOML.
//!
//! ```toml
//! scheme = "w8a8"
//! [[layer]]
//! match = "/encoder/layer.0/*"   # `*` is any text, `?` one character; the last rule that matches decides
//! scheme = "none"
//! ```

use super::{Override, Scheme, user};
use rsqc_ir::diag::Diag;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scheme: String,
    #[serde(default)]
    layer: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "match")]
    pattern: String,
    scheme: String,
}

pub(super) fn parse(file: &str, text: &str) -> Result<Scheme, Diag> {
    let parsed: File = toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .map_or(1, |s| 1 + text[..s.start.min(text.len())].matches('\n').count());
        user(&format!("{file}:{line}"), e.message().to_string()).help(
            "a recipe has `scheme = \"...\"` and any number of [[layer]] tables with `match` and `scheme`",
        )
    })?;
    let resolve = |name: &str| {
        Scheme::parse(name).map(|s| s.default).map_err(|mut d| {
            d.loc = format!("{file}: {}", d.loc);
            d
        })
    };
    Ok(Scheme {
        default: resolve(&parsed.scheme)?,
        overrides: parsed
            .layer
            .iter()
            .map(|r| {
                Ok(Override {
                    pattern: r.pattern.clone(),
                    scheme: resolve(&r.scheme)?,
                })
            })
            .collect::<Result<_, Diag>>()?,
        recipe: Some(text.to_string()),
    })
}
