//! Values and frames as the kernel prints them.

use std::fmt::Write;
use std::sync::Arc;

use rtbpf_abi::{MapKind, MapSpec};
use rtbpf_isa::{Reg, Width};

use crate::domain::Scalar;
use crate::state::{Byte, Slot, State};
use crate::value::{DynptrKind, IterState, Kind, MapRef, Value};

/// Column of the state behind an instruction's text, where the text is shorter.
pub(super) const STATE_COLUMN: usize = 40;

/// The current frame's registers and slots that are shown; each after a space.
pub(super) fn registers(
    state: &State,
    maps: &[Arc<MapSpec>],
    shows_reg: impl Fn(Reg) -> bool,
    shows_slot: impl Fn(usize) -> bool,
) -> String {
    let mut text = String::new();
    let print = |value: &Value| Print { value, maps, frame: state.current() }.to_string();
    for reg in Reg::ALL {
        let value = state.reg(reg);
        if value.kind != Kind::Uninit && shows_reg(reg) {
            let _ = write!(text, " R{}={}", reg as u8, print(value));
        }
    }
    for (at, slot) in state.frame().stack.slots().filter(|(at, _)| shows_slot(*at)) {
        let shown = match slot.value.as_deref().filter(|_| slot.is_object()) {
            Some(object) => of_object(object),
            None => (slot.bytes != [Byte::Invalid; 8]).then(|| of_slot(slot, print)),
        };
        if let Some(shown) = shown {
            let _ = write!(text, " fp{}={shown}", -8 * (at as i32 + 1));
        }
    }
    if !state.held.refs.is_empty() && !text.is_empty() {
        let refs: Vec<String> = state.held.refs.iter().map(|reference| reference.id.to_string()).collect();
        let _ = write!(text, " refs={}", refs.join(","));
    }
    if !text.is_empty() && state.depth() > 1 {
        text.insert_str(0, &format!(" frame{}:", state.current()));
    }
    text
}

fn of_slot(slot: &Slot, print: impl Fn(&Value) -> String) -> String {
    let spilled = slot.spilled();
    let skip = if spilled.is_some() { slot.spill_size() as usize } else { 0 };
    let bytes: String = slot.bytes[skip..].iter().rev().map(|byte| letter(*byte)).collect();
    bytes + &spilled.map(print).unwrap_or_default()
}

/// A dynptr or iterator: it stands in the lower-addressed of its slots.
fn of_object(object: &Value) -> Option<String> {
    let reference = if object.ref_id != 0 { format!("ref_id={},", object.ref_id) } else { String::new() };
    match object.kind {
        Kind::Dynptr { kind, first: true } => {
            let name = match kind {
                DynptrKind::Local => "local",
                DynptrKind::Ringbuf => "ringbuf",
                DynptrKind::Skb => "skb",
                DynptrKind::Xdp => "xdp",
            };
            Some(format!("dynptr_{name}({reference}dynptr_id={})", object.id))
        }
        Kind::Iter { state, depth, first: true } => {
            let state = match state {
                IterState::Active => "active",
                IterState::Drained => "drained",
            };
            Some(format!("iter_num({reference}state={state},depth={depth})"))
        }
        _ => None,
    }
}

fn letter(byte: Byte) -> char {
    match byte {
        Byte::Invalid => '?',
        Byte::Misc => 'm',
        Byte::Zero => '0',
        Byte::Spill => 'r',
        Byte::Dynptr => 'd',
        Byte::Iter => 'i',
    }
}

/// A value among the maps of its program, seen from a frame.
struct Print<'a> {
    value: &'a Value,
    maps: &'a [Arc<MapSpec>],
    frame: u32,
}

impl std::fmt::Display for Print<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value;
        if value.is_scalar() {
            return scalar(f, value);
        }
        let mut parts = Vec::new();
        if value.id != 0 {
            parts.push(format!("id={}", value.id));
        }
        if value.ref_id != 0 {
            parts.push(format!("ref_obj_id={}", value.ref_id));
        }
        if let Kind::MapPtr(map) | Kind::MapValue(map) | Kind::MapKey(map) = value.kind {
            self.map(map, &mut parts);
        }
        let num = value.num.as_constant();
        if let (Kind::Stack(frame), Some(num)) = (value.kind, num) {
            let of = if frame == self.frame { String::new() } else { format!("[{frame}]") };
            return write!(f, "fp{of}{}", (value.off as i64).wrapping_add(num as i64));
        }
        if value.off != 0 {
            parts.push(format!("off={}", signed(value.off.into())));
        }
        match value.kind {
            Kind::Packet(range) | Kind::PacketMeta(range) => {
                parts.push(if range < 0 { format!("r={:#x}", i64::from(range)) } else { format!("r={range}") })
            }
            Kind::Mem { size, .. } => parts.push(format!("sz={}", unsigned(size.into()))),
            _ => {}
        }
        match num {
            Some(0) => {}
            Some(num) => parts.push(format!("imm={}", signed(num as i64))),
            None => bounds(&value.num, &mut parts),
        }
        write!(f, "{}", value.type_name())?;
        if let Kind::Btf { name, .. } = value.kind {
            f.write_str(name)?;
        }
        match value.kind {
            Kind::Stack(frame) if frame != self.frame => write!(f, "[{frame}]({})", parts.join(",")),
            _ => write!(f, "({})", parts.join(",")),
        }
    }
}

