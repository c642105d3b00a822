"""Starts a command through command_preload.py and waits for it. Arguments: the address, then the command's."""

import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Until they can be forwarded: the command may run, and be interrupted, before its pid is known here.
signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)

_, address, *arguments = sys.argv
variables = [name + b"=" + value for name, value in os.environb.items()]
folder = os.getcwdb()  # noqa: PTH109 - pathlib takes longer to import than the rest runs
words = [folder, b"%d" % len(arguments), *map(os.fsencode, arguments), *variables]
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(f"\0{address}")
    socket.send_fds(connection, [b"\0".join(words)], [0, 1, 2])
    os.closerange(0, 3)  # only the command holds them
    pid = int(connection.recv(100))
    for number in FORWARDED:
        signal.signal(number, lambda number, _frame: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = int(connection.recv(100))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
