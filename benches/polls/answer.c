/* The least that answers a poll: accept, send, close.
 *
 *   answer PORT [recv|segment]
 *
 * recv: one look at what the poller sent, in between. segment: the same, and the reply leaves together with the end
 * of the stream.
 *
 * It must stay the floor of the bench: nothing that a reply does not need.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char REPLY[] = "up 75% #6/24 busy\n";

int main(int argc, char **argv)
{
    if (argc < 2)
        errx(2, "usage: answer PORT [recv]");
    int segment = argc > 2 && !strcmp(argv[2], "segment");
    int reads = argc > 2;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        err(1, "port %s", argv[1]);
    for (;;) {
        int poller = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (poller < 0)
            continue;
        char line[256];
        if (reads)
            (void)!recv(poller, line, sizeof line, MSG_DONTWAIT);
        (void)!send(poller, REPLY, sizeof REPLY - 1, MSG_DONTWAIT | MSG_NOSIGNAL | (segment ? MSG_MORE : 0));
        if (segment)
            shutdown(poller, SHUT_WR);
        close(poller);
    }
}
