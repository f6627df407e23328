"""A program for sandboxes that holds state of every kind, changes all of it when asked, and checks what it had before.

Ask with `ASK.format(number)`, numbers from 1 on: it answers with the number if everything is still as round `number - 1` left it.
"""

from __future__ import annotations

import base64

_PROGRAM = r"""
import hashlib, os, pty, signal, socket, tempfile, threading, time

os.makedirs("/opt/rounds", exist_ok=True)
deleted = tempfile.TemporaryFile()
left, right = socket.socketpair()
reader, writer = os.pipe()
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
memory = bytearray(os.urandom(8 << 20))
digest = lambda: hashlib.sha256(memory).hexdigest()
ticks = 0

def tick(*_):
    global ticks
    ticks += 1

signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
child, terminal = pty.fork()
if child == 0:
    os.execv("/bin/bash", ["bash", "--norc", "--noprofile"])

def shell(line):
    os.write(terminal, b"stty -echo; PS1=; %s; echo '<'done'>'\n" % line)
    said = b""
    while b"<done>" not in said:
        said += os.read(terminal, 4096)
    return said

def change(number):
    word = b"%d|" % number
    deleted.seek(0); deleted.write(word); deleted.flush()
    left.send(word); os.write(writer, word); client.send(word)
    shell(b"kept=%d" % number)
    memory[number << 12:(number + 1) << 12] = os.urandom(4096)
    with open("/opt/rounds/%d" % number, "wb") as file:
        file.write(os.urandom(100000))
    files = hashlib.sha256(b"".join(open("/opt/rounds/%d" % n, "rb").read() for n in range(number + 1))).hexdigest()
    return digest(), files

def check(number, before):
    word = b"%d|" % number
    deleted.seek(0)
    files = hashlib.sha256(b"".join(open("/opt/rounds/%d" % n, "rb").read() for n in range(number + 1))).hexdigest()
    assert (digest(), files) == before, "memory or files"
    assert deleted.read(len(word)) == word, "deleted file"
    assert right.recv(100) == word, "socket pair"
    assert os.read(reader, 100) == word, "pipe"
    assert accepted.recv(100) == word, "loopback"
    assert b"kept is %d\r" % number in shell(b"echo kept is $kept"), "terminal"
    seen, end = ticks, time.monotonic() + 10
    while ticks == seen:
        assert time.monotonic() < end, "timer"
        time.sleep(0.01)

number, before = 0, change(0)
open("/run/answer", "w").write("0")
while True:
    try:
        asked = int(open("/run/ask").read())
    except (OSError, ValueError):
        asked = number
    if asked == number:
        time.sleep(0.01)
        continue
    try:
        assert asked == number + 1, "a round is missing"
        check(number, before)
        number, before = asked, change(asked)
        answer = str(number)
    except Exception as error:
        answer = repr(error)
    open("/run/answer.new", "w").write(answer)
    os.rename("/run/answer.new", "/run/answer")
    if not answer.isdigit():
        break
"""
START = (
    f"echo {base64.b64encode(_PROGRAM.encode()).decode()} | base64 -d > /root/rounds.py; "
    "(setsid python3 /root/rounds.py > /run/rounds.log 2>&1 &); "
    "for i in $(seq 300); do [ -s /run/answer ] && break; sleep 0.05; done; cat /run/answer /run/rounds.log"
)
ASK = (
    "before=$(cat /run/answer); echo {0} > /run/ask.new; mv /run/ask.new /run/ask; "
    'for i in $(seq 600); do [ "$(cat /run/answer)" != "$before" ] && break; sleep 0.02; done; cat /run/answer'
)
