// SPDX-License-Identifier: GPL-2.0-only
/*
 * Live migration of a guest that uses an mscratch device, by QEMU
 *
 * QEMU's vfio-pci device speaks version 1 of the migration region from 5.2 to
 * 7.2.  The guest is a ROM of our own, vfio_migration_region_guest.c: it checks
 * all that it and the device have written, in rounds, and prints the number
 * of each.  All QEMUs write to one pipe, on which the rounds must follow one
 * another as if there had been no migration.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "vfio_migration_region_evidence.h"
#include "vfio_migration_region_guest.h"

#define QEMU		"/usr/bin/qemu-system-x86_64"
#define MDEVCTL		"/usr/bin/mdevctl"

#define PARENT		"/sys/class/mdev_bus/mscratch"
#define DEVICES		"/sys/bus/mdev/devices"
#define PARAMETERS	"/sys/module/mscratch/parameters"
#define DEBUGFS		"/sys/kernel/debug/vfio_migration_region"

#define ROM		"/tmp/vfio_migration_region_guest.bin"
#define SOCKET		"unix:/tmp/vfio_migration_region.%s.sock"
#define STATE_FILE	"/tmp/vfio_migration_region.state"
#define RAM_FILE	"/dev/shm/vfio_migration_region.ram"
#define LOG_FILE	"/tmp/vfio_migration_region.%s.log"
#define MEMORY_FILE	"/tmp/vfio_migration_region.memory"
#define GDB_SOCKET	"/tmp/vfio_migration_region.gdb.sock"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#endif

/* Seconds for a condition to come true, for a debug kernel in an emulator */
#define LIMIT		60

/* After so many rounds the guest has checked all that it keeps. */
#define ROUNDS		(GUEST_SLOTS + 4)

#define MIGRATIONS	20

/* What a device is made with unless a case wants something else */
#define PLAIN		"migration=1 window=1048576 mmap=1"

/* The guest, see the header */
asm(".pushsection .rodata\n"
	".globl guest_rom, guest_rom_end\n"
	"guest_rom: .incbin \"" GUEST_ROM "\"\n"
	"guest_rom_end:\n"
	".popsection");

/* What the guest has said, on whichever QEMU it was */
static struct {
	int pipe[2];
	bool iommu;		/* its machine has one */
	unsigned int round;	/* the last one, 0 before the first */
	char lost[256];		/* what the guest missed, or a gap in the rounds */
	bool astray;		/* that was in its lines */
	char line[256];
	size_t len;
} guest = { .pipe = { -1, -1 } };

/* What there was of it in all */
static unsigned int migrations, rounds_seen;

/* A QEMU with its device */
struct vm {
	const char *name;
	const char *uuid;
	pid_t pid;		/* 0 while there is none */
	int status;		/* how the last one ended, from waitpid() */
	int qmp;
	bool shared;		/* its memory is RAM_FILE, for this program to see */
	bool ready;		/* it takes commands */
	bool running;		/* the guest is */
	bool replied;
	char migration[32];	/* the last status, "" before the first */
	char reply[4096];
	char line[16384];
	size_t len;
};

static struct vm vms[] = {
	{ .name = "qemu-0", .uuid = "5c47a000-0000-4000-8000-000000000000", .qmp = -1 },
	{ .name = "qemu-1", .uuid = "5c47a000-0000-4000-8000-000000000001", .qmp = -1 },
	{ .name = "qemu-2", .uuid = "5c47a000-0000-4000-8000-000000000002", .qmp = -1 },
};

/* Where the guest is, and where it may go; a migration swaps the two. */
static struct vm *from = &vms[0], *to = &vms[1], *spare = &vms[2];

/* What QEMU says of several migrations, in milliseconds */
struct downtime {
	unsigned int count;
	long least;
	long most;
	long total;		/* of whole migrations, all together */
};

/*
 * What has to come true.  If it does not, the case has failed and ends here.
 */
static jmp_buf failed;

static void expect_true(bool condition, const char *text, int line)
{
	if (condition)
		return;
	printf("# line %d: expected %s\n", line, text);
	longjmp(failed, 1);
}

static void expect_equal(long long expected, long long seen, const char *text,
			 int line)
{
	if (expected == seen)
		return;
	printf("# line %d: expected %s to be %lld, saw %lld\n", line, text,
	       expected, seen);
	longjmp(failed, 1);
}

#define expect(condition) \
	expect_true(condition, #condition, __LINE__)
#define expect_number(number, expression) \
	expect_equal(number, expression, #expression, __LINE__)

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* The first thing that it missed is what counts. */
static void guest_lost(const char *fmt, ...)
{
	va_list ap;

	if (guest.lost[0])
		return;
	va_start(ap, fmt);
	vsnprintf(guest.lost, sizeof(guest.lost), fmt, ap);
	va_end(ap);
}

static void guest_line(void *unused, const char *line)
{
	unsigned int round;

	/* What comes after a line that does not follow is not looked at. */
	if (guest.astray)
		return;
	guest.astray = true;
	if (strlen(line) != 4 || sscanf(line, "%4x", &round) != 1) {
		guest_lost("%.200s", line);
	} else if (round != ((guest.round + 1) & 0xffff)) {
		guest_lost("round %#x came after round %#x", round, guest.round);
	} else {
		guest.astray = false;
		guest.round++;
		rounds_seen++;
	}
}

/* What STOP_ASK is answered with if QEMU has not stopped because it was to */
static const char * const crashes[] = {
	"internal-error", "io-error", "guest-panicked", "watchdog"
};

#define STOP_ID		"why"
#define STOP_ASK	"{'execute':'query-status','id':'" STOP_ID "'}"

static void vm_stopped(struct vm *vm, const char *status)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(crashes); i++)
		if (!strncmp(status, crashes[i], strlen(crashes[i])))
			guest_lost("%s of %s", crashes[i], vm->name);
}

