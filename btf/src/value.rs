//! Bytes printed by their type: what a map holds, readable.

use std::fmt;

use crate::read::Btf;
use crate::types::{EnumValues, Int, Kind, Members, TypeId};

/// A value decoded by its type. Maps onto JSON one to one, but for the names beside enum values.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing to show: the bytes ended, or the type has no values.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int(i128),
    /// An unsigned integer.
    Uint(u128),
    /// A floating-point number.
    Float(f64),
    /// A printable character array up to its first NUL, or one character.
    Text(String),
    /// A pointer.
    Pointer(u64),
    /// A named value of an enum.
    Enum {
        /// The name.
        name: String,
        /// The number.
        value: i64,
    },
    /// Elements of an array.
    List(Vec<Value>),
    /// Members of a struct or union, or variables of a section, in order.
    Record(Vec<(String, Value)>),
    /// Bytes without a type.
    Bytes(Vec<u8>),
}

/// Values that one dump may hold, so that types without size cannot make a large one out of nothing.
const MAX_NODES: usize = 1 << 20;

impl Btf {
    /// `bytes` as a value of type `id`. What does not fit in `bytes` is [`Value::Null`].
    pub fn value(&self, id: TypeId, bytes: &[u8]) -> Value {
        Reader { btf: self, nodes: MAX_NODES }.value(id, bytes)
    }
}

struct Reader<'a> {
    btf: &'a Btf,
    nodes: usize,
}

impl Reader<'_> {
    /// Recursion is bounded by the nesting that parsing allowed.
    fn value(&mut self, id: TypeId, bytes: &[u8]) -> Value {
        let Some(left) = self.nodes.checked_sub(1) else { return Value::Null };
        self.nodes = left;
        let ty = self.btf.peel(id);
        match ty.kind {
            Kind::Int(of) => bits(bytes, u64::from(of.offset), of.bits.into()).map_or(Value::Null, |raw| int(of, raw)),
            Kind::Enum { bytes: size, signed, values } => match bits(bytes, 0, size.saturating_mul(8)) {
                Some(raw) => enumerated(values, raw, size.saturating_mul(8), signed),
                None => Value::Null,
            },
            Kind::Ptr { .. } => bits(bytes, 0, 64).map_or(Value::Null, |raw| Value::Pointer(raw as u64)),
            Kind::Float { bytes: 4 } => {
                bits(bytes, 0, 32).map_or(Value::Null, |raw| Value::Float(f32::from_bits(raw as u32).into()))
            }
            Kind::Float { bytes: 8 } => {
                bits(bytes, 0, 64).map_or(Value::Null, |raw| Value::Float(f64::from_bits(raw as u64)))
            }
            Kind::Float { .. } => Value::Bytes(bytes.to_vec()),
            Kind::Array { elem, len, .. } => self.array(elem, len, bytes),
            Kind::Struct { members, .. } | Kind::Union { members, .. } => self.record(members, bytes),
            Kind::DataSec { vars, .. } => {
                let fields = vars.iter().map(|var| {
                    let part = bytes.get(var.offset as usize..).unwrap_or_default();
                    let name = self.btf.get(var.ty).map_or("", |ty| ty.name);
                    (name.to_owned(), self.value(var.ty, part))
                });
                Value::Record(fields.collect())
            }
            Kind::Var { ty, .. } => self.value(ty, bytes),
            Kind::Void | Kind::Fwd { .. } | Kind::Func { .. } | Kind::FuncProto { .. } => Value::Null,
            Kind::DeclTag { .. }
            | Kind::Typedef { .. }
            | Kind::Const { .. }
            | Kind::Volatile { .. }
            | Kind::Restrict { .. }
            | Kind::TypeTag { .. } => Value::Null,
        }
    }

    fn array(&mut self, elem: TypeId, len: u32, bytes: &[u8]) -> Value {
        let stride = self.btf.size_of(elem).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        if stride == 0 {
            return Value::List(Vec::new());
        }
        let whole = stride.checked_mul(len as usize).and_then(|size| bytes.get(..size)).unwrap_or(bytes);
        if let Kind::Int(Int { bytes: 1, encoding, .. }) = self.btf.peel(elem).kind
            && !encoding.bool
            && (encoding.char || encoding.signed)
            && let Some(text) = text(whole)
        {
            return Value::Text(text);
        }
        Value::List(whole.chunks_exact(stride).map(|part| self.value(elem, part)).collect())
    }

    fn record(&mut self, members: Members<'_>, bytes: &[u8]) -> Value {
        let mut fields = Vec::new();
        for member in members.iter() {
            let value = if member.bitfield == 0 {
                self.value(member.ty, bytes.get(member.bit_offset as usize / 8..).unwrap_or_default())
            } else {
                self.bitfield(member.ty, bytes, u64::from(member.bit_offset), member.bitfield)
            };
            match value {
                // Members of an anonymous struct or union belong to their parent, as in C.
                Value::Record(inner) if member.name.is_empty() => fields.extend(inner),
                value if member.name.is_empty() && value == Value::Null => {}
                value => fields.push((member.name.to_owned(), value)),
            }
        }
        Value::Record(fields)
    }

    fn bitfield(&mut self, ty: TypeId, bytes: &[u8], offset: u64, width: u32) -> Value {
        self.nodes = self.nodes.saturating_sub(1);
        let Some(raw) = bits(bytes, offset, width) else { return Value::Null };
        match self.btf.peel(ty).kind {
            Kind::Int(of) => int(Int { bits: width.min(128) as u8, ..of }, raw),
            Kind::Enum { signed, values, .. } => enumerated(values, raw, width, signed),
            _ => Value::Uint(raw),
        }
    }
}

