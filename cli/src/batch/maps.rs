//! Map cases: lists of steps, each a call of `bpf(2)` or a neighbour of it, answered as Linux 6.18 would.

mod progs;
mod steps;
mod world;

use serde_json::{Map as Object, Value, json};

use super::Options;

pub(crate) use world::World;

/// What a step answers beside its inputs.
const OUTPUTS: &[&str] = &[
    "ret",
    "errno",
    "errno_num",
    "next_key",
    "count_out",
    "pairs_sorted",
    "retval",
    "retval_errno",
    "data_out",
    "ctx_out",
    "log_tail",
    "failures",
    "run_cnt",
    "recursion_misses",
    "run_time_nonzero",
];

/// Outputs that are inputs of other steps.
fn own_outputs(op: &str) -> &'static [&'static str] {
    match op {
        "lookup" | "lookup_and_delete" => &["value"],
        "walk_keys" => &["count", "keys"],
        "info" => &["type", "key_size", "value_size", "max_entries", "map_flags"],
        _ => &[],
    }
}

/// The case with our own results in each step.
pub fn answer(case: &Value, options: &Options) -> Value {
    let mut world = World::of(case, options);
    let mut answer = case.clone();
    let op_of = |step: &Value| step.get("op").and_then(Value::as_str).unwrap_or_default().to_string();
    let steps = case.get("steps").and_then(Value::as_array);
    let last_run = steps.and_then(|steps| steps.iter().rposition(|step| op_of(step) == "prog_run"));
    for (at, step) in answer.get_mut("steps").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let op = op_of(step);
        let Some(step) = step.as_object_mut() else { continue };
        if last_run == Some(at) {
            world.end_stats();
        }
        step.retain(|name, _| !OUTPUTS.contains(&name.as_str()) && !own_outputs(&op).contains(&name.as_str()));
        let result = steps::run(&op, step, &mut world);
        record(step, result);
    }
    answer
}

/// What a step came to.
pub(crate) enum Done {
    /// 0, with these outputs.
    Ok(Object<String, Value>),
    /// -1 with this errno, and outputs that are there even so.
    Failed(rtbpf::abi::Errno, Object<String, Value>),
    /// This build has no such step.
    Unsupported,
}

impl Done {
    /// 0 without outputs.
    fn nothing() -> Done {
        Done::Ok(Object::new())
    }

    /// 0 with one output.
    fn with(name: &str, value: Value) -> Done {
        Done::Ok([(name.to_string(), value)].into_iter().collect())
    }
}

impl From<rtbpf::abi::Errno> for Done {
    fn from(errno: rtbpf::abi::Errno) -> Done {
        Done::Failed(errno, Object::new())
    }
}

fn record(step: &mut Object<String, Value>, done: Done) {
    let (ret, errno, number, outputs) = match done {
        Done::Ok(outputs) => (0, Value::Null, None, outputs),
        Done::Failed(errno, outputs) => (-1, json!(errno.name()), Some(errno.number()), outputs),
        Done::Unsupported => (-1, json!("UNSUPPORTED"), None, Object::new()),
    };
    step.insert("ret".into(), json!(ret));
    step.insert("errno".into(), errno);
    if let Some(number) = number {
        step.insert("errno_num".into(), json!(number));
    }
    step.extend(outputs);
}
