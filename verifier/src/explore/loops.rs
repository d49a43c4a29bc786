//! Paths that end in a state whose own paths still run: loops. What such a state needs is complete once its loop is.

use super::{Id, Walk};
use crate::needed::{FRAMES, Need, Trail, undo_trail};

/// What waits for a loop's head to be finished.
#[derive(Default)]
pub(super) struct Loop {
    /// Checkpoints whose needs are not complete before.
    members: Vec<Id>,
    /// Paths that ended in one of them.
    edges: Vec<Edge>,
}

/// A path that ended in a state whose needs were not complete.
struct Edge {
    target: Id,
    parent: Option<Id>,
    trail: Trail,
    written: [u64; FRAMES],
    depth: u32,
}

impl Walk<'_> {
    /// The current path ended: what nothing runs below any more is finished.
    pub(super) fn end_path(&mut self) {
        let mut at = self.parent;
        while let Some(id) = at {
            let Some(checkpoint) = self.checkpoints.get_mut(id) else { return };
            checkpoint.branches -= 1;
            if checkpoint.branches > 0 {
                return;
            }
            at = checkpoint.parent;
            let waits_for = checkpoint.loop_head;
            if let Some(ended) = self.loops.remove(&id) {
                match waits_for {
                    // An inner loop is complete when the outer one is.
                    Some(outer) => self.join_loop(ended, outer),
                    None => self.complete(id, ended),
                }
            } else if waits_for.is_none() {
                self.settle(id);
            }
        }
    }

    fn join_loop(&mut self, inner: Loop, outer: Id) {
        for &id in &inner.members {
            if let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.loop_head = Some(outer);
            }
        }
        let outer = self.loops.entry(outer).or_default();
        outer.members.extend(inner.members);
        outer.edges.extend(inner.edges);
    }

    /// Every path through a loop is walked: what its states need is carried over its edges until nothing changes.
    fn complete(&mut self, head: Id, ended: Loop) {
        const ROUNDS: usize = 64;
        for round in 0..=ROUNDS {
            let mut changed = false;
            for edge in &ended.edges {
                let Some(target) = self.checkpoints.get(edge.target) else { continue };
                let (mut need, read) = (target.need, target.read);
                if round == ROUNDS {
                    need = Need::everything();
                }
                for (frame, slots) in read.iter().enumerate() {
                    changed |= self.note_read(edge.parent, frame, slots & !edge.written[frame]);
                }
                let mut depth = edge.depth;
                undo_trail(self.program, &edge.trail, &mut need, &mut depth);
                changed |= self.note_need(edge.parent, need);
            }
            if !changed {
                break;
            }
        }
        for &id in ended.members.iter().chain([&head]) {
            if let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.loop_head = None;
                if checkpoint.branches == 0 {
                    self.settle(id);
                }
            }
        }
    }

    /// A checkpoint is finished and complete: nobody follows its trail any more.
    pub(super) fn settle(&mut self, id: Id) {
        let Some(checkpoint) = self.checkpoints.get_mut(id) else { return };
        checkpoint.trail = Trail::default();
        if checkpoint.evicted {
            checkpoint.evicted = false;
            if self.keeper.is_some() {
                self.idle += 1;
                return;
            }
            checkpoint.state.take();
            self.free.push(id);
        }
    }

    /// The current path ends in `id`: what `id` needs and reads, this path needs and reads.
    pub(super) fn cover(&mut self, id: Id) {
        let Some(checkpoint) = self.checkpoints.get_mut(id) else { return };
        checkpoint.hits += 1;
        let running = checkpoint.branches > 0;
        let head = if running { Some(id) } else { checkpoint.loop_head };
        let Some(head) = head else {
            let (need, read) = (checkpoint.need, checkpoint.read);
            for (frame, slots) in read.iter().enumerate() {
                self.mark_read(frame as u32, *slots);
            }
            self.propagate(need, false);
            return;
        };
        // What `id` turns out to need, the checkpoints between the head and here hear of when the loop is complete.
        let edge = Edge {
            target: id,
            parent: self.parent,
            trail: self.trail.clone(),
            written: self.written,
            depth: self.state.current(),
        };
        let runs = |id: Id| self.checkpoints.get(id).is_some_and(|head| head.branches > 0);
        debug_assert!(runs(head), "a loop whose paths are all walked is complete");
        let head_depth = self.checkpoints.get(head).map_or(0, |c| c.depth);
        let mut members = Vec::new();
        let mut at = self.parent;
        while let Some(id) = at.filter(|&id| id != head) {
            let Some(checkpoint) = self.checkpoints.get(id) else { break };
            if checkpoint.depth <= head_depth {
                break;
            }
            at = checkpoint.parent;
            let outer = checkpoint.loop_head.and_then(|other| self.checkpoints.get(other)).map(|c| c.depth);
            if outer.is_none_or(|outer| outer > head_depth) {
                members.push(id);
            }
        }
        for &id in &members {
            if let Some(checkpoint) = self.checkpoints.get_mut(id) {
                checkpoint.loop_head = Some(head);
            }
        }
        let waiting = self.loops.entry(head).or_default();
        waiting.members.extend(members);
        waiting.edges.push(edge);
    }
}
