"""Generators of map cases. Sizes stay small: the running kernel allocates what it is asked for."""
import copy
import itertools
import json
import struct

import code as programs
import linux

# Attributes with which each kind is created: key, value, entries, flags.
SIZES = {
    "lpm_trie": (8, 8), "queue": (0, 8), "stack": (0, 8), "bloom_filter": (0, 8), "ringbuf": (0, 0), "user_ringbuf": (0, 0),
    "arena": (0, 0), "cgroup_storage": (16, 8), "percpu_cgroup_storage": (16, 8), "stack_trace": (4, 64), "devmap": (4, 4),
    "devmap_hash": (4, 4), "cpumap": (4, 4), "reuseport_sockarray": (4, 4), **{kind: (4, 4) for kind in linux.OBJECTS},
}
NO_PREALLOC, NO_COMMON_LRU, RDONLY, WRONLY, ZERO_SEED, RDONLY_PROG, WRONLY_PROG, MMAPABLE = 1, 2, 8, 16, 64, 128, 256, 1024
# Kinds whose order of keys is known without a seed, and those that hold where packets may go.
TABLES = {"hash", "percpu_hash", "lru_hash", "lru_percpu_hash", "hash_of_maps"}
TARGETS = {"devmap", "devmap_hash", "cpumap"}
MOST_BYTES = 8 << 20
FLAGS = [0, 0, 0, *(1 << bit for bit in range(19)), 3, 24, 384, 1 << 31]
UPDATE_FLAGS = [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1 << 32, (1 << 64) - 1]
BYTES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 20, 32, 64, 128, 255, 256, 260, 261, 262, 508, 512, 513, 1016, 1017, 1024, 4096,
         8192, 32760, 32761, 32768, 32769, 65528]
ENTRIES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 64, 100, 255, 256, 1000, 4095, 4096, 8192, 12288, 16384]
EXTRAS = [0, 1, 5, 15, 16, 1 << 32, 4096, (1 << 64) - 4096]
# Types of values in the recorded BTF: two locks, a timer, numbers, and types that are none.
VALUES = [(5, 8), (7, 24), (8, 8), (10, 8), (6, 16), (9, 4), (4, 4), (2, 4), (1, 4), (3, 8), (99, 8)]
PACKETS = [0, 1, 13, 14, 15, 20, 33, 34, 35, 53, 54, 60, 64, 100, 1500, 1514, 3520, 3521, 3712, 3713, 4000, 4096, 4097]


def attributes(kind):
    key, value = SIZES.get(kind, (4, 8))
    storage = kind in linux.STORAGES
    flags = NO_PREALLOC if storage or kind == "lpm_trie" else MMAPABLE if kind == "arena" else 0
    entries = 0 if storage or "cgroup_storage" in kind else 4096 if "ringbuf" in kind else 4
    return key, value, entries, flags


def create(name, kind, **changes):
    key, value, entries, flags = attributes(kind)
    step = {"op": "create", "as": name, "type": kind, "key_size": key, "value_size": value, "max_entries": entries, "flags": flags}
    return {**step, **changes}


def inner_of(random):
    return create("i", random.choice(["array", "hash"]))


def case(number, steps, cred):
    # Which object owns values that a storage keeps depends on the group.
    group = next((step["type"] for step in steps if step.get("type") in linux.STORAGES), "")
    return {"id": f"{number}", "group": group, "possible_cpus": linux.CPUS, "cred": cred, "steps": steps}


class Recorded:
    """Recorded cases: what `mutate` changes, and the BTF of all."""

    def __init__(self, path):
        lines = map(json.loads, open(path))
        self.cases = [line for line in lines if line.get("record") != "meta" and line["cred"] == "root"]
        for line in self.cases:
            line["steps"] = [linux.inputs(step) for step in line["steps"]]
        steps = (step for line in self.cases for step in line["steps"])
        self.btf = next(step for step in steps if step["op"] == "btf_load")


