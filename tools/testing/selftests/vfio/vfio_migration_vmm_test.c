// SPDX-License-Identifier: GPL-2.0-only
/*
 * What must a program do that migrates a guest with a VFIO device, and which of it
 * does this one not do?
 *
 * vfio_migration_vmm_test PROGRAM ARGUMENT...: runs PROGRAM ARGUMENT... FROM TO
 * three times, with two mscratch devices by their folders in sysfs.  It is to start
 * a guest with the device FROM and to migrate it to where it has the device TO, by
 * whatever way, and to end with status 0 if that has worked, with another one if
 * not.  What it leaves running is ended.  In the environment, GUEST is the guest of
 * vfio_migration_region_qemu_test, a ROM in the place of a PC's BIOS.  The second
 * time FROM fails to save, the third time TO fails to load.
 *
 * What the program does is seen by what it asks the kernel for, and by the
 * tracepoints of the migration library: it need not know that it is looked at.
 *
 * vfio_migration_vmm_test broken: the same with a client of its own, which leaves
 * out one thing after the other.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "vfio_migration_region_guest.h"
#include "vfio_migration_v2_lib.h"
#include "mscratch.h"

#define TRACEFS		"/sys/kernel/tracing/"
#define DEVICES		"/sys/bus/mdev/devices/"
#define CREATE		"/sys/class/mdev_bus/mscratch/mdev_supported_types/mscratch-1m/create"
#define DEBUGFS		"/sys/kernel/debug/vfio_migration_region/"
#define ROM		"/tmp/vfio_migration_vmm_guest.bin"
#define LOG_FILE	"/tmp/vfio_migration_vmm.log.%u"

/* Seconds for the program, and for its guest to run behind it, on a busy host */
#define LIMIT		300

/* The guest, see the header */
asm(".pushsection .rodata\n"
	"guest_rom: .incbin \"" GUEST_ROM "\"\n"
	"guest_rom_end:\n"
	".popsection");

/* The two devices */
enum { FROM, TO, SIDES };

static const char * const uuids[SIDES] = {
	"5c47a003-0000-4000-8000-000000000000",
	"5c47a003-0000-4000-8000-000000000001",
};

/* What is looked for, in this order */
enum item {
	FROM_OPENED,
	FROM_MAPPED,
	FROM_ASKED,
	LOG_STARTED,
	STOPPED,
	LOG_READ,
	READ_ALL,
	TO_OPENED,
	TO_MAPPED,
	TO_ASKED,
	LOADED,
	WROTE_ALL,
	LOAD_ENDED,
	RUNS,
	NOT_REFUSED,
	SAYS_YES,
	SAVE_SAYS_NO,
	SAVE_GOES_ON,
	LOAD_SAYS_NO,
	LOAD_STAYS,
	LOAD_GOES_ON,
	ITEMS
};

static const char * const texts[ITEMS] = {
	[FROM_OPENED] = "source: opens a container and the group, gets the device",
	[FROM_MAPPED] = "source: maps the guest's memory for the device",
	[FROM_ASKED] = "source: asks how the device migrates",
	[LOG_STARTED] = "source: lets dirty pages be logged before the device stops",
	[STOPPED] = "source: stops the device and saves what is left (STOP_COPY)",
	[LOG_READ] = "source: takes the dirty pages after the device has stopped",
	[READ_ALL] = "source: reads the state until its end",
	[TO_OPENED] = "destination: opens a container and the group, gets the device",
	[TO_MAPPED] = "destination: maps the guest's memory before the device runs",
	[TO_ASKED] = "destination: asks how the device migrates",
	[LOADED] = "destination: loads (RESUMING)",
	[WROTE_ALL] = "destination: writes all that was read",
	[LOAD_ENDED] = "destination: ends loading, and the device takes it",
	[RUNS] = "destination: lets the device run",
	[NOT_REFUSED] = "both: ask for no state, and for nothing else, that is refused",
	[SAYS_YES] = "the program says that it has worked",
	[SAVE_SAYS_NO] = "a device that fails to save: the program says so",
	[SAVE_GOES_ON] = "a device that fails to save: it runs again at the source",
	[LOAD_SAYS_NO] = "a device that fails to load: the program says so",
	[LOAD_STAYS] = "a device that fails to load: it does not run at the destination",
	[LOAD_GOES_ON] = "a device that fails to load: the other one runs again at the source",
};

