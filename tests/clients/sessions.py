"""A session as its callers use it: made with an empty POST, talked to twice, listed, deleted.

Prints what it was told, as lines of JSON.
"""

import json
import sys
import urllib.request

(base,) = sys.argv[1:]


def ask(method, path, body=None):
    headers = {"Content-Type": "application/json"} if body is not None else {}
    data = json.dumps(body).encode() if body is not None else None
    return urllib.request.urlopen(urllib.request.Request(base + path, data, headers, method=method))


session = json.load(ask("POST", "/api/sessions"))["sessionId"]
for prompt in ("first", "second"):
    with ask("POST", f"/api/stream/{session}", {"prompt": prompt}) as response:
        for line in response:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if event["type"] in ("connected", "completed"):
                    print(json.dumps(event))
print(json.dumps(json.load(ask("GET", "/api/sessions"))))
print(json.dumps(json.load(ask("DELETE", f"/api/sessions/{session}"))))
