//! `bloom_filter`: values that were added are found; others are, rarely.

use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::Errno;
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ProgOut, ValuePtr};
use crate::head::Head;
use crate::jhash::jhash;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::slab::{Pages, ZeroedArray};

/// Hash functions where the creator did not choose.
const DEFAULT_HASHES: u64 = 5;

/// A Bloom filter. No lock: a bit is set by one atomic operation.
pub(crate) struct Bloom {
    head: Head,
    bits: ZeroedArray<AtomicU32>,
    mask: u32,
    hashes: u32,
    seed: u32,
}

impl Bloom {
    pub(crate) fn new(head: Head, seed: u32, pages: Pages) -> Result<Bloom, MapError> {
        let spec = head.spec();
        let hashes = if spec.map_extra == 0 { DEFAULT_HASHES } else { spec.map_extra & 0xf };
        // hashes / ln 2 bits per entry give the fewest false answers; 7/5 is near enough.
        let wanted = u128::from(spec.max_entries) * u128::from(hashes) * 7 / 5;
        let bits = if wanted > 1 << 31 { 1u64 << 32 } else { (wanted as u64).next_power_of_two().max(32) };
        Ok(Bloom {
            bits: ZeroedArray::new((bits / 32) as usize, pages)?,
            mask: (bits - 1) as u32,
            hashes: hashes as u32,
            seed,
            head,
        })
    }

    fn bit(&self, value: &[u8], nth: u32) -> (&AtomicU32, u32) {
        let bit = jhash(value, self.seed.wrapping_add(nth)) & self.mask;
        (self.bits.get(bit as usize / 32), 1 << (bit % 32))
    }
}

/// Values up to this size are copied to the stack: handlers may not allocate.
const ON_STACK: usize = 512;

/// Shows a copy of bytes that others may write meanwhile.
fn with_copy<R>(bytes: ProgBytes<'_>, show: impl FnOnce(&[u8]) -> R) -> R {
    let mut copy = [0; ON_STACK];
    match copy.get_mut(..bytes.len()) {
        Some(copy) => {
            ProgOut::from(&mut *copy).fill(bytes);
            show(copy)
        }
        None => show(&bytes.to_vec()),
    }
}

impl Map for Bloom {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn update(&self, cx: &RunCx, _: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        self.push(cx, value, flags)
    }

    fn delete(&self, _: &RunCx, _: KeyRef<'_>) -> Result<(), MapError> {
        Err(Errno::EOPNOTSUPP.into())
    }

    fn next_key(&self, _: &RunCx, _: Option<KeyRef<'_>>, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(Errno::EOPNOTSUPP.into())
    }

    fn read(&self, _: &RunCx, _: KeyRef<'_>, _: u64, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn push(&self, _: &RunCx, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        if flags != update::ANY {
            return Err(Errno::EINVAL.into());
        }
        with_copy(value, |value| {
            for nth in 0..self.hashes {
                let (word, bit) = self.bit(value, nth);
                word.fetch_or(bit, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    fn peek(&self, _: &RunCx, out: ProgOut<'_>) -> Result<(), MapError> {
        let is_set = |value: &[u8], nth| {
            let (word, bit) = self.bit(value, nth);
            word.load(Ordering::Relaxed) & bit != 0
        };
        let found = with_copy(out.as_bytes(), |value| (0..self.hashes).all(|nth| is_set(value, nth)));
        if found { Ok(()) } else { Err(Errno::ENOENT.into()) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtbpf_abi::{MapKind, MapSpec};

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let mut spec = MapSpec::new(MapKind::BloomFilter, 0, 8, 1000);
        spec.map_extra = 5;
        let map = Bloom::new(Head::new(spec, 1), 1, Pages::OnTouch).expect("a page");
        let cx = RunCx::program(0);
        let has = |i: u64| map.peek(&cx, ProgOut::from(&mut i.to_le_bytes()[..])).is_ok();
        (0..1000u64).for_each(|i| map.push(&cx, i.to_le_bytes()[..].into(), 0).expect("never full"));
        assert!((0..1000).all(has));
        let wrong = (1000..11_000).filter(|i| has(*i)).count();
        assert!(wrong < 1000, "{wrong} of 10000 false answers");
    }
}