/* Why it is not so, "" if it is */
static char missing[ITEMS][160];

static void miss(enum item i, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(missing[i], sizeof(missing[i]), fmt, ap);
	va_end(ap);
}

static void want(enum item i, bool seen, const char *why)
{
	if (!seen)
		miss(i, "%s", why);
}

/*
 * What is seen
 */

enum kind {
	ASK,		/* an ioctl of VFIO, and what came of it */
	STEP,		/* of the device, from a state to the next */
	CHUNK,		/* of the state, saved or loaded */
	REFUSE,		/* the library does not take what it gets */
	READ_END,	/* a read of the state found none */
	WRITE_REFUSED	/* of the state, by the region or the descriptor */
};

struct event {
	enum kind kind;
	int thread, process;
	/* ASK: the descriptor, and the first words behind the pointer */
	int fd;
	unsigned int cmd, word[3];
	long long ret;
	bool device;	/* that is what it was asked */
	int side;	/* whose it is, -1 if that is not known */
	char name[40];
	/* STEP */
	char state[16];
	/* CHUNK */
	bool load;
	unsigned long long bytes;
	char text[96];	/* REFUSE */
};

static struct event *events;
static unsigned int nr_events;

/*
 * The system call tells the descriptor and the question; VFIO's own functions end
 * with the answer, and are called for nothing else.
 */
static const char * const probes[] = {
	"p:vmm/ask __x64_sys_ioctl fd=+0x70(%di):s32 cmd=+0x68(%di):x32 a=+u0(+0x60(%di)):x32 b=+u4(+0x60(%di)):x32 c=+u8(+0x60(%di)):x32",
	"p:vmm/name __x64_sys_ioctl cmd=+0x68(%di):x32 name=+u0(+0x60(%di)):ustring",
	"r:vmm/container vfio:vfio_fops_unl_ioctl ret=$retval:s64",
	"r:vmm/group vfio:vfio_group_fops_unl_ioctl ret=$retval:s64",
	"r:vmm/device vfio:vfio_device_fops_unl_ioctl ret=$retval:s64",
	"r:vmm/read vfio_migration_region:vfm_v2_read ret=$retval:s64",
	"r:vmm/write vfio_migration_region:vfm_v2_write ret=$retval:s64",
	"r:vmm/region vfio_migration_region:vfio_migration_region_write ret=$retval:s64",
};

static const struct {
	const char *event, *filter;
} filters[] = {
	{ "ask", "cmd >= 0x3b64 && cmd <= 0x3bff" },
	{ "name", "cmd == 0x3b6a" },
	{ "read", "ret == 0" },
	{ "write", "ret < 0" },
	{ "region", "ret < 0" },
};

static void must(int ret, const char *what)
{
	if (ret)
		ksft_exit_fail_msg("%s: %s\n", what, strerror(-ret));
}

static void tracing_write(const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), TRACEFS "%s", file);
	must(file_write(path, text), path);
}

/* What was seen until now */
static void trace_clear(void)
{
	int fd = open(TRACEFS "trace", O_WRONLY | O_TRUNC | O_CLOEXEC);

	must(fd < 0 ? -errno : 0, TRACEFS "trace");
	close(fd);
}

static void probes_make(void)
{
	char file[64];
	unsigned int i;
	int fd;

	tracing_write("buffer_size_kb", "4096");
	tracing_write("options/record-tgid", "1");
	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		fd = open(TRACEFS "kprobe_events", O_WRONLY | O_APPEND | O_CLOEXEC);
		if (fd < 0 || write(fd, probes[i], strlen(probes[i])) < 0)
			ksft_exit_fail_msg("%s: %s\n", probes[i], strerror(errno));
		close(fd);
	}
	for (i = 0; i < ARRAY_SIZE(filters); i++) {
		snprintf(file, sizeof(file), "events/vmm/%s/filter",
			 filters[i].event);
		tracing_write(file, filters[i].filter);
	}
}

