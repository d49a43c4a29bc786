//! One function a step.

use rtbpf::abi::map_rules;
use rtbpf::abi::map_spec::{SpecialField, flags};
use rtbpf::abi::{Errno, MapKind, MapSpec};
use rtbpf::ctx::DEVICES;
use rtbpf::maps::control::{self, Batch, Batched, Given};
use rtbpf::maps::{CreateCx, MapRef, Object};
use rtbpf_btf::{Btf, TypeId};
use serde_json::{Map as Fields, Value, json};

use super::world::Named;
use super::{Done, World, progs};

type Step = Fields<String, Value>;

/// Attributes beyond a page are refused whatever they hold.
const ATTR_MAX: u64 = 4096;
/// Bytes of `union bpf_attr` on Linux 6.18.
const ATTR_KNOWN: usize = 168;
/// Those of them that creating a map reads.
const ATTR_CREATE: usize = 80;

/// Runs one step.
pub(super) fn run(op: &str, step: &Step, world: &mut World) -> Done {
    let done = match op {
        "create" => create(step, world),
        "create_raw_attr" => create_raw(step, world),
        "btf_load" => btf_load(step, world),
        "update" => update(step, world),
        "lookup" => lookup(step, world, false),
        "lookup_and_delete" => lookup(step, world, true),
        "delete" => delete(step, world),
        "get_next_key" => next_key(step, world),
        "walk_keys" => walk_keys(step, world),
        "bulk_update" => bulk_update(step, world),
        "lookup_batch" => on_map(step, world, |map| lookup_batch(step, world, map, false)),
        "lookup_and_delete_batch" => on_map(step, world, |map| lookup_batch(step, world, map, true)),
        "update_batch" => on_map(step, world, |map| write_batch(step, world, map, true)),
        "delete_batch" => on_map(step, world, |map| write_batch(step, world, map, false)),
        "freeze" => world.map(text(step, "map")).and_then(|map| control::freeze(&*map)).map(|()| Done::nothing()),
        "mmap" => mmap(step, world),
        "munmap" => {
            world.mappings.clear();
            Ok(Done::nothing())
        }
        "info" => info(step, world),
        "prog_load" => progs::load(step, world),
        "prog_run" => progs::test_run(step, world),
        "prog_info" => progs::info(step, world),
        "enable_stats" => progs::enable_stats(step, world),
        _ => Ok(Done::Unsupported),
    };
    done.unwrap_or_else(Done::from)
}

pub(super) fn text<'a>(step: &'a Step, name: &str) -> &'a str {
    step.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn number(step: &Step, name: &str) -> u64 {
    let value = step.get(name);
    value.and_then(|v| v.as_u64().or_else(|| v.as_i64().map(|n| n as u64))).unwrap_or_default()
}

fn small(step: &Step, name: &str) -> u32 {
    number(step, name) as u32
}

/// Bytes of a hex string; `None` for null.
pub(super) fn bytes(step: &Step, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    match step.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => hex::decode(text).map(Some).map_err(|_| Errno::EFAULT),
        Some(_) => Err(Errno::EFAULT),
    }
}

/// A key or value as a step gives it: null, hex, or the descriptor of a named thing.
enum Argument {
    Null,
    Bytes(Vec<u8>),
    Object(Object),
}

