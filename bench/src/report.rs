//! What was measured, as JSON, as a table, and as a plot.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::load::{self, Measured};
use crate::plot;

/// One store in one cell of one round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    /// Of all nodes.
    pub(crate) cpu_s_per_1000_ops: f64,
    pub(crate) resident_mb: f64,
    pub(crate) written_bytes_per_op: f64,
    pub(crate) errors: u64,
    /// Of what isn't a load.
    pub(crate) time_ms: Option<f64>,
}

impl Figures {
    pub(crate) fn of(measured: Measured) -> Result<Figures> {
        Figures::of_all(&[measured])
    }

    /// Of several measurements as if they were one.
    pub(crate) fn of_all(all: &[Measured]) -> Result<Figures> {
        let ops: f64 = all.iter().map(Measured::ops).sum();
        let used = |of: fn(&Measured) -> f64| all.iter().map(of).sum::<f64>() / ops.max(1.0);
        let latency_us = load::together(all)?;
        let at = |quantile| latency_us.value_at_quantile(quantile);
        Ok(Figures {
            ops_per_s: ops / all.iter().map(|measured| measured.seconds).sum::<f64>().max(f64::MIN_POSITIVE),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            cpu_s_per_1000_ops: used(|measured| measured.used.cpu_s) * 1e3,
            resident_mb: all.iter().map(|m| m.used.resident_bytes).max().unwrap_or(0) as f64 / 1e6,
            written_bytes_per_op: used(|measured| measured.used.written_bytes as f64),
            errors: all.iter().map(|measured| measured.errors).sum(),
            time_ms: None,
        })
    }

    pub(crate) fn of_time(ms: f64) -> Figures {
        Figures { time_ms: Some(ms), ..Figures::default() }
    }

    /// What two stores are compared by: the higher the better.
    fn score(&self) -> f64 {
        self.time_ms.map_or(self.ops_per_s, |ms| 1.0 / ms)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ms) = self.time_ms {
            return write!(f, "{ms:.0} ms");
        }
        write!(
            f,
            "{:>8.0}/s  p50 {:>6} p99 {:>6} p999 {:>6} us  cpu {:.4} s/1000  {:.0} MB  {:.0} B/op  errors {}",
            self.ops_per_s,
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.cpu_s_per_1000_ops,
            self.resident_mb,
            self.written_bytes_per_op,
            self.errors
        )
    }
}

/// All of a run. The first store is the one that the others are compared with.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    v: u32,
    machine: String,
    stores: Vec<String>,
    /// In the order in which they were measured first: the cell, and for each store its rounds.
    cells: Vec<(String, BTreeMap<String, Vec<Figures>>)>,
}

/// Median, least and greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Spread { median, least, greatest })
    }
}

impl Report {
    pub(crate) fn new(stores: Vec<String>) -> Report {
        Report { v: 1, machine: machine(), stores, cells: Vec::new() }
    }

    pub(crate) fn add(&mut self, cell: &str, store: &str, figures: Figures) {
        let at = self.cells.iter().position(|(name, _)| name == cell).unwrap_or_else(|| {
            self.cells.push((cell.to_owned(), BTreeMap::new()));
            self.cells.len() - 1
        });
        self.cells[at].1.entry(store.to_owned()).or_default().push(figures);
    }

    /// Writes `NAME.json`, `NAME.md` and `NAME.svg`, and prints the table.
    pub(crate) fn write(&self, out: &Path, name: &str) -> Result<()> {
        let table = self.table();
        let file = |extension: &str| out.join(name).with_extension(extension);
        std::fs::write(file("json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(file("md"), &table)?;
        let bars: Vec<_> =
            self.cells.iter().map(|(cell, stores)| (cell.as_str(), self.ratios(stores))).collect();
        if self.stores.len() > 1 {
            plot::ratios(&file("svg"), &self.stores[0], &bars)?;
        }
        print!("{table}");
        Ok(())
    }

    /// How many times better the first store is than each other: round against round.
    fn ratios<'a>(&'a self, rounds: &BTreeMap<String, Vec<Figures>>) -> Vec<(&'a str, Spread)> {
        let Some(own) = self.stores.first().and_then(|name| rounds.get(name)) else { return Vec::new() };
        let ratio = |name: &'a String| {
            let others = rounds.get(name)?;
            let spread = Spread::of(own.iter().zip(others).map(|(own, other)| own.score() / other.score()))?;
            Some((name.as_str(), spread))
        };
        self.stores.iter().skip(1).filter_map(ratio).collect()
    }

    /// In Markdown: medians over the rounds, and ratios with their spread.
    fn table(&self) -> String {
        let mut table = format!("{}\n\n", self.machine);
        table += "| | store | ops/s | p50 µs | p99 µs | p999 µs | server CPU s per 1,000 | memory MB | bytes written per op | synod is better by |\n";
        table += "|---|---|---|---|---|---|---|---|---|---|\n";
        for (cell, stores) in &self.cells {
            let ratios = self.ratios(stores);
            for store in &self.stores {
                let Some(rounds) = stores.get(store) else { continue };
                let median =
                    |of: fn(&Figures) -> f64| Spread::of(rounds.iter().map(of)).map_or(0.0, |s| s.median);
                let ratio = ratios.iter().find(|(name, _)| name == store).map_or(String::new(), |(_, s)| {
                    format!("{:.2} ({:.2} to {:.2})", s.median, s.least, s.greatest)
                });
                let figures = match rounds.first().and_then(|figures| figures.time_ms) {
                    Some(_) => format!("{:.0} ms | | | | | | ", median(|f| f.time_ms.unwrap_or(0.0))),
                    None => format!(
                        "{:.0} | {:.0} | {:.0} | {:.0} | {:.4} | {:.0} | {:.0}",
                        median(|f| f.ops_per_s),
                        median(|f| f.p50_us as f64),
                        median(|f| f.p99_us as f64),
                        median(|f| f.p999_us as f64),
                        median(|f| f.cpu_s_per_1000_ops),
                        median(|f| f.resident_mb),
                        median(|f| f.written_bytes_per_op)
                    ),
                };
                table += &format!("| {cell} | {store} | {figures} | {ratio} |\n");
            }
        }
        let errors: u64 = self
            .cells
            .iter()
            .flat_map(|(_, stores)| stores.values().flatten())
            .map(|figures| figures.errors)
            .sum();
        table + &format!("\nOperations that failed: {errors}\n")
    }
}

/// What it was measured on.
pub(crate) fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        model.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!("{cores} cores of {model}, load {load} at the end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.greatest), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_go_round_against_round_and_times_the_other_way() {
        let mut report = Report::new(vec!["synod".to_owned(), "other".to_owned()]);
        for (own, other) in [(300.0, 100.0), (200.0, 100.0), (100.0, 100.0)] {
            report.add("put", "synod", Figures { ops_per_s: own, ..Figures::default() });
            report.add("put", "other", Figures { ops_per_s: other, ..Figures::default() });
        }
        report.add("gap", "synod", Figures::of_time(100.0));
        report.add("gap", "other", Figures::of_time(400.0));
        let table = report.table();
        assert!(
            table.contains("| put | other | 100 |") && table.contains("| 2.00 (1.00 to 3.00) |"),
            "{table}"
        );
        assert!(
            table.contains("| gap | other | 400 ms |") && table.contains("| 4.00 (4.00 to 4.00) |"),
            "{table}"
        );
    }
}
