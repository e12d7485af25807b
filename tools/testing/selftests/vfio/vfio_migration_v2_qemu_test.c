// SPDX-License-Identifier: GPL-2.0-only
/*
 * Live migration of a guest that uses an mscratch device, between QEMUs that
 * speak different versions of the protocol
 *
 * Up to 7.2 QEMU knows the migration region alone, later on the device features
 * alone.  The guest is that of vfio_migration_region_qemu_test.  It checks its
 * memory and the device in each round, and the numbers of the rounds follow one
 * another on one pipe.
 *
 * vfio_migration_v2_qemu_test CLIENT SIZE: the QEMU in the folder /CLIENT, with a
 * device of that size, alone and with each of the other releases'; one that the
 * machine has not is skipped.  Without arguments it is trixie with 1m, with those
 * that the machine has, and does less.
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
#include <sys/wait.h>

#include "../kselftest.h"
#include "vfio_migration_region_guest.h"
#include "vfio_migration_v2_lib.h"
#include "mscratch.h"

#define MSCRATCH	"/sys/class/mdev_bus/mscratch/mdev_supported_types/"
#define DEVICES		"/sys/bus/mdev/devices/"
#define DEBUGFS		"/sys/kernel/debug/vfio_migration_region/"
#define ROM		"/tmp/vfio_migration_v2_guest.bin"
#define STATE_FILE	"/tmp/vfio_migration_v2.state"
#define LOG_FILE	"/tmp/vfio_migration_v2.log"
#define MEMORY_FILE	"/tmp/vfio_migration_v2.memory"

/* Seconds for a condition to come true, on a host that has other things to do */
#define LIMIT		240

/* After so many rounds the guest has checked all that it keeps. */
#define ROUNDS		(GUEST_SLOTS + 4)

/* The guest, see the header */
asm(".pushsection .rodata\n"
	"guest_rom: .incbin \"" GUEST_ROM "\"\n"
	"guest_rom_end:\n"
	".popsection");

/* Without arguments, and with them */
#define FEW		4
#define MIGRATIONS	20

/*
 * A client: the QEMU of a release of Debian, in a folder of its own with the C
 * library that it was linked to
 */
struct client {
	const char *name;	/* of the folder */
	unsigned int protocol;
	const char *machine;	/* its latest; each knows those before its own */
	bool config_first;	/* in the section of a device, before the state */
	bool iommu_stays;	/* no device behind one migrates */
	const char *argv[8];	/* what its command line begins with */
	char version[32];	/* "" until it was asked */
};

/* The oldest first; "host" is the machine's own */
static struct client clients[] = {
	{ .name = "bullseye", .protocol = 1, .machine = "pc-i440fx-5.2",
	  .config_first = true },
	{ .name = "bookworm", .protocol = 1, .machine = "pc-i440fx-7.2" },
	{ .name = "host", .protocol = 1, .machine = "pc-i440fx-7.2",
	  .argv = { "/usr/bin/qemu-system-x86_64" } },
	{ .name = "trixie", .protocol = 2, .machine = "pc-i440fx-10.0",
	  .iommu_stays = true },
	{ .name = "trixie-backports", .protocol = 2, .machine = "pc-i440fx-10.0" },
};

static const struct {
	const char *name;
	unsigned int bytes;
} sizes[] = {
	{ "64k", 64 << 10 },
	{ "1m", 1 << 20 },
	{ "64m", 64 << 20 },
};

/* What is tried: a client, alone or with another one, the device, how often */
static struct client *client, *peer;
static const char *type;
static unsigned int type_bytes, many;

/* The machines have an IOMMU, and QEMU may start if its device cannot migrate. */
static bool iommu, optional;

