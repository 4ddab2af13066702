/* The least that a scan can cost in C, one way of scanning a run:
 *
 *     rawscan getdents          list /proc, open nothing
 *     rawscan comm|cmdline      list /proc; open, read and close that file of every process
 *     rawscan kept              find the workers once, keep their cmdline open, pread each one
 *
 * Speaks the contestants' protocol (see contestants.py). It must do nothing clever: it is the yardstick.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_KEPT 65536

static char listing[1 << 20], text[4097];
static int proc, kept[MAX_KEPT];
static size_t kept_count;
static long busy;

static bool is_worker(void)
{
    return !strncmp(text, "sidekiq ", 8);
}

static void count(ssize_t length)
{
    text[length > 0 ? length : 0] = 0;
    busy += is_worker() && !strstr(text, "[0 of ");
}

static void read_file(const char *pid, const char *name, bool keep)
{
    char path[64];
    snprintf(path, sizeof path, "%.20s/%.20s", pid, name);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    count(read(fd, text, sizeof text - 1));
    if (keep && is_worker() && kept_count < MAX_KEPT)
        kept[kept_count++] = fd;
    else
        close(fd);
}

static void list(const char *name, bool keep)
{
    lseek(proc, 0, SEEK_SET);
    for (long got; (got = syscall(SYS_getdents64, proc, listing, sizeof listing)) > 0;)
        for (char *at = listing; at < listing + got; at += ((struct dirent64 *)at)->d_reclen) {
            const char *pid = ((struct dirent64 *)at)->d_name;
            if (*pid < '1' || *pid > '9')
                continue;
            if (name)
                read_file(pid, name, keep);
        }
}

static void scan(const char *way)
{
    busy = 0;
    if (!strcmp(way, "getdents"))
        list(NULL, false);
    else if (strcmp(way, "kept"))
        list(way, false);
    else
        for (size_t i = 0; i < kept_count; i++)
            count(pread(kept[i], text, sizeof text - 1, 0));
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long elapsed_ns(const struct timeval *from, const struct timeval *to)
{
    return ((to->tv_sec - from->tv_sec) * 1000000 + to->tv_usec - from->tv_usec) * 1000;
}

int main(int argc, char **argv)
{
    char command[64];
    if (argc != 2)
        return 2;
    bool reads_titles = !strcmp(argv[1], "cmdline") || !strcmp(argv[1], "kept");
    proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!strcmp(argv[1], "kept"))
        list("cmdline", true);
    printf("{\"cpu_ns\": 0}\n");
    fflush(stdout);
    while (fgets(command, sizeof command, stdin)) {
        struct rusage before, after;
        getrusage(RUSAGE_SELF, &before);
        int64_t wall = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        if (!strcmp(command, "scan\n"))
            scan(argv[1]);
        cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        wall = now_ns(CLOCK_MONOTONIC) - wall;
        getrusage(RUSAGE_SELF, &after);
        printf("{\"cpu_ns\": %ld, \"user_ns\": %ld, \"sys_ns\": %ld, \"wall_ns\": %ld", (long)cpu,
               elapsed_ns(&before.ru_utime, &after.ru_utime), elapsed_ns(&before.ru_stime, &after.ru_stime), (long)wall);
        if (reads_titles)
            printf(", \"busy\": %ld", busy);
        printf("}\n");
        fflush(stdout);
    }
    return 0;
}
