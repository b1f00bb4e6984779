//! Replaces transcendental scalar ops by formulas of primitive ops.

use super::{Body, BodyBuilder, BodyId};

/// Expands every transcendental op of `body`; `roots` are rewritten to the new statement numbers.
pub fn expand(body: &Body, roots: &mut [BodyId]) -> Body {
    let mut b = BodyBuilder::new();
    let mut map: Vec<BodyId> = Vec::with_capacity(body.stmts.len());
    for s in &body.stmts {
        let args: Vec<BodyId> = s.args.iter().map(|a| map[a.index()]).collect();
        map.push(b.push(s.op.clone(), &args, s.ty));
    }
    for r in roots {
        *r = map[r.index()];
    }
    b.body().clone()
}
