/* A farm of processes for tests and benches, driven by lines on standard input.
 *
 * Each line is a command with its arguments, texts in hexadecimal ("-" for none); each gets one line back:
 * `ok` and values, or `error` and a reason. The manual is __init__.py, which is the only thing that speaks this.
 *
 *     spawn COUNT THREADS UID COMM TITLE      -> pids; THREADS besides the main one, UID -1 for the farm's own
 *     title COUNT, then COUNT lines PID TITLE
 *     rename PID COMM    exec PID COMM ARGV    fork PID COUNT COMM -> pids
 *     kill PID...        zombie PID...         reap PID...          stop PID...    resume PID...
 *     hold PID MIB       release PID           burn PID PERCENT     churned PID -> count
 *     churn PER_SECOND SECONDS FORK_ONLY COMM -> pid
 *
 * It must never signal a process that it did not start: children are signalled only while they are unreaped, and
 * members' copies through a pidfd. When its input ends, everything it started dies with it.
 */
#define _GNU_SOURCE
#include "farm.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared *shared;
int shared_fd, lifeline_read_fd;
static int lifeline_write_fd;
static const char *links; /* directory of symlinks to this program, one per comm to exec into */

/* --- reading arguments --- */

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static char *word(void)
{
    return strtok(NULL, " \n");
}

static uint32_t number(void)
{
    const char *text = word();
    return text ? (uint32_t)strtol(text, NULL, 10) : 0;
}

/* The next argument's bytes, ended by a NUL that is not counted; in place, so valid until the next line. */
static size_t bytes(char **out)
{
    char *text = word();
    size_t length = 0;
    *out = text;
    if (!text) {
        *out = "";
        return 0;
    }
    for (char *from = text; length < DATA_BYTES - PATH_MAX && nibble(from[0]) >= 0 && nibble(from[1]) >= 0; from += 2)
        text[length++] = (char)(nibble(from[0]) << 4 | nibble(from[1]));
    text[length] = 0;
    return length;
}

