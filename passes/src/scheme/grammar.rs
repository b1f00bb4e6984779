//! The grammar of scheme names.
//!
//! ```text
//! SCHEME = BASE [-OPTION]... [+METHOD[:key=value]...]...
//! BASE   = none | w<bits>a<bits>[kv<bits>] | a named format (fp8, nf4a16, ...)
//! OPTION = g<n> | static | tensor | token | sym | asym | wtensor
//! METHOD = the paper's name
//! ```
//!
//! An alias may stand for everything in front of the methods. Mixes that make no sense are refused when a name is parsed
//! (`legality.rs`), and so are parameters that a method does not have (`parameters.rs`).
//!
//! The grammar knows more than the compiler can do: [`Spec::parse`] answers whether a name is well formed,
//! [`Spec::resolve`] whether it is supported.

use super::listing::{BASES, METHODS, OPTIONS, aliases, is_supported};
use super::{
    Activations, LayerScheme, Quantized, ScaleSource, WeightScales, ZeroPoint, legality, parameters, user,
};
use rsqc_ir::diag::{Blame, Diag};

/// The base format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    /// No quantization.
    None,
    /// Integer weights, activations and, if given, key-value caches of so many bits; 16 activation bits mean float.
    Bits {
        /// Weight bits.
        weights: u32,
        /// Activation bits.
        activations: u32,
        /// Cache bits.
        cache: Option<u32>,
    },
    /// A named format.
    Named(&'static str),
}

/// An option behind the base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SchemeOption {
    /// Weight groups of this size.
    Group(u32),
    /// One of the words `static`, `tensor`, `token`, `sym`, `asym`, `wtensor`.
    Word(&'static str),
}

/// Prints the option as typed.
impl std::fmt::Display for SchemeOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SchemeOption::Group(n) => write!(f, "g{n}"),
            SchemeOption::Word(w) => f.write_str(w),
        }
    }
}

/// A method with its parameters in the order given.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MethodUse {
    /// Name.
    pub name: &'static str,
    /// `key=value` pairs.
    pub parameters: Vec<(String, String)>,
}

/// A scheme name taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The text as given.
    pub text: String,
    /// Base format.
    pub base: Base,
    /// Options in the order given.
    pub options: Vec<SchemeOption>,
    /// Methods in the order given.
    pub methods: Vec<MethodUse>,
}

impl Spec {
    /// Takes a scheme name apart. Aliases are replaced first.
    pub fn parse(text: &str) -> Result<Spec, Diag> {
        // What an alias stands for may be followed by further methods.
        let (word, rest) = text.split_at(text.find('+').unwrap_or(text.len()));
        let expanded = aliases().find(|(a, _)| *a == word);
        let full = expanded.map_or(text.to_string(), |(_, e)| format!("{e}{rest}"));
        let mut parts = full.split('+');
        let head = parts.next().unwrap_or_default();
        let mut words = head.split('-');
        let base = parse_base(text, words.next().unwrap_or_default())?;
        let options = words
            .map(|w| parse_option(text, w))
            .collect::<Result<Vec<_>, _>>()?;
        let methods = parts
            .map(|p| parse_method(text, p))
            .collect::<Result<Vec<_>, _>>()?;
        let spec = Spec {
            text: text.to_string(),
            base,
            options,
            methods,
        };
        legality::check(&spec)?;
        Ok(spec)
    }

    /// Whether the option `word` is given.
    pub(super) fn has(&self, word: &str) -> bool {
        self.options
            .iter()
            .any(|o| matches!(o, SchemeOption::Word(w) if *w == word))
    }

    /// What layers become, or blame `Unsupported` with the part that is not supported yet.
    pub fn resolve(&self) -> Result<LayerScheme, Diag> {
        let no = |what: String| {
            Err(Diag::new(
                Blame::Unsupported,
                self.text.clone(),
                format!("{what} is not supported yet"),
            )
            .help("`rsqc schemes` lists what is supported"))
        };
        let (weight_bits, float) = match &self.base {
            Base::None => return Ok(LayerScheme::Float),
            Base::Bits {
                weights: 8,
                activations: 8,
                cache: None,
            } => (8, false),
            Base::Bits {
                weights: 8,
                activations: 16,
                cache: None,
            } if is_supported("w8a16") => (8, true),
            Base::Bits {
                weights,
                activations,
                cache,
            } => {
                let kv = cache.map(|c| format!("kv{c}")).unwrap_or_default();
                return no(format!("`w{weights}a{activations}{kv}`"));
            }
            Base::Named(n) => return no(format!("`{n}`")),
        };
        for o in &self.options {
            match o {
                SchemeOption::Word(w) if is_supported(w) => {}
                o => return no(format!("option `{o}`")),
            }
        }
        if let Some(m) = self.methods.iter().find(|m| !is_supported(m.name)) {
            return no(format!("method `{}`", m.name));
        }
        Ok(LayerScheme::Quantized(Quantized {
            weight_bits,
            weight_scales: if self.has("wtensor") {
                WeightScales::Tensor
            } else {
                WeightScales::Channel
            },
            activations: if float { Activations::Float } else { self.codes() },
            methods: self.methods.clone(),
        }))
    }

