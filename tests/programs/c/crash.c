// Ends by a signal, in a function of a known name, while another thread sleeps in another: for core files.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static char text[] = "in the data";
static char *volatile in_heap;
static volatile int ready;

__attribute__((noinline)) static void sleeps_here(void) {
    ready = 1;
    for (;;) pause();
}

static void *other(void *unused) {
    (void)unused;
    sleeps_here();
    return NULL;
}

__attribute__((noinline)) static int crashes_here(int depth, volatile int *at) {
    if (depth > 0) return crashes_here(depth - 1, at) + 1;
    *at = 42;
    return 0;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "segv";
    pthread_t thread;
    in_heap = strdup("in the heap");
    text[0] = 'I';
    // Reserved and not touched: must not be in the file.
    char *much = mmap(NULL, 1ul << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    much[1 << 30] = 1;
    pthread_create(&thread, NULL, other, NULL);
    while (!ready) usleep(1000);
    if (!strcmp(what, "limit")) setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if (!strcmp(what, "secret")) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (!strcmp(what, "abort")) abort();
    return crashes_here(3, (int *)16);
}
