/* The floor of the stream benchmarks: what the kernel takes to write every event to every stream.
 *
 * An epoll server that answers each request with a head and keeps the connection. For each event
 * it calls write(2) once per stream, with one shared frame, and that is all. GET /bench/load and
 * /bench/stats command it as they do the other servers.
 */
#include "load.h"

struct stream {
    int fd, streaming, length, sent;
    char *rest; /* what a full socket did not take */
};

static struct stream **streams;
static int stream_count, room, epoll;
static struct load load;

static void watch(struct stream *s, uint32_t events, int how)
{
    struct epoll_event e = {.events = events, .data.ptr = s};
    epoll_ctl(epoll, how, s->fd, &e);
}

static void end_stream(struct stream *s)
{
    for (int i = 0; i < stream_count; i++)
        if (streams[i] == s) {
            streams[i] = streams[--stream_count];
            break;
        }
    close(s->fd);
    s->fd = -1; /* a later event of this round may still name it: it is not freed */
}

static void send_frame(struct stream *s, const char *frame, int length)
{
    ssize_t n = s->length ? 0 : write(s->fd, frame, length);
    if (n == length)
        return;
    if (n < 0)
        n = 0;
    if (!s->length)
        watch(s, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    s->rest = realloc(s->rest, s->length + length - n);
    memcpy(s->rest + s->length, frame + n, length - n);
    s->length += length - n;
}

static void flush(struct stream *s)
{
    ssize_t n = write(s->fd, s->rest + s->sent, s->length - s->sent);
    if (n > 0 && (s->sent += n) == s->length) {
        s->length = s->sent = 0;
        watch(s, EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void publish(void)
{
    static char text[1 << 21], frame[(1 << 21) + 100];
    int length;
    for (int n = load_due(&load); n > 0; n--) {
        load_next(&load, text, &length);
        length = sprintf(frame, "id: 0123456789ab-%u\ndata: %s\n\n", load.numbers[0], text);
        for (int i = 0; i < stream_count; i++)
            send_frame(streams[i], frame, length);
    }
}

static double parameter(const char *text, const char *name, double otherwise)
{
    const char *found = strstr(text, name);
    return found ? atof(found + strlen(name)) : otherwise;
}

static void answer(struct stream *s, char *text)
{
    char body[600], reply[900];
    if (strncmp(text, "GET /bench/", 11) != 0) {
        const char *start = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: ok\n\n";
        if (write(s->fd, start, strlen(start)) < 0)
            return;
        if (stream_count == room)
            streams = realloc(streams, (room = room * 2 + 64) * sizeof *streams);
        streams[stream_count++] = s;
        s->streaming = 1;
        return;
    }
    *strchrnul(text, '\r') = 0;
    if (!strncmp(text, "GET /bench/load", 15)) {
        load.rate = parameter(text, "rate=", 0);
        load.size = parameter(text, "size=", 135);
        load.seconds = parameter(text, "seconds=", 1);
        load.window = parameter(text, "window=", 0);
        load.topics = 1;
        load_start(&load);
    }
    int n = load_stats(&load, body);
    n = sprintf(reply, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", n, body);
    if (write(s->fd, reply, n) < 0 || shutdown(s->fd, SHUT_WR))
        return;
}

int main(int argc, char **argv)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in to = address("127.0.0.1", argc > 1 ? atoi(argv[1]) : 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (void *)&to, sizeof to) || listen(listener, 4096))
        die("listen");
    signal(SIGPIPE, SIG_IGN);
    if (getenv("BENCH_PROGRESS"))
        load.progress = progress_file(getenv("BENCH_PROGRESS"), 0);
    epoll = epoll_create1(0);
    struct epoll_event on = {.events = EPOLLIN, .data.ptr = NULL}, events[1024];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &on);
    for (;;) {
        int n = epoll_wait(epoll, events, 1024, load_wait(&load));
        for (int i = 0; i < n; i++) {
            struct stream *s = events[i].data.ptr;
            char text[4096];
            ssize_t length;
            if (!s) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    s = calloc(1, sizeof *s);
                    s->fd = fd;
                    watch(s, EPOLLIN, EPOLL_CTL_ADD);
                }
                continue;
            }
            if (s->fd >= 0 && events[i].events & EPOLLOUT && s->length)
                flush(s);
            if (s->fd < 0 || !(events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
                continue;
            length = read(s->fd, text, sizeof text - 1);
            if (length == 0 || (length < 0 && errno != EAGAIN))
                end_stream(s);
            else if (length > 0 && !s->streaming) {
                text[length] = 0;
                answer(s, text);
            }
        }
        publish();
    }
}
