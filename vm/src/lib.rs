//! An embeddable eBPF machine.
//!
//! ```
//! use rtbpf::{Ctx, Engine, isa, verifier::Assumptions, abi::ProgType};
//! // r0 = *(u8 *)(r1 + 1); exit
//! let code = isa::RawInsn::parse_all(&[0x71, 0x10, 1, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]).unwrap();
//! let engine = Engine::default();
//! // Each context has two bytes: the program may read them without a test.
//! let given = Assumptions { plain_ctx_bytes: 2, ..Assumptions::new(ProgType::Plain) };
//! let proved = engine.verify(isa::decode(&code)?, given)?;
//! let program = engine.bind(proved, vec![])?;
//! let result = program.run(&mut engine.session(0), &mut Ctx::plain(&[5, 7]))?;
//! assert_eq!(result, 7);
//! # Ok::<(), rtbpf::Error>(())
//! ```
//!
//! [`Engine::bind`] checks every step all the same, and shows each to an [`Observer`]. `Engine::bind_native` compiles, and
//! [`Engine::bind_threaded`] interprets without checks where that is not possible; both take only what was proved.
//! [`Engine::bind_unverified`] runs anything, checked. [`Instance`] does this for the programs and maps of an ELF object, and
//! [`Engine::helper`] gives programs a function of the host.
#![deny(unsafe_code)]

pub use rtbpf_abi as abi;
pub use rtbpf_btf as btf;
pub use rtbpf_isa as isa;
#[cfg(feature = "jit")]
pub use rtbpf_jit as jit;
pub use rtbpf_loader as loader;
pub use rtbpf_maps as maps;
pub use rtbpf_rt as rt;
pub use rtbpf_verifier as verifier;

mod bind;
pub mod ctx;
pub mod engine;
pub mod error;
mod executable;
pub mod helpers;
#[cfg(feature = "jit")]
pub mod hook;
mod instance;
pub mod interp;
#[allow(unsafe_code)]
pub mod mem;
#[cfg(feature = "jit")]
#[allow(unsafe_code)]
pub mod native;
pub mod packet;
pub mod region;
mod run;
#[cfg(test)]
mod testing;
pub(crate) mod timers;
#[allow(unsafe_code)]
pub mod unchecked;
#[cfg(feature = "workers")]
pub mod workers;
pub mod world;

pub use ctx::Ctx;
pub use engine::{CancelHandle, Config, Engine};
pub use error::{Error, Fault, FaultKind};
pub use executable::{Executable, Session};
pub use helpers::custom::{Bytes, HelperArg, HelperCx, HelperRet, IntoHelper, OutBytes};
#[cfg(feature = "jit")]
pub use hook::{HookError, Sampler};
pub use instance::{Instance, Live, Proof};
pub use interp::{Checked, Observer, Threaded};
#[cfg(feature = "jit")]
pub use native::{Native, Tier};
pub use packet::Packet;
#[cfg(feature = "jit")]
pub use rtbpf_jit::trap::install as install_fault_handler;
pub use rtbpf_rt::level::Model;
pub use unchecked::Prepared;
#[cfg(feature = "workers")]
pub use workers::{Workers, WorkersError};
pub use world::World;