impl Print<'_> {
    fn map(&self, map: MapRef, parts: &mut Vec<String>) {
        let Some(spec) = self.maps.get(map.map.index()) else { return };
        let spec: &MapSpec = match (&spec.inner, map.inner) {
            (Some(inner), true) => inner,
            (Some(_) | None, _) => spec,
        };
        if !spec.name.is_empty() {
            parts.push(format!("map={}", spec.name));
        }
        parts.push(format!("ks={}", spec.key_size));
        parts.push(format!("vs={}", spec.value_size));
        if map.uid != 0 && matches!(spec.kind, MapKind::Hash | MapKind::Array) {
            parts.push(format!("uid={}", map.uid));
        }
    }
}

/// Decimal where it fits 16 bits.
fn signed(x: i64) -> String {
    if i16::try_from(x).is_ok() { x.to_string() } else { format!("{x:#x}") }
}

fn scalar(f: &mut std::fmt::Formatter<'_>, value: &Value) -> std::fmt::Result {
    if let Some(x) = value.num.as_constant() {
        return f.write_str(&signed(x as i64));
    }
    let mut parts = Vec::new();
    if value.id != 0 {
        let plus = if value.plus.is_some() { format!("{:+}", value.off) } else { String::new() };
        parts.push(format!("id={}{plus}", value.id));
    }
    bounds(&value.num, &mut parts);
    write!(f, "scalar({})", parts.join(","))
}

/// A bound: its name, the number that tells whether two are one, how it is printed.
struct Bound {
    name: &'static str,
    value: u64,
    text: String,
}

impl Bound {
    fn is_negative(&self) -> bool {
        self.name.starts_with('s') && (self.value as i64) < 0
    }
}

fn bounds(num: &Scalar, parts: &mut Vec<String>) {
    let (wide, low) = (num.ends(Width::W64), num.ends(Width::W32));
    let of = |name, value, is_told: bool, text| is_told.then_some(Bound { name, value, text });
    // Of 32 bits, only what is printed as a decimal is a negative number.
    let narrow = |x: i64| match i16::try_from(x) {
        Ok(_) => (x as u64, x.to_string()),
        Err(_) => (x as u32 as u64, format!("{:#x}", x as u32)),
    };
    let ((smin, smin_text), (smax, smax_text)) = (narrow(low.smin), narrow(low.smax));
    let all = [
        of("smin", wide.smin as u64, wide.smin != i64::MIN, signed(wide.smin)),
        of("smax", wide.smax as u64, wide.smax != i64::MAX, signed(wide.smax)),
        of("umin", wide.umin, wide.umin != 0, unsigned(wide.umin)),
        of("umax", wide.umax, wide.umax != u64::MAX, unsigned(wide.umax)),
        of("smin32", smin, low.smin != i64::from(i32::MIN), smin_text),
        of("smax32", smax, low.smax != i64::from(i32::MAX), smax_text),
        of("umin32", low.umin, low.umin != 0, unsigned(low.umin)),
        of("umax32", low.umax, low.umax != u64::from(u32::MAX), unsigned(low.umax)),
    ];
    // One number for all bounds of its kind, least or greatest, that it is.
    let mut told = [false; 8];
    for (first, bound) in all.iter().enumerate() {
        let Some(bound) = bound.as_ref().filter(|_| !told[first]) else { continue };
        let mut names = String::new();
        for (at, other) in all.iter().enumerate().skip(first).step_by(2) {
            let same = |other: &&Bound| other.value == bound.value && other.is_negative() == bound.is_negative();
            if let Some(other) = other.as_ref().filter(same) {
                told[at] = true;
                let _ = write!(names, "{}=", other.name);
            }
        }
        parts.push(names + &bound.text);
    }
    if num.tnum().mask() != u64::MAX {
        parts.push(format!("var_off={}", num.tnum()));
    }
}

/// Decimal where it fits 15 bits.
fn unsigned(x: u64) -> String {
    if x <= i16::MAX as u64 { x.to_string() } else { format!("{x:#x}") }
}
