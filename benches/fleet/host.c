/* A host by processor sharing: `cores` are shared alike by the requests in service and the busy jobs; nobody gets
 * more than one core, and when there are more tasks than cores, all slow down alike. Its workers write their titles
 * at their heartbeat and at no other time, as Sidekiq does; the CPU that their jobs got stands in their `stat` files,
 * as the kernel's account would. It must never touch a socket. */
#include "fleet.h"

#include <err.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

double uniform(uint64_t *state) /* splitmix64, in (0, 1] */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(((z ^ (z >> 31)) >> 11) + 1) / 9007199254740992.0;
}

double exponential(uint64_t *state, double mean) { return -mean * log(uniform(state)); }

static double rate(const struct host *h) { return h->count <= h->cores ? 1.0 : (double)h->cores / h->count; }

static void write_title(struct host *h, int worker)
{
    char title[64];
    int length = snprintf(title, sizeof title, "sidekiq 7.3.0 shop [%d of 10 busy]", h->worker_busy[worker]);
    /* Both titles are of one length: one write in place, never half a title. */
    if (pwrite(h->title_fd[worker], title, (size_t)length + 1, 0) < 0)
        err(1, "title");
}

/* In place and of one width, so that a reader sees the old number or the new one. The kernel's ticks are whole, too. */
static void show_cpu(struct host *h, int worker)
{
    char ticks[16];
    double cpu = h->cpu[worker] + (h->worker_busy[worker] ? h->served - h->began_at[worker] : 0);
    int length = snprintf(ticks, sizeof ticks, "%12.0f", floor(cpu * ticks_per_s + 1e-6));
    if (pwrite(h->stat_fd[worker], ticks, (size_t)length, h->stat_at[worker]) < 0)
        err(1, "stat");
}

static void show_all(struct host *h)
{
    for (int i = 0; i < h->workers; i++)
        if (h->worker_busy[i])
            show_cpu(h, i);
}

static int open_of(const char *tree, int worker, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%d/%s", tree, 100 + worker, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        err(1, "%s", path);
    return fd;
}

/* Where utime stands in a `stat` as tests/tree.py writes it: 12 wide, right after the 13th field. */
static off_t utime_at(int fd)
{
    char text[512] = "";
    if (pread(fd, text, sizeof text - 1, 0) < 0)
        err(1, "stat");
    const char *at = strchr(text, ')');
    for (int field = 2; at && field < 13; field++)
        at = strchr(at + 1, ' ');
    if (!at || !(at = strchr(at + 1, ' ')))
        errx(1, "no stat: %s", text);
    return at + 1 - text;
}

void host_start(struct host *h, const char *tree)
{
    h->job_at = h->beat_at = h->show_at = INFINITY;
    for (int i = 0; i < h->workers; i++) {
        h->title_fd[i] = open_of(tree, i, "cmdline");
        write_title(h, i);
        h->stat_fd[i] = open_of(tree, i, "stat");
        h->stat_at[i] = utime_at(h->stat_fd[i]);
        show_cpu(h, i);
    }
    if (h->workers)
        h->beat_at = uniform(&h->random) * heartbeat / h->workers;
}

void host_advance(struct host *h, double t)
{
    double passed = t - h->now;
    if (passed <= 0)
        return;
    h->served += passed * rate(h);
    h->job_time += passed * h->jobs;
    h->job_work += passed * h->jobs * rate(h);
    h->web_time += passed * (h->count - h->jobs);
    h->now = t;
}

static void sift_down(struct host *h, int at)
{
    struct task task = h->tasks[at];
    for (int child; (child = 2 * at + 1) < h->count; at = child) {
        if (child + 1 < h->count && h->tasks[child + 1].done_at < h->tasks[child].done_at)
            child++;
        if (task.done_at <= h->tasks[child].done_at)
            break;
        h->tasks[at] = h->tasks[child];
    }
    h->tasks[at] = task;
}

static void make_heap(struct host *h)
{
    for (int i = h->count / 2 - 1; i >= 0; i--)
        sift_down(h, i);
}

void host_add(struct host *h, double demand, int32_t worker, int32_t request)
{
    if (h->count == h->room) {
        h->room = h->room ? 2 * h->room : 64;
        h->tasks = reallocarray(h->tasks, (size_t)h->room, sizeof *h->tasks);
        if (!h->tasks)
            err(1, "tasks");
    }
    struct task task = {h->served + demand, worker, request};
    int at = h->count++;
    for (; at > 0 && task.done_at < h->tasks[(at - 1) / 2].done_at; at = (at - 1) / 2)
        h->tasks[at] = h->tasks[(at - 1) / 2];
    h->tasks[at] = task;
    h->jobs += worker >= 0;
}

static double departure(const struct host *h)
{
    return h->count ? h->now + fmax(0, h->tasks[0].done_at - h->served) / rate(h) : INFINITY;
}

double host_next(const struct host *h)
{
    return fmin(fmin(departure(h), h->show_at), fmin(h->job_at, h->beat_at));
}

static double drawn(struct host *h, const struct length *length)
{
    double low = exp(-length->most / length->mean), high = exp(-length->least / length->mean);
    return -length->mean * log(low + (high - low) * uniform(&h->random));
}

