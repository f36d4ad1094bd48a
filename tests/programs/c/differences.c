/* What reviews found to differ from Linux: seals, inotify, ended connections, pseudo-terminals, files, epoll, signals, sockets. Says SUCCESS if all is as there. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int failures;

#define CHECK(what)                                                            \
    do {                                                                       \
        errno = 0;                                                             \
        if (!(what)) {                                                         \
            printf("line %d: %s: %s\n", __LINE__, #what, strerror(errno));     \
            failures++;                                                        \
        }                                                                      \
    } while (0)

#define FAILS(what, error) CHECK((long)(what) == -1 && errno == (error))

static void seals(void)
{
    int file = memfd_create("sealed", MFD_ALLOW_SEALING);
    CHECK(ftruncate(file, 4096) == 0);
    char *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(at != MAP_FAILED);
    FAILS(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    at[0] = 'x';
    munmap(at, 4096);
    CHECK(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE) == 0);
    FAILS(mmap(0, 4096, PROT_WRITE, MAP_SHARED, file, 0), EPERM);
    at = mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
    CHECK(at != MAP_FAILED && at[0] == 'x');
    FAILS(mprotect(at, 4096, PROT_READ | PROT_WRITE), EACCES);
    close(file);
}

static int watcher;

/* The masks that wait, one digit group each. */
static const char *told(void)
{
    static char text[512];
    char events[4096];
    ssize_t len = read(watcher, events, sizeof events);
    text[0] = 0;
    for (char *at = events; len > 0 && at < events + len;) {
        struct inotify_event *event = (void *)at;
        sprintf(text + strlen(text), "%x ", event->mask);
        at += sizeof *event + event->len;
    }
    return text;
}

static void watches(void)
{
    char byte;
    watcher = inotify_init1(IN_NONBLOCK);
    int file = open("/tmp/watched", O_CREAT | O_RDWR, 0600);
    CHECK(inotify_add_watch(watcher, "/tmp/watched", IN_ALL_EVENTS) == 1);
    CHECK(posix_fallocate(file, 0, 100) == 0);
    CHECK(strcmp(told(), "2 ") == 0);
    CHECK(pread(file, &byte, 1, 1000) == 0);
    CHECK(strcmp(told(), "") == 0);
    CHECK(unlink("/tmp/watched") == 0);
    CHECK(strcmp(told(), "4 ") == 0);
    CHECK(write(file, "x", 1) == 1);
    CHECK(strcmp(told(), "2 ") == 0);
    close(file);
    CHECK(strcmp(told(), "8 400 8000 ") == 0);
    mkdir("/tmp/from", 0700);
    CHECK(inotify_add_watch(watcher, "/tmp/from", IN_ALL_EVENTS) == 2);
    CHECK(rename("/tmp/from", "/tmp/to") == 0);
    CHECK(strcmp(told(), "800 ") == 0);
    rmdir("/tmp/to");
    close(watcher);
}

static volatile sig_atomic_t pipes;

static void on_pipe(int number)
{
    (void)number;
    pipes++;
}

static void connections(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (void *)&at, sizeof at) == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(getsockname(listener, (void *)&at, &len) == 0);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (void *)&at, sizeof at) == 0);
    int server = accept(listener, 0, 0);
    CHECK(send(client, "!", 1, MSG_OOB) == 1);
    close(client);
    signal(SIGPIPE, on_pipe);
    int tries = 0;
    while (write(server, "x", 1) == 1 && tries++ < 1000)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, 0);
    int error = errno;
    CHECK(error == EPIPE);
    CHECK(pipes == 1);
    close(server);
    close(listener);
}

static void terminals(void)
{
    struct {
        unsigned flags[4];
        unsigned char line, control[19];
        unsigned input, output;
    } settings;
    char text[100];
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(ioctl(slave, 0x802c542a, &settings) == 0);
    CHECK(settings.flags[0] == 0x500 && settings.output == 38400);
    settings.flags[2] = (settings.flags[2] & ~0x100fu) | 0x1000;
    settings.input = settings.output = 12345;
    CHECK(ioctl(slave, 0x402c542b, &settings) == 0);
    CHECK(ioctl(slave, 0x802c542a, &settings) == 0);
    CHECK(settings.input == 12345 && settings.output == 12345);
    CHECK(write(master, "typed\n", 6) == 6);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, 0);
    close(master);
    CHECK(read(slave, text, sizeof text) == 0);
    FAILS(ioctl(slave, TCGETS, &settings), EIO);
    close(slave);
}

