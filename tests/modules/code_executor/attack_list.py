"""The attacks: one small program each, with the verdict it must get and what it may be able to say.

A program prints what it got hold of, and nothing where it was kept from all of it. Words in capitals are replaced by what the test put up on the
host: services, a canary process with a secret, a file of somebody else's run. `docs/sandbox.md` has the table for readers.
"""

from __future__ import annotations

from textwrap import dedent

from attrs import frozen

from modules.code_executor.sandbox import Limits, Outcome

MIB = 1 << 20
AMPLE = Limits(wall_s=60.0, cpu_s=60.0)
"""A busy machine must not pass for an attack."""
SHORT = Limits(wall_s=1.5, cpu_s=60.0)
"""For programs that never end by themselves."""

ENDED = (Outcome.FINISHED,)
LATE = (Outcome.TIMEOUT,)


@frozen
class Attack:
    """One attack.

    Attributes:
        name: What it tries.
        source: The program, in Python.
        outcomes: The verdicts that contain it.
        says: All that it may print, by the sandbox's level where levels differ; None where that does not matter.
        limits: What it may use.
        signal: The signal that has to end it.
    """

    name: str
    source: str
    outcomes: tuple[Outcome, ...] = ENDED
    says: str | dict[str, str] | None = ""
    limits: Limits = AMPLE
    signal: int | None = None

    def allowed(self, level: str) -> str | None:
        """Return what it may print in a sandbox of some level."""
        return self.says.get(level, "") if isinstance(self.says, dict) else self.says


def _a(name: str, source: str, outcomes: tuple[Outcome, ...] = ENDED, **more: object) -> Attack:
    return Attack(name, dedent(source), outcomes, **more)  # type: ignore[arg-type]


IGNORING = """
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
"""

REFUSED = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def refused(name, result):
    if result != -1: print(name, result)
def filtered(name, result):
    if result != -1 or ctypes.get_errno() != 38: print(name, result, ctypes.get_errno())
    ctypes.set_errno(0)
def filtered_calls(**calls):
    for name, number in calls.items(): filtered(name, libc.syscall(number, 0, 0, 0, 0, 0, 0))
