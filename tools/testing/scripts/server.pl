#!/usr/bin/perl
# SPDX-License-Identifier: GPL-2.0
#
# server.pl FOLDER PORT-FILE LOG: a web server on the loopback that serves the
# files of FOLDER, and badly where the path begins with how:
#
#   /breaks/FILE    half of it, then the end of the connection
#   /slow/FILE      after a second
#   /trickle/FILE   a byte a second
#   /hangs/FILE     nothing
#   /moved/FILE     a redirection to FILE
#   /loop/FILE      a redirection to itself
#
# Each request is a line in LOG.

use strict;
use warnings;
use IO::Socket::INET;

my ($folder, $port_file, $log) = @ARGV;
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 8)
	or die "no socket: $!\n";
$SIG{CHLD} = 'IGNORE';
$SIG{PIPE} = 'DEFAULT';
open(my $p, '>', "$port_file.new") or die;
print $p $server->sockport, "\n";
close($p);
rename("$port_file.new", $port_file) or die;

while (1) {
	my $client = $server->accept or next;
	next if fork;
	close($server);
	my $request = <$client> // '';
	while (my $line = <$client>) {
		last if $line =~ /^\r?\n$/;
	}
	my ($path) = $request =~ m{^GET (/\S*)} or exit;
	open(my $l, '>>', $log) or die;
	syswrite($l, "$path\n");
	$client->autoflush(1);
	my ($how, $name) = $path =~ m{^/(?:(\w+)/)?([\w.-]+)$} or exit;
	$how //= '';
	if ($how eq 'moved' || $how eq 'loop') {
		my $to = $how eq 'loop' ? $path : "/$name";
		print $client "HTTP/1.1 302 Found\r\nLocation: $to\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
		exit;
	}
	if ($how eq 'hangs') {
		sleep(60);
		exit;
	}
	sleep(1) if $how eq 'slow';
	my $f;
	if (!open($f, '<', "$folder/$name")) {
		print $client "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
		exit;
	}
	local $/;
	my $all = <$f>;
	print $client "HTTP/1.1 200 OK\r\nContent-Length: ", length($all),
		"\r\nConnection: close\r\n\r\n";
	if ($how eq 'trickle') {
		for my $byte (split(//, $all)) {
			print $client $byte;
			sleep(1);
		}
	} elsif ($how eq 'breaks') {
		print $client substr($all, 0, length($all) / 2);
	} else {
		print $client $all;
	}
	exit;
}