/* Messages of QMP are JSON objects, one a line: enough is known by words. */
static void vm_line(void *arg, const char *line)
{
	const char *status = strstr(line, "\"status\": \"");
	struct vm *vm = arg;

	if (status && strstr(line, "\"id\": \"" STOP_ID "\"")) {
		vm_stopped(vm, status + 11);
	} else if (!strncmp(line, "{\"return\"", 9) || !strncmp(line, "{\"error\"", 8)) {
		snprintf(vm->reply, sizeof(vm->reply), "%.4000s", line);
		vm->replied = true;
	} else if (strstr(line, "\"event\": \"STOP\"")) {
		vm->running = false;
		/* The event does not tell.  If QEMU is gone, that is seen. */
		send(vm->qmp, STOP_ASK, strlen(STOP_ASK), MSG_NOSIGNAL);
	} else if (strstr(line, "\"reason\": \"guest-reset\"")) {
		/* A triple fault: the guest does not want to */
		printf("# %s: %s\n", vm->name, line);
		guest_lost("a reset of %s", vm->name);
	} else if (strstr(line, "\"event\": \"RESUME\"")) {
		vm->running = true;
	} else if (strstr(line, "\"event\": \"MIGRATION\"") && status) {
		snprintf(vm->migration, sizeof(vm->migration), "%.*s",
			 (int)strcspn(status + 11, "\""), status + 11);
	}
}

/* Read what there is, and hand on whole lines.  False at the end of file. */
static bool lines_read(int fd, char *line, size_t size, size_t *len,
		       void (*take)(void *arg, const char *line), void *arg)
{
	char buf[4096];
	ssize_t n, i;

	n = read(fd, buf, sizeof(buf));
	for (i = 0; i < n; i++) {
		if (buf[i] == '\n') {
			line[*len] = '\0';
			*len = 0;
			take(arg, line);
		} else if (*len < size - 1) {
			line[(*len)++] = buf[i];
		}
	}

	return n > 0;
}

static void vm_reap(struct vm *vm)
{
	waitpid(vm->pid, &vm->status, 0);
	vm->pid = 0;
	close(vm->qmp);
	vm->qmp = -1;
	vm->ready = false;
	vm->running = false;
}

/* Take in whatever comes next.  False if nothing did until @end. */
static bool pump(long long end)
{
	struct pollfd fds[1 + ARRAY_SIZE(vms)] = {
		{ .fd = guest.pipe[0], .events = POLLIN },
	};
	long long left = end - now_ms();
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vms); i++) {
		fds[1 + i].fd = vms[i].qmp;
		fds[1 + i].events = POLLIN;
	}
	if (left <= 0 || poll(fds, ARRAY_SIZE(fds), left) <= 0)
		return false;
	if (fds[0].revents)
		lines_read(guest.pipe[0], guest.line, sizeof(guest.line),
			   &guest.len, guest_line, NULL);
	for (i = 0; i < ARRAY_SIZE(vms); i++)
		if (fds[1 + i].revents &&
		    !lines_read(vms[i].qmp, vms[i].line, sizeof(vms[i].line),
				&vms[i].len, vm_line, &vms[i]))
			vm_reap(&vms[i]);

	return true;
}

/* Is @condition met, now or before too long, or may @hopeless become true? */
static bool late;

#define wait_unless(hopeless, condition) ({				\
	long long end_ = now_ms() + LIMIT * 1000LL;			\
	bool met_, more_ = true;					\
									\
	while (!(met_ = (condition)) && !(hopeless) && (more_ = pump(end_))) \
		;							\
	late |= !more_;							\
	met_;								\
})

/* A guest that has lost something does nothing more that is worth waiting for. */
#define wait_for(condition)	wait_unless(guest.lost[0], condition)

/* Give a command to QEMU; its reply is in vm->reply.  False if it refuses. */
static bool command(struct vm *vm, const char *name, const char *arguments, ...)
{
	char text[512];
	va_list ap;
	int n;

	/* In QMP, strings may be in single quotes */
	n = snprintf(text, sizeof(text), "{'execute':'%s','arguments':{", name);
	va_start(ap, arguments);
	n += vsnprintf(text + n, sizeof(text) - n - 2, arguments, ap);
	va_end(ap);
	n += sprintf(text + n, "}}");

	vm->replied = false;
	snprintf(vm->reply, sizeof(vm->reply), "no reply");
	if (vm->pid && send(vm->qmp, text, n, MSG_NOSIGNAL) == n &&
	    wait_unless(!vm->pid, vm->replied) &&
	    !strncmp(vm->reply, "{\"return\"", 9))
		return true;
	printf("# %s: %s: %s\n", vm->name, text, vm->reply);

	return false;
}

static void migration_flag(struct vm *vm, const char *name, bool on)
{
	expect(command(vm, "migrate-set-capabilities",
		       "'capabilities':[{'capability':'%s','state':%s}]",
		       name, on ? "true" : "false"));
}

/* A number in the last reply, -1 if it is not there */
static long reply_number(const struct vm *vm, const char *name)
{
	const char *at;
	char key[64];

	snprintf(key, sizeof(key), "\"%s\": ", name);
	at = strstr(vm->reply, key);

	return at ? atol(at + strlen(key)) : -1;
}

