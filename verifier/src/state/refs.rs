//! What a path holds and must give back: references, a lock, regions.

/// A reference that a call acquired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reference {
    /// Its id; values that own or derive from it carry the same.
    pub id: u32,
    /// Slot of the instruction that acquired it.
    pub acquired_at: u32,
}

/// A held spin lock: which object it protects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Map of the value, or allocation.
    pub object: u64,
    /// Id of the lookup that gave the value; 0 for a direct value.
    pub id: u32,
}

/// Everything a path holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// References.
    pub refs: Vec<Reference>,
    /// The spin lock.
    pub lock: Option<Lock>,
    /// Nesting of `bpf_rcu_read_lock`.
    pub rcu: u32,
    /// Nesting of `bpf_preempt_disable`.
    pub preempt: u32,
    /// Ids of interrupt states that were saved.
    pub irq: Vec<u32>,
}

impl Held {
    /// Takes note of a new reference.
    pub fn acquire(&mut self, id: u32, acquired_at: u32) {
        self.refs.push(Reference { id, acquired_at });
    }

    /// Gives `id` back; `false` when it is not held.
    pub fn release(&mut self, id: u32) -> bool {
        match self.refs.iter().position(|r| r.id == id) {
            Some(at) => {
                self.refs.remove(at);
                true
            }
            None => false,
        }
    }
}
