//! The plainest possible interpreter of regions: one point at a time, straight from the documentation.
#![allow(dead_code)]

use half::{bf16, f16};
use rsqc_backend::KernelSpec;
use rsqc_ir::region::{Access, Anchor, AxisKind, Products};
use rsqc_ir::scalar::{Body, Pred, ReduceKind, ScalarConst, ScalarOp, Stmt};
use rsqc_ir::{Dim, ScalarType};
use std::cell::RefCell;

/// A machine value: its bits, zero-extended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    pub ty: ScalarType,
    pub bits: u64,
}

impl Value {
    pub fn zero(ty: ScalarType) -> Value {
        Value { ty, bits: 0 }
    }

    pub fn load(ty: ScalarType, bytes: &[u8], index: i64) -> Value {
        let size = ty.size();
        let at = usize::try_from(index).expect("a non-negative index") * size;
        let mut bits = [0u8; 8];
        bits[..size].copy_from_slice(&bytes[at..at + size]);
        let bits = u64::from_le_bytes(bits);
        let bits = if ty == ScalarType::Bool {
            u64::from(bits != 0)
        } else {
            bits
        };
        Value { ty, bits }
    }

    pub fn store(self, bytes: &mut [u8], index: i64) {
        let size = self.ty.size();
        let at = usize::try_from(index).expect("a non-negative index") * size;
        bytes[at..at + size].copy_from_slice(&self.bits.to_le_bytes()[..size]);
    }

    pub fn float(self) -> f64 {
        match self.ty {
            ScalarType::F64 => f64::from_bits(self.bits),
            ScalarType::F32 => f64::from(f32::from_bits(self.bits as u32)),
            ScalarType::F16 => f16::from_bits(self.bits as u16).to_f64(),
            ScalarType::BF16 => bf16::from_bits(self.bits as u16).to_f64(),
            _ => self.int() as f64,
        }
    }

    pub fn int(self) -> i128 {
        let width = self.ty.size() as u32 * 8;
        if self.ty.is_signed_int() {
            i128::from((self.bits << (64 - width)) as i64 >> (64 - width))
        } else {
            i128::from(self.bits)
        }
    }

    pub fn of_int(ty: ScalarType, v: i128) -> Value {
        let c = ScalarConst::int(ty, v as i64);
        Value {
            ty,
            bits: if ty == ScalarType::Bool {
                c.bits & 1
            } else {
                c.bits
            },
        }
    }

    pub fn of_float(ty: ScalarType, v: f64) -> Value {
        let bits = match ty {
            ScalarType::F64 => v.to_bits(),
            ScalarType::F32 => u64::from((v as f32).to_bits()),
            ScalarType::F16 => u64::from(f16::from_f64(v).to_bits()),
            _ => u64::from(bf16::from_f64(v).to_bits()),
        };
        Value { ty, bits }
    }

    /// Equal bits, or both NaN.
    pub fn same(self, other: Value) -> bool {
        let nan = |v: Value| v.ty.is_float() && v.float().is_nan();
        self.bits == other.bits || (nan(self) && nan(other))
    }
}

