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
 * time FROM fails to save, the third time TO fails to load.  If it does not come to
 * its end the first time, that was the last one.
 *
 * What the program does is seen by what it asks the kernel for, and by the
 * tracepoints of the migration library: it need not know that it is looked at.
 *
 * vfio_migration_vmm_test broken: the same with a client of its own, which leaves
 * out one thing after the other.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
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
#include <linux/kvm.h>

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

/* Seconds for the program and for its guest to run behind it, on a busy host */
#define LIMIT		300

/* The same from when a client of our own has made this file, and does nothing more */
#define HANG_LIMIT	2
#define HANG_FILE	"/tmp/vfio_migration_vmm.hangs"

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
	RUNS_ONCE,
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
	[RUNS_ONCE] = "source: does not let the device run again behind that",
	[NOT_REFUSED] = "both: ask for no state, and for nothing else, that is refused",
	[SAYS_YES] = "the program says that it has worked",
	[SAVE_SAYS_NO] = "a device that fails to save: the program says so",
	[SAVE_GOES_ON] = "a device that fails to save: it runs again at the source",
	[LOAD_SAYS_NO] = "a device that fails to load: the program says so",
	[LOAD_STAYS] = "a device that fails to load: it does not run at the destination",
	[LOAD_GOES_ON] = "a device that fails to load: the other one runs again at the source",
};

/*
 * Why it is not so, "" if it is.  Until something is known it is not: a program that
 * does nothing does nothing right.
 */
static char missing[ITEMS][160];

#define NOT_REACHED	"not reached: "

static void miss(enum item i, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(missing[i], sizeof(missing[i]), fmt, ap);
	va_end(ap);
}

static void want(enum item i, bool seen, const char *why)
{
	miss(i, "%s", seen ? "" : why);
}

static void nothing_is_known(void)
{
	enum item i;

	for (i = 0; i < ITEMS; i++)
		miss(i, i < SAVE_SAYS_NO ? "not reached" :
		     NOT_REACHED "it had not ended the first time");
}

static bool is_missing(enum item i)
{
	return missing[i][0];
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
	READ_REFUSED,	/* of the state, by the region or the descriptor */
	WRITE_REFUSED,	/* the same */
	GUEST_LOG	/* KVM is asked for the guest's dirty pages */
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
	"r:vmm/region_read vfio_migration_region:vfio_migration_region_read ret=$retval:s64",
	"r:vmm/region_write vfio_migration_region:vfio_migration_region_write ret=$retval:s64",
	"p:vmm/guest_log __x64_sys_ioctl cmd=+0x68(%di):x32",
};

static const struct {
	const char *event, *filter;
} filters[] = {
	{ "ask", "cmd >= 0x3b64 && cmd <= 0x3bff" },
	{ "name", "cmd == 0x3b6a" },
	/* There is none at present: -ENOMSG */
	{ "read", "ret <= 0 && ret != -42" },
	{ "write", "ret < 0" },
	{ "region_read", "ret < 0" },
	{ "region_write", "ret < 0" },
	/* KVM_GET_DIRTY_LOG */
	{ "guest_log", "cmd == 0x4010ae42" },
};

