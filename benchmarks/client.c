/* The load client of the stream benchmarks: many event streams in one thread, over epoll.
 *
 * Every event carries "@T<16 hex>@@N<8 hex>@": the nanoseconds of CLOCK_MONOTONIC at which it was
 * published, and its number within its topic. So the client knows how long each took and, from the
 * numbers, what was lost, repeated or out of order, and how much of the lost a stream-reset told of.
 * It reads commands on stdin and answers with one line of JSON each: reset, report, cut,
 * reconnect N, quit. It says by itself when all streams are open, and after "reconnect N" when all
 * have got everything before number N.
 */
#include "client.h"
#include <getopt.h>
#include <sys/resource.h>

static const char *host = "127.0.0.1", *pattern = "/", *headers[16];
static int port, connections = 1, topics = 1, ramp = 100, stalled, throttled, throttle = 1 << 20;
static int header_count, line_count, life = 900;
static char **lines;

static struct conn *conns;
static int epoll, opening, opened, failed, started, ready, returning;
static uint64_t begun, last_open;
static char first_error[200], buffer[262144];
static volatile uint64_t *progress;

static void leave(struct conn *c, const char *why)
{
    if (c->state == CONNECTING || c->state == HEAD || c->state == FIRST) {
        opening--;
        failed++;
        if (!first_error[0])
            snprintf(first_error, sizeof first_error, "%s", why);
        for (char *p = first_error; *p; p++)
            if (*p < ' ' || *p == '"' || *p == '\\')
                *p = ' ';
    } else if (c->state == OPEN)
        opened--;
    if (c->fd >= 0)
        close(c->fd);
    free(c->head);
    c->head = NULL;
    c->head_length = 0;
    c->state = CLOSED;
}

static void watch(struct conn *c, uint32_t events, int how)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, how, c->fd, &e);
}

static void take(struct conn *c, char *data, int length, uint64_t now)
{
    count.bytes += length;
    if (c->state == HEAD) {
        int used = take_head(c, data, length);
        if (used < 0) {
            leave(c, c->head);
            return;
        }
        data += used;
        length -= used;
    }
    if (length == 0 || c->state < FIRST)
        return;
    if (c->state == FIRST) {
        c->state = OPEN;
        opening--;
        opened++;
        last_open = now;
        if (c->kind != NORMAL)
            watch(c, 0, EPOLL_CTL_DEL);
    }
    if (!take_body(c, data, length, now)) {
        count.ended++;
        leave(c, "ended");
    }
}

static void receive(struct conn *c, size_t most)
{
    for (int round = 0; round < 4; round++) {
        ssize_t length = read(c->fd, buffer, most);
        if (length > 0)
            take(c, buffer, length, now_ns());
        else if (length == 0 || (errno != EAGAIN && errno != EINTR)) {
            count.closed += c->state == OPEN;
            leave(c, length ? strerror(errno) : "closed before its first bytes");
        }
        if (length < (ssize_t)sizeof buffer || c->state == CLOSED)
            return;
    }
}

static void ask(struct conn *c)
{
    char text[8192], path[2048], *cookie = NULL;
    if (lines) {
        snprintf(path, sizeof path, "%s", lines[c->path % line_count]);
        if ((cookie = strchr(path, '\t')))
            *cookie++ = 0;
    } else
        snprintf(path, sizeof path, pattern, c->path % topics);
    int n = sprintf(text, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n", path,
                    host, port);
    if (cookie)
        n += sprintf(text + n, "Cookie: %s\r\n", cookie);
    if (c->id[0])
        n += sprintf(text + n, "Last-Event-ID: %s\r\n", c->id);
    for (int i = 0; i < header_count; i++)
        n += snprintf(text + n, 200, "%.190s\r\n", headers[i]);
    n += sprintf(text + n, "\r\n");
    if (write(c->fd, text, n) != n)
        leave(c, "the request could not be written");
    else
        c->state = HEAD;
}

static void start(struct conn *c)
{
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->state = CONNECTING;
    c->carried = c->chunk_state = c->chunk_left = c->tail_length = 0;
    opening++;
    struct sockaddr_in to = address(host, port);
    if (c->fd < 0 || (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS))
        leave(c, strerror(errno));
    else
        watch(c, EPOLLOUT, EPOLL_CTL_ADD);
}

static void connected(struct conn *c)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) {
        leave(c, strerror(error));
        return;
    }
    ask(c);
    if (c->state == HEAD)
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
}

static void cut(void)
{
    for (int i = 0; i < connections; i++)
        if (conns[i].state == OPEN) {
            remember_id(&conns[i]);
            leave(&conns[i], "");
        }
}

static void come_back(uint32_t number)
{
    target = number;
    behind = started = failed = ready = 0;
    caught_up = 0;
    returning = 1;
    for (int i = 0; i < connections; i++)
        if (conns[i].state == CLOSED) {
            conns[i].state = IDLE;
            conns[i].behind = 1;
            behind++;
        }
    begun = now_ns();
}

static void say_ready(void)
{
    printf("{\"open\": %d, \"failed\": %d, \"seconds\": %.6f, \"caught_up_seconds\": %.6f, "
           "\"behind\": %d, \"error\": \"%s\"}\n",
           opened, failed, last_open > begun ? (last_open - begun) / 1e9 : 0.0,
           caught_up ? (caught_up - begun) / 1e9 : 0.0, behind, first_error);
    fflush(stdout);
    ready = 1;
}

