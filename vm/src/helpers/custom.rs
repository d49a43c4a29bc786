//! Helpers that an embedder adds: closures with state and typed arguments.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rtbpf_abi::helper::{MemSize, MemUse, Null};
use rtbpf_abi::{Arg, HelperId, HelperProto};
use rtbpf_isa::Size;
use rtbpf_maps::ProgOut;

use crate::ctx::Ctx;
use crate::helpers::native;
use crate::run::Host;

type Call = dyn Fn(&mut HelperCx<'_>, &[u64; 5]) -> u64 + Send + Sync;

/// An embedder's helper.
pub(crate) struct Custom {
    pub name: String,
    /// What programs are verified by.
    pub proto: HelperProto,
    /// The arguments that are memory, a bit each.
    memory: u8,
    call: Box<Call>,
}

impl Custom {
    /// Calls it; `None` when it panics.
    ///
    /// Pointers among the arguments are native addresses that an engine vouches for, as for every helper.
    #[inline]
    pub fn call(&self, host: &mut Host, args: &[u64; 5]) -> Option<u64> {
        let mut cx = HelperCx { host, args, memory: self.memory };
        catch_unwind(AssertUnwindSafe(|| (self.call)(&mut cx, args))).ok()
    }
}

/// What an embedder's helper can reach while it runs.
pub struct HelperCx<'a> {
    host: &'a mut Host,
    args: &'a [u64; 5],
    /// The arguments that are memory, a bit each.
    memory: u8,
}

impl HelperCx<'_> {
    /// The slot (virtual CPU) of the run.
    pub fn cpu(&self) -> u32 {
        self.host.cx.slot
    }

    /// The context of the run.
    pub fn ctx(&self) -> &Ctx {
        &self.host.ctx
    }

    /// Sets a field of the run's context by its UAPI name, as [`Ctx::set_field`] does.
    pub fn set_ctx_field(&mut self, name: &str, value: u64) {
        self.host.ctx.set_field(name, value);
    }

    /// Sets the `size` bytes at `off` of the run's context, as [`Ctx::set`] does.
    pub fn set_ctx(&mut self, off: usize, size: Size, value: u64) {
        self.host.ctx.set(off, size, value);
    }

    /// A random number from the run's seeded source.
    pub fn random(&mut self) -> u64 {
        self.host.random()
    }

    /// Copies `bytes` to the start of the program's memory, as much as fits. Returns how many bytes that was.
    pub fn write(&mut self, target: &OutBytes, bytes: &[u8]) -> usize {
        match self.memory(target.arg) {
            Some(memory) => {
                memory.fill(bytes.into());
                memory.len().min(bytes.len())
            }
            None => 0,
        }
    }

    /// The memory in argument `at` (0 to 4), if it is some.
    fn memory(&self, at: usize) -> Option<ProgOut<'_>> {
        let is_memory = at < self.args.len() && self.memory & 1 << at != 0;
        is_memory.then(|| native::sized(self.args, at)).flatten()
    }
}

/// A copy of bytes that a program passed as a pointer and a length (two arguments).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bytes(pub Vec<u8>);

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Memory that a program passed as a pointer and a length (two arguments), to be filled by [`HelperCx::write`]. It begins
/// as zeroes, and what it held before is gone.
#[derive(PartialEq, Eq, Debug)]
pub struct OutBytes {
    arg: usize,
    len: usize,
}

impl OutBytes {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A type that an embedder's helper may take.
pub trait HelperArg: Sized {
    /// The arguments it stands for; the second one's `of` is filled in by position.
    const ARGS: &'static [Arg];

    /// Its value, from the registers that begin at argument `at` (0 to 4).
    fn take(cx: &HelperCx<'_>, args: &[u64; 5], at: usize) -> Self;
}

macro_rules! number_arg {
    ($($type:ty),*) => { $(
        impl HelperArg for $type {
            const ARGS: &'static [Arg] = &[Arg::Scalar];

            fn take(_: &HelperCx<'_>, args: &[u64; 5], at: usize) -> $type {
                // A register holds the number in its low bits, as the C calling convention has it.
                args[at] as $type
            }
        }
    )* };
}

number_arg!(u64, i64, u32, i32, u16, i16, u8, i8);

impl HelperArg for bool {
    const ARGS: &'static [Arg] = &[Arg::Scalar];

