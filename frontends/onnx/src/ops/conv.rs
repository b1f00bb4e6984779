//! Convolution and pooling.

use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::ops::reduce::{Reduce, Reduction};

use crate::call::Call;
use crate::cx::{Cx, R, V, show};

/// Attributes of a sliding window over n spatial axes.
struct Window {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
}

/// Reads and checks window attributes. `kernel` comes from the weights for a convolution.
fn window(cx: &Cx, c: &Call<'_>, x: V, kernel: Option<Vec<i64>>, ceil: bool) -> R<Window> {
    let rank = cx.rank(x);
    if rank < 3 {
        return cx.fail(format!("has rank {rank}, expected 3 or more"));
    }
    let n = rank - 2;
    let given = c.ints(cx, "kernel_shape")?;
    let kernel = match (given, kernel) {
        (Some(g), Some(k)) if g != k => {
            return cx.fail(format!(
                "attribute 'kernel_shape' is {g:?}, but the weights have {k:?}"
            ));
        }
        (Some(k), _) | (None, Some(k)) => k,
        (None, None) => return cx.fail("attribute 'kernel_shape' is missing"),
    };
    let list = |name: &'static str, len: usize, default: i64, least: i64| -> R<Vec<i64>> {
        let v = c.ints(cx, name)?.unwrap_or_else(|| vec![default; len]);
        if v.len() != len || v.iter().any(|&x| x < least || x > 1 << 40) {
            return cx.fail(format!(
                "attribute '{name}' is {v:?}, expected {len} values of at least {least}"
            ));
        }
        Ok(v)
    };
    if kernel.len() != n || kernel.iter().any(|&k| !(1..1 << 40).contains(&k)) {
        return cx.fail(format!(
            "the kernel is {kernel:?}, expected {n} values of at least 1"
        ));
    }
    let strides = list("strides", n, 1, 1)?;
    let dilations = list("dilations", n, 1, 1)?;
    let pads = list("pads", 2 * n, 0, i64::MIN)?;
    let auto = c.text(cx, "auto_pad", "NOTSET")?;
    let mut w = Window {
        kernel,
        strides,
        dilations,
        pads,
    };
    match auto.as_str() {
        "NOTSET" | "" => {}
        "VALID" => w.pads = vec![0; 2 * n],
        "SAME_UPPER" | "SAME_LOWER" => same_pads(cx, x, &mut w, auto == "SAME_UPPER")?,
        other => {
            return cx.fail(format!(
                "attribute 'auto_pad' is '{}'",
                crate::error::escape(other)
            ));
        }
    }
    if w.pads.iter().any(|&p| p < 0) {
        return cx.unsupported("negative padding of a window");
    }
    for i in 0..n {
        let span = (w.kernel[i] - 1).saturating_mul(w.dilations[i]).saturating_add(1);
        let extent = &cx.shape(x)[2 + i];
        let room = extent
            .as_const()
            .map(|e| e.saturating_add(w.pads[i]).saturating_add(w.pads[n + i]));
        if let Some(room) = room.filter(|&r| r < span && !ceil) {
            return cx.fail(format!(
                "a window of {span} does not fit an extent of {} padded to {room}",
                show(extent)
            ));
        }
    }
    Ok(w)
}

/// Pads that keep `ceil(extent / stride)` results.
fn same_pads(cx: &Cx, x: V, w: &mut Window, upper: bool) -> R<()> {
    let n = w.kernel.len();
    for i in 0..n {
        let span = (w.kernel[i] - 1).saturating_mul(w.dilations[i]).saturating_add(1);
        let extent = &cx.shape(x)[2 + i];
        let total = match extent.as_const() {
            Some(e) => {
                let results = (e + w.strides[i] - 1) / w.strides[i];
                ((results - 1).saturating_mul(w.strides[i]).saturating_add(span) - e).max(0)
            }
            None if w.strides[i] == 1 => span - 1,
            None => return cx.unsupported(format!("automatic padding of the extent {}", show(extent))),
        };
        let (small, large) = (total / 2, total - total / 2);
        (w.pads[i], w.pads[n + i]) = if upper { (small, large) } else { (large, small) };
    }
    Ok(())
}

/// Conv.
pub fn conv(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let (x, weights) = (c.input(cx, 0)?, c.input(cx, 1)?);
    Ok(vec![convolve(cx, c, x, weights, c.opt(2))?])
}