"""
"""`filtered` asks for more than a failure. A kernel that is reached says no as well, to arguments that mean nothing (EINVAL, EFAULT) or to who
asks (EPERM); our filter, which is the last one put on and so the one whose answer is seen, says that there is no such call (ENOSYS)."""

ATTACKS = (
    # --- as many as possible of everything ---------------------------------------------------------------------------
    _a(
        "a fork bomb",
        f"import os, signal\n{IGNORING}\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        (Outcome.TIMEOUT, Outcome.MEMORY_LIMIT),
        limits=SHORT,
    ),
    _a(
        "a thread bomb",
        """
        import os, threading, time
        started = 0
        try:
            while started < 1000:
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
                started += 1
        except RuntimeError: os.write(1, b'refused')
        os._exit(started > 66)  # what is left of the room for the launcher and its like may be used
        """,
        says="refused",
    ),
    _a(
        "memory, in one process",
        "held = []\nwhile True: held.append(bytearray(1 << 20))",
        (Outcome.MEMORY_LIMIT,),
        says=None,
    ),
    _a(
        "memory, in eight processes",
        """
        import os, time
        for _ in range(3): os.fork()
        held = bytearray()
        for _ in range(100): held += os.urandom(1024) * 1024
        time.sleep(600)
        """,
        (Outcome.MEMORY_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=60.0, memory_bytes=200 * MIB),
        says=None,
    ),
    _a(
        "endless output",
        "import sys\nwhile True: sys.stdout.write('x' * 100_000)",
        (Outcome.OUTPUT_LIMIT,),
        says="x" * 65_536,
    ),
    _a("endless errors", "import sys\nwhile True: sys.stderr.write('x' * 100_000)", (Outcome.OUTPUT_LIMIT,)),
    _a("one line of 50 MB", "print('x' * 50_000_000)", (Outcome.OUTPUT_LIMIT,), says="x" * 65_536),
    _a(
        "a full disk",
        """
        written = 0
        try:
            for number in range(64):
                with open(f'/tmp/{number}', 'wb') as file:
                    for _ in range(4): written += file.write(bytes(1 << 20))
        except OSError as error: print(error.errno, written >> 20 <= 16)
        """,
        says="28 True\n",
    ),
    _a(
        "30,000 files",
        """
        for folder in ('/tmp', '/dev/shm'):
            number = 0
            try:
                for number in range(30_000): open(f'{folder}/{number}', 'w').close()
            except OSError as error: print(error.errno, number < 1024)
        """,
        says="28 True\n28 True\n",
    ),
    _a(
        "a file of a terabyte",
        """
        import os
        for make in (lambda file: os.ftruncate(file, 1 << 40), lambda file: os.posix_fallocate(file, 0, 200 << 20)):
            file = os.open('/tmp/large', os.O_RDWR | os.O_CREAT)
            try: make(file)
            except OSError as error: print(error.errno in (27, 28))
        """,
        says="True\nTrue\n",
    ),
    _a(
        "a full /dev/shm",
        """
        written = 0
        try:
            with open('/dev/shm/x', 'wb') as file:
                while written < 64 << 20: written += file.write(bytes(1 << 20))
        except OSError: pass
        else: print(written)
        """,
    ),
    # --- what is on the host -----------------------------------------------------------------------------------------
    _a(
        "files of the host",
        """
        import os
        for path in ('/etc/shadow', '/etc/sudoers', '/root', '/home', '/var/lib/docker', '/var/log', '/boot', 'FOLDER', 'FILE'):
            try: found = os.listdir(path) if os.path.isdir(path) else open(path).read(20)
            except OSError: continue
            if found: print(path, found)
        """,
    ),
    _a(
        "writing outside of its folder",
        """
        for folder in ('/', '/usr', '/usr/bin', '/usr/lib', '/etc', '/dev', '/proc', '/sys', '/var/tmp', '/run', '/home', '/srv', '/lib'):
            try: open(folder + '/x', 'w')
            except OSError: continue
            print(folder)
        """,
    ),
    _a(
        "a TCP service of the host",
        """
        import socket
        for host in ('127.0.0.1', '172.17.0.1', 'ADDRESS', 'localhost', '::1'):
            try: socket.create_connection((host, TCP), 0.5)
            except OSError: continue
            print('reached', host)
        """,
    ),
    _a(
        "a UDP service of the host",
        """
        import socket
        for host in ('127.0.0.1', '172.17.0.1', 'ADDRESS'):
            try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'here', (host, UDP))
            except OSError: continue
        """,
    ),
    _a(
        "an abstract socket of the host",
        """
        import socket
        try: socket.socket(socket.AF_UNIX).connect(ABSTRACT); print('reached')
        except OSError: pass
        """,
    ),
    _a(
        "the engine's socket",
        """
        import os
        for path in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/dbus/system_bus_socket', ENGINE):
            if path and os.path.exists(path): print(path)
        """,
    ),
    _a(
        "sockets to the kernel and beyond",
        """
        import socket
        for family in (2, 10, 16, 17, 21, 29, 30, 31, 38, 40, 44):
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                try: socket.socket(family, kind).close()
                except OSError as error:
                    if error.errno == 38: continue  # a kernel without this family, or with it for others, says something else
                print(family, kind)
        """,
    ),
    _a(
        "killing its parent and everybody else",
        """
        import os
        for target in (os.getppid(), CANARY, -CANARY):
            for number in (9, 15, 19):
                try: os.kill(target, number)
                except OSError: pass
        print('alive', flush=True)
        try: os.kill(-1, 9)
        except OSError: pass
        os.kill(os.getpid(), 9)
        """,
        (Outcome.KILLED,),
        says=None,  # who kills what watches it ends its own run, and may not come to say so
    ),
    _a(
        "killing process 1",
        """
        import os
        for number in (9, 15, 19, 6, 11):
            try: os.kill(1, number)
            except OSError: pass
        """,
        (Outcome.FINISHED, Outcome.KILLED),
    ),
    _a(
        "the memory of other processes",
        REFUSED
        + """
