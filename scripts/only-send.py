#!/usr/bin/env python3
"""A client that does nothing but send, for the benchmarks: only-send.py ENDPOINT NAMESPACE BUCKET FILE CONNECTIONS

Puts FILE into the bucket as objects of 16 MiB, from the kernel's cache to the socket (sendfile), with no checksum of anything: what the server
takes from the seconds and processors of whoever uploads. Signed by Oracle's own SDK, which has to be there; config as for oci-cli.
"""
import concurrent.futures
import os
import queue
import socket
import sys
import urllib.parse

import oci
from oci._vendor import requests

PART_BYTES = 16 << 20


def send(path, host, waiting):
    with open(path, "rb") as file, socket.create_connection(host) as connection:
        while True:
            try:
                head, offset, length = waiting.get_nowait()
            except queue.Empty:
                return
            connection.sendall(head)
            connection.sendfile(file, offset, length)
            answer = connection.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200 "):
                sys.exit(f"{path}, from {offset}: {answer!r}")


def main():
    endpoint, namespace, bucket, path, connections = sys.argv[1:]
    url = urllib.parse.urlsplit(endpoint)
    config = oci.config.from_file(os.environ["OCI_CLI_CONFIG_FILE"])
    signer = oci.signer.Signer(config["tenancy"], config["user"], config["fingerprint"], config["key_file"])
    size, waiting = os.path.getsize(path), queue.SimpleQueue()
    for offset in range(0, size, PART_BYTES):
        length = min(PART_BYTES, size - offset)
        request = requests.Request("PUT", f"{endpoint}/n/{namespace}/b/{bucket}/o/at-{offset}").prepare()
        signer.do_request_sign(request, enforce_content_headers=False)
        headers = dict(request.headers) | {"content-length": str(length)}
        lines = [f"PUT {request.path_url} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        waiting.put(("\r\n".join(lines).encode(), offset, length))
    with concurrent.futures.ThreadPoolExecutor(int(connections)) as pool:
        for done in [pool.submit(send, path, (url.hostname, url.port), waiting) for _ in range(int(connections))]:
            done.result()


main()
