/* When to publish: at a rate with absolute deadlines, or as fast as the client's slowest stream
   takes it, with at most ``window`` events under way. The same as peers/load.py. */
#include "common.h"

struct load {
    double rate, seconds;
    int size, topics, window, running;
    uint64_t begun, ended, planned, late_most, late_sum;
    uint32_t base, *numbers; /* the next number of each topic */
    volatile uint64_t *progress;
};

static inline void load_start(struct load *l)
{
    static int known;
    if (l->topics > known) {
        l->numbers = realloc(l->numbers, l->topics * sizeof *l->numbers);
        for (; known < l->topics; known++)
            l->numbers[known] = 0;
    }
    l->base = l->numbers[0];
    l->begun = now_ns();
    l->planned = l->late_most = l->late_sum = 0;
    l->running = 1;
}

/* How many events are due now. */
static inline int load_due(struct load *l)
{
    uint64_t now = now_ns();
    if (!l->running)
        return 0;
    if (now - l->begun >= l->seconds * 1e9) {
        l->running = 0;
        l->ended = now;
        return 0;
    }
    if (l->window) {
        uint32_t done = l->progress ? (uint32_t)l->progress[0] : 0;
        if (done < l->base)
            done = l->base;
        int room = l->window - (int)(l->numbers[0] - done);
        return room >= (l->window + 1) / 2 ? room : 0; /* in batches */
    }
    uint64_t due = (now - l->begun) / 1e9 * l->rate + 1;
    return due > l->planned ? due - l->planned : 0;
}

/* Make the next event's payload; returns its topic. */
static inline int load_next(struct load *l, char *text, int *length)
{
    int topic = l->planned % l->topics;
    if (!l->window) {
        uint64_t late = now_ns() - l->begun - (uint64_t)(l->planned / l->rate * 1e9);
        l->late_sum += late;
        if (late > l->late_most)
            l->late_most = late;
    }
    l->planned++;
    *length = payload(text, l->size, l->numbers[topic]++);
    return topic;
}

/* Milliseconds until something may be due. */
static inline int load_wait(struct load *l)
{
    if (!l->running)
        return 1000;
    if (l->window || l->rate >= 1000)
        return 1;
    int64_t next = l->begun + (uint64_t)(l->planned / l->rate * 1e9) - now_ns();
    return next < 0 ? 0 : next / 1000000 + 1;
}

static inline int load_stats(struct load *l, char *text)
{
    double seconds = ((l->running ? now_ns() : l->ended) - l->begun) / 1e9;
    return sprintf(text,
                   "{\"running\": %s, \"published\": %lu, \"number\": %u, \"seconds\": %.4f, "
                   "\"late_mean_ms\": %.4f, \"late_max_ms\": %.4f}",
                   l->running ? "true" : "false", l->planned, l->numbers ? l->numbers[0] : 0,
                   seconds, l->planned ? l->late_sum / 1e6 / l->planned : 0.0, l->late_most / 1e6);
}
