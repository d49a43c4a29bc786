//! The figures as text, as a table in a file, and as a plot.

use std::fmt::Write;
use std::path::Path;

use crate::engines::NAMES;

/// Median of measurements, and the distance between their quartiles; nanoseconds.
#[derive(Clone, Copy)]
pub struct Cell {
    /// The median.
    pub ns: f64,
    /// The middle half.
    pub spread: f64,
}

impl Cell {
    /// Of some measurements.
    pub fn of(mut times: Vec<f64>) -> Cell {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| times.get(times.len() * part / 4).copied().unwrap_or(f64::NAN);
        Cell { ns: at(2), spread: at(3) - at(1) }
    }
}

/// One program in every engine.
pub struct Row {
    /// The program.
    pub name: String,
    /// In the order of [`NAMES`].
    pub cells: [Option<Cell>; NAMES.len()],
}

impl Row {
    /// Ratio to the first engine, and its spread.
    fn ratio(&self, engine: usize) -> Option<(f64, f64)> {
        let base = self.cells.first()?.as_ref()?.ns;
        self.cells.get(engine)?.map(|cell| (cell.ns / base, cell.spread / base))
    }

    fn columns(&self) -> Vec<String> {
        let first = self.cells[0].map_or("-".into(), |cell| format!("{:.0} ({:.0})", cell.ns, cell.spread));
        let rest = (1..NAMES.len()).map(|engine| match (self.ratio(engine), self.cells[engine]) {
            (Some((ratio, spread)), _) if ratio < 10.0 => format!("{ratio:.2} ({spread:.2})"),
            (Some((ratio, spread)), _) => format!("{ratio:.0} ({spread:.0})"),
            (None, Some(cell)) => format!("{:.0} ns", cell.ns),
            (None, None) => "-".into(),
        });
        [self.name.clone(), first].into_iter().chain(rest).collect()
    }

    /// As a line.
    pub fn text(&self) -> String {
        line(&self.columns())
    }
}

fn line(columns: &[String]) -> String {
    let mut out = String::new();
    for (at, column) in columns.iter().enumerate() {
        let _ = if at == 0 { write!(out, "{column:16}") } else { write!(out, " {column:>13}") };
    }
    out
}

fn titles() -> Vec<String> {
    ["program", "ns native C"].into_iter().chain(NAMES.into_iter().skip(1)).map(String::from).collect()
}

/// The line above the rows.
pub fn heading() -> String {
    format!("ratios to native C (spread: middle half)\n{}", line(&titles()))
}

fn means_of(rows: &[Row]) -> Vec<String> {
    let mean = |engine: usize| {
        let logs: Vec<f64> = rows.iter().filter_map(|row| Some(row.ratio(engine)?.0.ln())).collect();
        match logs.len() {
            0 => "-".into(),
            len => format!("{:.3} of {len}", (logs.iter().sum::<f64>() / len as f64).exp()),
        }
    };
    ["geomean".into(), "1".into()].into_iter().chain((1..NAMES.len()).map(mean)).collect()
}

/// Geometric means of the ratios, with the number of programs.
pub fn means(rows: &[Row]) -> String {
    line(&means_of(rows))
}

/// Writes `side_by_side.md` and `side_by_side.svg`; answers where.
pub fn write(rows: &[Row]) -> std::io::Result<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder)?;
    let mut table = format!("| {} |\n|---|{}\n", titles().join(" | "), "--:|".repeat(NAMES.len()));
    for columns in rows.iter().map(Row::columns).chain([means_of(rows)]) {
        let _ = writeln!(table, "| {} |", columns.join(" | "));
    }
    std::fs::write(folder.join("side_by_side.md"), table)?;
    std::fs::write(folder.join("side_by_side.svg"), plot(rows))?;
    Ok(folder.display().to_string())
}

const COLOURS: [&str; NAMES.len()] =
    ["#000", "#d62728", "#ff9896", "#1f77b4", "#2ca02c", "#9467bd", "#e377c2", "#8c564b", "#98df8a", "#c5b0d5"];

/// A dot for each engine and program, on a logarithmic scale from 0.5 to 500 times native C.
fn plot(rows: &[Row]) -> String {
    let (left, step, width) = (150.0, 18.0, 700.0);
    let x = |ratio: f64| left + width * (ratio.clamp(0.5, 500.0) / 0.5).log10() / 3.0;
    let height = step * (rows.len() + 4) as f64;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{height}' font-family='sans-serif' font-size='11'>\n",
        left + width + 20.0
    );
    for ratio in [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0] {
        let at = x(ratio);
        let _ = writeln!(svg, "<line x1='{at}' x2='{at}' y1='30' y2='{height}' stroke='#ddd'/>");
        let _ = writeln!(svg, "<text x='{at}' y='26' text-anchor='middle'>{ratio}</text>");
    }
    for (engine, name) in NAMES.iter().enumerate().skip(1) {
        let at = left + (engine - 1) as f64 * 78.0;
        let _ = writeln!(svg, "<circle cx='{at}' cy='8' r='4' fill='{}'/>", COLOURS[engine]);
        let _ = writeln!(svg, "<text x='{}' y='12'>{name}</text>", at + 7.0);
    }
    for (line, row) in rows.iter().enumerate() {
        let y = 30.0 + step * (line + 1) as f64;
        let _ = writeln!(svg, "<text x='4' y='{}'>{}</text>", y + 4.0, row.name);
        for (engine, colour) in COLOURS.iter().enumerate().skip(1) {
            if let Some((ratio, _)) = row.ratio(engine) {
                let _ = writeln!(svg, "<circle cx='{:.1}' cy='{y}' r='4' fill='{colour}'/>", x(ratio));
            }
        }
    }
    svg + "</svg>\n"
}
