/* Exceptions by the thousand while ticks arrive: each must come back from its handler. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static volatile long traps, alarms;

static void on_trap(int number, siginfo_t *info, void *context) {
    ucontext_t *state = context;
    if (number == SIGILL)
        state->uc_mcontext.gregs[REG_RIP] += 2;
    traps++;
}

static void on_alarm(int number) { alarms++; }

int main(void) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &action, 0);
    sigaction(SIGTRAP, &action, 0);
    signal(SIGALRM, on_alarm);
    struct itimerval every = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &every, 0);
    time_t end = time(0) + 3;
    while (time(0) < end) {
        for (int i = 0; i < 200; i++) {
            __asm__ volatile("int3");
            __asm__ volatile("ud2");
        }
    }
    if (traps < 400 || traps % 400 || alarms < 10) {
        printf("%ld traps, %ld alarms\n", traps, alarms);
        return 1;
    }
    printf("SUCCESS\n");
    return 0;
}
