#!/usr/bin/env python3
"""Compares crates/ocne-oracle/data with the regions and realms that an installed Python SDK of Oracle Cloud knows.

    pip install oci && scripts/check-regions.py

Ends with 1 and the differences when they differ. `--write` brings the data up to date.
"""

import argparse
import pathlib
import sys

DATA = pathlib.Path(__file__).resolve().parent.parent / "crates/ocne-oracle/data"


def rows(path):
    lines = path.read_text().splitlines()
    return {tuple(line.split("\t")) for line in lines if line and not line.startswith("#")}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="write what the SDK knows")
    arguments = arguments.parse_args()
    try:
        from oci import regions_definitions as sdk
    except ImportError:
        sys.exit("check-regions: the SDK is not installed\nhint: pip install oci")
    keys = {name: key for key, name in sdk.REGIONS_SHORT_NAMES.items()}
    wanted = {
        "regions.tsv": {(name, keys.get(name, "-"), realm) for name, realm in sdk.REGION_REALMS.items()},
        "realms.tsv": set(sdk.REALMS.items()),
    }
    differences = 0
    for name, theirs in wanted.items():
        path = DATA / name
        ours = rows(path) if path.exists() else set()
        for sign, row in [("-", r) for r in sorted(ours - theirs)] + [("+", r) for r in sorted(theirs - ours)]:
            differences += 1
            print(f"{name}: {sign} {' '.join(row)}")
        if arguments.write:
            head = "# region\tkey\trealm" if name == "regions.tsv" else "# realm\tdomain"
            lines = ["# Public facts about Oracle Cloud; `scripts/check-regions.py` compares them with an SDK.", head]
            path.write_text("\n".join(lines + ["\t".join(r) for r in sorted(theirs)]) + "\n")
    print(f"{sum(len(w) for w in wanted.values())} entries, {differences} differences")
    return 1 if differences and not arguments.write else 0


if __name__ == "__main__":
    sys.exit(main())