pid = CANARY
filtered_calls(ptrace=101, process_vm_readv=310, process_vm_writev=311, kcmp=312, process_madvise=440)
filtered('ptrace attach', libc.ptrace(16, pid, 0, 0))
refused('pidfd_open', libc.syscall(434, pid, 0))
for path in (f'/proc/{pid}/mem', '/proc/1/mem', '/proc/kcore', '/dev/mem'):
    try:
        with open(path, 'rb') as file: print(path, file.read(1))
    except OSError: pass
""",
    ),
    _a(
        "what /proc tells of others",
        """
        import os
        for name in os.listdir('/proc'):
            for file in ('environ', 'cmdline', 'maps'):
                if not name.isdigit(): continue
                try: text = open(f'/proc/{name}/{file}', 'rb').read()
                except OSError: continue
                if b'SECRET' in text or b'pytest' in text: print(name, file)
        if os.path.exists('/proc/CANARY/cmdline') and b'sleep' in open('/proc/CANARY/cmdline', 'rb').read(): print('canary')
        for path in ('/proc/kcore', '/proc/kallsyms', '/proc/kmsg', '/proc/sysrq-trigger', '/proc/1/root' 'FILE', '/proc/keys'):
            try: text = open(path, 'rb').read(200)
            except OSError: continue
            if text.strip(b'0 \\n') and not (path == '/proc/kallsyms' and text.startswith(b'0000000000000000')): print(path, text[:40])
        for path in ('/proc/partitions', '/proc/diskstats', '/proc/cmdline', '/proc/swaps', '/proc/fs', '/sys/block', '/sys/class/block'):
            try: found = os.listdir(path) if os.path.isdir(path) else open(path).read()
            except OSError: continue
            if found: print(path, found)
        # An engine's containers show where their layers are on the host; nothing that takes no rights hides that.
        known = ('/', '/sbin/docker-init', '/usr/sbin/docker-init', '/etc/hostname', '/etc/hosts', '/etc/resolv.conf')
        known = known if os.path.exists('/.dockerenv') else ()
        for line in open('/proc/self/mountinfo'):
            (_, _, _, _, where, *_), (kind, source, options) = (half.split() for half in line.split(' - '))
            layers = dict(option.partition('=')[::2] for option in options.split(','))
            theirs = [layers.get(name, '') for name in ('lowerdir', 'upperdir', 'workdir')] not in ([f'{where}:/tmp/.empty', '', ''], [''] * 3)
            made = kind in ('tmpfs', 'devtmpfs', 'devpts', 'proc', 'sysfs', 'mqueue', 'cgroup', 'cgroup2', 'overlay')
            if (theirs or not made or source.startswith('/')) and where not in known: print(where)
        """,
    ),
    _a(
        "the environment of the host",
        """
        import os
        for name, value in os.environ.items():
            if 'SECRET' in value or name.startswith(('FISSILE', 'AWS', 'DOCKER', 'PYTEST')): print(name)
        """,
    ),
    _a(
        "descriptors that were left open",
        """
        import os
        for number in range(3, 1024):
            try: print(number, os.readlink(f'/proc/self/fd/{number}') or os.fstat(number))
            except OSError: continue
        """,
    ),
    # --- outliving the run -------------------------------------------------------------------------------------------
    _a(
        "a daemon without any ties",
        f"""
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        {IGNORING.strip().replace(chr(10), chr(10) + "        ")}
        time.sleep(3600)
    os._exit(0)
