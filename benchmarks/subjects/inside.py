"""Programs that run inside a sandbox and measure there: each prints a JSON list of milliseconds."""

SPAWN = r"""
import json, os, sys, time

def spawn():
    ours, theirs = os.pipe()
    command = ["/bin/bash", "-l", "-c", "echo hi"]
    actions = [(os.POSIX_SPAWN_DUP2, theirs, 1)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    os.close(theirs)
    output = b""
    while chunk := os.read(ours, 4096):
        output += chunk
    os.close(ours)
    os.waitpid(pid, 0)
    assert output == b"hi\n"

values = []
for _ in range(int(sys.argv[1]) + 1):
    began = time.perf_counter()
    spawn()
    values.append(1000 * (time.perf_counter() - began))
print(json.dumps(values[1:]))
"""

CELL = r"""
import glob, json, sys, time
from jupyter_client import BlockingKernelClient

client = BlockingKernelClient(connection_file=sys.argv[2])
client.load_connection_file()
client.start_channels(stdin=False, hb=False)
client.wait_for_ready(timeout=30)
values = []
for _ in range(int(sys.argv[1]) + 2):
    results = []

    def hear(message):
        if message["msg_type"] == "execute_result":
            results.append(message["content"]["data"]["text/plain"])

    began = time.perf_counter()
    client.execute_interactive("1 + 1", output_hook=hear, allow_stdin=False, timeout=30)
    values.append(1000 * (time.perf_counter() - began))
    assert results == ["2"]
client.stop_channels()
print(json.dumps(values[2:]))
"""

SINK = r"""
import socket, sys

MIB = 1 << 20
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            size = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big", signed=True)
            if size >= 0:
                buffer = bytearray(MIB)
                while size > 0:
                    size -= connection.recv_into(buffer)
            else:
                data = memoryview(bytes(MIB))
                while size < 0:
                    connection.sendall(data[: min(-size, MIB)])
                    size += min(-size, MIB)
            connection.sendall(b"+")
"""
"""Takes a signed size of 8 bytes, then receives or sends as many bytes, then says `+`."""

ANY_CELL = r"""
import json, sys, time
from jupyter_client import BlockingKernelClient

client = BlockingKernelClient(connection_file=sys.argv[1])
client.load_connection_file()
client.start_channels(stdin=False, hb=False)
client.wait_for_ready(timeout=30)
heard = []
began = time.perf_counter()
client.execute_interactive(sys.argv[2], output_hook=heard.append, allow_stdin=False, timeout=60)
print(json.dumps([1000 * (time.perf_counter() - began)]))
assert heard
client.stop_channels()
"""
