//! Our engines with a recorded program, each as a function that runs it once.

use rtbpf::{Config, Ctx, Session};
use rtbpf_jit::Options;

use crate::{Recorded, Run, assumed, memory, native};

/// Native code, compiled as `options` say.
///
/// # Panics
///
/// As [`native`] does.
pub fn ours(program: &Recorded, options: &Options) -> Box<dyn FnMut() -> u64> {
    let mut run = Run::new(native(&assumed(&program.bytes), options), &memory());
    Box::new(move || run.run())
}

/// An engine without limits, and a session and a context for it.
fn machine() -> (rtbpf::Engine, Session, Ctx) {
    let engine = rtbpf::Engine::new(Config { max_insns: None, ..Config::linux() });
    let bytes: Vec<u8> = memory().iter().flat_map(|word| word.to_le_bytes()).collect();
    let session = engine.session(0);
    (engine, session, Ctx::plain(&bytes))
}

/// The interpreter without checks.
///
/// # Panics
///
/// When the program is none of the recorded ones.
pub fn threaded(program: &Recorded) -> Box<dyn FnMut() -> u64> {
    let (engine, mut session, ctx) = machine();
    let bound = engine.bind_threaded(assumed(&program.bytes), vec![]).expect("compute programs call nobody");
    let Ok(mut prepared) = bound.prepare(&mut session, ctx) else { panic!("the context is plain") };
    Box::new(move || prepared.run(&session).expect("it stays within its memory"))
}

/// The checked interpreter.
///
/// # Panics
///
/// As [`threaded`] does.
pub fn checked(program: &Recorded) -> Box<dyn FnMut() -> u64> {
    let (engine, mut session, mut ctx) = machine();
    let bound = engine.bind(assumed(&program.bytes), vec![]).expect("compute programs call nobody");
    Box::new(move || bound.run(&mut session, &mut ctx).expect("it stays within its memory"))
}
