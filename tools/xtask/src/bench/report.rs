//! What `bench` prints and writes: Markdown tables, or JSON objects.

use super::Measured;
use super::families::Row;
use super::limits::Limits;
use super::whole;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A Markdown table; the first `left` columns are text, the others numbers.
pub fn table(titles: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        cells.for_each(|cell| {
            let _ = write!(out, "| {cell} ");
        });
        out.push_str("|\n");
    };
    line(&mut titles.iter().copied());
    line(&mut (0..titles.len()).map(|i| if i < left { "---" } else { "---:" }));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

fn share(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share))
}

/// Three significant digits or so.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "-".into(),
        v if v < 10.0 => format!("{v:.3}"),
        v if v < 100.0 => format!("{v:.2}"),
        v => format!("{v:.1}"),
    }
}

fn limits(limits: &Limits) -> String {
    let peaks = limits.peaks.iter().map(|p| {
        let rate = p.gmacs.map_or("-".into(), |g| format!("{g:.1} GMAC/s"));
        vec![
            format!("{} peak", p.what),
            format!("{} on registers", p.instructions),
            rate,
        ]
    });
    let reads = limits.reads.iter().map(|r| {
        let how = match r.bytes {
            b if b < 1 << 20 => format!("{} KiB over and over", b >> 10),
            b => format!("{} MiB over and over", b >> 20),
        };
        vec![
            format!("{} reading", r.from),
            how,
            format!("{:.1} GB/s", r.gb_per_s),
        ]
    });
    table(
        &["limit", "loop", "one core"],
        2,
        &peaks.chain(reads).collect::<Vec<_>>(),
    )
}

fn kernels(rows: &[Row]) -> String {
    let cells = |r: &Row| {
        vec![
            r.title.into(),
            r.shape.clone(),
            number(r.us),
            number(r.gmacs),
            number(r.gb_per_s),
            r.share.as_ref().map_or("-".into(), |s| s.1.clone()),
            share(r.share.as_ref().map(|s| s.0)),
        ]
    };
    let titles = ["kernel", "shape", "us", "GMAC/s", "GB/s", "limit", "share"];
    table(&titles, 2, &rows.iter().map(cells).collect::<Vec<_>>())
}

fn models(rows: &[whole::Row]) -> String {
    let cells = |r: &whole::Row| {
        vec![
            r.model.clone(),
            r.scheme.clone(),
            r.shape.clone(),
            number(r.ms),
            number(r.mmacs / r.ms),
            r.share.map_or("-".into(), |s| format!("{} peak", s.1)),
            share(r.share.map(|s| s.0)),
        ]
    };
    let titles = ["model", "scheme", "shape", "ms", "GMAC/s", "limit", "share"];
    table(&titles, 2, &rows.iter().map(cells).collect::<Vec<_>>())
}

impl Measured {
    /// Machine, limits, kernels, models.
    pub fn markdown(&self) -> String {
        let mut out = format!("{}; level {}.\n\n", self.machine.text(), self.limits.level);
        out.push_str(&limits(&self.limits));
        for rows in [kernels(&self.kernels), models(&self.models)] {
            // A table of nothing is two lines.
            if rows.lines().count() > 2 {
                let _ = write!(out, "\n{rows}");
            }
        }
        out
    }

    /// One object a row.
    pub fn json(&self) -> Vec<Value> {
        let head = json!({"machine": self.machine.json(), "limits": self.limits.json()});
        let kernels = self.kernels.iter().map(Row::json);
        let models = self.models.iter().map(whole::Row::json);
        std::iter::once(head).chain(kernels).chain(models).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::tests::limits as some_limits;
    use super::super::machine::Machine;
    use super::*;

    fn measured() -> Measured {
        Measured {
            machine: Machine {
                cpu: "X (family 1, model 2)".into(),
                cpus: 2,
                load: (Some(0.1), Some(1.0)),
            },
            limits: some_limits(),
            kernels: vec![Row {
                title: "int8 product",
                shape: "128 x 1536 x 384".into(),
                steps: 6,
                us: 320.04,
                gmacs: 196.2,
                gb_per_s: 4.0,
                share: Some((0.981, "int8 peak".into())),
            }],
            models: vec![],
        }
    }

    #[test]
    fn writes_tables() {
        let text = measured().markdown();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "X (family 1, model 2), 2 for this command; load 0.1 before, 1.0 after; level avx2."
        );
        assert!(lines.contains(&"| bf16 peak | none on registers | - |"), "{text}");
        assert!(
            lines.contains(&"| L1 reading | 16 KiB over and over | 100.0 GB/s |"),
            "{text}"
        );
        let last = "| int8 product | 128 x 1536 x 384 | 320.0 | 196.2 | 4.000 | int8 peak | 98 % |";
        assert_eq!(lines.last(), Some(&last), "the table of no model is left out");
    }

    #[test]
    fn writes_json() {
        let lines = measured().json();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["machine"]["quiet"], true);
        assert_eq!(lines[0]["limits"]["peaks"][1]["gmacs"], Value::Null);
        assert_eq!(lines[1]["limit"], "int8 peak");
    }
}
