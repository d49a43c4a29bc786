//! Native code of a bound program [unsafe room].
//!
//! A [`Native`] program is a verified one: it runs without checks, on native addresses, with the helper functions that
//! the checked interpreter calls too. What is a step of the interpreter (`tail_call`, `loop` …) is a function here, which
//! calls native code back.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ptr;
use std::sync::Arc;

use rtbpf_abi::Errno;
use rtbpf_abi::frame::{FaultCode, HelperFn, RunFrame};
use rtbpf_abi::limits::MAX_TAIL_CALLS;
use rtbpf_isa::{MapIdx, Size};
use rtbpf_jit::{ArrayLookup, HelperTraits, Linker, Options, Symbol};
use rtbpf_maps::{Layout, MapRef};
use rtbpf_verifier::VerifiedProgram;

use crate::engine::Engine;
use crate::error::Error;
use crate::executable::Bound;
use crate::helpers::{Action, Flow, timer};
use crate::unchecked::{self, Code, Unchecked, array_base, custom, host};

/// A verified program as native code, bound to maps and helpers. Cheap to clone.
pub type Native = Unchecked<rtbpf_jit::Native>;

impl Code for rtbpf_jit::Native {
    fn bind(engine: &Engine, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Native, Error> {
        engine.bind_native(verified, maps)
    }

    // SAFETY: what `Code::call` asks for is what the call of native code asks for.
    #[inline]
    unsafe fn call(&self, frame: &mut RunFrame) -> u64 {
        // SAFETY: the caller's promises are those of the call.
        unsafe { rtbpf_jit::Native::call(self, frame) }
    }
}

/// How much time compiling may take. Both tiers give the same results.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tier {
    /// One pass: for programs that are loaded often and run little.
    Fast,
    /// With every technique that makes programs faster.
    #[default]
    Optimised,
}

impl Engine {
    /// Binds a verified program to live maps and compiles it in the optimising tier.
    ///
    /// Fails with [`Error::NoNativeCode`] where the machine, an instruction or a helper has no native code; then
    /// [`Engine::bind`] runs the same program.
    pub fn bind_native(&self, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Native, Error> {
        self.bind_native_in(Tier::Optimised, verified, maps)
    }

    /// [`Engine::bind_native`] in a tier of one's choice.
    pub fn bind_native_in(&self, tier: Tier, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Native, Error> {
        let none = |what: &dyn std::fmt::Display| Error::NoNativeCode(what.to_string());
        let mut options = Options::host().ok_or_else(|| none(&"this processor is neither x86_64 nor aarch64"))?;
        if tier == Tier::Fast {
            options.optimise = None;
        }
        let metered = self.metered_unchecked(&verified)?;
        (options.fuel, options.cancel) = (metered, metered);
        let config = self.config();
        // The standard library's seed of hash tables is unguessable, as masks must be.
        options.harden = config.harden.then(|| RandomState::new().build_hasher().finish());
        let exe = self.bind(verified.clone(), maps)?;
        let linker = BoundLinker(exe.bound());
        let code = rtbpf_jit::compile(&verified, &linker, &options).map_err(|error| none(&error))?;
        let mut published = rtbpf_jit::publish(&[&code], &linker).map_err(|error| none(&error))?;
        let code = published.pop().ok_or_else(|| none(&"nothing was published"))?;
        let name = if verified.code().name.is_empty() { "unnamed" } else { &verified.code().name };
        config.tools.show(&code, name, verified.code()).map_err(|error| Error::Tools(error.to_string()))?;
        // A program is bound once, so the cell is empty.
        let _ = exe.bound().native.set(code.clone());
        Ok(Unchecked { exe, code })
    }
}

/// `bpf_get_smp_processor_id`.
const GET_SMP_PROCESSOR_ID: i32 = 8;

/// What code generation asks of a bound program.
struct BoundLinker<'a>(&'a Arc<Bound>);

impl Linker for BoundLinker<'_> {
    fn resolve(&self, symbol: Symbol) -> Option<u64> {
        let function: HelperFn = match symbol {
            Symbol::Helper(id) => match &self.0.helper(id).ok()?.action {
                Action::Native(function) => function.entry,
                Action::Custom(_) => custom,
                Action::Flow(Flow::Loop) => repeat,
                Action::Flow(Flow::ForEach) => for_each,
                Action::Flow(Flow::Drain) => drain,
                Action::Flow(Flow::TimerSetCallback) => timer_set_callback,
                Action::Flow(Flow::TailCall) => return None,
            },
            Symbol::PacketLoad => packet_load,
            Symbol::TailCall => tail_call,
            Symbol::Map(map) => return Some(ptr::from_ref(self.0.map(map).ok()?.head()) as u64),
            Symbol::MapValue { map, off } => return Some(array_base(self.0.map(map).ok()?)?.wrapping_add(off as u64)),
            Symbol::Kfunc { .. } | Symbol::Var { .. } => return None,
        };
        Some(function as usize as u64)
    }

