//! Lock classes: what each protects, what it may be taken under, whether its holder may sleep.
//!
//! The checker compares every nested acquisition with this table, in builds with debug assertions. It applies the rules
//! of a PREEMPT_RT kernel in every model: what would be an invalid wait there is reported in all of them.

use std::sync::atomic::{AtomicU32, Ordering};

/// How a waiter waits. Taking a lock that sleeps under one that does not is an invalid wait.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wait {
    /// Spins; its holder is not preempted by handlers it could meet.
    Raw,
    /// Raw where elements are preallocated, sleeping where not.
    Config,
    /// Always sleeps.
    Sleep,
}

macro_rules! classes {
    ($($class:ident, $name:literal, $wait:ident, [$($under:ident)*], $protects:literal;)*) => {
        /// The classes of locks.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Class { $($class,)* }

        impl Class {
            /// All of them.
            pub const ALL: &[Class] = &[$(Class::$class,)*];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Class::$class => $name,)* }
            }

            /// How its waiters wait.
            pub const fn wait(self) -> Wait {
                match self { $(Class::$class => Wait::$wait,)* }
            }

            /// The classes it may be taken under.
            pub const fn under(self) -> &'static [Class] {
                match self { $(Class::$class => &[$(Class::$under,)*],)* }
            }

            /// What it protects.
            pub const fn protects(self) -> &'static str {
                match self { $(Class::$class => $protects,)* }
            }
        }
    };
}

#[rustfmt::skip]
classes! {
//  class       name            wait    taken under         protects
    Bucket,     "hash bucket",  Config, [Lru LruLocal Lease],     "some chains of a hash table, and a node to replace others with";
    Freelist,   "free list",    Raw,    [Bucket Lru Trie Lease],  "one slot's list of free elements";
    Lru,        "lru list",     Raw,    [LruLocal Lease],         "the active and inactive lists of an LRU map";
    LruLocal,   "lru local",    Raw,    [Lease],                  "one slot's free, pending and replaced elements";
    Trie,       "lpm trie",     Config, [Lease],                  "all nodes of a trie";
    Queue,      "queue",        Raw,    [Lease],                  "head and tail of a queue or stack";
    Value,      "value lock",   Raw,    [Bucket Lease],           "one value, by the program's or F_LOCK's choice";
    Control,    "control",      Sleep,  [Lease],            "object tables, storages and other rare writes";
    Lease,      "slot lease",   Sleep,  [],                 "a slot: its per-CPU data and its level";
}

/// A nesting that the table does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// What was held.
    pub held: Class,
    /// What was taken under it.
    pub taken: Class,
}

/// The first violations of the process; later ones are only counted. No allocation: handlers report here too.
static SEEN: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];
static COUNT: AtomicU32 = AtomicU32::new(0);

pub(super) fn nested(held: u8, taken: Class) {
    let Some(held) = Class::ALL.get(usize::from(held)).copied() else { return };
    let sleeps_under_raw = taken.wait() == Wait::Sleep && held.wait() < Wait::Sleep;
    if sleeps_under_raw || !taken.under().contains(&held) {
        report(held, taken);
    }
}

#[cold]
fn report(held: Class, taken: Class) {
    let at = COUNT.fetch_add(1, Ordering::Relaxed) as usize;
    if let Some(slot) = SEEN.get(at) {
        slot.store(1 << 16 | (held as u32) << 8 | taken as u32, Ordering::Release);
    }
}

/// Violations seen so far: their number and the first few.
pub fn violations() -> (u32, Vec<Violation>) {
    let decode = |slot: &AtomicU32| {
        let word = slot.load(Ordering::Acquire);
        let class = |byte: u32| Class::ALL.get((byte & 0xff) as usize).copied();
        (word != 0).then_some(())?;
        Some(Violation { held: class(word >> 8)?, taken: class(word)? })
    };
    (COUNT.load(Ordering::Acquire), SEEN.iter().filter_map(decode).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_waits_longer_than_what_it_is_taken_under() {
        for class in Class::ALL {
            for under in class.under() {
                // Config under raw would sleep under a spinning lock once elements are allocated at run time; the LRU
                // map, the one case in the table, preallocates always.
                let lru = matches!((under, class), (Class::Lru | Class::LruLocal, Class::Bucket));
                assert!(class.wait() <= under.wait() || lru);
            }
        }
    }

    #[test]
    fn the_order_has_no_cycle() {
        let mut left: Vec<Class> = Class::ALL.to_vec();
        while !left.is_empty() {
            let before = left.len();
            let stuck = left.clone();
            left.retain(|class| class.under().iter().any(|under| stuck.contains(under)));
            assert!(left.len() < before, "cycle among {left:?}");
        }
    }
}
