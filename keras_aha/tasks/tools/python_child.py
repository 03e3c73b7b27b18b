"""The program that `PythonCode` starts: it shuts itself in by namespaces of Linux, and then becomes Python."""

import ctypes
import os
import resource
import signal
import sys

_USER, _OTHERS = 0x10000000, 0x6C020000  # namespaces: of users; of mounts, processes, network, names, and messages
_BIND, _PRIVATE, _DETACH, _RECURSIVE = 0x5000, 0x44000, 2, 0x8000
_READ_ONLY, _PLAIN = 1, 2 | 4  # PLAIN: no rights by files, no devices
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _MOUNT_SETATTR = 1, 38, 442
_ROOT = "/proc"  # where the new root is made: it is everywhere, and Python is not in it
_NOBODY = 65534


def main(code: str, python: str, seconds: int, memory: int, output: int) -> int:
    """Runs code, and returns 0 if it went well, 1 if not, 2 if the process could not be shut in."""
    user, group, is_root = os.getuid(), os.getgid(), os.getuid() == 0
    try:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        _call("unshare", _OTHERS if is_root else _OTHERS | _USER)
        rights = {"self/setgroups": "deny", "self/uid_map": f"{user} {user} 1", "self/gid_map": f"{group} {group} 1"}
        rights["sys/user/max_user_namespaces"] = "0"  # code gets no rights by another one
        for name, text in () if is_root else rights.items():
            with open(f"/proc/{name}", "w") as file:
                file.write(text)
        _change_root(["/usr/lib", "/usr/lib64", "/lib", "/lib64", sys.base_prefix], memory)
        child = os.fork()  # the first of the new namespace of processes: if it ends, all others there do
    except OSError as error:
        print(f"{error.filename or ''} {error.strerror}")
        return 2
    if child:
        return int(os.waitpid(child, 0)[1] != 0)
    if is_root:  # whose processes Linux does not count
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _call("unshare", _USER)
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    limits = {"CPU": seconds, "AS": memory, "FSIZE": output, "NOFILE": 64, "CORE": 0, "NPROC": 1}
    for name, value in limits.items():
        resource.setrlimit(vars(resource)[f"RLIMIT_{name}"], (value, value))
    environment = {"LD_LIBRARY_PATH": f"{sys.base_prefix}/lib", "PYTHONHASHSEED": "0"}
    os.execve(python, [python, "-s", "-S", "-P", "-c", code], environment)


def _change_root(folders: list[str], size: int) -> None:
    """Changes to a root that holds some folders, which cannot be written, and an empty /tmp."""
    _mount(None, "/", None, _PRIVATE)
    _mount("tmpfs", _ROOT, "tmpfs", _PLAIN, f"size={size}")
    os.mkdir(f"{_ROOT}/tmp")
    for folder in filter(os.path.isdir, folders):
        os.makedirs(_ROOT + folder, exist_ok=True)
        _mount(folder, _ROOT + folder, None, _BIND)
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _PLAIN)
    _call("syscall", _MOUNT_SETATTR, -1, _ROOT.encode(), _RECURSIVE, attributes, ctypes.sizeof(attributes))
    _mount("tmpfs", f"{_ROOT}/tmp", "tmpfs", _PLAIN, f"size={size},mode=1777")
    os.chdir(_ROOT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/tmp")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    _call("mount", *words[:3], ctypes.c_ulong(flags), words[3])


def _call(function: str, *arguments) -> None:
    """Calls a function of the C library; OSError if it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if library[function](*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), function)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3], *map(int, sys.argv[3:])))
