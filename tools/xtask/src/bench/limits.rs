//! What one core of this machine can do at most, as the example `limits` of rsqc-cpu measures it.

use super::median;
use crate::error::Error;
use serde_json::{Value, json};

/// Multiply-adds from registers.
#[derive(Clone, PartialEq, Debug)]
pub struct Peak {
    /// `int8`, `bf16` or `f32`.
    pub what: String,
    /// The instructions of the loop.
    pub instructions: String,
    /// Billions of multiply-adds a second; none without such an instruction.
    pub gmacs: Option<f64>,
}

/// Reading over and over.
#[derive(Clone, PartialEq, Debug)]
pub struct Read {
    /// `L1`, `L2`, `L3` or `memory`.
    pub from: String,
    /// Bytes read in turn.
    pub bytes: u64,
    /// Bytes that fit there; none for memory.
    pub holds: Option<u64>,
    /// Billions of bytes a second.
    pub gb_per_s: f64,
}

/// All limits, at one level of the instruction set.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// Name of the level.
    pub level: String,
    /// Multiply-adds from registers.
    pub peaks: Vec<Peak>,
    /// Reading, innermost first.
    pub reads: Vec<Read>,
}

/// The least time that a step can take, and what sets it.
#[derive(Clone, PartialEq, Debug)]
pub struct Bound {
    /// Nanoseconds.
    pub ns: f64,
    /// `int8 peak`, `L3 reading`, ...
    pub by: String,
}

impl Limits {
    /// Reads what the example prints.
    pub fn parse(value: &Value) -> Result<Limits, Error> {
        let wrong = |key: &str| Error::Output {
            command: "limits --json".into(),
            reason: format!("no `{key}`"),
        };
        let text = |v: &Value, key: &str| v[key].as_str().map(String::from).ok_or_else(|| wrong(key));
        let list = |key: &str| value[key].as_array().ok_or_else(|| wrong(key));
        let peak = |v: &Value| {
            Ok(Peak {
                what: text(v, "what")?,
                instructions: text(v, "instructions")?,
                gmacs: v["gmacs"].as_f64(),
            })
        };
        let read = |v: &Value| {
            Ok(Read {
                from: text(v, "from")?,
                bytes: v["bytes"].as_u64().ok_or_else(|| wrong("bytes"))?,
                holds: v["holds"].as_u64(),
                gb_per_s: v["gb_per_s"].as_f64().ok_or_else(|| wrong("gb_per_s"))?,
            })
        };
        Ok(Limits {
            level: text(value, "level")?,
            peaks: list("peaks")?.iter().map(peak).collect::<Result<_, _>>()?,
            reads: list("reads")?.iter().map(read).collect::<Result<_, _>>()?,
        })
    }

    /// The medians of several measurements on one machine.
    pub fn medians(samples: &[Limits]) -> Option<Limits> {
        let mut limits = samples.first()?.clone();
        for (i, peak) in limits.peaks.iter_mut().enumerate() {
            let all: Option<Vec<f64>> = samples.iter().map(|s| s.peaks.get(i)?.gmacs).collect();
            peak.gmacs = all.and_then(median);
        }
        for (i, read) in limits.reads.iter_mut().enumerate() {
            let all: Option<Vec<f64>> = samples.iter().map(|s| Some(s.reads.get(i)?.gb_per_s)).collect();
            read.gb_per_s = all.and_then(median)?;
        }
        Some(limits)
    }

    /// Billions of multiply-adds a second from registers.
    pub fn peak(&self, what: &str) -> Option<f64> {
        self.peaks.iter().find(|p| p.what == what)?.gmacs
    }

    /// The innermost place that holds so many bytes.
    pub fn home(&self, bytes: f64) -> Option<&Read> {
        let fits = |read: &&Read| read.holds.is_none_or(|holds| bytes <= holds as f64);
        self.reads.iter().find(fits).or(self.reads.last())
    }

    /// The least time for so many multiply-adds of a kind and so many bytes, which come from where a run's working set
    /// fits: whichever of the two takes longer.
    pub fn bound(&self, what: &str, macs: f64, bytes: f64, working_set: f64) -> Option<Bound> {
        let home = self.home(working_set)?;
        let reading = Bound {
            ns: bytes / home.gb_per_s,
            by: format!("{} reading", home.from),
        };
        if macs == 0.0 {
            return Some(reading);
        }
        let multiplying = Bound {
            ns: macs / self.peak(what)?,
            by: format!("{what} peak"),
        };
        Some(if reading.ns > multiplying.ns {
            reading
        } else {
            multiplying
        })
    }

    /// The limits as one JSON object.
    pub fn json(&self) -> Value {
        let peak = |p: &Peak| json!({"what": p.what, "instructions": p.instructions, "gmacs": p.gmacs});
        let read =
            |r: &Read| json!({"from": r.from, "bytes": r.bytes, "holds": r.holds, "gb_per_s": r.gb_per_s});
        json!({
            "level": self.level,
            "peaks": self.peaks.iter().map(peak).collect::<Vec<_>>(),
            "reads": self.reads.iter().map(read).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// 200 GMAC/s of int8, 50 of f32, no bf16; 100, 40 and 10 GB/s.
    pub fn limits() -> Limits {
        let text = r#"{"level":"avx2","peaks":[
            {"what":"int8","instructions":"a","gmacs":200.0},
            {"what":"bf16","instructions":"none","gmacs":null},
            {"what":"f32","instructions":"b","gmacs":50.0}],
            "reads":[{"from":"L1","bytes":16384,"holds":32768,"gb_per_s":100.0},
            {"from":"L3","bytes":1048576,"holds":4194304,"gb_per_s":40.0},
            {"from":"memory","bytes":67108864,"holds":null,"gb_per_s":10.0}]}"#;
        Limits::parse(&serde_json::from_str(text).expect("JSON")).expect("complete")
    }

    #[test]
    fn survives_json() {
        assert_eq!(Limits::parse(&limits().json()).expect("complete"), limits());
        let mut bad = limits().json();
        bad["reads"][1]["bytes"] = Value::Null;
        assert!(matches!(Limits::parse(&bad), Err(Error::Output { reason, .. }) if reason.contains("bytes")));
    }

    #[test]
    fn takes_medians_of_each_figure() {
        let scaled = |factor: f64| {
            let mut limits = limits();
            limits.peaks[0].gmacs = Some(factor);
            limits.reads[2].gb_per_s = 10.0 * factor;
            limits
        };
        let medians = Limits::medians(&[scaled(3.0), scaled(1.0), scaled(2.0)]).expect("three");
        assert_eq!(medians.peak("int8"), Some(2.0));
        assert_eq!(medians.peak("bf16"), None);
        assert_eq!(medians.reads[2].gb_per_s, 20.0);
        assert_eq!(Limits::medians(&[]), None);
    }

    #[test]
    fn bound_is_the_slower_of_both() {
        let l = limits();
        let bound = |macs, bytes, set| l.bound("int8", macs, bytes, set).expect("a peak");
        assert_eq!(
            bound(2000.0, 100.0, 1e4),
            Bound {
                ns: 10.0,
                by: "int8 peak".into()
            }
        );
        assert_eq!(
            bound(2000.0, 4000.0, 1e6),
            Bound {
                ns: 100.0,
                by: "L3 reading".into()
            }
        );
        assert_eq!(
            bound(0.0, 100.0, 1e9),
            Bound {
                ns: 10.0,
                by: "memory reading".into()
            }
        );
        assert_eq!(l.bound("bf16", 1.0, 1.0, 1.0), None);
    }
}
