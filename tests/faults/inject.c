// Runs a program and makes one of its system calls, and no other, fail or hang.
//
//     inject REPORT NAME NTH ERRNO|hang:MS PROGRAM [ARGUMENT...]
//
// Calls are counted over all threads from the program's second epoll_create1 on, which is when its event loop begins
// (the first is Python's, to see whether there is such a call), and only those that are listed here: what a kernel really fails now and then. The NTH call of this NAME fails; 0
// fails none. REPORT gets a line for each counted call: its name, its number among those, the thread that made it
// (0: the first one). The signals that end or reload a program go through to it; its exit is this one's.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALL(name) [SYS_##name] = #name
static const char *const COUNTED[512] = {
    CALL(read),          CALL(write),         CALL(pread64),     CALL(openat),      CALL(open),          CALL(close),
    CALL(fstat),         CALL(newfstatat),    CALL(statx),       CALL(lseek),       CALL(getdents64),    CALL(socket),
    CALL(bind),          CALL(listen),        CALL(accept4),     CALL(connect),     CALL(sendto),        CALL(sendmsg),
    CALL(recvfrom),      CALL(recvmsg),       CALL(setsockopt),  CALL(getsockopt),  CALL(getsockname),   CALL(shutdown),
    CALL(epoll_create1), CALL(epoll_ctl),     CALL(eventfd2),    CALL(pipe2),       CALL(dup),           CALL(fcntl),
    CALL(ioctl),         CALL(mkdir),         CALL(rename),      CALL(unlink),      CALL(fsync),         CALL(access),
    CALL(faccessat2),    CALL(readlink),      CALL(clone3),      CALL(clone),       CALL(prlimit64),     CALL(poll),
    CALL(epoll_wait),    CALL(epoll_pwait),   CALL(getpeername), CALL(chmod),       CALL(inotify_init1), CALL(faccessat),
    CALL(inotify_add_watch),
};

enum { THREADS_MAX = 1024 };
static struct thread {
    pid_t tid;
    int failing;       // the call that it is in is to fail
    long long until;   // hangs until then, in ms
} threads[THREADS_MAX];

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

int main(int argc, char **argv) {
    if (argc < 6) return 2;
    FILE *report = fopen(argv[1], "w");
    if (!report) return 2;
    long nth = atol(argv[3]);
    static long counted[512];
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
            one->tid = 0;
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
                const char *name = call >= 0 && call < 512 ? COUNTED[call] : NULL;
                if (epolls >= 2 && name) {
                    int chosen = ++counted[call] == nth && !strcmp(name, argv[2]);
                    fprintf(report, "%s %ld %d\n", name, counted[call], tid == first ? 0 : tid);
                    fflush(report);
                    if (chosen && hang_ms) {
                        one->until = now_ms() + hang_ms;
                        struct itimerval tick = {{0, 50000}, {0, 50000}};
                        setitimer(ITIMER_REAL, &tick, NULL);
                        continue;
                    }
                    if (chosen) {
                        registers.orig_rax = (unsigned long long)-1;  // no such call, so nothing happens
                        ptrace(PTRACE_SETREGS, tid, 0, &registers);
                        one->failing = 1;
                    }
                }
            } else if (one->failing) {
                one->failing = 0;
                registers.rax = (unsigned long long)-error;
                ptrace(PTRACE_SETREGS, tid, 0, &registers);
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
