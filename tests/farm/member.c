/* One member of the farm: a process that sleeps on its slot and does to itself what it is asked to.
 *
 * It writes its title as MRI's setproctitle does: over its own argv, padded with NULs; and, when the title is
 * longer than that, on into the environment. It dies with its parent (or, if it is a copy forked by another
 * member, with the farm). It must never signal anything but itself.
 */
#define _GNU_SOURCE
#include "farm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHURN_AT_ONCE 64
#define COPY_LOOKS_UP_MS 1000
#define BURN_PERIOD_MS 10

static struct slot *me;
static char *data;
static bool is_copy;
static uint32_t burns_percent;

static char *title_area;
static size_t argv_bytes, area_bytes;

static char thread_stacks[MAX_THREADS][2048] __attribute__((aligned(64)));

void futex_wait(_Atomic uint32_t *word, uint32_t value, int timeout_ms)
{
    struct timespec limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    syscall(SYS_futex, word, FUTEX_WAIT, value, timeout_ms < 0 ? NULL : &limit, NULL, 0);
}

void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void member_find_title_area(int argc, char **argv, char **environ_now)
{
    char *end = argv[argc - 1] + strlen(argv[argc - 1]) + 1;
    title_area = argv[0];
    argv_bytes = (size_t)(end - title_area);
    for (; *environ_now; environ_now++)
        end = *environ_now + strlen(*environ_now) + 1;
    area_bytes = (size_t)(end - title_area);
}

static void set_title(const char *title, size_t length)
{
    if (length >= area_bytes)
        length = area_bytes - 1;
    memcpy(title_area, title, length);
    if (length < argv_bytes)
        memset(title_area + length, 0, argv_bytes - length);
    else
        title_area[length] = 0;
}

static void answer(int32_t result)
{
    me->result = result;
    atomic_store(&me->done, atomic_load(&me->asked));
    atomic_fetch_add(&shared->answers, 1);
    futex_wake(&shared->answers);
}

static void take_slot(uint32_t number)
{
    me = &shared->slots[number];
    data = shared->data[number];
}

/* A thread of a member: no library call but the bare one, since it has neither a TLS block nor a stack to speak of. */
static int sleep_for_ever(void *unused)
{
    for (;;)
        syscall(SYS_pause);
    return unused != NULL;
}

static int start_threads(uint32_t count)
{
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    for (uint32_t i = 0; i < count; i++)
        if (clone(sleep_for_ever, thread_stacks[i] + sizeof thread_stacks[i], flags, NULL) < 0)
            return -errno;
    return 0;
}

static _Noreturn void live(void);

static int32_t fork_copy(void)
{
    uint32_t slot = me->argument;
    pid_t pid = fork();
    if (pid)
        return pid < 0 ? -errno : pid;
    if (me->length)
        prctl(PR_SET_NAME, data);
    take_slot(slot);
    is_copy = true;
    burns_percent = 0;
    answer(0);
    live();
}

/* The data: the path to execute, then the new argv, each ended by a NUL. */
static int32_t exec_into(void)
{
    char state[128], *argv[64], *end = data + me->length, *path = data;
    static char padding[8192] = "PADDING=";
    int argc = 0;
    for (char *arg = path + strlen(path) + 1; arg < end && argc < 63; arg += strlen(arg) + 1)
        argv[argc++] = arg;
    argv[argc] = NULL;
    snprintf(state, sizeof state, "FARM_MEMBER=%td %d %d %d", me - shared->slots, is_copy, shared_fd,
             lifeline_read_fd);
    memset(padding + strlen(padding), 'x', sizeof padding - 1 - strlen(padding));
    execve(path, argv, (char *[]){state, padding, NULL});
    return -errno;
}

/* Holds the mmap lock nearly all the time: the zero page mapped a million times costs only page tables, yet each
 * mprotect has to visit every entry. */
static void hold_mmap_lock(void)
{
    size_t bytes = (size_t)me->argument << 20;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *map = mmap(NULL, bytes, PROT_READ, flags, -1, 0);
    if (map == MAP_FAILED) {
        answer(-errno);
        return;
    }
    madvise(map, bytes, MADV_NOHUGEPAGE);
    madvise(map, bytes, MADV_POPULATE_READ);
    for (uint32_t asked = atomic_load(&me->asked); atomic_load(&me->asked) == asked;) {
        mprotect(map, bytes, PROT_READ | PROT_WRITE);
        mprotect(map, bytes, PROT_READ);
        if (atomic_load(&me->done) != asked)
            answer(0); /* only now that it is under way */
    }
    munmap(map, bytes);
}