static void probes_enable(const char *on)
{
	tracing_write("events/vmm/enable", on);
	tracing_write("events/vfio_migration/enable", on);
}

/* What is left of them keeps the modules */
static void probes_remove(void)
{
	unsigned int i;
	char text[64];
	int fd;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		snprintf(text, sizeof(text), "-:%.*s",
			 (int)strcspn(probes[i] + 2, " "), probes[i] + 2);
		fd = open(TRACEFS "kprobe_events", O_WRONLY | O_APPEND | O_CLOEXEC);
		if (fd < 0 || write(fd, text, strlen(text)) < 0)
			printf("# %s: %s\n", text, strerror(errno));
		close(fd);
	}
	trace_clear();
	tracing_write("options/record-tgid", "0");
}

static int side_of(const char *name)
{
	int side;

	for (side = 0; side < SIDES; side++)
		if (!strncmp(name, uuids[side], strlen(uuids[side])))
			return side;

	return -1;
}

/* The question of this thread that has no answer yet */
static struct event *asked(int thread)
{
	unsigned int i;

	for (i = nr_events; i--;)
		if (events[i].kind == ASK && events[i].thread == thread)
			return events[i].ret == LLONG_MIN ? &events[i] : NULL;

	return NULL;
}

/* "comm-THREAD (PROCESS) [cpu] flags time: EVENT: ..." */
static void line_take(char *line)
{
	static char name[40];
	static int name_thread;
	char *p = strstr(line, ") ["), *end, *event, *what;
	struct event e = { .side = -1, .ret = LLONG_MIN }, *of;
	long long ret = 0;

	if (!p || line[0] == '#')
		return;
	for (end = p; end > line && *end != '('; end--)
		;
	e.process = atoi(end + 1);
	for (end--; end > line && *end == ' '; end--)
		;
	for (; end > line && *end >= '0' && *end <= '9'; end--)
		;
	e.thread = atoi(end + 1);
	if (!e.process)
		e.process = e.thread;
	event = strstr(p, ": ");
	if (!event)
		return;
	event += 2;
	what = strstr(event, ": ");
	if (!what)
		return;
	*what = '\0';
	what += 2;
	if (*what == '(' && strstr(what, ") "))
		what = strstr(what, ") ") + 2;
	what[strcspn(what, "\n")] = '\0';
	if (!strncmp(what, "ret=", 4))
		ret = atoll(what + 4);

	if (!strcmp(event, "ask")) {
		e.kind = ASK;
		if (sscanf(what, "fd=%d cmd=%x a=%x b=%x c=%x", &e.fd, &e.cmd,
			   &e.word[0], &e.word[1], &e.word[2]) != 5)
			return;
	} else if (!strcmp(event, "name")) {
		p = strstr(what, "name=\"");
		snprintf(name, sizeof(name), "%.36s", p ? p + 6 : "");
		name_thread = e.thread;
		return;
	} else if (!strcmp(event, "container") || !strcmp(event, "group") ||
		   !strcmp(event, "device")) {
		of = asked(e.thread);
		if (!of)
			return;
		of->ret = ret;
		of->device = !strcmp(event, "device");
		if (name_thread == e.thread)
			memcpy(of->name, name, sizeof(name));
		return;
	} else if (!strcmp(event, "read")) {
		e.kind = READ_END;
	} else if (!strcmp(event, "write") || !strcmp(event, "region")) {
		e.kind = WRITE_REFUSED;
		e.ret = ret;
	} else if (!strcmp(event, "vfio_migration_step")) {
		e.kind = STEP;
		e.side = side_of(what);
		p = strstr(what, "-> ");
		if (!p || sscanf(p, "-> %15s ret=%lld", e.state, &e.ret) != 2)
			return;
	} else if (!strcmp(event, "vfio_migration_chunk")) {
		e.kind = CHUNK;
		e.side = side_of(what);
		e.load = strstr(what, " load");
		p = strstr(what, "bytes=");
		e.bytes = p ? strtoull(p + 6, NULL, 10) : 0;
	} else if (!strcmp(event, "vfio_migration_refuse")) {
		e.kind = REFUSE;
		e.side = side_of(what);
		p = strstr(what, ": ");
		snprintf(e.text, sizeof(e.text), "%.90s", p ? p + 2 : what);
	} else {
		return;
	}
	events = realloc(events, (nr_events + 1) * sizeof(*events));
	if (!events)
		ksft_exit_fail_msg("no memory\n");
	events[nr_events++] = e;
}