def grid(recorded, _):
    """Every kind with every flag and pair of flags, size, type of value and inner map."""
    def one(kind, types=None, inner=None, **changes):
        step = create("m", kind, **changes)
        steps = [recorded.btf] if types else []
        if kind.endswith("of_maps"):
            steps.append(inner or create("i", "array"))
            step["inner"] = "i"
        if types:
            step.update(btf="btf", btf_key_id=types[0], btf_value_id=types[1])
        return steps + [step]

    for kind in linux.KINDS[1:]:
        flags = attributes(kind)[3]
        single = [1 << bit for bit in range(19)]
        for flag in single + [a | b for a, b in itertools.combinations(single[:13], 2)]:
            yield one(kind, flags=flags ^ flag)
        for field, values in ("key_size", BYTES), ("value_size", BYTES), ("max_entries", ENTRIES), ("map_extra", EXTRAS):
            yield from (one(kind, **{field: value}) for value in values)
        for node in 0, 1, 7, (1 << 32) - 1:
            yield from (one(kind, flags=flags | more, numa_node=node) for more in (0, 4))
        for (value, size), key, more in itertools.product(VALUES, (0, 1, 2), (0, 128)):
            yield one(kind, types=(key, value), value_size=size, flags=flags | more)
        if kind.endswith("of_maps"):
            for inner, more in itertools.product((k for k in linux.KINDS[1:] if not k.endswith("of_maps")), (0, 1, 4096)):
                yield one(kind, inner=create("i", inner, flags=attributes(inner)[3] ^ more))


def fit(text, size):
    data = bytes.fromhex(text)[:size]
    return (data + bytes(size - len(data))).hex()


def is_sound(steps):
    """Whether every name is there before it is used, and nothing is large; brings keys and values to their sizes."""
    specs, names = {}, set()
    for step in steps:
        needed = list((step.get("map_relocs") or {}).values()) + [step[name] for name in ("btf",) if name in step]
        if step["op"] in ("bulk_update", "walk_keys"):
            needed.append(step["map"])
        if any(name not in names for name in needed) or step.get("count_in", 0) > 4096:
            return False
        names.add(step.get("as"))
        if step["op"] == "create":
            specs[step["as"]] = step
            if (step["key_size"] + step["value_size"] * 2 + 64) * step["max_entries"] > MOST_BYTES:
                return False
        spec = specs.get(step.get("map"))
        if spec is None:
            continue
        key, value = spec["key_size"], spec["value_size"]
        value = (value + 7) // 8 * 8 * linux.CPUS if spec["type"] in linux.PERCPU else value
        for field, size in ("key", key), ("value", value), ("value_in", value):
            if isinstance(step.get(field), str):
                step[field] = fit(step[field], size)
        if key == 0 and "key" in step and isinstance(step["key"], str):
            step["key"] = None
        for field, size in ("keys", key), ("values", value):
            if step["op"] in ("update_batch", "delete_batch") and field in step:
                step[field] = "".join(fit(step[field][at * 8:at * 8 + 8], size) for at in range(step["count_in"]))
    return True


def change_kind(random, steps):
    step = random.choice([step for step in steps if step["op"] == "create"] or [None])
    if step is None:
        return
    kind = random.choice(linux.KINDS[1:-1])
    key, value, entries, flags = attributes(kind)
    step.update(type=kind, key_size=key, flags=step["flags"] | flags)
    if random.random() < 0.5 or kind in linux.OBJECTS or key == 0:
        step["value_size"] = value
    if entries in (0, 4096):
        step["max_entries"] = entries
    if kind.endswith("of_maps") and "inner" not in step:
        steps.insert(steps.index(step), inner_of(random))
        step["inner"] = "i"


