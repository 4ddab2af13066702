// Runs a program and makes one of its system calls, and no other, fail or hang.
//
//     inject REPORT SITE NTH ERRNO|hang:MS PROGRAM [ARGUMENT...]
//
// A site is `PHASE CALL THREAD OBJECT`: the digit that the file REPORT.phase holds at that moment, the call's name,
// the thread's (`main` is the first one), and what it is about: the file or kind of socket behind its descriptor, or
// its path, with # for numbers and ~ for $HOME. So a site is the same in every run, whatever the order of threads.
// `!waits` follows where the call may wait for somebody else by its flags, as on a blocking socket. Of an epoll_ctl,
// `try:` is libuv's check of whether a watch is to be had, which it takes away at once, and `add:` the watch itself.
// The NTH call of SITE fails, or hangs; NTH 0: none. A close that fails has closed all the same, as in the kernel.
// REPORT gets each counted call's site, and a line `struck` before the one that is made to fail.
//
// Calls count from the program's second epoll_create1 on, which is when its event loop begins (the first is Python's,
// to see whether there is such a call), and only those that are listed here: what a kernel really fails now and then.
// The signals that end or reload a program go through to it; its exit is this one's. It gets no io_uring, as under
// kernel.io_uring_disabled and in most containers: libuv would hand its watches to the kernel by it, seen by nobody.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum about { NOTHING, FD, PATH, PATH2, EVENTS };
#define CALL(name, about) [SYS_##name] = {#name, about}
static const struct {
    const char *name;
    enum about about;
} COUNTED[512] = {
    CALL(read, FD),            CALL(write, FD),          CALL(pread64, FD),       CALL(openat, PATH2),
    CALL(open, PATH),          CALL(close, FD),          CALL(fstat, FD),         CALL(newfstatat, PATH2),
    CALL(statx, PATH2),        CALL(lseek, FD),          CALL(getdents64, FD),    CALL(socket, NOTHING),
    CALL(bind, FD),            CALL(listen, FD),         CALL(accept4, FD),       CALL(connect, FD),
    CALL(sendto, FD),          CALL(sendmsg, FD),        CALL(recvfrom, FD),      CALL(recvmsg, FD),
    CALL(setsockopt, FD),      CALL(getsockopt, FD),     CALL(getsockname, FD),   CALL(getpeername, FD),
    CALL(shutdown, FD),        CALL(epoll_create1, NOTHING), CALL(epoll_ctl, EVENTS), CALL(epoll_wait, NOTHING),
    CALL(epoll_pwait, NOTHING), CALL(poll, NOTHING),     CALL(eventfd2, NOTHING), CALL(pipe2, NOTHING),
    CALL(socketpair, NOTHING), CALL(dup, FD),            CALL(fcntl, FD),         CALL(ioctl, FD),
    CALL(mkdir, PATH),         CALL(rename, PATH),       CALL(unlink, PATH),      CALL(chmod, PATH),
    CALL(fchmod, FD),          CALL(ftruncate, FD),      CALL(fsync, FD),         CALL(fdatasync, FD),
    CALL(access, PATH),        CALL(faccessat, PATH2),   CALL(faccessat2, PATH2), CALL(readlink, PATH),
    CALL(clone3, NOTHING),     CALL(clone, NOTHING),     CALL(prlimit64, NOTHING),
    CALL(inotify_init1, NOTHING), CALL(inotify_add_watch, PATH2),
};

enum { THREADS_MAX = 1024, FDS_MAX = 4096, SITE_MAX = 512 };
static struct thread {
    pid_t tid;
    int failing;       // the call that it is in is to fail: with this error
    long long until;   // hangs until then, in ms
    const char *socket; // the kind that the call it is in makes
} threads[THREADS_MAX];

// Of sockets the kernel names no more than a number.
static const char *sockets[FDS_MAX];

static pid_t first;

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static struct thread *thread_of(pid_t tid) {
    struct thread *free_one = NULL;
    for (int i = 0; i < THREADS_MAX; i++) {
        if (threads[i].tid == tid) return &threads[i];
        if (!threads[i].tid && !free_one) free_one = &threads[i];
    }
    if (!free_one) abort();
    *free_one = (struct thread){.tid = tid};
    return free_one;
}

static void hand_on(int number) {
    if (first > 0) kill(first, number);
}

static void woken(int number) { (void)number; }

// Numbers differ from run to run, and so do the names in which they are; the home is the test's own.
static void append_plain(char *site, const char *text) {
    const char *home = getenv("HOME");
    size_t length = strlen(site), skip = home ? strlen(home) : 0;
    if (skip && !strncmp(text, home, skip)) {
        site[length++] = '~';
        text += skip;
    }
    for (; *text && length < SITE_MAX - 1; text++) {
        int digit = *text >= '0' && *text <= '9';
        if (digit && length && site[length - 1] == '#') continue;
        site[length++] = digit ? '#' : *text == '\n' || *text == ' ' ? '_' : *text;
    }
    site[length] = 0;
}