/// One operation; sums and products of half types are rounded from f32, as f32 has more than twice their digits.
pub fn apply(s: &Stmt, a: &[Value]) -> Value {
    let ty = s.ty;
    let float = |v: f64| Value::of_float(ty, v);
    let int = |v: i128| Value::of_int(ty, v);
    match &s.op {
        ScalarOp::Cast => return cast(a[0], ty),
        ScalarOp::Bitcast => return Value { ty, bits: a[0].bits },
        ScalarOp::Select => return if a[0].bits != 0 { a[1] } else { a[2] },
        ScalarOp::Cmp(p) => {
            return Value {
                ty,
                bits: u64::from(compare(*p, a[0], a[1])),
            };
        }
        ScalarOp::Min => return if compare(Pred::Lt, a[0], a[1]) { a[0] } else { a[1] },
        ScalarOp::Max => return if compare(Pred::Gt, a[0], a[1]) { a[0] } else { a[1] },
        _ => {}
    }
    if !ty.is_float() {
        let (x, y) = (a[0].int(), a.get(1).map_or(0, |v| v.int()));
        return int(match s.op {
            ScalarOp::Neg => -x,
            ScalarOp::Abs => x.abs(),
            ScalarOp::Not if ty == ScalarType::Bool => 1 - x,
            ScalarOp::Not => !x,
            ScalarOp::Add => x + y,
            ScalarOp::Sub => x - y,
            ScalarOp::Mul => x.wrapping_mul(y),
            ScalarOp::Div | ScalarOp::Rem if y == 0 => 0,
            ScalarOp::Div => x / y,
            ScalarOp::Rem => x % y,
            ScalarOp::And => x & y,
            ScalarOp::Or => x | y,
            ScalarOp::Xor => x ^ y,
            ScalarOp::Shl => x << (y as u32 & (ty.size() as u32 * 8 - 1)),
            ScalarOp::Shr => x >> (y as u32 & (ty.size() as u32 * 8 - 1)),
            ref op => panic!("{op:?} on {ty}"),
        });
    }
    let sign = 1u64 << (ty.size() * 8 - 1);
    match s.op {
        ScalarOp::Neg => {
            return Value {
                ty,
                bits: a[0].bits ^ sign,
            };
        }
        ScalarOp::Abs => {
            return Value {
                ty,
                bits: a[0].bits & !sign,
            };
        }
        _ => {}
    }
    let (x, y) = (a[0].float(), a.get(1).map_or(0.0, |v| v.float()));
    let (xs, ys) = (x as f32, y as f32);
    // Sums, products and quotients of f32 rounded through f64 would be rounded twice.
    let single = ty != ScalarType::F64;
    let pick = |wide: f64, narrow: f32| if single { f64::from(narrow) } else { wide };
    float(match s.op {
        ScalarOp::Sqrt => pick(x.sqrt(), xs.sqrt()),
        ScalarOp::RoundEven => x.round_ties_even(),
        ScalarOp::Floor => x.floor(),
        ScalarOp::Ceil => x.ceil(),
        ScalarOp::Add => pick(x + y, xs + ys),
        ScalarOp::Sub => pick(x - y, xs - ys),
        ScalarOp::Mul => pick(x * y, xs * ys),
        ScalarOp::Div => pick(x / y, xs / ys),
        ScalarOp::Rem => pick(x % y, xs % ys),
        ref op => panic!("{op:?} on {ty}"),
    })
}

fn compare(p: Pred, a: Value, b: Value) -> bool {
    if a.ty.is_float() {
        let (x, y) = (a.float(), b.float());
        match p {
            Pred::Eq => x == y,
            Pred::Ne => x != y,
            Pred::Lt => x < y,
            Pred::Le => x <= y,
            Pred::Gt => x > y,
            Pred::Ge => x >= y,
        }
    } else {
        let (x, y) = (a.int(), b.int());
        match p {
            Pred::Eq => x == y,
            Pred::Ne => x != y,
            Pred::Lt => x < y,
            Pred::Le => x <= y,
            Pred::Gt => x > y,
            Pred::Ge => x >= y,
        }
    }
}

pub fn cast(v: Value, ty: ScalarType) -> Value {
    let from_float = v.ty.is_float();
    match ty {
        _ if ty == v.ty => v,
        ScalarType::Bool if from_float => Value {
            ty,
            bits: u64::from(v.float() != 0.0),
        },
        ScalarType::Bool => Value {
            ty,
            bits: u64::from(v.bits != 0),
        },
        t if t.is_float() && from_float => Value::of_float(ty, v.float()),
        ScalarType::F32 => Value {
            ty,
            bits: u64::from((v.int() as f32).to_bits()),
        },
        t if t.is_float() => Value::of_float(ty, v.int() as f64),
        _ if !from_float => Value::of_int(ty, v.int()),
        _ => {
            let bits = ty.size() as u32 * 8;
            let signed = ty.is_signed_int();
            let (low, high) = if signed {
                (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
            } else {
                (0, (1i128 << bits) - 1)
            };
            Value::of_int(ty, (v.float() as i128).clamp(low, high))
        }
    }
}

fn combine(kind: ReduceKind, acc: Value, x: Value) -> Value {
    let (op, a, b) = match kind {
        ReduceKind::Sum => (ScalarOp::Add, acc, x),
        ReduceKind::Prod => (ScalarOp::Mul, acc, x),
        ReduceKind::Max => (ScalarOp::Max, x, acc),
        ReduceKind::Min => (ScalarOp::Min, x, acc),
    };
    apply(
        &Stmt {
            op,
            args: vec![],
            ty: acc.ty,
        },
        &[a, b],
    )
}

fn neutral(kind: ReduceKind, ty: ScalarType) -> Value {
    let extreme = |v: f64| cast(Value::of_float(ScalarType::F64, v), ty);
    match kind {
        ReduceKind::Sum => Value::zero(ty),
        ReduceKind::Prod => cast(Value::of_int(ScalarType::I64, 1), ty),
        ReduceKind::Max => extreme(f64::NEG_INFINITY),
        ReduceKind::Min => extreme(f64::INFINITY),
    }
}

/// Runs a region.
pub struct Naive<'a> {
    pub spec: &'a KernelSpec,
    pub dim: &'a dyn Fn(&Dim) -> i64,
    pub inputs: &'a [Vec<u8>],
    /// The weights of the last attention row: they are the same for all channels.
    pub weights: RefCell<(Vec<i64>, Vec<f64>)>,
}