/*
 * Whose descriptor a question was for.  Numbers are used again: the last one that
 * got this number before, for a container the last group that joined it.
 */
static int device_side(unsigned int at)
{
	const struct event *e = &events[at];
	unsigned int i;

	for (i = at; i--;)
		if (events[i].kind == ASK && events[i].cmd == VFIO_GROUP_GET_DEVICE_FD &&
		    events[i].process == e->process && events[i].ret == e->fd)
			return side_of(events[i].name);

	return -1;
}

static int group_side(int process, int group, unsigned int at)
{
	unsigned int i;

	for (i = at; i < nr_events; i++)
		if (events[i].kind == ASK && events[i].cmd == VFIO_GROUP_GET_DEVICE_FD &&
		    events[i].process == process && events[i].fd == group &&
		    events[i].ret >= 0)
			return side_of(events[i].name);

	return -1;
}

static int container_side(unsigned int at)
{
	const struct event *e = &events[at];
	unsigned int i;

	for (i = at; i--;)
		if (events[i].kind == ASK && events[i].cmd == VFIO_GROUP_SET_CONTAINER &&
		    events[i].process == e->process && !events[i].ret &&
		    (int)events[i].word[0] == e->fd)
			return group_side(e->process, events[i].fd, i);

	return -1;
}

static void events_read(void)
{
	FILE *f = fopen(TRACEFS "trace", "re");
	char line[1024];
	unsigned int i;

	nr_events = 0;
	while (f && fgets(line, sizeof(line), f))
		line_take(line);
	if (f)
		fclose(f);
	for (i = 0; i < nr_events; i++) {
		struct event *e = &events[i];

		if (e->kind != ASK)
			continue;
		if (e->cmd == VFIO_GROUP_GET_DEVICE_FD)
			e->side = side_of(e->name);
		else if (e->device)
			e->side = device_side(i);
		else
			e->side = container_side(i);
	}
}

/*
 * What must be among it
 */

/* What the questions are to a device that have this number as well */
static bool is_feature(const struct event *e, unsigned int feature, unsigned int how)
{
	return e->kind == ASK && e->cmd == VFIO_DEVICE_FEATURE && e->device &&
	       (e->word[1] & VFIO_DEVICE_FEATURE_MASK) == feature &&
	       (e->word[1] & how);
}

static bool is_log(const struct event *e, unsigned int flag)
{
	return e->kind == ASK && e->cmd == VFIO_IOMMU_DIRTY_PAGES && !e->device &&
	       e->word[1] == flag && !e->ret;
}

static bool is_step(const struct event *e, int side, const char *state)
{
	return e->kind == STEP && e->side == side && !e->ret &&
	       !strcmp(e->state, state);
}

/* The first event from @at on, nr_events if there is none */
static unsigned int step_from(unsigned int at, int side, const char *state)
{
	while (at < nr_events && !is_step(&events[at], side, state))
		at++;

	return at;
}

static void side_judge(int side, enum item opened, enum item mapped,
		       enum item asks)
{
	unsigned int i, runs = nr_events;
	bool open = false, map = false, ask = false;