    /// Activation codes that the options ask for.
    fn codes(&self) -> Activations {
        let source = match (self.has("static"), self.has("tensor")) {
            (true, _) => ScaleSource::Static,
            (false, true) => ScaleSource::DynamicTensor,
            (false, false) => ScaleSource::DynamicToken,
        };
        let zero = match (self.has("sym"), self.has("asym")) {
            (true, _) => ZeroPoint::Symmetric,
            (false, true) => ZeroPoint::Asymmetric,
            (false, false) => ZeroPoint::Auto,
        };
        Activations::Int8 { source, zero }
    }
}

/// "did you mean" and the list of valid names.
fn suggest(word: &str, names: &[&'static str]) -> String {
    let near = names
        .iter()
        .map(|n| (strsim::osa_distance(word, n), *n))
        .min()
        .filter(|(d, n)| *d <= n.len().max(2) / 2);
    let list = names.join(", ");
    match near {
        Some((_, n)) => format!("did you mean `{n}`? valid: {list}"),
        None => format!("valid: {list}"),
    }
}

fn parse_base(text: &str, word: &str) -> Result<Base, Diag> {
    if word == "none" {
        return Ok(Base::None);
    }
    if let Some(b) = BASES.iter().find(|b| b.name == word) {
        return Ok(Base::Named(b.name));
    }
    if let Some(base) = parse_bits(word) {
        let Base::Bits {
            weights,
            activations,
            cache,
        } = base
        else {
            return Ok(base);
        };
        let ok = (1..=8).contains(&weights)
            && ((2..=8).contains(&activations) || activations == 16)
            && cache.is_none_or(|c| (2..=8).contains(&c));
        return if ok {
            Ok(base)
        } else {
            Err(
                user(text, format!("bit widths of `{word}` are out of range")).help(
                    "weights have 1 to 8 bits, activations 2 to 8 or 16 (float), caches 2 to 8; e.g. w8a8, w4a16, w8a8kv8",
                ),
            )
        };
    }
    let mut names = vec!["none", "w8a8"];
    names.extend(BASES.iter().map(|b| b.name));
    names.extend(aliases().map(|(a, _)| a));
    Err(
        user(text, format!("there is no scheme base `{word}`")).help(format!(
            "{}, or w<bits>a<bits>[kv<bits>]; see `rsqc schemes`",
            suggest(word, &names)
        )),
    )
}

/// `w<bits>a<bits>[kv<bits>]`.
fn parse_bits(word: &str) -> Option<Base> {
    fn number(s: &str) -> Option<(u32, &str)> {
        let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
        Some((s[..end].parse().ok()?, &s[end..]))
    }
    let (weights, rest) = number(word.strip_prefix('w')?)?;
    let (activations, rest) = number(rest.strip_prefix('a')?)?;
    let cache = match rest.strip_prefix("kv") {
        Some(r) => match number(r)? {
            (c, "") => Some(c),
            _ => return None,
        },
        None if rest.is_empty() => None,
        None => return None,
    };
    Some(Base::Bits {
        weights,
        activations,
        cache,
    })
}

fn parse_option(text: &str, word: &str) -> Result<SchemeOption, Diag> {
    if let Some(n) = word.strip_prefix('g').and_then(|n| n.parse::<u32>().ok()) {
        return if n > 0 {
            Ok(SchemeOption::Group(n))
        } else {
            Err(user(text, "a group needs at least one element".to_string()))
        };
    }
    let names: Vec<&'static str> = OPTIONS.iter().map(|o| o.name).collect();
    names
        .iter()
        .find(|n| **n == word)
        .map(|n| SchemeOption::Word(n))
        .ok_or_else(|| user(text, format!("there is no scheme option `{word}`")).help(suggest(word, &names)))
}

fn parse_method(text: &str, part: &str) -> Result<MethodUse, Diag> {
    let mut pieces = part.split(':');
    let word = pieces.next().unwrap_or_default();
    let names: Vec<&'static str> = METHODS.iter().map(|m| m.name).collect();
    let name = names
        .iter()
        .find(|n| **n == word)
        .ok_or_else(|| user(text, format!("there is no method `{word}`")).help(suggest(word, &names)))?;
    let parameters = pieces
        .map(|p| match p.split_once('=') {
            Some((k, v)) if !k.is_empty() && !v.is_empty() => Ok((k.to_string(), v.to_string())),
            _ => Err(
                user(text, format!("parameter `{p}` of method `{word}` has no value"))
                    .help("write parameters as `+method:key=value`"),
            ),
        })
        .collect::<Result<_, _>>()?;
    let used = MethodUse { name, parameters };
    parameters::check(text, &used, is_supported(name))?;
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_names_and_their_aliases() {
        for t in ["none", "float", "fp32"] {
            assert_eq!(
                Spec::parse(t).and_then(|s| s.resolve()),
                Ok(LayerScheme::Float),
                "{t}"
            );
        }
        for t in ["w8a8", "int8", "w8a8-token", "w8a8-sym-token"] {
            let layer = Spec::parse(t).and_then(|s| s.resolve()).expect(t);
            assert!(["w8a8", "w8a8-sym"].contains(&layer.to_string().as_str()), "{t}");
        }
    }

    #[test]
    fn static_schemes_print_as_they_are_spelt() {
        for (t, want) in [
            ("w8a8-static", "w8a8-static"),
            ("w8a8-static-tensor-sym", "w8a8-static-sym"),
            ("w8a8-tensor-wtensor", "w8a8-tensor-wtensor"),
            (
                "w8a8-static-asym+percentile:p=99.9",
                "w8a8-static-asym+percentile:p=99.9",
            ),
            ("w8a8-static+ema", "w8a8-static+ema"),
        ] {
            let layer = Spec::parse(t).and_then(|s| s.resolve()).expect(t);
            assert_eq!(layer.to_string(), want);
        }
        let with_alias = Spec::parse("int8+attn8").and_then(|s| s.resolve());
        assert_eq!(
            with_alias.expect("an alias and a method").to_string(),
            "w8a8+attn8"
        );
        let o3 = Spec::parse("smoothquant-o3+percentile:p=99").expect("an alias and a calibrator");
        assert!(o3.has("static") && o3.has("wtensor"));
        assert_eq!(o3.methods.len(), 2);
    }

    #[test]
    fn known_but_unsupported_names() {
        for t in [
            "w4a16-g32+awq+gptq:actorder=1",
            "w8a8-static+fptq",
            "w8a8kv8-tensor",
            "fp8",
            "nf4a16",
        ] {
            let e = Spec::parse(t).and_then(|s| s.resolve()).expect_err("not yet");
            assert_eq!(e.blame, Blame::Unsupported, "{t}");
            assert!(e.message.contains("not supported yet"));
        }
        let s = Spec::parse("w4a16-g32+awq+gptq:actorder=1").expect("well formed");
        assert_eq!(s.options, [SchemeOption::Group(32)]);
        assert_eq!(
            s.methods[1].parameters,
            [("actorder".to_string(), "1".to_string())]
        );
    }

    #[test]
    fn unknown_names_suggest() {
        for (t, want) in [
            ("w8a9000", "out of range"),
            ("w0a8", "out of range"),
            ("w8b8", "no scheme base `w8b8`"),
            ("", "no scheme base"),
            ("w8a8-statik", "no scheme option `statik`"),
            ("w8a8+smothquant", "no method `smothquant`"),
            ("w8a8+gptq:x", "has no value"),
            ("w8a8-tensor-token", "exclude each other"),
            ("w8a8-token-token", "given twice"),
            ("none-static", "neither options nor methods"),
            ("w99999999999a8", "no scheme base"),
            ("w8a8-g0", "at least one element"),
            ("w8a8-static-token", "at run time only"),
            ("w8a8+percentile", "computed at run time"),
            ("w8a8-asym", "needs static scales"),
            ("w8a8-static+mse+minmax", "both choose"),
            ("w8a8-static+mse+mse", "given twice"),
            ("w8a8-static-asym+isotone", "without a zero point"),
            ("w8a16-static", "stay float"),
            ("w8a16+mse", "stay float"),
            ("w8a8-static+mse:p=3", "has no parameter `p`"),
            ("w8a8-static+percentile:p=101", "cannot be `101`"),
            ("w8a8-static+percentile:p=nan", "cannot be `nan`"),
            ("w8a8-static+ema:momentum=0", "cannot be `0`"),
            ("w8a8-static+percentile:p=99:p=98", "given twice"),
            ("w8a8+smoothquant:alpha=much", "cannot be `much`"),
            ("w8a8+smoothquant:sites=1", "cannot be `1`"),
            ("w8a16+smoothquant", "stay float"),
            ("w8a16+attn8", "stay float"),
            ("w8a8+attn8:bits=4", "has no parameter `bits`"),
        ] {
            let e = Spec::parse(t).expect_err(t);
            assert_eq!(e.blame, Blame::User, "{t}");
            assert!(e.message.contains(want), "{t}: {}", e.message);
        }
        let e = Spec::parse("w8a8+smothquant").expect_err("misspelt");
        assert!(
            e.help
                .expect("a help line")
                .starts_with("did you mean `smoothquant`?")
        );
    }
}