/* A QEMU with its device */
struct vm {
	const char *uuid;
	struct client *client;
	pid_t pid;		/* 0 while there is none */
	int qmp;
	bool replied;
	bool refused;
	char migration[32];	/* the last status, "" before the first */
	char error[512];	/* the last one */
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

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": " \
	"{\"micro\": %u, \"minor\": %u, \"major\": %u}"

/* Messages of QMP are JSON objects, one a line: enough is known by words. */
static void vm_says(struct vm *vm, char c)
{
	unsigned int major, minor, micro;
	const char *status;

	if (c != '\n') {
		if (vm->len < sizeof(vm->line) - 1)
			vm->line[vm->len++] = c;
		return;
	}
	vm->line[vm->len] = '\0';
	vm->len = 0;
	if (sscanf(vm->line, GREETING, &micro, &minor, &major) == 3)
		snprintf(vm->client->version, sizeof(vm->client->version),
			 "%u.%u.%u", major, minor, micro);
	if (!strncmp(vm->line, "{\"return\"", 9))
		vm->replied = true;
	if (!strncmp(vm->line, "{\"error\"", 8)) {
		printf("# %s: %.300s\n", vm->client->name, vm->line);
		snprintf(vm->error, sizeof(vm->error), "%.500s", vm->line);
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

static void vm_device_remove(struct vm *vm)
{
	char path[128];

	snprintf(path, sizeof(path), DEVICES "%s", vm->uuid);
	if (!access(path, F_OK))
		write_file("1", DEVICES "%s/remove", vm->uuid);
}

/* One that all of them know who take part */
static const char *machine(void)
{
	return peer && peer < client ? peer->machine : client->machine;
}

/* Start QEMU with its device; with @incoming it will wait for a migration. */
static void vm_spawn(struct vm *vm, struct client *qemu, const char *incoming)
{
	static const char * const unit[] = { "-device", "intel-iommu,caching-mode=on" };
	char serial[64], monitor[64], device[256];
	const char * const rest[] = {
		"-M", iommu ? "q35" : machine(), "-accel", "kvm", "-m", "16",
		"-nodefaults", "-no-reboot", "-no-shutdown", "-display", "none",
		"-bios", ROM, "-serial", serial, "-chardev", monitor,
		"-mon", "chardev=qmp,mode=control", "-device", device,
		incoming ? "-incoming" : NULL, incoming, NULL
	};
	const char *argv[8 + ARRAY_SIZE(unit) + ARRAY_SIZE(rest)];
	int ends[2], fd, n = 0;
	unsigned int i;

	expect(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	for (i = 0; qemu->argv[i]; i++)
		argv[n++] = qemu->argv[i];
	/* Before the devices that are to be behind it */
	for (i = 0; iommu && i < ARRAY_SIZE(unit); i++)
		argv[n++] = unit[i];
	memcpy(argv + n, rest, sizeof(rest));
	snprintf(serial, sizeof(serial), "file:/proc/self/fd/%d", guest_pipe[1]);
	snprintf(monitor, sizeof(monitor), "socket,id=qmp,fd=%d", ends[1]);
	snprintf(device, sizeof(device),
		 "vfio-pci,sysfsdev=" DEVICES "%s,%senable-migration=%s",
		 vm->uuid, qemu->protocol == 1 ? "x-" : "",
		 optional ? "auto" : "on");
	vm->client = qemu;
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
}

/*
 * Wait until it takes commands.  A guest that is somewhere else rests meanwhile: where
 * one processor does the work of several, that halves the time.
 */
static void vm_start(struct vm *vm, struct client *qemu, const char *incoming)
{
	bool others = vm == to && from->pid;

	if (others)
		expect(command(from, "stop", ""));
	vm_spawn(vm, qemu, incoming);
	expect(command(vm, "qmp_capabilities", ""));
	expect(command(vm, "migrate-set-capabilities",
		       "'capabilities':[{'capability':'events','state':true}]"));
	if (others)
		expect(command(from, "cont", ""));
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

/* What QEMUs had to say */
static void log_print(void)
{
	FILE *f = fopen(LOG_FILE, "re");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		printf("# %s", line);
	if (f)
		fclose(f);
}

/* No guest, and a new device for each QEMU */
static void devices_begin(void)
{
	unsigned int i;

	close(guest_pipe[0]);
	close(guest_pipe[1]);
	guest_round = 0;
	guest_len = 0;
	guest_lost[0] = '\0';
	unlink(LOG_FILE);
	for (i = 0; i < ARRAY_SIZE(vms); i++) {
		vm_end(&vms[i]);
		vm_device_remove(&vms[i]);
		write_file(vms[i].uuid, MSCRATCH "%s/create", type);
	}
	expect(!pipe2(guest_pipe, O_CLOEXEC));
}

/* A guest, seen to work, and an empty destination */
static void begin(struct client *source)
{
	devices_begin();
	vm_start(from, source, NULL);
	rounds();
}

#define SOCKET	"unix:/tmp/vfio_migration_v2.sock"

/* The guest goes to a QEMU of this kind, and on there */
static void migrate(struct client *qemu)
{
	long long saved = fact(from, "bytes_saved");
	long long loaded = fact(to, "bytes_loaded");
	struct vm *old = from;

	vm_start(to, qemu, SOCKET);
	expect(command(from, "migrate", "'uri':'" SOCKET "'"));
	migration_wait(from, "completed");
	from = to;
	to = old;
	rounds();
	expect(fact(from, "state") == 1);
	expect(fact(to, "bytes_saved") - saved > type_bytes);
	expect(fact(to, "bytes_saved") - saved ==
	       fact(from, "bytes_loaded") - loaded);
	migrations++;
	vm_end(to);
}

static void there_and_back(void)
{
	unsigned int i;

	begin(client);
	for (i = 0; i < many; i++)
		migrate(client);
}

/* "file:" came with version 2 */
static void migrate_to_file(void)
{
	const char *uri = from->client->protocol == 1 ?
			  "exec:cat >" STATE_FILE : "file:" STATE_FILE;

	expect(command(from, "migrate", "'uri':'%s'", uri));
	migration_wait(from, "completed");
	/* What it has said until then */
	while (pump(now_ms() + 1))
		;
	vm_end(from);
}

static void to_a_file_and_back(void)
{
	begin(client);
	migrate_to_file();
	vm_start(from, client, client->protocol == 1 ?
		 "exec:cat <" STATE_FILE : "file:" STATE_FILE);
	rounds();
	unlink(STATE_FILE);
}

/*
 * A guest with an IOMMU, which it uses
 */

static void guest_data_read(struct guest_data *data)
{
	ssize_t n = -1;
	int fd;

	expect(command(from, "pmemsave", "'val':%u,'size':%zu,'filename':'%s'",
		       GUEST_DATA, sizeof(*data), MEMORY_FILE));
	fd = open(MEMORY_FILE, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		n = read(fd, data, sizeof(*data));
	close(fd);
	unlink(MEMORY_FILE);
	expect(n == sizeof(*data));
}

/* It has moved pages if @moving, and was refused what is not mapped. */
static void guest_is_translated(bool moving)
{
	struct guest_data before, after;

	guest_data_read(&before);
	rounds();
	guest_data_read(&after);
	expect(after.iommu);
	expect(after.refused - before.refused >= 3 * (ROUNDS - 1));
	if (moving)
		expect(after.moves - before.moves >= ROUNDS - 1);
	else
		expect(after.moves == before.moves);
}

static void guest_mode(unsigned int mode)
{
	expect(command(from, "human-monitor-command",
		       "'command-line':'o/b %#x %u'", GUEST_MODE_PORT, mode));
	/* It looks at it in each of them */
	rounds();
}

/*
 * QEMU follows what the guest maps and unmaps.  See vfio_migration_region_qemu_test for
 * why it does neither meanwhile.  To look for dirty pages through all its tables takes
 * long.
 */
static void migrates_with_an_iommu(void)
{
	int i;

	begin(client);
	guest_is_translated(true);
	guest_mode(GUEST_STAYS);
	for (i = 0; i < 2; i++) {
		expect(command(from, "migrate-set-parameters",
			       "'downtime-limit':5000"));
		migrate(client);
		guest_is_translated(false);
	}
	guest_mode(0);
	guest_is_translated(true);
}

static bool log_has(const char *text)
{
	FILE *f = fopen(LOG_FILE, "re");
	char line[512];
	bool has = false;

	while (f && !has && fgets(line, sizeof(line), f))
		has = strstr(line, text);
	if (f)
		fclose(f);

	return has;
}

#define NO_IOMMU	"Migration is currently not supported with vIOMMU enabled"
#define NO_TRACKING	"doesn't support device and IOMMU dirty tracking"

/*
 * QEMU 8.1 and later, up to 10, migrate no device behind an IOMMU.  One that has to be
 * able to is refused; with another one QEMU refuses to migrate, and gives the reason
 * that it looks at first.  The guest goes on.
 */
static void stays_with_an_iommu(void)
{
	devices_begin();
	vm_spawn(from, client, NULL);
	expect(wait_for(!from->pid));
	expect(log_has(NO_IOMMU));

	optional = true;
	begin(client);
	guest_is_translated(true);
	expect(!command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	expect(from->refused);
	expect(strstr(from->error, NO_IOMMU) || strstr(from->error, NO_TRACKING));
	guest_is_translated(true);
	expect(fact(from, "state") == 1);
}

static void behind_an_iommu(void)
{
	iommu = true;
	if (client->iommu_stays)
		stays_with_an_iommu();
	else
		migrates_with_an_iommu();
}

/*
 * Between QEMUs that take each other's streams
 */

static void guest_crosses(void)
{
	int i;

	begin(client);
	for (i = 0; i < 2; i++) {
		migrate(peer);
		migrate(client);
	}
}

/*
 * Between QEMUs that do not: 5.2 writes a device's configuration before its state,
 * later ones behind it.  What the device itself has to say to that is another
 * question, which a client answers that is none of them.
 */

/* In front of each piece of a device's state, and the size behind it, big-endian */
static const unsigned char piece_mark[8] = "\xff\xff\xff\xff\xef\x10\x00\x04";

/* The state of the device out of what QEMU has written to a file */
static void stream_take(struct stream *s)
{
	size_t at, end = 0, size;
	unsigned char *file;
	struct stat st;
	int fd, i;

	fd = open(STATE_FILE, O_RDONLY | O_CLOEXEC);
	expect(fd >= 0 && !fstat(fd, &st));
	file = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	expect(file != MAP_FAILED);
	memset(s, 0, sizeof(*s));
	s->data = malloc(st.st_size);
	expect(s->data);
	for (;;) {
		unsigned char *mark = memmem(file + end, st.st_size - end,
					     piece_mark, sizeof(piece_mark));

		if (!mark)
			break;
		at = mark - file + sizeof(piece_mark);
		expect(at + 8 <= (size_t)st.st_size);
		for (size = 0, i = 0; i < 8; i++)
			size = size << 8 | file[at + i];
		at += 8;
		expect(size <= st.st_size - at);
		memcpy(s->data + s->size, file + at, size);
		s->size += size;
		end = at + size;
	}
	munmap(file, st.st_size);
	unlink(STATE_FILE);
}

/* Is what the guest has put into its device, in the last rounds, in this one? */
static void device_check(const struct dev *d)
{
	static const struct {
		enum guest_use use, from;
	} slots[] = { { SCRATCH, SCRATCH }, { TO_PIN, RAM }, { TO_RW, RAM } };
	unsigned int words[GUEST_BLOCK / 4], round, i, j;
	__u64 count = reg_get64(d, MSCRATCH_REG_DMA_COUNT);

	/* The round after the last one that was heard of may have begun. */
	for (round = guest_round; round > guest_round - GUEST_SLOTS + 1; round--) {
		__u64 at = round % GUEST_SLOTS * (type_bytes / GUEST_SLOTS);

		for (i = 0; i < ARRAY_SIZE(slots); i++) {
			expect(!scratch_read(d, at + (slots[i].use - SCRATCH) *
					     GUEST_BLOCK, words, sizeof(words)));
			for (j = 0; j < ARRAY_SIZE(words); j++)
				expect(words[j] ==
				       GUEST_WORD(slots[i].from, round, j));
		}
	}
	expect(count >= 4 * guest_round && count <= 4 * (guest_round + 1));
}

/* A client of our own loads what @source has saved as one of @protocol does */
static void stream_goes(struct client *source, unsigned int protocol)
{
	struct stream s;
	struct dev d;

	begin(source);
	migrate_to_file();
	stream_take(&s);
	expect(s.size > type_bytes);
	expect(!dev_create(&d, type, 0));
	expect(!dev_open(&d));
	if (protocol == 2) {
		expect(!v2_load(&d, &s, 1 << 16));
		expect(v2_get(&d) == V2_RUNNING);
	} else {
		expect(!dev_map(&d));
		expect(!resume(&d, &s, BY_MMAP, 1 << 16));
		expect(state_get(&d) == RUNNING);
	}
	device_check(&d);
	dev_close(&d);
	expect(!dev_remove(&d));
	stream_free(&s);
}

/* QEMU says why, in its log */
static void qemu_refuses(struct client *source, struct client *destination)
{
	long long loaded;

	begin(source);
	loaded = fact(to, "bytes_loaded");
	vm_start(to, destination, SOCKET);
	expect(command(from, "migrate", "'uri':'" SOCKET "'"));
	expect(wait_for(!to->pid));
	printf("# %s does not take what %s sends, after %lld bytes of the device's\n",
	       destination->version, source->version,
	       fact(to, "bytes_loaded") - loaded);
	log_print();
}

static void stream_crosses(void)
{
	qemu_refuses(client, peer);
	stream_goes(client, peer->protocol);
	qemu_refuses(peer, client);
	stream_goes(peer, client->protocol);
}

/*
 * What goes wrong
 */

/* What it cannot do with the device leaves the guest where it is */
static void fails(const char *name, const char *value)
{
	begin(client);
	write_file(value, DEBUGFS "%s/%s", from->uuid, name);
	expect(command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	migration_wait(from, "failed");
	rounds();
	expect(fact(from, "state") == 1);
	write_file("0", DEBUGFS "%s/%s", from->uuid, name);
	migrate(client);
}

/* A bit for each state, by the protocol's numbers: pre-copy */
static void cannot_begin(void)
{
	if (client->protocol == 1)
		fails("fail_state", "0x8");
	else
		fails("fail_v2_state", "0x40");
}

/*
 * Stop-and-copy.  By then QEMU has stopped the machine, and one of version 2 resets
 * the device: the guest goes on, and misses what was in it.
 */
static void cannot_stop_and_copy(void)
{
	if (client->protocol == 1) {
		fails("fail_state", "0x4");
		return;
	}
	begin(client);
	write_file("0x8", DEBUGFS "%s/fail_v2_state", from->uuid);
	expect(command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	migration_wait(from, "failed");
	expect(wait_for(fact(from, "state") == 1));
	expect(from->pid);
	write_file("0", DEBUGFS "%s/fail_v2_state", from->uuid);
}

static void cannot_read(void)
{
	fails("fail_save", "1");
}

/* The source hears of it by the return path */
static void cannot_load(void)
{
	const char *arguments =
		"'capabilities':[{'capability':'return-path','state':%s}]";

	begin(client);
	vm_start(to, client, SOCKET);
	write_file("1", DEBUGFS "%s/fail_load", to->uuid);
	expect(command(from, "migrate-set-capabilities", arguments, "true"));
	expect(command(from, "migrate", "'uri':'" SOCKET "'"));
	migration_wait(from, "failed");
	expect(wait_for(!to->pid));
	rounds();
	expect(fact(from, "state") == 1);
	write_file("0", DEBUGFS "%s/fail_load", to->uuid);
	expect(command(from, "migrate-set-capabilities", arguments, "false"));
	migrate(client);
}

static void is_cancelled(void)
{
	begin(client);
	expect(command(from, "migrate-set-parameters", "'max-bandwidth':16384"));
	expect(command(from, "migrate", "'uri':'exec:cat >/dev/null'"));
	migration_wait(from, "active");
	expect(command(from, "migrate_cancel", ""));
	migration_wait(from, "cancelled");
	rounds();
	expect(fact(from, "state") == 1);
	expect(command(from, "migrate-set-parameters",
		       "'max-bandwidth':134217728"));
	migrate(client);
}

static const struct {
	const char *name;
	void (*run)(void);
} cases[] = {
	{ "there_and_back", there_and_back },
	{ "is_cancelled", is_cancelled },
	{ "to_a_file_and_back", to_a_file_and_back },
	{ "cannot_begin", cannot_begin },
	{ "cannot_stop_and_copy", cannot_stop_and_copy },
	{ "cannot_read", cannot_read },
	{ "behind_an_iommu", behind_an_iommu },
	/* With arguments alone */
	{ "cannot_load", cannot_load },
};

static void case_run(const char *name, void (*run)(void))
{
	bool ok = !setjmp(failed);

	if (ok)
		run();
	iommu = false;
	optional = false;
	vm_end(&vms[0]);
	vm_end(&vms[1]);
	if (!ok) {
		log_print();
		devs_remove_all();
	}
	ksft_test_result(ok, "%s\n", name);
}

static const char *in_folder(const struct client *c, const char *path)
{
	char *text;

	if (asprintf(&text, "/%s/usr/%s", c->name, path) < 0)
		ksft_exit_fail_msg("no memory\n");

	return text;
}

static void command_lines(void)
{
	struct client *c;
	unsigned int n;

	for (c = clients; c < clients + ARRAY_SIZE(clients); c++) {
		if (c->argv[0])
			continue;
		n = 0;
		c->argv[n++] = in_folder(c, "lib64/ld-linux-x86-64.so.2");
		c->argv[n++] = "--library-path";
		c->argv[n++] = in_folder(c, "lib/x86_64-linux-gnu");
		c->argv[n++] = in_folder(c, "bin/qemu-system-x86_64");
		c->argv[n++] = "-L";
		c->argv[n++] = in_folder(c, "share/qemu");
	}
}

static bool is_there(const struct client *c)
{
	return !access(c->argv[0], X_OK);
}

/* Does the device, on this kernel, offer what the client speaks? */
static bool is_offered(unsigned int protocol)
{
	struct region r;
	struct dev d;
	__u64 flags;
	bool offered;

	if (dev_create(&d, type, 0))
		ksft_exit_fail_msg("a device of type %s cannot be made\n", type);
	if (user_open(&d.u, d.group, d.name))
		ksft_exit_fail_msg("a device of type %s cannot be opened\n", type);
	if (protocol == 1)
		offered = !region_info(d.u.device, MSCRATCH_MIGRATION_REGION,
				       &r) && r.typed;
	else
		offered = !v2_flags(&d, &flags);
	user_close(&d.u);
	if (dev_remove(&d))
		ksft_exit_fail_msg("a device cannot be removed\n");

	return offered;
}

/* All that there are count where they are to be tried. */
static bool is_peer(const struct client *c, bool all)
{
	return c != client && (is_there(c) || (all && strcmp(c->name, "host")));
}

#define NOT_SPOKEN "the QEMU of %s speaks version %u alone, which this kernel does not\n"

static void arguments(const char *name, const char *size)
{
	static char text[32];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(clients); i++)
		if (!strcmp(clients[i].name, name))
			client = &clients[i];
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		if (!strcmp(sizes[i].name, size))
			type_bytes = sizes[i].bytes;
	if (!client || !type_bytes)
		ksft_exit_fail_msg("no client %s or size %s\n", name, size);
	if (!is_there(client))
		ksft_exit_fail_msg("there is no %s\n", client->argv[0]);
	snprintf(text, sizeof(text), "mscratch-%s", size);
	type = text;
}

int main(int argc, char **argv)
{
	unsigned int i, peers = 0, planned = ARRAY_SIZE(cases);
	bool all = argc == 3, whole;
	void (*crosses)(void);
	char name[64];
	FILE *rom;

	ksft_print_header();
	command_lines();
	arguments(all ? argv[1] : "trixie", all ? argv[2] : "1m");
	many = all ? MIGRATIONS : FEW;
	if (!all)
		planned--;
	if (!is_offered(client->protocol)) {
		ksft_set_plan(1);
		ksft_test_result_skip("protocol: " NOT_SPOKEN, client->name,
				      client->protocol);
		ksft_exit_pass();
	}
	rom = fopen(ROM, "we");
	if (!rom || fwrite(guest_rom, guest_rom_end - guest_rom, 1, rom) != 1 ||
	    fclose(rom))
		ksft_exit_fail_msg("%s: %s\n", ROM, strerror(errno));

	for (i = 0; i < ARRAY_SIZE(clients); i++)
		peers += is_peer(&clients[i], all);
	ksft_set_plan(planned + peers);
	for (i = 0; i < planned; i++)
		case_run(cases[i].name, cases[i].run);
	for (i = 0; i < ARRAY_SIZE(clients); i++) {
		peer = &clients[i];
		if (!is_peer(peer, all))
			continue;
		whole = peer->config_first == client->config_first;
		snprintf(name, sizeof(name), "%sto_and_from_%s",
			 whole ? "" : "stream_", peer->name);
		crosses = whole ? guest_crosses : stream_crosses;
		if (is_there(peer))
			case_run(name, crosses);
		else
			ksft_test_result_skip("%s: the QEMU of %s is not in this machine\n",
					      name, peer->name);
	}
	for (i = 0; i < ARRAY_SIZE(vms); i++)
		if (!setjmp(failed))
			vm_device_remove(&vms[i]);
	printf("# report QEMU %s", client->version);
	for (i = 0; i < ARRAY_SIZE(clients); i++)
		if (&clients[i] != client && clients[i].version[0])
			printf(", %s", clients[i].version);
	printf(": %u migrations, %u rounds of the guest\n", migrations, rounds_seen);
	ksft_exit(!ksft_get_fail_cnt());
}
