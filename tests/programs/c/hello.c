// Prints its arguments; ends with their number.
#include <stdio.h>

int main(int count, char **arguments) {
    printf("hello");
    for (int i = 1; i < count; i++) printf(" %s", arguments[i]);
    printf("\n");
    return count - 1;
}
