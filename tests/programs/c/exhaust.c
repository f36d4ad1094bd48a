// Takes of one kind of object what it can get: each call must at last fail with an error, and everything must go on afterwards.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MOST 3000000L
static char block[1 << 20];

static int fill(int fd) {
    int failed = 0;
    for (;;) {
        ssize_t done = write(fd, block, 65536);
        if (done < 0) { failed = errno; break; }
    }
    return failed == EAGAIN ? 0 : failed;
}

static void *sleeper(void *unused) { (void)unused; pause(); return NULL; }

// Makes one more; 0, or the error.
static int more(const char *what, long n) {
    static int epoll = -1, file = -1;
    char name[64];
    int two[2];
    if (!strcmp(what, "eventfd")) return eventfd(0, 0) < 0 ? errno : 0;
    if (!strcmp(what, "timerfd")) return timerfd_create(CLOCK_MONOTONIC, 0) < 0 ? errno : 0;
    if (!strcmp(what, "epoll")) return epoll_create1(0) < 0 ? errno : 0;
    if (!strcmp(what, "inotify")) return inotify_init() < 0 ? errno : 0;
    if (!strcmp(what, "memfd")) return memfd_create("m", 0) < 0 ? errno : 0;
    if (!strcmp(what, "pipe")) return pipe(two) < 0 ? errno : 0;
    if (!strcmp(what, "tcp")) return socket(AF_INET, SOCK_STREAM, 0) < 0 ? errno : 0;
    if (!strcmp(what, "udp")) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd < 0) return errno;
        return 0;
    }
    if (!strcmp(what, "pair")) return socketpair(AF_UNIX, SOCK_STREAM, 0, two) < 0 ? errno : 0;
    if (!strcmp(what, "open")) return open("/", O_RDONLY) < 0 ? errno : 0;
    if (!strcmp(what, "item")) {
        if (epoll < 0) epoll = epoll_create1(0);
        int fd = eventfd(0, 0);
        if (fd < 0) return errno;
        struct epoll_event event = {.events = EPOLLIN};
        return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
    }
    if (!strcmp(what, "timer")) {
        timer_t timer;
        struct sigevent nobody = {.sigev_notify = SIGEV_NONE};
        return timer_create(CLOCK_MONOTONIC, &nobody, &timer) < 0 ? errno : 0;
    }
    if (!strcmp(what, "files")) {
        snprintf(name, sizeof name, "/tmp/a-file-with-some-name-%ld", n);
        int fd = open(name, O_CREAT | O_WRONLY, 0600);
        if (fd < 0) return errno;
        return close(fd) < 0 ? errno : 0;
    }
    if (!strcmp(what, "folders")) {
        snprintf(name, sizeof name, "/tmp/a-folder-with-some-name-%ld", n);
        return mkdir(name, 0700) < 0 ? errno : 0;
    }
    if (!strcmp(what, "content")) {
        if (file < 0) file = open("/tmp/content", O_CREAT | O_WRONLY, 0600);
        return write(file, block, sizeof block) < 0 ? errno : 0;
    }
    if (!strcmp(what, "full-pipe")) {
        if (pipe2(two, O_NONBLOCK) < 0) return errno;
        fcntl(two[1], F_SETPIPE_SZ, 1 << 20);
        return fill(two[1]);
    }
    if (!strcmp(what, "full-pair")) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, two) < 0) return errno;
        return fill(two[0]);
    }
    if (!strcmp(what, "full-record")) {
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, two) < 0) return errno;
        return fill(two[0]);
    }
    if (!strcmp(what, "thread")) {
        static pthread_attr_t attributes;
        if (n == 0) {
            pthread_attr_init(&attributes);
            pthread_attr_setstacksize(&attributes, 16384);
        }
        pthread_t thread;
        return pthread_create(&thread, &attributes, sleeper, NULL);
    }
    if (!strcmp(what, "areas")) {
        char *at = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) return errno;
        return mprotect(at, 4096, PROT_NONE) < 0 ? errno : 0;
    }
    if (!strcmp(what, "signals")) {
        if (n == 0) {
            sigset_t all;
            sigfillset(&all);
            sigprocmask(SIG_BLOCK, &all, NULL);
        }
        return sigqueue(getpid(), SIGRTMIN, (union sigval){0}) < 0 ? errno : 0;
    }
    if (!strcmp(what, "rights")) {
        static int pair[2] = {-1, -1};
        if (pair[0] < 0 && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) < 0) return errno;
        // A pair that goes with itself, and whose descriptors are closed: Linux finds it.
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, two) < 0) return errno;
        char control[CMSG_SPACE(sizeof two)] = {0};
        struct iovec byte = {block, 1};
        struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof two);
        memcpy(CMSG_DATA(head), two, sizeof two);
        int failed = sendmsg(two[0], &message, 0) < 0 ? errno : 0;
        close(two[0]), close(two[1]);
        return failed;
    }
    if (!strcmp(what, "tables")) {
        // Reading brings no memory of its own, but a page table for each 2 MiB: 2 GiB of them for 1 TiB.
        static volatile char *far;
        if (!far) {
            far = mmap(NULL, 1ul << 40, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (far == MAP_FAILED) return errno;
            madvise((void *)far, 1ul << 40, MADV_NOHUGEPAGE);
        }
        for (long i = 0; i < 1024; i++) (void)far[((n % 512) * 1024 + i) << 21];
        return 0;
    }
    printf("no such thing: %s\n", what);
    exit(2);
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    long most = count > 2 ? atol(arguments[2]) : MOST;
    signal(SIGPIPE, SIG_IGN);
    long n = 0;
    int failed = 0;
    while (n < most && !(failed = more(what, n))) n++;
    // Something ordinary works all the same.
    void *memory = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("%s: %ld, then %s\n", what, n, failed ? strerrorname_np(failed) : "nothing more was asked for");
    fflush(stdout);
    if (memory == MAP_FAILED && strcmp(what, "areas")) return 3;
    if (!strcmp(what, "content")) {
        // Room comes back.
        if (unlink("/tmp/content") < 0 && n > 0) return 4;
    }
    for (int fd = 3; fd < 3 + n && fd < 1 << 20; fd++) close(fd);
    for (int fd = 3; fd < 200; fd++) close(fd);
    int again = eventfd(0, 0);
    if (again < 0 && strcmp(what, "files") && strcmp(what, "folders") && strcmp(what, "thread")) {
        printf("nothing can be made afterwards: %s\n", strerrorname_np(errno));
        return 5;
    }
    puts("SUCCESS");
    return 0;
}
