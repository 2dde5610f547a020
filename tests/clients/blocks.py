"""Splits on blank lines and parses what follows "data: " in each block, as the original callers do.

Prints the job's id, then each event, as lines of JSON.
"""

import http.client
import json
import sys
from urllib.parse import urlsplit

url, body = sys.argv[1:]
parts = urlsplit(url)
connection = http.client.HTTPConnection(parts.hostname, parts.port)
connection.request("POST", parts.path, body.encode(), {"Content-Type": "application/json"})
response = connection.getresponse()
if response.status != 200:
    raise SystemExit(f"{response.status}: {response.read()}")
print(json.dumps(response.headers["X-Job-Id"]))
buffer = b""
while chunk := response.read1():
    buffer += chunk
    *blocks, buffer = buffer.split(b"\n\n")
    for block in blocks:
        if not block.startswith(b":"):
            # This fails on a block that begins with anything else, such as an id.
            assert block.startswith(b"data: "), block
            print(json.dumps(json.loads(block[6:])))
assert buffer == b"", buffer