impl Naive<'_> {
    fn address(&self, a: &Access, at: &[i64]) -> i64 {
        let mut address = (self.dim)(&a.offset);
        for t in &a.terms {
            let mut i = at[t.axis as usize];
            if let Some(c) = &t.clamp {
                i = (i + (self.dim)(&c.shift)).min((self.dim)(&c.limit) - 1).max(0);
            }
            address += i * (self.dim)(&t.stride);
        }
        for g in &a.gathers {
            let limit = (self.dim)(&g.limit);
            let mut i = self.operand(g.operand, at).int() as i64;
            if i < 0 {
                i += limit;
            }
            address += i.min(limit - 1).max(0) * (self.dim)(&g.stride);
        }
        address
    }

    /// An operand's value; one whose clamped or gathered dimension is empty reads as zero.
    pub fn operand(&self, n: u32, at: &[i64]) -> Value {
        let access = &self.spec.region.operands[n as usize];
        let ty = self.spec.operands[n as usize].storage();
        let clamps = access
            .terms
            .iter()
            .filter_map(|t| t.clamp.as_ref().map(|c| &c.limit));
        if clamps
            .chain(access.gathers.iter().map(|g| &g.limit))
            .any(|l| (self.dim)(l) <= 0)
        {
            return Value::zero(ty);
        }
        Value::load(ty, &self.inputs[n as usize], self.address(access, at))
    }

    pub(super) fn extent(&self, axis: usize) -> i64 {
        (self.dim)(&self.spec.region.axes[axis].extent)
    }

    /// Calls `f` with every index tuple over `axes`, in row-major order.
    fn each(&self, axes: &[usize], at: &mut Vec<i64>, f: &mut dyn FnMut(&mut Vec<i64>)) {
        match axes.split_first() {
            None => f(at),
            Some((axis, rest)) => {
                for i in 0..self.extent(*axis) {
                    at[*axis] = i;
                    self.each(rest, at, f);
                }
            }
        }
    }

    fn anchor(&self, at: &[i64]) -> Value {
        let r = &self.spec.region;
        match &r.anchor {
            Anchor::None => panic!("no anchor"),
            Anchor::Contract { lhs, rhs, acc, pad } => {
                let axes: Vec<usize> = (0..r.axes.len())
                    .filter(|a| r.axes[*a].kind == AxisKind::Reduce)
                    .collect();
                let mut at = at.to_vec();
                let (mut exact, mut float) = (0i128, 0f64);
                self.each(&axes, &mut at, &mut |at| {
                    let outside = r.operands[*lhs as usize].terms.iter().any(|t| {
                        t.clamp.as_ref().is_some_and(|c| {
                            let i = at[t.axis as usize] + (self.dim)(&c.shift);
                            i < 0 || i >= (self.dim)(&c.limit)
                        })
                    });
                    if *pad && outside {
                        return;
                    }
                    let (a, b) = (self.operand(*lhs, at), self.operand(*rhs, at));
                    exact += a.int() * b.int();
                    float += a.float() * b.float();
                });
                if acc.is_float() {
                    Value::of_float(*acc, float)
                } else {
                    Value::of_int(*acc, exact)
                }
            }
            Anchor::Attention(a) if a.products != Products::Float => self.attention_of_codes(at),
            Anchor::Attention(_) => self.attention(at),
        }
    }

    /// Softmax weights over the keys (empty if every score is -inf).
    fn weights(&self, at: &[i64]) -> Vec<f64> {
        let Anchor::Attention(a) = &self.spec.region.anchor else {
            panic!("no attention")
        };
        let mut at = at.to_vec();
        let mut scores = Vec::new();
        for t in 0..self.extent(a.key as usize) {
            at[a.key as usize] = t;
            let mut dot = 0.0;
            for d in 0..self.extent(a.inner as usize) {
                at[a.inner as usize] = d;
                dot += self.operand(a.q, &at).float() * self.operand(a.k, &at).float();
            }
            let env = self.evaluate(&a.score, &at, Value::of_float(ScalarType::F32, dot));
            scores.push(env[a.score.stmts.len() - 1].float());
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return Vec::new();
        }
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    }

    fn attention(&self, at: &[i64]) -> Value {
        let Anchor::Attention(a) = &self.spec.region.anchor else {
            panic!("no attention")
        };
        let mut at = at.to_vec();
        let channel = self.spec.region.parallel().end as usize - 1;
        let row: Vec<i64> = at[..channel].to_vec();
        if self.weights.borrow().0 != row {
            *self.weights.borrow_mut() = (row, self.weights(&at));
        }
        let cache = self.weights.borrow();
        if cache.1.is_empty() {
            let empty = match a.empty_row {
                rsqc_ir::ops::nn::EmptyRow::Nan => f64::NAN,
                rsqc_ir::ops::nn::EmptyRow::Zero => 0.0,
            };
            return Value::of_float(ScalarType::F32, empty);
        }
        let mut sum = 0.0;
        for (t, w) in cache.1.iter().enumerate() {
            at[a.key as usize] = t as i64;
            sum += w * self.operand(a.v, &at).float();
        }
        Value::of_float(ScalarType::F32, sum)
    }

    /// All statements of a body without reductions at one point.
    pub(super) fn evaluate(&self, body: &Body, at: &[i64], anchor: Value) -> Vec<Value> {
        let mut env: Vec<Value> = Vec::new();
        for s in &body.stmts {
            env.push(self.leaf(&s.op, at, &|| anchor).unwrap_or_else(|| {
                let args: Vec<Value> = s.args.iter().map(|a| env[a.index()]).collect();
                apply(s, &args)
            }));
        }
        env
    }

    fn leaf(&self, op: &ScalarOp, at: &[i64], anchor: &dyn Fn() -> Value) -> Option<Value> {
        Some(match op {
            ScalarOp::Operand(n) => self.operand(*n, at),
            ScalarOp::Anchor => anchor(),
            ScalarOp::Index(a) => Value::of_int(ScalarType::I64, i128::from(at[*a as usize])),
            ScalarOp::Dim(d) => Value::of_int(ScalarType::I64, i128::from((self.dim)(d))),
            ScalarOp::Const(c) => Value {
                ty: c.ty,
                bits: c.bits,
            },
            _ => return None,
        })
    }

    /// The bytes of all results; `results` start as given.
    pub fn run(&self, results: &mut [Vec<u8>]) {
        let r = &self.spec.region;
        let outer: Vec<usize> = r.outer().map(|a| a as usize).collect();
        let row: Vec<usize> = r.row().map(|a| a as usize).collect();
        let mut at = vec![0; r.axes.len()];
        self.each(&outer, &mut at, &mut |at| {
            let mut points = Vec::new();
            self.each(&row, &mut at.clone(), &mut |at| points.push(at.clone()));
            self.row(&points, at, results);
        });
    }

    /// Statement by statement, over all points of a row.
    fn row(&self, points: &[Vec<i64>], first: &[i64], results: &mut [Vec<u8>]) {
        let r = &self.spec.region;
        let anchors: Vec<Value> = match r.anchor {
            Anchor::None => Vec::new(),
            _ => points.iter().map(|at| self.anchor(at)).collect(),
        };
        let origin = [first.to_vec()];
        let here: &[Vec<i64>] = if points.is_empty() { &origin } else { points };
        let mut env: Vec<Vec<Value>> = Vec::new();
        for s in &r.body.stmts {
            let column: Vec<Value> = match s.op {
                ScalarOp::Reduce(kind) => {
                    let mut partial = [neutral(kind, s.ty); 16];
                    for (i, x) in env[s.args[0].index()].iter().enumerate().take(points.len()) {
                        partial[i % 16] = combine(kind, partial[i % 16], *x);
                    }
                    for width in [8, 4, 2, 1] {
                        for i in 0..width {
                            partial[i] = combine(kind, partial[i], partial[i + width]);
                        }
                    }
                    vec![partial[0]; here.len()]
                }
                _ => (0..here.len())
                    .map(|i| {
                        let anchor = || anchors.get(i).copied().unwrap_or(Value::zero(s.ty));
                        let empty =
                            points.is_empty() && matches!(s.op, ScalarOp::Operand(n) if r.varies_in_row(n));
                        if empty {
                            return Value::zero(s.ty);
                        }
                        self.leaf(&s.op, &here[i], &anchor).unwrap_or_else(|| {
                            let args: Vec<Value> = s.args.iter().map(|a| env[a.index()][i]).collect();
                            apply(s, &args)
                        })
                    })
                    .collect(),
            };
            env.push(column);
        }
        for (s, bytes) in r.stores.iter().zip(results) {
            let uniform = r.row().all(|a| !s.access.uses(a));
            for (i, at) in here.iter().enumerate() {
                let skip = if uniform { i > 0 } else { points.is_empty() };
                if !skip {
                    env[s.value.index()][i].store(bytes, self.address(&s.access, at));
                }
            }
        }
    }
}
