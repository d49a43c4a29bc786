//! Running verified programs without checks [unsafe room]: what native code and the threaded interpreter share.
//!
//! An [`Unchecked`] program works on native addresses, with the helper functions that the checked interpreter calls too.
//! What is a step of that interpreter (`loop`, `for_each` ...) is a function here, which calls the program back.

use std::ptr::{self, NonNull};
use std::sync::Arc;

use rtbpf_abi::Errno;
use rtbpf_abi::frame::{FaultCode, RunFrame};
use rtbpf_abi::limits::MAX_LOOPS;
use rtbpf_isa::InsnIdx;
use rtbpf_maps::{Layout, MapRef};
#[cfg(feature = "jit")]
use rtbpf_rt::{Interrupted, RunCx};
use rtbpf_verifier::VerifiedProgram;

use crate::ctx::Ctx;
use crate::engine::Engine;
use crate::error::{Error, Fault, FaultKind};
use crate::executable::{Bound, Executable, Session};
use crate::helpers::dynptr::Dynptr;
use crate::helpers::ringbuf;
use crate::mem::Buffer;
use crate::run::Host;

/// Code that runs without checks.
pub trait Code: Clone {
    /// Translates a verified program and binds it to live maps.
    fn bind(engine: &Engine, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Unchecked<Self>, Error>;

    /// Runs it: R0, or a fault in the frame.
    ///
    /// # Safety
    ///
    /// The frame is that of a run which the proof of the program admits, with its `Host` in place; what the code was
    /// bound to is alive.
    unsafe fn call(&self, frame: &mut RunFrame) -> u64;
}

/// A verified program in a form that runs without checks, bound to maps and helpers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unchecked<C> {
    pub(crate) exe: Executable,
    pub(crate) code: C,
}

impl Engine {
    /// What every engine without checks asks of a program; whether it must count instructions.
    pub(crate) fn metered_unchecked(&self, verified: &VerifiedProgram) -> Result<bool, Error> {
        let config = self.config();
        if config.timeout.is_some() {
            return Err(Error::NoNativeCode(
                "only the checked interpreter has a clock; set max_insns instead of timeout".into(),
            ));
        }
        if verified.object_bytes_used() > crate::ctx::OBJECT_BYTES as u32 {
            return Err(Error::NoNativeCode(
                "it reaches further into a kernel's structure or a tracepoint's buffer than the machine has bytes there".into(),
            ));
        }
        let bounded = |max| verified.proved().worst_case_insns.is_some_and(|worst| worst <= max);
        Ok(!config.max_insns.is_none_or(bounded))
    }
}

impl<C: Code> Unchecked<C> {
    /// Runs it on `ctx`, and returns R0 at its end.
    #[inline]
    pub fn run(&self, session: &mut Session, ctx: &mut Ctx) -> Result<u64, Error> {
        self.exe.bound().admits(ctx)?;
        // SAFETY: `self` holds the program until this returns, and `keep_host` takes the entry out.
        let mut host = session.idle_host(unsafe { Entry::lent(self.exe.bound()) });
        std::mem::swap(&mut host.ctx, ctx);
        let mut frame = first_frame(&host);
        let r0 = enter(&self.code, session, &mut frame, &mut host);
        let result =
            if frame.fault == FaultCode::None { Ok(r0) } else { Err(fault(&self.exe, &mut frame, &mut host, r0)) };
        std::mem::swap(&mut host.ctx, ctx);
        session.keep_host(host, frame.fuel);
        result
    }

    /// A run that is ready to begin, to be repeated on the same context without setting up again.
    #[allow(clippy::result_large_err)] // The context must come back.
    pub fn prepare(&self, session: &mut Session, ctx: Ctx) -> Result<Prepared<C>, (Error, Ctx)> {
        if let Err(error) = self.exe.bound().admits(&ctx) {
            return Err((error, ctx));
        }
        let host = Box::new(session.host(self.exe.bound(), ctx));
        Ok(Prepared { program: self.clone(), frame: first_frame(&host), host })
    }

    /// The same program for the checked interpreter.
    pub fn executable(&self) -> &Executable {
        &self.exe
    }

    /// Its code.
    pub fn code(&self) -> &C {
        &self.code
    }
}

/// The program that a run begins with, while one is under way.
pub(crate) struct Entry {
    program: Option<NonNull<Bound>>,
    /// `None` where who waits for the run holds the program: counting holders would be a third of what a short run costs.
    _held: Option<Arc<Bound>>,
}

// SAFETY: it stands for a shared reference, and `Bound` may be shared among threads.
unsafe impl Send for Entry {}

