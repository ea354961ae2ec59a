/* Publishes to nchan from outside: POST over one connection that stays open, pipelined.
 *
 * Commands on stdin, each answered with one line of JSON: "load RATE SIZE SECONDS TOPICS WINDOW"
 * at once, "stats". Every event has been answered when "running" is false and "waiting" is 0.
 */
#include "load.h"

static struct load load = {.topics = 1};
static const char *pattern = "/publish/%d";
static int port, fd, waiting, refused, length, sent;
static char *out;
static int room;

static void post(void)
{
    static char text[1 << 21];
    char path[256];
    int size, topic = load_next(&load, text, &size);
    snprintf(path, sizeof path, pattern, topic);
    if (length + size + 512 > room)
        out = realloc(out, room = (length + size + 512) * 2);
    length += sprintf(out + length,
                      "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: text/plain\r\n"
                      "Content-Length: %d\r\n\r\n",
                      path, port, size);
    memcpy(out + length, text, size);
    length += size;
    waiting++;
}

static void flush(void)
{
    while (sent < length) {
        ssize_t n = write(fd, out + sent, length - sent);
        if (n <= 0)
            return;
        sent += n;
    }
    sent = length = 0;
}

static void answers(void)
{
    static char text[65536 + 16];
    static int kept;
    ssize_t n = read(fd, text + kept, 65536);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        die("the server has closed the publisher's connection");
    if (n < 0)
        return;
    text[kept += n] = 0;
    char *line = text, *next;
    for (; (next = strstr(line, "HTTP/1.1 ")) && next[9]; line = next + 10) {
        waiting--;
        refused += next[9] != '2';
    }
    int rest = kept - (line - text); /* the beginning of an answer may be at the end */
    int keep = rest < 9 ? rest : 9;
    memmove(text, text + kept - keep, keep);
    kept = keep;
}

static void stats(void)
{
    char text[600];
    load_stats(&load, text);
    text[strlen(text) - 1] = 0;
    printf("%s, \"waiting\": %d, \"refused\": %d}\n", text, waiting, refused);
    fflush(stdout);
}

static void obey(void)
{
    char line[256];
    ssize_t n = read(0, line, sizeof line - 1);
    if (n <= 0)
        exit(0);
    line[n] = 0;
    if (sscanf(line, "load %lf %d %lf %d %d", &load.rate, &load.size, &load.seconds, &load.topics,
               &load.window) == 5)
        load_start(&load);
    stats();
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    port = atoi(argv[1]);
    pattern = argv[2];
    if (getenv("BENCH_PROGRESS"))
        load.progress = progress_file(getenv("BENCH_PROGRESS"), 0);
    struct sockaddr_in to = address("127.0.0.1", port);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(fd, (void *)&to, sizeof to))
        die("connect");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    int epoll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = 0}, events[4];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &e);
    e.data.fd = fd;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    for (;;) {
        int wait = load_wait(&load);
        int n = epoll_wait(epoll, events, 4, length && wait > 1 ? 1 : wait);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == 0)
                obey();
            else
                answers();
        }
        for (int due = load_due(&load); due > 0; due--)
            post();
        flush();
    }
}
