//! Parameters of methods: which keys a method takes and which values, checked when a scheme is parsed.

use super::grammar::MethodUse;
use super::user;
use rsqc_ir::diag::Diag;

/// A parameter of a method: a number in a range, or one of some words.
struct Parameter {
    method: &'static str,
    key: &'static str,
    /// Inclusive bounds, if it can be a number.
    range: Option<(f64, f64)>,
    words: &'static [&'static str],
}

const fn number(method: &'static str, key: &'static str, lo: f64, hi: f64) -> Parameter {
    Parameter {
        method,
        key,
        range: Some((lo, hi)),
        words: &[],
    }
}

const PARAMETERS: &[Parameter] = &[
    number("ema", "momentum", 1e-6, 1.0),
    number("percentile", "p", 50.0, 100.0),
    Parameter {
        method: "biascorrection",
        key: "layers",
        range: None,
        words: &["conv", "none"],
    },
    Parameter {
        method: "smoothquant",
        key: "alpha",
        range: Some((0.0, 1.0)),
        words: &["auto"],
    },
    Parameter {
        method: "smoothquant",
        key: "sites",
        range: None,
        words: &["all", "commuting"],
    },
    Parameter {
        method: "smoothquant",
        key: "mode",
        range: None,
        words: &["layer", "block"],
    },
    number("smoothquant", "min", 0.0, 1.0),
    number("smoothquant", "max", 0.0, 1.0),
    number("smoothquant", "step", 0.0, 1.0),
];

impl MethodUse {
    /// The text of a parameter, if it was given.
    pub fn text(&self, key: &str) -> Option<&str> {
        let pair = self.parameters.iter().find(|(k, _)| k == key);
        pair.map(|(_, v)| v.as_str())
    }

    /// A parameter as a number; `None` if it was not given or is a word.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.text(key)?.parse().ok()
    }
}

/// Whether a method's parameters are known, given once, and in range. Methods that this version cannot do take anything.
pub(super) fn check(scheme: &str, m: &MethodUse, supported: bool) -> Result<(), Diag> {
    let known: Vec<&Parameter> = PARAMETERS.iter().filter(|p| p.method == m.name).collect();
    if !supported && known.is_empty() {
        return Ok(());
    }
    for (i, (key, value)) in m.parameters.iter().enumerate() {
        let Some(p) = known.iter().find(|p| p.key == key) else {
            let keys: Vec<&str> = known.iter().map(|p| p.key).collect();
            let help = match keys.as_slice() {
                [] => format!("`{}` has no parameters", m.name),
                keys => format!("parameters of `{}`: {}", m.name, keys.join(", ")),
            };
            return Err(user(scheme, format!("method `{}` has no parameter `{key}`", m.name)).help(help));
        };
        if m.parameters[..i].iter().any(|(k, _)| k == key) {
            return Err(user(
                scheme,
                format!("parameter `{key}` of method `{}` is given twice", m.name),
            ));
        }
        let fits = value
            .parse::<f64>()
            .is_ok_and(|v| p.range.is_some_and(|(lo, hi)| lo <= v && v <= hi));
        if !fits && !p.words.contains(&value.as_str()) {
            let number = p.range.map(|(lo, hi)| format!("a number from {lo} to {hi}"));
            let words = p.words.iter().map(|w| format!("`{w}`"));
            let values: Vec<String> = number.into_iter().chain(words).collect();
            return Err(user(
                scheme,
                format!("parameter `{key}` of method `{}` cannot be `{value}`", m.name),
            )
            .help(values.join(", or ")));
        }
    }
    Ok(())
}
