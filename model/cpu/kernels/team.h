/* How the threads of a step share its stages.

   A step has some hundred stages, one after another, each of many equal pieces. A thread takes the
   pieces of its own share first, so that the same core reads the same weights, and then what is left
   of the others' shares: a thread whose core something else has taken for a while holds up nobody
   who finds work. Only a piece that such a thread has begun must be waited for. Whoever waits spins
   for a while, because mostly that takes microseconds, and then sleeps, which frees a core for the
   thread that is waited for. (OpenMP's own barrier waits for threads, not for work.) */

#include <stdatomic.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define SPINS 2000 /* some 50 us */

typedef struct {
    _Alignas(64) atomic_uint taken; /* of this thread's share */
    atomic_uint done, sleepers;     /* of all; those of thread 0 count */
} Progress;

typedef struct {
    Progress *progress; /* of the stage that this thread is in: one for each thread */
    int64_t number, threads;
} Team;

/* The pieces of one stage that a thread goes through. */
typedef struct {
    Team *team;
    int64_t total, from, mine; /* `from`: whose share it is taking from, counted from its own */
} Pieces;

/* Where the share of a thread begins. */
static inline int64_t share_of(const Team *team, int64_t total, int64_t number)
{
    return total * number / team->threads;
}

static inline Pieces pieces_of(Team *team, int64_t total) { return (Pieces){team, total, 0, 0}; }

/* The next piece, or -1. */
static int64_t take(Pieces *pieces)
{
    const Team *team = pieces->team;
    for (; pieces->from < team->threads; pieces->from++) {
        const int64_t whose = (team->number + pieces->from) % team->threads;
        const int64_t first = share_of(team, pieces->total, whose);
        const int64_t size = share_of(team, pieces->total, whose + 1) - first;
        /* First without a claim: a share that is used up is not written to again and again. */
        if (atomic_load(&team->progress[whose].taken) >= size)
            continue;
        const int64_t piece = atomic_fetch_add(&team->progress[whose].taken, 1);
        if (piece < size) {
            pieces->mine++;
            return first + piece;
        }
    }
    return -1;
}

/* Waits until all pieces are done, and goes on to the next stage. */
static void finish_pieces(Pieces *pieces)
{
    Team *team = pieces->team;
    Progress *all = team->progress;
    team->progress += team->threads;
    if (team->threads == 1)
        return;
    if (atomic_fetch_add(&all->done, pieces->mine) + pieces->mine == pieces->total) {
#ifdef __linux__
        if (atomic_load(&all->sleepers))
            syscall(SYS_futex, &all->done, FUTEX_WAKE_PRIVATE, team->threads, NULL, NULL, 0);
#endif
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&all->done) == pieces->total)
            return;
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    }
    atomic_fetch_add(&all->sleepers, 1);
    for (unsigned done; (done = atomic_load(&all->done)) != pieces->total;)
#ifdef __linux__
        syscall(SYS_futex, &all->done, FUTEX_WAIT_PRIVATE, done, NULL, NULL, 0);
#else
        sched_yield();
#endif
}