time.sleep(3600)
""",
        LATE,
        limits=SHORT,
    ),
    _a(
        "an orphan that keeps the pipe",
        """
        import os, time
        if os.fork() == 0: time.sleep(3600)
        print('parent', flush=True)
        os._exit(0)
        """,
        says="parent\n",
    ),
    _a("ignoring every signal", f"import signal, time\n{IGNORING}\ntime.sleep(3600)", LATE, limits=SHORT),
    _a("stopping itself", "import os\nos.kill(os.getpid(), 19)", (Outcome.TIMEOUT, Outcome.FINISHED), limits=SHORT),
    _a("waiting for input", "import sys\nprint(repr(sys.stdin.read()))", says="''\n"),
    _a(
        "the processor",
        "while True: pass",
        (Outcome.CPU_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=1.0),
    ),
    _a(
        "the processor, in eight processes",
        "import os\nfor _ in range(3): os.fork()\nwhile True: pass",
        (Outcome.CPU_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=2.0),
    ),
    _a("sleeping for ever", "import time\ntime.sleep(3600)", LATE, limits=SHORT),
    _a(
        "a crash that leaves a core",
        """
        import ctypes, os, resource
        try: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)); print('core')
        except (ValueError, OSError): pass
        if os.fork() == 0: ctypes.string_at(8)
        _, status = os.wait()
        if os.WCOREDUMP(status): print('dumped')
        ctypes.string_at(8)
        """,
        (Outcome.KILLED,),
        signal=11,
    ),
    # --- rights ------------------------------------------------------------------------------------------------------
    _a(
        "the clock and the host's name",
        REFUSED
        + """
filtered('sethostname', libc.sethostname(b'x', 1))
filtered_calls(settimeofday=164, adjtimex=159, clock_settime=227, clock_adjtime=305, setdomainname=171)
""",
    ),
    _a(
        "mounts and roots",
        REFUSED
        + """
filtered('mount', libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))
filtered('chroot', libc.chroot(b'/tmp'))
filtered_calls(pivot_root=155, umount2=166, open_tree=428, move_mount=429, fsopen=430, fsconfig=431, fsmount=432, mount_setattr=442)
""",
    ),
    _a(
        "namespaces of its own",
        REFUSED
        + """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000): filtered(hex(flag), libc.unshare(flag))
