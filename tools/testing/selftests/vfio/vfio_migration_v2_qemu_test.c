// SPDX-License-Identifier: GPL-2.0-only
/*
 * Live migration of a guest that uses an mscratch device, between QEMUs that
 * speak different versions of the protocol
 *
 * QEMU 7.2 knows the migration region alone, QEMU 10 the device features alone.
 * The guest is that of vfio_migration_region_qemu_test, which looks at how
 * QEMU 7.2 takes what goes wrong.  It checks its memory and the device in each
 * round, and the numbers of the rounds follow one another on one pipe.
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "vfio_migration_region_guest.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define MSCRATCH	"/sys/class/mdev_bus/mscratch/mdev_supported_types/"
#define DEVICES		"/sys/bus/mdev/devices/"
#define DEBUGFS		"/sys/kernel/debug/vfio_migration_region/"
#define ROM		"/tmp/vfio_migration_v2_guest.bin"
#define STATE_FILE	"/tmp/vfio_migration_v2.state"
#define LOG_FILE	"/tmp/vfio_migration_v2.log"

/* Seconds for a condition to come true, for a debug kernel in an emulator */
#define LIMIT		60

/* After so many rounds the guest has checked all that it keeps. */
#define ROUNDS		(GUEST_SLOTS + 4)

/* The guest, see the header */
asm(".pushsection .rodata\n"
	"guest_rom: .incbin \"" GUEST_ROM "\"\n"
	"guest_rom_end:\n"
	".popsection");

/* A client, with what its command line begins with */
struct client {
	const char *name;
	const char *option;	/* of vfio-pci, which lets it migrate */
	const char *argv[8];
};

/* QEMU 10 brings the C library it was linked to */
#define TRIXIE	"/trixie/usr"

static const struct client qemu_7 = {
	"QEMU 7.2", "x-enable-migration=on",
	{ "/usr/bin/qemu-system-x86_64" },
};

static const struct client qemu_10 = {
	"QEMU 10", "enable-migration=on",
	{
		TRIXIE "/lib64/ld-linux-x86-64.so.2",
		"--library-path", TRIXIE "/lib/x86_64-linux-gnu",
		TRIXIE "/bin/qemu-system-x86_64",
		"-L", TRIXIE "/share/qemu",
	},
};

/* A QEMU with its device */
struct vm {
	const char *uuid;
	const struct client *client;
	pid_t pid;		/* 0 while there is none */
	int qmp;
	bool replied;
	bool refused;
	char migration[32];	/* the last status, "" before the first */
	char line[16384];
	size_t len;
};

static struct vm vms[] = {
	{ .uuid = "5c47a002-0000-4000-8000-000000000000", .qmp = -1 },
	{ .uuid = "5c47a002-0000-4000-8000-000000000001", .qmp = -1 },
};

static struct vm *from = &vms[0], *to = &vms[1];

/* What the guest has said, on whichever QEMU it was */
static int guest_pipe[2] = { -1, -1 };
static unsigned int guest_round, rounds_seen, migrations;
static char guest_text[256], guest_lost[256];
static size_t guest_len;

static jmp_buf failed;

static void expect_true(bool condition, const char *text, int line)
{
	if (condition)
		return;
	printf("# line %d: expected %s\n", line, text);
	longjmp(failed, 1);
}

#define expect(condition)	expect_true(condition, #condition, __LINE__)

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static void guest_says(char c)
{
	unsigned int round;

	if (c != '\n') {
		if (guest_len < sizeof(guest_text) - 1)
			guest_text[guest_len++] = c;
		return;
	}
	guest_text[guest_len] = '\0';
	guest_len = 0;
	if (guest_lost[0])
		return;
	if (sscanf(guest_text, "%4x", &round) != 1 ||
	    round != ((guest_round + 1) & 0xffff)) {
		snprintf(guest_lost, sizeof(guest_lost), "%.200s after round %x",
			 guest_text, guest_round);
		return;
	}
	guest_round++;
	rounds_seen++;
}

