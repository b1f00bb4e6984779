//! Mixes of options and methods that make no sense, each with the reason.

use super::calibrator::CALIBRATORS;
use super::grammar::{Base, Spec};
use super::user;
use rsqc_ir::diag::Diag;

/// Pairs of options that exclude each other, and why.
const EXCLUSIVE: &[(&str, &str, &str)] = &[
    ("tensor", "token", "a tensor has one scale or one a token"),
    ("sym", "asym", "codes have a zero point or none"),
    ("static", "token", "a token's scale is known at run time only"),
];

/// The first rule that a scheme breaks.
pub(super) fn check(s: &Spec) -> Result<(), Diag> {
    let no = |what: String, help: &str| Err(user(&s.text, what).help(help));
    for (a, b, why) in EXCLUSIVE {
        if s.has(a) && s.has(b) {
            return no(
                format!("options `{a}` and `{b}` exclude each other: {why}"),
                "drop one of them",
            );
        }
    }
    if let Some(i) = (1..s.options.len()).find(|i| s.options[..*i].contains(&s.options[*i])) {
        return no(
            format!("option `{}` is given twice", s.options[i]),
            "give it once",
        );
    }
    if let Some(i) =
        (1..s.methods.len()).find(|i| s.methods[..*i].iter().any(|m| m.name == s.methods[*i].name))
    {
        let what = format!("method `{}` is given twice", s.methods[i].name);
        return no(what, "give it once, with all its parameters");
    }
    if s.base == Base::None && !(s.options.is_empty() && s.methods.is_empty()) {
        return no(
            "`none` takes neither options nor methods: it quantizes nothing".into(),
            "use a base such as w8a8",
        );
    }
    activations(s)
}

/// Rules about the activations' scales.
fn activations(s: &Spec) -> Result<(), Diag> {
    let no = |what: String, help: &str| Err(user(&s.text, what).help(help));
    let calibrators: Vec<&str> = s
        .methods
        .iter()
        .map(|m| m.name)
        .filter(|n| CALIBRATORS.contains(n))
        .collect();
    if let [a, b, ..] = calibrators.as_slice() {
        return no(
            format!("`{a}` and `{b}` both choose the ranges of activations"),
            "use one of them; a recipe can choose by layer",
        );
    }
    let float = matches!(s.base, Base::Bits { activations: 16, .. });
    if float {
        let word = ["static", "tensor", "token", "sym", "asym"]
            .into_iter()
            .find(|w| s.has(w));
        let mut methods = s.methods.iter().map(|m| m.name);
        let method = methods.find(|n| ["smoothquant", "attn8"].contains(n));
        if let Some(w) = word.or(calibrators.first().copied()).or(method) {
            return no(
                format!("`{w}` is about activation codes, but 16-bit activations stay float"),
                "use a base with 8-bit activations, such as w8a8",
            );
        }
    }
    if s.has("static") {
        return match calibrators.first() {
            Some(&"isotone") if s.has("asym") => no(
                "`isotone` chooses a scale without a zero point, but `asym` asks for one".into(),
                "drop `asym`, or use another calibrator",
            ),
            _ => Ok(()),
        };
    }
    if let Some(c) = calibrators.first() {
        return no(
            format!("`{c}` chooses the range of static scales, but here scales are computed at run time"),
            "add the option `static`, e.g. w8a8-static",
        );
    }
    if s.methods.iter().any(|m| m.name == "biascorrection") {
        return no(
            "`biascorrection` needs static scales: without samples the mean of an activation is not known"
                .into(),
            "add the option `static`, e.g. w8a8-static",
        );
    }
    if s.has("asym") {
        return no(
            "`asym` needs static scales: scales computed at run time are symmetric".into(),
            "add the option `static`, e.g. w8a8-static-asym",
        );
    }
    Ok(())
}
