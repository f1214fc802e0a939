#!/usr/bin/env python3
"""Times builds in a pod of the tests' one-node Kubernetes beside kubectl; prints Markdown tables.

usage: bench-cluster.py IMAGE.qcow2
OCNE, AGENTS: the program, and the folder with ocne-agent-amd64 (default: target/release). BENCH_ROUNDS: best of so many."""
import contextlib, json, os, pathlib, shutil, socket, subprocess, sys, tempfile, threading, time

TOP = pathlib.Path(__file__).resolve().parent.parent
TOOLS = TOP / "tests/cluster"
RELEASE = TOP / "target/release"
OCNE = os.environ.get("OCNE", RELEASE / "ocne")
AGENTS = os.environ.get("AGENTS", RELEASE)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))
IMAGE = pathlib.Path(sys.argv[1])
MIB = 1 << 20
HELPER = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "helper", "namespace": "bench"},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "c", "image": "", "command": ["sh", "-c", "read forever"], "stdin": True,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "s", "mountPath": "/scratch"}]}],
        "volumes": [{"name": "s", "emptyDir": {}}]}}


def run(*command, **more):
    p = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if p.returncode:
        sys.exit(f"bench: {' '.join(map(str, command))}: {p.stdout[-500:]}{p.stderr[-1500:]}")
    return p.stdout.strip()


def failed(process):
    """Whether it has ended badly; it can still be waited for."""
    end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return end is not None and end.si_status != 0


def timed(start):
    """Seconds to the outputs that processes name (none: to their end) and to their end, and peak memory (MiB)."""
    begun = time.monotonic()
    processes = start()
    outputs = [p.output for p in processes if hasattr(p, "output")]
    there = 0.0
    while outputs:
        if outputs[-1].exists():
            there = time.monotonic() - begun
            outputs.pop()
        elif any(failed(p) for p in processes):
            break
        time.sleep(0.005)
    peak = 0
    for p in processes:
        _, status, usage = os.wait4(p.pid, 0)
        if status:
            sys.exit(f"bench: {p.args}: failed")
        peak = max(peak, usage.ru_maxrss / 1024)
    end = time.monotonic() - begun
    return there or end, end, peak


class Line:
    """A proxy with a delay each way and a limit on bytes per second each way."""

    def __init__(self, target, delay_seconds, bytes_per_second):
        self.target, self.delay, self.rate = target, delay_seconds, bytes_per_second
        self.passed = [0, 0]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            for way, (a, b) in enumerate([(client, server), (server, client)]):
                self.start(a, b, way)

    def start(self, source, sink, way):
        import queue
        on_its_way = queue.Queue(maxsize=1024)

        def read():
            free_at = time.monotonic()
            while True:
                try:
                    data = source.recv(16384)
                except OSError:
                    data = b""
                free_at = max(free_at, time.monotonic()) + (len(data) / self.rate if self.rate else 0)
                on_its_way.put((free_at + self.delay, data))
                if not data:
                    return
                wait = free_at - time.monotonic()
                if wait > 0:
                    time.sleep(wait)

        def write():
            while True:
                due, data = on_its_way.get()
                wait = due - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    self.passed[way] += len(data)
                    sink.sendall(data)
                except OSError:
                    return

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()