/* A path whose last part is `comm`, leading to this program: executing it gives that comm. */
static bool link_named(const char *comm, char path[PATH_MAX])
{
    static char self[PATH_MAX];
    if (!self[0] && readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return fail("/proc/self/exe", errno);
    snprintf(path, PATH_MAX, "%s/%s", links, comm);
    return !symlink(self, path) || errno == EEXIST || fail(path, errno);
}

/* --- commands --- */

/* Forks a member and does not wait for its first answer. */
static struct member *bear(struct birth *birth)
{
    struct member *member = enrol();
    if (!member)
        return NULL;
    birth->slot = (uint32_t)(member - members);
    pid_t pid = fork();
    if (pid == 0) {
        close(lifeline_write_fd);
        close(STDIN_FILENO);
        close(STDOUT_FILENO);
        close(STDERR_FILENO);
        member_after_fork(birth);
    }
    if (pid < 0) {
        fail("fork", errno);
        dismiss(member);
        return NULL;
    }
    known_as(member, pid);
    return member;
}

static bool spawn(void)
{
    uint32_t count = number();
    struct birth birth = {.threads = number(), .uid = (uid_t)number()};
    char *comm, *title;
    bytes(&comm);
    birth.comm = comm;
    birth.title_length = (uint32_t)bytes(&title);
    birth.title = title;
    if (birth.threads > MAX_THREADS)
        return fail("threads", EINVAL);
    struct member **born = calloc(count, sizeof *born);
    uint32_t alive = 0;
    bool well = true;
    while (alive < count && (born[alive] = bear(&birth)))
        alive++;
    for (uint32_t i = 0; i < alive; i++)
        well = await(born[i]) && well;
    if ((well = well && alive == count)) {
        printf("ok");
        for (uint32_t i = 0; i < alive; i++)
            printf(" %d", born[i]->pid);
        printf("\n");
    }
    free(born);
    return well;
}

static bool title(char **line, size_t *size)
{
    uint32_t count = number();
    struct member **asked = calloc(count, sizeof *asked);
    bool well = true;
    for (uint32_t i = 0; i < count && getline(line, size, stdin) > 0; i++) {
        char *text;
        struct member *member = find_alive(strtok(*line, " \n"));
        size_t length = bytes(&text);
        if (member && (well = await(member) && well)) /* a member named twice in one batch */
            ask(asked[i] = member, TITLE, 0, text, length);
        else
            well = false;
    }
    for (uint32_t i = 0; i < count; i++)
        well = (!asked[i] || await(asked[i])) && well;
    free(asked);
    if (well)
        printf("ok\n");
    return well;
}

static bool rename_comm(void)
{
    struct member *member = find_alive(word());
    char *comm;
    size_t length = bytes(&comm);
    if (!member)
        return false;
    ask(member, RENAME, 0, comm, length);
    return await(member) && printf("ok\n");
}

static bool exec_into(void)
{
    struct member *member = find_alive(word());
    char *comm, *argv, data[DATA_BYTES];
    bytes(&comm);
    size_t length = bytes(&argv);
    if (!member || !link_named(comm, data))
        return false;
    size_t path_bytes = strlen(data) + 1;
    memcpy(data + path_bytes, argv, length);
    ask(member, EXEC, 0, data, path_bytes + length);
    return await(member) && printf("ok\n");
}

static bool fork_copies(void)
{
    struct member *parent = find_alive(word());
    uint32_t count = number();
    char *comm, reply[16384] = "";
    size_t length = bytes(&comm);
    for (uint32_t i = 0, at = 0; i < count && at < sizeof reply - 16; i++) {
        struct member *copy = parent ? enrol() : NULL;
        if (!copy)
            return false;
        ask(parent, FORK, (uint32_t)(copy - members), comm, length);
        if (!await(parent)) {
            dismiss(copy);
            return false;
        }
        pid_t pid = slot_of(parent)->result;
        copy->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        known_as(copy, pid);
        if (copy->pidfd < 0)
            return fail("pidfd_open", errno);
        if (!await(copy))
            return false;
        at += (uint32_t)snprintf(reply + at, sizeof reply - at, " %d", pid);
    }
    return parent && printf("ok%s\n", reply);
}

static bool change_state(int signal_number, enum state from, enum state to)
{
    size_t count = 0, room = 0;
    struct member **chosen = NULL, *member;
    bool well = true;
    for (char *pid; (pid = word());) {
        if (!(member = find(pid))) {
            well = false;
            continue;
        }
        bool fits = from == ANY || member->state == from;
        if (!fits || (to != FREE && member->pidfd >= 0)) {
            snprintf(problem, sizeof problem, "%d is not in a state to be signalled so", member->pid);
            well = false;
            continue;
        }
        if (count == room)
            chosen = realloc(chosen, (room = room ? room * 2 : 64) * sizeof(struct member *));
        chosen[count++] = member;
        if (signal_number && member->state != ZOMBIE)
            send_signal(member, signal_number);
    }
    for (size_t i = 0; i < count; i++) {
        siginfo_t info;
        chosen[i]->state = to;
        if (to == FREE)
            wait_until_gone(chosen[i]);
        else if (to == ZOMBIE)
            waitid(P_PID, (id_t)chosen[i]->pid, &info, WEXITED | WNOWAIT);
        else
            waitid(P_PID, (id_t)chosen[i]->pid, &info, to == STOPPED ? WSTOPPED : WCONTINUED);
    }
    free(chosen);
    if (well)
        printf("ok\n");
    return well;
}

static bool kill_all(void)
{
    return change_state(SIGKILL, ANY, FREE);
}

static bool zombify(void)
{
    return change_state(SIGKILL, ALIVE, ZOMBIE);
}

static bool reap(void)
{
    return change_state(0, ZOMBIE, FREE);
}

static bool stop(void)
{
    return change_state(SIGSTOP, ALIVE, STOPPED);
}

static bool resume(void)
{
    return change_state(SIGCONT, STOPPED, ALIVE);
}

static bool ask_number(enum command command)
{
    struct member *member = find_alive(word());
    if (!member)
        return false;
    ask(member, command, number(), NULL, 0);
    return await(member) && printf("ok\n");
}

static bool hold(void)
{
    return ask_number(HOLD);
}

static bool release(void)
{
    return ask_number(RELEASE);
}

static bool burn(void)
{
    return ask_number(BURN);
}

static bool churn(void)
{
    uint32_t per_second = number(), seconds = number(), fork_only = number();
    char *comm, path[PATH_MAX];
    bytes(&comm);
    struct birth birth = {.uid = (uid_t)-1, .comm = "churn", .title = "churn", .title_length = 5};
    struct member *member = link_named(comm, path) ? bear(&birth) : NULL;
    if (!member || !await(member))
        return false;
    slot_of(member)->seconds = seconds;
    const char *what = fork_only ? comm : path;
    ask(member, CHURN, per_second, what, strlen(what));
    return printf("ok %d\n", member->pid);
}

static bool churned(void)
{
    struct member *member = find_alive(word());
    if (!member)
        return false;
    struct slot *slot = slot_of(member);
    for (uint32_t answers; atomic_load(&slot->done) != atomic_load(&slot->asked);) {
        answers = atomic_load(&shared->answers);
        if (atomic_load(&slot->done) == atomic_load(&slot->asked))
            break;
        futex_wait(&shared->answers, answers, -1);
    }
    int32_t count = slot->result;
    send_signal(member, SIGKILL);
    wait_until_gone(member);
    return printf("ok %d\n", count);
}

static bool obey(char **line, size_t *size)
{
    static const struct {
        const char *verb;
        bool (*call)(void);
    } commands[] = {{"spawn", spawn},   {"rename", rename_comm}, {"exec", exec_into}, {"fork", fork_copies},
                    {"kill", kill_all}, {"zombie", zombify},     {"reap", reap},      {"stop", stop},
                    {"resume", resume}, {"hold", hold},          {"release", release}, {"burn", burn},
                    {"churn", churn},   {"churned", churned}};
    const char *verb = strtok(*line, " \n");
    if (!verb)
        return fail("empty line", EINVAL);
    if (!strcmp(verb, "title"))
        return title(line, size);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(verb, commands[i].verb))
            return commands[i].call();
    return fail(verb, EINVAL);
}

