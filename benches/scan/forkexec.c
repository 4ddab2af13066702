/* What a process costs from birth to death: posix_spawn of a trivial static program (this one), and wait for it.
 *
 * Reads a count a line, spawns that many one after the other, answers one JSON object: CPU of parent and children,
 * user and system, and wall time, all for the whole count. Pinned to one CPU, so migrations are no part of it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t cpu_us(void)
{
    struct rusage self, children;
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    return (self.ru_utime.tv_sec + self.ru_stime.tv_sec + children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1000000LL +
           self.ru_utime.tv_usec + self.ru_stime.tv_usec + children.ru_utime.tv_usec + children.ru_stime.tv_usec;
}

int main(int argc, char **argv)
{
    char line[32], *child[] = {argv[0], "exit", NULL}, *environment[] = {NULL};
    if (argc > 1)
        _exit(0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    printf("{}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        struct timespec begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        int64_t cpu = cpu_us();
        for (int left = atoi(line); left > 0; left--) {
            pid_t pid;
            if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, child, environment))
                return 1;
            waitpid(pid, NULL, 0);
        }
        cpu = cpu_us() - cpu;
        clock_gettime(CLOCK_MONOTONIC, &ended);
        printf("{\"cpu_ns\": %ld, \"wall_ns\": %ld}\n", (long)cpu * 1000,
               (long)((ended.tv_sec - begun.tv_sec) * 1000000000L + ended.tv_nsec - begun.tv_nsec));
        fflush(stdout);
    }
    return 0;
}
