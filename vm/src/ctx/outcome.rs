//! What a program leaves in its context for the host besides R0: where a packet shall go, which keys were pressed.

use rtbpf_maps::MapRef;

use super::Ctx;

/// Where a packet shall go.
#[derive(Clone)]
#[non_exhaustive]
pub enum Redirect {
    /// To an interface.
    Interface {
        /// Its index.
        ifindex: u32,
        /// To its receiving side.
        ingress: bool,
    },
    /// To a target of a map (`bpf_redirect_map`).
    Map {
        /// The map.
        map: MapRef,
        /// Key of the target.
        index: u32,
        /// The helper's flags: 8 sends to all targets, 16 not to where the packet came from.
        flags: u64,
    },
}

impl std::fmt::Debug for Redirect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Redirect::Interface { ifindex, ingress } => write!(f, "Interface({ifindex}, ingress: {ingress})"),
            Redirect::Map { map, index, flags } => write!(f, "Map({}, {index}, {flags:#x})", map.id()),
        }
    }
}

/// What a remote control's decoder reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A key was pressed.
    Down {
        /// `RC_PROTO_…`.
        protocol: u32,
        /// The key, as the protocol numbers it.
        scancode: u64,
        /// Changes with every press.
        toggle: u32,
    },
    /// The last key is still held.
    Repeat,
    /// A pointer moved.
    Pointer {
        /// To the right.
        x: i32,
        /// Down.
        y: i32,
    },
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    redirect: Option<Redirect>,
    clones: Vec<Redirect>,
    keys: Vec<Key>,
}

impl Ctx {
    /// Where the program redirected the packet; meaningful when it returned the code for that.
    pub fn redirect(&self) -> Option<&Redirect> {
        self.parts.outcome.redirect.as_ref()
    }

    /// Where the program sent copies of the packet.
    pub fn clones(&self) -> &[Redirect] {
        &self.parts.outcome.clones
    }

    /// The keys it reported, in order.
    pub fn keys(&self) -> &[Key] {
        &self.parts.outcome.keys
    }

    /// Forgets what earlier runs left.
    pub fn clear_outcome(&mut self) {
        self.parts.outcome = Outcome::default();
    }

    pub(crate) fn set_redirect(&mut self, redirect: Redirect) {
        self.parts.outcome.redirect = Some(redirect);
    }

    pub(crate) fn add_clone(&mut self, redirect: Redirect) {
        self.parts.outcome.clones.push(redirect);
    }

    pub(crate) fn add_key(&mut self, key: Key) {
        self.parts.outcome.keys.push(key);
    }
}
