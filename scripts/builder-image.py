#!/usr/bin/env python3
"""Assembles the container image of builder pods, without a container engine.

Usage: builder-image.py OUT.oci-archive ARCH=AGENT...     (ARCH: amd64 or arm64; AGENT: what scripts/agent.sh built)

Writes an OCI archive with a manifest for each architecture, and beside it each layer by itself as OUT-ARCH.tar.gz,
for deploy/Containerfile. The same commit and the same agents give the same bytes; times are SOURCE_DATE_EPOCH, else
the commit's, else 0.
"""

import datetime
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import uuid

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
USER = 65532  # as in manifests/builder-job.yaml
PASSWD = f"root:x:0:0:root:/:/sbin/nologin\nocne:x:{USER}:{USER}:ocne:/scratch:/sbin/nologin\n"
GROUP = f"root:x:0:\nocne:x:{USER}:\n"
SBOM = "usr/share/sbom/ocne-agent.cdx.json"
OCI = "org.opencontainers.image."


def said(*command: str) -> str:
    """What a command says, run in the repository."""
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip("\n")
    except FileNotFoundError:
        sys.exit(f"builder-image: {command[0]} is not installed\nhint: make setup")
    except subprocess.CalledProcessError as error:
        sys.exit(f"builder-image: {' '.join(command)}: {error.stderr.strip()}")


def commit() -> tuple[str | None, int]:
    """The commit, marked when files differ from it, and its time; without a repository neither."""
    git = ["git", "-C", ROOT]
    if subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True).returncode:
        return None, 0
    changed = said(*git, "status", "--porcelain", "--untracked-files=no")
    revision, seconds = said(*git, "log", "-1", "--format=%H %ct").split()
    return revision + ("-dirty" if changed else ""), int(seconds)


def linked(arch: str) -> tuple[dict, dict]:
    """What cargo links into the agent: purl -> (name, version, licence, repository), purl -> purls that it uses.

    From `cargo tree`, because it knows the features of this one package; `cargo metadata` mixes in those that other
    crates of the workspace ask for. Build scripts and procedural macros run at build time and are in no program.
    """
    packages, uses, above = {}, {}, []
    edges, target = "normal,no-proc-macro", f"{MACHINES[arch]}-unknown-linux-gnu"
    tree = ["cargo", "tree", "--locked", "--package", "ocne-agent", "--edges", edges, "--target", target]
    for line in said(*tree, "--prefix", "depth", "--format", " {p}\t{l}\t{r}\t").splitlines():
        package, licence, repository, _ = line.split("\t")
        depth, name, version = package.split()[:3]
        purl = f"pkg:cargo/{name}@{version[1:].replace('+', '%2B')}"
        packages[purl] = (name, version[1:], licence.replace("/", " OR "), repository)
        uses.setdefault(purl, set())
        above[int(depth) :] = [purl]
        if int(depth):
            uses[above[int(depth) - 1]].add(purl)
    return packages, uses


def runtime(arch: str, agent: bytes) -> list[dict]:
    """The parts of a static program that Cargo.lock does not know: Rust's library and the C library."""
    rust = re.search(rb"rustc version ([0-9.]+\S*) ", agent)
    archive = said(f"{MACHINES[arch]}-linux-gnu-gcc", "-print-file-name=libc.a")
    with open(archive, "rb") as file:
        libc = re.search(rb"GNU C Library \((.+?)\) \w+ release version ([0-9.]+[0-9])", file.read())
    if not rust or not libc:
        sys.exit(f"builder-image: the agent for {arch} or {archive} does not say its version")
    found = [
        ("rust-std", rust[1].decode(), "MIT OR Apache-2.0", None),
        ("glibc", libc[2].decode(), "LGPL-2.1-or-later", libc[1].decode()),
    ]
    return [
        {"type": "library", "bom-ref": f"pkg:generic/{name}@{version}", "name": name, "version": version}
        | ({"description": build} if build else {})
        | {"licenses": [{"expression": licence}], "purl": f"pkg:generic/{name}@{version}"}
        for name, version, licence, build in found
    ]


