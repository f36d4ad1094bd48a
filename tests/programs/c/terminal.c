// What a program finds of the terminal that it runs at: lines, keys, signals, settings. Somebody types what it asks for.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static volatile sig_atomic_t interrupts;

static void interrupted(int signal)
{
    (void)signal;
    interrupts++;
}

static void say(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

static void line(void)
{
    char text[100];
    ssize_t len = read(0, text, sizeof text - 1);
    text[len > 0 ? len : 0] = 0;
    printf("%zd: %s\n", len, text);
    fflush(stdout);
}

int main(void)
{
    struct winsize size;
    struct termios usual, raw;
    char keys[4], again[100];

    ioctl(1, TIOCGWINSZ, &size);
    printf("%d%d%d %dx%d\n", isatty(0), isatty(1), isatty(2), size.ws_col, size.ws_row);
    const char *name = ttyname(0);
    int same = name != NULL && readlink("/proc/self/fd/0", again, sizeof again) == (ssize_t)strlen(name)
        && memcmp(name, again, strlen(name)) == 0;
    printf("%s %d %d\n", same ? "named" : "nameless", tcgetpgrp(0) == getpgrp(), access("/dev/tty", R_OK | W_OK));
    say("type a line");
    line();
    tcgetattr(0, &usual);
    raw = usual;
    cfmakeraw(&raw);
    tcsetattr(0, TCSAFLUSH, &raw);
    printf("type keys\r\n");
    fflush(stdout);
    for (int i = 0; i < 4; i++)
        if (read(0, keys + i, 1) != 1)
            exit(1);
    tcsetattr(0, TCSADRAIN, &usual);
    printf("%02x %02x %02x %02x\n", keys[0], keys[1], keys[2], keys[3]);
    struct sigaction action = { .sa_handler = interrupted };
    sigaction(SIGINT, &action, NULL);
    say("interrupt twice");
    while (interrupts < 2)
        pause();
    say("end it");
    line();
    return 7;
}