/* What a device that fails on demand gives: nothing else does */
#define FAILS		-EIO

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
	} else if (!strcmp(event, "read") || !strcmp(event, "region_read")) {
		e.kind = ret ? READ_REFUSED : READ_END;
		e.ret = ret;
	} else if (!strcmp(event, "write") || !strcmp(event, "region_write")) {
		e.kind = WRITE_REFUSED;
		e.ret = ret;
	} else if (!strcmp(event, "guest_log")) {
		e.kind = GUEST_LOG;
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
	unsigned int kept, written, i;
	char line[1024];

	nr_events = 0;
	while (f && fgets(line, sizeof(line), f)) {
		/* What was lost may be what was refused. */
		if (sscanf(line, "# entries-in-buffer/entries-written: %u/%u",
			   &kept, &written) == 2 && kept != written)
			ksft_exit_fail_msg("of %u events %u are left\n", written,
					   kept);
		line_take(line);
	}
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

/* From there on the device saves */
static bool is_pre_copy(const struct event *e)
{
	return is_step(e, FROM, "PRE_COPY") || is_step(e, FROM, "PRE_COPY_P2P");
}

/* @acts is the first thing that is done with the device's state, @runs the last */
static void side_judge(int side, unsigned int acts, unsigned int runs,
		       enum item opened, enum item mapped, enum item asks)
{
	bool open = false, map = false, sets = false;
	bool ask_feature = false, ask_region = false;
	unsigned int i;

	for (i = 0; i < nr_events; i++) {
		const struct event *e = &events[i];

		if (e->side != side || e->kind != ASK || e->ret < 0)
			continue;
		open |= e->cmd == VFIO_GROUP_GET_DEVICE_FD;
		map |= e->cmd == VFIO_IOMMU_MAP_DMA && i < runs;
		sets |= is_feature(e, V2_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET);
		if (i > acts)
			continue;
		ask_feature |= is_feature(e, V2_MIGRATION, VFIO_DEVICE_FEATURE_GET);
		ask_region |= e->cmd == VFIO_DEVICE_GET_REGION_INFO &&
			      e->word[2] == MSCRATCH_MIGRATION_REGION;
	}
	want(opened, open, "VFIO_GROUP_GET_DEVICE_FD was not called with its UUID");
	want(mapped, map, runs < nr_events ?
	     side == TO ? "no VFIO_IOMMU_MAP_DMA before it ran" :
			  "no VFIO_IOMMU_MAP_DMA before it stopped" :
	     "no VFIO_IOMMU_MAP_DMA");
	/* Who counts regions has not asked for a feature. */
	if (sets)
		want(asks, ask_feature,
		     "no VFIO_DEVICE_FEATURE_MIGRATION before its state is set by the other feature");
	else
		want(asks, ask_feature || ask_region,
		     "neither VFIO_DEVICE_FEATURE_MIGRATION nor the info of its migration region");
}

/* Where the source's device has stopped that is in STOP_COPY at @at */
static unsigned int stopped_at(unsigned int at)
{
	unsigned int i;

	for (i = at; i--;) {
		if (events[i].kind != STEP || events[i].side != FROM)
			continue;
		if (!is_step(&events[i], FROM, "STOP"))
			break;
		at = i;
	}

	return at;
}

/* @stop is where the device stops */
static void log_judge(unsigned int stop)
{
	bool started = false, taken = false, asked_kvm = false, needed = false;
	bool stopped = stop < nr_events;
	unsigned int i;

	for (i = 0; i < nr_events; i++) {
		const struct event *e = &events[i];

		if (e->side == FROM && is_log(e, VFIO_IOMMU_DIRTY_PAGES_FLAG_START))
			started |= i < stop;
		if (e->side == FROM && is_log(e, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP))
			taken |= i > stop;
		asked_kvm |= e->kind == GUEST_LOG && i < stop;
		needed |= is_pre_copy(e) && i < stop;
	}
	needed |= started || asked_kvm;

	/* Who stops the guest before anything is copied needs no log. */
	if (stopped && !needed) {
		want(LOG_STARTED, true, NULL);
		want(LOG_READ, true, NULL);
		return;
	}
	want(LOG_STARTED, started, !needed ? NOT_REACHED "it never stopped" :
	     asked_kvm ? "KVM_GET_DIRTY_LOG, and no VFIO_IOMMU_DIRTY_PAGES with START" :
	     "no VFIO_IOMMU_DIRTY_PAGES with START before it stopped");
	want(LOG_READ, taken, stopped ?
	     "no VFIO_IOMMU_DIRTY_PAGES with GET_BITMAP after that" :
	     NOT_REACHED "it never stopped");
}

static void refusals_judge(void)
{
	bool steps[SIDES] = {};
	unsigned int i;

	for (i = 0; i < nr_events; i++) {
		const struct event *e = &events[i];

		if (e->kind == STEP && e->side >= 0)
			steps[e->side] = true;
	}
	if (!steps[FROM] || !steps[TO]) {
		miss(NOT_REFUSED, NOT_REACHED "the %s asks for no state",
		     steps[FROM] ? "destination" : "source");
		return;
	}
	want(NOT_REFUSED, true, NULL);
	for (i = 0; i < nr_events && !is_missing(NOT_REFUSED); i++) {
		const struct event *e = &events[i];

		if (e->kind == STEP && e->ret)
			miss(NOT_REFUSED, "the step to %s: %s", e->state,
			     strerror(-e->ret));
		else if (e->kind == REFUSE)
			miss(NOT_REFUSED, "the state: %s", e->text);
		else if (e->kind == READ_REFUSED)
			miss(NOT_REFUSED, "a read: %s", strerror(-e->ret));
		else if (e->kind == WRITE_REFUSED)
			miss(NOT_REFUSED, "a write: %s", strerror(-e->ret));
		else if (is_feature(e, V2_DEVICE_STATE, VFIO_DEVICE_FEATURE_SET) &&
			 e->ret < 0)
			miss(NOT_REFUSED, "state %u: %s", e->word[2],
			     strerror(-e->ret));
	}
}

/* How a program can end, beside what wait() says of it */
#define NOT_ENDED	(-1)	/* it was ended */
#define NOT_STARTED	(-2)

static unsigned int limit;

static const char *ending(int status)
{
	static char text[80];

	if (status == NOT_STARTED)
		return "it was not started again";
	if (status == NOT_ENDED)
		snprintf(text, sizeof(text), "it had not ended after %u seconds",
			 limit);
	else if (WIFEXITED(status))
		snprintf(text, sizeof(text), "its status was %d",
			 WEXITSTATUS(status));
	else
		snprintf(text, sizeof(text), "it was ended by signal %d",
			 WTERMSIG(status));

	return text;
}

/* The migration with which nothing is wrong */
static void migration_judge(int status)
{
	unsigned int stop = step_from(0, FROM, "STOP_COPY"), last = nr_events;
	unsigned int resuming = step_from(0, TO, "RESUMING");
	unsigned int end = step_from(resuming, TO, "STOP"), runs, i;
	bool read_end = false, features = false, taken;
	unsigned long long saved = 0, loaded = 0;

	for (i = 0; i < nr_events; i++) {
		const struct event *e = &events[i];

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
	/* A region from which nothing came takes that for an end as well. */
	taken = end < nr_events && loaded;
	runs = taken ? step_from(end, TO, "RUNNING") : nr_events;
	for (i = 0; i < runs; i++)
		if (is_step(&events[i], FROM, "STOP_COPY"))
			last = i;

	for (i = 0; i < nr_events && !is_pre_copy(&events[i]); i++)
		;
	side_judge(FROM, i < stop ? i : stop, stop, FROM_OPENED, FROM_MAPPED,
		   FROM_ASKED);
	side_judge(TO, resuming, step_from(resuming, TO, "RUNNING"), TO_OPENED,
		   TO_MAPPED, TO_ASKED);
	log_judge(stop < nr_events ? stopped_at(stop) : nr_events);
	want(STOPPED, stop < nr_events, "it never was in STOP_COPY");
	if (!saved)
		miss(READ_ALL, NOT_REACHED "nothing was read");
	else if (features)
		want(READ_ALL, read_end, "no read() that returned 0 in STOP_COPY");
	else	/* With the region the end is what the destination takes for one. */
		want(READ_ALL, taken, "the destination has seen no end of it");
	want(LOADED, resuming < nr_events, "it never was in RESUMING");
	if (saved && saved == loaded)
		want(WROTE_ALL, true, NULL);
	else
		miss(WROTE_ALL, "%llu bytes were saved, %llu loaded", saved, loaded);
	want(LOAD_ENDED, taken, resuming == nr_events ?
	     NOT_REACHED "it never was in RESUMING" : end == nr_events ?
	     "it did not get from RESUMING to STOP" :
	     NOT_REACHED "nothing was written");
	want(RUNS, runs < nr_events, taken ? "it did not get to RUNNING after that" :
	     NOT_REACHED "it had not loaded");
	if (runs == nr_events)
		miss(RUNS_ONCE, NOT_REACHED "it does not run at the destination");
	else if (last == nr_events)
		miss(RUNS_ONCE, NOT_REACHED "it never stopped");
	else
		want(RUNS_ONCE, step_from(last, FROM, "RUNNING") == nr_events,
		     "it got to RUNNING, and runs at both");
	refusals_judge();
	if (status == 0 && runs == nr_events)
		miss(SAYS_YES, "its status was 0, and it has not worked");
	else
		want(SAYS_YES, status == 0, ending(status));
}

/* Where the device has failed as it was told to, nr_events if it was not asked */
static unsigned int failure_from(unsigned int at, enum kind kind)
{
	while (at < nr_events &&
	       (events[at].kind != kind || events[at].ret != FAILS))
		at++;

	return at;
}

static void says_no_judge(enum item says_no, int status, unsigned int failure,
			  const char *not_reached)
{
	if (failure == nr_events)
		miss(says_no, "%s", not_reached);
	else
		want(says_no, status > 0 && WIFEXITED(status), ending(status));
}

/* Whatever it was that failed, the guest is still at the source. */
static void goes_on_judge(enum item goes_on, unsigned int failure,
			  const char *not_reached)
{
	want(goes_on, step_from(failure, FROM, "RUNNING") < nr_events,
	     failure == nr_events ? not_reached :
	     "it did not get to RUNNING after that");
}

static void save_failure_judge(int status)
{
	static const char not_reached[] = NOT_REACHED "nothing was read";
	unsigned int failure = failure_from(0, READ_REFUSED);

	says_no_judge(SAVE_SAYS_NO, status, failure, not_reached);
	goes_on_judge(SAVE_GOES_ON, failure, not_reached);
}

static void load_failure_judge(int status)
{
	static const char not_reached[] = NOT_REACHED "nothing was written";
	unsigned int resuming = step_from(0, TO, "RESUMING");
	unsigned int failure = failure_from(resuming, WRITE_REFUSED);

	says_no_judge(LOAD_SAYS_NO, status, failure, not_reached);
	want(LOAD_STAYS, failure < nr_events &&
	     step_from(resuming, TO, "RUNNING") == nr_events,
	     failure == nr_events ? not_reached : "it got to RUNNING");
	goes_on_judge(LOAD_GOES_ON, failure, not_reached);
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

/* The three times, the status that each has ended with, and what it has taken */
enum { WELL, SAVE_FAILS, LOAD_FAILS, RUNS_IN_ALL };

static int statuses[RUNS_IN_ALL];
static long long taken_ms[RUNS_IN_ALL];

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
		if (statuses[i] == NOT_STARTED)
			continue;
		printf("# when %s, it takes %lld s, %s, and it says:\n",
		       when[i], (taken_ms[i] + 500) / 1000,
		       ending(statuses[i]));
		snprintf(path, sizeof(path), LOG_FILE, i);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			printf("#   %s%s", line, strchr(line, '\n') ? "" : "\n");
		if (f)
			fclose(f);
	}
}

/* Is it a child of this process?  By "PID (NAME) STATE PARENT ..." */
static bool is_child(const char *pid)
{
	char path[64], text[512], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;	/* it has ended */
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n < 0 ? 0 : n] = '\0';
	p = strrchr(text, ')');

	return p && strlen(p) > 4 && atoi(p + 4) == getpid();
}