static const char *const PLAIN[] = {"socket:", "pipe:", "anon_inode:"};

// Whether a call may wait for somebody else: of a file on a disk that is never told.
static int may_wait(pid_t tid, const struct user_regs_struct *registers) {
    unsigned long long flags = 0;
    switch (registers->orig_rax) {
        case SYS_read: case SYS_write: case SYS_connect: case SYS_accept4: break;
        case SYS_sendto: case SYS_recvfrom: flags = registers->r10; break;
        case SYS_sendmsg: case SYS_recvmsg: flags = registers->rdx; break;
        default: return 0;
    }
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/fd/%d", tid, (int)registers->rdi);
    if (flags & MSG_DONTWAIT || readlink(path, text, sizeof text - 1) < 0) return 0;
    int plain = 0;
    for (unsigned i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++) plain |= !strncmp(text, PLAIN[i], strlen(PLAIN[i]));
    if (!plain) return 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%d", tid, (int)registers->rdi);
    FILE *info = fopen(path, "r");
    unsigned open_flags = 0;
    int told = info && fscanf(info, "pos: %*d flags: %o", &open_flags) == 1;
    if (info) fclose(info);
    return told && !(open_flags & O_NONBLOCK);
}

static void append_fd(char *site, pid_t tid, long long fd) {
    char link[64], path[SITE_MAX];
    if (fd >= 0 && fd < FDS_MAX && sockets[fd]) {
        append_plain(site, sockets[fd]);
        return;
    }
    snprintf(link, sizeof link, "/proc/%d/fd/%lld", tid, fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    append_plain(site, length < 0 ? "closed" : path);
}

// Whether there is one: with an empty path some calls are about their descriptor.
static int append_path(char *site, pid_t tid, unsigned long long address) {
    char path[256] = "";
    // To the end of the page and no further: the next one need not be there.
    size_t room = 4096 - address % 4096;
    struct iovec here = {path, room < sizeof path - 1 ? room : sizeof path - 1}, there = {(void *)address, here.iov_len};
    if (process_vm_readv(tid, &here, 1, &there, 1, 0) < 0) path[0] = 0;
    append_plain(site, path);
    return path[0] != 0;
}

// What an epoll_ctl does. libuv checks with an event that is of no descriptor.
static const char *watch(pid_t tid, const struct user_regs_struct *registers) {
    if (registers->rsi != EPOLL_CTL_ADD) return registers->rsi == EPOLL_CTL_DEL ? "del:" : "mod:";
    struct epoll_event event = {0};
    struct iovec here = {&event, sizeof event}, there = {(void *)registers->r10, sizeof event};
    return process_vm_readv(tid, &here, 1, &there, 1, 0) > 0 && event.data.fd == -1 ? "try:" : "add:";
}

static void append_thread(char *site, pid_t tid) {
    char path[64], name[32] = "main";
    if (tid != first) {
        snprintf(path, sizeof path, "/proc/%d/comm", tid);
        int fd = open(path, O_RDONLY);
        ssize_t length = fd < 0 ? 0 : read(fd, name, sizeof name - 1);
        name[length > 0 ? length - 1 : 0] = 0;
        if (fd >= 0) close(fd);
    }
    append_plain(site, name);
}

static const char *kind_of_socket(unsigned long long domain, unsigned long long type) {
    int stream = (type & 0xf) == SOCK_STREAM;
    if (domain == AF_UNIX) return stream ? "unix-stream" : "unix-datagram";
    return stream ? "inet-stream" : "inet-datagram";
}

// A call that makes a socket, or lets go of one.
static void note_sockets(struct thread *one, const struct user_regs_struct *registers) {
    unsigned long long fd = registers->rdi;
    one->socket = NULL;
    if (registers->orig_rax == SYS_socket) one->socket = kind_of_socket(fd, registers->rsi);
    if (registers->orig_rax == SYS_accept4 && fd < FDS_MAX && sockets[fd])
        one->socket = strcmp(sockets[fd], "unix-listener") ? "poll" : "command";
    if (fd >= FDS_MAX || !sockets[fd]) return;
    if (registers->orig_rax == SYS_listen)
        sockets[fd] = strcmp(sockets[fd], "unix-stream") ? "inet-listener" : "unix-listener";
}

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    FILE *report = fopen(argv[1], "w");
    char path[4096];
    snprintf(path, sizeof path, "%s.phase", argv[1]);
    int phase_file = open(path, O_RDONLY);
    if (!report || phase_file < 0) return 2;
    const volatile char *phase = mmap(NULL, 1, PROT_READ, MAP_SHARED, phase_file, 0);
    if (phase == MAP_FAILED) return 2;
    const char *wanted = argv[2];
    long nth = atol(argv[3]), met = 0;
    int hang_ms = strncmp(argv[4], "hang:", 5) ? 0 : atoi(argv[4] + 5), error = hang_ms ? 0 : atoi(argv[4]);
    int epolls = 0;

    first = fork();
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execvp(argv[5], argv + 5);
        _exit(127);
    }
    int handed[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
    for (unsigned i = 0; i < sizeof handed / sizeof *handed; i++)
        sigaction(handed[i], &(struct sigaction){.sa_handler = hand_on, .sa_flags = SA_RESTART}, NULL);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = woken}, NULL);

    int status;
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL);
    thread_of(first);
    ptrace(PTRACE_SYSCALL, first, 0, 0);
    for (;;) {
        pid_t tid = waitpid(-1, &status, __WALL);
        for (int i = 0; i < THREADS_MAX; i++)  // whose time has come
            if (threads[i].until && now_ms() >= threads[i].until) {
                threads[i].until = 0;
                ptrace(PTRACE_SYSCALL, threads[i].tid, 0, 0);
            }
        if (tid < 0) {
            if (errno == EINTR) continue;
            return 2;
        }
        struct thread *one = thread_of(tid);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            *one = (struct thread){0};
            if (tid != first) continue;
            fclose(report);
            if (WIFEXITED(status)) return WEXITSTATUS(status);
            signal(WTERMSIG(status), SIG_DFL);
            raise(WTERMSIG(status));
            return 2;
        }
        int deliver = 0;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            struct user_regs_struct registers;
            struct __ptrace_syscall_info info;
            if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) < 0) continue;
            if (ptrace(PTRACE_GETREGS, tid, 0, &registers)) continue;
            long call = (long)registers.orig_rax;
            if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
                epolls += call == SYS_epoll_create1;
                note_sockets(one, &registers);
                const char *name = call >= 0 && call < 512 ? COUNTED[call].name : NULL;
                if (epolls >= 2 && name) {
                    char site[SITE_MAX];
                    snprintf(site, sizeof site, "%c %s ", *phase, name);
                    append_thread(site, tid);
                    strcat(site, " ");
                    switch (COUNTED[call].about) {
                        case NOTHING: strcat(site, "-"); break;
                        case FD: append_fd(site, tid, (int)registers.rdi); break;
                        case PATH: append_path(site, tid, registers.rdi); break;
                        case PATH2:
                            if (!append_path(site, tid, registers.rsi)) append_fd(site, tid, (int)registers.rdi);
                            break;
                        case EVENTS:
                            append_plain(site, watch(tid, &registers));
                            append_fd(site, tid, (int)registers.rdx);
                    }
                    if (may_wait(tid, &registers)) append_plain(site, "!waits");
                    int chosen = !strcmp(site, wanted) && ++met == nth;
                    fprintf(report, "%s%s\n", chosen ? "struck\n" : "", site);
                    fflush(report);
                    if (chosen && hang_ms) {
                        if (call == SYS_close && registers.rdi < FDS_MAX) sockets[registers.rdi] = NULL;
                        one->until = now_ms() + hang_ms;
                        struct itimerval tick = {{0, 50000}, {0, 50000}};
                        setitimer(ITIMER_REAL, &tick, NULL);
                        continue;
                    }
                    if (chosen) one->failing = error;
                }
                if (call == SYS_io_uring_setup) one->failing = EPERM;
                if (one->failing && call != SYS_close) {
                    registers.orig_rax = (unsigned long long)-1;  // no such call, so nothing happens
                    ptrace(PTRACE_SETREGS, tid, 0, &registers);
                }
                if (call == SYS_close && registers.rdi < FDS_MAX) sockets[registers.rdi] = NULL;
            } else if (one->failing) {
                registers.rax = (unsigned long long)-one->failing;
                one->failing = 0;
                ptrace(PTRACE_SETREGS, tid, 0, &registers);
            } else if (one->socket && registers.rax < FDS_MAX) {
                sockets[registers.rax] = one->socket;
            }
        } else if (status >> 16) {
            // a thread or process was made, or the program is another one: nothing to hand on
        } else if (WSTOPSIG(status) != SIGSTOP) {
            deliver = WSTOPSIG(status);
            if (deliver == SIGTRAP) deliver = 0;  // of the exec
        }
        ptrace(PTRACE_SYSCALL, tid, 0, deliver);
    }
}
