//! Sites of the building blocks of networks.

use super::{Carrier, Home, Role, Site, sites};
use crate::testing::Net;
use rsqc_ir::ops::conv::{Conv, Pool, PoolKind};
use rsqc_ir::ops::elementwise::{Add, Gelu, GeluKind, Mul, Relu, Silu};
use rsqc_ir::ops::linalg::MatMul;
use rsqc_ir::ops::nn::{Attention, EmptyRow};
use rsqc_ir::ops::norm::{LayerNorm, RmsNorm};
use rsqc_ir::ops::shape::{Concat, Reshape, Slice, Transpose};
use rsqc_ir::{Module, Op, ValueId};

use crate::testing::sym;

/// All layers are to be smoothed, but those at the locations in `float` stay float and those in `other` are neither.
fn find(m: &Module, float: &[&str], other: &[&str]) -> Vec<Site> {
    sites(m, &|id| {
        let n = m.graph.node(id);
        match n.op {
            Op::MatMul(_) | Op::Conv(_) if float.contains(&&*n.loc) => Role::Float,
            Op::MatMul(_) | Op::Conv(_) if other.contains(&&*n.loc) => Role::Other,
            Op::MatMul(_) | Op::Conv(_) => Role::Smoothed,
            _ => Role::Other,
        }
    })
    .expect("a valid module")
}

/// Layers and home of each site, with operand slots.
fn text(m: &Module, all: &[Site]) -> Vec<String> {
    let line = |s: &Site| {
        let names = |v: &[rsqc_ir::NodeId]| {
            let n: Vec<&str> = v.iter().map(|id| &*m.graph.node(*id).loc).collect();
            n.join(",")
        };
        let home = match &s.home {
            Home::PreScale => "pre".into(),
            Home::Product => "mul".into(),
            Home::Folded(c) => {
                let all: Vec<String> = c
                    .iter()
                    .map(|c| format!("{}.{}{:?}", m.graph.node(c.node).loc, c.slot, c.axes))
                    .collect();
                all.join(" ")
            }
        };
        format!("{}|{}|{home}", names(&s.layers), names(&s.followers))
    };
    all.iter().map(line).collect()
}

fn matmul(n: &mut Net, x: ValueId, k: usize, o: usize) -> ValueId {
    let w = n.weight(&[k, o]);
    n.op(MatMul {}, &[x, w])
}

/// n0 norm; n1, n2 products of it.
fn norm_block(bias: bool, residual: bool) -> Module {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "s", "8"]);
    let (g, c) = (n.weight(&[8]), n.weight(&[8]));
    let y = if bias {
        n.op(LayerNorm { eps: 1e-5 }, &[x, g, c])
    } else {
        n.op(RmsNorm { eps: 1e-5 }, &[x, g])
    };
    let (a, b) = (matmul(&mut n, y, 8, 6), matmul(&mut n, y, 8, 5));
    let mut outs = vec![a, b];
    if residual {
        outs.push(n.op(Add {}, &[x, y]));
    }
    n.finish(&outs)
}

#[test]
fn norms_carry_factors_if_all_readers_agree() {
    let m = norm_block(true, false);
    assert_eq!(text(&m, &find(&m, &[], &[])), ["n1,n2||n0.1[0] n0.2[0]"]);
    let m = norm_block(false, false);
    assert_eq!(text(&m, &find(&m, &[], &[])), ["n1,n2||n0.1[0]"]);
    // A float layer follows; a layer of another kind does not, and neither does a residual sum.
    assert_eq!(text(&m, &find(&m, &["n2"], &[])), ["n1|n2|n0.1[0]"]);
    assert_eq!(text(&m, &find(&m, &[], &["n2"])), ["n1||pre"]);
    let m = norm_block(true, true);
    assert_eq!(text(&m, &find(&m, &[], &[])), ["n1,n2||pre"]);
    assert_eq!(text(&m, &find(&m, &["n2"], &[])), ["n1||pre"]);
    assert!(find(&m, &["n1"], &["n2"]).is_empty());
}