    fn helper(&self, id: i32) -> HelperTraits {
        match self.0.helper(id).map(|helper| &helper.action) {
            Ok(Action::Native(function)) => HelperTraits {
                can_fault: !function.sure,
                answers_cpu: id == GET_SMP_PROCESSOR_ID,
                ..HelperTraits::PLAIN
            },
            Ok(Action::Custom(_)) => HelperTraits { can_fault: true, wants_number: true, ..HelperTraits::PLAIN },
            Ok(Action::Flow(_)) | Err(_) => HelperTraits::ANY,
        }
    }

    fn array(&self, map: MapIdx) -> Option<ArrayLookup> {
        let map = self.0.map(map).ok()?;
        let (len, stride, slot_bytes) = match map.layout() {
            Layout::Array { stride, entries, .. } => (entries, stride, 0),
            // A map that was made for fewer slots than run programs has no values for some of them.
            Layout::PercpuArray { stride, slot_bytes, entries, .. }
                if self.0.engine.config.slots <= map.head().slots() =>
            {
                (entries, stride, slot_bytes)
            }
            Layout::PercpuArray { .. } | Layout::Opaque => return None,
        };
        let slot_bytes = i32::try_from(slot_bytes).ok()? as u32;
        Some(ArrayLookup { len, stride: u32::try_from(stride).ok()?, slot_bytes })
    }
}

/// A subprogram that a program passed as a callback.
fn callback(address: u64) -> HelperFn {
    // SAFETY: the verifier proved that the argument is a subprogram, and native code passes the address of its
    // callback entry, which is a `HelperFn`.
    unsafe { std::mem::transmute::<usize, HelperFn>(address as usize) }
}

extern "C" fn tail_call(_: u64, map: u64, index: u64, _: u64, _: u64, frame: &mut RunFrame) -> u64 {
    if frame.tail_calls >= MAX_TAIL_CALLS {
        return 0;
    }
    let Some(map) = rtbpf_maps::map_at(map) else { return 0 };
    let stack_top = frame.stack_top as u64;
    let host = host(frame);
    let Some(target) = host.program_at(&map, index as u32) else { return 0 };
    let low = host.stack.addr() + 7 * rtbpf_abi::limits::STACK_BYTES as u64;
    let Some(entry) = target.native.get().map(rtbpf_jit::Native::entry_address) else {
        // Programs of one array run on one engine; a checked one cannot continue a native run.
        frame.fault = FaultCode::Helper;
        return 0;
    };
    if stack_top < low {
        return 0;
    }
    host.called.push(target);
    frame.tail_calls += 1;
    entry as u64
}

extern "C" fn repeat(rounds: u64, body: u64, arg: u64, flags: u64, _: u64, frame: &mut RunFrame) -> u64 {
    let call = |[r1, r2, r3, r4]: [u64; 4], frame: &mut RunFrame| callback(body)(r1, r2, r3, r4, 0, frame);
    unchecked::repeat(rounds, arg, flags, frame, call)
}

extern "C" fn drain(map: u64, body: u64, arg: u64, flags: u64, _: u64, frame: &mut RunFrame) -> u64 {
    let call = |[r1, r2, r3, r4]: [u64; 4], frame: &mut RunFrame| callback(body)(r1, r2, r3, r4, 0, frame);
    unchecked::drain(map, arg, flags, frame, call)
}

