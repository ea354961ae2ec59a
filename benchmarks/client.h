/* The load client: what its two parts share. */
#include "common.h"

enum { IDLE, CONNECTING, HEAD, FIRST, OPEN, CLOSED };
enum { NORMAL, STALLED, THROTTLED };

#define TAIL 2048

struct conn {
    int fd, path;
    uint8_t state, kind, chunked, chunk_state, carried, seen, behind, told;
    uint32_t next; /* the number that comes next */
    uint64_t chunk_left;
    char carry[MARK];
    char *head, *tail;
    int head_length, tail_length;
    char id[64];
};

struct counters {
    uint64_t since, deliveries, slow_deliveries, bytes, lost, announced, again, closed, ended, sampled;
    double cpu;
};

extern struct counters count;
extern int sample;               /* the latency of every how many'th event is taken */
extern int keep_tail;            /* whether to keep what came last, for its id */
extern int behind;               /* streams that have not reached the target yet */
extern uint32_t target;
extern uint64_t caught_up;

double quantile(double share);
double highest_ms(void);
void reset_counters(void);
int take_head(struct conn *c, const char *data, int length);
int take_body(struct conn *c, const char *data, size_t length, uint64_t now);
void remember_id(struct conn *c);
double cpu_now(void);
