//! A small plan builder for the tests of the runtime.
#![allow(dead_code, reason = "each test program uses a part of it")]

use rsqc_artifact::manifest::{expr::Node, *};

/// Builds a manifest step by step; every method returns the new index.
#[derive(Default)]
pub struct Plan {
    pub m: Manifest,
}

impl Plan {
    pub fn new() -> Plan {
        let mut plan = Plan::default();
        (plan.m.version_major, plan.m.version_minor) = VERSION;
        plan.m.model_name = "hand-made".into();
        plan.m.levels = vec!["portable".into()];
        plan.m.blocks.push(Block::default());
        plan
    }

    pub fn symbol(&mut self, name: &str, lo: i64, hi: i64) -> u32 {
        self.m.symbols.push(Symbol {
            name: name.into(),
            lo,
            hi,
        });
        let id = self.m.symbols.len() as u32 - 1;
        self.expr(Node::Symbol(id))
    }

    /// The symbol number behind a symbol expression.
    pub fn symbol_of(&self, expr: u32) -> u32 {
        match self.m.exprs[expr as usize].node {
            Some(Node::Symbol(s)) => s,
            _ => panic!("not a symbol"),
        }
    }

    pub fn expr(&mut self, node: Node) -> u32 {
        self.m.exprs.push(Expr { node: Some(node) });
        self.m.exprs.len() as u32 - 1
    }

    pub fn int(&mut self, value: i64) -> u32 {
        self.expr(Node::Constant(value))
    }

    pub fn add(&mut self, a: u32, b: u32) -> u32 {
        self.expr(Node::Add(Pair { a, b }))
    }

    pub fn mul(&mut self, a: u32, b: u32) -> u32 {
        self.expr(Node::Mul(Pair { a, b }))
    }

    /// ceil(a / b) for positive values.
    pub fn ceil_div(&mut self, a: u32, b: i64) -> u32 {
        let (b1, b) = (self.int(b - 1), self.int(b));
        let sum = self.add(a, b1);
        self.expr(Node::FloorDiv(Pair { a: sum, b }))
    }

    pub fn buffer(&mut self, kind: buffer::Kind, elem: ElemType, dims: &[u32], live: (u32, u32)) -> u32 {
        let mut bytes = self.int(elem.size() as i64);
        for dim in dims {
            bytes = self.mul(bytes, *dim);
        }
        let name = format!("b{}", self.m.buffers.len());
        let (first_step, last_step) = live;
        let dims = dims.to_vec();
        self.m.buffers.push(Buffer {
            kind: Some(kind),
            elem: elem.into(),
            dims,
            bytes,
            first_step,
            last_step,
            name,
        });
        self.m.buffers.len() as u32 - 1
    }

    pub fn input(&mut self, name: &str, elem: ElemType, dims: &[u32]) -> u32 {
        let index = self.m.inputs.len() as u32;
        let buffer = self.buffer(buffer::Kind::Input(index), elem, dims, (0, u32::MAX));
        let io = Io {
            name: name.into(),
            elem: elem.into(),
            dims: dims.to_vec(),
            buffer,
            flags: 0,
        };
        self.m.inputs.push(io);
        buffer
    }

    pub fn output(&mut self, name: &str, elem: ElemType, dims: &[u32]) -> u32 {
        let index = self.m.outputs.len() as u32;
        let buffer = self.buffer(buffer::Kind::Output(index), elem, dims, (0, u32::MAX));
        let io = Io {
            name: name.into(),
            elem: elem.into(),
            dims: dims.to_vec(),
            buffer,
            flags: 0,
        };
        self.m.outputs.push(io);
        buffer
    }

    pub fn arena(&mut self, elem: ElemType, dims: &[u32], live: (u32, u32)) -> u32 {
        self.buffer(buffer::Kind::Arena(Unit {}), elem, dims, live)
    }

    pub fn kernel(&mut self, name: &str, offset: u64) -> u32 {
        let entries = vec![Entry {
            level: "portable".into(),
            offset,
        }];
        self.m.kernels.push(Kernel {
            name: name.into(),
            entries,
        });
        self.m.kernels.len() as u32 - 1
    }

    pub fn block(&mut self) -> u32 {
        self.m.blocks.push(Block::default());
        self.m.blocks.len() as u32 - 1
    }

    pub fn step(&mut self, block: u32, kind: step::Kind) {
        self.m.blocks[block as usize]
            .steps
            .push(Step { kind: Some(kind) });
    }

    /// `args`: reads, the last one is written.
    pub fn launch(&mut self, block: u32, kernel: u32, args: &[u32], params: &[u32], tiles: u32) {
        let count = args.len();
        let arg = |(i, buffer): (usize, &u32)| Arg {
            buffer: *buffer,
            byte_offset: None,
            access: (if i + 1 == count {
                Access::Write
            } else {
                Access::Read
            })
            .into(),
        };
        let launch = Launch {
            variants: vec![Variant {
                kernel,
                ..Variant::default()
            }],
            args: args.iter().enumerate().map(arg).collect(),
            params: params.to_vec(),
            tiles,
            name: format!("launch of {kernel}"),
            node: "node".into(),
            ..Launch::default()
        };
        self.step(block, step::Kind::Launch(launch));
    }

    pub fn cond(a: u32, op: CmpOp, b: u32) -> Cond {
        Cond { a, b, op: op.into() }
    }
}
