#!/usr/bin/env python3
"""The table of real-objects.sh: real-objects.py RTBPF OBJECTS CAPTURE"""

import json
import pathlib
import subprocess
import sys

# Types that must run on packets, and the input each takes.
PACKET_TYPES = {"xdp", "sched_cls", "sched_act"}
# A LIRC sample: a pulse of 560 microseconds.
SAMPLE = "30020001"
# Entries of a map that its object leaves empty, for its host to size by the machine or by what it was told.
ENTRIES = 64
# What ir-keytable makes of its table of raw patterns: a scan code and 68 lengths each.
SIZES = {"raw_map": "1024,140"}


def call(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    try:
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        answer = None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return answer, lines[0] if lines else f"exit status {done.returncode}"


def needs_size(map_):
    storage = map_["type"].endswith("_storage") or map_["type"] == "cgrp_storage"
    return map_["name"] in SIZES or map_["max_entries"] == 0 and not storage


def has_fault(value):
    if isinstance(value, dict):
        return any(key in ("fault", "faults") and inner for key, inner in value.items()) or any(
            has_fault(inner) for inner in value.values()
        )
    return isinstance(value, list) and any(has_fault(inner) for inner in value)


def run(rtbpf, path, program, capture, sized_by_host):
    """`verified`, `unverified` with why, or why it does not run."""
    given = ["--pcap", capture] if program["type"] in PACKET_TYPES else ["--ctx", SAMPLE]
    given += [f"--resize={name}={SIZES.get(name, ENTRIES)}" for name in sized_by_host]
    words = [rtbpf, "run", str(path), "--prog", program["name"], *given, "--json"]
    answer, why = call(*words)
    if answer is not None and not has_fault(answer):
        return "verified", ""
    answer, fault = call(*words, "--no-verify")
    if answer is not None and not has_fault(answer):
        return "unverified", why
    return "failed", fault if answer is None else f"fault: {json.dumps(answer)[:200]}"


def main():
    rtbpf, folder, capture = sys.argv[1:]
    print(f"{'object':48} {'progs':>5} {'maps':>4} {'relocs':>6} {'poison':>6}  {'loaded':7} run")
    total = dict.fromkeys(["objects", "loaded", "ran", "verified", "failed"], 0)
    notes = []
    for path in sorted(pathlib.Path(folder).glob("*.o")):
        total["objects"] += 1
        object_, why = call(rtbpf, "inspect", "--json", str(path))
        name = path.name.removesuffix(".o")[:48]
        if object_ is None:
            print(f"{name:48} {'':25}  NO      {why}")
            continue
        total["loaded"] += 1
        sized_by_host = [map_["name"] for map_ in object_["maps"] if needs_size(map_)]
        counts = {"verified": 0, "unverified": 0, "failed": 0}
        for program in object_["programs"]:
            if program["type"] in PACKET_TYPES | {"lirc_mode2"}:
                how, note = run(rtbpf, path, program, capture, sized_by_host)
                counts[how] += 1
                if note:
                    notes.append(f"{name} {program['name']}: {how}: {note}")
        ran = counts["verified"] + counts["unverified"]
        total["ran"] += ran
        total["verified"] += counts["verified"]
        total["failed"] += counts["failed"]
        said = ", ".join(f"{count} {how}" for how, count in counts.items() if count) or "no packet program"
        relocs = object_["relocations"]
        print(
            f"{name:48} {len(object_['programs']):5} {len(object_['maps']):4} {relocs['applied']:6} "
            f"{relocs['poisoned']:6}  {'yes':7} {said}"
        )
    print("\n".join(["", *notes, ""]))
    print(
        f"{total['loaded']} of {total['objects']} objects loaded; {total['ran']} xdp, tc and lirc programs ran "
        f"({total['verified']} verified), {total['failed']} did not"
    )
    return 0 if total["objects"] and total["loaded"] == total["objects"] and not total["failed"] else 1


sys.exit(main())
