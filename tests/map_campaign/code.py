"""Small programs over maps, as slots in hex with the maps they name."""
import struct

LOOKUP, UPDATE, DELETE, TAIL_CALL, PERF_OUTPUT, STACKID, REDIRECT = 1, 2, 3, 12, 25, 27, 51
PUSH, POP, PEEK, LOCK, UNLOCK, OUTPUT, RESERVE, SUBMIT, DISCARD, QUERY = 87, 88, 89, 93, 94, 130, 131, 132, 133, 134
TIMER_INIT, TIMER_START, TIMER_CANCEL, LOOKUP_PERCPU = 169, 171, 172, 195
SKB_UNDER_CGROUP, TASK_UNDER_CGROUP, PERF_READ, PERF_READ_VALUE = 33, 37, 22, 55
RESERVE_DYNPTR, SUBMIT_DYNPTR, DISCARD_DYNPTR, DYNPTR_WRITE = 198, 199, 200, 202
SK_STORAGE_GET, SK_STORAGE_DELETE, LOCAL_STORAGE = 107, 108, 81
KEY, VALUE, DYNPTR = -8, -32, -56
# Where `__sk_buff` has its socket.
SK = 168
UPDATE_FLAGS = [0, 0, 0, 0, 1, 2, 3, 4, 8, 16, -1]
NONE, MISS = 0, 77


def signed(word):
    return word - (1 << 32) if word >> 31 else word


class Code:
    """An assembler for what the campaign needs."""

    def __init__(self):
        self.slots, self.maps = [], {}

    def add(self, op, dst=0, src=0, off=0, imm=0):
        self.slots.append(struct.pack("<BBhi", op, dst | src << 4, off, imm))

    def set(self, dst, imm):
        self.add(0xB7, dst, imm=imm)

    def set64(self, dst, value):
        self.add(0x18, dst, imm=signed(value & 0xFFFFFFFF))
        self.add(0, imm=signed(value >> 32 & 0xFFFFFFFF))

    def move(self, dst, src):
        self.add(0xBF, dst, src)

    def map(self, dst, name):
        self.maps[str(len(self.slots))] = name
        self.add(0x18, dst, 1)
        self.add(0)

    def stack(self, dst, off):
        self.move(dst, 10)
        self.add(0x07, dst, imm=off)

    def store(self, off, value):
        self.set64(1, value)
        self.add(0x7B, 10, 1, off=off)

    def call(self, helper):
        self.add(0x85, imm=helper)

    def unless_null(self, body, instead=MISS):
        """Runs `body` if r0 is not 0; else r0 is `instead`."""
        self.add(0x55, 0, off=2, imm=0)
        self.set(0, instead)
        at = len(self.slots)
        self.add(0x05)
        body()
        self.slots[at] = struct.pack("<BBhi", 0x05, 0, len(self.slots) - at - 1, 0)

    def mix(self):
        """Makes r0 part of the result, which is in r7."""
        self.add(0x27, 7, imm=31)
        self.add(0x0F, 7, 0)

    def hex(self):
        return b"".join(self.slots).hex()


def key_of(random, kind):
    if kind == "lpm_trie":
        address = random.choice([(10, 0, 0, 0), (10, 1, 0, 0), (10, 1, 2, 3), (192, 168, 0, 1), (11, 255, 0, 128)])
        return struct.pack("<IBBBB", random.choice([0, 1, 8, 16, 24, 31, 32, 33, 40]), *address)
    return struct.pack("<I", random.choice([0, 1, 2, 3, 4, 5, 7, 8, 100, 0xFFFFFFFF]))


def operations(spec):
    """What programs do with such a map."""
    kind = spec["type"]
    if kind in ("queue", "stack", "bloom_filter"):
        return ["push", "pop", "peek"]
    own = {
        "ringbuf": ["output", "reserve", "dynptr", "query"], "prog_array": ["tail"] * 3 + ["lookup"], "stack_trace": ["stackid", "lookup", "delete"],
        "perf_event_array": ["perf_output", "perf_read", "perf_read_value"], "cgroup_array": ["under", "task_under", "lookup"],
        "hash_of_maps": ["lookup", "inner", "inner", "update"], "array_of_maps": ["lookup", "inner", "inner", "update"],
    }
    if "cgroup_storage" in kind:
        return ["local_storage"]
    if kind == "sk_storage":
        return ["storage"]
    if kind in ("devmap", "devmap_hash", "cpumap", "xskmap"):
        return ["redirect"] * 3 + ["lookup"]
    if kind in own:
        return own[kind]
    more = ["lookup_percpu"] * 3 if kind in ("percpu_hash", "percpu_array", "lru_percpu_hash") else []
    more += {7: ["timer"] * 6, 5: ["spin"] * 4}.get(spec.get("btf_value_id"), [])
    return ["lookup"] * 4 + ["update"] * 4 + ["delete"] * 2 + ["stale"] * 2 + more