for flag in (0x10000000, 0x20000, 0x40000000):
    pid = libc.syscall(56, flag | 17, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    filtered('clone', pid)
filtered('setns', libc.setns(0, 0))
filtered_calls(clone3=435)
""",
    ),
    _a(
        "dangerous corners of the kernel",
        REFUSED
        + """
filtered_calls(
    io_uring_setup=425, io_uring_enter=426, io_uring_register=427, bpf=321, perf_event_open=298, add_key=248, request_key=249, keyctl=250,
    userfaultfd=323, open_by_handle_at=304, name_to_handle_at=303, init_module=175, finit_module=313, delete_module=176,
    kexec_load=246, syslog=103, reboot=169, swapon=167, acct=163, quotactl=179, ioperm=173, iopl=172, lookup_dcookie=212, vhangup=153,
    seccomp=317, memfd_create=319, mq_open=240, mbind=237, landlock_create_ruleset=444,
)
filtered('personality', libc.personality(0x0040000))
""",
    ),
    _a(
        "its own rights",
        REFUSED
        + """
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
for name in ('CapEff', 'CapPrm', 'CapBnd', 'CapAmb', 'CapInh'):
    if int(status[name], 16): print(name)
print(status['NoNewPrivs'].strip(), status['Seccomp'].strip())
refused('setuid', libc.setuid(0)); refused('setgid', libc.setgid(0)); refused('setgroups', libc.setgroups(1, (ctypes.c_int * 1)(0)))
if os.getuid() == 0: print('root')
""",
        says="1 2\n",
    ),
    _a(
        "devices",
        """
        import os, stat
        for kind, major, minor in ((stat.S_IFBLK, 8, 0), (stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 229), (stat.S_IFBLK, 254, 0)):
            try: os.mknod('/tmp/device', kind | 0o600, os.makedev(major, minor)); print('made', major, minor)
            except OSError: pass
        for name in ('mem', 'kmem', 'kmsg', 'port', 'sda', 'vda', 'nvme0n1', 'fuse', 'kvm', 'net/tun', 'vsock', 'vhost-net', 'console', 'tty1'):
            try: os.close(os.open('/dev/' + name, os.O_RDONLY)); print('opened', name)
            except OSError: pass
        """,
    ),
    _a(
        "switches of the kernel",
        """
        import os
        places = ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/vm/drop_caches', '/proc/sysrq-trigger',
                  '/proc/sys/kernel/hostname', '/sys/kernel/uevent_helper', '/sys/fs/cgroup/release_agent']
        for top in ('/sys/fs/cgroup',):
            for folder, _, files in os.walk(top):
                places += [os.path.join(folder, name) for name in files if name in ('release_agent', 'cgroup.procs', 'notify_on_release')][:5]
        for path in places:
            try: os.close(os.open(path, os.O_WRONLY)); print(path)
            except OSError: pass
        """,
    ),
    _a(
        "programs of its own making",
        """
        import os, shutil, sys
        shutil.copy(os.path.realpath(sys.executable), '/tmp/tool'); os.chmod('/tmp/tool', 0o4755)
        if os.fork() == 0:
            try: os.execv('/tmp/tool', ['tool', '-V'])
            except OSError: os._exit(7)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        try: os.memfd_create('tool'); print('memfd')
        except OSError: pass
        """,
        # Its disk takes no programs; and those made elsewhere would have no more rights than itself.
        says="7\n",
    ),
    _a(
        "larger limits and a better place in line",
        """
        import os, resource
        for name in ('RLIMIT_NOFILE', 'RLIMIT_NPROC', 'RLIMIT_FSIZE', 'RLIMIT_CPU', 'RLIMIT_CORE', 'RLIMIT_MEMLOCK'):
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            if hard == resource.RLIM_INFINITY: continue
            try: resource.setrlimit(number, (hard + 1, hard + 1)); print(name)
            except (ValueError, OSError): pass
        nice = os.nice(0)
        try:
            if os.nice(-5) < nice: print('nice')
        except OSError: pass
        try: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); print('fifo')
        except OSError: pass
        try: os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000'); print('oom')
        except OSError: pass
        """,
    ),
    _a(
        "5,000 descriptors",
        """
        import os
        opened = 0
        try:
            while opened < 5000: os.open('/dev/null', os.O_RDONLY); opened += 1
        except OSError as error: print(error.errno)
        """,
        says="24\n",
    ),
    _a(
        "typing into the terminal",
        """
        import fcntl, os
        for path in ('/dev/tty', '/dev/console', '/proc/1/fd/0', '/dev/stdin', '/dev/ptmx'):
            try: file = os.open(path, os.O_RDWR | os.O_NOCTTY)
            except OSError: continue
            try: fcntl.ioctl(file, 0x5412, b'x'); print(path)
            except OSError: pass
        """,
    ),
    # --- what it writes ----------------------------------------------------------------------------------------------
    _a(
        "bytes that are no text",
        r"""
        import sys
        sys.stdout.buffer.write(b'\xff\xfe a\x00b \x1b[2J\x1b]0;x\x07 \xe2\x80\xae ' + '€'.encode()[:2])
        """,
        says="\ufffd\ufffd a\x00b \x1b[2J\x1b]0;x\x07 \u202e \ufffd",
    ),
    _a(
        "sources that are hard to read",
        """
        for source in ('(' * 90_000, '-' * 1_000_000 + '1', '[' * 90_000 + ']' * 90_000, 'x = "' + 'a' * 20_000_000 + '"'):
            try: compile(source, 'x', 'exec')
            except (SyntaxError, MemoryError, RecursionError): pass
        """,
        (Outcome.FINISHED, Outcome.MEMORY_LIMIT, Outcome.KILLED),
    ),
    _a(
        "leaving a file for the next run",
        """
        import os
        for folder in ('/tmp', '/dev/shm', '/var/tmp', os.getcwd()):
            try: open(folder + '/left-behind', 'w').write('here')
            except OSError: pass
        """,
    ),
    _a(
        "finding what another run has left",
        """
        import os
        for folder in ('/tmp', '/dev/shm', '/var/tmp', os.getcwd(), 'FOLDER'):
            try: names = os.listdir(folder)
            except OSError: continue
            for name in names:
                if name == 'left-behind' or name.isdigit(): print(folder, name)
        """,
    ),
    _a(
        "closing its output and going on",
        "import os\nos.close(1); os.close(2)\nwhile True: pass",
        (Outcome.CPU_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=1.0),
    ),
    _a(
        "3,000 pipes",
        """
        import os
        try:
            for _ in range(3000): os.pipe()
        except OSError as error: print(error.errno)
        """,
        says="24\n",
    ),
    _a(
        "shared memory and message queues",
        REFUSED
        + """