static bool set_up(int argc, char **argv, char **environment)
{
    int lifeline[2];
    static char links_copy[PATH_MAX];
    if (!getenv("FARM_LINKS") || pipe(lifeline))
        return false;
    snprintf(links_copy, sizeof links_copy, "%s", getenv("FARM_LINKS")); /* titles will overwrite the environment */
    links = links_copy;
    lifeline_read_fd = lifeline[0];
    lifeline_write_fd = lifeline[1];
    shared_fd = memfd_create("farm", 0);
    if (shared_fd < 0 || ftruncate(shared_fd, sizeof *shared))
        return false;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    if (shared == MAP_FAILED || !open_roster())
        return false;
    member_find_title_area(argc, argv, environment);
    return !prctl(PR_SET_CHILD_SUBREAPER, 1);
}

int main(int argc, char **argv, char **environment)
{
    char *line = NULL;
    size_t size = 0;
    if (getenv("FARM_EXIT"))
        _exit(0);
    if (getenv("FARM_MEMBER")) {
        member_find_title_area(argc, argv, environment);
        member_after_exec(getenv("FARM_MEMBER"));
    }
    if (!set_up(argc, argv, environment)) {
        perror("farm");
        return 1;
    }
    while (getline(&line, &size, stdin) > 0) {
        if (!obey(&line, &size))
            printf("error %s\n", problem);
        fflush(stdout);
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (members[i].state == ALIVE || members[i].state == STOPPED)
            send_signal(&members[i], SIGKILL);
    for (size_t i = 0; i < SLOTS; i++)
        if (members[i].state != FREE)
            wait_until_gone(&members[i]);
    return 0;
}