/* Messages of QMP are JSON objects, one a line: enough is known by words. */
static void vm_says(struct vm *vm, char c)
{
	const char *status;

	if (c != '\n') {
		if (vm->len < sizeof(vm->line) - 1)
			vm->line[vm->len++] = c;
		return;
	}
	vm->line[vm->len] = '\0';
	vm->len = 0;
	if (!strncmp(vm->line, "{\"return\"", 9))
		vm->replied = true;
	if (!strncmp(vm->line, "{\"error\"", 8)) {
		printf("# %s: %.300s\n", vm->client->name, vm->line);
		vm->replied = true;
		vm->refused = true;
	}
	status = strstr(vm->line, "\"status\": \"");
	if (status && strstr(vm->line, "\"event\": \"MIGRATION\""))
		snprintf(vm->migration, sizeof(vm->migration), "%.*s",
			 (int)strcspn(status + 11, "\""), status + 11);
}

static void vm_reap(struct vm *vm)
{
	waitpid(vm->pid, NULL, 0);
	vm->pid = 0;
	close(vm->qmp);
	vm->qmp = -1;
}

/* Take in whatever comes next.  False if nothing did until @end. */
static bool pump(long long end)
{
	struct pollfd fds[] = {
		{ .fd = guest_pipe[0], .events = POLLIN },
		{ .fd = vms[0].qmp, .events = POLLIN },
		{ .fd = vms[1].qmp, .events = POLLIN },
	};
	long long left = end - now_ms();
	char buf[4096];
	ssize_t n, k;
	int i;

	if (left <= 0 || poll(fds, ARRAY_SIZE(fds), left) <= 0)
		return false;
	for (i = 0; i < 3; i++) {
		if (!fds[i].revents)
			continue;
		n = read(fds[i].fd, buf, sizeof(buf));
		for (k = 0; k < n; k++) {
			if (i)
				vm_says(&vms[i - 1], buf[k]);
			else
				guest_says(buf[k]);
		}
		if (i && n <= 0)
			vm_reap(&vms[i - 1]);
	}

	return true;
}

#define wait_for(condition) ({						\
	long long end_ = now_ms() + LIMIT * 1000LL;			\
	bool met_;							\
									\
	while (!(met_ = (condition)) && pump(end_))			\
		;							\
	met_;								\
})

/* Give a command to QEMU.  False if it refuses. */
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
	vm->refused = false;

	return vm->pid && send(vm->qmp, text, n, MSG_NOSIGNAL) == n &&
	       wait_for(vm->replied || !vm->pid) && vm->replied && !vm->refused;
}

static void write_file(const char *text, const char *fmt, ...)
{
	char path[256];
	va_list ap;
	ssize_t n;
	int fd;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	n = fd < 0 ? -1 : write(fd, text, strlen(text));
	if (n < 0)
		printf("# %s: %s\n", path, strerror(errno));
	close(fd);
	expect(n == (ssize_t)strlen(text));
}

