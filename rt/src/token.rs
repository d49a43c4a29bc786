//! Context tokens: what a caller may do, as types.
//!
//! Rust callers hold a token for the context they run in. Taking a raw lock borrows the token; inside, only an
//! [`Atomic`] token exists, which can neither sleep nor allocate. So a sleeping lock under a raw one, or a sleeping
//! lock in a handler, does not compile; a raw lock under a sleeping one does.
//!
//! ```
//! use rtbpf_rt::token::{self, Task};
//! use rtbpf_rt::{Class, Model, PiMutex, RawLock, slot::Slots};
//! let slots = Slots::new(1, Model::Rt);
//! let lease = slots.lease()?;
//! let mut task = Task::of(&lease);
//! let (sleeping, raw) = (PiMutex::default(), RawLock::default());
//! let mut outer = token::sleep_on(&sleeping, &mut task, Class::Control)?;
//! let inner = token::spin_on(&raw, outer.context(), Class::Freelist);
//! # drop(inner);
//! # Ok::<(), rtbpf_rt::LockError>(())
//! ```
//!
//! Raw, then sleeping:
//!
//! ```compile_fail,E0277
//! use rtbpf_rt::token::{self, Task};
//! use rtbpf_rt::{Class, Model, PiMutex, RawLock, slot::Slots};
//! let slots = Slots::new(1, Model::Rt);
//! let lease = slots.lease()?;
//! let mut task = Task::of(&lease);
//! let (sleeping, raw) = (PiMutex::default(), RawLock::default());
//! let mut outer = token::spin_on(&raw, &mut task, Class::Freelist)?;
//! let inner = token::sleep_on(&sleeping, outer.context(), Class::Control)?;
//! # Ok::<(), rtbpf_rt::LockError>(())
//! ```
//!
//! Sleeping in a handler:
//!
//! ```compile_fail,E0277
//! use rtbpf_rt::token::{self, Hard};
//! use rtbpf_rt::{Class, PiMutex, slot::Slot};
//! fn handler(slot: &Slot, sleeping: &PiMutex) {
//!     let mut hard = Hard::of(slot);
//!     let _ = token::sleep_on(sleeping, &mut hard, Class::Control);
//! }
//! ```
//!
//! A worker's event loop sleeps on a PREEMPT_RT machine only:
//!
//! ```compile_fail,E0277
//! use rtbpf_rt::token::{self, NonRt, Soft};
//! use rtbpf_rt::{Class, PiMutex, slot::Slot};
//! fn turn(slot: &Slot, sleeping: &PiMutex) {
//!     let mut soft = Soft::<NonRt>::of(slot);
//!     let _ = token::sleep_on(sleeping, &mut soft, Class::Control);
//! }
//! ```
//!
//! Tokens and guards stay on their thread:
//!
//! ```compile_fail,E0277
//! use rtbpf_rt::{Class, Lock, RawLock, RunCx};
//! static LOCK: std::sync::LazyLock<RawLock> = std::sync::LazyLock::new(RawLock::default);
//! let guard = LOCK.lock(&RunCx::CONTROL, Class::Queue).unwrap();
//! std::thread::spawn(move || drop(guard));
//! ```

use std::marker::PhantomData;

use crate::lease::Lease;
use crate::level::{Level, RunCx};
use crate::lock::{Class, Guard, Lock, LockError, PiMutex, RawLock};
use crate::slot::Slot;

mod sealed {
    pub trait Sealed {}
}

/// A context.
pub trait Ctx: sealed::Sealed {
    /// Its level.
    const LEVEL: Level;

    /// Its slot.
    fn slot(&self) -> &Slot;

    /// The same, for operations that are chosen at run time.
    fn cx(&self) -> RunCx {
        self.slot().cx(Self::LEVEL, false)
    }
}

/// Contexts that may block.
pub trait MaySleep: Ctx {}

/// Contexts that may allocate memory.
pub trait MayAlloc: Ctx {}

/// A machine with the rules of a PREEMPT_RT kernel.
#[derive(Clone, Copy, Debug)]
pub enum Rt {}

