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
 *
 * vfio_migration_v2_qemu_test CLIENT SIZE PEER MEMORY STEP...: the guest leaves for a
 * PEER in another machine, or comes from it, through MEMORY that both machines have.
 * What each STEP is stands below at steps[].
 */

#define _GNU_SOURCE
#include <endian.h>
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
#define FIFO		"/tmp/vfio_migration_v2.fifo"

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

	wait_for(guest_lost[0] || guest_round >= end || !from->pid);
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

/* The guest leaves, and does not go on anywhere yet. */
static void migrate_to(const char *uri)
{
	expect(command(from, "migrate", "'uri':'%s'", uri));
	migration_wait(from, "completed");
	/* What it has said until then */
	while (pump(now_ms() + 1))
		;
	vm_end(from);
}

/* "file:" came with version 2 */
static void migrate_to_file(void)
{
	migrate_to(from->client->protocol == 1 ?
		   "exec:cat >" STATE_FILE : "file:" STATE_FILE);
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

/*
 * A client of our own loads what QEMU has saved to a file as one of @protocol does.  With
 * a byte that is another one than before it must not be able to.
 */
static void stream_loads(unsigned int protocol, bool damaged)
{
	struct stream s;
	struct dev d;
	bool loaded;

	stream_take(&s);
	expect(s.size > type_bytes);
	expect(!dev_create(&d, type, 0));
	expect(!dev_open(&d));
	if (damaged)
		s.data[s.size / 2] ^= 1;
	if (protocol == 2) {
		loaded = !v2_load(&d, &s, 1 << 16) && v2_get(&d) == V2_RUNNING;
	} else {
		expect(!dev_map(&d));
		loaded = !resume(&d, &s, BY_MMAP, 1 << 16) &&
			 state_get(&d) == RUNNING;
	}
	expect(loaded != damaged);
	if (loaded)
		device_check(&d);
	dev_close(&d);
	expect(!dev_remove(&d));
	stream_free(&s);
}

static void stream_goes(struct client *source, unsigned int protocol)
{
	begin(source);
	migrate_to_file();
	stream_loads(protocol, false);
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
 * Between machines
 *
 * The stream goes through memory that another machine has as well, at the same time or
 * later.  Where the memory is large enough for all of it nobody has to take it at the
 * other end meanwhile.
 */

/* One for each direction, half of the memory each, all 0 at first */
struct channel {
	__u64 written, read;	/* so many bytes of the stream */
	__u32 whole;		/* it has come to its end */
	__u32 left;		/* the guest has, and these are known: */
	__u32 round;		/* its last one */
	__u32 begun;		/* so much it has said of the next one: */
	char line[sizeof(guest_text)];
	__u64 saved;		/* bytes of the device's state */
	char data[];		/* a ring */
};

static struct channel *channels[2], *channel;
static size_t ring_bytes;

/* What the other machine is told to be there is there. */
#define told(field)		__atomic_load_n(field, __ATOMIC_ACQUIRE)
#define tell(field, value)	__atomic_store_n(field, value, __ATOMIC_RELEASE)

/* Nothing wakes who waits for what another machine writes. */
#define await(condition) ({						\
	long long end_ = now_ms() + LIMIT * 1000LL;			\
	bool met_;							\
									\
	while (!(met_ = (condition)) && now_ms() < end_)		\
		usleep(1000); /* the pace of looking */			\
	met_;								\
})

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* From a file to the other machine, until it ends */
static bool carry_out(int fd)
{
	size_t at = 0, room;
	ssize_t n;

	do {
		if (!await(at - told(&channel->read) < ring_bytes))
			return false;
		room = ring_bytes - (at - told(&channel->read));
		n = read(fd, channel->data + at % ring_bytes,
			 least(room, ring_bytes - at % ring_bytes));
		if (n < 0)
			return false;
		at += n;
		tell(&channel->written, at);
	} while (n);
	tell(&channel->whole, 1);

	return true;
}

/* And from there to a file */
static bool carry_in(int fd)
{
	size_t at = 0, left;
	bool whole;
	ssize_t n;

	do {
		if (!await(told(&channel->whole) || told(&channel->written) != at))
			return false;
		/* In this order: nothing is written behind the end. */
		whole = told(&channel->whole);
		left = told(&channel->written) - at;
		n = write(fd, channel->data + at % ring_bytes,
			  least(left, ring_bytes - at % ring_bytes));
		if (n < 0)
			return false;
		at += n;
		tell(&channel->read, at);
	} while (n || !whole);

	return true;
}

/* The process that does one or the other, for a QEMU that has to be talked to */
static pid_t carrier;

static void carry(bool (*carry_stream)(int fd), int flags)
{
	int fd;

	carrier = fork();
	if (!carrier) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = open(FIFO, flags | O_CLOEXEC);
		_exit(fd < 0 || !carry_stream(fd));
	}
	expect(carrier > 0);
}

static bool carried(void)
{
	bool ended;
	int status;

	ended = waitpid(carrier, &status, 0) == carrier && !status;
	carrier = 0;

	return ended;
}

static void carrier_end(void)
{
	if (carrier > 0 && !kill(carrier, SIGKILL))
		carried();
}

/* The guest is the one that has come, or one that begins here. */
static void leaves(void)
{
	if (!from->pid)
		begin(client);
	carry(carry_out, O_RDONLY);
	migrate_to("exec:cat >" FIFO);
	expect(carried());
	channel->round = guest_round;
	channel->begun = guest_len;
	memcpy(channel->line, guest_text, guest_len);
	channel->saved = fact(from, "bytes_saved");
	expect(channel->saved > type_bytes);
	tell(&channel->left, 1);
	migrations++;
}