def change_attribute(random, steps):
    step = random.choice([step for step in steps if step["op"] == "create"] or [None])
    if step is None:
        return
    field = random.choice(["flags", "flags", "key_size", "value_size", "max_entries", "map_extra", "numa_node"])
    choices = {"max_entries": ENTRIES, "map_extra": EXTRAS, "numa_node": [0, 1, 7, (1 << 32) - 1]}.get(field, BYTES)
    step[field] = step["flags"] ^ random.choice(FLAGS) if field == "flags" else random.choice(choices)


def change_argument(random, steps):
    step = random.choice(steps)
    if step["op"] == "prog_load":
        change_program(random, step)
    elif "attr" in step:
        attr = bytearray.fromhex(step["attr"]).ljust(176, b"\0")
        struct.pack_into("<I", attr, random.randrange(44) * 4, random.choice([0, 1, 2, 4, 8, 16, 0x41, 1000, 50000, 1 << 31]))
        step["attr"] = attr[:random.choice([16, 64, 72, 80, 168, 176])].hex()
    elif step["op"] == "prog_run":
        step["repeat"] = random.choice([0, 1, 2, 5])
    elif step["op"] == "mmap":
        field = random.choice(["length", "prot", "offset", "shared"])
        pages = [1, 4095, 4096, 4097, 8192, 12288, 16384, 20480, 0]
        step[field] = random.choice({"length": pages, "prot": [0, 1, 2, 3], "offset": pages[2:], "shared": [True, False]}[field])
    elif "count_in" in step:
        field = random.choice(["count_in", "count_in", "elem_flags", "flags", "in_batch"])
        cursors = [None, "00000000", "01000000", "07000000", "ffffffff", "0000000000000000"]
        reads = step["op"].startswith("lookup")
        step[field] = random.choice({"count_in": [0, 1, 2, 3, 4][:5 if reads else 4], "elem_flags": UPDATE_FLAGS, "flags": [0, 1, 4],
                                     "in_batch": cursors if reads else [None]}[field])
    elif "flags" in step and step["op"] != "create" and random.random() < 0.4:
        step["flags"] = random.choice(UPDATE_FLAGS)
    elif isinstance(step.get("key"), str) and step["key"]:
        key = bytearray.fromhex(step["key"])
        key[random.randrange(len(key))] = random.choice([0, 1, 2, 3, 4, 5, 8, 16, 24, 31, 32, 33, 64, 127, 128, 255])
        step["key"] = key.hex()


