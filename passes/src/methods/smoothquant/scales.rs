//! Maxima of weights and smoothing factors.

use crate::analysis::sites::{Site, layer};
use crate::methods::{InputChannels, const_matrix};
use rsqc_ir::{Module, NodeId, Op};

/// Least weight maximum and least factor.
const FLOOR: f64 = 1e-5;

/// Largest |w| that multiplies each channel, over the layers of a site.
pub(super) fn weight_maxima(m: &Module, site: &Site) -> Vec<f32> {
    let mut max = vec![0f32; site.channels];
    for id in &site.layers {
        each_weight(m, *id, &mut |channel, w| max[channel] = max[channel].max(w.abs()));
    }
    max
}

/// Hands every weight of a layer to `f` with the input channel that it multiplies.
fn each_weight(m: &Module, id: NodeId, f: &mut dyn FnMut(usize, f32)) {
    let Some((data, channel)) = weights(m, id) else {
        return;
    };
    for (i, w) in data.iter().enumerate() {
        f(channel(i), *w);
    }
}

/// Weights of a layer, a matrix as `[k, n]`, and the input channel of each element.
pub(super) fn weights(m: &Module, id: NodeId) -> Option<(Vec<f32>, Box<dyn Fn(usize) -> usize>)> {
    let n = m.graph.node(id);
    layer(m, id)?;
    match &n.op {
        Op::MatMul(_) => {
            let w = const_matrix(m, n.input(1)?)?;
            let columns = w.n.max(1);
            Some((w.data, Box::new(move |i| i / columns)))
        }
        Op::Conv(c) => {
            let shape = m.const_of(n.input(1)?)?.ty.static_shape()?;
            let of = InputChannels::new(&shape, c.group)?;
            Some((m.const_f32(n.input(1)?)?, Box::new(move |i| of.of(i))))
        }
        _ => None,
    }
}

/// Factors `s` from maxima of activations and weights; channels of a group (see [`Site::groups`]) share one, from the
/// largest maxima of the group.
pub(super) fn factors(xmax: &[f32], wmax: &[f32], groups: &[u32], alpha: f64) -> Vec<f64> {
    let over_group = |v: &[f32]| {
        let mut top = vec![0f64; v.len()];
        for (g, x) in groups.iter().zip(v) {
            top[*g as usize] = top[*g as usize].max(f64::from(*x));
        }
        groups.iter().map(|g| top[*g as usize]).collect::<Vec<f64>>()
    };
    over_group(xmax)
        .iter()
        .zip(over_group(wmax))
        .map(|(x, w)| {
            // A dead channel would get the floor, and its gain would explode.
            if *x == 0.0 {
                return 1.0;
            }
            // The host's own power function may round otherwise than another machine's.
            (libm::pow(*x, alpha) / libm::pow(w.max(FLOOR), 1.0 - alpha)).max(FLOOR)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{a} instead of {b}");
        }
    }

    #[test]
    fn factors_by_hand() {
        let (x, w) = ([100.0, 1.0, 0.25, 0.0], [0.2, 0.5, 0.04, 0.3]);
        let own = [0, 1, 2, 3];
        close(
            &factors(&x, &w, &own, 0.5),
            &[500f64.sqrt(), 2f64.sqrt(), 2.5, 1.0],
        );
        close(
            &factors(&x, &w, &own, 0.85),
            &[63.803_647, 1.109_569_5, 0.498_816, 1.0],
        );
        // Alpha 1 makes every activation 1, alpha 0 every weight.
        close(&factors(&x[..3], &w[..3], &own[..3], 1.0), &[100.0, 1.0, 0.25]);
        close(&factors(&x[..3], &w[..3], &own[..3], 0.0), &[5.0, 2.0, 25.0]);
        // Floors: of the weight before the power, of the factor after it.
        close(
            &factors(&[1.0, 1e-30], &[0.0, 1.0], &[0, 1], 0.5),
            &[(1e5f64).sqrt(), 1e-5],
        );
        // Groups take the largest of both; a channel that is dead alone follows its group.
        close(
            &factors(&x, &w, &[0, 1, 1, 0], 0.5),
            &[
                (100.0f64 / 0.3).sqrt(),
                2f64.sqrt(),
                2f64.sqrt(),
                (100.0f64 / 0.3).sqrt(),
            ],
        );
    }
}
