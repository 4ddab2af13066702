/* Checks of benches/fleet/host.c, the model of a host; one line of output per check that fails. */
#include "../../benches/fleet/fleet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

double heartbeat = 10, give_up_after = 10, show_every = 0.02, ticks_per_s = 100;

static double answered_at[64];
static void answer(int32_t request, double t) { answered_at[request] = t; }

static void same(const char *what, double found, double expected)
{
    if (fabs(found - expected) > 1e-6)
        printf("%s: %g, not %g\n", what, found, expected);
}

static struct host *fresh(int cores, int workers)
{
    static struct host host;
    memset(&host, 0, sizeof host);
    memset(answered_at, 0, sizeof answered_at);
    host.cores = cores;
    host.workers = workers;
    strcpy(host.rule, "instant");
    return &host;
}

static double shown_cpu(const struct host *h, int worker)
{
    char ticks[13] = "";
    pread(h->stat_fd[worker], ticks, sizeof ticks - 1, h->stat_at[worker]);
    return atof(ticks) / 100;
}

static void starts(struct host *h, const char *tree)
{
    host_start(h, tree);
    h->beat_at = 1; /* the first worker's; the next ones follow */
}

int main(int argc, char **argv)
{
    struct host *h = fresh(2, 0);
    starts(h, "-");
    h->beat_at = INFINITY;
    host_add(h, 0.5, -1, 0);
    host_until(h, 10, answer);
    same("alone, a request takes its demand", answered_at[0], 0.5);
    for (int i = 0; i < 4; i++)
        host_add(h, 0.5, -1, i);
    host_until(h, 20, answer);
    same("twice as many as cores take twice as long", answered_at[3], 11);
    host_add(h, 1, -1, 0);
    host_add(h, 1, -1, 1);
    host_until(h, 20.5, answer);
    host_add(h, 1, -1, 2);
    host_until(h, 30, answer);
    same("who was there first is done first", answered_at[0], 21.25);
    same("who came last has the cores at last", answered_at[2], 21.75);
    host_add(h, 1, -1, 0);
    host_drop(h, 0);
    same("whose client is gone is gone", h->count, 0);

    h = fresh(2, 2);
    starts(h, argc > 1 ? argv[1] : "-");
    host_backlog(h, 1000, (struct length){1e9, 0, INFINITY});
    same("workers take what there is", h->jobs, 2);
    same("full is nothing", host_weight(h), 0);
    for (int i = 0; i < 2; i++)
        host_add(h, 0.5, -1, i);
    host_until(h, 4, answer);
    same("jobs slow requests down", answered_at[1], 1);
    same("and requests slow jobs down", h->job_work / h->job_time, 7.0 / 8);
    same("the CPU time that a worker shows is hardly old", fabs(shown_cpu(h, 0) - 3.5) < 0.031, 1);
    char title[64] = "";
    pread(h->title_fd[0], title, sizeof title - 1, 0);
    if (strcmp(title, "sidekiq 7.3.0 shop [1 of 10 busy]"))
        printf("the first worker's title at its heartbeat: %s\n", title);
    memset(title, 0, sizeof title);
    pread(h->title_fd[1], title, sizeof title - 1, 0);
    if (strcmp(title, "sidekiq 7.3.0 shop [0 of 10 busy]"))
        printf("the second worker's title before its heartbeat: %s\n", title);
    host_clear(h);
    same("cleared, nobody is busy", h->jobs + h->count + h->queued, 0);
    same("what they had got remains", shown_cpu(h, 1), 3.5);
    host_until(h, 5, answer);
    same("and who rests takes nothing", shown_cpu(h, 1), 3.5);

    h = fresh(2, 2);
    starts(h, argc > 1 ? argv[1] : "-");
    host_jobs(h, 0.5, (struct length){8, 1, 2});
    host_until(h, 1e4, answer);
    double cpu_of_a_job = (shown_cpu(h, 0) + shown_cpu(h, 1)) / 5000;
    same("jobs are as long as was said", fabs(cpu_of_a_job - 1.49) < 0.1, 1);
    return 0;
}
