//! The contract with Linux, as rows: program types, contexts, helper prototypes, map kinds, errno, limits, policies.
//!
//! Everything here describes and nothing runs. Facts were measured on Linux 6.18 unless a row says otherwise.
#![forbid(unsafe_code)]

pub mod ctx;
pub mod errno;
pub mod format;
pub mod frame;
pub mod helper;
pub mod kfunc;
pub mod license;
pub mod limits;
pub mod map_kind;
pub mod map_rules;
pub mod map_spec;
pub mod map_struct;
pub mod policy;
pub mod prog_kind;
pub mod prog_rules;
pub mod prog_type;
pub mod sections;
pub mod testrun;
pub mod verdict;

pub use errno::Errno;
pub use helper::{Arg, HelperId, HelperProto, Ret};
pub use map_kind::MapKind;
pub use map_rules::{Creator, MapRules};
pub use map_spec::MapSpec;
pub use policy::Policy;
pub use prog_kind::{ProgKind, ProgKinds};
pub use prog_rules::ProgRules;
pub use prog_type::{AttachType, ProgType};
