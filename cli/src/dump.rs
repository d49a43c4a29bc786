//! Map contents by their types.

use std::io::{self, Write};

use rtbpf::Instance;
use rtbpf::abi::MapKind;
use rtbpf::btf::{TypeId, Value};
use rtbpf::loader::MapDef;
use rtbpf::maps::{MapError, MapRef};
use rtbpf::rt::RunCx;
use serde_json::json;

/// Entries of one map that are shown before the rest is only counted.
const SHOWN: usize = 64;

/// What one map holds.
pub struct Dump {
    name: String,
    kind: MapKind,
    /// A section of global variables.
    is_data: bool,
    /// Key and value (one a CPU for per-CPU kinds).
    entries: Vec<(Value, Vec<Value>)>,
    /// Entries not listed: beyond the most shown, or elements of arrays that are all zero.
    more: usize,
    zero: usize,
}

/// Every map that holds something a reader wants to see.
pub fn all(instance: &Instance) -> Vec<Dump> {
    let defs = instance.object().maps.iter().zip(instance.maps());
    defs.filter(|(def, _)| def.spec.frozen.is_none()).map(|(def, map)| dump(instance, def, map)).collect()
}

fn dump(instance: &Instance, def: &MapDef, map: &MapRef) -> Dump {
    let is_data = instance.object().data.iter().any(|section| section.name == def.name);
    let mut dump = Dump { name: def.name.clone(), kind: def.spec.kind, is_data, entries: Vec::new(), more: 0, zero: 0 };
    let typed = |id: u32, bytes: &[u8]| match &instance.object().btf {
        Some(btf) if id != 0 => btf.value(TypeId(id), bytes),
        _ => Value::Bytes(bytes.to_vec()),
    };
    let mut key: Option<Vec<u8>> = None;
    loop {
        let mut next = Vec::new();
        if map.next_key(&RunCx::CONTROL, key.as_deref(), &mut next).is_err() {
            break;
        }
        let mut value = Vec::new();
        match map.read(&RunCx::CONTROL, &next, 0, &mut value) {
            Ok(()) if value.iter().all(|byte| *byte == 0) && is_array(def.spec.kind) => dump.zero += 1,
            Ok(()) if dump.entries.len() == SHOWN => dump.more += 1,
            Ok(()) => {
                let size = def.spec.value_size as usize;
                let values = if def.spec.kind.is_percpu() {
                    let slot = |part: &[u8]| typed(def.spec.btf_value, part.get(..size).unwrap_or(part));
                    value.chunks(size.next_multiple_of(8).max(8)).map(slot).collect()
                } else {
                    vec![typed(def.spec.btf_value, &value)]
                };
                dump.entries.push((typed(def.spec.btf_key, &next), values));
            }
            // Gone meanwhile, or a kind whose values only programs see.
            Err(MapError::Errno(_) | MapError::Unsupported) => {}
            Err(_) => {}
        }
        key = Some(next);
    }
    dump
}

fn is_array(kind: MapKind) -> bool {
    matches!(kind, MapKind::Array | MapKind::PercpuArray)
}

impl Dump {
    /// Prints it, indented below its name.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{} ({}):", self.name, self.kind.name())?;
        for (key, values) in &self.entries {
            match &values[..] {
                // A section of variables: its one key says nothing.
                [Value::Record(variables)] if self.is_data => {
                    for (name, value) in variables {
                        writeln!(out, "  {name}: {value}")?;
                    }
                }
                [value] => writeln!(out, "  {key}: {value}")?,
                values => {
                    let values: Vec<String> = values.iter().map(Value::to_string).collect();
                    writeln!(out, "  {key}: [{}]", values.join(", "))?;
                }
            }
        }
        if self.more > 0 {
            writeln!(out, "  … and {} more", self.more)?;
        }
        if self.zero > 0 {
            writeln!(out, "  ({} other elements are zero)", self.zero)?;
        }
        Ok(())
    }

    /// The same for programs.
    pub fn json(&self) -> serde_json::Value {
        let entry = |(key, values): &(Value, Vec<Value>)| json!({ "key": plain(key), "values": values.iter().map(plain).collect::<Vec<_>>() });
        json!({
            "name": self.name, "type": self.kind.name(),
            "entries": self.entries.iter().map(entry).collect::<Vec<_>>(), "more": self.more, "zero": self.zero,
        })
    }
}

/// A value as JSON: its text is.
fn plain(value: &Value) -> serde_json::Value {
    let text = value.to_string();
    serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))
}
