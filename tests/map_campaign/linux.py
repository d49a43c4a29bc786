"""`bpf(2)` steps of the batch format (maps, programs, test runs) on the running kernel. Nothing is ever attached."""
import ctypes
import errno as E
import mmap as _mmap
import os
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

KINDS = ("unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash "
         "lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage "
         "reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf inode_storage "
         "task_storage bloom_filter user_ringbuf cgrp_storage arena insn_array").split()
PROGS = ("unspec socket_filter kprobe sched_cls sched_act tracepoint xdp perf_event cgroup_skb cgroup_sock lwt_in lwt_out "
         "lwt_xmit sock_ops sk_skb cgroup_device sk_msg raw_tracepoint cgroup_sock_addr lwt_seg6local lirc_mode2 "
         "sk_reuseport flow_dissector cgroup_sysctl raw_tracepoint_writable cgroup_sockopt tracing struct_ops ext lsm "
         "sk_lookup syscall netfilter").split()
PERCPU = {"percpu_hash", "percpu_array", "lru_percpu_hash", "percpu_cgroup_storage"}
OBJECTS = {"prog_array", "perf_event_array", "cgroup_array", "array_of_maps", "hash_of_maps", "xskmap", "sockmap",
           "sockhash", "reuseport_sockarray"}
STORAGES = {"task_storage", "sk_storage", "inode_storage", "cgrp_storage"}
CPUS = 2
# Bytes of the largest key that a case may have.
LARGEST_KEY = 1 << 16
(CREATE, LOOKUP, UPDATE, DELETE, NEXT, LOAD, TEST_RUN, INFO, BTF, TAKE, FREEZE, LOOKUP_BATCH, TAKE_BATCH, UPDATE_BATCH,
 DELETE_BATCH, STATS) = 0, 1, 2, 3, 4, 5, 10, 15, 18, 21, 22, 24, 25, 26, 27, 32


def bpf(cmd, attr, size=None):
    """The system call: its answer and errno."""
    attr = bytes(attr)
    buf = ctypes.create_string_buffer(attr, max(len(attr), 1))
    ctypes.set_errno(0)
    ret = libc.syscall(321, cmd, buf, len(attr) if size is None else size)
    return ret, ctypes.get_errno() if ret < 0 else 0, buf.raw


def address(buf):
    return 0 if buf is None else ctypes.addressof(buf)


def buffer(hexed, spare=64):
    if hexed is None:
        return None
    data = bytes.fromhex(hexed)
    return ctypes.create_string_buffer(data + bytes(spare), len(data) + spare)


def errno_name(number):
    return {524: "ENOTSUPP", 95: "EOPNOTSUPP", 35: "EDEADLK"}.get(number) or E.errorcode.get(number, str(number))


def trace_btf_id():
    """The type id of some raw tracepoint, which tracing programs must name."""
    blob = open("/sys/kernel/btf/vmlinux", "rb").read()
    _, _, _, head, toff, tlen, soff, slen = struct.unpack_from("<HBBIIIII", blob)
    types, strings = blob[head + toff:head + toff + tlen], blob[head + soff:head + soff + slen]
    extra = {1: 4, 3: 12, 14: 4, 17: 4}
    at, number = 0, 1
    while at < len(types):
        name, info, _ = struct.unpack_from("<III", types, at)
        kind, many = info >> 24 & 31, info & 0xffff
        if kind == 8 and strings[name:].startswith(b"btf_trace_sched_switch\0"):
            return number
        at += 12 + extra.get(kind, 0) + many * {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}.get(kind, 0)
        number += 1
    return 0


class World:
    def __init__(self, case):
        self.group = case.get("group", "")
        self.names, self.kinds, self.specs = {}, {}, {}
        self.closing, self.mappings, self.stats = [], [], None

    def close(self):
        for where, length in self.mappings:
            libc.munmap(where, length)
        for fd in self.closing + ([self.stats] if self.stats is not None else []):
            try:
                os.close(fd)
            except OSError:
                pass

    def add(self, name, fd):
        self.names[name] = fd
        self.closing.append(fd)

    def fd(self, name):
        if name in self.names:
            return self.names[name]
        if name in ("sock", "tcp"):
            fd = self.socket(socket.SOCK_STREAM)
        elif name == "udp":
            fd = self.socket(socket.SOCK_DGRAM)
        elif name == "o":
            fd = self.owner()
        else:
            return 999
        self.add(name, fd)
        return fd

    def socket(self, kind):
        s = socket.socket(socket.AF_INET, kind)
        return s.detach()

    def owner(self):
        if "task_storage" in self.group:
            return os.pidfd_open(os.getpid())
        if "inode_storage" in self.group:
            return os.open(os.path.abspath(__file__), os.O_RDONLY)
        if "cgrp_storage" in self.group:
            return os.open("/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup", os.O_RDONLY)
        return self.socket(socket.SOCK_STREAM)

    def argument(self, given):
        if isinstance(given, dict):
            return buffer(struct.pack("<i", self.fd(given["fd_of"])).hex())
        return buffer(given)

    def value_bytes(self, name):
        spec = self.specs.get(name)
        if not spec:
            return 8
        kind, size = spec["kind"], spec["value_size"]
        if kind in PERCPU:
            return (size + 7) // 8 * 8 * CPUS
        return 4 if kind in OBJECTS and size < 8 else size


