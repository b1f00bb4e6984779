//! Types: `f32[batch, 384]`, `quant<i8/8:f32, token>[2]`.

use super::cursor::{Cursor, ParseError, Parsed};
use super::dim::dim;
use crate::quant::{CodeMap, Granularity, QuantType};
use crate::types::{Dim, Elem, ScalarType, TensorType};

/// Axes of a type.
const MAX_RANK: usize = 32;
/// Terms that the number of elements may have in normal form.
const MAX_PRODUCT: usize = 4096;

impl std::str::FromStr for TensorType {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut c = Cursor::new(text);
        let t = tensor_type(&mut c)?;
        if c.at_end() { Ok(t) } else { c.expected("the end") }
    }
}

/// A machine type at the cursor.
pub(crate) fn scalar_type(c: &mut Cursor<'_>) -> Parsed<ScalarType> {
    let at = c.pos();
    let w = c.word("an element type")?;
    ScalarType::parse(w).ok_or_else(|| c.error_at(at, format!("unknown element type `{w}`")))
}

/// A tensor type at the cursor.
pub(crate) fn tensor_type(c: &mut Cursor<'_>) -> Parsed<TensorType> {
    let elem = if c.eat("quant") {
        Elem::from(quant_body(c)?)
    } else {
        Elem::from(scalar_type(c)?)
    };
    let at = c.pos();
    let shape = dims(c, "[", "]")?;
    let terms = shape
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(d.terms().count().max(1)));
    if shape.len() > MAX_RANK || terms.is_none_or(|n| n > MAX_PRODUCT) {
        return Err(c.error_at(at, "the shape is too large"));
    }
    Ok(TensorType { elem, shape })
}

/// Dims between brackets, separated by commas.
pub(crate) fn dims(c: &mut Cursor<'_>, open: &str, close: &str) -> Parsed<Vec<Dim>> {
    let mut out = Vec::new();
    c.want(open)?;
    while !c.eat(close) {
        if !out.is_empty() {
            c.want(",")?;
        }
        out.push(dim(c)?);
    }
    Ok(out)
}

/// `quant<..>` at the cursor, behind the word `quant`.
pub(crate) fn quant_body(c: &mut Cursor<'_>) -> Parsed<QuantType> {
    c.want("<")?;
    let storage = scalar_type(c)?;
    c.want("/")?;
    let at = c.pos();
    let bits = c.unsigned("a number of bits")?;
    let most = 8 * storage.size() as u64;
    if !(1..=most.min(31)).contains(&bits) {
        return Err(c.error_at(at, format!("{bits} bits do not fit {storage}")));
    }
    c.want(":")?;
    let expressed = scalar_type(c)?;
    c.want(",")?;
    let granularity = granularity(c)?;
    let mut q = QuantType {
        storage,
        bits: bits as u8,
        expressed,
        map: CodeMap::Affine,
        granularity,
        zero: false,
        levels: 1,
    };
    while c.eat(",") {
        if c.eat("zero") {
            q.zero = true;
        } else if c.eat("nf4") {
            q.map = CodeMap::Nf4;
        } else {
            c.want("levels")?;
            q.levels = c.below("levels", 256)? as u8;
        }
    }
    c.want(">")?;
    Ok(q)
}

fn granularity(c: &mut Cursor<'_>) -> Parsed<Granularity> {
    let at = c.pos();
    let w = c.word("a granularity")?;
    let pair = |c: &mut Cursor<'_>| -> Parsed<(u32, u32)> {
        c.want("(")?;
        let axis = c.below("axis", 64)?;
        c.want(",")?;
        let at = c.pos();
        let size = c.below("size", 1 << 31)?;
        if size == 0 {
            return Err(c.error_at(at, "a group of no elements"));
        }
        c.want(")")?;
        Ok((axis, size))
    };
    Ok(match w {
        "tensor" => Granularity::Tensor,
        "token" => Granularity::Token,
        "axis" => {
            c.want("(")?;
            let a = c.below("axis", 64)?;
            c.want(")")?;
            Granularity::Axis(a)
        }
        "group" => {
            let (axis, size) = pair(c)?;
            Granularity::Group { axis, size }
        }
        "block" => {
            let (axis, size) = pair(c)?;
            Granularity::Block { axis, size }
        }
        _ => return Err(c.error_at(at, format!("unknown granularity `{w}`"))),
    })
}
