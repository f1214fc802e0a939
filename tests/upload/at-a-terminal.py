#!/usr/bin/env python3
"""Runs a command at a terminal of its own, and answers what it asks there.

usage: at-a-terminal.py [QUESTION=ANSWER]... -- COMMAND...

Each answer is typed when its question is seen. Prints what the terminal shows, and ends as the command does.
"""
import os
import pty
import sys

split = sys.argv.index("--")
answers = [pair.split("=", 1) for pair in sys.argv[1:split]]
command = sys.argv[split + 1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
shown = b""
while True:
    try:
        some = os.read(terminal, 1 << 16)
    except OSError:  # nobody is at the other end any more
        break
    if not some:
        break
    sys.stdout.buffer.write(some)
    shown += some
    while answers and answers[0][0].encode() in shown:
        question, answer = answers.pop(0)
        shown = shown.split(question.encode(), 1)[1]
        os.write(terminal, answer.encode() + b"\n")
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
