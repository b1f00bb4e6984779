//! What `rsqc schemes` prints: bases, options, methods and aliases, and which of them are supported.

/// What a row of the listing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SchemeKind {
    /// A base format.
    Base,
    /// An option behind a base.
    Option,
    /// A method behind `+`.
    Method,
    /// Another spelling of a scheme.
    Alias,
}

/// A row of the listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SchemeInfo {
    /// Name as typed.
    pub name: &'static str,
    /// What it is.
    pub kind: SchemeKind,
    /// What it does; of an alias, what it stands for.
    pub doc: &'static str,
    /// What data it needs.
    pub data: &'static str,
    /// Paper, if it comes from one.
    pub paper: &'static str,
    /// Whether this version can do it.
    pub supported: bool,
}

const fn row(
    kind: SchemeKind,
    name: &'static str,
    doc: &'static str,
    data: &'static str,
    paper: &'static str,
) -> SchemeInfo {
    SchemeInfo {
        name,
        kind,
        doc,
        data,
        paper,
        supported: false,
    }
}

const fn supported(i: SchemeInfo) -> SchemeInfo {
    SchemeInfo { supported: true, ..i }
}

use SchemeKind::{Alias, Base, Method, Option as Opt};

/// Bases that the grammar does not read as `w<bits>a<bits>`.
pub(super) const BASES: &[SchemeInfo] = &[
    row(
        Base,
        "fp8",
        "weights and activations in fp8 e4m3",
        "samples for static scales",
        "arXiv 2209.05433",
    ),
    row(
        Base,
        "fp6a16",
        "weights in fp6 e3m2, float activations",
        "none",
        "arXiv 2401.14112",
    ),
    row(
        Base,
        "nf4a16",
        "weights in NormalFloat-4 blocks, float activations",
        "none",
        "arXiv 2305.14314",
    ),
    row(
        Base,
        "mxfp4",
        "fp4 in blocks of 32 with power-of-two scales",
        "none",
        "OCP Microscaling 1.0",
    ),
    row(
        Base,
        "mxfp8",
        "fp8 in blocks of 32 with power-of-two scales",
        "none",
        "OCP Microscaling 1.0",
    ),
    row(
        Base,
        "nvfp4",
        "fp4 in blocks of 16 with fp8 scales",
        "samples for the tensor scale",
        "",
    ),
];

const SPELT: &[SchemeInfo] = &[
    supported(row(Base, "none", "everything stays float", "none", "")),
    supported(row(
        Base,
        "w8a8",
        "int8 weights per output channel, int8 activations per token with scales computed at run time, int8 embedding tables over 64 KB",
        "none",
        "arXiv 2206.01861",
    )),
    supported(row(
        Base,
        "w8a16",
        "int8 weights per output channel, unpacked in registers, float activations, int8 embedding tables over 64 KB",
        "none",
        "",
    )),
    row(
        Base,
        "w<bits>a<bits>[kv<bits>]",
        "integer weights, activations and key-value caches of so many bits; a16 = float",
        "depends on the options",
        "",
    ),
];

/// Words behind the base.
pub(super) const OPTIONS: &[SchemeInfo] = &[
    supported(row(
        Opt,
        "static",
        "activation scales from calibration instead of run time, one a tensor (one a channel for convolutions of up to four)",
        "samples",
        "",
    )),
    supported(row(
        Opt,
        "tensor",
        "one activation scale a tensor, computed at run time",
        "none",
        "",
    )),
    supported(row(
        Opt,
        "token",
        "one activation scale a token (the default)",
        "none",
        "",
    )),
    supported(row(
        Opt,
        "sym",
        "symmetric activation codes (the default of linear layers, but behind producers that are hardly ever negative)",
        "none",
        "",
    )),
    supported(row(
        Opt,
        "asym",
        "activation codes with a zero point; needs static",
        "samples",
        "",
    )),
    supported(row(
        Opt,
        "wtensor",
        "one scale a weight tensor instead of one an output channel",
        "none",
        "",
    )),
];

const GROUP: SchemeInfo = row(
    Opt,
    "g<n>",
    "one weight scale for each n elements of the inner dimension",
    "none",
    "",
);