ALL = ["lookup", "update", "delete", "push", "pop", "peek", "output", "redirect", "lookup_percpu", "perf_output", "stackid", "tail"]


def add_operation(code, random, operation, name, spec):
    """Adds one operation on map `name`, which `spec` creates; its result is in r0."""
    pick, kind = random.choice, spec["type"]
    # The widest load that a value has room for; sometimes a wider one.
    width = 0x79 if spec["value_size"] >= 8 or random.random() < 0.05 else 0x61 if spec["value_size"] >= 4 else 0x71
    key = lambda: code.store(KEY, int.from_bytes(key_of(random, kind).ljust(8, b"\0"), "little"))
    value = lambda: code.store(VALUE, random.getrandbits(16))
    load = lambda: code.add(width, 0, 0)
    key_arguments = lambda: (key(), code.map(1, name), code.stack(2, KEY))

    def in_value(what):
        key_arguments()
        code.call(LOOKUP)
        code.unless_null(what)

    def locked():
        code.move(8, 0)
        code.move(1, 8)
        code.call(LOCK)
        code.add(0x61, 9, 8, off=4)
        code.add(0x07, 9, imm=1)
        code.add(0x63, 8, 9, off=4)
        code.move(1, 8)
        code.call(UNLOCK)
        code.move(0, 9)

    def timer():
        code.move(1, 0)
        code.add(0x07, 1, imm=pick([8, 8, 8, 0]))
        which = pick([TIMER_INIT, TIMER_START, TIMER_CANCEL])
        if which == TIMER_INIT:
            code.map(2, name)
            code.set(3, pick([0, 1, 7, 2, 15, 16]))
        elif which == TIMER_START:
            code.set(2, 1000)
            code.set(3, pick([0, 1, 2, 3, 4, 8]))
        code.call(which)

    def inner():
        code.move(1, 0)
        code.add(0x62, 10, off=KEY, imm=pick([0, 1, 2]))
        code.stack(2, KEY)
        which = pick([LOOKUP, UPDATE, DELETE])
        if which == UPDATE:
            code.stack(3, VALUE)
            code.set(4, 0)
        code.call(which)
        if which == LOOKUP:
            code.unless_null(load, 55)

    def counted():
        code.add(0x61, 9, 0)
        code.add(0x07, 9, imm=1)
        code.add(0x63, 0, 9)
        code.move(0, 9)

    def stale():
        """What an old pointer leads to when the map changed meanwhile."""
        code.move(8, 0)
        for _ in range(pick([1, 1, 2])):
            if random.random() < 0.4:
                key()
            code.map(1, name)
            code.stack(2, KEY)
            if random.random() < 0.5:
                code.call(DELETE)
            else:
                code.stack(3, VALUE)
                code.set(4, 0)
                code.call(UPDATE)
            code.mix()
        code.add(width, 0, 8)

    def ended():
        code.move(1, 0)
        code.set(2, pick([0, 1, 2, 3, 4]))
        code.call(pick([SUBMIT, DISCARD]))
        code.set(0, 5)

    if operation == "lookup":
        in_value(load)
    elif operation == "stale":
        value()
        in_value(stale)
    elif operation == "spin":
        in_value(locked)
    elif operation == "timer":
        in_value(timer)
    elif operation == "inner":
        in_value(inner)
    elif operation == "lookup_percpu":
        key_arguments()
        code.set(3, pick([0, 1, 2, 3, -1]))
        code.call(LOOKUP_PERCPU)
        code.unless_null(load)
    elif operation == "update":
        value()
        key_arguments()
        code.stack(3, VALUE)
        code.set(4, pick(UPDATE_FLAGS))
        code.call(UPDATE)
    elif operation == "delete":
        key_arguments()
        code.call(DELETE)
    elif operation in ("push", "pop", "peek"):
        value()
        code.map(1, name)
        code.stack(2, VALUE)
        if operation == "push":
            code.set(3, pick(UPDATE_FLAGS))
        code.call({"push": PUSH, "pop": POP, "peek": PEEK}[operation])
        if operation != "push":
            code.mix()
            code.add(0x79, 0, 10, off=VALUE)
    elif operation == "output":
        value()
        code.map(1, name)
        code.stack(2, VALUE)
        code.set(3, pick([8, 1, 7, 16, 24, 32, 0]))
        code.set(4, pick([0, 1, 2, 3, 4, 8]))
        code.call(OUTPUT)
    elif operation == "reserve":
        code.map(1, name)
        code.set(2, pick([8, 16, 1, 1000, 2048, 4080, 4088, 4089, 4096, 0]))
        code.set(3, pick([0, 0, 0, 0, 1, 2]))
        code.call(RESERVE)
        code.unless_null(ended)
    elif operation == "dynptr":
        code.map(1, name)
        code.set(2, pick([8, 16, 1, 1000, 4080, 4088, 4089, 0]))
        code.set(3, pick([0, 0, 0, 0, 1, 2]))
        code.stack(4, DYNPTR)
        code.call(RESERVE_DYNPTR)
        code.mix()
        code.stack(1, DYNPTR)
        code.set(2, pick([0, 1, 8, 100]))
        code.stack(3, VALUE)
        code.set(4, pick([8, 8, 1, 16]))
        code.set(5, pick([0, 0, 0, 1]))
        if random.random() < 0.5:
            code.call(DYNPTR_WRITE)
            code.mix()
        code.stack(1, DYNPTR)
        code.set(2, pick([0, 1, 2, 3, 4]))
        code.call(pick([SUBMIT_DYNPTR, DISCARD_DYNPTR]))
        code.set(0, 5)
    elif operation == "storage":
        # Of the packet's socket: twice got, the value changed between, or deleted.
        code.add(0x79, 8, 6, off=SK)
        for _ in range(2):
            with_socket = len(code.slots)
            code.add(0x15, 8, off=0, imm=0)
            value()
            code.map(1, name)
            code.move(2, 8)
            if random.random() < 0.8:
                code.set(3, 0) if random.random() < 0.5 else code.stack(3, VALUE)
                code.set(4, pick([1, 1, 1, 0, 2]))
                code.call(SK_STORAGE_GET)
                code.unless_null(counted)
            else:
                code.call(SK_STORAGE_DELETE)
            code.mix()
            code.slots[with_socket] = struct.pack("<BBhi", 0x15, 8, len(code.slots) - with_socket - 1, 0)
        code.set(0, 3)
    elif operation == "local_storage":
        code.map(1, name)
        code.set(2, pick([0, 0, 0, 1]))
        code.call(LOCAL_STORAGE)
        counted()
    elif operation == "query":
        code.map(1, name)
        code.set(2, pick([0, 1, 2, 3, 4, 9]))
        code.call(QUERY)
    elif operation == "redirect":
        code.map(1, name)
        code.set(2, pick([0, 1, 2, 3, 4, 100]))
        code.set(3, pick([0, 1, 2, 3, 4, 5, 8, 16, 24]))
        code.call(REDIRECT)
    elif operation == "perf_read":
        code.map(1, name)
        code.set64(2, pick([0, 1, 0xFFFFFFFF, 1 << 32]))
        code.call(PERF_READ)
    elif operation == "perf_read_value":
        code.map(1, name)
        code.set64(2, pick([0, 1, 0xFFFFFFFF]))
        code.stack(3, VALUE)
        code.set(4, pick([24, 16]))
        code.call(PERF_READ_VALUE)
    elif operation == "task_under":
        code.map(1, name)
        code.set(2, pick([0, 1, 100]))
        code.call(TASK_UNDER_CGROUP)
    else:
        code.move(1, 6)
        code.map(2, name)
        if operation == "perf_output":
            code.set64(3, pick([0, 1, 2, 0xFFFFFFFF, 1 << 32, 1 << 52]))
            code.stack(4, VALUE)
            code.set(5, 8)
            code.call(PERF_OUTPUT)
        else:
            code.set(3, pick([0, 1, 2, 100, 256, 512, 1024, 2048]))
            code.call({"tail": TAIL_CALL, "stackid": STACKID, "under": SKB_UNDER_CGROUP}[operation])
            # Stacks have other numbers here.
            code.add(0x77, 0, imm=63) if operation == "stackid" else code.set(0, 9) if operation == "tail" else None


