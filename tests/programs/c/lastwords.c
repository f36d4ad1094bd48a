// A server that ends as soon as it has written everything: what it wrote is the system's to deliver.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
    size_t length = count > 1 ? strtoul(words[1], NULL, 10) : 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(80) };
    if (bind(listener, (struct sockaddr *)&any, sizeof any) != 0 || listen(listener, 5) != 0)
        return 1;
    char byte;
    int stream;
    // A connection that says nothing only asks whether the server is there.
    while ((stream = accept(listener, NULL, NULL)) >= 0 && read(stream, &byte, 1) != 1)
        close(stream);
    char *text = malloc(length);
    memset(text, byte, length);
    for (size_t done = 0; done < length;) {
        ssize_t written = write(stream, text + done, length - done);
        if (written <= 0)
            return 2;
        done += written;
    }
    return 0;
}