/// Methods.
pub(super) const METHODS: &[SchemeInfo] = &[
    supported(row(
        Method,
        "minmax",
        "static range: smallest and largest value (the default of linear layers)",
        "samples",
        "",
    )),
    supported(row(
        Method,
        "ema",
        "static range: moving average of the samples' smallest and largest values; momentum=0.1",
        "samples",
        "",
    )),
    supported(row(
        Method,
        "percentile",
        "static range: keeps this share of the values; p=99.99",
        "samples",
        "",
    )),
    supported(row(
        Method,
        "entropy",
        "static range: least KL divergence between values and codes",
        "samples",
        "GTC 2017 s7310",
    )),
    supported(row(
        Method,
        "mse",
        "static range: least mean squared error (the default of convolutions)",
        "samples",
        "",
    )),
    supported(row(
        Method,
        "isotone",
        "static scale at which most rows keep their largest element",
        "samples",
        "",
    )),
    supported(row(
        Method,
        "biascorrection",
        "biases of static convolutions take up the mean error of their codes (on by default; layers=conv or none)",
        "samples",
        "arXiv 1906.04721",
    )),
    supported(row(
        Method,
        "attn8",
        "int8 products inside attention: queries and keys one scale a token and head, values one a channel and 256 keys, weights in steps of 1/255; static: one scale a tensor",
        "none",
        "",
    )),
    supported(row(
        Method,
        "smoothquant",
        "moves activation outliers into weights by a vector per channel (alpha=0..1 or auto; min, max, step of the search, mode=layer or block; sites=all or commuting)",
        "samples",
        "arXiv 2211.10438",
    )),
    row(
        Method,
        "fptq",
        "logarithmic smoothing of activations",
        "samples",
        "arXiv 2308.15987",
    ),
    row(
        Method,
        "outlier-suppression",
        "migrates gamma and clips tokens",
        "samples",
        "arXiv 2209.13325",
    ),
    row(
        Method,
        "omniquant",
        "learned clipping and smoothing",
        "samples",
        "arXiv 2308.13137",
    ),
    row(Method, "rtn", "round to nearest", "none", ""),
    row(
        Method,
        "awq",
        "activation-aware weight scaling and clipping",
        "samples",
        "arXiv 2306.00978",
    ),
    row(
        Method,
        "gptq",
        "weights one column at a time with second-order updates",
        "samples",
        "arXiv 2210.17323",
    ),
    row(
        Method,
        "adaround",
        "learned rounding",
        "samples",
        "arXiv 2004.10568",
    ),
    row(
        Method,
        "spqr",
        "sparse outlier weights kept in float",
        "samples",
        "arXiv 2306.03078",
    ),
    row(
        Method,
        "quip",
        "incoherence processing",
        "samples",
        "arXiv 2402.04396",
    ),
    row(
        Method,
        "llmint8",
        "outlier columns computed in float",
        "none, or samples for fixed columns",
        "arXiv 2208.07339",
    ),
    row(
        Method,
        "zeroquant",
        "group-wise weights, token-wise activations, layer-wise distillation",
        "samples",
        "arXiv 2206.01861",
    ),
    row(
        Method,
        "quarot",
        "Hadamard rotations of the residual stream",
        "none",
        "arXiv 2404.00456",
    ),
    row(
        Method,
        "atom",
        "reordered outlier channels in higher precision",
        "samples",
        "arXiv 2310.19102",
    ),
    row(
        Method,
        "qoq",
        "progressive group quantization with smoothed attention",
        "samples",
        "arXiv 2405.04532",
    ),
    row(
        Method,
        "kivi",
        "2-bit caches: keys per channel, values per token",
        "none",
        "arXiv 2402.02750",
    ),
    row(
        Method,
        "kvquant",
        "non-uniform caches with sparse outliers",
        "samples",
        "arXiv 2401.18079",
    ),
    row(
        Method,
        "lsq",
        "learned step sizes (training)",
        "training data",
        "arXiv 1902.08153",
    ),
];

const ALIASES: &[SchemeInfo] = &[
    supported(row(Alias, "float", "none", "none", "")),
    supported(row(Alias, "fp32", "none", "none", "")),
    supported(row(Alias, "int8", "w8a8", "none", "")),
    supported(row(
        Alias,
        "smoothquant-o1",
        "w8a8-wtensor+smoothquant",
        "samples",
        "arXiv 2211.10438",
    )),
    supported(row(
        Alias,
        "smoothquant-o2",
        "w8a8-tensor-wtensor+smoothquant",
        "samples",
        "arXiv 2211.10438",
    )),
    supported(row(
        Alias,
        "smoothquant-o3",
        "w8a8-static-wtensor+smoothquant",
        "samples",
        "arXiv 2211.10438",
    )),
    supported(row(
        Alias,
        "smoothquant-o1c",
        "w8a8+smoothquant",
        "samples",
        "arXiv 2211.10438",
    )),
    supported(row(
        Alias,
        "smoothquant-o2c",
        "w8a8-tensor+smoothquant",
        "samples",
        "arXiv 2211.10438",
    )),
    supported(row(
        Alias,
        "smoothquant-o3c",
        "w8a8-static+smoothquant",
        "samples",
        "arXiv 2211.10438",
    )),
];

/// Whether this version can do the base, option or method of this name.
pub(super) fn is_supported(name: &str) -> bool {
    SPELT
        .iter()
        .chain(OPTIONS)
        .chain(METHODS)
        .any(|i| i.name == name && i.supported)
}

/// Whether the method of this name needs samples.
pub(super) fn needs_samples(method: &str) -> bool {
    METHODS.iter().any(|i| i.name == method && i.data == "samples")
}

/// Aliases and what they stand for.
pub(super) fn aliases() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALIASES.iter().map(|a| (a.name, a.doc))
}

/// All rows: bases, options, methods, aliases.
pub fn listing() -> Vec<SchemeInfo> {
    SPELT
        .iter()
        .chain(BASES)
        .chain(OPTIONS)
        .chain([&GROUP])
        .chain(METHODS)
        .chain(ALIASES)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Scheme;

    #[test]
    fn what_is_listed_as_supported_parses_and_nothing_else_does() {
        for i in listing() {
            let text = match i.kind {
                Base | Alias if i.name.contains('<') => continue,
                Base | Alias => i.name.to_string(),
                Opt if i.name.contains('<') => "w8a8-g32".to_string(),
                Opt if i.name == "asym" => "w8a8-static-asym".to_string(),
                Opt => format!("w8a8-{}", i.name),
                // A hyphen inside a method's name belongs to the name, since options come before methods.
                Method => format!("w8a8-static+{}", i.name),
            };
            assert_eq!(Scheme::parse(&text).is_ok(), i.supported, "{text}");
        }
    }
}
