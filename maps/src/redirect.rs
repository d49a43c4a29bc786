//! Targets of XDP redirects: `devmap`, `devmap_hash`, `cpumap`, `xskmap`. Which targets exist is the host's knowledge;
//! delivery is the host's business.

use std::any::Any;
use std::sync::Arc;

use rtbpf_abi::{Errno, MapKind};
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::array::next_index;
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::object::{Object, ProgRef, SocketKind};
use crate::prog_array::{Places, place};
use crate::retire::Objects;

/// Packets a cpumap queue may hold.
const MAX_QUEUE: u32 = 16_384;

/// Which network devices and CPUs the host has.
pub trait Targets: Send + Sync {
    /// Whether a device has this index. Index 1 is the loopback device on every Linux system.
    fn has_device(&self, ifindex: u32) -> bool {
        ifindex == 1
    }
}

/// A host with nothing but the loopback device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loopback;

impl Targets for Loopback {}

/// A target, and the program that runs before delivery.
#[derive(Clone)]
pub struct Target {
    /// Interface index, queue size or socket.
    pub value: u64,
    /// The program of the element, where it has one.
    pub prog: Option<ProgRef>,
}

enum Targeted {
    Array(Places<Target>),
    Hash(Objects<Target>),
}

/// A map of redirect targets.
pub struct RedirectMap {
    head: Head,
    places: Targeted,
    host: Arc<dyn Targets>,
}

/// What a value names as the program of its element.
enum Attached {
    Nothing,
    Prog(ProgRef),
    /// Something else than a program.
    NoProg,
}

impl Attached {
    fn prog(&self) -> Option<ProgRef> {
        match self {
            Attached::Prog(prog) => Some(prog.clone()),
            Attached::Nothing | Attached::NoProg => None,
        }
    }
}

impl RedirectMap {
    pub(crate) fn array(head: Head, host: Arc<dyn Targets>) -> Result<RedirectMap, MapError> {
        Ok(RedirectMap { places: Targeted::Array(Places::new(head.spec().max_entries)?), head, host })
    }

    /// Over a hash table with the same keys and values of 8 bytes.
    pub(crate) fn hash(head: Head, table: Box<dyn Map>, host: Arc<dyn Targets>) -> RedirectMap {
        RedirectMap { head, places: Targeted::Hash(Objects::new(table)), host }
    }

    fn kind(&self) -> MapKind {
        self.head.spec().kind
    }

    fn with<R>(&self, cx: &RunCx, key: KeyRef<'_>, show: impl FnOnce(&Target) -> R) -> Option<R> {
        match &self.places {
            Targeted::Array(places) => place(places, key)?.with(show),
            Targeted::Hash(objects) => objects.with(cx, key, show),
        }
    }

    /// The target at `index` (`bpf_redirect_map` looks before it redirects).
    pub fn target(&self, cx: &RunCx, index: u32) -> Option<Target> {
        self.with(cx, &index.to_le_bytes(), Target::clone)
    }

    /// Stores a target by value, with the element's program.
    pub fn set(
        &self,
        cx: &RunCx,
        key: KeyRef<'_>,
        value: u32,
        prog: Option<ProgRef>,
        flags: UpdateFlags,
    ) -> Result<(), MapError> {
        self.store(cx, key, value, prog.map_or(Attached::Nothing, Attached::Prog), flags)
    }

    fn store(
        &self,
        cx: &RunCx,
        key: KeyRef<'_>,
        value: u32,
        attached: Attached,
        flags: UpdateFlags,
    ) -> Result<(), MapError> {
        if flags > update::EXIST {
            return Err(Errno::EINVAL.into());
        }
        let target = || Target { value: u64::from(value), prog: attached.prog() };
        match &self.places {
            Targeted::Array(places) => {
                let place = place(places, key).ok_or(Errno::E2BIG)?;
                if flags == update::NOEXIST {
                    return Err(Errno::EEXIST.into());
                }
                self.admit(value, &attached, key)?;
                // A value of 0 empties the place.
                place.swap((value != 0).then(target));
                Ok(())
            }
            Targeted::Hash(objects) => {
                if value == 0 {
                    return Err(Errno::EINVAL.into());
                }
                let exists = objects.with(cx, key, |_| ()).is_some();
                if exists && flags == update::NOEXIST {
                    return Err(Errno::EEXIST.into());
                }
                self.admit(value, &attached, key)?;
                objects.put(cx, key, target(), update::ANY)
            }
        }
    }

