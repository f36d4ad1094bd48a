/* Waits of no time to speak of while a second thread keeps ticks coming: a timer must not be left with such a wait as its period. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static volatile int done;

static void *sleeper(void *unused) {
    while (!done)
        usleep(700);
    return unused;
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, sleeper, 0);
    for (int i = 0; i < 30000; i++) {
        struct timespec nap = {0, 20000 + i % 997 * 61};
        nanosleep(&nap, 0);
    }
    done = 1;
    pthread_join(thread, 0);
    printf("SUCCESS\n");
    return 0;
}
