/* Polls as HAProxy does, so many at once, for so long: connect, read the reply, close, again.
 *
 *   poller PORT AT_ONCE SECONDS
 *
 * Prints one JSON object: replies, errors, seconds, and latencies in microseconds, from connect to the last byte of
 * the reply. A poll without a whole line counts as an error, and so does one that takes longer than a second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { AT_ONCE_MAX = 1024, LATENCIES_MAX = 8 << 20 };
static const int64_t TIMEOUT_NS = 1000000000;

struct poll {
    int fd;
    int64_t began_ns;
    int whole; /* a line has come */
};

static struct poll polls[AT_ONCE_MAX];
static uint32_t *latencies_us;
static size_t replies, errors;
static struct sockaddr_in agent;
static int epoll;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void start(struct poll *poll)
{
    poll->began_ns = now_ns();
    poll->whole = 0;
    poll->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (poll->fd < 0)
        err(1, "socket");
    if (connect(poll->fd, (struct sockaddr *)&agent, sizeof agent) && errno != EINPROGRESS)
        err(1, "connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = poll};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, poll->fd, &event))
        err(1, "epoll_ctl");
}

static void end(struct poll *poll)
{
    int64_t took_us = (now_ns() - poll->began_ns) / 1000;
    if (!poll->whole)
        errors++;
    else if (replies < LATENCIES_MAX)
        latencies_us[replies++] = (uint32_t)took_us;
    close(poll->fd);
    start(poll);
}

static void readable(struct poll *poll)
{
    char line[256];
    ssize_t n = recv(poll->fd, line, sizeof line, 0);
    if (n > 0 && memchr(line, '\n', (size_t)n))
        poll->whole = 1;
    if (n <= 0 ? errno != EAGAIN || n == 0 : poll->whole)
        end(poll);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        errx(2, "usage: poller PORT AT_ONCE SECONDS");
    int at_once = atoi(argv[2]);
    if (at_once < 1 || at_once > AT_ONCE_MAX)
        errx(2, "at most %d at once", AT_ONCE_MAX);
    agent.sin_family = AF_INET;
    agent.sin_port = htons((uint16_t)atoi(argv[1]));
    agent.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    latencies_us = malloc(LATENCIES_MAX * sizeof *latencies_us);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!latencies_us || epoll < 0)
        err(1, "start");

    int64_t began_ns = now_ns(), until_ns = began_ns + (int64_t)(atof(argv[3]) * 1e9), looked_ns = began_ns;
    for (int i = 0; i < at_once; i++)
        start(&polls[i]);
    int64_t now;
    while ((now = now_ns()) < until_ns) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll, events, 64, 100);
        for (int i = 0; i < n; i++)
            readable(events[i].data.ptr);
        if (now - looked_ns > TIMEOUT_NS / 4) {
            looked_ns = now;
            for (int i = 0; i < at_once; i++)
                if (now - polls[i].began_ns > TIMEOUT_NS)
                    end(&polls[i]);
        }
    }
    double seconds = (double)(now - began_ns) / 1e9;
    if (!replies)
        errx(1, "no reply from port %s", argv[1]);
    qsort(latencies_us, replies, sizeof *latencies_us, ascending);
    printf("{\"replies\": %zu, \"errors\": %zu, \"seconds\": %.6f, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n",
           replies, errors, seconds, latencies_us[replies / 2], latencies_us[replies * 99 / 100],
           latencies_us[replies - 1]);
}