	if (side == TO)
		runs = step_from(0, TO, "RUNNING");
	for (i = 0; i < nr_events; i++) {
		const struct event *e = &events[i];

		if (e->side != side || e->kind != ASK || e->ret < 0)
			continue;
		open |= e->cmd == VFIO_GROUP_GET_DEVICE_FD;
		map |= e->cmd == VFIO_IOMMU_MAP_DMA && i < runs;
		ask |= is_feature(e, V2_MIGRATION, VFIO_DEVICE_FEATURE_GET);
		ask |= e->cmd == VFIO_DEVICE_GET_REGION_INFO &&
		       e->word[2] == MSCRATCH_MIGRATION_REGION;
	}
	want(opened, open, "VFIO_GROUP_GET_DEVICE_FD was not called with its UUID");
	want(mapped, map, side == TO && runs < nr_events ?
	     "no VFIO_IOMMU_MAP_DMA before it ran" : "no VFIO_IOMMU_MAP_DMA");
	want(asks, ask,
	     "neither VFIO_DEVICE_FEATURE_MIGRATION nor the info of its migration region");
}

/* The migration with which nothing is wrong */
static void migration_judge(int status)
{
	unsigned int stop = step_from(0, FROM, "STOP_COPY"), i, end;
	unsigned int resuming = step_from(0, TO, "RESUMING");
	unsigned long long saved = 0, loaded = 0;
	bool started = false, precopy, read_log = false, read_end = false;
	bool features = false;

	side_judge(FROM, FROM_OPENED, FROM_MAPPED, FROM_ASKED);
	side_judge(TO, TO_OPENED, TO_MAPPED, TO_ASKED);
	precopy = step_from(0, FROM, "PRE_COPY") < nr_events;
	for (i = 0; i < nr_events; i++) {
		const struct event *e = &events[i];

		if (e->side == FROM && is_log(e, VFIO_IOMMU_DIRTY_PAGES_FLAG_START))
			started |= i < stop;
		if (e->side == FROM && is_log(e, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP))
			read_log |= i > stop;
		if (e->side == FROM &&
		    is_feature(e, V2_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET))
			features = true;
		if (e->kind == READ_END)
			read_end |= i > stop;
		if (e->kind == CHUNK && e->side == FROM && !e->load)
			saved += e->bytes;
		if (e->kind == CHUNK && e->side == TO && e->load)
			loaded += e->bytes;
	}
	end = step_from(resuming, TO, "STOP");

	/* Who stops the guest before anything is copied needs no log. */
	if (precopy || started) {
		want(LOG_STARTED, started,
		     "no VFIO_IOMMU_DIRTY_PAGES with START before it stopped");
		want(LOG_READ, read_log,
		     "no VFIO_IOMMU_DIRTY_PAGES with GET_BITMAP after that");
	}
	want(STOPPED, stop < nr_events, "it never was in STOP_COPY");
	/* With the region the end is what the destination takes for one. */
	if (features)
		want(READ_ALL, read_end, "no read() that returned 0 in STOP_COPY");
	else
		want(READ_ALL, end < nr_events, "the destination has seen no end of it");
	want(LOADED, resuming < nr_events, "it never was in RESUMING");
	if (!saved || saved != loaded)
		miss(WROTE_ALL, "%llu bytes were saved, %llu loaded", saved, loaded);
	want(LOAD_ENDED, end < nr_events, "it did not get from RESUMING to STOP");
	want(RUNS, step_from(end, TO, "RUNNING") < nr_events,
	     "it did not get to RUNNING after that");
	for (i = 0; i < nr_events && !missing[NOT_REFUSED][0]; i++) {
		const struct event *e = &events[i];

		if (e->kind == STEP && e->ret)
			miss(NOT_REFUSED, "the step to %s: %s", e->state,
			     strerror(-e->ret));
		else if (e->kind == REFUSE)
			miss(NOT_REFUSED, "the state: %s", e->text);
		else if (e->kind == WRITE_REFUSED)
			miss(NOT_REFUSED, "a write: %s", strerror(-e->ret));
		else if (is_feature(e, V2_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET) &&
			 e->ret < 0)
			miss(NOT_REFUSED, "state %u: %s", e->word[2],
			     strerror(-e->ret));
	}
	if (status)
		miss(SAYS_YES, "its status was %d", status);
}