def create(s, w):
    kind = s["type"] if isinstance(s["type"], int) else KINDS.index(s["type"])
    inner = s.get("inner", 0)
    inner = w.fd(inner) if isinstance(inner, str) else inner or 0
    name = s.get("name", "").encode()[:16].ljust(16, b"\0")
    attr = struct.pack("<7I16s5IQ", kind, s["key_size"], s["value_size"], s["max_entries"], s["flags"], inner,
                       s.get("numa_node", 0), name, 0, w.fd(s["btf"]) if "btf" in s else 0, s.get("btf_key_id", 0),
                       s.get("btf_value_id", 0), 0, s.get("map_extra", 0))
    ret, err, _ = bpf(CREATE, attr.ljust(80, b"\0"))
    if ret >= 0:
        w.add(s["as"], ret)
        w.specs[s["as"]] = dict(kind=KINDS[kind] if kind < len(KINDS) else "?", key_size=s["key_size"], value_size=s["value_size"])
    return err, {}


def create_raw(s, w):
    attr = bytes.fromhex(s.get("attr", ""))
    if "attr_len" in s:
        attr = struct.pack("<4I", 2, 4, 4, 1).ljust(s["attr_len"], b"\0")[:s["attr_len"]]
    ret, err, _ = bpf(CREATE, attr)
    if ret >= 0:
        w.add(s.get("as", "?"), ret)
    return err, {}


