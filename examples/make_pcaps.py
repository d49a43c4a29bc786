#!/usr/bin/env python3
"""Makes the small captures that the examples run on. The same bytes each time."""

import pathlib
import struct

HERE = pathlib.Path(__file__).parent
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
A, B = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
A6, B6 = bytes.fromhex("20010db8" + "00" * 11 + "01"), bytes.fromhex("20010db8" + "00" * 11 + "02")


def checksum(data):
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(kind, payload):
    return MAC_B + MAC_A + struct.pack("!H", kind) + payload


def ipv4(protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, A, B)
    return ethernet(0x0800, head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload)


def ipv6(protocol, payload):
    return ethernet(0x86DD, struct.pack("!IHBB16s16s", 0x60000000, len(payload), protocol, 64, A6, B6) + payload)


def pseudo(source, target, protocol, length):
    tail = struct.pack("!II", length, protocol) if len(source) == 16 else struct.pack("!BBH", 0, protocol, length)
    return source + target + tail


def udp(sport, dport, data, source=A, target=B, with_sum=True):
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    total = checksum(pseudo(source, target, 17, 8 + len(data)) + head + data) if with_sum else 0
    return head[:6] + struct.pack("!H", total) + data


def tcp(sport, dport, flags, data=b""):
    head = struct.pack("!HHIIBBHHH", sport, dport, 1000, 0, 0x50, flags, 8192, 0, 0)
    total = checksum(pseudo(A, B, 6, 20 + len(data)) + head + data)
    return head[:16] + struct.pack("!H", total) + head[18:] + data


def icmp_echo(sequence):
    body = struct.pack("!BBHHH", 8, 0, 0, 7, sequence) + b"rtbpf echo request"
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def arp():
    return ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + MAC_A + A + b"\0" * 6 + B + b"\0" * 18)


def write(name, packets):
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for index, packet in enumerate(packets):
        out += struct.pack("<IIII", 1700000000, index * 1000, len(packet), len(packet)) + packet
    (HERE / name).write_bytes(out)
    print(f"{name}: {len(packets)} packets, {len(out)} bytes")


write(
    "mixed.pcap",
    [
        arp(),
        ipv4(1, icmp_echo(1)),
        ipv4(1, icmp_echo(2)),
        ipv4(17, udp(5353, 53, b"question")),
        ipv4(17, udp(5354, 53, b"without a checksum", with_sum=False)),
        ipv4(6, tcp(40000, 80, 0x02)),
        ipv4(6, tcp(40000, 80, 0x18, b"GET / HTTP/1.0\r\n\r\n")),
        ipv6(17, udp(5353, 53, b"question", A6, B6)),
        ethernet(0x0800, b"\x45\0\0"),
        ipv4(47, b"\0\0\x08\0"),
    ],
)
write(
    "ports.pcap",
    [
        ipv4(6, tcp(40001, 8080, 0x02)),
        ipv4(6, tcp(40001, 443, 0x02)),
        ipv4(17, udp(40002, 8080, b"with a checksum")),
        ipv4(17, udp(40002, 8080, b"without one", with_sum=False)),
        ipv4(1, icmp_echo(1)),
        arp(),
    ],
)