/*
 * All that is left, whatever session it has made for itself: who has lost his parent
 * is a child of this process, which is no more than the next one to be ended.
 */
static void children_end(void)
{
	struct dirent *e;
	DIR *dir;

	do {
		dir = opendir("/proc");
		must(dir ? 0 : -errno, "/proc");
		while ((e = readdir(dir)))
			if (isdigit(e->d_name[0]) && is_child(e->d_name))
				kill(atoi(e->d_name), SIGKILL);
		closedir(dir);
	} while (waitpid(-1, NULL, 0) > 0);
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/*
 * How it ends, as wait() says.  What it has left running may take a while until the
 * device runs on @side.
 */
static int program_run(char * const argv[], unsigned int run, int side)
{
	const struct timespec pace = { 0, 20 * 1000000L };
	long long end, left;
	struct pollfd pfd = { .events = POLLIN };
	int status = NOT_ENDED, fd;
	char log[64];
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
		fflush(stdout);
		_exit(127);
	}
	if (pid < 0)
		ksft_exit_fail_msg("fork: %s\n", strerror(errno));
	pfd.fd = syscall(SYS_pidfd_open, pid, 0);
	must(pfd.fd < 0 ? -errno : 0, "pidfd_open");
	limit = LIMIT;
	end = now_ms() + limit * 1000LL;
	do {
		if (!unlink(HANG_FILE)) {
			limit = HANG_LIMIT;
			end = now_ms() + limit * 1000LL;
		}
		left = end - now_ms();
	} while (left > 0 && poll(&pfd, 1, left < 1000 ? left : 1000) != 1);
	close(pfd.fd);
	if (left > 0) {
		waitpid(pid, &status, 0);
		while (waitpid(-1, NULL, WNOHANG) >= 0 && !device_runs(side) &&
		       now_ms() < end)
			nanosleep(&pace, NULL);
	}
	children_end();

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
	long long begin;
	unsigned int i;

	nothing_is_known();
	for (i = 0; i < RUNS_IN_ALL; i++) {
		/* Nor will it now, and nobody waits for that three times. */
		if (i > WELL && statuses[WELL] == NOT_ENDED) {
			statuses[i] = NOT_STARTED;
			continue;
		}
		devices_make();
		if (runs[i].fault)
			fault_set(runs[i].side, runs[i].fault);
		trace_clear();
		probes_enable("1");
		begin = now_ms();
		statuses[i] = program_run(argv, i, runs[i].runs);
		taken_ms[i] = now_ms() - begin;
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

static unsigned int protocol;
static const char *leaves_out = "";

static bool leaves(const char *what)
{
	return !strcmp(leaves_out, what);
}

/* Until somebody ends it */
static void hang(void)
{
	close(open(HANG_FILE, O_WRONLY | O_CREAT, 0600));
	for (;;)
		pause();
}

static int client_open(struct dev *d, const char *path, void *memory, bool map)
{
	char link[256], base[64];
	__u64 flags;
	int ret;

	memset(d, 0, sizeof(*d));
	snprintf(d->name, sizeof(d->name), "%s", strrchr(path, '/') + 1);
	snprintf(link, sizeof(link), "%s/iommu_group", path);
	ret = link_base(link, base, sizeof(base));
	d->group = atoi(base);
	ret = ret ?: dev_open(d);
	if (!ret && protocol == 2 && !leaves("question"))
		ret = v2_flags(d, &flags);
	if (!ret && map)
		ret = container_map(d->u.container, memory, 0, PAGE);

	return ret;
}

/* KVM is asked for the dirty pages of a guest that has this page */
static int guest_log(void *memory)
{
	struct kvm_userspace_memory_region region = {
		.flags = KVM_MEM_LOG_DIRTY_PAGES,
		.memory_size = PAGE,
		.userspace_addr = (unsigned long)memory,
	};
	unsigned long bitmap = 0;
	struct kvm_dirty_log log = { .dirty_bitmap = &bitmap };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) ||
	    ioctl(vm, KVM_GET_DIRTY_LOG, &log))
		return -errno;

	return 0;
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

/* By version 1, by way of the region */
static int client_save_v1(struct dev *a, struct stream *s)
{
	__u64 bitmap;
	int ret;

	ret = dirty_start(a->u.container);
	ret = ret ?: state_set(a, PRE_COPY);
	ret = ret ?: stream_save(a, s, 1 << 16);
	ret = ret ?: state_set(a, STOP_COPY);
	ret = ret ?: dirty_get(a->u.container, 0, 1, &bitmap);

	return ret ?: stream_save(a, s, 1 << 16);
}

static int client_save(struct dev *a, struct stream *s, void *memory)
{
	bool log = !leaves("log") && !leaves("pre-copy") && !leaves("device-log");
	bool pre_copy = !leaves("pre-copy") && !leaves("device-log") && !leaves("haste");
	__u64 bitmap;
	int fd = -1, rest, ret;

	if (protocol == 1)
		return client_save_v1(a, s);

	ret = leaves("device-log") ? guest_log(memory) : 0;
	if (log)
		ret = ret ?: dirty_start(a->u.container);
	if (pre_copy) {
		ret = ret ?: v2_set(a, V2_RUNNING_SAVING, &fd);
		if (!ret) {
			ret = v2_drain(fd, s, 1 << 16);
			ret = ret == 1 ? 0 : ret;
		}
	}
	/* The device stops, and is saved when all else has been */
	if (leaves("haste")) {
		ret = ret ?: v2_go(a, V2_STOPPED);
		ret = ret ?: dirty_get(a->u.container, 0, 1, &bitmap);
	}
	if (!leaves("stop"))
		ret = ret ?: v2_set(a, V2_SAVING, fd < 0 ? &fd : &rest);
	if (!ret && leaves("order"))
		v2_go(a, V2_RUNNING_SAVING);
	if (!ret && log && !leaves("bitmap") && !leaves("haste"))
		ret = dirty_get(a->u.container, 0, 1, &bitmap);
	if (!leaves("stop"))
		ret = ret ?: client_read(fd, s);
	if (fd >= 0)
		close(fd);

	return ret;
}

static int client_load(struct dev *b, struct stream *s)
{
	int ret, fd;

	if (protocol == 1) {
		ret = state_set(b, RESUMING);
		if (!leaves("data"))
			ret = ret ?: stream_load(b, s, 1 << 16, 0);
		return ret ?: state_set(b, RUNNING);
	}
	if (leaves("data"))
		return 0;
	if (leaves("rest"))
		s->size -= 8;
	ret = v2_set(b, V2_RESUMING, &fd);
	ret = ret ?: v2_fill(fd, s->data, s->size, 1 << 16);
	if (ret && leaves("load-error"))
		return 0;
	if (ret && leaves("calm"))
		abort();

	return ret ?: v2_go(b, leaves("run") ? V2_STOPPED : V2_RUNNING);
}

static int source_run(struct dev *a)
{
	return protocol == 1 ? state_set(a, RUNNING) : v2_go(a, V2_RUNNING);
}

static int client(const char *from, const char *to)
{
	void *memory = page_alloc(PAGE);
	struct stream s = {};
	struct dev a, b;

	if (leaves("all"))
		return 1;
	if (leaves("all-but-yes"))
		return 0;
	if (leaves("beginning"))
		hang();
	/* It is in no group or session of its parent's, and does not end. */
	if (leaves("tidiness") && !fork()) {
		setsid();
		for (;;)
			pause();
	}

	if (client_open(&a, from, memory, !leaves("memory")))
		return 2;
	if (client_save(&a, &s, memory)) {
		if (leaves("save-error"))
			return 0;
		source_run(&a);
		return 1;
	}
	if (leaves("destination"))
		return 0;
	if (client_open(&b, to, memory, !leaves("memory-there")))
		return 2;
	if (client_load(&b, &s)) {
		if (!leaves("source"))
			source_run(&a);
		return 1;
	}
	if (leaves("peace"))
		source_run(&a);
	if (leaves("exit"))
		hang();
	if (leaves("answer"))
		return 1;

	return 0;
}

#define BIT(i)		(1U << (i))
#define ALL		(BIT(ITEMS) - 1)
#define ON_SAVE_ERROR	(BIT(SAVE_SAYS_NO) | BIT(SAVE_GOES_ON))
#define ON_LOAD_ERROR	(BIT(LOAD_SAYS_NO) | BIT(LOAD_STAYS) | BIT(LOAD_GOES_ON))
/* Nothing has been loaded */
#define AT_THE_END	(BIT(LOAD_ENDED) | BIT(RUNS) | BIT(RUNS_ONCE) | BIT(SAYS_YES))

static const struct {
	unsigned int protocol;
	const char *what;
	unsigned int misses;
} broken[] = {
	{ 1, "nothing", 0 },
	{ 2, "nothing", 0 },
	/* That does nothing, or not all of it */
	{ 2, "all", ALL },
	{ 2, "all-but-yes", ALL },
	{ 2, "beginning", ALL },
	{ 2, "destination", BIT(TO_OPENED) | BIT(TO_MAPPED) | BIT(TO_ASKED) |
		BIT(LOADED) | BIT(WROTE_ALL) | BIT(NOT_REFUSED) | AT_THE_END |
		ON_LOAD_ERROR },
	{ 1, "data", BIT(READ_ALL) | BIT(WROTE_ALL) | AT_THE_END | ON_LOAD_ERROR },
	{ 2, "data", BIT(LOADED) | BIT(WROTE_ALL) | BIT(NOT_REFUSED) |
		AT_THE_END | ON_LOAD_ERROR },
	{ 2, "exit", BIT(SAYS_YES) | ON_SAVE_ERROR | ON_LOAD_ERROR },
	/* One thing */
	{ 2, "memory", BIT(FROM_MAPPED) },
	{ 2, "question", BIT(FROM_ASKED) | BIT(TO_ASKED) },
	{ 2, "log", BIT(LOG_STARTED) | BIT(LOG_READ) },
	{ 2, "device-log", BIT(LOG_STARTED) | BIT(LOG_READ) },
	{ 2, "pre-copy", 0 },
	{ 2, "haste", 0 },
	{ 2, "stop", BIT(STOPPED) | BIT(LOG_READ) | BIT(READ_ALL) |
		BIT(NOT_REFUSED) | AT_THE_END },
	{ 2, "bitmap", BIT(LOG_READ) },
	{ 2, "end", BIT(READ_ALL) },
	{ 2, "order", BIT(NOT_REFUSED) },
	{ 2, "memory-there", BIT(TO_MAPPED) },
	{ 2, "rest", BIT(WROTE_ALL) | BIT(NOT_REFUSED) | AT_THE_END },
	{ 2, "run", BIT(RUNS) | BIT(RUNS_ONCE) | BIT(SAYS_YES) },
	{ 2, "peace", BIT(RUNS_ONCE) },
	{ 2, "answer", BIT(SAYS_YES) },
	{ 2, "save-error", ON_SAVE_ERROR },
	{ 2, "load-error", BIT(LOAD_SAYS_NO) | BIT(LOAD_GOES_ON) },
	{ 2, "calm", BIT(LOAD_SAYS_NO) | BIT(LOAD_GOES_ON) },
	{ 2, "source", BIT(LOAD_GOES_ON) },
	{ 2, "tidiness", 0 },
};

static void broken_clients(const char *self)
{
	unsigned int i, item, seen;
	char version[2] = "";

	ksft_set_plan(ARRAY_SIZE(broken));
	for (i = 0; i < ARRAY_SIZE(broken); i++) {
		char * const argv[] = {
			(char *)self, "client", version, (char *)broken[i].what,
			(char *)path_of(FROM), (char *)path_of(TO), NULL
		};

		version[0] = '0' + broken[i].protocol;
		program_check(argv);
		seen = 0;
		for (item = 0; item < ITEMS; item++) {
			if (!is_missing(item))
				continue;
			seen |= BIT(item);
			printf("# %s: %s\n", texts[item], missing[item]);
		}
		for (item = 0; item < ITEMS; item++)
			if (broken[i].misses & ~seen & BIT(item))
				printf("# not missed: %s\n", texts[item]);
		ksft_test_result(seen == broken[i].misses,
				 "a client of version %u that leaves out %s\n",
				 broken[i].protocol, broken[i].what);
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
		if (is_missing(i))
			printf("# %s\n", missing[i]);
		else
			good++;
		ksft_test_result(!is_missing(i), "%s\n", texts[i]);
	}
	logs_print();
	printf("# report %s: %u of %d steps\n", argv[1], good, ITEMS);
	free(args);
}

int main(int argc, char **argv)
{
	FILE *rom;

	if (argc == 6 && !strcmp(argv[1], "client")) {
		protocol = atoi(argv[2]);
		leaves_out = argv[3];
		return client(argv[4], argv[5]);
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