#[test]
fn up_carries_the_factors_of_down_and_gate_never_does() {
    for swapped in [false, true] {
        let mut n = Net::new(2);
        let x = n.f32(&["b", "s", "8"]);
        let gate = matmul(&mut n, x, 8, 6);
        let up = matmul(&mut n, x, 8, 6);
        let g = n.op(Silu {}, &[gate]);
        let h = n.op(Mul {}, &if swapped { [up, g] } else { [g, up] });
        let y = matmul(&mut n, h, 6, 8);
        let m = n.finish(&[y]);
        assert_eq!(text(&m, &find(&m, &[], &[])), ["n0,n1||pre", "n4||n1.1[1]"]);
    }
}

#[test]
fn activation_functions_commute_or_do_not() {
    let block = |relu: bool| {
        let mut n = Net::new(3);
        let x = n.f32(&["b", "8"]);
        let (h, c) = (matmul(&mut n, x, 8, 6), n.weight(&[6]));
        let h = n.op(Add {}, &[h, c]);
        let h = if relu {
            n.op(Relu {}, &[h])
        } else {
            n.op(Gelu { kind: GeluKind::Erf }, &[h])
        };
        let y = matmul(&mut n, h, 6, 4);
        n.finish(&[y])
    };
    let m = block(true);
    assert_eq!(text(&m, &find(&m, &[], &[]))[1], "n3||n0.1[1] n1.1[0]");
    let m = block(false);
    assert_eq!(text(&m, &find(&m, &[], &[]))[1], "n3||pre");
}

/// q, k, v of `kv` heads of 4 (q of 4 heads), attention, output product at the end. `merged`: v is a slice of one product.
fn attention(kv: usize, merged: bool) -> Module {
    let mut n = Net::new(4);
    let x = n.f32(&["b", "s", "8"]);
    let heads = |n: &mut Net, v: ValueId, h: usize| {
        let v = n.op(
            Reshape {
                shape: sym(&["b", "s", &h.to_string(), "4"]),
            },
            &[v],
        );
        n.op(
            Transpose {
                perm: vec![0, 2, 1, 3],
            },
            &[v],
        )
    };
    let parts = if merged {
        let all = matmul(&mut n, x, 8, 48);
        let slice = |n: &mut Net, at: i64| {
            let op = Slice {
                starts: [0, 0, at].map(rsqc_ir::Dim::from).to_vec(),
                sizes: sym(&["b", "s", "16"]),
                steps: vec![1; 3],
            };
            n.op(op, &[all])
        };
        [slice(&mut n, 0), slice(&mut n, 16), slice(&mut n, 32)]
    } else {
        let (q, k, v) = (
            matmul(&mut n, x, 8, 16),
            matmul(&mut n, x, 8, 4 * kv),
            matmul(&mut n, x, 8, 4 * kv),
        );
        [q, k, v]
    };
    let (q, k, v) = (
        heads(&mut n, parts[0], 4),
        heads(&mut n, parts[1], kv),
        heads(&mut n, parts[2], kv),
    );
    let op = Attention {
        scale: 0.5,
        causal: None,
        empty_row: EmptyRow::Nan,
    };
    let a = n.op(op, &[q, k, v]);
    let a = n.op(
        Transpose {
            perm: vec![0, 2, 1, 3],
        },
        &[a],
    );
    let a = n.op(
        Reshape {
            shape: sym(&["b", "s", "16"]),
        },
        &[a],
    );
    let y = matmul(&mut n, a, 16, 8);
    n.finish(&[y])
}

fn folded(s: &Site) -> &[Carrier] {
    match &s.home {
        Home::Folded(c) => c,
        h => panic!("{h:?}"),
    }
}

