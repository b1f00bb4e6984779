//! What the figures were measured on, and whether anything else was running.

use serde_json::{Value, json};

/// The machine, as Linux describes it.
#[derive(Clone, PartialEq, Debug)]
pub struct Machine {
    /// Name, family and model of the processor.
    pub cpu: String,
    /// Processors that this command may use.
    pub cpus: usize,
    /// Load averages over a minute: before the first measurement, and after the last.
    pub load: (Option<f64>, Option<f64>),
}

/// Load that is work of others: before, nothing of this command runs; after, the measured program itself counts as one.
const QUIET: (f64, f64) = (1.0, 2.0);

/// The load average of the last minute.
pub fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// `NAME (family F, model M)` from the text of `/proc/cpuinfo`.
fn cpu(text: &str) -> String {
    let field = |wanted: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == wanted).then(|| value.trim())
        })
    };
    let name = field("model name").unwrap_or("unknown processor");
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name.into(),
    }
}

impl Machine {
    /// This machine; `before` is the load before the first measurement.
    pub fn new(before: Option<f64>) -> Machine {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Machine {
            cpu: cpu(&text),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load: (before, load()),
        }
    }

    /// Why the figures should not be trusted, if others were running.
    pub fn warning(&self) -> Option<String> {
        let (before, after) = self.load;
        let over = |load: Option<f64>, limit| load.is_none_or(|load| load > limit);
        (over(before, QUIET.0) || over(after, QUIET.1))
            .then(|| format!("{}: the machine is not quiet, repeat when it is", self.loads()))
    }

    fn loads(&self) -> String {
        let text = |load: Option<f64>| load.map_or("unknown".into(), |load| format!("{load:.1}"));
        format!("load {} before, {} after", text(self.load.0), text(self.load.1))
    }

    /// One line.
    pub fn text(&self) -> String {
        let quiet = if self.warning().is_some() {
            " (not quiet)"
        } else {
            ""
        };
        format!(
            "{}, {} for this command; {}{quiet}",
            self.cpu,
            self.cpus,
            self.loads()
        )
    }

    /// The same as one JSON object.
    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu, "cpus": self.cpus, "load_before": self.load.0, "load_after": self.load.1,
            "quiet": self.warning().is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_processor() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n";
        assert_eq!(cpu(text), "AMD EPYC (family 25, model 17)");
        assert_eq!(cpu(""), "unknown processor");
    }

    #[test]
    fn says_when_others_run() {
        let machine = |before, after| Machine {
            cpu: "x".into(),
            cpus: 2,
            load: (before, after),
        };
        assert_eq!(machine(Some(0.4), Some(1.3)).warning(), None);
        assert!(
            machine(Some(1.2), Some(1.3))
                .warning()
                .is_some_and(|w| w.contains("1.2"))
        );
        assert!(machine(Some(0.4), Some(2.3)).text().ends_with("(not quiet)"));
        assert!(
            machine(None, Some(1.0)).warning().is_some(),
            "unknown is not quiet"
        );
    }
}
