//! Values that belong to a task, socket, inode or cgroup, as the host declares them by number.

use std::any::Any;
use std::ops::Range;

use rtbpf_abi::{Errno, MapKind};
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::hash::check_flags;
use crate::head::Head;
use crate::map::{Map, MapError, UpdateFlags, update};
use crate::object::Object;

/// `bpf_*_storage_get`: create the value when the owner has none.
pub const GET_F_CREATE: u64 = 1;

/// The inode that all descriptors without a file share.
const ANONYMOUS_INODE: u64 = u64::MAX;

/// Owner-keyed values.
pub struct Storage {
    head: Head,
    /// A hash table of 8-byte owner numbers.
    table: Box<dyn Map>,
}

impl Storage {
    pub(crate) fn new(head: Head, table: Box<dyn Map>) -> Storage {
        Storage { head, table }
    }

    /// `owner`'s value. With [`GET_F_CREATE`] one is made of `init` (zeroes when `None`) where there is none.
    ///
    /// Semantics: `bpf_task_storage_get` and its sisters, bpf-helpers(7).
    pub fn get(&self, cx: &RunCx, owner: u64, init: Option<ProgBytes<'_>>, flags: u64) -> Option<ValuePtr> {
        if flags & !GET_F_CREATE != 0 {
            return None;
        }
        let key = owner.to_le_bytes();
        if let Some(value) = self.table.lookup(cx, &key) {
            return Some(value);
        }
        if flags & GET_F_CREATE == 0 {
            return None;
        }
        let zeroes = [0u8; 64];
        let mut long = Vec::new();
        let value = match init {
            Some(init) => init,
            None if self.head.spec().value_size as usize <= zeroes.len() => {
                ProgBytes::from(&zeroes[..self.head.spec().value_size as usize])
            }
            None => {
                long.resize(self.head.spec().value_size as usize, 0);
                ProgBytes::from(&long[..])
            }
        };
        // Another thread may create it first; either is the owner's value then.
        let _ = self.table.update(cx, &key, value, update::NOEXIST);
        self.table.lookup(cx, &key)
    }

    /// Drops the values of an owner that ends.
    pub fn release(&self, cx: &RunCx, owner: u64) {
        let _ = self.table.delete(cx, &owner.to_le_bytes());
    }
}

impl Map for Storage {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr> {
        self.table.lookup(cx, key)
    }

    fn owner_key(&self, owner: &Object) -> Result<[u8; 8], MapError> {
        let owner = match (self.head.spec().kind, owner) {
            (_, Object::Closed) => Err(Errno::EBADF),
            (MapKind::TaskStorage, Object::Task(id)) => Ok(*id),
            (MapKind::CgrpStorage, Object::Cgroup(id)) => Ok(*id),
            (MapKind::SkStorage, Object::Socket(socket)) => Ok(socket.cookie),
            (MapKind::SkStorage, _) => Err(Errno::ENOTSOCK),
            // Every open descriptor has an inode.
            (MapKind::InodeStorage, Object::Inode(id) | Object::Cgroup(id) | Object::Other(id)) => Ok(*id),
            (MapKind::InodeStorage, Object::Socket(socket)) => Ok(socket.cookie),
            (MapKind::InodeStorage, _) => Ok(ANONYMOUS_INODE),
            _ => Err(Errno::EBADF),
        };
        Ok(owner?.to_le_bytes())
    }

    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        check_flags(flags, true, self.head.spec())?;
        self.table.update(cx, key, value, flags)
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        self.table.delete(cx, key)
    }

    fn next_key(&self, _: &RunCx, _: Option<KeyRef<'_>>, _: &mut Vec<u8>) -> Result<(), MapError> {
        Err(MapError::Unsupported)
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        self.table.read(cx, key, flags, out)
    }

    fn memory(&self) -> Vec<Range<u64>> {
        self.table.memory()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `cgroup_storage` and `percpu_cgroup_storage`: elements exist from attachment to detachment of a program.
pub struct CgroupStorage {
    head: Head,
    table: Box<dyn Map>,
}

impl CgroupStorage {
    pub(crate) fn new(head: Head, table: Box<dyn Map>) -> CgroupStorage {
        CgroupStorage { head, table }
    }

    /// Makes the element of an attachment, zeroed.
    pub fn attach(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        let part = (self.head.spec().value_size as usize).next_multiple_of(8);
        let zeroes = vec![0u8; part * self.head.slots() as usize];
        let control = RunCx { in_program: false, ..*cx };
        self.table.update(&control, key, zeroes[..].into(), update::NOEXIST)
    }

    /// Drops the element of an attachment.
    pub fn detach(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        self.table.delete(cx, key)
    }
}

impl Map for CgroupStorage {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr> {
        self.table.lookup(cx, key)
    }

    fn update(&self, cx: &RunCx, key: KeyRef<'_>, value: ProgBytes<'_>, flags: UpdateFlags) -> Result<(), MapError> {
        if flags & !(update::F_LOCK | update::EXIST) != 0 {
            return Err(Errno::EINVAL.into());
        }
        check_flags(flags, true, self.head.spec())?;
        self.table.update(cx, key, value, flags | update::EXIST)
    }

    fn delete(&self, _: &RunCx, _: KeyRef<'_>) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        self.table.next_key(cx, key, out)
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, flags: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        self.table.read(cx, key, flags, out)
    }

    fn memory(&self) -> Vec<Range<u64>> {
        self.table.memory()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
