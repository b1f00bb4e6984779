//! The manager: phases, bisecting, dumps, the numeric check; the registry: names and options.

use crate::manager::{ManagerOptions, PassManager};
use crate::pass::{Effect, Env, Pass, PassCx, Phases};
use crate::registry::{PASSES, parse};
use crate::testing::Net;
use rsqc_ir::diag::{Blame, Diag};
use rsqc_ir::eval::Tensor;
use rsqc_ir::ops::elementwise::{Abs, Add, Mul, Neg, Relu, Tanh};
use rsqc_ir::{Module, Op, Patch, Phase};

/// Replaces every relu by another op, one patch each.
struct Replace {
    with: Op,
    effect: Effect,
}

impl Pass for Replace {
    fn name(&self) -> &'static str {
        "replace"
    }
    fn effect(&self) -> Effect {
        self.effect
    }
    fn phases(&self) -> Phases {
        Phases::within(Phase::Imported, Phase::Canonical)
    }
    fn run(&self, cx: &mut PassCx<'_>) -> Result<(), Diag> {
        let relus: Vec<_> = cx
            .module()
            .graph
            .node_ids()
            .filter(|n| matches!(cx.module().graph.node(*n).op, Op::Relu(_)))
            .collect();
        for n in relus {
            let m = cx.module();
            let node = m.graph.node(n);
            let mut p = Patch::new(m);
            let new = p
                .node(
                    m,
                    self.with.clone(),
                    &[node.input(0).expect("one operand")],
                    &node.loc,
                )
                .map_err(crate::pass::edit_diag)?;
            p.replace(node.output(), new);
            if !cx.apply(p)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn replace(with: impl Into<Op>, effect: Effect) -> Vec<Box<dyn Pass>> {
    vec![Box::new(Replace {
        with: with.into(),
        effect,
    })]
}

/// `relu(relu(x) * 2) + x`: the first relu is node n0, the second n2.
fn module() -> Module {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let two = n.constant(&Tensor::new(vec![], vec![2f32]));
    let y = n.op(Relu {}, &[x]);
    let y = n.op(Mul {}, &[y, two]);
    let y = n.op(Relu {}, &[y]);
    let y = n.op(Add {}, &[y, x]);
    n.finish(&[y])
}

fn relus(m: &Module) -> usize {
    m.graph
        .node_ids()
        .filter(|n| matches!(m.graph.node(*n).op, Op::Relu(_)))
        .count()
}

#[test]
fn a_run_stops_after_the_edit_asked_for() {
    for limit in 0..4u64 {
        let mut m = module();
        let options = ManagerOptions {
            stop_after: Some(limit),
            verify_each: true,
            ..ManagerOptions::default()
        };
        let report = PassManager::new(Env::default(), options)
            .run(&mut m, &replace(Abs {}, Effect::Lossy))
            .expect("no error");
        assert_eq!(report.edits(), limit.min(2));
        assert_eq!(relus(&m) as u64, 2 - limit.min(2));
        assert_eq!(report.stopped, limit < 2);
    }
}

#[test]
fn sweeps_stop_in_the_middle_and_stay_valid() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let one = n.constant(&Tensor::new(vec![], vec![1f32]));
    let mut y = x;
    for _ in 0..5 {
        y = n.op(Mul {}, &[y, one]);
    }
    let m = n.finish(&[y]);
    for limit in 0..5u64 {
        let mut out = m.clone();
        let options = ManagerOptions {
            stop_after: Some(limit),
            verify_each: true,
            check_numeric: true,
            ..ManagerOptions::default()
        };
        let passes = parse("remove-identities,merge-equal").expect("known passes");
        let report = PassManager::new(Env::default(), options)
            .run(&mut out, &passes)
            .expect("no error");
        assert_eq!(
            (report.edits(), out.graph.node_count() as u64),
            (limit, 5 - limit)
        );
        assert_eq!(report.passes.len(), 1, "the second pass does not start");
    }
}

#[test]
fn a_broken_declaration_is_caught_and_names_pass_and_node() {
    let run = |with: Op, effect| {
        let options = ManagerOptions {
            check_numeric: true,
            ..ManagerOptions::default()
        };
        PassManager::new(Env::default(), options).run(&mut module(), &replace(with, effect))
    };
    let err = run(Abs {}.into(), Effect::Exact).expect_err("abs is not relu");
    assert_eq!((err.blame, err.loc.as_str()), (Blame::Internal, "n0"));
    assert!(
        err.message.starts_with("pass `replace`: numbers change by"),
        "{}",
        err.message
    );
    assert!(run(Tanh {}.into(), Effect::Rounding(1e-3)).is_err());
    assert!(run(Abs {}.into(), Effect::Lossy).is_ok());
    let report = run(Relu {}.into(), Effect::Exact).expect("the same op");
    assert!(report.passes[0].notes.is_empty(), "it was really compared");
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let mut n = Net::new(1);
    let x = n.f32(&["b", "4"]);
    let table = n.weight(&[3, 4]);
    let outside = n.constant(&Tensor::new(vec![], vec![9i64]));
    let row = n.op(rsqc_ir::ops::gather::Gather { axis: 0 }, &[table, outside]);
    let y = n.op(Relu {}, &[x]);
    let y = n.op(Add {}, &[y, row]);
    let mut m = n.finish(&[y]);
    let options = ManagerOptions {
        check_numeric: true,
        ..ManagerOptions::default()
    };
    let report = PassManager::new(Env::default(), options)
        .run(&mut m, &replace(Relu {}, Effect::Exact))
        .expect("the pass itself is fine");
    assert!(
        report.passes[0].notes[0].starts_with("numbers not checked"),
        "{:?}",
        report.passes[0].notes
    );
}

#[test]
fn phases_are_enforced_and_advance() {
    let mut m = module();
    m.phase = Phase::Imported;
    let mut manager = PassManager::new(Env::default(), ManagerOptions::default());
    manager
        .run(&mut m, &parse("enter-canonical").expect("known"))
        .expect("imported");
    assert_eq!(m.phase, Phase::Canonical);
    let err = manager
        .run(&mut m, &parse("enter-canonical").expect("known"))
        .expect_err("twice");
    assert!(
        err.message
            .contains("needs phase `imported`, but the module is `canonical`"),
        "{}",
        err.message
    );
    m.phase = Phase::Lowered;
    assert!(
        manager
            .run(&mut m, &parse("merge-equal").expect("known"))
            .is_err()
    );
}

#[test]
fn dumps_and_diffs_are_asked_for_by_name() {
    let mut text = Vec::new();
    let options = ManagerOptions {
        print_after: vec!["replace".into()],
        diff: true,
        ..ManagerOptions::default()
    };
    PassManager::new(Env::default(), options)
        .output(|t| text.push(t.to_string()))
        .run(&mut module(), &replace(Neg {}, Effect::Lossy))
        .expect("no error");
    assert!(
        text[0].starts_with("// after replace") && text[0].contains("neg"),
        "{text:?}"
    );
    assert!(
        text[1].lines().any(|l| l.starts_with('-') && l.contains("relu")),
        "{}",
        text[1]
    );
    assert!(
        text[1].lines().any(|l| l.starts_with('+') && l.contains("neg")),
        "{}",
        text[1]
    );
    assert!(
        !text[1].lines().any(|l| l.starts_with('+') && l.contains("input")),
        "unchanged lines are left out"
    );
}

#[test]
fn unknown_passes_and_options_are_user_errors_with_help() {
    let err = parse("merge-equal,fold-constant").err().expect("a typing error");
    assert_eq!(err.blame, Blame::User);
    let help = err.help.expect("a suggestion");
    assert!(
        help.contains("did you mean `fold-constants`?") && help.contains("merge-equal"),
        "{help}"
    );
    let err = parse("fold-constants:grow=12:size=3")
        .err()
        .expect("no such option");
    assert!(err.message.contains("`size`") && err.help.is_some_and(|h| h.contains("grow")));
    assert!(parse("fold-constants:grow=many").is_err());
    assert_eq!(
        parse(" fold-constants:grow=12 , remove-dead,")
            .expect("spaces")
            .len(),
        2
    );
    assert!(parse("").expect("nothing").is_empty());
}

#[test]
fn every_row_makes_the_pass_it_names() {
    let mut names = Vec::new();
    for row in PASSES {
        let passes = parse(row.name).unwrap_or_else(|d| panic!("{}: {d}", row.name));
        assert_eq!(passes[0].name(), row.name);
        assert!(!row.doc.is_empty());
        names.push(row.name);
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "names are unique");
}