/* A process that exits at once: the program at a path, or, without a slash, a fork under that name. */
static bool start_ephemeral(void)
{
    char *argv[] = {data, NULL}, *environment[] = {"FARM_EXIT=1", NULL};
    pid_t pid;
    if (strchr(data, '/'))
        return posix_spawn(&pid, data, NULL, NULL, argv, environment) == 0;
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_NAME, data);
        _exit(0);
    }
    return pid > 0;
}

/* Starts processes that exit at once, evenly over each second; late ones are made up for, a few at a time. */
static int32_t churn(void)
{
    uint64_t total = (uint64_t)me->argument * me->seconds, started = 0;
    uint32_t alive = 0;
    struct timespec begun, now, tick = {0, 1000000};
    signal(SIGCHLD, SIG_DFL);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    while (started < total) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t elapsed_us = (uint64_t)(now.tv_sec - begun.tv_sec) * 1000000 + now.tv_nsec / 1000 - begun.tv_nsec / 1000;
        if (elapsed_us >= (uint64_t)me->seconds * 1000000)
            break;
        uint64_t due = elapsed_us * me->argument / 1000000 + 1;
        if (due > started + CHURN_AT_ONCE)
            due = started + CHURN_AT_ONCE;
        for (; started < due && start_ephemeral(); started++, alive++)
            while (alive >= CHURN_AT_ONCE && waitpid(-1, NULL, 0) > 0)
                alive--;
        while (alive && waitpid(-1, NULL, WNOHANG) > 0)
            alive--;
        nanosleep(&tick, NULL);
    }
    while (waitpid(-1, NULL, 0) > 0)
        continue;
    signal(SIGCHLD, SIG_IGN);
    return (int32_t)started;
}

static void obey(void)
{
    switch (me->command) {
    case TITLE:
        set_title(data, me->length);
        return answer(0);
    case RENAME:
        prctl(PR_SET_NAME, data);
        return answer(0);
    case EXEC:
        return answer(exec_into());
    case FORK:
        return answer(fork_copy());
    case HOLD:
        return hold_mmap_lock();
    case CHURN:
        return answer(churn());
    case BURN:
        burns_percent = me->argument;
        return answer(0);
    default:
        return answer(0);
    }
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Takes its share of a core for one period; how long it may wait for a question then, in milliseconds. */
static int burn(uint32_t seen)
{
    int busy_ms = (int)burns_percent * BURN_PERIOD_MS / 100;
    int64_t end_us = now_us() + busy_ms * 1000;
    while (now_us() < end_us && atomic_load(&me->asked) == seen)
        continue;
    return BURN_PERIOD_MS - busy_ms;
}

static _Noreturn void live(void)
{
    uint32_t seen = atomic_load(&me->done);
    for (;;) {
        int patience_ms = burns_percent ? burn(seen) : is_copy ? COPY_LOOKS_UP_MS : -1;
        futex_wait(&me->asked, seen, patience_ms);
        if (atomic_load(&me->asked) != seen) {
            obey();
            seen = atomic_load(&me->done);
        } else if (is_copy) {
            struct pollfd lifeline = {.fd = lifeline_read_fd};
            if (poll(&lifeline, 1, 0) > 0)
                _exit(0);
        }
    }
}

_Noreturn void member_after_fork(const struct birth *birth)
{
    take_slot(birth->slot);
    signal(SIGCHLD, SIG_IGN); /* copies vanish when they die, as under a parent that reaps */
    if (birth->uid != (uid_t)-1 && (setresgid(birth->uid, birth->uid, birth->uid) || setresuid(birth->uid, birth->uid, birth->uid)))
        _exit(1);
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after setresuid, which clears it */
    struct pollfd lifeline = {.fd = lifeline_read_fd};
    if (poll(&lifeline, 1, 0) > 0)
        _exit(0);
    prctl(PR_SET_NAME, birth->comm);
    set_title(birth->title, birth->title_length);
    answer(start_threads(birth->threads));
    live();
}

_Noreturn void member_after_exec(const char *state)
{
    uint32_t slot;
    int copy;
    if (sscanf(state, "%u %d %d %d", &slot, &copy, &shared_fd, &lifeline_read_fd) != 4)
        _exit(1);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    if (shared == MAP_FAILED)
        _exit(1);
    is_copy = copy;
    take_slot(slot);
    answer(0);
    live();
}
