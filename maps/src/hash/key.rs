//! Keys by width: what is known of a key when code is generated need not be asked of it in a lookup.

use crate::access::Cell;
use crate::jhash;

/// A key, as hash tables see it.
pub(crate) trait Key: Copy {
    /// Its hash.
    fn hash(self, seed: u32) -> u32;

    /// Whether `cell` begins with it at this moment.
    fn is_in(self, cell: Cell<'_>) -> bool;

    /// Writes it to the start of `cell`.
    fn put(self, cell: Cell<'_>);
}

impl Key for u32 {
    #[inline(always)]
    fn hash(self, seed: u32) -> u32 {
        jhash::of_u32(self, seed)
    }

    #[inline(always)]
    fn is_in(self, cell: Cell<'_>) -> bool {
        cell.load_u32(0) == self
    }

    #[inline(always)]
    fn put(self, cell: Cell<'_>) {
        cell.store_u32(0, self);
    }
}

impl Key for u64 {
    #[inline(always)]
    fn hash(self, seed: u32) -> u32 {
        jhash::of_u64(self, seed)
    }

    #[inline(always)]
    fn is_in(self, cell: Cell<'_>) -> bool {
        cell.load_u64(0) == self
    }

    #[inline(always)]
    fn put(self, cell: Cell<'_>) {
        cell.store_u64(0, self);
    }
}

impl Key for &[u8] {
    #[inline(always)]
    fn hash(self, seed: u32) -> u32 {
        jhash::of_bytes(self, seed)
    }

    #[inline(always)]
    fn is_in(self, cell: Cell<'_>) -> bool {
        cell.starts_with(self)
    }

    #[inline(always)]
    fn put(self, cell: Cell<'_>) {
        cell.fill(self.into());
    }
}

/// Evaluates an expression with a key of bytes as a [`Key`]: a word where it is one.
macro_rules! by_width {
    ($bytes:expr, $key:ident => $result:expr) => {{
        let bytes: &[u8] = $bytes;
        if let Ok(word) = bytes.try_into().map(u32::from_ne_bytes) {
            let $key = word;
            $result
        } else if let Ok(word) = bytes.try_into().map(u64::from_ne_bytes) {
            let $key = word;
            $result
        } else {
            let $key = bytes;
            $result
        }
    }};
}

pub(crate) use by_width;