/* Start QEMU with its device; with @incoming it will wait for a migration. */
static void vm_spawn(struct vm *vm, const char *incoming)
{
	char serial[64], monitor[64], device[256], memory[128], log[64];
	const char * const rest[] = {
		"-device", device, incoming ? "-incoming" : NULL, incoming, NULL
	};
	const char *argv[32] = {
		QEMU, "-M", guest.iommu ? "q35,memory-backend=ram" :
					  "pc,memory-backend=ram",
		"-accel", "kvm", "-m", "16", "-object", memory, "-nodefaults",
		"-no-reboot", "-no-shutdown",
		"-display", "none", "-bios", ROM, "-serial", serial,
		"-chardev", monitor, "-mon", "chardev=qmp,mode=control",
	};
	int ends[2], fd, n = 0;
	pid_t pid;

	expect(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	snprintf(serial, sizeof(serial), "file:/proc/self/fd/%d",
		 guest.pipe[1]);
	snprintf(monitor, sizeof(monitor), "socket,id=qmp,fd=%d", ends[1]);
	snprintf(device, sizeof(device),
		 "vfio-pci,sysfsdev=" DEVICES "/%s,x-enable-migration=on",
		 vm->uuid);
	snprintf(memory, sizeof(memory), "memory-backend-%s,id=ram,size=16M",
		 vm->shared ? "file,share=on,mem-path=" RAM_FILE : "ram");
	snprintf(log, sizeof(log), LOG_FILE, vm->name);
	while (argv[n])
		n++;
	/* Before the devices that are to be behind it */
	if (guest.iommu) {
		argv[n++] = "-device";
		argv[n++] = "intel-iommu,caching-mode=on";
	}
	memcpy(argv + n, rest, sizeof(rest));

	pid = fork();
	expect(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fcntl(ends[1], F_SETFD, 0);
		fcntl(guest.pipe[1], F_SETFD, 0);
		fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		execv(argv[0], (char **)argv);
		_exit(127);
	}
	close(ends[1]);
	vm->pid = pid;
	vm->qmp = ends[0];
	vm->len = 0;
	vm->running = !incoming;
	vm->migration[0] = '\0';
}

/* Wait until it takes commands. */
static void vm_ready(struct vm *vm)
{
	expect(command(vm, "qmp_capabilities", ""));
	vm->ready = true;
	migration_flag(vm, "events", true);
}

static void vm_start(struct vm *vm, const char *incoming)
{
	vm_spawn(vm, incoming);
	vm_ready(vm);
}

static void vm_kill(struct vm *vm)
{
	if (!vm->pid)
		return;
	kill(vm->pid, SIGKILL);
	vm_reap(vm);
}

/* End QEMU in the orderly way. */
static void vm_quit(struct vm *vm)
{
	expect(command(vm, "quit", ""));
	expect(wait_for(!vm->pid));
	expect_number(0, vm->status);
}

static void file_write(const char *text, const char *fmt, ...)
{
	char path[256];
	va_list ap;
	ssize_t n;
	int fd;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : write(fd, text, strlen(text));
	if (n < 0)
		printf("# %s: %s\n", path, strerror(errno));
	expect(n == (ssize_t)strlen(text));
	close(fd);
}

/* What the kernel knows of the migration of a device */
static long long fact(const struct vm *vm, const char *name)
{
	char path[256], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), DEBUGFS "/%s/%s", vm->uuid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		printf("# %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);

	return atoll(text);
}

/* Let a step of the migration fail, or no more. */
static void fault(const struct vm *vm, const char *name, const char *value)
{
	file_write(value, DEBUGFS "/%s/%s", vm->uuid, name);
}

static bool device_exists(const char *uuid)
{
	char path[128];

	snprintf(path, sizeof(path), DEVICES "/%s", uuid);

	return !access(path, F_OK);
}

static void device_remove(const char *uuid)
{
	if (device_exists(uuid))
		file_write("1", DEVICES "/%s/remove", uuid);
}

/* Make the device of @vm anew; @parameters are the module's, "name=number". */
static void device_make(struct vm *vm, const char *type, const char *parameters)
{
	char name[32], value[32];
	int n;

	while (sscanf(parameters, " %31[a-z]=%31[0-9]%n", name, value, &n) == 2) {
		file_write(value, PARAMETERS "/%s", name);
		parameters += n;
	}
	device_remove(vm->uuid);
	file_write(vm->uuid, PARENT "/mdev_supported_types/%s/create", type);
}

/* What QEMU says to a person, which it is only asked for to be printed */
static bool hmp(struct vm *vm, const char *line)
{
	return command(vm, "human-monitor-command", "'command-line':'%s'", line);
}

static void reply_print(struct vm *vm)
{
	char *line, *end;

	for (line = vm->reply; line; line = end) {
		end = strstr(line, "\\r\\n");
		if (end) {
			*end = '\0';
			end += 4;
		}
		printf("# %s: %s\n", vm->name, line);
	}
}

/* @size bytes of the guest's memory from @at on */
static bool memory_read(struct vm *vm, unsigned int at, void *buf, ssize_t size)
{
	bool done = false;
	int fd;

	if (!command(vm, "pmemsave", "'val':%u,'size':%zd,'filename':'%s'", at,
		     size, MEMORY_FILE))
		return false;
	fd = open(MEMORY_FILE, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		done = read(fd, buf, size) == size;
		close(fd);
	}
	unlink(MEMORY_FILE);

	return done;
}

/*
 * The guest stands still at @vm: NULL if what is left of it there says that
 * the processor did something wrong, or else the first thing that speaks
 * against that.
 */
static const char *evidence_ask(struct vm *vm)
{
	static unsigned char rom[GUEST_ROM_SIZE], ram[EVIDENCE_RAM_SIZE];
	struct evidence e = { .round = guest.round, .rom = rom, .ram = ram };
	const char *what;
	bool known;

	if (!hmp(vm, "info registers"))
		return "its registers cannot be read";
	known = evidence_registers(&e, vm->reply);
	reply_print(vm);
	if (!known)
		return "its registers are not all known";
	if (!memory_read(vm, GUEST_ROM_START, rom, sizeof(rom)) ||
	    !memory_read(vm, 0, ram, sizeof(ram)))
		return "its memory cannot be read";
	what = evidence_is_ours(&e);
	if (what)
		printf("# %s: not the processor's fault: %s\n", vm->name, what);
	else
		printf("# %s: the processor's fault: %s\n", vm->name,
		       evidence_against_processor(&e));

	return what;
}

/*
 * Whose fault is it that the guest lost something, or says no more?  It may
 * have gone wrong in any QEMU that it was in.
 */
static bool processors_fault(void)
{
	bool is = false;
	struct vm *vm;

	for (vm = vms; vm < vms + ARRAY_SIZE(vms); vm++) {
		if (vm->ready && hmp(vm, "info status"))
			reply_print(vm);
		if (vm->ready && vm->running)
			command(vm, "stop", "");
	}
	/* What it has said until then */
	while (pump(now_ms() + 1))
		;
	for (vm = vms; vm < vms + ARRAY_SIZE(vms); vm++) {
		/* There is no guest where commands are not taken yet. */
		if (!vm->ready)
			continue;
		is |= !evidence_ask(vm);
		if (vm->ready && hmp(vm, "info lapic"))
			reply_print(vm);
	}

	return is;
}

/* Let the guest go on for @n rounds, in which nothing is lost. */
static void rounds(unsigned int n)
{
	unsigned int end = guest.round + n;

	if (!wait_unless(guest.lost[0] || !from->running, guest.round >= end))
		guest_lost("nothing more");
	expect(!guest.lost[0]);
}

/* Wait until the migration has @status, or cannot get there any more. */
static void migration_wait(struct vm *vm, const char *status)
{
	wait_for(!strcmp(vm->migration, status) || !vm->pid ||
		 !strcmp(vm->migration, "completed") ||
		 !strcmp(vm->migration, "failed"));
	if (strcmp(vm->migration, status))
		printf("# %s: expected status %s, saw %s\n", vm->name, status,
		       vm->pid ? vm->migration : "that it is gone");
	expect(!strcmp(vm->migration, status));
}

static void migration_start(const char *uri)
{
	struct vm *vm = from;

	vm->migration[0] = '\0';
	expect(command(vm, "migrate", "'uri':'%s'", uri));
}

/* With @pause, the migration waits before the rest, with the guest stopped. */
static void migration_pause(struct vm *vm, bool pause)
{
	migration_flag(vm, "pause-before-switchover", pause);
}

static void migration_continue(struct vm *vm)
{
	expect(command(vm, "migrate-continue", "'state':'pre-switchover'"));
}

/* The source with a new guest, which is seen to work. */
static void guest_begin(bool iommu)
{
	/* What the last one may have left in the pipe is not this one's. */
	close(guest.pipe[0]);
	close(guest.pipe[1]);
	memset(&guest, 0, sizeof(guest));
	guest.iommu = iommu;
	expect(!pipe2(guest.pipe, O_CLOEXEC));
	vm_start(from, NULL);

	rounds(ROUNDS);
}

static void guest_start(void)
{
	guest_begin(false);
}

/* The guest is at the source, and goes on there. */
static void guest_goes_on(void)
{
	expect(wait_for(from->running || !from->pid) && from->running);
	rounds(ROUNDS);
	expect_number(1, fact(from, "state"));
}

/* A destination for the guest, which need not be ready yet */
static void destination_spawn(struct vm *vm)
{
	char uri[64];

	snprintf(uri, sizeof(uri), SOCKET, vm->name);
	vm_spawn(vm, uri);
}

/*
 * Wait until it is.  Meanwhile the guest rests: where one processor does the
 * work of several, that halves the time.
 */
static void destination_ready(void)
{
	bool running = from->running;

	if (running)
		expect(command(from, "stop", ""));
	vm_ready(to);
	if (running)
		expect(command(from, "cont", ""));
}

static void destination_start(void)
{
	destination_spawn(to);
	destination_ready();
}

static void migration_to_destination(void)
{
	char uri[64];

	snprintf(uri, sizeof(uri), SOCKET, to->name);
	migration_start(uri);
}

/*
 * Migrate the guest to the destination, and see it go on there: that is the
 * source from then on.
 */
static void migrate(void)
{
	long long saved = fact(from, "bytes_saved");
	long long loaded = fact(to, "bytes_loaded");
	struct vm *old = from;

	migration_to_destination();
	migration_wait(from, "completed");
	from = to;
	to = old;
	guest_goes_on();
	migrations++;
	expect_number(fact(to, "bytes_saved") - saved,
		      fact(from, "bytes_loaded") - loaded);
}

/* How long the guest stood still in the last migration */
static void downtime_add(struct downtime *d)
{
	long ms;

	expect(command(to, "query-migrate", ""));
	ms = reply_number(to, "downtime");
	expect(ms >= 0);
	if (!d->count || ms < d->least)
		d->least = ms;
	if (!d->count || ms > d->most)
		d->most = ms;
	d->total += reply_number(to, "total-time");
	d->count++;
}

static void downtime_report(const char *what, const struct downtime *d)
{
	printf("# report %s: QEMU's downtime %ld to %ld ms, %ld ms in all, in %u migrations\n",
	       what, d->least, d->most, d->total / d->count, d->count);
}

/*
 * A migration in which the destination does not take what it gets: QEMU ends
 * there, and the guest goes on at the source.  With a return path the source
 * waits until the destination has taken all, or has not.
 */
static void migrate_refused(void)
{
	destination_start();
	migration_flag(from, "return-path", true);
	migration_to_destination();
	migration_wait(from, "failed");
	expect(wait_for(!to->pid));
	expect(WIFEXITED(to->status));
	expect_number(1, WEXITSTATUS(to->status));
	migration_flag(from, "return-path", false);

	guest_goes_on();
}

/* The destinations of ping_pong: some have other data sections, see below. */
static void destination_make(struct vm *vm, unsigned int i)
{
	static const char * const parameters[] = {
		"mmap=1 window=65536",
		"mmap=0 window=1048576",
		"mmap=0 window=5000",
	};

	device_make(vm, "mscratch-1m",
		    i < ARRAY_SIZE(parameters) ? parameters[i] : PLAIN);
	destination_spawn(vm);
}

/*
 * First from and to data sections by mmap or by read and write, with pieces
 * that fit the other side or not.  Each destination starts while the guest
 * migrates to the one before it.
 */
static void ping_pong(void)
{
	struct downtime mapped = {}, trapped = {};
	struct vm *next;
	unsigned int i;

	destination_make(to, 0);
	for (i = 0; i < MIGRATIONS; i++) {
		destination_ready();
		if (i + 1 < MIGRATIONS)
			destination_make(spare, i + 1);
		migrate();
		expect(fact(to, "bytes_saved") > 1 << 20);
		if (i == 2)
			downtime_add(&trapped);
		else if (i > 3)
			downtime_add(&mapped);
		vm_quit(to);
		next = spare;
		spare = to;
		to = next;
	}
	downtime_report("1 MiB of state by mmap", &mapped);
	downtime_report("1 MiB of state by read and write", &trapped);
}

static void to_a_file_and_back(void)
{
	migration_start("exec:cat >" STATE_FILE);
	migration_wait(from, "completed");
	vm_quit(from);

	vm_start(from, "exec:cat <" STATE_FILE);

	guest_goes_on();
}

static void paused_guest_stays_paused(void)
{
	struct vm *old = from;

	device_make(to, "mscratch-1m", PLAIN);
	expect(command(from, "stop", ""));
	expect(wait_for(!from->running));
	expect_number(0, fact(from, "state"));

	destination_start();
	migration_to_destination();
	migration_wait(from, "completed");
	migration_wait(to, "completed");
	expect(!to->running);
	expect(fact(to, "state") != 1);
	from = to;
	to = old;
	expect(command(from, "cont", ""));
	guest_goes_on();

	vm_quit(to);
}

static void cancelled_in_pre_copy(void)
{
	expect(command(from, "migrate-set-parameters", "'max-bandwidth':16384"));
	migration_start("exec:cat >/dev/null");
	migration_wait(from, "active");
	expect_number(3, fact(from, "state"));
	expect(command(from, "migrate_cancel", ""));
	migration_wait(from, "cancelled");
	expect(command(from, "migrate-set-parameters",
		       "'max-bandwidth':134217728"));

	guest_goes_on();
}

static void cancelled_in_stop_and_copy(void)
{
	migration_pause(from, true);
	migration_start("exec:cat >/dev/null");
	migration_wait(from, "pre-switchover");
	expect_number(2, fact(from, "state"));
	expect(command(from, "migrate_cancel", ""));
	migration_wait(from, "cancelled");
	migration_pause(from, false);

	guest_goes_on();
}

/* A step that fails at the source */
static void source_fails(const char *name, const char *value)
{
	fault(from, name, value);
	migration_start("exec:cat >/dev/null");
	migration_wait(from, "failed");
	guest_goes_on();

	fault(from, name, "0");
}

static void error_of_pre_copy(void)
{
	source_fails("fail_state", "0x8");
}

static void error_of_stop_and_copy(void)
{
	source_fails("fail_state", "0x4");
}

static void error_of_saving(void)
{
	source_fails("fail_save", "1");
}

/* A step that fails at the destination */
static void destination_fails(const char *name, const char *value)
{
	fault(to, name, value);
	migrate_refused();

	fault(to, name, "0");
}

static void error_of_resuming(void)
{
	destination_fails("fail_state", "0x10");
}

static void error_of_loading(void)
{
	destination_fails("fail_load", "1");
}

static void destination_is_killed(void)
{
	destination_start();
	migration_pause(from, true);
	migration_to_destination();
	migration_wait(from, "pre-switchover");
	vm_kill(to);
	migration_continue(from);
	migration_wait(from, "failed");
	migration_pause(from, false);
	guest_goes_on();
}

static void source_is_killed(void)
{
	destination_start();
	migration_pause(from, true);
	migration_to_destination();
	migration_wait(from, "pre-switchover");
	vm_kill(from);
	expect(wait_for(!to->pid));
	expect(WIFEXITED(to->status));
	expect_number(1, WEXITSTATUS(to->status));
}

/*
 * Can the guest see that a page was left behind?  This program changes one in
 * the place of a device, which neither KVM nor VFIO sees, after it was sent.
 */
static void hidden_page_is_seen(void)
{
	typeof(guest) at_source;
	const char *what;
	unsigned int *page;
	int fd;

	vm_kill(from);
	unlink(RAM_FILE);
	from->shared = true;
	guest_start();
	from->shared = false;
	expect(command(from, "stop", ""));
	expect(wait_for(!from->running));
	fd = open(RAM_FILE, O_RDWR | O_CLOEXEC);
	expect(fd >= 0);
	/* Not one that is checked or written just now */
	page = mmap(NULL, GUEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    GUEST_SLOT(FROM_PIN, guest.round + GUEST_SLOTS / 2));
	expect(page != MAP_FAILED);
	close(fd);
	unlink(RAM_FILE);

	*page = ~*page;
	destination_start();
	expect(command(from, "migrate-set-parameters", "'downtime-limit':1"));
	migration_pause(from, true);
	migration_to_destination();
	migration_wait(from, "pre-switchover");
	*page = ~*page;
	munmap(page, GUEST_PAGE);
	migration_continue(from);
	migration_wait(from, "completed");
	migration_wait(to, "completed");

	at_source = guest;
	expect(command(to, "cont", ""));
	expect(wait_for(guest.lost[0]));
	printf("# the guest says: %s\n", guest.lost);
	expect(strstr(guest.lost, "memory, DMA by vfio_pin_pages"));
	what = evidence_ask(to);
	expect(what && !strcmp(what, "a slot for DMA by vfio_pin_pages"));

	/* At the source it is as it should be */
	vm_kill(to);
	guest = at_source;
	what = evidence_ask(from);
	expect(what && !strcmp(what, "the registers are possible ones"));
	expect(command(from, "cont", ""));

	guest_goes_on();
}

static void device_without_the_region(void)
{
	vm_kill(from);
	device_make(from, "mscratch-1m", "migration=0");
	guest_start();
	expect(!command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	expect(strstr(from->reply, "doesn't support migration"));
	rounds(ROUNDS);
	vm_kill(from);
}

/* One migration between two new devices */
static void migrate_once(const char *type, const char *parameters,
			 struct downtime *d)
{
	vm_kill(from);
	vm_kill(to);
	device_make(from, type, parameters);
	device_make(to, type, parameters);
	guest_start();
	destination_start();
	migrate();
	downtime_add(d);
}

static void state_of_64_mib(void)
{
	struct downtime d = {};

	migrate_once("mscratch-64m", PLAIN, &d);
	expect(fact(to, "bytes_saved") > 64 << 20);
	/* It is sent once, and what the guest changes meanwhile */
	expect(fact(to, "bytes_saved") < 96 << 20);
	downtime_report("64 MiB of state by mmap", &d);
	vm_kill(from);
	vm_kill(to);
}

/*
 * A guest with an IOMMU.  QEMU follows what the guest maps and unmaps, and asks
 * VFIO for the dirty pages at each address that is mapped.
 */

static void guest_data_read(struct guest_data *data)
{
	expect(memory_read(from, GUEST_DATA, data, sizeof(*data)));
}

/* Tell the guest what it is to do, and wait until it is in a round of that kind. */
static void guest_mode(unsigned int mode)
{
	unsigned int first = guest.round;
	struct guest_data data;
	char line[32];

	snprintf(line, sizeof(line), "o/b %#x %u", GUEST_MODE_PORT, mode);
	expect(hmp(from, line));
	do {
		rounds(1);
		guest_data_read(&data);
		expect(guest.round - first < 1000);
	} while (data.mode != mode);
}

/* In @n rounds it has moved pages if @moving, and was refused what is not mapped. */
static void guest_is_translated(unsigned int n, bool moving)
{
	struct guest_data before, after;

	guest_data_read(&before);
	rounds(n);
	guest_data_read(&after);
	expect(after.iommu);
	expect(after.refused - before.refused >= 3 * (n - 1));
	if (moving)
		expect(after.moves - before.moves >= n - 1);
	else
		expect_number(before.moves, after.moves);
}

/* A case that finds no such guest starts one. */
static void iommu_ensure(void)
{
	if (from->pid && guest.iommu && !guest.lost[0])
		return;
	vm_kill(from);
	vm_kill(to);
	device_make(from, "mscratch-1m", PLAIN);
	device_make(to, "mscratch-1m", PLAIN);
	guest_begin(true);
	guest_is_translated(ROUNDS, true);
}

/*
 * While QEMU 7.2 asks for dirty pages, it forgets what was mapped and goes by the
 * guest's tables.  A page that was changed in these, of which it was not told yet,
 * stays mapped then, or unmapped.  So the guest leaves them as they are meanwhile.
 * To go through them all takes long: the limit is more than what that takes.
 */
static void iommu_guest_migrates(void)
{
	iommu_ensure();
	guest_mode(GUEST_STAYS);
	guest_is_translated(ROUNDS, false);
	destination_start();
	expect(command(from, "migrate-set-parameters", "'downtime-limit':5000"));
	migrate();
	guest_is_translated(ROUNDS, false);
	guest_mode(0);
	guest_is_translated(ROUNDS, true);
	vm_quit(to);
}

static long migration_number(const char *name)
{
	expect(command(from, "query-migrate", ""));

	return reply_number(from, name);
}

static void migration_speed(unsigned int speed)
{
	expect(command(from, "migrate-set-parameters", "'max-bandwidth':%u", speed));
}

/*
 * Pages that the device writes after they were sent, and that are unmapped before
 * QEMU asks for dirty pages again: the migration is slow meanwhile, and behind all
 * slots it has the ballast to send.  The guest stands still at the destination.
 */
static void iommu_unmapped_pages(unsigned int mode)
{
	struct vm *old = from;

	iommu_ensure();
	guest_mode(GUEST_STAYS);
	destination_start();
	migration_speed(2 << 20);
	migration_to_destination();
	while (migration_number("normal") < GUEST_MAPPED_PAGES + 64)
		expect(from->pid && strcmp(from->migration, "failed"));
	migration_speed(1 << 14);
	expect_number(3, fact(from, "state"));

	guest_mode(mode);
	guest_is_translated(ROUNDS, true);
	guest_mode(GUEST_STAYS);
	/* And some that stay mapped */
	rounds(2);
	expect_number(1, migration_number("dirty-sync-count"));
	expect(command(from, "stop", ""));
	expect(wait_for(!from->running));
	migration_speed(1 << 27);
	migration_wait(from, "completed");
	migration_wait(to, "completed");
	expect(!to->running);
	from = to;
	to = old;
}

static void iommu_unmapped_pages_are_sent(void)
{
	iommu_unmapped_pages(0);
	expect(command(from, "cont", ""));
	guest_goes_on();
	guest_mode(0);
	guest_is_translated(ROUNDS, true);
	vm_quit(to);
}

/*
 * Would it be seen if they were not?  When an entry is emptied, QEMU 7.2 takes 0
 * for the address of the page that it was for.
 */
static void iommu_lost_page_is_seen(void)
{
	iommu_unmapped_pages(GUEST_EMPTIES);
	expect(command(from, "cont", ""));
	expect(wait_for(guest.lost[0]));
	printf("# the guest says: %s\n", guest.lost);
	expect(strstr(guest.lost, "memory, DMA by vfio_"));
	vm_kill(from);
	vm_kill(to);
}

/* Run mdevctl: does it succeed, and print @expected, or not @unexpected? */
static bool mdevctl(const char *arguments, const char *expected,
		    const char *unexpected)
{
	char text[256], output[4096];
	int status;
	size_t n;
	FILE *f;

	snprintf(text, sizeof(text), MDEVCTL " %s 2>&1", arguments);
	f = popen(text, "r");
	if (!f)
		return false;
	n = fread(output, 1, sizeof(output) - 1, f);
	output[n] = '\0';
	status = pclose(f);
	if (!status && strstr(output, expected) &&
	    !(unexpected && strstr(output, unexpected)))
		return true;
	printf("# %s: status %#x, expected %s, unexpected %s, saw: %s\n", text,
	       status, expected, unexpected ?: "nothing", output);

	return false;
}

static void mdevctl_manages_the_device(void)
{
	const char *uuid = to->uuid;
	char text[128];

	/* The tool's package has these folders. */
	mkdir("/etc", 0755);
	mkdir("/etc/mdevctl.d", 0755);
	mkdir("/etc/mdevctl.d/scripts.d", 0755);
	mkdir("/etc/mdevctl.d/scripts.d/callouts", 0755);
	mkdir("/etc/mdevctl.d/scripts.d/notifiers", 0755);
	device_remove(uuid);

	expect(mdevctl("types --parent mscratch", "mscratch-64k", NULL));
	expect(mdevctl("types --parent mscratch", "mscratch-1m", NULL));
	expect(mdevctl("types --parent mscratch", "mscratch-64m", NULL));

	snprintf(text, sizeof(text),
		 "define --parent mscratch --type mscratch-64k --uuid %s", uuid);
	expect(mdevctl(text, "", NULL));
	expect(mdevctl("list --defined", uuid, NULL));
	expect(mdevctl("list", "", uuid));
	expect(!device_exists(uuid));

	snprintf(text, sizeof(text), "start --uuid %s", uuid);
	expect(mdevctl(text, "", NULL));
	expect(device_exists(uuid));
	expect(mdevctl("list", uuid, NULL));

	snprintf(text, sizeof(text), "stop --uuid %s", uuid);
	expect(mdevctl(text, "", NULL));
	expect(!device_exists(uuid));

	snprintf(text, sizeof(text), "undefine --uuid %s", uuid);
	expect(mdevctl(text, "", NULL));
	expect(mdevctl("list --defined", "", uuid));
}

static void made_up_evidence(void)
{
	const char *what = evidence_mistaken();

	if (what)
		printf("# taken for the wrong fault: %s\n", what);
	expect(!what);
}

/* Ask the QEMU behind @fd what a debugger may: @reply has the answer. */
static void debugger(int fd, char *reply, size_t size, const char *fmt, ...)
{
	char text[64], c = 0;
	unsigned int i, sum = 0;
	size_t len = 0;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text) - 3, fmt, ap);
	va_end(ap);
	for (i = 1; text[i]; i++)
		sum += (unsigned char)text[i];
	n += sprintf(text + n, "#%02x", sum & 0xff);
	expect_number(n, send(fd, text, n, MSG_NOSIGNAL));

	/* Acknowledgements come before the answer, its checksum behind. */
	while (c != '$' && read(fd, &c, 1) == 1)
		;
	while (read(fd, &c, 1) == 1 && c != '#')
		if (len < size - 1)
			reply[len++] = c;
	reply[len] = '\0';
	expect_number(2, read(fd, text, 2));
	expect_number(1, send(fd, "+", 1, MSG_NOSIGNAL));
}