impl Entry {
    /// No run is under way.
    pub const NONE: Entry = Entry { program: None, _held: None };

    /// One that the run holds.
    pub fn held(program: Arc<Bound>) -> Entry {
        Entry { program: Some(NonNull::from(&*program)), _held: Some(program) }
    }

    /// # Safety
    ///
    /// The program must live for as long as this is asked for it.
    #[inline]
    unsafe fn lent(program: &Arc<Bound>) -> Entry {
        Entry { program: Some(NonNull::from(&**program)), _held: None }
    }

    /// The program.
    #[inline]
    pub fn get(&self) -> Option<&Bound> {
        // SAFETY: `_held` holds it, or `lent` was promised that it lives.
        self.program.map(|program| unsafe { program.as_ref() })
    }
}

/// The frame of a run that begins at the top of its stack.
#[inline]
fn first_frame(host: &Host) -> RunFrame {
    let top = host.stack.addr() + host.stack.len() as u64;
    RunFrame { stack_top: ptr::with_exposed_provenance_mut(top as usize), ..host.frame() }
}

/// Runs code once; `frame.fault` says whether R0 counts.
#[inline]
fn enter<C: Code>(code: &C, session: &Session, frame: &mut RunFrame, host: &mut Host) -> u64 {
    frame.fuel = session.fuel();
    if frame.tail_calls != 0 {
        forget_tail_calls(frame, host);
    }
    frame.host = ptr::from_mut(host).cast();
    // Maps and programs that are replaced meanwhile live until the run ends.
    let _section = rtbpf_rt::gate::enter();
    // SAFETY: the code is that of a verified program for this type of context; `host` owns the context, the
    // stack that `stack_top` ends, the cancel word, and through the program the maps, all of which outlive the call.
    unsafe { code.call(frame) }
}

#[cold]
#[inline(never)]
fn forget_tail_calls(frame: &mut RunFrame, host: &mut Host) {
    frame.tail_calls = 0;
    host.called.clear();
}

/// Takes the fault out of the frame.
#[cold]
fn fault(exe: &Executable, frame: &mut RunFrame, host: &mut Host, r0: u64) -> Error {
    let kind = match std::mem::take(&mut frame.fault) {
        FaultCode::OutOfFuel => FaultKind::OutOfFuel,
        FaultCode::Cancelled => FaultKind::Cancelled,
        FaultCode::Deadline => FaultKind::Deadline,
        FaultCode::Thrown => FaultKind::Thrown(r0),
        FaultCode::Memory => FaultKind::NativeMemory { address: r0 },
        FaultCode::Trap => FaultKind::NativeTrap,
        FaultCode::None | FaultCode::Helper => FaultKind::HelperPanicked("(without checks)".into()),
    };
    host.release();
    let at = InsnIdx(std::mem::replace(&mut frame.fault_at, RunFrame::NOWHERE));
    let program = host.current().map_or(exe.program(), |bound| &bound.program);
    Fault::new(kind, at, program).into()
}

/// A run with its context and frame.
pub struct Prepared<C: Code> {
    program: Unchecked<C>,
    frame: RunFrame,
    host: Box<Host>,
}

impl<C: Code> Prepared<C> {
    /// Runs the program once more, on the context as the last run left it.
    #[inline(always)]
    pub fn run(&mut self, session: &Session) -> Result<u64, Error> {
        let r0 = self.enter(session);
        if self.frame.fault == FaultCode::None {
            Ok(r0)
        } else {
            Err(fault(&self.program.exe, &mut self.frame, &mut self.host, r0))
        }
    }

    /// Runs a perf_event program in a handler, on the registers and the stack that were interrupted; whether it ended
    /// without a fault, and the room for frames back. Allocates nothing.
    #[cfg(feature = "jit")]
    pub(crate) fn sample(
        &mut self,
        session: &Session,
        cx: RunCx,
        at: &Interrupted<'_>,
        frames: Vec<u64>,
    ) -> (bool, Vec<u64>) {
        for (register, value) in at.registers().into_iter().enumerate() {
            self.host.ctx.put(register * 8, rtbpf_isa::Size::D, value);
        }
        self.host.ctx.set_field("sample_period", at.period_ns());
        self.host.cx = cx;
        self.host.frames = Some(frames);
        self.enter(session);
        let finished = std::mem::take(&mut self.frame.fault) == FaultCode::None;
        (finished, self.host.frames.take().unwrap_or_default())
    }

    #[inline]
    fn enter(&mut self, session: &Session) -> u64 {
        enter(&self.program.code, session, &mut self.frame, &mut self.host)
    }