def change_program(random, step):
    code = bytearray.fromhex(step["insns"])
    at = lambda ops: [8 * i for i in range(len(code) // 8) if code[8 * i] in ops]
    calls, numbers = at({0x85}), at({0xB7, 0x62, 0x7A, 0xB4})
    which = random.random()
    if which < 0.35 or not (calls and numbers):
        step["prog_type"] = random.choice([kind for kind in linux.PROGS[1:-1] if kind not in ("struct_ops", "ext", "lsm", "tracing")])
    elif which < 0.6:
        helpers = [1, 2, 3, 12, 27, 51, 5, 7, 8, 87, 88, 89, 130, 131, 132, 133, 134, 164, 169, 170, 171, 195, 25, 52, 53, 82, 173]
        struct.pack_into("<i", code, random.choice(calls) + 4, random.choice(helpers))
    else:
        values = [0, 1, 2, 3, 4, 5, 7, 8, 16, 24, 64, -1, 4096, 4080, 4088, 4089, 256, 255, 1 << 30]
        struct.pack_into("<i", code, random.choice(numbers) + 4, random.choice(values))
    step["insns"] = code.hex()


def mutate(recorded, random):
    """Recorded cases with other kinds, attributes, arguments and instructions, steps twice or left out."""
    while True:
        steps = copy.deepcopy(random.choice(recorded.cases))["steps"]
        for _ in range(random.choice([1, 1, 1, 2, 2, 3])):
            which = random.random()
            if which < 0.35:
                change_kind(random, steps)
            elif which < 0.55:
                change_attribute(random, steps)
            elif which < 0.85:
                change_argument(random, steps)
            elif which < 0.95:
                steps.insert(random.randrange(len(steps) + 1), copy.deepcopy(random.choice(steps)))
            elif len(steps) > 1:
                steps.pop(random.randrange(len(steps)))
        if is_sound(steps):
            yield steps


def created(recorded, random, name, kind):
    """Steps that create a map of this kind as programs and callers use it, with what it needs before."""
    pick = random.choice
    step, before = create(name, kind), []
    if step["max_entries"] == 4:
        step["max_entries"] = pick([1, 2, 3, 4, 8])
    if kind in linux.STORAGES or (kind in ("hash", "array", "percpu_hash", "lru_hash") and random.random() < 0.25):
        value, size = pick([(7, 24), (5, 8), (10, 8), (8, 8), (1, 4)])
        before.append(recorded.btf)
        step.update(value_size=size, btf="btf", btf_key_id=1, btf_value_id=value)
    elif kind in ("hash", "array", "percpu_hash", "percpu_array", "lru_hash", "lru_percpu_hash", "queue", "stack"):
        step["value_size"] = pick([8, 8, 4, 1, 12])
    if kind in TARGETS:
        step["value_size"] = pick([4, 8])
    if kind in ("hash", "percpu_hash", "hash_of_maps") and random.random() < 0.4:
        step["flags"] |= NO_PREALLOC
    if kind.startswith("lru") and random.random() < 0.4:
        step["flags"] |= NO_COMMON_LRU
    if kind == "array" and random.random() < 0.4:
        step["flags"] |= MMAPABLE
    if kind in TABLES or kind == "bloom_filter":
        step["flags"] |= ZERO_SEED
    if kind == "bloom_filter":
        step.update(value_size=pick([4, 8, 5]), map_extra=pick([0, 1, 2, 15]))
    if random.random() < 0.1:
        step["flags"] |= pick([RDONLY, WRONLY, RDONLY_PROG, WRONLY_PROG, NO_PREALLOC])
    if kind.endswith("of_maps"):
        before += [inner_of(random)]
        step["inner"] = "i"
    return before + [step]


def loads(recorded, random):
    """Every kind in programs of every type."""
    types = [kind for kind in linux.PROGS[1:] if kind not in ("struct_ops", "ext", "lsm", "lirc_mode2")]
    while True:
        for kind in linux.KINDS[1:-1]:
            if kind == "struct_ops":
                continue
            steps = created(recorded, random, "m", kind)
            operations = programs.operations(steps[-1]) if random.random() < 0.8 else programs.ALL
            operation = random.choice(operations + ["mention"])
            prog_types = random.sample(types, len(types))
            yield steps + [load(prog_type, programs.use(random, operation, steps[-1])) for prog_type in prog_types]


# What each type of program is loaded for, where 0 will not do.
ATTACH = {"sk_lookup": 36, "netfilter": 45, "tracing": 23, "cgroup_sock_addr": 8, "cgroup_sockopt": 21, "cgroup_sock": 2}
RUN_TYPES = ["sched_cls"] * 6 + ["xdp"] * 4 + ["socket_filter", "syscall", "raw_tracepoint", "sched_act", "lwt_in", "lwt_xmit",
                                             "cgroup_skb", "flow_dissector", "sk_lookup"]
MAP_KINDS = ["hash", "array", "lru_hash"] * 2 + [kind for kind in linux.KINDS[1:-1] if kind not in (
    "task_storage", "inode_storage", "cgrp_storage", "struct_ops", "arena", "user_ringbuf")]


def load(prog_type, code):
    return {"op": "prog_load", "as": "p", "prog_type": prog_type, "insns": code.hex(), "map_relocs": code.maps,
            "prog_flags": 16 if prog_type == "syscall" else 0, "expected_attach_type": ATTACH.get(prog_type, 0)}


def runs_of_programs(recorded, random):
    """Programs that work on one or two maps, and what the maps hold then."""
    while True:
        steps, maps = [], []
        for name in ["m", "n"][:random.choice([1, 1, 2])]:
            steps += created(recorded, random, name, random.choice(MAP_KINDS))
            maps.append((name, steps[-1]))
        prog_type = random.choice(RUN_TYPES)
        for _ in range(random.randrange(1, 4)):
            steps.append(load(prog_type, programs.program(random, maps, prog_type)))
            for name, step in maps:
                if step["type"] == "prog_array":
                    key = f"{random.randrange(3):02x}000000"
                    steps.append({"op": "update", "map": name, "key": key, "value": {"fd_of": "p"}, "flags": 0})
                if step["type"].endswith("of_maps"):
                    key = programs.key_of(random, step["type"]).hex()
                    steps.append({"op": "update", "map": name, "key": key, "value": {"fd_of": "i"}, "flags": random.choice([0, 1, 2])})
            once = prog_type in ("syscall", "raw_tracepoint")
            cpu = random.choice([None, 0, 1]) if prog_type == "raw_tracepoint" else None
            steps.append({"op": "prog_run", "prog": "p", "repeat": 0 if once else random.choice([0, 1, 3]), "cpu": cpu, "flags": 0})
        for name, step in maps:
            if step["key_size"] and step["type"] not in ("devmap_hash", "sockhash", "stack_trace", *linux.STORAGES):
                key = fit(programs.key_of(random, step["type"]).hex(), step["key_size"])
                steps += [{"op": "walk_keys", "map": name, "ordered": False}, {"op": "lookup", "map": name, "key": key, "flags": 0}]
        yield steps


def test_runs(_, random):
    """What `BPF_PROG_TEST_RUN` takes and gives back, by type of program."""
    pick = random.choice
    words = [0, 1, 2, 4, 8, 14, 16, 60, 64, 256, 4096, 0xFFFFFFFF]
    while True:
        prog_type = pick(RUN_TYPES + ["lwt_out", "kprobe", "perf_event", "sk_msg", "netfilter"])
        changes = prog_type in ("xdp", "sched_cls", "sched_act") and random.random() < 0.7
        if changes:
            code = programs.packet_program(random, prog_type)
        else:
            code = programs.Code()
            code.set(0, pick([0, 1, 2]) if prog_type not in ("cgroup_skb", "sk_lookup", "netfilter") else pick([0, 1]))
            code.add(0x95)
        steps = [load(prog_type, code)]
        no_data = prog_type in ("syscall", "raw_tracepoint", "sk_lookup")
        for _ in range(random.randrange(1, 4)):
            packet = bytearray(pick(PACKETS))
            if len(packet) >= 14:
                packet[12:14] = pick([b"\x08\0", b"\x86\xdd", b"\x81\0", b"\0\0"])
            context = bytearray(pick([4, 8, 16, 20, 24, 28, 64, 72, 76, 80, 96, 104, 192, 193, 200, 256, 4096, 4097]))
            struct.pack_into("<I", context, random.randrange(len(context) // 4) * 4, pick(words))
            if prog_type == "xdp" and random.random() < 0.5:
                context[:8] = struct.pack("<2I", pick([0, 0, 4, 32]), pick([len(packet), 60]))
            step = {"op": "prog_run", "prog": "p", "repeat": 0 if no_data else pick([0, 1, 2]), "flags": pick([0] * 8 + [0 if changes else 4, 8, 128]),
                    "cpu": pick([None] * 9 + [0, 1, 2, 100]), "ctx_in": pick([None, None, context.hex()]),
                    "data_in": None if no_data else packet.hex()}
            for field, sizes in ("data_size_out", [1, 14, 20, 60, 64, 1514, 8192]), ("ctx_size_out", [1, 8, 24, 100, 192, 300]):
                if random.random() < 0.5:
                    step[field] = pick(sizes)
            steps.append(step)
        yield steps


GENERATORS = {"grid": grid, "mutate": mutate, "loads": loads, "programs": runs_of_programs, "runs": test_runs}
