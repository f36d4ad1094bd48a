// Makes calls that are not implemented, and waits.
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void) {
    for (int n = 0; n < 3; n++) syscall(SYS_uselib, 0);
    syscall(1000);
    puts("READY");
    fflush(stdout);
    pause();
    return 0;
}
