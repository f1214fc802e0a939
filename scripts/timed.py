#!/usr/bin/env python3
"""One timed run for the benchmarks: timed.py STORE NAME COMMAND...

STORE, a JSON file, keeps for each NAME the wall and CPU seconds of the quickest of its runs and the highest peak of memory. With
TIMED_SERVER, the id of a process that the command talks to, also the CPU seconds of that one.
"""
import json
import os
import subprocess
import sys
import time


def cpu_seconds(pid):
    """CPU seconds of a process, which may be none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    store, name, *command = sys.argv[1:]
    server = os.environ.get("TIMED_SERVER") or "none"
    served, start = cpu_seconds(server), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds, served = time.monotonic() - start, cpu_seconds(server) - served
        process.returncode = status
    if status:
        sys.exit(f"bench: {name}: {' '.join(command)}: {said.decode(errors='replace')[-2000:]}")
    data = {}
    if os.path.exists(store):
        with open(store, encoding="utf-8") as file:
            data = json.load(file)
    best = data.setdefault(name, {"seconds": 1e9, "cpu": 0, "server": 0, "mib": 0})
    if seconds < best["seconds"]:
        best.update(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, server=served)
    best["mib"] = max(best["mib"], usage.ru_maxrss / 1024)
    with open(store, "w", encoding="utf-8") as file:
        json.dump(data, file)


main()