def btf_load(s, w):
    blob = buffer(s["blob"], 0)
    ret, err, _ = bpf(BTF, struct.pack("<QQIII", address(blob), 0, len(s["blob"]) // 2, 0, 0).ljust(40, b"\0"))
    if ret >= 0:
        w.add(s["as"], ret)
    return err, {}


def element(cmd, s, w, reads=False):
    key, value = w.argument(s.get("key")), w.argument(s.get("value"))
    name = s["map"]
    if reads:
        given = bytes.fromhex(s.get("value_in") or "")
        room = w.value_bytes(name)
        value = ctypes.create_string_buffer(given.ljust(room, b"\0"), room + 64)
    ret, err, _ = bpf(cmd, struct.pack("<IIQQQ", w.fd(name), 0, address(key), address(value), s.get("flags", 0) & (1 << 64) - 1))
    if err or not reads:
        return err, {}
    out = value.raw[:w.value_bytes(name)].hex()
    # Numbers of objects differ from machine to machine.
    return 0, {} if w.specs.get(name, {}).get("kind") in OBJECTS else {"value": out}


def next_of(s, w, key):
    out = ctypes.create_string_buffer(LARGEST_KEY)
    _, err, _ = bpf(NEXT, struct.pack("<IIQQQ", w.fd(s["map"]), 0, address(key), address(out), 0))
    return err, out.raw[:w.specs.get(s["map"], {"key_size": 4})["key_size"]]


def get_next_key(s, w):
    err, out = next_of(s, w, w.argument(s.get("key")))
    return err, {} if err else {"next_key": out.hex()}


def walk_keys(s, w):
    keys, key = [], None
    while len(keys) < 100000:
        err, out = next_of(s, w, key)
        if err:
            break
        keys.append(out.hex())
        key = buffer(out.hex())
    if not s.get("ordered", True):
        keys.sort()
    return err, {"count": len(keys), "keys": keys}


def bulk_update(s, w):
    if s["map"] not in w.specs:
        return E.EBADF, {}
    fails = 0
    keyless = not w.specs[s["map"]]["key_size"]
    for i in range(s["n"]):
        word = buffer(struct.pack("<I", i).hex())
        err = bpf(UPDATE, struct.pack("<IIQQQ", w.fd(s["map"]), 0, 0 if keyless else address(word), address(word), 0))[1]
        fails += err != 0
    return 0, {"failures": fails}


def batch(cmd, s, w, reads):
    name, count = s["map"], s["count_in"]
    spec = w.specs.get(name, {"key_size": 4, "kind": "?"})
    start, out_batch = buffer(s.get("in_batch"), LARGEST_KEY), ctypes.create_string_buffer(LARGEST_KEY)
    room = w.value_bytes(name)
    if reads:
        keys = ctypes.create_string_buffer(spec["key_size"] * count + 4096)
        values = ctypes.create_string_buffer(room * count + 4096)
    else:
        keys, values = buffer(s.get("keys")), buffer(s.get("values"))
    attr = struct.pack("<QQQQIIQQ", address(start), address(out_batch), address(keys), address(values), count, w.fd(name),
                       s.get("elem_flags", 0), s.get("flags", 0))
    _, err, back = bpf(cmd, attr)
    count = struct.unpack_from("<I", back, 32)[0]
    out = {"count_out": count}
    if reads and spec["kind"] not in OBJECTS and count <= s["count_in"]:
        k = spec["key_size"]
        out["pairs_sorted"] = sorted(
            keys.raw[i * k:i * k + k].hex() + ":" + values.raw[i * room:i * room + room].hex() for i in range(count))
    return err, out


def freeze(s, w):
    return bpf(FREEZE, struct.pack("<I", w.fd(s["map"])))[1], {}


def mmap(s, w):
    ctypes.set_errno(0)
    where = libc.mmap(None, s["length"], s["prot"], 1 if s.get("shared", True) else 2, w.fd(s["map"]), s["offset"])
    if where is None or where == ctypes.c_void_p(-1).value:
        return ctypes.get_errno(), {}
    w.mappings.append((where, s["length"]))
    return 0, {}


def munmap(_, w):
    for where, length in w.mappings:
        libc.munmap(where, length)
    w.mappings = []
    return 0, {}


def info(s, w):
    out = ctypes.create_string_buffer(256)
    _, err, _ = bpf(INFO, struct.pack("<IIQ", w.fd(s["map"]), 256, address(out)))
    if err:
        return err, {}
    f = struct.unpack_from("<6I", out.raw)
    return 0, {"type": f[0], "key_size": f[2], "value_size": f[3], "max_entries": f[4], "map_flags": f[5]}


def prog_info(s, w):
    out = ctypes.create_string_buffer(512)
    _, err, _ = bpf(INFO, struct.pack("<IIQ", w.fd(s["prog"]), 232, address(out)))
    if err:
        return err, {}
    time, count, misses = struct.unpack_from("<QQQ", out.raw, 192)
    return 0, {"run_cnt": count, "recursion_misses": misses, "run_time_nonzero": time > 0}


TRACE_ID = None


def prog_load(s, w):
    global TRACE_ID
    code = bytearray.fromhex(s["insns"])
    for at, name in (s.get("map_relocs") or {}).items():
        struct.pack_into("<i", code, int(at) * 8 + 4, w.fd(name))
    insns = ctypes.create_string_buffer(bytes(code), max(len(code), 8))
    licence, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(1 << 16)
    target = 0
    if s["prog_type"] == "tracing":
        TRACE_ID = TRACE_ID if TRACE_ID is not None else trace_btf_id()
        target = TRACE_ID
    attr = struct.pack("<IIQQIIQII16sIIIIQIIQIIII", PROGS.index(s["prog_type"]), len(code) // 8, address(insns),
                       address(licence), 1, 1 << 16, address(log), 0, s.get("prog_flags", 0), bytes(16), 0,
                       s.get("expected_attach_type", 0), 0, 0, 0, 0, 0, 0, 0, target, 0, 0)
    ret, err, _ = bpf(LOAD, attr.ljust(148, b"\0"))
    if ret >= 0:
        w.add(s["as"], ret)
        return 0, {}
    lines = [line for line in log.value.decode(errors="replace").splitlines() if line]
    lines = [line for line in lines if not line.startswith("processed ")] or lines
    return err, {"log_tail": lines[-1] if lines else ""}


def signed(word):
    return word - (1 << 32) if word >> 31 else word


def prog_run(s, w):
    data = s.get("data_in")
    takes = s.get("prog_type") in DATA_TYPES if "prog_type" in s else True
    data = data if data is not None else ("00" * 64 if takes else None)
    data_in, ctx_in = buffer(data), buffer(s.get("ctx_in"))
    size_in, ctx_size = len(data or "") // 2, len(s.get("ctx_in") or "") // 2
    out = ctypes.create_string_buffer(1 << 16) if "data_size_out" in s else None
    ctx_out = ctypes.create_string_buffer(1 << 12) if "ctx_size_out" in s else None
    flags = s.get("flags", 0) | (1 if s.get("cpu") is not None else 0)
    if s.get("no_data_in"):
        data_in, size_in = None, 0
    attr = struct.pack("<IIIIQQIIIIQQIII", w.fd(s["prog"]), UNTOUCHED, size_in, s.get("data_size_out", 0), address(data_in),
                       address(out), s.get("repeat", 1), 0, ctx_size, s.get("ctx_size_out", 0), address(ctx_in),
                       address(ctx_out), flags, s.get("cpu") or 0, s.get("batch_size", 0))
    _, err, back = bpf(TEST_RUN, attr.ljust(80, b"\0"))
    f = struct.unpack_from("<IIIIQQIIIIQQ", back)
    # Nothing comes back where a buffer is too short for the fragments of a frame.
    results, nothing = {}, f[1] == UNTOUCHED
    if out is not None and err in (0, E.ENOSPC):
        results["data_out"] = "" if nothing else out.raw[:min(f[3], s["data_size_out"])].hex()
    if ctx_out is not None and not nothing and f[3] <= s.get("data_size_out", f[3]) and err in (0, E.ENOSPC):
        # What a netfilter hook gave is never written back.
        results["ctx_out"] = "" if s["prog_type"] == "netfilter" else ctx_out.raw[:min(f[9], s["ctx_size_out"])].hex()
    if not err:
        results["retval"] = signed(f[1])
    return err, results


# A result that no program of the campaign returns.
UNTOUCHED = 0x5A5A5A5A
DATA_TYPES = {"socket_filter", "sched_cls", "sched_act", "xdp", "cgroup_skb", "lwt_in", "lwt_out", "lwt_xmit",
              "lwt_seg6local", "flow_dissector", "netfilter"}


def enable_stats(s, w):
    ret, err, _ = bpf(STATS, struct.pack("<I", s["type"]))
    if ret >= 0:
        w.closing.append(w.stats) if w.stats is not None else None
        w.stats = ret
    return err, {}


OPS = {
    "create": create, "create_raw_attr": create_raw, "btf_load": btf_load, "get_next_key": get_next_key,
    "walk_keys": walk_keys, "bulk_update": bulk_update, "freeze": freeze, "mmap": mmap, "munmap": munmap, "info": info,
    "prog_load": prog_load, "prog_run": prog_run, "prog_info": prog_info, "enable_stats": enable_stats,
    "update": lambda s, w: element(UPDATE, s, w), "delete": lambda s, w: element(DELETE, s, w),
    "lookup": lambda s, w: element(LOOKUP, s, w, True), "lookup_and_delete": lambda s, w: element(TAKE, s, w, True),
    "lookup_batch": lambda s, w: batch(LOOKUP_BATCH, s, w, True),
    "lookup_and_delete_batch": lambda s, w: batch(TAKE_BATCH, s, w, True),
    "update_batch": lambda s, w: batch(UPDATE_BATCH, s, w, False),
    "delete_batch": lambda s, w: batch(DELETE_BATCH, s, w, False),
}
OUTPUTS = {"ret", "errno", "errno_num", "next_key", "count_out", "pairs_sorted", "retval", "retval_errno", "log_tail",
           "failures", "run_cnt", "recursion_misses", "run_time_nonzero", "data_out", "ctx_out"}
OWN = {"lookup": {"value"}, "lookup_and_delete": {"value"}, "walk_keys": {"count", "keys"},
       "info": {"type", "key_size", "value_size", "max_entries", "map_flags"}}


def inputs(step):
    """The step without what it answered."""
    outs = OUTPUTS | OWN.get(step["op"], set())
    return {k: v for k, v in step.items() if k not in outs}


def answer(case):
    """The case with what the running kernel answers to each step."""
    w = World(case)
    steps, types = [inputs(s) for s in case["steps"]], {}
    last = max((i for i, s in enumerate(steps) if s["op"] == "prog_run"), default=-1)
    if case["cred"] != "root":
        os.seteuid(int(case["cred"].removeprefix("uid")))
    try:
        for i, s in enumerate(steps):
            if i == last and w.stats is not None:
                os.close(w.stats)
                w.stats = None
            given = dict(s, prog_type=types.get(s.get("prog"), "sched_cls")) if s["op"] == "prog_run" else s
            err, out = OPS[s["op"]](given, w)
            if s["op"] == "prog_load" and not err:
                types[s["as"]] = s["prog_type"]
            s.update(ret=-1 if err else 0, errno=errno_name(err) if err else None, **out)
            if err:
                s["errno_num"] = err
    finally:
        os.seteuid(0)
        w.close()
    return dict(case, steps=steps)


def same(theirs, ours):
    """Whether a step answers alike: errno always, outputs where it succeeded."""
    if theirs["errno"] != ours.get("errno"):
        return False
    if theirs["ret"] < 0:
        # A batch says how far it came, and at the end of the table what it read; a test run, what it copied.
        outputs = ["count_out", "data_out", "ctx_out"] + (["pairs_sorted"] if theirs["errno"] == "ENOENT" else [])
        return all(theirs[name] == ours.get(name) for name in outputs if name in theirs)
    for name, value in theirs.items():
        if name in ("ret", "errno_num", "log_tail"):
            continue
        mine = ours.get(name)
        if theirs.get("ordered") is False and isinstance(value, list):
            value, mine = sorted(value), sorted(mine or [])
        if value != mine:
            return False
    return True