def main():
    size = IMAGE.stat().st_size
    work = pathlib.Path(tempfile.mkdtemp(prefix="ocne-bench.", dir=IMAGE.parent))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ocne-bench."))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, work)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(subprocess.run, [TOOLS / "down.sh", folder], capture_output=True)
        kubeconfig = run(TOOLS / "up.sh", "--dir", folder, "--psa", "restricted").split("=", 1)[1]
        registry = run(TOOLS / "registry.sh", "up", folder).split("=", 1)[1]
        kubectl = [folder / "kubectl", "--kubeconfig", kubeconfig]
        root = work / "root/bin"
        root.mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "busybox")
        for applet in "sh cat chmod tar sha256sum rm".split():
            (root / applet).symlink_to("busybox")
        run(TOOLS / "mkimage.py", work / "shell.tar", "shell:1", work / "root", "/bin/sh")
        shell = f"{registry}/shell:1"
        run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci-archive:{work}/shell.tar", f"docker://{shell}")
        run(*kubectl, "create", "namespace", "bench")
        HELPER["spec"]["containers"][0]["image"] = shell
        run(*kubectl, "apply", "-f", "-", input=json.dumps(HELPER))
        run(*kubectl, "wait", "-n", "bench", "--for=condition=Ready", "pod/helper", "--timeout=60s")

        def ocne(name, *extra, config=kubeconfig, ways=("--builder", "cluster")):
            environment = {**os.environ, "HOME": str(work), "OCNE_AGENT_DIR": str(AGENTS), "KUBECONFIG": ""}
            command = [OCNE, "image", "create", *ways, "--file", IMAGE, "--output", work / f"{name}.oci", "--kubeconfig", config]
            command += ["--namespace", "bench", "--builder-image", shell, "--quiet", *extra]
            process = subprocess.Popen([str(c) for c in command], env=environment, stdout=subprocess.DEVNULL)
            process.output = work / f"{name}.oci"
            return process

        def plain(*command, **more):
            return [subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)]

        def sent_in():
            return plain(*kubectl, "exec", "-i", "-n", "bench", "helper", "--", "sh", "-c", "cat >/scratch/f; sha256sum /scratch/f", stdin=open(IMAGE))

        def clean():
            run(*kubectl, "exec", "-n", "bench", "helper", "--", "sh", "-c", "rm -f /scratch/*")
            for path in work.glob("*.oci"):
                path.unlink()

        rows, best = [], {}

        def measure(name, *starts, rounds=ROUNDS):
            results = []
            for _ in range(rounds):
                parts = [timed(start) for start in starts]
                results.append((sum(p[0] for p in parts), sum(p[1] for p in parts), max(p[2] for p in parts)))
                clean()
            best[name], end, _ = min(results)
            rows.append((name, best[name], end, max(r[2] for r in results)))
            print(f"bench: {name}: {best[name]:.2f} s", file=sys.stderr)

        report = work / "report.json"
        cp = [*kubectl, "cp", "--retries=0", "-n", "bench"]
        measure("create --builder local", lambda: [ocne("a", ways=("--builder", "local"))])
        measure("create --transfer blocks", lambda: [ocne("a", "--transfer", "blocks")])
        timed(lambda: [ocne("a", "--transfer", "blocks", "--report", report)])
        clean()
        blocks = json.loads(report.read_text())["cluster"]
        measure("kubectl cp in and out", lambda: plain(*cp, IMAGE, "helper:/scratch/f"), lambda: plain(*cp, "helper:/scratch/f", work / "back.oci"), rounds=2)
        measure("kubectl exec -i, cat and sha256sum", sent_in, rounds=2)
        measure("create --transfer full", lambda: [ocne("a", "--transfer", "full")])
        timed(lambda: [ocne("a", "--transfer", "full", "--report", report)])
        clean()
        full = json.loads(report.read_text())
        server = run(*kubectl, "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}").removeprefix("https://")
        host, port = server.rsplit(":", 1)
        line = Line((host, int(port)), 0.025, 100e6 / 8)
        far = work / "far.kubeconfig"
        far.write_text(pathlib.Path(kubeconfig).read_text().replace(server, line.address))
        measure("blocks, 50 ms and 100 Mbit/s between", lambda: [ocne("a", "--transfer", "blocks", config=far)])
        for count in (2, 4):
            measure(f"{count} builds at once", lambda count=count: [ocne(f"n{n}") for n in range(count)])
        # the memory of the agent, as its control group has it, from pods that are kept for that
        peaks = {}
        for way in ("blocks", "full"):
            timed(lambda way=way: [ocne("a", "--transfer", way, "--keep-pod")])
            uid = run(*kubectl, "get", "pods", "-n", "bench", "-l", "app.kubernetes.io/managed-by=ocne", "-o", "jsonpath={.items[0].metadata.uid}")
            found = [p for name in ("memory.max_usage_in_bytes", "memory.peak") for p in pathlib.Path("/sys/fs/cgroup").glob(f"**/pod{uid}/{name}")]
            peaks[way] = max((int(p.read_text()) for p in found), default=0) / MIB
            run(OCNE, "gc", "--yes", "--running", "--namespace", "bench", "--kubeconfig", kubeconfig)
            clean()

        print(f"Image: {size} bytes. A build over blocks sent {blocks['sent_bytes']} bytes and received {blocks['received_bytes']}, in {blocks['rounds']} rounds.\n")
        print("| what | seconds to the verified output | to the end of the command, the pod gone | peak MiB |\n| --- | ---: | ---: | ---: |")
        for name, seconds, end, peak in rows:
            print(f"| {name} | {seconds:.2f} | {end:.2f} | {peak:.0f} |")
        print("\n| figure | wanted | measured |\n| --- | ---: | ---: |")
        local, cp_time, by_blocks = best["create --builder local"], best["kubectl cp in and out"], best["create --transfer blocks"]
        print(f"| kubectl cp in and out / blocks | ≥ 8 | {cp_time / by_blocks:.1f} |")
        print(f"| blocks - local, s | ≤ 3 | {by_blocks - local:.2f} |")
        print(f"| bytes on the wire / image, % | ≤ 10 | {100 * (blocks['sent_bytes'] + blocks['received_bytes']) / size:.2f} |")
        print(f"| full, transfer in and conversion / kubectl exec -i | ≤ 1 | {full['timings_ms']['convert'] / 1000 / best['kubectl exec -i, cat and sha256sum']:.2f} |")
        print(f"| kubectl cp in and out / full | ≥ 1.7 | {cp_time / best['create --transfer full']:.2f} |")
        print(f"| blocks over 50 ms and 100 Mbit/s, s | ≤ 20 | {best['blocks, 50 ms and 100 Mbit/s between']:.2f} |")
        print(f"| 4 builds at once / 2 | ≤ 2.2 | {best['4 builds at once'] / best['2 builds at once']:.2f} |")
        print(f"| peak memory of the client, MiB | ≤ 128 | {max(peak for name, _, _, peak in rows if name.startswith(('create', 'blocks'))):.0f} |")
        for way, peak in peaks.items():
            print(f"| peak memory of the pod (with page cache), {way}, MiB | ≤ 128 | {peak:.0f} |")


main()
