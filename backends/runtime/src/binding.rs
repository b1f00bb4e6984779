//! From the shapes of the inputs to the values of the symbols.

use crate::error::RuntimeError;
use crate::model::Model;
use rsqc_artifact::expr::{self, Value};
use rsqc_artifact::manifest::{Expr, Io, Manifest, expr::Node};

/// The values of all symbols that the inputs determine.
///
/// A dimension that is a bare symbol binds it; an expression with one symbol left that is linear in it is
/// solved; then every dimension of every input is compared with the value of its expression.
///
/// # Errors
/// [`RuntimeError::Shape`] naming the input, the dimension, what was expected and what was found.
pub(crate) fn bind(model: &Model, dims: &[&[i64]]) -> Result<Vec<Option<i64>>, RuntimeError> {
    let m = model.manifest();
    let mut symbols: Vec<Option<i64>> = m
        .symbols
        .iter()
        .zip(&model.layout().late_symbol)
        .map(|(s, late)| (s.lo == s.hi && !late).then_some(s.lo))
        .collect();
    for (io, dims) in m.inputs.iter().zip(dims) {
        check_rank(m, io, dims)?;
        for (axis, (&id, &found)) in io.dims.iter().zip(*dims).enumerate() {
            if found < 0 {
                return Err(mismatch(m, io, axis, found, &[]));
            }
            if let Some(Node::Symbol(s)) = &m.exprs[id as usize].node
                && symbols[*s as usize].is_none()
            {
                set(m, &mut symbols, *s, found, io, axis)?;
            }
        }
    }
    solve_rest(m, dims, &mut symbols)?;
    let values = expr::evaluate(&m.exprs, &symbols);
    for (io, dims) in m.inputs.iter().zip(dims) {
        for (axis, (&id, &found)) in io.dims.iter().zip(*dims).enumerate() {
            let expected = expr::require(&values, id, &m.exprs, &m.symbols)
                .map_err(|e| RuntimeError::Shape(format!("input '{}', dimension {axis}: {e}", io.name)))?;
            if expected != found {
                return Err(mismatch(m, io, axis, found, &symbols));
            }
        }
    }
    Ok(symbols)
}

fn set(
    m: &Manifest,
    symbols: &mut [Option<i64>],
    symbol: u32,
    value: i64,
    io: &Io,
    axis: usize,
) -> Result<(), RuntimeError> {
    let info = &m.symbols[symbol as usize];
    if value < info.lo || value > info.hi {
        return Err(RuntimeError::Shape(format!(
            "input '{}', dimension {axis}: expected {} in {}..{}, {} is {value}",
            io.name,
            expr::text(&m.exprs, &m.symbols, io.dims[axis]),
            info.lo,
            info.hi,
            info.name,
        )));
    }
    symbols[symbol as usize] = Some(value);
    Ok(())
}

/// Binds symbols that occur in expressions only, as `2*n + 1`.
fn solve_rest(m: &Manifest, dims: &[&[i64]], symbols: &mut [Option<i64>]) -> Result<(), RuntimeError> {
    loop {
        let values = expr::evaluate(&m.exprs, symbols);
        let mut progress = false;
        for (io, dims) in m.inputs.iter().zip(dims) {
            for (axis, (&id, &found)) in io.dims.iter().zip(*dims).enumerate() {
                let Value::Unknown(symbol) = values[id as usize] else {
                    continue;
                };
                if symbols[symbol as usize].is_some() {
                    continue;
                }
                if let Some(value) = solve(m, id, symbol, found, symbols) {
                    set(m, symbols, symbol, value, io, axis)?;
                    progress = true;
                }
            }
        }
        if !progress {
            return Ok(());
        }
    }
}

/// Solves `expression(symbol) == found` for an expression that looks linear; the caller compares the
/// expression's value afterwards, so that a wrong guess cannot pass.
fn solve(m: &Manifest, id: u32, symbol: u32, found: i64, symbols: &[Option<i64>]) -> Option<i64> {
    // Only the expressions up to `id` can matter.
    let exprs: &[Expr] = &m.exprs[..=id as usize];
    let at = |value: i64| {
        let mut trial = symbols.to_vec();
        trial[symbol as usize] = Some(value);
        match expr::evaluate(exprs, &trial)[id as usize] {
            Value::Known(v) => Some(v),
            _ => None,
        }
    };
    let (f0, f1, f2) = (at(0)?, at(1)?, at(2)?);
    let slope = f1.checked_sub(f0)?;
    let difference = found.checked_sub(f0)?;
    (slope != 0 && f2.checked_sub(f1)? == slope && difference % slope == 0).then(|| difference / slope)
}

fn check_rank(m: &Manifest, io: &Io, dims: &[i64]) -> Result<(), RuntimeError> {
    if io.dims.len() == dims.len() {
        return Ok(());
    }
    Err(RuntimeError::Shape(format!(
        "input '{}' has {} dimensions {dims:?}, expected {}: [{}]",
        io.name,
        dims.len(),
        io.dims.len(),
        io_text(m, io),
    )))
}

/// The shape of an input or output as text, as `batch, seq + 1`.
pub(crate) fn io_text(m: &Manifest, io: &Io) -> String {
    let texts: Vec<String> = io
        .dims
        .iter()
        .map(|d| expr::text(&m.exprs, &m.symbols, *d))
        .collect();
    texts.join(", ")
}

fn mismatch(m: &Manifest, io: &Io, axis: usize, found: i64, symbols: &[Option<i64>]) -> RuntimeError {
    let id = io.dims[axis];
    let text = expr::text(&m.exprs, &m.symbols, id);
    let value = match expr::evaluate(&m.exprs, symbols)[id as usize] {
        Value::Known(v) if v.to_string() != text => format!(" = {v}"),
        _ => String::new(),
    };
    RuntimeError::Shape(format!(
        "input '{}', dimension {axis}: expected {text}{value}, found {found}",
        io.name
    ))
}