/// `width` bits (1 to 128) at bit `offset`, little-endian, zero-extended.
fn bits(bytes: &[u8], offset: u64, width: u32) -> Option<u128> {
    if !(1..=128).contains(&width) {
        return None;
    }
    let first = usize::try_from(offset / 8).ok()?;
    let shift = (offset % 8) as u32;
    let count = (shift + width).div_ceil(8) as usize;
    let part = bytes.get(first..first.checked_add(count)?)?;
    // At most 17 bytes: the last one fills the top.
    let low = part.iter().take(16).rev().fold(0u128, |acc, &byte| acc << 8 | u128::from(byte)) >> shift;
    let high = part.get(16).map_or(0, |&byte| u128::from(byte) << (128 - shift));
    Some((low | high) & u128::MAX >> (128 - width))
}

fn sign_extend(raw: u128, width: u32) -> i128 {
    let unused = 128 - width.clamp(1, 128);
    (raw << unused) as i128 >> unused
}

fn int(of: Int, raw: u128) -> Value {
    match of.encoding {
        encoding if encoding.bool => Value::Bool(raw != 0),
        encoding if encoding.signed => Value::Int(sign_extend(raw, of.bits.into())),
        _ => Value::Uint(raw),
    }
}

fn enumerated(values: EnumValues<'_>, raw: u128, width: u32, signed: bool) -> Value {
    let value = if signed { sign_extend(raw, width) as i64 } else { raw as u64 as i64 };
    match values.iter().find(|v| v.value == value) {
        Some(v) => Value::Enum { name: v.name.to_owned(), value },
        None if signed => Value::Int(value.into()),
        None => Value::Uint(raw),
    }
}

/// The text before the first NUL, when it is printable and only NULs follow.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let (head, tail) = bytes.split_at_checked(end)?;
    let printable = head.iter().all(|byte| byte.is_ascii_graphic() || b" \t\n".contains(byte));
    (printable && tail.iter().all(|&byte| byte == 0)).then(|| String::from_utf8_lossy(head).into_owned())
}

/// JSON text: one line, or indented with `{:#}`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl Value {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Uint(u) => write!(f, "{u}"),
            Value::Float(x) if x.is_finite() => write!(f, "{x:?}"),
            Value::Float(x) => quote(f, &x.to_string()),
            Value::Text(text) => quote(f, text),
            Value::Pointer(p) => write!(f, "\"{p:#x}\""),
            Value::Enum { name, .. } => quote(f, name),
            Value::List(values) => list(f, depth, ['[', ']'], values, |f, value| value.write(f, depth + 1)),
            Value::Record(fields) => list(f, depth, ['{', '}'], fields, |f, (name, value)| {
                quote(f, name)?;
                f.write_str(": ")?;
                value.write(f, depth + 1)
            }),
            Value::Bytes(bytes) => {
                f.write_str("\"0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("\"")
            }
        }
    }

    /// The field of a record called `name`.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Record(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    depth: usize,
    [open, close]: [char; 2],
    items: &[T],
    mut each: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    let indented = f.alternate() && !items.is_empty();
    let indent = |f: &mut fmt::Formatter<'_>, depth: usize| write!(f, "\n{:width$}", "", width = depth * 2);
    write!(f, "{open}")?;
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(if indented { "," } else { ", " })?;
        }
        if indented {
            indent(f, depth + 1)?;
        }
        each(f, item)?;
    }
    if indented {
        indent(f, depth)?;
    }
    write!(f, "{close}")
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, IntEncoding, NewMember};

    #[test]
    fn values_read_as_their_types_say() {
        let mut b = Builder::new();
        let int = b.int("int", 4, true);
        let uint = b.int("unsigned int", 4, false);
        let char_ = b.int_with("char", 1, IntEncoding { signed: true, char: false, bool: false });
        let bool_ = b.int_with("_Bool", 1, IntEncoding { bool: true, ..IntEncoding::default() });
        let color = b.enumeration("color", 4, false, &[("RED", 1), ("BLUE", 2)]);
        let name = b.array(char_, 4);
        let anon = b.union("", 4, &[NewMember::new("u", uint, 0)]);
        let fields = [
            NewMember::new("a", int, 0),
            NewMember::bits("lo", uint, 32, 3),
            NewMember::bits("hi", int, 35, 2),
            NewMember::new("ok", bool_, 40),
            NewMember::new("c", color, 64),
            NewMember::new("name", name, 96),
            NewMember::new("", anon, 128),
        ];
        let s = b.structure("s", 20, &fields);
        let btf = b.build().unwrap();
        let mut bytes = vec![0xff; 4];
        bytes.extend([0b0001_1101, 1, 0, 0, 2, 0, 0, 0]);
        bytes.extend(b"ab\0\0\x09\0\0\0");
        let value = btf.value(s, &bytes);
        let text = r#"{"a": -1, "lo": 5, "hi": -1, "ok": true, "c": "BLUE", "name": "ab", "u": 9}"#;
        assert_eq!(value.to_string(), text);
        assert_eq!(btf.value(s, &bytes[..4]).field("c"), Some(&Value::Null));
        assert_eq!(btf.value(name, b"a\0\0b").to_string(), "[97, 0, 0, 98]");
        let pair = Value::Record(vec![("k".into(), Value::Int(1)), ("l".into(), Value::List(vec![]))]);
        assert_eq!(format!("{pair:#}"), "{\n  \"k\": 1,\n  \"l\": []\n}");
    }

    #[test]
    fn bits_cross_bytes() {
        let check = |offset, width, expected| assert_eq!(bits(&[0xff; 17], offset, width), expected);
        check(0, 128, Some(u128::MAX));
        check(7, 128, Some(u128::MAX));
        check(3, 7, Some(0x7f));
        check(128, 8, Some(0xff));
        check(129, 8, None);
        check(0, 0, None);
    }
}