static void files(void)
{
    char path[64];
    struct stat of;
    int file = open("/tmp", O_TMPFILE | O_EXCL | O_RDWR, 0600);
    CHECK(file >= 0);
    sprintf(path, "/proc/self/fd/%d", file);
    FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/named", AT_SYMLINK_FOLLOW), ENOENT);
    char *edge = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(edge + 4096, 4096);
    CHECK(pwrite(file, edge + 4090, 100, 0) == 6);
    CHECK(pread(file, edge + 4093, 100, 0) == 3);
    FAILS(pread(file, edge + 4096, 100, 0), EFAULT);
    int zero = open("/dev/zero", O_RDONLY);
    CHECK(sendfile(file, zero, 0, 5000) == 5000);
    if (geteuid() == 0) {
        CHECK(fchmod(file, 06755) == 0 && write(file, "x", 1) == 1);
        CHECK(fstat(file, &of) == 0 && (of.st_mode & 07777) == 06755);
    }
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    close(zero);
    close(file);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, 0);
}

static void instances(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct stat of;
    char byte[8];
    int inner = epoll_create1(0), outer = epoll_create1(0), ends[2];
    CHECK(fstat(inner, &of) == 0 && of.st_mode == 0600);
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    CHECK(epoll_ctl(inner, EPOLL_CTL_ADD, ends[0], &event) == 0);
    event.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK(write(ends[1], "x", 1) == 1);
        CHECK(epoll_wait(outer, &event, 1, 1000) == 1);
        CHECK(epoll_wait(inner, &event, 1, 0) == 1);
        CHECK(read(ends[0], byte, sizeof byte) == 1);
    }
    event.events = 0;
    CHECK(epoll_ctl(inner, EPOLL_CTL_MOD, ends[0], &event) == 0);
    close(ends[1]);
    CHECK(epoll_wait(inner, &event, 1, 1000) == 1 && event.events == EPOLLHUP);
    close(ends[0]);
    close(inner);
    close(outer);
}

static volatile long double computed;
static volatile int handled;

static void compute(int number)
{
    volatile long double a = 1.5L, b = 2.0L;
    (void)number;
    computed = a * b + 1;
    handled++;
}

static void handlers(void)
{
    sigset_t usr1, none;
    struct timespec now = {0};
    timer_t timers[2];
    siginfo_t info;
    unsigned control = 0x7f80, seen = 0;
    long pid = getpid(), tid = syscall(SYS_gettid), result = SYS_tgkill;
    signal(SIGUSR1, compute);
    /* All registers of the x87 in use, and another way of rounding. */
    __asm__ volatile("ldmxcsr %[control]\n"
                     "fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n"
                     "syscall\n"
                     "fninit\n"
                     "stmxcsr %[seen]\n"
                     : "+a"(result), [seen] "=m"(seen)
                     : "D"(pid), "S"(tid), "d"((long)SIGUSR1), [control] "m"(control)
                     : "rcx", "r11", "memory");
    CHECK(result == 0 && handled == 1 && computed == 4 && seen == 0x7f80);
    control = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(control));

    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, 0);
    raise(SIGUSR1);
    FAILS(ppoll(0, 0, &now, &none), EINTR);
    CHECK(handled == 2);
    raise(SIGUSR1);
    FAILS(pselect(0, 0, 0, 0, &now, &none), EINTR);
    CHECK(handled == 3);

    for (int i = 0; i < 2; i++) {
        struct sigevent event = {.sigev_signo = SIGUSR1, .sigev_value.sival_int = i};
        struct itimerspec soon = {.it_value.tv_nsec = 1000000};
        CHECK(timer_create(CLOCK_MONOTONIC, &event, &timers[i]) == 0);
        CHECK(timer_settime(timers[i], 0, &soon, 0) == 0);
        nap();
    }
    for (int i = 0; i < 2; i++)
        CHECK(sigtimedwait(&usr1, &info, &now) == SIGUSR1 && info.si_value.sival_int == i);
    FAILS(sigtimedwait(&usr1, &info, &now), EAGAIN);
    timer_delete(timers[0]);
    timer_delete(timers[1]);
    sigprocmask(SIG_UNBLOCK, &usr1, 0);
    signal(SIGUSR1, SIG_DFL);
}