def ends(code, random, prog_type):
    """Leaves with a result that programs of this type may have."""
    if prog_type in ("cgroup_skb", "sk_lookup", "lwt_in", "lwt_xmit"):
        code.add(0x57, 0, imm=1)
    elif prog_type == "flow_dissector":
        code.set(0, random.choice([0, 1, 2, 129]))
    code.add(0x95)


def begins(code):
    code.move(6, 1)
    code.set(7, 0)
    for off in range(8, 120, 8):
        code.add(0x7A, 10, off=-off)


def use(random, operation, spec):
    """A program that does one thing with map `m`, or only names it, and returns 0."""
    code = Code()
    begins(code)
    if operation == "mention":
        code.map(1, "m")
    else:
        add_operation(code, random, operation, "m", spec)
    code.set(0, 0)
    code.add(0x95)
    return code


# What helpers do to a packet: numbers, and what each of their arguments after the context may be; "stack" is a buffer there.
OFFSETS, PIECES = [0, 1, 4, 14, 34, 60, 100, 5000, -1], [1, 2, 4, 8, 16]
XDP_HELPERS = [(44, [-4, -40, -256, -300, 4, 14, 50, 60]), (54, [-4, -8, -32, -33, -216, -220, 4, 8]), (65, [1, -1, -50, -51, 4, 100, 4000]),
               (188,), (189, OFFSETS, "stack", PIECES), (190, OFFSETS, "stack", PIECES)]
