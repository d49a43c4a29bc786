#!/usr/bin/env python3
"""Copies every little-endian BPF object under a folder, whole files and objects within other files.

carve-objects.py FROM TO PREFIX
"""

import pathlib
import struct
import sys

MAGIC = b"\x7fELF\x02\x01\x01"
EM_BPF = 247


def objects(data):
    """Offset and bytes of each BPF object in data."""
    at = data.find(MAGIC)
    while at >= 0:
        header = data[at : at + 64]
        if len(header) == 64 and struct.unpack_from("<H", header, 18)[0] == EM_BPF:
            table, count = struct.unpack_from("<Q", header, 40)[0], struct.unpack_from("<H", header, 60)[0]
            end = table + 64 * count
            for index in range(count):
                section = data[at + table + 64 * index : at + table + 64 * index + 64]
                if len(section) == 64 and struct.unpack_from("<I", section, 4)[0] != 8:  # SHT_NOBITS
                    offset, size = struct.unpack_from("<QQ", section, 24)
                    end = max(end, offset + size)
            if at + end <= len(data):
                yield at, data[at : at + end]
        at = data.find(MAGIC, at + 1)


def main():
    source, target, prefix = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    for path in sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink()):
        found = list(objects(path.read_bytes()))
        for number, (at, data) in enumerate(found):
            stem = path.name.removesuffix(".o")
            inside = f".{number}" if at or len(found) > 1 else ""
            (target / f"{prefix}.{stem}{inside}.o").write_bytes(data)


main()