impl Argument {
    fn given(&self) -> Given<'_> {
        match self {
            Argument::Null => Given::Null,
            Argument::Bytes(bytes) => Given::Bytes(bytes),
            Argument::Object(object) => Given::Object(object),
        }
    }

    /// A key; those of owner-keyed maps are descriptors.
    fn key(step: &Step, world: &World, kind: MapKind) -> Result<Argument, Errno> {
        let owners =
            matches!(kind, MapKind::TaskStorage | MapKind::SkStorage | MapKind::InodeStorage | MapKind::CgrpStorage);
        Argument::read(step.get("key"), world, kind, owners)
    }

    /// A value; those of maps of objects are descriptors.
    fn value(step: &Step, world: &World, kind: MapKind) -> Result<Argument, Errno> {
        Argument::read(step.get("value"), world, kind, holds_objects(kind))
    }

    fn read(value: Option<&Value>, world: &World, kind: MapKind, objects: bool) -> Result<Argument, Errno> {
        let raw = match value {
            None | Some(Value::Null) => return Ok(Argument::Null),
            Some(Value::String(text)) => hex::decode(text).map_err(|_| Errno::EFAULT)?,
            Some(other) => {
                let name = other.get("fd_of").and_then(Value::as_str).unwrap_or_default();
                if objects {
                    return Ok(Argument::Object(world.object(name)));
                }
                u64::from(world.descriptor(name)).to_le_bytes().to_vec()
            }
        };
        if !objects {
            return Ok(Argument::Bytes(raw));
        }
        let mut word = [0; 8];
        let len = raw.len().min(8);
        word[..len].copy_from_slice(&raw[..len]);
        let number = u64::from_le_bytes(word);
        // Socket maps tell numbers that are no descriptors from closed ones.
        let sockets = matches!(kind, MapKind::Sockmap | MapKind::Sockhash | MapKind::ReuseportSockarray);
        if sockets && i32::try_from(number).is_err() {
            return Ok(Argument::Bytes(raw));
        }
        Ok(Argument::Object(world.by_number(number, kind)))
    }
}

fn holds_objects(kind: MapKind) -> bool {
    matches!(
        kind,
        MapKind::ProgArray
            | MapKind::PerfEventArray
            | MapKind::CgroupArray
            | MapKind::ArrayOfMaps
            | MapKind::HashOfMaps
            | MapKind::Xskmap
            | MapKind::Sockmap
            | MapKind::Sockhash
            | MapKind::ReuseportSockarray
    )
}

