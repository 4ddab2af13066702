/* Runs one script of a fleet in (compressed) real time: hosts behind sockets, an open-loop load through the proxy.
 *
 * The script is read from standard input up to `go`; benches/fleet/run.py writes it. Then it prints `start` and the
 * monotonic clock, runs, prints `cpu` and its own CPU seconds, and leaves two arrays of records: PREFIX.requests and
 * PREFIX.hosts. */
#include "fleet.h"

#include <err.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

struct step {
    double at;
    char what[16];
    double a, b, c, d, e;
};

struct sample { /* one per host and half a second */
    double at, jobs, requests, job_time, job_work, web_time;
};

struct host *hosts;
int host_count;
struct request *requests;
int request_count, request_open_from;
double heartbeat = 10, give_up_after = 10, show_every = 0.02, ticks_per_s = 100;

static struct step *steps;
static int step_count;
static double compression = 1, end_at = 60, cpu_low = 0.3, cpu_high = 0.4, start;
static bool oracle;
static char prefix[256], proxy[64];
static int proxy_port;
static uint64_t seed = 1, arrivals, demands;
static const double SAMPLE_EVERY = 0.5;

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double model_now(void) { return (clock_s() - start) * compression; }

static void *grown(void *array, int count, size_t size)
{
    if (count & (count - 1))
        return array; /* room is always the next power of two */
    array = reallocarray(array, count ? 2 * (size_t)count : 1, size);
    if (!array)
        err(1, "memory");
    return array;
}

static void read_script(void)
{
    char line[512], tree[256], word[64];
    hosts = calloc(MAX_HOSTS, sizeof *hosts);
    if (!hosts)
        err(1, "hosts");
    while (fgets(line, sizeof line, stdin) && strcmp(line, "go\n") != 0) {
        struct host *h = &hosts[host_count];
        struct step step = {0};
        if (sscanf(line, "at %lf %15s %lf %lf %lf %lf %lf", &step.at, step.what, &step.a, &step.b, &step.c, &step.d,
                   &step.e) >= 2) {
            steps = grown(steps, step_count, sizeof *steps);
            steps[step_count++] = step;
        } else if (sscanf(line, "host %63s %d %d %15s %d %d %255s", h->address, &h->web_port, &h->agent_port, h->rule,
                          &h->cores, &h->workers, tree) == 7) {
            if (host_count + 1 == MAX_HOSTS || h->workers > MAX_WORKERS)
                errx(1, "too many: %s", line);
            h->random = seed * 1000003 + (uint64_t)host_count++;
            host_start(h, tree);
        } else if (sscanf(line, "proxy %63s %d", proxy, &proxy_port) == 2 || sscanf(line, "out %255s", prefix) == 1 ||
                   sscanf(line, "end %lf", &end_at) == 1 ||
                   sscanf(line, "heartbeat %lf", &heartbeat) == 1 || sscanf(line, "seed %lu", &seed) == 1 ||
                   sscanf(line, "give_up_after %lf", &give_up_after) == 1 ||
                   sscanf(line, "cpu %lf %lf", &cpu_low, &cpu_high) == 2) {
            continue;
        } else if (sscanf(line, "compression %lf", &compression) == 1) {
            /* The agent measures in real time, so a core of the model has to look like a real one. */
            show_every = 0.02 * compression;
            ticks_per_s = 100 / compression;
        } else if (sscanf(line, "%63s", word) == 1 && !strcmp(word, "oracle")) {
            oracle = true;
        } else {
            errx(1, "not understood: %s", line);
        }
    }
}