static void local_sockets(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "\0kiln-differences"};
    char text[8];
    int pair[2], types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}, sockets[3];
    handled = 0;
    signal(SIGPIPE, compute);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    close(pair[1]);
    FAILS(write(pair[0], "x", 1), EPIPE);
    CHECK(handled == 0);
    close(pair[0]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(write(pair[0], "unread", 6) == 6);
    close(pair[1]);
    FAILS(write(pair[0], "x", 1), EPIPE);
    CHECK(handled == 1);
    FAILS(read(pair[0], text, sizeof text), ECONNRESET);
    CHECK(read(pair[0], text, sizeof text) == 0);
    close(pair[0]);
    signal(SIGPIPE, SIG_DFL);

    for (int i = 0; i < 3; i++) {
        sockets[i] = socket(AF_UNIX, types[i], 0);
        CHECK(bind(sockets[i], (void *)&name, sizeof name) == 0);
    }
    struct pollfd asked = {.fd = sockets[0], .events = POLLIN | POLLRDHUP};
    CHECK(listen(sockets[0], 1) == 0 && poll(&asked, 1, 0) == 0);
    CHECK(shutdown(sockets[0], SHUT_RDWR) == 0);
    CHECK(poll(&asked, 1, 0) == 1 && asked.revents == (POLLIN | POLLRDHUP | POLLHUP));
    for (int i = 0; i < 3; i++)
        close(sockets[i]);
}

static void *write_in_pieces(void *to)
{
    for (int i = 0; i < 4; i++) {
        nap();
        CHECK(write(*(int *)to, "abc", 3) == 3);
    }
    return 0;
}

static void internet_sockets(void)
{
    pthread_t writer;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger at_once = {1, 0};
    socklen_t size = sizeof at;
    char text[8];
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(bind(udp, (void *)&at, sizeof at) == 0);
    FAILS(shutdown(udp, SHUT_RD), ENOTCONN);
    CHECK(recv(udp, text, sizeof text, 0) == 0);
    close(udp);

    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(listener, (void *)&at, sizeof at) == 0 && listen(listener, 4) == 0);
    getsockname(listener, (void *)&at, &size);
    CHECK(connect(client, (void *)&at, sizeof at) == 0 && write(client, "hello", 5) == 5);
    nap();
    setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(client);
    nap();
    struct pollfd asked = {.fd = listener, .events = POLLIN};
    CHECK(poll(&asked, 1, 1000) == 1);
    int server = accept(listener, 0, 0);
    CHECK(recv(server, text, sizeof text, 0) == 5);
    FAILS(recv(server, text, sizeof text, 0), ECONNRESET);
    close(server);

    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (void *)&at, sizeof at) == 0);
    server = accept(listener, 0, 0);
    CHECK(pthread_create(&writer, 0, write_in_pieces, &server) == 0);
    CHECK(recv(client, text, 6, MSG_WAITALL | MSG_PEEK) == 6);
    CHECK(recv(client, 0, 8, MSG_WAITALL | MSG_TRUNC) == 8);
    CHECK(recv(client, text, 4, MSG_WAITALL) == 4 && memcmp(text, "cabc", 4) == 0);
    pthread_join(writer, 0);
    close(client);
    close(server);
    close(listener);
}

int main(void)
{
    seals();
    watches();
    connections();
    terminals();
    files();
    instances();
    handlers();
    local_sockets();
    internet_sockets();
    if (failures == 0)
        puts("SUCCESS");
    return failures != 0;
}