/*
 * A guest in which nothing is wrong, and then with a stack pointer that it
 * cannot have given itself
 */
static void foreign_register(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = GDB_SOCKET };
	char old[64], odd[64], reply[64];
	const char *what;
	int fd;

	expect(command(from, "stop", ""));
	expect(wait_for(!from->running));
	what = evidence_ask(from);
	expect(what && !strcmp(what, "the registers are possible ones"));

	expect(hmp(from, "gdbserver unix:" GDB_SOCKET ",server=on,wait=off"));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	expect(fd >= 0);
	expect(!connect(fd, (struct sockaddr *)&addr, sizeof(addr)));
	/*
	 * QEMU takes a debugger for an old one until it is asked what it has.
	 * It does not ask KVM for the registers, but has just done so.
	 */
	debugger(fd, reply, sizeof(reply), "$qXfer:features:read:target.xml:0,400");
	/* ESP is its register 7, the first two digits are the lowest byte. */
	debugger(fd, old, sizeof(old), "$p7");
	memcpy(odd, old, sizeof(odd));
	expect(strlen(odd) >= 8 && strchr("048c", odd[1]));
	odd[1]++;
	debugger(fd, reply, sizeof(reply), "$P7=%s", odd);
	expect(!strcmp(reply, "OK"));
	expect(!evidence_ask(from));
	debugger(fd, reply, sizeof(reply), "$P7=%s", old);
	expect(!strcmp(reply, "OK"));
	close(fd);
	expect(hmp(from, "gdbserver none"));
	expect(command(from, "cont", ""));

	guest_goes_on();
}

