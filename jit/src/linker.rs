//! What code generation asks the machine. The generator knows neither maps nor helpers, only this.

use rtbpf_isa::MapIdx;

use crate::code::Symbol;

/// What code around a call must allow for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelperTraits {
    /// May set `RunFrame::fault`: native code tests it after the call.
    pub can_fault: bool,
    /// Runs subprograms of the caller.
    pub calls_back: bool,
    /// Stands behind several numbers and wants to find this one in `RunFrame::helper`.
    pub wants_number: bool,
    /// Does nothing but answer `RunFrame::cpu`, which native code reads itself.
    pub answers_cpu: bool,
}

impl HelperTraits {
    /// Nothing is known: everything is allowed for.
    pub const ANY: HelperTraits =
        HelperTraits { can_fault: true, calls_back: true, wants_number: true, answers_cpu: false };
    /// Neither faults nor calls back.
    pub const PLAIN: HelperTraits =
        HelperTraits { can_fault: false, calls_back: false, wants_number: false, answers_cpu: false };
}

/// An array map whose lookup is address arithmetic: `index < len ? base + index * stride + cpu * slot_bytes : 0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayLookup {
    /// Entries.
    pub len: u32,
    /// Bytes from one value to the next.
    pub stride: u32,
    /// Bytes from one CPU's values to the next one's; 0 where all share them. Every CPU that runs programs has its own.
    pub slot_bytes: u32,
}

/// The machine, as code generation and publication see it.
pub trait Linker {
    /// The address or value that stands for `symbol`; `None` when the machine has none.
    ///
    /// Asked at publication. For [`Symbol::MapValue`] with offset 0 this is the base of an array.
    fn resolve(&self, symbol: Symbol) -> Option<u64>;

    /// What calls of a helper must allow for. Asked at compilation.
    fn helper(&self, id: i32) -> HelperTraits {
        let _ = id;
        HelperTraits::ANY
    }

    /// The layout of an array whose lookups may be inlined. Asked at compilation.
    fn array(&self, map: MapIdx) -> Option<ArrayLookup> {
        let _ = map;
        None
    }
}

/// A machine without helpers and maps.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLinker;

impl Linker for NoLinker {
    fn resolve(&self, _: Symbol) -> Option<u64> {
        None
    }
}
