//! What engines without checks must do differently from what the instruction says.
//!
//! A program reads its context by UAPI offsets; the native context holds packet pointers, 4 bytes wide in the UAPI
//! structure, in 8-byte slots behind it (see `abi::ctx`). The verifier knows which loads those are and leaves one entry
//! for each. This is no fact: with or without facts the table must be followed, and an instruction without an entry is
//! executed as it stands.

use rtbpf_isa::{InsnIdx, Size};

/// Where a context access reads the native context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NativeAccess {
    /// The instruction.
    pub at: InsnIdx,
    /// Byte offset in the native context; it stands in for the instruction's own offset.
    pub off: i16,
    /// Size of the native access.
    pub size: Size,
}

/// The side table, ordered by instruction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lowering {
    ctx: Vec<NativeAccess>,
}

impl Lowering {
    /// Nothing to do: every instruction stands as it is.
    pub fn identity() -> Lowering {
        Lowering::default()
    }

    /// Records one access. Returns whether it agrees with what was recorded for the same instruction before.
    pub fn insert(&mut self, access: NativeAccess) -> bool {
        match self.ctx.binary_search_by_key(&access.at, |a| a.at) {
            Ok(found) => self.ctx.get(found) == Some(&access),
            Err(place) => {
                self.ctx.insert(place, access);
                true
            }
        }
    }

    /// The entry of `at`, where it has one.
    pub fn at(&self, at: InsnIdx) -> Option<NativeAccess> {
        let found = self.ctx.binary_search_by_key(&at, |a| a.at).ok()?;
        self.ctx.get(found).copied()
    }

    /// All entries in instruction order.
    pub fn ctx(&self) -> &[NativeAccess] {
        &self.ctx
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instruction_has_one_native_access() {
        let access = |at, off| NativeAccess { at: InsnIdx(at), off, size: Size::D };
        let mut table = Lowering::identity();
        assert!(table.insert(access(7, 24)));
        assert!(table.insert(access(3, 32)));
        assert!(table.insert(access(7, 24)));
        assert!(!table.insert(access(7, 32)), "two fields through one instruction");
        assert_eq!(table.at(InsnIdx(3)), Some(access(3, 32)));
        assert_eq!(table.at(InsnIdx(4)), None);
        assert_eq!(table.ctx().len(), 2);
    }
}
