/* The load of scripts/bench_server.py: HTTP requests over kept connections, and little but their bytes, because the
 * server that is measured shares the cores with it.
 *
 *     load PORT CONNECTIONS SECONDS RATE < PAYLOADS
 *
 * RATE is requests a second at their appointed times, whatever became of those before; 0: each connection asks again
 * once it has its answer, until SECONDS are over. PAYLOADS are requests, each behind its length in eight bytes; they
 * are sent in turn. What became of them is one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 4096, MAX_PAYLOADS = 4096, MAX_ANSWER = 1 << 20, EVENTS = 256 };
enum { HEAD_BYTES = 9, OK = 200, TOO_MANY = 429 };

struct connection {
    int file;
    bool is_waiting;
    double asked_at;
    size_t num_bytes;
    char *bytes;
};

static struct connection connections[MAX_CONNECTIONS];
static int idle[MAX_CONNECTIONS], first_idle, num_idle, num_connections;
static char *payloads[MAX_PAYLOADS];
static size_t payload_bytes[MAX_PAYLOADS];
static size_t num_payloads, num_sent;
static long num_ok, num_refused, num_unexplained, num_other, num_broken, num_late;
static double *delays; /* of refusals */
static size_t num_delays, room_for_delays;
static int poll_file, port;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void open_connection(int number)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int one = 1, file = socket(AF_INET, SOCK_STREAM, 0);
    if (file < 0 || connect(file, (const struct sockaddr *)&address, sizeof address))
        fail("connect");
    setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)number};
    epoll_ctl(poll_file, EPOLL_CTL_ADD, file, &event);
    connections[number].file = file;
}

/* The one that has rested longest goes first: a server closes one that says nothing. */
static void rest(int number)
{
    connections[number].is_waiting = false;
    idle[(first_idle + num_idle++) % num_connections] = number;
}

static void broken(int number)
{
    const bool was_waiting = connections[number].is_waiting;
    num_broken++;
    close(connections[number].file);
    open_connection(number);
    if (was_waiting)
        rest(number);
}

static void ask(int number)
{
    struct connection *own = &connections[number];
    const size_t payload = num_sent++ % num_payloads;
    own->is_waiting = true;
    own->num_bytes = 0;
    own->asked_at = now();
    for (size_t done = 0; done < payload_bytes[payload];) {
        const ssize_t sent = send(own->file, payloads[payload] + done, payload_bytes[payload] - done, MSG_NOSIGNAL);
        if (sent <= 0) {
            broken(number);
            return;
        }
        done += (size_t)sent;
    }
}

static void count_answer(const struct connection *own, const char *head)
{
    const int status = atoi(head + HEAD_BYTES);
    if (status == OK) {
        num_ok++;
        return;
    }
    if (status != TOO_MANY) {
        num_other++;
        return;
    }
    num_refused++;
    num_unexplained += strcasestr(head, "\r\nretry-after: ") == NULL;
    if (num_delays == room_for_delays) {
        room_for_delays = 2 * room_for_delays + 1024;
        delays = realloc(delays, room_for_delays * sizeof *delays);
    }
    delays[num_delays++] = now() - own->asked_at;
}

/* Whether an answer is whole now. */
static bool receive(int number)
{
    struct connection *own = &connections[number];
    const ssize_t got = recv(own->file, own->bytes + own->num_bytes, MAX_ANSWER - own->num_bytes, 0);
    if (got <= 0) {
        broken(number);
        return false;
    }
    own->num_bytes += (size_t)got;
    char *end = memmem(own->bytes, own->num_bytes, "\r\n\r\n", 4);
    if (end == NULL)
        return false;
    *end = '\0'; /* for the functions that look into the head */
    const char *length = strcasestr(own->bytes, "\r\ncontent-length: ");
    const size_t whole = (size_t)(end - own->bytes) + 4 + (length ? strtoul(length + 18, NULL, 10) : 0);
    if (own->num_bytes >= whole) {
        count_answer(own, own->bytes);
        return true;
    }
    *end = '\r';
    return false;
}

static void take_answers(double seconds, bool asks_again)
{
    struct epoll_event events[EVENTS];
    const int milliseconds = seconds > 0 ? (int)(1e3 * seconds) + 1 : 0;
    const int count = epoll_wait(poll_file, events, EVENTS, milliseconds);
    for (int i = 0; i < count; i++) {
        const int number = (int)events[i].data.u32;
        if (!receive(number))
            continue;
        if (asks_again)
            ask(number);
        else
            rest(number);
    }
}

static void read_payloads(void)
{
    uint64_t length;
    while (num_payloads < MAX_PAYLOADS && fread(&length, sizeof length, 1, stdin) == 1) {
        char *bytes = malloc(length);
        if (fread(bytes, 1, length, stdin) != length)
            fail("payloads");
        payload_bytes[num_payloads] = length;
        payloads[num_payloads++] = bytes;
    }
}

static int by_size(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void ask_in_time(double rate, double seconds, double started)
{
    const long total = (long)(rate * seconds);
    for (long number = 0; number < total; number++) {
        double due;
        while ((due = started + (double)number / rate - now()) > 0)
            take_answers(due, false);
        if (num_idle == 0)
            take_answers(0, false);
        if (num_idle == 0) {
            num_late++; /* every connection waits for an answer */
            continue;
        }
        const int next = idle[first_idle];
        first_idle = (first_idle + 1) % num_connections;
        num_idle--;
        ask(next);
    }
}

static void ask_when_answered(double seconds, double started)
{
    num_idle = 0;
    for (int i = 0; i < num_connections; i++)
        ask(i);
    while (now() < started + seconds)
        take_answers(1, true);
}

int main(int count, char **words)
{
    if (count != 5)
        return 2;
    port = atoi(words[1]);
    num_connections = atoi(words[2]);
    const double seconds = atof(words[3]), rate = atof(words[4]);
    /* An answer does not take a core from whoever computes for others: a client elsewhere could not. */
    sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    read_payloads();
    poll_file = epoll_create1(0);
    for (int i = 0; i < num_connections; i++) {
        connections[i].bytes = malloc(MAX_ANSWER);
        open_connection(i);
        rest(i);
    }
    const double started = now();
    if (rate > 0)
        ask_in_time(rate, seconds, started);
    else
        ask_when_answered(seconds, started);
    while (num_idle < num_connections)
        take_answers(1, false);
    const double taken = now() - started;
    qsort(delays, num_delays, sizeof *delays, by_size);
    printf("{\"ok\": %ld, \"refused\": %ld, \"without_retry_after\": %ld, \"other\": %ld, \"broken\": %ld, "
           "\"late\": %ld, \"seconds\": %.6f, \"refusal_p99\": %.6f}\n",
           num_ok, num_refused, num_unexplained, num_other, num_broken, num_late, taken,
           num_delays ? delays[num_delays * 99 / 100] : 0.0);
    return 0;
}
