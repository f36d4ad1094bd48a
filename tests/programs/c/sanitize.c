// What a sanitizer says of: nothing ("clean"), a write behind an allocation ("overflow"), a use of freed memory ("freed"),
// lost memory ("leak"), two threads that write without a lock ("race").
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *volatile kept;
static long shared;

static void *work(void *sum) {
    for (int round = 0; round < 200; round++) {
        size_t len = 100 + 37 * round;
        unsigned char *at = malloc(len);
        memset(at, round, len);
        at = realloc(at, 2 * len);
        for (size_t i = 0; i < len; i++) *(long *)sum += at[i];
        free(at);
    }
    return NULL;
}

static void *add(void *unused) {
    (void)unused;
    for (int n = 0; n < 1000; n++) shared++;
    return NULL;
}

__attribute__((noinline)) static void lose(void) {
    kept = malloc(123);
    kept = NULL;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "clean";
    if (!strcmp(what, "overflow")) {
        char *at = malloc(10);
        at[9 + count / 2] = 1;
        kept = at;
    } else if (!strcmp(what, "freed")) {
        char *at = malloc(10);
        free(at);
        kept = at;
        return ((volatile char *)kept)[3];
    } else if (!strcmp(what, "leak")) {
        lose();
    } else if (!strcmp(what, "race")) {
        pthread_t one, other;
        pthread_create(&one, NULL, add, NULL);
        pthread_create(&other, NULL, add, NULL);
        pthread_join(one, NULL);
        pthread_join(other, NULL);
    } else {
        pthread_t threads[4];
        long sums[4] = {0};
        for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, &sums[i]);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        printf("sums are alike: %d\n", sums[0] == sums[1] && sums[1] == sums[2] && sums[2] == sums[3]);
    }
    puts("SUCCESS");
    return 0;
}
