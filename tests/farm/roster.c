/* The farm's roster: which processes are its members, how to ask them, how to end them.
 *
 * It must never signal a process that the farm did not start: our own children are signalled only while they are
 * unreaped, and members' copies through a pidfd taken while they waited for it.
 */
#define _GNU_SOURCE
#include "farm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PID_LIMIT (1 << 22)
#define PATIENCE_MS 20000

/* Kept out of the members' address spaces: page tables copied at each fork would be most of a member's cost. */
static struct roster {
    struct member members[SLOTS];
    uint32_t free_slots[SLOTS];
    uint32_t slot_of_pid[PID_LIMIT]; /* slot + 1; 0: not ours */
} *roster;
static uint32_t free_count;
struct member *members;
char problem[256];

bool fail(const char *what, int error)
{
    snprintf(problem, sizeof problem, "%s: %s", what, strerror(error));
    return false;
}

bool open_roster(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    roster = mmap(NULL, sizeof *roster, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (roster == MAP_FAILED)
        return false;
    madvise(roster, sizeof *roster, MADV_DONTFORK);
    members = roster->members;
    for (uint32_t i = SLOTS; i-- > 0;)
        roster->free_slots[free_count++] = i;
    return true;
}

struct slot *slot_of(const struct member *member)
{
    return &shared->slots[member - members];
}

struct member *find(const char *text)
{
    long pid = text ? strtol(text, NULL, 10) : 0;
    if (pid > 0 && pid < PID_LIMIT && roster->slot_of_pid[pid])
        return &members[roster->slot_of_pid[pid] - 1];
    snprintf(problem, sizeof problem, "no such member: %s", text ? text : "(none)");
    return NULL;
}

struct member *find_alive(const char *text)
{
    struct member *member = find(text);
    if (member && member->state != ALIVE) {
        snprintf(problem, sizeof problem, "%d is stopped or dead", member->pid);
        return NULL;
    }
    return member;
}

struct member *enrol(void)
{
    if (!free_count) {
        fail("no slot is free", ENOSPC);
        return NULL;
    }
    struct member *member = &members[roster->free_slots[--free_count]];
    struct slot *slot = slot_of(member);
    *member = (struct member){.pidfd = -1};
    atomic_store(&slot->asked, 1);
    atomic_store(&slot->done, 0);
    return member;
}

void known_as(struct member *member, pid_t pid)
{
    member->pid = pid;
    member->state = ALIVE;
    roster->slot_of_pid[pid] = (uint32_t)(member - members) + 1;
}

void dismiss(struct member *member)
{
    if (member->pid)
        roster->slot_of_pid[member->pid] = 0;
    if (member->pidfd >= 0)
        close(member->pidfd);
    member->pid = 0;
    member->state = FREE;
    roster->free_slots[free_count++] = (uint32_t)(member - members);
}

void ask(struct member *member, enum command command, uint32_t argument, const char *bytes, size_t length)
{
    struct slot *slot = slot_of(member);
    slot->command = command;
    slot->argument = argument;
    slot->length = (uint32_t)length;
    if (length) {
        char *data = shared->data[member - members];
        memcpy(data, bytes, length);
        data[length] = 0;
    }
    atomic_fetch_add(&slot->asked, 1);
    futex_wake(&slot->asked);
}

bool await(struct member *member)
{
    struct slot *slot = slot_of(member);
    for (int idle_ms = 0; idle_ms < PATIENCE_MS;) {
        uint32_t answers = atomic_load(&shared->answers);
        if (atomic_load(&slot->done) == atomic_load(&slot->asked))
            return slot->result < 0 ? fail("member", -slot->result) : true;
        futex_wait(&shared->answers, answers, 100);
        idle_ms = atomic_load(&shared->answers) == answers ? idle_ms + 100 : 0;
    }
    snprintf(problem, sizeof problem, "member %d does not answer", member->pid);
    return false;
}

bool send_signal(const struct member *member, int signal_number)
{
    if (member->pidfd >= 0)
        return !syscall(SYS_pidfd_send_signal, member->pidfd, signal_number, NULL, 0) || errno == ESRCH;
    return !kill(member->pid, signal_number);
}

void wait_until_gone(struct member *member)
{
    if (member->pidfd >= 0) {
        struct pollfd dead = {.fd = member->pidfd, .events = POLLIN};
        poll(&dead, 1, PATIENCE_MS);
        waitpid(member->pid, NULL, WNOHANG); /* it is our child if its parent went first */
    } else {
        waitpid(member->pid, NULL, 0);
    }
    dismiss(member);
}
