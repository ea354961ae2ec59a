/* The load client: what comes in. Heads, chunks, markers; latency and loss. */
#include "client.h"
#include <sys/resource.h>

struct counters count;
int sample = 1, keep_tail, behind;
uint32_t target;
uint64_t caught_up;
#define RESET "event: stream-reset"
static uint64_t histogram[64 * 64], highest;

/* Latency: 64 buckets to each power of two, so that no figure is off by more than 1.6 %. */

static void record(uint64_t value)
{
    int power = value < 64 ? 5 : 63 - __builtin_clzll(value);
    int index = value < 64 ? (int)value : (power - 5) * 64 + (int)((value >> (power - 6)) & 63);
    histogram[index]++;
    if (value > highest)
        highest = value;
}

double quantile(double share)
{
    uint64_t wanted = (uint64_t)(share * count.sampled), sum = 0;
    for (int i = 0; i < 64 * 64; i++)
        if ((sum += histogram[i]) > wanted) {
            if (i < 64)
                return i / 1e6;
            double low = (double)((uint64_t)(64 + i % 64) << (i / 64 - 1));
            low *= 1 + 0.5 / (64 + i % 64);
            return (low < highest ? low : highest) / 1e6;
        }
    return highest / 1e6;
}

double highest_ms(void)
{
    return highest / 1e6;
}

double cpu_now(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void reset_counters(void)
{
    memset(&count, 0, sizeof count);
    memset(histogram, 0, sizeof histogram);
    highest = 0;
    count.since = now_ns();
    count.cpu = cpu_now();
}

/* What comes in */

/* ``before``: what came since the last event, as far as it is at hand. */
static void event(struct conn *c, const char *mark, uint64_t now, const char *before, size_t length)
{
    if (mark[1] != 'T' || mark[18] != '@' || mark[19] != '@' || mark[20] != 'N')
        return;
    uint32_t number = hex(mark + 21, 8);
    if (c->kind != NORMAL) {
        count.slow_deliveries++;
        return;
    }
    if (c->seen && number > c->next) {
        count.lost += number - c->next;
        if (c->told || memmem(before, length, RESET, strlen(RESET)))
            count.announced += number - c->next;
    } else if (c->seen && number < c->next) {
        count.again++;
        return;
    }
    c->seen = 1;
    c->told = 0;
    c->next = number + 1;
    if (c->behind && c->next >= target) {
        c->behind = 0;
        if (--behind == 0)
            caught_up = now;
    }
    if (count.deliveries++ % sample == 0) {
        uint64_t then = hex(mark + 2, 16);
        record(now > then ? now - then : 0);
        count.sampled++;
    }
}

static void body(struct conn *c, const char *data, size_t length, uint64_t now)
{
    const char *end = data + length;
    if (keep_tail) { /* the end of what came, to find the last id in */
        size_t keep = length < TAIL ? length : TAIL;
        if (c->tail_length + keep > TAIL) {
            size_t drop = c->tail_length + keep - TAIL;
            memmove(c->tail, c->tail + drop, c->tail_length - drop);
            c->tail_length -= drop;
        }
        memcpy(c->tail + c->tail_length, end - keep, keep);
        c->tail_length += keep;
    }
    if (c->carried) { /* a marker that two reads share */
        size_t part = MARK - c->carried;
        if (part > length)
            part = length;
        memcpy(c->carry + c->carried, data, part);
        c->carried += part;
        data += part;
        if (c->carried < MARK)
            return;
        c->carried = 0;
        event(c, c->carry, now, c->carry, 0);
    }
    const char *before = data;
    while (data < end && (data = memchr(data, '@', end - data))) {
        if (end - data > 1 && data[1] != 'T')
            data++;
        else if (end - data < MARK) {
            c->carried = end - data;
            memcpy(c->carry, data, c->carried);
            break;
        } else {
            event(c, data, now, before, data - before);
            before = data += MARK;
        }
    }
    size_t rest = end - before < 512 ? end - before : 512; /* a reset may have a chunk of its own */
    if (!c->told && memmem(end - rest, rest, RESET, strlen(RESET)))
        c->told = 1;
}

static int chunks(struct conn *c, const char *data, size_t length, uint64_t now)
{
    const char *end = data + length;
    while (data < end) {
        if (c->chunk_state == 0) { /* the size, up to the end of its line */
            char byte = *data++;
            if (byte == '\n') {
                if (!c->chunk_left)
                    return 0;
                c->chunk_state = 1;
            } else if (byte != '\r')
                c->chunk_left = c->chunk_left << 4 | hex(&byte, 1);
        } else if (c->chunk_state == 1) {
            size_t part = end - data;
            if (part > c->chunk_left)
                part = c->chunk_left;
            body(c, data, part, now);
            data += part;
            if (!(c->chunk_left -= part))
                c->chunk_state = 2;
        } else if (*data++ == '\n')
            c->chunk_state = 0;
    }
    return 1;
}

/* Take more of a response's head. Returns how many bytes at the front were head, or -1: not a stream. */
int take_head(struct conn *c, const char *data, int length)
{
    int before = c->head_length;
    c->head = realloc(c->head, before + length + 1);
    memcpy(c->head + before, data, length);
    c->head_length += length;
    c->head[c->head_length] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return c->head_length < 65536 ? length : -1;
    if (strncmp(c->head + 8, " 200", 4) != 0)
        return -1;
    end[2] = 0;
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    int used = end + 4 - c->head - before;
    free(c->head);
    c->head = NULL;
    c->head_length = 0;
    c->state = FIRST;
    return used;
}

/* Take more of a body. Returns 0 when the response has ended. */
int take_body(struct conn *c, const char *data, size_t length, uint64_t now)
{
    if (c->chunked)
        return chunks(c, data, length, now);
    body(c, data, length, now);
    return 1;
}

/* Find the last complete block with an id in what came last, and take the event's number from it:
   a block that is cut in the middle comes again. */
void remember_id(struct conn *c)
{
    static char text[TAIL + 1];
    memcpy(text, c->tail, c->tail_length);
    text[c->tail_length] = 0;
    for (;;) {
        char *end = NULL, *id = NULL, *mark = NULL;
        for (char *p = text; (p = strstr(p, "\n\n")); p += 2)
            end = p;
        if (!end)
            return;
        *end = 0;
        for (char *p = text; (p = strstr(p, "id: ")); p += 4)
            if (p == text || p[-1] == '\n')
                id = p;
        for (char *p = text; (p = strstr(p, "@T")); p += 2)
            mark = p;
        if (!id)
            return;
        snprintf(c->id, sizeof c->id, "%.*s", (int)strcspn(id + 4, "\n"), id + 4);
        if (mark && strlen(mark) >= MARK)
            c->next = hex(mark + 21, 8) + 1;
        return;
    }
}

