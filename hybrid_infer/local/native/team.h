/* A few threads that share the phases of a run.
 *
 * The parts of a phase are taken one by one from a common ticket, so whoever is kept from its core holds
 * up nobody, unless it has just taken a part; a barrier would wait for it after every phase. Between two
 * runs the helpers sleep.
 */
#ifndef HYBRID_INFER_TEAM_H
#define HYBRID_INFER_TEAM_H

#include <immintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_PARTS = 65535, PHASES_OVER = 65535, PATIENT_LOOKS = 200 };

struct team {
    /* Run, phase, next part: who changes the last one by compare-and-exchange knows that the other two
     * still hold. It only ever grows, and a phase ends after its last part is done. */
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) _Atomic uint32_t num_done; /* parts of this phase */
    _Alignas(64) _Atomic uint32_t run;      /* the newest one; the helpers sleep on it */
    _Atomic uint32_t num_asleep;
    _Atomic int is_over;
    /* Of the present run; read by who holds a part. */
    const int32_t *num_parts;
    int32_t num_phases;
    void (*leave)(void); /* called by a thread that has done parts of a run */
    void (*do_part)(void *work, int32_t phase, int32_t part);
    void *work;
    int num_helpers;
    pid_t owner;
    pthread_t helpers[];
};

static inline uint64_t team_ticket(uint32_t run, uint32_t phase, uint32_t part)
{
    return (uint64_t)run << 32 | phase << 16 | part;
}

/* The next phase that has parts. */
static inline uint32_t team_phase_from(const struct team *team, int32_t phase)
{
    while (phase < team->num_phases && !team->num_parts[phase])
        phase++;
    return phase < team->num_phases ? (uint32_t)phase : PHASES_OVER;
}

/* Take parts until the run is over, or another one has begun. */
static void team_take_part(struct team *team, uint32_t run)
{
    int looks = 0, has_worked = 0;
    for (;;) {
        uint64_t ticket = atomic_load_explicit(&team->ticket, memory_order_acquire);
        const uint32_t phase = ticket >> 16 & 0xffff, part = ticket & 0xffff;
        if (ticket >> 32 != run || phase == PHASES_OVER)
            break;
        const uint32_t num_parts = (uint32_t)team->num_parts[phase]; /* right, if the exchange succeeds */
        if (part >= num_parts) { /* the last ones are being done */
            if (++looks > PATIENT_LOOKS)
                sched_yield();
            else
                _mm_pause();
            continue;
        }
        looks = 0;
        if (!atomic_compare_exchange_weak_explicit(&team->ticket, &ticket, ticket + 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        has_worked = 1;
        team->do_part(team->work, (int32_t)phase, (int32_t)part);
        /* Who did not do the last part may find the next run's numbers in the team from here on. */
        if (atomic_fetch_add_explicit(&team->num_done, 1, memory_order_acq_rel) + 1 == num_parts) {
            atomic_store_explicit(&team->num_done, 0, memory_order_relaxed);
            const uint32_t next = team_phase_from(team, (int32_t)phase + 1);
            atomic_store_explicit(&team->ticket, team_ticket(run, next, 0), memory_order_release);
        }
    }
    if (has_worked)
        team->leave();
}

static void *team_help(void *argument)
{
    struct team *team = argument;
    uint32_t seen = 0;
    while (!atomic_load(&team->is_over)) {
        const uint32_t run = atomic_load(&team->run);
        if (run != seen) {
            seen = run;
            team_take_part(team, run);
            continue;
        }
        atomic_fetch_add(&team->num_asleep, 1);
        syscall(SYS_futex, &team->run, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        atomic_fetch_sub(&team->num_asleep, 1);
    }
    return NULL;
}

static void team_wake(struct team *team)
{
    atomic_fetch_add(&team->run, 1);
    if (atomic_load(&team->num_asleep))
        syscall(SYS_futex, &team->run, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Do all parts of all phases, one phase after the other; the calling thread takes part. */
static void team_run(struct team *team)
{
    const uint32_t run = atomic_load(&team->run) + 1;
    atomic_store_explicit(&team->ticket, team_ticket(run, team_phase_from(team, 0), 0), memory_order_release);
    team_wake(team);
    team_take_part(team, run);
}

/* A team of fewer threads than asked for if the system has no more; NULL without memory. */
static struct team *team_new(int num_threads)
{
    const size_t bytes = sizeof(struct team) + (size_t)num_threads * sizeof(pthread_t);
    struct team *team = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!team)
        return NULL;
    memset(team, 0, bytes);
    team->owner = getpid();
    atomic_store(&team->ticket, team_ticket(0, PHASES_OVER, 0));
    while (team->num_helpers < num_threads - 1 &&
           !pthread_create(&team->helpers[team->num_helpers], NULL, team_help, team))
        team->num_helpers++;
    return team;
}

static void team_free(struct team *team)
{
    if (team->owner != getpid())
        return; /* a fork's copy: its helpers do not exist */
    atomic_store(&team->is_over, 1);
    team_wake(team);
    for (int number = 0; number < team->num_helpers; number++)
        pthread_join(team->helpers[number], NULL);
    free(team);
}

#endif