/* Rounds follow the last one that was heard of in the other machine. */
static void has_left(void)
{
	expect(await(told(&channel->left)));
	guest_round = channel->round;
	guest_len = channel->begun;
	memcpy(guest_text, channel->line, guest_len);
}

static void arrives(void)
{
	devices_begin();
	vm_start(from, client, "exec:cat <" FIFO);
	carry(carry_in, O_WRONLY);
	has_left();
	rounds();
	expect(carried());
	expect(fact(from, "state") == 1);
	expect(fact(from, "bytes_loaded") == (long long)channel->saved);
}

/* How QEMU calls the device's section of the stream */
#define OF_DEVICE	"/vfio)"

/*
 * A byte of the device's state has become another one on the way: no guest goes on with
 * that.  The stream has to be whole, and is as it was afterwards.
 */
static void damaged(void)
{
	__u64 size;
	char *byte;
	bool ended;

	expect(told(&channel->whole) && told(&channel->written) <= ring_bytes);
	byte = memmem(channel->data, channel->written, piece_mark,
		      sizeof(piece_mark));
	expect(byte);
	memcpy(&size, byte + sizeof(piece_mark), sizeof(size));
	byte += sizeof(piece_mark) + sizeof(size) + be64toh(size) / 2;
	expect(byte < channel->data + channel->written);
	devices_begin();
	vm_start(from, client, "exec:cat <" FIFO);
	*byte ^= 1;
	carry(carry_in, O_WRONLY);
	ended = wait_for(!from->pid);
	*byte ^= 1;
	log_print();
	expect(ended);
	/* It has come to the device's section, and no further. */
	expect(log_has(OF_DEVICE));
}

/*
 * The same where QEMU does not take the stream: a client of our own takes what is the
 * device's.
 */

static void stream_comes(void)
{
	int fd;

	devices_begin();
	fd = open(STATE_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	expect(fd >= 0);
	expect(carry_in(fd));
	close(fd);
	has_left();
}

static void stream_arrives(void)
{
	stream_comes();
	vm_spawn(from, client, "exec:cat <" STATE_FILE);
	expect(wait_for(!from->pid));
	log_print();
	stream_loads(client->protocol, false);
}

static void stream_damaged(void)
{
	stream_comes();
	stream_loads(client->protocol, true);
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
	carrier_end();
	/* What has come from another machine may leave for it again. */
	if (!ok || !channel) {
		vm_end(&vms[0]);
		vm_end(&vms[1]);
	}
	if (!ok) {
		log_print();
		devs_remove_all();
	}
	ksft_test_result(ok, "%s\n", name);
}

/* Of a guest that goes to another machine, and of one that comes back from there */
static const struct {
	const char *name;
	int channel;
	void (*run)(void);
	void (*stream)(void);	/* where QEMU does not take it */
} steps[] = {
	{ "leaves", 0, leaves },
	{ "damaged", 0, damaged, stream_damaged },
	{ "arrives", 0, arrives, stream_arrives },
	{ "leaves_again", 1, leaves },
	{ "damaged_again", 1, damaged, stream_damaged },
	{ "arrives_again", 1, arrives, stream_arrives },
};

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

static struct client *client_of(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(clients); i++)
		if (!strcmp(clients[i].name, name))
			return &clients[i];

	return NULL;
}

static void arguments(const char *name, const char *size)
{
	static char text[32];
	unsigned int i;

	client = client_of(name);
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

static void channels_map(const char *path)
{
	struct stat st;
	char *memory;
	int fd;

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	memory = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	close(fd);
	channels[0] = (struct channel *)memory;
	channels[1] = (struct channel *)(memory + st.st_size / 2);
	ring_bytes = st.st_size / 2 - sizeof(struct channel);
}

static void step_run(const char *step)
{
	bool whole = peer->config_first == client->config_first;
	char name[64];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps); i++) {
		if (strcmp(steps[i].name, step))
			continue;
		channel = channels[steps[i].channel];
		if (whole || !steps[i].stream) {
			case_run(step, steps[i].run);
		} else {
			snprintf(name, sizeof(name), "stream_%s", step);
			case_run(name, steps[i].stream);
		}
		return;
	}
	ksft_exit_fail_msg("no step %s\n", step);
}

static void across(const char *name, const char *memory, char **step, int count)
{
	peer = client_of(name);
	if (!peer)
		ksft_exit_fail_msg("no client %s\n", name);
	if (mkfifo(FIFO, 0600))
		ksft_exit_fail_msg(FIFO ": %s\n", strerror(errno));
	channels_map(memory);
	ksft_set_plan(count);
	while (count--)
		step_run(*step++);
	vm_end(from);
	unlink(FIFO);
}

/* In one machine; with @all also each of the other releases' */
static void alone_and_with_others(bool all)
{
	unsigned int i, peers = 0, planned = ARRAY_SIZE(cases);
	void (*crosses)(void);
	char name[64];
	bool whole;

	if (!all)
		planned--;
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
}

int main(int argc, char **argv)
{
	bool all = argc > 2;
	unsigned int i;
	FILE *rom;

	ksft_print_header();
	command_lines();
	arguments(all ? argv[1] : "trixie", all ? argv[2] : "1m");
	many = all ? MIGRATIONS : FEW;
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

	if (argc > 5)
		across(argv[3], argv[4], argv + 5, argc - 5);
	else
		alone_and_with_others(all);
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
