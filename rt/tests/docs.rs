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
