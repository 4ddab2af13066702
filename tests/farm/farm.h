/* What the farm (farm.c) and its members (member.c) share: one mapping, and the rules for using it.
 *
 * The farm asks by filling in a member's slot and raising `asked`; the member does it, raises `done` to the
 * same number and counts up `answers`, on which the farm sleeps. One question per member at a time.
 */
#ifndef FARM_H
#define FARM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define SLOTS 65536
#define DATA_BYTES 16384
#define MAX_THREADS 64

enum command { TITLE = 1, RENAME, EXEC, FORK, HOLD, RELEASE, CHURN, BURN };

struct slot {
    _Atomic uint32_t asked;
    _Atomic uint32_t done;
    uint32_t command;
    uint32_t argument; /* FORK: the copy's slot; HOLD: MiB; CHURN: processes per second; BURN: percent of a core */
    uint32_t seconds;  /* CHURN */
    uint32_t length;   /* bytes of data */
    int32_t result;    /* a pid, a count, or -errno */
} __attribute__((aligned(64)));

struct shared {
    _Atomic uint32_t answers;
    struct slot slots[SLOTS];
    char data[SLOTS][DATA_BYTES]; /* sparse: a page is paid for when a member is first asked with data */
};

struct birth {
    uint32_t slot;
    uint32_t threads; /* besides the main one */
    uid_t uid;        /* (uid_t)-1: the farm's own */
    const char *comm;
    const char *title;
    uint32_t title_length;
};

enum state { FREE, ALIVE, STOPPED, ZOMBIE, ANY };

struct member {
    pid_t pid;
    int pidfd; /* of a copy, whose parent is another member; -1: our own child */
    enum state state;
};

extern struct shared *shared;
extern int shared_fd, lifeline_read_fd;

void futex_wait(_Atomic uint32_t *word, uint32_t value, int timeout_ms);
void futex_wake(_Atomic uint32_t *word);

void member_find_title_area(int argc, char **argv, char **environ_now);
_Noreturn void member_after_fork(const struct birth *birth);
_Noreturn void member_after_exec(const char *state);

extern struct member *members; /* SLOTS of them; not to be had in a member */
extern char problem[256]; /* why the last call gave false or NULL */

bool fail(const char *what, int error);
bool open_roster(void);
struct member *find(const char *pid);
struct member *find_alive(const char *pid);
struct member *enrol(void); /* takes a slot for a process that is about to be forked */
void known_as(struct member *member, pid_t pid);
void dismiss(struct member *member);
struct slot *slot_of(const struct member *member);
void ask(struct member *member, enum command command, uint32_t argument, const char *bytes, size_t length);
bool await(struct member *member);
bool send_signal(const struct member *member, int signal_number);
void wait_until_gone(struct member *member); /* and dismiss it */

#endif
