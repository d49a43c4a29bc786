//! docs/locking.md says what the code says.

use rtbpf_rt::Class;
use rtbpf_rt::lock::order::Wait;

#[test]
fn the_table_of_classes_is_the_codes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/locking.md");
    let Ok(text) = std::fs::read_to_string(path) else {
        println!("skipped: {path} is not part of this package");
        return;
    };
    for class in Class::ALL {
        let under: Vec<&str> = class.under().iter().map(|under| under.name()).collect();
        let wait = match class.wait() {
            Wait::Raw => "raw",
            Wait::Config => "config",
            Wait::Sleep => "sleep",
        };
        let under = if under.is_empty() { "–".to_string() } else { under.join(", ") };
        let row = format!("| {} | {wait} | {under} | {} |", class.name(), class.protects());
        assert!(text.contains(&row), "docs/locking.md lacks the row\n{row}");
    }
}

#[test]
fn every_row_of_the_real_time_rules_names_a_test_that_exists_or_a_reason() {
    const ROWS: usize = 33;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let Ok(table) = std::fs::read_to_string(format!("{root}/tests/realtime-rows.txt")) else {
        println!("skipped: the table of rows is not part of this package");
        return;
    };
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split(" | ").collect()).collect();
    let numbers: Vec<String> = (1..=ROWS).map(|row| row.to_string()).collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), numbers, "each row once, in order");
    for row in rows {
        let [number, file, test, rule] = row[..] else { panic!("row {} has not four columns", row[0]) };
        assert!(!rule.is_empty(), "row {number} says nothing");
        if file != "-" {
            let source = std::fs::read_to_string(format!("{root}/{file}")).unwrap_or_default();
            assert!(source.contains(&format!("fn {test}()")), "row {number}: no test {test} in {file}");
        }
    }
}
