# An echo server on select.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

$| = 1;
my $listener = IO::Socket::INET->new(LocalPort => 8000, Listen => 16, ReuseAddr => 1) or die $!;
my $select = IO::Select->new($listener);
print "listening\n";
while (1) {
    for my $socket ($select->can_read) {
        if ($socket == $listener) {
            $select->add($listener->accept);
        } elsif (sysread($socket, my $data, 4096)) {
            syswrite($socket, $data);
        } else {
            $select->remove($socket);
            close $socket;
        }
    }
}
