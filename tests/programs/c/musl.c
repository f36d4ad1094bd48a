/* What a C library of its own asks of the system below it: threads and their variables, a library loaded at run time (if argv[1] names
 * one), names of hosts, locales, time zones, processes' limits. Built with musl-gcc. */
#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define CHECK(what) do { if (!(what)) { printf("%d: %s: %s\n", __LINE__, #what, strerror(errno)); exit(1); } } while (0)
#define THREADS 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_there = PTHREAD_COND_INITIALIZER;
static int there, counted;
static __thread int own = 5;

static void *work(void *number)
{
    own += (int)(long)number;
    pthread_mutex_lock(&lock);
    if (++there == THREADS) pthread_cond_broadcast(&all_there);
    while (there < THREADS) pthread_cond_wait(&all_there, &lock);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        counted++;
        pthread_mutex_unlock(&lock);
        free(malloc(1 + i * 37 % 5000));
    }
    return (void *)(long)own;
}

static void *sleep_for_ever(void *none)
{
    (void)none;
    for (;;) pause();
}

static void threads(void)
{
    pthread_t all[THREADS], one;
    void *result;
    for (long i = 0; i < THREADS; i++) CHECK(!pthread_create(&all[i], NULL, work, (void *)i));
    for (long i = 0; i < THREADS; i++) {
        CHECK(!pthread_join(all[i], &result));
        CHECK((long)result == 5 + i);
    }
    CHECK(counted == THREADS * 1000 && own == 5);
    CHECK(!pthread_create(&one, NULL, sleep_for_ever, NULL));
    CHECK(!pthread_cancel(one));
    CHECK(!pthread_join(one, &result) && result == PTHREAD_CANCELED);
}

static void names(void)
{
    struct addrinfo *found, hints = { .ai_socktype = SOCK_STREAM };
    CHECK(!getaddrinfo("localhost", "http", &hints, &found));
    CHECK(found->ai_family == AF_INET || found->ai_family == AF_INET6);
    freeaddrinfo(found);
    CHECK(!getaddrinfo("::1", "80", &hints, &found) && found->ai_family == AF_INET6);
    freeaddrinfo(found);
    /* The resolver is asked and says that there is no such name, or that it cannot tell. */
    int error = getaddrinfo("no.such.name.invalid", NULL, &hints, &found);
    CHECK(error == EAI_NONAME || error == EAI_AGAIN);
    char name[100];
    CHECK(!gethostname(name, sizeof name) && name[0]);
}

static void languages(void)
{
    CHECK(setlocale(LC_ALL, "C.UTF-8"));
    wchar_t wide[10];
    CHECK(mbstowcs(wide, "h\xc3\xa4", 10) == 2 && wide[1] == 0xe4);
    setenv("TZ", "EST5EDT", 1);
    tzset();
    time_t summer = 1720000000;
    CHECK(localtime(&summer)->tm_hour == 5);
    struct timespec now;
    CHECK(!clock_gettime(CLOCK_REALTIME, &now) && now.tv_sec > 1600000000);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        void *library = dlopen(argv[1], RTLD_NOW);
        if (!library) { printf("%s\n", dlerror()); return 1; }
        int (*length)(const char *) = dlsym(library, "library_length");
        int (*count)(void) = dlsym(library, "library_count");
        CHECK(length && length("seven..") == 7);
        CHECK(count() == 41 && count() == 42);
        CHECK(!dlsym(library, "no_such_symbol") && dlerror());
    }
    threads();
    names();
    languages();
    printf("SUCCESS\n");
    return 0;
}