filtered('shmget', libc.shmget(0x1234, 200 << 20, 0o1666))
filtered('msgget', libc.msgget(0x1234, 0o1666))
filtered('semget', libc.semget(0x1234, 1, 0o1666))
for name in ('shm', 'msg', 'sem'):
    try: lines = open('/proc/sysvipc/' + name).read().splitlines()
    except OSError: continue
    if len(lines) > 1: print(name, len(lines))
""",
    ),
    # --- beyond the list ---------------------------------------------------------------------------------------------
    _a(
        "children that nobody waits for",
        """
        import os, signal, time
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            for _ in range(2):
                if os.fork() == 0:
                    end = time.process_time() + 0.05
                    while time.process_time() < end: pass
                    os._exit(0)
            try:
                while True: os.wait()
            except ChildProcessError: pass
        """,
        (Outcome.CPU_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=1.0),
    ),
    _a(
        "memory that only tables of pages take",
        """
        import mmap, os, time
        for _ in range(5): os.fork()
        held = mmap.mmap(-1, 3 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
        for place in range(0, 3 << 30, 2 << 20): held[place]
        time.sleep(600)
        """,
        (Outcome.MEMORY_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=60.0, memory_bytes=128 * MIB),
        says=None,
    ),
    _a(
        "memory that waits in sockets",
        """
        import os, socket, time
        for _ in range(4): os.fork()
        held = []
        try:
            while True:
                pair = socket.socketpair()
                held += pair
                for one in pair:
                    one.setblocking(False)
                    try:
                        while True: one.send(bytes(65536))
                    except BlockingIOError: pass
        except OSError: pass
        time.sleep(600)
        """,
        (Outcome.MEMORY_LIMIT,),
        limits=Limits(wall_s=60.0, cpu_s=60.0, memory_bytes=128 * MIB),
        says=None,
    ),
    _a(
        "system calls of other numbers",
        """
        import ctypes, mmap, os
        def run(code):
            page = mmap.mmap(-1, 4096, prot=7)
            page.write(code)
            return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        # getpid as a 32-bit program asks for it, and by the numbers of x32.
        for name, code in (('i386', 'b814000000cd80c3'), ('x32', 'b8270000400f05c3')):
            if os.fork() == 0: os._exit(run(bytes.fromhex(code)) == os.getpid())
            status = os.waitstatus_to_exitcode(os.wait()[1])
            if status != -31: print(name, status)  # SIGSYS: the filter knows the numbers of one architecture, and ends who uses others
        """,
    ),
)
