//! Objects in maps that can be replaced while programs use them: inner maps, tail-call targets, devices.

use std::marker::PhantomData;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use rtbpf_rt::{RunCx, gate};

use crate::access::{KeyRef, ProgBytes};
use crate::map::{Map, MapError, UpdateFlags};

/// A place that holds a `T` or nothing, read without a lock. What is taken out is dropped after every run that could
/// see it has ended.
pub(crate) struct Shared<T> {
    at: AtomicPtr<T>,
}

impl<T: Send + Sync + 'static> Shared<T> {
    #[cfg(test)]
    pub(crate) fn empty() -> Shared<T> {
        Shared { at: AtomicPtr::new(std::ptr::null_mut()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at.load(Ordering::Relaxed).is_null()
    }

    /// Shows what is there.
    #[inline]
    pub(crate) fn with<R>(&self, show: impl FnOnce(&T) -> R) -> Option<R> {
        let _section = gate::enter();
        // Acquire: pairs with the release in `swap`.
        let at = self.at.load(Ordering::Acquire);
        // SAFETY: non-null pointers come from `Box::into_raw` in `swap`, and are freed only after the sections that
        // could have loaded them; ours is one.
        unsafe { at.as_ref() }.map(show)
    }

    /// A copy of what is there.
    pub(crate) fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.with(T::clone)
    }

    /// Replaces what is there; answers whether there was something. Level Task only.
    pub(crate) fn swap(&self, new: Option<T>) -> bool {
        let new = new.map_or(std::ptr::null_mut(), |new| Box::into_raw(Box::new(new)));
        let old = self.at.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return false;
        }
        // SAFETY: from `Box::into_raw`, and unreachable since the swap.
        let old = unsafe { Box::from_raw(old) };
        gate::retire(move || drop(old));
        true
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let at = *self.at.get_mut();
        if !at.is_null() {
            // SAFETY: from `Box::into_raw`; nobody else can reach it any more.
            drop(unsafe { Box::from_raw(at) });
        }
    }
}

/// Objects by key: a hash table whose values are words that stand for objects.
pub(crate) struct Objects<T> {
    table: Box<dyn Map>,
    /// Serialises writers, so that each word that leaves the table is retired once. Level Task only; taken before the
    /// table's bucket locks.
    writers: Mutex<()>,
    objects: PhantomData<T>,
}

impl<T: Send + Sync + 'static> Objects<T> {
    /// Over an empty hash table with values of 8 bytes, which nothing else may write.
    pub(crate) fn new(table: Box<dyn Map>) -> Objects<T> {
        debug_assert_eq!(table.spec().value_size, 8);
        Objects { table, writers: Mutex::new(()), objects: PhantomData }
    }

    /// The word under `key`; only meaningful inside a section that was entered before.
    fn word(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<u64> {
        let at = self.table.lookup(&RunCx { in_program: false, ..*cx }, key)?;
        // SAFETY: the table's values are 8 readable bytes, aligned, for as long as it lives.
        Some(unsafe { ProgBytes::new(at.0.as_ptr(), 8) }.to_vec())
            .and_then(|w| w.try_into().ok())
            .map(u64::from_ne_bytes)
    }

    /// Shows the object under `key`.
    pub(crate) fn with<R>(&self, cx: &RunCx, key: KeyRef<'_>, show: impl FnOnce(&T) -> R) -> Option<R> {
        let _section = gate::enter();
        let word = self.word(cx, key).filter(|word| *word != 0)?;
        // SAFETY: words in the table come from `Box::into_raw` in `put`. This one was in the table after our section
        // began (a node cannot be reached by a walk that began after it left), so it is not freed before the section
        // ends.
        Some(show(unsafe { &*(word as *const T) }))
    }

    fn retire(word: u64) {
        if word != 0 {
            // SAFETY: from `Box::into_raw`; it left the table, and writers are serialised, so this happens once.
            let object = unsafe { Box::from_raw(word as *mut T) };
            gate::retire(move || drop(object));
        }
    }

    /// Stores `object` under `key`. Level Task only.
    pub(crate) fn put(&self, cx: &RunCx, key: KeyRef<'_>, object: T, flags: UpdateFlags) -> Result<(), MapError> {
        let writing = self.writers.lock();
        let old = self.word(cx, key);
        let word = Box::into_raw(Box::new(object)) as u64;
        let control = RunCx { in_program: false, ..*cx };
        let done = self.table.update(&control, key, word.to_ne_bytes()[..].into(), flags);
        drop(writing);
        match (done, old) {
            (Ok(()), Some(old)) => Self::retire(old),
            (Ok(()), None) => {}
            // Never was in the table.
            (Err(_), _) => Self::retire(word),
        }
        done
    }

    /// Removes `key`. Level Task only.
    pub(crate) fn remove(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        let writing = self.writers.lock();
        let old = self.word(cx, key);
        let done = self.table.delete(cx, key);
        drop(writing);
        if done.is_ok() {
            Self::retire(old.unwrap_or(0));
        }
        done
    }

    /// The key after `key` in walk order.
    pub(crate) fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        self.table.next_key(cx, key, out)
    }

    /// The table, for walks by bucket; its values are words.
    pub(crate) fn buckets(&self) -> Option<&dyn crate::batch::Buckets> {
        self.table.buckets()
    }
}

impl<T> Drop for Objects<T> {
    fn drop(&mut self) {
        let mut words = Vec::new();
        let _ = self.table.for_each(&RunCx::CONTROL, &mut |_, at| {
            // SAFETY: as in `word`.
            words.push(unsafe { ProgBytes::new(at.0.as_ptr(), 8) }.to_vec());
            true
        });
        for word in words.into_iter().filter_map(|w| w.try_into().ok()).map(u64::from_ne_bytes).filter(|w| *w != 0) {
            // SAFETY: from `Box::into_raw`; the table is dropped with us, and nobody can reach it.
            drop(unsafe { Box::from_raw(word as *mut T) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_place_swaps_fills_and_drops_what_it_held() {
        let (one, two) = (Arc::new(1), Arc::new(2));
        let place = Shared::empty();
        assert!(place.is_empty() && place.get().is_none());
        assert!(!place.swap(Some(one.clone())));
        assert_eq!(place.with(|v| **v), Some(1));
        assert!(place.swap(None));
        assert!(!place.swap(Some(two.clone())));
        drop(place);
        assert_eq!(Arc::strong_count(&two), 1);
    }
}
