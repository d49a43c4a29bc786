//! The kernel's `struct bpf_map`, which programs may read through a map's pointer: its members as Linux 6.18 lays them
//! out on 64-bit machines, and which loads of them it takes.

use crate::map_kind::MapKind;
use crate::map_spec::MapSpec;

/// A member, or a member of a structure inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// It points somewhere, and is loaded whole or not at all.
    pub is_pointer: bool,
}

const fn number(name: &'static str, offset: u32, size: u32) -> Member {
    Member { name, offset, size, is_pointer: false }
}

const fn pointer(name: &'static str, offset: u32) -> Member {
    Member { name, offset, size: 8, is_pointer: true }
}

/// Bytes of `struct bpf_map`; `struct bpf_array` has three members more.
const MAP: u32 = 296;

/// Bytes of the largest structure here, `struct bpf_array` up to its values.
pub const BYTES: usize = 312;

#[rustfmt::skip]
const MEMBERS: [Member; 43] = [
    number("sha",                         0, 32),
    number("excl",                       32,  4),
    pointer("ops",                       40),
    pointer("inner_map_meta",            48),
    pointer("security",                  56),
    number("map_type",                   64,  4),
    number("key_size",                   68,  4),
    number("value_size",                 72,  4),
    number("max_entries",                76,  4),
    number("map_extra",                  80,  8),
    number("map_flags",                  88,  4),
    number("id",                         92,  4),
    pointer("record",                    96),
    number("numa_node",                 104,  4),
    number("btf_key_type_id",           108,  4),
    number("btf_value_type_id",         112,  4),
    number("btf_vmlinux_value_type_id", 116,  4),
    pointer("btf",                      120),
    pointer("objcg",                    128),
    number("name",                      136, 16),
    number("freeze_mutex.owner",        152,  8),
    number("freeze_mutex.wait_lock",    160,  4),
    number("freeze_mutex.osq",          164,  4),
    pointer("freeze_mutex.wait_list",   168),
    pointer("freeze_mutex.wait_list",   176),
    number("refcnt",                    184,  8),
    number("usercnt",                   192,  8),
    number("work.data",                 200,  8),
    pointer("work.entry",               208),
    pointer("work.entry",               216),
    pointer("work.func",                224),
    number("writecnt",                  232,  8),
    number("owner_lock",                240,  4),
    pointer("owner",                    248),
    number("bypass_spec_v1",            256,  1),
    number("frozen",                    257,  1),
    number("init_private",              258,  1),
    number("free_after_mult_rcu_gp",    259,  1),
    number("free_after_rcu_gp",         260,  1),
    number("sleepable_refcnt",          264,  8),
    pointer("elem_count",               272),
    number("cookie",                    280,  8),
    pointer("excl_prog_sha",            288),
];

#[rustfmt::skip]
const ARRAY_MEMBERS: [Member; 3] = [
    number("elem_size",                 296,  4),
    number("index_mask",                300,  4),
    pointer("aux",                      304),
];

/// Why a load is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoMember {
    /// Behind the structure.
    Beyond,
    /// Between members: EINVAL, where the others are EACCES.
    Hole,
    /// It starts in this member and goes on behind it.
    Across(Member),
    /// A part of this pointer.
    PartOfPointer(Member),
}

/// The name of the structure behind pointers to maps of this kind, as messages show it.
pub const fn name(kind: MapKind) -> &'static str {
    if is_array(kind) { "bpf_array" } else { "bpf_map" }
}

const fn is_array(kind: MapKind) -> bool {
    matches!(
        kind,
        MapKind::Array
            | MapKind::PercpuArray
            | MapKind::ProgArray
            | MapKind::PerfEventArray
            | MapKind::CgroupArray
            | MapKind::ArrayOfMaps
    )
}

