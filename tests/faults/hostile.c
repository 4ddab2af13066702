/* A process that makes its own title hard to read, in ways that are open to it.
 *
 *     hostile WAY COMM FILE ARGUMENT...
 *
 * It calls itself COMM, does to the memory in which its arguments lie what WAY says, prints a line and waits. A line
 * on its standard input lets the readers go that hang; the end of it ends the process. Only `bomb` makes others.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *way, *file;
static char *page; /* where the arguments begin */
static size_t page_bytes;
static char kept[65536] __attribute__((aligned(4096)));

static _Noreturn void die(const char *what)
{
    perror(what);
    _exit(1);
}

static void say(const char *word)
{
    if (write(1, word, strlen(word)) < 0)
        die("write");
}

static void wait_for_line(void)
{
    char line[64];
    if (read(0, line, sizeof line) <= 0)
        _exit(0);
}

/* Readers of a page that is not there wait until it is handed over. */
static void hang_readers(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fd < 0)
        die("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)page, page_bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    struct uffdio_copy copy = {.dst = (uintptr_t)page, .src = (uintptr_t)kept, .len = page_bytes};
    memcpy(kept, page, page_bytes);
    if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        die("register");
    if (madvise(page, page_bytes, MADV_DONTNEED))
        die("madvise");
    say("ready\n");
    wait_for_line();
    if (ioctl(fd, UFFDIO_COPY, &copy) || ioctl(fd, UFFDIO_UNREGISTER, &range.range))
        die("let go");
    say("let go\n");
}

static void map_file_over(void)
{
    int fd = open(file, O_RDONLY);
    if (fd < 0 || mmap(page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
        die(file);
    say("ready\n");
}

/* The first thread's frames lie in the same pages as its arguments, so it sleeps, and another one works. */
static void *work(void *unused)
{
    if (!strcmp(way, "unmapped")) {
        if (munmap(page, page_bytes))
            die("munmap");
        say("ready\n");
    } else if (!strcmp(way, "userfaultfd")) {
        hang_readers();
    } else if (!strcmp(way, "file")) {
        map_file_over();
    } else {
        die(way);
    }
    for (;;)
        wait_for_line();
    return unused;
}

static _Noreturn void bomb(void)
{
    say("ready\n");
    for (;;)
        if (fork() < 0)
            usleep(1000);
}

int main(int argc, char **argv)
{
    pthread_t worker;
    if (argc < 5)
        return 2;
    way = strdup(argv[1]);
    file = strdup(argv[3]);
    prctl(PR_SET_NAME, argv[2]);
    prctl(PR_SET_PDEATHSIG, 9);
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    page = (char *)((uintptr_t)argv[0] & ~(page_bytes - 1));
    /* The title goes where the arguments were, as any program may write it. */
    char *title = strdup(argv[4]);
    size_t room = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
    memset(argv[0], 0, room);
    strncpy(argv[0], title, room);
    if (!strcmp(way, "bomb"))
        bomb();
    if (pthread_create(&worker, NULL, work, NULL))
        die("pthread_create");
    for (;;)
        pause();
}
