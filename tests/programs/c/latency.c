// How long a thread waits for the processor while another one makes long calls, and how late timers are while another one computes.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static volatile int stop;
static volatile long worst;

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void *watcher(void *unused) {
    (void)unused;
    long last = now();
    while (!stop) {
        long here = now();
        if (here - last > worst) worst = here - last;
        last = here;
    }
    return NULL;
}

static void *spinner(void *unused) {
    (void)unused;
    while (!stop) ;
    return NULL;
}

static void report(const char *what, long started) {
    printf("%s: %ld ms, longest wait of another thread %.1f ms\n", what, (now() - started) / 1000000, worst / 1e6);
    fflush(stdout);
    worst = 0;
}

static int compare(const void *a, const void *b) {
    return *(const long *)a < *(const long *)b ? -1 : 1;
}

static void lateness(const char *what, void (*sleep_for)(long)) {
    enum { COUNT = 300 };
    static long late[COUNT];
    for (int n = 0; n < COUNT; n++) {
        long from = now();
        sleep_for(1000000);
        late[n] = now() - from - 1000000;
    }
    qsort(late, COUNT, sizeof *late, compare);
    printf("%s: median %ld us late, 9 of 10 within %ld us\n", what, late[COUNT / 2] / 1000, late[COUNT * 9 / 10] / 1000);
    fflush(stdout);
}

static void by_sleep(long nanos) {
    nanosleep(&(struct timespec){.tv_nsec = nanos}, NULL);
}

static void by_epoll(long nanos) {
    static int epoll = -1;
    if (epoll < 0) epoll = epoll_create1(0);
    struct epoll_event event;
    epoll_wait(epoll, &event, 1, nanos / 1000000);
}

static void by_timerfd(long nanos) {
    static int fd = -1;
    if (fd < 0) fd = timerfd_create(CLOCK_MONOTONIC, 0);
    timerfd_settime(fd, 0, &(struct itimerspec){.it_value.tv_nsec = nanos}, NULL);
    uint64_t times;
    if (read(fd, &times, 8) != 8) exit(1);
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "calls";
    pthread_t other;
    if (!strcmp(what, "timers")) {
        pthread_create(&other, NULL, spinner, NULL);
        lateness("nanosleep", by_sleep);
        lateness("epoll_wait", by_epoll);
        lateness("timerfd", by_timerfd);
        stop = 1;
        puts("SUCCESS");
        return 0;
    }
    size_t len = (size_t)(count > 2 ? atol(arguments[2]) : 256) << 20;
    char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return 1;
    memset(at, 1, len);
    pthread_create(&other, NULL, watcher, NULL);
    usleep(20000);
    worst = 0;
    long started = now();
    int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
    for (int n = 0; n < 4; n++) if (read(zero, at, len) != (ssize_t)len) return 2;
    report("read of /dev/zero", started);
    started = now();
    for (size_t done = 0; done < len; ) {
        ssize_t got = getrandom(at + done, len - done, 0);
        if (got <= 0) return 3;
        done += got;
    }
    report("getrandom", started);
    int file = open("/tmp/long", O_CREAT | O_RDWR, 0600);
    started = now();
    if (write(file, at, len) != (ssize_t)len) return 4;
    report("write to a file in memory", started);
    started = now();
    if (pread(file, at, len, 0) != (ssize_t)len) return 5;
    report("read of it", started);
    started = now();
    if (write(null, at, len) != (ssize_t)len) return 6;
    report("write to /dev/null", started);
    started = now();
    mprotect(at, len, PROT_READ);
    report("mprotect", started);
    started = now();
    madvise(at, len, MADV_DONTNEED);
    report("madvise", started);
    mprotect(at, len, PROT_READ | PROT_WRITE);
    memset(at, 1, len);
    worst = 0;
    started = now();
    munmap(at, len);
    report("munmap", started);
    started = now();
    at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    report("mmap with MAP_POPULATE", started);
    if (at == MAP_FAILED || at[len - 1]) return 7;
    stop = 1;
    pthread_join(other, NULL);
    puts("SUCCESS");
    return 0;
}