/// The member that a load of `size` bytes at `offset` reads from.
pub fn access(kind: MapKind, offset: u32, size: u32) -> Result<Member, NoMember> {
    let own: &[Member] = if is_array(kind) { &ARRAY_MEMBERS } else { &[] };
    let whole = if is_array(kind) { BYTES as u32 } else { MAP };
    if offset >= whole {
        return Err(NoMember::Beyond);
    }
    let inside = |member: &&Member| (member.offset..member.offset + member.size).contains(&offset);
    let member = *MEMBERS.iter().chain(own).find(inside).ok_or(NoMember::Hole)?;
    match () {
        () if member.is_pointer && (offset, size) != (member.offset, member.size) => {
            Err(NoMember::PartOfPointer(member))
        }
        () if offset + size > member.offset + member.size => Err(NoMember::Across(member)),
        () => Ok(member),
    }
}

/// What a load sees of a map with these attributes: the attributes, and zeros for what only a kernel has.
pub fn image(spec: &MapSpec, id: u32) -> [u64; BYTES / 8] {
    let mut bytes = [0u8; BYTES];
    let mut put = |name: &str, value: &[u8]| {
        let member = MEMBERS.iter().chain(&ARRAY_MEMBERS).find(|member| member.name == name);
        let place = member.and_then(|member| bytes.get_mut(member.offset as usize..)?.get_mut(..value.len()));
        if let Some(place) = place {
            place.copy_from_slice(value);
        }
    };
    let stored = spec.value_size.saturating_add(7) & !7;
    for (name, value) in [
        ("map_type", spec.kind.number()),
        ("key_size", spec.key_size),
        ("value_size", spec.value_size),
        ("max_entries", spec.max_entries),
        ("map_flags", spec.flags),
        ("id", id),
        ("numa_node", u32::MAX),
        ("refcnt", 1),
        ("usercnt", 1),
        ("elem_size", if is_array(spec.kind) { stored } else { 0 }),
        ("index_mask", if is_array(spec.kind) { mask(spec.max_entries) } else { 0 }),
    ] {
        put(name, &value.to_le_bytes());
    }
    put("map_extra", &spec.map_extra.to_le_bytes());
    let name = spec.name.as_bytes();
    put("name", name.get(..name.len().min(15)).unwrap_or_default());
    let mut words = [0; BYTES / 8];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// The bits that indices of an array of `entries` can have.
const fn mask(entries: u32) -> u32 {
    match entries {
        0 | 1 => 0,
        _ => u32::MAX >> (entries - 1).leading_zeros(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_stay_inside_their_member() {
        let loads = |offset, size| access(MapKind::Array, offset, size).map(|member| member.name);
        assert_eq!(loads(0, 8), Ok("sha"));
        assert_eq!(loads(28, 4), Ok("sha"));
        assert_eq!(loads(76, 4), Ok("max_entries"));
        assert_eq!(loads(40, 8), Ok("ops"));
        assert_eq!(loads(304, 8), Ok("aux"));
        assert!(matches!(access(MapKind::Array, 28, 8), Err(NoMember::Across(_))));
        assert!(matches!(access(MapKind::Array, 40, 4), Err(NoMember::PartOfPointer(_))));
        assert_eq!(access(MapKind::Array, 36, 8), Err(NoMember::Hole));
        assert_eq!(access(MapKind::Array, 312, 8), Err(NoMember::Beyond));
        assert_eq!(access(MapKind::Hash, 296, 4), Err(NoMember::Beyond));
    }

    #[test]
    fn members_lie_apart_and_inside() {
        let all: Vec<&Member> = MEMBERS.iter().chain(&ARRAY_MEMBERS).collect();
        for (at, one) in all.iter().enumerate() {
            assert!((one.offset + one.size) as usize <= BYTES, "{one:?}");
            let apart =
                |other: &&Member| one.offset + one.size <= other.offset || other.offset + other.size <= one.offset;
            assert!(all[at + 1..].iter().all(apart), "{one:?}");
        }
    }

    #[test]
    fn an_image_shows_the_attributes() {
        let image = image(&MapSpec::new(MapKind::Array, 4, 12, 5), 77);
        let word = |offset: usize| (image[offset / 8] >> (offset % 8 * 8)) as u32;
        let shown = [64, 68, 72, 76, 92, 104, 296, 300].map(word);
        assert_eq!(shown, [2, 4, 12, 5, 77, u32::MAX, 16, 7]);
    }
}
