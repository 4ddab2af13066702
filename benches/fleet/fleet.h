/* The fleet's model, in three parts that know each other by this header alone: hosts that share their cores
 * (host.c, no sockets), the sockets around them (wire.c), and the script that drives both (main.c).
 *
 * All times are model seconds; only main.c knows how many of them go into one real second. */
#ifndef FLEET_H
#define FLEET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_HOSTS = 1024, MAX_WORKERS = 256 };

/* Something that takes CPU: a request, or a job. All tasks of a host are served alike, so a task is done when the
 * host's service per task has grown by the task's demand. */
struct task {
    double done_at;  /* in the host's service per task, seconds of CPU */
    int32_t worker;  /* of a job; -1: a request */
    int32_t request; /* its number */
};

/* How long jobs are, in CPU seconds: exponential with that mean, but for those beyond the bounds. */
struct length {
    double mean, least, most;
};

struct host {
    char address[64];
    int web_port, agent_port; /* 0: no such port */
    char rule[16];            /* how the bench itself answers polls; "-": it does not */
    int cores, workers;

    struct task *tasks; /* a heap, the soonest done first */
    int count, room;
    int jobs;         /* tasks that are jobs; also the busy workers */
    double now;       /* up to here everything is accounted for */
    double served;    /* CPU that each task got since the start, had it been there */
    double job_time;  /* sum over jobs of the time they were running */
    double job_work;  /* ... and of the CPU they got */
    double web_time;  /* the same of requests: what an average of their number needs */
    int on_the_way;   /* requests sent here that have not arrived (told by the oracle alone) */

    bool worker_busy[MAX_WORKERS];
    int title_fd[MAX_WORKERS], stat_fd[MAX_WORKERS];
    off_t stat_at[MAX_WORKERS];   /* where the CPU time stands in it */
    double cpu[MAX_WORKERS];      /* CPU that the worker's ended jobs got */
    double began_at[MAX_WORKERS]; /* of a busy worker: the host's service per task when its job began */
    double show_at;               /* when the busy workers' CPU times are shown next */
    int next_beat;                /* workers beat in turns, evenly spread over the heartbeat */
    double beat_at;

    double job_rate, job_at; /* jobs per second; when the next one comes */
    long queued;             /* jobs that no worker has taken */
    struct length queued_length;
    uint64_t random;

    double polled, polled_job_work, polled_web_time; /* at the last poll that counted */
    double recent_jobs, recent_requests;             /* averages between such polls */
};

struct request {
    double at, demand, latency, lag; /* latency: -1 while open; lag: how late it was sent */
    int32_t status, host;            /* status 0: gave up; -1: refused or broken. host -1: reached none */
};

extern struct host *hosts;
extern int host_count;
extern struct request *requests;
extern int request_count, request_open_from;
extern double heartbeat, give_up_after;
extern double show_every, ticks_per_s; /* of CPU times: how often, and ticks of 10 ms per CPU second of the model */

double uniform(uint64_t *state);
double exponential(uint64_t *state, double mean);

/* host.c */
void host_start(struct host *h, const char *tree);
void host_advance(struct host *h, double t);
void host_add(struct host *h, double demand, int32_t worker, int32_t request);
double host_next(const struct host *h);
void host_until(struct host *h, double t, void (*answer)(int32_t request, double t));
void host_backlog(struct host *h, long jobs, struct length length);
void host_jobs(struct host *h, double rate, struct length length);
void host_clear(struct host *h);
void host_drop(struct host *h, int32_t request);
double host_cost(const struct host *h, double demand);
int host_weight(struct host *h);

/* wire.c */
void wire_start(const char *proxy, int port);
void wire_send(int32_t request, const char *wanted_host);
void wire_answer(int32_t request, double t);
void wire_give_up(double t);
void wire_wait(double seconds, double (*now)(void));

#endif