    fn admit(&self, value: u32, attached: &Attached, key: KeyRef<'_>) -> Result<(), MapError> {
        let is_bad = matches!(attached, Attached::NoProg);
        let refused = match self.kind() {
            MapKind::Cpumap if value > MAX_QUEUE => Some(Errno::EOVERFLOW),
            MapKind::Cpumap => {
                let cpu = key.first_chunk().map_or(u32::MAX, |k| u32::from_le_bytes(*k));
                if cpu >= self.head.slots() {
                    Some(Errno::ENODEV)
                } else {
                    // Linux says so of every entry that it cannot make; an empty one has no use for a program.
                    (is_bad && value != 0).then_some(Errno::ENOMEM)
                }
            }
            _ if value == 0 => (!matches!(attached, Attached::Nothing)).then_some(Errno::EINVAL),
            _ => (is_bad || !self.host.has_device(value)).then_some(Errno::EINVAL),
        };
        refused.map_or(Ok(()), |errno| Err(errno.into()))
    }
}

impl Map for RedirectMap {
    fn head(&self) -> &Head {
        &self.head
    }

    /// Programs may look into devmaps and cpumaps for presence only; the machine answers their reads from `target`.
    fn lookup(&self, _: &RunCx, _: KeyRef<'_>) -> Option<ValuePtr> {
        None
    }

    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        if self.kind() == MapKind::Xskmap {
            return self.update_object(cx, key, &Object::Closed, flags);
        }
        let bytes = value.to_vec();
        let word = |at: usize| bytes.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_le_bytes);
        let number = word(0).ok_or(Errno::EINVAL)?;
        // Descriptor 0 and less mean no program; who resolves descriptors calls `set`.
        let names_one = word(4).is_some_and(|fd| fd as i32 > 0);
        self.store(cx, key, number, if names_one { Attached::NoProg } else { Attached::Nothing }, flags)
    }

    fn update_object(&self, _: &RunCx, key: KeyRef<'_>, object: &Object, flags: UpdateFlags) -> Result<(), MapError> {
        let (MapKind::Xskmap, Targeted::Array(places)) = (self.kind(), &self.places) else {
            return Err(Errno::EINVAL.into());
        };
        if flags > update::EXIST {
            return Err(Errno::EINVAL.into());
        }
        let place = place(places, key).ok_or(Errno::E2BIG)?;
        let cookie = match object {
            Object::Closed => return Err(Errno::EBADF.into()),
            Object::Socket(socket) if socket.family == SocketKind::Xsk => socket.cookie,
            Object::Socket(_) => return Err(Errno::EOPNOTSUPP.into()),
            _ => return Err(Errno::ENOTSOCK.into()),
        };
        crate::hash::admit(!place.is_empty(), flags)?;
        place.swap(Some(Target { value: cookie, prog: None }));
        Ok(())
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        match &self.places {
            Targeted::Array(places) => {
                place(places, key).ok_or(Errno::EINVAL)?.swap(None);
                Ok(())
            }
            Targeted::Hash(objects) => objects.remove(cx, key),
        }
    }

    fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        match &self.places {
            Targeted::Array(_) => next_index(key, self.head.spec().max_entries, out),
            Targeted::Hash(objects) => objects.next_key(cx, key, out),
        }
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        if self.kind() == MapKind::Xskmap {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let target = self.with(cx, key, Target::clone).ok_or(Errno::ENOENT)?;
        let mut value = (target.value as u32).to_le_bytes().to_vec();
        value.extend_from_slice(&target.prog.map_or(0, |prog| prog.id()).to_le_bytes());
        value.truncate(self.head.spec().value_size as usize);
        out.append(&mut value);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