static void devices_can_be_removed(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vms); i++) {
		vm_kill(&vms[i]);
		device_remove(vms[i].uuid);
		expect(!device_exists(vms[i].uuid));
	}
}

/*
 * In this order, since they hand the guest on, one to the next.  A case that
 * finds none starts one.
 */
static const struct {
	const char *name;
	void (*run)(void);
	bool own;		/* starts its own guest, if any */
} cases[] = {
	{ "made_up_evidence_tells_whose_fault_it_is", made_up_evidence, true },
	{ "mdevctl_manages_the_device", mdevctl_manages_the_device, true },
	{ "foreign_register_is_the_processors_fault", foreign_register, false },
	{ "ping_pong", ping_pong, false },
	{ "to_a_file_and_back", to_a_file_and_back, false },
	{ "paused_guest_stays_paused", paused_guest_stays_paused, false },
	{ "cancelled_in_pre_copy", cancelled_in_pre_copy, false },
	{ "cancelled_in_stop_and_copy", cancelled_in_stop_and_copy, false },
	{ "error_of_pre_copy_leaves_source_running", error_of_pre_copy, false },
	{ "error_of_saving_leaves_source_running", error_of_saving, false },
	{ "error_of_stop_and_copy_leaves_source_running", error_of_stop_and_copy, false },
	{ "error_of_resuming_leaves_source_running", error_of_resuming, false },
	{ "error_of_loading_leaves_source_running", error_of_loading, false },
	{ "destination_is_killed", destination_is_killed, false },
	{ "source_is_killed", source_is_killed, false },
	{ "hidden_page_is_seen", hidden_page_is_seen, true },
	{ "device_without_the_region_does_not_migrate", device_without_the_region, true },
	{ "state_of_64_mib", state_of_64_mib, true },
	{ "iommu_guest_migrates", iommu_guest_migrates, true },
	{ "iommu_unmapped_pages_are_sent", iommu_unmapped_pages_are_sent, true },
	{ "iommu_lost_page_is_seen", iommu_lost_page_is_seen, true },
	{ "devices_can_be_removed", devices_can_be_removed, true },
};