/* What the kernel knows of the migration of a device */
static long long fact(const struct vm *vm, const char *name)
{
	char path[256], text[32] = "";
	int fd;

	snprintf(path, sizeof(path), DEBUGFS "%s/%s", vm->uuid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		printf("# %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);

	return atoll(text);
}

static void device_remove(struct vm *vm)
{
	char path[128];

	snprintf(path, sizeof(path), DEVICES "%s", vm->uuid);
	if (!access(path, F_OK))
		write_file("1", DEVICES "%s/remove", vm->uuid);
}

/* Start QEMU with its device; with @incoming it waits for a migration. */
static void vm_start(struct vm *vm, const struct client *client,
		     const char *incoming)
{
	char serial[64], monitor[64], device[256];
	const char * const rest[] = {
		"-M", "pc-i440fx-7.2", "-accel", "kvm", "-m", "16",
		"-nodefaults", "-no-reboot", "-no-shutdown", "-display", "none",
		"-bios", ROM, "-serial", serial, "-chardev", monitor,
		"-mon", "chardev=qmp,mode=control", "-device", device,
		incoming ? "-incoming" : NULL, incoming, NULL
	};
	const char *argv[ARRAY_SIZE(rest) + 8];
	int ends[2], fd, n = 0;
	unsigned int i;

	expect(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	for (i = 0; client->argv[i]; i++)
		argv[n++] = client->argv[i];
	memcpy(argv + n, rest, sizeof(rest));
	snprintf(serial, sizeof(serial), "file:/proc/self/fd/%d", guest_pipe[1]);
	snprintf(monitor, sizeof(monitor), "socket,id=qmp,fd=%d", ends[1]);
	snprintf(device, sizeof(device), "vfio-pci,sysfsdev=" DEVICES "%s,%s",
		 vm->uuid, client->option);
	vm->client = client;
	vm->len = 0;
	vm->migration[0] = '\0';
	vm->qmp = ends[0];
	vm->pid = fork();
	if (!vm->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fcntl(ends[1], F_SETFD, 0);
		fcntl(guest_pipe[1], F_SETFD, 0);
		fd = open(LOG_FILE, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		execv(argv[0], (char **)argv);
		_exit(127);
	}
	close(ends[1]);
	expect(vm->pid > 0);
	expect(command(vm, "qmp_capabilities", ""));
	expect(command(vm, "migrate-set-capabilities",
		       "'capabilities':[{'capability':'events','state':true}]"));
}

static void vm_end(struct vm *vm)
{
	if (!vm->pid)
		return;
	kill(vm->pid, SIGKILL);
	vm_reap(vm);
}

/* Let the guest go on, until it has checked all that it keeps. */
static void rounds(void)
{
	unsigned int end = guest_round + ROUNDS;

	wait_for(guest_lost[0] || guest_round >= end);
	if (guest_lost[0])
		printf("# the guest says: %s\n", guest_lost);
	expect(!guest_lost[0]);
	expect(guest_round >= end);
}

static void migration_wait(struct vm *vm, const char *status)
{
	wait_for(!strcmp(vm->migration, status) || !vm->pid ||
		 !strcmp(vm->migration, "completed") ||
		 !strcmp(vm->migration, "failed"));
	if (strcmp(vm->migration, status))
		printf("# %s: expected status %s, saw %s\n", vm->client->name,
		       status, vm->pid ? vm->migration : "that it is gone");
	expect(!strcmp(vm->migration, status));
}

/* A guest, seen to work, and an empty destination */
static void begin(const struct client *source)
{
	unsigned int i;

	close(guest_pipe[0]);
	close(guest_pipe[1]);
	guest_round = 0;
	guest_len = 0;
	guest_lost[0] = '\0';
	unlink(LOG_FILE);
	for (i = 0; i < ARRAY_SIZE(vms); i++) {
		device_remove(&vms[i]);
		write_file(vms[i].uuid, MSCRATCH "mscratch-1m/create");
	}
	expect(!pipe2(guest_pipe, O_CLOEXEC));
	vm_start(from, source, NULL);
	rounds();
}

/* The guest goes to a QEMU of this kind, and on there */
static void migrate(const struct client *client)
{
	long long saved = fact(from, "bytes_saved");
	long long loaded = fact(to, "bytes_loaded");
	struct vm *old = from;

	vm_start(to, client, "unix:/tmp/vfio_migration_v2.sock");
	expect(command(from, "migrate", "'uri':'unix:/tmp/vfio_migration_v2.sock'"));
	migration_wait(from, "completed");
	from = to;
	to = old;
	rounds();
	expect(fact(from, "state") == 1);
	expect(fact(to, "bytes_saved") - saved > 1 << 20);
	expect(fact(to, "bytes_saved") - saved ==
	       fact(from, "bytes_loaded") - loaded);
	migrations++;
	vm_end(to);
}

static void qemu_10_there_and_back(void)
{
	int i;

	begin(&qemu_10);
	for (i = 0; i < 4; i++)
		migrate(&qemu_10);
}

static void old_qemu_to_new_and_back(void)
{
	int i;

	begin(&qemu_7);
	for (i = 0; i < 2; i++) {
		migrate(&qemu_10);
		migrate(&qemu_7);
	}
}

static void qemu_10_to_a_file_and_back(void)
{
	begin(&qemu_10);
	expect(command(from, "migrate", "'uri':'file:" STATE_FILE "'"));
	migration_wait(from, "completed");
	vm_end(from);
	vm_start(from, &qemu_10, "file:" STATE_FILE);
	rounds();
}

/* What QEMU 10 cannot do with the device leaves the guest where it is */
static void qemu_10_fails(const char *name, const char *value)
{
	begin(&qemu_10);
	write_file(value, DEBUGFS "%s/%s", from->uuid, name);
	expect(command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	migration_wait(from, "failed");
	rounds();
	expect(fact(from, "state") == 1);
	write_file("0", DEBUGFS "%s/%s", from->uuid, name);
	migrate(&qemu_10);
}

/* PRE_COPY is 6, STOP_COPY 3 */
static void qemu_10_cannot_begin(void)
{
	qemu_10_fails("fail_v2_state", "0x40");
}

/*
 * By then QEMU has stopped the machine, and resets the device: the guest goes
 * on, and misses what was in it.
 */
static void qemu_10_cannot_stop_and_copy(void)
{
	begin(&qemu_10);
	write_file("0x8", DEBUGFS "%s/fail_v2_state", from->uuid);
	expect(command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	migration_wait(from, "failed");
	expect(wait_for(fact(from, "state") == 1));
	expect(from->pid);
	write_file("0", DEBUGFS "%s/fail_v2_state", from->uuid);
}

static void qemu_10_cannot_read(void)
{
	qemu_10_fails("fail_save", "1");
}

static void qemu_10_is_cancelled(void)
{
	begin(&qemu_10);
	expect(command(from, "migrate-set-parameters", "'max-bandwidth':16384"));
	expect(command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	migration_wait(from, "active");
	expect(command(from, "migrate_cancel", ""));
	migration_wait(from, "cancelled");
	rounds();
	expect(fact(from, "state") == 1);
	expect(command(from, "migrate-set-parameters",
		       "'max-bandwidth':134217728"));
	migrate(&qemu_10);
}

static void log_print(void)
{
	FILE *f = fopen(LOG_FILE, "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		printf("# %s", line);
	if (f)
		fclose(f);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "qemu_10_there_and_back", qemu_10_there_and_back },
	{ "old_qemu_to_new_and_back", old_qemu_to_new_and_back },
	{ "qemu_10_to_a_file_and_back", qemu_10_to_a_file_and_back },
	{ "qemu_10_cannot_begin", qemu_10_cannot_begin },
	{ "qemu_10_cannot_stop_and_copy", qemu_10_cannot_stop_and_copy },
	{ "qemu_10_cannot_read", qemu_10_cannot_read },
	{ "qemu_10_is_cancelled", qemu_10_is_cancelled },
};

int main(void)
{
	unsigned int i;
	FILE *rom;

	ksft_print_header();
	ksft_set_plan(ARRAY_SIZE(cases));
	rom = fopen(ROM, "we");
	if (!rom || fwrite(guest_rom, guest_rom_end - guest_rom, 1, rom) != 1 ||
	    fclose(rom))
		ksft_exit_fail_msg("%s: %s\n", ROM, strerror(errno));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		bool ok = !setjmp(failed);

		if (ok)
			cases[i].run();
		vm_end(&vms[0]);
		vm_end(&vms[1]);
		if (!ok)
			log_print();
		ksft_test_result(ok, "%s\n", cases[i].name);
	}
	for (i = 0; i < ARRAY_SIZE(vms); i++)
		if (!setjmp(failed))
			device_remove(&vms[i]);
	printf("# report QEMU 7.2 and 10: %u migrations, %u rounds of the guest\n",
	       migrations, rounds_seen);
	ksft_exit(!ksft_get_fail_cnt());
}
