/* A process that makes its own title hard to read, in ways that are open to it.
 *
 *     hostile WAY COMM FILE ARGUMENT...
 *
 * It calls itself COMM, does to the memory in which its arguments lie what WAY says, prints a line and waits. A line
 * on its standard input lets the readers go that hang; the end of it ends the process. `fuse` holds the lock of its
 * memory instead, as nobody. Only `bomb` makes others, but for the one that serves `fuse`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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

/* --- fuse: a file whose only page never comes --- */

static void reply(int fd, uint64_t request, int error, const void *body, size_t length)
{
    char out[512];
    struct fuse_out_header header = {.len = (uint32_t)(sizeof header + length), .error = error, .unique = request};
    memcpy(out, &header, sizeof header);
    memcpy(out + sizeof header, body, length);
    if (write(fd, out, header.len) < 0)
        die("reply");
}

static int waits_for_a_lock(pid_t pid)
{
    char path[64], stat[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, stat, sizeof stat - 1);
    close(fd);
    stat[got < 0 ? 0 : got] = 0;
    const char *end = strrchr(stat, ')');
    return end && end[2] == 'D';
}

/* Answers all but reads. The first of those means that the lock is held. */
static _Noreturn void serve(int fd, int tell)
{
    static char request[1 << 16];
    struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096};
    struct fuse_attr_out attr = {.attr_valid = 3600, .attr = {.ino = 1, .size = 4096, .mode = S_IFREG | 0444, .nlink = 1}};
    struct fuse_open_out opened = {0};
    struct pollfd waits[] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};
    pid_t client = getppid();
    for (;;) {
        if (poll(waits, 2, -1) > 0 && waits[1].revents) {
            /* Without a server, its requests fail. */
            close(fd);
            wait_for_line();
            say("let go\n");
            _exit(0);
        }
        const struct fuse_in_header *in = (const void *)request;
        if (!waits[0].revents || read(fd, request, sizeof request) < 0)
            continue;
        if (in->opcode == FUSE_INIT) {
            reply(fd, in->unique, 0, &init, sizeof init);
        } else if (in->opcode == FUSE_GETATTR) {
            reply(fd, in->unique, 0, &attr, sizeof attr);
        } else if (in->opcode == FUSE_OPEN) {
            reply(fd, in->unique, 0, &opened, sizeof opened);
        } else if (in->opcode == FUSE_READ) {
            if (write(tell, "r", 1) < 0)
                die("tell");
            while (!waits_for_a_lock(client))
                usleep(1000);
            say("ready\n");
        } else if (in->opcode != FUSE_FORGET) {
            reply(fd, in->unique, -ENOSYS, "", 0);
        }
    }
}

static int own_memory;

/* A fault on behalf of another reader cannot let go of the memory's lock while it waits. */
static void *hold_the_lock(void *unused)
{
    char byte;
    if (pread(own_memory, &byte, 1, (off_t)(uintptr_t)page) == 1)
        die("the page came");
    return unused;
}

static void become_nobody(void)
{
    enum { NOBODY = 65534 };
    if (setresuid(NOBODY, NOBODY, NOBODY))
        die("setresuid");
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_PDEATHSIG, 9);
}

static _Noreturn void serve_a_file_without_end(void)
{
    char options[64], byte;
    int told[2], fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0 || pipe(told) || unshare(CLONE_NEWNS) || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL))
        die("/dev/fuse");
    snprintf(options, sizeof options, "fd=%d,rootmode=100000,user_id=0,group_id=0", fd);
    pid_t server = fork();
    if (server == 0) {
        prctl(PR_SET_NAME, "fuse server");
        become_nobody();
        serve(fd, told[1]);
    }
    if (server < 0 || mount("slow", file, "fuse", MS_NODEV | MS_NOSUID, options))
        die("mount");
    close(fd);
    struct stat size; /* which the kernel asks for, and then knows that there is a page */
    int slow = open(file, O_RDONLY);
    void *other = mmap(NULL, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page = mmap(NULL, page_bytes, PROT_READ, MAP_SHARED, slow, 0);
    if (slow < 0 || fstat(slow, &size) || other == MAP_FAILED || page == MAP_FAILED)
        die(file);
    become_nobody();
    own_memory = open("/proc/self/mem", O_RDONLY);
    pthread_t holder;
    if (own_memory < 0 || pthread_create(&holder, NULL, hold_the_lock, NULL))
        die("/proc/self/mem");
    /* Who reads the title queues behind one who wants to change the memory. */
    if (read(told[0], &byte, 1) != 1 || mprotect(other, page_bytes, PROT_NONE))
        die("mprotect");
    for (;;)
        pause();
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
    if (!strcmp(way, "fuse"))
        serve_a_file_without_end();
    if (pthread_create(&worker, NULL, work, NULL))
        die("pthread_create");
    for (;;)
        pause();
}
