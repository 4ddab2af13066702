/* Preloaded into the agent: while the file named by HUNGDISK is there, what must reach the disk does not return. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void hang(void)
{
    const char *path = getenv("HUNGDISK");
    while (path && !access(path, F_OK))
        usleep(10000);
}

int fsync(int fd)
{
    hang();
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    hang();
    return (int)syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to)
{
    hang();
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