static void report(void)
{
    double seconds = (now_ns() - count.since) / 1e9, cpu = cpu_now() - count.cpu;
    uint32_t least = UINT32_MAX, most = 0;
    int alive = 0;
    for (int i = 0; i < connections; i++) {
        struct conn *c = &conns[i];
        struct tcp_info info;
        socklen_t length = sizeof info;
        if (c->state != OPEN)
            continue;
        if (c->kind != NORMAL) /* unread data hides that the server has closed it */
            alive += !getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &length) &&
                     info.tcpi_state == TCP_ESTABLISHED;
        else if (c->next < least)
            least = c->next;
        if (c->kind == NORMAL && c->next > most)
            most = c->next;
    }
    printf("{\"seconds\": %.6f, \"deliveries\": %lu, \"slow_deliveries\": %lu, \"bytes\": %lu, "
           "\"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, "
           "\"lost\": %lu, \"announced\": %lu, \"repeated\": %lu, \"closed\": %lu, "
           "\"ended\": %lu, \"open\": %d, \"slow_alive\": %d, \"least\": %u, \"most\": %u, \"cpu\": %.6f, \"cpu_share\": %.4f}\n",
           seconds, count.deliveries, count.slow_deliveries, count.bytes, quantile(0.5),
           quantile(0.9), quantile(0.99), highest_ms(), count.lost, count.announced, count.again,
           count.closed, count.ended, opened, alive, least == UINT32_MAX ? 0 : least, most, cpu, cpu / seconds);
}

/* Returns 0 when the commands have ended. */
static int obey(void)
{
    static char text[1024];
    static int length;
    ssize_t more = read(0, text + length, sizeof text - 1 - length);
    if (more <= 0)
        return errno == EAGAIN && more < 0;
    length += more;
    text[length] = 0;
    char *line = text, *end;
    for (; (end = strchr(line, '\n')); line = end + 1) {
        if (!strncmp(line, "reset", 5)) {
            reset_counters();
            puts("{}");
        } else if (!strncmp(line, "report", 6))
            report();
        else if (!strncmp(line, "cut", 3)) {
            cut();
            puts("{}");
        } else if (!strncmp(line, "reconnect ", 10))
            come_back(strtoul(line + 10, NULL, 10));
        else
            return 0;
        fflush(stdout);
    }
    length -= line - text;
    memmove(text, line, length);
    return 1;
}

static void read_lines(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[2048];
    if (!file)
        die(path);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        lines = realloc(lines, (line_count + 1) * sizeof *lines);
        lines[line_count++] = strdup(line);
    }
    fclose(file);
    if (!line_count)
        die("no requests in the file");
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", 1, 0, 'h'},      {"port", 1, 0, 'p'},     {"connections", 1, 0, 'n'},
        {"path", 1, 0, 'P'},      {"paths", 1, 0, 'F'},    {"topics", 1, 0, 't'},
        {"header", 1, 0, 'H'},    {"ramp", 1, 0, 'r'},     {"stalled", 1, 0, 's'},
        {"throttled", 1, 0, 'T'}, {"throttle", 1, 0, 'b'}, {"ids", 0, 0, 'i'},
        {"progress", 1, 0, 'g'},  {"sample", 1, 0, 'k'},   {"life", 1, 0, 'l'},
        {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;)
        switch (c) {
        case 'h': host = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'n': connections = atoi(optarg); break;
        case 'P': pattern = optarg; break;
        case 'F': read_lines(optarg); break;
        case 't': topics = atoi(optarg); break;
        case 'H': headers[header_count++ & 15] = optarg; break;
        case 'r': ramp = atoi(optarg); break;
        case 's': stalled = atoi(optarg); break;
        case 'T': throttled = atoi(optarg); break;
        case 'b': throttle = atoi(optarg); break;
        case 'i': keep_tail = 1; break;
        case 'g': progress = progress_file(optarg, 1); break;
        case 'k': sample = atoi(optarg); break;
        case 'l': life = atoi(optarg); break;
        default: exit(2);
        }
}

/* Read so much from each throttled stream that it gets its bytes per second. */
static void trickle(uint64_t now)
{
    static uint64_t last;
    if (!last)
        last = now;
    if (now - last < 10000000)
        return;
    size_t most = (now - last) * (uint64_t)throttle / 1000000000;
    last = now;
    for (int i = 0; i < connections; i++)
        if (conns[i].kind == THROTTLED && conns[i].state == OPEN)
            receive(&conns[i], most < sizeof buffer ? most : sizeof buffer);
}

static void say_progress(void)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < connections; i++)
        if (conns[i].kind == NORMAL && conns[i].state == OPEN && conns[i].next < least)
            least = conns[i].next;
    progress[0] = least == UINT64_MAX ? 0 : least;
    progress[1] = count.deliveries;
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(connections, sizeof *conns);
    for (int i = 0; i < connections; i++) {
        conns[i].path = i;
        conns[i].fd = -1;
        conns[i].kind = i < stalled ? STALLED : i < stalled + throttled ? THROTTLED : NORMAL;
        conns[i].tail = keep_tail ? malloc(TAIL) : NULL;
    }
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL}, events[1024];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &commands);
    reset_counters();
    begun = now_ns();
    uint64_t end = begun + life * 1000000000ull;
    while (now_ns() < end) {
        for (; started < connections && opening < ramp; started++)
            if (conns[started].state == IDLE)
                start(&conns[started]);
        if (!ready && started == connections && !opening && (!returning || !behind || failed))
            say_ready();
        int n = epoll_wait(epoll, events, 1024, throttled ? 10 : 1000);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                if (!obey())
                    return 0;
            } else if (c->state == CONNECTING)
                connected(c);
            else if (c->state != CLOSED && c->state != IDLE)
                receive(c, sizeof buffer);
        }
        if (throttled)
            trickle(now_ns());
        if (progress)
            say_progress();
    }
    return 1;
}
