//! Map cases: lists of map operations.

use serde_json::{Value, json};

use super::Options;

/// The case with our own results in each step.
pub fn answer(case: &Value, options: &Options) -> Value {
    let _ = options;
    let mut answer = case.clone();
    for step in answer.get_mut("steps").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(step) = step.as_object_mut() {
            step.insert("errno".into(), json!("UNSUPPORTED"));
        }
    }
    answer
}