    fn take(_: &HelperCx<'_>, args: &[u64; 5], at: usize) -> bool {
        args[at] != 0
    }
}

const fn memory(access: MemUse) -> Arg {
    Arg::Mem { access, size: MemSize::Arg(0), null: Null::IfSizeZero, aligned: false, map_value_only: false }
}

impl HelperArg for Bytes {
    const ARGS: &'static [Arg] = &[memory(MemUse::Read), Arg::Size { of: 0, zero: true }];

    fn take(cx: &HelperCx<'_>, _: &[u64; 5], at: usize) -> Bytes {
        Bytes(cx.memory(at).map_or_else(Vec::new, |memory| memory.as_bytes().to_vec()))
    }
}

impl HelperArg for OutBytes {
    const ARGS: &'static [Arg] = &[memory(MemUse::Write), Arg::Size { of: 0, zero: true }];

    fn take(cx: &HelperCx<'_>, _: &[u64; 5], at: usize) -> OutBytes {
        // The program may have left it uninitialised, and takes it for written afterwards.
        OutBytes {
            arg: at,
            len: cx.memory(at).map_or(0, |memory| {
                memory.zero();
                memory.len()
            }),
        }
    }
}

/// A type that an embedder's helper may return.
pub trait HelperRet {
    /// What R0 holds.
    fn into_r0(self) -> u64;
}

macro_rules! number_ret {
    ($($type:ty as $wide:ty),*) => { $(
        impl HelperRet for $type {
            fn into_r0(self) -> u64 {
                self as $wide as u64
            }
        }
    )* };
}

number_ret!(u64 as u64, i64 as i64, u32 as u64, i32 as i64, bool as u64);

impl HelperRet for () {
    fn into_r0(self) -> u64 {
        0
    }
}

impl HelperRet for Result<u64, rtbpf_abi::Errno> {
    fn into_r0(self) -> u64 {
        super::value(self)
    }
}

/// A function that can be a helper.
pub trait IntoHelper<Args> {
    /// The helper.
    #[doc(hidden)]
    #[allow(private_interfaces)]
    fn into_helper(self, id: HelperId, name: &str) -> Custom;
}

macro_rules! into_helper {
    ($($arg:ident),*) => {
        impl<F, R, $($arg),*> IntoHelper<($($arg,)*)> for F
        where
            F: Fn(&mut HelperCx<'_>, $($arg),*) -> R + Send + Sync + 'static,
            R: HelperRet,
            $($arg: HelperArg,)*
        {
            #[allow(private_interfaces, non_snake_case, unused_mut, unused_variables, unused_assignments)]
            fn into_helper(self, id: HelperId, name: &str) -> Custom {
                const { assert!(0 $(+ $arg::ARGS.len())* <= 5, "a helper has at most five arguments") };
                let parts: &[&[Arg]] = &[$($arg::ARGS),*];
                let call = Box::new(move |cx: &mut HelperCx<'_>, args: &[u64; 5]| {
                    let mut at = 0;
                    $(
                        let $arg = $arg::take(cx, args, at);
                        at += $arg::ARGS.len();
                    )*
                    self(cx, $($arg),*).into_r0()
                });
                let args = positioned(parts);
                let is_memory = |(at, arg): (usize, &Arg)| u8::from(matches!(arg, Arg::Mem { .. })) << at;
                let memory = args.iter().enumerate().map(is_memory).sum();
                Custom { name: name.into(), proto: HelperProto::custom(id, args), memory, call }
            }
        }
    };
}

into_helper!();
into_helper!(A);
into_helper!(A, B);
into_helper!(A, B, C);
into_helper!(A, B, C, D);
into_helper!(A, B, C, D, E);

/// The argument kinds in a row, with memory and size pointing at each other.
fn positioned(parts: &[&[Arg]]) -> [Arg; 5] {
    let mut args = [Arg::None; 5];
    for (at, (slot, arg)) in args.iter_mut().zip(parts.iter().copied().flatten()).enumerate() {
        *slot = match *arg {
            Arg::Mem { access, null, aligned, map_value_only, .. } => {
                Arg::Mem { access, size: MemSize::Arg(at as u8 + 2), null, aligned, map_value_only }
            }
            Arg::Size { zero, .. } => Arg::Size { of: at as u8, zero },
            other => other,
        };
    }
    args
}
