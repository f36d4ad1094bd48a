/* What a review found to differ from Linux: seals, inotify, ended connections, pseudo-terminals, files. Says SUCCESS if all is as there. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <asm/ioctls.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

int main(void)
{
    seals();
    watches();
    connections();
    terminals();
    files();
    if (failures == 0)
        puts("SUCCESS");
    return failures != 0;
}