SKB_HELPERS = [(38, [0, 13, 14, 20, 34, 60, 64, 100, 1600, 70000], [0, 1]), (39, [0, 1, 34, 60, 64, 100, 5000]),
               (43, [0, 1, 14, 64, 300], [0, 1]), (9, OFFSETS, "stack", PIECES, [0, 1, 2, 3, 8]), (26, OFFSETS, "stack", PIECES),
               (50, [0, 4, 8, 20, -4, -20, 300], [0, 1, 2], [0, 1, 2, 4, 8, 16, 32]), (31, [0x0008, 0xDD86, 0x0608], [0, 1]),
               (32, [0, 1, 2, 3, 4]), (18, [0x0081, 0xA888, 0], [0, 1, 0x1FFF]), (19,), (48, [0, 1, 77]), (40, [0, 1, 0xFFFF]),
               (10, OFFSETS, [0, 1], [1, 2], [0, 2, 4, 3]), (11, OFFSETS, [0, 1], [1, 2], [0, 2, 4, 16, 18, 32])]


def packet_program(random, prog_type):
    """A program that changes its packet and its context."""
    code, helpers = Code(), XDP_HELPERS if prog_type == "xdp" else SKB_HELPERS
    begins(code)
    for _ in range(random.randrange(1, 4)):
        if prog_type != "xdp" and random.random() < 0.3:
            # mark, priority, a word of cb, tstamp
            code.add(0x62, 6, off=random.choice([8, 32, 48, 64]), imm=random.choice([0, 1, 77]))
            continue
        helper, *arguments = random.choice(helpers)
        code.move(1, 6)
        for register, choices in enumerate(arguments, 2):
            if choices == "stack":
                code.store(VALUE, random.getrandbits(63))
                code.stack(register, VALUE)
                code.move(1, 6)
            else:
                code.set(register, random.choice(choices))
        code.call(helper)
        code.mix()
    code.move(0, 7)
    code.add(0x95)
    return code


def program(random, maps, prog_type):
    """A program of some operations on `maps`, pairs of name and step that creates it."""
    code = Code()
    begins(code)
    for _ in range(random.randrange(1, 5)):
        name, spec = random.choice(maps)
        operation = random.choice(ALL if random.random() < 0.03 else operations(spec))
        add_operation(code, random, operation, name, spec)
        code.mix()
    code.move(0, 7)
    ends(code, random, prog_type)
    return code
