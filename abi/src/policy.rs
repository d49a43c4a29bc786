//! Real-time policies: which program type may use which map, allocated how. One value, never a `cfg`.

/// The kernel era whose rules hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Preset name, as `--policy` takes it.
    pub name: &'static str,
    /// Kernel version whose rules hold, as (major, minor).
    pub version: (u16, u16),
    /// The rules of a PREEMPT_RT kernel.
    pub rt: bool,
    /// Also close the holes that every kernel version left open.
    pub close_holes: bool,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unpriv_disabled: u8,
}

impl Policy {
    /// What Linux 6.18 answers.
    pub const V6_18: Policy =
        Policy { name: "linux-6.18", version: (6, 18), rt: false, close_holes: false, unpriv_disabled: 2 };
    /// Ours: no program in atomic context uses a map that sleeps or allocates.
    pub const STRICT_RT: Policy =
        Policy { name: "strict-rt", version: (6, 18), rt: true, close_holes: true, unpriv_disabled: 2 };

    /// All presets.
    pub const ALL: &[Policy] = &[Policy::V6_18, Policy::STRICT_RT];

    /// The preset with this name.
    pub fn named(name: &str) -> Option<Policy> {
        Policy::ALL.iter().copied().find(|policy| policy.name == name)
    }
}
