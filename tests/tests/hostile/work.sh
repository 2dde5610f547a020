# Ordinary work of an agent, all of it offline. Prints what was done; stops at the first failure.
set -eu
say() { echo "done: $*"; }

test "$(umask)" = 0022
echo content > file && test "$(stat -c %a file)" = 644
say modes

git init -q repository && cd repository
git config user.name A && git config user.email a@localhost
echo a > a && git add a && git commit -qm first && git checkout -qb branch && git log --oneline > ../log
cd ..
say git

python3 -m venv --without-pip venv && test "$(venv/bin/python -c 'print(6 * 7)')" = 42
say venv

python3 - <<'PY'
import http.server, multiprocessing, os, pty, socket, subprocess, sys, threading, time, urllib.request
server = subprocess.Popen(
    [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"], stdout=subprocess.PIPE, text=True)
port = server.stdout.readline().split(" port ")[1].split()[0]
assert b"content" in urllib.request.urlopen(f"http://127.0.0.1:{port}/file").read()
server.terminate()
assert server.wait() == -15
print("done: server")

said = []
status = pty.spawn(["/bin/sh", "-c", "tty; stty size; test -t 0"], lambda fd: said.append(os.read(fd, 1000)) or said[-1])
assert status == 0 and b"/dev/pts/" in b"".join(said), said
print("done: terminal")

with multiprocessing.Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
with open(f"/dev/shm/work-{os.getpid()}", "w") as file:
    file.write("shared")
os.unlink(file.name)
print("done: shared memory")

path = os.environ["TMPDIR"] + "/socket"
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
socket.socket(socket.AF_UNIX).connect(path)
print("done: sockets")
assert socket.getaddrinfo("localhost", 80)
print("done: names")
PY

sleep 1000 & kill $! && ! wait $!
say processes

echo text > "$TMPDIR/x" && mv "$TMPDIR/x" . && ln x y && cat < /dev/null > /dev/full || true
echo "$(cat <(echo substituted))" > /dev/null
head -c 10 /dev/urandom > /dev/null
say files

if command -v cargo > /dev/null && [ -n "${RUSTUP_HOME:-}" ]; then
    cargo init -q --vcs none --name tiny tiny && cd tiny
    cargo build -q --offline && test "$(target/debug/tiny)" = 'Hello, world!'
    cd ..
    say cargo
fi
if [ -x /usr/bin/npm ]; then
    mkdir package && cd package
    /usr/bin/npm init -y > /dev/null && /usr/bin/npm pack --silent --offline > /dev/null && ls ./*.tgz > /dev/null
    /usr/bin/node -e '
        const child = require("child_process").fork("-e", [], {execArgv: ["-e", "process.send(1)"]});
        child.on("message", () => process.exit(0));'
    cd ..
    say npm
fi
