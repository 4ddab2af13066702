/* Preloaded into the agent: its wall clock is off by as many seconds as the file named by WALLCLOCK says. Only
 * callers of libc's clock_gettime are deceived, which is what Python's time.time() is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    const char *path = getenv("WALLCLOCK");
    if (clock == CLOCK_REALTIME && path) {
        char text[32] = "";
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0)
                now->tv_sec += atoll(text);
            close(fd);
        }
    }
    return result;
}
