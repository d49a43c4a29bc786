//! Swaps a set of programs and maps for another while threads keep running the one in service.
//! `cargo run -p rtbpf-examples --bin hot_swap`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rtbpf::abi::ProgType;
use rtbpf::isa::{asm, decode};
use rtbpf::verifier::Assumptions;
use rtbpf::{Config, Ctx, Engine, Executable, Live};

fn version(engine: &Engine, number: u32) -> Result<Arc<Executable>, Box<dyn std::error::Error>> {
    let slots = asm::assemble(&format!("r0 = {number}\nexit"))?.slots;
    let verified = engine.verify(decode(&slots)?, Assumptions { cpus: 2, ..Assumptions::new(ProgType::Plain) })?;
    Ok(Arc::new(engine.bind(verified, vec![])?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(Config::linux());
    let live = Live::new(version(&engine, 1)?);
    let (stop, runs) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| {
        for slot in 0..2 {
            let (engine, live, stop, runs) = (&engine, &live, &stop, &runs);
            threads.spawn(move || {
                let mut session = engine.session(slot);
                let mut newest = 0;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(version) = live.get().run(&mut session, &mut Ctx::plain(&[])) else { break };
                    assert!(version >= newest, "a swap is seen once and for all");
                    newest = version;
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let swapped = (2..=20).try_for_each(|number| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            version(&engine, number).map(|next| drop(live.swap(next)))
        });
        stop.store(true, Ordering::Relaxed);
        swapped
    })?;
    println!("19 swaps under {} runs", runs.load(Ordering::Relaxed));
    Ok(())
}
