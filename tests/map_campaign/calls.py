"""Calls of `bpf(2)` one after the other on a map of any kind."""
import struct

import cases
import code as programs
import linux

KINDS = [kind for kind in linux.KINDS[1:-1] if kind != "struct_ops"]
OPS = (["update"] * 20 + ["lookup"] * 10 + ["delete"] * 6 + ["lookup_and_delete"] * 4 + ["get_next_key", "walk_keys", "info", "mmap"] * 2
       + ["lookup_batch", "update_batch"] * 4 + ["delete_batch", "lookup_and_delete_batch"] * 2 + ["bulk_update", "freeze", "munmap"])
# Objects that values stand for, besides ones that no map of objects takes.
VALUES = {"prog_array": ["p"] * 6, "array_of_maps": ["i", "j", "k"] * 2, "hash_of_maps": ["i", "j", "k"] * 2,
          "sockmap": ["tcp", "udp"] * 2, "sockhash": ["tcp", "udp"] * 2, "reuseport_sockarray": ["tcp", "udp"] * 2}


class Arguments:
    """What calls on a map give, mostly of a few keys."""

    def __init__(self, random, spec):
        self.random, self.kind, self.key_size = random, spec["type"], spec["key_size"]
        percpu = self.kind in linux.PERCPU
        self.room = (spec["value_size"] + 7) // 8 * 8 * linux.CPUS if percpu else spec["value_size"]
        self.known = [self.fresh() for _ in range(random.choice([1, 2, 3, 6]))]

    def fresh(self):
        return cases.fit(programs.key_of(self.random, self.kind).hex(), self.key_size)

    def key(self):
        pick = self.random.choice
        if self.kind in linux.STORAGES:
            return pick([{"fd_of": "o"}] * 8 + [{"fd_of": "bad"}, {"fd_of": "m"}, None, "e7030000"])
        if not self.key_size:
            return pick([None] * 4 + ["00000000"])
        return None if self.random.random() < 0.03 else pick(self.known * 2 + [self.fresh()])

    def value(self):
        pick, room = self.random.choice, self.room
        if self.random.random() < 0.02:
            return None
        if self.kind in linux.OBJECTS:
            return {"fd_of": pick(VALUES.get(self.kind, []) + ["bad", "m", "sock"])}
        if self.kind in cases.TARGETS:
            low = pick([0, 1, 192, 16384, 16385] if self.kind == "cpumap" else [0, 1, 2, 99])
            # The second word is a program or none.
            return struct.pack("<Ii", low, pick([0, -1, 999]))[:room].hex()
        if self.kind == "bloom_filter":
            return pick([1, 2, 3]).to_bytes(room, "little").hex()
        return self.random.randbytes(room).hex()

    def batch(self, op):
        pick, count = self.random.choice, self.random.choice([0, 1, 2, 3, 5])
        step = {"in_batch": None, "count_in": count, "elem_flags": pick([0, 0, 0, *cases.UPDATE_FLAGS]), "flags": pick([0] * 6 + [1, 4])}
        if op.startswith("lookup"):
            # Tables go on from the number of a bucket, the other kinds from a key.
            size = 4 if self.kind in cases.TABLES else self.key_size
            cursor = pick([None, None, None, "00000000", "01000000", "03000000", "ffffffff"])
            return dict(step, in_batch=cursor and cases.fit(cursor, size))
        step["keys"] = "".join(pick(self.known) for _ in range(count))
        if op == "update_batch":
            step["values"] = "".join(cases.fit(self.random.randbytes(8).hex(), self.room) for _ in range(count))
        return step

    def call(self, op):
        """The rest of such a step; `None` where answers are not the map's: numbers of descriptors, and orders with a seed."""
        pick, numbered = self.random.choice, self.kind in linux.OBJECTS or self.kind in linux.STORAGES
        ordered = self.kind not in ("devmap_hash", "sockhash")
        if op.endswith("batch"):
            return None if numbered else self.batch(op)
        if op == "mmap":
            return {"length": pick([4096, 8192, 4095, 12288]), "prot": pick([0, 1, 2, 3]), "shared": pick([True, True, False]),
                    "offset": pick([0, 0, 0, 4096, 8192])}
        if op == "bulk_update":
            words = self.room == 4 and self.key_size in (0, 4) and not numbered and self.kind not in cases.TARGETS
            return {"n": pick([1, 3, 9, 70, 300])} if words else None
        if op in ("info", "freeze", "munmap"):
            return {}
        if op == "walk_keys":
            return {"ordered": True} if ordered and self.key_size and self.kind not in linux.STORAGES else None
        if op == "get_next_key":
            return {"key": self.key()} if ordered else None
        step = {"key": self.key(), "flags": pick([0] * 12 + ([1, 4] if op == "delete" else cases.UPDATE_FLAGS))}
        if op == "update":
            step["value"] = self.value()
        elif self.kind == "bloom_filter":
            step["value_in"] = self.value()
        return step


def sequences(recorded, random):
    """Some calls on a map of any kind."""
    program = programs.Code()
    program.set(0, 0)
    program.add(0x95)
    while True:
        kind = random.choice(KINDS)
        steps = cases.created(recorded, random, "m", kind)
        arguments = Arguments(random, steps[-1])
        if kind in ("prog_array", "cpumap"):
            steps.append(cases.load(random.choice(["sched_cls", "xdp"]), program))
        if kind.endswith("of_maps"):
            other = random.choice(["array", "hash", "queue"])
            steps += [cases.create("j", steps[-2]["type"], max_entries=random.choice([4, 4, 5])), cases.create("k", other)]
        for op in random.choices(OPS, k=random.randrange(4, 24)):
            rest = arguments.call(op)
            if rest is not None:
                steps.append({"op": op, "map": "m", **rest})
        if cases.is_sound(steps):
            yield steps