def sbom(arch: str, agent: bytes, packages: dict, uses: dict, created: str) -> bytes:
    """What is in the agent, as CycloneDX 1.6."""
    with open(os.path.join(ROOT, "Cargo.lock"), "rb") as file:
        locked = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(file)["package"]}

    def component(purl: str) -> dict:
        name, version, licence, repository = packages[purl]
        one = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        if licence:
            one["licenses"] = [{"expression": licence}]
        if locked[name, version]:  # of the crate's file; those of this repository have none
            one["hashes"] = [{"alg": "SHA-256", "content": locked[name, version]}]
        if repository:
            one["externalReferences"] = [{"type": "vcs", "url": repository}]
        return one

    program = next(iter(packages))
    digest = hashlib.sha256(agent).hexdigest()
    subject = component(program) | {"type": "application", "hashes": [{"alg": "SHA-256", "content": digest}]}
    under = runtime(arch, agent)
    uses = uses | {program: uses[program] | {one["bom-ref"] for one in under}}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {"timestamp": created, "component": subject},
        "components": [component(purl) for purl in sorted(packages) if purl != program] + under,
        "dependencies": [{"ref": purl, "dependsOn": sorted(uses[purl])} for purl in sorted(uses)],
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def tar(entries: list[tuple], seconds: int) -> bytes:
    """A tar stream of (path, content or None for a folder, mode, owner)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content, mode, owner in entries:
            entry = tarfile.TarInfo(path)
            entry.mode, entry.uid, entry.gid, entry.mtime = mode, owner, owner, seconds
            if content is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def root(agent: bytes, bom: bytes) -> list[tuple]:
    """All files of the image."""
    return [
        ("etc", None, 0o755, 0),
        ("etc/group", GROUP.encode(), 0o644, 0),
        ("etc/passwd", PASSWD.encode(), 0o644, 0),
        ("ocne-agent", agent, 0o755, 0),
        # the pod's volume is mounted over it
        ("scratch", None, 0o700, USER),
        ("usr", None, 0o755, 0),
        ("usr/share", None, 0o755, 0),
        ("usr/share/sbom", None, 0o755, 0),
        (SBOM, bom, 0o644, 0),
    ]


def write(path: str, content: bytes) -> None:
    """Writes a file that has its name only when it is whole."""
    with open(path + ".part", "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)
    print(f"builder-image: {path}, {len(content)} bytes")


def main() -> None:
    out, *pairs = sys.argv[1:]
    agents = dict(pair.partition("=")[::2] for pair in pairs)
    if not agents or set(agents) - set(MACHINES):
        sys.exit(__doc__)
    revision, seconds = commit()
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or seconds)
    created = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    blobs, manifests = {}, []

    def add(data: bytes, media_type: str) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    def add_json(document: dict, media_type: str) -> dict:
        return add(json.dumps(document, separators=(",", ":")).encode(), media_type)

    for arch, path in sorted(agents.items()):
        if not os.path.isfile(path):
            sys.exit(
                f"builder-image: there is no agent for {arch} at {path}\n"
                f"hint: `make setup` brings what it is built with; `make builder-image ARCHS=…` leaves {arch} out"
            )
        with open(path, "rb") as file:
            agent = file.read()
        packages, uses = linked(arch)
        _, version, licence, source = next(iter(packages.values()))
        labels = {
            OCI + "created": created,
            OCI + "description": "Converts boot images in a pod, for ocne image create --builder cluster",
            OCI + "licenses": licence,
            OCI + "source": source,
            OCI + "title": "ocne-agent",
            OCI + "version": version,
        }
        if revision:
            labels[OCI + "revision"] = revision
        files = tar(root(agent, sbom(arch, agent, packages, uses, created)), seconds)
        layer = gzip.compress(files, mtime=0)
        config = {
            "created": created,
            "architecture": arch,
            "os": "linux",
            "config": {
                "User": f"{USER}:{USER}",
                "Entrypoint": ["/ocne-agent"],
                "Cmd": ["wait"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(files).hexdigest()]},
            "history": [{"created": created, "created_by": "scripts/builder-image.py"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": add_json(config, "config.v1+json"),
            "layers": [add(layer, "layer.v1.tar+gzip")],
            "annotations": labels,
        }
        manifests.append(add_json(manifest, "manifest.v1+json") | {"platform": {"architecture": arch, "os": "linux"}})
        write(f"{out.removesuffix('.oci-archive')}-{arch}.tar.gz", layer)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
        "annotations": labels,
    }
    top = add_json(index, "index.v1+json")
    top["annotations"] = {OCI + "ref.name": version}
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    folders = [("blobs", None, 0o755, 0), ("blobs/sha256", None, 0o755, 0)]
    write(out, tar(folders + [(path, data, 0o644, 0) for path, data in sorted(blobs.items())], seconds))
    print(f"builder-image: {' and '.join(sorted(agents))}, {top['digest']}")


if __name__ == "__main__":
    main()