static void take_step(const struct step *step, double *rate, double *next)
{
    struct host *h = &hosts[(int)step->a];
    if (!strcmp(step->what, "load")) {
        *rate = step->a;
        *next = step->a > 0 ? step->at + exponential(&arrivals, 1 / step->a) : INFINITY;
        return;
    }
    struct length length = {step->c, step->d, step->e > 0 ? step->e : INFINITY};
    host_until(h, fmax(h->now, step->at), wire_answer);
    if (!strcmp(step->what, "backlog"))
        host_backlog(h, (long)step->b, length);
    else if (!strcmp(step->what, "jobs"))
        host_jobs(h, step->b, length);
    else if (!strcmp(step->what, "clear"))
        host_clear(h);
    else
        errx(1, "no such step: %s", step->what);
}

/* The host that costs least; the oracle's only rule. */
static int best_host(double demand)
{
    int best = 0;
    double least = INFINITY;
    for (int i = 0; i < host_count; i++) {
        double cost = hosts[i].web_port ? host_cost(&hosts[i], demand) : INFINITY;
        if (cost < least) {
            least = cost;
            best = i;
        }
    }
    return best;
}

static void arrive(double at)
{
    double now = model_now();
    double demand = cpu_low + (cpu_high - cpu_low) * uniform(&demands);
    requests = grown(requests, request_count, sizeof *requests);
    requests[request_count] = (struct request){at, demand, -1, now - at, 0, -1};
    char name[16];
    if (oracle) {
        for (int i = 0; i < host_count; i++)
            host_until(&hosts[i], fmax(hosts[i].now, now), wire_answer);
        int best = best_host(demand);
        hosts[best].on_the_way++;
        snprintf(name, sizeof name, "h%d", best + 1);
    }
    request_count++;
    wire_send(request_count - 1, oracle ? name : NULL);
}

static void arrive_until(double t, double rate, double *next)
{
    for (; *next <= t && rate > 0; *next += exponential(&arrivals, 1 / rate))
        arrive(*next);
}

static void run(FILE *samples)
{
    double rate = 0, arrival = INFINITY, sample_at = 0;
    for (int step = 0;;) {
        double t = model_now(), next = fmin(arrival, sample_at);
        if (t >= end_at) {
            arrival = INFINITY;
            rate = 0;
            wire_give_up(t);
            if (request_open_from == request_count)
                return;
        }
        for (; step < step_count && steps[step].at <= t; step++) {
            arrive_until(steps[step].at, rate, &arrival);
            take_step(&steps[step], &rate, &arrival);
        }
        arrive_until(t, rate, &arrival);
        for (int i = 0; i < host_count; i++) {
            if (host_next(&hosts[i]) <= t)
                host_until(&hosts[i], t, wire_answer);
            next = fmin(next, host_next(&hosts[i]));
        }
        if (sample_at <= t) {
            wire_give_up(t);
            for (int i = 0; i < host_count; i++) {
                struct host *h = &hosts[i];
                host_until(h, fmax(h->now, t), wire_answer);
                struct sample sample = {t, h->jobs, h->count - h->jobs, h->job_time, h->job_work, h->web_time};
                fwrite(&sample, sizeof sample, 1, samples);
            }
            sample_at = t + SAMPLE_EVERY;
        }
        next = fmin(fmin(next, arrival), fmin(sample_at, step < step_count ? steps[step].at : INFINITY));
        wire_wait(fmax(0, (next - model_now()) / compression), model_now);
    }
}

static FILE *output(const char *what)
{
    char path[300];
    snprintf(path, sizeof path, "%s.%s", prefix, what);
    FILE *file = fopen(path, "wb");
    if (!file)
        err(1, "%s", path);
    return file;
}

int main(void)
{
    prctl(PR_SET_TIMERSLACK, 1);
    read_script();
    arrivals = seed * 7919 + 17;
    demands = seed * 104729 + 29;
    wire_start(proxy, proxy_port);
    FILE *samples = output("hosts"), *records = output("requests");
    start = clock_s();
    printf("start %.6f\n", start);
    fflush(stdout);
    run(samples);
    fwrite(requests, sizeof *requests, (size_t)request_count, records);
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("cpu %.3f\n", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                             (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return fclose(records) || fclose(samples);
}
