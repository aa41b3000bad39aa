/* Where the threads of a team wait for each other, some sixty times in a step of the network.

   A thread that waits looks for a while, because the others are mostly there within microseconds,
   and then sleeps: if another process has taken the core of the thread that it waits for, that
   thread can go on here. OpenMP's own barrier would look for milliseconds. */

#include <stdatomic.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define LOOKS 2000 /* some 30 us */

typedef struct {
    _Alignas(64) atomic_uint arrived, sleepers;
    _Alignas(64) atomic_uint round;
} Gate;

static inline void pause_briefly(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void pass(Gate *gate, unsigned threads)
{
    if (threads == 1)
        return;
    const unsigned round = atomic_load(&gate->round);
    if (atomic_fetch_add(&gate->arrived, 1) == threads - 1) {
        atomic_store(&gate->arrived, 0);
        atomic_store(&gate->round, round + 1);
#ifdef __linux__
        if (atomic_load(&gate->sleepers))
            syscall(SYS_futex, &gate->round, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
#endif
        return;
    }
    for (int i = 0; i < LOOKS; i++) {
        if (atomic_load(&gate->round) != round)
            return;
        pause_briefly();
    }
    atomic_fetch_add(&gate->sleepers, 1);
    while (atomic_load(&gate->round) == round)
#ifdef __linux__
        syscall(SYS_futex, &gate->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
#else
        sched_yield();
#endif
    atomic_fetch_sub(&gate->sleepers, 1);
}
