//! What is known about a plan before any shape: step numbers, which values come late, aliases.

use crate::error::RuntimeError;
use rsqc_artifact::manifest::{Manifest, Step, buffer, expr::Node, step};

/// Static facts of a plan.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Flattened number of every step, by block.
    pub numbers: Vec<Vec<u32>>,
    /// Number of steps.
    pub steps: u32,
    /// Per symbol: bound while the run is under way (by a Bind or a loop), not by the inputs.
    pub late_symbol: Vec<bool>,
    /// Per expression: its value needs a late symbol.
    pub late_expr: Vec<bool>,
    /// Per buffer: it has memory of its own, whose size only a late symbol tells.
    pub late_buffer: Vec<bool>,
    /// Per buffer: the buffer whose memory it lies in (itself if it is no alias).
    pub root: Vec<u32>,
    /// Per buffer: it gets its address from an Alias step.
    pub alias: Vec<bool>,
    /// Per buffer: first and last step in which its memory is needed, aliases included.
    pub live: Vec<(u32, u32)>,
}

impl Layout {
    /// Analyses a validated manifest.
    pub fn new(m: &Manifest) -> Result<Layout, RuntimeError> {
        let mut layout = Layout {
            numbers: m.blocks.iter().map(|b| vec![0; b.steps.len()]).collect(),
            steps: 0,
            late_symbol: vec![false; m.symbols.len()],
            late_expr: Vec::with_capacity(m.exprs.len()),
            late_buffer: Vec::new(),
            root: (0..m.buffers.len() as u32).collect(),
            alias: vec![false; m.buffers.len()],
            live: m.buffers.iter().map(|b| (b.first_step, b.last_step)).collect(),
        };
        layout.number(m, 0)?;
        layout.mark_late(m);
        layout.extend_live();
        layout.late_buffer = (0..m.buffers.len()).map(|id| layout.is_late(m, id)).collect();
        if m.buffers
            .iter()
            .any(|b| matches!(b.kind, Some(buffer::Kind::State(_))))
        {
            return Err(RuntimeError::Unsupported(
                "state buffers, in this version of the runtime".into(),
            ));
        }
        for io in &m.inputs {
            for dim in &io.dims {
                if let Some(Node::Symbol(s)) = &m.exprs[*dim as usize].node
                    && layout.late_symbol[*s as usize]
                {
                    let name = &m.symbols[*s as usize].name;
                    return Err(RuntimeError::Corrupt(format!(
                        "symbol {name} is bound by input '{}' and by a step",
                        io.name
                    )));
                }
            }
        }
        Ok(layout)
    }

    /// Numbers the steps of a block; validation bounded the recursion.
    fn number(&mut self, m: &Manifest, block: u32) -> Result<(), RuntimeError> {
        for (i, step) in m.blocks[block as usize].steps.iter().enumerate() {
            self.numbers[block as usize][i] = self.steps;
            self.steps += 1;
            match &step.kind {
                Some(step::Kind::Bind(bind)) => self.late_symbol[bind.symbol as usize] = true,
                Some(step::Kind::Branch(branch)) => {
                    self.number(m, branch.then_block)?;
                    if let Some(block) = branch.else_block {
                        self.number(m, block)?;
                    }
                }
                Some(step::Kind::Loop(body)) => {
                    if let Some(symbol) = body.index_symbol {
                        self.late_symbol[symbol as usize] = true;
                    }
                    self.number(m, body.body)?;
                }
                Some(step::Kind::Alias(alias)) => {
                    let of = self.root[alias.of as usize];
                    if of == alias.buffer {
                        return Err(RuntimeError::Corrupt(format!(
                            "buffer {of} is an alias of itself"
                        )));
                    }
                    self.alias[alias.buffer as usize] = true;
                    for root in &mut self.root {
                        if *root == alias.buffer {
                            *root = of;
                        }
                    }
                }
                Some(step::Kind::State(_)) => {
                    return Err(RuntimeError::Unsupported(
                        "state steps, in this version of the runtime".into(),
                    ));
                }
                Some(step::Kind::Launch(_) | step::Kind::Check(_) | step::Kind::Copy(_)) | None => {}
            }
        }
        Ok(())
    }

    fn mark_late(&mut self, m: &Manifest) {
        for expr in &m.exprs {
            let late = match &expr.node {
                Some(Node::Symbol(s)) => self.late_symbol[*s as usize],
                Some(
                    Node::Add(p)
                    | Node::Mul(p)
                    | Node::FloorDiv(p)
                    | Node::Modulo(p)
                    | Node::Min(p)
                    | Node::Max(p),
                ) => self.late_expr[p.a as usize] || self.late_expr[p.b as usize],
                Some(Node::Constant(_)) | None => false,
            };
            self.late_expr.push(late);
        }
    }

    fn is_late(&self, m: &Manifest, id: usize) -> bool {
        let info = &m.buffers[id];
        let late = self.late_expr[info.bytes as usize];
        match &info.kind {
            Some(buffer::Kind::Arena(_) | buffer::Kind::Host(_)) => late && !self.alias[id],
            Some(buffer::Kind::Output(i)) => {
                late || m.outputs[*i as usize]
                    .dims
                    .iter()
                    .any(|d| self.late_expr[*d as usize])
            }
            _ => false,
        }
    }

    /// Memory is needed as long as any alias of it is.
    fn extend_live(&mut self) {
        for i in 0..self.root.len() {
            let root = self.root[i] as usize;
            let (first, last) = self.live[i];
            self.live[root].0 = self.live[root].0.min(first);
            self.live[root].1 = self.live[root].1.max(last);
        }
    }

    /// The steps after which a buffer has its final contents: its last writers, one for each way through the
    /// branches. Empty if no step writes it.
    pub fn last_writers(&self, m: &Manifest, buffer: u32) -> Vec<u32> {
        let mut found = Vec::new();
        self.writers_in(m, 0, self.root[buffer as usize], &mut found);
        found
    }

    /// Adds the last writers of a block; true if the block writes on every way through it.
    fn writers_in(&self, m: &Manifest, block: u32, root: u32, found: &mut Vec<u32>) -> bool {
        for (i, step) in m.blocks[block as usize].steps.iter().enumerate().rev() {
            let certain = match &step.kind {
                Some(step::Kind::Branch(branch)) => {
                    let then = self.writers_in(m, branch.then_block, root, found);
                    let other = branch
                        .else_block
                        .is_some_and(|b| self.writers_in(m, b, root, found));
                    then && other
                }
                Some(step::Kind::Loop(body)) => {
                    self.writers_in(m, body.body, root, found);
                    false
                }
                _ if self.writes(step, root) => {
                    found.push(self.numbers[block as usize][i]);
                    true
                }
                _ => false,
            };
            if certain {
                return true;
            }
        }
        false
    }

    fn writes(&self, step: &Step, root: u32) -> bool {
        let same = |buffer: u32| self.root[buffer as usize] == root;
        match &step.kind {
            Some(step::Kind::Launch(launch)) => {
                launch.args.iter().any(|a| a.access().writes() && same(a.buffer))
            }
            Some(step::Kind::Copy(copy)) => same(copy.dst),
            _ => false,
        }
    }
}
