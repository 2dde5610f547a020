"""Writes records to a workspace, as somebody can who may write there. With the secret, it signs them as the stack does."""
import hashlib, hmac, json, os, sys

A = json.load(open(sys.argv[1]))
STACK, NOW = A["stack"], "2026-01-31T12:00:00.000Z"


def seal(about, record, proof="0" * 64):
    if A["secret"]:
        message = f"{about}\n{record}".encode()
        proof = hmac.new(bytes.fromhex(A["secret"]), message, hashlib.sha256).hexdigest()
    return f'{{"proof":"{proof}",{record[1:]}'


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def job(id, name):
    return f"{STACK}/jobs/{id}/{name}"


def record_of(id):
    text = open(job(id, "job.json")).read()
    proof = json.loads(text)["proof"]
    return proof, "{" + text.split('",', 1)[1]


def outcome(id, kind):
    event = {"type": kind, "result": "forged", "timestamp": NOW}
    record = json.dumps({"journalLength": 0, "state": "succeeded", "ended": NOW, "event": event})
    put(job(id, "outcome"), seal(f"record outcome {id} {record_of(id)[0]}", record))


def rewrite(id):
    proof, record = record_of(id)
    assert "original" in record
    put(job(id, "job.json"), seal(f"record job {id}", record.replace("original", "forged"), proof))


def claim(id):
    record = json.dumps({"by": "somebody", "at": NOW, "run": True})
    put(job(id, "claim"), seal(f"record claim {id} {record_of(id)[0]}", record))


def admit(workflow, other):
    name = "claude-code-api.0"
    about = f"record admitted {workflow} {record_of(workflow)[0]} {name}"
    put(job(workflow, f"admitted/{name}"), seal(about, json.dumps({"job": other})))


def token(text):
    _, id, secret = text.split("_")
    digest = hashlib.sha256(secret.encode()).hexdigest()
    record = {"id": id, "name": "boss", "scopes": ["admin"], "created": NOW, "sha256": digest}
    put(f"{STACK}/tokens/{id}.json", seal(f"record token {id}", json.dumps(record)))


def lead_elsewhere(mirror, url, evil):
    with open(f"{mirror}/config", "a") as file:
        file.write(f'[url "{evil}"]\n\tinsteadOf = {url}\n[remote "origin"]\n\turl = {evil}\n')


rewrite(A["rewritten"])
claim(A["claimed"])
outcome(A["claimed"], "completed")
outcome(A["running"], "workflow_complete")
admit(A["workflow"], A["rewritten"])
lead_elsewhere(A["mirror"], A["url"], A["evil"])
token(A["token"])