/// A convolution of two values under the window attributes of a node.
pub fn convolve(cx: &mut Cx, c: &Call<'_>, x: V, weights: V, bias: Option<V>) -> R<V> {
    if cx.rank(weights) != cx.rank(x) || cx.rank(x) < 3 {
        return cx.fail(format!(
            "operands have ranks {} and {}",
            cx.rank(x),
            cx.rank(weights)
        ));
    }
    let kernel: Option<Vec<i64>> = cx.shape(weights)[2..].iter().map(|d| d.as_const()).collect();
    if kernel.is_none() {
        return cx.unsupported("convolution with a kernel of symbolic extents");
    }
    let group = c.int(cx, "group", 1)?;
    let w = window(cx, c, x, kernel, false)?;
    let outputs = cx.shape(weights)[0].clone();
    if group < 1 || outputs.as_const().is_some_and(|o| o % group != 0) {
        return cx.fail(format!("{} output channels in {group} groups", show(&outputs)));
    }
    let channels = cx.shape(x)[1].clone();
    cx.same_dim(
        &channels,
        &(cx.shape(weights)[1].clone() * group.into()),
        "conv input channels",
    )?;
    if let Some(b) = bias {
        if cx.rank(b) != 1 {
            return cx.fail(format!("the bias has rank {}, expected 1", cx.rank(b)));
        }
        let n = cx.shape(b)[0].clone();
        cx.same_dim(&n, &outputs, "conv bias")?;
    }
    let op = Conv {
        strides: w.strides,
        dilations: w.dilations,
        pads: w.pads,
        group,
    };
    let mut ins = vec![Some(x), Some(weights)];
    ins.extend(bias.map(Some));
    cx.emit_optional(op, &ins)
}

/// Rounding up adds a window only if it starts inside the operand or its leading pad: whether any axis rounds up.
fn last_window_starts_inside(cx: &Cx, x: V, w: &Window) -> R<bool> {
    let n = w.kernel.len();
    let (mut up, mut down) = (false, false);
    for i in 0..n {
        let Some(e) = cx.shape(x)[2 + i].as_const() else {
            return Ok(true);
        };
        let span = (w.kernel[i] - 1).saturating_mul(w.dilations[i]).saturating_add(1);
        let room = e
            .saturating_add(w.pads[i])
            .saturating_add(w.pads[n + i])
            .saturating_sub(span);
        let more = (room.max(0) + w.strides[i] - 1) / w.strides[i];
        if room % w.strides[i] != 0 {
            let inside = more.saturating_mul(w.strides[i]) < e.saturating_add(w.pads[i]);
            up |= inside;
            down |= !inside;
        }
    }
    if up && down {
        return cx.unsupported("pooling that rounds one extent up and another down");
    }
    Ok(up)
}

fn pool(cx: &mut Cx, c: &Call<'_>, kind: PoolKind) -> R<V> {
    let x = c.input(cx, 0)?;
    let mut ceil = c.int(cx, "ceil_mode", 0)? != 0;
    let w = window(cx, c, x, None, ceil)?;
    if ceil {
        ceil = last_window_starts_inside(cx, x, &w)?;
    }
    cx.emit(
        Pool {
            kind,
            kernel: w.kernel,
            strides: w.strides,
            dilations: w.dilations,
            pads: w.pads,
            ceil,
        },
        &[x],
    )
}

/// MaxPool, without the indices.
pub fn max_pool(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    c.ignore(&["storage_order"]);
    if c.wants(1) {
        return cx.unsupported("MaxPool with indices");
    }
    Ok(vec![pool(cx, c, PoolKind::Max)?])
}

/// AveragePool.
pub fn average_pool(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    let kind = if c.int(cx, "count_include_pad", 0)? != 0 {
        PoolKind::AverageWithPad
    } else {
        PoolKind::Average
    };
    Ok(vec![pool(cx, c, kind)?])
}

fn global(cx: &mut Cx, c: &Call<'_>, kind: Reduction) -> R<Vec<V>> {
    let x = c.input(cx, 0)?;
    let rank = cx.rank(x);
    if rank < 2 {
        return cx.fail(format!("has rank {rank}, expected 2 or more"));
    }
    Ok(vec![cx.emit(
        Reduce {
            kind,
            axes: (2..rank as i64).collect(),
            keep: true,
        },
        &[x],
    )?])
}

/// GlobalAveragePool.
pub fn global_average_pool(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    global(cx, c, Reduction::Mean)
}

/// GlobalMaxPool.
pub fn global_max_pool(cx: &mut Cx, c: &Call<'_>) -> R<Vec<V>> {
    global(cx, c, Reduction::Max)
}
