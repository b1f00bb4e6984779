//! A plain listing and a type check, until the ir crate exports its printer and verifier.
pub(crate) mod text {
    //! Listing.
    use rsqc_ir::Module;
    use std::fmt::Write;
    /// One line a node.
    pub(crate) fn print(m: &Module) -> String {
        let mut out = format!("// {} ({})\n", m.name, m.phase.name());
        let vs = |v: Option<rsqc_ir::ValueId>| match v {
            Some(v) => match m.graph.const_id(v) {
                Some(c) => format!("@{}:{}", c.0, m.graph.ty(v)),
                None => format!("%{}", v.0),
            },
            None => "_".into(),
        };
        for p in m.graph.inputs() {
            let _ = writeln!(out, "%{} = input {} : {}", p.value.0, p.name, m.graph.ty(p.value));
        }
        for n in m.graph.topo_order().unwrap_or_default() {
            let node = m.graph.node(n);
            let outs: Vec<String> = node
                .outputs
                .iter()
                .map(|v| format!("%{}: {}", v.0, m.graph.ty(*v)))
                .collect();
            let ins: Vec<String> = node.inputs.iter().map(|v| vs(*v)).collect();
            let _ = writeln!(
                out,
                "{} = {}({}) {:?} // {}",
                outs.join(", "),
                node.op.name(),
                ins.join(", "),
                node.op.attrs(),
                node.loc
            );
        }
        for p in m.graph.outputs() {
            let _ = writeln!(out, "output {} = %{}", p.name, p.value.0);
        }
        out
    }
}
pub(crate) mod verify {
    //! Type check.
    use rsqc_ir::Module;
    use rsqc_ir::diag::Diag;
    use rsqc_ir::ops::InferCx;
    /// Re-infers every node.
    pub(crate) fn verify(m: &Module) -> Vec<Diag> {
        let order = match m.graph.topo_order() {
            Ok(o) => o,
            Err(n) => return vec![Diag::internal("", format!("cycle at node {}", n.0))],
        };
        let mut out = Vec::new();
        for n in order {
            let node = m.graph.node(n);
            let ins: Vec<_> = node.inputs.iter().map(|v| v.map(|v| m.graph.ty(v))).collect();
            let want: Vec<_> = node.outputs.iter().map(|v| m.graph.ty(*v).clone()).collect();
            match node.op.infer(&InferCx { symbols: &m.symbols }, &ins) {
                Ok(t) if t == want => {}
                Ok(t) => out.push(Diag::internal(
                    node.loc.to_string(),
                    format!("{}: {t:?} vs {want:?}", node.op.name()),
                )),
                Err(e) => out.push(Diag::internal(node.loc.to_string(), e)),
            }
        }
        out
    }
}