extern "C" fn timer_set_callback(timer: u64, body: u64, _: u64, _: u64, _: u64, frame: &mut RunFrame) -> u64 {
    let host = host(frame);
    let native = host.current().and_then(|program| program.native.get());
    match native.and_then(|native| native.callback_at(body as usize)) {
        Some(at) => timer::set_callback(host, timer, at),
        None => Errno::EINVAL.as_ret(),
    }
}

extern "C" fn for_each(map: u64, body: u64, arg: u64, flags: u64, _: u64, frame: &mut RunFrame) -> u64 {
    let call = |[r1, r2, r3, r4]: [u64; 4], frame: &mut RunFrame| callback(body)(r1, r2, r3, r4, 0, frame);
    unchecked::for_each(map, arg, flags, frame, call)
}

/// A packet load of socket filters.
extern "C" fn packet_load(_: u64, at: u64, bytes: u64, _: u64, _: u64, frame: &mut RunFrame) -> u64 {
    let loaded = Size::from_bytes(bytes as u32).map(|size| host(frame).ctx.load_packet(at as u32 as i32 as i64, size));
    match loaded {
        Some(Ok(Some(value))) => value,
        Some(Ok(None) | Err(_)) | None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::Ctx;
    use crate::error::FaultKind;
    use crate::testing::{describe, program};
    use crate::{Bytes, Config, HelperCx, OutBytes};
    use rtbpf_abi::ProgType;
    use rtbpf_isa::InsnIdx;
    use rtbpf_verifier::Assumptions;

    fn bytes() -> Ctx {
        Ctx::plain(&[1, 2, 3, 4, 5, 6, 7, 8])
    }

    /// Runs a safe program by native code and by both interpreters, which must agree on everything.
    #[track_caller]
    fn both(engine: &Engine, text: &str) -> Result<u64, (FaultKind, InsnIdx)> {
        let program = program(text);
        let given = Assumptions::new(ProgType::Plain);
        let checked = engine.bind_unverified(program.clone(), given.clone(), vec![]).expect("binds");
        // SAFETY: the programs below stay within their context and stack; the checked run above all proves it.
        let verified = unsafe { VerifiedProgram::assume(program, given) };
        let native = engine.bind_native(verified.clone(), vec![]).expect("has native code");
        let threaded = engine.bind_threaded(verified, vec![]).expect("the threaded interpreter takes it");
        let outcome = |result: Result<u64, Error>| match result {
            Ok(r0) => Ok(r0),
            Err(Error::Fault(fault)) => Err((fault.kind, fault.at)),
            Err(other) => panic!("{other}"),
        };
        let (mut session, mut ctx) = (engine.session(0), bytes());
        let want = (outcome(checked.run(&mut session, &mut ctx)), ctx.to_vec(), session.insns_left());
        let (mut session, mut ctx) = (engine.session(0), bytes());
        let got = (outcome(native.run(&mut session, &mut ctx)), ctx.to_vec(), session.insns_left());
        assert_eq!(got, want, "{text}");
        let (mut session, mut ctx) = (engine.session(0), bytes());
        let got = (outcome(threaded.run(&mut session, &mut ctx)), ctx.to_vec(), session.insns_left());
        assert_eq!(got, want, "threaded: {text}");
        got.0
    }

    fn engine() -> Engine {
        Engine::new(Config { max_insns: Some(10_000), ..Config::linux() })
    }

    #[track_caller]
    fn check(text: &str, result: u64) {
        assert_eq!(both(&engine(), text), Ok(result));
    }

    #[test]
    fn context_length_and_stack_are_where_programs_expect_them() {
        check("r0 = *(u32 *)(r1 + 4)\nr0 += r2\nexit", 0x0807_0605 + 8);
        check("*(u64 *)(r10 - 8) = r2\nr0 = *(u64 *)(r10 - 8)\n*(u8 *)(r1 + 3) = r0\nexit", 8);
        check("r0 = *(u64 *)(r10 - 512)\nexit", 0);
        check("r6 = r1\nr0 = *(u16 *)skb[2]\nexit", 0x0304);
        check("r6 = r1\nr0 = *(u32 *)skb[6]\nexit", 0);
    }

    #[test]
    fn loops_call_back_and_faults_in_them_are_placed() {
        check("r1 = 5\nr2 = f ll\nr3 = 0\nr4 = 0\ncall 181\nexit\nf:\nr0 = 0\nexit", 5);
        check("r1 = 5\nr2 = f ll\nr3 = 0\nr4 = 0\ncall 181\nexit\nf:\nr0 = r1\nr0 >>= 1\nexit", 3);
        check("r1 = 5\nr2 = f ll\nr3 = 0\nr4 = 1\ncall 181\nexit\nf:\nr0 = 0\nexit", Errno::EINVAL.as_ret());
        let endless = "r1 = 9000\nr2 = f ll\nr3 = 0\nr4 = 0\ncall 181\nexit\nf:\nr0 = 0\nexit";
        assert_eq!(both(&engine(), endless), Err((FaultKind::OutOfFuel, InsnIdx(6))));
    }

    #[test]
    fn embedders_helpers_get_their_memory_and_may_panic() {
        let mut engine = engine();
        let sum = |_: &mut HelperCx<'_>, bytes: Bytes, scale: u64| bytes.iter().map(|b| *b as u64).sum::<u64>() * scale;
        let sum = engine.helper("sum", sum).expect("a new name").0;
        let fill = |cx: &mut HelperCx<'_>, out: OutBytes| cx.write(&out, &[9, 9]) as u64;
        let fill = engine.helper("fill", fill).expect("a new name").0;
        assert_eq!(both(&engine, &format!("r3 = 2\ncall {sum}\nexit")), Ok(72));
        assert_eq!(both(&engine, &format!("r6 = r1\ncall {fill}\nr0 = *(u16 *)(r6 + 0)\nexit")), Ok(0x0909));
        let panics = engine.helper("panics", |_: &mut HelperCx<'_>| -> u64 { panic!("on purpose") });
        let panics = panics.expect("a new name").0;
        let fault = both_faults(&engine, &format!("call {panics}\nexit"));
        assert_eq!(fault, InsnIdx(0));
    }

    #[test]
    fn proved_programs_call_embedders_helpers_and_only_as_they_were_proved() {
        let mut engine = Engine::new(Config { plain_ctx_bytes: 8, ..Config::linux() });
        let sum =
            engine.helper("sum", |_: &mut HelperCx<'_>, bytes: Bytes| bytes.iter().map(|b| *b as u64).sum::<u64>());
        let fill = engine.helper("fill", |cx: &mut HelperCx<'_>, out: OutBytes| cx.write(&out, &[9, 9]) as u64);
        let (sum, fill) = (sum.expect("a new name").0, fill.expect("a new name").0);
        let given = Assumptions { plain_ctx_bytes: 8, ..Assumptions::new(ProgType::Plain) };
        let verify = |text: &str| engine.verify(program(text), given.clone());
        let run = |text: &str| {
            let verified = verify(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let checked = engine.bind(verified.clone(), vec![]).expect("it binds");
            let threaded = engine.bind_threaded(verified.clone(), vec![]).expect("it binds");
            let native = engine.bind_native(verified, vec![]).expect("it has native code");
            let want = checked.run(&mut engine.session(0), &mut bytes()).expect("it is proved");
            assert_eq!(threaded.run(&mut engine.session(0), &mut bytes()).expect("it is proved"), want);
            assert_eq!(native.run(&mut engine.session(0), &mut bytes()).expect("it is proved"), want);
            want
        };
        assert_eq!(run(&format!("r2 = 8\ncall {sum}\nexit")), 36);
        // What the helper leaves unwritten is no secret of the stack's.
        let filled = format!("r1 = r10\nr1 += -8\nr2 = 8\ncall {fill}\nr0 = *(u64 *)(r10 - 8)\nexit");
        assert_eq!(run(&filled), 0x0909);
        for (refused, why) in [
            (format!("r2 = 9\ncall {sum}\nexit"), "outside of the allowed memory range"),
            (format!("r1 = 1\nr2 = 8\ncall {sum}\nexit"), "R1 type=scalar"),
            (format!("r2 = 8\ncall {sum}\nr2 = 8\ncall {sum}\nexit"), "R1 !read_ok"),
            (format!("call {}\nexit", fill + 1), "invalid func"),
        ] {
            let error = verify(&refused).expect_err(&refused).to_string();
            assert!(error.contains(why), "{refused}: {error}");
        }
        let proved = verify(&format!("r2 = 8\ncall {sum}\nexit")).expect("it is proved");
        let mut other = Engine::new(Config::linux());
        other.helper("sum", |_: &mut HelperCx<'_>, number: u64| number).expect("a new name");
        assert!(other.bind_native(proved.clone(), vec![]).is_err(), "its helper with this number takes something else");
        assert!(other.bind_threaded(proved.clone(), vec![]).is_err());
        let run = other.bind(proved, vec![]).expect("calls are looked at when they come");
        assert!(run.run(&mut other.session(0), &mut bytes()).is_err());
    }

    /// Where both engines fault; the native one does not know the helper's name.
    fn both_faults(engine: &Engine, text: &str) -> InsnIdx {
        let program = program(text);
        // SAFETY: the program only calls a helper without arguments.
        let verified = unsafe { VerifiedProgram::assume(program, Assumptions::new(ProgType::Plain)) };
        let native = engine.bind_native(verified, vec![]).expect("has native code");
        match native.run(&mut engine.session(0), &mut bytes()) {
            Err(Error::Fault(fault)) if matches!(fault.kind, FaultKind::HelperPanicked(_)) => fault.at,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_prepared_run_repeats_and_a_cancelled_session_stops_it() {
        let engine = engine();
        let program = program("r0 = *(u8 *)(r1 + 0)\nr0 += 1\n*(u8 *)(r1 + 0) = r0\nexit");
        // SAFETY: the program touches the first byte of a context that has eight.
        let verified = unsafe { VerifiedProgram::assume(program, Assumptions::new(ProgType::Plain)) };
        let native = engine.bind_native(verified, vec![]).expect("has native code");
        let mut session = engine.session(0);
        let Ok(mut prepared) = native.prepare(&mut session, bytes()) else { panic!("the context fits") };
        for want in 2..5 {
            assert_eq!(prepared.run(&session).expect("runs"), want);
        }
        session.cancel_handle().cancel();
        assert!(prepared.run(&session).is_err_and(|error| error.to_string().contains("cancelled")));
        session.cancel_handle().reset();
        assert_eq!(prepared.run(&session).expect("runs again"), 5);
        assert_eq!(prepared.finish(&mut session).to_vec()[0], 5);
    }

    #[test]
    fn a_cancelled_run_has_not_paid_for_what_it_did_not_begin() {
        let engine = engine();
        let given = Assumptions::new(ProgType::Plain);
        // SAFETY: the program touches no memory.
        let verified = unsafe { VerifiedProgram::assume(program("r0 = 0\nr0 += 1\nexit"), given) };
        let checked = engine.bind(verified.clone(), vec![]).expect("binds");
        let threaded = engine.bind_threaded(verified.clone(), vec![]).expect("the threaded interpreter takes it");
        let native = engine.bind_native(verified.clone(), vec![]).expect("has native code");
        let fast = engine.bind_native_in(Tier::Fast, verified, vec![]).expect("has native code");
        let mut session = engine.session(0);
        session.cancel_handle().cancel();
        let mut left = |result: &dyn Fn(&mut crate::Session) -> Result<u64, Error>| {
            let error = result(&mut session).expect_err("it was cancelled");
            assert!(
                matches!(error, Error::Fault(fault) if fault.kind == FaultKind::Cancelled && fault.at == InsnIdx(0))
            );
            session.insns_left()
        };
        let lefts = [
            left(&|session| checked.run(session, &mut bytes())),
            left(&|session| threaded.run(session, &mut bytes())),
            left(&|session| native.run(session, &mut bytes())),
            left(&|session| fast.run(session, &mut bytes())),
        ];
        assert_eq!(lefts, [10_000; 4]);
    }

    #[test]
    fn lookups_in_per_cpu_arrays_find_the_slots_own_value() {
        let engine = Engine::new(Config { slots: 3, ..Config::linux() });
        for (value_size, index) in [(8, "r7"), (24, "r7"), (24, "2")] {
            let spec = rtbpf_abi::MapSpec::new(rtbpf_abi::MapKind::PercpuArray, 4, value_size, 3);
            let text = format!(
                "r7 = *(u32 *)(r1 + 0)\n r8 = {index}\n *(u32 *)(r10 - 4) = r8\n r1 = map[idx:0] ll\n r2 = r10\n \
                 r2 += -4\n call 1\n if r0 == 0 goto none\n r6 = r0\n call 8\n r0 += 1\n r1 = *(u64 *)(r6 + 0)\n \
                 r1 += r0\n *(u64 *)(r6 + 0) = r1\n r0 = r1\n exit\nnone:\n r0 = -1\n exit"
            );
            let given = || Assumptions {
                maps: vec![Arc::new(spec.clone())],
                plain_ctx_bytes: 4,
                cpus: 3,
                ..Assumptions::new(ProgType::Plain)
            };
            let map = rtbpf_maps::create(&spec, &rtbpf_maps::CreateCx::new(3)).unwrap();
            let verified = engine.verify(program(&text), given()).unwrap();
            let native = engine.bind_native(verified.clone(), vec![map.clone()]).unwrap();
            let checked = engine.bind(verified, vec![map]).unwrap();
            for slot in 0..3 {
                let mut session = engine.session(slot);
                let at = |index: u32| Ctx::plain(&index.to_le_bytes());
                let cpu = u64::from(slot) + 1;
                assert_eq!(native.run(&mut session, &mut at(2)).unwrap(), cpu, "{text}");
                assert_eq!(checked.run(&mut session, &mut at(2)).unwrap(), 2 * cpu, "{text}");
                if index == "r7" {
                    assert_eq!(native.run(&mut session, &mut at(3)).unwrap(), u64::MAX, "{text}");
                }
            }
        }
    }

    #[test]
    fn records_of_the_host_are_shown_until_the_callback_has_enough() {
        let engine = Engine::new(Config::linux());
        let spec = rtbpf_abi::MapSpec::new(rtbpf_abi::MapKind::UserRingbuf, 0, 0, 4096);
        // Adds up what records hold; one that holds 9 is the last.
        let text = "*(u64 *)(r10 - 8) = 0\n r1 = map[idx:0] ll\n r2 = subprog[take] ll\n r3 = r10\n r3 += -8\n r4 = 0\n call 209\n \
                    r1 = *(u64 *)(r10 - 8)\n r1 <<= 8\n r0 += r1\n exit\n\
                    take:\n r6 = r2\n r3 = r1\n r1 = r10\n r1 += -8\n r2 = 8\n r4 = 0\n r5 = 0\n call 201\n r7 = 1\n if r0 != 0 goto end\n \
                    r1 = *(u64 *)(r10 - 8)\n r2 = *(u64 *)(r6 + 0)\n r2 += r1\n *(u64 *)(r6 + 0) = r2\n if r1 == 9 goto end\n r7 = 0\n\
                    end:\n r0 = r7\n exit";
        let mut program = program(text);
        let given = Assumptions {
            maps: vec![Arc::new(spec.clone())],
            btf: Some(describe(&mut program)),
            ..Assumptions::new(ProgType::Xdp)
        };
        let map = rtbpf_maps::create(&spec, &rtbpf_maps::CreateCx::new(2)).unwrap();
        let ring: &rtbpf_maps::UserRingbuf = map.as_any().downcast_ref().unwrap();
        let verified = engine.verify(program, given).unwrap();
        let native = engine.bind_native(verified.clone(), vec![map.clone()]).unwrap();
        let checked = engine.bind(verified, vec![map.clone()]).unwrap();
        for in_native in [true, false] {
            let run = || {
                let mut ctx = Ctx::test_run(ProgType::Xdp, None, &[0; 64], &[]).unwrap();
                let mut session = engine.session(0);
                if in_native { native.run(&mut session, &mut ctx) } else { checked.run(&mut session, &mut ctx) }
            };
            for record in [1u64, 2, 9, 4] {
                ring.write(&record.to_le_bytes()).unwrap();
            }
            // Three records until the one that says enough, then the one behind it, then none.
            assert_eq!((run().unwrap(), run().unwrap(), run().unwrap()), (12 << 8 | 3, 4 << 8 | 1, 0));
        }
    }
}
