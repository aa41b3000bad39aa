/* How many threads a call gets.

   Where something else keeps the cores busy, the threads of a call wait for each other longer than
   they help each other: each time for a slice of the scheduler's, some milliseconds. After a call
   whose first thread mostly stood still, some calls are made with one thread; then another one
   tries, and where it stands still as well, twice as many follow. The result is the same. */

#include <time.h>

#define SHORT 2000000     /* nanoseconds; less than a slice of the scheduler's */
#define MIN_WORK 100000   /* products below which waking threads costs more than it saves */
#define FEWEST_SINGLE 8   /* calls with one thread after one that stood still */
#define MOST_SINGLE 256

static atomic_int single_calls_left, single_calls_next;

static int64_t now(clockid_t clock) /* nanoseconds */
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int threads_for(int threads, int64_t work)
{
    if (threads == 1 || work < MIN_WORK)
        return 1;
    return atomic_load(&single_calls_left) > 0 && atomic_fetch_sub(&single_calls_left, 1) > 0
               ? 1
               : threads;
}

/* What the first thread knows of a call, in nanoseconds. */
typedef struct {
    int64_t start, cpu, done; /* on the clock; of this thread's processor time; its work done */
} CallTimes;

static CallTimes call_begins(void)
{
    return (CallTimes){now(CLOCK_MONOTONIC), now(CLOCK_THREAD_CPUTIME_ID), 0};
}

/* After the parallel region, whose end spins: that time counts as standing still. */
static void call_ends(int threads, const CallTimes *times)
{
    if (threads == 1)
        return;
    const int64_t end = now(CLOCK_MONOTONIC), all = end - times->start;
    const int64_t still = all - (now(CLOCK_THREAD_CPUTIME_ID) - times->cpu) + end - times->done;
    if (all < SHORT)
        return;
    const int next = atomic_load(&single_calls_next), stood_still = 2 * still > all;
    const int more = next < FEWEST_SINGLE ? FEWEST_SINGLE : next < MOST_SINGLE ? 2 * next : next;
    atomic_store(&single_calls_next, stood_still ? more : next / 2);
    atomic_store(&single_calls_left, stood_still ? more : 0);
}