/* Whatever it was that failed, the guest is still at the source. */
static void goes_on_judge(enum item goes_on)
{
	unsigned int i = 0;

	while (i < nr_events && !is_step(&events[i], FROM, "PRE_COPY") &&
	       !is_step(&events[i], FROM, "STOP_COPY"))
		i++;
	want(goes_on, step_from(i, FROM, "RUNNING") < nr_events,
	     i == nr_events ? "nothing was saved" :
	     "it did not get to RUNNING after that");
}

static void save_failure_judge(int status)
{
	want(SAVE_SAYS_NO, status, "its status was 0");
	goes_on_judge(SAVE_GOES_ON);
}

static void load_failure_judge(int status)
{
	unsigned int resuming = step_from(0, TO, "RESUMING");

	want(LOAD_SAYS_NO, status, "its status was 0");
	if (resuming == nr_events)
		miss(LOAD_STAYS, "nothing was loaded");
	else if (step_from(resuming, TO, "RUNNING") < nr_events)
		miss(LOAD_STAYS, "it got to RUNNING");
	goes_on_judge(LOAD_GOES_ON);
}

/*
 * The program
 */

static bool device_runs(int side)
{
	char path[128], text[8] = "";
	int fd;

	snprintf(path, sizeof(path), DEBUGFS "%s/state", uuids[side]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	close(fd);

	return atoi(text) == 1;
}

static void fault_set(int side, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), DEBUGFS "%s/%s", uuids[side], name);
	must(file_write(path, "1"), path);
}

static void devices_make(void)
{
	int side;

	for (side = 0; side < SIDES; side++)
		must(file_write(CREATE, uuids[side]), CREATE);
}

static void devices_remove(void)
{
	char path[128];
	int side;

	for (side = 0; side < SIDES; side++) {
		snprintf(path, sizeof(path), DEVICES "%s/remove", uuids[side]);
		must(file_write(path, "1"), path);
	}
}

/* The three times, and the status that each has ended with */
enum { WELL, SAVE_FAILS, LOAD_FAILS, RUNS_IN_ALL };

static int statuses[RUNS_IN_ALL];

/* What the program had to say */
static void logs_print(void)
{
	static const char * const when[] = {
		"nothing is wrong", "the device cannot save", "the device cannot load",
	};
	char path[64], line[512];
	unsigned int i;
	FILE *f;

	for (i = 0; i < RUNS_IN_ALL; i++) {
		printf("# when %s, it ends with status %d and says:\n", when[i],
		       statuses[i]);
		snprintf(path, sizeof(path), LOG_FILE, i);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			printf("#   %s%s", line, strchr(line, '\n') ? "" : "\n");
		if (f)
			fclose(f);
	}
}

/*
 * Its status, 128 if it has none of its own.  What it has left running may take a
 * while until the device runs on @side.
 */
