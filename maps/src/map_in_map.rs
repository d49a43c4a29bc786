//! `array_of_maps` and `hash_of_maps`.

use std::any::Any;

use rtbpf_abi::map_spec::flags as create_flags;
use rtbpf_abi::{Errno, MapKind, MapSpec};
use rtbpf_rt::RunCx;

use crate::access::{KeyRef, ProgBytes, ValuePtr};
use crate::array::next_index;
use crate::batch::{Buckets, Pairs};
use crate::head::Head;
use crate::map::{Map, MapError, MapRef, UpdateFlags, update};
use crate::object::Object;
use crate::prog_array::{Places, place, remove};
use crate::retire::Objects;

enum Inner {
    Array(Places<MapRef>),
    Hash(Objects<MapRef>),
}

/// A map of maps. Inner maps are alike: what a program was verified with holds for all of them.
pub(crate) struct MapInMap {
    head: Head,
    inner: Inner,
}

/// Whether `map` may stand where `template` was declared.
fn is_alike(template: &MapSpec, map: &MapSpec) -> bool {
    let array = matches!(template.kind, MapKind::Array | MapKind::PercpuArray);
    let any_length = template.flags & create_flags::INNER_MAP != 0;
    template.kind == map.kind
        && template.key_size == map.key_size
        && template.value_size == map.value_size
        && template.flags == map.flags
        && template.fields == map.fields
        && (!array || any_length || template.max_entries == map.max_entries)
}

fn address_of(map: &MapRef) -> Option<ValuePtr> {
    std::ptr::NonNull::new(std::ptr::from_ref(map.head()).cast_mut().cast()).map(ValuePtr)
}

impl MapInMap {
    pub(crate) fn array(head: Head) -> Result<MapInMap, MapError> {
        Ok(MapInMap { inner: Inner::Array(Places::new(head.spec().max_entries)?), head })
    }

    /// Over a hash table with the same keys and values of 8 bytes.
    pub(crate) fn hash(head: Head, table: Box<dyn Map>) -> MapInMap {
        MapInMap { head, inner: Inner::Hash(Objects::new(table)) }
    }

    fn with<R>(&self, cx: &RunCx, key: KeyRef<'_>, show: impl FnOnce(&MapRef) -> R) -> Option<R> {
        match &self.inner {
            Inner::Array(places) => place(places, key)?.with(show),
            Inner::Hash(objects) => objects.with(cx, key, show),
        }
    }

    /// The map that `object` is, when it fits.
    fn admitted(&self, object: &Object) -> Result<MapRef, MapError> {
        match (object, self.head.spec().inner.as_deref()) {
            (Object::Closed, _) => Err(Errno::EBADF.into()),
            (Object::Map(map), Some(template)) if is_alike(template, map.spec()) => Ok(map.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }
}

impl Map for MapInMap {
    fn head(&self) -> &Head {
        &self.head
    }

    fn lookup(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<ValuePtr> {
        self.with(cx, key, address_of)?
    }

    fn inner(&self, cx: &RunCx, key: KeyRef<'_>) -> Option<MapRef> {
        self.with(cx, key, MapRef::clone)
    }

    fn update(&self, _: &RunCx, _: KeyRef<'_>, _: ProgBytes<'_>, _: UpdateFlags) -> Result<(), MapError> {
        Err(Errno::EINVAL.into())
    }

    fn update_object(&self, cx: &RunCx, key: KeyRef<'_>, object: &Object, flags: UpdateFlags) -> Result<(), MapError> {
        match &self.inner {
            Inner::Array(places) => {
                if flags != update::ANY {
                    return Err(Errno::EINVAL.into());
                }
                let place = place(places, key).ok_or(Errno::E2BIG)?;
                place.swap(Some(self.admitted(object)?));
                Ok(())
            }
            Inner::Hash(objects) => objects.put(cx, key, self.admitted(object)?, flags),
        }
    }

    fn delete(&self, cx: &RunCx, key: KeyRef<'_>) -> Result<(), MapError> {
        match &self.inner {
            Inner::Array(places) => remove(places, key),
            Inner::Hash(objects) => objects.remove(cx, key),
        }
    }

    fn next_key(&self, cx: &RunCx, key: Option<KeyRef<'_>>, out: &mut Vec<u8>) -> Result<(), MapError> {
        match &self.inner {
            Inner::Array(_) => next_index(key, self.head.spec().max_entries, out),
            Inner::Hash(objects) => objects.next_key(cx, key, out),
        }
    }

    fn read(&self, cx: &RunCx, key: KeyRef<'_>, _: u64, out: &mut Vec<u8>) -> Result<(), MapError> {
        let id = self.with(cx, key, |map| map.id()).ok_or(Errno::ENOENT)?;
        out.extend_from_slice(&id.to_le_bytes());
        Ok(())
    }

    fn buckets(&self) -> Option<&dyn Buckets> {
        match &self.inner {
            Inner::Array(_) => None,
            Inner::Hash(_) => Some(self),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Buckets for MapInMap {
    fn bucket_count(&self) -> u32 {
        match &self.inner {
            Inner::Array(_) => 0,
            Inner::Hash(objects) => objects.buckets().map_or(0, Buckets::bucket_count),
        }
    }

    fn bucket(&self, cx: &RunCx, bucket: u32, room: u32, take: bool, out: &mut Pairs) -> Result<(), MapError> {
        let Inner::Hash(objects) = &self.inner else { return Err(MapError::Unsupported) };
        let mut words = Pairs::new();
        if let Some(buckets) = objects.buckets() {
            buckets.bucket(cx, bucket, room, false, &mut words)?;
        }
        for (key, _) in words {
            let mut id = Vec::new();
            if self.read(cx, &key, 0, &mut id).is_ok() && (!take || objects.remove(cx, &key).is_ok()) {
                out.push((key, id));
            }
        }
        Ok(())
    }
}
