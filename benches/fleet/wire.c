/* The sockets of the fleet: the hosts' web ports, the polls that the bench answers itself, and the clients.
 *
 * Messages are a few hundred bytes on loopback and come whole. It must never decide how long anything takes. */
#define _GNU_SOURCE /* accept4, epoll_pwait2 */
#include "fleet.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind { NOTHING, WEB_LISTENER, AGENT_LISTENER, SERVED, CLIENT };

struct end {
    enum kind kind;
    int host;
    int32_t request; /* in service here, or asked for here; -1: none */
};

static struct end *ends; /* by descriptor */
static int max_fds, poller;
static int *idle, idle_count; /* clients' open connections */
static struct sockaddr_in proxy_address;
static int32_t *request_fd; /* where a request is in service; -1: nowhere */
static int32_t *client_fd;
static int room;
static double (*model_now)(void);

static struct sockaddr_in address_of(const char *address, int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &in.sin_addr) != 1)
        errx(1, "%s is no address", address);
    return in;
}

static void watch(int fd, enum kind kind, int host, int32_t request)
{
    if (fd >= max_fds)
        errx(1, "more than %d connections", max_fds);
    ends[fd] = (struct end){kind, host, request};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        err(1, "epoll_ctl");
}

static void drop(int fd)
{
    ends[fd].kind = NOTHING;
    close(fd);
}

static void listen_on(const char *address, int port, enum kind kind, int host)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in in = address_of(address, port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd < 0 || bind(fd, (struct sockaddr *)&in, sizeof in) < 0 || listen(fd, 4096) < 0)
        err(1, "cannot listen on %s:%d", address, port);
    watch(fd, kind, host, -1);
}

void wire_start(const char *proxy, int port)
{
    struct rlimit limit = {262144, 262144};
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        getrlimit(RLIMIT_NOFILE, &limit);
    max_fds = (int)limit.rlim_cur;
    ends = calloc((size_t)max_fds, sizeof *ends);
    idle = calloc((size_t)max_fds, sizeof *idle);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!ends || !idle || poller < 0)
        err(1, "start");
    proxy_address = address_of(proxy, port);
    for (int i = 0; i < host_count; i++) {
        if (hosts[i].web_port)
            listen_on(hosts[i].address, hosts[i].web_port, WEB_LISTENER, i);
        if (strcmp(hosts[i].rule, "-") != 0)
            listen_on(hosts[i].address, hosts[i].agent_port, AGENT_LISTENER, i);
    }
}

static void close_request(int32_t request, int32_t status, double t)
{
    requests[request].status = status;
    requests[request].latency = t - requests[request].at;
    client_fd[request] = -1;
}

void wire_send(int32_t request, const char *wanted_host)
{
    if (request >= room) {
        int more = room ? 2 * room : 4096;
        request_fd = reallocarray(request_fd, (size_t)more, sizeof *request_fd);
        client_fd = reallocarray(client_fd, (size_t)more, sizeof *client_fd);
        if (!request_fd || !client_fd)
            err(1, "requests");
        room = more;
    }
    request_fd[request] = -1;
    int fd = idle_count ? idle[--idle_count] : -1;
    if (fd < 0) {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        /* On loopback, connect ends as soon as it began. */
        if (fd < 0 || connect(fd, (struct sockaddr *)&proxy_address, sizeof proxy_address) < 0)
            err(1, "cannot connect to the proxy");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        watch(fd, CLIENT, -1, request);
    }
    ends[fd].request = request;
    client_fd[request] = fd;
    char text[192];
    /* A host that is none of ours is told what the request takes. */
    int length = snprintf(text, sizeof text, "GET /%d HTTP/1.1\r\nhost: fleet\r\nx-demand: %.6f\r\n%s%s%s\r\n", request,
                          requests[request].demand, wanted_host ? "x-host: " : "", wanted_host ? wanted_host : "",
                          wanted_host ? "\r\n" : "");
    if (send(fd, text, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT) != length) {
        close_request(request, -1, model_now ? model_now() : 0);
        drop(fd);
    }
}

void wire_answer(int32_t request, double t)
{
    static const char text[] = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    (void)t;
    int fd = request_fd[request];
    if (fd < 0)
        return; /* its connection is gone */
    ends[fd].request = -1;
    request_fd[request] = -1;
    if (send(fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        drop(fd);
}

/* Clients that waited too long go away. */
void wire_give_up(double t)
{
    for (; request_open_from < request_count; request_open_from++) {
        struct request *r = &requests[request_open_from];
        if (r->latency < 0 && t - r->at < give_up_after)
            break;
        if (r->latency < 0) {
            int fd = client_fd[request_open_from];
            close_request(request_open_from, 0, t);
            drop(fd);
        }
    }
}

static void accept_all(int listener, int host)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (ends[listener].kind == WEB_LISTENER) {
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
            watch(fd, SERVED, host, -1);
            continue;
        }
        char text[16];
        host_until(&hosts[host], fmax(hosts[host].now, model_now()), wire_answer);
        int length = snprintf(text, sizeof text, "%d%%\n", host_weight(&hosts[host]));
        if (send(fd, text, (size_t)length, MSG_NOSIGNAL) < 0)
            warn("poll");
        close(fd);
    }
}

static void take_request(int fd, const char *text)
{
    int32_t number = -1;
    if (sscanf(text, "GET /%d ", &number) != 1 || number < 0 || number >= request_count)
        errx(1, "not a request: %.40s", text);
    struct host *h = &hosts[ends[fd].host];
    host_until(h, fmax(h->now, model_now()), wire_answer);
    if (h->on_the_way > 0)
        h->on_the_way--;
    requests[number].host = ends[fd].host;
    ends[fd].request = number;
    request_fd[number] = fd;
    host_add(h, requests[number].demand, -1, number);
}

static void take(int fd)
{
    char text[2048];
    struct end *end = &ends[fd];
    ssize_t got = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        if (end->kind == CLIENT) {
            if (end->request >= 0)
                close_request(end->request, -1, model_now());
            for (int i = 0; i < idle_count; i++)
                if (idle[i] == fd)
                    idle[i--] = idle[--idle_count];
        } else if (end->request >= 0) {
            struct host *h = &hosts[end->host];
            host_until(h, fmax(h->now, model_now()), wire_answer);
            if (end->request >= 0) { /* not answered just now */
                host_drop(h, end->request);
                request_fd[end->request] = -1;
            }
        }
        if (end->kind != NOTHING)
            drop(fd);
        return;
    }
    text[got] = 0;
    if (end->kind == SERVED) {
        take_request(fd, text);
    } else if (end->request >= 0) {
        int32_t status = -1;
        sscanf(text, "HTTP/1.1 %d", &status);
        close_request(end->request, status, model_now());
        end->request = -1;
        if (status == 200)
            idle[idle_count++] = fd;
        else
            drop(fd);
    }
}

/* Waits so many real seconds at most, and deals with what came. */
void wire_wait(double seconds, double (*now)(void))
{
    struct epoll_event events[256];
    model_now = now;
    struct timespec timeout = {(time_t)seconds, (long)(fmod(seconds, 1) * 1e9)};
    int count = epoll_pwait2(poller, events, 256, &timeout, NULL);
    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;
        if (ends[fd].kind == WEB_LISTENER || ends[fd].kind == AGENT_LISTENER)
            accept_all(fd, ends[fd].host);
        else if (ends[fd].kind != NOTHING)
            take(fd);
    }
}