static int program_run(char * const argv[], unsigned int run, int side)
{
	const struct timespec pace = { 0, 20 * 1000000L };
	struct pollfd pfd = { .events = POLLIN };
	char log[64];
	int status = 0, fd;
	time_t end;
	pid_t pid;

	snprintf(log, sizeof(log), LOG_FILE, run);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		setsid();
		fd = open("/dev/null", O_RDONLY);
		dup2(fd, 0);
		fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		setenv("GUEST", ROM, 1);
		setenv("PATH", "/bin:/usr/bin:/sbin:/usr/sbin", 1);
		execv(argv[0], argv);
		printf("%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	if (pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	pfd.fd = syscall(SYS_pidfd_open, pid, 0);
	if (poll(&pfd, 1, LIMIT * 1000) == 1) {
		waitpid(pid, &status, 0);
		status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
	} else {
		printf("# it had not ended after %d seconds\n", LIMIT);
		status = 128;
	}
	close(pfd.fd);
	end = time(NULL) + LIMIT;
	while (waitpid(-1, NULL, WNOHANG) >= 0 && !device_runs(side) &&
	       time(NULL) < end)
		nanosleep(&pace, NULL);

	kill(-pid, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;

	return status;
}

/* Three times, and what is missing after that */
static void program_check(char * const argv[])
{
	static const struct {
		int side;		/* which one fails */
		const char *fault;
		int runs;		/* which one the guest is with after that */
		void (*judge)(int status);
	} runs[RUNS_IN_ALL] = {
		[WELL] = { TO, NULL, TO, migration_judge },
		[SAVE_FAILS] = { FROM, "fail_save", FROM, save_failure_judge },
		[LOAD_FAILS] = { TO, "fail_load", FROM, load_failure_judge },
	};
	unsigned int i;

	memset(missing, 0, sizeof(missing));
	for (i = 0; i < RUNS_IN_ALL; i++) {
		devices_make();
		if (runs[i].fault)
			fault_set(runs[i].side, runs[i].fault);
		trace_clear();
		probes_enable("1");
		statuses[i] = program_run(argv, i, runs[i].runs);
		probes_enable("0");
		events_read();
		runs[i].judge(statuses[i]);
		devices_remove();
	}
}

static const char *path_of(int side)
{
	static char paths[SIDES][64];

	snprintf(paths[side], sizeof(paths[side]), DEVICES "%s", uuids[side]);

	return paths[side];
}

/*
 * A client of our own, which may leave something out
 */

static const char *leaves_out = "";

static bool leaves(const char *what)
{
	return !strcmp(leaves_out, what);
}

static int client_open(struct dev *d, const char *path, void *memory, bool map)
{
	char link[256], base[64];
	int ret;
	__u64 flags;

	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s", strrchr(path, '/') + 1);
	snprintf(link, sizeof(link), "%s/iommu_group", path);
	ret = link_base(link, base, sizeof(base));
	d->group = atoi(base);
	ret = ret ?: dev_open(d);
	ret = ret ?: v2_flags(d, &flags);
	if (!ret && map)
		ret = container_map(d->u.container, memory, 0, PAGE);

	return ret;
}

/* What there is, until a read says that it is all, or just until it is */
static int client_read(int fd, struct stream *s)
{
	long n;

	if (!leaves("end"))
		return v2_drain(fd, s, 1 << 16);
	/* A read is short when nothing is left. */
	do {
		n = v2_read(fd, s->data + s->size, 1 << 16);
		if (n > 0)
			s->size += n;
	} while (n == 1 << 16);

	return n < 0 ? n : 0;
}

static int client_save(struct dev *a, struct stream *s)
{
	__u64 bitmap;
	int fd = -1, rest, ret;

	ret = leaves("log") ? 0 : dirty_start(a->u.container);
	ret = ret ?: v2_set(a, V2_RUNNING_SAVING, &fd);
	if (!ret) {
		ret = v2_drain(fd, s, 1 << 16);
		ret = ret == 1 ? 0 : ret;
	}
	ret = ret ?: v2_set(a, V2_SAVING, &rest);
	if (!ret && leaves("order"))
		v2_go(a, V2_RUNNING_SAVING);
	if (!ret && !leaves("log") && !leaves("bitmap"))
		ret = dirty_get(a->u.container, 0, 1, &bitmap);
	ret = ret ?: client_read(fd, s);
	if (fd >= 0)
		close(fd);

	return ret;
}

static int client(const char *from, const char *to)
{
	void *memory = page_alloc(PAGE);
	struct stream s = {};
	struct dev a, b;
	int ret, fd;

	ret = client_open(&a, from, memory, !leaves("memory"));
	if (ret)
		return 2;
	ret = client_save(&a, &s);
	if (ret && leaves("save-error"))
		return 0;
	if (ret) {
		v2_go(&a, V2_RUNNING);
		return 1;
	}
	if (client_open(&b, to, memory, !leaves("memory-there")))
		return 2;
	if (leaves("rest"))
		s.size -= 8;
	ret = v2_set(&b, V2_RESUMING, &fd);
	ret = ret ?: v2_fill(fd, s.data, s.size, 1 << 16);
	if (ret && leaves("load-error"))
		ret = 0;
	else
		ret = ret ?: v2_go(&b, leaves("run") ? V2_STOPPED : V2_RUNNING);
	if (ret) {
		if (!leaves("source"))
			v2_go(&a, V2_RUNNING);
		return 1;
	}
	if (leaves("answer"))
		return 1;

	return 0;
}

#define BIT(i)	(1U << (i))

static const struct {
	const char *what;
	unsigned int misses;
} broken[] = {
	{ "nothing", 0 },
	{ "memory", BIT(FROM_MAPPED) },
	{ "log", BIT(LOG_STARTED) | BIT(LOG_READ) },
	{ "bitmap", BIT(LOG_READ) },
	{ "end", BIT(READ_ALL) },
	{ "order", BIT(NOT_REFUSED) },
	{ "memory-there", BIT(TO_MAPPED) },
	{ "rest", BIT(WROTE_ALL) | BIT(LOAD_ENDED) | BIT(RUNS) | BIT(NOT_REFUSED) |
		  BIT(SAYS_YES) },
	{ "run", BIT(RUNS) },
	{ "answer", BIT(SAYS_YES) },
	{ "save-error", BIT(SAVE_SAYS_NO) | BIT(SAVE_GOES_ON) },
	{ "load-error", BIT(LOAD_SAYS_NO) | BIT(LOAD_GOES_ON) },
	{ "source", BIT(LOAD_GOES_ON) },
};

static void broken_clients(const char *self)
{
	unsigned int i, item, seen;

	ksft_set_plan(ARRAY_SIZE(broken));
	for (i = 0; i < ARRAY_SIZE(broken); i++) {
		char * const argv[] = {
			(char *)self, "client", (char *)broken[i].what,
			(char *)path_of(FROM), (char *)path_of(TO), NULL
		};

		program_check(argv);
		seen = 0;
		for (item = 0; item < ITEMS; item++) {
			if (!missing[item][0])
				continue;
			seen |= BIT(item);
			printf("# %s: %s\n", texts[item], missing[item]);
		}
		for (item = 0; item < ITEMS; item++)
			if (broken[i].misses & ~seen & BIT(item))
				printf("# not missed: %s\n", texts[item]);
		ksft_test_result(seen == broken[i].misses,
				 "a client that leaves out %s\n", broken[i].what);
	}
}

static void checklist(int argc, char **argv)
{
	char **args = calloc(argc + 2, sizeof(*args));
	unsigned int i, good = 0;
	int n;

	if (!args)
		ksft_exit_fail_msg("no memory\n");
	for (n = 1; n < argc; n++)
		args[n - 1] = argv[n];
	args[argc - 1] = (char *)path_of(FROM);
	args[argc] = (char *)path_of(TO);
	ksft_set_plan(ITEMS);
	program_check(args);
	for (i = 0; i < ITEMS; i++) {
		if (missing[i][0])
			printf("# %s\n", missing[i]);
		else
			good++;
		ksft_test_result(!missing[i][0], "%s\n", texts[i]);
	}
	logs_print();
	printf("# report %s: %u of %d steps\n", argv[1], good, ITEMS);
	free(args);
}

int main(int argc, char **argv)
{
	FILE *rom;

	if (argc == 5 && !strcmp(argv[1], "client")) {
		leaves_out = argv[2];
		return client(argv[3], argv[4]);
	}
	ksft_print_header();
	if (argc < 2)
		ksft_exit_fail_msg("name the program\n");
	rom = fopen(ROM, "we");
	if (!rom || fwrite(guest_rom, guest_rom_end - guest_rom, 1, rom) != 1 ||
	    fclose(rom))
		ksft_exit_fail_msg("%s: %s\n", ROM, strerror(errno));
	/* What the program has started, and does not wait for, is waited for here. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	params_default();
	probes_make();
	if (!strcmp(argv[1], "broken"))
		broken_clients("/proc/self/exe");
	else
		checklist(argc, argv);
	probes_remove();
	free(events);
	ksft_exit(!ksft_get_fail_cnt());
}
