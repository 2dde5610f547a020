"""Attacks on the stack. Each either works or raises; what became of each is written to a file."""
import ctypes, json, os, signal, socket

LIBC = ctypes.CDLL(None, use_errno=True)
A = json.load(open("arguments.json"))
STACK = A["workspace"] + "/.stack"


def call(name, *arguments):
    arguments = [ctypes.c_long(it) if isinstance(it, int) else it for it in arguments]
    result = getattr(LIBC, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def read(path):
    with open(path, "rb") as file:
        if not file.read(16):
            raise OSError("it is empty")


def write(path, content="{}", mode="w"):
    with open(path, mode) as file:
        file.write(content)


def environment_of_the_gateway():
    read(f"/proc/{A['gateway']}/environ")


def environment_of_a_replica():
    read(f"/proc/{A['replica']}/environ")


def environment_of_another_process():
    read(f"/proc/{A['outsider']}/environ")


def environment_of_another_agent():
    read(f"/proc/{A['agent']}/environ")


def signal_another_agent():
    os.kill(A["agent"], signal.SIGCONT)


def list_the_private_files_of_another_agent():
    os.listdir(A["private"])


def empty_a_file_of_another_agent():
    os.truncate(A["private"] + "/file", 0)


def memory_map_of_another_process():
    read(f"/proc/{A['outsider']}/maps")


def memory_of_another_process():
    os.close(os.open(f"/proc/{A['outsider']}/mem", os.O_RDONLY))


def memory_of_another_process_by_call():
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    buffer = ctypes.create_string_buffer(8)
    local, remote = Vector(ctypes.addressof(buffer), 8), Vector(int(A["address"], 16), 8)
    call("process_vm_readv", A["outsider"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def trace_another_process():
    seize, detach = 0x4206, 17
    call("ptrace", seize, A["outsider"], 0, 0)
    call("kill", A["outsider"], int(signal.SIGSTOP))
    call("waitpid", A["outsider"], 0, 0x40000000)
    call("ptrace", detach, A["outsider"], 0, 0)
    call("kill", A["outsider"], int(signal.SIGCONT))


def limit_another_process():
    import resource
    resource.prlimit(A["outsider"], resource.RLIMIT_CORE, (0, 0))


def stop_the_gateway():
    os.kill(A["gateway"], signal.SIGSTOP)
    os.kill(A["gateway"], signal.SIGCONT)


def stop_the_gateway_by_descriptor():
    pidfd = os.pidfd_open(A["gateway"])
    signal.pidfd_send_signal(pidfd, signal.SIGCONT)


def kill_a_replica():
    os.kill(A["idle"], signal.SIGKILL)


def put_a_replica_into_the_registry():
    write(f"{STACK}/replicas/claude-code-api/{A['victim']}.json")


def list_the_registry():
    os.listdir(f"{STACK}/replicas/claude-code-api")


def write_into_the_journal_of_another_job():
    write(f"{STACK}/jobs/{A['victim']}/events.ndjson", "{}\n", "a")


def read_the_journal_of_another_job():
    read(f"{STACK}/jobs/{A['victim']}/events.ndjson")


def end_another_job():
    write("outcome")
    os.link("outcome", f"{STACK}/jobs/{A['victim']}/outcome")


def rewrite_a_queued_job():
    path = f"{STACK}/jobs/{A['queued']}/job.json"
    text = open(path).read()
    write(path, text.replace("nothing", "all"))


def cancel_another_job():
    write(f"{STACK}/jobs/{A['victim']}/control/cancel", "")


def configure_a_mirror():
    write(A["mirror"] + "/config", "[core]\n\tsshCommand = true\n", "a")


def read_the_session_of_another_job():
    os.listdir(f"{STACK}/sessions/{A['session']}/project")


def scale_a_service_to_what_it_is():
    key = open(f"{STACK}/up.key").read()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(f"{STACK}/up.sock")
        client.sendall((key + "\n" + json.dumps({"ask": "scale", "to": {"github-pull-api": 1}}) + "\n").encode())
        if b"done" not in client.recv(1000):
            raise OSError("it was refused")


def read_the_checkout_of_another_job():
    read(f"{A['workspace']}/jobs/{A['victim']}/work/secret")


def list_the_checkouts():
    os.listdir(A["workspace"] + "/jobs")


def read_a_named_checkout():
    read(A["workspace"] + "/shared/README.md")


def read_the_key_of_the_gateway():
    read(A["key"])


def link_to_the_checkout_of_another_job():
    os.link(f"{A['workspace']}/jobs/{A['victim']}/work/secret", "mine")


def move_its_own_checkout():
    here = os.getcwd()
    os.rename(here, here + "2")
    os.rename(here + "2", here)


def make_a_checkout():
    os.mkdir(A["workspace"] + "/made")


def list_the_home_of_the_user():
    os.listdir(A["home"])


def read_the_home_of_the_user():
    read(A["home"] + "/private")


def read_the_home_through_proc():
    read("/proc/self/root" + A["home"] + "/private")


def list_the_directory_of_temporary_files():
    os.listdir("/tmp")


def write_to_the_directory_of_temporary_files():
    write(f"/tmp/hostile-{os.getpid()}")
    os.unlink(f"/tmp/hostile-{os.getpid()}")


def connect_to_an_abstract_socket():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + A["abstract"])


def make_a_namespace():
    user = 0x10000000
    pid = os.fork()
    if pid == 0:
        os._exit(0 if LIBC.unshare(user) == 0 else 1)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("unshare")


def use_the_keys_of_the_user():
    get_persistent, session = 0, -3
    number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    call("syscall", number, get_persistent, session, 0)


# What Landlock does not decide about.
def change_the_mode_of_the_stacks_files():
    os.chmod(STACK + "/mirrors", 0o700)


def change_the_times_of_the_stacks_files():
    os.utime(STACK + "/mirrors", (1000000000, 1000000000))


def set_an_attribute_of_the_stacks_files():
    os.setxattr(STACK + "/mirrors", "user.hostile", b"x")


def change_the_priority_of_another_process():
    now = os.getpriority(os.PRIO_PROCESS, A["outsider"])
    os.setpriority(os.PRIO_PROCESS, A["outsider"], min(now + 1, 19))


def use_the_memory_of_the_user():
    call("shmat", A["memory"], None, 0o10000)


# What only root can do anyway.
def mount():
    os.makedirs("mounted", exist_ok=True)
    call("mount", b"none", b"mounted", b"tmpfs", 0, None)
    call("umount2", b"mounted", 0)


def make_the_device_of_a_disk():
    import stat
    os.mknod("disk", 0o600 | stat.S_IFBLK, os.makedev(7, 0))


def capture_packets():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


def send_raw_packets():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()


ATTACKS = [value for name, value in list(globals().items())
           if callable(value) and value.__module__ == "__main__"
           and name not in ("call", "read", "write")]
found = {}
for attack in ATTACKS:
    try:
        attack()
        found[attack.__name__] = "worked"
    except Exception as error:
        found[attack.__name__] = f"{type(error).__name__}: {error}"
with open(A["results"] + ".part", "w") as file:
    json.dump(found, file)
os.rename(A["results"] + ".part", A["results"])
