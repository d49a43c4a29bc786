//! The engine: configuration, the world, and the helpers an embedder added.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rtbpf_abi::{HelperId, HelperProto, Policy};
use rtbpf_isa::Program;
use rtbpf_maps::MapRef;
use rtbpf_rt::Slots;
use rtbpf_rt::level::Model;
use rtbpf_verifier::{Assumptions, Profile, VerifiedProgram};

use crate::error::Error;
use crate::executable::{Bound, Executable};
use crate::helpers::custom::{Custom, IntoHelper};
use crate::timers::Timers;
use crate::world::World;

/// How programs are verified and run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose rules of budget and errno hold.
    pub profile: Profile,
    /// Which program type may use which map.
    pub policy: Policy,
    /// Whether the rules of a PREEMPT_RT kernel hold.
    pub model: Model,
    /// Slots: CPUs of the machine.
    pub slots: u32,
    /// Instructions one run may take; `None` for no limit.
    pub max_insns: Option<u64>,
    /// Wall-clock time one run may take; `None` for no limit.
    pub timeout: Option<std::time::Duration>,
    /// Bytes of memory behind R1 that every run of a plain program brings: what it may touch. A run that brings fewer is
    /// refused.
    pub plain_ctx_bytes: u32,
    /// Native code is for programs that may be hostile: their constants do not appear in it, and what is called by address
    /// begins with a landing pad. Such code is slower.
    pub harden: bool,
    /// Which profilers and debuggers are told of native code; none by default.
    #[cfg(feature = "jit")]
    pub tools: rtbpf_jit::Tools,
    /// What comes from outside.
    pub world: World,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profile: Profile::Strict,
            policy: Policy::STRICT_RT,
            model: Model::Rt,
            slots: 1,
            max_insns: Some(1 << 32),
            timeout: None,
            plain_ctx_bytes: 0,
            harden: false,
            #[cfg(feature = "jit")]
            tools: rtbpf_jit::Tools::default(),
            world: World::default(),
        }
    }
}

impl Config {
    /// What Linux 6.18 does, on a kernel that is not PREEMPT_RT.
    pub fn linux() -> Config {
        Config {
            profile: Profile::Compat,
            policy: Policy::V6_18,
            model: Model::NonRt,
            slots: 2,
            max_insns: Some(1 << 32),
            timeout: None,
            plain_ctx_bytes: 0,
            harden: false,
            #[cfg(feature = "jit")]
            tools: rtbpf_jit::Tools::default(),
            world: World::default(),
        }
    }
}

/// A machine: makes executables from programs. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new(Config::default())
    }
}

pub(crate) struct Inner {
    pub config: Config,
    pub slots: Arc<Slots>,
    pub timers: Arc<Timers>,
    pub custom: Vec<Arc<Custom>>,
}

impl Engine {
    /// An engine with this configuration and no helpers but Linux's.
    pub fn new(config: Config) -> Engine {
        let slots = Arc::new(Slots::new(config.slots, config.model));
        Engine { inner: Arc::new(Inner { config, slots, timers: Arc::default(), custom: Vec::new() }) }
    }

    /// Its slots. A thread that samples itself leases one.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.inner.slots
    }

    /// Adds a helper that programs call by name or by the number returned, which begin at [`HelperId::FIRST_CUSTOM`].
    /// Programs verified by this engine may call it, whatever their type; the proof covers its arguments.
    ///
    /// C calls it by its number, too: `static long (*add_up)(__u64 by) = (void *)0x10000000;`.
    ///
    /// `function` takes up to five arguments after the [`HelperCx`](crate::HelperCx): numbers, booleans, or
    /// [`Bytes`](crate::Bytes), which takes a pointer and a length. It may keep state. A panic in it ends the run with
    /// a fault, not the process.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let mut engine = rtbpf::Engine::default();
    /// let sum = AtomicU64::new(0);
    /// engine.helper("add_up", move |_cx: &mut rtbpf::HelperCx, by: u64| sum.fetch_add(by, Ordering::Relaxed) + by)?;
    /// # Ok::<(), rtbpf::Error>(())
    /// ```
    ///
    /// Executables made before do not see it.
    pub fn helper<Args>(&mut self, name: &str, function: impl IntoHelper<Args>) -> Result<HelperId, Error> {
        if self.inner.custom.iter().any(|custom| custom.name == name) {
            return Err(Error::HelperExists(name.into()));
        }
        let id = HelperId(HelperId::FIRST_CUSTOM.0 + self.inner.custom.len() as u32);
        let mut custom = self.inner.custom.clone();
        custom.push(Arc::new(function.into_helper(id, name)));
        let Inner { config, slots, timers, .. } = &*self.inner;
        let (config, slots, timers) = (config.clone(), slots.clone(), timers.clone());
        self.inner = Arc::new(Inner { config, slots, timers, custom });
        Ok(id)
    }

    /// The number of the embedder's helper with this name.
    pub fn helper_id(&self, name: &str) -> Option<HelperId> {
        self.inner.custom.iter().find(|custom| custom.name == name).map(|custom| custom.proto.id)
    }

    /// The rows of its own helpers, as [`Assumptions::helpers`] wants them.
    pub fn custom_helpers(&self) -> Vec<(String, HelperProto)> {
        self.inner.custom.iter().map(|custom| (custom.name.clone(), custom.proto)).collect()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Binds a program that nobody verified. The checked interpreter runs it, safely.
    pub fn bind_unverified(
        &self,
        program: Program,
        given: Assumptions,
        maps: Vec<MapRef>,
    ) -> Result<Executable, Error> {
        Bound::new(&self.inner, program, given, None, maps).map(Executable::from)
    }

    /// Binds a verified program to live maps, after checking that they are what the proof assumed.
    pub fn bind(&self, verified: VerifiedProgram, maps: Vec<MapRef>) -> Result<Executable, Error> {
        crate::bind::check_maps(verified.given(), &maps)?;
        let facts = verified.proved().clone();
        Bound::new(&self.inner, verified.code().clone(), verified.given().clone(), Some(facts), maps)
            .map(Executable::from)
    }

    /// When the next timer of a program is due, by the world's monotonic clock, in nanoseconds; `None` when none runs.
    /// [`Session::run_timers`](crate::Session::run_timers) runs it then.
    pub fn next_timer(&self) -> Option<u64> {
        self.inner.timers.next()
    }

    /// A session on slot `slot`: what one thread needs to run programs.
    pub fn session(&self, slot: u32) -> crate::Session {
        crate::Session::new(&self.inner, slot)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// Stops the runs of a session from another thread.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(pub(crate) Arc<AtomicU32>);

impl CancelHandle {
    /// Ends the current run, and every later one until [`reset`](CancelHandle::reset), with a fault.
    pub fn cancel(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// Allows runs again.
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether runs are being stopped.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}
