"""Reads lines as they come, with nothing but the standard library.

Prints the job's id, then each event, as lines of JSON.
"""

import json
import sys
import urllib.request

url, body = sys.argv[1:]
headers = {"Content-Type": "application/json"}
request = urllib.request.Request(url, data=body.encode(), headers=headers)
with urllib.request.urlopen(request) as response:
    print(json.dumps(response.headers["X-Job-Id"]))
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("data: "):
            print(json.dumps(json.loads(line[6:])))