fn kind_of(step: &Step) -> Result<MapKind, Errno> {
    match step.get("type") {
        Some(Value::String(name)) => MapKind::from_name(name).ok_or(Errno::EINVAL),
        Some(Value::Number(n)) => {
            n.as_u64().and_then(|n| u32::try_from(n).ok()).and_then(MapKind::from_number).ok_or(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn create(step: &Step, world: &mut World) -> Result<Done, Errno> {
    let mut spec =
        MapSpec::new(kind_of(step)?, small(step, "key_size"), small(step, "value_size"), small(step, "max_entries"));
    spec.flags = small(step, "flags");
    spec.map_extra = number(step, "map_extra");
    spec.numa_node = small(step, "numa_node");
    spec.name = text(step, "name").to_string();
    bound_name(&mut spec.name);
    (spec.btf_key, spec.btf_value) = (small(step, "btf_key_id"), small(step, "btf_value_id"));
    let mut cx = world.create_cx();
    cx.inner = match step.get("inner") {
        Some(Value::String(name)) => world.map(name).ok(),
        _ => None,
    };
    if spec.kind.is_map_in_map() && matches!(step.get("inner"), Some(Value::String(_))) && cx.inner.is_none() {
        return Err(inner_is_closed(spec, &cx));
    }
    let map = with_types(spec, step, world, &cx)?;
    world.insert(text(step, "as"), Named::Map(map));
    Ok(Done::nothing())
}

/// A name without room for its end is as bad as one with a blank.
fn bound_name(name: &mut String) {
    if name.len() > 15 {
        *name = " ".into();
    }
}

/// Attributes are judged before the descriptor of the inner map, and that before the name.
fn inner_is_closed(spec: MapSpec, cx: &CreateCx) -> Errno {
    let stand_in = MapSpec::new(MapKind::Array, 4, 4, 1);
    let spec = MapSpec { inner: Some(Box::new(stand_in)), name: String::new(), ..spec };
    map_rules::check(&spec, cx.creator).err().unwrap_or(Errno::EBADF)
}

/// Creates the map; with types, after their sizes were compared with the attributes.
fn with_types(mut spec: MapSpec, step: &Step, world: &World, cx: &CreateCx) -> Result<MapRef, Errno> {
    if spec.btf_key != 0 && spec.btf_value == 0 {
        return Err(Errno::EINVAL);
    }
    if spec.btf_value != 0 {
        // The attributes come first, then the types, then what the types hold.
        let mut plain = spec.clone();
        plain.inner = cx.inner.as_ref().map(|inner| Box::new(inner.spec().clone()));
        map_rules::check(&plain, cx.creator)?;
        let btf = world.btf(text(step, "btf")).ok_or(Errno::EINVAL)?;
        let size = |id: u32| (id != 0).then(|| btf.size_of(TypeId(id)).map_or(u32::MAX, |size| size as u32));
        spec.fields = fields(&btf, spec.btf_value)?;
        plain.fields = spec.fields.clone();
        map_rules::check_btf(&plain, size(spec.btf_key), size(spec.btf_value))?;
    }
    rtbpf::maps::create(&spec, cx).map_err(|error| error.errno())
}

fn fields(btf: &Btf, value: u32) -> Result<Vec<SpecialField>, Errno> {
    rtbpf_btf::special_fields(btf, TypeId(value)).map_err(|_| Errno::EINVAL)
}

/// A map from the raw bytes of its attributes.
fn create_raw(step: &Step, world: &mut World) -> Result<Done, Errno> {
    let mut attr = bytes(step, "attr")?.unwrap_or_default();
    if let Some(len) = step.get("attr_len").and_then(Value::as_u64) {
        if len > ATTR_MAX {
            return Err(Errno::E2BIG);
        }
        attr = [2u32, 4, 4, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
        attr.resize(len as usize, 0);
    }
    if attr.len() as u64 > ATTR_MAX || attr.iter().skip(ATTR_KNOWN).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    attr.resize(ATTR_KNOWN, 0);
    let word = |at: usize| attr[at..at + 4].iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    if attr[ATTR_CREATE..].iter().any(|byte| *byte != 0) {
        return Err(Errno::EINVAL);
    }
    // Offsets of `union bpf_attr` for BPF_MAP_CREATE.
    let mut spec = MapSpec::new(MapKind::from_number(word(0)).ok_or(Errno::EINVAL)?, word(4), word(8), word(12));
    (spec.flags, spec.numa_node) = (word(16), word(24));
    let (inner, device, key_type, value_type, kernel_type) = (word(20), word(44), word(52), word(56), word(60));
    spec.name = attr[28..44].iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
    bound_name(&mut spec.name);
    spec.map_extra = u64::from(word(64)) | u64::from(word(68)) << 32;
    if kernel_type != 0 || key_type != 0 && value_type == 0 {
        return Err(Errno::EINVAL);
    }
    let mut cx = world.create_cx();
    if spec.kind.is_map_in_map() {
        match world.by_number(inner.into(), spec.kind) {
            Object::Map(map) => cx.inner = Some(map),
            Object::Closed => return Err(inner_is_closed(spec, &cx)),
            _ => {}
        }
    }
    let map = rtbpf::maps::create(&spec, &cx).map_err(|error| error.errno())?;
    if device != 0 {
        // No device here has maps of its own.
        let has_some = matches!(spec.kind, MapKind::Hash | MapKind::Array) && DEVICES.contains(&device);
        return Err(if has_some { Errno::EOPNOTSUPP } else { Errno::EINVAL });
    }
    if value_type != 0 {
        // The descriptor of its types would be a number.
        return Err(Errno::EINVAL);
    }
    world.insert(text(step, "as"), Named::Map(map));
    Ok(Done::nothing())
}

fn btf_load(step: &Step, world: &mut World) -> Result<Done, Errno> {
    if !world.privileged {
        return Err(Errno::EPERM);
    }
    let blob = bytes(step, "blob")?.unwrap_or_default();
    let btf = Btf::parse(&blob).map_err(|_| Errno::EINVAL)?;
    // A value type with two locks is refused when the types are loaded.
    let twice = |id: u32| {
        let found = rtbpf_btf::special_fields(&btf, TypeId(id));
        matches!(found, Err(rtbpf_btf::Error::SpecialField { why, .. }) if why.contains("two"))
    };
    if (1..=btf.len() as u32).any(twice) {
        return Err(Errno::E2BIG);
    }
    world.insert(text(step, "as"), Named::Btf(std::sync::Arc::new(btf)));
    Ok(Done::nothing())
}

fn update(step: &Step, world: &World) -> Result<Done, Errno> {
    let map = world.map(text(step, "map"))?;
    let kind = map.spec().kind;
    let (key, value) = (Argument::key(step, world, kind)?, Argument::value(step, world, kind)?);
    control::update(&*map, &world.programs.control(), key.given(), value.given(), number(step, "flags"))?;
    Ok(Done::nothing())
}

fn lookup(step: &Step, world: &World, take: bool) -> Result<Done, Errno> {
    // Linux looks at unknown flags before it looks at the descriptor.
    if number(step, "flags") & !4 != 0 {
        return Err(Errno::EINVAL);
    }
    let map = world.map(text(step, "map"))?;
    let kind = map.spec().kind;
    let key = Argument::key(step, world, kind)?;
    let (cx, flags) = (world.programs.control(), number(step, "flags"));
    let value = if take {
        control::lookup_and_delete(&*map, &cx, key.given(), flags)?
    } else {
        control::lookup(&*map, &cx, key.given(), flags, bytes(step, "value_in")?.as_deref())?
    };
    Ok(Done::with("value", json!(hex::encode(value))))
}

fn delete(step: &Step, world: &World) -> Result<Done, Errno> {
    if number(step, "flags") != 0 {
        return Err(Errno::EINVAL);
    }
    let map = world.map(text(step, "map"))?;
    let key = Argument::key(step, world, map.spec().kind)?;
    control::delete(&*map, &world.programs.control(), key.given(), 0)?;
    Ok(Done::nothing())
}

fn next_key(step: &Step, world: &World) -> Result<Done, Errno> {
    let map = world.map(text(step, "map"))?;
    let key = Argument::key(step, world, map.spec().kind)?;
    let next = control::next_key(&*map, &world.programs.control(), key.given())?;
    Ok(Done::with("next_key", json!(hex::encode(next))))
}

fn walk_keys(step: &Step, world: &World) -> Result<Done, Errno> {
    let map = world.map(text(step, "map"))?;
    let mut keys: Vec<String> = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    let errno = loop {
        let from = last.as_deref().map_or(Given::Null, Given::Bytes);
        match control::next_key(&*map, &world.programs.control(), from) {
            Ok(key) => {
                keys.push(hex::encode(&key));
                last = Some(key);
            }
            Err(errno) => break errno,
        }
    };
    let ordered = step.get("ordered").and_then(Value::as_bool).unwrap_or(true);
    if !ordered {
        keys.sort();
    }
    let outputs = [("count".to_string(), json!(keys.len())), ("keys".to_string(), json!(keys))];
    Ok(Done::Failed(errno, outputs.into_iter().collect()))
}

fn bulk_update(step: &Step, world: &World) -> Result<Done, Errno> {
    let map = world.map(text(step, "map"))?;
    let count = ["n", "count", "num"].iter().find_map(|name| step.get(*name)?.as_u64()).unwrap_or_default();
    let keyless = map.spec().key_size == 0;
    let one = |i: u64| {
        let word = (i as u32).to_le_bytes();
        let key = if keyless { Given::Null } else { Given::Bytes(&word) };
        control::update(&*map, &world.programs.control(), key, Given::Bytes(&word), 0)
    };
    let failures = (0..count.min(1 << 24)).filter(|i| one(*i).is_err()).count();
    Ok(Done::with("failures", json!(failures)))
}

fn batch_of(step: &Step) -> Result<Batch, Errno> {
    Ok(Batch {
        count: small(step, "count_in"),
        from: bytes(step, "in_batch")?,
        elem_flags: number(step, "elem_flags"),
        flags: number(step, "flags"),
    })
}

/// The answer of a batch: its count, and for lookups the buffers, which are zero where nothing was written.
fn batched(map: &MapRef, asked: &Batch, done: Batched, reads: bool) -> Done {
    let count = done.count.unwrap_or(asked.count);
    let mut outputs = Fields::new();
    outputs.insert("count_out".into(), json!(count));
    if reads {
        let mut pairs: Vec<String> =
            done.pairs.iter().map(|(key, value)| format!("{}:{}", hex::encode(key), hex::encode(value))).collect();
        let zeroes = |bytes: usize| "00".repeat(bytes);
        let empty = || format!("{}:{}", zeroes(map.spec().key_size as usize), zeroes(control::value_bytes(&**map)));
        pairs.resize_with(count as usize, empty);
        pairs.sort();
        outputs.insert("pairs_sorted".into(), json!(pairs));
    }
    match done.errno {
        None => Done::Ok(outputs),
        Some(errno) => Done::Failed(errno, outputs),
    }
}

/// A batch on its map; where there is none, the count is left as it was.
fn on_map(step: &Step, world: &World, run: impl FnOnce(&MapRef) -> Result<Done, Errno>) -> Result<Done, Errno> {
    match world.map(text(step, "map")) {
        Ok(map) => run(&map),
        Err(errno) => {
            let count = ("count_out".to_string(), json!(small(step, "count_in")));
            Ok(Done::Failed(errno, [count].into_iter().collect()))
        }
    }
}

fn lookup_batch(step: &Step, world: &World, map: &MapRef, take: bool) -> Result<Done, Errno> {
    let asked = batch_of(step)?;
    let done = control::lookup_batch(&**map, &world.programs.control(), &asked, take);
    Ok(batched(map, &asked, done, true))
}

fn write_batch(step: &Step, world: &World, map: &MapRef, updates: bool) -> Result<Done, Errno> {
    let asked = batch_of(step)?;
    let (keys, values) = (bytes(step, "keys")?.unwrap_or_default(), bytes(step, "values")?.unwrap_or_default());
    let chunks = |bytes: &[u8], size: usize| -> Vec<Vec<u8>> {
        if size == 0 { Vec::new() } else { bytes.chunks_exact(size).map(<[u8]>::to_vec).collect() }
    };
    let kind = map.spec().kind;
    let keys = chunks(&keys, map.spec().key_size as usize);
    let cx = world.programs.control();
    let done = if updates {
        let values: Vec<Argument> = chunks(&values, control::value_bytes(&**map))
            .into_iter()
            .map(|value| Argument::read(Some(&json!(hex::encode(value))), world, kind, holds_objects(kind)))
            .collect::<Result<_, _>>()?;
        let pairs: Vec<_> = keys.iter().zip(&values).map(|(key, value)| (Given::Bytes(key), value.given())).collect();
        control::update_batch(&**map, &cx, &asked, &pairs)
    } else {
        let keys: Vec<_> = keys.iter().map(|key| Given::Bytes(key)).collect();
        control::delete_batch(&**map, &cx, &asked, &keys)
    };
    Ok(batched(map, &asked, done, false))
}

fn mmap(step: &Step, world: &mut World) -> Result<Done, Errno> {
    /// `PROT_WRITE` of Linux.
    const WRITE: u64 = 2;
    const PAGE: u64 = 4096;
    // The offset is looked at before the descriptor.
    if !number(step, "offset").is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let map = world.map(text(step, "map"))?;
    let shared = step.get("shared").and_then(Value::as_bool).unwrap_or(true);
    let writes = number(step, "prot") & WRITE != 0;
    let mapping = control::mmap(&map, number(step, "length"), writes, number(step, "offset"), shared)?;
    world.mappings.push(mapping);
    Ok(Done::nothing())
}

fn info(step: &Step, world: &World) -> Result<Done, Errno> {
    // This command has a word of its own for a closed descriptor.
    let own_word = |errno| if errno == Errno::EBADF { Errno::EBADFD } else { errno };
    let map = world.map(text(step, "map")).map_err(own_word)?;
    let spec = map.spec();
    let rows = [
        ("type", spec.kind.number()),
        ("key_size", spec.key_size),
        ("value_size", spec.value_size),
        ("max_entries", spec.max_entries),
        // What a descriptor may do is the descriptor's, not the map's.
        ("map_flags", spec.flags & !(flags::RDONLY | flags::WRONLY)),
    ];
    Ok(Done::Ok(rows.into_iter().map(|(name, value)| (name.to_string(), json!(value))).collect()))
}
