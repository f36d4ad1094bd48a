// Many threads make calls at the same places while those are changed to be faster; some are in a call there while it happens. Then timers and
// signals in between, text that is looked at and taken away, and threads that compute with all registers while others want the processor.
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SITES = 400, THREADS = 16 };

// Functions of 32 bytes each, `long site(long number, long a, long b, long c)`.
asm(".text\n.p2align 5\n.globl sites\nsites:\n"
    ".rept 200\n"
    // The number is gettid's.
    "1: mov $186, %eax\n syscall\n ret\n .p2align 5, 0xcc\n"
    // Any number.
    "2: mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n syscall\n cmp $-4096, %rax\n ret\n .p2align 5, 0xcc\n"
    ".endr\n"
    ".globl sites_end\nsites_end:\n");
extern char sites[], sites_end[];
typedef long site(long, long, long, long);

static void fail(const char *what) {
    printf("%s\n", what);
    exit(1);
}

static site *at(unsigned index) {
    return (site *)(sites + 32 * (index % SITES));
}

static void *caller(void *seed) {
    unsigned next = (uintptr_t)seed * 2654435761u;
    long me = syscall(SYS_gettid);
    for (int round = 0; round < 4000; round++) {
        next = next * 1664525 + 1013904223;
        if (at(next >> 8)(SYS_gettid, 0, 0, 0) != me) fail("another thread's number");
        if ((next >> 20) % 16 == 0) sched_yield();
    }
    return 0;
}

static int pipes[8][2];

// Sleeps in a place that others change meanwhile.
static void *sleeper(void *number) {
    uintptr_t i = (uintptr_t)number;
    char byte = 0;
    if (at(2 * i + 1)(SYS_read, pipes[i][0], (long)&byte, 1) != 1 || byte != 'a' + (char)i) fail("a sleeping read");
    return 0;
}

static void race(void) {
    pthread_t sleepers[8], callers[THREADS];
    for (uintptr_t i = 0; i < 8; i++) {
        if (pipe(pipes[i])) fail("pipe");
        pthread_create(&sleepers[i], 0, sleeper, (void *)i);
    }
    for (uintptr_t i = 0; i < THREADS; i++) pthread_create(&callers[i], 0, caller, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++) pthread_join(callers[i], 0);
    for (int i = 0; i < 8; i++) {
        char byte = 'a' + (char)i;
        if (write(pipes[i][1], &byte, 1) != 1) fail("write");
        pthread_join(sleepers[i], 0);
    }
}

static volatile sig_atomic_t ticks;
static volatile uintptr_t outside;

static void tick(int signo, siginfo_t *info, void *context) {
    (void)signo;
    (void)info;
    uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    ticks++;
    // A program knows where its code is: whatever a signal interrupts must lie there.
    extern char __executable_start[], etext[];
    if (rip >= (uintptr_t)__executable_start && rip < (uintptr_t)etext) return;
    outside = rip;
}

static void signals(void) {
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 500}, {0, 500}}, 0);
    long me = gettid();
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        for (unsigned i = 0; i < 1000; i++)
            if (at(i)(SYS_gettid, 0, 0, 0) != me) fail("a call between signals");
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec < 2);
    // Restarted calls, of either kind of place.
    int pair[2];
    if (pipe(pair)) fail("pipe");
    for (int i = 0; i < 8; i++) {
        pid_t tid = gettid();
        (void)tid;
        char byte = 0;
        pthread_t writer;
        extern void *late(void *);
        pthread_create(&writer, 0, late, (void *)(intptr_t)pair[1]);
        if (at(2 * i + 1)(SYS_read, pair[0], (long)&byte, 1) != 1 || byte != 'x') fail("a restarted read");
        pthread_join(writer, 0);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, 0);
    if (ticks < 20) fail("too few signals");
}

void *late(void *fd) {
    struct timespec some = {0, 20000000};
    while (nanosleep(&some, &some) && errno == EINTR) {}
    if (write((intptr_t)fd, "x", 1) != 1) fail("write");
    return 0;
}

// Text that becomes writable has its own bytes; executed again, it does what they say.
static void text(void) {
    static unsigned char first[64];
    uintptr_t page = (uintptr_t)sites & -4096ul;
    size_t length = (((uintptr_t)sites_end + 4095) & -4096ul) - page;
    static const unsigned char gettid_code[] = {0xb8, 186, 0, 0, 0, 0x0f, 0x05, 0xc3};
    if (mprotect((void *)page, length, PROT_READ | PROT_WRITE)) fail("mprotect");
    for (int i = 0; i < SITES; i += 2) {
        memcpy(first, (void *)at(i), 8);
        if (memcmp(first, gettid_code, 8)) fail("text is not what it was");
        // getppid instead of gettid
        ((unsigned char *)at(i))[1] = 110;
    }
    if (mprotect((void *)page, length, PROT_READ | PROT_EXEC)) fail("mprotect");
    long parent = getppid();
    for (int again = 0; again < 5; again++)
        for (int i = 0; i < SITES; i += 2)
            if (at(i)(0, 0, 0, 0) != parent) fail("changed text");
    for (int again = 0; again < 5; again++)
        for (int i = 1; i < SITES; i += 2)
            if (at(i)(SYS_gettid, 0, 0, 0) != gettid()) fail("the other places");
}

static volatile int stop;

__attribute__((target("avx2"))) static void *compute(void *number) {
    uint64_t me = (uintptr_t)number * 0x0101010101010101u;
    __m256i value = _mm256_set1_epi64x((long long)me);
    static __thread uint64_t local;
    local = me;
    while (!stop) {
        for (int i = 0; i < 100000; i++) {
            asm volatile("" : "+x"(value));
            uint64_t x = me;
            asm volatile("" : "+r"(x));
            if (x != me || local != me) fail("a register of another thread");
        }
        uint64_t words[4];
        _mm256_storeu_si256((__m256i *)words, value);
        for (int i = 0; i < 4; i++)
            if (words[i] != me) fail("a vector register of another thread");
    }
    return 0;
}

static void preemption(void) {
    if (!__builtin_cpu_supports("avx2")) return;
    pthread_t threads[6];
    for (uintptr_t i = 0; i < 6; i++) pthread_create(&threads[i], 0, compute, (void *)(i + 1));
    // They never call: this thread gets the processor all the same, and soon.
    struct timespec begin, now, some = {0, 1000000};
    for (int i = 0; i < 20; i++) {
        clock_gettime(CLOCK_MONOTONIC, &begin);
        nanosleep(&some, 0);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - begin.tv_sec > 1) fail("the processor is not shared");
    }
    stop = 1;
    for (int i = 0; i < 6; i++) pthread_join(threads[i], 0);
}

int main(void) {
    race();
    signals();
    if (outside) {
        // Not an error by itself: the C library's own calls are elsewhere. Stubs lie where nothing is mapped for the program.
        char line[512];
        int known = 0;
        FILE *maps = fopen("/proc/self/maps", "r");
        while (maps && fgets(line, sizeof line, maps)) {
            unsigned long from, to;
            if (sscanf(line, "%lx-%lx", &from, &to) == 2 && outside >= from && outside < to) known = 1;
        }
        if (maps && !known) fail("a signal interrupted something that is not the program's");
    }
    text();
    preemption();
    printf("SUCCESS\n");
    return 0;
}
