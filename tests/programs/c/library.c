/* A shared library for musl.c to load. */
#include <string.h>
int library_length(const char *text) { return (int)strlen(text); }
__thread int library_counter = 40;
int library_count(void) { return ++library_counter; }