#[test]
fn values_of_an_attention_carry_factors_that_grouped_heads_share() {
    let m = attention(4, false);
    let all = find(&m, &[], &[]);
    assert_eq!(all.len(), 2);
    assert_eq!(folded(&all[1])[0].axes, [1]);
    assert_eq!(all[1].groups, (0..16).collect::<Vec<u32>>());
    // Two query heads a head of v: channels 0..4 and 4..8 lie in the same columns.
    let m = attention(2, false);
    let site = &find(&m, &[], &[])[1];
    let want: Vec<u32> = [0..4, 0..4, 8..12, 8..12].into_iter().flatten().collect();
    assert_eq!(site.groups, want);
    assert_eq!(
        folded(site)[0].places.iter().map(|p| p.0[0]).collect::<Vec<_>>(),
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    );
    // One head for all: still one factor for each of its columns.
    let site = &find(&attention(1, false), &[], &[])[1];
    assert_eq!(site.groups, [0, 1, 2, 3].repeat(4));
}

#[test]
fn a_slice_of_a_merged_product_carries_its_own_columns() {
    let m = attention(4, true);
    let site = &find(&m, &[], &[])[1];
    let columns: Vec<u32> = folded(site)[0].places.iter().map(|p| p.0[0]).collect();
    assert_eq!(columns, (32..48).collect::<Vec<u32>>());
}

fn conv(n: &mut Net, x: ValueId, w: &[usize], group: i64, bias: bool) -> ValueId {
    let spatial = w.len() - 2;
    let mut ins = vec![x, n.weight(w)];
    if bias {
        ins.push(n.weight(&w[..1]));
    }
    let op = Conv {
        strides: vec![1; spatial],
        dilations: vec![1; spatial],
        pads: vec![0; 2 * spatial],
        group,
    };
    n.op(op, &ins)
}

#[test]
fn convolutions_concatenations_and_pools() {
    let mut n = Net::new(5);
    let x = n.f32(&["b", "3", "9", "9"]);
    let a = conv(&mut n, x, &[4, 3, 1, 1], 1, true);
    let a = n.op(Relu {}, &[a]);
    let b = conv(&mut n, x, &[2, 3, 1, 1], 1, false);
    let c = n.op(Concat { axis: 1 }, &[a, b]);
    let pool = Pool {
        kind: PoolKind::Max,
        kernel: vec![3, 3],
        strides: vec![3, 3],
        dilations: vec![1, 1],
        pads: vec![0; 4],
        ceil: false,
    };
    let c = n.op(pool, &[c]);
    let d = conv(&mut n, c, &[6, 1, 2, 2], 6, true);
    let flat = n.op(
        Reshape {
            shape: sym(&["b", "24"]),
        },
        &[d],
    );
    let y = matmul(&mut n, flat, 24, 5);
    let m = n.finish(&[y]);
    let all = find(&m, &[], &[]);
    assert_eq!(
        text(&m, &all),
        ["n0,n2||mul", "n5||n0.1[0] n0.2[0] n2.1[0]", "n7||n5.1[0] n5.2[0]"]
    );
    // A filter's places behind a reshape share a factor.
    let want: Vec<u32> = (0..6).flat_map(|c| [c * 4; 4]).collect();
    assert_eq!(all[2].groups, want);
    assert_eq!(folded(&all[1])[2].places, [(vec![0], 4), (vec![1], 5)]);
}

#[test]
fn what_other_values_need_stays() {
    // The value in front is an output, has another reader, or is multiplied with itself.
    for case in 0..4 {
        let mut n = Net::new(6);
        let x = n.f32(&["b", "8"]);
        let h = matmul(&mut n, x, 8, 6);
        let r = match case {
            2 => n.op(Mul {}, &[h, h]),
            _ => n.op(Relu {}, &[h]),
        };
        let y = matmul(&mut n, r, 6, 4);
        let mut outs = vec![y];
        match case {
            0 => outs.push(h),
            1 => outs.push(n.op(Silu {}, &[h])),
            3 => outs.push(r),
            _ => {}
        }
        let m = n.finish(&outs);
        let last = find(&m, &[], &[]).pop().expect("two sites");
        assert_eq!(last.home, Home::PreScale, "case {case}");
    }
}