/* Make sure that there is a guest which works. */
static void guest_ensure(void)
{
	if (from->pid && !guest.lost[0] && !guest.iommu)
		return;
	vm_kill(from);
	vm_kill(to);
	device_make(from, "mscratch-1m", PLAIN);
	device_make(to, "mscratch-1m", PLAIN);
	guest_start();
}

/* What QEMU had to say */
static void log_print(const struct vm *vm)
{
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), LOG_FILE, vm->name);
	f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		printf("# %s: %s", vm->name, line);
	if (f)
		fclose(f);
	unlink(path);
}

/* Lines of: metric, MiB of state, value, unit, with tabs between them */
static void bench(void)
{
	static const struct {
		const char *metric;
		unsigned int mib;
		const char *type;
		const char *parameters;
	} rows[] = {
		{ "qemu_downtime_mmap", 1, "mscratch-1m", PLAIN },
		{ "qemu_downtime_mmap", 64, "mscratch-64m", PLAIN },
		{ "qemu_downtime_trapped", 1, "mscratch-1m", "mmap=0" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		struct downtime d = {};

		migrate_once(rows[i].type, rows[i].parameters, &d);
		printf("%s\t%u\t%ld\tmilliseconds\n", rows[i].metric, rows[i].mib,
		       d.least);
	}
}

/* The case in which a guest was lost by the processor's fault */
static const char *again;

static bool case_run(const char *name, void (*run)(void), bool own)
{
	bool processors = false;
	struct vm *vm;

	/* Where one stands still, the others would not be quicker */
	if (late) {
		printf("# not run, as a case before it ran out of time\n");
		return false;
	}
	if (!setjmp(failed)) {
		if (!own)
			guest_ensure();
		run();
		return true;
	}
	/* Before it is gone */
	if (guest.lost[0]) {
		printf("# after round %u: %s\n", guest.round, guest.lost);
		processors = processors_fault();
	}
	for (vm = vms; vm < vms + ARRAY_SIZE(vms); vm++) {
		vm_kill(vm);
		log_print(vm);
	}
	/* With a new guest, but only once: that fault is a rare one. */
	if (!processors || again)
		return false;
	again = name;
	late = false;
	printf("# report the processor lost registers of a guest: %s is run again\n",
	       name);

	return case_run(name, run, own);
}

/* What only the machine can give */
static const char *missing(void)
{
	static const char * const needed[] = {
		"/dev/kvm", QEMU, MDEVCTL, PARENT, DEBUGFS
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(needed); i++)
		if (access(needed[i], F_OK))
			return needed[i];

	return NULL;
}

int main(int argc, char **argv)
{
	ssize_t size = guest_rom_end - guest_rom;
	const char *what = missing();
	unsigned int i;
	int fd;

	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	if (what)
		ksft_exit_skip("there is no %s\n", what);
	fd = open(ROM, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, guest_rom, size) != size)
		ksft_exit_fail_msg(ROM ": %s\n", strerror(errno));
	close(fd);

	if (argc > 1 && !strcmp(argv[1], "bench")) {
		ksft_set_plan(1);
		if (!case_run("bench", bench, true))
			ksft_exit_fail_msg("a migration failed\n");
		case_run("removal", devices_can_be_removed, true);
		ksft_test_result_pass("every size was measured\n");
		ksft_exit_pass();
	}

	ksft_set_plan(ARRAY_SIZE(cases) + 1);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		if (case_run(cases[i].name, cases[i].run, cases[i].own))
			ksft_test_result_pass("%s\n", cases[i].name);
		else
			ksft_test_result_fail("%s\n", cases[i].name);
	}
	if (again)
		ksft_test_result_skip("processor_keeps_registers: %s was run again\n", again);
	else
		ksft_test_result_pass("processor_keeps_registers\n");
	printf("# answer vfio-migration-region: QEMU migrated a guest %u times, %u rounds of it\n",
	       migrations, rounds_seen);

	if (ksft_get_fail_cnt())
		ksft_exit_fail();
	ksft_exit_pass();
}
