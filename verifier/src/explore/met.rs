//! Which checkpoints are compared with at each instruction.

use rtbpf_isa::InsnIdx;

use super::Id;

/// Lists of checkpoints: few instructions have one.
pub(super) struct Met {
    /// Place in `lists` by instruction, plus one; 0 where nothing was kept.
    places: Vec<u32>,
    lists: Vec<Vec<Id>>,
}

impl Met {
    /// Nothing kept anywhere in a program of so many instructions.
    pub(super) fn new(insns: usize) -> Met {
        Met { places: vec![0; insns], lists: Vec::new() }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.lists.iter_mut().for_each(Vec::clear);
    }

    /// Whether there is nothing to compare with.
    pub(super) fn is_empty(&self, at: InsnIdx) -> bool {
        self.list(at).is_none_or(|list| self.lists[list].is_empty())
    }

    /// Takes the list away, to be put back.
    pub(super) fn take(&mut self, at: InsnIdx) -> Vec<Id> {
        self.list(at).map(|list| std::mem::take(&mut self.lists[list])).unwrap_or_default()
    }

    /// Puts a list back.
    pub(super) fn put(&mut self, at: InsnIdx, list: Vec<Id>) {
        match self.list(at) {
            Some(place) => self.lists[place] = list,
            None if list.is_empty() => {}
            None => {
                self.lists.push(list);
                self.places[at.index()] = self.lists.len() as u32;
            }
        }
    }

    fn list(&self, at: InsnIdx) -> Option<usize> {
        self.places.get(at.index())?.checked_sub(1).map(|place| place as usize)
    }
}