static void take_jobs(struct host *h)
{
    for (int i = 0; i < h->workers && h->queued; i++) {
        if (h->worker_busy[i])
            continue;
        h->queued--;
        h->worker_busy[i] = true;
        h->began_at[i] = h->served;
        host_add(h, drawn(h, &h->queued_length), i, -1);
    }
    if (h->jobs && h->show_at == INFINITY)
        h->show_at = h->now + show_every;
}

/* Everything that happens on the host up to `t`, each thing at its own time, however late we were called. */
void host_until(struct host *h, double t, void (*answer)(int32_t request, double t))
{
    for (;;) {
        double next = host_next(h);
        if (next > t)
            break;
        host_advance(h, next);
        if (next == h->job_at) {
            h->queued++;
            h->job_at += exponential(&h->random, 1 / h->job_rate);
            take_jobs(h);
        } else if (next == h->beat_at) {
            write_title(h, h->next_beat);
            h->next_beat = (h->next_beat + 1) % h->workers;
            h->beat_at += heartbeat / h->workers;
        } else if (next == h->show_at) {
            show_all(h);
            /* When we were called late, what lies behind is not shown over and over. */
            h->show_at = h->jobs ? fmax(next + show_every, t) : INFINITY;
        } else {
            struct task done = h->tasks[0];
            h->tasks[0] = h->tasks[--h->count];
            if (h->count)
                sift_down(h, 0);
            if (done.worker >= 0) {
                h->jobs--;
                h->worker_busy[done.worker] = false;
                h->cpu[done.worker] += done.done_at - h->began_at[done.worker];
                show_cpu(h, done.worker);
                take_jobs(h);
            } else {
                answer(done.request, next);
            }
        }
    }
    host_advance(h, t);
}

void host_backlog(struct host *h, long jobs, struct length length)
{
    h->queued = jobs;
    h->queued_length = length;
    take_jobs(h);
}

void host_jobs(struct host *h, double jobs_per_s, struct length length)
{
    h->job_rate = jobs_per_s;
    h->queued_length = length;
    h->job_at = jobs_per_s > 0 ? h->now + exponential(&h->random, 1 / jobs_per_s) : INFINITY;
}

/* All jobs end now, and nobody brings new ones. */
void host_clear(struct host *h)
{
    int kept = 0;
    for (int i = 0; i < h->count; i++)
        if (h->tasks[i].worker < 0)
            h->tasks[kept++] = h->tasks[i];
    h->count = kept;
    make_heap(h);
    for (int i = 0; i < h->workers; i++) {
        if (!h->worker_busy[i])
            continue;
        show_cpu(h, i);
        h->cpu[i] += h->served - h->began_at[i];
        h->worker_busy[i] = false;
    }
    h->jobs = 0;
    h->queued = 0;
    h->job_at = INFINITY;
}

/* The client is gone, and so is its request. */
void host_drop(struct host *h, int32_t request)
{
    for (int i = 0; i < h->count; i++) {
        if (h->tasks[i].request != request)
            continue;
        h->tasks[i] = h->tasks[--h->count];
        make_heap(h);
        return;
    }
}

/* What the oracle avoids: first hosts without a free core, then remaining work, per core. A task that outlives a
 * request delays it by no more than the request's own demand: that is what processor sharing means. */
double host_cost(const struct host *h, double demand)
{
    double work = h->on_the_way * demand;
    for (int i = 0; i < h->count; i++)
        work += fmin(h->tasks[i].done_at - h->served, demand);
    bool free_core = h->count + h->on_the_way < h->cores;
    return work / h->cores + (free_core ? 0 : 1e6);
}

/* What-if agents: other rules than the real agent's, with knowledge that titles do not give. Percent. */
int host_weight(struct host *h)
{
    double busy = h->jobs, passed = h->now - h->polled;
    if (passed >= 1) { /* as by /proc/PID/stat between two looks at least a second apart */
        h->recent_jobs = (h->job_work - h->polled_job_work) / passed;
        h->recent_requests = (h->web_time - h->polled_web_time) / passed;
        h->polled = h->now;
        h->polled_job_work = h->job_work;
        h->polled_web_time = h->web_time;
    }
    double free_share = 0;
    if (!strcmp(h->rule, "instant")) /* the formula, without a heartbeat */
        free_share = 1 - busy / h->cores;
    else if (!strcmp(h->rule, "cpu")) /* the formula on the CPU that workers took */
        free_share = 1 - h->recent_jobs / h->cores;
    else if (!strcmp(h->rule, "load")) /* ... and on what requests take, too */
        free_share = fmax(0.01, 1 - (h->recent_jobs + h->recent_requests) / h->cores);
    else if (!strcmp(h->rule, "share")) /* what one more request per core would get beside the jobs */
        free_share = h->cores / (h->cores + busy);
    else if (!strcmp(h->rule, "square")) /* leaves jobs alone sooner */
        free_share = (1 - busy / h->cores) * (1 - busy / h->cores);
    return (int)lrint(100 * fmin(1, fmax(0, free_share)));
}