/// A machine without.
#[derive(Clone, Copy, Debug)]
pub enum NonRt {}

macro_rules! tokens {
    ($($(#[$doc:meta])* $name:ident $(<$model:ident>)?, $level:ident;)*) => {$(
        $(#[$doc])*
        pub struct $name<'s $(, $model)?> {
            slot: &'s Slot,
            thread_bound: PhantomData<(*const (), $($model)?)>,
        }

        impl<$($model)?> sealed::Sealed for $name<'_ $(, $model)?> {}

        impl<$($model)?> Ctx for $name<'_ $(, $model)?> {
            const LEVEL: Level = Level::$level;

            fn slot(&self) -> &Slot {
                self.slot
            }
        }
    )*};
}

tokens! {
    /// A thread that holds a slot.
    Task, Task;
    /// The handler of a maskable signal.
    Hard, Hard;
    /// The handler of a signal that nothing masks.
    Nmi, Nmi;
    /// Inside a raw lock: whatever the context around it, nothing sleeps.
    Atomic, Nmi;
}

/// A worker's event loop, on a machine of model `M`.
pub struct Soft<'s, M> {
    slot: &'s Slot,
    thread_bound: PhantomData<(*const (), M)>,
}

impl<M> sealed::Sealed for Soft<'_, M> {}

impl<M> Ctx for Soft<'_, M> {
    const LEVEL: Level = Level::Soft;

    fn slot(&self) -> &Slot {
        self.slot
    }
}

impl MaySleep for Task<'_> {}
impl MayAlloc for Task<'_> {}
impl MaySleep for Soft<'_, Rt> {}
impl MayAlloc for Soft<'_, Rt> {}

impl<'s> Task<'s> {
    /// The token of a thread that holds a slot.
    pub fn of(lease: &'s Lease<'_>) -> Task<'s> {
        Task { slot: lease.slot(), thread_bound: PhantomData }
    }
}

impl<'s> Hard<'s> {
    /// For the handler of a maskable signal on the slot's thread.
    pub fn of(slot: &'s Slot) -> Hard<'s> {
        Hard { slot, thread_bound: PhantomData }
    }
}

impl<'s> Nmi<'s> {
    /// For the handler of an unmaskable signal on the slot's thread.
    pub fn of(slot: &'s Slot) -> Nmi<'s> {
        Nmi { slot, thread_bound: PhantomData }
    }
}

impl<'s, M> Soft<'s, M> {
    /// For the event loop of the slot's worker.
    pub fn of(slot: &'s Slot) -> Soft<'s, M> {
        Soft { slot, thread_bound: PhantomData }
    }
}

/// Holds a raw lock and the context it was taken in.
pub struct Spinning<'g> {
    _guard: Guard<'g, RawLock>,
    atomic: Atomic<'g>,
}

impl<'g> Spinning<'g> {
    /// The context inside.
    pub fn context(&mut self) -> &mut Atomic<'g> {
        &mut self.atomic
    }
}

/// Holds a sleeping lock and the context it was taken in.
pub struct Sleeping<'g, C: Ctx> {
    _guard: Guard<'g, PiMutex>,
    context: &'g mut C,
}

impl<C: Ctx> Sleeping<'_, C> {
    /// The context inside: the same as outside.
    pub fn context(&mut self) -> &mut C {
        self.context
    }
}

/// Takes a raw lock.
pub fn spin_on<'g, C: Ctx>(lock: &'g RawLock, context: &'g mut C, class: Class) -> Result<Spinning<'g>, LockError> {
    let guard = lock.lock(&context.cx(), class)?;
    Ok(Spinning { _guard: guard, atomic: Atomic { slot: context.slot(), thread_bound: PhantomData } })
}

/// Takes a sleeping lock.
pub fn sleep_on<'g, C: MaySleep>(
    lock: &'g PiMutex,
    context: &'g mut C,
    class: Class,
) -> Result<Sleeping<'g, C>, LockError> {
    let guard = lock.lock(&context.cx(), class)?;
    Ok(Sleeping { _guard: guard, context })
}