    /// The context.
    pub fn ctx(&self) -> &Ctx {
        &self.host.ctx
    }

    /// Gives the context back.
    pub fn finish(self, session: &mut Session) -> Ctx {
        let regions = session.take_regions();
        session.take_back(regions, self.frame.fuel, *self.host)
    }
}

pub(crate) fn array_base(map: &MapRef) -> Option<u64> {
    match map.layout() {
        Layout::Array { base, .. } | Layout::PercpuArray { base, .. } => Some(base),
        Layout::Opaque => None,
    }
}

/// The run's state, for a function that unchecked code called.
pub(crate) fn host(frame: &mut RunFrame) -> &mut Host {
    // SAFETY: `Prepared::run` set `host` to the state of this run, which lives as long as the run, and the code
    // waits for the function that asks; `&mut frame` makes this the only reference made from it meanwhile.
    unsafe { &mut *frame.host.cast::<Host>() }
}

/// The program that runs now, for a function that it called.
fn current<'a>(frame: &mut RunFrame) -> Option<&'a Bound> {
    let bound = host(frame).current().map(ptr::from_ref);
    // SAFETY: the run holds its programs until its code returns, which waits for the function that asks.
    bound.map(|bound| unsafe { &*bound })
}

/// `bpf_loop`; `body` calls the callback.
pub(crate) fn repeat(
    rounds: u64,
    arg: u64,
    flags: u64,
    frame: &mut RunFrame,
    mut body: impl FnMut([u64; 4], &mut RunFrame) -> u64,
) -> u64 {
    // The number of rounds is a u32: the upper half of the register is ignored.
    let rounds = rounds as u32 as u64;
    if flags != 0 {
        return Errno::EINVAL.as_ret();
    }
    if rounds > MAX_LOOPS {
        return Errno::E2BIG.as_ret();
    }
    for round in 0..rounds {
        let stops = body([round, arg, 0, 0], frame) != 0;
        if stops || frame.fault != FaultCode::None {
            return round + 1;
        }
    }
    rounds
}

/// `bpf_user_ringbuf_drain`.
pub(crate) fn drain(
    map: u64,
    arg: u64,
    flags: u64,
    frame: &mut RunFrame,
    mut body: impl FnMut([u64; 4], &mut RunFrame) -> u64,
) -> u64 {
    let Some(map) = rtbpf_maps::map_at(map) else { return Errno::EINVAL.as_ret() };
    let cx = host(frame).cx;
    for done in 0..ringbuf::MOST_RECORDS {
        let record = match ringbuf::next_record(&*map, &cx, flags) {
            Ok(Some(record)) => Buffer::from_bytes(&record),
            Ok(None) => return done,
            Err(errno) => return errno.as_ret(),
        };
        let handle = Buffer::from_bytes(&host(frame).dynptrs.add(Dynptr::shown(&record)));
        let stops = body([handle.addr(), arg, 0, 0], frame) != 0;
        host(frame).dynptrs.take(&handle.to_vec(0, handle.len()));
        if stops || frame.fault != FaultCode::None {
            return done + 1;
        }
    }
    ringbuf::MOST_RECORDS
}

/// `bpf_for_each_map_elem`.
pub(crate) fn for_each(
    map: u64,
    arg: u64,
    flags: u64,
    frame: &mut RunFrame,
    mut body: impl FnMut([u64; 4], &mut RunFrame) -> u64,
) -> u64 {
    let Some(found) = rtbpf_maps::map_at(map).filter(|_| flags == 0) else { return Errno::EINVAL.as_ret() };
    let cx = host(frame).cx;
    let mut keys = Vec::new();
    let shown = found.for_each(&cx, &mut |key, _| {
        keys.push(key.to_vec());
        true
    });
    if let Err(error) = shown {
        return error.errno().as_ret();
    }
    let mut done = 0;
    for key in keys {
        let Some(value) = found.lookup(&cx, &key) else { continue };
        done += 1;
        let stops = body([map, key.as_ptr() as u64, value.addr(), arg], frame) != 0;
        if stops || frame.fault != FaultCode::None {
            break;
        }
    }
    done
}

/// Every embedder's helper; its number stands in the frame.
pub(crate) extern "C" fn custom(r1: u64, r2: u64, r3: u64, r4: u64, r5: u64, frame: &mut RunFrame) -> u64 {
    let args = [r1, r2, r3, r4, r5];
    let helper = current(frame).and_then(|bound| bound.custom(frame.helper as i32));
    let result = helper.and_then(|helper| helper.call(host(frame), &args));
    result.unwrap_or_else(|| {
        frame.fault = FaultCode::Helper;
        0
    })
}
