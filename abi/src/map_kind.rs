//! Map kinds: number and name of each map type. Numbers are Linux's `enum bpf_map_type`; names are `bpftool`'s.

macro_rules! map_kinds {
    ($($kind:ident = $number:literal, $name:literal;)*) => {
        /// A map type.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        #[allow(missing_docs)]
        pub enum MapKind { $($kind = $number,)* }

        impl MapKind {
            /// Every kind, by number.
            pub const ALL: &[MapKind] = &[$(MapKind::$kind,)*];

            /// `bpftool`'s name.
            pub const fn name(self) -> &'static str {
                match self { $(MapKind::$kind => $name,)* }
            }
        }
    };
}

map_kinds! {
    Hash = 1, "hash";
    Array = 2, "array";
    ProgArray = 3, "prog_array";
    PerfEventArray = 4, "perf_event_array";
    PercpuHash = 5, "percpu_hash";
    PercpuArray = 6, "percpu_array";
    StackTrace = 7, "stack_trace";
    CgroupArray = 8, "cgroup_array";
    LruHash = 9, "lru_hash";
    LruPercpuHash = 10, "lru_percpu_hash";
    LpmTrie = 11, "lpm_trie";
    ArrayOfMaps = 12, "array_of_maps";
    HashOfMaps = 13, "hash_of_maps";
    Devmap = 14, "devmap";
    Sockmap = 15, "sockmap";
    Cpumap = 16, "cpumap";
    Xskmap = 17, "xskmap";
    Sockhash = 18, "sockhash";
    CgroupStorage = 19, "cgroup_storage";
    ReuseportSockarray = 20, "reuseport_sockarray";
    PercpuCgroupStorage = 21, "percpu_cgroup_storage";
    Queue = 22, "queue";
    Stack = 23, "stack";
    SkStorage = 24, "sk_storage";
    DevmapHash = 25, "devmap_hash";
    StructOps = 26, "struct_ops";
    Ringbuf = 27, "ringbuf";
    InodeStorage = 28, "inode_storage";
    TaskStorage = 29, "task_storage";
    BloomFilter = 30, "bloom_filter";
    UserRingbuf = 31, "user_ringbuf";
    CgrpStorage = 32, "cgrp_storage";
    Arena = 33, "arena";
    InsnArray = 34, "insn_array";
}

/// What a program holds after a successful lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupResult {
    /// The value's bytes.
    Value,
    /// The inner map.
    InnerMap,
    /// A full socket with a reference, for `bpf_sk_release`.
    Sock,
    /// An XDP socket.
    XdpSock,
}

impl MapKind {
    /// The number of `enum bpf_map_type`.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<MapKind> {
        MapKind::ALL.iter().copied().find(|kind| kind.number() == number)
    }

    /// The kind with `bpftool`'s name.
    pub fn from_name(name: &str) -> Option<MapKind> {
        MapKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether each CPU has a value of its own.
    pub const fn is_percpu(self) -> bool {
        matches!(
            self,
            MapKind::PercpuHash | MapKind::PercpuArray | MapKind::LruPercpuHash | MapKind::PercpuCgroupStorage
        )
    }

    /// What `bpf_map_lookup_elem` gives a program; `None` where programs may not look up.
    pub const fn lookup_result(self) -> Option<LookupResult> {
        match self {
            MapKind::Hash
            | MapKind::Array
            | MapKind::PercpuHash
            | MapKind::PercpuArray
            | MapKind::LruHash
            | MapKind::LruPercpuHash
            | MapKind::LpmTrie
            | MapKind::Devmap
            | MapKind::DevmapHash => Some(LookupResult::Value),
            MapKind::ArrayOfMaps | MapKind::HashOfMaps => Some(LookupResult::InnerMap),
            MapKind::Sockmap | MapKind::Sockhash => Some(LookupResult::Sock),
            MapKind::Xskmap => Some(LookupResult::XdpSock),
            MapKind::ProgArray
            | MapKind::PerfEventArray
            | MapKind::StackTrace
            | MapKind::CgroupArray
            | MapKind::Cpumap
            | MapKind::CgroupStorage
            | MapKind::ReuseportSockarray
            | MapKind::PercpuCgroupStorage
            | MapKind::Queue
            | MapKind::Stack
            | MapKind::SkStorage
            | MapKind::StructOps
            | MapKind::Ringbuf
            | MapKind::InodeStorage
            | MapKind::TaskStorage
            | MapKind::BloomFilter
            | MapKind::UserRingbuf
            | MapKind::CgrpStorage
            | MapKind::Arena
            | MapKind::InsnArray => None,
        }
    }

    /// Whether the first program that uses the map fixes the type of program that may use it.
    pub const fn binds_prog_type(self) -> bool {
        matches!(self, MapKind::ProgArray | MapKind::Devmap | MapKind::DevmapHash | MapKind::Cpumap)
    }

    /// Whether values are maps.
    pub const fn is_map_in_map(self) -> bool {
        matches!(self, MapKind::ArrayOfMaps | MapKind::HashOfMaps)
    }
}
