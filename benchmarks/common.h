/* What the three C programs of the benchmarks share. */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MARK 30 /* bytes of a marker: "@T<16 hex>@@N<8 hex>@" */

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static inline uint64_t hex(const char *text, int digits)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        unsigned char c = text[i];
        value = value << 4 | (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

static inline struct sockaddr_in address(const char *host, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    return to;
}

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

/* The file in which the client says how far its slowest stream has got, and publishers look. */
static inline volatile uint64_t *progress_file(const char *path, int writes)
{
    int fd = open(path, writes ? O_RDWR | O_CREAT : O_RDONLY, 0644);
    if (fd < 0 || (writes && ftruncate(fd, 64)))
        die(path);
    void *map = mmap(NULL, 64, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        die(path);
    return map;
}

/* Write one payload of ``size`` bytes: the marker and filler. Returns its length. */
static inline int payload(char *text, int size, uint32_t number)
{
    int n = sprintf(text, "{\"mark\":\"@T%016lx@@N%08x@\",\"fill\":\"", now_ns(), number);
    while (n < size - 2)
        text[n++] = 'x';
    text[n++] = '"';
    text[n++] = '}';
    text[n] = 0;
    return n;
}

#endif
