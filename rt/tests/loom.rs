//! All interleavings of the lock-free parts, by loom: `RUSTFLAGS="--cfg loom" cargo test -p rtbpf-rt --test loom --release`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use rtbpf_rt::freelist::{FreeLists, Links};
use rtbpf_rt::lock::prim::{AtomicU32, Ordering};

struct Nodes(Vec<AtomicU32>);

impl Links for Nodes {
    fn link(&self, node: u32) -> &AtomicU32 {
        &self.0[node as usize]
    }
}

struct World {
    lists: FreeLists,
    nodes: Nodes,
    /// 1 while somebody has the node.
    taken: Vec<AtomicU32>,
}

fn world(slots: u32, nodes: u32) -> Arc<World> {
    let words = || (0..nodes).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
    let world = World { lists: FreeLists::new(slots), nodes: Nodes(words()), taken: words() };
    (0..nodes).for_each(|node| world.lists.push(&world.nodes, node % slots, node));
    Arc::new(world)
}

/// Takes a node and gives it back, and checks that nobody else had it.
fn turn(world: &World, slot: u32) {
    if let Some(node) = world.lists.pop(&world.nodes, slot) {
        assert_eq!(world.taken[node as usize].swap(1, Ordering::AcqRel), 0, "node {node} was given twice");
        world.taken[node as usize].store(0, Ordering::Release);
        world.lists.push(&world.nodes, slot, node);
    }
}

fn left(world: &World) -> usize {
    std::iter::from_fn(|| world.lists.pop(&world.nodes, 0)).count()
}

#[test]
fn two_threads_on_one_list_share_nothing() {
    loom::model(|| {
        let world = world(1, 2);
        let other = {
            let world = world.clone();
            thread::spawn(move || turn(&world, 0))
        };
        turn(&world, 0);
        other.join().expect("no panic");
        assert_eq!(left(&world), 2);
    });
}

#[test]
fn a_node_that_comes_back_in_between_does_not_fool_a_pop() {
    loom::model(|| {
        let world = world(1, 2);
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                // Takes both and gives them back in the other order: the top is the same node with another link.
                let (a, b) = (world.lists.pop(&world.nodes, 0), world.lists.pop(&world.nodes, 0));
                a.into_iter().chain(b).for_each(|node| world.lists.push(&world.nodes, 0, node));
            })
        };
        turn(&world, 0);
        other.join().expect("no panic");
        assert_eq!(left(&world), 2);
    });
}

#[test]
fn a_thief_and_an_owner_share_nothing() {
    loom::model(|| {
        let world = world(2, 1);
        let other = {
            let world = world.clone();
            thread::spawn(move || turn(&world, 1))
        };
        turn(&world, 0);
        other.join().expect("no panic");
        assert_eq!(left(&world), 1);
    });
}
