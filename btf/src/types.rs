//! The decoded view of one type.

use std::marker::PhantomData;

use crate::read::{Btf, word};

/// The id of a type; 0 is void.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TypeId(pub u32);

impl TypeId {
    /// No type.
    pub const VOID: TypeId = TypeId(0);
}

impl std::fmt::Display for TypeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One type, borrowed from its [`Btf`].
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// Its id.
    pub id: TypeId,
    /// Its name; empty when anonymous.
    pub name: &'a str,
    /// What it is.
    pub kind: Kind<'a>,
}

/// What a type is. The two enum kinds of the format are one here: values tell their width.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Kind<'a> {
    Void,
    Int(Int),
    Ptr {
        to: TypeId,
    },
    Array {
        elem: TypeId,
        index: TypeId,
        len: u32,
    },
    Struct {
        bytes: u32,
        members: Members<'a>,
    },
    Union {
        bytes: u32,
        members: Members<'a>,
    },
    Enum {
        bytes: u32,
        signed: bool,
        values: EnumValues<'a>,
    },
    Fwd {
        is_union: bool,
    },
    Typedef {
        to: TypeId,
    },
    Volatile {
        to: TypeId,
    },
    Const {
        to: TypeId,
    },
    Restrict {
        to: TypeId,
    },
    Func {
        proto: TypeId,
        linkage: Linkage,
    },
    FuncProto {
        ret: TypeId,
        params: Params<'a>,
    },
    Var {
        ty: TypeId,
        linkage: Linkage,
    },
    DataSec {
        bytes: u32,
        vars: VarInfos<'a>,
    },
    Float {
        bytes: u32,
    },
    /// `component` is the member or parameter, `None` for the type itself.
    DeclTag {
        to: TypeId,
        component: Option<u32>,
    },
    TypeTag {
        to: TypeId,
    },
}

/// An integer type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Int {
    /// Bytes of storage.
    pub bytes: u32,
    /// Bits of the value; less than the storage in old-style bitfields only.
    pub bits: u8,
    /// Bit offset in the storage; not zero in old-style bitfields only.
    pub offset: u8,
    /// How to print it.
    pub encoding: IntEncoding,
}

/// How an integer is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IntEncoding {
    /// Signed.
    pub signed: bool,
    /// A character.
    pub char: bool,
    /// A truth value.
    pub bool: bool,
}

/// Who sees a function or variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Linkage {
    Static,
    Global,
    Extern,
}

impl Linkage {
    /// From the format's number.
    pub fn from_number(number: u32) -> Linkage {
        match number {
            0 => Linkage::Static,
            1 => Linkage::Global,
            _ => Linkage::Extern,
        }
    }

    /// The format's number.
    pub fn number(self) -> u32 {
        match self {
            Linkage::Static => 0,
            Linkage::Global => 1,
            Linkage::Extern => 2,
        }
    }
}

/// A member of a struct or union.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    /// Name; empty for an anonymous struct or union.
    pub name: &'a str,
    /// Type.
    pub ty: TypeId,
    /// Offset in bits.
    pub bit_offset: u32,
    /// Width in bits of a bitfield, 0 otherwise.
    pub bitfield: u32,
}

/// A value of an enum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnumValue<'a> {
    /// Name.
    pub name: &'a str,
    /// Value; sign-extended where the enum is signed, else the unsigned bits.
    pub value: i64,
}

/// A parameter of a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Param<'a> {
    /// Name; empty when unknown.
    pub name: &'a str,
    /// Type; void for `...`.
    pub ty: TypeId,
}

/// A variable in a data section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VarInfo {
    /// The variable, or function in a section of externs.
    pub ty: TypeId,
    /// Byte offset in the section.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
}

/// Members, in order.
pub type Members<'a> = List<'a, Member<'a>>;
/// Enum values, in order.
pub type EnumValues<'a> = List<'a, EnumValue<'a>>;
/// Parameters, in order.
pub type Params<'a> = List<'a, Param<'a>>;
/// Variables of a section, in order.
pub type VarInfos<'a> = List<'a, VarInfo>;

/// Records decoded on the way out.
pub struct List<'a, T> {
    btf: &'a Btf,
    bytes: &'a [u8],
    shape: Shape,
    item: PhantomData<fn() -> T>,
}

/// What the records of a type look like.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape {
    /// Bytes of one record.
    pub stride: usize,
    /// The kind flag: bitfield offsets, signed values.
    pub flag: bool,
}

/// A record of a [`List`].
pub(crate) trait Item<'a>: Sized {
    fn read(btf: &'a Btf, words: [u32; 3], shape: Shape) -> Self;
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> std::fmt::Debug for List<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} records]", self.len())
    }
}

impl<'a, T> List<'a, T> {
    pub(crate) fn new(btf: &'a Btf, bytes: &'a [u8], shape: Shape) -> List<'a, T> {
        List { btf, bytes, shape, item: PhantomData }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.bytes.len().checked_div(self.shape.stride).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[allow(private_bounds)]
impl<'a, T: Item<'a>> List<'a, T> {
    /// The record at `at`.
    pub fn get(&self, at: usize) -> Option<T> {
        let from = at.checked_mul(self.shape.stride)?;
        let record = self.bytes.get(from..from.checked_add(self.shape.stride)?)?;
        let words = [0, 4, 8].map(|off| word(record, off).unwrap_or(0));
        Some(T::read(self.btf, words, self.shape))
    }

    /// All records.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + 'a
    where
        T: 'a,
    {
        (0..self.len()).map(move |at| self.get(at).expect("at is below len"))
    }
}

impl<'a> Item<'a> for Member<'a> {
    fn read(btf: &'a Btf, [name, ty, offset]: [u32; 3], shape: Shape) -> Member<'a> {
        let (bit_offset, bitfield) = if shape.flag { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
        Member { name: btf.str(name), ty: TypeId(ty), bit_offset, bitfield }
    }
}

impl<'a> Item<'a> for EnumValue<'a> {
    fn read(btf: &'a Btf, [name, low, high]: [u32; 3], shape: Shape) -> EnumValue<'a> {
        let value = match (shape.stride == 12, shape.flag) {
            (true, _) => (u64::from(high) << 32 | u64::from(low)) as i64,
            (false, true) => i64::from(low as i32),
            (false, false) => i64::from(low),
        };
        EnumValue { name: btf.str(name), value }
    }
}

impl<'a> Item<'a> for Param<'a> {
    fn read(btf: &'a Btf, [name, ty, _]: [u32; 3], _: Shape) -> Param<'a> {
        Param { name: btf.str(name), ty: TypeId(ty) }
    }
}

impl<'a> Item<'a> for VarInfo {
    fn read(_: &'a Btf, [ty, offset, bytes]: [u32; 3], _: Shape) -> VarInfo {
        VarInfo { ty: TypeId(ty), offset, bytes }
    }
}
